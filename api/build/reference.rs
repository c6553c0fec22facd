//! The reference of the contract: every service, method, message and field with what the contract says of it.

use std::fmt::Write;

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

use crate::{
    comment,
    routes::{ROUTES, Verb},
};

const HEAD: &str = "\
# The contract `allidb.v1`

Made from `api/proto`, where the same stands. Over gRPC the methods are called `/allidb.v1.SERVICE/METHOD`; how they are called over HTTP stands beside
each, and in [rest.md](rest.md) how that is meant.
";

/// `docs/api.md`.
pub(crate) fn pages(contract: &DescriptorPool) -> String {
    let mut text = HEAD.to_owned();
    let files: Vec<FileDescriptor> =
        contract.files().filter(|file| file.package_name() == "allidb.v1").collect();
    let mut services: Vec<ServiceDescriptor> = files.iter().flat_map(FileDescriptor::services).collect();
    services.sort_by(|one, other| one.name().cmp(other.name()));
    line(&mut text, "\n## Services\n");
    for service in &services {
        let name = service.name();
        line(&mut text, format_args!("- [{name}](#{}): {}", name.to_lowercase(), first_sentence(service)));
    }
    for service in &services {
        line(&mut text, format_args!("\n## {}\n", service.name()));
        paragraph(&mut text, &comment(&service.parent_file(), service.path()));
        for method in service.methods() {
            of_method(&mut text, &method);
        }
    }
    let mut messages = Vec::new();
    let mut choices = Vec::new();
    for file in &files {
        choices.extend(file.enums());
        for message in file.messages() {
            with_inner(message, &mut messages, &mut choices);
        }
    }
    messages.sort_by(|one, other| one.full_name().cmp(other.full_name()));
    choices.sort_by(|one, other| one.full_name().cmp(other.full_name()));
    line(&mut text, "\n## Messages");
    for message in &messages {
        of_message(&mut text, message);
    }
    line(&mut text, "\n## Choices");
    for choice in &choices {
        of_enum(&mut text, choice);
    }
    // Each part begins with an empty line, and what is said ends with one.
    text.replace("\n\n\n", "\n\n")
}

fn with_inner(
    message: MessageDescriptor,
    messages: &mut Vec<MessageDescriptor>,
    choices: &mut Vec<EnumDescriptor>,
) {
    if message.is_map_entry() {
        return;
    }
    choices.extend(message.child_enums());
    for inner in message.child_messages() {
        with_inner(inner, messages, choices);
    }
    messages.push(message);
}

fn of_method(text: &mut String, method: &MethodDescriptor) {
    let service = method.parent_service();
    line(text, format_args!("\n### {}.{}\n", service.name(), method.name()));
    let stream = |is_stream: bool| if is_stream { "stream of " } else { "" };
    let (input, output) = (method.input(), method.output());
    line(
        text,
        format_args!(
            "{}{} → {}{}",
            stream(method.is_client_streaming()),
            link(short(input.full_name())),
            stream(method.is_server_streaming()),
            link(short(output.full_name())),
        ),
    );
    for route in ROUTES.iter().filter(|route| route.method == (service.name(), method.name())) {
        let verb = match route.verb {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        };
        line(text, format_args!("\n`{verb} {}`", route.path));
    }
    let said = comment(&method.parent_file(), method.path());
    if !said.is_empty() {
        line(text, "");
        paragraph(text, &said);
    }
}

fn of_message(text: &mut String, message: &MessageDescriptor) {
    line(text, format_args!("\n### {}\n", short(message.full_name())));
    paragraph(text, &comment(&message.parent_file(), message.path()));
    if message.fields().len() == 0 {
        line(text, "No fields.");
        return;
    }
    line(text, "| field | type | |\n|---|---|---|");
    let mut fields: Vec<FieldDescriptor> = message.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    for field in &fields {
        let choice = field.containing_oneof().filter(|choice| !choice.is_synthetic());
        let choice = choice.map_or_else(String::new, |choice| format!("One of `{}`. ", choice.name()));
        let said = comment(&field.parent_file(), field.path()).replace('|', "\\|");
        let row = format!("{choice}{said}");
        line(
            text,
            format_args!("| `{}` = {} | {} | {} |", field.name(), field.number(), kind(field), row.trim()),
        );
    }
}

fn of_enum(text: &mut String, choice: &EnumDescriptor) {
    line(text, format_args!("\n### {}\n", short(choice.full_name())));
    paragraph(text, &comment(&choice.parent_file(), choice.path()));
    line(text, "| value | |\n|---|---|");
    for value in choice.values() {
        let said = comment(&choice.parent_file(), value.path());
        line(text, format_args!("| `{}` = {} | {said} |", value.name(), value.number()));
    }
}

fn kind(field: &FieldDescriptor) -> String {
    let one = |kind: &Kind| match kind {
        Kind::Message(message) => link(short(message.full_name())),
        Kind::Enum(choice) => link(short(choice.full_name())),
        other => format!("{other:?}").to_lowercase(),
    };
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!("map of {}", one(&entry.map_entry_value_field().kind()))
        }
        kind if field.is_list() => format!("list of {}", one(&kind)),
        kind if field.field_descriptor_proto().proto3_optional() => format!("optional {}", one(&kind)),
        kind => one(&kind),
    }
}

/// The name within the package.
fn short(full: &str) -> &str {
    full.strip_prefix("allidb.v1.").unwrap_or(full)
}

fn link(name: &str) -> String {
    if name.starts_with("google.") {
        return format!("`{name}`");
    }
    format!("[{name}](#{})", name.to_lowercase().replace('.', ""))
}

fn first_sentence(service: &ServiceDescriptor) -> String {
    let said = comment(&service.parent_file(), service.path());
    let end = said.find(". ").map_or(said.len(), |at| at + 1);
    said[..end].to_owned()
}

/// What is said of something, if anything is, and an empty line.
fn paragraph(text: &mut String, said: &str) {
    if !said.is_empty() {
        line(text, format_args!("{said}\n"));
    }
}

fn line(text: &mut String, words: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    writeln!(text, "{words}").ok();
}
