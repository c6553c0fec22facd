//! Each service, from its request to its answer.

use allidb_api::v1;
use tonic::Code;

use crate::running::{COLLECTION, Running, SPACE, edge, entity, field, int, name, reason, vector};

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_comes_back_as_it_was_put() {
    let running = Running::start().await;
    let mut whole = entity("a", 1);
    whole.r#type = "thing".into();
    whole.importance = Some(0.25);
    whole.sources = vec!["s1".into(), "s2".into()];
    whole.vectors.insert(SPACE.into(), vector(&[1.0, 2.0]));
    let mut chunk = v1::Chunk { id: "c1".into(), text: "first".into(), ..Default::default() };
    chunk.vectors.insert(SPACE.into(), vector(&[3.0, 4.0]));
    whole.chunks.push(chunk);
    running.put(whole.clone()).await.expect("put");

    let mut found = running.get("a").await.expect("there");
    assert_eq!(found.version.len(), 16);
    assert!(found.created_at.take().is_some() && found.updated_at.take().is_some());
    found.version.clear();
    assert_eq!(found, whole);
    running.daemon.shutdown().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_its_mask_names() {
    let running = Running::start().await;
    let mut whole = entity("a", 1);
    whole.importance = Some(0.25);
    whole.attributes.insert("other".into(), int(7));
    running.put(whole).await.expect("put");
    let update = |id: &str, paths: &[&str], allow_missing| v1::UpdateRequest {
        entity: Some(entity(id, 2)),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        allow_missing,
        ..Default::default()
    };
    let mut entities = running.entities();
    entities.update(update("a", &["attributes.number", "importance"], false)).await.expect("updated");
    let found = running.get("a").await.expect("there");
    assert_eq!(found.attributes["number"], int(2));
    assert_eq!(found.attributes["other"], int(7));
    assert_eq!(found.importance, None);

    let missing = entities.update(update("b", &[], false)).await.expect_err("not there");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "ENTITY_NOT_FOUND"));
    entities.update(update("b", &[], true)).await.expect("made");
    let unknown = entities.update(update("a", &["attribute"], false)).await.expect_err("no field");
    assert_eq!(field(&unknown), "update_mask.paths[0]");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_answer_each_item() {
    let running = Running::start().await;
    let mut wrong = entity("c", 3);
    wrong.vectors.insert(SPACE.into(), vector(&[1.0]));
    let nameless = v1::Entity::default();
    let entities = vec![entity("a", 1), nameless, entity("b", 2), wrong];
    let request = v1::BatchPutRequest { entities, ..Default::default() };
    let results = running.entities().batch_put(request).await.expect("answered").into_inner().results;
    let status = |at: usize| results[at].status.as_ref().expect("a status");
    assert_eq!(results.iter().map(|item| item.version.len()).collect::<Vec<_>>(), [16, 0, 16, 0]);
    assert_eq!((status(0).code, status(2).code), (0, 0));
    assert_eq!(status(1).message, "entity.ref must be set");
    assert_eq!(status(3).code, Code::InvalidArgument as i32);
    assert!(status(3).message.contains("entity.vectors[\"plane\"]"), "{}", status(3).message);

    let refs = vec![name("b"), name("nobody"), name("a")];
    let request = v1::BatchGetRequest { refs, ..Default::default() };
    let results = running.entities().batch_get(request).await.expect("answered").into_inner().results;
    let numbers: Vec<_> =
        results.iter().map(|item| item.entity.as_ref().map(|e| e.attributes["number"].clone())).collect();
    assert_eq!(numbers, [Some(int(2)), None, Some(int(1))]);
    assert_eq!(results[1].status.as_ref().expect("a status").code, Code::NotFound as i32);

    let request = v1::DeleteRequest { r#ref: Some(name("a")), ..Default::default() };
    assert!(running.entities().delete(request.clone()).await.expect("deleted").into_inner().existed);
    assert!(!running.entities().delete(request).await.expect("deleted").into_inner().existed);
    assert_eq!(running.get("a").await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_added_and_removed() {
    let running = Running::start().await;
    running.put(entity("a", 1)).await.expect("put");
    let chunk = |id: &str| v1::Chunk { id: id.into(), text: id.into(), ..Default::default() };
    let chunks = vec![chunk("c1"), chunk("c2")];
    let request =
        v1::PutChunksRequest { r#ref: Some(name("a")), chunks: chunks.clone(), ..Default::default() };
    running.entities().put_chunks(request).await.expect("added");
    let request = v1::DeleteChunksRequest {
        r#ref: Some(name("a")),
        chunk_ids: vec!["c1".into()],
        ..Default::default()
    };
    running.entities().delete_chunks(request).await.expect("removed");
    assert_eq!(running.get("a").await.expect("there").chunks, [chunk("c2")]);
    let request = v1::PutChunksRequest { r#ref: Some(name("nobody")), chunks, ..Default::default() };
    let missing = running.entities().put_chunks(request).await.expect_err("no entity");
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_and_tokens_belong_to_their_question() {
    let running = Running::start().await;
    for number in 0..25 {
        running.put(entity(&format!("n-{number:02}"), number)).await.expect("put");
    }
    let request = v1::RangeScanRequest { collection: COLLECTION.into(), page_size: 10, ..Default::default() };
    let (mut ids, mut token, mut tokens) = (Vec::new(), String::new(), Vec::new());
    loop {
        let request = v1::RangeScanRequest { page_token: token, ..request.clone() };
        let page = running.entities().range_scan(request).await.expect("a page").into_inner();
        ids.extend(page.entities.into_iter().map(|entity| entity.r#ref.expect("named").id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        tokens.push(token.clone());
    }
    assert_eq!(ids, (0..25).map(|number| format!("n-{number:02}")).collect::<Vec<_>>());

    let token = tokens.remove(0);
    let other_size = v1::RangeScanRequest { page_size: 3, page_token: token.clone(), ..request.clone() };
    let page = running.entities().range_scan(other_size).await.expect("a page").into_inner();
    assert_eq!(page.entities.len(), 3);
    let cut = token[..token.len() - 1].to_owned();
    let foreign = v1::RangeScanRequest { reverse: true, page_token: token, ..request.clone() };
    for wrong in [foreign, v1::RangeScanRequest { page_token: cut, ..request.clone() }] {
        let refused = running.entities().range_scan(wrong).await.expect_err("refused");
        assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("PAGE_TOKEN", "page_token"));
    }
    let large = v1::RangeScanRequest { page_size: 1_001, ..request };
    let refused = running.entities().range_scan(large).await.expect_err("refused");
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("LIMIT_EXCEEDED", "page_size"));
    let request = v1::CountRequest { collection: COLLECTION.into(), ..Default::default() };
    assert_eq!(running.entities().count(request).await.expect("counted").into_inner().count, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_listed_in_pages() {
    let running = Running::start().await;
    for collection in ["a", "b", "c"] {
        let collection = Some(v1::Collection { name: collection.into(), ..Default::default() });
        running
            .collections()
            .create_collection(v1::CreateCollectionRequest { collection })
            .await
            .expect("made");
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListCollectionsRequest { page_size: 2, page_token };
        let page = running.collections().list_collections(request).await.expect("a page").into_inner();
        assert!(page.collections.len() <= 2);
        names.extend(page.collections.into_iter().map(|collection| collection.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c", COLLECTION]);
    let collection = Some(v1::Collection { name: "a".into(), ..Default::default() });
    let request = v1::CreateCollectionRequest { collection };
    let again = running.collections().create_collection(request).await.expect_err("there");
    assert_eq!((again.code(), reason(&again).as_str()), (Code::AlreadyExists, "COLLECTION_EXISTS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_are_walked_node_by_node_and_the_summary_comes_last() {
    let running = Running::start().await;
    for id in ["a", "b", "c"] {
        running.put(entity(id, 1)).await.expect("put");
    }
    let edges = vec![edge("a", "b", 0.9), edge("a", "c", 0.5), edge("b", "c", 1.0)];
    let request = v1::PutEdgesRequest { edges, ..Default::default() };
    let results = running.graph().put_edges(request).await.expect("answered").into_inner().results;
    assert!(results.iter().all(|item| item.status.as_ref().is_some_and(|status| status.code == 0)));

    let request = v1::NeighborsRequest { r#ref: Some(name("a")), ..Default::default() };
    let found = running.graph().neighbors(request).await.expect("answered").into_inner().neighbors;
    let weights: Vec<_> = found.iter().filter_map(|neighbor| neighbor.edge.as_ref()?.weight).collect();
    assert_eq!(weights, [0.9, 0.5]);

    let options = v1::ExpandOptions { hops: 2, ..Default::default() };
    let request = v1::ExpandRequest { seeds: vec![name("a")], options: Some(options), ..Default::default() };
    let mut stream = running.graph().expand(request).await.expect("begun").into_inner();
    let message = stream.message().await.expect("a message").expect("one");
    assert!(stream.message().await.expect("the end").is_none());
    let summary = message.summary.expect("a summary");
    assert_eq!((summary.nodes, message.nodes.len()), (2, 2));
    assert!(message.nodes.iter().all(|node| node.path.is_empty()), "nobody asked for paths");

    let request = v1::CountHopsRequest { seeds: vec![name("a")], hops: 3, ..Default::default() };
    let counted = running.graph().count_hops(request).await.expect("counted").into_inner();
    assert_eq!(counted.counts.iter().sum::<u64>(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_answer_alone_and_in_batches() {
    let running = Running::start().await;
    for (id, values) in [("east", [1.0, 0.0]), ("north", [0.0, 1.0])] {
        let mut entity = entity(id, 1);
        entity.vectors.insert(SPACE.into(), vector(&values));
        running.put(entity).await.expect("put");
    }
    let query = |values: &[f32]| {
        let target = Some(v1::nearest::Target::Vector(vector(values)));
        let nearest = v1::Nearest { space: SPACE.into(), target, ..Default::default() };
        let seeds = vec![v1::Seed { kind: Some(v1::seed::Kind::Nearest(nearest)) }];
        v1::QueryRequest { collection: COLLECTION.into(), seeds, limit: 1, ..Default::default() }
    };
    let best = |response: &v1::QueryResponse| {
        response.hits[0].entity.as_ref().and_then(|entity| entity.r#ref.clone()).expect("named").id
    };
    let answer = running.search().query(query(&[0.9, 0.1])).await.expect("answered").into_inner();
    assert_eq!(best(&answer), "east");
    assert!(answer.cost.expect("a cost").duration.is_some());

    let queries = vec![query(&[0.9, 0.1]), query(&[1.0]), query(&[0.1, 0.9])];
    let request = v1::BatchQueryRequest { queries };
    let results = running.search().batch_query(request).await.expect("answered").into_inner().results;
    assert_eq!(best(results[0].response.as_ref().expect("answered")), "east");
    assert_eq!(results[1].status.as_ref().expect("a status").code, Code::InvalidArgument as i32);
    assert_eq!(best(results[2].response.as_ref().expect("answered")), "north");

    // Page by page: alone, in a batch, and with another size.
    let next = |page_token: String, limit: u32| v1::QueryRequest { page_token, limit, ..query(&[0.9, 0.1]) };
    let token = answer.next_page_token;
    let second = running.search().query(next(token.clone(), 1)).await.expect("answered").into_inner();
    assert_eq!(best(&second), "north");
    let queries = vec![next(token.clone(), 5)];
    let batch = running.search().batch_query(v1::BatchQueryRequest { queries }).await.expect("answered");
    let response = batch.into_inner().results.remove(0).response.expect("answered");
    assert_eq!((best(&response), response.hits.len()), ("north".to_owned(), 1));
    assert!(response.next_page_token.is_empty());
    let third = running.search().query(next(second.next_page_token, 1)).await.expect("answered").into_inner();
    assert!(third.hits.is_empty() && third.next_page_token.is_empty());
    let of_another = v1::QueryRequest { page_token: token.clone(), ..query(&[0.1, 0.9]) };
    let nested = v1::QueryRequest { within: Some(Box::new(next(token.clone(), 1))), ..query(&[0.9, 0.1]) };
    for (wrong, place) in
        [(of_another, "page_token"), (next("abc".into(), 1), "page_token"), (nested, "within.page_token")]
    {
        let refused = running.search().query(wrong).await.expect_err("not its token");
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, place));
    }
}
