//! Edges between a few entities, which are linked, unlinked and deleted: what was acknowledged last is there at the end, from both ends.

use allidb_cluster::{Consistency, Ring};
use allidb_index::{
    Error, SeededRandom, Version,
    graph::NeighborsRequest,
    model::{CollectionSet, Direction, Edge, EdgeRef, EntityRef, TenantId, Value, Write},
};

use crate::node::{Node, draw, far, quorum};

/// Entities that edges are between. None of them is ever put: an end need not be there.
pub(crate) const ENDS: usize = 5;
const RELATION: &str = "r";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Link(usize, usize),
    Unlink(usize, usize),
    Delete(usize),
}

impl Kind {
    fn ends_edge(self, from: usize, to: usize) -> bool {
        match self {
            Self::Link(..) => false,
            Self::Unlink(a, b) => (a, b) == (from, to),
            Self::Delete(end) => end == from || end == to,
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    kind: Kind,
    /// As it was planned, or acknowledged.
    version: Version,
    /// It may have been made at a newer one, up to this.
    newest: Version,
    is_acknowledged: bool,
}

/// All changes of edges.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<Change>);

pub(crate) fn end(at: usize) -> EntityRef {
    EntityRef::new("c", format!("end-{at}"))
}

fn edge(from: usize, to: usize) -> EdgeRef {
    EdgeRef { from: end(from), relation: RELATION.into(), to: end(to), edge_id: String::new() }
}

fn request(entity: EntityRef, direction: Direction) -> NeighborsRequest {
    NeighborsRequest {
        entity,
        relations: Vec::new(),
        direction,
        min_weight: 0.0,
        as_of: None,
        any_time: false,
        limit: 100,
        collections: CollectionSet::ALL,
        pages: allidb_index::graph::NeighborPages::Heaviest,
    }
}

impl Node {
    /// Changes an edge, or looks at some.
    pub(crate) async fn ask_of_edges(&self, ring: &Ring, random: &SeededRandom) {
        let two = || (draw(random, ENDS as u64) as usize, draw(random, ENDS as u64) as usize);
        let (from, to) = two();
        let kind = match draw(random, 10) {
            0..5 => Kind::Link(from, to),
            5 | 6 => Kind::Unlink(from, to),
            7 => Kind::Delete(from),
            _ => {
                self.look(ring, from, Direction::Both, Consistency::Quorum).await;
                return;
            }
        };
        let place = self.edges.lock().0.len();
        let write = match kind {
            Kind::Link(from, to) => {
                let attributes = [("place".to_owned(), Value::Int(place as i64))].into();
                Write::PutEdge(Box::new(Edge { attributes, ..Edge::new(end(from), RELATION, end(to)) }))
            }
            Kind::Unlink(from, to) => Write::DeleteEdge(edge(from, to)),
            Kind::Delete(at) => Write::Delete(end(at)),
        };
        let planned = ring.replica().plan(TenantId::DEFAULT, write).expect("a good write");
        let newest = Version::new(u64::MAX >> 16, 0, 0);
        let change = Change { kind, version: planned.version(), newest, is_acknowledged: false };
        self.edges.lock().0.push(change);
        let result = ring.write(vec![planned], quorum()).await.pop().expect("one answer");
        let now = self.clock.elapsed();
        self.history.lock().note(now, format_args!("{} {kind:?} of edges: {result:?}", self.at));
        match result {
            Ok(written) => {
                let change = &mut self.edges.lock().0[place];
                (change.is_acknowledged, change.version, change.newest) =
                    (true, written.version, written.version);
            }
            Err(Error::Unavailable(_)) => {
                self.edges.lock().0[place].newest = self.newest_by_now(ring);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The other ends of edges with their versions, if they can be told. Nothing is seen that nobody linked.
    pub(crate) async fn look(
        &self,
        ring: &Ring,
        at: usize,
        direction: Direction,
        consistency: Consistency,
    ) -> Option<Vec<(EdgeRef, Version)>> {
        let asked = request(end(at), direction);
        // What is acknowledged at a newer version while this looks may be seen at the one before.
        let at_least: Vec<Version> = self.edges.lock().0.iter().map(|change| change.version).collect();
        let found = match ring.now().neighbors(TenantId::DEFAULT, asked, consistency, far()).await {
            Ok(found) => found,
            Err(Error::Unavailable(why)) => {
                let now = self.clock.elapsed();
                self.history.lock().note(now, format_args!("{} does not see edges of {at}: {why}", self.at));
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let changes = self.edges.lock();
        for Edge { attributes, version, .. } in found.neighbors.iter().map(|neighbor| &neighbor.edge) {
            let Some(Value::Int(place)) = attributes.get("place") else {
                panic!("nobody made {attributes:?}")
            };
            let change = &changes.0[*place as usize];
            let at_least = at_least.get(*place as usize).copied().unwrap_or(Version::ZERO);
            assert!(
                (at_least..=change.newest).contains(version),
                "seed {}: {change:?} has version {version:?}",
                self.seed
            );
        }
        let seen = found.neighbors.into_iter().map(|neighbor| {
            let name = neighbor.edge.edge_ref();
            let Some(Value::Int(place)) = neighbor.edge.attributes.get("place") else { panic!("{name:?}") };
            let kind = changes.0[*place as usize].kind;
            assert!(
                matches!(kind, Kind::Link(from, to) if edge(from, to) == name),
                "seed {}: {name:?} was never linked, but {kind:?}",
                self.seed
            );
            (name, neighbor.edge.version)
        });
        Some(seen.collect())
    }
}

impl Node {
    /// Judges all edges when all is over.
    pub(crate) async fn judge_edges(&self, ring: &Ring, consistency: Consistency) {
        let mut seen = Vec::new();
        for at in 0..ENDS {
            let out = self.look(ring, at, Direction::Out, consistency).await;
            let into = self.look(ring, at, Direction::In, consistency).await;
            seen.push([out, into].map(|seen| {
                seen.unwrap_or_else(|| {
                    panic!("seed {}: not all can be reached\n{}", self.seed, self.history.lock().end_of_all())
                })
            }));
        }
        let changes = self.edges.lock();
        for from in 0..ENDS {
            for to in 0..ENDS {
                let name = edge(from, to);
                let version = |seen: &[(EdgeRef, Version)]| {
                    seen.iter().find(|(seen, _)| *seen == name).map(|(_, version)| *version)
                };
                let ends = [version(&seen[from][0]), version(&seen[to][1])];
                if ends[0] != ends[1] {
                    println!("{}", self.history.lock().end_of_all());
                }
                changes.judge(self.seed, from, to, ends);
            }
        }
    }
}

impl Changes {
    /// Judges what both ends tell of an edge when all is over.
    fn judge(&self, seed: u64, from: usize, to: usize, seen: [Option<Version>; 2]) {
        let [out, into] = seen;
        let concerns =
            |change: &&Change| change.kind == Kind::Link(from, to) || change.kind.ends_edge(from, to);
        let history: Vec<&Change> = self.0.iter().filter(concerns).collect();
        assert_eq!(out, into, "seed {seed}: the ends of {from} -> {to} differ: {history:#?}");
        let links = || self.0.iter().filter(|change| change.kind == Kind::Link(from, to));
        let kept = links().filter(|link| link.is_acknowledged).map(|link| link.version).max();
        let newest = links().map(|link| link.newest).max().unwrap_or_default();
        let ended = self.0.iter().filter(|change| change.kind.ends_edge(from, to));
        let may_end = ended.clone().map(|change| change.newest).max().unwrap_or_default();
        let has_ended = ended.filter(|change| change.is_acknowledged).map(|change| change.version).max();
        let has_ended = has_ended.unwrap_or_default();
        if let Some(kept) = kept.filter(|kept| *kept > may_end) {
            assert!(out >= Some(kept), "seed {seed}: {from} -> {to} of {kept:?} is lost: {out:?}");
        }
        if has_ended > newest {
            assert_eq!(out, None, "seed {seed}: {from} -> {to} came back, ended at {has_ended:?}");
        }
    }
}
