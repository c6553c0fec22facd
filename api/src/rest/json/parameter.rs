//! Fields that stand in a path or in a query string.

use prost_reflect::{Kind, MessageDescriptor};
use tonic::Status;

use super::{
    Special,
    read::{key, named, no_such_field, special_text},
    scalar::{Scalar, append},
};
use crate::status;

/// Appends a field of a message, such as `ref.id`, to its encoding, given as text.
///
/// # Errors
/// INVALID_ARGUMENT with the field.
pub(crate) fn read_parameter(
    message: &MessageDescriptor,
    path: &str,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    append_parameter(message, path, text, out).map_err(|why| status::invalid(path, &why))
}

fn append_parameter(
    message: &MessageDescriptor,
    path: &str,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = named(message, name).ok_or_else(|| no_such_field(message))?;
    let kind = field.kind();
    let given_so = match &kind {
        _ if field.is_map() => false,
        Kind::Message(inner) => {
            let special = Special::of(inner.full_name());
            rest.is_some()
                || matches!(special, Some(Special::Timestamp | Special::Duration | Special::FieldMask))
        }
        _ => rest.is_none(),
    };
    if !given_so || (field.is_list() && rest.is_some()) {
        return Err("cannot be given here; it may stand in a body".to_owned());
    }
    let mut inner = Vec::new();
    match (&kind, rest) {
        (Kind::Message(message), Some(rest)) => append_parameter(message, rest, text, &mut inner)?,
        (Kind::Message(message), None) => special_text(message, Scalar::Parameter(text), &mut inner)?,
        _ => {
            key(&field, out);
            return Scalar::Parameter(text).encode(&kind, out);
        }
    }
    key(&field, out);
    append(&inner, out);
    Ok(())
}
