//! What replicas that hold different parts of the newest writes can be asked for.

use super::{Field, Filter};

impl Filter {
    /// A condition that at least one of the replicas meets by itself that hold an entity together, if they meet this one together. Each field's
    /// newest value lies with one of them, but those of different fields need not lie with the same: so of conditions on different fields
    /// that must all hold, one is taken. (Cassandra found the same of filters on several columns: CASSANDRA-19018.)
    #[must_use]
    pub fn weakened(&self) -> Self {
        self.clone().positive(true).one_of_each()
    }

    /// With `not` before conditions on fields alone; the opposite, unless `holds`.
    fn positive(self, holds: bool) -> Self {
        match self {
            Self::Not(filter) => filter.positive(!holds),
            Self::And(filters) if holds => Self::And(positive(filters, true)),
            Self::And(filters) => Self::Or(positive(filters, false)),
            Self::Or(filters) if holds => Self::Or(positive(filters, true)),
            Self::Or(filters) => Self::And(positive(filters, false)),
            filter if holds => filter,
            filter => Self::Not(Box::new(filter)),
        }
    }

    fn one_of_each(self) -> Self {
        if self.is_of_one_field() {
            return self;
        }
        match self {
            Self::And(filters) => {
                let weakened = filters.into_iter().map(Self::one_of_each);
                // The narrowest, as far as their kinds tell; of equal ones the first.
                weakened.min_by_key(Self::breadth).unwrap_or_else(|| Self::And(Vec::new()))
            }
            Self::Or(filters) => Self::Or(filters.into_iter().map(Self::one_of_each).collect()),
            filter => filter,
        }
    }

    fn breadth(&self) -> u8 {
        match self {
            Self::Compare(Field::Id, super::Operator::Equal, _) | Self::In(Field::Id, _) => 0,
            Self::Compare(_, super::Operator::Equal, _) | Self::In(..) => 1,
            Self::Words(..) => 2,
            Self::Compare(..) => 3,
            Self::And(filters) => filters.iter().map(Self::breadth).min().unwrap_or(u8::MAX),
            Self::Or(filters) => filters.iter().map(Self::breadth).max().unwrap_or_default(),
            Self::IsNull(_) => 4,
            Self::Exists(_) | Self::Not(_) => 5,
        }
    }

    /// Whether it is about one value that is written as a whole. Sources are written one by one.
    fn is_of_one_field(&self) -> bool {
        fn names<'a>(filter: &'a Filter, found: &mut Vec<&'a Field>) {
            match filter {
                Filter::And(filters) | Filter::Or(filters) => {
                    filters.iter().for_each(|filter| names(filter, found))
                }
                Filter::Not(filter) => names(filter, found),
                Filter::Compare(field, ..)
                | Filter::In(field, _)
                | Filter::Words(field, ..)
                | Filter::Exists(field)
                | Filter::IsNull(field) => found.push(field),
            }
        }
        let mut fields = Vec::new();
        names(self, &mut fields);
        let is_same = |a: &Field, b: &Field| match (a, b) {
            (Field::Attribute(a), Field::Attribute(b)) => a.first() == b.first(),
            (Field::Source, Field::Source) => false,
            (a, b) => a == b,
        };
        match &fields[..] {
            [] | [_] => true,
            [first, rest @ ..] => rest.iter().all(|field| is_same(first, field)),
        }
    }
}

fn positive(filters: Vec<Filter>, holds: bool) -> Vec<Filter> {
    filters.into_iter().map(|filter| filter.positive(holds)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::Operator, model::Value};

    fn equals(name: &str, value: i64) -> Filter {
        let field = Field::Attribute(vec![name.to_owned()]);
        Filter::Compare(field, Operator::Equal, Value::Int(value))
    }

    fn above(name: &str, value: i64) -> Filter {
        let field = Field::Attribute(vec![name.to_owned()]);
        Filter::Compare(field, Operator::Greater, Value::Int(value))
    }

    fn not(filter: Filter) -> Filter {
        Filter::Not(Box::new(filter))
    }

    #[test]
    fn of_conditions_on_different_fields_one_is_left() {
        let range = Filter::And(vec![above("a", 1), not(above("a", 5))]);
        assert_eq!(range.weakened(), range);
        assert_eq!(Filter::And(vec![above("a", 1), equals("b", 2)]).weakened(), equals("b", 2));
        let either = Filter::Or(vec![Filter::And(vec![equals("a", 1), equals("b", 2)]), equals("c", 3)]);
        assert_eq!(either.weakened(), Filter::Or(vec![equals("a", 1), equals("c", 3)]));
        // Not one of both: neither.
        let neither = not(Filter::Or(vec![equals("a", 1), equals("b", 2)]));
        assert_eq!(neither.weakened(), not(equals("a", 1)));
        let not_both = not(Filter::And(vec![equals("a", 1), equals("b", 2)]));
        assert_eq!(not_both.weakened(), Filter::Or(vec![not(equals("a", 1)), not(equals("b", 2))]));
        let of_source =
            |name: &str| Filter::Compare(Field::Source, Operator::Equal, Value::String(name.into()));
        assert_eq!(Filter::And(vec![of_source("x"), of_source("y")]).weakened(), of_source("x"));
    }
}
