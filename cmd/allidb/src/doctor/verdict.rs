//! What a check comes to.

use comfy_table::Table;
use serde_json::{Value as Json, json};

use crate::output::table;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ok,
    /// It cannot be known, or nothing is to be checked.
    Skipped,
    /// It works, and may not for long.
    Warn,
    /// It does not work, or data are in danger.
    Fail,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) found: String,
    /// Empty where nothing is to be done.
    pub(super) advice: String,
}

impl Verdict {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self { state: State::Ok, found: found.into(), advice: String::new() }
    }

    pub(super) fn skipped(why: impl Into<String>) -> Self {
        Self { state: State::Skipped, found: why.into(), advice: String::new() }
    }

    pub(super) fn warn(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Warn, found: found.into(), advice: advice.into() }
    }

    pub(super) fn fail(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Fail, found: found.into(), advice: advice.into() }
    }
}

/// A check and its name: it looks at a `T`, and says something at least once.
pub(super) type Check<T> = (&'static str, fn(&T) -> Vec<Verdict>);

/// A verdict and the name of the check that came to it.
pub(super) type Finding = (&'static str, Verdict);

/// Those of a state.
pub(super) fn count(findings: &[Finding], state: State) -> usize {
    findings.iter().filter(|(_, verdict)| verdict.state == state).count()
}

pub(super) fn to_table(findings: &[Finding]) -> Table {
    let mut shown = table(&["check", "state", "found", "what to do"]);
    for (check, Verdict { state, found, advice }) in findings {
        shown.add_row([check, state.name(), found.as_str(), advice.as_str()]);
    }
    shown
}

pub(super) fn to_json(findings: &[Finding]) -> Json {
    let finding = |(check, verdict): &Finding| {
        json!({
            "check": check, "state": verdict.state.name(), "found": verdict.found, "advice": verdict.advice,
        })
    };
    json!({
        "ok": count(findings, State::Ok), "skipped": count(findings, State::Skipped),
        "warnings": count(findings, State::Warn), "failures": count(findings, State::Fail),
        "findings": findings.iter().map(finding).collect::<Vec<Json>>(),
    })
}
