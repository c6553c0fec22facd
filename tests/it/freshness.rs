//! What was written is what the very next read says, in every way of asking, and still after a flush and
//! after a kill.

use allidb_api::v1;
use tonic::Code;

use crate::{
    client::{Client, assert_done},
    make::{edge, entity, id_of, int, mask, name, vector, vectors},
    process::Process,
};

const PEOPLE: &str = "people";
const FACE: &str = "face";

/// The entity and the chunk that matched.
async fn nearest(client: &Client, values: [f32; 3]) -> (String, String) {
    let hits = client.nearest(PEOPLE, FACE, &values, 1).await;
    let hit = hits.into_iter().next().expect("a hit");
    assert!(hit.measure.is_some_and(|cosine| cosine > 0.999_99), "{hit:?}");
    (id_of(&hit.entity.expect("an entity")).to_owned(), hit.chunk_id)
}

/// Every id that a search can find.
async fn searchable(client: &Client) -> Vec<String> {
    let hits = client.nearest(PEOPLE, FACE, &[1.0, 1.0, 1.0], 1_000).await;
    let mut ids: Vec<String> =
        hits.iter().map(|hit| id_of(hit.entity.as_ref().expect("an entity")).to_owned()).collect();
    ids.sort();
    ids
}

fn person(id: &str, face: [f32; 3]) -> v1::Entity {
    v1::Entity { vectors: vectors(FACE, &face), ..entity(PEOPLE, id) }
}

async fn knows(client: &Client, from: &str, to: &str) {
    let results = client.put_edges(vec![edge(name(PEOPLE, from), "knows", name(PEOPLE, to))]).await;
    results.expect("answered").iter().for_each(assert_done);
}

/// Neither `id` nor the others have an edge from or to it.
async fn no_edges_of(client: &Client, id: &str, others: &[&str]) {
    for one in others.iter().chain([&id]) {
        for direction in [v1::Direction::Out, v1::Direction::In] {
            let edges = client.edges(name(PEOPLE, one), direction).await;
            let ends = edges.iter().flat_map(|edge| [&edge.from, &edge.to]);
            let mut ids = ends.map(|end| end.as_ref().expect("a name").id.as_str());
            assert!(ids.all(|end| end != id), "{one} has edges of {id}: {edges:?}");
        }
    }
}

/// `id` is nowhere.
async fn is_gone(client: &Client, id: &str, face: [f32; 3], left: &[&str]) {
    assert_eq!(client.get(name(PEOPLE, id)).await.expect_err("deleted").code(), Code::NotFound);
    let scanned = client.scan(PEOPLE).await;
    assert_eq!(scanned.iter().map(id_of).collect::<Vec<_>>(), left);
    assert_eq!(client.count(PEOPLE).await, left.len() as u64);
    let hits = client.nearest(PEOPLE, FACE, &face, 1_000).await;
    assert!(hits.iter().all(|hit| id_of(hit.entity.as_ref().expect("an entity")) != id));
    for other in left {
        assert!(!client.reached(PEOPLE, other).await.contains(&id.to_owned()), "{other} reaches {id}");
    }
    assert!(client.reached(PEOPLE, id).await.is_empty());
    no_edges_of(client, id, left).await;
    let update = v1::UpdateRequest { entity: Some(person(id, face)), ..Default::default() };
    assert_eq!(client.entities().update(update).await.expect_err("deleted").code(), Code::NotFound);
}

/// What holds when everything was done.
async fn end_state(client: &Client) {
    is_gone(client, "bob", [0.0, 1.0, 0.0], &["ann", "cid"]).await;
    assert_eq!(searchable(client).await, ["ann", "cid"]);
    assert_eq!(nearest(client, [0.0, 0.0, 1.0]).await, ("ann".to_owned(), String::new()));
    assert_eq!(nearest(client, [1.0, 1.0, 0.0]).await, ("cid".to_owned(), "page-2".to_owned()));
    assert_eq!(client.reached(PEOPLE, "ann").await, ["cid"]);
    let ann = client.get(name(PEOPLE, "ann")).await.expect("there");
    assert_eq!(ann.attributes["age"], int(i64::MAX));
    assert_eq!(ann.vectors[FACE], vector(&[0.0, 0.0, 1.0]));
    let cid = client.get(name(PEOPLE, "cid")).await.expect("there");
    assert_eq!(cid.chunks.iter().map(|chunk| chunk.id.as_str()).collect::<Vec<_>>(), ["page-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_read_sees_each_write_and_so_do_those_after_flush_and_kill() {
    let mut process = Process::start().await;
    let client = process.client();
    client.create(PEOPLE, FACE, 3).await;

    client.put(person("bob", [0.0, 1.0, 0.0])).await.expect("put");
    assert_eq!(nearest(&client, [0.0, 1.0, 0.0]).await.0, "bob");
    client.put(person("ann", [1.0, 0.0, 0.0])).await.expect("put");
    assert_eq!(nearest(&client, [1.0, 0.0, 0.0]).await, ("ann".to_owned(), String::new()));

    // An update moves the vector and leaves the rest.
    let age = v1::Entity { attributes: [("age".to_owned(), int(i64::MAX))].into(), ..entity(PEOPLE, "ann") };
    let update = v1::UpdateRequest { entity: Some(age), ..Default::default() };
    client.entities().update(update).await.expect("updated");
    let update = v1::UpdateRequest {
        entity: Some(person("ann", [0.0, 0.0, 1.0])),
        update_mask: mask(&["vectors.face"]),
        ..Default::default()
    };
    client.entities().update(update).await.expect("updated");
    assert_eq!(nearest(&client, [0.0, 0.0, 1.0]).await.0, "ann");
    let hits = client.nearest(PEOPLE, FACE, &[1.0, 0.0, 0.0], 10).await;
    assert!(
        hits.iter().all(|hit| hit.measure.is_some_and(|cosine| cosine < 0.9)),
        "the old vector is gone: {hits:?}"
    );
    assert_eq!(searchable(&client).await, ["ann", "bob"]);

    // Chunks are found by themselves and name themselves.
    let chunk = |id: &str, face: &[f32]| v1::Chunk {
        id: id.into(),
        vectors: vectors(FACE, face),
        ..Default::default()
    };
    let mut cid = entity(PEOPLE, "cid");
    cid.chunks = vec![chunk("page-1", &[-1.0, 0.0, 0.0]), chunk("page-2", &[1.0, 1.0, 0.0])];
    client.put(cid).await.expect("put");
    assert_eq!(nearest(&client, [-1.0, 0.0, 0.0]).await, ("cid".to_owned(), "page-1".to_owned()));
    assert_eq!(nearest(&client, [1.0, 1.0, 0.0]).await, ("cid".to_owned(), "page-2".to_owned()));
    let request = v1::DeleteChunksRequest {
        r#ref: Some(name(PEOPLE, "cid")),
        chunk_ids: vec!["page-1".into()],
        ..Default::default()
    };
    client.entities().delete_chunks(request).await.expect("deleted");
    let hits = client.nearest(PEOPLE, FACE, &[-1.0, 0.0, 0.0], 10).await;
    assert!(hits.iter().all(|hit| hit.chunk_id != "page-1"), "{hits:?}");

    knows(&client, "ann", "bob").await;
    knows(&client, "bob", "cid").await;
    knows(&client, "ann", "cid").await;
    let mut reached = client.reached(PEOPLE, "ann").await;
    reached.sort();
    assert_eq!(reached, ["bob", "cid"]);

    let deleted = client.delete(name(PEOPLE, "bob")).await.expect("deleted");
    assert!(deleted.existed);
    end_state(&client).await;
    let again = client.delete(name(PEOPLE, "bob")).await.expect("nothing to delete is no error");
    assert!(!again.existed);

    drop(client);
    process.end_and_restart().await;
    end_state(&process.client()).await;
    process.kill_and_restart().await;
    end_state(&process.client()).await;

    // What is put again starts anew: neither its vector nor its edges are back.
    let client = process.client();
    client.put(entity(PEOPLE, "bob")).await.expect("put");
    assert!(client.reached(PEOPLE, "bob").await.is_empty(), "deleted edges stay deleted");
    no_edges_of(&client, "bob", &["ann", "cid"]).await;
    assert_eq!(searchable(&client).await, ["ann", "cid"]);
    assert_eq!(client.count(PEOPLE).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_collection_is_gone_at_once_and_its_name_is_free() {
    let mut process = Process::start().await;
    let client = process.client();
    client.create(PEOPLE, FACE, 3).await;
    client.put(person("ann", [1.0, 0.0, 0.0])).await.expect("put");
    let request = v1::DropCollectionRequest { name: PEOPLE.into() };
    client.collections().drop_collection(request).await.expect("dropped");
    assert_eq!(client.get(name(PEOPLE, "ann")).await.expect_err("dropped").code(), Code::NotFound);
    client.create(PEOPLE, FACE, 3).await;
    assert_eq!(client.count(PEOPLE).await, 0);
    assert!(searchable(&client).await.is_empty());
    process.kill_and_restart().await;
    assert_eq!(process.client().count(PEOPLE).await, 0);
    assert!(searchable(&process.client()).await.is_empty());
}
