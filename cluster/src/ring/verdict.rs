//! How a write stands at the replicas of what it touches, and what that comes to.

use allidb_index::{Error, Version};

use crate::{coordinator::Consistency, layout::NodeId};

/// What one replica says of a write.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// It made it. Whether what it is for was there before, and something newer that hides it.
    Made { existed: bool, overtaken_by: Option<Version> },
    /// It knows of no such entity.
    Missing,
    /// What it replaces has expired.
    Expired,
    /// What it is for was merged into this one.
    Merged(String),
    /// It could not, or nobody knows whether it did.
    Failed(Error),
}

impl Told {
    pub(super) fn is_made(&self) -> bool {
        matches!(self, Self::Made { .. })
    }
}

/// How a write stands at the replicas of one partition by one layout.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) replicas: Vec<NodeId>,
    /// Whether they know what there is; those of a layout to come may not have heard of it yet.
    is_told: bool,
    /// How many must acknowledge it.
    pub(super) needed: usize,
    acknowledged: usize,
    /// Nodes that knew of no such entity, or of one that expired.
    unmet: Vec<NodeId>,
    failed: usize,
}

impl Side {
    pub(super) fn new(replicas: Vec<NodeId>, needed: usize, is_told: bool) -> Self {
        Self { replicas, is_told, needed, acknowledged: 0, unmet: Vec::new(), failed: 0 }
    }
}

/// What is known of a write until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// One for each partition that it touches, and each layout.
    pub(super) sides: Vec<Side>,
    existed: bool,
    has_expired: bool,
    merged_into: Option<String>,
    /// The newest that hides it where it was made.
    pub(super) overtaken_by: Option<Version>,
    /// What went wrong last.
    error: Option<Error>,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Verdict {
    Made {
        existed: bool,
    },
    /// It is not known yet.
    Open,
    /// Of those that answered some have what it is for, and some have not; or it has expired.
    Disputed,
    /// As far as a quorum knows, what it is for is not there.
    Missing,
    Merged(String),
    Failed(Error),
}

impl Verdict {
    /// What it comes to if some have not made it who may not have heard yet of what it is for: if others have, what those know decides.
    fn and_unheard(self) -> Self {
        match self {
            Self::Made { .. } => Self::Disputed,
            other => other,
        }
    }
}

impl Pending {
    pub(super) fn new(sides: Vec<Side>) -> Self {
        Self { sides, existed: false, has_expired: false, merged_into: None, overtaken_by: None, error: None }
    }

    /// Takes note of what a replica says.
    pub(super) fn note(&mut self, node: NodeId, told: &Told) {
        for side in self.sides.iter_mut().filter(|side| side.replicas.contains(&node)) {
            match told {
                Told::Made { .. } => side.acknowledged += 1,
                Told::Missing | Told::Expired => side.unmet.push(node),
                Told::Merged(_) | Told::Failed(_) => side.failed += 1,
            }
        }
        match told {
            Told::Made { existed, overtaken_by } => {
                self.existed |= existed;
                self.overtaken_by = self.overtaken_by.max(*overtaken_by);
            }
            Told::Missing => {}
            Told::Expired => self.has_expired = true,
            Told::Merged(into) => self.merged_into = Some(into.clone()),
            Told::Failed(error) => self.error = Some(error.clone()),
        }
    }

    /// Takes note that nodes made it after all, which did not before; if it is another write by now, who made the one before counts no more.
    pub(super) fn convinced(&mut self, nodes: &[NodeId], is_other: bool) {
        for side in &mut self.sides {
            if is_other {
                side.acknowledged = side.replicas.iter().filter(|node| nodes.contains(node)).count();
                side.unmet.clear();
                continue;
            }
            let before = side.unmet.len();
            side.unmet.retain(|node| !nodes.contains(node));
            side.acknowledged += before - side.unmet.len();
        }
    }

    /// Nodes that did not make it because of what they know.
    pub(super) fn unmet(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.sides.iter().flat_map(|side| side.unmet.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether a quorum of each partition's replicas made it.
    pub(super) fn is_at_quorum(&self) -> bool {
        self.sides.iter().all(|side| side.acknowledged >= Consistency::Quorum.needed(side.replicas.len()))
    }

    /// Whether all replicas know of nothing that it could be for, or that it has expired.
    pub(super) fn is_refused_by_all(&self) -> bool {
        self.sides.iter().all(|side| side.unmet.len() == side.replicas.len())
    }

    /// Whether nobody made it.
    pub(super) fn is_made_nowhere(&self) -> bool {
        self.sides.iter().all(|side| side.acknowledged == 0)
    }

    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Made { existed: self.existed };
        for side in &self.sides {
            if side.acknowledged >= side.needed {
                continue;
            }
            let (unmet, all) = (side.unmet.len(), side.replicas.len());
            if side.acknowledged + unmet >= side.needed {
                // One alone may just not have heard of it: what fewer than a quorum know decides only when nobody else is left.
                let is_known = unmet >= Consistency::Quorum.needed(all) || unmet + side.failed == all;
                if !side.is_told {
                    verdict = verdict.and_unheard();
                    continue;
                }
                match side.acknowledged {
                    0 if !is_known => verdict = Verdict::Open,
                    0 if !self.has_expired => return Verdict::Missing,
                    _ => return Verdict::Disputed,
                }
                continue;
            }
            if side.failed > side.replicas.len().saturating_sub(side.needed) {
                return self.failure(side);
            }
            verdict = Verdict::Open;
        }
        verdict
    }

    fn failure(&self, side: &Side) -> Verdict {
        if let Some(into) = &self.merged_into {
            return Verdict::Merged(into.clone());
        }
        // What the caller can do about it is another thing than if they were away.
        if let Some(error @ (Error::DeadlineExceeded | Error::Exhausted(_) | Error::Late { .. })) =
            &self.error
        {
            return Verdict::Failed(error.clone());
        }
        let why = self.error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
        let (acknowledged, all, needed) = (side.acknowledged, side.replicas.len(), side.needed);
        let why = format!("{acknowledged} of {all} replicas acknowledged the write, {needed} must{why}");
        Verdict::Failed(Error::Unavailable(why))
    }
}
