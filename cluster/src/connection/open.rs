//! The connections that are open at a port, so many at most.
//!
//! When there is one too many, the one goes over which nothing was said for longest, of the address that has most: somebody who opens thousands and
//! keeps them open takes places of his own. Other addresses, and connections that are in use, keep theirs: those over which something was said just now,
//! or a call is under way.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::Calls;

/// A connection over which something was said so recently is in use: it gives way to addresses that have fewer only.
const IN_USE: Duration = Duration::from_secs(1);
/// So long nothing of what is said over a connection may go unread.
const UNREAD: Duration = Duration::from_mins(1);

/// The places of a port.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    began: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: HashMap<u64, Arc<Place>>,
    /// How many of an address; none is 0.
    of: HashMap<IpAddr, usize>,
}

/// What a connection's end and whoever may end it share.
#[derive(Debug)]
struct Place {
    of: IpAddr,
    /// When something was last said over it, in milliseconds since the port was opened.
    heard: AtomicU64,
    calls: Calls,
}

impl Place {
    /// For how many milliseconds it has not been in use.
    fn silent(&self, now: u64) -> u64 {
        if self.calls.is_any() { 0 } else { now.saturating_sub(self.heard.load(Ordering::Relaxed)) }
    }
}

/// A connection that has a place, until it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    number: u64,
    place: Arc<Place>,
    places: Arc<Places>,
    /// Until when something of what is said is to be taken.
    unread: Option<Pin<Box<Sleep>>>,
}

impl Places {
    /// Of a port that has `most` connections at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), began: Instant::now(), taken: Mutex::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives a connection a place, another one's if need be; `None` if all are in use.
    pub(super) fn take(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) -> Option<Socket> {
        let (number, place) = self.taken.lock().take(self.most, network(from.ip()), self.now())?;
        Some(Socket { stream, number, place, places: Arc::clone(self), unread: None })
    }

    /// How many are taken.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.taken.lock().places.len()
    }
}

impl Taken {
    fn take(&mut self, most: usize, of: IpAddr, now: u64) -> Option<(u64, Arc<Place>)> {
        if self.places.len() >= most {
            let place = self.free(of, now)?;
            place.calls.cut();
        }
        let place = Arc::new(Place { of, heard: AtomicU64::new(now), calls: Calls::default() });
        let number = self.next;
        self.next += 1;
        self.places.insert(number, Arc::clone(&place));
        *self.of.entry(of).or_default() += 1;
        Some((number, place))
    }

    /// Takes a place away for one of the address `of`.
    fn free(&mut self, of: IpAddr, now: u64) -> Option<Arc<Place>> {
        let (&crowd, &size) = self.of.iter().max_by_key(|(_, count)| **count)?;
        let (&number, place) = self
            .places
            .iter()
            .filter(|(_, place)| place.of == crowd)
            .min_by_key(|(number, place)| (Reverse(place.silent(now)), **number))?;
        let silent = place.silent(now);
        let has_fewer = self.of.get(&of).copied().unwrap_or_default() + 1 < size;
        if silent < IN_USE.as_millis() as u64 && !has_fewer {
            return None;
        }
        self.leave(number)
    }

    fn leave(&mut self, number: u64) -> Option<Arc<Place>> {
        let place = self.places.remove(&number)?;
        if let Some(count) = self.of.get_mut(&place.of) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&place.of);
            }
        }
        Some(place)
    }
}

/// What one machine or site has: an address of IPv4, or the network of one of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

impl Socket {
    /// What is under way over it.
    pub(super) fn calls(&self) -> Calls {
        self.place.calls.clone()
    }

    /// An error once the place is another one's. Who waits then is woken.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        if self.place.calls.is_cut(context.waker()) {
            let why = "closed: there are too many connections and nothing was said over this one, or answers over it are not read";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }

    /// An error once nothing of what is said was taken for too long.
    fn bound<T>(&mut self, said: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.place.calls.stall(said.is_pending());
        if said.is_ready() {
            self.unread = None;
            return said;
        }
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        ready!(unread.as_mut().poll(context));
        let why = format!("closed: nothing of what is said over it was read for {UNREAD:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }

    /// That something was said over it, either way: who reads a long answer says nothing meanwhile.
    fn note<T>(&self, said: &Poll<T>) {
        if said.is_ready() {
            self.place.heard.store(self.places.now(), Ordering::Relaxed);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.places.taken.lock().leave(self.number);
        self.place.calls.stall(false);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        self.note(&polled);
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&polled);
        self.bound(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.note(&polled);
        self.bound(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn heard(place: &Arc<Place>, at: u64) {
        place.heard.store(at, Ordering::Relaxed);
    }

    #[test]
    fn whoever_has_most_and_was_silent_for_longest_gives_way() {
        let mut taken = Taken::default();
        let mut take = |of, now| taken.take(4, of, now).map(|(_, place)| place);
        let places: Vec<_> = [A, A, A, B].into_iter().map(|of| take(of, 0).expect("there is room")).collect();
        let closed = || -> Vec<bool> { places.iter().map(|place| place.calls.was_cut()).collect() };
        for (at, place) in [5_000, 3_000, 4_000, 1_000].into_iter().zip(&places) {
            heard(place, at);
        }
        // The oldest of B is older, but A has most.
        assert!(take(B, 5_500).is_some());
        assert_eq!(closed(), [false, true, false, false]);
        // Both have two. One of A is in use and the other one is not.
        assert!(take(A, 5_500).is_some());
        assert_eq!(closed().iter().filter(|closed| **closed).count(), 2);
    }

    #[test]
    fn what_is_in_use_gives_way_to_addresses_with_fewer_only() {
        let mut taken = Taken::default();
        for _ in 0..4 {
            taken.take(4, A, 0).expect("there is room");
        }
        assert!(taken.take(4, A, 500).is_none());
        assert!(taken.take(4, B, 500).is_some());
        assert_eq!(taken.places.len(), 4);
        assert!(taken.take(4, B, 500).is_some(), "three of A, one of B");
        assert!(taken.take(4, B, 500).is_none(), "two each");
    }

    #[test]
    fn a_connection_with_calls_under_way_is_in_use() {
        let mut taken = Taken::default();
        let (_, first) = taken.take(2, A, 0).expect("there is room");
        let (_, second) = taken.take(2, A, 1_000).expect("there is room");
        let call = first.calls.begin();
        taken.take(2, A, 9_000).expect("the place of the second");
        assert!(second.calls.was_cut() && !first.calls.was_cut());
        drop(call);
        taken.take(2, A, 9_500).expect("the place of the first");
        assert!(first.calls.was_cut());
    }

    #[test]
    fn a_network_of_ipv6_is_one() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), A);
    }

    #[tokio::test]
    async fn whoever_is_answered_is_in_use() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut places = Places::new(1);
        // It was opened a minute ago.
        places.began -= Duration::from_secs(60);
        let places = Arc::new(places);
        let _client = TcpStream::connect(address).await.expect("it listens");
        let (stream, from) = listener.accept().await.expect("connected");
        let mut socket = places.take(stream, from).expect("a place");
        heard(&socket.place, 0);
        socket.write_all(b"x").await.expect("written");
        assert!(socket.place.heard.load(Ordering::Relaxed) >= 60_000);
    }

    #[tokio::test]
    async fn whoever_waits_at_a_place_that_is_taken_away_hears_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let places = Arc::new(Places::new(1));
        let first = TcpStream::connect(address).await.expect("it listens");
        let (stream, from) = listener.accept().await.expect("connected");
        let mut socket = places.take(stream, from).expect("a place");
        heard(&socket.place, 0);
        let reading = tokio::spawn(async move { socket.read_u8().await });
        tokio::time::sleep(IN_USE + Duration::from_millis(100)).await;
        let second = TcpStream::connect(address).await.expect("it listens");
        let (stream, from) = listener.accept().await.expect("connected");
        let other = places.take(stream, from).expect("the place of the first");
        let error = reading.await.expect("no panic").expect_err("it has no place");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(places.len(), 1);
        drop((other, first, second));
        assert_eq!(places.len(), 0);
    }
}
