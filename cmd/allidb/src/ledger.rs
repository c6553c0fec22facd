//! What became of each imported item: counted, shown, and written to the files that the user asked for.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    acknowledged::{self, Label},
    progress::Progress,
    put_stream::Origin,
};

/// Rejections shown on standard error when there is no file for them.
const SHOWN_REJECTIONS: u64 = 10;
/// Acknowledgements that may wait in memory while more keep coming.
const FLUSH_EVERY: u64 = 256;

/// Counts of one kind of item.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// The server has them.
    pub(crate) acknowledged: u64,
    /// The server, or the reader, refused them.
    pub(crate) rejected: u64,
    /// Acknowledged in an earlier run.
    pub(crate) skipped: u64,
}

/// Counts and files of an import.
pub(crate) struct Ledger {
    file: &'static str,
    counts: Counts,
    progress: Option<Progress>,
    acknowledged: Option<BufWriter<File>>,
    rejects: Option<BufWriter<File>>,
}

impl Ledger {
    /// Opens the files: acknowledged items are appended, rejects start afresh.
    pub(crate) fn open(acknowledged: Option<&Path>, rejects: Option<&Path>) -> Result<Self> {
        let append = |path: &Path| {
            let open = || {
                acknowledged::cut_torn_line(path)?;
                OpenOptions::new().create(true).append(true).open(path)
            };
            open().map(BufWriter::new).with_context(|| path.display().to_string())
        };
        let create =
            |path: &Path| File::create(path).map(BufWriter::new).with_context(|| path.display().to_string());
        Ok(Self {
            file: "",
            counts: Counts::default(),
            progress: None,
            acknowledged: acknowledged.map(append).transpose()?,
            rejects: rejects.map(create).transpose()?,
        })
    }

    /// Begins to count the items of another file.
    pub(crate) fn begin(&mut self, file: &'static str, total: Option<u64>) {
        self.file = file;
        self.counts = Counts::default();
        self.progress = Some(Progress::start(file, total));
    }

    /// Ends the file begun last: takes the progress bar away, and makes sure that every acknowledged
    /// item is in its file. Called on success and on failure.
    pub(crate) fn end(&mut self) -> Result<Counts> {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
        for file in [&mut self.acknowledged, &mut self.rejects].into_iter().flatten() {
            file.flush()?;
        }
        Ok(self.counts)
    }

    pub(crate) fn acknowledged(&mut self, label: &Label) -> Result<()> {
        self.counts.acknowledged += 1;
        if let Some(file) = &mut self.acknowledged {
            writeln!(file, "{}", label.line()).context("cannot write the file of acknowledged items")?;
            if self.counts.acknowledged.is_multiple_of(FLUSH_EVERY) {
                file.flush()?;
            }
        }
        self.show();
        Ok(())
    }

    pub(crate) fn rejected(&mut self, origin: &Origin, code: &str, reason: &str) -> Result<()> {
        self.counts.rejected += 1;
        match &mut self.rejects {
            Some(file) => {
                let record = json!({
                    "file": self.file, origin.original.unit(): origin.number, "code": code, "reason": reason,
                    "item": origin.original.to_json(),
                });
                writeln!(file, "{record}").context("cannot write the rejects file")?;
            }
            None if self.counts.rejected <= SHOWN_REJECTIONS => {
                let unit = origin.original.unit();
                eprintln!("{}, {unit} {}: {code}: {reason}", self.file, origin.number);
            }
            None if self.counts.rejected == SHOWN_REJECTIONS + 1 => {
                eprintln!("further rejections are only counted; --rejects FILE keeps them all");
            }
            None => {}
        }
        self.show();
        Ok(())
    }

    pub(crate) fn skipped(&mut self) {
        self.counts.skipped += 1;
        self.show();
    }

    fn show(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.at(self.counts.acknowledged + self.counts.rejected + self.counts.skipped);
        }
    }
}
