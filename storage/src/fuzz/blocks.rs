//! The decoders of single blocks, records and references, each by itself.

use bytes::Bytes;
use prost::Message;

use super::mutation::Mutation;
use super::{ZSTD_BYTES, rounds, within};
use crate::blob::{BlobRef, BlobUse};
use crate::key::Kind;
use crate::manifest::Manifest;
use crate::options::Compression;
use crate::snapshot::Direction;
use crate::table::block::Block;
use crate::table::block_builder::BlockBuilder;
use crate::table::block_cursor::BlockCursor;
use crate::table::codec::{self, Compressor};
use crate::table::data_block::DataBlock;
use crate::table::filter::{self, Filter};
use crate::table::footer::{Footer, IndexLayout};
use crate::table::frame::{Handle, push_trailer, unframe};
use crate::table::index::Index;
use crate::table::meta::Properties;
use crate::table::top_index::{Partition, TopIndex};

fn key(mutation: &mut Mutation) -> Vec<u8> {
    let len = mutation.below(6);
    (0..len).map(|_| b"ab\xff\0"[mutation.below(4)]).collect()
}

/// A block as a table holds it, with values of all kinds.
fn block(mutation: &mut Mutation) -> Vec<u8> {
    let mut keys: Vec<Vec<u8>> = (0..mutation.below(40)).map(|_| key(mutation)).collect();
    keys.sort();
    keys.dedup();
    let mut builder = BlockBuilder::new(1 + mutation.below(17));
    for key in &keys {
        for sequence in (1..=1 + mutation.below(3) as u64).rev() {
            match mutation.below(4) {
                0 => builder.add(key, sequence, Kind::Tombstone, &[]),
                1 => builder.add(key, sequence, Kind::Separated, &[4, 28, 10]),
                _ => builder.add(key, sequence, Kind::Value, &vec![7; mutation.below(30)]),
            }
        }
    }
    builder.finish().to_vec()
}

/// What a walk through a block sees, until it ends or stumbles.
fn walk(cursor: Result<BlockCursor, crate::table::block::Malformed>, limit: usize) -> usize {
    let Ok(mut cursor) = cursor else { return 0 };
    let mut entries = 0;
    while let Some((key, _)) = cursor.key() {
        std::hint::black_box((key.len(), cursor.value(), cursor.kind(), cursor.value_bytes().len()));
        entries += 1;
        assert!(entries <= limit, "a walk through a block does not end");
        if cursor.advance().is_err() {
            break;
        }
    }
    entries
}

#[test]
fn data_blocks() {
    rounds("data blocks", 6_000, |mutation| {
        let mut bytes = block(mutation);
        mutation.bytes(&mut bytes);
        let len = bytes.len();
        // The keys of one restart interval are put together in memory.
        within(64 * 1024 + (len * len) as u64, || {
            let Ok(block) = Block::new(Bytes::from(bytes)) else { return };
            // No entry takes less than four bytes, but restart points may lead to one again and again.
            let limit = (1 + block.restarts()) * (1 + len / 4);
            for direction in [Direction::Forward, Direction::Reverse] {
                walk(BlockCursor::first(block.clone(), direction), limit);
                for _ in 0..4 {
                    let (key, sequence) = (key(mutation), mutation.number(2));
                    let seek = |restart| BlockCursor::seek(block.clone(), restart, direction, &key, sequence);
                    walk(block.restart_before(&key, sequence).and_then(seek), limit);
                    DataBlock::new(block.clone()).and_then(|block| block.get(&key, sequence)).ok();
                }
            }
        });
    });
}

#[test]
fn indexes_and_top_indexes() {
    rounds("indexes", 4_000, |mutation| {
        let mut builder = BlockBuilder::new(1);
        for at in 0..mutation.below(30) as u64 {
            let mut value = Vec::new();
            let index = Handle { offset: mutation.number(at * 100), len: mutation.number(95) };
            let filter = mutation.once_in(2).then_some(index);
            Partition { index, filter }.encode(&mut value);
            builder.add(format!("key{at:02}").as_bytes(), 0, Kind::Value, &value);
        }
        let mut bytes = builder.finish().to_vec();
        mutation.bytes(&mut bytes);
        let limit = 64 * 1024 + 64 * bytes.len() as u64;
        within(limit, || {
            let Ok(block) = Block::new(Bytes::from(bytes)) else { return };
            TopIndex::new(block.clone()).map(|top| top.above(b"key07").ok()).ok();
            let Ok(index) = Index::new(block) else { return };
            for key in [&b""[..], b"key", b"key10", b"key99", b"\xff"] {
                let (low, high) = (index.at_least(key), index.above(key));
                assert!(low.is_ok_and(|at| at <= index.entries()) || low.is_err());
                assert!(high.is_ok_and(|at| at <= index.entries()) || high.is_err());
            }
            for at in 0..=index.entries() {
                index.handle(at).ok();
            }
        });
    });
}

#[test]
fn compressed_blocks() {
    rounds("compressed blocks", 6_000, |mutation| {
        let compression = *mutation.pick(&[
            Compression::None,
            Compression::Lz4,
            Compression::Zstd(1),
            Compression::Zstd(-3),
        ]);
        let plain = block(mutation).repeat(1 + mutation.below(20));
        let mut stored = Vec::new();
        let tag = Compressor::new(compression).unwrap().append(&plain, &mut stored);
        mutation.bytes(&mut stored);
        let tag = if mutation.once_in(10) { mutation.below(5) as u8 } else { tag };
        let (id, offset) = (mutation.next(), mutation.next());
        let len = stored.len();
        push_trailer(&mut stored, 0, id, offset, tag);
        let most = 255 * len as u64 + if tag == codec::ZSTD { ZSTD_BYTES } else { 0 };
        let framed = Bytes::from(stored);
        let block = within(64 * 1024 + most, || unframe(&framed, id, offset));
        assert!(block.is_ok() || tag != codec::STORED, "the trailer was made right");
        assert!(block.map_or(0, |block| block.len() as u64) <= most.max(len as u64));
        assert!(unframe(&framed, id, offset ^ 1).is_err(), "a misplaced block");
    });
}

#[test]
fn filters() {
    rounds("filters", 2_000, |mutation| {
        let hashes: Vec<u64> = (0..mutation.below(200)).map(|_| mutation.next()).collect();
        let mut bytes = filter::build(&hashes, mutation.below(40) as u8);
        let found = Filter::new(bytes.clone().into()).unwrap();
        assert!(hashes.iter().all(|&hash| found.may_contain(hash)));
        mutation.bytes(&mut bytes);
        within(64 * 1024, || {
            let Some(filter) = Filter::new(bytes.into()) else { return };
            for &hash in hashes.iter().chain(&[0, u64::MAX]) {
                std::hint::black_box(filter.may_contain(hash));
            }
        });
    });
}

#[test]
fn footers() {
    rounds("footers", 4_000, |mutation| {
        let mut handle = |at| Handle { offset: mutation.number(at), len: mutation.number(at) & 0xffff_ffff };
        let (properties, index, filter) = (handle(900), handle(500), handle(0));
        let layout = *mutation.pick(&[IndexLayout::Whole, IndexLayout::Partitioned]);
        let footer = Footer { properties, index, filter, id: mutation.number(4), layout };
        let mut bytes = Vec::new();
        assert!(footer.encode(&mut bytes));
        assert_eq!(Footer::decode_any(&bytes), Ok(footer));
        let before = bytes.clone();
        mutation.bytes(&mut bytes);
        if bytes != before {
            assert!(Footer::decode_any(&bytes).is_err(), "damage was not noticed");
            assert!(Footer::decode(footer.id, &bytes).is_err(), "damage was not noticed");
        }
    });
}

/// A message with every field that there is.
fn messages() -> Vec<Vec<u8>> {
    let blobs = vec![BlobUse { file: 7, blobs: 3, bytes: 90 }; 3];
    let properties =
        Properties { keyspace: 1, smallest: vec![1; 9], largest: vec![2; 9], blobs, ..Default::default() };
    vec![properties.encode_to_vec(), super::stores::Base::small().manifest().encode_to_vec()]
}

#[test]
fn messages_and_references() {
    let messages = messages();
    rounds("messages and references", 4_000, |mutation| {
        let mut bytes = mutation.pick(&messages).clone();
        mutation.bytes(&mut bytes);
        // An empty record takes two bytes, and as many in memory as it has fields.
        let limit = 64 * 1024 + 400 * bytes.len() as u64;
        let bytes = Bytes::from(bytes);
        within(limit, || {
            Properties::decode(bytes.clone()).map(|properties| properties.blobs.len()).ok();
            let Ok(manifest) = Manifest::decode(bytes) else { return };
            manifest.tables.iter().for_each(|record| drop(record.meta()));
            for record in &manifest.blobs {
                record.meta();
            }
            manifest.range_tombstones.iter().for_each(|record| drop(record.tombstone()));
        });
        let (file, block) = (mutation.number(4), mutation.number(32));
        let (start, len) = (mutation.number(100) as usize, mutation.number(300) as usize);
        let reference = BlobRef { file, block, start, len };
        let mut bytes = Vec::new();
        reference.encode(&mut bytes);
        // One whose end overflows is refused.
        let sound = start.checked_add(len).map(|_| reference);
        assert_eq!(BlobRef::decode(&bytes), sound);
        mutation.bytes(&mut bytes);
        let decoded = within(1024, || BlobRef::decode(&bytes));
        assert!(decoded.is_none_or(|decoded| decoded.start.checked_add(decoded.len).is_some()));
    });
}
