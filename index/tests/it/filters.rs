//! Filtered vector search: right for every share of matches, wherever they lie, and after every write.

use std::collections::BTreeMap;

use allidb_index::{
    filter::{Field, Filter, Operator},
    model::{Chunk, Metric, Value, Write},
    query::{Nearest, Query, Seed},
};

use crate::fixture::{Fixture, at, entity, ids, with};

const ROWS: usize = 20_000;
const DIMENSION: usize = 16;
const CLUSTERS: usize = 100;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    }

    fn vector(&mut self, scale: f32) -> Vec<f32> {
        (0..DIMENSION).map(|_| self.uniform() * scale).collect()
    }
}

fn filtered(vector: &[f32], filter: &Filter) -> Query {
    let nearest = Nearest::to_vector("v", vector.to_vec());
    Query { filter: Some(filter.clone()), ..Query::new("c", vec![Seed::Nearest(nearest)]) }
}

fn attribute(name: &str, operator: Operator, value: i64) -> Filter {
    Filter::Compare(Field::Attribute(vec![name.into()]), operator, Value::Int(value))
}

fn squared(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[test]
fn recall_holds_at_every_share_of_matches_near_the_query_and_far_from_it() {
    let fixture = Fixture::with_space(DIMENSION as u32, Metric::L2);
    let mut random = Random(88_172_645_463_325_252);
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| random.vector(4.0)).collect();
    let rows: Vec<(usize, usize, Vec<f32>)> = (0..ROWS)
        .map(|_| {
            let cluster = random.below(CLUSTERS);
            let vector = centres[cluster].iter().map(|x| x + random.uniform()).collect();
            (cluster, random.below(10_000), vector)
        })
        .collect();
    for (first, chunk) in rows.chunks(2_000).enumerate() {
        let put = |(row, (cluster, lot, vector)): (usize, &(usize, usize, Vec<f32>))| {
            let named = entity(&format!("{:06}", 2_000 * first + row), vector);
            let entity = with(with(named, "cluster", *cluster as i64), "lot", *lot as i64);
            Write::Put { collection: "c".into(), entity: Box::new(entity) }
        };
        assert!(fixture.write(chunk.iter().enumerate().map(put).collect()).iter().all(Result::is_ok));
    }
    assert!(fixture.replica.vector_counts().in_graphs > 10_000);
    let recall = |query: &[f32], filter: &Filter, passes: &dyn Fn(usize, usize) -> bool| {
        let mut truth: Vec<(f32, String)> = (rows.iter().enumerate())
            .filter(|(_, (cluster, lot, _))| passes(*cluster, *lot))
            .map(|(row, (_, _, vector))| (squared(query, vector), format!("{row:06}")))
            .collect();
        truth.sort_by(|a, b| a.0.total_cmp(&b.0));
        truth.truncate(10);
        let found = ids(&fixture.query(&filtered(query, filter)));
        assert_eq!(found.len(), truth.len());
        (truth.iter().filter(|(_, id)| found.contains(id)).count(), truth.len())
    };
    // Enough that chance, of which there is some where several threads build a graph, does not decide.
    let queries: Vec<Vec<f32>> = (0..60).map(|n| centres[7 * n % CLUSTERS].clone()).collect();
    // Twice: the second time it is known what matches.
    for known in [false, true] {
        for lots in [1, 10, 100, 1_000, 5_000, 10_000] {
            let filter = attribute("lot", Operator::Less, lots);
            let (mut found, mut wanted) = (0, 0);
            for query in &queries {
                let (here, all) = recall(query, &filter, &|_, lot| lot < lots as usize);
                (found, wanted) = (found + here, wanted + all);
            }
            assert!(found * 100 >= wanted * 95, "{lots} of 10,000, known {known}: {found} of {wanted}");
        }
        let (mut near, mut far) = ((0, 0), (0, 0));
        for query in &queries {
            let mut by_distance: Vec<usize> = (0..CLUSTERS).collect();
            by_distance.sort_by(|a, b| squared(query, &centres[*a]).total_cmp(&squared(query, &centres[*b])));
            for (ends, sum) in [(&by_distance[..3], &mut near), (&by_distance[CLUSTERS - 3..], &mut far)] {
                let any = ends.iter().map(|cluster| attribute("cluster", Operator::Equal, *cluster as i64));
                let filter = Filter::Or(any.collect());
                let (here, all) = recall(query, &filter, &|cluster, _| ends.contains(&cluster));
                *sum = (sum.0 + here, sum.1 + all);
            }
            // Half of everything, and none of it near.
            let (away, filter) = (&by_distance[CLUSTERS / 2..], |cluster: &usize| {
                attribute("cluster", Operator::Equal, *cluster as i64)
            });
            let filter = Filter::Or(away.iter().map(filter).collect());
            let (here, all) = recall(query, &filter, &|cluster, _| away.contains(&cluster));
            far = (far.0 + here, far.1 + all);
        }
        for (name, (found, wanted)) in [("near", near), ("far", far)] {
            assert!(found * 100 >= wanted * 95, "{name}, known {known}: {found} of {wanted}");
        }
    }
}

/// What an entity of the model has: its lot, its own vector, its chunks' vectors.
type Modelled = (i64, Option<Vec<f32>>, BTreeMap<String, Vec<f32>>);

#[test]
fn what_is_remembered_of_a_filter_follows_every_write() {
    let fixture = Fixture::with_space(DIMENSION as u32, Metric::L2);
    let mut random = Random(1_234_567_890_123_457);
    let mut model: BTreeMap<String, Modelled> = BTreeMap::new();
    let filters: Vec<Filter> = (0..4).map(|lot| attribute("lot", Operator::Equal, lot)).collect();
    for step in 0..1_500 {
        let id = format!("e{}", random.below(60));
        match random.below(10) {
            0..=5 => {
                let lot = random.below(4) as i64;
                let own = (random.below(4) > 0).then(|| random.vector(1.0));
                let chunks: BTreeMap<String, Vec<f32>> =
                    (0..random.below(3)).map(|chunk| (format!("k{chunk}"), random.vector(1.0))).collect();
                let mut put = with(entity(&id, own.as_deref().unwrap_or_default()), "lot", lot);
                for (name, vector) in &chunks {
                    let vectors = BTreeMap::from([("v".to_owned(), vector.clone())]);
                    put.chunks.insert(name.clone(), Chunk { vectors, ..Chunk::default() });
                }
                fixture.put(put);
                model.insert(id, (lot, own, chunks));
            }
            6..=7 => {
                fixture.delete(&id);
                model.remove(&id);
            }
            _ => {
                let mut patch = allidb_index::model::EntityPatch::new(at(&id));
                let lot = random.below(4) as i64;
                patch.attributes.insert("lot".into(), Some(Value::Int(lot)));
                let updated = fixture.one(Write::Update(Box::new(patch)));
                assert_eq!(updated.is_ok(), model.contains_key(&id), "step {step}");
                if let Some(modelled) = model.get_mut(&id) {
                    modelled.0 = lot;
                }
            }
        }
        let lot = random.below(4);
        let query = random.vector(1.0);
        let mut truth: Vec<(f32, &str)> = (model.iter())
            .filter(|(_, (of, ..))| *of == lot as i64)
            .filter_map(|(id, (_, own, chunks))| {
                let all = own.iter().chain(chunks.values()).map(|vector| squared(&query, vector));
                all.min_by(f32::total_cmp).map(|best| (best, id.as_str()))
            })
            .collect();
        truth.sort_by(|a, b| a.0.total_cmp(&b.0));
        let truth: Vec<&str> = truth.into_iter().take(10).map(|(_, id)| id).collect();
        assert_eq!(ids(&fixture.query(&filtered(&query, &filters[lot]))), truth, "step {step}");
    }
}
