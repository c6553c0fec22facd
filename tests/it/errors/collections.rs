//! Collections, and messages of any kind that are too large.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn collections() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let space = |name: &str, dimension| v1::Space {
        name: name.into(),
        dimension,
        metric: v1::Metric::Cosine.into(),
        ..Default::default()
    };
    let create = |name: &str, spaces| {
        let collection = v1::Collection { name: name.into(), spaces, ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        let mut collections = client.collections();
        async move { collections.create_collection(request).await }
    };
    let exists = Expected { code: Code::AlreadyExists, reason: "COLLECTION_EXISTS", field: None };
    verdict.of("twice", create(COLLECTION, Vec::new()).await, exists);
    for (what, bad) in [("no name", ""), ("a slash", "a/b"), ("a name too long", &"x".repeat(65))] {
        verdict.of(what, create(bad, Vec::new()).await, wrong("collection.name"));
    }
    let dimension = || wrong("collection.spaces[0].dimension");
    verdict.of("no dimension", create("new", vec![space("s", 0)]).await, dimension());
    verdict.of("too many dimensions", create("new", vec![space("s", 65_536)]).await, dimension());
    verdict.of(
        "a space of no name",
        create("new", vec![space("", 2)]).await,
        wrong("collection.spaces[0].name"),
    );
    let unmeasured = v1::Space { metric: 0, ..space("s", 2) };
    verdict.of("no metric", create("new", vec![unmeasured]).await, wrong("collection.spaces[0].metric"));
    let nothing = client.collections().create_collection(v1::CreateCollectionRequest::default()).await;
    verdict.of("no collection", nothing, wrong("collection"));
    let request = v1::GetCollectionRequest { name: "nowhere".into() };
    verdict.of("get", client.collections().get_collection(request).await, unknown("UNKNOWN_COLLECTION"));
    let request = v1::DropCollectionRequest { name: "nowhere".into() };
    verdict.of("drop", client.collections().drop_collection(request).await, unknown("UNKNOWN_COLLECTION"));

    let update = |change: &dyn Fn(&mut v1::UpdateCollectionRequest)| {
        let mut request = v1::UpdateCollectionRequest { name: COLLECTION.into(), ..Default::default() };
        change(&mut request);
        let mut collections = client.collections();
        async move { collections.update_collection(request).await }
    };
    let answer = update(&|request| request.name = "nowhere".into()).await;
    verdict.of("an update elsewhere", answer, unknown("UNKNOWN_COLLECTION"));
    // Nothing of a change is made if a part of it cannot be.
    let answer = update(&|request| {
        request.add_spaces = vec![space("fresh", 2)];
        request.drop_spaces = vec!["nothing".into()];
    });
    verdict.of("dropping an unknown space", answer.await, unknown("UNKNOWN_SPACE"));
    let answer =
        update(&|request| request.set_aliases = [("alias".to_owned(), "nothing".to_owned())].into()).await;
    verdict.of("an alias of an unknown space", answer, unknown("UNKNOWN_SPACE"));
    let precondition =
        Expected { code: Code::FailedPrecondition, reason: "FAILED_PRECONDITION", field: None };
    let answer = update(&|request| request.add_spaces = vec![space(SPACE, 3)]).await;
    verdict.of("a space of another dimension", answer, precondition);
    let answer = update(&|request| request.add_spaces = vec![space("fresh", 0)]).await;
    verdict.of("a space added without a dimension", answer, wrong("add_spaces[0].dimension"));
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit() {
    let (_process, client, before) = prepared().await;
    let large = attribute("x", text(&"x".repeat(17 << 20)));
    let refused = client.put(large.clone()).await.expect_err("17 MiB");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let info = refused.get_details_error_info().expect("seen above");
    assert_eq!(info.metadata["limit_bytes"], (16 << 20).to_string());
    let item = Some(v1::put_stream_request::Item::Entity(large));
    let message = v1::PutStreamRequest { item, ..Default::default() };
    let refused = stream_one(&client, message).await.expect_err("17 MiB");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(everything(&client).await, before, "nothing changed");
    // What is right by its side is still done.
    let entities = vec![with_vector(&[0.0, 1.0]), with_vector(&[1.0])];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    let results = client.entities().batch_put(request).await.expect("answered").into_inner().results;
    assert_done(&results[0]);
    assert_eq!(results[1].status.as_ref().expect("a status").code, Code::InvalidArgument as i32);
    let there = client.get(name(COLLECTION, THERE)).await.expect("there");
    assert_eq!(there.vectors[SPACE], vector(&[0.0, 1.0]));
}
