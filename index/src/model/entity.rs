//! Entities and chunks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{Timestamp, Value},
    version::Version,
};

/// Names an entity of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityRef {
    /// The collection's name.
    pub collection: String,
    /// The entity's id within it.
    pub id: String,
}

impl EntityRef {
    /// A reference from its two parts.
    pub fn new(collection: impl Into<String>, id: impl Into<String>) -> Self {
        Self { collection: collection.into(), id: id.into() }
    }
}

/// Something stored. Its edges are not part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entity {
    /// The entity's id.
    pub id: String,
    /// A short string such as "document"; may be empty.
    pub entity_type: String,
    /// Named values.
    pub attributes: BTreeMap<String, Value>,
    /// In [0, 1]; `None` is neutral in scoring.
    pub importance: Option<f64>,
    /// When it was first put since it was last deleted. Set by the server.
    pub created_at: Option<Timestamp>,
    /// When it was last written. Set by the server.
    pub updated_at: Option<Timestamp>,
    /// When it vanishes.
    pub expire_at: Option<Timestamp>,
    /// The names of the sources it came from.
    pub sources: BTreeSet<String>,
    /// The entity's own vectors: space name to vector, of the space's dimension.
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// Chunk id to chunk.
    pub chunks: BTreeMap<String, Chunk>,
    /// The highest version among its rows. Set by the server.
    pub version: Version,
}

impl Entity {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let values = |values: &BTreeMap<String, Value>| -> usize {
            values.iter().map(|(name, value)| name.len() + value.bytes()).sum()
        };
        let vectors = |vectors: &BTreeMap<String, Vec<f32>>| -> usize {
            vectors.iter().map(|(space, vector)| space.len() + vector.len() * 4).sum()
        };
        let chunk = |(id, chunk): (&String, &Chunk)| {
            id.len() + chunk.text.len() + values(&chunk.metadata) + vectors(&chunk.vectors)
        };
        let chunks: usize = self.chunks.iter().map(chunk).sum();
        64 + self.id.len() + values(&self.attributes) + vectors(&self.vectors) + chunks
    }
}

/// A piece of an entity's text, with vectors of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// UTF-8 text.
    pub text: String,
    /// Named values.
    pub metadata: BTreeMap<String, Value>,
    /// The names of the sources it came from.
    pub sources: BTreeSet<String>,
    /// Space name to vector.
    pub vectors: BTreeMap<String, Vec<f32>>,
}

/// Which parts of an entity a read returns. The id and the version are always there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMask {
    /// The type.
    pub entity_type: bool,
    /// All attributes.
    pub attributes: bool,
    /// These attributes (unless all are).
    pub attribute_names: BTreeSet<String>,
    /// Importance, times and sources.
    pub metadata: bool,
    /// All of the entity's own vectors.
    pub vectors: bool,
    /// The vectors in these spaces (unless all are).
    pub vector_spaces: BTreeSet<String>,
    /// Chunks: text and metadata.
    pub chunks: bool,
    /// The chunks' vectors, too.
    pub chunk_vectors: bool,
}

impl ReadMask {
    /// Nothing but the id and the version.
    pub fn nothing() -> Self {
        Self {
            entity_type: false,
            attributes: false,
            attribute_names: BTreeSet::new(),
            metadata: false,
            vectors: false,
            vector_spaces: BTreeSet::new(),
            chunks: false,
            chunk_vectors: false,
        }
    }

    /// Everything but vectors: what a read returns unless it is told otherwise.
    pub fn without_vectors() -> Self {
        Self { entity_type: true, attributes: true, metadata: true, chunks: true, ..Self::nothing() }
    }

    /// Everything but vectors and chunks: what a hit carries unless the query says otherwise.
    pub fn fields() -> Self {
        Self { chunks: false, ..Self::without_vectors() }
    }

    /// Everything.
    pub fn everything() -> Self {
        Self { vectors: true, chunk_vectors: true, ..Self::without_vectors() }
    }

    /// From the paths of a field mask.
    ///
    /// # Errors
    /// Names the path that is no field of an entity.
    pub fn from_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut mask = Self::nothing();
        for path in paths {
            match path {
                "*" => mask = Self::everything(),
                "id" | "ref" | "version" => {}
                "type" => mask.entity_type = true,
                "attributes" => mask.attributes = true,
                "importance" | "created_at" | "updated_at" | "expire_at" | "sources" => mask.metadata = true,
                "vectors" => mask.vectors = true,
                "chunks" => mask.chunks = true,
                "chunks.vectors" => (mask.chunks, mask.chunk_vectors) = (true, true),
                _ => match path.split_once('.') {
                    Some(("attributes", name)) if !name.is_empty() => {
                        mask.attribute_names.insert(name.to_owned());
                    }
                    Some(("vectors", space)) if !space.is_empty() => {
                        mask.vector_spaces.insert(space.to_owned());
                    }
                    _ => {
                        return Err(Error::invalid(
                            "read_mask",
                            format!("{path:?} is no field of an entity"),
                        ));
                    }
                },
            }
        }
        Ok(mask)
    }

    /// Whether the entity's own vector in `space` is asked for.
    pub fn wants_vector(&self, space: &str) -> bool {
        self.vectors || self.vector_spaces.contains(space)
    }

    /// Whether any of the entity's own vectors is asked for.
    pub fn wants_vectors(&self) -> bool {
        self.vectors || !self.vector_spaces.is_empty()
    }
}
