//! What is kept of a snapshot: a manifest, and objects with entities. `docs/format.md` has both byte by byte.

use allidb_index::{EntityKey, Error, LEAVES, Result, Sum};
use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

const MANIFEST_MAGIC: &[u8; 8] = b"ALLIDBSN";
const OBJECT_MAGIC: &[u8; 8] = b"ALLIDBSO";
pub(crate) const FORMAT: u32 = 1;
/// How well objects are compressed (zstd).
const LEVEL: i32 = 3;
/// The largest block before compression: an entity of ever so many edges.
const MOST_BYTES: usize = 1 << 30;
/// Bytes of a set of leaves.
const SET_BYTES: usize = LEAVES as usize / 8;

/// Where manifests are.
pub(super) const MANIFESTS: &str = "snapshots";
/// Where objects are.
pub(super) const OBJECTS: &str = "objects";
/// Where whoever makes one says so.
pub(super) const UNDER_WAY: &str = "under-way";

/// What a snapshot consists of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(uint64, tag = "2")]
    pub(super) created_at_ms: u64,
    #[prost(string, tag = "3")]
    pub(super) ring: String,
    /// As nodes tell it each other.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) catalogue: Vec<u8>,
    #[prost(string, repeated, tag = "5")]
    pub(super) collections: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) partitions: Vec<Partition>,
    /// What each partition's leaves came to.
    #[prost(message, repeated, tag = "7")]
    pub(super) sums: Vec<Object>,
    #[prost(uint64, tag = "8")]
    pub(super) new_bytes: u64,
    #[prost(string, tag = "9")]
    pub(super) digest: String,
}

/// What a partition consists of: of each leaf what the last of its parts holds that has it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Partition {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) parts: Vec<Part>,
}

/// Some leaves of a partition.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Part {
    /// A bit for each leaf; empty: all of them.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) leaves: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) objects: Vec<Object>,
}

/// Something that is kept under its hash.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Object {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
}

/// A set of leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaves(Vec<u8>);

impl Leaves {
    pub(super) fn none() -> Self {
        Self(vec![0; SET_BYTES])
    }

    pub(super) fn of(leaves: &[u16]) -> Self {
        let mut set = Self::none();
        leaves.iter().for_each(|leaf| set.add(*leaf));
        set
    }

    fn add(&mut self, leaf: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(leaf / 8)) {
            *byte |= 1 << (leaf % 8);
        }
    }

    pub(super) fn has(&self, leaf: u16) -> bool {
        self.0.get(usize::from(leaf / 8)).is_some_and(|byte| byte & (1 << (leaf % 8)) != 0)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Part {
    fn set(&self) -> Result<Option<Leaves>> {
        match self.leaves.len() {
            0 => Ok(None),
            SET_BYTES => Ok(Some(Leaves(self.leaves.clone()))),
            other => Err(garbled(&format!("has a set of leaves of {other} bytes"))),
        }
    }
}

impl Partition {
    /// Its parts, each with the leaves that later ones have instead.
    ///
    /// # Errors
    /// If a set of leaves is none.
    pub(super) fn hidden(&self) -> Result<Vec<(&Part, Leaves)>> {
        let mut hidden = Leaves::none();
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter().rev() {
            parts.push((part, hidden.clone()));
            match part.set()? {
                Some(set) => hidden.0.iter_mut().zip(set.0).for_each(|(bits, more)| *bits |= more),
                None => hidden.0.fill(u8::MAX),
            }
        }
        parts.reverse();
        Ok(parts)
    }
}

impl Object {
    /// What these bytes are kept as.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { hash: blake3::hash(bytes).as_bytes().to_vec(), bytes: bytes.len() as u64 }
    }

    /// Where it is kept.
    pub(super) fn name(&self) -> String {
        use std::fmt::Write;
        let mut name = format!("{OBJECTS}/");
        for byte in &self.hash {
            // Writing to a string does not fail.
            write!(name, "{byte:02x}").ok();
        }
        name
    }

    /// # Errors
    /// If it is something else.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        match blake3::hash(bytes).as_bytes()[..] == self.hash[..] {
            true => Ok(()),
            false => Err(garbled(&format!("{} holds something else than was written", self.name()))),
        }
    }
}

impl Manifest {
    /// All that it refers to.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        let parts = self.partitions.iter().flat_map(|partition| &partition.parts);
        parts.flat_map(|part| &part.objects).chain(&self.sums)
    }

    /// Where it is kept.
    pub(super) fn name(id: &str) -> String {
        format!("{MANIFESTS}/{id}")
    }

    pub(super) fn encode_whole(&self) -> Bytes {
        let mut bytes = [&MANIFEST_MAGIC[..], &FORMAT.to_le_bytes()].concat();
        bytes.extend(self.encode_to_vec());
        let checksum = xxh3_64(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes.into()
    }

    /// The inverse of [`encode_whole`](Self::encode_whole).
    ///
    /// # Errors
    /// If it is damaged, or of a later release.
    pub(super) fn decode_whole(bytes: &[u8]) -> Result<Self> {
        let (sealed, checksum) =
            bytes.split_last_chunk::<8>().ok_or_else(|| garbled("the manifest is cut off"))?;
        let body = sealed.strip_prefix(MANIFEST_MAGIC).ok_or_else(|| garbled("it is no manifest"))?;
        if xxh3_64(sealed) != u64::from_le_bytes(*checksum) {
            return Err(garbled("the manifest is damaged"));
        }
        let (format, body) = body.split_first_chunk().ok_or_else(|| garbled("the manifest is cut off"))?;
        match u32::from_le_bytes(*format) {
            FORMAT => {}
            other => return Err(garbled(&format!("the manifest is of format {other}, of a later release"))),
        }
        Self::decode(body).map_err(|error| garbled(&format!("the manifest cannot be read: {error}")))
    }
}

/// Collects entities for an object.
#[derive(Debug)]
pub(super) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    pub(super) fn new() -> Self {
        Self([&OBJECT_MAGIC[..], &FORMAT.to_le_bytes()].concat())
    }

    /// Appends entities, and what is held of each, as a block.
    ///
    /// # Errors
    /// If they are too large.
    pub(super) fn add(&mut self, entities: &[(EntityKey, Vec<u8>)]) -> Result<()> {
        let mut raw = Vec::new();
        for (key, state) in entities {
            for bytes in [&key.encode(), state] {
                raw.extend(length(bytes.len())?);
                raw.extend_from_slice(bytes);
            }
        }
        if raw.len() > MOST_BYTES {
            return Err(garbled(&format!("an entity is of {} bytes", raw.len())));
        }
        let packed = zstd::bulk::compress(&raw, LEVEL)
            .map_err(|error| Error::Internal(format!("cannot compress: {error}")))?;
        self.0.extend(length(packed.len())?);
        self.0.extend(length(raw.len())?);
        self.0.extend(packed);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}

fn length(bytes: usize) -> Result<[u8; 4]> {
    let length = u32::try_from(bytes).map_err(|_| garbled("something is longer than can be told"))?;
    Ok(length.to_le_bytes())
}

/// A block's entities, and what is held of each.
pub(super) type Block = Vec<(EntityKey, Vec<u8>)>;

/// Reads the blocks of an object.
#[derive(Debug)]
pub(super) struct ObjectReader(Bytes);

impl ObjectReader {
    /// # Errors
    /// If it is none.
    pub(super) fn new(mut bytes: Bytes) -> Result<Self> {
        let head = [&OBJECT_MAGIC[..], &FORMAT.to_le_bytes()].concat();
        if !bytes.starts_with(&head) {
            return Err(garbled("it holds no entities of a format that is known"));
        }
        let rest = bytes.split_off(head.len());
        Ok(Self(rest))
    }

    /// The entities of the next block; `None` after the last.
    ///
    /// # Errors
    /// If it is garbled.
    pub(super) fn next(&mut self) -> Result<Option<Block>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (packed, raw) = (take_length(&mut self.0)?, take_length(&mut self.0)?);
        if raw > MOST_BYTES || packed > self.0.len() {
            return Err(garbled("a block is longer than it may be"));
        }
        let packed = self.0.split_to(packed);
        let raw = zstd::bulk::decompress(&packed, raw)
            .map_err(|error| garbled(&format!("a block cannot be decompressed: {error}")))?;
        let (mut raw, mut entities) = (Bytes::from(raw), Vec::new());
        let take = |raw: &mut Bytes| match take_length(raw)? {
            length if length <= raw.len() => Ok(raw.split_to(length)),
            _ => Err(garbled("a block is cut off")),
        };
        while !raw.is_empty() {
            let (key, state) = (take(&mut raw)?, take(&mut raw)?);
            let key = EntityKey::decode(&key).map_err(|error| garbled(&format!("a key: {error}")))?;
            entities.push((key, state.to_vec()));
        }
        Ok(Some(entities))
    }
}

fn take_length(from: &mut Bytes) -> Result<usize> {
    let cut_off = || garbled("a block is cut off");
    let length = from.first_chunk::<4>().copied().ok_or_else(cut_off)?;
    drop(from.split_to(4));
    usize::try_from(u32::from_le_bytes(length)).map_err(|_| cut_off())
}

/// The sums of all leaves of some partitions, as an object holds them: those that are not nothing.
pub(super) fn encode_sums(sums: &[(u16, Vec<Sum>)]) -> Result<Bytes> {
    let of = |(partition, sums): &(u16, Vec<Sum>)| {
        let all = (0_u16..).zip(sums.iter().copied());
        (*partition, all.filter(|(_, sum)| *sum != Sum::default()).collect::<Vec<_>>())
    };
    let listed: Vec<(u16, Vec<(u16, Sum)>)> = sums.iter().map(of).collect();
    let encoded = postcard::to_stdvec(&listed);
    encoded.map(Bytes::from).map_err(|error| Error::Internal(format!("sums cannot be written: {error}")))
}

/// The inverse.
///
/// # Errors
/// If it is garbled.
pub(super) fn decode_sums(bytes: &[u8]) -> Result<Vec<(u16, Vec<Sum>)>> {
    let listed: Vec<(u16, Vec<(u16, Sum)>)> =
        postcard::from_bytes(bytes).map_err(|error| garbled(&format!("sums cannot be read: {error}")))?;
    let spread = |(partition, listed): (u16, Vec<(u16, Sum)>)| {
        let mut sums = vec![Sum::default(); usize::from(LEAVES)];
        for (leaf, sum) in listed {
            if let Some(place) = sums.get_mut(usize::from(leaf)) {
                *place = sum;
            }
        }
        (partition, sums)
    };
    Ok(listed.into_iter().map(spread).collect())
}

pub(super) fn garbled(what: &str) -> Error {
    Error::FailedPrecondition(format!("the snapshot is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entities(count: usize) -> Vec<(EntityKey, Vec<u8>)> {
        let key = |at: usize| {
            let id = format!("entity-{at}");
            let name = [&7_u64.to_be_bytes()[..], &3_u64.to_be_bytes(), id.as_bytes()];
            EntityKey::decode(&name.concat()).expect("a key")
        };
        (0..count).map(|at| (key(at), vec![at as u8; at])).collect()
    }

    fn object(blocks: &[usize]) -> Bytes {
        let mut writer = ObjectWriter::new();
        blocks.iter().for_each(|count| writer.add(&entities(*count)).expect("small"));
        writer.finish()
    }

    fn manifest() -> Manifest {
        let object = Object::of(b"something");
        let some = Part { leaves: Leaves::of(&[1, 4_095]).into_bytes(), objects: vec![object.clone()] };
        let all = Part { leaves: Vec::new(), objects: vec![object.clone(), object] };
        let partitions = vec![Partition { number: 9, parts: vec![all, some] }];
        Manifest { id: "x".into(), partitions, new_bytes: 5, ..Manifest::default() }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut reader = ObjectReader::new(object(&[3, 0, 200])).expect("an object");
        for count in [3, 0, 200] {
            assert_eq!(reader.next().expect("whole"), Some(entities(count)));
        }
        assert_eq!(reader.next().expect("whole"), None);
        assert_eq!(Manifest::decode_whole(&manifest().encode_whole()).expect("whole"), manifest());
    }

    #[test]
    fn later_parts_hide_leaves_of_those_before() {
        let manifest = manifest();
        let parts = manifest.partitions[0].hidden().expect("sets");
        let hidden: Vec<Vec<u16>> =
            parts.iter().map(|(_, hidden)| (0..LEAVES).filter(|leaf| hidden.has(*leaf)).collect()).collect();
        assert_eq!(hidden, [vec![1, 4_095], vec![]]);
    }

    #[test]
    fn the_form_of_the_first_release() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let small = Manifest { created_at_ms: 7, ..Manifest::default() };
        let bytes = small.encode_whole();
        assert_eq!(hex(&bytes[..bytes.len() - 8]), "414c4c494442534e010000001007");
        assert_eq!(hex(&ObjectWriter::new().finish()), "414c4c494442534f01000000");
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>()) {
            for whole in [object(&[20, 5]), manifest().encode_whole()] {
                let mut bytes = whole.to_vec();
                match cut {
                    true => bytes.truncate(at.index(whole.len())),
                    false => bytes[at.index(whole.len())] ^= 1 << bit,
                }
                prop_assert!(Manifest::decode_whole(&bytes).is_err());
                prop_assert!(Object::of(&whole).check(&bytes).is_err());
                if let Ok(mut reader) = ObjectReader::new(bytes.into()) {
                    while let Ok(Some(_)) = reader.next() {}
                }
            }
        }
    }
}
