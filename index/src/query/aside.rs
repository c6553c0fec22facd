//! Work of a query that a second thread does while its own is at something else.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rayon::ThreadPool;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
};

/// Threads that help with searches.
#[derive(Debug)]
pub(crate) struct SearchPool {
    threads: ThreadPool,
    /// Those that do nothing and have nothing to do.
    idle: AtomicUsize,
}

/// A thread that was idle. Dropped, it is again.
struct Taken<'a>(&'a SearchPool);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.idle.fetch_add(1, Ordering::Release);
    }
}

impl SearchPool {
    /// As many threads as there are cores.
    ///
    /// # Errors
    /// Where the operating system refuses them.
    pub(crate) fn start() -> Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("search-{at}")).build();
        let threads = threads.map_err(|error| {
            Error::FailedPrecondition(format!("cannot start the threads that search: {error}"))
        })?;
        let idle = AtomicUsize::new(threads.current_num_threads());
        Ok(Self { threads, idle })
    }

    /// A thread that is free to begin at once, if there is one: nobody waits for work of others.
    fn take(&self) -> Option<Taken<'_>> {
        let one_less = |idle: usize| idle.checked_sub(1);
        self.idle.fetch_update(Ordering::Acquire, Ordering::Relaxed, one_less).ok().map(|_| Taken(self))
    }
}

/// Tells that nobody needs something any more.
struct Unneeded<'a>(&'a AtomicBool);

impl Drop for Unneeded<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `rest`, which asks for what comes of `aside` when it needs it. Until then another thread, if one is idle, may have done that; if
/// none had time, it is done here. Once `rest` is done, the other thread ends at the next deadline that it looks at.
pub(super) fn beside<T: Send + Sync, R>(
    pool: Option<&SearchPool>,
    aside: &(dyn Fn() -> T + Sync),
    rest: impl FnOnce(&dyn Fn() -> Arc<T>) -> R,
) -> R {
    let done: OnceLock<Arc<T>> = OnceLock::new();
    let get = || Arc::clone(done.get_or_init(|| Arc::new(aside())));
    let Some((pool, taken)) = pool.and_then(|pool| Some((pool, pool.take()?))) else { return rest(&get) };
    let unneeded: Arc<AtomicBool> = Arc::default();
    let done = &done;
    let on_another_thread = Deadline::carried(Arc::clone(&unneeded), move || {
        done.get_or_init(|| Arc::new(aside()));
    });
    pool.threads.in_place_scope(|scope| {
        scope.spawn(move |_| {
            on_another_thread();
            drop(taken);
        });
        let _unneeded = Unneeded(&unneeded);
        rest(&get)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, AtomicUsize, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn it_is_done_once_by_whoever_comes_first() {
        let pool = SearchPool::start().unwrap();
        let own = thread::current().id();
        let mut aside = 0;
        for round in 0..200 {
            let times = AtomicUsize::new(0);
            let work = || {
                times.fetch_add(1, Ordering::Relaxed);
                (round, thread::current().id())
            };
            let (found, by) = beside(Some(&pool), &work, |get| {
                thread::sleep(Duration::from_millis(round % 2));
                assert!(Arc::ptr_eq(&get(), &get()));
                *get()
            });
            assert_eq!((found, times.into_inner()), (round, 1));
            aside += usize::from(by != own);
        }
        assert!(aside > 0, "another thread never helped");
        assert_eq!(*beside(None, &|| 7, |get| get()), 7);
    }

    #[test]
    fn who_has_gone_away_is_gone_for_the_other_thread_too() {
        let pool = SearchPool::start().unwrap();
        let far = Deadline::after(Duration::from_secs(60));
        let own = thread::current().id();
        for is_gone in [true, false] {
            let (begun, begins) = mpsc::sync_channel(1);
            let work = || {
                begun.send(()).unwrap();
                (far.has_passed(), thread::current().id())
            };
            let (seen, by) = Deadline::watch(Arc::new(AtomicBool::new(is_gone)), || {
                beside(Some(&pool), &work, |get| {
                    begins.recv().unwrap();
                    *get()
                })
            });
            assert_eq!(seen, is_gone);
            assert_ne!(by, own);
        }
    }

    #[test]
    fn nobody_waits_for_work_of_others_or_for_what_is_not_needed() {
        let pool = SearchPool::start().unwrap();
        let far = Deadline::after(Duration::from_secs(60));
        let busy: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert!(!busy.is_empty());
        let never = || panic!("nobody asks for it, and nobody has time for it");
        assert_eq!(beside(Some(&pool), &never, |_: &dyn Fn() -> Arc<()>| 7), 7);
        drop(busy);
        let (begun, begins) = mpsc::sync_channel(1);
        let until_unneeded = || {
            begun.send(()).unwrap();
            while far.check().is_ok() {
                thread::yield_now();
            }
        };
        beside(Some(&pool), &until_unneeded, |_| begins.recv().unwrap());
        let busy: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(busy.len(), pool.threads.current_num_threads(), "all are idle again");
    }
}
