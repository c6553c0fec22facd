//! Opening the index as it was left: from its segments and its journal or, where these are lost, from the rows.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
};

use allidb_storage::{Background, Direction, Durability, Engine, Snapshot, WriteBatch, fs::Fs};

use crate::{
    catalogue::Catalogue,
    clock::Clock,
    deaths::Deaths,
    error::{Error, Result},
    inventory::Inventory,
    keyspaces::Keyspaces,
    model::{Collection, TenantId, TextSpec},
    placement::PARTITIONS,
    replica::{Numbers, register},
    row::{
        ChunkContent, EntityKey, EntityRow, Field, StoredRow,
        key::{
            by_number, collection_prefix, decode_chunk_key, decode_entity, decode_number_key,
            decode_numbered, encode_numbered,
        },
    },
    shelf::Shelf,
    text::{
        document::Document,
        growing::Growing,
        index::{FIRST_GENERATION, Sealed, TextChange, TextIndex},
        segment::TextSegment,
        upkeep::place,
    },
    upkeep::{Kept, Upkeep},
};

/// The directory of segments within the node's.
pub(crate) const DIRECTORY: &str = "texts";

/// What [`TextIndex`] works with.
pub(crate) struct TextContext {
    pub(crate) background: Arc<dyn Background>,
    pub(crate) engine: Engine,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fs: Arc<dyn Fs>,
    /// The node's directory.
    pub(crate) dir: PathBuf,
}

/// The words of an entity's attributes.
pub(crate) fn document_of_entity(spec: &TextSpec, row: &EntityRow) -> Document {
    if spec.fields.is_empty() || !row.exists() {
        return Document::default();
    }
    Document::of_attributes(spec, |name| row.get(&Field::Attribute(name.to_owned())))
}

impl TextIndex {
    /// Opens the index. A segment that is damaged is set aside, and all texts are read again before this returns.
    pub(crate) fn open(context: TextContext, catalogue: &Catalogue) -> Result<Kept<Self>> {
        let dir = context.dir.join(DIRECTORY);
        context.fs.create_dir_all(&dir).map_err(|source| Error::io("create the directory", &dir, source))?;
        let snapshot = context.engine.snapshot();
        let place = place(&context.keyspaces);
        let inventory = Inventory::load(&snapshot, &place)?;
        let mut is_complete = inventory.as_ref().is_some_and(|inventory| inventory.is_complete);
        let inventory =
            inventory.unwrap_or(Inventory { generation: FIRST_GENERATION, ..Inventory::default() });
        let mut changed: BTreeSet<u64> = BTreeSet::new();
        let mut generation = inventory.generation;
        for row in place.journal(&snapshot)? {
            let (of, number) = row?;
            generation = generation.max(of);
            if of >= inventory.generation {
                changed.insert(number);
            }
        }
        let fresh_bytes: Arc<AtomicUsize> = Arc::default();
        let growing = Growing::new(generation + 1, inventory.generation, &fresh_bytes);
        let shelf = Shelf::new(growing, inventory.generation);
        let index = Self::new(context, dir, shelf, fresh_bytes);
        for (id, dead) in inventory.segments {
            match TextSegment::open(&index.fs, &index.dir, id) {
                Ok(segment) => {
                    let deaths = Deaths::new(segment.len() as usize, &dead);
                    let is_there = |collection| catalogue.by_id(collection).is_some();
                    index.add_sealed(Sealed { segment, deaths }, is_there);
                }
                Err(error) if !is_lost(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "a segment of texts is set aside; all texts are read again");
                    index.set_aside(id)?;
                    is_complete = false;
                }
            }
        }
        for number in changed {
            match index.replay(&snapshot, catalogue, number) {
                // Nobody can read that text anyway; what reads its row is told of the damage.
                Err(error) if error.is_damage() => tracing::error!(%error, "a text cannot be read"),
                replayed => replayed?,
            }
        }
        if !is_complete {
            index.rebuild(&snapshot, catalogue)?;
        }
        // From here on what comes is journaled as it comes.
        index.shelf.write().replayed_from = None;
        index.remove_orphans()?;
        Ok(Kept::new(index))
    }
}

/// Whether files do not hold any more what was written to them. Where they merely cannot be read now, they are left alone.
fn is_lost(error: &Error) -> bool {
    let Error::Storage(error) = error else { return false };
    match &**error {
        allidb_storage::Error::Corruption { .. } => true,
        allidb_storage::Error::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::NotFound
                | ErrorKind::UnexpectedEof
                | ErrorKind::InvalidData
                | ErrorKind::InvalidInput
                | ErrorKind::Other
        ),
        _ => false,
    }
}

impl TextIndex {
    /// Reads again what a journaled number stands for.
    fn replay(&self, snapshot: &Snapshot, catalogue: &Catalogue, number: u64) -> Result<()> {
        let key = by_number(number);
        let owner = match snapshot.get(self.keyspaces.number, &key)? {
            None => None,
            Some(bytes) => {
                let owner = decode_numbered(&bytes);
                Some(owner.map_err(|error| Error::corrupt("number", &key, error))?)
            }
        };
        let Some((entity, chunk)) = owner else {
            self.add(snapshot, number, crate::model::CollectionId(0), Document::default());
            return Ok(());
        };
        let document = match catalogue.by_id(entity.collection) {
            None => Document::default(),
            Some(collection) => self.read(snapshot, collection, &entity, &chunk)?,
        };
        self.add(snapshot, number, entity.collection, document);
        Ok(())
    }

    /// The words of an entity or, with a chunk's id, of that chunk.
    fn read(
        &self,
        snapshot: &Snapshot,
        collection: &Collection,
        entity: &EntityKey,
        chunk: &str,
    ) -> Result<Document> {
        if chunk.is_empty() {
            let key = entity.prefix();
            let Some(bytes) = snapshot.get(self.keyspaces.entity, &key)? else {
                return Ok(Document::default());
            };
            let row = EntityRow::decode(&bytes).map_err(|error| Error::corrupt("entity", &key, error))?;
            return Ok(document_of_entity(&collection.text, &row));
        }
        let key = entity.chunk(chunk);
        let Some(bytes) = snapshot.get(self.keyspaces.chunk, &key)? else { return Ok(Document::default()) };
        let content = register::<ChunkContent>("chunk", &key, &bytes)?.value;
        Ok(content
            .map_or_else(Document::default, |content| Document::of_chunk(&collection.text, &content.text)))
    }

    fn add(
        &self,
        snapshot: &Snapshot,
        number: u64,
        collection: crate::model::CollectionId,
        document: Document,
    ) {
        let change = TextChange { writing: self.begin_write(), number, collection, document };
        self.publish(&change, snapshot.sequence());
    }

    /// Reads every text that is in no segment, and seals them all.
    fn rebuild(&self, snapshot: &Snapshot, catalogue: &Catalogue) -> Result<()> {
        for (tenant, collection) in catalogue.owned() {
            self.rebuild_collection(snapshot, tenant, collection)?;
        }
        self.close_growing();
        self.seal_frozen(0)?;
        self.remember(true)
    }

    fn rebuild_collection(
        &self,
        snapshot: &Snapshot,
        tenant: TenantId,
        collection: &Collection,
    ) -> Result<()> {
        let keyspaces = &self.keyspaces;
        for partition in 0..PARTITIONS {
            let prefix = collection_prefix(partition, tenant, collection.id);
            if !collection.text.fields.is_empty() {
                for row in snapshot.prefix(keyspaces.entity, &prefix, Direction::Forward)? {
                    let (key, bytes) = row?;
                    let corrupt = |error| Error::corrupt("entity", &key, error);
                    let entity = decode_entity(&mut crate::codec::Decoder::new(&key)).map_err(corrupt)?;
                    let row = EntityRow::decode(&bytes).map_err(corrupt)?;
                    self.restore(snapshot, &entity, "", || document_of_entity(&collection.text, &row))?;
                }
            }
            let mut last: Option<(EntityKey, bool)> = None;
            for row in snapshot.prefix(keyspaces.chunk, &prefix, Direction::Forward)? {
                let (key, bytes) = row?;
                let (entity, chunk) =
                    decode_chunk_key(&key).map_err(|error| Error::corrupt("chunk", &key, error))?;
                let exists = match last.take() {
                    Some((same, exists)) if same == entity => exists,
                    _ => self.exists(snapshot, &entity)?,
                };
                last = Some((entity.clone(), exists));
                if let (Some(content), true) =
                    (register::<ChunkContent>("chunk", &key, &bytes)?.value, exists)
                {
                    self.restore(snapshot, &entity, &chunk, || {
                        Document::of_chunk(&collection.text, &content.text)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Whether an entity was put and not deleted. Chunks may come before it does.
    fn exists(&self, snapshot: &Snapshot, entity: &EntityKey) -> Result<bool> {
        let key = entity.prefix();
        let Some(bytes) = snapshot.get(self.keyspaces.entity, &key)? else { return Ok(false) };
        StoredRow::new(bytes).map(|row| row.exists()).map_err(|error| Error::corrupt("entity", &key, error))
    }

    /// Adds a text that is in no segment.
    fn restore(
        &self,
        snapshot: &Snapshot,
        entity: &EntityKey,
        chunk: &str,
        document: impl FnOnce() -> Document,
    ) -> Result<()> {
        let key = entity.number(chunk);
        let number = match snapshot.get(self.keyspaces.number, &key)? {
            Some(bytes) => Some(decode_number_key(&key, &bytes)?),
            None => None,
        };
        if number.is_some_and(|number| self.knows(number)) {
            return Ok(());
        }
        let document = document();
        if document.is_empty() {
            return Ok(());
        }
        let number = match number {
            Some(number) => number,
            // Written before texts were indexed.
            None => {
                let number = self.numbers.next(&self.engine)?;
                let mut batch = WriteBatch::new();
                batch.put(self.keyspaces.number, key, number.to_be_bytes().to_vec());
                batch.put(self.keyspaces.number, by_number(number), encode_numbered(entity, chunk));
                self.engine.write(batch, Durability::None)?;
                number
            }
        };
        self.add(snapshot, number, entity.collection, document);
        self.seal_frozen(2)
    }

    /// Seals until so many full sets are left.
    fn seal_frozen(&self, left: usize) -> Result<()> {
        loop {
            let frozen = {
                let shelf = self.shelf.read();
                shelf.frozen.first().filter(|_| shelf.frozen.len() > left).cloned()
            };
            let Some(frozen) = frozen else { return Ok(()) };
            self.seal_into(frozen, false)?;
        }
    }
}
