//! What decides, under the latch of an entity, whether a write is made, and what of it.

use crate::{
    catalogue::Catalogue,
    error::{Error, Result},
    filter::Filter,
    merge::{EntityState, Register},
    model::{EntityRef, Precondition, Timestamp, Value},
    mutation::{Condition, Mutation, Part},
    replica::{Extent, Replica},
    row::{EntityKey, EntityRow, Field, Scope, StoredRow},
    version::Version,
};

impl Mutation {
    /// What must be read of its entities to tell whether it is to be made; `None`: nothing, every replica tells by itself.
    pub fn is_decided_by(&self) -> Option<Extent> {
        let of = |part: &Part| match part.condition {
            Condition::Matches(_) => Some(Extent::NOTHING),
            Condition::HasSource(_) => Some(Extent {
                contents: !part.delta.chunks.is_empty(),
                edges: !(part.delta.edges.is_empty() && part.delta.edges_in.is_empty()),
            }),
            _ => None,
        };
        let extents = self.parts.iter().filter_map(of);
        extents.reduce(|a, b| Extent { contents: a.contents || b.contents, edges: a.edges || b.edges })
    }
}

impl Precondition {
    /// Whether it is so of an entity.
    ///
    /// # Errors
    /// [`Error::Exists`] or [`Error::VersionMismatch`] if it is not.
    pub(super) fn check(self, entity: &EntityRef, row: &EntityRow, now: Timestamp) -> Result<()> {
        let found = row.is_live(now).then_some(row.touched);
        let (collection, id) = (|| entity.collection.clone(), || entity.id.clone());
        match (self, found) {
            (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(found)) => Err(Error::Exists { collection: collection(), id: id(), found }),
            (Self::Version(version), Some(found)) if found == version => Ok(()),
            (Self::Version(_), found) => {
                Err(Error::VersionMismatch { collection: collection(), id: id(), found })
            }
        }
    }
}

impl Replica {
    /// Whether a mutation's precondition is met by what a quorum holds of its entity.
    ///
    /// # Errors
    /// [`Error::Exists`] or [`Error::VersionMismatch`] if it is not.
    pub fn check_precondition(&self, mutation: &Mutation, state: &EntityState) -> Result<()> {
        match mutation.precondition() {
            Some(precondition) => precondition.check(mutation.subject(), &state.row, self.wall_time()),
            None => Ok(()),
        }
    }

    /// What is to be made of a mutation whatever replicas know, by what a quorum of them holds of its entities, in their order; and whether that
    /// deletes what it is about, rather than taking a source from it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not to be made.
    pub fn decided(&self, mutation: &Mutation, states: &[EntityState]) -> Result<(Mutation, bool)> {
        let (mut mutation, mut deletes) = (mutation.clone(), false);
        let (version, catalogue) = (mutation.version, self.catalogue());
        for (part, there) in mutation.parts.iter_mut().zip(states) {
            let Part { entity, delta, condition } = part;
            let is_live = self.is_live(there);
            let is_made = match condition {
                Condition::Matches(filter) => {
                    let is_made = is_live && meets(&there.row, entity, filter, &catalogue)?;
                    is_made.then_some(true)
                }
                Condition::HasSource(source) => lose_source(there, delta, version, source, is_live),
                _ => Some(false),
            };
            let gone =
                || Error::NotFound { collection: mutation.subject.collection.clone(), id: entity.id.clone() };
            deletes |= is_made.ok_or_else(gone)?;
            *condition = Condition::None;
        }
        Ok((mutation, deletes))
    }
}

/// Whether an entity meets a filter.
pub(super) fn meets(
    row: &EntityRow,
    key: &EntityKey,
    filter: &Filter,
    catalogue: &Catalogue,
) -> Result<bool> {
    let Some(collection) = catalogue.by_id(key.collection) else { return Ok(false) };
    let read = StoredRow::new(row.encode().into()).and_then(|row| row.entity(&key.id, &filter.read_mask()));
    let entity = read.map_err(|error| Error::corrupt("entity", &key.prefix(), error))?;
    Ok(filter.matches(&entity, &collection.text))
}

/// Turns a deletion, of an entity or of what it names among its chunks and edges, into the loss of a source where there are others.
/// True if it stays a deletion; `None` if there is nothing that has the source.
pub(super) fn lose_source(
    there: &EntityState,
    delta: &mut EntityState,
    version: Version,
    source: &str,
    is_live: bool,
) -> Option<bool> {
    if let Some((chunk, register)) = delta.chunks.iter_mut().next() {
        let content = there.chunks.get(chunk)?.value.as_ref().filter(|_| is_live)?;
        let mut left = content.clone();
        if !left.sources.remove(source) {
            return None;
        }
        if left.sources.is_empty() {
            return Some(true);
        }
        *register = Register { version, value: Some(left) };
        // They stay its own only if they are as new as it is.
        let vectors =
            there.vectors.iter().filter(|(key, vector)| key.chunk == *chunk && vector.value.is_some());
        delta
            .vectors
            .extend(vectors.map(|(key, vector)| (key.clone(), Register { version, ..vector.clone() })));
        return Some(false);
    }
    let cleared = there.row.cleared(Scope::Edges);
    let sides = [(&there.edges, &mut delta.edges), (&there.edges_in, &mut delta.edges_in)];
    for (there, delta) in sides {
        let Some((edge, register)) = delta.iter_mut().next() else { continue };
        // What lies beneath the marker of an end that was deleted stays hidden.
        let mut left = there.get(edge).filter(|edge| edge.version > cleared)?.value.clone()?;
        if !left.sources.remove(source) {
            return None;
        }
        let is_last = left.sources.is_empty();
        *register = Register { version, value: (!is_last).then_some(left) };
        return Some(is_last);
    }
    let is_source = |field: &Field| matches!(field, Field::Source(_));
    let row = &there.row;
    row.get(&Field::Source(source.to_owned())).filter(|_| is_live)?;
    let sources =
        row.fields.iter().filter(|(field, value)| is_source(field) && value.value.is_some()).count();
    if sources > 1 {
        *delta = EntityState::default();
        delta.row.touched = version;
        delta.row.set(Field::Source(source.to_owned()), version, None::<Value>);
        return Some(false);
    }
    Some(true)
}
