//! For whom something is done: pools take turns between those who ask, so that nobody waits for all that another one wants.

use tokio::task::futures::TaskLocalFuture;
use tracing::{Instrument, instrument::Instrumented};

/// One of those who ask, by a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asker(pub u64);

tokio::task_local! {
    static ASKER: Asker;
}

impl Asker {
    /// For whom the task that runs does what it does; for the node itself, unless something else was said.
    pub(crate) fn current() -> Self {
        ASKER.try_with(|asker| *asker).unwrap_or_default()
    }
}

/// Futures that do something for somebody.
pub trait OnBehalf: Future + Sized {
    /// Does it for this one.
    fn on_behalf_of(self, asker: Asker) -> TaskLocalFuture<Asker, Self> {
        ASKER.scope(asker, self)
    }

    /// Goes on in a task of its own with what belongs to the call that the current one serves: for whom it is, and its span.
    fn in_current_call(self) -> Instrumented<TaskLocalFuture<Asker, Self>> {
        self.on_behalf_of(Asker::current()).in_current_span()
    }
}

impl<F: Future> OnBehalf for F {}
