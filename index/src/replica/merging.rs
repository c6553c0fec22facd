//! What becomes of two entities that turn out to be the same: what the one that stays takes over, under the latches of both, and which
//! edge there is where two fall together.

use std::collections::BTreeSet;

use crate::{
    error::{Error, Result},
    merge::{EntityState, Register},
    model::{Limits, MAX_ID_BYTES, Value},
    row::{ChunkContent, EdgeContent, EntityKey, EntityRow, Field, Scope, VectorContent, VectorKey},
    version::Version,
};

/// Adds to `delta` what an entity takes over from another one: what it has itself stays. `there` holds its row, and those of its vectors and
/// chunks that have a counterpart.
///
/// # Errors
/// If they have too much together.
pub(super) fn take_over(
    from: (&EntityKey, &EntityState),
    there: &EntityState,
    version: Version,
    limits: &Limits,
    delta: &mut EntityState,
) -> Result<()> {
    let (from_key, from) = from;
    for field in [Field::Type, Field::Importance] {
        if let (None, Some(value)) = (there.row.get(&field), from.row.get(&field)) {
            delta.row.set(field, version, Some(value.clone()));
        }
    }
    // What would stay longer does.
    if let Some(at) = there.row.expire_at() {
        let at = from.row.expire_at().map(|other| Value::Timestamp(other.max(at)));
        delta.row.set(Field::ExpireAt, version, at);
    }
    let mut attributes = attributes_of(&there.row).count();
    for (name, value) in attributes_of(&from.row) {
        if there.row.get(name).is_none() {
            attributes += 1;
            delta.row.set(name.clone(), version, Some(value.clone()));
        }
    }
    at_most("attributes of both", attributes, limits.attributes)?;
    let sources = common_sources(&sources_of(&there.row), &sources_of(&from.row));
    at_most("sources of both", sources.len(), limits.sources)?;
    delta.row.clear(Scope::Sources, version.just_below());
    for source in sources {
        delta.row.set(Field::Source(source), version, Some(Value::Bool(true)));
    }
    let bytes = from.chunks.values().filter_map(|chunk| chunk.value.as_ref()).map(|chunk| chunk.text.len());
    let vectors = from.vectors.values().filter_map(|vector| vector.value.as_ref());
    let bytes = bytes.sum::<usize>() + vectors.map(|vector| vector.0.len() * 4).sum::<usize>();
    at_most("bytes of the chunks and vectors that move", bytes, limits.entity_bytes)?;
    take_vectors(from, "", there, "", version, delta);
    for (id, chunk) in &from.chunks {
        let Some(content) = &chunk.value else { continue };
        let (id_there, content) = match there.chunks.get(id).and_then(|chunk| chunk.value.as_ref()) {
            None => (id.clone(), content.clone()),
            Some(same) if same.text == content.text && same.metadata == content.metadata => {
                let sources = common_sources(&same.sources, &content.sources);
                for (key, vector) in vectors_of(there, id) {
                    // They stay its own only if they are as new as it is.
                    delta.vectors.insert(key.clone(), Register { version, ..vector.clone() });
                }
                (id.clone(), ChunkContent { sources, ..content.clone() })
            }
            Some(_) => (chunk_id_aside(from_key, from, id, there)?, content.clone()),
        };
        take_vectors(from, id, there, &id_there, version, delta);
        delta.chunks.insert(id_there, Register { version, value: Some(content) });
    }
    Ok(())
}

/// The rows that an entity must be asked for before it takes over those of another one.
pub(super) fn counterparts(from: (&EntityKey, &EntityState)) -> EntityState {
    let (key, from) = from;
    let mut wanted = EntityState::default();
    let nothing = || Register { version: Version::ZERO, value: None };
    for id in from.chunks.keys() {
        wanted.chunks.insert(id.clone(), nothing());
        wanted.chunks.insert(aside(&key.id, id), nothing());
    }
    for key in from.vectors.keys().filter(|key| key.chunk.is_empty()) {
        wanted.vectors.insert(key.clone(), Register { version: Version::ZERO, value: None });
    }
    wanted
}

/// What an edge is that falls together with one that is there: that one keeps what it says, with the greater weight.
pub(super) fn edge_of_both(moved: EdgeContent, there: Option<&EdgeContent>) -> EdgeContent {
    let Some(there) = there else { return moved };
    EdgeContent {
        weight: there.weight.max(moved.weight),
        sources: common_sources(&there.sources, &moved.sources),
        ..there.clone()
    }
}

/// The vectors of a chunk (of the entity itself, if that is empty) for which the one that stays has none.
fn take_vectors(
    from: &EntityState,
    chunk: &str,
    there: &EntityState,
    chunk_there: &str,
    version: Version,
    delta: &mut EntityState,
) {
    for (key, vector) in vectors_of(from, chunk) {
        let key = VectorKey { chunk: chunk_there.to_owned(), space: key.space };
        let is_taken = there.vectors.get(&key).is_some_and(|vector| vector.value.is_some());
        if !is_taken {
            delta.vectors.insert(key, Register { version, ..vector.clone() });
        }
    }
}

fn vectors_of<'a>(
    of: &'a EntityState,
    chunk: &'a str,
) -> impl Iterator<Item = (&'a VectorKey, &'a Register<VectorContent>)> {
    of.vectors.iter().filter(move |(key, vector)| key.chunk == chunk && vector.value.is_some())
}

/// Where a chunk goes whose id another chunk has.
fn chunk_id_aside(key: &EntityKey, from: &EntityState, chunk: &str, there: &EntityState) -> Result<String> {
    let id = aside(&key.id, chunk);
    if id.len() > MAX_ID_BYTES {
        let why = format!("chunk {chunk:?} is in both, and would have an id that is too long: {id:?}");
        return Err(Error::FailedPrecondition(why));
    }
    let has = |state: &EntityState| state.chunks.get(&id).is_some_and(|chunk| chunk.value.is_some());
    if has(there) || has(from) {
        let why = format!("chunk {chunk:?} is in both, and would become {id:?}, which there is already");
        return Err(Error::FailedPrecondition(why));
    }
    Ok(id)
}

fn aside(entity: &str, chunk: &str) -> String {
    format!("{entity}/{chunk}")
}

fn attributes_of(row: &EntityRow) -> impl Iterator<Item = (&Field, &Value)> {
    let fields = row.fields.iter().filter(|(field, _)| matches!(field, Field::Attribute(_)));
    fields.filter_map(|(field, register)| Some((field, register.value.as_ref()?)))
}

fn sources_of(row: &EntityRow) -> BTreeSet<String> {
    let name = |field: &Field| match field {
        Field::Source(name) => Some(name.clone()),
        _ => None,
    };
    row.fields.iter().filter(|(_, register)| register.value.is_some()).filter_map(|(f, _)| name(f)).collect()
}

/// The sources of two things that become one. What has none never goes with its sources, nor does what it becomes part of.
fn common_sources(one: &BTreeSet<String>, other: &BTreeSet<String>) -> BTreeSet<String> {
    if one.is_empty() || other.is_empty() {
        return BTreeSet::new();
    }
    one.union(other).cloned().collect()
}

fn at_most(what: &str, got: usize, limit: usize) -> Result<()> {
    if got > limit {
        return Err(Error::OverLimit { field: what.to_owned(), got, limit });
    }
    Ok(())
}
