//! Collections and their vector spaces.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    filter::Field,
    model::{TextSpec, Timestamp, validate_collection_name},
};

/// A tenant's number: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantId(pub u64);

impl TenantId {
    /// The tenant of every caller before there are credentials.
    pub const DEFAULT: TenantId = TenantId(1);
}

/// A collection's number: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CollectionId(pub u64);

/// A vector space's number: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// A secondary index's number: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexId(pub u64);

/// A declared secondary index: conditions on its field are looked up in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Its number.
    pub id: IndexId,
    /// What it is of.
    pub field: Field,
    /// Whether it is whole.
    pub state: IndexState,
}

/// Whether an index has all entities; until then it is kept by writes, but not used. Copies tell of the same index.
#[derive(Clone, Debug, Default)]
pub struct IndexState(Arc<AtomicU8>);

impl IndexState {
    const MISSING: u8 = 0;
    const BUILDING: u8 = 1;
    const BUILT: u8 = 2;

    /// Whether it has all entities.
    pub fn is_built(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::BUILT
    }

    pub(crate) fn set_built(&self) {
        self.0.store(Self::BUILT, Ordering::Release);
    }

    /// Whether who asks is to build it: nobody else does, and it is not whole.
    pub(crate) fn begin_build(&self) -> bool {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.compare_exchange(Self::MISSING, Self::BUILDING, order, failed).is_ok()
    }
}

impl PartialEq for IndexState {
    fn eq(&self, other: &Self) -> bool {
        self.is_built() == other.is_built()
    }
}

/// How nearness is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Cosine similarity.
    Cosine,
    /// Dot product.
    Dot,
    /// Euclidean distance.
    L2,
}

/// How the index holds the vectors of a space. Their f32 are stored with the entities in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codes {
    /// 4 bits a coordinate for walks, 8 more for the re-ranking.
    #[default]
    Bits4And8,
    /// 8 bits a coordinate and nothing else: a quarter less memory. The nearest are measured by their stored vectors.
    Bits8,
    /// 1 bit a coordinate for walks, 8 more for the re-ranking: walks touch least memory, and must be broader.
    Bits1And8,
    /// None: f32 a coordinate.
    Float,
}

impl Codes {
    /// Whether what the index holds tells distances so well that stored vectors need not be read.
    pub fn tell_distances(self) -> bool {
        self != Codes::Bits8
    }
}

/// What a caller declares of a vector space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceSpec {
    /// Its name, unique among the collection's spaces and aliases.
    pub name: String,
    /// 1 to 65,535.
    pub dimension: u32,
    /// How nearness is measured.
    pub metric: Metric,
    /// How many older vectors of each entity or chunk are kept; at most [`SpaceSpec::MAX_HISTORY`].
    pub history: u32,
    /// How the index holds the vectors.
    pub codes: Codes,
}

impl SpaceSpec {
    /// The largest dimension.
    pub const MAX_DIMENSION: u32 = 65_535;
    /// Most older vectors kept.
    pub const MAX_HISTORY: u32 = 1_000;

    /// A space without history, with the codes of the default.
    pub fn new(name: impl Into<String>, dimension: u32, metric: Metric) -> Self {
        Self { name: name.into(), dimension, metric, history: 0, codes: Codes::default() }
    }

    /// Checks name, dimension and history.
    pub fn validate(&self, field: &str) -> Result<()> {
        validate_collection_name(&format!("{field}.name"), &self.name)?;
        if self.dimension == 0 || self.dimension > Self::MAX_DIMENSION {
            let why = format!("is {}; it must be 1 to {}", self.dimension, Self::MAX_DIMENSION);
            return Err(Error::invalid(format!("{field}.dimension"), why));
        }
        if self.history > Self::MAX_HISTORY {
            let why = format!("is {}; at most {} older vectors are kept", self.history, Self::MAX_HISTORY);
            return Err(Error::invalid(format!("{field}.history"), why));
        }
        Ok(())
    }
}

/// A declared vector space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its number.
    pub id: SpaceId,
    /// What was declared.
    pub spec: SpaceSpec,
}

/// A collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Collection {
    /// Its number.
    pub id: CollectionId,
    /// Its name.
    pub name: String,
    /// Its vector spaces, by name.
    pub spaces: BTreeMap<String, Space>,
    /// Alias to the name of the space it stands for.
    pub aliases: BTreeMap<String, String>,
    /// What of it is searched as text.
    pub text: TextSpec,
    /// Its secondary indexes, in the order of their fields.
    pub indexes: Vec<Index>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Collection {
    /// The space of this name or alias.
    ///
    /// # Errors
    /// [`Error::UnknownSpace`].
    pub fn space(&self, name: &str) -> Result<&Space> {
        let target = self.aliases.get(name).map_or(name, String::as_str);
        self.spaces
            .get(target)
            .ok_or_else(|| Error::UnknownSpace { collection: self.name.clone(), space: name.to_owned() })
    }

    /// The index with this number, if it was not dropped.
    pub fn index_by_id(&self, id: IndexId) -> Option<&Index> {
        self.indexes.iter().find(|index| index.id == id)
    }

    /// The space with this number, if it was not dropped.
    pub fn space_by_id(&self, id: SpaceId) -> Option<&Space> {
        self.spaces.values().find(|space| space.id == id)
    }
}

/// What a caller declares of a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CollectionSpec {
    /// Its vector spaces.
    pub spaces: Vec<SpaceSpec>,
    /// Alias to the name of the space it stands for.
    pub aliases: BTreeMap<String, String>,
    /// What of it is searched as text.
    pub text: TextSpec,
    /// The fields that have secondary indexes.
    pub indexes: Vec<Field>,
}

impl CollectionSpec {
    /// Spaces, and nothing else.
    pub fn of_spaces(spaces: Vec<SpaceSpec>) -> Self {
        Self { spaces, ..Self::default() }
    }
}

/// Changes to a collection, made together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionChange {
    /// Spaces to add; one that exists must be equal.
    pub add_spaces: Vec<SpaceSpec>,
    /// Names of spaces to drop with all their vectors.
    pub drop_spaces: Vec<String>,
    /// Aliases to set or move: alias to space name.
    pub set_aliases: BTreeMap<String, String>,
    /// Aliases to remove.
    pub remove_aliases: Vec<String>,
    /// Fields that get secondary indexes; those that have one keep it.
    pub add_indexes: Vec<Field>,
    /// Fields whose secondary indexes go.
    pub drop_indexes: Vec<Field>,
}
