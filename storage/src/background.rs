//! Where flush and compaction run: injected, so that a simulation can run them in the writer's call.

use std::fmt::Debug;
use std::thread;

/// Starts background work.
pub trait Background: Send + Sync + Debug {
    /// Runs `work` until it returns; it does so soon after the engine is dropped or closed. Never
    /// called if [`is_inline`](Background::is_inline). False if it cannot be started; then it is dropped, and the log says why.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> bool;

    /// Whether flush and compaction run in the call that made them due, instead of in work of their own.
    fn is_inline(&self) -> bool;

    /// Runs `work` in this call where that is so, and starts it otherwise.
    fn run(&self, name: &str, work: Box<dyn FnOnce() + Send>) {
        if self.is_inline() {
            work();
        } else {
            // Why it is not started, if so, the log says.
            self.spawn(name, work);
        }
    }
}

/// Has the calling thread give way, for as long as it lives, to the others where they compete for a CPU: for work that nobody waits for.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, LOW_PRIORITY) {
        tracing::debug!(%error, "a background thread could not be given a lower priority");
    }
}

/// Niceness, at which a thread gets a tenth of a CPU that another one wants, too.
#[cfg(target_os = "linux")]
const LOW_PRIORITY: i32 = 10;

/// One thread of the operating system for each piece of work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

impl Background for Threads {
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> bool {
        let started = thread::Builder::new().name(name.to_owned()).spawn(work);
        if let Err(error) = &started {
            tracing::error!(name, %error, "cannot start a background thread");
        }
        started.is_ok()
    }

    fn is_inline(&self) -> bool {
        false
    }
}

/// No threads: flush and compaction run in the writer's call. Makes every run of the same calls the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Background for Inline {
    fn spawn(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> bool {
        work();
        true
    }

    fn is_inline(&self) -> bool {
        true
    }
}
