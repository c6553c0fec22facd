//! Keeps those who make snapshots, or read some, apart from those who delete some: what a new snapshot refers to must not go meanwhile, nor what is read.
//!
//! Each says at the place what it is about, and only then looks whether somebody does the other thing: of two who begin at once at least one
//! gives way. Who ended without a word counts for as long as a lease lasts.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use allidb_index::{Error, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use super::{SnapshotPlace, format::UNDER_WAY};

/// So long one counts that was not renewed.
const LEASE: Duration = Duration::from_mins(15);
/// How often one is renewed.
const RENEWED: Duration = Duration::from_mins(1);
/// One that could not be renewed for so long is given up, well before others do.
const GIVEN_UP: Duration = Duration::from_mins(10);

/// What somebody is about at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Making a snapshot.
    Making,
    /// Reading one, to verify or restore it.
    Reading,
    /// Deleting some.
    Deleting,
}

impl Purpose {
    /// What names of such claims begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Making => "make-",
            Self::Reading => "read-",
            Self::Deleting => "delete-",
        }
    }

    /// What must not be done at the same time.
    fn others(self) -> &'static [Self] {
        match self {
            Self::Making | Self::Reading => &[Self::Deleting],
            Self::Deleting => &[Self::Making, Self::Reading],
        }
    }

    /// What somebody does who does it, to the snapshot of this id.
    fn doing(self, id: &str) -> String {
        match self {
            Self::Making => format!("snapshot {id} is being made"),
            Self::Reading => format!("snapshot {} is being read", id.split('@').next().unwrap_or(id)),
            Self::Deleting => format!("snapshots are being deleted ({id})"),
        }
    }
}

/// What somebody is about, and says so, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    place: SnapshotPlace,
    name: String,
    /// When it was renewed last; `None` once it is given up, for good.
    renewed: Arc<Mutex<Option<Instant>>>,
    /// Its other end: dropping it ends the renewal, which takes the claim back.
    stop: Option<oneshot::Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

impl Claim {
    /// # Errors
    /// If somebody does the other thing, or the place does not answer.
    pub(super) async fn take(place: &SnapshotPlace, purpose: Purpose, id: &str) -> Result<Self> {
        let name = format!("{UNDER_WAY}/{}{id}", purpose.prefix());
        let begun = Instant::now();
        renew(place, &name).await?;
        let renewed = Arc::new(Mutex::new(Some(begun)));
        let (stop, stopped) = oneshot::channel();
        let renewal = tokio::spawn(keep_renewing(place.clone(), name.clone(), Arc::clone(&renewed), stopped));
        let claim = Self { place: place.clone(), name, renewed, stop: Some(stop), renewal: Some(renewal) };
        match claim.opponent(purpose).await {
            Ok(()) => Ok(claim),
            Err(error) => {
                claim.end().await;
                Err(error)
            }
        }
    }

    /// # Errors
    /// If there is one.
    async fn opponent(&self, purpose: Purpose) -> Result<()> {
        for name in self.place.list(UNDER_WAY).await? {
            let theirs = |other: &Purpose| Some((*other, name.strip_prefix(other.prefix())?));
            let Some((other, id)) = purpose.others().iter().find_map(theirs) else { continue };
            let path = format!("{UNDER_WAY}/{name}");
            let Some(text) = self.place.get(&path).await? else { continue };
            let said = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            if now().saturating_sub(Duration::from_millis(said.unwrap_or_default())) > LEASE {
                self.place.delete(&path).await?;
                continue;
            }
            let (what, minutes) = (other.doing(id), LEASE.as_secs() / 60);
            let why =
                format!("{what}, or whoever did so died less than {minutes} minutes ago: try again then");
            return Err(Error::FailedPrecondition(why));
        }
        Ok(())
    }

    /// # Errors
    /// If others may think that it is over.
    pub(super) async fn check(&self) -> Result<()> {
        self.check_age()?;
        match self.place.len(&self.name).await? {
            Some(_) => Ok(()),
            None => Err(Error::Unavailable(format!("{} was taken for over by others", self.name))),
        }
    }

    /// As [`check`](Self::check), by the clock alone.
    ///
    /// # Errors
    /// If others may think that it is over.
    pub(super) fn check_age(&self) -> Result<()> {
        match is_held(&self.renewed) {
            true => Ok(()),
            false => Err(Error::Unavailable(format!("{} was not renewed in time", self.name))),
        }
    }

    /// Takes it back.
    pub(super) async fn end(mut self) {
        drop(self.stop.take());
        if let Some(renewal) = self.renewal.take()
            && let Err(error) = renewal.await
        {
            tracing::warn!(%error, "a claim on a place for snapshots was not taken back");
        }
    }
}

/// Does something with a snapshot, which is known to be one, that nobody may delete meanwhile; several may at once. Where nothing can be written it is done all the same: whoever may
/// only read keeps nobody from deleting.
///
/// # Errors
/// If some are being deleted, or as the work fails.
pub(crate) async fn reading<T>(
    place: &SnapshotPlace,
    id: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    // Not the name of somebody else's.
    let unique = format!("{id}@{}-{}", now().as_nanos(), std::process::id());
    match Claim::take(place, Purpose::Reading, &unique).await {
        Ok(claim) => {
            let done = work.await;
            claim.end().await;
            done
        }
        Err(error @ Error::FailedPrecondition(_)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, id, "cannot say that a snapshot is being read: whoever deletes it is not kept from it");
            work.await
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

async fn renew(place: &SnapshotPlace, name: &str) -> Result<()> {
    place.put(name, Bytes::from(now().as_millis().to_string())).await
}

/// Whether others do not take it for over, by the clock alone. Once they may it is given up.
fn is_held(renewed: &Mutex<Option<Instant>>) -> bool {
    let mut renewed = renewed.lock();
    if renewed.is_some_and(|at| at.elapsed() > GIVEN_UP) {
        *renewed = None;
    }
    renewed.is_some()
}

async fn keep_renewing(
    place: SnapshotPlace,
    name: String,
    renewed: Arc<Mutex<Option<Instant>>>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            () = sleep(RENEWED) => {}
        }
        if let Err(error) = renew_held(&place, &name, &renewed).await {
            tracing::warn!(%error, "cannot renew a claim on a place for snapshots");
        }
    }
    // One that is left counts until its lease is over.
    if let Err(error) = place.delete(&name).await {
        tracing::warn!(%error, "cannot take back a claim on a place for snapshots");
    }
}

/// Renews a claim, unless others took it for over: what it kept from them may have been done.
async fn renew_held(place: &SnapshotPlace, name: &str, renewed: &Mutex<Option<Instant>>) -> Result<()> {
    if !is_held(renewed) {
        return Ok(());
    }
    let begun = Instant::now();
    if place.len(name).await?.is_none() {
        *renewed.lock() = None;
        return Err(Error::Unavailable(format!("{name} was taken for over by others")));
    }
    renew(place, name).await?;
    // If that took long others may have come between.
    if is_held(renewed)
        && let Some(at) = renewed.lock().as_mut()
    {
        *at = begun;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(place: &SnapshotPlace, purpose: Purpose) -> Result<Claim> {
        Claim::take(place, purpose, "1").await
    }

    #[tokio::test]
    async fn nothing_is_deleted_while_a_snapshot_is_made_or_read_nor_the_other_way() {
        let place = SnapshotPlace::in_memory();
        use Purpose::{Deleting, Making, Reading};
        for (purpose, other) in
            [(Making, Deleting), (Deleting, Making), (Reading, Deleting), (Deleting, Reading)]
        {
            let claim = take(&place, purpose).await.expect("nobody is there");
            let refused = take(&place, other).await.expect_err("somebody is");
            assert!(refused.to_string().contains("try again"), "{refused}");
            let second = Claim::take(&place, purpose, "2").await.expect("several do the same");
            claim.check().await.expect("it holds");
            claim.end().await;
            take(&place, other).await.expect_err("the second is there");
            second.end().await;
            take(&place, other).await.expect("nobody is there").end().await;
            assert!(place.list(UNDER_WAY).await.expect("listed").is_empty());
        }
    }

    #[tokio::test]
    async fn what_is_read_is_there_until_it_was() {
        let place = SnapshotPlace::in_memory();
        let read = reading(&place, "1", async {
            let refused = take(&place, Purpose::Deleting).await.expect_err("it is read");
            assert!(refused.to_string().contains("snapshot 1 is being read"), "{refused}");
            take(&place, Purpose::Making).await.expect("that does no harm").end().await;
            reading(&place, "1", async { Ok(()) }).await
        });
        read.await.expect("read");
        let deleting = take(&place, Purpose::Deleting).await.expect("nobody is there");
        reading(&place, "1", async { Ok(()) }).await.expect_err("some are being deleted");
        deleting.end().await;
    }

    #[tokio::test]
    async fn who_is_gone_counts_no_more_when_its_lease_is_over() {
        let place = SnapshotPlace::in_memory();
        let gone = format!("{UNDER_WAY}/make-0");
        for (age, is_over) in [(LEASE / 2, false), (LEASE * 2, true)] {
            let then = (now() - age).as_millis().to_string();
            place.put(&gone, Bytes::from(then)).await.expect("written");
            assert_eq!(take(&place, Purpose::Deleting).await.is_ok(), is_over);
        }
        assert_eq!(place.len(&gone).await.expect("looked up"), None);
    }

    #[tokio::test]
    async fn a_claim_that_others_take_for_over_is_none() {
        let place = SnapshotPlace::in_memory();
        let claim = take(&place, Purpose::Making).await.expect("nobody is there");
        place.delete(&claim.name).await.expect("deleted");
        claim.check().await.expect_err("it is gone");
        renew_held(&place, &claim.name, &claim.renewed).await.expect_err("it is gone");
        assert_eq!(place.len(&claim.name).await.expect("looked up"), None, "it is not put back");
        claim.check_age().expect_err("it is given up");
        let claim = take(&place, Purpose::Making).await.expect("nobody is there");
        renew_held(&place, &claim.name, &claim.renewed).await.expect("it holds");
        claim.check().await.expect("it holds");
        *claim.renewed.lock() = Instant::now().checked_sub(GIVEN_UP * 2);
        renew_held(&place, &claim.name, &claim.renewed).await.expect("nothing is done");
        claim.check().await.expect_err("it is old, and stays so");
    }
}
