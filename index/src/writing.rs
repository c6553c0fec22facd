//! Sets that grow while they are written to: they may be sealed once nobody is about to add to them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many are about to add to a set.
#[derive(Debug, Default)]
pub(crate) struct Writers(AtomicUsize);

impl Writers {
    /// Whether nobody will add anything any more, once nobody can begin to.
    pub(crate) fn are_gone(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// A set that counts who writes to it.
pub(crate) trait Grows {
    fn writers(&self) -> &Writers;
}

/// Holds a set open for what is on its way.
#[derive(Debug)]
pub(crate) struct Writing<G: Grows>(Arc<G>);

impl<G: Grows> Writing<G> {
    pub(crate) fn new(growing: &Arc<G>) -> Self {
        growing.writers().0.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(growing))
    }

    pub(crate) fn growing(&self) -> &G {
        &self.0
    }
}

impl<G: Grows> Drop for Writing<G> {
    fn drop(&mut self) {
        self.0.writers().0.fetch_sub(1, Ordering::AcqRel);
    }
}
