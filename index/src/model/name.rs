//! Which names and ids are allowed.

use crate::error::{Error, Result};

/// Longest entity or chunk id.
pub const MAX_ID_BYTES: usize = 1024;
/// Longest relation name, edge id, entity type and source name.
pub const MAX_RELATION_BYTES: usize = 255;
/// Longest attribute name.
pub const MAX_ATTRIBUTE_NAME_BYTES: usize = 255;
/// Longest name of a collection, a space or an alias.
pub const MAX_COLLECTION_NAME_BYTES: usize = 64;

/// An entity or chunk id: 1 to [`MAX_ID_BYTES`] bytes of UTF-8 without control characters.
pub fn validate_id(field: &str, id: &str) -> Result<()> {
    validate_text(field, id, 1, MAX_ID_BYTES)
}

/// A relation: 1 to [`MAX_RELATION_BYTES`] bytes without control characters.
pub fn validate_relation(field: &str, relation: &str) -> Result<()> {
    validate_text(field, relation, 1, MAX_RELATION_BYTES)
}

/// An attribute name: 1 to [`MAX_ATTRIBUTE_NAME_BYTES`] bytes without control characters.
pub fn validate_attribute_name(field: &str, name: &str) -> Result<()> {
    validate_text(field, name, 1, MAX_ATTRIBUTE_NAME_BYTES)
}

/// A collection, space or alias name: 1 to [`MAX_COLLECTION_NAME_BYTES`] of `a-z A-Z 0-9 _ - .`.
pub fn validate_collection_name(field: &str, name: &str) -> Result<()> {
    validate_text(field, name, 1, MAX_COLLECTION_NAME_BYTES)?;
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.')) {
        Some(wrong) => {
            Err(Error::invalid(field, format!("may hold only a-z A-Z 0-9 _ - . but holds {wrong:?}")))
        }
        None => Ok(()),
    }
}

/// An entity type or edge id: like a relation, and may be empty.
pub(crate) fn validate_optional_name(field: &str, name: &str) -> Result<()> {
    validate_text(field, name, 0, MAX_RELATION_BYTES)
}

fn validate_text(field: &str, text: &str, min: usize, max: usize) -> Result<()> {
    if text.len() < min {
        return Err(Error::invalid(field, "must not be empty"));
    }
    if text.len() > max {
        return Err(Error::invalid(
            field,
            format!("is {} bytes long; at most {max} are allowed", text.len()),
        ));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(wrong) => Err(Error::invalid(field, format!("holds the control character {wrong:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_free_of_control_characters() {
        assert!(validate_id("id", "n-00356621").is_ok());
        assert!(validate_id("id", "日本 語").is_ok());
        assert!(validate_id("id", &"x".repeat(MAX_ID_BYTES)).is_ok());
        for bad in ["", "a\0b", "a\nb", "\u{85}", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(validate_id("id", bad).is_err(), "{bad:?} must be refused");
        }
        assert!(validate_collection_name("name", "word.net_3-0").is_ok());
        for bad in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(validate_collection_name("name", bad).is_err(), "{bad:?} must be refused");
        }
    }
}
