//! The texts that a request holds in place of vectors, and the vectors that come in their places.

use std::{collections::BTreeSet, mem};

use allidb_cluster::Deadline;
use tonic::Status;

use super::{EmbedError, Embedder};
use crate::{
    status,
    v1::{self, nearest::Target, seed::Kind},
};

/// Queries within each other that are looked into: as many as may be there, and one that is refused later.
const MAX_WITHIN: usize = 8;

/// The texts of one request.
#[derive(Default)]
pub(crate) struct Texts<'a>(Vec<Slot<'a>>);

/// Where a text stands.
struct Slot<'a> {
    /// In the request.
    place: String,
    collection: String,
    space: String,
    holder: Holder<'a>,
}

enum Holder<'a> {
    Vector(&'a mut v1::Vector),
    Target(&'a mut Target),
}

impl<'a> Texts<'a> {
    /// Those of an entity and its chunks.
    pub(crate) fn of_entity(&mut self, place: &str, entity: &'a mut v1::Entity) {
        for (space, vector) in &mut entity.vectors {
            self.of_vector(format!("{place}.vectors[{space:?}]"), entity.r#ref.as_ref(), space, vector);
        }
        self.of_chunks(&format!("{place}.chunks"), entity.r#ref.as_ref(), &mut entity.chunks);
    }

    /// Those of an entity's chunks.
    pub(crate) fn of_chunks(&mut self, place: &str, of: Option<&v1::EntityRef>, chunks: &'a mut [v1::Chunk]) {
        for (at, chunk) in chunks.iter_mut().enumerate() {
            for (space, vector) in &mut chunk.vectors {
                self.of_vector(format!("{place}[{at}].vectors[{space:?}]"), of, space, vector);
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The collections and spaces that the vectors are for, each once.
    pub(crate) fn spaces(&self) -> BTreeSet<(String, String)> {
        self.0.iter().map(|slot| (slot.collection.clone(), slot.space.clone())).collect()
    }

    /// Those of a query and of what is within it.
    pub(crate) fn of_query(&mut self, query: &'a mut v1::QueryRequest) {
        let mut place = String::new();
        let mut next = Some(query);
        for _ in 0..MAX_WITHIN {
            let Some(query) = next else { return };
            let of = v1::EntityRef { collection: query.collection.clone(), ..v1::EntityRef::default() };
            for (at, seed) in query.seeds.iter_mut().enumerate() {
                let Some(Kind::Nearest(nearest)) = &mut seed.kind else { continue };
                let place = format!("{place}seeds[{at}].nearest");
                let space = nearest.space.clone();
                match &mut nearest.target {
                    Some(target @ Target::Text(_)) => {
                        let (place, holder) = (format!("{place}.text"), Holder::Target(target));
                        self.0.push(Slot { place, collection: of.collection.clone(), space, holder });
                    }
                    Some(Target::Vector(vector)) => {
                        self.of_vector(format!("{place}.vector"), Some(&of), &space, vector)
                    }
                    _ => {}
                }
            }
            place.push_str("within.");
            next = query.within.as_deref_mut();
        }
    }

    fn of_vector(
        &mut self,
        place: String,
        of: Option<&v1::EntityRef>,
        space: &str,
        vector: &'a mut v1::Vector,
    ) {
        // One that also has numbers is refused by who reads it.
        if !vector.text.is_empty() && vector.values.is_empty() && vector.raw.is_empty() {
            let collection = of.map(|of| of.collection.clone()).unwrap_or_default();
            self.0.push(Slot { place, collection, space: space.to_owned(), holder: Holder::Vector(vector) });
        }
    }

    /// Puts nothing in the places of the texts for a space that is not there: whoever reads on refuses them.
    pub(crate) fn leave_out(&mut self, collection: &str, space: &str) {
        let is_for = |slot: &mut Slot<'_>| slot.collection == collection && slot.space == space;
        for slot in self.0.extract_if(.., is_for) {
            slot.fill(Vec::new());
        }
    }

    /// Puts vectors in the places of the texts.
    ///
    /// # Errors
    /// If there is nobody who turns texts into vectors, or that fails: the request is as good as before.
    pub(crate) async fn embed(self, embedder: Option<&Embedder>, deadline: Deadline) -> Result<(), Status> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let Some(embedder) = embedder else {
            return Err(status::no_embedding_provider(&first.place, &first.space));
        };
        let texts = self.0.iter().map(|slot| match &slot.holder {
            Holder::Vector(vector) => vector.text.clone(),
            Holder::Target(Target::Text(text)) => text.clone(),
            Holder::Target(_) => String::new(),
        });
        let embedded = embedder.embed(texts.collect(), deadline).await;
        let vectors = embedded.map_err(|error| failed(&first.place, &error))?;
        self.0.into_iter().zip(vectors).for_each(|(slot, values)| slot.fill(values));
        Ok(())
    }
}

impl Slot<'_> {
    fn fill(self, values: Vec<f32>) {
        let vector = v1::Vector { values, ..v1::Vector::default() };
        match self.holder {
            Holder::Vector(place) => drop(mem::replace(place, vector)),
            Holder::Target(place) => *place = Target::Vector(vector),
        }
    }
}

fn failed(place: &str, error: &EmbedError) -> Status {
    match error {
        EmbedError::TooLate => status::from_error(allidb_index::Error::DeadlineExceeded),
        EmbedError::Unavailable(_) => status::embedding_unavailable(place, &error.to_string()),
        EmbedError::Refused(_) | EmbedError::Model { .. } => {
            status::embedding_refused(place, &error.to_string())
        }
    }
}
