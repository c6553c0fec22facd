//! Who is let in by tokens of an identity provider, and which tokens let in nobody.

mod identity;

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use allidb_api::v1::{
    self, collections_client::CollectionsClient, entities_client::EntitiesClient, keys_client::KeysClient,
};
use ring::hmac;
use serde_json::{Value as Json, json};
use tonic::{Code, Request, Status};

use crate::process::{Process, eventually};
use identity::{ALGORITHMS, Provider, Signer, set, unsigned, with_signature};

const ISSUER: &str = "https://id.example/";
const AUDIENCE: &str = "allidb";

/// What all are told whose key or token is good for nothing.
const REFUSAL: &str = "the key is not known, has expired or was revoked";

/// A daemon that takes tokens whose keys are told there.
async fn start(place: (&str, &str)) -> Process {
    let settings = [
        ("ALLIDB__ACCESS__KEYS_REQUIRED", "true"),
        ("ALLIDB__JWT__ISSUER", ISSUER),
        ("ALLIDB__JWT__AUDIENCE", AUDIENCE),
        ("ALLIDB__JWT__TENANT_CLAIM", "https://allidb.example/tenant"),
        ("ALLIDB__JWT__LEEWAY", "1s"),
        place,
    ];
    let mut process = Process::of(settings.into_iter().map(|(name, value)| (name.into(), value.into())));
    process.restart().await;
    process
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs()
}

/// What a token says that lets in.
fn claims(tenant: u64, role: &str) -> Json {
    json!({
        "iss": ISSUER, "aud": ["other", AUDIENCE], "sub": "ada", "exp": now() + 600, "iat": now(),
        "https://allidb.example/tenant": tenant, "role": role,
    })
}

fn with(mut claims: Json, name: &str, value: Json) -> Json {
    claims[name] = value;
    claims
}

fn without(mut claims: Json, name: &str) -> Json {
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

/// A request that shows this.
fn showing<T>(message: T, shown: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {shown}").parse().expect("a header"));
    request
}

async fn count(process: &Process, shown: &str) -> Result<u64, Status> {
    let request = v1::CountRequest { collection: "things".into(), ..Default::default() };
    let counted = EntitiesClient::new(process.client().channel).count(showing(request, shown)).await;
    counted.map(|counted| counted.into_inner().count)
}

async fn create_collection(process: &Process, shown: &str) -> Result<(), Status> {
    let space =
        v1::Space { name: "v".into(), dimension: 2, metric: v1::Metric::Cosine.into(), ..Default::default() };
    let collection = v1::Collection { name: "things".into(), spaces: vec![space], ..Default::default() };
    let request = v1::CreateCollectionRequest { collection: Some(collection) };
    CollectionsClient::new(process.client().channel)
        .create_collection(showing(request, shown))
        .await
        .map(drop)
}

/// What becomes of a call with an empty message.
async fn code_of(process: &Process, path: &str, shown: &str) -> Code {
    let mut client = tonic::client::Grpc::new(process.client().channel);
    client.ready().await.expect("it listens");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client.unary(showing((), shown), path.parse().expect("a path"), codec).await;
    answer.err().map_or(Code::Ok, |status| status.code())
}

fn assert_refused(answer: Result<u64, Status>, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, REFUSAL), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_who_calls_and_what_it_may() {
    let signers = ALGORITHMS.map(|algorithm| Signer::new(algorithm, algorithm));
    let provider = Provider::start(set(&signers)).await;
    let process = start(("ALLIDB__JWT__JWKS_URL", &provider.url)).await;
    let [admin, operator] = ["admin", "operator"].map(|role| signers[8].token(&claims(7, role)));
    create_collection(&process, &admin).await.expect("an admin's");
    for signer in &signers {
        let counted = count(&process, &signer.token(&claims(7, "reader"))).await;
        assert_eq!(counted.expect("let in"), 0, "{}", signer.algorithm);
        // Of another tenant: there is no such collection.
        let counted = count(&process, &signer.token(&claims(8, "reader"))).await;
        assert_eq!(counted.expect_err("not theirs").code(), Code::NotFound, "{}", signer.algorithm);
    }
    let methods = [
        ("Entities/Count", "rwa"),
        ("Entities/Put", "wa"),
        ("Collections/CreateCollection", "a"),
        ("Maintenance/ListWorkers", "o"),
    ];
    for (method, allowed) in methods {
        for role in ["reader", "writer", "admin", "operator"] {
            let token = signers[6].token(&claims(7, role));
            let code = code_of(&process, &format!("/allidb.v1.{method}"), &token).await;
            let may = allowed.contains(&role[..1]);
            assert_ne!(code, Code::Unauthenticated, "{method} by a {role}");
            assert_eq!(code != Code::PermissionDenied, may, "{method} by a {role}: {code:?}");
        }
    }

    // A key that a token makes ends with it.
    let end = now() + 300;
    let brief = signers[8].token(&with(claims(7, "admin"), "exp", json!(end)));
    let make = async |seconds: Option<u64>| {
        let expire_at = seconds.map(|seconds| (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into());
        let request = v1::CreateKeyRequest {
            name: "somebody".into(),
            role: v1::Role::Reader.into(),
            expire_at,
            ..Default::default()
        };
        let made = KeysClient::new(process.client().channel).create_key(showing(request, &brief)).await;
        made.map(drop).map_err(|status| status.code())
    };
    assert_eq!(make(None).await, Err(Code::PermissionDenied));
    assert_eq!(make(Some(end + 60)).await, Err(Code::PermissionDenied));
    assert_eq!(make(Some(end - 60)).await, Ok(()));

    // The log says whose calls came to what.
    assert_eq!(create_collection(&process, &admin).await.expect_err("twice").code(), Code::AlreadyExists);
    assert_eq!(count(&process, &operator).await.expect_err("no data").code(), Code::PermissionDenied);
    let noted = |words: &'static [&'static str]| {
        let log = process.log();
        log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    };
    for words in [
        &["allidb::audit", "called", "CreateCollection", "token:ada"] as &[&str],
        &["allidb::audit", "answered", "CreateCollection", "token:ada", "\"Ok\""],
        &["allidb::audit", "answered", "CreateCollection", "token:ada", "AlreadyExists"],
        &["allidb::audit", "answered", "CreateKey", "token:ada", "PermissionDenied"],
    ] {
        eventually("a line of the audit log", async || noted(words)).await;
    }
    assert!(!process.log().contains(&admin[..40]), "no token is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_right_let_in_nobody() {
    let signers = ["RS256", "ES256", "EdDSA"].map(|algorithm| Signer::new(algorithm, algorithm));
    let [rsa, ec, ed] = &signers;
    let provider = Provider::start(set(&signers)).await;
    let process = start(("ALLIDB__JWT__JWKS_URL", &provider.url)).await;
    let good = claims(7, "reader");
    create_collection(&process, &ed.token(&claims(7, "admin"))).await.expect("an admin's");
    for signer in &signers {
        assert_eq!(count(&process, &signer.token(&good)).await.expect("let in"), 0);
    }

    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    // The public key as the secret of an HMAC: whoever believes the header takes it.
    let confused = |kid: &str, secret: &[u8]| {
        let signed = unsigned(&header("HS256", kid), &good);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        with_signature(&signed, tag.as_ref())
    };
    let modulus = rsa.public()["n"].as_str().expect("a number").to_owned();
    let token = ed.token(&good);
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let claims_of_another = ed.token(&claims(8, "reader"));
    let swapped = claims_of_another.rsplit_once('.').expect("three parts").0;
    let stranger = Signer::new("EdDSA", "EdDSA");
    let unnamed = Signer::new("unnamed", "EdDSA");
    let tenant = "https://allidb.example/tenant";

    let algorithm = "the token is not signed as its key signs";
    let wrong_signature = "the signature is wrong";
    let garbled = "neither a key nor a token";
    let refused: Vec<(&str, String, &str)> = vec![
        ("nonsense", "nonsense".into(), garbled),
        ("two parts", signed.into(), garbled),
        ("four parts", format!("{token}.AA"), garbled),
        ("padding", format!("{token}="), garbled),
        ("unsigned", with_signature(&unsigned(&header("none", "EdDSA"), &good), b""), algorithm),
        (
            "unsigned, of nobody",
            with_signature(&unsigned(&json!({ "alg": "none" }), &good), b""),
            "no key that may sign",
        ),
        ("without a signature", format!("{signed}."), wrong_signature),
        ("half a signature", format!("{signed}.{}", &signature[..40]), wrong_signature),
        ("HMAC by the text of the public key", confused("RS256", modulus.as_bytes()), algorithm),
        ("HMAC by the set", confused("RS256", set(&signers).as_bytes()), algorithm),
        (
            "HMAC by a key on a curve",
            confused("EdDSA", ed.public()["x"].as_str().expect("text").as_bytes()),
            algorithm,
        ),
        ("another way of the same key", rsa.sign(&header("PS256", "RS256"), &good), algorithm),
        ("another key's way", ec.sign(&header("ES256", "EdDSA"), &good), algorithm),
        ("another key's name", rsa.sign(&header("ES256", "ES256"), &good), wrong_signature),
        ("a stranger of that name", stranger.token(&good), wrong_signature),
        ("claims of another token", format!("{swapped}.{signature}"), wrong_signature),
        ("a key that is not in the set", unnamed.token(&good), "no key that may sign"),
        ("no key named, of several", ed.sign(&json!({ "alg": "EdDSA" }), &good), "no key that may sign"),
        (
            "a key of its own",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "x", "jwk": ed.public() }), &good),
            "no key that may sign",
        ),
        (
            "critical extensions",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "EdDSA", "crit": ["exp"] }), &good),
            "critical extensions",
        ),
        (
            "another type",
            ed.sign(&json!({ "alg": "EdDSA", "kid": "EdDSA", "typ": "logout+jwt" }), &good),
            "of a type",
        ),
        ("no expiry", ed.token(&without(good.clone(), "exp")), "`exp` is missing"),
        (
            "an expiry that is text",
            ed.token(&with(good.clone(), "exp", json!("9999999999"))),
            "`exp` is missing",
        ),
        ("expired", ed.token(&with(good.clone(), "exp", json!(now() - 5))), "has expired"),
        ("too early", ed.token(&with(good.clone(), "nbf", json!(now() + 300))), "not good for anything yet"),
        (
            "another issuer",
            ed.token(&with(good.clone(), "iss", json!("https://id.example"))),
            "another one has issued",
        ),
        ("no issuer", ed.token(&without(good.clone(), "iss")), "another one has issued"),
        ("for others", ed.token(&with(good.clone(), "aud", json!(["other"]))), "for somebody else"),
        ("for nobody", ed.token(&without(good.clone(), "aud")), "for somebody else"),
        ("no tenant", ed.token(&without(good.clone(), tenant)), "name the tenant"),
        ("tenant 0", ed.token(&with(good.clone(), tenant, json!(0))), "name the tenant"),
        ("a tenant that is text", ed.token(&with(good.clone(), tenant, json!("7"))), "name the tenant"),
        ("no role", ed.token(&without(good.clone(), "role")), "name the role"),
        ("a role that is none", ed.token(&with(good.clone(), "role", json!("root"))), "name the role"),
    ];
    let log = async || {
        process.log().lines().filter(|line| line.contains("refused")).map(str::to_owned).collect::<Vec<_>>()
    };
    for (what, token, why) in &refused {
        let before = log().await.len();
        // Refusals are noted at a pace: it is tried until one is.
        eventually(what, async || {
            assert_refused(count(&process, token).await, what);
            log().await[before..]
                .iter()
                .any(|line| line.contains(why) && line.contains("allidb::audit"))
                .then_some(())
        })
        .await;
    }
    assert_refused(count(&process, &format!("adb_{}_{}", "a".repeat(12), "0".repeat(64))).await, "a key");
    assert_eq!(count(&process, &token).await.expect("still let in"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tokens_are_asked_for_anew_at_a_pace_and_kept_while_that_fails() {
    let [first, second] = ["first", "second"].map(|id| Signer::new(id, "ES256"));
    let reader = claims(7, "reader");
    let [of_first, of_second] = [&first, &second].map(|signer| signer.token(&reader));
    let provider = Provider::start(set([&first])).await;
    let mut process = start(("ALLIDB__JWT__JWKS_URL", &provider.url)).await;
    let is_known = async |process: &Process, token: &str| match count(process, token).await {
        Err(status) if status.code() == Code::NotFound => Some(()),
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated);
            None
        }
        Ok(_) => panic!("there is no such collection"),
    };
    eventually("the first key is known", async || is_known(&process, &of_first).await).await;

    // Whoever makes up names of keys has nobody asked more often.
    let begun = Instant::now();
    let asked = provider.asked();
    for _ in 0..200 {
        assert_refused(count(&process, &of_second).await, "not told yet");
    }
    let most = 1 + begun.elapsed().as_secs() / 5;
    assert!(
        provider.asked() - asked <= usize::try_from(most).expect("few"),
        "asked {} times",
        provider.asked() - asked
    );

    // What fails changes nothing.
    for fails in [None, Some("<html>".to_owned()), Some("{}".to_owned())] {
        provider.tell(fails);
        let asked = provider.asked();
        eventually("it is asked", async || {
            assert_refused(count(&process, &of_second).await, "not told yet");
            (provider.asked() > asked).then_some(())
        })
        .await;
        eventually("the first key is still known", async || is_known(&process, &of_first).await).await;
    }

    // A new key is known by the first token that names it, and one that is gone is not.
    provider.tell(Some(set([&second])));
    eventually("the second key is known", async || is_known(&process, &of_second).await).await;
    assert_refused(count(&process, &of_first).await, "the first key is gone");

    // A node starts without the provider, and hears of the keys when it is there.
    provider.tell(None);
    process.kill_and_restart().await;
    assert_refused(count(&process, &of_second).await, "nobody tells of it");
    provider.tell(Some(set([&second])));
    eventually("the second key is known again", async || is_known(&process, &of_second).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let [first, second] = ["first", "second"].map(|id| Signer::new(id, "EdDSA"));
    let reader = claims(7, "reader");
    let [of_first, of_second] = [&first, &second].map(|signer| signer.token(&reader));
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("jwks.json");
    let write = |set: String| {
        fs::write(dir.path().join("new"), set).expect("written");
        fs::rename(dir.path().join("new"), &file).expect("renamed");
    };
    write(set([&first]));
    let process = start(("ALLIDB__JWT__JWKS_FILE", &file.display().to_string())).await;
    let code =
        async |token: &str| count(&process, token).await.expect_err("there is no such collection").code();
    assert_eq!(code(&of_first).await, Code::NotFound);
    assert_eq!(code(&of_second).await, Code::Unauthenticated);
    write("nonsense".to_owned());
    eventually("the log says so", async || process.log().contains("holds no JSON Web Key Set").then_some(()))
        .await;
    assert_eq!(code(&of_first).await, Code::NotFound);
    write(set([&second]));
    eventually("the second key is known", async || (code(&of_second).await == Code::NotFound).then_some(()))
        .await;
    assert_eq!(code(&of_first).await, Code::Unauthenticated);

    let mut command = crate::process::command(dir.path());
    let nowhere = dir.path().join("nowhere.json").display().to_string();
    let options = [
        ("ALLIDB__JWT__JWKS_FILE", nowhere.as_str()),
        ("ALLIDB__JWT__ISSUER", ISSUER),
        ("ALLIDB__JWT__AUDIENCE", AUDIENCE),
    ];
    let ended = command.envs(options).output().expect("run");
    assert!(!ended.status.success(), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("nowhere.json"), "{ended:?}");
}
