//! Work of a query that a second thread does while its own is at something else.

use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
};

/// Threads for that: as many as there are cores.
///
/// # Errors
/// Where the operating system refuses them.
pub(crate) fn search_pool() -> Result<ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("search-{at}")).build();
    pool.map_err(|error| Error::FailedPrecondition(format!("cannot start the threads that search: {error}")))
}

/// Does `rest`, which asks for what comes of `aside` when it needs it. Until then another thread may have done that; if none had time, it
/// is done here.
pub(super) fn beside<T: Send + Sync, R>(
    pool: Option<&ThreadPool>,
    aside: &(dyn Fn() -> T + Sync),
    rest: impl FnOnce(&dyn Fn() -> Arc<T>) -> R,
) -> R {
    let done: OnceLock<Arc<T>> = OnceLock::new();
    let get = || Arc::clone(done.get_or_init(|| Arc::new(aside())));
    let Some(pool) = pool else { return rest(&get) };
    let done = &done;
    let on_another_thread = Deadline::carried(move || {
        done.get_or_init(|| Arc::new(aside()));
    });
    pool.in_place_scope(|scope| {
        scope.spawn(|_| on_another_thread());
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
        let pool = search_pool().unwrap();
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
        let pool = search_pool().unwrap();
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
}
