//! What of a collection is searched as text, and in which language.

use crate::error::{Error, Result};
use crate::model::validate_attribute_name;

/// The language that words are reduced to their stems in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after its language")]
pub enum Language {
    /// Words stay as they are, in small letters and without accents.
    None,
    Arabic,
    Danish,
    Dutch,
    #[default]
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

impl Language {
    /// Every language, with its name in requests and on disk.
    pub const ALL: [(Language, &'static str); 19] = [
        (Language::None, "none"),
        (Language::Arabic, "arabic"),
        (Language::Danish, "danish"),
        (Language::Dutch, "dutch"),
        (Language::English, "english"),
        (Language::Finnish, "finnish"),
        (Language::French, "french"),
        (Language::German, "german"),
        (Language::Greek, "greek"),
        (Language::Hungarian, "hungarian"),
        (Language::Italian, "italian"),
        (Language::Norwegian, "norwegian"),
        (Language::Portuguese, "portuguese"),
        (Language::Romanian, "romanian"),
        (Language::Russian, "russian"),
        (Language::Spanish, "spanish"),
        (Language::Swedish, "swedish"),
        (Language::Tamil, "tamil"),
        (Language::Turkish, "turkish"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(language, _)| *language == self).map_or("none", |(_, name)| name)
    }

    /// The language of this name; empty: the default.
    ///
    /// # Errors
    /// If there is none.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        if name.is_empty() {
            return Ok(Self::default());
        }
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(language, _)| *language).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::invalid(field, format!("is {name:?}; it must be one of {}", names.join(", ")))
        })
    }
}

/// How texts are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// Short values, of which there may be several: names, titles, tags. Each is scored by itself: by the weight of the words that
    /// it shares with the query, and by how many of its own words these are.
    #[default]
    Names,
    /// Longer texts, scored by BM25.
    Prose,
}

/// An attribute that is searched as text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextField {
    /// An attribute's name: its string, or each string of its list, is searched.
    pub attribute: String,
    /// What its matches count, unless a query says otherwise; in (0, 100].
    pub weight: f64,
    /// The language of its words.
    pub language: Language,
    /// How it is scored.
    pub kind: TextKind,
}

/// What of a collection is searched as text. The texts of chunks always are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextSpec {
    /// The language of chunks.
    pub chunks: Language,
    /// Attributes, in an order that never changes.
    pub fields: Vec<TextField>,
}

impl TextSpec {
    /// Most attributes of a collection that are searched as text.
    pub const MAX_FIELDS: usize = 15;
    /// The largest weight.
    pub const MAX_WEIGHT: f64 = 100.0;

    /// Checks names and weights.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place below `place`.
    pub fn validate(&self, place: &str) -> Result<()> {
        if self.fields.len() > Self::MAX_FIELDS {
            let why = format!("are {}; at most {} are allowed", self.fields.len(), Self::MAX_FIELDS);
            return Err(Error::invalid(format!("{place}.fields"), why));
        }
        for (at, field) in self.fields.iter().enumerate() {
            let place = format!("{place}.fields[{at}]");
            validate_attribute_name(&format!("{place}.attribute"), &field.attribute)?;
            if !(field.weight > 0.0 && field.weight <= Self::MAX_WEIGHT) {
                let why = format!("is {}; it must be above 0 and at most {}", field.weight, Self::MAX_WEIGHT);
                return Err(Error::invalid(format!("{place}.weight"), why));
            }
            if self.fields[..at].iter().any(|other| other.attribute == field.attribute) {
                let why = format!("is {:?} for the second time", field.attribute);
                return Err(Error::invalid(format!("{place}.attribute"), why));
            }
        }
        Ok(())
    }
}
