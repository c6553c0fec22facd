//! Filters.

use allidb_index::{
    Error,
    filter::{Field, Filter, Operator},
    query::TextMatch,
};
use tonic::Status;

use super::{Path, text::text_match_from_proto, value::value_from_proto};
use crate::v1::{self, comparison::Operator as ProtoOperator, filter::Kind};

/// The decoder refuses messages nested deeper than 100, so this recursion is bounded.
pub(crate) fn filter_from_proto(path: &Path<'_>, filter: v1::Filter) -> Result<Filter, Status> {
    let Some(kind) = filter.kind else {
        return Err(path.invalid("holds no condition"));
    };
    Ok(match kind {
        Kind::And(list) => Filter::And(filters_from_proto(&path.field("and"), list)?),
        Kind::Or(list) => Filter::Or(filters_from_proto(&path.field("or"), list)?),
        Kind::Not(inner) => Filter::Not(Box::new(filter_from_proto(&path.field("not"), *inner)?)),
        Kind::Compare(compare) => {
            let path = path.field("compare");
            let field = field_from_proto(&path.field("field"), &compare.field)?;
            let operator = operator_from_proto(&path.field("operator"), compare.operator)?;
            let value = path.field("value");
            Filter::Compare(field, operator, value_from_proto(&value, value.required(compare.value)?)?)
        }
        Kind::In(membership) => {
            let path = path.field("in");
            let field = field_from_proto(&path.field("field"), &membership.field)?;
            let values = membership.values.into_iter().enumerate();
            let path = path.field("values");
            let values = values.map(|(at, value)| value_from_proto(&path.index(at), value));
            Filter::In(field, values.collect::<Result<_, _>>()?)
        }
        Kind::Words(words) => {
            let path = path.field("words");
            let field = field_from_proto(&path.field("field"), &words.field)?;
            let operator = text_match_from_proto(&path.field("match"), words.r#match)?;
            Filter::Words(field, operator.unwrap_or(TextMatch::All), words.text.into())
        }
        Kind::Exists(field) => Filter::Exists(field_from_proto(&path.field("exists"), &field)?),
        Kind::IsNull(field) => Filter::IsNull(field_from_proto(&path.field("is_null"), &field)?),
    })
}

fn filters_from_proto(path: &Path<'_>, list: v1::FilterList) -> Result<Vec<Filter>, Status> {
    let filters = list.filters.into_iter().enumerate();
    filters.map(|(at, filter)| filter_from_proto(&path.index(at), filter)).collect()
}

pub(crate) fn fields_from_proto(path: &Path<'_>, names: &[String]) -> Result<Vec<Field>, Status> {
    names.iter().enumerate().map(|(at, name)| field_from_proto(&path.index(at), name)).collect()
}

pub(super) fn field_from_proto(path: &Path<'_>, name: &str) -> Result<Field, Status> {
    Field::parse(name).map_err(|error| match error {
        Error::Invalid { why, .. } => path.invalid(why),
        other => path.invalid(other.to_string()),
    })
}

fn operator_from_proto(path: &Path<'_>, operator: i32) -> Result<Operator, Status> {
    match ProtoOperator::try_from(operator) {
        Ok(ProtoOperator::Equal) => Ok(Operator::Equal),
        Ok(ProtoOperator::NotEqual) => Ok(Operator::NotEqual),
        Ok(ProtoOperator::Less) => Ok(Operator::Less),
        Ok(ProtoOperator::LessOrEqual) => Ok(Operator::LessOrEqual),
        Ok(ProtoOperator::Greater) => Ok(Operator::Greater),
        Ok(ProtoOperator::GreaterOrEqual) => Ok(Operator::GreaterOrEqual),
        Ok(ProtoOperator::StartsWith) => Ok(Operator::StartsWith),
        Ok(ProtoOperator::Contains) => Ok(Operator::Contains),
        Ok(ProtoOperator::Unspecified) => Err(path.invalid("must be set")),
        Err(_) => Err(path.invalid(format!("is {operator}, which is no operator"))),
    }
}

#[cfg(test)]
mod tests {
    use allidb_index::model::Value;

    use super::*;

    fn compare(field: &str, operator: ProtoOperator, value: i64) -> v1::Filter {
        let value = Some(v1::Value { kind: Some(v1::value::Kind::IntValue(value)) });
        let compare = v1::Comparison { field: field.into(), operator: operator.into(), value };
        v1::Filter { kind: Some(Kind::Compare(compare)) }
    }

    fn and(filters: Vec<v1::Filter>) -> v1::Filter {
        v1::Filter { kind: Some(Kind::And(v1::FilterList { filters })) }
    }

    #[test]
    fn conditions_keep_their_shape() {
        let not = v1::Filter {
            kind: Some(Kind::Not(Box::new(v1::Filter { kind: Some(Kind::Exists("id".into())) }))),
        };
        let filter = and(vec![compare("year", ProtoOperator::GreaterOrEqual, 1999), not]);
        let year = Field::Attribute(vec!["year".into()]);
        let want = Filter::And(vec![
            Filter::Compare(year, Operator::GreaterOrEqual, Value::Int(1999)),
            Filter::Not(Box::new(Filter::Exists(Field::Id))),
        ]);
        assert_eq!(filter_from_proto(&Path::Root("filter"), filter).expect("whole"), want);
    }

    #[test]
    fn what_is_missing_is_named_by_its_place() {
        let refused = |filter| {
            filter_from_proto(&Path::Root("filter"), filter).expect_err("refused").message().to_owned()
        };
        assert_eq!(refused(and(vec![v1::Filter::default()])), "filter.and[0] holds no condition");
        let unset = compare("x", ProtoOperator::Unspecified, 1);
        assert_eq!(refused(and(vec![unset])), "filter.and[0].compare.operator must be set");
        assert!(refused(compare("a..b", ProtoOperator::Equal, 1)).starts_with("filter.compare.field names"));
    }
}
