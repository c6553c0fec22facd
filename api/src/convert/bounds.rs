//! Counts that callers choose: 0 stands for the default, and more than the limit is refused, never cut.

use tonic::Status;

use super::Path;
use crate::status;

/// `asked`, or `default` (as far as the limit allows it) for 0.
pub(crate) fn or_default(path: &Path<'_>, asked: u32, default: usize, limit: usize) -> Result<usize, Status> {
    match asked as usize {
        0 => Ok(default.min(limit)),
        asked => at_most(path, asked, limit).map(|()| asked),
    }
}

/// Refuses more than `limit`.
pub(crate) fn at_most(path: &Path<'_>, got: usize, limit: usize) -> Result<(), Status> {
    if got > limit {
        return Err(status::over_limit(&path.to_string(), got, limit));
    }
    Ok(())
}

/// Refuses a number that is not finite.
pub(super) fn finite(path: &Path<'_>, number: f64) -> Result<f64, Status> {
    if !number.is_finite() {
        return Err(path.invalid("must be a finite number"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn zero_is_the_default_and_too_much_names_field_and_limit() {
        let path = Path::Root("page_size");
        assert_eq!(or_default(&path, 0, 100, 1_000).expect("default"), 100);
        assert_eq!(or_default(&path, 0, 100, 10).expect("default"), 10);
        assert_eq!(or_default(&path, 1_000, 100, 1_000).expect("at the limit"), 1_000);
        let status = or_default(&path, 1_001, 100, 1_000).expect_err("over the limit");
        assert_eq!(status.message(), "page_size is 1001; at most 1000 is allowed");
        let info = status.get_details_error_info().expect("info");
        assert_eq!((info.reason.as_str(), info.metadata["limit"].as_str()), ("LIMIT_EXCEEDED", "1000"));
    }
}
