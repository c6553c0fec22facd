//! Everything that must hold once the daemon is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use allidb_api::v1::{self, Direction};
use tonic::Code;

use super::{
    COLLECTION, SPACE,
    content::{self, State},
    ledger::{Ends, Ledger, Records},
    writers::HUBS,
};
use crate::{
    client::Client,
    make::{id_of, mask, name},
    random::Random,
};

/// Entities whose vectors are searched for.
const SAMPLE: usize = 40;

/// How much there was.
pub(super) struct Seen {
    entities: usize,
    edges: usize,
    /// Writes that were under way at the kill, and landed.
    late: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entities, edges, late } = self;
        write!(f, "{entities} entities and {edges} edges, {late} of them unacknowledged")
    }
}

/// Checks all of it against the ledger, which afterwards holds what was found.
pub(super) async fn everything(client: &Client, ledger: &Ledger, random: &mut Random) -> Seen {
    let entities = scan(client).await;
    assert_eq!(client.count(COLLECTION).await, entities.len() as u64, "count and scan agree");
    let nodes = nodes(&ledger.records(), &entities);
    let edges = edges(client, nodes).await;
    let written: Vec<String> = ledger.records().entities.keys().cloned().collect();
    get_each(client, &written, &entities).await;
    let late = settle(&mut ledger.records(), &entities, &edges);
    search(client, ledger, &entities, random).await;
    Seen { entities: entities.len(), edges: edges.len(), late }
}

async fn scan(client: &Client) -> BTreeMap<String, v1::Entity> {
    let scanned = client.scan(COLLECTION).await;
    assert!(scanned.is_sorted_by(|a, b| id_of(a) < id_of(b)), "no id twice, in order");
    scanned.into_iter().map(|entity| (id_of(&entity).to_owned(), entity)).collect()
}

/// Each by its name: as scanned, or NOT_FOUND.
async fn get_each(client: &Client, written: &[String], entities: &BTreeMap<String, v1::Entity>) {
    for ids in written.chunks(500) {
        let refs = ids.iter().map(|id| name(COLLECTION, id)).collect();
        let request = v1::BatchGetRequest { refs, read_mask: mask(&["*"]), ..Default::default() };
        let results = client.entities().batch_get(request).await.expect("answered").into_inner().results;
        assert_eq!(results.len(), ids.len());
        for (id, result) in ids.iter().zip(results) {
            let code = result.status.expect("a status").code;
            assert_eq!(result.entity.as_ref(), entities.get(id), "{id} by its name and in the scan");
            assert_eq!(code, if result.entity.is_some() { 0 } else { Code::NotFound as i32 }, "{id}");
        }
    }
}

/// Whatever may have an edge.
fn nodes(records: &Records, entities: &BTreeMap<String, v1::Entity>) -> BTreeSet<String> {
    let ends = records.edges.keys().flat_map(|(from, to)| [from.clone(), to.clone()]);
    let hubs = (0..HUBS).map(|at| format!("hub-{at}"));
    ends.chain(hubs).chain(entities.keys().cloned()).collect()
}

/// All edges, each seen from both of its ends as the same.
async fn edges(client: &Client, nodes: BTreeSet<String>) -> BTreeMap<Ends, v1::Edge> {
    let (mut out, mut into) = (BTreeMap::new(), BTreeMap::new());
    for node in &nodes {
        for edge in client.edges(name(COLLECTION, node), Direction::Out).await {
            assert!(out.insert(ends_of(&edge), edge).is_none(), "{node}: an edge twice");
        }
        for edge in client.edges(name(COLLECTION, node), Direction::In).await {
            assert!(into.insert(ends_of(&edge), edge).is_none(), "{node}: an edge twice");
        }
    }
    assert_eq!(out.keys().collect::<Vec<_>>(), into.keys().collect::<Vec<_>>(), "from both ends or none");
    assert_eq!(out, into, "the same from both ends");
    out
}

fn ends_of(edge: &v1::Edge) -> Ends {
    let id = |name: &Option<v1::EntityRef>| name.as_ref().expect("a name").id.clone();
    (id(&edge.from), id(&edge.to))
}

/// Each is what was acknowledged, or what was under way, and all of it. Returns how many were the latter.
fn settle(
    records: &mut Records,
    entities: &BTreeMap<String, v1::Entity>,
    edges: &BTreeMap<Ends, v1::Edge>,
) -> usize {
    for id in entities.keys() {
        assert!(records.entities.contains_key(id), "{id} was never written");
    }
    for ends in edges.keys() {
        assert!(records.edges.contains_key(ends), "{ends:?} was never written");
    }
    for (id, together) in std::mem::take(&mut records.doomed) {
        for ends in together {
            let (entity, edge) = (entities.contains_key(&id), edges.contains_key(&ends));
            assert_eq!(entity, edge, "{id} and its edge {ends:?} go together");
        }
    }
    let mut late = 0;
    for (id, record) in &mut records.entities {
        let found = entities.get(id);
        let state = found.map_or(State::Absent, content::state_of);
        let is_acknowledged = state == record.acknowledged;
        assert!(is_acknowledged || record.in_flight.contains(&state), "{id} is {state:?}, but {record:?}");
        if let (State::There { put, update }, Some(found)) = (state, found) {
            assert!(found.created_at.is_some() && found.updated_at.is_some());
            let bare = v1::Entity {
                created_at: None,
                updated_at: None,
                version: bytes::Bytes::new(),
                ..found.clone()
            };
            assert_eq!(bare, content::entity(id, put, update), "{id} is of one write");
            if is_acknowledged && !record.version.is_empty() {
                assert_eq!(found.version, record.version, "{id}");
            }
        }
        late += usize::from(!is_acknowledged);
        record.settle(state);
    }
    for (ends, record) in &mut records.edges {
        let found = edges.get(ends);
        let put = found.map(content::put_of);
        let is_acknowledged = put == record.acknowledged;
        assert!(is_acknowledged || record.in_flight.contains(&put), "{ends:?} is {put:?}, but {record:?}");
        if let (Some(put), Some(found)) = (put, found) {
            let bare = v1::Edge { version: bytes::Bytes::new(), ..found.clone() };
            assert_eq!(bare, content::edge(&ends.0, &ends.1, put), "{ends:?} is of one write");
            if is_acknowledged && !record.version.is_empty() {
                assert_eq!(found.version, record.version, "{ends:?}");
            }
        }
        late += usize::from(!is_acknowledged);
        record.settle(put);
    }
    late
}

/// A sample is found by its vectors, and nothing else is that near.
async fn search(
    client: &Client,
    ledger: &Ledger,
    entities: &BTreeMap<String, v1::Entity>,
    random: &mut Random,
) {
    let present: Vec<&String> = entities.keys().collect();
    for _ in 0..SAMPLE.min(present.len()) {
        let id = present[random.below(present.len())];
        let State::There { put, update } = ledger.state(id) else { panic!("{id} is there") };
        let own = content::own_vector(id, put, update);
        let chunk = content::chunk_vector(id, put, 1);
        for (vector, chunk_id) in [(own, ""), (chunk, "chunk-1")] {
            let hits = client.nearest(COLLECTION, SPACE, &vector, 3).await;
            let best = hits.first().unwrap_or_else(|| panic!("{id} is not found by its vector"));
            assert_eq!(
                (id_of(best.entity.as_ref().expect("an entity")), best.chunk_id.as_str()),
                (id.as_str(), chunk_id)
            );
            assert!(best.measure.is_some_and(|cosine| cosine > 0.999_99), "{id}: {best:?}");
        }
    }
    // Whatever a search for everything finds is there: nothing deleted is left in the index.
    let hits = client.nearest(COLLECTION, SPACE, &random.vector(super::DIMENSION), 10_000).await;
    let found: BTreeSet<&str> =
        hits.iter().map(|hit| id_of(hit.entity.as_ref().expect("an entity"))).collect();
    let there: BTreeSet<&str> = entities.keys().map(String::as_str).collect();
    assert_eq!(found.len(), hits.len(), "no entity twice");
    assert!(
        found == there,
        "missing {:?}, left over {:?}",
        there.difference(&found),
        found.difference(&there)
    );
}
