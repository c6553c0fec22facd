//! Listing snapshots, verifying and deleting them.

use std::collections::BTreeSet;

use allidb_index::{EntityState, Error, Result};
use tokio::task::spawn_blocking;

use super::{
    Snapshot, SnapshotPlace, SnapshotProgress, Told,
    claim::{Claim, Purpose},
    described, for_each,
    format::{MANIFESTS, Manifest, OBJECTS, Object, ObjectReader, decode_sums},
};

/// The manifest of a snapshot.
///
/// # Errors
/// If there is none, or it is damaged.
pub(super) async fn load(place: &SnapshotPlace, id: &str) -> Result<Manifest> {
    find(place, id).await?.ok_or_else(|| no_such(id))
}

async fn find(place: &SnapshotPlace, id: &str) -> Result<Option<Manifest>> {
    let is_name =
        !id.is_empty() && id.chars().all(|char| char.is_ascii_alphanumeric() || ".-".contains(char));
    let bytes = match is_name {
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

/// Reads everything that a snapshot refers to, and compares it with its checksums.
///
/// # Errors
/// If the place does not answer. Damage is told.
pub(crate) async fn verify(place: SnapshotPlace, id: &str, told: Told) -> Result<SnapshotProgress> {
    let manifest = load(&place, id).await?;
    let mut progress = SnapshotProgress { snapshot: described(&manifest), ..Default::default() };
    progress.partitions_total = u32::try_from(manifest.partitions.len()).unwrap_or(u32::MAX);
    for object in &manifest.sums {
        if let Err(damage) = read(&place, object).await?.and_then(|bytes| decode_sums(&bytes)) {
            progress.damages.push(damage.to_string());
        }
    }
    let checked = manifest.partitions.into_iter().map(|partition| {
        let place = place.clone();
        async move {
            let (mut damages, mut entities, mut bytes) = (Vec::new(), 0, 0);
            if let Err(damage) = partition.hidden() {
                damages.push(damage.to_string());
            }
            for object in partition.parts.iter().flat_map(|part| &part.objects) {
                bytes += object.bytes;
                match check(&place, object).await? {
                    Ok(found) => entities += found,
                    Err(damage) => damages.push(damage.to_string()),
                }
            }
            Ok((damages, entities, bytes))
        }
    });
    for_each(
        checked.collect::<Vec<_>>(),
        |check| check,
        |(damages, entities, bytes)| {
            progress.partitions_done += 1;
            progress.entities += entities;
            progress.bytes += bytes;
            progress.damages.extend(damages);
            told.tell(&progress);
        },
    )
    .await?;
    Ok(SnapshotProgress { finished: true, ..progress })
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
