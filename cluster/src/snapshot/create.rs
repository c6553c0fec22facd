//! Making a snapshot.

use std::collections::BTreeMap;

use allidb_index::{Deadline, Error, HoldingsRequest, LEAVES, PARTITIONS, Result, Sum};
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{
    SnapshotPlace, SnapshotProgress, Told,
    claim::{Claim, Purpose},
    described, for_each,
    format::{Leaves, Manifest, Object, ObjectWriter, Part, Partition, decode_sums, encode_sums},
    keep,
};
use crate::{layout::NodeId, ring::Ring};

/// The size at which an object ends.
const OBJECT_BYTES: usize = 8 << 20;
/// Parts of a partition; one that has so many is read as a whole.
const PARTS: usize = 16;
/// So many times as many leaves as have changed, of those with something in them, must be there: otherwise the partition is read as a whole.
const CHANGED_SHARE: usize = 4;
/// So often replicas are chosen: after three failures in a row one is among the last.
const CHOICES: usize = 4;

/// What the snapshot before holds of a partition.
type Before = (Vec<Sum>, Vec<Part>);

/// Everything that was acknowledged before this begins is in the snapshot; of what is written meanwhile, each entity is in it as of one moment.
///
/// # Errors
/// If too few replicas answer, or what was read cannot be kept.
pub(crate) async fn create(
    (ring, name): (Ring, String),
    place: SnapshotPlace,
    told: Told,
    deadline: Deadline,
) -> Result<SnapshotProgress> {
    let now = ring.replica().wall().now_ms();
    let id = id(now, ring.node());
    let claim = Claim::take(&place, Purpose::Making, &id).await?;
    let made = Making { ring, place, deadline }.make(id, (name, now), &claim, &told).await;
    claim.end().await;
    made
}

/// When it was begun, by whom.
fn id(now_ms: u64, node: NodeId) -> String {
    let since = time::Duration::milliseconds(i64::try_from(now_ms).unwrap_or(i64::MAX));
    let at = time::OffsetDateTime::UNIX_EPOCH.checked_add(since).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second, milli)) = (at.date(), at.time().as_hms_milli());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let node = node.0 & 0xffff;
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{milli:03}Z-{node:04x}")
}

#[derive(Clone)]
struct Making {
    ring: Ring,
    place: SnapshotPlace,
    deadline: Deadline,
}

/// What came of a partition.
struct Exported {
    partition: Partition,
    sums: Vec<Sum>,
    entities: u64,
    bytes: u64,
    new_bytes: u64,
}

impl Making {
    async fn make(
        &self,
        id: String,
        (ring, created_at_ms): (String, u64),
        claim: &Claim,
        told: &Told,
    ) -> Result<SnapshotProgress> {
        self.ring.have_trees().await?;
        let sources = self.sources().await?;
        let mut before = self.before(&ring).await?;
        let mut progress = SnapshotProgress { partitions_total: PARTITIONS.into(), ..Default::default() };
        progress.snapshot.id.clone_from(&id);
        let mut manifest = Manifest { id, created_at_ms, ring, ..Manifest::default() };
        let mut sums: BTreeMap<u16, Vec<Sum>> = BTreeMap::new();
        let mut export = |(partition, source): (u16, NodeId)| {
            let (making, before) = (self.clone(), before.remove(&partition));
            async move { making.export(partition, source, before).await }
        };
        let exports: Vec<_> = sources.into_iter().map(&mut export).collect();
        for_each(
            exports,
            |export| export,
            |done: Exported| {
                progress.partitions_done += 1;
                progress.entities += done.entities;
                progress.bytes += done.bytes;
                manifest.new_bytes += done.new_bytes;
                if let Ok(number) = u16::try_from(done.partition.number) {
                    sums.insert(number, done.sums);
                }
                manifest.partitions.push(done.partition);
                told.tell(&progress);
            },
        )
        .await?;
        manifest.partitions.sort_by_key(|partition| partition.number);
        manifest.digest = digest(&sums);
        let encoded = encode_sums(&sums.into_iter().collect::<Vec<_>>())?;
        let (object, is_new) = self.keep(encoded).await?;
        manifest.new_bytes += if is_new { object.bytes } else { 0 };
        manifest.sums = vec![object];
        // After the entities: the collections of all of them are in it.
        self.ring.refresh_catalogue(self.deadline).await;
        manifest.catalogue = self.ring.replica().encoded_catalogue();
        manifest.collections = self.ring.replica().collection_names();
        check_there(&self.place, manifest.objects().cloned().collect()).await?;
        claim.check().await?;
        self.place.put(&Manifest::name(&manifest.id), manifest.encode_whole()).await?;
        tracing::info!(
            id = manifest.id,
            entities = progress.entities,
            new_bytes = manifest.new_bytes,
            "made a snapshot"
        );
        Ok(SnapshotProgress { snapshot: described(&manifest), finished: true, ..progress })
    }

    /// Of each partition a replica that holds what a quorum of them does.
    async fn sources(&self) -> Result<Vec<(u16, NodeId)>> {
        for _ in 1..CHOICES {
            match self.alike_sources().await {
                Ok(sources) => return Ok(sources),
                Err(error) => tracing::warn!(%error, "replicas for a snapshot are chosen anew"),
            }
        }
        self.alike_sources().await
    }

    async fn alike_sources(&self) -> Result<Vec<(u16, NodeId)>> {
        let mut sources = Vec::with_capacity(PARTITIONS.into());
        let mut pairs: BTreeMap<[NodeId; 2], Vec<u16>> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let enough = self.ring.enough(partition);
            let Some((source, others)) = enough.split_first() else {
                return Err(Error::Internal(format!("nobody holds partition {partition}")));
            };
            others.iter().for_each(|other| pairs.entry([*source, *other]).or_default().push(partition));
            sources.push((partition, *source));
        }
        for (nodes, partitions) in pairs {
            self.ring.make_alike(nodes, partitions, self.deadline).await?;
        }
        Ok(sources)
    }

    /// What the newest snapshot of this ring holds; nothing if its sums are gone or damaged.
    async fn before(&self, ring: &str) -> Result<BTreeMap<u16, Before>> {
        let Some(newest) = keep::newest(&self.place, ring).await? else { return Ok(BTreeMap::new()) };
        let mut sums: BTreeMap<u16, Vec<Sum>> = BTreeMap::new();
        for object in &newest.sums {
            match keep::read(&self.place, object).await?.and_then(|bytes| decode_sums(&bytes)) {
                Ok(decoded) => sums.extend(decoded),
                Err(damage) => {
                    tracing::warn!(id = newest.id, %damage, "a snapshot is not built on");
                    return Ok(BTreeMap::new());
                }
            }
        }
        let of = |partition: Partition| {
            let number = u16::try_from(partition.number).ok()?;
            Some((number, (sums.remove(&number)?, partition.parts)))
        };
        Ok(newest.partitions.into_iter().filter_map(of).collect())
    }

    /// Keeps what a node holds of a partition, as far as it is not kept already.
    async fn export(self, partition: u16, source: NodeId, before: Option<Before>) -> Result<Exported> {
        // Before what they are sums of: what is written meanwhile is read, and read again the next time.
        let sums = self.ring.leaf_sums(source, partition, self.deadline).await?;
        let number = partition.into();
        let mut exported = Exported {
            partition: Partition { number, parts: Vec::new() },
            sums,
            entities: 0,
            bytes: 0,
            new_bytes: 0,
        };
        let mut leaves = None;
        if let Some((old, parts)) = before
            && let Some(changed) = changed(&old, &exported.sums, parts.len())
            && self.has_all(&parts).await?
        {
            exported.partition.parts = parts;
            if changed.is_empty() {
                return Ok(exported);
            }
            leaves = Some(changed);
        }
        let set = leaves.as_deref().map_or_else(Vec::new, |leaves| Leaves::of(leaves).into_bytes());
        let mut part = Part { leaves: set, objects: Vec::new() };
        let (mut writer, mut after) = (ObjectWriter::new(), None);
        let is_empty = writer.len();
        loop {
            let request = HoldingsRequest { partition, after, leaves: leaves.clone() };
            let page = self.ring.holdings(source, request, self.deadline).await?;
            let is_last = page.is_empty();
            after = page.last().map(|(last, _)| last.clone());
            exported.entities += page.len() as u64;
            if !is_last {
                let added = spawn_blocking(move || writer.add(&page).map(|()| writer)).await;
                writer = added.map_err(|error| Error::Internal(format!("packing broke off: {error}")))??;
            }
            if writer.len() >= OBJECT_BYTES || is_last && writer.len() > is_empty {
                let full = std::mem::replace(&mut writer, ObjectWriter::new());
                let (object, is_new) = self.keep(full.finish()).await?;
                exported.bytes += object.bytes;
                exported.new_bytes += if is_new { object.bytes } else { 0 };
                part.objects.push(object);
            }
            if is_last {
                exported.partition.parts.push(part);
                return Ok(exported);
            }
        }
    }

    /// Keeps something under its hash. Says whether it was not there, or damaged.
    async fn keep(&self, bytes: Bytes) -> Result<(Object, bool)> {
        let object = Object::of(&bytes);
        let is_new = self.place.get(&object.name()).await?.is_none_or(|there| there != bytes);
        if is_new {
            self.place.put(&object.name(), bytes).await?;
        }
        Ok((object, is_new))
    }

    async fn has_all(&self, parts: &[Part]) -> Result<bool> {
        for object in parts.iter().flat_map(|part| &part.objects) {
            if self.place.len(&object.name()).await? != Some(object.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a manifest is to refer to must be there.
///
/// # Errors
/// If something is not.
async fn check_there(place: &SnapshotPlace, objects: Vec<Object>) -> Result<()> {
    let check = |object: Object| {
        let place = place.clone();
        async move {
            match place.len(&object.name()).await? == Some(object.bytes) {
                true => Ok(()),
                false => Err(Error::Unavailable(format!("{} is gone: try again", object.name()))),
            }
        }
    };
    for_each(objects, check, |()| ()).await
}

/// The leaves that have changed; `None` if the partition is to be read as a whole.
fn changed(old: &[Sum], new: &[Sum], parts: usize) -> Option<Vec<u16>> {
    let changed: Vec<u16> = (0..LEAVES)
        .zip(old.iter().zip(new))
        .filter(|(_, (old, new))| old != new)
        .map(|(leaf, _)| leaf)
        .collect();
    let taken = new.iter().filter(|sum| **sum != Sum::default()).count();
    let is_little = changed.is_empty() || changed.len() * CHANGED_SHARE <= taken && parts < PARTS;
    is_little.then_some(changed)
}

/// What is there, in all.
fn digest(sums: &BTreeMap<u16, Vec<Sum>>) -> String {
    let mut hash = blake3::Hasher::new();
    for (partition, sums) in sums {
        for (leaf, sum) in (0_u16..).zip(sums) {
            if sum.there() != 0 {
                hash.update(&partition.to_le_bytes());
                hash.update(&leaf.to_le_bytes());
                hash.update(&sum.there().to_le_bytes());
            }
        }
    }
    hash.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_time() {
        assert_eq!(id(1_700_000_000_123, NodeId(0xabcdef)), "20231114T221320.123Z-cdef");
        assert!(id(1_700_000_000_123, NodeId(9)) < id(1_700_000_000_124, NodeId(1)));
    }

    #[tokio::test]
    async fn what_is_gone_is_not_referred_to() {
        let place = SnapshotPlace::in_memory();
        let objects = [b"one", b"two"].map(|bytes| Object::of(bytes)).to_vec();
        for (object, bytes) in objects.iter().zip(["one", "two"]) {
            check_there(&place, objects.clone()).await.expect_err("one is missing");
            place.put(&object.name(), Bytes::from(bytes)).await.expect("written");
        }
        check_there(&place, objects).await.expect("all are there");
    }
}
