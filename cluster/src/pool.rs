//! Bounded threads for blocking work: commits wait for the disk, searches burn CPU, and neither may hold
//! up the threads that serve connections.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use allidb_index::{Deadline, Error, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// A caller that waits. Dropped, it has gone away.
#[derive(Default)]
struct Waiting {
    gone: Arc<AtomicBool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// Threads with a bounded queue before them.
pub(crate) struct Pool {
    name: &'static str,
    is_inline: bool,
    queue: Mutex<Option<SyncSender<Work>>>,
    queued: Arc<AtomicUsize>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads` threads with room for `queue` waiting pieces of work.
    pub(crate) fn start(name: &'static str, threads: usize, queue: usize) -> Result<Self> {
        let (sender, receiver) = sync_channel::<Work>(queue.max(1));
        let receiver = Arc::new(Mutex::new(receiver));
        let queued = Arc::new(AtomicUsize::new(0));
        for at in 0..threads.max(1) {
            let (receiver, queued) = (Arc::clone(&receiver), Arc::clone(&queued));
            let started = thread::Builder::new().name(format!("{name}-{at}")).spawn(move || {
                while let Some(work) = next(&receiver) {
                    queued.fetch_sub(1, Ordering::Relaxed);
                    // A panic is its caller's failure, not the thread's end: the others still need it.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        tracing::error!(pool = name, "a request panicked");
                    }
                }
            });
            started.map_err(|error| {
                Error::FailedPrecondition(format!("cannot start a {name} thread: {error}"))
            })?;
        }
        Ok(Self { name, is_inline: false, queue: Mutex::new(Some(sender)), queued })
    }

    /// No threads: work is done at once by whoever asks for it, so that a simulation can be repeated.
    pub(crate) fn inline(name: &'static str) -> Self {
        Self { name, is_inline: true, queue: Mutex::default(), queued: Arc::default() }
    }

    /// Runs `work` on one of the threads. If the caller stops waiting it is not begun; once begun, it ends early where it looks at
    /// a [`Deadline`].
    ///
    /// # Errors
    /// [`Error::Exhausted`] if the queue is full, [`allidb_storage::Error::Closed`] if the pool is closed,
    /// [`Error::Internal`] if the work panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if self.is_inline {
            return Ok(work());
        }
        let (answer, answered) = oneshot::channel();
        // Begun with the waiting, ended with the work.
        let span = tracing::debug_span!("work", pool = self.name).or_current();
        let waiting = Waiting::default();
        let gone = Arc::clone(&waiting.gone);
        let work: Work = Box::new(move || {
            if gone.load(Ordering::Relaxed) {
                return;
            }
            let result = Deadline::watch(gone, || span.in_scope(work));
            // A caller that has gone away wants no answer.
            drop(answer.send(result));
        });
        let closed = || Error::from(allidb_storage::Error::Closed);
        {
            let queue = self.queue.lock();
            let queue = queue.as_ref().ok_or_else(closed)?;
            self.queued.fetch_add(1, Ordering::Relaxed);
            queue.try_send(work).map_err(|refused| {
                self.queued.fetch_sub(1, Ordering::Relaxed);
                match refused {
                    TrySendError::Full(_) => {
                        Error::Exhausted(format!("too many requests wait for a {} thread", self.name))
                    }
                    TrySendError::Disconnected(_) => closed(),
                }
            })?;
        }
        answered.await.map_err(|_| Error::Internal(format!("a {} request panicked", self.name)))
    }

    /// Pieces of work that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Takes no more work; what is queued still runs.
    pub(crate) fn close(&self) {
        self.queue.lock().take();
    }
}

fn next(receiver: &Mutex<Receiver<Work>>) -> Option<Work> {
    receiver.lock().recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_is_an_error_of_its_caller_alone() {
        let pool = Arc::new(Pool::start("test", 1, 1).unwrap());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = oneshot::channel();
        let busy = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                pool.run(move || {
                    started.send(()).unwrap();
                    wait.recv().unwrap();
                })
                .await
            }
        });
        has_started.await.unwrap();
        let mut waiting = Box::pin(pool.run(|| 7));
        assert!(poll_once(&mut waiting).await.is_none(), "it waits");
        assert!(matches!(pool.run(|| 8).await, Err(Error::Exhausted(_))));
        assert_eq!(pool.queued(), 1);
        go.send(()).unwrap();
        assert_eq!(waiting.await.unwrap(), 7);
        busy.await.unwrap().unwrap();
        let panicked: Result<()> = pool.run(|| panic!("on purpose")).await;
        assert!(matches!(panicked, Err(Error::Internal(_))));
        assert_eq!(pool.run(|| 9).await.unwrap(), 9, "the thread goes on");
        pool.close();
        assert!(matches!(pool.run(|| 10).await, Err(Error::Storage(_))));
    }

    #[tokio::test]
    async fn work_of_a_caller_that_goes_away_ends_or_is_not_begun() {
        let pool = Arc::new(Pool::start("test", 1, 4).unwrap());
        let (started, has_started) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let busy = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                let deadline = Deadline::after(std::time::Duration::from_secs(60));
                pool.run(move || {
                    started.send(()).unwrap();
                    while deadline.check().is_ok() {
                        thread::yield_now();
                    }
                    ended.send(std::time::Instant::now()).unwrap();
                })
                .await
            }
        });
        has_started.await.unwrap();
        let begun = Arc::new(AtomicBool::new(false));
        let mut later = Box::pin(pool.run({
            let begun = Arc::clone(&begun);
            move || begun.store(true, Ordering::Relaxed)
        }));
        assert!(poll_once(&mut later).await.is_none(), "it waits");
        drop(later);
        let gone = std::time::Instant::now();
        busy.abort();
        let took = has_ended.await.unwrap() - gone;
        assert!(took < std::time::Duration::from_millis(50), "{took:?}");
        assert_eq!(pool.run(|| 9).await.unwrap(), 9);
        assert!(!begun.load(Ordering::Relaxed));
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
