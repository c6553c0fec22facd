//! What must not change an answer: flushes, seals, merges, compaction, restarts. And what must end a question: its deadline.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use allidb_index::{
    Deadline, Error,
    filter::{Field, Filter, Operator},
    graph::{ExpandRequest, PathCost, PathsRequest},
    model::{
        Chunk, CollectionSet, CollectionSpec, Direction, Edge, EdgeRef, Entity, EntityRef, Language, Metric,
        SpaceSpec, TextField, TextKind, TextSpec, Value, Write,
    },
    query::{Examples, ExpandSpec, Highlight, Nearest, NearestTarget, Query, Seed, TextMatch, TextQuery},
};
use allidb_storage::Durability;

use crate::fixture::{Fixture, TENANT, deadline};

const WORDS: [&str; 8] = ["north", "south", "east", "west", "river", "hill", "road", "bridge"];

fn id(n: usize) -> String {
    format!("e{n:04}")
}

fn at(n: usize) -> EntityRef {
    EntityRef::new("w", id(n))
}

/// Numbers that look random and are the same each time.
fn mixed(n: usize) -> usize {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 20
}

fn entity(n: usize, dimension: usize) -> Entity {
    let words: Vec<&str> = (0..5).map(|word| WORDS[mixed(n * 8 + word) % WORDS.len()]).collect();
    let vector = |salt: usize| {
        (0..dimension).map(|at| (mixed(n * 977 + at * 31 + salt) % 1_000) as f32 / 500.0 - 1.0).collect()
    };
    let chunk = Chunk {
        text: format!("{} and {}", words[0], words[4]),
        vectors: BTreeMap::from([("v".to_owned(), vector(7))]),
        ..Chunk::default()
    };
    Entity {
        id: id(n),
        attributes: BTreeMap::from([
            ("title".to_owned(), Value::String(words.join(" "))),
            ("n".to_owned(), Value::Int((n % 10) as i64)),
        ]),
        vectors: BTreeMap::from([("v".to_owned(), vector(0))]),
        chunks: if n.is_multiple_of(3) { BTreeMap::from([("c".to_owned(), chunk)]) } else { BTreeMap::new() },
        ..Entity::default()
    }
}

fn edges(n: usize, count: usize) -> impl Iterator<Item = Write> {
    (1..4).map(move |step| {
        let relation = if step == 1 { "near" } else { "far" };
        let edge = Edge::new(at(n), relation, at(mixed(n * 5 + step) % count));
        Write::PutEdge(Box::new(Edge { weight: (mixed(n + step) % 100) as f64 / 100.0, ..edge }))
    })
}

fn world(count: usize, dimension: u32) -> Fixture {
    let fixture = Fixture::new();
    let field = |attribute: &str, kind| TextField {
        attribute: attribute.into(),
        weight: 1.0,
        language: Language::English,
        kind,
    };
    let spec = CollectionSpec {
        spaces: vec![SpaceSpec::new("v", dimension, Metric::Cosine)],
        text: TextSpec { fields: vec![field("title", TextKind::Prose)], ..TextSpec::default() },
        indexes: vec![Field::parse("n").unwrap()],
        ..CollectionSpec::default()
    };
    fixture.replica.create_collection(TENANT, "w", spec).unwrap();
    let puts = (0..count)
        .map(|n| Write::Put { collection: "w".into(), entity: Box::new(entity(n, dimension as usize)) });
    write(&fixture, puts.chain((0..count).flat_map(|n| edges(n, count))));
    fixture
}

fn write(fixture: &Fixture, writes: impl Iterator<Item = Write>) {
    let planned = writes.map(|write| fixture.replica.plan(TENANT, write).unwrap()).collect();
    for done in fixture.replica.apply(planned, Durability::Flush) {
        done.unwrap();
    }
}

/// Some of everything goes and comes.
fn change(fixture: &Fixture, count: usize, round: usize) {
    let of_round = |n: &usize| n % 17 == round;
    let deleted = (0..count).filter(of_round).map(|n| Write::Delete(at(n)));
    write(fixture, deleted);
    let again = (0..count).filter(of_round).filter(|n| n % 2 == 0);
    write(
        fixture,
        again.map(|n| Write::Put { collection: "w".into(), entity: Box::new(entity(n + count, 8)) }),
    );
    let gone = (0..count).filter(|n| n % 13 == round).map(|n| {
        Write::DeleteEdge(EdgeRef {
            from: at(n),
            relation: "near".into(),
            to: at(mixed(n * 5 + 1) % count),
            edge_id: String::new(),
        })
    });
    write(fixture, gone);
}

fn queries() -> Vec<Query> {
    let nearest =
        |n: usize| Nearest { exact: true, ..Nearest::to_vector("v", entity(n + 5, 8).vectors["v"].clone()) };
    let words =
        |text: &str| Seed::Text { query: TextQuery { text: text.into(), ..TextQuery::default() }, k: 0 };
    let filter = |n| Some(Filter::Compare(Field::parse("n").unwrap(), Operator::Less, Value::Int(n)));
    let expand = |hops| Some(ExpandSpec { hops, direction: Direction::Both, ..ExpandSpec::default() });
    let all = |seeds: Vec<Seed>| Query { limit: 25, explain: true, ..Query::new("w", seeds) };
    let mut queries = Vec::new();
    for n in 0..4 {
        queries.push(all(vec![Seed::Nearest(nearest(n))]));
        queries.push(Query { filter: filter(3), ..all(vec![Seed::Nearest(nearest(n))]) });
        queries.push(all(vec![words(WORDS[n])]));
        queries.push(all(vec![words(&format!("{} {}", WORDS[n], WORDS[n + 1])), Seed::Nearest(nearest(n))]));
        queries.push(Query { expand: expand(2), ..all(vec![Seed::Ids(vec![at(n * 3 + 1)])]) });
        queries.push(Query {
            expand: expand(1),
            filter: filter(5),
            ..all(vec![words(WORDS[n + 2]), Seed::Nearest(nearest(n))])
        });
        let seed = Seed::Matching { filter: filter(n as i64 + 1).unwrap(), limit: 9 };
        queries.push(Query { expand: expand(1), ..all(vec![seed]) });
    }
    queries
}

/// What the queries answer, without what tells how it was found.
fn answers(fixture: &Fixture) -> Vec<String> {
    let told = |query: &Query| {
        let answer = fixture.replica.query(TENANT, query, deadline()).unwrap();
        let hits = answer.hits.into_iter().map(|hit| {
            let path: Vec<EdgeRef> = hit.path.iter().map(|step| step.edge.edge_ref()).collect();
            format!(
                "{} {:.9} {} {} {path:?} {:?}",
                hit.entity.id, hit.score, hit.chunk_id, hit.hops, hit.breakdown
            )
        });
        format!("{:?} {:?}", hits.collect::<Vec<_>>(), answer.truncated)
    };
    let mut told: Vec<String> = queries().iter().map(told).collect();
    for n in [20, 40, 99] {
        let request = PathsRequest {
            from: at(n),
            to: at(n + 57),
            relations: vec![],
            direction: Direction::Both,
            max_hops: 6,
            min_weight: 0.0,
            as_of: None,
            cost: PathCost::Hops,
            k: 3,
            only_shortest: false,
            collections: CollectionSet::ALL,
        };
        let paths = fixture.replica.shortest_paths(TENANT, &request, deadline()).unwrap();
        let costs: Vec<usize> = paths.paths.iter().map(|path| path.steps.len()).collect();
        told.push(format!("{costs:?}"));
        let spec = ExpandSpec { hops: 3, direction: Direction::Both, ..ExpandSpec::default() };
        let request = ExpandRequest { seeds: vec![at(n)], spec, paths: false };
        let expansion = fixture.replica.expand(TENANT, &request, deadline()).unwrap();
        let nodes: Vec<String> = expansion
            .nodes
            .iter()
            .map(|node| format!("{} {} {:.9}", node.entity.id, node.hops, node.score))
            .collect();
        told.push(format!("{nodes:?}"));
    }
    told
}

#[test]
fn no_answer_changes_with_flushes_seals_compaction_and_restarts() {
    const COUNT: usize = 400;
    let mut fixture = world(COUNT, 8);
    for round in 0..3 {
        change(&fixture, COUNT, round);
        let fresh = answers(&fixture);
        let empty = fresh.iter().filter(|told| told.starts_with("[]")).count();
        assert!(empty <= 2, "{empty} of {} questions have no answer", fresh.len());
        let same = |fixture: &Fixture, after: &str| {
            for (fresh, now) in fresh.iter().zip(answers(fixture)) {
                assert_eq!(*fresh, now, "round {round}, after {after}");
            }
        };
        fixture.replica.seal_vectors();
        fixture.replica.seal_texts().unwrap();
        fixture.replica.seal_graph().unwrap();
        same(&fixture, "sealing");
        fixture.replica.engine().flush().unwrap();
        same(&fixture, "flushing");
        for keyspace in ["entity", "vector", "chunk", "edge", "edge_in", "number", "posting"] {
            let engine = fixture.replica.engine();
            engine.compact(engine.keyspace(keyspace).unwrap()).unwrap();
        }
        same(&fixture, "compaction");
        fixture = fixture.reopen();
        same(&fixture, "a restart");
        fixture.replica.engine().sync().unwrap();
        fixture = fixture.crash();
        same(&fixture, "a crash");
    }
}

/// The shortest of three tries: the machine has other work to do.
fn overrun(time: Duration, ask: &dyn Fn(Deadline) -> bool) -> Duration {
    let run = || {
        let deadline = Deadline::after(time);
        let is_cut_short = ask(deadline);
        let over = Instant::now().saturating_duration_since(deadline.0);
        assert!(is_cut_short, "it was done {over:?} after its deadline, and answered");
        over
    };
    (0..3).map(|_| run()).min().unwrap()
}

/// Asks until a deadline, and says whether it was cut short.
type Question<'a> = Box<dyn Fn(Deadline) -> bool + 'a>;

#[test]
fn a_question_ends_with_its_deadline() {
    const COUNT: usize = 12_000;
    let fixture = world(COUNT, 64);
    let query = |query: Query| {
        let replica = &fixture.replica;
        move |deadline: Deadline| match replica.query(TENANT, &query, deadline) {
            Ok(answer) => answer
                .truncated
                .iter()
                .any(|cut| cut.reason == allidb_index::query::TruncationReason::Deadline),
            Err(error) => matches!(error, Error::DeadlineExceeded),
        }
    };
    let nearest = Nearest { exact: true, k: 5_000, ..Nearest::to_vector("v", vec![0.5; 64]) };
    let many = |seeds: Vec<Seed>| Query { limit: 5_000, ..Query::new("w", seeds) };
    let words = Seed::Text { query: TextQuery { text: WORDS.join(" "), ..TextQuery::default() }, k: 5_000 };
    // No index tells what a text has not.
    let lacks = |words: &str| {
        let words = Filter::Words(Field::parse("title").unwrap(), TextMatch::Phrase, words.into());
        Filter::Not(Box::new(words))
    };
    let rare = lacks("north north north north");
    let many_words = Filter::And((0..300).map(|n| lacks(&format!("w{n}"))).collect());
    let thousand: Vec<String> = (0..1_000).map(|n| format!("w{n}")).collect();
    let clause = TextQuery { text: thousand.join(" ").repeat(3), ..TextQuery::default() };
    let clause = Seed::Text { query: clause, k: 0 };
    let clauses = vec![clause; 16];
    let examples = Examples { positive: (0..1_000).map(at).collect(), negative: Vec::new() };
    let alike = Nearest { target: NearestTarget::Examples(examples), ..nearest.clone() };
    let wide = ExpandSpec {
        hops: 8,
        direction: Direction::Both,
        max_nodes: 100_000,
        fan_out: 10_000,
        ..ExpandSpec::default()
    };
    let ranked = ExpandSpec { page_rank: Some(0.85), ..wide.clone() };
    let start = || vec![Seed::Ids((0..200).map(at).collect())];
    let questions: Vec<(&str, Question<'_>)> = vec![
        ("exact", Box::new(query(many(vec![Seed::Nearest(nearest.clone())])))),
        ("words", Box::new(query(many(vec![words])))),
        ("clauses", Box::new(query(many(clauses)))),
        (
            "filter",
            Box::new(query(Query { filter: Some(rare.clone()), ..many(vec![Seed::Nearest(nearest)]) })),
        ),
        ("walk", Box::new(query(Query { expand: Some(wide), ..many(start()) }))),
        ("page rank", Box::new(query(Query { expand: Some(ranked), ..many(start()) }))),
        ("examples", Box::new(query(Query { filter: Some(many_words), ..many(vec![Seed::Nearest(alike)]) }))),
        (
            "count",
            Box::new(|deadline| {
                matches!(
                    fixture.replica.count(TENANT, "w", Some(&rare), deadline),
                    Err(Error::DeadlineExceeded)
                )
            }),
        ),
        (
            "facets",
            Box::new(|deadline| {
                let fields = [Field::parse("title").unwrap()];
                matches!(
                    fixture.replica.facets(TENANT, "w", &fields, None, 10, deadline),
                    Err(Error::DeadlineExceeded)
                )
            }),
        ),
    ];
    for (what, ask) in &questions {
        for millis in [1, 5] {
            let over = overrun(Duration::from_millis(millis), ask);
            assert!(over < Duration::from_millis(50), "{what} went on for {over:?}");
        }
    }
}

/// Whatever comes last: rows of hits, their highlights, the paths to them.
#[test]
fn a_question_that_is_nearly_answered_ends_with_its_deadline() {
    const COUNT: usize = 6_000;
    let fixture = world(COUNT, 8);
    let words = Seed::Text { query: TextQuery { text: WORDS.join(" "), ..TextQuery::default() }, k: 5_000 };
    let highlight = Some(Highlight { fragments: 5, length: 200 });
    let shown = Query { highlight, limit: 5_000, ..Query::new("w", vec![words]) };
    let spec = ExpandSpec {
        hops: 8,
        direction: Direction::Both,
        max_nodes: 100_000,
        fan_out: 10_000,
        ..ExpandSpec::default()
    };
    let paths = ExpandRequest { seeds: (0..20).map(at).collect(), spec, paths: true };
    let questions: [(&str, Question<'_>); 2] = [
        ("highlights", Box::new(|deadline| fixture.replica.query(TENANT, &shown, deadline).is_err())),
        ("paths", Box::new(|deadline| fixture.replica.expand(TENANT, &paths, deadline).is_err())),
    ];
    for (what, ask) in &questions {
        let begun = Instant::now();
        assert!(!ask(deadline()));
        let whole = begun.elapsed();
        for share in [0.3, 0.5, 0.7] {
            let over = |_| {
                let deadline = Deadline::after(whole.mul_f64(share));
                ask(deadline);
                Instant::now().saturating_duration_since(deadline.0)
            };
            // The shortest of some tries: the machine has other work to do.
            let over = (0..3).map(over).min().unwrap();
            assert!(over < Duration::from_millis(50), "{what}: {over:?} beyond {share} of {whole:?}");
        }
    }
}

#[test]
fn a_question_does_not_wait_longer_for_another_than_for_itself() {
    let fixture = world(12_000, 8);
    let lacks = |n: usize| {
        let words =
            Filter::Words(Field::parse("title").unwrap(), TextMatch::Phrase, format!("w{n} {n}").into());
        Filter::Not(Box::new(words))
    };
    let filter = Filter::And((0..450).map(lacks).collect());
    let nearest = Nearest { exact: true, ..Nearest::to_vector("v", vec![0.5; 8]) };
    let query = Query { filter: Some(filter), ..Query::new("w", vec![Seed::Nearest(nearest)]) };
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| fixture.replica.query(TENANT, &query, deadline()).unwrap());
        for _ in 0..3 {
            let limit = Deadline::after(Duration::from_millis(5));
            assert!(matches!(fixture.replica.query(TENANT, &query, limit), Err(Error::DeadlineExceeded)));
            let over = Instant::now().saturating_duration_since(limit.0);
            assert!(!patient.is_finished(), "there is nobody to wait for");
            assert!(over < Duration::from_millis(50), "it waited for {over:?}");
        }
        patient.join().unwrap();
    });
}
