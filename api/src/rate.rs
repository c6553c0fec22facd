//! How fast tenants may ask, of whom a quota bounds that: a bucket for requests and one for bytes each (the token bucket of J. Turner, "New
//! Directions in Communications", 1986), which hold as much as a second brings.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use allidb_index::model::{Quota, TenantId};
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use crate::{
    body::{Look, Next, looked_at},
    status,
};

/// What may be taken still, refilled as time goes by.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_second: u64, now: Instant) -> Self {
        Self { per_second, left: per_second as f64, at: now }
    }

    /// Goes over to another rate: what was overdrawn stays so.
    fn refill(&mut self, per_second: u64, now: Instant) {
        let brought = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second as f64;
        self.left = (self.left + brought).min(per_second as f64);
        (self.per_second, self.at) = (per_second, now);
    }

    /// How long until there is so much.
    fn until(&self, wanted: f64) -> Option<Duration> {
        let missing = wanted - self.left;
        // Rates are 1 or more; whoever sets one to u64::MAX waits for nothing.
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.per_second as f64))
    }
}

/// The buckets of a tenant; `None`: not bounded.
#[derive(Debug, Default)]
struct Buckets {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

fn renewed(bucket: &mut Option<Bucket>, per_second: Option<u64>, now: Instant) {
    match (per_second, &mut *bucket) {
        (None, _) => *bucket = None,
        (Some(per_second), Some(bucket)) => bucket.refill(per_second, now),
        (Some(per_second), None) => *bucket = Some(Bucket::full(per_second, now)),
    }
}

/// What tenants have left. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates(Arc<Mutex<HashMap<TenantId, Arc<Meter>>>>);

/// Counts bytes of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Buckets>);

impl Rates {
    /// Takes a request of a tenant. Gives what its bytes are counted by, if they are.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it has asked too much, with the time when it may again.
    pub(crate) fn admit(
        &self,
        tenant: TenantId,
        quota: &Quota,
        now: Instant,
    ) -> Result<Option<Arc<Meter>>, Status> {
        if quota.requests_per_second.is_none() && quota.bytes_per_second.is_none() {
            self.0.lock().remove(&tenant);
            return Ok(None);
        }
        let meter = Arc::clone(self.0.lock().entry(tenant).or_default());
        let mut buckets = meter.0.lock();
        renewed(&mut buckets.requests, quota.requests_per_second, now);
        renewed(&mut buckets.bytes, quota.bytes_per_second, now);
        if let Some(wait) = buckets.bytes.as_ref().and_then(|bytes| bytes.until(0.0)) {
            let most = quota.bytes_per_second.unwrap_or_default();
            return Err(status::rate_limited("bytes", most, wait));
        }
        if let Some(requests) = &mut buckets.requests {
            if let Some(wait) = requests.until(1.0) {
                return Err(status::rate_limited("requests", requests.per_second, wait));
            }
            requests.left -= 1.0;
        }
        let counts_bytes = buckets.bytes.is_some();
        drop(buckets);
        Ok(counts_bytes.then_some(meter))
    }
}

impl Meter {
    /// Counts bytes. Says how long to wait until others may come.
    fn take(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let mut buckets = self.0.lock();
        let bucket = buckets.bytes.as_mut()?;
        bucket.refill(bucket.per_second, now);
        bucket.left -= bytes as f64;
        bucket.until(0.0)
    }

    /// A request's body, counted. What is longer than `message` bytes is a stream, and waits.
    pub(crate) fn incoming(self: &Arc<Self>, body: Body, message: usize) -> Body {
        looked_at(body, Metered { meter: Arc::clone(self), until_slowed: message, wait: None })
    }

    /// An answer's body, counted. It is there already: nothing is won by having it wait.
    pub(crate) fn outgoing(self: &Arc<Self>, body: Body) -> Body {
        looked_at(body, Metered { meter: Arc::clone(self), until_slowed: usize::MAX, wait: None })
    }
}

struct Metered {
    meter: Arc<Meter>,
    until_slowed: usize,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Look for Metered {
    fn next(&mut self, body: Pin<&mut Body>, context: &mut Context<'_>) -> Next {
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        let polled = body.poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let wait = self.meter.take(data.len(), Instant::now());
            self.until_slowed = self.until_slowed.saturating_sub(data.len());
            if self.until_slowed == 0 {
                self.wait = wait.map(|wait| Box::pin(sleep(wait)));
            }
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tonic_types::StatusExt;

    use super::*;

    const TENANT: TenantId = TenantId(7);

    fn quota(requests: Option<u64>, bytes: Option<u64>) -> Quota {
        Quota { requests_per_second: requests, bytes_per_second: bytes, ..Quota::default() }
    }

    fn wait(refused: &Status) -> Duration {
        let info = refused.get_details_retry_info().expect("a time");
        info.retry_delay.expect("a time")
    }

    #[test]
    fn so_many_requests_are_admitted_in_a_second() {
        let (rates, begun) = (Rates::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        let quota = quota(Some(10), None);
        let admitted = |millis| (0..100).filter(|_| rates.admit(TENANT, &quota, at(millis)).is_ok()).count();
        assert_eq!(admitted(0), 10);
        let refused = rates.admit(TENANT, &quota, at(0)).expect_err("enough");
        assert_eq!(wait(&refused), Duration::from_millis(100));
        assert!(rates.admit(TenantId(8), &quota, at(0)).is_ok(), "others are others");
        assert_eq!(admitted(100), 1);
        assert_eq!(admitted(600), 5);
        assert_eq!(admitted(10_000), 10);
        assert!(rates.admit(TENANT, &Quota::default(), at(10_000)).is_ok());
    }

    #[test]
    fn whoever_sent_too_much_comes_back_when_it_is_paid_for() {
        let (rates, begun) = (Rates::default(), Instant::now());
        let quota = quota(None, Some(1_000));
        let meter = rates.admit(TENANT, &quota, begun).expect("nothing was sent").expect("it counts");
        assert_eq!(meter.take(1_000, begun), None);
        assert_eq!(meter.take(500, begun), Some(Duration::from_millis(500)));
        let refused = rates.admit(TENANT, &quota, begun).expect_err("too much");
        assert_eq!(wait(&refused), Duration::from_millis(500));
        rates.admit(TENANT, &quota, begun + Duration::from_millis(500)).expect("it is paid for");
    }

    #[test]
    fn another_rate_counts_at_once() {
        let (rates, begun) = (Rates::default(), Instant::now());
        let admitted = |requests| {
            (0..200).filter(|_| rates.admit(TENANT, &quota(Some(requests), None), begun).is_ok()).count()
        };
        assert_eq!(admitted(100), 100);
        assert_eq!(admitted(5), 0);
        let later = begun + Duration::from_secs(1);
        assert!(rates.admit(TENANT, &quota(Some(5), None), later).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_slowed_down_and_messages_are_not() {
        let rates = Rates::default();
        let quota = quota(None, Some(1_000));
        let meter = rates.admit(TENANT, &quota, Instant::now()).expect("admitted").expect("it counts");
        let body = || Body::new(Full::new(Bytes::from(vec![0; 3_000])).map_err(|never| match never {}));
        for (limit, is_slow) in [(4_000, false), (100, true)] {
            let begun = tokio::time::Instant::now();
            let collected = meter.incoming(body(), limit).collect().await.expect("whole");
            assert_eq!(collected.to_bytes().len(), 3_000);
            assert_eq!(begun.elapsed() > Duration::from_secs(1), is_slow);
        }
    }
}
