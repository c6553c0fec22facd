//! Tells the demo: short sentences and small tables for people, or one document at the end for programs.

use std::{
    env,
    io::{self, IsTerminal},
};

use allidb_api::v1::{Hit, QueryResponse, Value, value::Kind};
use anyhow::Result;
use serde_json::{Map, Value as Json, json};

use crate::{
    entity_json::id_of,
    hits,
    output::{Output, shorten, width},
};

/// The columns of an answer: score, words, kind; what is left is the gloss.
const WORD_WIDTH: usize = 22;
const KIND_WIDTH: usize = 14;

/// Where the story goes.
pub(super) struct Narrator {
    output: Output,
    styled: bool,
    step: u32,
    document: Map<String, Json>,
}

impl Narrator {
    pub(super) fn new(output: Output) -> Self {
        let styled = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { output, styled, step: 0, document: Map::new() }
    }

    /// Begins a step.
    pub(super) fn heading(&mut self, text: &str) -> Result<()> {
        self.step += 1;
        let title = format!("{}. {text}", self.step);
        self.say("")?;
        self.say(&if self.styled { format!("\x1b[1m{title}\x1b[0m") } else { title })
    }

    /// A line for people.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        if !self.output.is_json() {
            self.output.line(text)?;
        }
        Ok(())
    }

    /// A command that does what is about to happen.
    pub(super) fn command(&self, text: &str) -> Result<()> {
        self.say(&if self.styled { format!("   \x1b[2m$ {text}\x1b[0m") } else { format!("   $ {text}") })
    }

    /// A fact for programs.
    pub(super) fn record(&mut self, name: &str, value: Json) {
        self.document.insert(name.to_owned(), value);
    }

    /// An answer: a line a hit, and with `paths` how its score came about and how it was reached.
    pub(super) fn answer(
        &mut self,
        name: &str,
        answer: &QueryResponse,
        paths: Option<&dyn Fn(&str) -> String>,
    ) -> Result<()> {
        self.record(name, hits::to_json(answer));
        for hit in &answer.hits {
            self.say(&line(hit))?;
            let Some(names) = paths else { continue };
            self.say(&self.dimmed(&format!("            {}", hits::breakdown(hit))))?;
            if !hit.path.is_empty() {
                self.say(&self.dimmed(&format!("            {}", hits::path(&hit.path, names))))?;
            }
        }
        Ok(())
    }

    fn dimmed(&self, text: &str) -> String {
        if self.styled { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints the document for programs.
    pub(super) fn finish(self) -> Result<()> {
        if self.output.is_json() {
            self.output.document(&json!(self.document))?;
        }
        Ok(())
    }
}

fn line(hit: &Hit) -> String {
    let entity = hit.entity.clone().unwrap_or_default();
    let attribute = |name: &str| entity.attributes.get(name).and_then(text).unwrap_or_default();
    let mut words = attribute("lemmas");
    if words.is_empty() {
        words = id_of(entity.r#ref.as_ref()).to_owned();
    }
    let (words, kind) = (shorten(&words, WORD_WIDTH), attribute("lexname"));
    let room = usize::from(width()).saturating_sub(WORD_WIDTH + KIND_WIDTH + 16);
    let gloss = shorten(&attribute("gloss"), room.max(20));
    format!("   {:.3}  {words:WORD_WIDTH$}  {kind:KIND_WIDTH$}  {gloss}", hit.score)
}

/// A string, or the first of a list of them.
fn text(value: &Value) -> Option<String> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        Kind::ListValue(list) => list.values.first().and_then(text),
        _ => None,
    }
}
