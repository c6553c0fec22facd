//! The terminal while it is taken over.

use std::io::{self, IsTerminal, Stdout, Write};

use anyhow::Result;
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    queue,
    style::Print,
    terminal::{
        Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    },
};

use crate::failure::Failure;

/// Given back as it was when this is dropped, after a panic, too.
pub(super) struct Screen {
    out: Stdout,
}

impl Screen {
    /// Takes over the terminal.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn open() -> Result<Self> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::usage("this is no terminal: --once prints what is seen now"));
        }
        enable_raw_mode()?;
        // From here on dropping it gives the terminal back.
        let mut screen = Self { out: io::stdout() };
        queue!(screen.out, EnterAlternateScreen, Hide)?;
        screen.out.flush()?;
        Ok(screen)
    }

    /// Shows lines in place of those before, as many and as much of them as fit.
    pub(super) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let size = rustix::termios::tcgetwinsize(&self.out)?;
        for (row, line) in (0..size.ws_row).zip(lines) {
            let fitting: String = line.chars().take(size.ws_col.into()).collect();
            queue!(self.out, MoveTo(0, row), Print(fitting), Clear(ClearType::UntilNewLine))?;
        }
        if lines.len() < size.ws_row.into() {
            let below = u16::try_from(lines.len()).unwrap_or(size.ws_row);
            queue!(self.out, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        }
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        queue!(self.out, Show, LeaveAlternateScreen).and_then(|()| self.out.flush()).ok();
        disable_raw_mode().ok();
    }
}
