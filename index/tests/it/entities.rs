//! Put, update, get, delete, scan and count.

use std::collections::BTreeMap;

use allidb_index::{
    Error, ScanRequest,
    filter::{Field, Filter, Operator},
    model::{
        Chunk, CollectionChange, CollectionSpec, Edge, EntityPatch, EntityRef, Metric, ReadMask, SpaceSpec,
        Timestamp, Value, Write,
    },
};

use crate::fixture::{Fixture, TENANT, at, deadline, entity, with};

fn update(fixture: &Fixture, patch: EntityPatch) -> Result<(), Error> {
    fixture.one(Write::Update(Box::new(patch))).map(|_| ())
}

fn scan(collection: &str, limit: usize) -> ScanRequest {
    ScanRequest { read_mask: ReadMask::fields(), ..ScanRequest::first(collection, limit) }
}

fn scanned(fixture: &Fixture, request: &ScanRequest) -> Vec<String> {
    let mut request = request.clone();
    let mut ids = Vec::new();
    loop {
        let page = fixture.replica.scan(TENANT, &request, deadline()).unwrap();
        assert!(page.entities.len() <= request.limit);
        ids.extend(page.entities.into_iter().map(|entity| entity.id));
        match page.next {
            Some(next) => request.after = Some(next),
            None => return ids,
        }
    }
}

#[test]
fn an_entity_comes_back_as_it_was_put_also_after_a_crash() {
    let fixture = Fixture::new();
    let mut full = with(entity("a", &[1.0, 2.0]), "n", 7);
    full.importance = Some(0.25);
    full.sources.insert("wiki".into());
    let mut chunk = Chunk { text: "hello".into(), ..Chunk::default() };
    chunk.vectors.insert("v".into(), vec![3.0, 4.0]);
    full.chunks.insert("1".into(), chunk);
    let written = fixture.put(full.clone());
    assert!(!written.existed);
    let fixture = fixture.crash();
    let mut got = fixture.get("a").unwrap();
    assert_eq!(got.version, written.version);
    assert_eq!(got.created_at, Some(written.version.timestamp()));
    assert_eq!(got.updated_at, got.created_at);
    (got.created_at, got.updated_at, got.version) = (None, None, full.version);
    assert_eq!(got, full);
}

#[test]
fn put_replaces_everything_and_keeps_the_time_of_creation() {
    let fixture = Fixture::new();
    let mut first = with(with(entity("a", &[1.0, 0.0]), "x", 1), "y", 2);
    first.chunks.insert("1".into(), Chunk { text: "one".into(), ..Chunk::default() });
    fixture.put(first);
    let created = fixture.get("a").unwrap().created_at;
    fixture.clock.advance(5_000);
    assert!(fixture.put(with(entity("a", &[]), "x", 3)).existed);
    let got = fixture.get("a").unwrap();
    assert_eq!(got.attributes, BTreeMap::from([("x".to_owned(), Value::Int(3))]));
    assert!(got.vectors.is_empty() && got.chunks.is_empty());
    assert_eq!(got.created_at, created);
    assert!(got.updated_at > created);
    assert!(fixture.nearest(&[1.0, 0.0], 5).is_empty(), "the replaced vector is found no more");
    // A delete forgets it.
    fixture.delete("a");
    fixture.put(entity("a", &[]));
    assert!(fixture.get("a").unwrap().created_at > created);
}

#[test]
fn update_changes_what_it_names_and_nothing_else() {
    let fixture = Fixture::new();
    fixture.put(with(with(entity("a", &[1.0, 0.0]), "x", 1), "y", 2));
    let mut patch = EntityPatch::new(at("a"));
    patch.attributes.insert("x".into(), None);
    patch.attributes.insert("z".into(), Some(Value::Int(9)));
    patch.importance = Some(Some(0.5));
    update(&fixture, patch).unwrap();
    let fixture = fixture.reopen();
    let got = fixture.get("a").unwrap();
    assert_eq!(got.attributes.keys().collect::<Vec<_>>(), ["y", "z"]);
    assert_eq!((got.importance, got.entity_type.as_str()), (Some(0.5), "thing"));
    assert_eq!(got.vectors["v"], [1.0, 0.0]);
    let mut patch = EntityPatch::new(at("a"));
    patch.replace_attributes = true;
    patch.attributes.insert("only".into(), Some(Value::Null));
    patch.importance = Some(None);
    patch.vectors.insert("v".into(), None);
    update(&fixture, patch).unwrap();
    let got = fixture.get("a").unwrap();
    assert_eq!(got.attributes, BTreeMap::from([("only".to_owned(), Value::Null)]));
    assert!(got.vectors.is_empty() && got.importance.is_none());
}

#[test]
fn an_update_of_what_is_not_there_fails_unless_it_may_create_it() {
    let fixture = Fixture::new();
    let mut patch = EntityPatch::new(at("a"));
    patch.attributes.insert("x".into(), Some(Value::Int(1)));
    assert!(matches!(update(&fixture, patch.clone()), Err(Error::NotFound { .. })));
    assert!(matches!(fixture.get("a"), Err(Error::NotFound { .. })));
    patch.allow_missing = true;
    update(&fixture, patch.clone()).unwrap();
    assert_eq!(fixture.get("a").unwrap().attributes["x"], Value::Int(1));
    fixture.delete("a");
    patch.allow_missing = false;
    assert!(matches!(update(&fixture, patch), Err(Error::NotFound { .. })), "an update revives nothing");
}

#[test]
fn chunks_are_put_replaced_and_deleted_whole() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[]));
    let chunk = |text: &str, vector: Option<[f32; 2]>| {
        let vectors = vector.map(|vector| ("v".to_owned(), vector.to_vec())).into_iter().collect();
        Some(Chunk { text: text.into(), vectors, ..Chunk::default() })
    };
    let mut patch = EntityPatch::new(at("a"));
    patch.chunks.insert("1".into(), chunk("one", Some([1.0, 0.0])));
    patch.chunks.insert("10".into(), chunk("ten", Some([0.0, 1.0])));
    update(&fixture, patch).unwrap();
    assert_eq!(fixture.nearest(&[1.0, 0.0], 1), ["a"]);
    let mut patch = EntityPatch::new(at("a"));
    patch.chunks.insert("1".into(), chunk("uno", None));
    update(&fixture, patch).unwrap();
    let got = fixture.get("a").unwrap();
    assert_eq!(got.chunks["1"].text, "uno");
    assert!(got.chunks["1"].vectors.is_empty(), "a replaced chunk keeps no old vector");
    assert_eq!(got.chunks["10"].vectors["v"], [0.0, 1.0]);
    let mut patch = EntityPatch::new(at("a"));
    patch.chunks.insert("10".into(), None);
    update(&fixture, patch).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.get("a").unwrap().chunks.keys().collect::<Vec<_>>(), ["1"]);
    assert!(fixture.nearest(&[0.0, 1.0], 5).is_empty());
}

#[test]
fn an_expired_entity_is_gone_everywhere_at_once() {
    let fixture = Fixture::new();
    let mut mortal = entity("a", &[1.0, 0.0]);
    mortal.expire_at = Some(Timestamp(1_700_000_010_000_000));
    fixture.put(mortal);
    fixture.put(entity("b", &[2.0, 0.0]));
    fixture.link("b", "r", "a", 1.0);
    assert_eq!(fixture.nearest(&[1.0, 0.0], 5), ["a", "b"]);
    fixture.clock.advance(20_000);
    assert!(matches!(fixture.get("a"), Err(Error::NotFound { .. })));
    assert_eq!(fixture.nearest(&[1.0, 0.0], 5), ["b"]);
    assert_eq!(scanned(&fixture, &scan("c", 10)), ["b"]);
    assert_eq!(fixture.replica.count(TENANT, "c", None, deadline()).unwrap(), 1);
    // What comes to be in its place has nothing of it.
    let mut patch = EntityPatch::new(at("a"));
    patch.allow_missing = true;
    update(&fixture, patch).unwrap();
    assert!(fixture.get("a").unwrap().vectors.is_empty());
    let request = allidb_index::graph::NeighborsRequest {
        entity: at("a"),
        relations: vec![],
        direction: allidb_index::model::Direction::Both,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 10,
        collections: allidb_index::model::CollectionSet::ALL,
        pages: allidb_index::graph::NeighborPages::Heaviest,
    };
    let edges = fixture.replica.neighbors(TENANT, &request, deadline()).unwrap().neighbors;
    assert!(edges.is_empty(), "nor its edges: {edges:?}");
}

#[test]
fn an_answer_is_bounded_in_bytes() {
    let fixture = Fixture::new();
    for id in ["a", "b", "c"] {
        fixture.put(with(entity(id, &[]), "text", "x".repeat(15 << 20).as_str()));
    }
    let refs: Vec<_> = ["a", "b", "c"].iter().cycle().take(30).map(|id| at(id)).collect();
    let got = fixture.replica.get(TENANT, &refs, &ReadMask::everything(), deadline());
    let (ok, refused): (Vec<_>, Vec<_>) = got.into_iter().partition(Result::is_ok);
    assert!(ok.len() >= 4 && ok.len() <= 6, "{} answered", ok.len());
    assert!(refused.iter().all(|result| matches!(result, Err(Error::Exhausted(_)))));
    assert_eq!(scanned(&fixture, &scan("c", 1_000)), ["a", "b", "c"], "a scan goes on over more pages");
}

#[test]
fn a_full_disk_refuses_puts_and_lets_deletes_through() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[1.0, 2.0]));
    fixture.put(entity("b", &[]));
    fixture.link("a", "r", "b", 1.0);
    fixture.replica.engine().flush().unwrap();
    let used: u64 = fixture.fs.files().iter().map(|(_, bytes)| bytes).sum();
    // Less than the low-water mark is free, and yet enough for a little more log.
    fixture.fs.set_capacity(Some(used + (32 << 20)));
    // The engine looks at the free space now and then, at the latest after so much.
    let large = with(entity("large", &[]), "text", "x".repeat(9 << 20).as_str());
    let put = |entity| Write::Put { collection: "c".into(), entity: Box::new(entity) };
    assert!(matches!(fixture.one(put(large)), Err(Error::Storage(_))));
    assert!(matches!(fixture.one(put(entity("new", &[]))), Err(Error::Storage(_))));
    fixture.delete("a");
    assert!(fixture.get("a").is_err() && fixture.get("b").is_ok());
    fixture.fs.set_capacity(None);
    fixture.one(put(entity("new", &[]))).unwrap();
    // Dropping everything is the way out as well.
    fixture.fs.set_capacity(Some(used + (32 << 20)));
    let large = with(entity("large", &[]), "text", "x".repeat(9 << 20).as_str());
    assert!(matches!(fixture.one(put(large)), Err(Error::Storage(_))));
    assert!(matches!(fixture.one(put(entity("newer", &[]))), Err(Error::Storage(_))));
    fixture.replica.drop_collection(TENANT, "c").unwrap();
    assert!(fixture.get("b").is_err());
}

#[test]
fn scans_are_in_order_in_both_directions_and_page_without_gaps() {
    let fixture = Fixture::new();
    let mut wanted: Vec<String> = (0..500).map(|at| format!("id-{:03}", at * 7 % 500)).collect();
    fixture.write(
        wanted
            .iter()
            .map(|id| Write::Put { collection: "c".into(), entity: Box::new(with(entity(id, &[]), "n", 1)) })
            .collect(),
    );
    wanted.sort();
    let fixture = fixture.reopen();
    for limit in [1, 7, 500, 1_000] {
        assert_eq!(scanned(&fixture, &scan("c", limit)), wanted);
    }
    let reverse = ScanRequest { reverse: true, ..scan("c", 33) };
    assert_eq!(scanned(&fixture, &reverse), wanted.iter().rev().cloned().collect::<Vec<_>>());
    let part = ScanRequest { start: Some("id-100".into()), end: Some("id-103".into()), ..scan("c", 2) };
    assert_eq!(scanned(&fixture, &part), ["id-100", "id-101", "id-102"]);
    let prefix = ScanRequest { prefix: "id-49".into(), reverse: true, ..scan("c", 3) };
    assert_eq!(scanned(&fixture, &prefix).len(), 10);
    let filter = Filter::Compare(Field::Id, Operator::Less, Value::String("id-002".into()));
    assert_eq!(
        scanned(&fixture, &ScanRequest { filter: Some(filter.clone()), ..scan("c", 3) }),
        ["id-000", "id-001"]
    );
    assert_eq!(fixture.replica.count(TENANT, "c", Some(&filter), deadline()).unwrap(), 2);
    assert_eq!(fixture.replica.count(TENANT, "c", None, deadline()).unwrap(), 500);
}

#[test]
fn bad_writes_are_refused_precisely_and_change_nothing() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[1.0, 0.0]));
    let before = fixture.get("a").unwrap();
    let put = |entity| Write::Put { collection: "c".into(), entity: Box::new(entity) };
    let wrong = [
        (put(entity("", &[])), "entity.id must not be empty"),
        (put(entity(&"x".repeat(1025), &[])), "entity.id is 1025 bytes long"),
        (put(entity("a\0b", &[])), "control character"),
        (put(entity("a", &[1.0])), "has 1 dimensions; space \"v\" has 2"),
        (put(entity("a", &[1.0, f32::NAN])), "NaN at position 1"),
        (put(entity("a", &[f32::INFINITY, 0.0])), "finite"),
        (
            Write::Put { collection: "nope".into(), entity: Box::new(entity("a", &[])) },
            "no collection \"nope\"",
        ),
        (Write::Delete(at("")), "must not be empty"),
    ];
    for (write, why) in wrong {
        let error = fixture.one(write).unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    }
    let mut unknown = entity("a", &[]);
    unknown.vectors.insert("w".into(), vec![1.0, 2.0]);
    assert!(matches!(fixture.one(put(unknown)), Err(Error::UnknownSpace { .. })));
    let mut heavy = entity("a", &[]);
    heavy.importance = Some(1.5);
    assert!(fixture.one(put(heavy)).unwrap_err().to_string().contains("importance"));
    assert_eq!(fixture.get("a").unwrap(), before);
}

#[test]
fn one_bad_write_of_a_batch_spoils_no_other() {
    let fixture = Fixture::new();
    let missing = Write::Update(Box::new(EntityPatch::new(at("absent"))));
    let put = |id: &str| Write::Put { collection: "c".into(), entity: Box::new(entity(id, &[])) };
    let results = fixture.write(vec![put("a"), missing, put("b"), Write::Delete(at("a"))]);
    assert!(matches!(results[1], Err(Error::NotFound { .. })));
    assert!(results[0].is_ok() && results[2].is_ok() && results[3].as_ref().unwrap().existed);
    assert!(fixture.get("a").is_err() && fixture.get("b").is_ok());
}

#[test]
fn collections_are_separate_and_dropping_one_leaves_nothing_of_it() {
    let fixture = Fixture::new();
    let spaces = vec![SpaceSpec::new("v", 2, Metric::L2)];
    fixture.replica.create_collection(TENANT, "d", CollectionSpec::of_spaces(spaces.clone())).unwrap();
    let again = fixture.replica.create_collection(TENANT, "d", CollectionSpec::of_spaces(spaces.clone()));
    assert!(matches!(again, Err(Error::CollectionExists(_))));
    fixture.put(entity("a", &[1.0, 0.0]));
    fixture.one(Write::Put { collection: "d".into(), entity: Box::new(entity("a", &[5.0, 5.0])) }).unwrap();
    let across = allidb_index::model::Edge::new(at("a"), "r", allidb_index::model::EntityRef::new("d", "a"));
    fixture.one(Write::PutEdge(Box::new(across))).unwrap();
    assert_eq!(fixture.get("a").unwrap().vectors["v"], [1.0, 0.0]);
    fixture.replica.drop_collection(TENANT, "d").unwrap();
    assert!(matches!(fixture.replica.collection(TENANT, "d"), Err(Error::UnknownCollection(_))));
    let fixture = fixture.reopen();
    let d = fixture.replica.create_collection(TENANT, "d", CollectionSpec::of_spaces(spaces)).unwrap();
    assert!(d.id > fixture.replica.collection(TENANT, "c").unwrap().id, "ids are never reused");
    assert_eq!(scanned(&fixture, &scan("d", 10)), Vec::<String>::new());
    assert_eq!(scanned(&fixture, &scan("c", 10)), ["a"]);
}

#[test]
fn spaces_and_aliases_change_together_or_not_at_all() {
    let fixture = Fixture::new();
    let w = SpaceSpec::new("w", 3, Metric::Cosine);
    let alias = |to: &str| BTreeMap::from([("current".to_owned(), to.to_owned())]);
    fixture.change(CollectionChange { set_aliases: alias("v"), ..CollectionChange::default() }).unwrap();
    fixture.put(entity("a", &[1.0, 0.0]));
    assert_eq!(fixture.nearest_in("current", &[1.0, 0.0], 1), ["a"]);
    let wrong = CollectionChange {
        add_spaces: vec![w.clone()],
        set_aliases: alias("x"),
        ..CollectionChange::default()
    };
    assert!(matches!(fixture.change(wrong), Err(Error::UnknownSpace { .. })));
    assert!(fixture.replica.collection(TENANT, "c").unwrap().space("w").is_err(), "nothing of it was done");
    let both =
        CollectionChange { add_spaces: vec![w], set_aliases: alias("w"), ..CollectionChange::default() };
    fixture.change(both).unwrap();
    let drop_aliased = CollectionChange { drop_spaces: vec!["w".into()], ..CollectionChange::default() };
    assert!(fixture.change(drop_aliased).is_err(), "an alias would point nowhere");
    fixture
        .change(CollectionChange { drop_spaces: vec!["v".into()], ..CollectionChange::default() })
        .unwrap();
    let fixture = fixture.reopen();
    assert!(fixture.get("a").unwrap().vectors.is_empty());
    assert!(fixture.replica.collection(TENANT, "c").unwrap().space("current").unwrap().spec.dimension == 3);
}

#[test]
fn deleting_everything_leaves_no_row_behind() {
    let fixture = Fixture::new();
    for id in ["a", "b"] {
        let mut full = with(entity(id, &[1.0, 2.0]), "n", 7);
        let vectors = BTreeMap::from([("v".to_owned(), vec![3.0, 4.0])]);
        full.chunks.insert("1".into(), Chunk { text: "hello".into(), vectors, ..Chunk::default() });
        full.chunks.insert("2".into(), Chunk { text: "there".into(), ..Chunk::default() });
        fixture.put(full);
    }
    fixture.link("a", "r", "b", 1.0);
    let mut patch = EntityPatch::new(at("a"));
    patch.vectors.insert("v".into(), None);
    update(&fixture, patch).unwrap();
    fixture.delete("a");
    fixture.delete("b");
    for name in ["entity", "vector", "history", "chunk", "edge", "edge_in", "token", "number"] {
        let engine = fixture.replica.engine();
        let keyspace = engine.keyspace(name).unwrap();
        let rows = engine.snapshot().prefix(keyspace, &[], allidb_storage::Direction::Forward).unwrap();
        assert_eq!(rows.count(), 0, "rows left in {name}");
    }
}

#[test]
fn dropping_a_collection_leaves_no_row_of_it_and_all_of_others() {
    let fixture = Fixture::new();
    fixture.replica.create_collection(TENANT, "d", CollectionSpec::default()).unwrap();
    let rows = |fixture: &Fixture| -> BTreeMap<&str, usize> {
        let engine = fixture.replica.engine();
        ["entity", "vector", "history", "chunk", "edge", "edge_in", "token", "number"]
            .into_iter()
            .map(|name| {
                let keyspace = engine.keyspace(name).unwrap();
                let rows =
                    engine.snapshot().prefix(keyspace, &[], allidb_storage::Direction::Forward).unwrap();
                (name, rows.inspect(|row| assert!(row.is_ok())).count())
            })
            .collect()
    };
    let in_d = |id: &str| EntityRef::new("d", id);
    for id in ["x", "y"] {
        fixture.one(Write::Put { collection: "d".into(), entity: Box::new(entity(id, &[])) }).unwrap();
    }
    fixture.one(Write::PutEdge(Box::new(Edge::new(in_d("x"), "r", in_d("y"))))).unwrap();
    let of_d = rows(&fixture);
    assert_eq!((of_d["entity"], of_d["edge"], of_d["edge_in"]), (2, 1, 1));
    // One with so much that ranges are deleted, and one with little.
    for (id, count) in [("many", 50), ("few", 3)] {
        let mut full = entity(id, &[1.0, 2.0]);
        for chunk in 0..count {
            let vectors = BTreeMap::from([("v".to_owned(), vec![3.0, chunk as f32])]);
            full.chunks.insert(chunk.to_string(), Chunk { text: "t".into(), vectors, ..Chunk::default() });
        }
        fixture.put(full);
    }
    for weight in 0..50 {
        let relation = format!("r{weight}");
        fixture.link("many", &relation, "few", 1.0);
        fixture.one(Write::PutEdge(Box::new(Edge::new(at("many"), &relation, in_d("x"))))).unwrap();
        fixture.one(Write::PutEdge(Box::new(Edge::new(in_d("y"), &relation, at("few"))))).unwrap();
    }
    fixture.replica.drop_collection(TENANT, "c").unwrap();
    assert_eq!(rows(&fixture), of_d);
    let fixture = fixture.crash();
    assert_eq!(rows(&fixture), of_d);
    // Rows that a range delete covered are not even flushed; those few are, as tombstones.
    let engine = fixture.replica.engine();
    engine.wait_idle().unwrap();
    let stats = engine.stats();
    let chunks = stats.keyspaces.iter().find(|keyspace| keyspace.name == "chunk").unwrap();
    let entries: u64 = chunks.levels.iter().map(|level| level.entries).sum();
    assert!(entries <= 3 && chunks.range_tombstones == 0, "{chunks:?}");
}
