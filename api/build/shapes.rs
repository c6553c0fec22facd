//! What messages hold of other messages, for whoever looks at encoded ones: see `src/codec.rs`.

use std::fmt::Write as _;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// A table as Rust code: for each message its name, what it takes in memory, and of each field that holds messages the number, the place of its message in
/// the table, and how it holds them.
pub(crate) fn table(contract: &DescriptorPool) -> String {
    let mut messages: Vec<MessageDescriptor> = contract.all_messages().collect();
    messages.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let place = |of: &MessageDescriptor| messages.iter().position(|message| message == of);
    let mut code = String::from("&[\n");
    for message in &messages {
        let fields = message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inner) => {
                Some(format!("({}, {}, {})", field.number(), place(&inner)?, held(&field)))
            }
            _ => None,
        });
        let fields = fields.collect::<Vec<String>>().join(", ");
        // Writing into a string does not fail.
        writeln!(code, "    ({:?}, {}, &[{fields}]),", message.full_name(), size(message)).ok();
    }
    code.push_str("]\n");
    code
}

fn held(field: &FieldDescriptor) -> &'static str {
    match (field.is_map(), field.is_list()) {
        (true, _) => "Holds::Map",
        (false, true) => "Holds::List",
        (false, false) => "Holds::One",
    }
}

/// What one takes, as an expression.
fn size(message: &MessageDescriptor) -> String {
    if message.is_map_entry() {
        let [key, value] =
            [message.map_entry_key_field(), message.map_entry_value_field()].map(|of| size_of(&of));
        return format!("{key} + {value}");
    }
    let name = message.full_name();
    match (name.strip_prefix("allidb.v1."), name.strip_prefix("google.protobuf.")) {
        (Some(name), _) if !name.contains('.') => format!("size_of::<crate::v1::{name}>()"),
        (_, Some("Timestamp" | "Duration" | "FieldMask")) => "24".to_owned(),
        // Of those that no request holds.
        _ => "512".to_owned(),
    }
}

fn size_of(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) => size(&message),
        Kind::String | Kind::Bytes => "32".to_owned(),
        _ => "8".to_owned(),
    }
}
