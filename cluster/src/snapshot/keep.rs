//! Listing snapshots, verifying and deleting them.

use std::collections::BTreeSet;

use allidb_index::{EntityState, Error, Result};
use tokio::task::spawn_blocking;

use super::{
    Snapshot, SnapshotPlace, SnapshotProgress, Told,
    claim::{Claim, Purpose, reading},
    described, for_each,
    format::{MANIFESTS, Manifest, OBJECTS, Object, ObjectReader, Partition, decode_sums},
};

/// The manifest of a snapshot.
///
/// # Errors
/// If there is none, or it is damaged.
pub(super) async fn load(place: &SnapshotPlace, id: &str) -> Result<Manifest> {
    find(place, id).await?.ok_or_else(|| no_such(id))
}

/// Whether a snapshot can be called so.
fn is_name(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|char| char.is_ascii_alphanumeric() || ".-".contains(char))
}

async fn find(place: &SnapshotPlace, id: &str) -> Result<Option<Manifest>> {
    let bytes = match is_name(id) {
        true => place.get(&Manifest::name(id)).await?,
        false => None,
    };
    bytes.map(|bytes| Manifest::decode_whole(&bytes)).transpose()
}

/// The newest of a ring that can be read.
pub(super) async fn newest(place: &SnapshotPlace, ring: &str) -> Result<Option<Manifest>> {
    for id in place.list(MANIFESTS).await?.into_iter().rev() {
        match find(place, &id).await {
            Ok(Some(manifest)) if manifest.ring == ring => return Ok(Some(manifest)),
            Ok(_) => {}
            Err(error) => tracing::warn!(id, %error, "a snapshot cannot be read, and is not built on"),
        }
    }
    Ok(None)
}

/// All snapshots at a place, in the order of their making.
///
/// # Errors
/// If the place does not answer.
pub(crate) async fn list(place: &SnapshotPlace) -> Result<Vec<Snapshot>> {
    let mut listed = Vec::new();
    for id in place.list(MANIFESTS).await? {
        match find(place, &id).await {
            Ok(manifest) => listed.extend(manifest.as_ref().map(described)),
            Err(error @ Error::Unavailable(_)) => return Err(error),
            Err(error) => {
                listed.push(Snapshot { id, damage: Some(error.to_string()), ..Snapshot::default() });
            }
        }
    }
    Ok(listed)
}

/// Reads everything that a snapshot refers to, and compares it with its checksums. Objects that hold something else than was written are deleted: the
/// next snapshot does not build on them.
///
/// # Errors
/// If the place does not answer. Damage is told.
pub(crate) async fn verify(place: SnapshotPlace, id: &str, told: Told) -> Result<SnapshotProgress> {
    // What is no snapshot is not even claimed.
    load(&place, id).await?;
    let (mut progress, damaged) = reading(&place, id, compared(&place, id, told)).await?;
    if !damaged.is_empty()
        && let Err(error) = delete_damaged(&place, id, &damaged).await
    {
        tracing::warn!(id, %error, "what is damaged of a snapshot cannot be deleted");
        progress.damages.push(format!("what is damaged stays, and goes into later snapshots: {error}"));
    }
    Ok(SnapshotProgress { finished: true, ..progress })
}

/// What was found, and which objects are damaged.
async fn compared(place: &SnapshotPlace, id: &str, told: Told) -> Result<(SnapshotProgress, Vec<Object>)> {
    let manifest = load(place, id).await?;
    let mut progress = SnapshotProgress { snapshot: described(&manifest), ..Default::default() };
    progress.partitions_total = u32::try_from(manifest.partitions.len()).unwrap_or(u32::MAX);
    let mut damaged = Vec::new();
    for object in &manifest.sums {
        if let Err(damage) = read(place, object).await?.and_then(|bytes| decode_sums(&bytes)) {
            progress.damages.push(damage.to_string());
            damaged.push(object.clone());
        }
    }
    let work = |partition: Partition| {
        let place = place.clone();
        async move { check_partition(&place, &partition).await }
    };
    for_each(manifest.partitions, work, |checked: Checked| {
        progress.partitions_done += 1;
        progress.entities += checked.entities;
        progress.bytes += checked.bytes;
        progress.damages.extend(checked.damages);
        damaged.extend(checked.damaged);
        told.tell(&progress);
    })
    .await?;
    Ok((progress, damaged))
}

/// Sees that all entities of a snapshot can be read, before any is restored: half of them would serve as if they were all.
///
/// # Errors
/// If something is damaged, or the place does not answer.
pub(crate) async fn check_restorable(place: &SnapshotPlace, id: &str, told: &Told) -> Result<()> {
    let manifest = load(place, id).await?;
    let mut progress = SnapshotProgress { snapshot: described(&manifest), ..Default::default() };
    progress.partitions_total = u32::try_from(manifest.partitions.len()).unwrap_or(u32::MAX);
    let work = |partition: Partition| {
        let place = place.clone();
        async move {
            let checked = check_partition(&place, &partition).await?;
            match checked.damages.into_iter().next() {
                None => Ok(()),
                Some(damage) => Err(Error::FailedPrecondition(damage)),
            }
        }
    };
    // Nothing is done yet; but who waits hears something.
    for_each(manifest.partitions, work, |()| told.tell(&progress)).await
}

/// Deletes what still holds something else than was written.
async fn delete_damaged(place: &SnapshotPlace, id: &str, damaged: &[Object]) -> Result<()> {
    // Whoever makes a snapshot may build on these, or put them back.
    let claim = Claim::take(place, Purpose::Deleting, id).await?;
    let deleted = delete_damaged_claimed(place, damaged, &claim).await;
    claim.end().await;
    deleted
}

async fn delete_damaged_claimed(place: &SnapshotPlace, damaged: &[Object], claim: &Claim) -> Result<()> {
    for object in damaged {
        if read(place, object).await?.is_err() {
            claim.check_age()?;
            place.delete(&object.name()).await?;
        }
    }
    Ok(())
}

/// What was found in a partition.
#[derive(Default)]
struct Checked {
    entities: u64,
    bytes: u64,
    damages: Vec<String>,
    /// Those objects that something is wrong with.
    damaged: Vec<Object>,
}

async fn check_partition(place: &SnapshotPlace, partition: &Partition) -> Result<Checked> {
    let mut checked = Checked::default();
    if let Err(damage) = partition.hidden() {
        checked.damages.push(damage.to_string());
    }
    for object in partition.parts.iter().flat_map(|part| &part.objects) {
        checked.bytes += object.bytes;
        match check(place, object).await? {
            Ok(found) => checked.entities += found,
            Err(damage) => {
                checked.damages.push(damage.to_string());
                checked.damaged.push(object.clone());
            }
        }
    }
    Ok(checked)
}

/// An object as it was written, or what is wrong with it.
///
/// # Errors
/// If the place does not answer.
pub(super) async fn read(place: &SnapshotPlace, object: &Object) -> Result<Result<bytes::Bytes>> {
    let Some(bytes) = place.get(&object.name()).await? else {
        let why = format!("the snapshot is damaged: {} is gone", object.name());
        return Ok(Err(Error::FailedPrecondition(why)));
    };
    let object = object.clone();
    let checked = spawn_blocking(move || object.check(&bytes).map(|()| bytes));
    checked.await.map_err(|error| Error::Internal(format!("checking broke off: {error}")))
}

/// How many entities an object holds, or what is wrong with it.
async fn check(place: &SnapshotPlace, object: &Object) -> Result<Result<u64>> {
    let bytes = match read(place, object).await? {
        Ok(bytes) => bytes,
        Err(damage) => return Ok(Err(damage)),
    };
    let count = spawn_blocking(move || -> Result<u64> {
        let (mut reader, mut count) = (ObjectReader::new(bytes)?, 0);
        while let Some(entities) = reader.next()? {
            for (key, state) in entities {
                EntityState::decode(&state).map_err(|error| {
                    Error::FailedPrecondition(format!(
                        "the snapshot is damaged: entity {}: {error}",
                        key.id()
                    ))
                })?;
                count += 1;
            }
        }
        Ok(count)
    });
    count.await.map_err(|error| Error::Internal(format!("checking broke off: {error}")))
}

/// Deletes snapshots, also damaged ones, and what no other one refers to.
///
/// # Errors
/// If there is no such one, one is being made, or another one is damaged: nobody knows what that one refers to. What is gone until then stays so.
pub(crate) async fn delete(place: &SnapshotPlace, ids: &[String]) -> Result<()> {
    let [first, ..] = ids else { return Ok(()) };
    // Before anything is written under such a name.
    if let Some(id) = ids.iter().find(|id| !is_name(id)) {
        return Err(no_such(id));
    }
    let claim = Claim::take(place, Purpose::Deleting, first).await?;
    let deleted = delete_claimed(place, ids, &claim).await;
    claim.end().await;
    deleted
}

async fn delete_claimed(place: &SnapshotPlace, ids: &[String], claim: &Claim) -> Result<()> {
    let listed = place.list(MANIFESTS).await?;
    if let Some(id) = ids.iter().find(|id| !listed.contains(id)) {
        return Err(no_such(id));
    }
    let mut kept = BTreeSet::new();
    for id in listed.iter().filter(|id| !ids.contains(id)) {
        let manifest = find(place, id).await.map_err(|error| match error {
            Error::FailedPrecondition(why) => {
                Error::FailedPrecondition(format!("{id}: {why}: delete it as well"))
            }
            other => other,
        })?;
        kept.extend(manifest.iter().flat_map(Manifest::objects).map(Object::name));
    }
    claim.check().await?;
    for id in ids {
        place.delete(&Manifest::name(id)).await?;
    }
    for object in place.list(OBJECTS).await? {
        let name = format!("{OBJECTS}/{object}");
        if !kept.contains(&name) {
            claim.check_age()?;
            place.delete(&name).await?;
        }
    }
    Ok(())
}

fn no_such(id: &str) -> Error {
    Error::invalid("id", format!("there is no snapshot {id:?}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::snapshot::format::{ObjectWriter, Part, encode_sums};

    /// Keeps a snapshot of one partition, with one object of entities.
    async fn kept(place: &SnapshotPlace) -> Object {
        let (entities, sums) = (ObjectWriter::new().finish(), encode_sums(&[]).expect("small"));
        let (object, of_sums) = (Object::of(&entities), Object::of(&sums));
        let part = Part { leaves: Vec::new(), objects: vec![object.clone()] };
        let partitions = vec![Partition { number: 0, parts: vec![part] }];
        let manifest =
            Manifest { id: "1".into(), partitions, sums: vec![of_sums.clone()], ..Manifest::default() };
        let files = [
            (object.name(), entities),
            (of_sums.name(), sums),
            (Manifest::name("1"), manifest.encode_whole()),
        ];
        for (name, bytes) in files {
            place.put(&name, bytes).await.expect("written");
        }
        object
    }

    async fn damages(place: &SnapshotPlace) -> Vec<String> {
        let (sender, _told) = mpsc::channel(1);
        verify(place.clone(), "1", Told::new(sender)).await.expect("the place answers").damages
    }

    #[tokio::test]
    async fn what_is_damaged_is_not_built_on() {
        let place = SnapshotPlace::in_memory();
        let object = kept(&place).await;
        assert!(damages(&place).await.is_empty());
        place.put(&object.name(), Bytes::from_static(b"something else")).await.expect("written");
        // Who makes a snapshot may refer to it, or write it anew.
        let making = Claim::take(&place, Purpose::Making, "2").await.expect("nobody is there");
        let told = damages(&place).await;
        assert!(told.len() == 2 && told[1].contains("snapshot 2 is being made"), "{told:?}");
        assert!(place.len(&object.name()).await.expect("looked up").is_some());
        making.end().await;
        let told = damages(&place).await;
        assert!(told.len() == 1 && told[0].contains("something else"), "{told:?}");
        assert_eq!(place.len(&object.name()).await.expect("looked up"), None);
        let told = damages(&place).await;
        assert!(told.len() == 1 && told[0].contains("is gone"), "{told:?}");
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_even_claimed() {
        let dir = tempfile::tempdir().expect("a directory");
        let location = dir.path().to_str().expect("a text");
        let place = SnapshotPlace::open(location, None).expect("a directory");
        kept(&place).await;
        for id in ["", "..", "a/b", "a b", "a%2fb", "ä"] {
            let refused = delete(&place, &["1".to_owned(), id.to_owned()]).await;
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{id:?}: {refused:?}");
        }
        let claims = std::fs::read_dir(dir.path().join("under-way")).map_or(0, Iterator::count);
        assert_eq!(claims, 0);
        delete(&place, &["1".to_owned()]).await.expect("it is there");
        assert!(list(&place).await.expect("listed").is_empty());
    }
}
