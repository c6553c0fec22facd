//! `allidb top`: a node and its ring, as they are now.
//!
//! | module | what it does |
//! |---|---|
//! | `look` | asks the daemon, once |
//! | `rates` | what happened between two looks |
//! | `gauges` | which figures are shown |
//! | `view` | lines for people, documents for programs |
//! | `screen` | the terminal while it is taken over |

mod gauges;
mod look;
mod rates;
mod screen;
mod view;

use std::time::Duration;

use allidbd::config::Span;
use anyhow::Result;
use clap::Args;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_stream::StreamExt;

use crate::{
    client::{Client, Server},
    failure::Failure,
    metrics_port::MetricsPort,
    output::Output,
};
use look::Look;
use screen::Screen;
use view::View;

/// Often enough for everybody, and seldom enough for the daemon.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Shows what a node does, and how its ring is, until q is pressed.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often to look, such as 1s or 500ms.
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    interval: Span,
    /// Look twice, an interval apart, print what was seen, and end.
    #[arg(long)]
    once: bool,
    /// Where figures are read; the port after that of `--endpoint`, unless given.
    #[arg(long, value_name = "URL", env = "ALLIDB_METRICS_URL")]
    metrics_url: Option<String>,
}

/// Runs `top`.
pub(crate) async fn run(args: TopArgs, server: &Server, client: &Client, output: Output) -> Result<()> {
    let interval = args.interval.0;
    if interval < SHORTEST_INTERVAL {
        return Err(Failure::usage(format!("--interval must be at least {}", Span(SHORTEST_INTERVAL))));
    }
    if output.is_json() && !args.once {
        return Err(Failure::usage("JSON is printed with --once"));
    }
    let port = MetricsPort::of(server, args.metrics_url.as_deref())?;
    // What is wrong from the beginning ends it; what comes later is shown.
    let first = Look::at(client, &port).await?;
    if !args.once {
        return watch_on(first, interval, (client.clone(), port)).await;
    }
    sleep(interval).await;
    let second = Look::at(client, &port).await?;
    let view = View::of(&first, &second);
    if output.is_json() {
        output.document(&view.document())?;
    } else {
        output.line(view.lines().join("\n"))?;
    }
    Ok(())
}

/// The last two looks, and why there is none after them.
#[derive(Clone)]
struct Seen {
    before: Look,
    now: Look,
    failure: Option<String>,
}

impl Seen {
    fn lines(&self) -> Vec<String> {
        let mut lines = View::of(&self.before, &self.now).lines();
        lines.push(match &self.failure {
            None => "q ends".to_owned(),
            Some(why) => {
                let ago = self.now.at.elapsed().as_secs();
                format!("this was {ago} s ago, since then: {}   q ends", why.replace('\n', " "))
            }
        });
        lines
    }
}

async fn watch_on(first: Look, interval: Duration, daemon: (Client, MetricsPort)) -> Result<()> {
    let (told, mut seen) = watch::channel(Seen { before: first.clone(), now: first, failure: None });
    // Keys are answered while the daemon is not. Dropping this ends the task.
    let mut looking = JoinSet::new();
    looking.spawn(look_on(told, interval, daemon));
    // Each of them would end it with the terminal taken over.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut screen = Screen::open()?;
    let mut events = EventStream::new();
    loop {
        let lines = seen.borrow_and_update().lines();
        screen.show(&lines)?;
        tokio::select! {
            changed = seen.changed() => changed?,
            event = events.next() => match event {
                Some(Ok(event)) if !ends(&event) => {}
                Some(Err(error)) => return Err(error.into()),
                _ => return Ok(()),
            },
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            _ = quit.recv() => return Ok(()),
        }
    }
}

/// Looks again and again, until nobody wants to know.
async fn look_on(told: watch::Sender<Seen>, every: Duration, (client, port): (Client, MetricsPort)) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first look was taken just now.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let look = Look::at(&client, &port).await;
        told.send_modify(|seen| match look {
            Ok(look) => {
                seen.before = std::mem::replace(&mut seen.now, look);
                seen.failure = None;
            }
            Err(error) => seen.failure = Some(format!("{error:#}")),
        });
        if told.is_closed() {
            return;
        }
    }
}

/// Whether somebody wants to end it: q, Escape or Ctrl-C, which a terminal that is taken over does not turn into a signal.
fn ends(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_it() {
        let press = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert!(ends(&press(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(ends(&press(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(ends(&press(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!ends(&press(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(!ends(&Event::Resize(80, 24)));
    }
}
