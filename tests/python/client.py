"""Puts, reads, streams and asks: `client.py HOST:PORT`, with the generated code on the path."""

import sys

import grpc
from allidb.v1 import (
    collections_pb2,
    collections_pb2_grpc,
    entities_pb2,
    entities_pb2_grpc,
    graph_pb2,
    graph_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    types_pb2,
)

COLLECTION = "python"
LIMIT = 30


def ref(entity_id):
    return types_pb2.EntityRef(collection=COLLECTION, id=entity_id)


def entity(entity_id, vector, **attributes):
    result = types_pb2.Entity(ref=ref(entity_id), type="snake")
    for name, value in attributes.items():
        result.attributes[name].CopyFrom(value)
    result.vectors["plane"].values.extend(vector)
    return result


def nearest(search, vector, limit):
    target = search_pb2.Nearest(space="plane", vector=types_pb2.Vector(values=vector))
    request = search_pb2.QueryRequest(
        collection=COLLECTION, seeds=[search_pb2.Seed(nearest=target)], limit=limit
    )
    return search.Query(request, timeout=LIMIT).hits


def create(collections):
    space = collections_pb2.Space(
        name="plane", dimension=2, metric=collections_pb2.METRIC_COSINE
    )
    wanted = collections_pb2.Collection(name=COLLECTION, spaces=[space])
    made = collections.CreateCollection(
        collections_pb2.CreateCollectionRequest(collection=wanted), timeout=LIMIT
    )
    assert made.name == COLLECTION and made.spaces[0].dimension == 2, made


def put_and_get(entities):
    attributes = {
        "large": types_pb2.Value(int_value=2**63 - 1),
        "raw": types_pb2.Value(bytes_value=b"\x00\xff"),
        "name": types_pb2.Value(string_value="Schlänge"),
        "none": types_pb2.Value(null_value=types_pb2.NULL_VALUE),
    }
    put = entity("first", [1.0, 0.0], **attributes)
    answer = entities.Put(entities_pb2.PutRequest(entity=put), timeout=LIMIT)
    assert answer.version
    request = entities_pb2.GetRequest(ref=ref("first"))
    request.read_mask.paths.append("*")
    got = entities.Get(request, timeout=LIMIT)
    assert got.version == answer.version
    assert dict(got.attributes) == attributes, got
    assert list(got.vectors["plane"].values) == [1.0, 0.0], got


def upsert_stream(entities):
    def items():
        for number in range(100):
            item = entity(f"streamed-{number:03}", [0.0, 1.0 + number])
            yield entities_pb2.PutStreamRequest(sequence=number, entity=item)
        edge = types_pb2.Edge(**{"from": ref("first")}, relation="eats", to=ref("streamed-007"))
        yield entities_pb2.PutStreamRequest(sequence=100, edge=edge)

    answers = list(entities.PutStream(items(), timeout=LIMIT))
    assert all(answer.result.status.code == 0 for answer in answers), answers
    assert sorted(answer.sequence for answer in answers) == list(range(101))


def ask(search, graph):
    hits = nearest(search, [1.0, 0.0], 1)
    assert [hit.entity.ref.id for hit in hits] == ["first"], hits
    assert hits[0].measure > 0.9999, hits
    assert len(nearest(search, [0.0, 1.0], 1000)) == 101
    walk = graph.Expand(graph_pb2.ExpandRequest(seeds=[ref("first")]), timeout=LIMIT)
    reached = [node.ref.id for message in walk for node in message.nodes]
    assert "streamed-007" in reached, reached


def refusals(entities):
    short = entity("short", [1.0])
    try:
        entities.Put(entities_pb2.PutRequest(entity=short), timeout=LIMIT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        assert "entity.vectors" in error.details(), error
    else:
        raise AssertionError("a short vector was taken")
    try:
        entities.Get(entities_pb2.GetRequest(ref=ref("missing")), timeout=LIMIT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("a missing entity was found")


def reflect(channel):
    try:
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
            ProtoReflectionDescriptorDatabase,
        )
    except ImportError:
        print("reflection was not asked: grpcio-reflection is not installed")
        return
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    wanted = {f"allidb.v1.{name}" for name in ("Collections", "Entities", "Graph", "Maintenance", "Search")}
    assert wanted <= services, services


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        grpc.channel_ready_future(channel).result(timeout=LIMIT)
        entities = entities_pb2_grpc.EntitiesStub(channel)
        create(collections_pb2_grpc.CollectionsStub(channel))
        put_and_get(entities)
        upsert_stream(entities)
        ask(search_pb2_grpc.SearchStub(channel), graph_pb2_grpc.GraphStub(channel))
        refusals(entities)
        counted = entities.Count(entities_pb2.CountRequest(collection=COLLECTION), timeout=LIMIT)
        assert counted.count == 101, counted
        reflect(channel)
    print("OK")


if __name__ == "__main__":
    main()
