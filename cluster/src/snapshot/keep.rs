//! Listing snapshots, verifying and deleting them.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use allidb_index::{EntityState, Error, Result};
use tokio::task::spawn_blocking;

use super::{
    Snapshot, SnapshotPlace, SnapshotProgress, Told, described, for_each,
    format::{MANIFESTS, Manifest, OBJECTS, Object, ObjectReader, UNDER_WAY, decode_sums},
};

/// A snapshot that was begun so long ago is not under way any more.
const UNDER_WAY_FOR: Duration = Duration::from_hours(24);

/// The manifest of a snapshot.
///
/// # Errors
/// If there is none, or it is damaged.
pub(super) async fn load(place: &SnapshotPlace, id: &str) -> Result<Manifest> {
    let is_name =
        !id.is_empty() && id.chars().all(|char| char.is_ascii_alphanumeric() || ".-".contains(char));
    let bytes = match is_name {
        true => place.get(&Manifest::name(id)).await?,
        false => None,
    };
    let bytes = bytes.ok_or_else(|| Error::invalid("id", format!("there is no snapshot {id:?}")))?;
    Manifest::decode_whole(&bytes)
}

/// The newest of a ring that can be read.
pub(super) async fn newest(place: &SnapshotPlace, ring: &str) -> Result<Option<Manifest>> {
    for id in place.list(MANIFESTS).await?.into_iter().rev() {
        match load(place, &id).await {
            Ok(manifest) if manifest.ring == ring => return Ok(Some(manifest)),
            Ok(_) => {}
            Err(error) => tracing::warn!(id, %error, "a snapshot cannot be read, and is not built on"),
        }
    }
    Ok(None)
}

/// All snapshots at a place, in the order of their making.
///
/// # Errors
/// If one cannot be read.
pub(crate) async fn list(place: &SnapshotPlace) -> Result<Vec<Snapshot>> {
    let mut listed = Vec::new();
    for id in place.list(MANIFESTS).await? {
        listed.push(described(&load(place, &id).await?));
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

/// Deletes snapshots, and what no other one refers to.
///
/// # Errors
/// If there is no such one, or one is being made: it may refer to what would go. What is gone until then stays so.
pub(crate) async fn delete(place: &SnapshotPlace, ids: &[String]) -> Result<()> {
    for id in ids {
        load(place, id).await?;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for id in place.list(UNDER_WAY).await? {
        let begun = place.get(&format!("{UNDER_WAY}/{id}")).await?;
        let begun = begun.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let age = now.saturating_sub(Duration::from_millis(begun.unwrap_or_default()));
        if age < UNDER_WAY_FOR {
            let why = format!(
                "snapshot {id} is being made, or was broken off less than a day ago: delete others after it"
            );
            return Err(Error::FailedPrecondition(why));
        }
        place.delete(&format!("{UNDER_WAY}/{id}")).await?;
    }
    let mut kept = BTreeSet::new();
    for id in place.list(MANIFESTS).await? {
        if !ids.contains(&id) {
            kept.extend(load(place, &id).await?.objects().map(Object::name));
        }
    }
    for id in ids {
        place.delete(&Manifest::name(id)).await?;
    }
    for object in place.list(OBJECTS).await? {
        let name = format!("{OBJECTS}/{object}");
        if !kept.contains(&name) {
            place.delete(&name).await?;
        }
    }
    Ok(())
}
