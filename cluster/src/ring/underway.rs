//! A write from when it is asked for until it is decided.

use std::sync::Arc;

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
    /// The version at which it was planned first.
    pub(super) asked: Version,
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
    /// Whether a quorum knows of what it is for: it is to be made whatever others know.
    is_settled: bool,
    /// What is to be made for sure: an edge that would otherwise be seen from one end alone.
    pub(super) posted: Vec<Hint>,
}

impl Underway {
    pub(super) fn new(mutation: Arc<Mutation>, asked: Version, sides: Vec<Side>, is_renewed: bool) -> Self {
        Self {
            mutation,
            asked,
            pending: Pending::new(sides),
            result: None,
            missed: Vec::new(),
            is_settling: false,
            is_other: false,
            made_other: Vec::new(),
            is_renewed,
            is_settled: false,
            posted: Vec::new(),
        }
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
        let subject = self.mutation.subject();
        let (collection, id) = (|| subject.collection.clone(), || subject.id.clone());
        self.result = match self.pending.verdict() {
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
                self.is_settled = true;
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
                    _ => Err(match why {
                        // What the caller can do about it is another thing than if they were away.
                        Some(
                            error @ (Error::DeadlineExceeded | Error::Exhausted(_) | Error::Late { .. }),
                        ) => error,
                        why => {
                            let why = why.map_or_else(String::new, |error| format!("; {error}"));
                            let what = "replicas do not agree on what the write is for";
                            Error::Unavailable(format!("{what}{why}"))
                        }
                    }),
                }
            }
        });
        // Where it was made it met something newer: what a quorum holds by now may hide that.
        let newer = self.pending.overtaken_by.filter(|_| self.is_renewed)?;
        if !matches!(self.result, Some(Ok(_))) || self.mutation.version() >= newer {
            return None;
        }
        (self.result, self.is_settling) = (None, true);
        Some(Doubt::Overtaken(newer))
    }

    fn written(&self, existed: bool) -> Written {
        Written { version: self.mutation.version(), existed, overtaken_by: None }
    }

    /// Whether it was refused, and nobody is known to have made it, nor is to.
    pub(super) fn is_made_nowhere(&self) -> bool {
        let is_refused = matches!(self.result, Some(Err(Error::NotFound { .. } | Error::Merged { .. })))
            || (matches!(self.result, Some(Err(_))) && self.pending.is_refused_by_all());
        is_refused && !self.is_settled && self.pending.is_made_nowhere()
    }
}
