//! Conditions on entities: one language for search, scan and count.
//!
//! An absent attribute fails every comparison (also `!=`), `not` is two-valued, int64 and double compare
//! exactly, and a list matches if any element does.

mod weaken;
mod words;

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{Edge, Entity, Language, Limits, ReadMask, TextSpec, Value},
    query::TextMatch,
};
pub use words::Sought;
use words::Texts;

/// A condition on an entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Filter {
    /// All hold.
    And(Vec<Filter>),
    /// At least one holds.
    Or(Vec<Filter>),
    /// Does not hold.
    Not(Box<Filter>),
    /// A field compares so with a value.
    Compare(Field, Operator, Value),
    /// A field equals one of these.
    In(Field, Vec<Value>),
    /// A field, or an element of its list, is a text with these words, in small letters and reduced to stems in the language that the
    /// collection declares of the attribute, or English.
    Words(Field, TextMatch, Sought),
    /// The field is there; a null counts.
    Exists(Field),
    /// The field is there and null.
    IsNull(Field),
}

/// What is bounded in a filter as a whole.
#[derive(Default)]
struct Counted {
    conditions: usize,
    /// Of words that are looked for.
    text_bytes: usize,
}

/// How a field compares with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`: there, comparable, and not equal.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// A string begins with this one.
    StartsWith,
    /// This one is somewhere in a string.
    Contains,
}

/// What a condition speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Field {
    /// The entity's id.
    Id,
    /// Its type.
    Type,
    /// Its importance.
    Importance,
    /// When it was created.
    CreatedAt,
    /// When it was last written.
    UpdatedAt,
    /// When it expires.
    ExpireAt,
    /// Any of its sources.
    Source,
    /// An attribute, then names of fields within nested maps.
    Attribute(Vec<String>),
}

impl Field {
    /// From its name: a built-in field, `attributes.NAME`, or a bare attribute name. Dots lead into nested maps; one that is part of a name
    /// is written `\.`, and a backslash `\\`.
    ///
    /// # Errors
    /// Where the name is empty or has an empty part.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "id" => Self::Id,
            "type" => Self::Type,
            "importance" => Self::Importance,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            "expire_at" => Self::ExpireAt,
            "source" => Self::Source,
            _ => {
                let path = parts(name.strip_prefix("attributes.").unwrap_or(name));
                if path.iter().any(String::is_empty) {
                    return Err(Error::invalid(
                        "filter",
                        format!("names the field {name:?}, which has an empty part"),
                    ));
                }
                Self::Attribute(path)
            }
        })
    }
}

/// As requests name it.
impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Id => "id",
            Self::Type => "type",
            Self::Importance => "importance",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
            Self::ExpireAt => "expire_at",
            Self::Source => "source",
            Self::Attribute(path) => {
                f.write_str("attributes")?;
                let escaped = |part: &String| part.replace('\\', "\\\\").replace('.', "\\.");
                return path.iter().try_for_each(|part| write!(f, ".{}", escaped(part)));
            }
        })
    }
}

/// What stands between the dots of a path that no backslash is before.
fn parts(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match (letter, parts.last_mut()) {
            ('.', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.push(letters.next().unwrap_or('\\')),
            (letter, Some(part)) => part.push(letter),
            (_, None) => {}
        }
    }
    parts
}

impl Filter {
    /// Whether an edge meets it: its relation is the type, its weight the importance, its edge id the id.
    pub(crate) fn matches_edge(&self, edge: &Edge) -> bool {
        let Edge { relation, edge_id, weight, attributes, sources, .. } = edge.clone();
        let as_entity = Entity {
            id: edge_id,
            entity_type: relation,
            importance: Some(weight),
            attributes,
            sources,
            ..Entity::default()
        };
        self.matches(&as_entity, &TextSpec::default())
    }

    /// Checks depth, size and the types of the values compared.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the place, a path such as `filter.and[1].not`.
    pub fn validate(&self, place: &str, limits: &Limits) -> Result<()> {
        self.check(place, limits, 1, &mut Counted::default())
    }

    fn check(&self, place: &str, limits: &Limits, depth: usize, counted: &mut Counted) -> Result<()> {
        if depth > limits.filter_depth {
            return Err(Error::invalid(place, format!("is nested deeper than {}", limits.filter_depth)));
        }
        counted.conditions += match self {
            Self::In(_, values) => values.len().max(1),
            _ => 1,
        };
        if counted.conditions > limits.filter_conditions {
            return Err(Error::invalid(
                place,
                format!("brings more than {} conditions", limits.filter_conditions),
            ));
        }
        match self {
            Self::And(filters) | Self::Or(filters) => {
                let name = if matches!(self, Self::And(_)) { "and" } else { "or" };
                for (at, filter) in filters.iter().enumerate() {
                    filter.check(&format!("{place}.{name}[{at}]"), limits, depth + 1, counted)?;
                }
                Ok(())
            }
            Self::Not(filter) => filter.check(&format!("{place}.not"), limits, depth + 1, counted),
            Self::Compare(field, operator, value) => {
                check_operand(&format!("{place}.compare"), field, *operator, value)
            }
            Self::In(field, values) => values.iter().enumerate().try_for_each(|(at, v)| {
                check_operand(&format!("{place}.in.values[{at}]"), field, Operator::Equal, v)
            }),
            Self::Words(field, _, text) => {
                let place = format!("{place}.words");
                if !matches!(field, Field::Attribute(_)) {
                    return Err(Error::invalid(place, "must look for words in an attribute"));
                }
                // Each is looked for in every entity: all of a filter together count.
                counted.text_bytes += text.text().len();
                if counted.text_bytes > limits.query_text_bytes {
                    let (length, most) = (text.text().len(), limits.query_text_bytes);
                    let why = format!(
                        "is {length} bytes long; all texts of a filter may be {most} bytes long together"
                    );
                    return Err(Error::invalid(format!("{place}.text"), why));
                }
                match Sought::from(text.text()).words(Language::None).is_empty() {
                    true => Err(Error::invalid(format!("{place}.text"), "holds no word")),
                    false => Ok(()),
                }
            }
            Self::Exists(_) | Self::IsNull(_) => Ok(()),
        }
    }

    /// Whether the entity, of whose collection this is searched as text, meets the condition. Only the fields that the filter names need
    /// to be there.
    pub fn matches(&self, entity: &Entity, texts: &TextSpec) -> bool {
        self.holds(entity, texts, &mut Texts::default())
    }

    fn holds<'a>(&'a self, entity: &Entity, spec: &TextSpec, texts: &mut Texts<'a>) -> bool {
        match self {
            Self::And(filters) => filters.iter().all(|filter| filter.holds(entity, spec, texts)),
            Self::Or(filters) => filters.iter().any(|filter| filter.holds(entity, spec, texts)),
            Self::Not(filter) => !filter.holds(entity, spec, texts),
            Self::Compare(field, operator, value) => {
                field.any(entity, &mut |found| compare(found, *operator, value))
            }
            Self::In(field, values) => field
                .any(entity, &mut |found| values.iter().any(|value| compare(found, Operator::Equal, value))),
            Self::Words(field, operator, sought) => {
                texts.have(entity, field, field.language(spec), *operator, sought)
            }
            Self::Exists(field) => field.any(entity, &mut |_| true),
            Self::IsNull(field) => field.any(entity, &mut |found| *found == Value::Null),
        }
    }
}

impl Filter {
    /// The fields that it names: all that [`matches`](Filter::matches) looks at.
    pub fn read_mask(&self) -> ReadMask {
        let mut mask = ReadMask::nothing();
        self.add_fields(&mut mask);
        mask
    }

    /// How many bytes it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let of_field = |field: &Field| match field {
            Field::Attribute(path) => path.iter().map(|name| size_of::<String>() + name.len()).sum(),
            _ => 0,
        };
        let inner = match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().map(Self::bytes).sum(),
            Self::Not(filter) => filter.bytes(),
            Self::Compare(field, _, value) => of_field(field) + value.bytes(),
            Self::In(field, values) => {
                of_field(field) + values.iter().map(|value| size_of::<Value>() + value.bytes()).sum::<usize>()
            }
            // Its words are kept, too, each by itself.
            Self::Words(field, _, sought) => of_field(field) + 8 * sought.text().len(),
            Self::Exists(field) | Self::IsNull(field) => of_field(field),
        };
        size_of::<Self>() + inner
    }

    fn add_fields(&self, mask: &mut ReadMask) {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().for_each(|filter| filter.add_fields(mask))
            }
            Self::Not(filter) => filter.add_fields(mask),
            Self::Compare(field, ..)
            | Self::In(field, _)
            | Self::Words(field, ..)
            | Self::Exists(field)
            | Self::IsNull(field) => match field {
                Field::Id => {}
                Field::Type => mask.entity_type = true,
                Field::Attribute(path) => mask.attribute_names.extend(path.first().cloned()),
                _ => mask.metadata = true,
            },
        }
    }
}

impl Field {
    /// The value of an entity's field, if it has exactly one.
    pub(crate) fn value(&self, entity: &Entity) -> Option<Value> {
        let (mut value, mut count) = (None, 0);
        self.any(entity, &mut |found| {
            count += 1;
            value = Some(found.clone());
            count > 1
        });
        value.filter(|value| count == 1 && !matches!(value, Value::Null | Value::List(_) | Value::Map(_)))
    }

    /// The language of its words.
    fn language(&self, texts: &TextSpec) -> Language {
        let declared = texts.fields.iter().find(|declared| match self {
            Self::Attribute(path) => path[..] == [declared.attribute.as_str()],
            _ => false,
        });
        declared.map_or(Language::default(), |declared| declared.language)
    }

    /// The part of an entity that has the field.
    pub(crate) fn read_mask(&self) -> ReadMask {
        Filter::Exists(self.clone()).read_mask()
    }

    /// Whether the test holds for the field's value or, for sources, for any of them.
    pub(crate) fn any(&self, entity: &Entity, test: &mut dyn FnMut(&Value) -> bool) -> bool {
        let time = |time: Option<crate::model::Timestamp>| time.map(Value::Timestamp);
        let value = match self {
            Self::Id => Some(Value::String(entity.id.clone())),
            Self::Type => Some(Value::String(entity.entity_type.clone())),
            Self::Importance => entity.importance.map(Value::Double),
            Self::CreatedAt => time(entity.created_at),
            Self::UpdatedAt => time(entity.updated_at),
            Self::ExpireAt => time(entity.expire_at),
            Self::Source => return entity.sources.iter().any(|name| test(&Value::String(name.clone()))),
            Self::Attribute(path) => return any_at(entity.attributes.get(&path[0]), &path[1..], test),
        };
        value.is_some_and(|value| test(&value))
    }
}

/// Follows `path` into nested maps, through every element of lists on the way.
pub(crate) fn any_at(value: Option<&Value>, path: &[String], test: &mut dyn FnMut(&Value) -> bool) -> bool {
    match (value, path) {
        (None, _) => false,
        (Some(value), []) => test(value),
        (Some(Value::Map(fields)), [name, rest @ ..]) => any_at(fields.get(name), rest, test),
        (Some(Value::List(items)), _) => items.iter().any(|item| any_at(Some(item), path, test)),
        _ => false,
    }
}

fn compare(found: &Value, operator: Operator, wanted: &Value) -> bool {
    if let (Value::List(items), false) = (found, matches!(wanted, Value::List(_))) {
        return items.iter().any(|item| compare(item, operator, wanted));
    }
    if operator == Operator::StartsWith {
        return matches!((found, wanted), (Value::String(found), Value::String(prefix)) if found.starts_with(prefix));
    }
    if operator == Operator::Contains {
        return matches!((found, wanted), (Value::String(found), Value::String(part)) if found.contains(&**part));
    }
    let Some(order) = found.compare(wanted) else {
        // Lists and maps have no order, but those that are not equal are different.
        let are_one_kind =
            matches!((found, wanted), (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)));
        return operator == Operator::NotEqual && are_one_kind;
    };
    match operator {
        Operator::Equal => order == Ordering::Equal,
        Operator::NotEqual => order != Ordering::Equal,
        Operator::Less => order == Ordering::Less,
        Operator::LessOrEqual => order != Ordering::Greater,
        Operator::Greater => order == Ordering::Greater,
        Operator::GreaterOrEqual => order != Ordering::Less,
        Operator::StartsWith | Operator::Contains => false,
    }
}

fn check_operand(place: &str, field: &Field, operator: Operator, value: &Value) -> Result<()> {
    if !value.is_finite() {
        return Err(Error::invalid(place, "compares with a number that is not finite"));
    }
    let (ok, want) = match field {
        Field::Id | Field::Type | Field::Source => (matches!(value, Value::String(_)), "a string"),
        Field::Importance => (matches!(value, Value::Int(_) | Value::Double(_)), "a number"),
        Field::CreatedAt | Field::UpdatedAt | Field::ExpireAt => {
            (matches!(value, Value::Timestamp(_)), "a timestamp")
        }
        Field::Attribute(_) => (true, ""),
    };
    if !ok {
        return Err(Error::invalid(place, format!("must compare this field with {want}")));
    }
    match operator {
        Operator::StartsWith if !matches!(value, Value::String(_)) => {
            Err(Error::invalid(place, "must compare the start of a field with a string"))
        }
        Operator::Contains if !matches!(value, Value::String(_)) => {
            Err(Error::invalid(place, "must look for a string in a field"))
        }
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual
            if matches!(value, Value::Null | Value::List(_) | Value::Map(_) | Value::Bool(_)) =>
        {
            Err(Error::invalid(place, "orders by a value that has no order (null, bool, list or map)"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entity() -> Entity {
        let mut entity = Entity { id: "n-1".into(), entity_type: "noun".into(), ..Entity::default() };
        entity
            .attributes
            .insert("lemmas".into(), Value::List(vec![Value::String("dog".into()), Value::Int(3)]));
        entity.attributes.insert("year".into(), Value::Int(1999));
        entity.attributes.insert("gone".into(), Value::Null);
        let texts = ["a cat", "The dog barked."].map(|text| Value::String(text.into()));
        entity.attributes.insert("gloss".into(), Value::List(texts.into()));
        let nested = BTreeMap::from([("b".to_owned(), Value::Double(2.5))]);
        entity.attributes.insert("a".into(), Value::List(vec![Value::Map(nested)]));
        entity
    }

    fn compare(field: &str, operator: Operator, value: Value) -> Filter {
        Filter::Compare(Field::parse(field).unwrap(), operator, value)
    }

    #[test]
    fn the_rules_of_matching() {
        let entity = entity();
        let holds = |filter: Filter| filter.matches(&entity, &TextSpec::default());
        assert!(holds(compare("type", Operator::Equal, Value::String("noun".into()))));
        assert!(holds(compare("lemmas", Operator::Equal, Value::String("dog".into()))));
        assert!(holds(compare("lemmas", Operator::StartsWith, Value::String("do".into()))));
        assert!(holds(compare("lemmas", Operator::Contains, Value::String("og".into()))));
        assert!(!holds(compare("lemmas", Operator::Contains, Value::String("Dog".into()))));
        let words =
            |operator, text: &str| Filter::Words(Field::parse("gloss").unwrap(), operator, text.into());
        assert!(holds(words(TextMatch::All, "BARKING dog")));
        assert!(!holds(words(TextMatch::All, "dog cat")));
        assert!(holds(words(TextMatch::Any, "dog cat")));
        assert!(holds(words(TextMatch::Phrase, "dog barks")));
        assert!(!holds(words(TextMatch::Phrase, "barks dog")));
        assert!(holds(compare("year", Operator::Less, Value::Double(1999.5))));
        assert!(holds(compare("attributes.a.b", Operator::Greater, Value::Int(2))));
        // Absent fields and other types fail every comparison, also "not equal".
        assert!(!holds(compare("absent", Operator::NotEqual, Value::Int(1))));
        assert!(!holds(compare("year", Operator::NotEqual, Value::String("x".into()))));
        assert!(holds(Filter::Not(Box::new(compare("absent", Operator::Equal, Value::Int(1))))));
        assert!(holds(Filter::Exists(Field::parse("gone").unwrap())));
        assert!(holds(Filter::IsNull(Field::parse("gone").unwrap())));
        assert!(!holds(Filter::IsNull(Field::parse("absent").unwrap())));
        assert!(holds(Filter::And(vec![])));
        assert!(!holds(Filter::Or(vec![])));
        assert!(holds(Filter::In(Field::Id, vec![Value::String("x".into()), Value::String("n-1".into())])));
    }

    #[test]
    fn wrong_filters_are_refused_with_the_place() {
        let limits = Limits { filter_depth: 3, ..Limits::default() };
        let ill_typed = Filter::And(vec![compare("type", Operator::Equal, Value::Int(3))]);
        let error = ill_typed.validate("filter", &limits).unwrap_err().to_string();
        assert!(error.starts_with("filter.and[0].compare must compare this field with a string"), "{error}");
        let mut deep = Filter::Exists(Field::Id);
        for _ in 0..3 {
            deep = Filter::Not(Box::new(deep));
        }
        assert!(deep.validate("filter", &limits).unwrap_err().to_string().contains("nested deeper"));
        assert!(compare("x", Operator::Less, Value::Null).validate("filter", &limits).is_err());
        assert!(compare("x", Operator::Equal, Value::Double(f64::NAN)).validate("filter", &limits).is_err());
        assert!(Field::parse("").is_err() && Field::parse("a..b").is_err());
        let path = |names: &[&str]| Field::Attribute(names.iter().map(|name| (*name).to_owned()).collect());
        for (name, of, shown) in [
            ("a.b", path(&["a", "b"]), "attributes.a.b"),
            (r"a\.b.c", path(&["a.b", "c"]), r"attributes.a\.b.c"),
            (r"attributes.a\\.b", path(&[r"a\", "b"]), r"attributes.a\\.b"),
            (r"a\", path(&[r"a\"]), r"attributes.a\\"),
        ] {
            let field = Field::parse(name).unwrap();
            assert_eq!((&field, field.to_string()), (&of, shown.to_owned()));
            assert_eq!(Field::parse(shown).unwrap(), of, "as it is kept");
        }
    }
}
