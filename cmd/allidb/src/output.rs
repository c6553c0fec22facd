//! What a command prints: tables for people, JSON for programs.

use std::{
    env,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns and short sentences.
    Table,
    /// One JSON document (`scan`: one JSON object a line).
    Json,
}

/// A number of things, each called `one`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Standard output. Writing returns an error rather than panicking when the reader has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints a line, whichever the format.
    pub(crate) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Prints one document, indented.
    pub(crate) fn document(self, value: &serde_json::Value) -> io::Result<()> {
        self.line(format!("{value:#}"))
    }

    /// Prints `sentence` for people or `document` for programs.
    pub(crate) fn either(self, sentence: impl AsRef<str>, document: serde_json::Value) -> io::Result<()> {
        if self.is_json() { self.document(&document) } else { self.line(sentence) }
    }

    /// Prints a table without trailing blanks.
    pub(crate) fn table(self, table: &Table) -> io::Result<()> {
        self.line(table.trim_fmt())
    }
}

/// An empty table with these headings, as wide as the terminal; where there is none each row is one line, for
/// `grep` and its like.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule));
    match columns() {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header.to_vec());
    table
}

/// How much of a long text is shown: columns of the terminal, 110 when there is none.
pub(crate) fn width() -> u16 {
    columns().unwrap_or(110)
}

/// Columns asked for by `COLUMNS`, else those of the terminal, if that is one of a sensible width.
fn columns() -> Option<u16> {
    let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    let asked = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.or(terminal).filter(|&columns| columns >= 40)
}

/// `text` in at most `limit` characters, with an ellipsis where it was cut.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}
