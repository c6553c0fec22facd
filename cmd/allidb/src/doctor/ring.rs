//! The ring, as the node that answers knows it.

use std::collections::{BTreeSet, HashSet};

use allidb_api::v1::{Node, shape::Phase};
use allidbd::build;
use time::{Duration, OffsetDateTime};

use super::{daemon::Answers, verdict::Verdict};
use crate::{layout::thin, maintenance::size};

/// A node whose clock is off by more plans no writes.
const CLOCK_LIMIT_MS: u64 = 500;
/// Deletions are forgotten once a day unless `ring.purge_every` says otherwise.
const PURGE_OVERDUE: Duration = Duration::days(3);

fn members(answers: &Answers) -> impl Iterator<Item = &Node> {
    answers.cluster.nodes.iter().filter(|node| node.is_member)
}

fn named<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> String {
    nodes.into_iter().map(|node| node.id.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn releases(answers: &Answers) -> Vec<Verdict> {
    // Of a node that was not heard of it is not known.
    let releases = answers.cluster.nodes.iter().map(|node| node.release.as_str());
    let releases: BTreeSet<&str> = releases.filter(|release| !release.is_empty()).collect();
    let told = releases.iter().copied().collect::<Vec<_>>().join(", ");
    vec![if releases.len() > 1 {
        Verdict::warn(
            format!("nodes are of several releases: {told}"),
            "end the upgrade: one node after the other (docs/operations.md)",
        )
    } else if releases.iter().any(|release| *release != build::VERSION) {
        let found = format!("this program is {}, the daemon {told}", build::VERSION);
        Verdict::warn(found, "use the program of the daemon's release")
    } else {
        Verdict::ok(format!("all are {told}"))
    }]
}

pub(super) fn nodes(answers: &Answers) -> Vec<Verdict> {
    let down: Vec<&Node> = members(answers).filter(|node| !node.is_alive).collect();
    let apart: Vec<&Node> = members(answers).filter(|node| node.is_alive && !node.agrees).collect();
    let mut verdicts = Vec::new();
    if !down.is_empty() {
        let found = format!("not heard from: {}", named(down));
        verdicts.push(Verdict::warn(found, "start them, or replace them (docs/operations.md)"));
    }
    if !apart.is_empty() {
        let found = format!("of another topology: {}", named(apart));
        verdicts.push(Verdict::warn(found, "wait some seconds; if it stays so, look at their logs"));
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::ok(format!("all {} members are up", members(answers).count())));
    }
    verdicts
}

/// Whether what is asked at QUORUM can be answered.
pub(super) fn replicas(answers: &Answers) -> Vec<Verdict> {
    let layout = answers.cluster.layout.clone().unwrap_or_default();
    let alive: HashSet<&str> =
        members(answers).filter(|node| node.is_alive).map(|node| node.id.as_str()).collect();
    let all = layout.partitions.len();
    let lacks = |partition: &&allidb_api::v1::Partition| {
        let there = partition.nodes.iter().filter(|node| alive.contains(node.as_str())).count();
        there < partition.nodes.len() / 2 + 1
    };
    let lacking = layout.partitions.iter().filter(lacks).count();
    vec![match lacking {
        0 if let thin @ 1.. = thin(&layout) => Verdict::warn(
            format!("{thin} of {all} partitions have fewer than {} replicas", layout.replication),
            "add nodes, or ask for fewer replicas (`cluster layout stage`)",
        ),
        0 if layout.replication == 2 => Verdict::warn(
            "there are two replicas of each partition, and both must answer",
            "three go on when one is away (`cluster layout stage --replication 3`)",
        ),
        0 => Verdict::ok(format!("all {all} partitions have a quorum, of {} replicas", layout.replication)),
        _ => Verdict::fail(
            format!(
                "{lacking} of {all} partitions have no quorum: what lies there is neither read nor written"
            ),
            "start the nodes that are down",
        ),
    }]
}

pub(super) fn clocks(answers: &Answers) -> Vec<Verdict> {
    let worst = answers.cluster.nodes.iter().filter_map(|node| Some((node, node.clock?)));
    let Some((node, clock)) = worst.max_by_key(|(_, clock)| clock.ahead_ms.unsigned_abs()) else {
        return vec![Verdict::skipped("there is no other clock to compare with")];
    };
    let found =
        format!("that of {} is {:+} ± {} ms from that of the node", node.id, clock.ahead_ms, clock.within_ms);
    let advice = "have a service keep clocks right (chrony, systemd-timesyncd) on all nodes";
    vec![match clock.ahead_ms.unsigned_abs() {
        apart if apart >= CLOCK_LIMIT_MS => {
            Verdict::fail(format!("{found}: beyond {CLOCK_LIMIT_MS} ms a node takes no writes"), advice)
        }
        apart if apart >= CLOCK_LIMIT_MS / 4 => Verdict::warn(found, advice),
        _ => Verdict::ok(found),
    }]
}

pub(super) fn healing(answers: &Answers) -> Vec<Verdict> {
    vec![match &answers.cluster.healing {
        None => Verdict::ok("no damage is being healed"),
        Some(healing) if healing.failure.is_empty() => Verdict::warn(
            format!("{} partitions are taken over after damage", healing.partitions),
            "wait; if files are damaged again, replace the disk",
        ),
        Some(healing) => Verdict::fail(
            format!(
                "{} partitions wait to be taken over after damage: {}",
                healing.partitions, healing.failure
            ),
            "start the nodes that hold them, or replace this one (docs/operations.md)",
        ),
    }]
}

pub(super) fn hints(answers: &Answers) -> Vec<Verdict> {
    let hints = || members(answers).filter_map(|node| Some((node, node.hints?)));
    let dropped: u64 = hints().map(|(_, hints)| hints.dropped).sum();
    let waiting: Vec<&Node> = hints().filter(|(_, hints)| hints.bytes > 0).map(|(node, _)| node).collect();
    let bytes: u64 = hints().map(|(_, hints)| hints.bytes).sum();
    let mut verdicts = Vec::new();
    if dropped > 0 {
        verdicts.push(Verdict::warn(
            format!("{dropped} writes were dropped that nodes had missed"),
            "`allidb cluster repair`, or wait until nodes have compared what they hold",
        ));
    }
    if !waiting.is_empty() {
        verdicts.push(Verdict::warn(
            format!("{} are kept for {}", size(bytes), named(waiting)),
            "they are delivered once the nodes are back: start them, or replace them",
        ));
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::ok("nothing is kept for others"));
    }
    verdicts
}

pub(super) fn topology(answers: &Answers) -> Vec<Verdict> {
    let shape = answers.cluster.shape.clone().unwrap_or_default();
    let stuck: Vec<String> = shape
        .takeovers
        .iter()
        .filter(|of| !of.is_done && !of.failure.is_empty())
        .map(|of| format!("{}: {}", of.node, of.failure))
        .collect();
    vec![match shape.phase() {
        Phase::Filling | Phase::HandingOver if !stuck.is_empty() => Verdict::warn(
            format!("a move does not get on: {}", stuck.join("; ")),
            "start the nodes it waits for, or `allidb cluster layout revert`",
        ),
        Phase::Filling | Phase::HandingOver => {
            let done = shape.takeovers.iter().filter(|of| of.is_done).count();
            let found = format!("a move is under way: {done} of {} nodes are done", shape.takeovers.len());
            Verdict::warn(found, "wait, and stop no node meanwhile (`allidb cluster layout show`)")
        }
        _ if shape.next.is_some() => {
            Verdict::warn("a change is staged, and not applied", "`allidb cluster layout apply`, or `revert`")
        }
        _ if shape.leftovers > 0 => Verdict::ok(format!(
            "settled; {} partitions are being removed that others hold now",
            shape.leftovers
        )),
        _ => Verdict::ok("settled"),
    }]
}

pub(super) fn purge(answers: &Answers) -> Vec<Verdict> {
    let purged = answers.cluster.purged.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok());
    vec![match purged {
        None => Verdict::skipped("nothing was forgotten yet, or the node is alone, and forgets at once"),
        Some(upto) => judge_purge(upto, OffsetDateTime::now_utc()),
    }]
}

fn judge_purge(upto: OffsetDateTime, now: OffsetDateTime) -> Verdict {
    let hours = (now - upto).whole_hours();
    let found = format!("what was deleted until {hours} h ago is forgotten");
    if now - upto > PURGE_OVERDUE {
        return Verdict::warn(
            found,
            "it needs all nodes, and nothing kept for any: `allidb cluster purge` says why it fails",
        );
    }
    Verdict::ok(found)
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::{ClockOffset, Healing, Hints, Layout, Shape, Takeover};

    use super::*;
    use crate::doctor::{daemon::tests::healthy, verdict::State};

    /// What a check comes to after something was changed.
    fn states(check: fn(&Answers) -> Vec<Verdict>, change: impl FnOnce(&mut Answers)) -> Vec<State> {
        let mut answers = healthy();
        change(&mut answers);
        check(&answers).iter().map(|verdict| verdict.state).collect()
    }

    #[test]
    fn releases_that_differ() {
        assert_eq!(states(releases, |_| {}), [State::Ok]);
        assert_eq!(states(releases, |of| of.cluster.nodes[1].release.clear()), [State::Ok]);
        assert_eq!(states(releases, |of| of.cluster.nodes[1].release = "0.0.1".into()), [State::Warn]);
        let all =
            |of: &mut Answers| of.cluster.nodes.iter_mut().for_each(|node| node.release = "9.0.0".into());
        assert_eq!(states(releases, all), [State::Warn]);
    }

    #[test]
    fn nodes_that_are_away() {
        assert_eq!(states(nodes, |_| {}), [State::Ok]);
        assert_eq!(states(nodes, |of| of.cluster.nodes[2].is_alive = false), [State::Warn]);
        assert_eq!(states(nodes, |of| of.cluster.nodes[2].agrees = false), [State::Warn]);
        // One that is no member holds nothing.
        let stranger = |of: &mut Answers| {
            (of.cluster.nodes[2].is_member, of.cluster.nodes[2].is_alive) = (false, false);
        };
        assert_eq!(states(nodes, stranger), [State::Ok]);

        assert_eq!(states(replicas, |_| {}), [State::Ok]);
        assert_eq!(states(replicas, |of| of.cluster.nodes[2].is_alive = false), [State::Ok]);
        let two = |of: &mut Answers| of.cluster.nodes[1..].iter_mut().for_each(|node| node.is_alive = false);
        assert_eq!(states(replicas, two), [State::Fail]);
        let pairs = |of: &mut Answers| {
            of.cluster.layout.as_mut().expect("a layout").replication = 2;
        };
        assert_eq!(states(replicas, pairs), [State::Warn]);
    }

    #[test]
    fn clocks_that_differ() {
        for (ahead_ms, expected) in
            [(3, State::Ok), (-124, State::Ok), (125, State::Warn), (-499, State::Warn), (-500, State::Fail)]
        {
            let set = |of: &mut Answers| {
                of.cluster.nodes[1].clock = Some(ClockOffset { ahead_ms, within_ms: 1 });
                of.cluster.nodes[2].clock = Some(ClockOffset { ahead_ms: 1, within_ms: 1 });
            };
            assert_eq!(states(clocks, set), [expected], "{ahead_ms}");
        }
        assert_eq!(states(clocks, |_| {}), [State::Skipped]);
    }

    #[test]
    fn damage_that_is_healed() {
        assert_eq!(states(healing, |_| {}), [State::Ok]);
        let heals = |failure: &str| Some(Healing { partitions: 3, failure: failure.to_owned() });
        assert_eq!(states(healing, |of| of.cluster.healing = heals("")), [State::Warn]);
        assert_eq!(states(healing, |of| of.cluster.healing = heals("nobody is there")), [State::Fail]);
    }

    #[test]
    fn hints_that_wait() {
        let keep = |bytes, dropped| {
            move |of: &mut Answers| {
                of.cluster.nodes[1].hints = Some(Hints { bytes, delivered: 9, dropped });
            }
        };
        assert_eq!(states(hints, keep(0, 0)), [State::Ok]);
        assert_eq!(states(hints, keep(10, 0)), [State::Warn]);
        assert_eq!(states(hints, keep(10, 1)), [State::Warn, State::Warn]);
    }

    #[test]
    fn moves_that_are_under_way() {
        let takeover = |failure: &str| {
            vec![Takeover { node: "b".into(), failure: failure.to_owned(), ..Takeover::default() }]
        };
        let shape = |shape: Shape| move |of: &mut Answers| of.cluster.shape = Some(shape);
        assert_eq!(states(topology, |_| {}), [State::Ok]);
        let staged =
            Shape { phase: Phase::Settled.into(), next: Some(Layout::default()), ..Shape::default() };
        assert_eq!(states(topology, shape(staged)), [State::Warn]);
        for (failure, said) in [("", "0 of 1"), ("it is away", "it is away")] {
            let mut answers = healthy();
            shape(Shape { phase: Phase::Filling.into(), takeovers: takeover(failure), ..Shape::default() })(
                &mut answers,
            );
            let verdict = &topology(&answers)[0];
            assert!(verdict.state == State::Warn && verdict.found.contains(said), "{verdict:?}");
        }
    }

    #[test]
    fn purges_that_are_overdue() {
        let now = OffsetDateTime::now_utc();
        assert_eq!(judge_purge(now - Duration::hours(25), now).state, State::Ok);
        assert_eq!(judge_purge(now - Duration::hours(73), now).state, State::Warn);
        assert_eq!(states(purge, |_| {}), [State::Skipped]);
        let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        assert_eq!(states(purge, |of| of.cluster.purged = long_ago), [State::Warn]);
    }
}
