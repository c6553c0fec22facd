//! What of a collection is searched as text, and words to look for.

use allidb_index::{
    model::{Language, Limits, TextField, TextKind, TextSpec},
    query::{TextMatch, TextQuery},
};
use tonic::Status;

use super::{
    Path,
    bounds::{at_most, finite, or_default},
};
use crate::{status, v1};

/// What matches in a field count unless the declaration says.
const DEFAULT_WEIGHT: f64 = 1.0;

pub(crate) fn text_from_proto(path: &Path<'_>, text: Option<v1::TextSettings>) -> Result<TextSpec, Status> {
    let Some(text) = text else { return Ok(TextSpec::default()) };
    let language = |path: &Path<'_>, name: &str| {
        Language::parse(path.to_string().as_str(), name).map_err(status::from_error)
    };
    let fields = path.field("fields");
    let field_from_proto = |(at, field): (usize, v1::TextField)| {
        let path = fields.index(at);
        let kind = match v1::TextKind::try_from(field.kind) {
            Ok(v1::TextKind::Unspecified | v1::TextKind::Names) => TextKind::Names,
            Ok(v1::TextKind::Prose) => TextKind::Prose,
            Err(_) => {
                return Err(path
                    .field("kind")
                    .invalid(format!("is {}, which is no kind of text", field.kind)));
            }
        };
        Ok(TextField {
            language: language(&path.field("language"), &field.language)?,
            weight: finite(&path.field("weight"), field.weight.unwrap_or(DEFAULT_WEIGHT))?,
            attribute: field.attribute,
            kind,
        })
    };
    Ok(TextSpec {
        chunks: language(&path.field("chunk_language"), &text.chunk_language)?,
        fields: text.fields.into_iter().enumerate().map(field_from_proto).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn text_to_proto(text: &TextSpec) -> v1::TextSettings {
    let field = |field: &TextField| v1::TextField {
        attribute: field.attribute.clone(),
        weight: Some(field.weight),
        language: field.language.name().to_owned(),
        kind: match field.kind {
            TextKind::Names => v1::TextKind::Names.into(),
            TextKind::Prose => v1::TextKind::Prose.into(),
        },
    };
    v1::TextSettings {
        chunk_language: text.chunks.name().to_owned(),
        fields: text.fields.iter().map(field).collect(),
    }
}

/// Which words must be there, if that is said.
pub(super) fn text_match_from_proto(path: &Path<'_>, text_match: i32) -> Result<Option<TextMatch>, Status> {
    match v1::TextMatch::try_from(text_match) {
        Ok(v1::TextMatch::Unspecified) => Ok(None),
        Ok(v1::TextMatch::Any) => Ok(Some(TextMatch::Any)),
        Ok(v1::TextMatch::All) => Ok(Some(TextMatch::All)),
        Ok(v1::TextMatch::Phrase) => Ok(Some(TextMatch::Phrase)),
        Err(_) => Err(path.invalid(format!("is {text_match}, which is no way to match"))),
    }
}

/// The words, and how many entities they are to bring.
pub(super) fn text_query_from_proto(
    path: &Path<'_>,
    query: v1::TextSeed,
    limits: &Limits,
) -> Result<(TextQuery, usize), Status> {
    let operator = text_match_from_proto(&path.field("match"), query.r#match)?.unwrap_or(TextMatch::Any);
    let fields = path.field("fields");
    at_most(&fields, query.fields.len(), 1 + TextSpec::MAX_FIELDS)?;
    let weighted = query.fields.into_iter().enumerate().map(|(at, field)| {
        let weight =
            field.weight.map(|weight| finite(&fields.index(at).field("weight"), weight)).transpose()?;
        Ok((field.name, weight))
    });
    let words = TextQuery {
        operator,
        fields: weighted.collect::<Result<_, Status>>()?,
        text: query.text,
        prefix: query.prefix,
        fuzziness: query.fuzziness,
        slop: query.slop,
    };
    Ok((words, or_default(&path.field("k"), query.k, 0, limits.k)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_and_wrong_ones_are_named() {
        let field = |kind, language| TextField { attribute: "names".into(), weight: 2.5, language, kind };
        let spec = TextSpec {
            chunks: Language::German,
            fields: vec![field(TextKind::Names, Language::None), field(TextKind::Prose, Language::Greek)],
        };
        let path = Path::Root("text");
        assert_eq!(text_from_proto(&path, Some(text_to_proto(&spec))).expect("our own"), spec);
        assert_eq!(text_from_proto(&path, None).expect("unset"), TextSpec::default());
        let refused = |text| text_from_proto(&path, Some(text)).expect_err("refused").message().to_owned();
        let klingon = v1::TextSettings { chunk_language: "klingon".into(), ..Default::default() };
        assert!(
            refused(klingon)
                .starts_with("text.chunk_language is \"klingon\"; it must be one of none, arabic")
        );
        let odd = |field| v1::TextSettings { fields: vec![field], ..Default::default() };
        let kind = v1::TextField { kind: 7, ..Default::default() };
        assert_eq!(refused(odd(kind)), "text.fields[0].kind is 7, which is no kind of text");
        let weight = v1::TextField { weight: Some(f64::NAN), ..Default::default() };
        assert!(refused(odd(weight)).starts_with("text.fields[0].weight"));
    }
}
