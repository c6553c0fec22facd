//! What is kept for nodes that are away, and nodes whose clocks are wrong.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_cluster::{Consistency, HintCounts, HintLimits, WriteOptions};
use allidb_index::{
    Clock, Error, ManualClock,
    graph::NeighborsRequest,
    model::{
        CollectionSet, Direction, Edge, Entity, EntityPatch, EntityRef, ReadMask, Timestamp, Value, Write,
    },
};
use allidb_storage::{Durability, fs::SimFs};

use crate::world::{TENANT, World, open_on, soon};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_for_too_long_is_dropped_and_what_was_not_is_delivered() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let limits = HintLimits { age: Duration::from_secs(60), ..HintLimits::default() };
    let mut world = World::with_clocks(31, &vec![Arc::clone(&clock); 3], limits).await;
    let away = world.stop(2).await;
    world.put_through(0, "old").await.expect("a quorum is there");
    world.is_kept(0, 2).await;
    clock.advance(59_000);
    let ring = world.nodes[0].ring.clone();
    assert_eq!(ring.drop_old_hints(world.nodes[2].id).await.expect("it can be read"), 0);
    clock.advance(2_000);
    world.put_through(0, "new").await.expect("a quorum is there");
    // Its hint is kept after the answer, too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(ring.drop_old_hints(world.nodes[2].id).await.expect("it can be read"), 1);
    assert_eq!(world.kept(0, 2).dropped, 1);
    world.go_on(2, away).await;
    assert_eq!(ring.deliver_hints(world.nodes[2].id, soon()).await.expect("delivered"), 1);
    assert_eq!((world.has(2, "old"), world.has(2, "new")), (false, true));
    let HintCounts { bytes, dropped, delivered, .. } = world.kept(0, 2);
    assert_eq!((bytes, dropped, delivered), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_delivered_no_faster_than_it_may_be() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let limits = HintLimits { bytes_per_second: 40_000, ..HintLimits::default() };
    let mut world = World::with_clocks(32, &vec![clock; 3], limits).await;
    let away = world.stop(2).await;
    for at in 0..600 {
        world.put_through(0, &format!("e{at}")).await.expect("a quorum is there");
    }
    let begun = Instant::now();
    while world.nodes[0].replica.hints(world.nodes[2].id.0, None, 1_000, u64::MAX).expect("read").len() < 600
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "not all are kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let bytes = world.kept(0, 2).bytes;
    world.go_on(2, away).await;
    let begun = Instant::now();
    // At first it is left alone, as it did not answer.
    let mut delivered = 0;
    while delivered < 600 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{delivered} were delivered");
        tokio::time::sleep(Duration::from_millis(10)).await;
        delivered += world.nodes[0].ring.deliver_hints(world.nodes[2].id, soon()).await.unwrap_or(0);
    }
    let took = begun.elapsed();
    assert_eq!(world.kept(0, 2).bytes, 0);
    // A hint is counted with its key, of 45 bytes; a tenth of a second is free.
    let least = (bytes - 600 * 45) as f64 / 40_000.0 - 0.2;
    assert!(least > 0.5 && took.as_secs_f64() >= least, "{took:?} for {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_wrong_plans_no_writes() {
    let clocks: Vec<_> = (0..3).map(|_| Arc::new(ManualClock::new(1_700_000_000_000))).collect();
    let world = World::with_clocks(33, &clocks, HintLimits::default()).await;
    let compare = async || {
        for node in &world.nodes {
            node.ring.compare_clocks(soon()).await;
        }
        world.nodes.iter().map(|node| node.ring.check_clock().is_ok()).collect::<Vec<bool>>()
    };
    assert_eq!(compare().await, [true; 3]);
    // It is behind the others, who are right, as there are more of them.
    clocks[1].advance(1_000);
    clocks[2].advance(1_000);
    assert_eq!(compare().await, [false, true, true]);
    let why = world.nodes[0].ring.check_clock().expect_err("it is behind").to_string();
    assert!(why.contains("1000 ms or more behind those of 2 of 2 others"), "{why}");
    let offsets = world.nodes[1].ring.clocks();
    let seen: Vec<i64> = offsets.iter().map(|offset| offset.ahead_ms).collect();
    assert!(seen.contains(&-1_000) && seen.contains(&0), "{offsets:?}");
    clocks[0].advance(900);
    assert_eq!(compare().await, [true; 3]);
    // Ahead of them.
    clocks[0].advance(1_200);
    assert_eq!(compare().await, [false, true, true]);
    let why = world.nodes[0].ring.check_clock().expect_err("it is ahead").to_string();
    assert!(why.contains("1100 ms or more ahead of those of 2 of 2 others"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_not_given_again_by_a_clock_that_was_set_back() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let fs = SimFs::new();
    let replica = open_on(&fs, 34, &clock);
    replica.create_collection(TENANT, "c", Default::default()).expect("a collection");
    let write = || {
        let entity = Entity { id: "e".to_owned(), ..Entity::default() };
        Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }
    };
    clock.advance(60_000);
    // It is for others: nothing of it lies here.
    let given = replica.plan(TENANT, write()).expect("planned").version();
    replica.record_clock().expect("recorded");
    replica.close().expect("closed");
    drop(replica);
    let back = Arc::new(ManualClock::new(clock.now_ms() - 30_000));
    let replica = open_on(&fs, 34, &back);
    let next = replica.plan(TENANT, write()).expect("planned").version();
    assert!(next > given, "{next:?} after {given:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_comes_after_what_was_acknowledged_before_it() {
    let clocks: Vec<_> = (0..5).map(|at| Arc::new(ManualClock::new(1_700_000_000_000 + 100 * at))).collect();
    let world = World::with_clocks(35, &clocks, HintLimits::default()).await;
    // The first node has not heard of it: it does not hold it, and its clock is behind.
    let holds = |id: &str| {
        let key = world.lone.entity_key(TENANT, &EntityRef::new("c", id)).expect("a name");
        world.nodes[0].layout.replicas(key.partition()).contains(&world.nodes[0].id)
    };
    let ids: Vec<String> = (0..200).map(|at| format!("e{at}")).filter(|id| !holds(id)).take(20).collect();
    for id in &ids {
        clocks.iter().for_each(|clock| clock.advance(1_000));
        let first = world.put_through(4, id).await.expect("a quorum is there");
        let second = world.put_through(0, id).await.expect("a quorum is there");
        assert!(second.version > first.version, "{second:?} after {first:?}");
        let entities = [EntityRef::new("c", id)];
        let (mask, quorum) = (ReadMask::fields(), Consistency::Quorum);
        let read = world.nodes[2].ring.get(TENANT, &entities, &mask, quorum, soon());
        assert_eq!(read.await[0].as_ref().expect("it is there").version, second.version);
    }
    assert_eq!(world.nodes[0].ring.counts().writes_renewed, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_a_change_of_collections_learns_of_it_as_it_asks() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let world = World::with_clocks(36, &vec![Arc::clone(&clock); 3], HintLimits::default()).await;
    world.put_through(0, "e").await.expect("a quorum is there");
    let dropped = world.nodes[0].replica.with_dropped(TENANT, "c").expect("it is there");
    for node in &world.nodes[..2] {
        node.replica.adopt_catalogue(&dropped).expect("adopted");
    }
    let (entities, mask) = ([EntityRef::new("c", "e")], ReadMask::fields());
    let read = world.nodes[2].ring.get(TENANT, &entities, &mask, Consistency::Quorum, soon()).await;
    assert!(matches!(&read[..], [Err(Error::UnknownCollection(_))]), "{read:?}");
    assert!(world.nodes[2].replica.collection(TENANT, "c").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_has_seen_is_told_at_any_consistency() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let world = World::with_clocks(37, &vec![Arc::clone(&clock); 3], HintLimits::default()).await;
    let write = |n: i64| {
        let attributes = [("n".to_owned(), Value::Int(n))].into();
        let entity = Entity { id: "e".to_owned(), attributes, ..Entity::default() };
        Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }
    };
    world.write(write(1), None);
    clock.advance(1_000);
    // The last node alone has heard of it.
    let newer = world.lone.plan(TENANT, write(2)).expect("planned");
    world.make(&world.nodes[2].replica, newer.encode(|_| true));
    let (ring, mask, entity) = (&world.nodes[0].ring, ReadMask::fields(), EntityRef::new("c", "e"));
    let n = |found: &Entity| found.attributes["n"].clone();
    let entities = [entity.clone()];
    let any = ring.get(TENANT, &entities, &mask, Consistency::One, soon()).await.pop().expect("one answer");
    assert_eq!(n(&any.expect("it is there")), Value::Int(1));
    let since = |version| ring.get_since(TENANT, &entity, &mask, (Consistency::One, version), soon());
    assert_eq!(n(&since(newer.version()).await.expect("a replica has it")), Value::Int(2));
    let nobodys = world.lone.plan(TENANT, write(3)).expect("planned").version();
    let refused = since(nobodys).await;
    assert!(matches!(&refused, Err(Error::Unavailable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_refuses_edges_and_is_emptied_when_nodes_are_back() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let limits = HintLimits { outbox_bytes: 2_000, ..HintLimits::default() };
    let mut world = World::with_clocks(38, &vec![Arc::clone(&clock); 5], limits).await;
    let away = [world.stop(3).await, world.stop(4).await];
    let ring = world.nodes[0].ring.clone();
    let link = async |at: usize| {
        let edge =
            Edge::new(EntityRef::new("c", format!("a{at}")), "r", EntityRef::new("c", format!("b{at}")));
        let planned = ring.replica().plan(TENANT, Write::PutEdge(Box::new(edge))).expect("planned");
        let options =
            WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
        ring.write(vec![planned], options).await.pop().expect("one answer")
    };
    let mut refused = 0;
    for at in 0..200 {
        refused += usize::from(matches!(link(at).await, Err(Error::Exhausted(_))));
    }
    assert!(refused > 0 && ring.outbox().bytes > 2_000, "{refused}, {:?}", ring.outbox());
    for (at, address) in [3, 4].into_iter().zip(away) {
        world.go_on(at, address).await;
    }
    clock.advance(60_000);
    let begun = Instant::now();
    while ring.outbox().bytes > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", ring.outbox());
        tokio::time::sleep(Duration::from_millis(50)).await;
        for node in &world.nodes {
            node.ring.compare_clocks(soon()).await;
        }
        // What is not delivered now is later.
        ring.deliver_outbox(soon()).await.ok();
    }
    assert!(ring.replica().outbox(None, 10, u64::MAX).expect("read").is_empty());
    link(1_000).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_its_order_though_its_writes_are_disputed_or_overtaken() {
    for (ahead, misses) in [(0, Some(2)), (0, Some(0)), (400, None), (400, Some(2)), (400, Some(1))] {
        let clocks: Vec<_> =
            [0, 0, ahead].map(|ahead| Arc::new(ManualClock::new(1_700_000_000_000 + ahead))).into();
        let world = World::with_clocks(39, &clocks, HintLimits::default()).await;
        // A quorum knows of it, one node may not; another node's clock may be ahead.
        let known = Entity { id: "e".to_owned(), ..Entity::default() };
        let known = Write::Put { collection: "c".to_owned(), entity: Box::new(known) };
        let planned = world.nodes[2].replica.plan(TENANT, known).expect("planned");
        for (at, node) in world.nodes.iter().enumerate().filter(|(at, _)| Some(*at) != misses) {
            let _ = at;
            world.make(&node.replica, planned.encode(|_| true));
        }
        let ring = &world.nodes[0].ring;
        let set = |n: i64| {
            let mut patch = EntityPatch::new(EntityRef::new("c", "e"));
            patch.attributes.insert("n".to_owned(), Some(Value::Int(n)));
            Write::Update(Box::new(patch))
        };
        let put = |n: i64| {
            let attributes = [("n".to_owned(), Value::Int(n))].into();
            let entity = Entity { id: "e".to_owned(), attributes, ..Entity::default() };
            Write::Put { collection: "c".to_owned(), entity: Box::new(entity) }
        };
        for batch in [
            vec![set(1), set(2), set(3)],
            vec![set(4), put(5)],
            vec![put(6), set(7)],
            vec![set(8), put(9), set(10)],
        ] {
            clocks.iter().for_each(|clock| clock.advance(10));
            let last = batch.len();
            let planned = batch.into_iter().map(|write| ring.replica().plan(TENANT, write).expect("planned"));
            let options = WriteOptions {
                durability: Durability::None,
                consistency: Consistency::Quorum,
                deadline: soon(),
            };
            let written = ring.write(planned.collect(), options).await;
            let versions: Vec<_> =
                written.into_iter().map(|written| written.expect("made").version).collect();
            assert!(versions.is_sorted() && versions.len() == last, "{ahead} {misses:?}: {versions:?}");
        }
        let entities = [EntityRef::new("c", "e")];
        let read = ring.get(TENANT, &entities, &ReadMask::fields(), Consistency::All, soon()).await.pop();
        let found = read.expect("one answer").expect("it is there");
        assert_eq!(found.attributes["n"], Value::Int(10), "{ahead} {misses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_changes_first_decides_what_it_may_change_then() {
    for is_there in [false, true] {
        let clocks: Vec<_> =
            [0, 0, 400].map(|ahead| Arc::new(ManualClock::new(1_700_000_000_000 + ahead))).into();
        let world = World::with_clocks(41, &clocks, HintLimits::default()).await;
        world.put_through(0, "e").await.expect("a quorum is there");
        let options =
            WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
        let make = async |at: usize, batch: Vec<Write>| {
            let ring = &world.nodes[at].ring;
            let planned = batch.into_iter().map(|write| ring.replica().plan(TENANT, write).expect("planned"));
            ring.write(planned.collect(), options).await
        };
        let entity = EntityRef::new("c", "e");
        let update = || Write::Update(Box::new(EntityPatch::new(entity.clone())));
        let whole = || Write::Put {
            collection: "c".to_owned(),
            entity: Box::new(Entity { id: "e".to_owned(), ..Entity::default() }),
        };
        // By a node whose clock is ahead: what the batch changes first is overtaken by that.
        let (before, first) = match is_there {
            true => (whole(), Write::Delete(entity.clone())),
            false => (Write::Delete(entity.clone()), whole()),
        };
        make(2, vec![before]).await.pop().expect("one answer").expect("made");
        let results = make(0, vec![first, update(), update()]).await;
        assert!(results[0].is_ok(), "{results:?}");
        for result in &results[1..] {
            match is_there {
                // It was deleted.
                true => assert!(matches!(result, Err(Error::NotFound { .. })), "{results:?}"),
                false => assert!(result.is_ok(), "{results:?}"),
            }
        }
        let entities = [entity.clone()];
        let (ring, mask) = (&world.nodes[1].ring, ReadMask::fields());
        let read = ring.get(TENANT, &entities, &mask, Consistency::All, soon()).await;
        assert_eq!(read[0].is_ok(), !is_there);
    }
}

/// However much of a batch is overtaken: each write is made again once or twice, not as often as there are others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_again_in_a_batch_is_so_once() {
    const PAIRS: i64 = 60;
    let clocks: Vec<_> =
        [0, 0, 400].map(|ahead| Arc::new(ManualClock::new(1_700_000_000_000 + ahead))).into();
    let world = World::with_clocks(43, &clocks, HintLimits::default()).await;
    let whole = |n: i64| Write::Put {
        collection: "c".to_owned(),
        entity: Box::new(Entity {
            id: "hub".to_owned(),
            attributes: [("n".to_owned(), Value::Int(n))].into(),
            ..Entity::default()
        }),
    };
    let edge = |n: i64| {
        let (from, to) = (EntityRef::new("c", "hub"), EntityRef::new("c", format!("e{n}")));
        Write::PutEdge(Box::new(Edge { weight: 1.0, ..Edge::new(from, "r", to) }))
    };
    let ring = &world.nodes[0].ring;
    let batch = (0..PAIRS).flat_map(|n| [whole(n), edge(n)]);
    let planned = batch.map(|write| ring.replica().plan(TENANT, write).expect("planned")).collect();
    world.put_through(2, "hub").await.expect("a quorum is there");
    let options =
        WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
    let versions: Vec<_> =
        ring.write(planned, options).await.into_iter().map(|made| made.expect("made").version).collect();
    let puts: Vec<_> = versions.iter().step_by(2).collect();
    assert!(puts.is_sorted(), "{puts:?}");
    let renewed = ring.counts().writes_renewed;
    assert!((1..=2 * PAIRS as u64).contains(&renewed), "{renewed} were made again");
    let hub = EntityRef::new("c", "hub");
    let read = ring.get(TENANT, &[hub], &ReadMask::fields(), Consistency::All, soon()).await.pop();
    assert_eq!(read.expect("one answer").expect("there").attributes["n"], Value::Int(PAIRS - 1));
}

/// Whoever holds that it lives longer makes the upsert at once, others must be told that it has expired: what is made then stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_over_what_has_expired_for_a_quorum_stays() {
    for coordinator in 0..3 {
        let clocks: Vec<_> = [0, 0, 0].map(|_| Arc::new(ManualClock::new(1_700_000_000_000))).into();
        let world = World::with_clocks(47, &clocks, HintLimits::default()).await;
        let entity = EntityRef::new("c", "e");
        let set = |name: &str, soon: Option<Timestamp>| {
            let mut patch = EntityPatch::new(entity.clone());
            patch.attributes.insert(name.to_owned(), Some(Value::Int(1)));
            patch.expire_at = soon.map(Some);
            patch
        };
        world.put_through(2, "e").await.expect("a quorum is there");
        clocks.iter().for_each(|clock| clock.advance(10));
        let soon_gone = Timestamp::from_millis(clocks[0].now_ms() + 1_000);
        let ends = world.nodes[0]
            .replica
            .plan(TENANT, Write::Update(Box::new(set("old", Some(soon_gone)))))
            .expect("planned");
        // One misses that it is to end.
        for node in &world.nodes[..2] {
            world.make(&node.replica, ends.encode(|_| true));
        }
        clocks.iter().for_each(|clock| clock.advance(5_000));
        let mut upsert = set("new", None);
        upsert.allow_missing = true;
        let ring = &world.nodes[coordinator].ring;
        let planned = ring.replica().plan(TENANT, Write::Update(Box::new(upsert))).expect("planned");
        let options =
            WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
        ring.write(vec![planned], options).await.pop().expect("one answer").expect("made");
        let read = ring.get(TENANT, &[entity], &ReadMask::fields(), Consistency::All, soon()).await.pop();
        let found = read.expect("one answer").expect("it is there");
        let names: Vec<_> = found.attributes.keys().map(String::as_str).collect();
        assert_eq!((names, found.expire_at), (vec!["new"], None), "by node {coordinator}");
    }
}

/// A deletion comes after an edge that was planned anew because of what was before it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planned_anew_is_before_what_comes_after_it() {
    let clocks: Vec<_> =
        [0, 0, 400].map(|ahead| Arc::new(ManualClock::new(1_700_000_000_000 + ahead))).into();
    let world = World::with_clocks(53, &clocks, HintLimits::default()).await;
    let [a, b] = ["a", "b"].map(|id| EntityRef::new("c", id));
    let ring = &world.nodes[0].ring;
    let edge = Edge::new(a.clone(), "r", b.clone());
    let batch = [Write::Delete(a.clone()), Write::PutEdge(Box::new(edge)), Write::Delete(b)];
    let planned = batch.map(|write| ring.replica().plan(TENANT, write).expect("planned")).into();
    world.put_through(2, "a").await.expect("a quorum is there");
    let options =
        WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
    let versions: Vec<_> =
        ring.write(planned, options).await.into_iter().map(|made| made.expect("made").version).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let request = NeighborsRequest {
        entity: a,
        relations: Vec::new(),
        direction: Direction::Both,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 10,
        collections: CollectionSet::ALL,
        pages: allidb_index::graph::NeighborPages::Heaviest,
    };
    let found = ring.neighbors(TENANT, request, Consistency::All, soon()).await.expect("told");
    assert!(found.neighbors.is_empty(), "{found:?}");
}

/// Of several replicas, too, all edges of an entity come page by page, whichever node is asked for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn all_edges_come_page_by_page_from_any_node() {
    let world = World::of(3, 54).await;
    let hub = EntityRef::new("c", "hub");
    let ends: Vec<EntityRef> = (0..40).map(|at| EntityRef::new("c", format!("end-{at:02}"))).collect();
    let edge = |(at, end): (usize, &EntityRef)| match at % 3 {
        0 => Edge::new(end.clone(), "r", hub.clone()),
        _ => Edge::new(hub.clone(), ["r", "s"][at % 2], end.clone()),
    };
    let edges: Vec<Edge> = ends.iter().enumerate().map(edge).collect();
    let ring = &world.nodes[0].ring;
    let gone = ends.iter().take(5).map(|end| Write::Delete(end.clone()));
    let writes = edges.iter().map(|edge| Write::PutEdge(Box::new(edge.clone()))).chain(gone);
    let planned = writes.map(|write| ring.replica().plan(TENANT, write).expect("planned")).collect();
    let options =
        WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
    for written in ring.write(planned, options).await {
        written.expect("written");
    }
    let (mut found, mut place, mut pages) = (Vec::new(), None, 0);
    loop {
        let request = NeighborsRequest {
            entity: hub.clone(),
            relations: Vec::new(),
            direction: Direction::Both,
            min_weight: 0.0,
            as_of: None,
            any_time: false,
            limit: 7,
            collections: CollectionSet::ALL,
            pages: allidb_index::graph::NeighborPages::After(place),
        };
        let asked = &world.nodes[pages % 3].ring;
        let page = asked.neighbors(TENANT, request, Consistency::Quorum, soon()).await.expect("told");
        found.extend(page.neighbors.into_iter().map(|neighbor| neighbor.edge.edge_ref()));
        pages += 1;
        place = page.next;
        if place.is_none() {
            break;
        }
    }
    found.sort();
    let mut expected: Vec<_> = edges[5..].iter().map(Edge::edge_ref).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert!((5..=6).contains(&pages), "{pages}: edges of who is gone may be told of, and are not told");
}
