//! Sizes and lengths of time as people write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: `64MiB`, `1.5GB`, or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time: `30s`, `250ms`, `5m`, `1h`, or a bare number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// In nanoseconds, the longest first.
const TIMES: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

impl ByteSize {
    /// From kibibytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// From mebibytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

impl Span {
    /// From seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

/// A number and its unit. `None` for anything else, or where it does not fit.
fn parse(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = (text[..at].replace('_', ""), text[at..].trim());
    let factor = if unit.is_empty() {
        bare
    } else {
        units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let product = number.parse::<f64>().ok()? * factor as f64;
            // Beyond 2^53 a fraction means nothing, and the cast would saturate.
            (0.0..9e15).contains(&product).then_some(product.round() as u64)
        }
    }
}

/// With the largest unit that divides it.
fn format(amount: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match units.iter().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", amount / factor),
        None => write!(f, "{amount}"),
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, SIZES, 1).map(Self).ok_or_else(|| format!("{text:?} is no size such as 64MiB"))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, TIMES, 1_000_000_000)
            .map(|nanos| Self(Duration::from_nanos(nanos)))
            .ok_or_else(|| format!("{text:?} is no length of time such as 30s or 250ms"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format(self.0, &SIZES[..4], f)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        // More than 584 years are shown as that.
        format(u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX), TIMES, f)
    }
}

/// What a file or a variable may hold for either.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

fn read<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(from: D, what: &str) -> Result<T, D::Error> {
    let text = match Written::deserialize(from) {
        Ok(Written::Whole(number)) => number.to_string(),
        Ok(Written::Fraction(number)) => number.to_string(),
        Ok(Written::Text(text)) => text,
        Err(_) => return Err(de::Error::custom(format!("expected {what}"))),
    };
    text.parse().map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read(from, "a size such as 64MiB")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read(from, "a length of time such as 30s or 250ms")
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases =
            [("64MiB", 64 << 20), ("1.5 KiB", 1_536), ("10gb", 10_000_000_000), ("1_000", 1_000), ("7B", 7)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "MiB", "-1", "1XB", "1.2.3", "99999999TiB", "64 MiB more"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
        let shown = [ByteSize(64 << 20), ByteSize(1_000), ByteSize(0)].map(|size| size.to_string());
        assert_eq!(shown, ["64MiB", "1000", "0"]);
    }

    #[test]
    fn lengths_of_time() {
        let cases = [
            ("30s", 30_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("5", 5_000),
        ];
        for (text, millis) in cases {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for bad in ["", "s", "-1s", "1y", "forever"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        let shown = [Span::secs(30), Span::secs(120), Span(Duration::from_millis(1_500)), Span::secs(0)];
        assert_eq!(shown.map(|span| span.to_string()), ["30s", "2m", "1500ms", "0s"]);
    }
}
