//! Where each method of the contract is found over HTTP. Plain data: the build script makes `openapi.json` of it, too.

/// What is done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// What of the request message the body holds. The path holds a part of it, the query string what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing: there is no body.
    Nothing,
    /// All of it.
    Message,
    /// This field.
    Field(&'static str),
}

/// A method and its place.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    /// Segments in braces are fields of the request message; the last one may end with a colon and a word.
    pub(crate) path: &'static str,
    pub(crate) takes: Takes,
    /// Service and method, within `allidb.v1`.
    pub(crate) method: (&'static str, &'static str),
}

const fn get(path: &'static str, service: &'static str, name: &'static str) -> Route {
    Route { verb: Verb::Get, path, takes: Takes::Nothing, method: (service, name) }
}

const fn delete(path: &'static str, service: &'static str, name: &'static str) -> Route {
    Route { verb: Verb::Delete, path, takes: Takes::Nothing, method: (service, name) }
}

const fn post(path: &'static str, service: &'static str, name: &'static str) -> Route {
    Route { verb: Verb::Post, path, takes: Takes::Message, method: (service, name) }
}

const fn holding(
    verb: Verb,
    path: &'static str,
    field: &'static str,
    method: (&'static str, &'static str),
) -> Route {
    Route { verb, path, takes: Takes::Field(field), method }
}

/// An entity, as the field `ref` of a request names it.
const REF: &str = "/v1/collections/{ref.collection}/entities/{ref.id}";
/// An entity, as the entity in a request names itself.
const ENTITY: &str = "/v1/collections/{entity.ref.collection}/entities/{entity.ref.id}";

/// Every method but `Entities.PutStream`, which takes a stream.
pub(crate) const ROUTES: &[Route] = &[
    holding(Verb::Post, "/v1/collections", "collection", ("Collections", "CreateCollection")),
    get("/v1/collections", "Collections", "ListCollections"),
    get("/v1/collections/{name}", "Collections", "GetCollection"),
    Route {
        verb: Verb::Patch,
        path: "/v1/collections/{name}",
        takes: Takes::Message,
        method: ("Collections", "UpdateCollection"),
    },
    delete("/v1/collections/{name}", "Collections", "DropCollection"),
    holding(Verb::Put, ENTITY, "entity", ("Entities", "Put")),
    holding(Verb::Patch, ENTITY, "entity", ("Entities", "Update")),
    get(REF, "Entities", "Get"),
    delete(REF, "Entities", "Delete"),
    post("/v1/collections/{ref.collection}/entities/{ref.id}/chunks:put", "Entities", "PutChunks"),
    post("/v1/collections/{ref.collection}/entities/{ref.id}/chunks:delete", "Entities", "DeleteChunks"),
    get("/v1/collections/{ref.collection}/entities/{ref.id}/neighbors", "Graph", "Neighbors"),
    get("/v1/collections/{collection}/entities", "Entities", "RangeScan"),
    post("/v1/collections/{collection}/entities:scan", "Entities", "RangeScan"),
    post("/v1/collections/{collection}/entities:count", "Entities", "Count"),
    post("/v1/collections/{collection}/entities:facets", "Entities", "Facets"),
    post("/v1/collections/{collection}/entities:merge", "Entities", "Merge"),
    post("/v1/collections/{collection}/entities:deleteWhere", "Entities", "DeleteWhere"),
    post("/v1/collections/{collection}/entities:deleteBySource", "Entities", "DeleteBySource"),
    post("/v1/entities:batchPut", "Entities", "BatchPut"),
    post("/v1/entities:batchGet", "Entities", "BatchGet"),
    post("/v1/entities:batchDelete", "Entities", "BatchDelete"),
    post("/v1/edges:put", "Graph", "PutEdges"),
    post("/v1/edges:delete", "Graph", "DeleteEdges"),
    post("/v1/graph:expand", "Graph", "Expand"),
    post("/v1/graph:countHops", "Graph", "CountHops"),
    post("/v1/graph:shortestPath", "Graph", "ShortestPath"),
    post("/v1/collections/{collection}:query", "Search", "Query"),
    holding(Verb::Post, "/v1/collections/{query.collection}:explain", "query", ("Search", "Explain")),
    post("/v1/queries:batch", "Search", "BatchQuery"),
    post("/v1/keys", "Keys", "CreateKey"),
    get("/v1/keys", "Keys", "ListKeys"),
    delete("/v1/keys/{id}", "Keys", "RevokeKey"),
    holding(Verb::Put, "/v1/quotas/{tenant}", "quota", ("Quotas", "SetQuota")),
    get("/v1/quotas", "Quotas", "ListQuotas"),
    get("/v1/tenants", "Quotas", "ListTenants"),
    post("/v1/snapshots", "Snapshots", "CreateSnapshot"),
    get("/v1/snapshots", "Snapshots", "ListSnapshots"),
    post("/v1/snapshots/{id}:verify", "Snapshots", "VerifySnapshot"),
    post("/v1/snapshots/{id}:restore", "Snapshots", "RestoreSnapshot"),
    post("/v1/snapshots:delete", "Snapshots", "DeleteSnapshots"),
    get("/v1/cluster", "Cluster", "DescribeCluster"),
    post("/v1/cluster:changeLayout", "Cluster", "ChangeLayout"),
    post("/v1/cluster:repair", "Cluster", "Repair"),
    post("/v1/cluster:purge", "Cluster", "Purge"),
    post("/v1/node:drain", "Cluster", "Drain"),
    post("/v1/node:flush", "Maintenance", "Flush"),
    post("/v1/node:compact", "Maintenance", "Compact"),
    post("/v1/node:scrub", "Maintenance", "Scrub"),
    post("/v1/node:rebuildIndex", "Maintenance", "RebuildIndex"),
    get("/v1/node/workers", "Maintenance", "ListWorkers"),
    Route {
        verb: Verb::Patch,
        path: "/v1/node/workers/{name}",
        takes: Takes::Message,
        method: ("Maintenance", "UpdateWorker"),
    },
];
