//! What happened between two looks at the figures of a daemon.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::prometheus::{Figure, Figures};

const CALLS: &str = "allidb_grpc_requests_total";
const BUCKETS: &str = "allidb_grpc_request_seconds_bucket";

/// Two looks, and how long lies between them.
pub(super) struct Between<'a> {
    pub(super) before: &'a Figures,
    pub(super) now: &'a Figures,
    pub(super) seconds: f64,
}

/// What clients asked of one method meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MethodRate {
    /// Service and method, without the package.
    pub(super) method: String,
    pub(super) calls_per_second: f64,
    pub(super) failures_per_second: f64,
    /// In seconds; `None` if no call ended.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// What was added to a counter. One that is smaller than before began anew with a daemon that was started again.
fn added(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

impl Between<'_> {
    /// How fast a counter grew, whatever its labels; `None` if there is none.
    pub(super) fn rate(&self, name: &str) -> Option<f64> {
        let now = self.now.sum(name)?;
        Some(added(self.before.sum(name).unwrap_or_default(), now) / self.seconds)
    }

    /// How fast calls failed that the daemon could not answer or refused.
    pub(super) fn failures(&self) -> Option<f64> {
        self.now.sum(CALLS)?;
        // Of nothing the sum is -0.0, which would be shown so.
        Some(self.methods().iter().map(|method| method.failures_per_second).sum::<f64>() + 0.0)
    }

    /// The share of one counter in it and another one, in percent; `None` if nothing was counted.
    pub(super) fn percent(&self, of: &str, and: &str) -> Option<f64> {
        let (part, rest) = (self.rate(of)?, self.rate(and)?);
        (part + rest > 0.0).then(|| part / (part + rest) * 100.0)
    }

    /// Methods that were called, those called most first.
    pub(super) fn methods(&self) -> Vec<MethodRate> {
        let (calls_before, calls) = (by_method(self.before, CALLS), by_method(self.now, CALLS));
        let (buckets_before, buckets) = (by_method(self.before, BUCKETS), by_method(self.now, BUCKETS));
        let none = Vec::new();
        let mut rates: Vec<MethodRate> = calls
            .iter()
            .map(|(method, now)| {
                let (total, failed) = calls_between(calls_before.get(method).unwrap_or(&none), now);
                let ended = cumulated(
                    buckets_before.get(method).unwrap_or(&none),
                    buckets.get(method).unwrap_or(&none),
                );
                MethodRate {
                    method: method.clone(),
                    calls_per_second: total / self.seconds,
                    failures_per_second: failed / self.seconds,
                    p50: quantile(&ended, 0.5),
                    p99: quantile(&ended, 0.99),
                }
            })
            .filter(|rate| rate.calls_per_second > 0.0)
            .collect();
        rates.sort_by(|a, b| b.calls_per_second.total_cmp(&a.calls_per_second).then(a.method.cmp(&b.method)));
        rates
    }
}

impl MethodRate {
    pub(super) fn to_json(&self) -> Json {
        json!({
            "method": self.method, "calls_per_second": self.calls_per_second,
            "failures_per_second": self.failures_per_second, "p50_seconds": self.p50, "p99_seconds": self.p99,
        })
    }
}

/// Figures of a name, by service and method.
fn by_method<'a>(figures: &'a Figures, name: &'a str) -> BTreeMap<String, Vec<&'a Figure>> {
    let mut methods: BTreeMap<String, Vec<&Figure>> = BTreeMap::new();
    for figure in figures.of(name) {
        let service = figure.label("service").unwrap_or_default();
        let service = service.rsplit('.').next().unwrap_or_default();
        let method = format!("{service}.{}", figure.label("method").unwrap_or_default());
        methods.entry(method).or_default().push(figure);
    }
    methods
}

/// What was added to the one with the same value of a label.
fn added_to(before: &[&Figure], figure: &Figure, label: &str) -> f64 {
    let same = before.iter().find(|other| other.label(label) == figure.label(label));
    added(same.map_or(0.0, |other| other.value), figure.value)
}

/// Calls in all, and those that did not end with OK.
fn calls_between(before: &[&Figure], now: &[&Figure]) -> (f64, f64) {
    now.iter().fold((0.0, 0.0), |(total, failed), figure| {
        let calls = added_to(before, figure, "code");
        let is_failed = figure.label("code") != Some("OK");
        (total + calls, failed + if is_failed { calls } else { 0.0 })
    })
}

/// Upper bounds in seconds, and how many calls took no longer, ascending.
fn cumulated(before: &[&Figure], now: &[&Figure]) -> Vec<(f64, f64)> {
    let bucket = |figure: &&Figure| {
        let bound = figure.label("le")?.parse().ok()?;
        Some((bound, added_to(before, figure, "le")))
    };
    let mut buckets: Vec<(f64, f64)> = now.iter().filter_map(bucket).collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// As Prometheus estimates it: as if calls were spread evenly within a bucket. Beyond the last bound all that is known is that bound.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let (_, all) = *buckets.last()?;
    let wanted = all * share;
    let mut below = (0.0, 0.0);
    for (bound, count) in buckets.iter().copied() {
        if all > 0.0 && count >= wanted {
            let within = count - below.1;
            return Some(match bound.is_infinite() || within <= 0.0 {
                true => below.0,
                false => below.0 + (bound - below.0) * (wanted - below.1) / within,
            });
        }
        below = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ok: u32, failed: u32, fast: u32, all: u32) -> Figures {
        let labels = "service=\"allidb.v1.Entities\",method=\"Get\"";
        Figures::parse(&format!(
            "{CALLS}{{{labels},code=\"OK\"}} {ok}\n{CALLS}{{{labels},code=\"NOT_FOUND\"}} {failed}\n\
             {BUCKETS}{{{labels},le=\"0.001\"}} {fast}\n{BUCKETS}{{{labels},le=\"0.01\"}} {all}\n\
             {BUCKETS}{{{labels},le=\"+Inf\"}} {all}\n\
             {CALLS}{{service=\"allidb.v1.Search\",method=\"Query\",code=\"OK\"}} 5\n\
             hits_total {ok}\nmisses_total {failed}\n"
        ))
        .expect("figures")
    }

    #[test]
    fn what_was_called_meanwhile_is_told() {
        let (before, now) = (figures(10, 1, 10, 11), figures(28, 3, 28, 31));
        let between = Between { before: &before, now: &now, seconds: 2.0 };
        let methods = between.methods();
        assert_eq!(methods.len(), 1, "nobody asked queries: {methods:?}");
        let get = &methods[0];
        assert_eq!(
            (get.method.as_str(), get.calls_per_second, get.failures_per_second),
            ("Entities.Get", 10.0, 1.0)
        );
        // 18 of 20 took a millisecond at most, the others ten.
        let (p50, p99) = (get.p50.expect("calls"), get.p99.expect("calls"));
        assert!((p50 - 0.001 * 10.0 / 18.0).abs() < 1e-9, "{p50}");
        assert!((p99 - (0.001 + 0.009 * 1.8 / 2.0)).abs() < 1e-9, "{p99}");
        assert_eq!(between.failures(), Some(1.0));
        assert_eq!(between.percent("hits_total", "misses_total"), Some(90.0));
        assert_eq!(between.rate("hits_total"), Some(9.0));
        assert_eq!(between.rate("nothing"), None);
    }

    #[test]
    fn a_daemon_that_was_started_again_counts_from_nothing() {
        let (before, now) = (figures(100, 10, 100, 110), figures(4, 0, 4, 4));
        let between = Between { before: &before, now: &now, seconds: 1.0 };
        assert_eq!(between.rate("hits_total"), Some(4.0));
        let same = Between { before: &now, now: &now, seconds: 1.0 };
        assert_eq!((same.methods(), same.percent("hits_total", "misses_total")), (Vec::new(), None));
        assert_eq!(same.failures().map(|rate| format!("{rate:.1}")).as_deref(), Some("0.0"));
    }

    #[test]
    fn quantiles_end_with_what_is_known() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 3.0)], 0.99), Some(1.0));
    }
}
