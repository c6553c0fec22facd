//! Bounded threads for blocking work: commits wait for the disk, searches burn CPU, and neither may hold
//! up the threads that serve connections.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use allidb_index::{Deadline, Error, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::asker::Asker;

type Work = Box<dyn FnOnce() + Send>;

/// Nanoseconds that whoever comes is taken to have had: an endless row of those who come once would go before all others otherwise.
const NEWCOMER: u64 = 1_000_000;
/// So many askers are remembered without being looked through.
const FEW: usize = 64;
/// Spare threads of a pool that is for many.
pub(crate) const SPARES: usize = 8;
/// How long somebody of whom nothing runs waits before a spare thread does something for him.
const PATIENCE: Duration = Duration::from_millis(20);

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

/// What one asker has waiting, and has had.
#[derive(Default)]
struct Share {
    /// With when it came.
    waiting: VecDeque<(Instant, Work)>,
    running: usize,
    /// Nanoseconds of threads that were spent on it, counted from where the others were when it began to ask.
    spent: u64,
}

impl Share {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// Until when it can wait, if something waits and nothing runs.
    fn starves_from(&self) -> Option<Instant> {
        let (came, _) = self.waiting.front()?;
        (self.running == 0).then(|| *came + PATIENCE)
    }
}

/// What waits, of whom. The thread time that askers had is what they take turns by, so that many small pieces of work do not wait for as many large
/// ones (as in start-time fair queueing: Goyal, Vin and Cheng, 1996; and in Linux's scheduler).
#[derive(Default)]
struct Queue {
    shares: HashMap<Asker, Share>,
    /// Those of whom anything waits, by what they have had.
    turns: BTreeSet<(u64, Asker)>,
    len: usize,
    /// What whoever was served last had had then: who comes now begins there, and is owed nothing for having been away.
    floor: u64,
    /// Shares from which on those are forgotten who have nothing here, and have had no more than others.
    many: usize,
    /// Threads that wait for work.
    sleeping: usize,
    /// Whether one of them has been called, and is not there yet.
    is_waking: bool,
    /// Spare threads that neither work nor watch.
    resting: usize,
    /// Whether one of them sees to it that nobody starves.
    is_watched: bool,
    is_closed: bool,
}

impl Queue {
    /// Whether there is room. Who has nothing there may have one piece of work wait beyond what there is room for, as long as that is not twice as much.
    fn push(&mut self, asker: Asker, work: Work, room: usize) -> bool {
        let has_any = self.shares.get(&asker).is_some_and(|share| !share.waiting.is_empty());
        if self.len >= if has_any { room } else { 2 * room } {
            return false;
        }
        let share = self.shares.entry(asker).or_default();
        if share.is_idle() && share.spent <= self.floor {
            share.spent = self.floor + NEWCOMER;
        }
        share.waiting.push_back((Instant::now(), work));
        self.turns.insert((share.spent, asker));
        self.len += 1;
        true
    }

    /// The next piece of work: of whoever has had least.
    fn pop(&mut self) -> Option<(Asker, Work)> {
        let turn = *self.turns.first()?;
        self.take(turn)
    }

    fn take(&mut self, (spent, asker): (u64, Asker)) -> Option<(Asker, Work)> {
        self.turns.remove(&(spent, asker));
        let share = self.shares.get_mut(&asker)?;
        let (_, work) = share.waiting.pop_front()?;
        if !share.waiting.is_empty() {
            self.turns.insert((spent, asker));
        }
        share.running += 1;
        self.len -= 1;
        self.floor = self.floor.max(spent);
        Some((asker, work))
    }

    /// When the first of those of whom something waits, and nothing runs, has waited for long enough.
    fn starves_from(&self) -> Option<Instant> {
        let starves_from = |(_, asker): &(u64, Asker)| self.shares.get(asker)?.starves_from();
        self.turns.iter().filter_map(starves_from).min()
    }

    /// The next piece of work of somebody who has waited for long enough.
    fn pop_starving(&mut self, now: Instant) -> Option<(Asker, Work)> {
        let starves = |(_, asker): &&(u64, Asker)| {
            let starves_from = self.shares.get(asker).and_then(Share::starves_from);
            starves_from.is_some_and(|from| from <= now)
        };
        let turn = *self.turns.iter().find(starves)?;
        self.take(turn)
    }

    /// Whether a spare thread is to watch: somebody waits of whom nothing runs, and more waits than there are threads that sleep, which take what comes first.
    fn wants_watch(&self) -> bool {
        let may_want = self.len > self.sleeping && !self.is_watched && self.resting > 0;
        may_want && self.starves_from().is_some()
    }

    /// Whether a thread is to be called that sleeps. One at a time: it calls the next one if there is more than it takes.
    fn wakes(&mut self) -> bool {
        let wakes = self.len > 0 && self.sleeping > 0 && !self.is_waking;
        self.is_waking |= wakes;
        wakes
    }

    /// A piece of work has taken so many nanoseconds.
    fn is_done(&mut self, asker: Asker, took: u64) {
        let Some(share) = self.shares.get_mut(&asker) else { return };
        let waits = self.turns.remove(&(share.spent, asker));
        share.running -= 1;
        share.spent = share.spent.saturating_add(took);
        if waits {
            self.turns.insert((share.spent, asker));
        }
        if self.shares.len() > self.many {
            // Others only once these are where they are: who comes back at once would have had nothing otherwise.
            self.shares.retain(|_, share| !share.is_idle() || share.spent > self.floor);
            self.many = 2 * self.shares.len() + FEW;
        }
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    comes: Condvar,
    /// For spare threads.
    starves: Condvar,
}

impl Shared {
    /// Waits for work, once that which was done last, if any, is counted; none if there will be none.
    fn next(&self, done: Option<(Asker, u64)>) -> Option<(Asker, Work)> {
        let mut queue = self.queue.lock();
        done.into_iter().for_each(|(asker, took)| queue.is_done(asker, took));
        loop {
            if let Some(next) = queue.pop() {
                let wakes = (queue.wakes(), queue.wants_watch());
                drop(queue);
                self.wake(wakes);
                return Some(next);
            }
            if queue.is_closed {
                return None;
            }
            queue.sleeping += 1;
            self.comes.wait(&mut queue);
            queue.sleeping -= 1;
            queue.is_waking = false;
        }
    }

    /// The same for a spare thread, which does something only for those of whom nothing runs. Work ends when it ends: who asks for pieces that take
    /// long has all other threads be busy with them, however turns are taken. Then it is left to the kernel to share out the cores.
    fn next_spare(&self, done: Option<(Asker, u64)>) -> Option<(Asker, Work)> {
        let mut queue = self.queue.lock();
        done.into_iter().for_each(|(asker, took)| queue.is_done(asker, took));
        while !queue.is_closed {
            let starves_from = queue.starves_from().filter(|_| !queue.is_watched);
            let Some(from) = starves_from else {
                queue.resting += 1;
                self.starves.wait(&mut queue);
                queue.resting -= 1;
                continue;
            };
            queue.is_watched = true;
            let is_over = self.starves.wait_until(&mut queue, from).timed_out();
            queue.is_watched = false;
            if is_over && let Some(next) = queue.pop_starving(Instant::now()) {
                drop(queue);
                // Another one watches meanwhile.
                self.starves.notify_one();
                return Some(next);
            }
        }
        None
    }

    /// Calls a thread that sleeps, and a spare one to watch.
    fn wake(&self, (wakes, watches): (bool, bool)) {
        if wakes {
            self.comes.notify_one();
        }
        if watches {
            self.starves.notify_one();
        }
    }
}

/// Which work a thread looks for.
type Next = fn(&Shared, Option<(Asker, u64)>) -> Option<(Asker, Work)>;

/// Threads with a bounded queue before them.
pub(crate) struct Pool {
    name: &'static str,
    is_inline: bool,
    room: usize,
    shared: Arc<Shared>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pool {
    /// Starts `threads` threads with room for `queue` waiting pieces of work, and spare ones for those of whom none is done while pieces that take long are
    /// done for others.
    pub(crate) fn start(name: &'static str, threads: usize, spares: usize, queue: usize) -> Result<Self> {
        let pool = Self { name, is_inline: false, room: queue.max(1), shared: Arc::default() };
        let threads = threads.max(1);
        for at in 0..threads + spares {
            let shared = Arc::clone(&pool.shared);
            let next: Next = if at < threads { Shared::next } else { Shared::next_spare };
            let started = thread::Builder::new().name(format!("{name}-{at}")).spawn(move || {
                let mut done = None;
                while let Some((asker, work)) = next(&shared, done) {
                    let begun = Instant::now();
                    // A panic is its caller's failure, not the thread's end: the others still need it.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        tracing::error!(pool = name, "a request panicked");
                    }
                    let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    done = Some((asker, took));
                }
            });
            started.map_err(|error| {
                Error::FailedPrecondition(format!("cannot start a {name} thread: {error}"))
            })?;
        }
        Ok(pool)
    }

    /// No threads: work is done at once by whoever asks for it, so that a simulation can be repeated.
    pub(crate) fn inline(name: &'static str) -> Self {
        Self { name, is_inline: true, room: 0, shared: Arc::default() }
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
        let wakes = {
            let mut queue = self.shared.queue.lock();
            if queue.is_closed {
                return Err(allidb_storage::Error::Closed.into());
            }
            if !queue.push(Asker::current(), work, self.room) {
                return Err(Error::Exhausted(format!("too many requests wait for a {} thread", self.name)));
            }
            (queue.wakes(), queue.wants_watch())
        };
        self.shared.wake(wakes);
        answered.await.map_err(|_| Error::Internal(format!("a {} request panicked", self.name)))
    }

    /// Pieces of work that wait.
    pub(crate) fn queued(&self) -> usize {
        self.shared.queue.lock().len
    }

    /// Takes no more work; what is queued still runs.
    pub(crate) fn close(&self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.comes.notify_all();
        self.shared.starves.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::OnBehalf;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_is_an_error_of_its_caller_alone() {
        let pool = Arc::new(Pool::start("test", 1, 0, 1).unwrap());
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
        let pool = Arc::new(Pool::start("test", 1, 0, 4).unwrap());
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

    #[tokio::test]
    async fn who_asks_little_does_not_wait_for_all_that_others_ask_for() {
        let pool = Arc::new(Pool::start("test", 1, 0, 8).unwrap());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |asker: u64, takes_ms: u64| {
            let order = Arc::clone(&order);
            let work = move || {
                thread::sleep(std::time::Duration::from_millis(takes_ms));
                order.lock().push(asker);
            };
            Box::pin(pool.run(work).on_behalf_of(Asker(asker)))
        };
        let (started, has_started) = oneshot::channel();
        let work = move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
        };
        let mut busy = Box::pin(pool.run(work).on_behalf_of(Asker(1)));
        assert!(poll_once(&mut busy).await.is_none(), "it is under way");
        has_started.await.unwrap();
        let mut asked: Vec<_> = (0..8).map(|_| ask(1, 5)).collect();
        for one in &mut asked {
            assert!(poll_once(one).await.is_none(), "it waits");
        }
        assert!(matches!(ask(1, 0).await, Err(Error::Exhausted(_))), "there is no room for more of this one");
        let mut others: Vec<_> = [2, 3].map(|asker| ask(asker, 1)).into();
        for one in &mut others {
            assert!(poll_once(one).await.is_none(), "there is room for others");
        }
        assert_eq!(pool.queued(), 10);
        go.send(()).unwrap();
        for one in asked.into_iter().chain(others) {
            one.await.unwrap();
        }
        let order = order.lock().clone();
        // One piece of the first may have begun by then.
        assert!([2, 3].iter().all(|asker| order[..3].contains(asker)), "{order:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_threads_work_where_there_is_work_for_them() {
        let pool = Arc::new(Pool::start("test", 4, 0, 100).unwrap());
        for _ in 0..200 {
            let all = Arc::new(std::sync::Barrier::new(4));
            let mut asked = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (pool, all) = (Arc::clone(&pool), Arc::clone(&all));
                // None ends before all have begun.
                asked.spawn(async move { pool.run(move || all.wait().is_leader()).await });
            }
            let waited = tokio::time::timeout(std::time::Duration::from_secs(20), asked.join_all()).await;
            assert!(waited.expect("no thread sleeps").into_iter().all(|run| run.is_ok()));
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_the_end_of_what_takes_others_long() {
        let pool = Arc::new(Pool::start("test", 2, 2, 100).unwrap());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let long = |asker: u64| {
            let wait = Arc::clone(&wait);
            let work = move || wait.lock().recv().unwrap();
            Box::pin(pool.run(work).on_behalf_of(Asker(asker)))
        };
        // All at once, while both threads sleep: who comes last is not forgotten as they wake.
        for _ in 0..100 {
            let mut of_one: Vec<_> = (0..4).map(|_| long(1)).collect();
            for one in &mut of_one {
                assert!(poll_once(one).await.is_none(), "it waits");
            }
            let begun = Instant::now();
            assert_eq!(pool.run(|| 7).on_behalf_of(Asker(2)).await.unwrap(), 7);
            assert!(begun.elapsed() < Duration::from_secs(5));
            (0..4).for_each(|_| go.send(()).unwrap());
            for one in of_one {
                one.await.unwrap();
            }
        }
        let mut of_one: Vec<_> = (0..10).map(|_| long(1)).collect();
        for one in &mut of_one {
            assert!(poll_once(one).await.is_none(), "it waits");
        }
        while pool.queued() > 8 {
            thread::yield_now();
        }
        // Again and again, though neither of both threads is free.
        for asker in [2, 3, 2, 2, 4] {
            let begun = Instant::now();
            assert_eq!(pool.run(|| 7).on_behalf_of(Asker(asker)).await.unwrap(), 7);
            let took = begun.elapsed();
            assert!((PATIENCE..Duration::from_secs(5)).contains(&took), "{took:?}");
        }
        // Who has something run already waits, and so does who comes once all spare threads are busy.
        let mut of_others: Vec<_> = [5, 6, 6, 7].map(&long).into();
        for one in &mut of_others {
            assert!(poll_once(one).await.is_none(), "it waits");
        }
        let begun = Instant::now();
        while pool.queued() > 10 {
            assert!(begun.elapsed() < Duration::from_secs(5), "{} wait", pool.queued());
            thread::sleep(PATIENCE);
        }
        thread::sleep(4 * PATIENCE);
        assert_eq!(pool.queued(), 8 + 2);
        (0..14).for_each(|_| go.send(()).unwrap());
        for one in of_one.into_iter().chain(of_others) {
            one.await.unwrap();
        }
    }

    #[test]
    fn who_comes_back_is_owed_nothing() {
        let mut queue = Queue::default();
        let push = |queue: &mut Queue, asker| assert!(queue.push(Asker(asker), Box::new(|| {}), 100));
        let mut order = Vec::new();
        let mut next = |queue: &mut Queue, took| {
            let (asker, _) = queue.pop().expect("something waits");
            queue.is_done(asker, took);
            order.push(asker.0);
        };
        (0..4).for_each(|_| push(&mut queue, 1));
        next(&mut queue, 10_000_000);
        next(&mut queue, 10_000_000);
        // It begins where the other one was served last, and takes turns with it by what they take.
        (0..40).for_each(|_| push(&mut queue, 2));
        (0..22).for_each(|_| next(&mut queue, 1_000_000));
        assert_eq!(order.iter().filter(|asker| **asker == 1).count(), 4, "{order:?}");
        assert!(order[2..8].iter().all(|asker| *asker == 2), "{order:?}");
        while queue.len > 0 {
            let (asker, _) = queue.pop().expect("something waits");
            queue.is_done(asker, 1_000_000);
        }
        assert!(queue.turns.is_empty());
        for asker in 3..10_000 {
            push(&mut queue, asker);
            let (asker, _) = queue.pop().expect("something waits");
            queue.is_done(asker, 1_000);
        }
        assert!(queue.shares.len() <= 4 * FEW, "{} who ask for nothing are remembered", queue.shares.len());
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
