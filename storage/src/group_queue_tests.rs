//! The queue of group commit under many interleavings of threads (shuttle: randomized, with a printed schedule that
//! replays a failure).

use std::sync::Arc;

use shuttle::thread;

/// The queue once more, with locks that shuttle schedules.
#[path = "group_queue.rs"]
#[allow(clippy::duplicate_mod, reason = "the same source under other locks is what is wanted")]
mod group_queue;

/// Shuttle's locks with the interface of parking_lot's.
mod sync {
    use std::ops::{Deref, DerefMut};

    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    pub(crate) struct Condvar(shuttle::sync::Condvar);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Condvar {
            Condvar(shuttle::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().unwrap();
            guard.0 = Some(self.0.wait(inner).unwrap());
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

use group_queue::{GroupQueue, Turn};
use sync::Mutex;

/// The commit path without its content: a log and an order of application, under two locks taken hand over hand.
struct Path {
    queue: GroupQueue<u32, Result<usize, ()>>,
    log: Mutex<Vec<u32>>,
    applied: Mutex<Vec<u32>>,
    /// Groups that begin with this request fail.
    fails: Option<u32>,
}

impl Path {
    fn commit(&self, request: u32) -> Result<usize, ()> {
        let own = match self.queue.join(request, 10) {
            Turn::Done(result) => return result,
            Turn::Lead(own) => own,
        };
        let mut log = self.log.lock();
        let mut room = 2;
        let others = self.queue.gather(|_| {
            room -= 1;
            room >= 0
        });
        if self.fails == Some(own) {
            self.queue.hand_over();
            drop(log);
            others.into_iter().for_each(|other| other.split().1.finish(Err(())));
            return Err(());
        }
        let first = log.len();
        log.push(own);
        log.extend(others.iter().map(|other| other.request));
        let mut applied = self.applied.lock();
        self.queue.hand_over();
        drop(log);
        applied.push(own);
        let mut finishes = Vec::new();
        for other in others {
            let (request, finish) = other.split();
            applied.push(request);
            finishes.push(finish);
        }
        drop(applied);
        for (at, finish) in finishes.into_iter().enumerate() {
            finish.finish(Ok(first + 1 + at));
        }
        Ok(first)
    }
}

fn run(limit_bytes: usize, fails: Option<u32>) {
    let path = Arc::new(Path {
        queue: GroupQueue::new(limit_bytes),
        log: Mutex::new(Vec::new()),
        applied: Mutex::new(Vec::new()),
        fails,
    });
    let writers = (0..4).map(|writer| {
        let path = path.clone();
        thread::spawn(move || {
            let requests = [writer * 2, writer * 2 + 1];
            requests.map(|request| (request, path.commit(request)))
        })
    });
    let writers: Vec<_> = writers.collect();
    let results: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let log = path.log.lock();
    assert_eq!(*log, *path.applied.lock(), "one order");
    for (request, result) in &results {
        match result {
            // Each is in the log once, where it was told, and behind the one its writer wrote before.
            Ok(at) => assert_eq!(log.get(*at), Some(request)),
            Err(()) => assert!(fails.is_some() && !log.contains(request)),
        }
    }
    assert_eq!(log.len(), results.iter().filter(|(_, result)| result.is_ok()).count());
    let own = |writer: u32| log.iter().filter(move |request| **request / 2 == writer);
    assert!((0..4).all(|writer| own(writer).is_sorted()));
}

#[test]
fn every_request_is_done_once_in_one_order() {
    shuttle::check_random(|| run(1_000, None), 2_000);
}

#[test]
fn a_full_queue_makes_writers_wait_and_go_on() {
    // Room for one, and for one and a half.
    shuttle::check_random(|| run(5, None), 2_000);
    shuttle::check_random(|| run(15, None), 2_000);
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let serve = || {
        let queue = Arc::new(GroupQueue::<u32, u32>::new(1_000));
        assert!(matches!(queue.join(0, 1), Turn::Lead(0)));
        let followers: Vec<_> = (1..5)
            .map(|number| {
                let follower = queue.clone();
                let thread = thread::spawn(move || follower.join(number, 1));
                while queue.waiting() < number as usize {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        queue.hand_over();
        let mut followers = followers.into_iter();
        assert!(matches!(followers.next().unwrap().join().unwrap(), Turn::Lead(1)));
        let gathered = queue.gather(|_| true);
        assert_eq!(gathered.iter().map(|follower| follower.request).collect::<Vec<_>>(), [2, 3, 4]);
        for follower in gathered {
            let (request, finish) = follower.split();
            finish.finish(request * 10);
        }
        for (number, follower) in (2..).zip(followers) {
            assert!(matches!(follower.join().unwrap(), Turn::Done(result) if result == number * 10));
        }
        queue.hand_over();
        assert!(matches!(queue.join(9, 1), Turn::Lead(9)));
    };
    shuttle::check_random(serve, 200);
}

#[test]
fn the_failure_of_a_group_is_told_to_all_of_it_and_others_go_on() {
    shuttle::check_pct(|| run(1_000, Some(2)), 2_000, 3);
}
