//! What messages hold of other messages, for whoever looks at encoded ones: see `src/codec.rs`.

use std::fmt::Write as _;

use protox::prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

/// A table as Rust code: for each message its name, and of each field that holds messages the number and the place of its message in the table.
pub(crate) fn table(contract: &DescriptorPool) -> String {
    let mut messages: Vec<MessageDescriptor> = contract.all_messages().collect();
    messages.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    let place = |of: &MessageDescriptor| messages.iter().position(|message| message == of);
    let mut code = String::from("&[\n");
    for message in &messages {
        let fields = message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inner) => Some((field.number(), place(&inner)?)),
            _ => None,
        });
        let fields: Vec<(u32, usize)> = fields.collect();
        // Writing into a string does not fail.
        writeln!(code, "    ({:?}, &{fields:?}),", message.full_name()).ok();
    }
    code.push_str("]\n");
    code
}
