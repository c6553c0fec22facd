//! What a query compares with, and the moment at which it does.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    graph::{GraphReader, GraphView},
    merge::EntityState,
    model::{Collection, CollectionId, EntityRef, Limits, Metric, Space, SpaceId, TenantId, validate_id},
    mutation::check_vector,
    query::{Examples, ExpandSpec, Nearest, NearestTarget, Query, Seed},
    replica::{Reader, Replica},
    row::{EntityKey, VectorContent, VectorKey},
    text::TextView,
    vector::{SpaceIndex, View, measure_and_similarity},
};

/// A vector that candidates are compared with.
pub(crate) struct Target {
    pub(super) collection: CollectionId,
    pub(crate) space: SpaceId,
    pub(crate) metric: Metric,
    pub(crate) vector: Arc<[f32]>,
    pub(super) index: Arc<SpaceIndex>,
    /// The entities whose vectors it is made of: they are no answers.
    pub(crate) examples: Vec<EntityKey>,
}

impl Target {
    /// # Errors
    /// If a stored vector does not fit the space.
    pub(crate) fn check_dimension(&self, key: &[u8], vector: &[f32]) -> Result<()> {
        if vector.len() == self.vector.len() {
            return Ok(());
        }
        Err(Error::corrupt("vector", key, "it has another dimension than its space"))
    }

    /// How near a vector is of which the index tells the distance.
    pub(super) fn trust(&self, chunk: String, distance: f32) -> Match {
        let (measure, similarity) = self.index.measure().seen(distance);
        Match { chunk, measure, similarity, nearness: nearness(self.metric, measure) }
    }

    /// How near a vector of the entity is.
    pub(crate) fn compare(&self, chunk: String, vector: &[f32]) -> Match {
        let (measure, similarity) = measure_and_similarity(self.metric, &self.vector, vector);
        Match { chunk, measure, similarity, nearness: nearness(self.metric, measure) }
    }
}

/// A measure so turned that greater is nearer.
fn nearness(metric: Metric, measure: f64) -> f64 {
    if metric == Metric::L2 { -measure } else { measure }
}

/// The spaces of the targets as of the reader's snapshot.
pub(crate) type Views = HashMap<(CollectionId, SpaceId), View>;

/// How near an entity is to a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Match {
    /// Whose vector it is; empty: the entity's own.
    pub(crate) chunk: String,
    /// In the space's own measure.
    pub(crate) measure: f64,
    /// In [0, 1].
    pub(crate) similarity: f64,
    /// Greater is nearer, also where the similarity has no room left to tell.
    pub(crate) nearness: f64,
}

impl Match {
    pub(crate) fn is_better_than(&self, other: &Match) -> bool {
        self.similarity > other.similarity
            || (self.similarity == other.similarity && self.nearness > other.nearness)
    }
}

impl Reader<'_> {
    /// What the query's nearest clauses compare with, one for each, in order.
    fn targets(&self, query: &Query, collection: &Collection, deadline: Deadline) -> Result<Vec<Target>> {
        let clauses = query.seeds.iter().enumerate().filter_map(|(at, seed)| match seed {
            Seed::Nearest(nearest) => Some((at, nearest)),
            _ => None,
        });
        clauses
            .map(|(at, nearest)| self.target(&format!("seeds[{at}].nearest"), nearest, collection, deadline))
            .collect()
    }

    fn target(
        &self,
        place: &str,
        nearest: &Nearest,
        collection: &Collection,
        deadline: Deadline,
    ) -> Result<Target> {
        let space = collection.space(&nearest.space)?;
        let unknown =
            || Error::UnknownSpace { collection: collection.name.clone(), space: nearest.space.clone() };
        let index = self.replica.spaces.get(collection.id, space.id).ok_or_else(unknown)?;
        self.replica.spaces.check_damage(collection.id)?;
        let own = |place: &str, entity: &EntityRef| {
            deadline.check()?;
            self.own_vector(place, entity, &nearest.space, space)
        };
        let (vector, examples) = nearest.aim(place, space, &own)?;
        Ok(Target {
            collection: collection.id,
            space: space.id,
            metric: space.spec.metric,
            vector,
            index,
            examples,
        })
    }

    /// An entity's own vector in the space of this name, for a search of `space`.
    fn own_vector(
        &self,
        place: &str,
        entity: &EntityRef,
        name: &str,
        space: &Space,
    ) -> Result<(EntityKey, Arc<[f32]>)> {
        validate_id(&format!("{place}.id"), &entity.id)?;
        let owner = self.catalogue.get(self.tenant, &entity.collection)?;
        let key = self.meant(EntityKey::new(self.tenant, owner.id, &entity.id))?;
        let is_live = self.row(&key)?.is_some_and(|row| row.is_live(self.now));
        if !is_live {
            return Err(Error::NotFound { collection: entity.collection.clone(), id: entity.id.clone() });
        }
        // The same name in the entity's own collection may be a space of another dimension.
        let owned = owner.space(name)?;
        let vectors = self.vectors(&key.chunk(""))?;
        let own = vectors.into_iter().find(|stored| stored.space == owned.id);
        let own = own.ok_or_else(|| no_vector(entity, name))?;
        check_vector(place, space, &own.numbers)?;
        Ok((key, own.numbers))
    }
}

fn no_vector(entity: &EntityRef, space: &str) -> Error {
    let id = &entity.id;
    Error::FailedPrecondition(format!("entity {id:?} has no vector of its own in space {space:?}"))
}

impl Replica {
    /// What a clause compares with, and the entities whose vectors that is made of, as they were told.
    pub(super) fn told_target(
        &self,
        tenant: TenantId,
        place: &str,
        nearest: &Nearest,
        collection: &Collection,
        examples: &[(EntityKey, EntityState)],
        deadline: Deadline,
    ) -> Result<(Arc<[f32]>, Vec<EntityKey>)> {
        let (catalogue, space) = (self.catalogue(), collection.space(&nearest.space)?);
        let own = |place: &str, entity: &EntityRef| {
            deadline.check()?;
            let key = self.entity_key(tenant, entity)?;
            let state = examples.iter().find(|(known, _)| *known == key).map(|(_, state)| state);
            let state = state.filter(|state| self.is_live(state));
            let gone = || Error::NotFound { collection: entity.collection.clone(), id: entity.id.clone() };
            let state = state.ok_or_else(gone)?;
            let owned = catalogue.get(tenant, &entity.collection)?.space(&nearest.space)?;
            let own = VectorKey { chunk: String::new(), space: owned.id };
            let vector = state.vectors.get(&own).and_then(|register| register.value.clone());
            let VectorContent(numbers) = vector.ok_or_else(|| no_vector(entity, &nearest.space))?;
            check_vector(place, space, &numbers)?;
            Ok((key, numbers))
        };
        nearest.aim(place, space, &own)
    }
}

/// Gives an entity's own vector, by the place that names it.
type OwnVector<'a> = dyn Fn(&str, &EntityRef) -> Result<(EntityKey, Arc<[f32]>)> + 'a;

impl Nearest {
    /// # Errors
    /// If there are too many examples, or none, or one is named wrongly.
    pub(super) fn check_examples(&self, place: &str, limits: &Limits) -> Result<()> {
        match &self.target {
            NearestTarget::Vector(_) => Ok(()),
            NearestTarget::Entity(entity) => validate_id(&format!("{place}.entity.id"), &entity.id),
            NearestTarget::Examples(Examples { positive, negative }) => {
                let limit = limits.seed_ids;
                let count = positive.len() + negative.len();
                if positive.is_empty() || count > limit {
                    let why = format!(
                        "holds {} and {}; at least one positive, and at most {limit}",
                        positive.len(),
                        negative.len()
                    );
                    return Err(Error::invalid(format!("{place}.examples"), why));
                }
                for (name, of) in [("positive", positive), ("negative", negative)] {
                    for (at, entity) in of.iter().enumerate() {
                        validate_id(&format!("{place}.examples.{name}[{at}].id"), &entity.id)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// The vector that it is near to, and the entities that this is made of, whose own vectors `own` gives.
    fn aim(&self, place: &str, space: &Space, own: &OwnVector<'_>) -> Result<(Arc<[f32]>, Vec<EntityKey>)> {
        Ok(match &self.target {
            NearestTarget::Vector(vector) => {
                check_vector(&format!("{place}.vector"), space, vector)?;
                (vector.as_slice().into(), Vec::new())
            }
            NearestTarget::Entity(entity) => {
                let (key, vector) = own(&format!("{place}.entity"), entity)?;
                (vector, vec![key])
            }
            NearestTarget::Examples(Examples { positive, negative }) => {
                let count = positive.len() + negative.len();
                let mut examples = Vec::with_capacity(count);
                let mut mean = |name: &str, of: &[EntityRef]| {
                    let mut mean = vec![0.0; space.spec.dimension as usize];
                    for (at, entity) in of.iter().enumerate() {
                        let place = format!("{place}.examples.{name}[{at}]");
                        let (key, vector) = own(&place, entity)?;
                        examples.push(key);
                        add_share(&mut mean, space.spec.metric, &vector, of.len());
                    }
                    Ok::<_, Error>(mean)
                };
                let (liked, unliked) = (mean("positive", positive)?, mean("negative", negative)?);
                let vector: Vec<f32> = match negative.is_empty() {
                    true => liked.iter().map(|liked| *liked as f32).collect(),
                    // As far from the mean of the others as they are on the other side.
                    false => liked
                        .iter()
                        .zip(&unliked)
                        .map(|(liked, unliked)| (2.0 * liked - unliked) as f32)
                        .collect(),
                };
                if vector.iter().all(|number| *number == 0.0) {
                    return Err(Error::FailedPrecondition(format!("{place}.examples cancel each other out")));
                }
                (vector.into(), examples)
            }
        })
    }
}

/// Adds a vector's share to the mean of `count`; where only directions matter, whatever its length.
fn add_share(mean: &mut [f64], metric: Metric, vector: &[f32], count: usize) {
    let norm = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    let scale = match metric {
        Metric::Cosine if norm > 0.0 => 1.0 / norm,
        _ => 1.0,
    };
    for (mean, number) in mean.iter_mut().zip(vector) {
        *mean += f64::from(*number) * scale / count as f64;
    }
}

/// What a query begins with.
pub(crate) struct Aimed {
    pub(crate) collection: Arc<Collection>,
    pub(crate) targets: Vec<Target>,
    /// Of the query that bounds it.
    pub(crate) within: Option<Box<Aimed>>,
}

impl Aimed {
    fn of(reader: &Reader<'_>, query: &Query, deadline: Deadline) -> Result<Self> {
        deadline.check()?;
        let collection = Arc::clone(reader.catalogue.get(reader.tenant, &query.collection)?);
        let targets = reader.targets(query, &collection, deadline)?;
        let within = query.within.as_deref().map(|within| {
            Self::of(reader, within, deadline).map(Box::new).map_err(|error| error.within("within"))
        });
        Ok(Self { collection, targets, within: within.transpose()? })
    }

    fn all_targets(&self) -> Vec<&Target> {
        let inner = self.within.iter().flat_map(|within| within.all_targets());
        self.targets.iter().chain(inner).collect()
    }
}

/// A query and those within it.
fn with_inner(query: &Query) -> impl Iterator<Item = &Query> {
    std::iter::successors(Some(query), |query| query.within.as_deref())
}

/// One moment: a reader, and every target's space as of its snapshot.
pub(crate) struct Pinned<'a> {
    pub(crate) reader: Reader<'a>,
    pub(crate) views: Views,
    /// Of texts, if any query looks for words.
    pub(crate) text_view: Option<TextView>,
    /// Of the graph.
    pub(crate) graph_view: GraphView,
    /// One for each query.
    pub(crate) aimed: Vec<Result<Aimed>>,
}

impl<'a> Pinned<'a> {
    /// The graph at this moment, as far as a walk may go.
    pub(crate) fn graph(&self, spec: Option<&ExpandSpec>) -> GraphReader<'_> {
        let (replica, at) = (self.reader.replica, self.reader.snapshot.sequence());
        let graph = GraphReader::new(&replica.graph, self.graph_view.clone(), at, self.reader.now);
        let ids = |spec: &ExpandSpec| self.reader.catalogue.ids(self.reader.tenant, &spec.collections);
        graph.only(spec.and_then(ids))
    }

    /// Pins a moment for all of the queries. A view that was taken after segments had changed is no good for an older snapshot;
    /// then both are taken again.
    pub(crate) fn at(begin: impl Fn() -> Reader<'a>, queries: &[Query], deadline: Deadline) -> Self {
        loop {
            let reader = begin();
            let aim = |query: &Query| {
                reader.replica.validate(query)?;
                Aimed::of(&reader, query, deadline)
            };
            let aimed: Vec<Result<Aimed>> = queries.iter().map(aim).collect();
            let mut views = Views::new();
            for target in aimed.iter().flatten().flat_map(Aimed::all_targets) {
                views.entry(target.index.id).or_insert_with(|| target.index.view());
            }
            let seeks_words =
                |query: &Query| query.seeds.iter().any(|seed| matches!(seed, Seed::Text { .. }));
            let text_view =
                queries.iter().flat_map(with_inner).any(seeks_words).then(|| reader.replica.texts.view());
            let graph_view = reader.replica.graph.view();
            let sequence = reader.snapshot.sequence();
            if views.values().all(|view| view.fits(sequence))
                && text_view.as_ref().is_none_or(|view| view.fits(sequence))
                && graph_view.fits(sequence)
            {
                return Self { reader, views, text_view, graph_view, aimed };
            }
        }
    }
}
