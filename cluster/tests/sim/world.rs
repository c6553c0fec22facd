//! A ring, and what befalls it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use allidb_cluster::{Consistency, Layout, Member, NodeId, Phase, Ring, Topology, Wrong};
use allidb_index::{Clock, SeededRandom, VectorOptions, build_pool, model::TenantId};
use allidb_storage::fs::SimFs;
use parking_lot::Mutex;

use crate::{
    appends::{TRAILS, Trails, passing, trail},
    collections::{Created, judge_alike},
    disks::NEVER,
    edges::{Changes, ENDS, end},
    history::History,
    network::PORT,
    node::{AHEAD_MS, KEYS, LOOSE, Node, SimClock, draw, entity, found, loose, name},
    sides::Sides,
};

/// How long it goes wrong, and how long it takes to heal: a connection that lost what was under way is given up after two seconds, a node that did
/// not answer is left alone for one and a half, and what was kept for it is tried again after four.
const TROUBLED_MS: u64 = 6_000;
const HEALING_MS: u64 = 10_000;
/// Clocks are less than so far from each other: what nodes bear.
const DRIFT_MS: u64 = 450;
/// How far a clock jumps at most: beyond what nodes bear.
const JUMP_MS: u64 = 3_000;
/// How long it takes at most until deletions are forgotten: versions are ahead of the time, and purges some way behind it.
const FORGETTING_MS: u64 = 10_000;
/// How long it takes at most until a change of shape is over, once everybody answers.
const RESHAPING_MS: u64 = 20_000;
/// Replicas of each partition.
pub(crate) const REPLICATION: usize = 3;

/// A ring to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    /// The first node was taken out of the ring, and has not heard of it.
    pub(crate) is_first_stale: bool,
    /// All live to the end: then hints alone make replicas alike, without a read.
    pub(crate) nobody_dies: bool,
    /// Nodes compare what they hold all the time.
    pub(crate) compares: bool,
    /// Deletions are forgotten all the time.
    pub(crate) purges: bool,
    /// When it goes wrong no more, the first node is lost for good, with its disk and all that it kept for others.
    pub(crate) loses_one: bool,
    /// The ring is given another shape all the time: at first only some nodes hold data.
    pub(crate) reshapes: bool,
    /// Operators at all nodes do so at once.
    pub(crate) has_operators: bool,
    /// The ring falls into two sides that do not hear each other, and clients write at ONE.
    pub(crate) splits: bool,
    /// Nodes that are to hold data begin with a copy of another one's disk.
    pub(crate) copies: bool,
    /// Disks lose what was written to them, of one node at a time, and clocks jump.
    pub(crate) is_mean: bool,
    /// What all nodes do wrong.
    pub(crate) wrong: Option<Wrong>,
}

impl Setup {
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            nodes,
            is_first_stale: false,
            nobody_dies: false,
            compares: false,
            purges: false,
            loses_one: false,
            reshapes: false,
            has_operators: false,
            splits: false,
            copies: false,
            is_mean: false,
            wrong: None,
        }
    }
}

pub(crate) struct World {
    seed: u64,
    sim: turmoil::Sim<'static>,
    nodes: Vec<Arc<Node>>,
    clock: Arc<SimClock>,
    history: Arc<Mutex<History>>,
    is_quiet: Arc<AtomicBool>,
    /// Nodes from here on know the layout.
    first: usize,
    nobody_dies: bool,
    purges: bool,
    loses_one: bool,
    reshapes: bool,
    splits: bool,
    /// Whether disks lose what was written to them, and clocks jump.
    is_mean: bool,
    /// Whose disk did last.
    ailing: Option<usize>,
    /// Whose clock jumped, and where it was.
    jumped: Option<(usize, i64)>,
}

impl World {
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let Setup {
            nodes: count,
            is_first_stale,
            nobody_dies,
            compares,
            purges,
            loses_one,
            reshapes,
            has_operators,
            splits,
            copies,
            is_mean,
            wrong,
        } = setup;
        let mut sim =
            turmoil::Builder::new().rng_seed(seed).simulation_duration(Duration::from_secs(600)).build();
        let (clock, history) = (Arc::new(SimClock::default()), Arc::new(Mutex::new(History::new(seed))));
        let is_quiet: Arc<AtomicBool> = Arc::default();
        let edges: Arc<Mutex<Changes>> = Arc::default();
        let trails: Arc<Mutex<Trails>> = Arc::default();
        let created: Arc<Mutex<Created>> = Arc::default();
        let sides: Arc<Mutex<Sides>> = Arc::default();
        let made: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
        let pool =
            build_pool(&VectorOptions { build_threads: 1, ..VectorOptions::default() }).expect("a thread");
        let disks: Vec<SimFs> = (0..count).map(|_| SimFs::new()).collect();
        let seed_of = |at: usize| seed.wrapping_mul(31).wrapping_add(at as u64);
        let mut catalogue = None;
        let mut found = |(at, fs)| found(fs, &clock, seed_of(at), &pool, &mut catalogue);
        let ids: Vec<NodeId> = disks.iter().enumerate().map(&mut found).collect();
        let member = |node: &NodeId| Member { node: *node, zone: String::new(), capacity: 1 };
        let older = Layout::found(ids.iter().map(member).collect(), REPLICATION).expect("a layout");
        let first = usize::from(is_first_stale);
        let last = if reshapes { REPLICATION } else { count };
        let newer = older.next(ids[first..last].iter().map(member).collect(), REPLICATION).expect("a layout");
        let [older, newer] = [older, newer].map(Topology::founded);
        let addresses: BTreeMap<NodeId, String> =
            ids.iter().enumerate().map(|(at, node)| (*node, format!("{}:{PORT}", name(at)))).collect();
        let clocks = SeededRandom::new(seed.rotate_left(16));
        let node = |(at, fs): (usize, SimFs)| {
            Arc::new(Node {
                compares,
                purges,
                reshapes,
                has_operators,
                splits,
                copies,
                ahead_ms: Arc::new(AtomicI64::new(draw(&clocks, DRIFT_MS) as i64)),
                scrub_at: AtomicU64::new(NEVER),
                is_to_start: AtomicBool::new(false),
                at,
                seed: seed_of(at),
                fs,
                clock: Arc::clone(&clock),
                build_pool: Arc::clone(&pool),
                founded: if at < first { older.clone() } else { newer.clone() },
                addresses: addresses.clone(),
                history: Arc::clone(&history),
                edges: Arc::clone(&edges),
                trails: Arc::clone(&trails),
                created: Arc::clone(&created),
                sides: Arc::clone(&sides),
                made: Arc::clone(&made),
                errand: Mutex::default(),
                is_quiet: Arc::clone(&is_quiet),
                ring: Mutex::default(),
                lives: Default::default(),
                wrong,
            })
        };
        let nodes: Vec<Arc<Node>> = disks.into_iter().enumerate().map(node).collect();
        for node in &nodes {
            let node = Arc::clone(node);
            sim.host(name(node.at), move || Arc::clone(&node).live());
        }
        // Fixed for each link: who draws for each message depends on the order in which the connections of a node that dies are dropped,
        // and that on how many tasks the process has had before.
        let random = SeededRandom::new(seed.rotate_left(32));
        for a in 0..count {
            for b in 0..a {
                sim.set_link_latency(name(a), name(b), Duration::from_millis(1 + draw(&random, 20)));
            }
        }
        let (ailing, jumped) = (None, None);
        Self {
            seed,
            sim,
            nodes,
            clock,
            history,
            is_quiet,
            first,
            nobody_dies,
            purges,
            loses_one,
            reshapes,
            splits,
            is_mean,
            ailing,
            jumped,
        }
    }

    /// Lets things go wrong, then heal; then everything that was acknowledged must be read, and all replicas hold the same. Gives the trace.
    ///
    /// # Panics
    /// If anything was lost, came back, or went back in time.
    pub(crate) fn run(mut self) -> String {
        let random = SeededRandom::new(!self.seed);
        let mut down: Option<usize> = None;
        let (mut next, mut is_split) = (0, false);
        while self.clock.elapsed() < TROUBLED_MS {
            self.step();
            if self.clock.elapsed() < next {
                continue;
            }
            next = self.clock.elapsed() + 50 + draw(&random, 400);
            let [a, b] = self.two(&random);
            let now = self.clock.elapsed();
            if self.splits && draw(&random, 3) > 0 {
                is_split = !is_split;
                self.split(is_split.then(|| draw(&random, 1 << self.nodes.len())));
                continue;
            }
            let note = |what: &str| self.history.lock().note(now, format_args!("{what} {a} {b}"));
            let event = match self.splits {
                true => 5 + draw(&random, 2),
                false => draw(&random, if self.is_mean { 10 } else { 7 }),
            };
            match event {
                7 | 8 => {
                    let may_be = self.ailing.is_none_or(|at| down != Some(at) && self.nodes[at].is_sound());
                    if may_be
                        && down != Some(a)
                        && let Some(path) = self.nodes[a].damage(&random)
                    {
                        note(&format!("damage {}", path.display()));
                        self.ailing = Some(a);
                    }
                }
                9 => {
                    note("jump");
                    self.jump(a, &random);
                }
                0 => {
                    note("cut");
                    self.sim.partition(name(a), name(b));
                }
                1 | 2 => {
                    note("mend");
                    self.sim.repair(name(a), name(b));
                }
                3 => {
                    note("hold");
                    self.sim.hold(name(a), name(b));
                }
                4 => {
                    note("release");
                    self.sim.release(name(a), name(b));
                }
                5 if down.is_none() && !self.nobody_dies => {
                    note("kill");
                    self.kill(a, draw(&random, 3));
                    down = Some(a);
                }
                _ => {
                    if let Some(at) = down.take() {
                        note("start");
                        self.sim.bounce(name(at));
                    }
                }
            }
        }
        if self.loses_one {
            return self.lose(down);
        }
        self.jump_back();
        self.heal(down);
        if self.reshapes {
            self.settle();
        }
        // Of a write that meets another topology some may be at a replica alone, until it is read or compared; so is what a node was about to
        // keep for others when it started again to heal.
        if self.nobody_dies && !self.purges && !self.reshapes && !self.is_mean {
            self.compare(true);
        }
        self.check();
        if self.purges {
            self.forget_all();
        }
        self.compare(false);
        let rings = self.nodes.iter().map(|node| node.ring.lock().clone().expect("it lives"));
        judge_alike(self.seed, rings, &self.history.lock());
        let mut history = self.history.lock();
        if self.splits {
            let [put, deleted] = self.nodes[0].sides.lock().counts();
            history.note(0, format_args!("{put} are there, and {deleted} deleted"));
            assert!(put > 10 && deleted > 5, "seed {}: {put} put, {deleted} deleted: too little", self.seed);
            return std::mem::take(&mut history.trace);
        }
        let appended = self.nodes[0].trails.lock().acknowledged();
        history.note(0, format_args!("{appended} appends"));
        assert!(appended > 0, "seed {}: nothing was appended", self.seed);
        // Where disks and clocks go wrong, too, little may get through in one of them.
        let enough = history.acknowledged > 10 && history.reads > 10;
        assert!(enough || self.is_mean, "seed {}: too little happened", self.seed);
        std::mem::take(&mut history.trace)
    }

    /// Cuts the ring into two sides, as bits say, or has all hear each other again.
    fn split(&mut self, sides: Option<u64>) {
        let now = self.clock.elapsed();
        for a in 0..self.nodes.len() {
            for b in 0..a {
                match sides.is_some_and(|sides| (sides >> a ^ sides >> b) & 1 == 1) {
                    true => self.sim.partition(name(a), name(b)),
                    false => self.sim.repair(name(a), name(b)),
                }
            }
        }
        match sides {
            Some(sides) => {
                self.history.lock().note(now, format_args!("the ring falls into two sides: {sides:b}"))
            }
            None => self.history.lock().note(now, format_args!("all hear each other")),
        }
    }

    fn step(&mut self) {
        let elapsed = self.sim.elapsed().as_millis() as u64;
        self.clock.0.store(elapsed, Ordering::SeqCst);
        self.sim.step().unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_to_start.swap(false, Ordering::SeqCst) {
                self.history.lock().note(elapsed, format_args!("{at} starts again as it asked for"));
                self.kill(at, 1);
                self.sim.bounce(name(at));
            }
        }
    }

    /// A node's clock jumps, there and some time later back.
    fn jump(&mut self, at: usize, random: &SeededRandom) {
        if self.jumped.is_some() {
            return self.jump_back();
        }
        let clock = &self.nodes[at].ahead_ms;
        self.jumped = Some((at, clock.load(Ordering::SeqCst)));
        clock.fetch_add(draw(random, 2 * JUMP_MS) as i64 - JUMP_MS as i64, Ordering::SeqCst);
    }

    fn jump_back(&mut self) {
        if let Some((at, before)) = self.jumped.take() {
            self.nodes[at].ahead_ms.store(before, Ordering::SeqCst);
        }
    }

    fn two(&self, random: &SeededRandom) -> [usize; 2] {
        let count = self.nodes.len() as u64;
        let a = draw(random, count);
        [a, (a + 1 + draw(random, count - 1)) % count].map(|at| at as usize)
    }

    /// Its process dies or, one time in three, its machine loses power.
    fn kill(&mut self, at: usize, how: u64) {
        self.sim.crash(name(at));
        let node = &self.nodes[at];
        drop(node.ring.lock().take());
        match how {
            0 => node.fs.crash(self.seed ^ self.clock.elapsed()),
            _ => node.fs.kill(),
        }
    }

    /// The first node is lost for good: what a quorum acknowledged is there without it.
    fn lose(mut self, down: Option<usize>) -> String {
        self.is_quiet.store(true, Ordering::SeqCst);
        if down != Some(0) {
            self.kill(0, 0);
            down.into_iter().for_each(|at| self.sim.bounce(name(at)));
        }
        self.mend();
        self.read_all(&[(self.nodes.len() - 1, Consistency::Quorum), (1, Consistency::Quorum)]);
        std::mem::take(&mut self.history.lock().trace)
    }

    /// All links work again, and time passes.
    fn mend(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.sim.repair(name(a), name(b));
                self.sim.release(name(a), name(b));
            }
        }
        let until = self.clock.elapsed() + HEALING_MS;
        while self.clock.elapsed() < until {
            self.step();
        }
    }

    fn heal(&mut self, down: Option<usize>) {
        self.is_quiet.store(true, Ordering::SeqCst);
        if let Some(at) = down {
            self.sim.bounce(name(at));
        }
        self.mend();
        let until = self.clock.elapsed() + HEALING_MS;
        while self.is_mean && !self.nodes.iter().all(|node| node.is_sound()) {
            self.step();
            let healing: Vec<_> =
                self.nodes.iter().map(|node| node.ring.lock().as_ref().map(Ring::healing)).collect();
            let trace = || self.history.lock().end_of_all();
            assert!(self.clock.elapsed() < until, "seed {}: it heals: {healing:?}\n{}", self.seed, trace());
        }
        if self.is_mean {
            // What was kept for whoever healed is tried again.
            let until = self.clock.elapsed() + HEALING_MS;
            while self.clock.elapsed() < until {
                self.step();
            }
        }
        for node in &self.nodes[self.first..] {
            let ring = node.ring.lock().clone().expect("it lives");
            let posted = ring.replica().outbox(None, 1, 1).expect("it can be read");
            let told: Vec<_> =
                posted.iter().map(|hint| allidb_index::Mutation::decode(&hint.mutation)).collect();
            let trace = || self.history.lock().end_of_all();
            assert!(told.is_empty(), "seed {}: of node {}: {told:#?}\n{}", self.seed, node.at, trace());
            for hints in ring.hints() {
                // Those that come too late are dropped: repair has brought what they tell.
                let dropped = if self.purges || self.reshapes { 0 } else { hints.dropped };
                assert_eq!(
                    (hints.bytes, dropped),
                    (0, 0),
                    "seed {}: of node {}: {hints:?}\n{}",
                    self.seed,
                    node.at,
                    self.history.lock().end_of_all()
                );
            }
        }
    }

    /// Lets time pass until the ring has its last shape, and nobody holds anything else.
    fn settle(&mut self) {
        let until = self.clock.elapsed() + RESHAPING_MS;
        loop {
            let rings = self.nodes.iter().map(|node| node.ring.lock().clone().expect("it lives").now());
            let stands = rings.map(|ring| {
                let topology = ring.topology();
                (topology.epoch(), topology.phase(), ring.replica().leftovers().len())
            });
            let stands: Vec<_> = stands.collect();
            if stands.iter().all(|stand| *stand == (stands[0].0, Phase::Settled, 0)) {
                self.history.lock().note(0, format_args!("{} epochs", stands[0].0));
                return;
            }
            self.step();
            let trace = || self.history.lock().end_of_all();
            let takeovers = || {
                let ring = |node: &Arc<Node>| node.ring.lock().clone().expect("it lives").now();
                self.nodes.iter().map(|node| ring(node).takeover()).collect::<Vec<_>>()
            };
            assert!(
                self.clock.elapsed() < until,
                "seed {}: the shape: {stands:?} {:?}\n{}",
                self.seed,
                takeovers(),
                trace()
            );
        }
    }

    /// Lets time pass until all deletions that there were are forgotten everywhere.
    fn forget_all(&mut self) {
        let all = self.clock.now_ms() + AHEAD_MS;
        let until = self.clock.elapsed() + FORGETTING_MS;
        let is_swept = |node: &Arc<Node>| {
            let ring = node.ring.lock().clone().expect("it lives").now();
            let is_member = ring.layout().members().iter().any(|member| member.node == ring.node());
            !is_member || ring.replica().swept().millis() >= all
        };
        while !self.nodes[self.first..].iter().all(is_swept) {
            self.step();
            let trace = || self.history.lock().end_of_all();
            assert!(self.clock.elapsed() < until, "seed {}: nothing is forgotten\n{}", self.seed, trace());
        }
    }

    /// All that is acknowledged is read, at QUORUM by one node, then at ALL by another.
    fn check(&mut self) {
        let last = self.nodes.len() - 1;
        self.read_all(&[(last, Consistency::Quorum), (last - 1, Consistency::All)]);
    }

    fn read_all(&mut self, by: &[(usize, Consistency)]) {
        for (at, consistency) in by.iter().copied() {
            // By the node itself: elsewhere its clock would be another.
            *self.nodes[at].errand.lock() = Some(consistency);
            while self.nodes[at].errand.lock().is_some() {
                self.step();
            }
        }
    }

    /// All replicas are alike: in what is there, or in every row.
    fn compare(&self, is_live: bool) {
        let names = (0..KEYS).map(entity).chain((0..LOOSE).map(loose)).chain((0..ENDS).map(end));
        let sides = self.nodes[0].sides.lock().names();
        let names = names.chain((0..TRAILS).map(trail)).chain([passing()]).chain(sides);
        for key in names {
            let mut held = Vec::new();
            for node in &self.nodes[self.first..] {
                let ring = node.ring.lock().clone().expect("it lives").now();
                let replica = ring.replica();
                let name = replica.entity_key(TenantId::DEFAULT, &key).expect("a name");
                if ring.layout().replicas(name.partition()).contains(&ring.node()) {
                    let wrong = replica.check_tree(name.partition()).expect("it can be read");
                    assert!(wrong.is_empty(), "seed {}: {key:?} is not in its tree: {wrong:?}", self.seed);
                    let states = replica.held(&[name], allidb_index::Extent::ALL).expect("it can be read");
                    // What a replica made of an update that was refused is nowhere to be seen.
                    let is_seen = !is_live || replica.is_live(&states[0]);
                    held.push(if is_seen { states[0].clone() } else { Default::default() });
                }
            }
            assert_eq!(held.len(), REPLICATION);
            let says_gone = |state: &allidb_index::EntityState| format!("{state:?}").contains("value: None");
            assert!(
                !self.purges || !held.iter().any(says_gone),
                "seed {}: of {key:?} something is not forgotten: {held:#?}",
                self.seed
            );
            let is_alike = held.iter().all(|state| *state == held[0]);
            assert!(
                is_alike,
                "seed {}: {key:?} differs: {held:#?}\n{}",
                self.seed,
                self.history.lock().end_of_all()
            );
        }
    }
}
