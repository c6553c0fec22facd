//! Messages of any type of the contract, as it describes them: each field is there or not, and holds something that such fields hold, or nearly do.

use std::collections::HashMap;

use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::random::Random;

/// Whether a message is to hold what such messages hold, or whatever can be written in them.
pub(super) struct Mood<'a> {
    pub(super) random: &'a mut Random,
    pub(super) is_wild: bool,
}

impl Mood<'_> {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }
}

/// What most messages speak of.
pub(super) const COLLECTION: &str = "fuzz";
pub(super) const SPACE: &str = "plane";
pub(super) const DIMENSION: u32 = 2;

/// Messages within messages.
const DEPTH: usize = 7;
/// Items of a field.
const ITEMS: usize = 4;

const INTEGERS: [u64; 14] = [
    0,
    1,
    2,
    3,
    10,
    100,
    255,
    1_000,
    65_536,
    i32::MAX as u64,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX,
    i64::MIN as u64,
];
const FLOATS: [f64; 12] =
    [0.0, 0.5, 1.0, -1.0, 1e-40, 1e30, -1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.999_999, 1e-7];
const WORDS: [&str; 16] = [
    "e-0",
    "e-1",
    "e-2",
    "a",
    "n",
    "a.b",
    "attributes.a",
    "*",
    "",
    "\u{0}",
    "öß漢",
    "hypernym{1,3}/part?",
    "north america",
    "2026-01-01T00:00:00Z",
    "docs/../x",
    "%00\u{202e}",
];

/// A method of the contract.
pub(super) struct Method {
    pub(super) path: String,
    pub(super) input: String,
    pub(super) takes_stream: bool,
}

/// What the contract says.
pub(super) struct Contract {
    pub(super) methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, EnumDescriptorProto>,
}

impl Contract {
    pub(super) fn read() -> Self {
        let set = FileDescriptorSet::decode(allidb_api::FILE_DESCRIPTOR_SET).expect("our own");
        let mut contract = Self { methods: Vec::new(), messages: HashMap::new(), enums: HashMap::new() };
        for file in set.file {
            let package = format!(".{}", file.package());
            for service in &file.service {
                contract.methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    input: method.input_type().to_owned(),
                    takes_stream: method.client_streaming(),
                }));
            }
            for message in file.message_type {
                contract.take(&package, message);
            }
            for kinds in file.enum_type {
                contract.enums.insert(format!("{package}.{}", kinds.name()), kinds);
            }
        }
        contract
    }

    fn take(&mut self, within: &str, message: DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        for nested in &message.nested_type {
            self.take(&name, nested.clone());
        }
        for kinds in &message.enum_type {
            self.enums.insert(format!("{name}.{}", kinds.name()), kinds.clone());
        }
        self.messages.insert(name, message);
    }

    /// A message of this type.
    pub(super) fn message(&self, name: &str, random: &mut Random) -> Bytes {
        let mut buffer = Vec::new();
        let is_wild = random.below(2) == 0;
        self.fill(name, &mut Mood { random, is_wild }, DEPTH, &mut buffer);
        buffer.into()
    }

    fn fill(&self, name: &str, mood: &mut Mood<'_>, depth: usize, buffer: &mut Vec<u8>) {
        let message = self.messages.get(name).unwrap_or_else(|| panic!("{name} is of the contract"));
        if name == ".allidb.v1.Vector" && mood.below(5) > 0 {
            // Most fit the space.
            for _ in 0..DIMENSION {
                encode_key(1, WireType::ThirtyTwoBit, buffer);
                buffer.extend(mood.random.number().to_le_bytes());
            }
            return;
        }
        // Of several that exclude each other the last one counts.
        let chosen = mood.below(60);
        for field in &message.field {
            let is_there = match field.oneof_index {
                Some(of) if !field.proto3_optional() => {
                    let mut others = message.field.iter().filter(|other| other.oneof_index == Some(of));
                    let count = others.clone().count();
                    others.position(|other| other.number == field.number) == Some(chosen % count)
                }
                // Nothing works without a name.
                _ if is_name(field) => mood.below(20) > 0,
                _ => mood.below(5) < if mood.is_wild { 2 } else { 1 },
            };
            if !is_there {
                continue;
            }
            let count = if field.label() == Label::Repeated { mood.below(ITEMS) } else { 1 };
            for _ in 0..count {
                self.item(field, mood, depth, buffer);
            }
        }
    }

    fn item(&self, field: &FieldDescriptorProto, mood: &mut Mood<'_>, depth: usize, buffer: &mut Vec<u8>) {
        let number = field.number().cast_unsigned();
        let lengthy = |bytes: &[u8], buffer: &mut Vec<u8>| {
            encode_key(number, WireType::LengthDelimited, buffer);
            encode_varint(bytes.len() as u64, buffer);
            buffer.extend(bytes);
        };
        match field.r#type() {
            Type::Message | Type::Group => {
                if depth > 0 {
                    let mut inner = Vec::new();
                    self.fill(field.type_name(), mood, depth - 1, &mut inner);
                    lengthy(&inner, buffer);
                }
            }
            Type::String => lengthy(word(field.name(), mood).as_bytes(), buffer),
            Type::Bytes => {
                let length = mood.below(40);
                lengthy(&mood.random.bytes(length), buffer);
            }
            Type::Double => {
                encode_key(number, WireType::SixtyFourBit, buffer);
                buffer.extend(float(mood).to_le_bytes());
            }
            Type::Float => {
                encode_key(number, WireType::ThirtyTwoBit, buffer);
                buffer.extend((float(mood) as f32).to_le_bytes());
            }
            Type::Fixed64 | Type::Sfixed64 => {
                encode_key(number, WireType::SixtyFourBit, buffer);
                buffer.extend(integer(field.name(), mood).to_le_bytes());
            }
            Type::Fixed32 | Type::Sfixed32 => {
                encode_key(number, WireType::ThirtyTwoBit, buffer);
                buffer.extend((integer(field.name(), mood) as u32).to_le_bytes());
            }
            Type::Bool => {
                encode_key(number, WireType::Varint, buffer);
                encode_varint(mood.random.next() & 1, buffer);
            }
            Type::Enum => {
                let values = self.enums.get(field.type_name()).map_or(&[][..], |kinds| &kinds.value);
                let known = values
                    .get(mood.below(values.len() + usize::from(mood.is_wild)))
                    .map(|value| value.number());
                encode_key(number, WireType::Varint, buffer);
                encode_varint(i64::from(known.unwrap_or(77)).cast_unsigned(), buffer);
            }
            Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Sint32 | Type::Sint64 => {
                encode_key(number, WireType::Varint, buffer);
                encode_varint(integer(field.name(), mood), buffer);
            }
        }
    }
}

fn is_name(field: &FieldDescriptorProto) -> bool {
    matches!(
        field.name(),
        "collection"
            | "id"
            | "name"
            | "ref"
            | "entity"
            | "space"
            | "from"
            | "to"
            | "relation"
            | "seeds"
            | "field"
    )
}

pub(super) fn word(field: &str, mood: &mut Mood<'_>) -> String {
    let fits = !mood.is_wild || mood.below(10) > 0;
    match field {
        "collection" | "name" if fits => COLLECTION.to_owned(),
        "space" if fits => SPACE.to_owned(),
        "id" | "ids" | "key" if fits => format!("e-{}", mood.below(8)),
        "relation" | "relations" if fits => ["next", "part"][mood.below(2)].to_owned(),
        "paths" if fits => ["*", "type", "attributes.a"][mood.below(3)].to_owned(),
        "page_token" | "id_prefix" | "start" | "end" | "tenant" if !mood.is_wild => String::new(),
        _ if !mood.is_wild => ["a", "n", "e-1", "some words"][mood.below(4)].to_owned(),
        _ if mood.below(30) == 0 => "long ".repeat(mood.below(1_000)),
        _ => WORDS[mood.below(WORDS.len())].to_owned(),
    }
}

pub(super) fn integer(field: &str, mood: &mut Mood<'_>) -> u64 {
    match field {
        // Nothing is to keep the test itself from writing.
        "tenant" => [0, 2, 3, u64::MAX][mood.below(4)],
        // Slower would be right, and take too long.
        "bytes_per_second" => [0, 1 << 26, u64::MAX][mood.below(3)],
        "dimension" if mood.below(3) > 0 => u64::from(DIMENSION),
        _ if !mood.is_wild => INTEGERS[mood.below(5)],
        _ if mood.below(4) == 0 => mood.random.next(),
        _ => INTEGERS[mood.below(INTEGERS.len())],
    }
}

pub(super) fn float(mood: &mut Mood<'_>) -> f64 {
    match mood.is_wild && mood.below(2) == 0 {
        true => FLOATS[mood.below(FLOATS.len())],
        false => f64::from(mood.random.number().abs()),
    }
}
