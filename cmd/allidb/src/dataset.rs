//! A directory of entities, edges and vectors, as `import` reads it and `data sample` writes it.
//!
//! | file | what |
//! |---|---|
//! | `entities.jsonl[.zst]` | one entity a line |
//! | `words.txt` | in place of it: one id a line; the line's number becomes the attribute `rank` |
//! | `vectors.f16.npy` or `vectors.f32.npy` | row i belongs to line i of the entities |
//! | `edges.jsonl[.zst]` | one edge a line |

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value as Json, json};

use crate::npy::NpyFile;

/// An entity with its vectors is far smaller; a longer line is not a JSONL file.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// What some programs begin a file of UTF-8 with; it belongs to no line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the entities are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntityForm {
    /// A JSON object a line.
    Jsonl,
    /// An id a line.
    Words,
}

/// An opened directory.
#[derive(Debug)]
pub(crate) struct Dataset {
    entities: PathBuf,
    form: EntityForm,
    edges: Option<PathBuf>,
    /// The vectors, if there are any.
    pub(crate) vectors: Option<NpyFile>,
}

impl Dataset {
    /// Finds the files and checks the header of the vectors.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a directory", dir.display());
        }
        let (entities, form) = match present(dir, &["entities.jsonl.zst", "entities.jsonl"]) {
            Some(path) => (path, EntityForm::Jsonl),
            None => match present(dir, &["words.txt"]) {
                Some(path) => (path, EntityForm::Words),
                None => {
                    bail!("{} has neither entities.jsonl, entities.jsonl.zst nor words.txt", dir.display())
                }
            },
        };
        let vectors = present(dir, &["vectors.f16.npy", "vectors.f32.npy"]);
        Ok(Self {
            entities,
            form,
            edges: present(dir, &["edges.jsonl.zst", "edges.jsonl"]),
            vectors: vectors.map(|path| NpyFile::open(&path)).transpose()?,
        })
    }

    /// The lines of the entities; line i belongs to row i of the vectors.
    pub(crate) fn entity_lines(&self) -> Result<Lines> {
        Lines::open(&self.entities)
    }

    /// The lines of the edges, if there are any.
    pub(crate) fn edge_lines(&self) -> Result<Option<Lines>> {
        self.edges.as_deref().map(Lines::open).transpose()
    }

    /// Line `row` of the entities as a JSON object.
    pub(crate) fn entity_object(&self, row: usize, line: &str) -> Result<Json> {
        match self.form {
            EntityForm::Jsonl => Ok(serde_json::from_str(line)?),
            EntityForm::Words => Ok(json!({"id": line, "type": "word", "rank": row})),
        }
    }

    /// The id of every entity, by row.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let read_one = |(row, line): (usize, Result<String>)| {
            let object = self.entity_object(row, &line?).with_context(|| format!("line {}", row + 1))?;
            match object.get("id") {
                Some(Json::String(id)) => Ok(id.clone()),
                _ => bail!("line {} has no `id`", row + 1),
            }
        };
        let ids = self.entity_lines()?.enumerate().map(read_one).collect::<Result<_>>();
        ids.with_context(|| self.entities.display().to_string())
    }
}

fn present(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// A line, whatever it holds.
pub(crate) struct Line {
    /// With substitutes for what is not UTF-8.
    pub(crate) text: String,
    is_utf8: bool,
    /// The last one of a file may have no end.
    pub(crate) is_ended: bool,
}

impl Line {
    /// What it says.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(crate) fn utf8(&self) -> Result<&str> {
        if !self.is_utf8 {
            bail!("the line is not UTF-8");
        }
        Ok(&self.text)
    }
}

/// The lines of a file, unpacked if its name ends in `.zst`, without their ends and without the mark that some programs begin a
/// file with.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    number: u64,
    failed: bool,
}

impl Lines {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Box<dyn BufRead + Send>> {
            let file = File::open(path)?;
            if path.extension().is_some_and(|extension| extension == "zst") {
                Ok(Box::new(BufReader::with_capacity(1 << 17, zstd::Decoder::new(file)?)))
            } else {
                Ok(Box::new(BufReader::with_capacity(1 << 17, file)))
            }
        };
        let reader = open().with_context(|| path.display().to_string())?;
        Ok(Self { reader, path: path.to_owned(), number: 0, failed: false })
    }

    /// Those of standard input.
    pub(crate) fn of_standard_input() -> Self {
        let reader = Box::new(BufReader::with_capacity(1 << 17, io::stdin()));
        Self { reader, path: PathBuf::from("standard input"), number: 0, failed: false }
    }

    /// The next line, if it can be read at all; what it holds is for the caller to judge.
    pub(crate) fn next_line(&mut self) -> Option<Result<Line>> {
        if self.failed {
            return None;
        }
        self.number += 1;
        let line = self.read().with_context(|| self.place());
        self.failed = line.is_err();
        line.transpose()
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.number)
    }

    fn read(&mut self) -> Result<Option<Line>> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 == MAX_LINE_BYTES {
            bail!("longer than {MAX_LINE_BYTES} bytes");
        }
        let is_ended = line.last() == Some(&b'\n');
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        let (text, is_utf8) = match String::from_utf8(line) {
            Ok(text) => (text, true),
            Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), false),
        };
        Ok(Some(Line { text, is_utf8, is_ended }))
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.next_line()? {
            Ok(line) if line.is_utf8 => Ok(line.text),
            Ok(_) => Err(anyhow!("not UTF-8")).with_context(|| self.place()),
            Err(error) => Err(error),
        };
        self.failed = line.is_err();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn packed_and_plain_lines_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"id\":\"a\"}\n{\"id\":\"b\"}\r\n{\"id\":\"é\"}";
        fs::write(dir.path().join("entities.jsonl"), text).unwrap();
        assert_eq!(Dataset::open(dir.path()).unwrap().ids().unwrap(), ["a", "b", "é"]);
        let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
        fs::write(dir.path().join("entities.jsonl.zst"), packed).unwrap();
        assert_eq!(Dataset::open(dir.path()).unwrap().ids().unwrap(), ["a", "b", "é"]);
    }

    #[test]
    fn lines_are_told_apart_whatever_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        fs::write(&path, b"\xef\xbb\xbfa\n\xffb\r\n\xef\xbb\xbfc").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut next = || lines.next_line().unwrap().unwrap();
        let (first, second, third) = (next(), next(), next());
        assert_eq!((first.utf8().unwrap(), first.is_ended), ("a", true));
        assert_eq!((second.text.as_str(), second.is_ended), ("\u{fffd}b", true));
        assert!(second.utf8().unwrap_err().to_string().contains("not UTF-8"));
        assert_eq!((third.utf8().unwrap(), third.is_ended), ("\u{feff}c", false));
        assert!(lines.next_line().is_none());
    }

    #[test]
    fn words_get_their_rank() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("words.txt"), "the\nof\n").unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        assert_eq!(dataset.ids().unwrap(), ["the", "of"]);
        assert_eq!(dataset.entity_object(1, "of").unwrap(), json!({"id": "of", "type": "word", "rank": 1}));
    }

    #[test]
    fn broken_files_end_with_one_error_that_says_where() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("entities.jsonl"), b"{\"id\":\"a\"}\n\xff\n{}").unwrap();
        let dataset = Dataset::open(dir.path()).unwrap();
        let lines: Vec<_> = dataset.entity_lines().unwrap().collect();
        assert_eq!(lines.len(), 2);
        assert!(format!("{:#}", lines[1].as_ref().unwrap_err()).contains("line 2: not UTF-8"));
        fs::write(dir.path().join("entities.jsonl.zst"), b"not zstd").unwrap();
        assert!(Dataset::open(dir.path()).unwrap().ids().is_err());
        assert!(Dataset::open(&dir.path().join("absent")).is_err());
    }
}
