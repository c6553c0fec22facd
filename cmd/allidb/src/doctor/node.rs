//! The node that answers, by its figures and its workers.

use allidb_api::v1::worker::Activity;

use super::{daemon::Answers, verdict::Verdict};
use crate::{maintenance::size, prometheus::Figures};

/// Nodes compare what they hold every ten minutes unless `ring.repair_every` says otherwise.
const REPAIR_OVERDUE_SECONDS: f64 = 3_600.0;
/// So much is caught up with within a minute or so.
const SMALL_DEBT_BYTES: f64 = (1_u64 << 30) as f64;

/// What a check comes to if one of the figures that it needs is not told.
fn lacking() -> Verdict {
    Verdict::skipped("the daemon does not tell the figures that say so")
}

/// What a check that needs figures comes to without them.
fn with_figures(answers: &Answers, judge: impl FnOnce(&Figures) -> Vec<Verdict>) -> Vec<Verdict> {
    match &answers.figures {
        Ok(figures) => judge(figures),
        Err(why) => vec![Verdict::skipped(format!("there are no figures: {why}"))],
    }
}

pub(super) fn repair(answers: &Answers) -> Vec<Verdict> {
    with_figures(answers, |figures| {
        let ages = figures.of("allidb_ring_compared_age_seconds");
        let oldest = ages.max_by(|a, b| a.value.total_cmp(&b.value));
        vec![match oldest {
            None => Verdict::skipped("this node has compared itself with no other yet"),
            Some(figure) => {
                let (node, minutes) = (figure.label("node").unwrap_or_default(), figure.value / 60.0);
                let found = format!("{node} was compared with {minutes:.0} minutes ago, the others later");
                match figure.value > REPAIR_OVERDUE_SECONDS {
                    true => {
                        Verdict::warn(found, "start that node; `allidb cluster repair` says why it fails")
                    }
                    false => Verdict::ok(found),
                }
            }
        }]
    })
}

pub(super) fn writes(answers: &Answers) -> Vec<Verdict> {
    with_figures(answers, |figures| {
        let is = |name: &str| figures.sum(name).map(|value| value > 0.0);
        let (is_poisoned, is_ready) = (is("allidb_storage_poisoned"), is("allidb_ready"));
        vec![if is_poisoned == Some(true) {
            Verdict::fail(
                "no writes are accepted any more: an fsync or a write to the log failed",
                "look at the log and at the disk, and start the daemon again",
            )
        } else if is_ready == Some(false) {
            Verdict::fail("no requests are served", "look at the log; `cluster drain --undo` ends a drain")
        } else {
            match figures.sum("allidb_storage_frozen_memtables") {
                Some(waiting) if waiting >= 2.0 => {
                    Verdict::warn(format!("{waiting} flushes wait"), "use a faster disk, or write less")
                }
                Some(_) if is_poisoned.is_some() && is_ready.is_some() => Verdict::ok("accepted"),
                _ => lacking(),
            }
        }]
    })
}

pub(super) fn damage(answers: &Answers) -> Vec<Verdict> {
    with_figures(answers, |figures| {
        let damaged = figures.sum("allidb_storage_damaged_files");
        let left = figures.sum("allidb_storage_quarantined_tables");
        let (some_damaged, some_left) = (damaged.unwrap_or_default(), left.unwrap_or_default());
        vec![if some_damaged > 0.0 || some_left > 0.0 {
            Verdict::fail(
                format!("damage was found in {some_damaged} files, and {some_left} tables are left alone"),
                "`allidb scrub` names files and places; docs/operations.md says what to do",
            )
        } else if damaged.is_some() && left.is_some() {
            Verdict::ok("none was found")
        } else {
            lacking()
        }]
    })
}

pub(super) fn restore(answers: &Answers) -> Vec<Verdict> {
    with_figures(answers, |figures| {
        vec![match figures.sum("allidb_restore_unfinished") {
            None => lacking(),
            Some(0.0) => Verdict::ok("none is unfinished"),
            Some(_) => Verdict::fail(
                "a part of a snapshot may be missing: its restoring was begun here and did not end",
                "`allidb snapshot restore` with the same id, at this node",
            ),
        }]
    })
}

pub(super) fn compaction(answers: &Answers) -> Vec<Verdict> {
    with_figures(answers, |figures| {
        let debt = figures.sum("allidb_storage_compaction_debt_bytes");
        let (Some(debt), Some(tables)) = (debt, figures.sum("allidb_storage_table_bytes")) else {
            return vec![lacking()];
        };
        let found = format!("{} of {} are to be compacted", size(debt as u64), size(tables as u64));
        vec![match debt > SMALL_DEBT_BYTES && debt > tables / 4.0 {
            true => Verdict::warn(
                found,
                "raise `storage.compaction_bytes_per_second` or `compaction_threads`, or write less: writers are slowed down",
            ),
            false => Verdict::ok(found),
        }]
    })
}

pub(super) fn workers(answers: &Answers) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for worker in &answers.workers {
        if worker.activity() == Activity::Paused {
            let advice = format!("`allidb worker resume {}`", worker.name);
            verdicts.push(Verdict::warn(format!("{} is paused", worker.name), advice));
        }
        if !worker.last_error.is_empty() {
            let when = worker.last_error_at.map(|at| format!(" ({at})")).unwrap_or_default();
            let found = format!("{} failed{when}: {}", worker.name, worker.last_error);
            verdicts
                .push(Verdict::warn(found, "it is tried again; if the error comes back, look at the log"));
        }
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::ok("none is paused, and none has failed"));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::Worker;

    use super::*;
    use crate::doctor::{
        daemon::tests::{healthy, told},
        verdict::State,
    };

    /// What a check comes to with these figures.
    fn state(check: fn(&Answers) -> Vec<Verdict>, figures: &str) -> State {
        let verdicts = check(&told(figures));
        assert_eq!(verdicts.len(), 1, "{verdicts:?}");
        verdicts[0].state
    }

    #[test]
    fn figures_that_say_nothing_good() {
        for (check, figures, expected) in [
            (repair as fn(&Answers) -> Vec<Verdict>, "up 1", State::Skipped),
            (repair, "allidb_ring_compared_age_seconds{node=\"b\"} 599", State::Ok),
            (repair, "allidb_ring_compared_age_seconds{node=\"b\"} 3601", State::Warn),
            (
                writes,
                "allidb_storage_poisoned 0\nallidb_ready 1\nallidb_storage_frozen_memtables 1",
                State::Ok,
            ),
            (writes, "allidb_storage_poisoned 0\nallidb_ready 1", State::Skipped),
            (writes, "up 1", State::Skipped),
            (writes, "allidb_storage_frozen_memtables 2", State::Warn),
            (writes, "allidb_storage_poisoned 1\nallidb_ready 1", State::Fail),
            (writes, "allidb_storage_poisoned 0\nallidb_ready 0", State::Fail),
            (damage, "allidb_storage_damaged_files 0\nallidb_storage_quarantined_tables 0", State::Ok),
            (damage, "allidb_storage_damaged_files 0", State::Skipped),
            (damage, "up 1", State::Skipped),
            (damage, "allidb_storage_damaged_files 1", State::Fail),
            (damage, "allidb_storage_quarantined_tables 1", State::Fail),
            (compaction, "allidb_storage_table_bytes 1e9", State::Skipped),
            (compaction, "allidb_storage_compaction_debt_bytes 1e9", State::Skipped),
            (
                compaction,
                "allidb_storage_compaction_debt_bytes 1e9\nallidb_storage_table_bytes 1e9",
                State::Ok,
            ),
            (
                compaction,
                "allidb_storage_compaction_debt_bytes 2e9\nallidb_storage_table_bytes 1e10",
                State::Ok,
            ),
            (
                compaction,
                "allidb_storage_compaction_debt_bytes 3e9\nallidb_storage_table_bytes 1e10",
                State::Warn,
            ),
        ] {
            assert_eq!(state(check, figures), expected, "{figures}");
        }
    }

    #[test]
    fn without_figures_nothing_is_said_of_them() {
        let answers = Answers { figures: Err("it answers 401".to_owned()), ..healthy() };
        for check in [repair, writes, damage, compaction] {
            let verdict = &check(&answers)[0];
            assert!(verdict.state == State::Skipped && verdict.found.contains("401"), "{verdict:?}");
        }
    }

    #[test]
    fn workers_that_do_not_work() {
        let mut answers = healthy();
        let worker = |name: &str| Worker { name: name.to_owned(), ..Worker::default() };
        answers.workers = vec![worker("vector-merge"), worker("vector-seal")];
        assert_eq!(workers(&answers)[0].state, State::Ok);
        answers.workers[0].activity = Activity::Paused.into();
        answers.workers[1].last_error = "the disk is full".to_owned();
        let verdicts = workers(&answers);
        assert_eq!(verdicts.len(), 2, "{verdicts:?}");
        assert!(verdicts.iter().all(|verdict| verdict.state == State::Warn), "{verdicts:?}");
        assert!(verdicts[0].advice.contains("resume vector-merge"), "{verdicts:?}");
        assert!(verdicts[1].found.contains("the disk is full"), "{verdicts:?}");
    }
}
