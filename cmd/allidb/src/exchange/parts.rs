//! An export under way: a directory of finished parts beside the file that they become, and a note of how far it is.
//!
//! ```text
//! FILE.parts/000000 …   parts, each a whole file of its format, synced before it counts
//! FILE.parts/state.json  what is exported, how many parts count, and the last id in them; replaced as a whole
//! FILE                   all of them, once the last one is there; takes its name when it is complete
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use allidb_api::v1::put_stream_request::Item;
use anyhow::{Context, Result};
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};

use super::{
    FileFormat, Kind, is_packed,
    layout::Layout,
    parquet_parts,
    text_parts::{TextFile, csv_writer, write_csv, write_lines},
};
use crate::failure::Failure;

/// How far an export is.
const NOTE: &str = "state.json";
/// What a part may hold in memory before it is ended.
const MAX_MEMORY_BYTES: usize = 64 << 20;

/// What is exported; an export goes on only with the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) collection: String,
    pub(super) kind: Kind,
    pub(super) format: FileFormat,
    pub(super) filter: Option<String>,
    /// None: those of all spaces.
    pub(super) vectors: Option<Vec<String>>,
    pub(super) as_of: Option<String>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Entities or edges.
    pub(super) rows: u64,
    /// The last entity that is dealt with.
    pub(super) last_id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    choice: Choice,
    layout: Option<Layout>,
    parts: u64,
    written: Written,
}

/// The parts of one file.
pub(super) struct Parts {
    target: PathBuf,
    dir: PathBuf,
    state: State,
    /// The part that is being written.
    open: Option<Writer>,
    /// Rows in it.
    rows: usize,
    /// What will have been written with it.
    written: Written,
}

enum Writer {
    Lines(TextFile),
    Csv(csv::Writer<TextFile>),
    Parquet(ArrowWriter<File>),
}

impl Parts {
    /// Begins an export, or goes on with one; `None` if it is complete already.
    ///
    /// # Errors
    /// If there is something at `target` and nothing is to be resumed, or something else was exported before.
    pub(super) fn open(target: &Path, choice: Choice, resume: bool) -> Result<Option<Self>> {
        let dir = beside(target, ".parts");
        let note = dir.join(NOTE);
        let state = match fs::read_to_string(&note) {
            Ok(_) if !resume => {
                let message =
                    format!("{} is of an interrupted export: --resume goes on, or remove it", dir.display());
                return Err(Failure::usage(message));
            }
            Ok(text) => {
                let state: State = serde_json::from_str(&text).with_context(|| note.display().to_string())?;
                if state.choice != choice {
                    let message = format!("{} is of an export of something else", dir.display());
                    return Err(Failure::usage(message));
                }
                state
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if target.exists() {
                    if resume {
                        // It was interrupted as its parts were removed.
                        if dir.exists() {
                            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
                        }
                        return Ok(None);
                    }
                    return Err(Failure::usage(format!("{} is there already", target.display())));
                }
                fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
                State { choice, layout: None, parts: 0, written: Written::default() }
            }
            Err(error) => return Err(error).with_context(|| note.display().to_string()),
        };
        let written = state.written.clone();
        Ok(Some(Self { target: target.to_owned(), dir, state, open: None, rows: 0, written }))
    }

    /// What has been written, and will have been with the part that is open.
    pub(super) fn written(&mut self) -> &mut Written {
        &mut self.written
    }

    /// The columns, if they are chosen.
    pub(super) fn layout(&self) -> Option<&Layout> {
        self.state.layout.as_ref()
    }

    /// Chooses the columns of all parts.
    pub(super) fn choose(&mut self, layout: Layout) {
        self.state.layout = Some(layout);
    }

    /// Adds items to the part that is open.
    pub(super) fn write(&mut self, items: Vec<Item>) -> Result<()> {
        let count = items.len();
        let layout = self.state.layout.as_ref().context("no columns are chosen")?;
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => {
                let path = part(&self.dir, self.state.parts);
                let packed = is_packed(&self.target);
                self.open.insert(match self.state.choice.format {
                    FileFormat::Jsonl => Writer::Lines(TextFile::create(&path, packed)?),
                    FileFormat::Csv => {
                        let file = TextFile::create(&path, packed)?;
                        Writer::Csv(csv_writer(file, layout, self.state.parts == 0)?)
                    }
                    FileFormat::Parquet => Writer::Parquet(parquet_parts::writer(&path, &layout.columns())?),
                })
            }
        };
        match writer {
            Writer::Lines(file) => write_lines(file, &items)?,
            Writer::Csv(writer) => write_csv(writer, layout, items)?,
            Writer::Parquet(writer) if count > 0 => {
                let records = items.into_iter().map(|item| layout.record(item)).collect::<Result<_>>()?;
                parquet_parts::write(writer, &layout.columns(), records)?;
            }
            Writer::Parquet(_) => {}
        }
        self.rows += count;
        self.written.rows += count as u64;
        Ok(())
    }

    /// Whether the open part is as large as it may be.
    pub(super) fn is_full(&self, rows: usize) -> bool {
        let held = match &self.open {
            Some(Writer::Parquet(writer)) => writer.memory_size(),
            _ => 0,
        };
        self.rows >= rows || held > MAX_MEMORY_BYTES
    }

    /// Ends the open part: from now on an interruption does not cost it.
    pub(super) fn commit(&mut self) -> Result<()> {
        match self.open.take() {
            Some(Writer::Lines(file)) => file.finish()?,
            Some(Writer::Csv(writer)) => {
                writer.into_inner().map_err(csv::IntoInnerError::into_error)?.finish()?;
            }
            Some(Writer::Parquet(writer)) => parquet_parts::finish(writer)?,
            None => return Ok(()),
        }
        self.rows = 0;
        self.state.parts += 1;
        self.state.written = self.written.clone();
        replace(&self.dir.join(NOTE), |path| {
            let mut file = File::create(path)?;
            file.write_all(&serde_json::to_vec(&self.state)?)?;
            Ok(file.sync_all()?)
        })
    }

    /// Makes one file of all parts, and removes them.
    pub(super) fn join(mut self) -> Result<Written> {
        if self.state.parts == 0 {
            // A file without rows still says what its columns are.
            self.write(Vec::new())?;
        }
        self.commit()?;
        let paths: Vec<PathBuf> = (0..self.state.parts).map(|number| part(&self.dir, number)).collect();
        let format = self.state.choice.format;
        replace(&self.target, |to| match format {
            FileFormat::Parquet => parquet_parts::join(&paths, to),
            FileFormat::Jsonl | FileFormat::Csv => {
                let mut file = File::create(to)?;
                for path in &paths {
                    let copied = File::open(path).and_then(|mut part| io::copy(&mut part, &mut file));
                    copied.with_context(|| path.display().to_string())?;
                }
                Ok(file.sync_all()?)
            }
        })?;
        remove(&self.dir).with_context(|| self.dir.display().to_string())?;
        Ok(self.written)
    }
}

/// Removes the parts of an export that is complete. The note of them goes first: where it is, they all are.
fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(NOTE))?;
    File::open(dir)?.sync_all()?;
    fs::remove_dir_all(dir)
}

fn part(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:06}"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes a file that is there as a whole or not at all.
pub(super) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = beside(path, ".new");
    let place = || -> Result<()> {
        write(&new)?;
        fs::rename(&new, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(File::open(dir)?.sync_all()?)
    };
    place().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::Entity;

    use super::*;
    use crate::{
        entity_json::entity_ref,
        exchange::{
            entity_columns::Mapping,
            rows::{self, Reading},
        },
    };

    fn choice(format: FileFormat) -> Choice {
        let collection = "c".to_owned();
        Choice { collection, kind: Kind::Entities, format, filter: None, vectors: None, as_of: None }
    }

    fn entity(id: &str) -> Item {
        Item::Entity(Entity { r#ref: Some(entity_ref("c", id)), ..Entity::default() })
    }

    fn write(parts: &mut Parts, id: &str) {
        if parts.layout().is_none() {
            parts.choose(Layout::of_entities(&[], Vec::new(), FileFormat::Csv));
        }
        parts.write(vec![entity(id)]).unwrap();
        parts.written().last_id = Some(id.to_owned());
    }

    fn ids(path: &Path, format: FileFormat) -> Vec<String> {
        let mapping = Mapping::default();
        let reading = Reading { collection: "c".to_owned(), mapping, types: Vec::new(), batch: 100 };
        let mut rows = rows::open(path, format, Kind::Entities, &reading).unwrap();
        let mut ids = Vec::new();
        loop {
            let some = rows.next().unwrap();
            if some.is_empty() {
                return ids;
            }
            for row in some {
                let Item::Entity(entity) = row.item.unwrap() else { panic!("an edge") };
                ids.push(entity.r#ref.unwrap().id);
            }
        }
    }

    #[test]
    fn an_interrupted_export_goes_on_behind_its_last_part() {
        for (name, format) in [
            ("a.jsonl", FileFormat::Jsonl),
            ("a.jsonl.zst", FileFormat::Jsonl),
            ("a.csv", FileFormat::Csv),
            ("a.csv.zst", FileFormat::Csv),
            ("a.parquet", FileFormat::Parquet),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join(name);
            let open = |resume| Parts::open(&target, choice(format), resume);
            let mut parts = open(false).unwrap().unwrap();
            write(&mut parts, "a");
            assert!(parts.is_full(1) && !parts.is_full(2));
            parts.commit().unwrap();
            write(&mut parts, "lost");
            drop(parts);
            assert!(!target.exists());
            assert!(open(false).is_err(), "what is there is not overwritten");
            let other = Choice { filter: Some("x = 1".to_owned()), ..choice(format) };
            assert!(Parts::open(&target, other, true).is_err(), "another export is not mixed in");

            let mut parts = open(true).unwrap().unwrap();
            assert_eq!(parts.written().last_id.as_deref(), Some("a"));
            write(&mut parts, "b");
            parts.commit().unwrap();
            write(&mut parts, "c");
            assert_eq!(parts.join().unwrap().rows, 3);
            assert_eq!(ids(&target, format), ["a", "b", "c"], "{name}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file is left");
            assert!(open(false).is_err());
            assert!(open(true).unwrap().is_none(), "it is complete");

            // Interrupted as parts were removed: the note is gone, a part is not.
            let left = dir.path().join(format!("{name}.parts"));
            fs::create_dir(&left).unwrap();
            fs::write(left.join("000001"), "").unwrap();
            assert!(open(true).unwrap().is_none(), "it is complete");
            assert!(!left.exists());
            assert_eq!(ids(&target, format), ["a", "b", "c"], "{name}");
        }
    }

    #[test]
    fn the_note_of_parts_is_gone_before_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("000000"), "").unwrap();
        assert!(remove(dir.path()).is_err(), "there is no note");
        assert!(dir.path().join("000000").exists());
        fs::write(dir.path().join(NOTE), "").unwrap();
        remove(dir.path()).unwrap();
        assert!(!dir.path().exists());
    }

    #[test]
    fn a_part_that_is_missing_is_named() {
        for (name, format) in
            [("a.jsonl", FileFormat::Jsonl), ("a.csv", FileFormat::Csv), ("a.parquet", FileFormat::Parquet)]
        {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join(name);
            let mut parts = Parts::open(&target, choice(format), false).unwrap().unwrap();
            write(&mut parts, "a");
            parts.commit().unwrap();
            fs::remove_file(part(&parts.dir, 0)).unwrap();
            let error = parts.join().unwrap_err();
            assert!(format!("{error:#}").contains("000000: No such file"), "{error:#}");
            assert!(!target.exists());
        }
    }

    #[test]
    fn an_empty_export_is_a_file_of_its_format() {
        for (name, format) in
            [("a.jsonl", FileFormat::Jsonl), ("a.csv", FileFormat::Csv), ("a.parquet", FileFormat::Parquet)]
        {
            let dir = tempfile::tempdir().unwrap();
            let target = dir.path().join(name);
            let mut parts = Parts::open(&target, choice(format), false).unwrap().unwrap();
            parts.choose(Layout::of_entities(&[], Vec::new(), format));
            assert_eq!(parts.join().unwrap(), Written::default());
            assert!(ids(&target, format).is_empty());
        }
    }
}
