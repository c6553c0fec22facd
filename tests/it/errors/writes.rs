//! Writes of entities: one by one, in batches and in streams.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_entities() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let long = "x".repeat(1_025);
    let double = |number| value(v1::value::Kind::DoubleValue(number));
    let at = |nanos| value(v1::value::Kind::TimestampValue(prost_types::Timestamp { seconds: 0, nanos }));
    let raw = |raw: &'static [u8], encoding: v1::VectorEncoding, dimension| v1::Entity {
        vectors: [(
            SPACE.to_owned(),
            v1::Vector { raw: raw.into(), encoding: encoding.into(), dimension, ..Default::default() },
        )]
        .into(),
        ..there()
    };
    let chunk = |id: &str, values: &[f32]| v1::Chunk {
        id: id.into(),
        vectors: if values.is_empty() { Default::default() } else { vectors(SPACE, values) },
        ..Default::default()
    };
    let with_chunks = |chunks| v1::Entity { chunks, ..there() };
    let many = (0..1_001).map(|at| (format!("a{at}"), int(1))).collect();
    let own = "entity.vectors[\"plane\"]";
    let cases = [
        ("a vector too short", with_vector(&[1.0]), no_dimension(own)),
        ("a vector too long", with_vector(&[1.0, 2.0, 3.0]), no_dimension(own)),
        ("an empty vector", with_vector(&[]), no_dimension(own)),
        ("NaN in a vector", with_vector(&[1.0, f32::NAN]), wrong(own)),
        ("infinity in a vector", with_vector(&[f32::NEG_INFINITY, 1.0]), wrong(own)),
        (
            "half of the raw bytes",
            raw(&[0; 6], v1::VectorEncoding::F32, 2),
            wrong("entity.vectors[\"plane\"].raw"),
        ),
        (
            "raw bytes of no encoding",
            raw(&[0; 8], v1::VectorEncoding::Unspecified, 2),
            wrong("entity.vectors[\"plane\"].encoding"),
        ),
        ("raw NaN", raw(&[0, 0, 0xc0, 0x7f, 0, 0, 0, 0], v1::VectorEncoding::F32, 2), wrong(own)),
        ("raw of another dimension", raw(&[0; 12], v1::VectorEncoding::F32, 3), no_dimension(own)),
        ("an empty id", entity(COLLECTION, ""), wrong("entity.id")),
        ("an id too long", entity(COLLECTION, &long), wrong("entity.id")),
        ("a control character in an id", entity(COLLECTION, "a\u{7}b"), wrong("entity.id")),
        ("a newline in an id", entity(COLLECTION, "a\nb"), wrong("entity.id")),
        ("no name", v1::Entity { r#ref: None, ..there() }, wrong("entity.ref")),
        ("an unknown collection", entity("nowhere", "x"), unknown("UNKNOWN_COLLECTION")),
        (
            "an unknown space",
            v1::Entity { vectors: vectors("nothing", &[1.0]), ..there() },
            unknown("UNKNOWN_SPACE"),
        ),
        ("importance above 1", v1::Entity { importance: Some(1.5), ..there() }, wrong("entity.importance")),
        ("importance below 0", v1::Entity { importance: Some(-0.1), ..there() }, wrong("entity.importance")),
        (
            "importance of NaN",
            v1::Entity { importance: Some(f64::NAN), ..there() },
            wrong("entity.importance"),
        ),
        ("NaN in an attribute", attribute("x", double(f64::NAN)), wrong("entity.attributes[\"x\"]")),
        (
            "infinity in an attribute",
            attribute("x", double(f64::INFINITY)),
            wrong("entity.attributes[\"x\"]"),
        ),
        (
            "an attribute without a value",
            attribute("x", v1::Value { kind: None }),
            wrong("entity.attributes[\"x\"]"),
        ),
        ("an attribute without a name", attribute("", int(1)), wrong("entity.attributes")),
        ("an attribute nested too deep", attribute("x", nested(17)), wrong("entity.attributes[\"x\"]")),
        ("a time too fine", attribute("x", at(1)), wrong("entity.attributes[\"x\"]")),
        ("a time out of range", attribute("x", at(-1)), wrong("entity.attributes[\"x\"]")),
        ("too many attributes", v1::Entity { attributes: many, ..there() }, too_much("entity.attributes")),
        (
            "too many chunks",
            with_chunks((0..1_001).map(|at| chunk(&format!("c{at}"), &[])).collect()),
            too_much("entity.chunks"),
        ),
        ("a chunk twice", with_chunks(vec![chunk("c", &[]), chunk("c", &[])]), wrong("entity.chunks[1].id")),
        ("a type too long", v1::Entity { r#type: "t".repeat(256), ..there() }, wrong("entity.type")),
        (
            "a time to vanish too fine",
            v1::Entity { expire_at: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }), ..there() },
            wrong("entity.expire_at"),
        ),
    ];
    for (what, entity, expected) in cases {
        let Expected { code, reason, field } = expected;
        verdict.of(what, client.put(entity.clone()).await, Expected { code, reason, field });
        let request = v1::BatchPutRequest { entities: vec![entity.clone()], ..Default::default() };
        let results = client.entities().batch_put(request).await.map(|answer| answer.into_inner().results);
        verdict.of_item(&format!("{what} in a batch"), results, Expected { code, reason, field });
        let item = Some(v1::put_stream_request::Item::Entity(entity));
        let message = v1::PutStreamRequest { item, ..Default::default() };
        let results = stream_one(&client, message).await;
        verdict.of_item(&format!("{what} in a stream"), results, Expected { code, reason, field });
    }
    // What a chunk holds is named within its chunk, however the call is.
    for (what, put, expected) in [
        ("a chunk's empty id", chunk("", &[]), "chunks.id"),
        ("a chunk's vector of NaN", chunk("x", &[f32::NAN, 0.0]), "chunks.vectors[\"plane\"]"),
    ] {
        verdict.of(what, client.put(with_chunks(vec![put.clone()])).await, wrong(expected));
        let request = v1::PutChunksRequest { r#ref: there().r#ref, chunks: vec![put], ..Default::default() };
        verdict.of(what, client.entities().put_chunks(request).await, wrong(expected));
    }
    verdict.of("no entity", client.entities().put(v1::PutRequest::default()).await, wrong("entity"));
    let request = v1::PutRequest { entity: Some(there()), durability: 9, ..Default::default() };
    verdict.of("an unknown durability", client.entities().put(request).await, wrong("durability"));
    let request = v1::PutRequest { entity: Some(there()), consistency: -1, ..Default::default() };
    verdict.of("an unknown consistency", client.entities().put(request).await, wrong("consistency"));
    let given = |kind| Some(v1::Precondition { kind });
    let if_version = |version: &[u8]| Some(v1::precondition::Kind::IfVersion(version.to_vec().into()));
    for (what, kind, expected) in [
        ("a condition that says nothing", None, wrong("precondition")),
        ("a condition that says no", Some(v1::precondition::Kind::IfAbsent(false)), wrong("precondition")),
        ("a version that is none", if_version(&[1, 2, 3]), wrong("precondition.if_version")),
        (
            "what is there already",
            Some(v1::precondition::Kind::IfAbsent(true)),
            Expected { code: Code::AlreadyExists, reason: "ENTITY_EXISTS", field: None },
        ),
        (
            "another version",
            if_version(&[7; 16]),
            Expected { code: Code::Aborted, reason: "VERSION_MISMATCH", field: None },
        ),
    ] {
        let Expected { code, reason, field } = expected;
        let expected = || Expected { code, reason, field };
        let put =
            v1::PutRequest { entity: Some(there()), precondition: given(kind.clone()), ..Default::default() };
        verdict.of(what, client.entities().put(put).await, expected());
        let update = v1::UpdateRequest {
            entity: Some(there()),
            precondition: given(kind.clone()),
            ..Default::default()
        };
        verdict.of(what, client.entities().update(update).await, expected());
        let delete =
            v1::DeleteRequest { r#ref: there().r#ref, precondition: given(kind), ..Default::default() };
        verdict.of(what, client.entities().delete(delete).await, expected());
    }
    verdict.of_item(
        "an item that is none",
        stream_one(&client, v1::PutStreamRequest::default()).await,
        wrong("item"),
    );
    let entities = vec![there(); 10_001];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    verdict.of("a batch too long", client.entities().batch_put(request).await, too_much("entities"));

    let update = |entity: v1::Entity, paths: &[&str]| {
        let request =
            v1::UpdateRequest { entity: Some(entity), update_mask: mask(paths), ..Default::default() };
        let mut entities = client.entities();
        async move { entities.update(request).await }
    };
    let path = || wrong("update_mask.paths[0]");
    for unknown in ["nonsense", "attributes.", "created_at", "version", "chunks", "ref", ""] {
        verdict.of(&format!("the mask {unknown:?}"), update(there(), &[unknown]).await, path());
    }
    let answer = update(with_vector(&[1.0]), &["vectors.plane"]).await;
    verdict.of("an update's vector too short", answer, no_dimension(own));
    let answer = update(there(), &["vectors.nothing"]).await;
    verdict.of("a mask of an unknown space", answer, unknown("UNKNOWN_SPACE"));
    let answer = update(entity(COLLECTION, "missing"), &["type"]).await;
    verdict.of("an update of what is not there", answer, unknown("ENTITY_NOT_FOUND"));
    verdict.of(
        "an update of nothing",
        client.entities().update(v1::UpdateRequest::default()).await,
        wrong("entity"),
    );
    let request = v1::PutChunksRequest {
        r#ref: Some(name(COLLECTION, "missing")),
        chunks: vec![chunk("c", &[])],
        ..Default::default()
    };
    verdict.of(
        "chunks of what is not there",
        client.entities().put_chunks(request).await,
        unknown("ENTITY_NOT_FOUND"),
    );
    let request = v1::PutChunksRequest {
        r#ref: there().r#ref,
        chunks: vec![chunk("c", &[]); 1_001],
        ..Default::default()
    };
    verdict.of("too many chunks to put", client.entities().put_chunks(request).await, too_much("chunks"));
    verdict.of("a delete of no name", client.delete(name(COLLECTION, "")).await, wrong("ref.id"));
    verdict.of(
        "a delete elsewhere",
        client.delete(name("nowhere", "x")).await,
        unknown("UNKNOWN_COLLECTION"),
    );
    let request = v1::BatchDeleteRequest { refs: vec![name(COLLECTION, "a"); 10_001], ..Default::default() };
    verdict.of("too many deletes", client.entities().batch_delete(request).await, too_much("refs"));

    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}
