//! JSON → protobuf's encoding: written while it is read, so that a large body takes no more memory than its message.

use std::{cell::RefCell, fmt};

use prost::{
    Message as _,
    encoding::{WireType, encode_key},
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use tonic::Status;

use super::{
    Special,
    scalar::{Scalar, append},
    value,
};
use crate::{convert::Path, status};

/// Reads a message: its encoding. No text at all is an empty message.
///
/// # Errors
/// INVALID_ARGUMENT with the field, and where in the text it is.
pub(crate) fn read(json: &[u8], message: &MessageDescriptor) -> Result<Vec<u8>, Status> {
    read_within(json, message, None)
}

/// Reads a message that is a field of another one: the other one's encoding.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_field(json: &[u8], field: &FieldDescriptor) -> Result<Vec<u8>, Status> {
    let Kind::Message(message) = field.kind() else {
        return Err(status::invalid(field.name(), "cannot be a body"));
    };
    let mut out = Vec::new();
    key(field, &mut out);
    append(&read_within(json, &message, Some(field.name()))?, &mut out);
    Ok(out)
}

fn read_within(json: &[u8], message: &MessageDescriptor, root: Option<&str>) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    if json.trim_ascii().is_empty() {
        return Ok(out);
    }
    let told = RefCell::new(None);
    let root = root.map(Path::Root);
    let at = Place { path: root.as_ref(), told: &told };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = Reading { at, shape: Shape::Message(message), out: &mut out }.deserialize(&mut deserializer);
    match read.and_then(|()| deserializer.end()) {
        Ok(()) => Ok(out),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            Err(match told.into_inner() {
                Some((field, why)) => status::invalid(&field, &format!("{why} ({place})")),
                None => status::invalid("body", &format!("is no JSON: {error}")),
            })
        }
    }
}

/// A message that is a text in JSON.
pub(super) fn special_text(
    message: &MessageDescriptor,
    scalar: Scalar<'_>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    match Special::of(message.full_name()) {
        Some(Special::Timestamp) => {
            let time = value::timestamp(scalar.text()?)?;
            out.extend_from_slice(&time.encode_to_vec());
        }
        Some(Special::Duration) => {
            let text = scalar.text()?;
            let duration: Result<prost_types::Duration, _> = text.parse();
            let duration = duration.map_err(|_| format!("must be seconds such as \"1.5s\", not {text:?}"))?;
            out.extend_from_slice(&duration.encode_to_vec());
        }
        Some(Special::FieldMask) => {
            let paths =
                scalar.text()?.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect();
            out.extend_from_slice(&prost_types::FieldMask { paths }.encode_to_vec());
        }
        _ => return Err(scalar.must_be("an object")),
    }
    Ok(())
}

pub(super) fn named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

pub(super) fn no_such_field(message: &MessageDescriptor) -> String {
    format!("is no field of {}", message.name())
}

/// The tag of a field whose values stand one by one.
pub(super) fn key(field: &FieldDescriptor, out: &mut Vec<u8>) {
    encode_key(field.number(), wire_type(&field.kind()), out);
}

fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

/// Where the reading is, and what was wrong there: errors of serde hold nothing but words.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: Option<&'a Path<'a>>,
    told: &'a RefCell<Option<(String, String)>>,
}

impl<'a> Place<'a> {
    fn field(&self, name: &'a str) -> Path<'a> {
        match self.path {
            Some(path) => Path::Field(path, name),
            None => Path::Root(name),
        }
    }

    fn at(&self, path: &'a Path<'a>) -> Self {
        Self { path: Some(path), ..*self }
    }

    /// What is wrong with a value, unless it is no JSON at all, or nothing more is to be said.
    fn said<E: de::Error>(&self, error: E) -> E {
        let said = error.to_string();
        // The parser adds to what it is told where that was.
        let said = said.rsplit_once(" at line ").map_or(&*said, |(said, _)| said);
        match said.starts_with("is ") || said.starts_with("has ") || said.starts_with("must ") {
            true => self.refuse(said),
            false => error,
        }
    }

    fn refuse<E: de::Error>(&self, why: impl Into<String>) -> E {
        let field = self.path.map_or_else(|| "body".to_owned(), ToString::to_string);
        *self.told.borrow_mut() = Some((field, why.into()));
        E::custom("refused")
    }
}

/// What is to be read.
#[derive(Clone, Copy)]
enum Shape<'a> {
    /// The fields of a message.
    Message(&'a MessageDescriptor),
    /// A field as a whole: its tags, and all of its values.
    Field(&'a FieldDescriptor),
    /// One value of a field, with the tag.
    One(&'a FieldDescriptor),
    /// A number, without a tag.
    Bare(&'a Kind),
}

struct Reading<'a> {
    at: Place<'a>,
    shape: Shape<'a>,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Shape::One(field) = self.shape
            && let Kind::Message(message) = field.kind()
        {
            let mut inner = Vec::new();
            if Special::of(message.full_name()) == Some(Special::Value) {
                let reading = value::Reading { out: &mut inner, is_plain: false };
                reading.deserialize(deserializer).map_err(|error| self.at.said(error))?;
            } else {
                let shape = Shape::Message(&message);
                Reading { at: self.at, shape, out: &mut inner }.deserialize(deserializer)?;
            }
            key(field, self.out);
            append(&inner, self.out);
            return Ok(());
        }
        // The one value of a field: a null is a value of attributes, and of everything else none.
        if let Shape::Field(field) = self.shape
            && is_value(field)
        {
            return Reading { shape: Shape::One(field), ..self }.deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

fn is_value(field: &FieldDescriptor) -> bool {
    let is_one = !field.is_list() && !field.is_map();
    is_one && field.kind().as_message().is_some_and(|message| message.full_name() == "allidb.v1.Value")
}

impl Reading<'_> {
    fn scalar<E: de::Error>(self, scalar: Scalar<'_>) -> Result<(), E> {
        let read = match self.shape {
            Shape::Bare(kind) => scalar.encode(kind, self.out),
            Shape::Message(message) => special_text(message, scalar, self.out),
            Shape::Field(field) if field.is_map() => Err(scalar.must_be("an object")),
            Shape::Field(field) if field.is_list() => Err(scalar.must_be("an array")),
            Shape::Field(field) | Shape::One(field) => {
                if let Kind::Message(message) = field.kind() {
                    let mut inner = Vec::new();
                    let read = special_text(&message, scalar, &mut inner);
                    key(field, self.out);
                    append(&inner, self.out);
                    read
                } else {
                    key(field, self.out);
                    scalar.encode(&field.kind(), self.out)
                }
            }
        };
        read.map_err(|why| self.at.refuse(why))
    }

    fn message<'de, A: MapAccess<'de>>(
        self,
        message: &MessageDescriptor,
        mut fields: A,
    ) -> Result<(), A::Error> {
        if matches!(
            Special::of(message.full_name()),
            Some(Special::Timestamp | Special::Duration | Special::FieldMask)
        ) {
            return Err(self.at.refuse("must be a string, not an object"));
        }
        let mut given: Vec<u32> = Vec::new();
        let mut chosen: Vec<(String, String)> = Vec::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = self.at.field(&name);
            let at = self.at.at(&path);
            let field = named(message, &name).ok_or_else(|| at.refuse(no_such_field(message)))?;
            if given.contains(&field.number()) {
                return Err(at.refuse("is given twice"));
            }
            given.push(field.number());
            let before = self.out.len();
            fields.next_value_seed(Reading { at, shape: Shape::Field(&field), out: &mut *self.out })?;
            let choice = field.containing_oneof().filter(|choice| !choice.is_synthetic());
            if let Some(choice) = choice.filter(|_| self.out.len() > before) {
                if let Some((_, other)) = chosen.iter().find(|(of, _)| of == choice.name()) {
                    return Err(at.refuse(format!("cannot be given beside `{other}`")));
                }
                chosen.push((choice.name().to_owned(), name));
            }
        }
        Ok(())
    }

    fn map<'de, A: MapAccess<'de>>(self, field: &FieldDescriptor, mut entries: A) -> Result<(), A::Error> {
        let Kind::Message(entry) = field.kind() else { return Err(self.at.refuse("is no map")) };
        let (of_key, of_value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        while let Some(name) = entries.next_key::<String>()? {
            let path = match self.at.path {
                Some(parent) => Path::Key(parent, &name),
                None => Path::Root(&name),
            };
            let at = self.at.at(&path);
            let mut inner = Vec::new();
            key(&of_key, &mut inner);
            Scalar::Parameter(&name).encode(&of_key.kind(), &mut inner).map_err(|why| at.refuse(why))?;
            entries.next_value_seed(Reading { at, shape: Shape::One(&of_value), out: &mut inner })?;
            key(field, self.out);
            append(&inner, self.out);
        }
        Ok(())
    }

    fn list<'de, A: SeqAccess<'de>>(self, field: &FieldDescriptor, mut items: A) -> Result<(), A::Error> {
        let kind = field.kind();
        let mut packed = Vec::new();
        let mut index = 0;
        loop {
            let path = match self.at.path {
                Some(parent) => Path::Index(parent, index),
                None => Path::Root(field.name()),
            };
            let at = self.at.at(&path);
            let reading = match field.is_packed() {
                true => Reading { at, shape: Shape::Bare(&kind), out: &mut packed },
                false => Reading { at, shape: Shape::One(field), out: &mut *self.out },
            };
            if items.next_element_seed(reading)?.is_none() {
                break;
            }
            index += 1;
        }
        if !packed.is_empty() {
            encode_key(field.number(), WireType::LengthDelimited, self.out);
            append(&packed, self.out);
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        match self.shape {
            // As if it were not there.
            Shape::Field(_) => Ok(()),
            _ => Err(self.at.refuse("must not be null")),
        }
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(truth))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.scalar(Scalar::Signed(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.scalar(Scalar::Unsigned(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.scalar(Scalar::Double(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        match self.shape {
            Shape::Field(field) if field.is_list() => self.list(field, items),
            Shape::Field(field) | Shape::One(field) => match field.kind() {
                // The whole of such a message is its list.
                Kind::Message(message) if !field.is_map() && list_of(&message).is_some() => {
                    let mut inner = Vec::new();
                    let shape = Shape::Message(&message);
                    Reading { at: self.at, shape, out: &mut inner }.visit_seq(items)?;
                    key(field, self.out);
                    append(&inner, self.out);
                    Ok(())
                }
                _ => Err(self.at.refuse("must not be an array")),
            },
            Shape::Message(message) => match list_of(message) {
                Some(field) => self.list(&field, items),
                None => Err(self.at.refuse("must be an object, not an array")),
            },
            Shape::Bare(_) => Err(self.at.refuse("must be a number, not an array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<(), A::Error> {
        match self.shape {
            Shape::Message(message) => self.message(message, fields),
            Shape::Field(field) if field.is_map() => self.map(field, fields),
            Shape::Field(field) if field.is_list() => Err(self.at.refuse("must be an array, not an object")),
            Shape::Field(field) | Shape::One(field) => match field.kind() {
                Kind::Message(message) => {
                    let mut inner = Vec::new();
                    let shape = Shape::Message(&message);
                    Reading { at: self.at, shape, out: &mut inner }.visit_map(fields)?;
                    key(field, self.out);
                    append(&inner, self.out);
                    Ok(())
                }
                _ => Err(self.at.refuse("must not be an object")),
            },
            Shape::Bare(_) => Err(self.at.refuse("must be a number, not an object")),
        }
    }
}

/// The list that an array stands for in place of the message.
fn list_of(message: &MessageDescriptor) -> Option<FieldDescriptor> {
    match Special::of(message.full_name())? {
        Special::Vector => message.get_field_by_name("values"),
        Special::FieldMask => message.get_field_by_name("paths"),
        _ => None,
    }
}
