//! A write from when it is asked for until it is decided, and what those before it in its batch change about it.

use std::{collections::BTreeSet, sync::Arc};

use allidb_index::{Error, Hint, Mutation, Result, Version, model::Written};
use tokio::task::JoinSet;

use super::{
    settle::{Doubt, Settled},
    verdict::{Pending, Side, Told, Verdict},
    write::Report,
};
use crate::layout::NodeId;

/// A write, and what it comes to.
pub(super) struct Underway {
    pub(super) mutation: Arc<Mutation>,
    pub(super) pending: Pending,
    /// `None`: it is not decided yet.
    pub(super) result: Option<Result<Written>>,
    /// Nodes that are to get it later.
    pub(super) missed: Vec<NodeId>,
    /// Whether somebody finds out what a quorum knows of what it is for.
    is_settling: bool,
    /// Whether it says something else by now: then whoever made it before must make it again.
    is_other: bool,
    /// Who has done so.
    made_other: Vec<NodeId>,
    /// Whether it is to be made at another version if something newer hides it.
    pub(super) is_renewed: bool,
    /// What is asked for before it is made at this version, as was found while it was being settled.
    floor: Option<Version>,
    /// When it was found out last what a quorum holds of what it is for, what was before it was made at this version.
    asked_since: Option<Version>,
    /// What is to be made for sure: an edge that would otherwise be seen from one end alone.
    pub(super) posted: Vec<Hint>,
}

/// What was asked for after a write stays after it when that is made at another version: of later writes of the same things, those that are
/// decided or will be must be made at another one, too. `is_made` says whether enough have made that one.
pub(super) fn later(
    writes: &mut [Underway],
    place: usize,
    version: Version,
    is_made: bool,
) -> Vec<(usize, Doubt)> {
    let (until, later) = writes.split_at_mut((place + 1).min(writes.len()));
    let Some(mutation) = until.last().map(|write| Arc::clone(&write.mutation)) else { return Vec::new() };
    let later = later.iter_mut().enumerate().filter(|(_, write)| write.is_about(&mutation));
    later.filter_map(|(at, write)| Some((place + 1 + at, write.comes_after(version, is_made)?))).collect()
}

/// Parts of a batch that are made one after the other. Whether what an update is for is there is found out at a quorum if replicas are of
/// several minds: by then nothing may be there that comes later in the batch and has the entity come to be, or ends it.
pub(super) fn runs(mutations: &[Arc<Mutation>]) -> Vec<&[Arc<Mutation>]> {
    let (mut runs, mut start, mut needed) = (Vec::new(), 0, BTreeSet::new());
    for (at, mutation) in mutations.iter().enumerate() {
        if mutation.needs_entity() {
            needed.extend(mutation.entities());
        } else if !mutation.is_edge() && mutation.entities().any(|entity| needed.contains(entity)) {
            runs.extend(mutations.get(start..at));
            (start, needed) = (at, BTreeSet::new());
        }
    }
    runs.extend(mutations.get(start..));
    runs
}

/// Writes that are not made yet come after one that was made at this version, if they are about the same things.
pub(super) fn follow(writes: &mut [Underway], before: &Mutation, version: Version) {
    for write in writes.iter_mut().filter(|write| write.is_about(before)) {
        let doubt = write.comes_after(version, true);
        debug_assert!(doubt.is_none(), "nothing is decided yet");
    }
}

impl Underway {
    pub(super) fn new(mutation: Arc<Mutation>, sides: Vec<Side>, is_renewed: bool) -> Self {
        Self {
            mutation,
            pending: Pending::new(sides),
            result: None,
            missed: Vec::new(),
            is_settling: false,
            is_other: false,
            made_other: Vec::new(),
            is_renewed,
            floor: None,
            asked_since: None,
            posted: Vec::new(),
        }
    }

    fn is_about(&self, mutation: &Mutation) -> bool {
        self.mutation.entities().any(|entity| mutation.entities().any(|other| other == entity))
    }

    /// Takes note of what a node says. Gives what must be resolved now.
    pub(super) fn hears(&mut self, node: NodeId, told: &Told) -> Option<Doubt> {
        // Also those that know of no such entity: if others do, they will.
        if !matches!(told, Told::Made { .. }) || (self.is_other && !self.made_other.contains(&node)) {
            self.missed.push(node);
        }
        if self.is_other {
            return None;
        }
        self.pending.note(node, told);
        if self.result.is_some() || self.is_settling {
            return None;
        }
        let verdict = self.pending.verdict();
        if self.floor.is_some() && matches!(verdict, Verdict::Made { .. } | Verdict::Missing) {
            return Some(self.reopens());
        }
        let subject = self.mutation.subject();
        let (collection, id) = (|| subject.collection.clone(), || subject.id.clone());
        self.result = match verdict {
            Verdict::Open => None,
            Verdict::Made { existed } => match self.pending.overtaken_by.filter(|_| self.is_renewed) {
                None => Some(Ok(self.written(existed))),
                Some(newer) => {
                    self.is_settling = true;
                    return Some(Doubt::Overtaken(newer));
                }
            },
            Verdict::Missing => Some(Err(Error::NotFound { collection: collection(), id: id() })),
            Verdict::Merged(into) => Some(Err(Error::Merged { collection: collection(), id: id(), into })),
            Verdict::Failed(error) => Some(Err(error)),
            Verdict::Disputed => {
                self.is_settling = true;
                return Some(Doubt::Disputed);
            }
        };
        None
    }

    /// Takes note that what was asked for before it is made at this version now, and whether enough have made that. Gives what must be resolved, if
    /// it was decided already: nobody was told, as not all are.
    fn comes_after(&mut self, version: Version, is_made: bool) -> Option<Doubt> {
        if !self.is_renewed || self.mutation.version() >= version {
            return None;
        }
        let depends = self.mutation.needs_entity();
        if depends && !is_made {
            // Whether what it is for is there is found out then.
            return None;
        }
        if depends || self.is_settling {
            self.floor = self.floor.max(Some(version));
        }
        if self.is_settling {
            return None;
        }
        match &self.result {
            Some(Ok(_) | Err(Error::NotFound { .. })) if depends => Some(self.reopens()),
            Some(Ok(_)) => {
                (self.result, self.is_settling) = (None, true);
                Some(Doubt::Overtaken(version))
            }
            Some(Err(_)) => None,
            None => {
                self.pending.overtaken_by = self.pending.overtaken_by.max(Some(version));
                None
            }
        }
    }

    /// It is to be found out again what a quorum holds, by now.
    fn reopens(&mut self) -> Doubt {
        (self.result, self.is_settling, self.asked_since) = (None, true, self.floor);
        Doubt::Disputed
    }

    /// Whether it may have been made, and nobody was told so.
    pub(super) fn is_unacknowledged(&self) -> bool {
        match &self.result {
            Some(Err(Error::Unavailable(_) | Error::DeadlineExceeded)) => true,
            Some(Err(Error::Exhausted(_))) => !self.pending.is_made_nowhere(),
            _ => false,
        }
    }

    /// Nodes that may have made it, or not.
    pub(super) fn unheard(&self) -> Vec<NodeId> {
        let refused = self.pending.unmet();
        self.missed.iter().copied().filter(|node| !refused.contains(node)).collect()
    }

    /// Takes note that nodes have made what it is by now.
    pub(super) fn is_made_by(&mut self, nodes: &[NodeId]) {
        self.missed.retain(|node| !nodes.contains(node));
        if self.is_other {
            self.made_other.extend(nodes);
            self.pending.convinced(&self.made_other, true);
        } else {
            self.pending.convinced(nodes, false);
        }
    }

    /// Takes note of how it is to be made. Gives what must be resolved before it is answered.
    pub(super) fn settles(&mut self, settled: Settled, tasks: &mut JoinSet<Report>) -> Option<Doubt> {
        let Settled { place, outcome, convinced, mut rest, why, posted } = settled;
        self.is_settling = false;
        self.posted.extend(posted);
        let subject = self.mutation.subject();
        self.result = Some(match outcome {
            Err(error) => Err(error),
            Ok(None) => {
                Err(Error::NotFound { collection: subject.collection.clone(), id: subject.id.clone() })
            }
            Ok(Some((mutation, is_other))) => {
                if is_other {
                    self.made_other.clear();
                    let replicas = self.pending.sides.iter().flat_map(|side| side.replicas.iter().copied());
                    self.missed.extend(replicas);
                }
                (self.mutation, self.is_other) = (Arc::new(mutation), self.is_other || is_other);
                self.is_made_by(&convinced);
                let version = self.mutation.version();
                tasks.spawn(async move {
                    let mut late = Vec::new();
                    while let Some(done) = rest.join_next().await {
                        late.extend(done.ok().and_then(|(node, told)| told.is_made().then_some(node)));
                    }
                    Report::Convinced(place, version, late)
                });
                match self.pending.verdict() {
                    Verdict::Made { existed } => Ok(self.written(existed)),
                    Verdict::Failed(error) => Err(error),
                    _ => Err(why.unwrap_or_else(|| {
                        Error::Unavailable("replicas do not agree on what the write is for".to_owned())
                    })),
                }
            }
        });
        if self.floor.is_some() && self.mutation.needs_entity() && self.asked_since < self.floor {
            return Some(self.reopens());
        }
        // Something before it was made at a newer version meanwhile, or was found where it was made: a quorum may hold what hides that by now.
        let found = self.pending.overtaken_by.filter(|_| self.is_renewed && !self.is_other);
        let floor = self.floor.take().max(found)?;
        if !matches!(self.result, Some(Ok(_))) || self.mutation.version() >= floor {
            return None;
        }
        (self.result, self.is_settling) = (None, true);
        Some(Doubt::Overtaken(floor))
    }

    fn written(&self, existed: bool) -> Written {
        Written { version: self.mutation.version(), existed, overtaken_by: None }
    }

    /// Whether it was refused, and nobody made it.
    pub(super) fn is_made_nowhere(&self) -> bool {
        matches!(self.result, Some(Err(Error::NotFound { .. } | Error::Merged { .. })))
            && self.pending.is_made_nowhere()
    }
}
