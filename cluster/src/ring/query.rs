//! Queries over the ring: nodes that together hold everything tell what their clauses find, a walk goes on from there, and the hits are
//! read before they are told.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use allidb_index::{
    EntityKey, EntityState, Error, Extent, PARTITIONS, Replica, Result,
    graph::RingWalk,
    query::{Answer, Coverage, Gathering, PlanStep, Query, Share, ShareRequest},
};

use super::{
    Inner, Ring, Terms,
    ask::Asked,
    counts::count,
    read::Pace,
    walk::{ASKED, Lost, ToldBy},
};
use crate::{coordinator::Consistency, layout::NodeId};

/// How often everything is asked again, because something else was told of hits than they are. Reading them has repaired the replicas that told it.
const ROUNDS: usize = 8;

/// So few seeds, from which no walk goes on, are read with the hits.
const FEW: usize = 64;

/// Once through everything.
#[derive(Default)]
struct Round {
    /// From when on, in milliseconds, writes are forgiven that were not seen.
    forgives: Option<u64>,
    told_by: ToldBy,
    lost: Lost,
    /// Seeds that remain to be read.
    unread: Vec<EntityKey>,
    steps: Vec<PlanStep>,
}

/// What was done, for whoever asks for a profile.
fn step(what: &'static str, begun: Instant, actual: usize, how: String) -> PlanStep {
    PlanStep { depth: 0, what, how, estimate: None, actual: actual as u64, took: begun.elapsed() }
}

impl Ring {
    /// Answers a query. At QUORUM and ALL nothing is a hit for what it was before a write that was acknowledged when the query came.
    ///
    /// # Errors
    /// If it is wrong, or too few replicas answer.
    pub async fn query(&self, query: Query, terms: Terms) -> Result<Answer> {
        self.replica().check_query(&query)?;
        let (mut answer, lost) = self.0.query(query, terms).await?;
        if !lost.is_empty() {
            count(&self.0.served.counters.queries_partial);
        }
        let total = usize::from(PARTITIONS);
        answer.coverage = Some(Coverage { answered: total - lost.len(), total });
        Ok(answer)
    }
}

impl Inner {
    /// The answer, and what it is not about.
    async fn query(self: &Arc<Self>, mut query: Query, terms: Terms) -> Result<(Answer, Lost)> {
        let Terms { tenant, consistency, deadline, .. } = terms;
        let (mask, explains, profiles) = (query.read_mask.clone(), query.explain, query.profile);
        let mut steps = Vec::new();
        let begun = self.served.replica.wall().now_ms();
        let mut truncated = Vec::new();
        let mut lost_within = Lost::new();
        let inside = match query.within.take() {
            Some(within) => {
                let answer = Box::pin(self.query(within.bare(), terms)).await;
                let (answer, lost) = answer.map_err(|error| error.within("within"))?;
                (truncated, lost_within) = (answer.truncated, lost);
                let (replica, hits) = (&self.served.replica, answer.hits.iter());
                let keys = hits.map(|hit| replica.entity_key(tenant, &hit.entity_ref()));
                Some(keys.collect::<Result<Vec<_>>>()?)
            }
            None => None,
        };
        let examples = self.served.replica.examples(tenant, &query)?;
        let whole = Extent { contents: true, edges: false };
        let all = Terms { may_be_partial: false, ..terms };
        let examples = self.known_states(examples, whole, all, &mut Lost::new()).await?;
        let begin = move |replica: &Replica| replica.gathering(tenant, query, &examples, inside, deadline);
        let mut gathering = self.search(begin).await?;
        let mut extent = Extent::of(&mask);
        extent.contents |= gathering.shows_chunks();
        let keeps_contents = extent.contents;
        // What was told of a vector is compared with it.
        extent.contents |= consistency != Consistency::One;
        let mut states = BTreeMap::new();
        for round in 0..ROUNDS {
            gathering.restart();
            if round > 0 {
                count(&self.served.counters.queries_repeated);
            }
            // What comes while the query is answered may be seen or not.
            let forgives = (round > 0).then_some(begun);
            let mut round = Round { forgives, lost: lost_within.clone(), ..Round::default() };
            let is_whole;
            (gathering, is_whole) = self.gather(gathering, &mut round, terms).await?;
            steps.append(&mut round.steps);
            if !is_whole {
                continue;
            }
            let begun = Instant::now();
            let hits: Vec<EntityKey>;
            (gathering, hits) = self.think(gathering, move |_, gathering| gathering.page(deadline)).await?;
            let mut read = hits;
            read.append(&mut round.unread);
            read.sort_unstable();
            read.dedup();
            let mut behind = Vec::new();
            let (mut pace, mut bytes) = (Pace::default(), 0);
            while !read.is_empty() {
                let some = pace.take(&mut read);
                let found = self.known_reads(some, extent, terms, &mut round.lost).await?;
                pace.note(found.iter().map(|(_, state, _)| state));
                for (entity, state, was_disputed) in found {
                    if !gathering.is_confirmed(&entity, &state, was_disputed, forgives) {
                        behind.push(entity.clone());
                    }
                    let state = if keeps_contents { state } else { state.without_contents() };
                    bytes += state.bytes();
                    self.served.replica.check_answer(bytes)?;
                    states.insert(entity, state);
                }
            }
            let is_settled = behind.is_empty();
            steps.push(step("read", begun, states.len(), "the hits, of enough replicas".to_owned()));
            // At ONE what a node says is taken for what is.
            if is_settled || consistency == Consistency::One {
                let mut answer = self.finish(gathering, states, explains, terms, &mut round.lost).await?;
                answer.truncated.splice(0..0, truncated);
                answer.steps = if profiles { steps } else { Vec::new() };
                return Ok((answer, round.lost));
            }
            self.repair_tellers(behind, false, &round.told_by, terms).await;
        }
        let why =
            format!("replicas still told of what was otherwise after {ROUNDS} rounds of repair; ask again");
        Err(Error::Unavailable(why))
    }

    /// The answer, once all that it tells of was read.
    async fn finish(
        self: &Arc<Self>,
        gathering: Gathering,
        states: BTreeMap<EntityKey, EntityState>,
        explains: bool,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Answer> {
        let deadline = terms.deadline;
        let steps = match explains {
            true => self.steps(gathering.path_edges(), terms, lost).await?,
            false => Vec::new(),
        };
        let answer = move |replica: &Replica| gathering.answer(replica, &states, steps, deadline);
        self.search(answer).await
    }

    /// Has nodes tell all that is known of a query; false if something else was told of seeds than they are, which was repaired.
    async fn gather(
        self: &Arc<Self>,
        gathering: Gathering,
        round: &mut Round,
        terms: Terms,
    ) -> Result<(Gathering, bool)> {
        let (deadline, begun) = (terms.deadline, Instant::now());
        let shares = self.found(gathering.request(), terms, &mut round.lost).await?;
        for (node, share) in &shares {
            for entity in share.entities() {
                round.told_by.entry(entity.clone()).or_default().push(*node);
            }
        }
        let how = format!("told by {} nodes", shares.len());
        let begin = move |_: &Replica, gathering: &mut Gathering| {
            shares.into_iter().for_each(|(_, share)| gathering.add(share));
            gathering.begin(deadline)
        };
        let (gathering, walk) = self.think(gathering, begin).await?;
        round.steps.push(step("seeds", begun, gathering.seeds().len(), how));
        if terms.consistency != Consistency::One {
            let seeds: Vec<EntityKey> = gathering.seeds().cloned().collect();
            if walk.is_none() && seeds.len() <= FEW {
                round.unread = seeds;
            } else {
                let begun = Instant::now();
                let extent = Extent { contents: gathering.is_about_contents(), edges: false };
                let (mut pace, mut heads, mut behind, mut seeds) = (Pace::default(), 0, Vec::new(), seeds);
                while !seeds.is_empty() {
                    let some = pace.take(&mut seeds);
                    let found = self.known_reads(some, extent, terms, &mut round.lost).await?;
                    pace.note(found.iter().map(|(_, state, _)| state));
                    heads += found.len();
                    let is_behind = |(entity, state, was_disputed): &(EntityKey, EntityState, bool)| {
                        !gathering.is_confirmed(entity, state, *was_disputed, round.forgives)
                    };
                    behind.extend(found.into_iter().filter(is_behind).map(|(entity, ..)| entity));
                }
                round.steps.push(step("check", begun, heads, "the seeds, of enough replicas".to_owned()));
                if !behind.is_empty() {
                    self.repair_tellers(behind, false, &round.told_by, terms).await;
                    return Ok((gathering, false));
                }
            }
        }
        let begun = Instant::now();
        let walk = match walk {
            Some(walk) => Some(self.walk(walk, terms, &mut round.lost).await?),
            None => None,
        };
        let edges = walk.as_ref().map(RingWalk::edges);
        let (mut gathering, unknown) =
            self.think(gathering, move |_, gathering| gathering.walked(walk)).await?;
        let shares = self.told(gathering.request(), unknown, terms, &mut round.lost).await?;
        gathering.tell(shares);
        if let Some(edges) = edges {
            let reached = gathering.reached();
            round.steps.push(step("expand", begun, reached, format!("hop by hop, {edges} edges looked at")));
        }
        Ok((gathering, true))
    }

    /// What the clauses of a query find.
    async fn found(
        self: &Arc<Self>,
        request: &ShareRequest,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<(NodeId, Share)>> {
        let asked = Asked::partitions(self, terms.consistency);
        let told = asked.ask(self, |node, _| Arc::clone(self).answer(node, request.clone(), terms)).await?;
        lost.extend(told.missing.iter().filter_map(|partition| u16::try_from(*partition).ok()));
        let answers = told.answers("partitions", terms)?;
        // What fewer know than must would take the places of what may be told; so would what a node knows that does not hold it yet, or any more.
        let known = |(node, share): (NodeId, Share)| {
            let of_others = (0..PARTITIONS).filter(|partition| !self.tells_of(node, *partition));
            (node, share.without(&of_others.chain(lost.iter().copied()).collect()))
        };
        Ok(answers.into_iter().map(|(node, _, share)| known((node, share))).collect())
    }

    /// What nodes know of entities.
    async fn told(
        self: &Arc<Self>,
        request: &ShareRequest,
        entities: Vec<EntityKey>,
        terms: Terms,
        lost: &mut Lost,
    ) -> Result<Vec<Share>> {
        let tellers = self.tellers_of(entities.iter(), terms.consistency);
        let asked = Asked { tellers, tells_all: false };
        let ask = |node, places: Vec<usize>| {
            let about = places.iter().filter_map(|place| entities.get(*place).cloned());
            let (inner, about) = (Arc::clone(self), about.collect::<Vec<EntityKey>>());
            let request = request.clone();
            async move {
                let mut shares = Vec::new();
                for some in about.chunks(ASKED) {
                    shares.push(Arc::clone(&inner).answer(node, request.of(some.to_vec()), terms).await?);
                }
                Ok(shares)
            }
        };
        let told = asked.ask(self, ask).await?;
        let missing = told.missing.iter().filter_map(|place| entities.get(*place));
        lost.extend(missing.map(EntityKey::partition));
        let answers = told.answers("entities", terms)?;
        Ok(answers.into_iter().flat_map(|(_, _, shares)| shares).collect())
    }
}
