//! Queries over the ring: nodes that together hold everything tell what their clauses find, a walk goes on from there, and the hits are
//! read before they are told.

use std::{collections::BTreeMap, sync::Arc};

use allidb_index::{
    EntityKey, EntityState, Error, Extent, PARTITIONS, Replica, Result,
    query::{Answer, Coverage, Gathering, Query, Share, ShareRequest, Truncation},
};

use super::{Inner, Ring, Terms, ask::Asked, walk::ToldBy};
use crate::{coordinator::Consistency, layout::NodeId};

/// How often everything is asked again, because something else was told of hits than they are. Reading them has repaired the replicas that told it.
const ROUNDS: usize = 8;

impl Ring {
    /// Answers a query. At QUORUM and ALL nothing is a hit for what it was before a write that was acknowledged when the query came.
    ///
    /// # Errors
    /// If it is wrong, or too few replicas answer.
    pub async fn query(&self, query: Query, terms: Terms) -> Result<Answer> {
        self.0.query(query, terms).await
    }
}

impl Inner {
    async fn query(self: &Arc<Self>, mut query: Query, terms: Terms) -> Result<Answer> {
        let Terms { tenant, consistency, deadline, .. } = terms;
        let (mask, explains) = (query.read_mask.clone(), query.explain);
        let begun = self.served.replica.wall().now_ms();
        let mut truncated = Vec::new();
        let mut covered = PARTITIONS as usize;
        let inside = match query.within.take() {
            Some(within) => {
                let answer = Box::pin(self.query(within.bare(), terms)).await;
                let answer = answer.map_err(|error| error.within("within"))?;
                truncated = answer.truncated;
                covered = answer.coverage.map_or(covered, |coverage| coverage.answered);
                let (replica, hits) = (&self.served.replica, answer.hits.iter());
                let keys = hits.map(|hit| replica.entity_key(tenant, &hit.entity_ref()));
                Some(keys.collect::<Result<Vec<_>>>()?)
            }
            None => None,
        };
        let examples = self.served.replica.examples(tenant, &query)?;
        let whole = Extent { contents: true, edges: false };
        let examples = self.known_states(examples, whole, terms).await?;
        let begin = move |replica: &Replica| replica.gathering(tenant, query, &examples, inside, deadline);
        let mut gathering = self.search(begin).await?;
        let mut extent = Extent::of(&mask);
        extent.contents |= gathering.shows_chunks() || consistency != Consistency::One;
        let mut states = BTreeMap::new();
        for round in 0..ROUNDS {
            gathering.restart();
            // What comes while the query is answered may be seen or not.
            let forgives = (round > 0).then_some(begun);
            let mut told_by = ToldBy::new();
            let answered;
            (gathering, answered) = self.gather(gathering, &mut told_by, forgives, terms).await?;
            let Some(answered) = answered else { continue };
            covered = covered.min(answered);
            let hits: Vec<EntityKey>;
            (gathering, hits) = self.think(gathering, move |_, gathering| gathering.page(deadline)).await?;
            let mut is_settled = true;
            for (entity, state, was_disputed) in self.read_beside(hits, extent, &told_by, terms).await? {
                is_settled &= gathering.is_confirmed(&entity, &state, was_disputed, forgives);
                states.insert(entity, state);
            }
            // At ONE what a node says is taken for what is.
            if is_settled || consistency == Consistency::One {
                return self.finish(gathering, states, (covered, truncated), explains, terms).await;
            }
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
        (covered, truncated): (usize, Vec<Truncation>),
        explains: bool,
        terms: Terms,
    ) -> Result<Answer> {
        let deadline = terms.deadline;
        let steps = match explains {
            true => self.steps(gathering.path_edges(), terms).await?,
            false => Vec::new(),
        };
        let answer = move |replica: &Replica| gathering.answer(replica, &states, steps, deadline);
        let mut answer = self.search(answer).await?;
        answer.truncated.splice(0..0, truncated);
        answer.coverage = Some(Coverage { answered: covered, total: usize::from(PARTITIONS) });
        Ok(answer)
    }

    /// Has nodes tell all that is known of a query, and says in how many partitions enough did; `None` if something else was told of seeds than
    /// they are, which was repaired.
    async fn gather(
        self: &Arc<Self>,
        gathering: Gathering,
        told_by: &mut ToldBy,
        forgives: Option<u64>,
        terms: Terms,
    ) -> Result<(Gathering, Option<usize>)> {
        let deadline = terms.deadline;
        let (shares, answered) = self.found(gathering.request(), terms).await?;
        for (node, share) in &shares {
            for entity in share.entities() {
                told_by.entry(entity.clone()).or_default().push(*node);
            }
        }
        let begin = move |_: &Replica, gathering: &mut Gathering| {
            shares.into_iter().for_each(|(_, share)| gathering.add(share));
            gathering.begin(deadline)
        };
        let (gathering, walk) = self.think(gathering, begin).await?;
        if terms.consistency != Consistency::One {
            let heads = self
                .read_beside(gathering.seeds().cloned().collect(), Extent::NOTHING, told_by, terms)
                .await?;
            let is_settled = |(entity, state, was_disputed): &(EntityKey, EntityState, bool)| {
                gathering.is_settled(entity, state, *was_disputed, forgives)
            };
            if !heads.iter().all(is_settled) {
                return Ok((gathering, None));
            }
        }
        let walk = match walk {
            Some(walk) => Some(self.walk(walk, terms).await?),
            None => None,
        };
        let (mut gathering, unknown) =
            self.think(gathering, move |_, gathering| gathering.walked(walk)).await?;
        let shares = self.told(gathering.request(), unknown, terms).await?;
        gathering.tell(shares);
        Ok((gathering, Some(answered)))
    }

    /// What the clauses of a query find, and in how many partitions.
    async fn found(
        self: &Arc<Self>,
        request: &ShareRequest,
        terms: Terms,
    ) -> Result<(Vec<(NodeId, Share)>, usize)> {
        let asked = Asked::partitions(self, terms.consistency);
        let told = asked.ask(self, |node, _| Arc::clone(self).answer(node, request.clone(), terms)).await?;
        let answered = usize::from(PARTITIONS) - told.missing;
        let answers = told.answers("partitions", terms)?;
        Ok((answers.into_iter().map(|(node, _, share)| (node, share)).collect(), answered))
    }

    /// What nodes know of entities.
    async fn told(
        self: &Arc<Self>,
        request: &ShareRequest,
        entities: Vec<EntityKey>,
        terms: Terms,
    ) -> Result<Vec<Share>> {
        let (tellers, consistency) = (self.tellers_of(entities.iter()), terms.consistency);
        let asked = Asked { tellers, consistency, tells_all: false };
        let ask = |node, places: Vec<usize>| {
            let about = places.iter().filter_map(|place| entities.get(*place).cloned()).collect();
            Arc::clone(self).answer(node, request.of(about), terms)
        };
        let answers = asked.ask(self, ask).await?.answers("entities", terms)?;
        Ok(answers.into_iter().map(|(_, _, share)| share).collect())
    }
}
