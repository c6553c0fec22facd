//! Turning what callers ask for into row states with versions.

mod order;
mod record;

pub use order::{disordered, waves};

use std::sync::Arc;

use crate::{
    catalogue::Catalogue,
    clock::HybridClock,
    error::{Error, Result},
    filter::Filter,
    merge::{EntityState, Register},
    model::{
        Chunk, Collection, Edge, EdgeRef, Entity, EntityPatch, EntityRef, Limits, Precondition, SourceOwner,
        TenantId, Value, Write, validate_attribute_name, validate_id, validate_relation,
    },
    replica::mirrored,
    row::{ChunkContent, EdgeContent, EdgeKey, EntityKey, EntityRow, Field, Scope, VectorContent, VectorKey},
    version::Version,
};

/// One write as row states: what every replica of its partitions merges into what it holds.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// What the write carries.
    pub(crate) version: Version,
    /// How the caller names what it writes.
    pub(crate) subject: EntityRef,
    pub(crate) kind: Kind,
    pub(crate) parts: Vec<Part>,
    /// The caller's bytes, about.
    pub(crate) bytes: usize,
}

/// What the parts of a mutation are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One entity, or an edge's source and target, just as they are named.
    Plain,
    /// One entity, if this is so of it.
    If(Precondition),
    /// An edge's source and target. If one of them was merged into another entity, that one is meant.
    Edge,
    /// The entity that is merged into another one, and that one; what it takes over is found under their latches.
    Merge,
    /// An edge that becomes another one: the source and the target that lose it, and those that get it. What it says then is found under
    /// their latches.
    Rewire {
        /// When the ends that lose it were merged into those that get it: edges of what was deleted since are gone.
        merged: Version,
    },
    /// One entity: some edges beneath its marker go, which were more than could go when it was deleted.
    Sweep,
}

impl Mutation {
    /// With this condition on all parts.
    fn on(mut self, condition: &Condition) -> Self {
        self.parts.iter_mut().for_each(|part| part.condition = condition.clone());
        self.kind = Kind::Plain;
        self
    }

    /// What everything that it writes carries.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The highest version of anything in it; beyond [`version`](Self::version) only if whoever made it is wrong.
    pub fn highest_version(&self) -> Version {
        let deltas = self.parts.iter().map(|part| part.delta.highest_version());
        deltas.max().unwrap_or_default().max(self.version)
    }

    /// How the caller names what it writes.
    pub fn subject(&self) -> &EntityRef {
        &self.subject
    }

    /// The entities that it changes.
    pub fn entities(&self) -> impl Iterator<Item = &EntityKey> {
        self.parts.iter().map(|part| &part.entity)
    }

    /// The same, to be made whatever a replica knows: somebody who knows more found that its condition is met, and that what it is for has not
    /// expired.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let version = self.version;
        if let Kind::If(_) = self.kind {
            self.kind = Kind::Plain;
        }
        for Part { delta, condition, .. } in &mut self.parts {
            match condition {
                Condition::None | Condition::Matches(_) | Condition::HasSource(_) => continue,
                Condition::Exists | Condition::Replaces => {}
                Condition::CreateIfMissing => create(delta, version),
            }
            *condition = Condition::None;
        }
        self
    }

    /// The same, to be made whatever a replica knows: somebody who knows more found that what it is for had expired, of which nothing was newer
    /// than `newest`. Nothing stays of that, nor of the edges that came before this was asked for, at `asked`. It is above all that: at a version
    /// of its own if it is not already.
    #[must_use]
    pub(crate) fn settled_over_expired(self, newest: Version, asked: Version, at: Option<Version>) -> Self {
        let is_conditional =
            |part: &Part| matches!(part.condition, Condition::Replaces | Condition::CreateIfMissing);
        let conditional: Vec<bool> = self.parts.iter().map(is_conditional).collect();
        let settled = self.settled();
        let mut settled = match at {
            Some(version) => settled.again_at(version),
            None => settled,
        };
        for (Part { delta, .. }, _) in settled.parts.iter_mut().zip(conditional).filter(|(_, is)| *is) {
            delta.row.clear(Scope::Entity, newest);
            delta.row.clear(Scope::Edges, asked.just_below());
        }
        settled
    }

    /// The same, as if it had been planned at a later version.
    #[must_use]
    pub(crate) fn at(mut self, version: Version) -> Self {
        let from = std::mem::replace(&mut self.version, version);
        for part in &mut self.parts {
            part.delta = std::mem::take(&mut part.delta).restamped(from, version);
        }
        self
    }

    /// The same, once more at a later version. Of the one before, which may have been made somewhere, nothing is left then but that something was
    /// put: that is told everywhere.
    #[must_use]
    pub(crate) fn again_at(self, version: Version) -> Self {
        let before: Vec<Vec<Version>> = self.parts.iter().map(|part| part.delta.row.puts.clone()).collect();
        let mut again = self.at(version);
        for (part, before) in again.parts.iter_mut().zip(before) {
            let puts = &mut part.delta.row.puts;
            puts.extend(before);
            puts.sort_unstable();
            puts.dedup();
        }
        again
    }

    /// Something newer that hides it, in what replicas hold of its entities, in their order.
    pub fn overtaken_by(&self, states: &[EntityState]) -> Option<Version> {
        let parts = self.parts.iter().zip(states);
        parts.filter_map(|(part, there)| there.overtaker(&part.delta, self.version)).max()
    }

    /// Whether it writes chunks or vectors.
    pub fn is_about_contents(&self) -> bool {
        self.parts.iter().any(|part| !part.delta.chunks.is_empty() || !part.delta.vectors.is_empty())
    }

    /// Whether it is made only where what it is for is there.
    pub fn needs_entity(&self) -> bool {
        self.parts.iter().any(|part| part.condition == Condition::Exists)
    }

    /// What must be so of its entity, if that is to be decided before it is made.
    pub fn precondition(&self) -> Option<Precondition> {
        match self.kind {
            Kind::If(precondition) => Some(precondition),
            _ => None,
        }
    }

    /// Whether it is an edge, at both its ends.
    pub fn is_edge(&self) -> bool {
        self.kind == Kind::Edge
    }

    /// Whether all that it says is that edges are gone: that is taken however late, since the deletion of an end says it of edges of whatever age.
    pub(crate) fn only_ends_edges(&self) -> bool {
        let ends = |part: &Part| {
            let EntityState { row, vectors, chunks, edges, edges_in } = &part.delta;
            let is_bare = *row == EntityRow::default() && vectors.is_empty() && chunks.is_empty();
            is_bare && edges.values().chain(edges_in.values()).all(|edge| edge.value.is_none())
        };
        self.kind == Kind::Plain && self.parts.iter().all(ends)
    }

    /// Whose entities it touches.
    pub fn tenant(&self) -> Option<TenantId> {
        self.parts.first().map(|part| part.entity.tenant)
    }

    /// The partitions it touches.
    pub fn partitions(&self) -> impl Iterator<Item = u16> {
        self.parts.iter().map(|part| part.entity.partition())
    }
}

/// The part of a mutation that concerns one entity.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) entity: EntityKey,
    pub(crate) delta: EntityState,
    pub(crate) condition: Condition,
}

/// What must hold for a part to be merged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    /// Nothing.
    None,
    /// Nothing; but of what expired, and whose place is taken, no edges stay.
    Replaces,
    /// The entity is there.
    Exists,
    /// Nothing; but where the entity is not there, it comes to be.
    CreateIfMissing,
    /// The entity is there and meets the filter.
    Matches(Arc<Filter>),
    /// What the part deletes is there and has this source. If it has others, it only loses this one.
    HasSource(String),
}

/// Has an entity come to be by a write that also changes those that are there: replicas that heard of it and of a deletion in another order come
/// to the same.
pub(crate) fn create(delta: &mut EntityState, version: Version) {
    delta.row.puts = vec![version];
    delta.row.set(Field::Existence, version, Some(Value::Bool(true)));
}

/// Checks writes and gives them versions.
pub(crate) struct Planner<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) limits: &'a Limits,
    pub(crate) clock: &'a HybridClock,
}

impl Planner<'_> {
    /// Nothing is changed by a write that is refused here.
    pub(crate) fn plan(&self, write: Write) -> Result<Mutation> {
        match write {
            Write::Put { collection, entity } => self.put(&collection, *entity),
            Write::Update(patch) => self.update(*patch),
            Write::Delete(entity) => self.delete(entity, Condition::None),
            Write::If { precondition, write } => self.conditional(precondition, *write),
            Write::DeleteIf { entity, filter } => self.delete(entity, Condition::Matches(filter)),
            Write::DropSource { of, source } => self.drop_source(of, source),
            Write::PutEdge(edge) => self.put_edge(*edge),
            Write::DeleteEdge(edge) => self.delete_edge(edge),
            Write::Merge { from, into } => self.merge(from, &into),
        }
    }

    fn conditional(&self, precondition: Precondition, write: Write) -> Result<Mutation> {
        if !matches!(write, Write::Put { .. } | Write::Update(_) | Write::Delete(_)) {
            return Err(Error::invalid("precondition", "is for puts, updates and deletions of entities"));
        }
        Ok(Mutation { kind: Kind::If(precondition), ..self.plan(write)? })
    }

    fn collection(&self, name: &str) -> Result<&Arc<Collection>> {
        self.catalogue.get(self.tenant, name)
    }

    fn put(&self, collection: &str, entity: Entity) -> Result<Mutation> {
        validate_id("entity.id", &entity.id)?;
        let collection = self.collection(collection)?;
        let mut bytes = entity.id.len();
        let version = self.clock.next();
        let mut delta = EntityState::default();
        let row = &mut delta.row;
        row.touched = version;
        row.puts = vec![version];
        row.clear(Scope::Entity, version.just_below());
        row.set(Field::Existence, version, Some(Value::Bool(true)));
        check_type(&entity.entity_type)?;
        if !entity.entity_type.is_empty() {
            row.set(Field::Type, version, Some(Value::String(entity.entity_type)));
        }
        if let Some(importance) = check_importance(entity.importance)? {
            row.set(Field::Importance, version, Some(Value::Double(importance)));
        }
        if let Some(at) = entity.expire_at {
            row.set(Field::ExpireAt, version, Some(Value::Timestamp(at)));
        }
        self.check_sources("entity.sources", &entity.sources)?;
        for source in entity.sources {
            row.set(Field::Source(source), version, Some(Value::Bool(true)));
        }
        self.check_count("entity.attributes", entity.attributes.len(), self.limits.attributes)?;
        for (name, value) in entity.attributes {
            bytes += self.check_attribute("entity.attributes", &name, &value)?;
            row.set(Field::Attribute(name), version, Some(value));
        }
        self.check_count("entity.vectors", entity.vectors.len(), self.limits.vectors)?;
        for (space, vector) in entity.vectors {
            let key = self.vector_key(collection, "", &space, "entity.vectors", &vector)?;
            bytes += vector.len() * 4;
            let value = Some(VectorContent(vector.into()));
            insert_once(&mut delta, "entity.vectors", &space, key, Register { version, value })?;
        }
        self.check_count("entity.chunks", entity.chunks.len(), self.limits.chunks)?;
        for (id, chunk) in entity.chunks {
            bytes += self.put_chunk(collection, &mut delta, version, id, chunk)?;
        }
        self.check_bytes(bytes)?;
        let subject = EntityRef::new(&collection.name, &entity.id);
        let entity = EntityKey { tenant: self.tenant, collection: collection.id, id: entity.id };
        let parts = vec![Part { entity, delta, condition: Condition::Replaces }];
        Ok(Mutation { version, subject, kind: Kind::Plain, parts, bytes })
    }

    fn update(&self, patch: EntityPatch) -> Result<Mutation> {
        validate_id("entity.id", &patch.entity.id)?;
        let collection = self.collection(&patch.entity.collection)?;
        let mut bytes = patch.entity.id.len();
        let version = self.clock.next();
        let mut delta = EntityState::default();
        let row = &mut delta.row;
        row.touched = version;
        if let Some(entity_type) = patch.entity_type {
            check_type(&entity_type)?;
            row.set(Field::Type, version, (!entity_type.is_empty()).then_some(Value::String(entity_type)));
        }
        if let Some(importance) = patch.importance {
            row.set(Field::Importance, version, check_importance(importance)?.map(Value::Double));
        }
        if let Some(expire_at) = patch.expire_at {
            row.set(Field::ExpireAt, version, expire_at.map(Value::Timestamp));
        }
        if let Some(sources) = patch.sources {
            self.check_sources("entity.sources", &sources)?;
            row.clear(Scope::Sources, version.just_below());
            for source in sources {
                row.set(Field::Source(source), version, Some(Value::Bool(true)));
            }
        }
        if patch.replace_attributes {
            row.clear(Scope::Attributes, version.just_below());
        }
        self.check_count("entity.attributes", patch.attributes.len(), self.limits.attributes)?;
        for (name, value) in patch.attributes {
            match &value {
                Some(value) => bytes += self.check_attribute("entity.attributes", &name, value)?,
                None => validate_attribute_name("update_mask", &name)?,
            }
            row.set(Field::Attribute(name), version, value);
        }
        if patch.replace_vectors {
            row.clear(Scope::Vectors, version.just_below());
        }
        self.check_count("entity.vectors", patch.vectors.len(), self.limits.vectors)?;
        for (space, vector) in patch.vectors {
            let (key, value) = match vector {
                Some(vector) => {
                    bytes += vector.len() * 4;
                    let key = self.vector_key(collection, "", &space, "entity.vectors", &vector)?;
                    (key, Some(VectorContent(vector.into())))
                }
                None => (VectorKey { chunk: String::new(), space: collection.space(&space)?.id }, None),
            };
            insert_once(&mut delta, "entity.vectors", &space, key, Register { version, value })?;
        }
        self.check_count("chunks", patch.chunks.len(), self.limits.chunks)?;
        for (id, chunk) in patch.chunks {
            match chunk {
                Some(chunk) => bytes += self.put_chunk(collection, &mut delta, version, id, chunk)?,
                None => {
                    validate_id("chunk_ids", &id)?;
                    delta.chunks.insert(id, Register { version, value: None });
                }
            }
        }
        self.check_bytes(bytes)?;
        let condition = if patch.allow_missing { Condition::CreateIfMissing } else { Condition::Exists };
        let entity = EntityKey::new(self.tenant, collection.id, &patch.entity.id);
        let parts = vec![Part { entity, delta, condition }];
        Ok(Mutation { version, subject: patch.entity, kind: Kind::Plain, parts, bytes })
    }

    fn drop_source(&self, of: SourceOwner, source: String) -> Result<Mutation> {
        validate_relation("source", &source)?;
        let condition = Condition::HasSource(source);
        match of {
            SourceOwner::Entity(entity) => self.delete(entity, condition),
            SourceOwner::Chunk(entity, chunk) => {
                let mut patch = EntityPatch::new(entity);
                patch.chunks.insert(chunk, None);
                self.update(patch).map(|mutation| mutation.on(&condition))
            }
            SourceOwner::Edge(edge) => self.delete_edge(edge).map(|mutation| mutation.on(&condition)),
        }
    }

    fn delete(&self, subject: EntityRef, condition: Condition) -> Result<Mutation> {
        validate_id("ref.id", &subject.id)?;
        let collection = self.collection(&subject.collection)?;
        let version = self.clock.next();
        let mut delta = EntityState::default();
        delta.row.touched = version;
        delta.row.clear(Scope::Entity, version);
        delta.row.clear(Scope::Edges, version);
        let entity = EntityKey::new(self.tenant, collection.id, &subject.id);
        let bytes = subject.id.len();
        let parts = vec![Part { entity, delta, condition }];
        Ok(Mutation { version, subject, kind: Kind::Plain, parts, bytes })
    }

    fn merge(&self, from: EntityRef, into: &str) -> Result<Mutation> {
        validate_id("from", &from.id)?;
        validate_id("into", into)?;
        let collection = self.collection(&from.collection)?;
        if from.id == into {
            return Err(Error::invalid("into", "is the same entity as from"));
        }
        let version = self.clock.next();
        let mut gone = EntityState::default();
        gone.row.touched = version;
        gone.row.clear(Scope::Entity, version.just_below());
        for field in [Field::MergedInto, Field::LeadsTo(version)] {
            gone.row.set(field, version, Some(Value::String(into.to_owned())));
        }
        let mut stays = EntityState::default();
        stays.row.touched = version;
        let part = |id: &str, delta| Part {
            entity: EntityKey::new(self.tenant, collection.id, id),
            delta,
            condition: Condition::Exists,
        };
        let parts = vec![part(&from.id, gone), part(into, stays)];
        let bytes = from.id.len() + into.len();
        Ok(Mutation { version, subject: from, kind: Kind::Merge, parts, bytes })
    }

    fn put_edge(&self, edge: Edge) -> Result<Mutation> {
        let name = edge.edge_ref();
        let mut bytes = name.relation.len() + name.from.id.len() + name.to.id.len();
        if !(0.0..=1.0).contains(&edge.weight) {
            return Err(Error::invalid("edge.weight", format!("is {}; it must be in [0, 1]", edge.weight)));
        }
        if let (Some(from), Some(to)) = (edge.valid_from, edge.valid_to)
            && from >= to
        {
            return Err(Error::invalid("edge.valid_to", "is not after valid_from"));
        }
        self.check_count("edge.attributes", edge.attributes.len(), self.limits.attributes)?;
        for (name, value) in &edge.attributes {
            bytes += self.check_attribute("edge.attributes", name, value)?;
        }
        self.check_sources("edge.sources", &edge.sources)?;
        self.check_bytes(bytes)?;
        let content = EdgeContent {
            weight: edge.weight,
            attributes: edge.attributes,
            valid_from: edge.valid_from,
            valid_to: edge.valid_to,
            sources: edge.sources,
        };
        self.edge(name, Some(content), bytes)
    }

    fn delete_edge(&self, edge: EdgeRef) -> Result<Mutation> {
        self.edge(edge, None, 0)
    }

    /// An edge lives with its source; its mirror belongs to its target.
    fn edge(&self, edge: EdgeRef, content: Option<EdgeContent>, bytes: usize) -> Result<Mutation> {
        validate_id("edge.from.id", &edge.from.id)?;
        validate_id("edge.to.id", &edge.to.id)?;
        validate_relation("edge.relation", &edge.relation)?;
        crate::model::validate_optional_name("edge.edge_id", &edge.edge_id)?;
        let from = self.collection(&edge.from.collection)?.id;
        let to = self.collection(&edge.to.collection)?.id;
        let version = self.clock.next();
        let source = EntityKey::new(self.tenant, from, &edge.from.id);
        let target = EntityKey::new(self.tenant, to, &edge.to.id);
        let name =
            EdgeKey { relation: edge.relation, collection: to, other: edge.to.id, edge_id: edge.edge_id };
        let parts = edge_parts(source, target, name, &Register { version, value: content });
        Ok(Mutation { version, subject: edge.from, kind: Kind::Edge, parts: parts.into(), bytes })
    }

    fn put_chunk(
        &self,
        collection: &Collection,
        delta: &mut EntityState,
        version: Version,
        id: String,
        chunk: Chunk,
    ) -> Result<usize> {
        validate_id("chunks.id", &id)?;
        let mut bytes = id.len() + chunk.text.len();
        self.check_sources("chunks.sources", &chunk.sources)?;
        self.check_count("chunks.metadata", chunk.metadata.len(), self.limits.attributes)?;
        for (name, value) in &chunk.metadata {
            bytes += self.check_attribute("chunks.metadata", name, value)?;
        }
        self.check_count("chunks.vectors", chunk.vectors.len(), self.limits.vectors)?;
        for (space, vector) in chunk.vectors {
            let key = self.vector_key(collection, &id, &space, "chunks.vectors", &vector)?;
            bytes += vector.len() * 4;
            let value = Some(VectorContent(vector.into()));
            insert_once(delta, "chunks.vectors", &space, key, Register { version, value })?;
        }
        let content = ChunkContent { text: chunk.text, metadata: chunk.metadata, sources: chunk.sources };
        delta.chunks.insert(id, Register { version, value: Some(content) });
        Ok(bytes)
    }

    fn vector_key(
        &self,
        collection: &Collection,
        chunk: &str,
        space: &str,
        field: &str,
        vector: &[f32],
    ) -> Result<VectorKey> {
        let found = collection.space(space)?;
        check_vector(&format!("{field}[{space:?}]"), found, vector)?;
        Ok(VectorKey { chunk: chunk.to_owned(), space: found.id })
    }

    fn check_attribute(&self, field: &str, name: &str, value: &Value) -> Result<usize> {
        validate_attribute_name(field, name)?;
        let place = || format!("{field}[{name:?}]");
        if value.depth() > self.limits.value_depth {
            return Err(Error::invalid(
                place(),
                format!("is nested deeper than {}", self.limits.value_depth),
            ));
        }
        if !value.is_finite() {
            return Err(Error::invalid(place(), "holds a number that is not finite"));
        }
        Ok(name.len() + value.bytes())
    }

    fn check_sources(&self, field: &str, sources: &std::collections::BTreeSet<String>) -> Result<()> {
        self.check_count(field, sources.len(), self.limits.sources)?;
        sources.iter().try_for_each(|source| validate_relation(field, source))
    }

    fn check_count(&self, field: &str, count: usize, limit: usize) -> Result<()> {
        if count > limit {
            return Err(Error::OverLimit { field: field.to_owned(), got: count, limit });
        }
        Ok(())
    }

    fn check_bytes(&self, bytes: usize) -> Result<()> {
        if bytes > self.limits.entity_bytes {
            let (field, limit) = ("entity".to_owned(), self.limits.entity_bytes);
            return Err(Error::OverLimit { field, got: bytes, limit });
        }
        Ok(())
    }
}

/// An edge at its source, which calls it by this name, and at its target.
pub(crate) fn edge_parts(
    source: EntityKey,
    target: EntityKey,
    name: EdgeKey,
    content: &Register<EdgeContent>,
) -> [Part; 2] {
    let (_, seen_from_target) = mirrored(&source, &name);
    let (mut at_source, mut at_target) = (EntityState::default(), EntityState::default());
    at_source.edges.insert(name, content.clone());
    at_target.edges_in.insert(seen_from_target, content.clone());
    [
        Part { entity: source, delta: at_source, condition: Condition::None },
        Part { entity: target, delta: at_target, condition: Condition::None },
    ]
}

/// A space may be named by its name or an alias, but once.
fn insert_once(
    delta: &mut EntityState,
    field: &str,
    space: &str,
    key: VectorKey,
    vector: Register<VectorContent>,
) -> Result<()> {
    match delta.vectors.insert(key, vector) {
        None => Ok(()),
        Some(_) => {
            Err(Error::invalid(format!("{field}[{space:?}]"), "is the same space as another one named here"))
        }
    }
}

/// The dimension must be the space's and every number finite.
pub(crate) fn check_vector(field: &str, space: &crate::model::Space, vector: &[f32]) -> Result<()> {
    if vector.len() != space.spec.dimension as usize {
        return Err(Error::WrongDimension {
            field: field.to_owned(),
            space: space.spec.name.clone(),
            want: space.spec.dimension,
            got: vector.len(),
        });
    }
    match vector.iter().position(|number| !number.is_finite()) {
        Some(at) => Err(Error::invalid(
            field,
            format!("holds {} at position {at}; numbers must be finite", vector[at]),
        )),
        None => Ok(()),
    }
}

fn check_type(entity_type: &str) -> Result<()> {
    crate::model::validate_optional_name("entity.type", entity_type)
}

fn check_importance(importance: Option<f64>) -> Result<Option<f64>> {
    match importance {
        Some(value) if !(0.0..=1.0).contains(&value) => {
            Err(Error::invalid("entity.importance", format!("is {value}; it must be in [0, 1]")))
        }
        _ => Ok(importance),
    }
}
