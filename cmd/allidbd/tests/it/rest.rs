//! The services over HTTP: as JSON, and for pages.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use allidb_api::v1::{Role, keys_client::KeysClient};
use allidbd::{Config, Daemon, config::ByteSize};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::running::{Running, config, entity};

/// A daemon that is asked over HTTP alone.
struct Site {
    daemon: Daemon,
    dir: TempDir,
    /// Headers that go with each request.
    headers: String,
}

/// Sends a request: the code, the headers in lower case, and the body. By hand, and as HTTP/1.0, so that the answer ends with the connection.
async fn ask_bytes(
    address: SocketAddr,
    (verb, path): (&str, &str),
    headers: &str,
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("the HTTP port listens");
    let head = format!(
        "{verb} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).expect("a head is text").to_lowercase();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, head, body)
}

impl Site {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut config = config(dir.path());
        change(&mut config);
        let daemon = Daemon::start(config).await.expect("the daemon starts");
        Self { daemon, dir, headers: String::new() }
    }

    /// With a collection of one space of two dimensions.
    async fn with_collection() -> Self {
        let site = Self::start(|_| {}).await;
        let space = json!({"name": "plane", "dimension": 2, "metric": "METRIC_COSINE"});
        let made = site.post("/v1/collections", &json!({"name": "things", "spaces": [space]})).await;
        assert_eq!(made["spaces"][0]["dimension"], 2, "{made}");
        site
    }

    async fn ask(&self, verb: &str, path: &str, body: &str) -> (u16, String, Json) {
        let (code, head, body) =
            ask_bytes(self.daemon.http_addr(), (verb, path), &self.headers, body.as_bytes()).await;
        let json = serde_json::from_slice(&body);
        (code, head, json.unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&body))))
    }

    async fn get(&self, path: &str) -> Json {
        let (code, _, json) = self.ask("GET", path, "").await;
        assert_eq!(code, 200, "{path}: {json}");
        json
    }

    async fn post(&self, path: &str, body: &Json) -> Json {
        let (code, _, json) = self.ask("POST", path, &body.to_string()).await;
        assert_eq!(code, 200, "{path}: {json}");
        json
    }

    async fn put(&self, path: &str, body: &Json) -> Json {
        let (code, _, json) = self.ask("PUT", path, &body.to_string()).await;
        assert_eq!(code, 200, "{path}: {json}");
        json
    }

    /// The code, the word and the reason of an error.
    async fn refused(&self, verb: &str, path: &str, body: &str) -> (u16, String, String, Json) {
        let (code, _, json) = self.ask(verb, path, body).await;
        let error = &json["error"];
        assert_eq!(error["code"], code, "{json}");
        let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
        (code, text(&error["status"]), text(&error["details"][0]["reason"]), json)
    }

    async fn end(self) {
        self.daemon.shutdown().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_are_put_read_found_and_deleted() {
    let site = Site::with_collection().await;
    let (a, b) = ("/v1/collections/things/entities/a%2Fb%20%C3%A9", "/v1/collections/things/entities/b");
    let put = json!({"type": "thing", "attributes": {"n": 1, "x": 1.0}, "vectors": {"plane": [1.0, 0.0]}});
    let version = site.put(a, &put).await["version"].as_str().expect("a version").to_owned();
    site.put(b, &json!({"ref": {"id": "ignored"}, "attributes": {"n": 2}, "vectors": {"plane": [0.0, 1.0]}}))
        .await;

    let read = site.get(&format!("{a}?read_mask=*")).await;
    assert_eq!(read["ref"], json!({"collection": "things", "id": "a/b é"}));
    assert_eq!((&read["attributes"], &read["vectors"]), (&put["attributes"], &put["vectors"]));
    assert_eq!(read["version"], version);
    let masked = site.get(&format!("{a}?readMask=attributes.n")).await;
    assert_eq!((&masked["attributes"], &masked["type"]), (&json!({"n": 1}), &Json::Null));

    // What was read can be put.
    site.put(a, &read).await;
    let (code, _, changed) =
        site.ask("PATCH", &format!("{a}?update_mask=attributes.n"), r#"{"attributes": {"n": 3}}"#).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(site.get(a).await["attributes"], json!({"n": 3, "x": 1.0}));

    let hits = site
        .post(
            "/v1/collections/things:query",
            &json!({"seeds": [{"nearest": {"space": "plane", "vector": [1, 0.1]}}], "limit": 1}),
        )
        .await;
    assert_eq!(hits["hits"].as_array().map(Vec::len), Some(1), "{hits}");
    assert_eq!(hits["hits"][0]["entity"]["ref"]["id"], "a/b é");
    let filter = json!({"compare": {"field": "n", "operator": "LESS", "value": 3}});
    let counted = site.post("/v1/collections/things/entities:count", &json!({"filter": filter})).await;
    assert_eq!(counted, json!({"count": 1}));
    let page = site.get("/v1/collections/things/entities?page_size=1").await;
    assert_eq!(page["entities"][0]["ref"]["id"], "a/b é");
    let token = page["next_page_token"].as_str().expect("a token");
    let next = format!("/v1/collections/things/entities?page_size=1&page_token={token}");
    assert_eq!(site.get(&next).await["entities"][0]["ref"]["id"], "b");

    let name = |id: &str| json!({"collection": "things", "id": id});
    let edge = json!({"from": name("b"), "relation": "r", "to": name("a/b é"), "weight": 0.5});
    let put = site.post("/v1/edges:put", &json!({"edges": [edge]})).await;
    assert_eq!(put["results"][0]["status"], json!({"code": 0, "status": "OK"}));
    let neighbors = site.get(&format!("{b}/neighbors?relations=r&direction=DIRECTION_OUT")).await;
    assert_eq!(neighbors["neighbors"][0]["edge"]["weight"], 0.5);

    let batch = site.post("/v1/entities:batchGet", &json!({"refs": [name("b"), name("nobody")]})).await;
    assert_eq!(batch["results"][0]["entity"]["attributes"]["n"], 2);
    assert_eq!(batch["results"][1]["status"]["status"], "NOT_FOUND");
    let (code, _, deleted) = site.ask("DELETE", a, "").await;
    assert_eq!((code, &deleted["existed"]), (200, &json!(true)));
    assert_eq!(site.refused("GET", a, "").await.2, "ENTITY_NOT_FOUND");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_as_lines() {
    let site = Site::with_collection().await;
    site.put("/v1/collections/things/entities/a", &json!({})).await;
    let seeds = json!({"seeds": [{"collection": "things", "id": "a"}], "options": {"hops": 2}});
    for (path, body, last) in
        [("/v1/graph:expand", seeds.to_string(), "summary"), ("/v1/node:compact", String::new(), "finished")]
    {
        let (code, head, body) =
            ask_bytes(site.daemon.http_addr(), ("POST", path), "", body.as_bytes()).await;
        let text = String::from_utf8(body).expect("text");
        assert_eq!(code, 200, "{text}");
        assert!(head.contains("content-type: application/x-ndjson"), "{head}");
        let lines: Vec<Json> =
            text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
        let end = &lines.last().expect("a line")[last];
        assert!(end.is_object() || *end == json!(true), "{text}");
    }
    // What fails at once fails with a code.
    let refused = site.refused("POST", "/v1/graph:expand", r#"{"options": {"hops": 99}}"#).await;
    assert_eq!((refused.0, refused.1.as_str()), (400, "INVALID_ARGUMENT"));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_is_wrong_and_change_nothing() {
    let site = Site::with_collection().await;
    let a = "/v1/collections/things/entities/a";
    let version = site.put(a, &json!({"attributes": {"n": 1}})).await["version"].clone();
    let absent = format!("{a}?precondition.if_absent=true");
    let stale = format!("{a}?precondition.if_version=AAAAAAAAAAAAAAAAAAAAAA");
    let collections = "/v1/collections";
    let things = r#"{"name": "things"}"#;
    for (verb, path, body, code, status, reason) in [
        ("GET", "/v1/collections/things/entities/x", "", 404, "NOT_FOUND", "ENTITY_NOT_FOUND"),
        ("GET", "/v1/collections/nothing", "", 404, "NOT_FOUND", "UNKNOWN_COLLECTION"),
        ("GET", "/v1/nothing", "", 404, "NOT_FOUND", ""),
        ("POST", a, "", 405, "UNIMPLEMENTED", ""),
        ("POST", collections, things, 409, "ALREADY_EXISTS", "COLLECTION_EXISTS"),
        ("PUT", &absent, "{}", 409, "ALREADY_EXISTS", "ENTITY_EXISTS"),
        ("PUT", &stale, "{}", 409, "ABORTED", "VERSION_MISMATCH"),
        ("PUT", a, "{", 400, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("PUT", a, r#"{"vectors": {"plane": [1, 2, 3]}}"#, 400, "INVALID_ARGUMENT", "WRONG_DIMENSION"),
        ("GET", "/v1/collections/%ff", "", 400, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("GET", "/v1/collections?page_size=many", "", 400, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("GET", "/v1/collections?nonsense=1", "", 400, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ("DELETE", a, "{}", 400, "INVALID_ARGUMENT", "INVALID_FIELD"),
    ] {
        let refused = site.refused(verb, path, body).await;
        assert_eq!(
            (refused.0, refused.1.as_str(), refused.2.as_str()),
            (code, status, reason),
            "{verb} {path}: {}",
            refused.3
        );
    }
    let (.., json) = site.refused("PUT", a, "{\"attributes\": 5}").await;
    let violation = &json["error"]["details"][1]["field_violations"][0];
    assert_eq!(violation["field"], "entity.attributes");
    assert!(violation["description"].as_str().is_some_and(|why| why.contains("line 1, column")), "{json}");
    let (_, head, _) = site.ask("POST", a, "").await;
    assert!(head.contains("allow: put, patch, get, delete"), "{head}");
    assert_eq!(site.get(a).await["version"], version);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_garbage_are_refused() {
    let site = Site::start(|config| config.limits.message_bytes = ByteSize(50_000)).await;
    let (_, _, made) = site.ask("POST", "/v1/collections", r#"{"name": "things"}"#).await;
    assert_eq!(made["name"], "things", "{made}");
    let a = "/v1/collections/things/entities/a";
    let large = json!({"attributes": {"text": "x".repeat(70_000)}}).to_string();
    let (code, status, reason, _) = site.refused("PUT", a, &large).await;
    assert_eq!((code, status.as_str(), reason.as_str()), (413, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"));
    for garbage in
        [&b"\xff\xfe\x00\x01"[..], b"[[[[[[", b"nonsense", &[b'{'; 4_000], &[b'['; 4_000], &[0; 100]]
    {
        let (code, _, body) = ask_bytes(site.daemon.http_addr(), ("PUT", a), "", garbage).await;
        assert_eq!(code, 400, "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(site.refused("GET", a, "").await.0, 404);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_as_much_as_over_grpc() {
    let mut own = Site::start(|config| config.access.keys_required = true).await;
    assert_eq!(own.refused("GET", "/v1/collections", "").await.0, 401);
    let (_, head, _) = own.ask("GET", "/v1/collections", "").await;
    assert!(head.contains("www-authenticate: bearer"), "{head}");
    own.headers = "x-api-key: adb_nonsense_nonsense\r\n".to_owned();
    assert_eq!(own.refused("GET", "/v1/collections", "").await.1, "UNAUTHENTICATED");

    let key = fs::read_to_string(own.dir.path().join("data/admin-key")).expect("it was made");
    own.headers = format!("authorization: Bearer {}\r\n", key.trim());
    let created = own.post("/v1/collections", &json!({"name": "things"})).await;
    assert_eq!(created["name"], "things");
    let mut secrets = Vec::new();
    for (role, tenant) in [("ROLE_READER", 0), ("ROLE_WRITER", 0), ("ROLE_ADMIN", 7)] {
        let made = own.post("/v1/keys", &json!({"name": "somebody", "role": role, "tenant": tenant})).await;
        secrets.push(made["secret"].as_str().expect("a secret").to_owned());
    }
    let a = "/v1/collections/things/entities/a";
    let count = "/v1/collections/things/entities:count";
    own.headers = format!("x-api-key: {}\r\n", secrets[0]);
    assert_eq!(own.refused("PUT", a, "{}").await.0, 403);
    assert_eq!(own.post(count, &json!({})).await, json!({"count": 0}));
    // Nothing of a body is looked at before it is known who sends it.
    assert_eq!(own.refused("PUT", a, "{").await.0, 403);
    own.headers = format!("authorization: bearer {}\r\n", secrets[1]);
    own.put(a, &json!({})).await;
    assert_eq!(own.refused("GET", "/v1/cluster", "").await.1, "PERMISSION_DENIED");
    assert_eq!(own.post(count, &json!({})).await, json!({"count": 1}));
    // Another tenant has nothing of it.
    own.headers = format!("x-api-key: {}\r\n", secrets[2]);
    assert_eq!(own.refused("POST", count, "{}").await.2, "UNKNOWN_COLLECTION");
    assert_eq!(own.get("/v1/collections").await, json!({}));

    own.headers = String::new();
    let document = own.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    own.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let mut site = Site::start(|config| config.access.keys_required = true).await;
    let key = fs::read_to_string(site.dir.path().join("data/admin-key")).expect("it was made");
    site.headers = format!("x-api-key: {}\r\n", key.trim());
    let made = site.post("/v1/keys", &json!({"name": "somebody", "role": "ROLE_READER", "tenant": 7})).await;
    site.put("/v1/quotas/7", &json!({"requests_per_second": 1})).await;
    site.headers = format!("x-api-key: {}\r\n", made["secret"].as_str().expect("a secret"));
    // One a second is taken: among these, some are not.
    let mut codes = Vec::new();
    for _ in 0..50 {
        let (code, head, json) = site.ask("GET", "/v1/collections", "").await;
        if code == 429 {
            assert!(head.contains("retry-after: 1"), "{head}");
            assert_eq!(json["error"]["details"][0]["reason"], "RATE_LIMITED");
        }
        codes.push(code);
    }
    assert!(codes.contains(&200) && codes.contains(&429), "{codes:?}");
    site.end().await;
}

/// `/allidb.v1.Entities/Count` of a collection, as gRPC-web has it.
async fn count_as_a_page(address: SocketAddr, headers: &str) -> (u16, String, Vec<u8>) {
    let request = [&[0, 0, 0, 0, 8, 0x0a, 6][..], b"things"].concat();
    let headers = format!("content-type: application/grpc-web+proto\r\n{headers}");
    ask_bytes(address, ("POST", "/allidb.v1.Entities/Count"), &headers, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_speak_grpc_web() {
    let running =
        Running::start_with(|config| config.listen.origins = vec!["https://ours.example".to_owned()]).await;
    running.put(entity("a", 1)).await.expect("put");
    let http = running.daemon.http_addr();
    let (code, head, body) = count_as_a_page(http, "").await;
    assert_eq!(code, 200, "{head}");
    assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
    // A message that holds 1, then the trailers.
    assert_eq!(body[..7], [0, 0, 0, 0, 2, 0x08, 1]);
    assert_eq!(body[7], 0x80);
    assert!(String::from_utf8_lossy(&body[12..]).contains("grpc-status:0"), "{body:?}");

    let (code, head, _) = count_as_a_page(http, "origin: https://ours.example\r\n").await;
    assert_eq!(code, 200);
    assert!(head.contains("access-control-allow-origin: https://ours.example"), "{head}");
    assert_eq!(count_as_a_page(http, "origin: https://theirs.example\r\n").await.0, 403);
    running.daemon.shutdown().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_need_keys_as_everybody_does() {
    let site = Site::start(|config| config.access.keys_required = true).await;
    let (_, head, body) = count_as_a_page(site.daemon.http_addr(), "").await;
    // 16: UNAUTHENTICATED, in the headers or in the trailers.
    let told = head + &String::from_utf8_lossy(&body);
    assert!(told.contains("grpc-status: 16") || told.contains("grpc-status:16"), "{told}");
    site.end().await;
}

/// A key that was made over HTTP is one over gRPC, too.
#[tokio::test(flavor = "multi_thread")]
async fn both_ports_know_the_same() {
    let running = Running::start().await;
    let site = Site { daemon: running.daemon, dir: running.dir, headers: String::new() };
    let made = site.post("/v1/keys", &json!({"name": "somebody", "role": "ROLE_READER"})).await;
    let keys = KeysClient::new(running.channel.clone()).list_keys(allidb_api::v1::ListKeysRequest {}).await;
    let keys = keys.expect("listed").into_inner().keys;
    assert_eq!(made["key"]["id"], keys[0].id);
    assert_eq!(keys[0].role(), Role::Reader);
    let (code, _, answer) = site.ask("DELETE", &format!("/v1/keys/{}", keys[0].id), "").await;
    assert_eq!((code, answer), (200, json!({})));
    let (code, _, text) = ask_bytes(site.daemon.http_addr(), ("GET", "/metrics"), "", b"").await;
    let text = String::from_utf8(text).expect("text");
    assert_eq!(code, 200);
    assert!(text.contains("service=\"allidb.v1.Keys\",method=\"RevokeKey\",code=\"OK\""), "{text}");
    drop(running.channel);
    site.end().await;
}

/// A call over HTTP that has begun is answered before the daemon goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_finished() {
    let site = Site::with_collection().await;
    let address = site.daemon.http_addr();
    let mut begun = TcpStream::connect(address).await.expect("the HTTP port listens");
    // No other test calls this, and figures are of the whole process.
    let head = "PATCH /v1/collections/things HTTP/1.0\r\nHost: localhost\r\nContent-Length: 25\r\n\r\n\
                {\"add_indexes\": ";
    begun.write_all(head.as_bytes()).await.expect("sent");
    let under_way =
        "allidb_grpc_requests_in_flight{service=\"allidb.v1.Collections\",method=\"UpdateCollection\"} 1";
    eventually("the call is under way", async || {
        let (_, _, figures) = ask_bytes(address, ("GET", "/metrics"), "", b"").await;
        String::from_utf8_lossy(&figures).contains(under_way)
    })
    .await;
    let ending = tokio::spawn(site.end());
    eventually("nothing new is taken on", async || {
        ask_bytes(address, ("GET", "/v1/collections"), "", b"").await.0 == 503
    })
    .await;
    begun.write_all(b"[\"type\"]}").await.expect("sent");
    let mut answer = String::new();
    begun.read_to_string(&mut answer).await.expect("answered");
    assert_eq!(answer.split(' ').nth(1), Some("200"), "{answer}");
    assert!(answer.contains("\"field\":\"type\""), "{answer}");
    ending.await.expect("ended");
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
