//! Protobuf's encoding → JSON. Numbers and truths are always there; what else is empty is left out.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Buf;
use prost::{
    DecodeError,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap, SerializeSeq},
};

use super::{Special, value};
use crate::{rest::error, v1};

/// A message of a kind, as it is encoded.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: &'a MessageDescriptor,
    pub(crate) bytes: &'a [u8],
}

/// What stands behind a tag.
#[derive(Clone, Copy, Debug)]
enum Raw<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn read(bytes: &mut &'a [u8], wire: WireType) -> Result<Self, &'static str> {
        const SHORT: &str = "a field is cut off";
        Ok(match wire {
            WireType::Varint => Self::Varint(decode_varint(bytes).map_err(|_| SHORT)?),
            WireType::SixtyFourBit => {
                let (value, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
                *bytes = rest;
                Self::Eight(*value)
            }
            WireType::ThirtyTwoBit => {
                let (value, rest) = bytes.split_first_chunk().ok_or(SHORT)?;
                *bytes = rest;
                Self::Four(*value)
            }
            WireType::LengthDelimited => {
                let length = decode_varint(bytes).map_err(|_| SHORT)?;
                let length = usize::try_from(length).map_err(|_| SHORT)?;
                let (value, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
                *bytes = rest;
                Self::Bytes(value)
            }
            WireType::StartGroup | WireType::EndGroup => return Err("a field is a group"),
        })
    }
}

/// What stands behind each tag of a message, in its order.
type Fields<'a> = BTreeMap<u32, Vec<Raw<'a>>>;

fn fields(mut bytes: &[u8]) -> Result<Fields<'_>, &'static str> {
    let mut fields = Fields::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).map_err(|_| "a tag cannot be read")?;
        fields.entry(number).or_default().push(Raw::read(&mut bytes, wire)?);
    }
    Ok(fields)
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Special::of(self.kind.full_name()) {
            Some(Special::Timestamp) => {
                serializer.collect_str(&self.decoded::<prost_types::Timestamp, S::Error>()?)
            }
            Some(Special::Duration) => {
                serializer.collect_str(&self.decoded::<prost_types::Duration, S::Error>()?)
            }
            Some(Special::FieldMask) => {
                self.decoded::<prost_types::FieldMask, S::Error>()?.paths.serialize(serializer)
            }
            Some(Special::Value) => {
                value::to_json(&self.decoded::<v1::Value, S::Error>()?).serialize(serializer)
            }
            Some(Special::Status) => {
                error::item(&self.decoded::<tonic_types::Status, S::Error>()?).serialize(serializer)
            }
            Some(Special::Vector) => {
                let vector: v1::Vector = self.decoded::<_, S::Error>()?;
                let is_array = vector.raw.is_empty() && vector.text.is_empty();
                if is_array { vector.values.serialize(serializer) } else { self.object(serializer) }
            }
            None => self.object(serializer),
        }
    }
}

impl Message<'_> {
    fn decoded<T: prost::Message + Default, E: serde::ser::Error>(&self) -> Result<T, E> {
        T::decode(self.bytes).map_err(|error: DecodeError| E::custom(error))
    }

    fn object<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = fields(self.bytes).map_err(S::Error::custom)?;
        let mut object = serializer.serialize_map(None)?;
        for field in self.kind.fields() {
            let values = fields.get(&field.number()).map_or(&[][..], Vec::as_slice);
            let kind = field.kind();
            match values.last() {
                None if field.is_list() || field.is_map() || field.supports_presence() => {}
                None => {
                    if let Some(zero) = zero(&kind) {
                        object.serialize_entry(field.name(), &One { kind: &kind, value: zero })?;
                    }
                }
                Some(_) if field.is_map() => {
                    object.serialize_entry(field.name(), &Entries { field: &field, values })?;
                }
                Some(_) if field.is_list() => {
                    object.serialize_entry(field.name(), &Items { kind: &kind, values })?;
                }
                Some(value) => object.serialize_entry(field.name(), &One { kind: &kind, value: *value })?,
            }
        }
        object.end()
    }
}

/// What is written of a number or truth that is not encoded because it is zero.
fn zero(kind: &Kind) -> Option<Raw<'static>> {
    match wire_type(kind)? {
        WireType::SixtyFourBit => Some(Raw::Eight([0; 8])),
        WireType::ThirtyTwoBit => Some(Raw::Four([0; 4])),
        _ if matches!(kind, Kind::Enum(_)) => None,
        _ => Some(Raw::Varint(0)),
    }
}

/// How a number or truth is encoded.
fn wire_type(kind: &Kind) -> Option<WireType> {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Some(WireType::SixtyFourBit),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Some(WireType::ThirtyTwoBit),
        Kind::String | Kind::Bytes | Kind::Message(_) => None,
        _ => Some(WireType::Varint),
    }
}

/// One value of a field.
struct One<'a> {
    kind: &'a Kind,
    value: Raw<'a>,
}

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.kind, self.value) {
            (Kind::Double, Raw::Eight(value)) => serializer.serialize_f64(f64::from_le_bytes(value)),
            (Kind::Float, Raw::Four(value)) => serializer.serialize_f32(f32::from_le_bytes(value)),
            (Kind::Fixed64, Raw::Eight(value)) => serializer.serialize_u64(u64::from_le_bytes(value)),
            (Kind::Sfixed64, Raw::Eight(value)) => serializer.serialize_i64(i64::from_le_bytes(value)),
            (Kind::Fixed32, Raw::Four(value)) => serializer.serialize_u32(u32::from_le_bytes(value)),
            (Kind::Sfixed32, Raw::Four(value)) => serializer.serialize_i32(i32::from_le_bytes(value)),
            (Kind::Uint32 | Kind::Uint64, Raw::Varint(value)) => serializer.serialize_u64(value),
            (Kind::Int32 | Kind::Int64, Raw::Varint(value)) => serializer.serialize_i64(value.cast_signed()),
            (Kind::Sint32 | Kind::Sint64, Raw::Varint(value)) => {
                serializer.serialize_i64((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
            }
            (Kind::Bool, Raw::Varint(value)) => serializer.serialize_bool(value != 0),
            (Kind::Enum(kind), Raw::Varint(value)) => {
                let known = i32::try_from(value.cast_signed()).ok().and_then(|number| kind.get_value(number));
                match known {
                    Some(value) => serializer.serialize_str(value.name()),
                    None => serializer.serialize_i64(value.cast_signed()),
                }
            }
            (Kind::String, Raw::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => serializer.serialize_str(text),
                Err(error) => Err(S::Error::custom(error)),
            },
            (Kind::Bytes, Raw::Bytes(bytes)) => serializer.serialize_str(&STANDARD.encode(bytes)),
            (Kind::Message(kind), Raw::Bytes(bytes)) => Message { kind, bytes }.serialize(serializer),
            _ => Err(S::Error::custom("a field has another type than it is declared with")),
        }
    }
}

/// The values of a list; numbers stand together in one piece or several.
struct Items<'a> {
    kind: &'a Kind,
    values: &'a [Raw<'a>],
}

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut items = serializer.serialize_seq(None)?;
        for value in self.values {
            match (wire_type(self.kind), *value) {
                (Some(wire), Raw::Bytes(mut packed)) => {
                    while packed.has_remaining() {
                        let value = Raw::read(&mut packed, wire).map_err(S::Error::custom)?;
                        items.serialize_element(&One { kind: self.kind, value })?;
                    }
                }
                (_, value) => items.serialize_element(&One { kind: self.kind, value })?,
            }
        }
        items.end()
    }
}

/// The entries of a map.
struct Entries<'a> {
    field: &'a FieldDescriptor,
    values: &'a [Raw<'a>],
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Kind::Message(entry) = self.field.kind() else {
            return Err(S::Error::custom("a map has no entries"));
        };
        let (of_key, of_value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut object = serializer.serialize_map(Some(self.values.len()))?;
        for value in self.values {
            let Raw::Bytes(bytes) = *value else {
                return Err(S::Error::custom("an entry of a map is no message"));
            };
            let fields = fields(bytes).map_err(S::Error::custom)?;
            let part = |number, kind| {
                let given = fields.get(&number).and_then(|values: &Vec<Raw<'_>>| values.last().copied());
                given.or_else(|| zero(kind)).unwrap_or(Raw::Bytes(&[]))
            };
            let key = One { kind: &of_key, value: part(1, &of_key) };
            object.serialize_entry(&key, &One { kind: &of_value, value: part(2, &of_value) })?;
        }
        object.end()
    }
}
