//! Progress on standard error: a bar on a terminal, elsewhere a line every few seconds.

use std::{
    fmt,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far one long task has come.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    total: Option<u64>,
    unit: &'static str,
    /// When the last line was printed; `None` on a terminal, where the bar is drawn instead.
    last_line: Option<Instant>,
    started: Instant,
}

impl Progress {
    /// Begins; `total` where it is known.
    pub(crate) fn start(what: &'static str, total: Option<u64>) -> Self {
        let template = if total.is_some() {
            "  {prefix:<9} {bar:32} {human_pos}/{human_len}  {rate}  {eta} left"
        } else {
            "  {prefix:<9} {spinner} {human_pos}  {rate}"
        };
        Self::with(what, total, "", template)
    }

    /// Begins with so many bytes to go.
    pub(crate) fn of_bytes(what: &'static str, total: u64) -> Self {
        let template =
            "  {prefix:<9} {bar:32} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
        Self::with(what, Some(total), " bytes", template)
    }

    fn with(what: &'static str, total: Option<u64>, unit: &'static str, template: &str) -> Self {
        let terminal = io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                // Nothing can be done about a bar that cannot be drawn.
                write!(out, "{:.0}/s", state.per_sec()).ok();
            };
            bar.set_style(style.with_key("rate", rate).progress_chars("━╸─"));
        }
        bar.set_prefix(what);
        let started = Instant::now();
        Self { bar, what, total, unit, last_line: (!terminal).then_some(started), started }
    }

    /// Notes that `done` items are done.
    pub(crate) fn at(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.last_line.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let of = self.total.map_or_else(String::new, |total| format!(" of {total}"));
            eprintln!("{}: {done}{of}{} after {} s", self.what, self.unit, self.started.elapsed().as_secs());
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
