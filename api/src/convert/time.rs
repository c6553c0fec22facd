//! Times. The model keeps microseconds; what does not fit them is refused rather than rounded, so that a
//! value that was stored comes back as it was.

use std::time::Duration;

use allidb_index::model::Timestamp;
use tonic::Status;

use super::Path;

const MICROS: i64 = 1_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: the range of `google.protobuf.Timestamp`.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

pub(super) fn timestamp_from_proto(
    path: &Path<'_>,
    time: prost_types::Timestamp,
) -> Result<Timestamp, Status> {
    if !SECONDS.contains(&time.seconds) {
        return Err(path.invalid("is outside the years 1 to 9999"));
    }
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(path.invalid("must have nanos of 0 to 999,999,999"));
    }
    if time.nanos % 1_000 != 0 {
        return Err(path.invalid("is finer than a microsecond, which is what times are kept to"));
    }
    // In range: 2.6e11 seconds are 2.6e17 microseconds.
    Ok(Timestamp(time.seconds * MICROS + i64::from(time.nanos / 1_000)))
}

pub(crate) fn optional_timestamp_from_proto(
    path: &Path<'_>,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Status> {
    time.map(|time| timestamp_from_proto(path, time)).transpose()
}

pub(crate) fn timestamp_to_proto(time: Timestamp) -> prost_types::Timestamp {
    // The remainder is in 0..1,000,000, so its nanoseconds fit.
    let nanos = (time.0.rem_euclid(MICROS) * 1_000) as i32;
    prost_types::Timestamp { seconds: time.0.div_euclid(MICROS), nanos }
}

/// A length of time above zero.
pub(super) fn duration_from_proto(
    path: &Path<'_>,
    duration: prost_types::Duration,
) -> Result<Duration, Status> {
    let seconds = u64::try_from(duration.seconds).map_err(|_| path.invalid("must not be negative"))?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)
        .ok_or_else(|| path.invalid("must have nanos of 0 to 999,999,999"))?;
    let duration = Duration::new(seconds, nanos);
    if duration.is_zero() {
        return Err(path.invalid("must be longer than zero"));
    }
    Ok(duration)
}

pub(super) fn duration_to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Below 1e9 by the type's own invariant.
        nanos: duration.subsec_nanos() as i32,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timestamps_round_trip(micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999) {
            let time = Timestamp(micros);
            let back = timestamp_from_proto(&Path::Root("at"), timestamp_to_proto(time));
            prop_assert_eq!(back.expect("in range"), time);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |seconds, nanos| {
            timestamp_from_proto(&Path::Root("expire_at"), prost_types::Timestamp { seconds, nanos })
                .expect_err("does not fit")
                .message()
                .to_owned()
        };
        assert_eq!(refused(0, 1), "expire_at is finer than a microsecond, which is what times are kept to");
        assert!(refused(0, -1).contains("nanos"));
        assert!(refused(0, 1_000_000_000).contains("nanos"));
        assert!(refused(i64::MAX, 0).contains("years"));
        let zero = prost_types::Duration { seconds: 0, nanos: 0 };
        assert!(duration_from_proto(&Path::Root("half_life"), zero).is_err());
    }
}
