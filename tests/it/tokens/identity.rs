//! An identity provider on loopback: keys of each kind, the tokens that they sign, and the address where they are told.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    },
};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

/// ring makes none: this one is for tests and nothing else.
const RSA: &[u8] = include_bytes!("rsa-2048.pk8");

/// All ways in which tokens may be signed.
pub(super) const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// A key that signs tokens.
pub(super) struct Signer {
    pub(super) id: &'static str,
    pub(super) algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Pair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key"))
}

fn ed() -> Pair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    Pair::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key"))
}

impl Signer {
    /// One that nobody has yet, but for RSA, of which there is one.
    pub(super) fn new(id: &'static str, algorithm: &'static str) -> Self {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(RSA).expect("a key")), encoding)
        };
        let pair = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => ed(),
            other => panic!("nobody signs by {other}"),
        };
        Self { id, algorithm, pair }
    }

    /// As it stands in a set of keys.
    pub(super) fn public(&self) -> Json {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.pair {
            Pair::Rsa(pair, _) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": text(&n), "e": text(&e) })
            }
            Pair::Ecdsa(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
        };
        key["kid"] = self.id.into();
        key["alg"] = self.algorithm.into();
        key["use"] = "sig".into();
        key
    }

    /// The header that its tokens have.
    pub(super) fn header(&self) -> Json {
        json!({ "alg": self.algorithm, "kid": self.id, "typ": "JWT" })
    }

    /// A token that says this.
    pub(super) fn token(&self, claims: &Json) -> String {
        self.sign(&self.header(), claims)
    }

    /// The same with another header, which may be wrong.
    pub(super) fn sign(&self, header: &Json, claims: &Json) -> String {
        let signed = unsigned(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, signed.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Pair::Ecdsa(pair) => pair.sign(&random, signed.as_bytes()).expect("signed").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        with_signature(&signed, &signature)
    }
}

/// A token without its signature.
pub(super) fn unsigned(header: &Json, claims: &Json) -> String {
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}

pub(super) fn with_signature(signed: &str, signature: &[u8]) -> String {
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A set of the keys of these.
pub(super) fn set<'s>(signers: impl IntoIterator<Item = &'s Signer>) -> String {
    json!({ "keys": signers.into_iter().map(Signer::public).collect::<Vec<_>>() }).to_string()
}

/// Where keys are told.
pub(super) struct Provider {
    pub(super) url: String,
    /// What is told; `None`: that it fails.
    told: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Provider {
    pub(super) async fn start(set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let (told, asked) = (Arc::new(Mutex::new(Some(set))), Arc::new(AtomicUsize::new(0)));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&told), Arc::clone(&asked)));
        Self { url, told, asked, _serving: serving }
    }

    pub(super) fn tell(&self, set: Option<String>) {
        *self.told.lock().expect("no panic") = set;
    }

    /// How often it was asked.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One request a connection.
async fn serve(listener: TcpListener, told: Arc<Mutex<Option<String>>>, asked: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => break,
            }
        }
        asked.fetch_add(1, Ordering::SeqCst);
        let told = told.lock().expect("no panic").clone();
        let (code, body) = told.map_or(("503 Service Unavailable", String::new()), |set| ("200 OK", set));
        let head = format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        // Whoever asks may be gone.
        stream.write_all((head + &body).as_bytes()).await.ok();
    }
}
