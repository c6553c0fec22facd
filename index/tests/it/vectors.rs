//! Vector search: fresh, exact where asked, and close to exact through the graph, whatever was overwritten.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use allidb_index::{
    Activity, ManualClock, RebuildRequest, VectorCounts, WorkerChange,
    filter::{Field, Filter, Operator},
    model::{Codes, CollectionChange, CollectionSpec, EntityRef, Metric, SpaceSpec, TenantId, Value, Write},
    query::{ExpandSpec, Nearest, NearestTarget, Query, Seed},
};
use allidb_storage::{Background, Durability, ScrubOptions, fs::SimFs};

use crate::fixture::{Fixture, MEMORY_BYTES, TENANT, at, deadline, entity, ids, open_with, with};

/// Points around a few hundred centres, the same for the same seed.
fn clustered(count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> =
        (0..300).map(|_| (0..dimension).map(|_| uniform() * 4.0).collect()).collect();
    (0..count).map(|at| centres[at * 7919 % 300].iter().map(|x| x + uniform()).collect()).collect()
}

fn put_all(fixture: &Fixture, vectors: &[Vec<f32>], generation: i64) {
    let write = |(at, vector): (usize, &Vec<f32>)| Write::Put {
        collection: "c".into(),
        entity: Box::new(with(entity(&format!("{at:06}"), vector), "generation", generation)),
    };
    for writes in vectors.iter().enumerate().map(write).collect::<Vec<_>>().chunks(2_000) {
        assert!(fixture.write(writes.to_vec()).iter().all(Result::is_ok));
    }
}

fn search(vector: &[f32], k: usize, exact: bool) -> Query {
    let nearest = Nearest { exact, k, ..Nearest::to_vector("v", vector.to_vec()) };
    Query { limit: k, ..Query::new("c", vec![Seed::Nearest(nearest)]) }
}

/// Share of the exact answers that plain search finds.
fn recall(fixture: &Fixture, queries: &[Vec<f32>], filter: Option<&Filter>) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let answer = |exact| {
            let mut query = search(query, 10, exact);
            query.filter = filter.cloned();
            ids(&fixture.query(&query))
        };
        let truth = answer(true);
        found += answer(false).iter().filter(|id| truth.contains(id)).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn a_vector_is_found_by_the_very_next_query_moves_and_goes() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let fixture = Fixture::with_space(2, metric);
        fixture.put(entity("a", &[1.0, 0.0]));
        fixture.put(entity("b", &[0.0, 1.0]));
        assert_eq!(fixture.nearest(&[1.0, 0.1], 2), ["a", "b"], "{metric:?}");
        fixture.put(entity("a", &[-1.0, 0.0]));
        assert_eq!(fixture.nearest(&[1.0, 0.1], 2), ["b", "a"], "{metric:?}");
        fixture.delete("b");
        assert_eq!(fixture.nearest(&[0.0, 1.0], 2), ["a"], "{metric:?}");
        let fixture = fixture.reopen();
        assert_eq!(fixture.nearest(&[0.0, 1.0], 2), ["a"], "{metric:?}");
        fixture.replica.engine().flush().unwrap();
        let vector = fixture.replica.engine().keyspace("vector").unwrap();
        fixture.replica.engine().compact(vector).unwrap();
        let fixture = fixture.crash();
        assert_eq!(fixture.nearest(&[0.0, 1.0], 2), ["a"], "{metric:?}");
    }
}

#[test]
fn the_graph_finds_what_exact_search_finds_also_after_overwrites_deletes_and_restart() {
    let fixture = Fixture::with_space(24, Metric::Cosine);
    let queries = clustered(50, 24, 99);
    put_all(&fixture, &clustered(20_000, 24, 1), 1);
    let covered = |fixture: &Fixture| fixture.replica.vector_counts();
    assert!(covered(&fixture).in_graphs >= 16_000, "most rows are in the graph: {:?}", covered(&fixture));
    let fresh = recall(&fixture, &queries, None);
    assert!(fresh >= 0.95, "recall {fresh}");
    // Everything overwritten by other vectors: the graph must not drown in dead rows.
    put_all(&fixture, &clustered(20_000, 24, 2), 2);
    let deletes: Vec<Write> = (0..20_000).step_by(3).map(|n| Write::Delete(at(&format!("{n:06}")))).collect();
    assert!(fixture.write(deletes).iter().all(Result::is_ok));
    let VectorCounts { vectors: live, dead, .. } = covered(&fixture);
    assert_eq!(live, 13_333);
    assert!(dead * 2 < live, "{dead} dead rows held beside {live}");
    let overwritten = recall(&fixture, &queries, None);
    assert!(overwritten >= 0.95, "recall {overwritten} after overwrites");
    for query in &queries {
        let answer = ids(&fixture.query(&search(query, 10, false)));
        assert!(
            answer.iter().all(|id| id.parse::<usize>().unwrap() % 3 != 0),
            "a deleted entity in {answer:?}"
        );
    }
    let fixture = fixture.reopen();
    let reopened = recall(&fixture, &queries, None);
    assert!(reopened >= 0.95, "recall {reopened} after reopening");
}

#[test]
fn a_query_may_ask_for_recall_instead_of_breadth() {
    let fixture = Fixture::with_space(64, Metric::Cosine);
    put_all(&fixture, &clustered(20_000, 64, 1), 1);
    let measured = fixture.replica.vector_counts().recall.expect("measured when the graph was built");
    assert!(measured > 0.9, "{measured}");
    // None of these is near to what is stored: only when they were asked is it known how broadly to search for them.
    let queries = clustered(100, 64, 99);
    queries.iter().for_each(|query| drop(fixture.query(&search(query, 10, false))));
    fixture.put(entity("one more", &queries[0]));
    let compared = |target: f64| {
        let (mut found, mut compared) = (0, 0);
        for query in &queries {
            let truth = ids(&fixture.query(&search(query, 10, true)));
            let nearest =
                Nearest { target_recall: Some(target), k: 10, ..Nearest::to_vector("v", query.clone()) };
            let answer = fixture.query(&Query::new("c", vec![Seed::Nearest(nearest)]));
            found += ids(&answer).iter().filter(|id| truth.contains(id)).count();
            compared += answer.cost.vectors_compared;
        }
        let recall = found as f64 / 1_000.0;
        assert!(recall >= target - 0.03, "asked for {target}, found {recall}");
        compared
    };
    let (low, high) = (compared(0.8), compared(0.99));
    assert!(low < high, "less is compared for less recall: {low}, {high}");
    for (nearest, why) in [
        (Nearest { target_recall: Some(1.5), ..Nearest::to_vector("v", vec![0.1; 64]) }, "is 1.5"),
        (Nearest { target_recall: Some(0.9), ef: 5, ..Nearest::to_vector("v", vec![0.1; 64]) }, "beside"),
    ] {
        let query = Query::new("c", vec![Seed::Nearest(nearest)]);
        let refused = fixture.replica.query(TENANT, &query, deadline()).unwrap_err().to_string();
        assert!(refused.contains("target_recall") && refused.contains(why), "{refused}");
    }
}

#[test]
fn filters_hold_their_recall_however_few_match() {
    let fixture = Fixture::with_space(24, Metric::L2);
    put_all(&fixture, &clustered(12_000, 24, 1), 1);
    let queries = clustered(10, 24, 99);
    for (upto, matching) in [("000005", 5), ("000120", 120), ("006000", 6_000)] {
        let filter = Filter::Compare(Field::Id, Operator::Less, Value::String(upto.into()));
        let share = recall(&fixture, &queries, Some(&filter));
        assert!(share >= 0.95, "recall {share} with {matching} matches");
        let mut query = search(&queries[0], 10, false);
        query.filter = Some(filter);
        assert_eq!(fixture.query(&query).hits.len(), 10.min(matching));
    }
}

#[test]
fn chunks_answer_for_their_entity_with_the_best_of_them() {
    let fixture = Fixture::new();
    let mut document = entity("doc", &[]);
    for (id, vector) in [("1", [0.0, 0.0]), ("2", [5.0, 5.0]), ("3", [5.1, 5.1])] {
        let vectors = std::collections::BTreeMap::from([("v".to_owned(), vector.to_vec())]);
        let chunk = allidb_index::model::Chunk { text: id.into(), vectors, ..Default::default() };
        document.chunks.insert(id.into(), chunk);
    }
    fixture.put(document);
    fixture.put(entity("other", &[6.0, 6.0]));
    let answer = fixture.query(&search(&[5.0, 5.0], 2, false));
    assert_eq!(ids(&answer), ["doc", "other"], "an entity answers once");
    assert_eq!((answer.hits[0].chunk_id.as_str(), answer.hits[0].measure), ("2", Some(0.0)));
    assert_eq!(answer.hits[1].chunk_id, "");
}

#[test]
fn an_entity_is_no_answer_to_itself() {
    let fixture = Fixture::new();
    fixture.put(entity("a", &[1.0, 0.0]));
    fixture.put(entity("b", &[1.0, 0.1]));
    let nearest = Nearest { target: NearestTarget::Entity(at("a")), ..Nearest::to_vector("v", vec![]) };
    let mut query = Query { limit: 2, ..Query::new("c", vec![Seed::Nearest(nearest)]) };
    assert_eq!(ids(&fixture.query(&query)), ["b"]);
    fixture.link("b", "r", "a", 1.0);
    query.expand = Some(ExpandSpec::default());
    assert_eq!(ids(&fixture.query(&query)), ["b"], "also where the walk leads back to it");
    query.seeds.push(Seed::Ids(vec![at("a")]));
    assert_eq!(ids(&fixture.query(&query)).len(), 2, "unless it is asked for");
}

#[test]
fn an_update_never_makes_an_entity_vanish() {
    let fixture = Fixture::with_space(2, Metric::L2);
    for id in 0..20 {
        fixture.put(entity(&id.to_string(), &[id as f32, 0.0]));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..3_000 {
                let id = round % 20;
                fixture.put(entity(&id.to_string(), &[id as f32, (round % 7) as f32]));
            }
            done.store(true, Ordering::Release);
        });
        let mut queries = 0;
        while !done.load(Ordering::Acquire) || queries == 0 {
            assert_eq!(fixture.nearest(&[3.0, 3.0], 50).len(), 20, "query {queries}");
            queries += 1;
        }
    });
}

#[test]
fn products_of_every_size_rank_as_they_are() {
    for scale in [1e-5, 1.0, 30.0] {
        let fixture = Fixture::with_space(8, Metric::Dot);
        let scaled = |seed| -> Vec<Vec<f32>> {
            clustered(400, 8, seed).into_iter().map(|v| v.into_iter().map(|x| x * scale).collect()).collect()
        };
        let vectors = scaled(1);
        put_all(&fixture, &vectors, 1);
        for query in scaled(2).iter().take(10) {
            let product = |at: &usize| {
                vectors[*at].iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let mut order: Vec<usize> = (0..vectors.len()).collect();
            order.sort_by(|a, b| product(b).total_cmp(&product(a)));
            let mut wide = search(query, 100, false);
            wide.limit = 10;
            let answer = fixture.query(&wide);
            let measures: Vec<f64> = answer.hits.iter().map(|hit| hit.measure.unwrap()).collect();
            for (got, want) in measures.iter().zip(&order) {
                assert!(
                    (got - product(want)).abs() <= 1e-5 * product(want).abs(),
                    "scale {scale}: {measures:?}"
                );
            }
        }
    }
}

#[test]
fn every_kind_of_codes_finds_the_nearest_and_tells_their_distances_and_a_restart_changes_no_answer() {
    let (vectors, queries) = (clustered(4_000, 48, 1), clustered(30, 48, 2));
    let kinds = [
        (Codes::Bits4And8, Metric::Cosine, 0.97),
        (Codes::Bits8, Metric::L2, 0.97),
        (Codes::Bits1And8, Metric::Cosine, 0.85),
        (Codes::Float, Metric::Dot, 0.97),
    ];
    for (codes, metric, least) in kinds {
        let spec = SpaceSpec { codes, ..SpaceSpec::new("v", 48, metric) };
        let fixture = Fixture::with_spec(spec);
        put_all(&fixture, &vectors, 0);
        fixture.replica.seal_vectors();
        let counts = fixture.replica.vector_counts();
        assert_eq!((counts.in_graphs, counts.segments), (4_000, 1), "{codes:?}");
        // Some of it fresh, some of it dead.
        put_all(&fixture, &vectors[..500], 1);
        let found = recall(&fixture, &queries, None);
        assert!(found >= least, "{codes:?}: recall {found}");
        let answers = |fixture: &Fixture| -> Vec<_> {
            let of = |(at, query): (usize, &Vec<f32>)| {
                let answer = fixture.query(&search(query, 10, at % 2 == 0));
                let hit = |hit: &allidb_index::query::Hit| (hit.entity.id.clone(), hit.measure, hit.score);
                answer.hits.iter().map(hit).collect::<Vec<_>>()
            };
            queries.iter().enumerate().map(of).collect()
        };
        for (query, hits) in queries.iter().zip(answers(&fixture)) {
            for (id, measure, _) in hits {
                let vector = &vectors[id.parse::<usize>().unwrap()];
                let (want, _) = allidb_index::measure_and_similarity(metric, query, vector);
                let error = (measure.unwrap() - want).abs() / want.abs().max(1.0);
                assert!(error < 2e-3, "{codes:?}: {measure:?} instead of {want}");
            }
        }
        let before = answers(&fixture);
        let fixture = fixture.reopen();
        assert_eq!(answers(&fixture), before, "{codes:?}");
    }
}

#[test]
fn what_an_operator_has_rebuilt_is_built_from_nothing_and_answers_as_before() {
    let (vectors, queries) = (clustered(6_000, 24, 1), clustered(30, 24, 2));
    let fixture = Fixture::with_space(24, Metric::Cosine);
    put_all(&fixture, &vectors, 0);
    fixture.replica.seal_vectors();
    // Dead rows, too few for a merge of their own accord.
    let deletes: Vec<Write> = (0..600).map(|n| Write::Delete(at(&format!("{n:06}")))).collect();
    assert!(fixture.write(deletes).iter().all(Result::is_ok));
    let before = fixture.replica.vector_counts();
    assert_eq!((before.in_graphs, before.dead), (5_400, 600));
    for (collection, space) in [(Some("none"), None), (Some("c"), Some("none")), (None, Some("v"))] {
        let [collection, space] = [collection, space].map(|name| name.map(str::to_owned));
        let unknown = RebuildRequest { collection, space, ..RebuildRequest::default() };
        assert!(fixture.replica.rebuild_vectors(&unknown).is_err(), "{unknown:?}");
    }
    let none = RebuildRequest { tenant: Some(TenantId(7)), ..RebuildRequest::default() };
    assert!(fixture.replica.rebuild_vectors(&none).unwrap().progress().unwrap().is_done);

    let paused = |paused| WorkerChange { paused: Some(paused), share: None };
    fixture.replica.change_worker("vector-merge", paused(true)).unwrap();
    let request = RebuildRequest { collection: Some("c".into()), ..RebuildRequest::default() };
    let rebuild = fixture.replica.rebuild_vectors(&request).unwrap();
    let progress = rebuild.progress().unwrap();
    assert_eq!((progress.rows_done, progress.rows_total, progress.is_done), (0, 5_400, false));
    assert_eq!(progress.waits.as_deref(), Some("vector-merge is paused"));
    // Nobody wants it any more: nothing is made anew.
    drop(rebuild);
    fixture.replica.change_worker("vector-merge", paused(false)).unwrap();
    fixture.put(entity("000000", &vectors[0]));
    assert_eq!(fixture.replica.vector_counts().rows_inserted, before.rows_inserted);

    let rebuild = fixture.replica.rebuild_vectors(&request).unwrap();
    let progress = rebuild.progress().unwrap();
    assert!(progress.is_done && progress.rows_done == progress.rows_total, "{progress:?}");
    let after = fixture.replica.vector_counts();
    assert_eq!((after.in_graphs, after.dead, after.segments), (5_400, 0, 1));
    // But for the first, which there is nothing to be linked to.
    assert_eq!(after.rows_inserted - before.rows_inserted, 5_399, "no old graph was gone on from");
    assert!(recall(&fixture, &queries, None) >= 0.95);
    let fixture = fixture.crash();
    assert_eq!(fixture.replica.vector_counts().in_graphs, 5_400);
    assert!(recall(&fixture, &queries, None) >= 0.95);
}

/// Threads that the operating system refuses now and then.
#[derive(Debug, Default)]
struct FewThreads {
    refuses: AtomicBool,
    merging: AtomicUsize,
    most_merging: AtomicUsize,
}

#[derive(Clone, Debug, Default)]
struct Few(Arc<FewThreads>);

impl Background for Few {
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> bool {
        if self.0.refuses.load(Ordering::SeqCst) {
            return false;
        }
        let (few, merges) = (Arc::clone(&self.0), name == "vector-merge");
        thread::spawn(move || {
            let merging = few.merging.fetch_add(usize::from(merges), Ordering::SeqCst) + usize::from(merges);
            few.most_merging.fetch_max(merging, Ordering::SeqCst);
            work();
            few.merging.fetch_sub(usize::from(merges), Ordering::SeqCst);
        });
        true
    }

    fn is_inline(&self) -> bool {
        false
    }
}

#[test]
fn work_that_finds_no_thread_is_done_once_there_is_one_and_few_spaces_are_merged_at_a_time() {
    const SPACES: usize = 12;
    let background = Few::default();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let replica = open_with(&SimFs::new(), &clock, 1, Arc::new(background.clone())).unwrap();
    let spaces = (0..SPACES).map(|at| SpaceSpec::new(format!("v{at}"), 8, Metric::L2)).collect();
    replica.create_collection(TENANT, "c", CollectionSpec::of_spaces(spaces)).unwrap();
    for (at, vector) in clustered(2_100, 8, 1).into_iter().enumerate() {
        let mut entity = entity(&format!("{at:06}"), &vector);
        entity.vectors = (0..SPACES).map(|at| (format!("v{at}"), vector.clone())).collect();
        let write = Write::Put { collection: "c".into(), entity: Box::new(entity) };
        let planned = replica.plan(TENANT, write).unwrap();
        replica.apply(vec![planned], Durability::None).remove(0).unwrap();
    }
    let eventually = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", replica.vector_counts());
            thread::sleep(Duration::from_millis(5));
        }
    };
    replica.seal_vectors();
    eventually("graphs", &|| replica.vector_counts().in_graphs == SPACES * 2_100);
    eventually("rest", &|| replica.vector_counts().busy_spaces == 0);
    background.0.refuses.store(true, Ordering::SeqCst);
    let before = replica.vector_counts().rows_written;
    let rebuild = replica.rebuild_vectors(&RebuildRequest::default()).unwrap();
    let waits = rebuild.progress().unwrap().waits;
    assert!(waits.as_ref().is_some_and(|why| why.contains("no thread")), "{waits:?}");
    background.0.refuses.store(false, Ordering::SeqCst);
    eventually("all is made anew", &|| rebuild.progress().unwrap().is_done);
    assert_eq!(replica.vector_counts().rows_written - before, (SPACES * 2_100) as u64);
    // Four at a time; threads that have given their places back and not ended yet count here, too.
    let most = background.0.most_merging.load(Ordering::SeqCst);
    assert!((1..=8).contains(&most), "{most} of {SPACES} spaces were merged at a time");
    replica.close().unwrap();
}

#[test]
fn a_query_over_several_spaces_finds_what_is_near_in_any_of_them() {
    let fixture = Fixture::with_space(2, Metric::L2);
    let add_spaces = vec![SpaceSpec::new("w", 3, Metric::Cosine)];
    fixture.change(CollectionChange { add_spaces, ..CollectionChange::default() }).unwrap();
    let put = |id: &str, v: &[f32], w: &[f32]| {
        let mut written = entity(id, v);
        if !w.is_empty() {
            written.vectors.insert("w".into(), w.to_vec());
        }
        fixture.put(written);
    };
    put("only v", &[1.0, 0.0], &[]);
    put("only w", &[], &[0.0, 1.0, 0.0]);
    put("v, far in w", &[1.1, 0.0], &[0.0, -1.0, 0.0]);
    put("far in both", &[90.0, 0.0], &[0.0, 0.0, 1.0]);
    let near = |space: &str, vector: &[f32]| {
        Seed::Nearest(Nearest { k: 2, ..Nearest::to_vector(space, vector.to_vec()) })
    };
    let seeds = vec![near("v", &[1.0, 0.0]), near("w", &[0.0, 1.0, 0.1])];
    for sealed in [false, true] {
        let answer = fixture.query(&Query { limit: 4, ..Query::new("c", seeds.clone()) });
        let mut found = ids(&answer);
        assert_eq!(found[..2], ["only v", "only w"], "sealed: {sealed}");
        found.sort();
        assert_eq!(found, ["far in both", "only v", "only w", "v, far in w"]);
        let measures: Vec<f64> = answer.hits.iter().map(|hit| hit.measure.unwrap()).collect();
        assert!(measures[0].abs() < 1e-6, "a distance: {measures:?}");
        assert!((measures[1] - 0.995).abs() < 1e-3, "a cosine: {measures:?}");
        fixture.replica.seal_vectors();
    }
}

#[test]
fn queries_asked_together_get_the_answers_that_each_gets_alone() {
    let fixture = Fixture::with_space(12, Metric::Cosine);
    put_all(&fixture, &clustered(3_000, 12, 1), 3);
    fixture.replica.seal_vectors();
    let mut queries: Vec<Query> = clustered(20, 12, 2)
        .iter()
        .enumerate()
        .map(|(at, query)| search(query, 1 + at, at % 3 == 0))
        .collect();
    let filter = Filter::Compare(Field::Id, Operator::Less, Value::String("000100".into()));
    queries[4].filter = Some(filter);
    queries[7].limit = 0;
    queries[9].collection = "nowhere".into();
    let together = fixture.replica.query_each(TENANT, &queries, deadline());
    assert_eq!(together.len(), queries.len());
    for (query, answer) in queries.iter().zip(together) {
        match (fixture.replica.query(TENANT, query, deadline()), answer) {
            (Ok(alone), Ok(together)) => {
                let hits = |answer: &allidb_index::query::Answer| -> Vec<_> {
                    answer.hits.iter().map(|hit| (hit.entity.clone(), hit.score, hit.measure)).collect()
                };
                assert_eq!(hits(&alone), hits(&together));
                assert_eq!(hits(&alone).len(), query.limit);
            }
            (Err(alone), Err(together)) => assert_eq!(alone.to_string(), together.to_string()),
            (alone, together) => panic!("{alone:?} alone, {together:?} together"),
        }
    }
    assert!(fixture.replica.query_each(TENANT, &[], deadline()).is_empty());
}

#[test]
fn a_paused_worker_does_nothing_and_goes_on_when_it_is_resumed() {
    let vectors = clustered(3_000, 20, 1);
    let fixture = Fixture::with_space(20, Metric::Cosine);
    let change = |paused, share| {
        fixture.replica.change_worker("vector-merge", WorkerChange { paused: Some(paused), share }).unwrap()
    };
    assert_eq!(change(true, Some(50)).activity, Activity::Paused);
    put_all(&fixture, &vectors, 0);
    fixture.replica.seal_vectors();
    let counts = fixture.replica.vector_counts();
    assert_eq!((counts.segments, counts.in_graphs), (1, 0));
    let found = recall(&fixture, &clustered(10, 20, 2), None);
    assert!(found > 0.99, "recall {found}");
    let status = change(false, None);
    assert_eq!((status.activity, status.share), (Activity::Idle, 50));
    fixture.replica.seal_vectors();
    assert_eq!(fixture.replica.vector_counts().in_graphs, 3_000);
    let names: Vec<&str> = fixture.replica.workers().iter().map(|worker| worker.name).collect();
    assert_eq!(
        names,
        ["vector-seal", "vector-merge", "text-seal", "text-merge", "graph-seal", "graph-merge"]
    );
    let refused = fixture.replica.change_worker("nobody", WorkerChange::default()).unwrap_err();
    assert!(refused.to_string().contains("vector-seal, vector-merge"), "{refused}");
}

#[test]
fn fresh_vectors_take_no_more_memory_than_they_may_and_writes_beyond_are_refused() {
    const DIMENSION: usize = 1_000;
    let fixture = Fixture::with_space(DIMENSION as u32, Metric::L2);
    for space in 0..4 {
        let add_spaces = vec![SpaceSpec::new(format!("v{space}"), DIMENSION as u32, Metric::L2)];
        fixture.change(CollectionChange { add_spaces, ..CollectionChange::default() }).unwrap();
    }
    let put = |id: usize| {
        let mut written = entity(&format!("{id:06}"), &[]);
        written.vectors.insert(format!("v{}", id % 4), vec![id as f32; DIMENSION]);
        fixture.one(Write::Put { collection: "c".into(), entity: Box::new(written) })
    };
    let pause = |paused| {
        let change = WorkerChange { paused: Some(paused), share: None };
        fixture.replica.change_worker("vector-seal", change).unwrap();
    };
    let mut next = 0;
    while next < 4_000 {
        assert!(put(next).is_ok(), "what is sealed makes room");
        assert!(fixture.replica.vector_counts().memory_bytes <= 2 * MEMORY_BYTES);
        next += 1;
    }
    pause(true);
    let refused = loop {
        match put(next) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
        assert!(next < 9_000, "memory has no end");
    };
    let text = refused.to_string();
    assert!(text.contains("memory for fresh vectors is full: vector-seal is paused"), "{text}");
    assert!(fixture.get(&format!("{next:06}")).is_err(), "what is refused is not there");
    pause(false);
    assert!(put(next).is_ok());
    for id in [0, next / 2, next] {
        let found = fixture.nearest_in(&format!("v{}", id % 4), &[id as f32; DIMENSION], 1);
        assert_eq!(found, [format!("{id:06}")]);
    }
}

#[test]
fn fresh_vectors_survive_one_restart_after_the_other_whatever_is_merged_between_them() {
    let vectors = clustered(3_500, 20, 1);
    let fixture = Fixture::with_space(20, Metric::L2);
    let pause = WorkerChange { paused: Some(true), share: None };
    fixture.replica.change_worker("vector-merge", pause).unwrap();
    put_all(&fixture, &vectors[..3_000], 0);
    fixture.replica.seal_vectors();
    // Fresh: in the journal and in memory alone.
    put_all(&fixture, &vectors, 1);
    fixture.one(Write::Delete(at("003300"))).unwrap();
    let mut fixture = fixture;
    for restart in 0..4 {
        // The start replays the journal, then merges what was paused, and remembers what it did.
        fixture = if restart % 2 == 0 { fixture.reopen() } else { fixture.crash() };
        let counts = fixture.replica.vector_counts();
        assert_eq!(counts.vectors, 3_499, "restart {restart}: {counts:?}");
        for nth in (0..3_500).step_by(50) {
            let id = format!("{nth:06}");
            for exact in [false, true] {
                let found = ids(&fixture.query(&search(&vectors[nth], 1, exact)));
                assert_eq!(
                    found[0] == id,
                    nth != 3_300,
                    "restart {restart}, {nth}, exact {exact}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn exact_answers_are_exact_whatever_lengths_and_codes() {
    const DIMENSION: usize = 64;
    let queries = clustered(12, DIMENSION, 4);
    let kinds = [Codes::Bits4And8, Codes::Bits8, Codes::Bits1And8, Codes::Float];
    for (metric, codes) in
        [Metric::L2, Metric::Dot, Metric::Cosine].into_iter().zip(kinds.into_iter().cycle()).chain([
            (Metric::Dot, Codes::Bits1And8),
            (Metric::Dot, Codes::Bits8),
            (Metric::L2, Codes::Bits1And8),
            (Metric::L2, Codes::Float),
        ])
    {
        for outlier in [1.0_f32, 1e4, 1e8] {
            let mut vectors = clustered(2_100, DIMENSION, 3);
            vectors[7].iter_mut().for_each(|x| *x *= outlier);
            let fixture =
                Fixture::with_spec(SpaceSpec { codes, ..SpaceSpec::new("v", DIMENSION as u32, metric) });
            put_all(&fixture, &vectors, 0);
            fixture.replica.seal_vectors();
            let (mut near, mut wanted) = (0, 0);
            for query in &queries {
                let mut truth: Vec<(f64, String)> = (vectors.iter().enumerate())
                    .map(|(at, vector)| {
                        let (measure, _) = allidb_index::measure_and_similarity(metric, query, vector);
                        (if metric == Metric::L2 { measure } else { -measure }, format!("{at:06}"))
                    })
                    .collect();
                truth.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
                let truth: Vec<String> = truth.into_iter().take(60).map(|(_, id)| id).collect();
                for k in [1, 10, 60] {
                    let found = ids(&fixture.query(&search(query, k, true)));
                    assert_eq!(found, truth[..k], "{metric:?} {codes:?}, outlier {outlier}, k {k}");
                }
                let found = ids(&fixture.query(&search(query, 10, false)));
                near += found.iter().filter(|id| truth[..10].contains(id)).count();
                wanted += 10;
            }
            let recall = near as f64 / wanted as f64;
            let least = if codes == Codes::Bits1And8 { 0.8 } else { 0.95 };
            assert!(recall >= least, "{metric:?} {codes:?}, outlier {outlier}: recall {recall}");
        }
    }
}

#[test]
fn every_copy_of_a_vector_is_found_also_after_copies_came_and_went() {
    let mut vectors = clustered(2_500, 16, 9);
    for at in 0..300 {
        vectors[at * 7] = vectors[0].clone();
    }
    let fixture = Fixture::with_space(16, Metric::Cosine);
    put_all(&fixture, &vectors, 0);
    fixture.replica.seal_vectors();
    let copies = |fixture: &Fixture, vectors: &[Vec<f32>]| {
        let found = fixture.query(&search(&vectors[0], 300, false)).hits;
        found.iter().filter(|hit| hit.measure.unwrap() > 0.999_99).count()
    };
    assert_eq!(copies(&fixture, &vectors), 300);
    // Those that stand for the others go; copies of another one come, which stays; the graph is gone on from.
    const STAYS: usize = 3;
    for round in 0..3 {
        for at in 0..100 {
            let (gone, come) = (at * 7 + 700 * round, (at * 7 + 1 + 700 * round) % 2_500);
            vectors[gone] = clustered(1, 16, (1_000 + gone) as u64).remove(0);
            assert!(gone != STAYS && come != STAYS);
            vectors[come] = vectors[STAYS].clone();
        }
        put_all(&fixture, &vectors, 1);
        fixture.replica.seal_vectors();
        let standing = vectors.iter().filter(|vector| **vector == vectors[STAYS]).count();
        let answer = fixture.query(&search(&vectors[STAYS], standing, false));
        let found = answer.hits.iter().filter(|hit| hit.measure.unwrap() > 0.999_99).count();
        assert!(standing > 100 * round);
        assert_eq!(found, standing, "round {round}");
    }
}

#[test]
fn a_scrub_reads_segments_names_what_is_damaged_and_has_it_made_anew() {
    let vectors = clustered(3_000, 40, 1);
    let fixture = Fixture::with_space(40, Metric::L2);
    put_all(&fixture, &vectors, 0);
    fixture.replica.seal_vectors();
    let scrub = |most: u64| {
        fixture
            .replica
            .scrub(ScrubOptions::default(), |report| match report.bytes <= most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })
            .unwrap()
    };
    let report = scrub(u64::MAX);
    assert_eq!((report.files, report.bytes), (report.files_total, report.bytes_total));
    assert!(report.damages.is_empty(), "{:?}", report.damages);
    assert!(scrub(report.bytes_total - 100_000).cancelled, "segments are read last");
    // The header, the codes, the checksums.
    for part in [0.0, 0.5, 0.9999] {
        let files = fixture.fs.files();
        let mut segments =
            files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "segment"));
        let (segment, len) = segments.next().unwrap();
        assert!(segments.next().is_none());
        let offset = 50 + (part * (len - 100) as f64) as u64;
        assert!(fixture.fs.flip_bit(segment, offset, 3));
        let report = scrub(u64::MAX);
        let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
        assert_eq!(damage.path, *segment);
        assert!(damage.offset.abs_diff(offset) < 32 << 10, "{damage} for a bit at {offset}");
        assert_eq!(fixture.replica.vector_counts().vectors, 3_000, "read again from the rows");
        fixture.replica.seal_vectors();
    }
    let report = scrub(u64::MAX);
    assert!(report.damages.is_empty() && report.files == report.files_total, "{:?}", report.damages);
}

#[test]
fn damaged_vectors_cost_the_searches_of_their_collection_and_nothing_else() {
    // So long that each has a block of a blob file to itself.
    const DIMENSION: usize = 4_000;
    let fixture = Fixture::with_space(DIMENSION as u32, Metric::L2);
    let spaces = vec![SpaceSpec::new("v", DIMENSION as u32, Metric::L2)];
    fixture.replica.create_collection(TENANT, "d", CollectionSpec::of_spaces(spaces)).unwrap();
    let vector = &clustered(1, DIMENSION, 1)[0];
    let put = |fixture: &Fixture, collection: &str, id: &str| {
        let entity = Box::new(entity(id, vector));
        fixture.one(Write::Put { collection: collection.into(), entity }).unwrap();
    };
    ["c", "d"].iter().for_each(|collection| put(&fixture, collection, "a"));
    fixture.replica.engine().flush().unwrap();
    let files = fixture.fs.files();
    let (blob, _) = files.iter().find(|(path, _)| path.extension().is_some_and(|end| end == "blob")).unwrap();
    assert!(fixture.fs.flip_bit(blob, 1_000, 0));
    let fixture = fixture.crash();
    let search = |collection: &str| {
        let nearest = Nearest::to_vector("v", vector.clone());
        let query = Query { limit: 9, ..Query::new(collection, vec![Seed::Nearest(nearest)]) };
        fixture.replica.query(TENANT, &query, deadline()).map(|answer| ids(&answer))
    };
    let (damaged, sound) = if search("c").is_err() { ("c", "d") } else { ("d", "c") };
    put(&fixture, damaged, "b");
    let error = search(damaged).unwrap_err().to_string();
    assert!(error.contains(&*blob.file_name().unwrap().to_string_lossy()), "{error}");
    put(&fixture, sound, "b");
    assert_eq!(search(sound).unwrap(), ["a", "b"]);
    let by_id = Query::new(damaged, vec![Seed::Ids(vec![EntityRef::new(damaged, "b")])]);
    let answer = fixture.replica.query(TENANT, &by_id, deadline()).unwrap();
    assert_eq!(ids(&answer), ["b"], "what needs no vectors is answered");
}
