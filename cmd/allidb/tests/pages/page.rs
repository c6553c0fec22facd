//! The blocks of a page.

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Shell,
    Python,
}

/// Something that is run.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) language: Language,
    pub(crate) text: String,
    /// What it says, as the page shows it: in the block after it.
    pub(crate) shown: Option<String>,
    /// Where alone it is run, and why.
    pub(crate) needs: Option<Need>,
}

/// What a block needs that is not everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// What `ALLIDB_PAGES` must name.
    pub(crate) what: String,
    pub(crate) why: String,
}

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: String,
    /// In their order.
    pub(crate) blocks: Vec<Block>,
    /// Lines of what is not run, and why not.
    pub(crate) not_run: Vec<(usize, String)>,
}

/// A block as it stands in the page.
struct Raw {
    line: usize,
    /// `None`: it is indented.
    language: Option<String>,
    text: String,
}

impl Page {
    /// Reads a page. An error says where it is wrong.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut page = Self { name: name.to_owned(), blocks: Vec::new(), not_run: Vec::new() };
        let whole = text
            .lines()
            .enumerate()
            .find_map(|(at, line)| Some((at + 1, comment(line, "nothing here is run:")?)));
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line)).peekable();
        let mut reason: Option<(usize, String)> = None;
        let mut needs: Option<Need> = None;
        let mut is_after_blank = true;
        while let Some((number, line)) = lines.next() {
            if let Some(why) = comment(line, "not run:") {
                if why.is_empty() {
                    return Err(page.at(number, "why is it not run?"));
                }
                reason = Some((number, why));
            } else if let Some(need) = comment(line, "run with ALLIDB_PAGES=") {
                let Some((what, why)) = need.split_once(':') else {
                    return Err(page.at(number, "why is it not run everywhere?"));
                };
                needs = Some(Need { what: what.trim().to_owned(), why: why.trim().to_owned() });
            } else if let Some(language) = line.trim_start().strip_prefix("```") {
                let indent = line.len() - line.trim_start().len();
                let mut text = String::new();
                loop {
                    let Some((_, line)) = lines.next() else {
                        return Err(page.at(number, "its end is missing"));
                    };
                    if line.trim() == "```" {
                        break;
                    }
                    // Fences in lists are indented as these are.
                    let margin = line.len() - line.trim_start().len();
                    text += &line[indent.min(margin)..];
                    text.push('\n');
                }
                let language = Some(language.trim().to_owned());
                let blocks = page.blocks.len();
                page.take(Raw { line: number, language, text }, reason.take(), whole.is_some())?;
                if let (Some(need), Some(block)) = (needs.take(), page.blocks.get_mut(blocks)) {
                    block.needs = Some(need);
                }
            } else if is_after_blank && line.starts_with("    ") {
                while lines.next_if(|(_, line)| line.starts_with("    ") || line.is_empty()).is_some() {}
                let raw = Raw { line: number, language: None, text: String::new() };
                page.take(raw, reason.take(), whole.is_some())?;
            } else if !line.trim().is_empty()
                && let Some((number, _)) = reason
            {
                return Err(page.at(number, "what is not run? A block must follow"));
            }
            is_after_blank = line.trim().is_empty();
        }
        match (reason, whole) {
            (Some((number, _)), _) => Err(page.at(number, "what is not run? A block must follow")),
            (None, Some((number, why))) if why.is_empty() => Err(page.at(number, "why is it not run?")),
            (None, Some(whole)) => {
                page.not_run = vec![whole];
                Ok(page)
            }
            (None, None) => Ok(page),
        }
    }

    fn take(&mut self, raw: Raw, reason: Option<(usize, String)>, is_prose: bool) -> Result<(), String> {
        let Raw { line, language, text } = raw;
        if is_prose {
            return Ok(());
        }
        if let Some((_, why)) = reason {
            self.not_run.push((line, why));
            return Ok(());
        }
        let language = match language.as_deref() {
            // Options are tried by tests of the configuration.
            Some("text" | "yaml") => return Ok(()),
            Some("sh") => Language::Shell,
            Some("python") => Language::Python,
            Some("output") => {
                return match self.blocks.last_mut() {
                    Some(block) if block.shown.is_none() => {
                        block.shown = Some(text);
                        Ok(())
                    }
                    _ => Err(self.at(line, "this is the output of what?")),
                };
            }
            _ => {
                let message = "a block is ```sh, ```python, ```output or ```text, or `<!-- not run: REASON -->` stands before it";
                return Err(self.at(line, message));
            }
        };
        self.blocks.push(Block { line, language, text, shown: None, needs: None });
        Ok(())
    }

    /// A message about a line.
    pub(crate) fn at(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.name)
    }
}

/// What a comment of a kind says.
fn comment(line: &str, kind: &str) -> Option<String> {
    let inside = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    Some(inside.trim().strip_prefix(kind)?.trim().to_owned())
}
