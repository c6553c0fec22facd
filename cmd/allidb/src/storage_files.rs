//! `allidb storage …`: looks into the files of a store, without a daemon.

use std::path::PathBuf;

use allidb_storage::{
    Damage,
    fs::RealFs,
    inspect::{
        BlobFile, BlobPlace, Entry, EntryKind, InspectOptions, Inspection, LogFile, ManifestFile, TableFile,
        TablePart, inspect,
    },
};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::output::{Output, shorten, table};

/// Keys are shown to so many characters in tables for people.
const KEY_COLUMNS: usize = 60;

/// Looks into the files of a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Describes one file: a manifest, a log segment, a table or a blob file. Only reads, needs no daemon, and describes what is
    /// left of a damaged file.
    Inspect(InspectArgs),
}

/// Which file, and what of it.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// `MANIFEST`, `<number>.log`, `<number>.table` or `<number>.blob` in a data directory.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show every entry: its key with escapes, and the length of its value.
    #[arg(long)]
    entries: bool,
    /// Show so many bytes of each value, in hexadecimal.
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "16", requires = "entries")]
    values: Option<usize>,
}

/// Runs the command. Damage is a failure.
pub(crate) fn run(command: StorageCommand, output: Output) -> Result<()> {
    let StorageCommand::Inspect(args) = command;
    let options = InspectOptions { entries: args.entries, value_bytes: args.values.unwrap_or(0) };
    let file = args.file.display();
    let found = inspect(&RealFs, &args.file, options).with_context(|| format!("cannot describe {file}"))?;
    if output.is_json() {
        output.document(&to_json(&found))?;
    } else {
        match &found {
            Inspection::Manifest(manifest) => show_manifest(manifest, output)?,
            Inspection::Log(log) => show_log(log, output)?,
            Inspection::Table(table) => show_table(table, output)?,
            Inspection::Blob(blob) => show_blob(blob, output)?,
            _ => bail!("{file} is of a kind that this program cannot show"),
        }
        for damage in found.damages() {
            output.line(format!("damaged at {}: {}", damage.offset, damage.what))?;
        }
    }
    if found.damages().is_empty() { Ok(()) } else { bail!("{file} is damaged") }
}

fn escaped(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Put => "put",
        EntryKind::Delete => "delete",
        EntryKind::Separated => "separated",
        EntryKind::DeleteRange => "delete range",
        _ => "other",
    }
}

fn part_name(part: TablePart) -> &'static str {
    match part {
        TablePart::Data => "data",
        TablePart::Filter => "filter",
        TablePart::Index => "index",
        TablePart::Properties => "properties",
        _ => "other",
    }
}

fn or_unknown<T: ToString>(field: Option<T>) -> String {
    field.map_or_else(|| "unknown".to_owned(), |field| field.to_string())
}

fn show_manifest(manifest: &ManifestFile, output: Output) -> Result<()> {
    output.line(format!("manifest of {} bytes, format {}", manifest.bytes, or_unknown(manifest.format)))?;
    output.line(format!(
        "last batch in tables {}, oldest log segment {}, next file {}",
        manifest.last_sequence, manifest.log, manifest.next_file
    ))?;
    for (id, name) in manifest.keyspaces.iter().enumerate() {
        output.line(format!("keyspace {id}: {name}"))?;
    }
    let mut shown = table(&[
        "table",
        "keyspace",
        "level",
        "bytes",
        "entries",
        "tombstones",
        "sequences",
        "smallest",
        "largest",
        "",
    ]);
    for table in &manifest.tables {
        shown.add_row([
            table.number.to_string(),
            table.keyspace.to_string(),
            table.level.to_string(),
            table.bytes.to_string(),
            table.entries.to_string(),
            table.tombstones.to_string(),
            format!("{}–{}", table.smallest_sequence, table.largest_sequence),
            shorten(&escaped(&table.smallest), KEY_COLUMNS),
            shorten(&escaped(&table.largest), KEY_COLUMNS),
            if table.quarantined { "quarantined".to_owned() } else { String::new() },
        ]);
    }
    output.table(&shown)?;
    for range in &manifest.range_tombstones {
        let upper = range.upper.as_ref().map_or_else(|| "the end".to_owned(), |upper| escaped(upper));
        let lower = escaped(&range.lower);
        output.line(format!(
            "keyspace {}: batch {} deleted from {lower} to {upper}",
            range.keyspace, range.sequence
        ))?;
    }
    for blob in &manifest.blobs {
        output.line(format!(
            "blob file {} of keyspace {}: {} values, {} bytes",
            blob.number, blob.keyspace, blob.blobs, blob.bytes
        ))?;
    }
    Ok(())
}

fn show_blob(blob: &BlobFile, output: Output) -> Result<()> {
    let keyspace = or_unknown(blob.keyspace);
    output.line(format!("blob file {} of {} bytes, keyspace {keyspace}", blob.number, blob.bytes))?;
    let mut shown = table(&["offset", "bytes", "decompressed"]);
    for block in &blob.blocks {
        shown.add_row([block.offset.to_string(), block.stored_bytes.to_string(), block.bytes.to_string()]);
    }
    output.table(&shown)?;
    Ok(())
}

fn show_log(log: &LogFile, output: Output) -> Result<()> {
    let header = log.header.map_or_else(
        || "whose header is damaged".to_owned(),
        |header| match header.previous {
            0 => format!("format {}, number {}, the first", header.format, header.number),
            previous => {
                let (format, number, len) = (header.format, header.number, header.previous_len);
                format!("format {format}, number {number} behind {previous}, which has {len} bytes")
            }
        },
    );
    output.line(format!("log segment of {} bytes, {header}", log.bytes))?;
    let mut shown = table(&["offset", "bytes", "sequence", "synced", "changes"]);
    for record in &log.records {
        let changes = record.changes.iter().map(|change| {
            format!("{} {} in keyspace {}", change.count, kind_name(change.kind), change.keyspace)
        });
        shown.add_row([
            record.offset.to_string(),
            record.bytes.to_string(),
            record.sequence.to_string(),
            record.synced.to_string(),
            changes.collect::<Vec<_>>().join(", "),
        ]);
    }
    output.table(&shown)?;
    show_entries(log.records.iter().flat_map(|record| &record.entries), output)?;
    output.line(match log.torn_bytes {
        0 => format!("{} records, which end at {}", log.records.len(), log.end),
        torn => {
            format!("{} records, which end at {}; {torn} bytes are no record", log.records.len(), log.end)
        }
    })?;
    Ok(())
}

fn show_table(found: &TableFile, output: Output) -> Result<()> {
    let format = or_unknown(found.format);
    output.line(format!("table {} of {} bytes, format {format}", found.number, found.bytes))?;
    if let Some(properties) = &found.properties {
        output.line(format!(
            "keyspace {}, {} entries, {} of them tombstones, sequences {}–{}",
            properties.keyspace,
            properties.entries,
            properties.tombstones,
            properties.smallest_sequence,
            properties.largest_sequence
        ))?;
        output.line(format!(
            "keys {} to {}",
            shorten(&escaped(&properties.smallest), KEY_COLUMNS),
            shorten(&escaped(&properties.largest), KEY_COLUMNS)
        ))?;
    }
    let mut shown = table(&["block", "offset", "bytes", "decompressed", "entries"]);
    for block in &found.blocks {
        let is_data = block.part == TablePart::Data;
        shown.add_row([
            part_name(block.part).to_owned(),
            block.offset.to_string(),
            block.stored_bytes.to_string(),
            block.bytes.to_string(),
            if is_data { block.entry_count.to_string() } else { String::new() },
        ]);
    }
    output.table(&shown)?;
    show_entries(found.blocks.iter().flat_map(|block| &block.entries), output)
}

fn show_entries<'a>(entries: impl Iterator<Item = &'a Entry>, output: Output) -> Result<()> {
    let mut shown = table(&["keyspace", "sequence", "", "key", "value bytes", "value"]);
    for entry in entries {
        let is_cut = entry.value.len() < entry.value_len && !entry.value.is_empty();
        shown.add_row([
            entry.keyspace.to_string(),
            entry.sequence.to_string(),
            kind_name(entry.kind).to_owned(),
            escaped(&entry.key),
            if entry.kind == EntryKind::Put { entry.value_len.to_string() } else { String::new() },
            match entry.place {
                None if entry.kind == EntryKind::DeleteRange => entry
                    .upper
                    .as_ref()
                    .map_or_else(|| "to the end".to_owned(), |upper| format!("up to {}", escaped(upper))),
                Some(place) => {
                    let BlobPlace { file, block, start, bytes } = place;
                    format!("{bytes} bytes at {start} of the block at {block} of blob file {file}")
                }
                None => format!("{}{}", hex(&entry.value), if is_cut { "…" } else { "" }),
            },
        ]);
    }
    if !shown.is_empty() {
        output.table(&shown)?;
    }
    Ok(())
}

fn to_json(found: &Inspection) -> Json {
    let mut document = match found {
        Inspection::Manifest(manifest) => manifest_to_json(manifest),
        Inspection::Log(log) => log_to_json(log),
        Inspection::Table(table) => table_to_json(table),
        Inspection::Blob(blob) => blob_to_json(blob),
        _ => json!({ "kind": "other" }),
    };
    document["damages"] = found.damages().iter().map(damage_to_json).collect();
    document
}

fn damage_to_json(damage: &Damage) -> Json {
    json!({ "offset": damage.offset, "what": damage.what })
}

fn entry_to_json(entry: &Entry) -> Json {
    json!({
        "keyspace": entry.keyspace, "sequence": entry.sequence, "kind": kind_name(entry.kind),
        "key": escaped(&entry.key), "value_bytes": entry.value_len, "value": hex(&entry.value),
        "upper": entry.upper.as_ref().map(|upper| escaped(upper)),
        "place": entry.place.map(|place| {
            json!({ "file": place.file, "block": place.block, "start": place.start, "bytes": place.bytes })
        }),
    })
}

fn manifest_to_json(manifest: &ManifestFile) -> Json {
    let tables = manifest.tables.iter().map(|table| {
        json!({
            "number": table.number, "keyspace": table.keyspace, "level": table.level, "bytes": table.bytes,
            "checksum": format!("{:016x}", table.checksum),
            "smallest": escaped(&table.smallest), "largest": escaped(&table.largest),
            "smallest_sequence": table.smallest_sequence, "largest_sequence": table.largest_sequence,
            "entries": table.entries, "tombstones": table.tombstones, "cleaned": table.cleaned,
            "quarantined": table.quarantined,
        })
    });
    let ranges = manifest.range_tombstones.iter().map(|range| {
        json!({
            "keyspace": range.keyspace, "lower": escaped(&range.lower),
            "upper": range.upper.as_ref().map(|upper| escaped(upper)), "sequence": range.sequence,
        })
    });
    let blobs = manifest.blobs.iter().map(|blob| {
        json!({
            "number": blob.number, "keyspace": blob.keyspace, "bytes": blob.bytes,
            "checksum": format!("{:016x}", blob.checksum), "blobs": blob.blobs,
        })
    });
    json!({
        "kind": "manifest", "bytes": manifest.bytes, "format": manifest.format,
        "keyspaces": manifest.keyspaces, "last_sequence": manifest.last_sequence, "log": manifest.log,
        "next_file": manifest.next_file, "tables": tables.collect::<Vec<_>>(),
        "blobs": blobs.collect::<Vec<_>>(), "range_tombstones": ranges.collect::<Vec<_>>(),
    })
}

fn blob_to_json(blob: &BlobFile) -> Json {
    let blocks = blob.blocks.iter().map(
        |block| json!({ "offset": block.offset, "stored_bytes": block.stored_bytes, "bytes": block.bytes }),
    );
    json!({
        "kind": "blob", "number": blob.number, "bytes": blob.bytes, "keyspace": blob.keyspace,
        "blocks": blocks.collect::<Vec<_>>(),
    })
}

fn log_to_json(log: &LogFile) -> Json {
    let records = log.records.iter().map(|record| {
        let changes = record.changes.iter().map(|change| {
            json!({
                "keyspace": change.keyspace, "kind": kind_name(change.kind), "count": change.count,
            })
        });
        json!({
            "offset": record.offset, "bytes": record.bytes, "sequence": record.sequence,
            "synced": record.synced, "changes": changes.collect::<Vec<_>>(),
            "entries": record.entries.iter().map(entry_to_json).collect::<Vec<_>>(),
        })
    });
    let header = log.header.map(|header| {
        json!({
            "format": header.format, "number": header.number, "previous": header.previous, "previous_bytes": header.previous_len,
        })
    });
    json!({
        "kind": "log", "bytes": log.bytes, "header": header, "records": records.collect::<Vec<_>>(),
        "end": log.end, "torn_bytes": log.torn_bytes,
    })
}

fn table_to_json(table: &TableFile) -> Json {
    let properties = table.properties.as_ref().map(|properties| {
        json!({
            "keyspace": properties.keyspace,
            "smallest": escaped(&properties.smallest), "largest": escaped(&properties.largest),
            "smallest_sequence": properties.smallest_sequence,
            "largest_sequence": properties.largest_sequence,
            "entries": properties.entries, "tombstones": properties.tombstones,
        })
    });
    let blocks = table.blocks.iter().map(|block| {
        json!({
            "part": part_name(block.part), "offset": block.offset, "stored_bytes": block.stored_bytes,
            "bytes": block.bytes, "entry_count": block.entry_count,
            "entries": block.entries.iter().map(entry_to_json).collect::<Vec<_>>(),
        })
    });
    json!({
        "kind": "table", "number": table.number, "id": table.id, "bytes": table.bytes, "format": table.format,
        "properties": properties, "blocks": blocks.collect::<Vec<_>>(),
    })
}
