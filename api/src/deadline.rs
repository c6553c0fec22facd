//! How long a caller waits.

use std::time::{Duration, Instant};

use allidb_cluster::Deadline;
use http::HeaderMap;
use tonic::metadata::MetadataMap;

/// Of the caller's time, what an answer may need for its way back: a query that its deadline cut short is
/// of use only if it arrives before the caller has given up. Never more than a tenth.
const WAY_BACK: Duration = Duration::from_millis(20);

/// When work for the caller of a request that arrives now has to end: a little before what its
/// `grpc-timeout` says, but never after `longest`, which is also what holds for a caller that says nothing.
pub(crate) fn of(metadata: &MetadataMap, longest: Duration) -> Deadline {
    let timeout =
        requested(metadata.as_ref()).map_or(longest, |timeout| timeout - WAY_BACK.min(timeout / 10));
    Deadline(Instant::now() + timeout.min(longest))
}

/// The caller's own `grpc-timeout`, if it sent one that can be read.
pub(crate) fn requested(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// At most eight digits and a unit, as the gRPC protocol over HTTP/2 defines it.
fn parse(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().next_back()?;
    let digits = &text[..at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3_600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(timeout: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", timeout.parse().expect("ASCII"));
        metadata
    }

    #[test]
    fn timeouts_are_read_and_capped() {
        assert_eq!(requested(metadata("250m").as_ref()), Some(Duration::from_millis(250)));
        assert_eq!(requested(metadata("2H").as_ref()), Some(Duration::from_secs(7_200)));
        for bad in ["", "m", "5", "123456789S", "-1S", "1x", "1 S"] {
            assert_eq!(requested(metadata(bad).as_ref()), None, "{bad:?}");
        }
        let longest = Duration::from_secs(30);
        let left = |metadata| of(&metadata, longest).0.saturating_duration_since(Instant::now());
        assert!(left(metadata("1S")) <= Duration::from_millis(980));
        assert!(left(metadata("100m")) <= Duration::from_millis(90));
        assert!(left(metadata("99999999H")) <= longest);
        assert!(left(MetadataMap::new()) > Duration::from_secs(20));
    }
}
