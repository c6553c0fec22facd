//! Tables as a whole: what was built is found again, in both layouts of the index.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::data_block::DataBlock;
use super::filter;
use super::layout::Layout;
use super::meta::EXTERNAL_KEYSPACE;
use super::pins::PinBudget;
use super::reader::TableContext;
use super::{Access, Table, TableBuilder, TableCursor, TableMeta};
use crate::cache::BlockCache;
use crate::files;
use crate::fs::{Fs, SimFs};
use crate::key::{Kind, Position, compare};
use crate::options::{Compression, Keyspace, KeyspaceOptions};
use crate::quarantine::Damage;
use crate::snapshot::Direction;
use crate::stats::Counters;
use crate::table::check::check;

type Versions = Vec<(Vec<u8>, u64)>;

const DIR: &str = "/store";

fn context(cache_bytes: usize) -> (SimFs, TableContext) {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    let context = TableContext {
        fs: Arc::new(fs.clone()),
        dir: PathBuf::from(DIR),
        cache: Arc::new(BlockCache::new(cache_bytes)),
        pins: Arc::new(PinBudget::new(0)),
        counters: Arc::new(Counters::default()),
        damages: Arc::default(),
    };
    (fs, context)
}

fn options(block_bytes: usize, partition_bytes: usize, filter_bits: u8) -> KeyspaceOptions {
    KeyspaceOptions {
        block_bytes,
        index_partition_bytes: partition_bytes,
        filter_bits_per_key: filter_bits,
        compression: vec![Compression::None, Compression::Lz4, Compression::Zstd(1)],
        ..KeyspaceOptions::new("a")
    }
}

/// What is stored with a version: a tombstone now and then, and values that say which version they belong to.
fn content(key: &[u8], sequence: u64) -> (Kind, Vec<u8>) {
    if sequence.is_multiple_of(5) {
        (Kind::Tombstone, Vec::new())
    } else {
        (Kind::Value, [key, &sequence.to_le_bytes()].concat())
    }
}

fn write(builder: &mut TableBuilder, versions: &[(Vec<u8>, u64)]) {
    for (key, sequence) in versions {
        let (kind, value) = content(key, *sequence);
        builder.add(key, *sequence, kind, &value).unwrap();
    }
}

fn build(
    context: &TableContext,
    number: u64,
    versions: &[(Vec<u8>, u64)],
    options: &KeyspaceOptions,
    level: usize,
) -> Arc<Table> {
    let path = files::table(&context.dir, number);
    let mut builder = TableBuilder::create(&*context.fs, path, number, Keyspace(0), options, level).unwrap();
    write(&mut builder, versions);
    Arc::new(Table::open(context, builder.finish().unwrap(), |_| None).unwrap())
}

/// What a look at all of the file finds.
fn damages(context: &TableContext, meta: &TableMeta) -> Vec<Damage> {
    match check(context, meta, &mut |_| ControlFlow::Continue(())) {
        ControlFlow::Continue(found) => found.damages,
        ControlFlow::Break(()) => panic!("nobody stopped it"),
    }
}

fn is_partitioned(table: &Table) -> bool {
    matches!(table.layout().unwrap(), Layout::Partitioned { .. })
}

/// Keys with one version each.
fn numbered(count: u32) -> Versions {
    (0..count).map(|index| (format!("key{index:06}").into_bytes(), u64::from(index) + 1)).collect()
}

fn walk(table: &Arc<Table>, from: Option<(&[u8], u64)>, direction: Direction, access: Access) -> Versions {
    let from = from.map(|(key, sequence)| Position { key: key.to_vec().into(), sequence });
    let mut cursor = TableCursor::new(table.clone(), from.as_ref(), direction, access).unwrap();
    let mut seen = Vec::new();
    while let Some((key, sequence)) = cursor.key() {
        let (kind, value) = content(key, if table.meta.global_sequence.is_some() { 1 } else { sequence });
        assert_eq!((cursor.kind(), cursor.value_bytes()), (kind, value.as_slice()));
        assert_eq!(cursor.value().unwrap(), value);
        seen.push((key.to_vec(), sequence));
        cursor.advance().unwrap();
    }
    seen
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 0..4)
}

fn sorted(versions: BTreeSet<(Vec<u8>, u64)>) -> Versions {
    let mut versions: Versions = versions.into_iter().collect();
    versions.sort_by(|a, b| compare(&a.0, a.1, &b.0, b.1));
    versions
}

fn reversed(versions: &[(Vec<u8>, u64)]) -> Versions {
    versions.iter().rev().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn lookups_and_cursors_agree_with_a_map(
        versions in prop::collection::btree_set((key(), 1u64..30), 1..100),
        wanted in prop::collection::vec((key(), 0u64..31), 20),
        block_bytes in 1usize..150,
        partition_bytes in 0usize..400,
        filter_bits in prop_oneof![Just(0u8), Just(10)],
        level in 0usize..4,
        cache_bytes in prop_oneof![Just(0usize), Just(1 << 20)],
    ) {
        let versions = sorted(versions);
        let (_fs, context) = context(cache_bytes);
        let options = options(block_bytes, partition_bytes, filter_bits);
        let table = build(&context, 1, &versions, &options, level);
        let has_all = table.meta.entries == versions.len() as u64;
        prop_assert!(has_all && table.meta.smallest == versions[0].0);
        for (key, sequence) in wanted.iter().chain(&versions) {
            let split = versions.partition_point(|(at, of)| compare(at, *of, key, *sequence).is_lt());
            let expected = versions.get(split).filter(|(at, _)| at == key).map(|(_, of)| content(key, *of));
            let found = table.get(key, filter::hash(key), *sequence).unwrap();
            prop_assert_eq!(found.map(|(_, kind, value)| (kind, value.to_vec())), expected);
        }
        for (key, sequence) in &wanted {
            let split = versions.partition_point(|(at, of)| compare(at, *of, key, *sequence).is_lt());
            let from = Some((key.as_slice(), *sequence));
            prop_assert_eq!(walk(&table, from, Direction::Forward, Access::Cached), &versions[split..]);
            prop_assert_eq!(walk(&table, from, Direction::Forward, Access::Bulk), &versions[split..]);
            prop_assert_eq!(
                walk(&table, from, Direction::Reverse, Access::Cached),
                reversed(&versions[..split])
            );
        }
        prop_assert_eq!(walk(&table, None, Direction::Forward, Access::Cached), versions.clone());
        prop_assert_eq!(walk(&table, None, Direction::Forward, Access::Bulk), versions.clone());
        prop_assert_eq!(walk(&table, None, Direction::Reverse, Access::Cached), reversed(&versions));
        assert_eq!(damages(&context, &table.meta), []);
    }

    #[test]
    fn a_table_built_elsewhere_has_one_sequence_for_all_its_keys(
        keys in prop::collection::btree_set(key(), 1..40),
        wanted in prop::collection::vec((key(), 0u64..9), 20),
        global in 1u64..8,
        partition_bytes in 0usize..300,
    ) {
        let (fs, context) = context(1 << 20);
        let path = Path::new(DIR).join("built-elsewhere");
        let mut builder =
            TableBuilder::create(&fs, path.clone(), 0xfeed, EXTERNAL_KEYSPACE, &options(64, partition_bytes, 10), 6)
                .unwrap();
        write(&mut builder, &keys.iter().map(|key| (key.clone(), 1)).collect::<Versions>());
        let built = builder.finish().unwrap();
        prop_assert_eq!((built.number, built.id, built.global_sequence), (0xfeed, 0xfeed, None));
        fs.rename(&path, &files::table(&context.dir, 3)).unwrap();
        let meta = TableMeta {
            number: 3,
            keyspace: Keyspace(0),
            global_sequence: Some(global),
            smallest_sequence: global,
            largest_sequence: global,
            ..built
        };
        let error = Table::open(&context, TableMeta { id: 3, ..meta.clone() }, |_| None).unwrap_err();
        prop_assert!(error.to_string().contains("it is another table"), "{}", error);
        let table = Arc::new(Table::open(&context, meta, |_| None).unwrap());
        assert_eq!(damages(&context, &table.meta), []);
        let versions: Versions = keys.iter().map(|key| (key.clone(), global)).collect();
        for (key, sequence) in &wanted {
            let expected = (keys.contains(key) && *sequence >= global).then(|| content(key, 1));
            let found = table.get(key, filter::hash(key), *sequence).unwrap();
            prop_assert!(found.iter().all(|(sequence, ..)| *sequence == global));
            prop_assert_eq!(found.map(|(_, kind, value)| (kind, value.to_vec())), expected);
            let split = versions.partition_point(|(at, of)| compare(at, *of, key, *sequence).is_lt());
            let from = Some((key.as_slice(), *sequence));
            prop_assert_eq!(walk(&table, from, Direction::Forward, Access::Bulk), &versions[split..]);
            prop_assert_eq!(
                walk(&table, from, Direction::Reverse, Access::Cached),
                reversed(&versions[..split])
            );
        }
    }
}

#[test]
fn only_large_tables_are_partitioned_and_they_keep_little_in_memory() {
    let (_fs, context) = context(1 << 20);
    let versions = numbered(5_000);
    let large = build(&context, 1, &versions, &options(256, 2 << 10, 10), 1);
    let whole = build(&context, 2, &versions, &options(256, usize::MAX, 10), 1);
    let small = build(&context, 3, &versions[..50], &options(256, 2 << 10, 10), 1);
    assert_eq!([&large, &whole, &small].map(|table| is_partitioned(table)), [true, false, false]);
    let [large_bytes, whole_bytes, small_bytes] =
        [&large, &whole, &small].map(|table| table.layout().unwrap().byte_len());
    assert!(large_bytes * 15 < whole_bytes, "{large_bytes} bytes");
    assert!(small_bytes < 2 << 10);
    assert!((300..3_000).contains(&(large.memory_bytes() - large_bytes)), "{}", large.memory_bytes());
    let Layout::Partitioned { top, .. } = large.layout().unwrap() else { panic!() };
    for partition in top.partitions() {
        let bytes = partition.index.len + partition.filter.unwrap().len;
        assert!(bytes < (2 << 10) + 300, "{bytes} bytes in one partition");
    }
}

#[test]
fn a_key_whose_versions_go_over_a_border_is_in_the_filters_on_both_sides() {
    let (_fs, context) = context(1 << 20);
    let versions: Versions =
        [b"a", b"b", b"c"].iter().flat_map(|key| (1..=200).rev().map(|at| (key.to_vec(), at))).collect();
    let table = build(&context, 1, &versions, &options(64, 0, 10), 1);
    let Layout::Partitioned { top, .. } = table.layout().unwrap() else { panic!() };
    assert!(top.partitions().len() > 100);
    for (number, partition) in top.partitions().iter().enumerate() {
        let filter: filter::Filter = table.cached(partition.filter.unwrap()).unwrap();
        let index = table.index_partition(number, Access::Cached).unwrap();
        let block: Arc<DataBlock> = table.cached(index.handle(0).unwrap()).unwrap();
        let cursor =
            super::block_cursor::BlockCursor::first(block.block().clone(), Direction::Forward).unwrap();
        let (key, _) = cursor.key().unwrap();
        assert!(filter.may_contain(filter::hash(key)), "partition {number} denies its first key");
    }
}

#[test]
fn a_check_names_the_part_that_is_damaged() {
    for (partition_bytes, partitioned) in [(100, true), (usize::MAX, false)] {
        let (fs, context) = context(0);
        let table = build(&context, 1, &numbered(60), &options(128, partition_bytes, 10), 2);
        assert_eq!(is_partitioned(&table), partitioned);
        let path = files::table(&context.dir, 1);
        let mut parts = BTreeSet::new();
        for offset in 0..table.meta.bytes {
            assert!(fs.flip_bit(&path, offset, 3));
            // A part is named by its start, from its first byte to its last.
            let found = damages(&context, &table.meta);
            assert_eq!(found.len(), 1, "{offset}: {found:?}");
            let named = found[0].offset;
            assert!(
                found[0].path == path && (named == offset || parts.last() == Some(&named)),
                "{named}: {offset}"
            );
            parts.insert(named);
            assert!(fs.flip_bit(&path, offset, 3));
        }
        assert_eq!(damages(&context, &table.meta), []);
        assert!(parts.len() > 10, "{parts:?}");
    }
}

#[test]
fn a_sound_table_that_is_not_the_one_written_is_noticed() {
    let (_fs, context) = context(0);
    let table = build(&context, 1, &numbered(60), &options(128, 100, 10), 0);
    let other = TableMeta { checksum: table.meta.checksum ^ 1, ..table.meta.clone() };
    assert_eq!(damages(&context, &other).len(), 1);
    let other = TableMeta { entries: 61, ..table.meta.clone() };
    assert_eq!(damages(&context, &other).len(), 1);
}

#[test]
fn partitions_go_through_the_cache_and_bulk_reads_past_it() {
    let (_fs, context) = context(1 << 20);
    let versions = numbered(2_000);
    let table = build(&context, 1, &versions, &options(256, 1 << 10, 10), 1);
    assert_eq!(walk(&table, None, Direction::Forward, Access::Bulk).len(), versions.len());
    assert_eq!(context.cache.byte_len(), 0, "a bulk read leaves nothing in the cache");
    let misses = |key: &[u8]| {
        let before = context.counters.cache_misses.get();
        table.get(key, filter::hash(key), u64::MAX).unwrap();
        context.counters.cache_misses.get() - before
    };
    assert_eq!(misses(b"key000100"), 3, "filter, index, block");
    assert_eq!(misses(b"key000100"), 0);
    assert_eq!(misses(b"key001900"), 3, "another partition");
    assert_eq!(misses(b"key001900x"), 0, "its filter says no");
    assert_eq!(walk(&table, None, Direction::Forward, Access::Cached).len(), versions.len());
    let before = context.counters.cache_misses.get();
    assert_eq!(walk(&table, None, Direction::Reverse, Access::Cached).len(), versions.len());
    assert_eq!(context.counters.cache_misses.get(), before, "a scan leaves what it read in the cache");
}

#[test]
fn pinned_partitions_are_read_once_and_give_their_room_back() {
    let (_fs, mut context) = context(0);
    let versions = numbered(2_000);
    let options = options(256, 1 << 10, 10);
    context.pins = Arc::new(PinBudget::new(20 << 10));
    let misses = |table: &Table, key: &[u8]| {
        let before = context.counters.cache_misses.get();
        assert!(table.get(key, filter::hash(key), u64::MAX).unwrap().is_some());
        context.counters.cache_misses.get() - before
    };
    let first = build(&context, 1, &versions, &options, 1);
    assert_eq!(misses(&first, b"key000100"), 3, "filter, index, block");
    assert_eq!(misses(&first, b"key000100"), 1, "only the block, which does not stay");
    let second = build(&context, 2, &versions, &options, 1);
    assert_eq!(misses(&second, b"key000100"), 3);
    assert_eq!(misses(&second, b"key000100"), 3, "there is no room for a second table's");
    assert!(first.memory_bytes() > second.memory_bytes() + (4 << 10), "it counts as memory of the table");
    drop(first);
    let third = build(&context, 3, &versions, &options, 1);
    assert_eq!(misses(&third, b"key000100"), 3);
    assert_eq!(misses(&third, b"key000100"), 1);
}

#[test]
fn tables_of_level_0_are_not_partitioned_unless_they_are_huge() {
    let (_fs, context) = context(0);
    let table = |number, keys, level| build(&context, number, &numbered(keys), &options(64, 100, 10), level);
    assert!(is_partitioned(&table(1, 100, 1)));
    assert!(!is_partitioned(&table(2, 100, 0)));
    assert!(is_partitioned(&table(3, 2_000, 0)));
}

#[test]
fn a_scan_of_more_than_the_cache_holds_keeps_what_is_read_often() {
    let (_fs, context) = context(64 << 10);
    let hot = build(&context, 1, &numbered(300), &options(1 << 10, 512, 10), 1);
    let large = build(&context, 2, &numbered(20_000), &options(1 << 10, 512, 10), 1);
    let read_hot = || {
        let before = context.counters.cache_misses.get();
        for (key, _) in numbered(300) {
            assert!(hot.get(&key, filter::hash(&key), u64::MAX).unwrap().is_some());
        }
        context.counters.cache_misses.get() - before
    };
    let cold = read_hot();
    (0..3).for_each(|_| assert_eq!(read_hot(), 0));
    for direction in [Direction::Forward, Direction::Reverse] {
        let before = context.counters.cache_misses.get();
        assert_eq!(walk(&large, None, direction, Access::Cached).len(), 20_000);
        let scanned = context.counters.cache_misses.get() - before;
        assert!(scanned > 300, "{scanned} parts are not many more than the cache holds");
        let missing = read_hot();
        assert!(missing * 10 <= cold, "{missing} of {cold} parts were pushed out");
    }
    assert!(context.cache.byte_len() > 48 << 10, "what a scan reads is cached where there is room");
}
