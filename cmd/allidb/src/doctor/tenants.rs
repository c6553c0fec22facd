//! Quotas that are nearly used up, and keys that are about to expire.

use allidb_api::v1::{Key, TenantQuota};
use time::{Duration, OffsetDateTime};

use super::{daemon::Answers, verdict::Verdict};

/// Time enough to give callers another one.
const SOON: Duration = Duration::days(30);

pub(super) fn quotas(answers: &Answers) -> Vec<Verdict> {
    let quotas = match &answers.quotas {
        Ok(quotas) => quotas,
        Err(why) => return vec![Verdict::skipped(format!("they are not told: {why}"))],
    };
    let near: Vec<Verdict> = quotas.iter().flat_map(near).collect();
    match near.is_empty() {
        true => vec![Verdict::ok(format!("none of {} is nearly used up", quotas.len()))],
        false => near,
    }
}

/// What a tenant uses nine tenths of, or all.
fn near(of: &TenantQuota) -> Vec<Verdict> {
    let (quota, used) = (of.quota.unwrap_or_default(), of.usage.unwrap_or_default());
    let amounts = [
        ("entities", used.entities, quota.entities),
        ("vectors", used.vectors, quota.vectors),
        ("bytes", used.bytes, quota.bytes),
    ];
    let judge = |(what, used, most): (&str, u64, Option<u64>)| {
        let most = most.filter(|most| used >= most - most / 10)?;
        let found = format!("tenant {} has {used} of {most} {what}", of.tenant);
        Some(Verdict::warn(
            found,
            "raise it (`allidb quota set`), or have something deleted: more is refused",
        ))
    };
    amounts.into_iter().filter_map(judge).collect()
}

pub(super) fn keys(answers: &Answers) -> Vec<Verdict> {
    let keys = match &answers.keys {
        Ok(keys) => keys,
        Err(why) => return vec![Verdict::skipped(format!("they are not told: {why}"))],
    };
    let now = OffsetDateTime::now_utc();
    let ending: Vec<Verdict> = keys.iter().filter_map(|key| ends_soon(key, now)).collect();
    match ending.is_empty() {
        true => vec![Verdict::ok(format!("none of {} ends within {} days", keys.len(), SOON.whole_days()))],
        false => ending,
    }
}

/// One that has ended says nothing: it may have been meant to.
fn ends_soon(key: &Key, now: OffsetDateTime) -> Option<Verdict> {
    let end = OffsetDateTime::from_unix_timestamp(key.expire_at.as_ref()?.seconds).ok()?;
    (now < end && end - now < SOON).then(|| {
        let found = format!("{} ({:?}, tenant {}) ends on {}", key.id, key.name, key.tenant, end.date());
        Verdict::warn(found, "make another one (`allidb key create`), and have its callers show that")
    })
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::{Quota, Usage};

    use super::*;
    use crate::doctor::{daemon::tests::healthy, verdict::State};

    #[test]
    fn quotas_that_are_nearly_used_up() {
        let mut answers = healthy();
        for (entities, bytes, expected) in [(0, 0, 0), (89, 999, 0), (90, 0, 1), (100, 0, 1), (91, 9_000, 2)]
        {
            let quota = Quota { entities: Some(100), bytes: Some(10_000), ..Quota::default() };
            let usage = Usage { entities, vectors: 1 << 40, bytes };
            answers.quotas = Ok(vec![TenantQuota { tenant: 7, quota: Some(quota), usage: Some(usage) }]);
            let warnings = quotas(&answers).into_iter().filter(|verdict| verdict.state == State::Warn);
            assert_eq!(warnings.count(), expected, "{entities}, {bytes}");
        }
        answers.quotas = Err("an operator's key is needed".to_owned());
        assert_eq!(quotas(&answers)[0].state, State::Skipped);
    }

    #[test]
    fn keys_that_end() {
        let mut answers = healthy();
        for (days, expected) in
            [(None, State::Ok), (Some(31), State::Ok), (Some(29), State::Warn), (Some(-1), State::Ok)]
        {
            let end = days.map(|days| prost_types::Timestamp {
                seconds: (OffsetDateTime::now_utc() + Duration::days(days)).unix_timestamp(),
                nanos: 0,
            });
            answers.keys = Ok(vec![Key { id: "abc".to_owned(), expire_at: end, ..Key::default() }]);
            let verdict = &keys(&answers)[0];
            assert_eq!(verdict.state, expected, "{days:?}");
            assert_eq!(verdict.found.contains("abc"), expected == State::Warn, "{verdict:?}");
        }
        answers.keys = Err("an admin's key is needed".to_owned());
        assert_eq!(keys(&answers)[0].state, State::Skipped);
    }
}
