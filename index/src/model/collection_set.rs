//! Some of a tenant's collections, by their names.

use serde::{Deserialize, Serialize};

use super::validate_collection_name;
use crate::error::{Error, Result};

/// Most patterns of a set.
pub const MAX_COLLECTION_PATTERNS: usize = 64;

/// Which of a tenant's collections are meant: all, or those that one of some patterns names. A pattern is a name, or how names begin and `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSet(Vec<String>);

impl CollectionSet {
    /// All collections, those that are not made yet among them.
    pub const ALL: Self = Self(Vec::new());

    /// Those that one of the patterns names; without any all.
    ///
    /// # Errors
    /// If there are too many of them, or one is no pattern. `field` is what they are called.
    pub fn of(field: &str, patterns: Vec<String>) -> Result<Self> {
        if patterns.len() > MAX_COLLECTION_PATTERNS {
            let why = format!("are {}; at most {MAX_COLLECTION_PATTERNS} are allowed", patterns.len());
            return Err(Error::invalid(field, why));
        }
        for (at, pattern) in patterns.iter().enumerate() {
            let field = format!("{field}[{at}]");
            match pattern.strip_suffix('*') {
                Some("") => {
                    let why = "is `*`; leave the list empty if all collections are meant";
                    return Err(Error::invalid(field, why));
                }
                Some(beginning) => validate_collection_name(&field, beginning)?,
                None => validate_collection_name(&field, pattern)?,
            }
        }
        Ok(Self(patterns))
    }

    /// Whether a collection of this name is among them, be there one or not.
    pub fn has(&self, name: &str) -> bool {
        let names = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => pattern == name,
        };
        self.0.is_empty() || self.0.iter().any(names)
    }

    /// Whether it is all of them.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// What names them; none: all.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(patterns: &[&str]) -> Result<CollectionSet> {
        CollectionSet::of("collections", patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
    }

    #[test]
    fn patterns_name_collections() {
        let all = of(&[]).expect("a set");
        assert!(all.is_all() && all.has("anything") && all == CollectionSet::ALL);
        let some = of(&["news", "team-*"]).expect("a set");
        for name in ["news", "team-", "team-a", "team-*"] {
            assert!(some.has(name), "{name}");
        }
        for name in ["", "new", "newsletter", "News", "team", "a-team-a"] {
            assert!(!some.has(name), "{name}");
        }
        assert_eq!(some.patterns(), ["news", "team-*"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["", "*", "**", "a*b", "a**", "a b", "*a"] {
            let refused = of(&["news", wrong]).expect_err(wrong).to_string();
            assert!(refused.contains("collections[1]"), "{refused}");
        }
        assert!(of(&["a"; MAX_COLLECTION_PATTERNS + 1]).is_err());
        assert!(of(&["a"; MAX_COLLECTION_PATTERNS]).is_ok());
    }
}
