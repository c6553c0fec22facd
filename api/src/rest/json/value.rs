//! Values of attributes as plain JSON, so that every value survives the round trip.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::{Message as _, encoding::encode_varint};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value as Json, json};

use super::scalar::append;
use crate::v1::{Value, value::Kind};

const TIMESTAMP: &str = "$timestamp";
const BYTES: &str = "$bytes";
const MAP: &str = "$map";
const RESERVED: [&str; 3] = [TIMESTAMP, BYTES, MAP];

/// Reads a value as protobuf has it, while it is read: so that it takes no more memory than its encoding. How deep it may be, the parser of JSON says.
pub(super) struct Reading<'a> {
    pub(super) out: &'a mut Vec<u8>,
    /// An object is a map, whatever it holds.
    pub(super) is_plain: bool,
}

/// Tags of `allidb.v1.Value`, and of what is in it.
mod tag {
    pub(super) const NULL: u8 = 1 << 3;
    pub(super) const BOOL: u8 = 2 << 3;
    pub(super) const INT: u8 = 3 << 3;
    pub(super) const DOUBLE: u8 = 4 << 3 | 1;
    pub(super) const STRING: u8 = 5 << 3 | 2;
    pub(super) const LIST: u8 = 8 << 3 | 2;
    pub(super) const MAP: u8 = 9 << 3 | 2;
    /// An item of a list, an entry of a map, and the key of one.
    pub(super) const FIRST: u8 = 1 << 3 | 2;
    /// What is beside the key of an entry.
    pub(super) const SECOND: u8 = 2 << 3 | 2;
}

/// A part of a message whose length stands before it.
fn part(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    append(bytes, out);
}

fn entry(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(name.len() + value.len() + 8);
    part(tag::FIRST, name.as_bytes(), &mut entry);
    part(tag::SECOND, value, &mut entry);
    part(tag::FIRST, &entry, out);
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.out.extend([tag::NULL, 0]);
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<(), E> {
        self.out.extend([tag::BOOL, u8::from(truth)]);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, whole: i64) -> Result<(), E> {
        self.out.push(tag::INT);
        encode_varint(whole.cast_unsigned(), self.out);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, whole: u64) -> Result<(), E> {
        match i64::try_from(whole) {
            Ok(whole) => self.visit_i64(whole),
            Err(_) => Err(E::custom(format!(
                "is {whole}, which is larger than an int64 holds; {whole}.0 is a double"
            ))),
        }
    }

    fn visit_f64<E: de::Error>(self, double: f64) -> Result<(), E> {
        self.out.push(tag::DOUBLE);
        self.out.extend(double.to_le_bytes());
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        part(tag::STRING, text.as_bytes(), self.out);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (mut list, mut item) = (Vec::new(), Vec::new());
        while items.next_element_seed(Reading { out: &mut item, is_plain: false })?.is_some() {
            part(tag::FIRST, &item, &mut list);
            item.clear();
        }
        part(tag::LIST, &list, self.out);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let (mut map, mut value) = (Vec::new(), Vec::new());
        let mut special: Option<&'static str> = None;
        let mut is_first = true;
        while let Some(name) = fields.next_key::<String>()? {
            if let Some(reserved) = special {
                // It is a map that has such a name among others.
                if reserved == MAP {
                    return Err(de::Error::custom(format!("has something beside `{MAP}`")));
                }
                entry(reserved, &value, &mut map);
                special = None;
            }
            if !self.is_plain && !is_first && name == MAP {
                return Err(de::Error::custom(format!("has something beside `{MAP}`")));
            }
            if !self.is_plain && is_first {
                special = RESERVED.into_iter().find(|reserved| *reserved == name);
            }
            is_first = false;
            value.clear();
            let is_plain = special == Some(MAP);
            fields.next_value_seed(Reading { out: &mut value, is_plain })?;
            if special.is_none() {
                entry(&name, &value, &mut map);
            }
        }
        match special {
            None => part(tag::MAP, &map, self.out),
            // As it was read.
            Some(MAP) if value.first() == Some(&tag::MAP) => self.out.extend(&value),
            Some(MAP) => return Err(de::Error::custom(format!("has a `{MAP}` that is no object"))),
            Some(reserved) => {
                // Nothing but a text is decoded: what holds many values takes much more memory then.
                let text = value.first().filter(|tag| **tag == tag::STRING).map(|_| Value::decode(&*value));
                let Some(Ok(Value { kind: Some(Kind::StringValue(text)) })) = text else {
                    return Err(de::Error::custom(format!("has a `{reserved}` that is no string")));
                };
                let kind = text_of(reserved, &text).map_err(de::Error::custom)?;
                Value { kind: Some(kind) }.encode(self.out).map_err(de::Error::custom)?;
            }
        }
        Ok(())
    }
}

fn text_of(reserved: &str, text: &str) -> Result<Kind, String> {
    if reserved == TIMESTAMP {
        return Ok(Kind::TimestampValue(timestamp(text)?));
    }
    let bytes = STANDARD.decode(text).map_err(|_| format!("has a `{BYTES}` that is no base64"))?;
    Ok(Kind::BytesValue(bytes.into()))
}

/// Whether a map would be read as something else if it stood by itself.
fn looks_like_another(object: &Map<String, Json>) -> bool {
    let is_one = object.len() == 1 && RESERVED.iter().any(|reserved| object.contains_key(*reserved));
    is_one || object.contains_key(MAP)
}

/// Reads a time.
pub(super) fn timestamp(text: &str) -> Result<prost_types::Timestamp, String> {
    text.parse().map_err(|_| format!("must be a time such as 2024-05-01T00:00:00Z, not {text:?}"))
}

/// Writes a value so that it is read back.
pub(super) fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(truth)) => json!(truth),
        Some(Kind::IntValue(whole)) => json!(whole),
        Some(Kind::DoubleValue(double)) => json!(double),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BytesValue(bytes)) => json!({ BYTES: STANDARD.encode(bytes) }),
        Some(Kind::TimestampValue(time)) => json!({ TIMESTAMP: time.to_string() }),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::MapValue(map)) => {
            let object: Map<String, Json> =
                map.fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
            if looks_like_another(&object) { json!({ MAP: object }) } else { Json::Object(object) }
        }
    }
}
