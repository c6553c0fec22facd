//! Tables taken apart, changed and put together again with the right checksums.

use bytes::Bytes;
use prost::Message;

use super::mutation::Mutation;
use crate::coding::Decoder;
use crate::key::Kind;
use crate::options::Compression;
use crate::table::block::Block;
use crate::table::block_builder::BlockBuilder;
use crate::table::codec::{self, Compressor};
use crate::table::footer::{FOOTER_BYTES, Footer, IndexLayout};
use crate::table::frame::{Handle, TRAILER_BYTES, push_trailer};
use crate::table::meta::Properties;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Data,
    Filter,
    Index,
    TopIndex,
    Properties,
}

/// A block as it is stored, and where it was.
#[derive(Clone, Debug)]
struct Part {
    role: Role,
    at: Handle,
    payload: Vec<u8>,
    tag: u8,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Vec<u8>,
    sequence: u64,
    kind: Kind,
    value: Vec<u8>,
}

fn part(file: &[u8], role: Role, at: Handle) -> Part {
    let (start, end) = (at.offset as usize, (at.offset + at.len) as usize);
    Part { role, at, payload: file[start..end].to_vec(), tag: file[end] }
}

impl Part {
    fn block(&self) -> Bytes {
        codec::decompress(self.tag, Bytes::from(self.payload.clone())).unwrap()
    }

    fn entries(&self) -> Vec<Entry> {
        let block = Block::new(self.block()).unwrap();
        let (mut offset, mut last, mut entries) = (0, Vec::new(), Vec::new());
        while offset < block.entries_end() {
            let entry = block.entry(offset).unwrap();
            last.truncate(entry.shared);
            last.extend_from_slice(block.bytes(entry.suffix.clone()));
            offset = entry.end();
            let value = block.bytes(entry.value).to_vec();
            entries.push(Entry { key: last.clone(), sequence: entry.sequence, kind: entry.kind, value });
        }
        entries
    }
}

fn build(entries: &[Entry], restart_interval: usize) -> Vec<u8> {
    let mut builder = BlockBuilder::new(restart_interval);
    for entry in entries {
        builder.add(&entry.key, entry.sequence, entry.kind, &entry.value);
    }
    builder.finish().to_vec()
}

/// The parts in the order in which they were written: those that are pointed at come first.
fn take_apart(file: &[u8], footer: &Footer) -> Vec<Part> {
    let mut indexes = vec![part(file, Role::Index, footer.index)];
    let mut parts = Vec::new();
    if footer.layout == IndexLayout::Partitioned {
        let mut top = indexes.remove(0);
        top.role = Role::TopIndex;
        for entry in top.entries() {
            let mut decoder = Decoder::new(&entry.value);
            indexes.push(part(file, Role::Index, Handle::read(&mut decoder).unwrap()));
            if let Some(filter) = Handle::read(&mut decoder) {
                parts.push(part(file, Role::Filter, filter));
            }
        }
        indexes.push(top);
    } else if footer.filter.len > 0 {
        parts.push(part(file, Role::Filter, footer.filter));
    }
    for index in indexes.iter().filter(|index| index.role == Role::Index) {
        for entry in index.entries() {
            parts.push(part(file, Role::Data, Handle::decode(&entry.value).unwrap()));
        }
    }
    parts.extend(indexes);
    parts.push(part(file, Role::Properties, footer.properties));
    parts
}

/// Where a part lies now.
fn moved(places: &[(Handle, Handle)], old: Handle) -> Handle {
    places.iter().find(|(from, _)| *from == old).map_or(old, |(_, to)| *to)
}

/// Lets index entries point to where their parts are now.
fn point(entries: &mut [Entry], places: &[(Handle, Handle)]) {
    for entry in entries {
        let mut decoder = Decoder::new(&entry.value);
        let mut value = Vec::new();
        while let Some(handle) = Handle::read(&mut decoder) {
            moved(places, handle).encode(&mut value);
        }
        entry.value = value;
    }
}

fn change_entries(mutation: &mut Mutation, entries: &mut Vec<Entry>) {
    if entries.is_empty() {
        return;
    }
    let at = mutation.below(entries.len());
    match mutation.below(5) {
        0 => mutation.bytes(&mut entries[at].key),
        1 => entries[at].sequence = mutation.number(entries[at].sequence),
        2 => entries[at].kind = *mutation.pick(&[Kind::Tombstone, Kind::Value, Kind::Separated]),
        3 => mutation.bytes(&mut entries[at].value),
        _ => mutation.parts(entries),
    }
}

fn change_properties(mutation: &mut Mutation, bytes: &[u8]) -> Vec<u8> {
    let mut properties = Properties::decode(bytes).unwrap();
    for number in [
        &mut properties.smallest_sequence,
        &mut properties.largest_sequence,
        &mut properties.entries,
        &mut properties.tombstones,
    ] {
        mutation.maybe(number, 4);
    }
    for used in &mut properties.blobs {
        mutation.maybe(&mut used.file, 6);
        mutation.maybe(&mut used.blobs, 3);
        mutation.maybe(&mut used.bytes, 3);
    }
    mutation.parts(&mut properties.blobs);
    if mutation.once_in(3) {
        std::mem::swap(&mut properties.smallest, &mut properties.largest);
    }
    if mutation.once_in(3) {
        mutation.bytes(&mut properties.smallest);
    }
    properties.encode_to_vec()
}

fn change_part(mutation: &mut Mutation, part: &mut Part) {
    match mutation.below(4) {
        // What is stored: with luck nonsense for LZ4 and ZSTD.
        0 => mutation.bytes(&mut part.payload),
        1 => part.tag = mutation.below(4) as u8,
        // The block behind the compression.
        _ => {
            let mut block = part.block().to_vec();
            if part.role == Role::Properties && mutation.once_in(2) {
                block = change_properties(mutation, &block);
            } else if part.role == Role::Data && mutation.once_in(2) {
                let mut entries = part.entries();
                change_entries(mutation, &mut entries);
                block = build(&entries, 1 + mutation.below(20));
            } else {
                mutation.bytes(&mut block);
            }
            let compression = *mutation.pick(&[Compression::None, Compression::Lz4, Compression::Zstd(1)]);
            part.payload.clear();
            part.tag = Compressor::new(compression).unwrap().append(&block, &mut part.payload);
        }
    }
}

/// A table of the same id with something changed, all of whose checksums are right.
pub(super) fn change(mutation: &mut Mutation, file: &[u8]) -> Vec<u8> {
    let mut footer = Footer::decode_any(&file[file.len() - FOOTER_BYTES..]).unwrap();
    let mut parts = take_apart(file, &footer);
    let (target, kind) = (mutation.below(parts.len()), mutation.below(6));
    match kind {
        0 => mutation.parts(&mut parts),
        // Pointers and footers are changed below.
        1 | 2 => {}
        _ => change_part(mutation, &mut parts[target]),
    }
    let (mut out, mut places) = (Vec::new(), Vec::new());
    for (at, part) in parts.iter().enumerate() {
        let start = out.len();
        let is_index = matches!(part.role, Role::Index | Role::TopIndex);
        if is_index && (kind <= 2 || at != target) {
            let mut entries = part.entries();
            point(&mut entries, &places);
            if kind == 1 {
                change_entries(mutation, &mut entries);
            }
            out.extend(build(&entries, 1));
            push_trailer(&mut out, start, footer.id, start as u64, codec::STORED);
        } else {
            out.extend_from_slice(&part.payload);
            push_trailer(&mut out, start, footer.id, start as u64, part.tag);
        }
        let len = (out.len() - start - TRAILER_BYTES) as u64;
        places.push((part.at, Handle { offset: start as u64, len }));
    }
    for handle in [&mut footer.properties, &mut footer.index, &mut footer.filter] {
        *handle = moved(&places, *handle);
        if kind == 2 && mutation.once_in(2) {
            mutation.maybe(&mut handle.offset, 2);
            mutation.maybe(&mut handle.len, 2);
            handle.len &= 0xffff_ffff;
        }
    }
    if kind == 2 {
        footer.layout = *mutation.pick(&[IndexLayout::Whole, IndexLayout::Partitioned]);
    }
    assert!(footer.encode(&mut out));
    out
}
