//! Durations as people type them: `90s`, `15m`, `12h`, `30d`, `2w`.

/// Reads a whole or decimal number with one unit.
pub(crate) fn parse(text: &str) -> Result<prost_types::Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 90s, 15m, 12h, 30d or 2w");
    let unit_at = text.find(|char: char| char.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_s = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = std::time::Duration::try_from_secs_f64(number * unit_s).map_err(|_| wrong())?;
    seconds.try_into().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_are_read() {
        assert_eq!(parse("30d").unwrap().seconds, 30 * 86_400);
        assert_eq!(parse("1.5m").unwrap().seconds, 90);
        assert_eq!(parse("0.5s").unwrap().nanos, 500_000_000);
        for bad in ["", "30", "d", "-1d", "1y", "1e999s", "nans"] {
            assert!(parse(bad).is_err(), "{bad} was taken");
        }
    }
}
