//! How blocks are compressed, as people write it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The compression of a level: `none`, `lz4`, or `zstd:` with one of its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression(pub allidb_storage::Compression);

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let compression = match text.trim() {
            "none" => Some(allidb_storage::Compression::None),
            "lz4" => Some(allidb_storage::Compression::Lz4),
            other => other
                .strip_prefix("zstd:")
                .and_then(|level| level.parse().ok())
                .map(allidb_storage::Compression::Zstd)
                .filter(|compression| compression.exists()),
        };
        compression
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no compression: none, lz4, or zstd:1 to zstd:22"))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            allidb_storage::Compression::None => f.write_str("none"),
            allidb_storage::Compression::Lz4 => f.write_str("lz4"),
            allidb_storage::Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Compression {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["none", "lz4", "zstd:3", "zstd:22", "zstd:-5"] {
            assert_eq!(text.parse::<Compression>().expect(text).to_string(), text);
        }
        for bad in ["", "zstd", "zstd:", "zstd:23", "zstd:999", "gzip", "LZ4:1"] {
            let message = bad.parse::<Compression>().expect_err(bad);
            assert!(message.contains("zstd:1 to zstd:22"), "{message}");
        }
    }
}
