//! The contract as OpenAPI 3.1: the routes with what they take and give, and every message as a schema.

use std::collections::BTreeSet;

use protox::prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value as Json, json};

use crate::{
    comment,
    routes::{ROUTES, Route, Takes, Verb},
};

/// What there is to say before anything else.
const ABOUT: &str = "Entities, edges and queries as JSON: the services of allidb.v1, the same as over gRPC. Fields that are empty are left out of \
answers, but for numbers and truths. Answers that are streams come as lines of JSON (application/x-ndjson); one that breaks off ends with a line \
that holds an `error`.";

/// The document.
pub(crate) fn document(contract: &DescriptorPool) -> Result<Json, String> {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for route in ROUTES {
        let method = method(contract, route)?;
        let operation = operation(route, &method, &mut schemas)?;
        let path = paths.entry(without_fields(route.path)).or_insert_with(|| json!({}));
        path[verb(route.verb)] = operation;
    }
    let mut components = schemas.finished();
    components.insert("Error".to_owned(), error());
    let tags: Vec<Json> = contract
        .services()
        .map(|service| {
            json!({
                "name": service.name(), "description": comment(&service.parent_file(), service.path()),
            })
        })
        .collect();
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "AlliDB", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key, made by `allidb key create`."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
            },
        },
    }))
}

fn method(contract: &DescriptorPool, route: &Route) -> Result<MethodDescriptor, String> {
    let (service, name) = route.method;
    let service = contract.get_service_by_name(&format!("allidb.v1.{service}"));
    let method = service.and_then(|service| service.methods().find(|method| method.name() == name));
    method.ok_or_else(|| format!("{} leads to no method", route.path))
}

fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::Post => "post",
        Verb::Put => "put",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
    }
}

/// The path with the last part of each field's name: several methods have one path, and call its parts differently.
fn without_fields(path: &str) -> String {
    let segments = path.split('/').map(|segment| match field_of(segment) {
        Some((field, after)) => format!("{{{}}}{after}", parameter(path, field)),
        None => segment.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

fn field_of(segment: &str) -> Option<(&str, &str)> {
    segment.strip_prefix('{')?.split_once('}')
}

/// What a field is called within its path.
fn parameter<'a>(path: &str, field: &'a str) -> &'a str {
    let is_first = path.starts_with("/v1/collections/{") && path[17..].starts_with(field);
    if is_first { "collection" } else { field.rsplit('.').next().unwrap_or(field) }
}

fn operation(route: &Route, method: &MethodDescriptor, schemas: &mut Schemas) -> Result<Json, String> {
    let input = method.input();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut parameters = Vec::new();
    for (field, _) in route.path.split('/').filter_map(field_of) {
        let described = reached(&input, field).ok_or_else(|| format!("{field} of {}", route.path))?;
        parameters.push(json!({
            "name": parameter(route.path, field), "in": "path", "required": true,
            "description": said(&described), "schema": schemas.of_kind(&described.kind()),
        }));
        taken.insert(field.to_owned());
    }
    let body = match route.takes {
        Takes::Nothing => None,
        Takes::Message => Some((schemas.of_message(&input), false)),
        Takes::Field(name) => {
            let field = input.get_field_by_name(name).ok_or_else(|| format!("{name} of {}", route.path))?;
            taken.insert(name.to_owned());
            Some((schemas.of_kind(&field.kind()), true))
        }
    };
    if route.takes != Takes::Message {
        query(&input, "", &taken, &mut parameters, schemas);
    }
    let answer = schemas.of_message(&method.output());
    let kind = if method.is_server_streaming() { "application/x-ndjson" } else { "application/json" };
    let (service, name) = route.method;
    // Two routes lead to one method only where one of them has a body.
    let is_scan_by_query = name == "RangeScan" && route.takes == Takes::Nothing;
    let id = if is_scan_by_query { "Entities_List".to_owned() } else { format!("{service}_{name}") };
    let mut operation = json!({
        "operationId": id,
        "tags": [service],
        "description": comment(&method.parent_file(), method.path()),
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": {kind: {"schema": answer}}},
            "default": {
                "description": "What went wrong.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    });
    if let Some((schema, required)) = body {
        operation["requestBody"] =
            json!({"required": required, "content": {"application/json": {"schema": schema}}});
    }
    Ok(operation)
}

/// Fields that are given in the query string: those of messages by their paths.
fn query(
    message: &MessageDescriptor,
    prefix: &str,
    taken: &BTreeSet<String>,
    parameters: &mut Vec<Json>,
    schemas: &mut Schemas,
) {
    for field in message.fields() {
        let name = format!("{prefix}{}", field.name());
        if taken.contains(&name) || field.is_map() {
            continue;
        }
        let kind = field.kind();
        let schema = match kind.as_message().map(|message| message.full_name().to_owned()).as_deref() {
            Some("google.protobuf.FieldMask") => {
                json!({"type": "string", "description": "Paths, with commas between."})
            }
            Some("google.protobuf.Timestamp" | "google.protobuf.Duration") => schemas.of_kind(&kind),
            // Only small ones, of names and numbers alone.
            Some("allidb.v1.EntityRef" | "allidb.v1.Precondition") if !field.is_list() => {
                if let Kind::Message(inner) = &kind {
                    query(inner, &format!("{name}."), taken, parameters, schemas);
                }
                continue;
            }
            Some(_) => continue,
            None if field.is_list() => json!({"type": "array", "items": schemas.of_kind(&kind)}),
            None => schemas.of_kind(&kind),
        };
        parameters.push(json!({"name": name, "in": "query", "description": said(&field), "schema": schema}));
    }
}

fn reached(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    match path.split_once('.') {
        None => message.get_field_by_name(path),
        Some((name, rest)) => match message.get_field_by_name(name)?.kind() {
            Kind::Message(inner) => reached(&inner, rest),
            _ => None,
        },
    }
}

fn said(field: &FieldDescriptor) -> String {
    comment(&field.parent_file(), field.path())
}

/// Schemas of messages, those that were asked for and those that these need.
#[derive(Default)]
struct Schemas {
    found: Map<String, Json>,
}

impl Schemas {
    fn finished(self) -> Map<String, Json> {
        let mut sorted: Vec<_> = self.found.into_iter().collect();
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        sorted.into_iter().collect()
    }

    fn of_message(&mut self, message: &MessageDescriptor) -> Json {
        let name = match message.full_name() {
            "google.protobuf.Timestamp" => return json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => return json!({"type": "string", "examples": ["1.5s"]}),
            "google.protobuf.FieldMask" => {
                return json!({"type": ["array", "string"], "items": {"type": "string"}});
            }
            full => full.rsplit_once("v1.").map_or(full, |(_, name)| name).to_owned(),
        };
        if !self.found.contains_key(&name) {
            // First, so that messages may hold themselves.
            self.found.insert(name.clone(), Json::Null);
            let schema = self.described(message);
            self.found.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    fn described(&mut self, message: &MessageDescriptor) -> Json {
        let description = comment(&message.parent_file(), message.path());
        match message.full_name() {
            "allidb.v1.Value" => {
                return json!({"description": format!(
                    "{description} Any JSON: whole numbers are int64, those with a point or an exponent doubles. What JSON lacks is an object with \
                     one key: {{\"$timestamp\": \"2024-05-01T00:00:00Z\"}}, {{\"$bytes\": base64}}; a map that looks like one of these is \
                     {{\"$map\": map}}."
                )});
            }
            "google.rpc.Status" => {
                return json!({
                    "type": "object", "description": "What became of an item: code 0 means done.",
                    "properties": {
                        "code": {"type": "integer"}, "status": {"type": "string"}, "message": {"type": "string"},
                        "details": {"type": "array", "items": {"type": "object"}},
                    },
                });
            }
            _ => {}
        }
        let mut properties = Map::new();
        for field in message.fields() {
            properties.insert(field.name().to_owned(), self.of_field(&field));
        }
        let object = json!({
            "type": "object", "description": description, "properties": properties, "additionalProperties": false,
        });
        if message.full_name() != "allidb.v1.Vector" {
            return object;
        }
        json!({"anyOf": [{"type": "array", "items": {"type": "number", "format": "float"}}, object]})
    }

    fn of_field(&mut self, field: &FieldDescriptor) -> Json {
        let kind = field.kind();
        let mut schema = match &kind {
            Kind::Message(entry) if field.is_map() => {
                json!({"type": "object", "additionalProperties": self.of_kind(&entry.map_entry_value_field().kind())})
            }
            _ if field.is_list() => json!({"type": "array", "items": self.of_kind(&kind)}),
            _ => self.of_kind(&kind),
        };
        let said = said(field);
        if !said.is_empty() {
            schema["description"] = said.into();
        }
        schema
    }

    fn of_kind(&mut self, kind: &Kind) -> Json {
        match kind {
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "integer", "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "integer", "minimum": 0}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Message(message) => self.of_message(message),
            Kind::Enum(choices) => names(choices),
        }
    }
}

fn names(choices: &EnumDescriptor) -> Json {
    let names: Vec<String> = choices.values().map(|value| value.name().to_owned()).collect();
    json!({"type": "string", "enum": names})
}

/// What is answered in place of anything else.
fn error() -> Json {
    json!({
        "type": "object",
        "description": "What went wrong. `status` is the code of gRPC; `reason` in the first of the details never changes its meaning.",
        "properties": {"error": {"type": "object", "properties": {
            "code": {"type": "integer", "description": "The code of HTTP."},
            "status": {"type": "string"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object", "properties": {"@type": {"type": "string"}}}},
        }}},
    })
}
