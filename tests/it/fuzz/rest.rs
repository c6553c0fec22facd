//! The same over HTTP: each path with parameters and bodies as `/openapi.json` describes them, or nearly, and each method as gRPC-web.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::message::{Contract, DIMENSION, Mood, SPACE, float, integer, word};
use crate::{process::Process, random::Random};

/// Values within each other.
const DEPTH: usize = 7;
/// Items of a list, or of a map.
const ITEMS: usize = 4;
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// What may be called, as the daemon itself describes it.
pub(super) struct Described {
    document: Json,
    /// Verb, path and operation.
    operations: Vec<(String, String, Json)>,
}

/// A request, and what it is to be called in a report.
pub(super) struct Asked {
    pub(super) name: String,
    bytes: Vec<u8>,
}

impl Described {
    pub(super) async fn read(process: &Process) -> Self {
        let (code, text) = process.get("/openapi.json").await.expect("answered");
        assert_eq!(code, 200);
        let document: Json = serde_json::from_str(&text).expect("a document");
        let mut operations = Vec::new();
        for (path, verbs) in document["paths"].as_object().expect("paths") {
            for (verb, operation) in verbs.as_object().expect("verbs") {
                operations.push((verb.to_uppercase(), path.clone(), operation.clone()));
            }
        }
        assert!(operations.len() > 40, "{}", operations.len());
        Self { document, operations }
    }

    /// A call that is described. Those that are not about data are drawn rarely.
    pub(super) fn call(&self, random: &mut Random, rarely: usize) -> Asked {
        let (verb, path, operation) = loop {
            let drawn = &self.operations[random.below(self.operations.len())];
            let is_about_data =
                ["entities", "edges", "query", "graph", "search"].iter().any(|of| drawn.1.contains(of));
            if is_about_data || random.below(rarely) == 0 {
                break drawn;
            }
        };
        let is_wild = random.below(2) == 0;
        let mood = &mut Mood { random, is_wild };
        let mut place = path.clone();
        let mut query = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            let value = plain(&self.value(name, &parameter["schema"], mood, DEPTH));
            match parameter["in"].as_str() {
                Some("path") => place = place.replace(&format!("{{{name}}}"), &escaped(&value)),
                _ if mood.below(5) == 0 => query.push(format!("{name}={}", escaped(&value))),
                _ => {}
            }
        }
        if !query.is_empty() {
            place = format!("{place}?{}", query.join("&"));
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = match schema {
            Json::Null => String::new(),
            schema => self.value("", schema, mood, DEPTH).to_string(),
        };
        let body = damaged(body.into_bytes(), mood);
        let asked = request(verb, &place, "application/json", &body);
        Asked { name: format!("{verb} {path}"), bytes: asked }
    }

    fn value(&self, name: &str, schema: &Json, mood: &mut Mood<'_>, depth: usize) -> Json {
        if mood.is_wild && mood.below(25) == 0 {
            // Of another type.
            return [
                json!(null),
                json!(true),
                json!("x"),
                json!(-1),
                json!(1e300),
                json!([[]]),
                json!({"a": {}}),
            ][mood.below(7)]
            .clone();
        }
        if let Some(of) = schema["$ref"].as_str() {
            let of = of.rsplit('/').next().unwrap_or_default();
            return self.value(name, &self.document["components"]["schemas"][of], mood, depth);
        }
        if let Some(ways) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            return self.value(name, &ways[mood.below(ways.len())], mood, depth);
        }
        if let Some(names) = schema["enum"].as_array() {
            return names[mood.below(names.len())].clone();
        }
        let kind = match &schema["type"] {
            Json::Array(kinds) => kinds[mood.below(kinds.len())].as_str(),
            kind => kind.as_str(),
        };
        match kind {
            Some("object") if depth > 0 => self.object(schema, mood, depth - 1),
            Some("array") if depth > 0 => {
                let count = if name == "values" { DIMENSION as usize } else { mood.below(ITEMS) };
                (0..count).map(|_| self.value(name, &schema["items"], mood, depth - 1)).collect()
            }
            Some("string") => word(name, mood).into(),
            Some("integer") => integer(name, mood).into(),
            Some("number") => json!(float(mood)),
            Some("boolean") => (mood.below(2) == 0).into(),
            _ => Json::Null,
        }
    }

    fn object(&self, schema: &Json, mood: &mut Mood<'_>, depth: usize) -> Json {
        let mut object = Map::new();
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let is_named = ["collection", "id", "ref", "entity", "from", "to", "relation", "seeds", "space"];
            let is_there = if is_named.contains(&&**name) { mood.below(12) > 0 } else { mood.below(4) == 0 };
            if is_there {
                object.insert(name.clone(), self.value(name, of, mood, depth));
            }
        }
        if let of @ Json::Object(_) = &schema["additionalProperties"] {
            for _ in 0..mood.below(ITEMS) {
                let key = if mood.below(3) == 0 { SPACE.to_owned() } else { word("key", mood) };
                object.insert(key, self.value("", of, mood, depth));
            }
        }
        object.into()
    }
}

/// A call as pages make it, whole but for what is in it.
pub(super) fn from_page(contract: &Contract, random: &mut Random) -> Asked {
    let method = loop {
        let method = &contract.methods[random.below(contract.methods.len())];
        if super::is_about_data(&method.path) && !method.takes_stream {
            break method;
        }
    };
    let message = contract.message(&method.input, random).to_vec();
    let is_wild = random.below(4) == 0;
    let message = damaged(message, &mut Mood { random, is_wild });
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(&message);
    let frame = damaged(frame, &mut Mood { random, is_wild });
    let bytes = request("POST", &method.path, "application/grpc-web+proto", &frame);
    Asked { name: format!("page {}", method.path), bytes }
}

/// Now and then what is said is cut off, or one of its bytes is another one.
fn damaged(mut body: Vec<u8>, mood: &mut Mood<'_>) -> Vec<u8> {
    if mood.is_wild && !body.is_empty() && mood.below(8) == 0 {
        let at = mood.below(body.len());
        match mood.below(2) {
            0 => body.truncate(at),
            _ => body[at] = mood.below(256) as u8,
        }
    }
    body
}

fn request(verb: &str, place: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{verb} {place} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As it may stand in a path.
fn escaped(text: &str) -> String {
    let byte = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.as_bytes().iter().map(byte).collect()
}

/// What is answered: the code of HTTP, and what gRPC-web has of one.
///
/// # Panics
/// If there is no answer, or one as if the daemon was at fault.
pub(super) async fn ask(process: &Process, asked: &Asked) -> String {
    let asking = async {
        let mut stream = TcpStream::connect(process.http()).await?;
        stream.write_all(&asked.bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let report = || format!("{}: {}", asked.name, String::from_utf8_lossy(&asked.bytes));
    let answer =
        timeout(ANSWERED_WITHIN, asking).await.unwrap_or_else(|_| panic!("no answer to {}", report()));
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {}", report()));
    let answer = String::from_utf8_lossy(&answer);
    let code = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    let status = answer.split("grpc-status:").nth(1).unwrap_or_default().trim_start();
    let status: String = status.chars().take_while(char::is_ascii_digit).collect();
    let is_fault =
        !matches!(code.as_bytes(), [b'2' | b'4', ..]) || ["2", "13", "14", "15"].contains(&&*status);
    // Some take more than there is, which is no fault of the daemon.
    let is_right = matches!(&*code, "501" | "504");
    assert!(!is_fault || is_right, "{answer} to {}", report());
    if status.is_empty() { code } else { format!("{code} {status}") }
}
