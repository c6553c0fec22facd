//! The keys that may sign tokens: a JSON Web Key Set (RFC 7517). Each signs in one way, which its set names and no token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value as Json;

use super::{Refused, token::Token};

/// Most keys of one set.
const MAX_KEYS: usize = 256;
/// How an RSA key signs whose set does not say.
const USUAL_OF_RSA: &str = "RS256";

/// Keys that may sign.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// How many there are beside them that are of no use.
    pub(super) left_out: usize,
}

/// A key that may sign.
pub(super) struct Key {
    id: Option<String>,
    /// The one way in which it signs.
    algorithm: &'static str,
    public: PublicKey,
}

enum PublicKey {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8>, how: &'static RsaParameters },
    Curve(UnparsedPublicKey<Vec<u8>>),
}

#[derive(Deserialize)]
struct SetRecord {
    keys: Vec<Json>,
}

#[derive(Deserialize)]
struct KeyRecord {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    pub(super) const EMPTY: Self = Self { keys: Vec::new(), left_out: 0 };

    /// Those of a set that can be used: signatures of other kinds may be among them, and are left out.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: SetRecord = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; it may have {MAX_KEYS}", set.keys.len()));
        }
        let all = set.keys.len();
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).collect();
        Ok(Self { left_out: all - keys.len(), keys })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is one of this id. Without an id: whether there is one at all.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| id.is_none() || key.id.as_deref() == id)
    }

    /// The key that signs so and has this id. What names none is of the only key, where there is but one.
    pub(super) fn find(&self, id: Option<&str>, algorithm: &str) -> Result<&Key, Refused> {
        if !self.has(id) || (id.is_none() && self.keys.len() != 1) {
            return Err(Refused::UnknownKey);
        }
        let mut named = self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id);
        named.find(|key| key.algorithm == algorithm).ok_or(Refused::Algorithm)
    }
}

impl Key {
    /// `None`: it is of no use here.
    fn read(record: Json) -> Option<Self> {
        let record: KeyRecord = serde_json::from_value(record).ok()?;
        let signs = record.r#use.as_deref().is_none_or(|of| of == "sig");
        let verifies = record.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs || !verifies {
            return None;
        }
        let (algorithm, public) = match record.kty.as_str() {
            "RSA" => rsa(&record),
            "EC" | "OKP" => curve(&record),
            _ => None,
        }?;
        Some(Self { id: record.kid, algorithm, public })
    }

    /// Whether it has signed this.
    pub(super) fn has_signed(&self, token: &Token<'_>) -> bool {
        let (signed, signature) = (token.signed(), token.signature());
        let verified = match &self.public {
            PublicKey::Rsa { modulus, exponent, how } => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(how, signed, signature)
            }
            PublicKey::Curve(key) => key.verify(signed, signature),
        };
        verified.is_ok()
    }
}

fn rsa(record: &KeyRecord) -> Option<(&'static str, PublicKey)> {
    let (algorithm, how) = match record.alg.as_deref().unwrap_or(USUAL_OF_RSA) {
        "RS256" => ("RS256", &signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => ("RS384", &signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => ("RS512", &signature::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => ("PS256", &signature::RSA_PSS_2048_8192_SHA256),
        "PS384" => ("PS384", &signature::RSA_PSS_2048_8192_SHA384),
        "PS512" => ("PS512", &signature::RSA_PSS_2048_8192_SHA512),
        _ => return None,
    };
    let (modulus, exponent) = (number(&record.n)?, number(&record.e)?);
    // What ring verifies by: 2048 to 8192 bits.
    let is_long_enough = (256..=1_024).contains(&modulus.len());
    is_long_enough.then_some((algorithm, PublicKey::Rsa { modulus, exponent, how }))
}

fn curve(record: &KeyRecord) -> Option<(&'static str, PublicKey)> {
    let (algorithm, how, length): (_, &'static dyn VerificationAlgorithm, _) =
        match (record.kty.as_str(), record.crv.as_deref()?) {
            ("EC", "P-256") => ("ES256", &ECDSA_P256_SHA256_FIXED, 32),
            ("EC", "P-384") => ("ES384", &ECDSA_P384_SHA384_FIXED, 48),
            ("OKP", "Ed25519") => ("EdDSA", &ED25519, 32),
            _ => return None,
        };
    if record.alg.as_deref().is_some_and(|named| named != algorithm) {
        return None;
    }
    let coordinate = |text: &Option<String>| bytes(text).filter(|bytes| bytes.len() == length);
    let x = coordinate(&record.x)?;
    let point = match record.kty.as_str() {
        // Uncompressed (SEC 1, 2.3.3).
        "EC" => [vec![4], x, coordinate(&record.y)?].concat(),
        _ => x,
    };
    Some((algorithm, PublicKey::Curve(UnparsedPublicKey::new(how, point))))
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}

/// A positive number, without the zeros ahead of it that some write.
fn number(text: &Option<String>) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let from = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[from..].to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: Json) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("a set")
    }

    fn found(set: &KeySet, id: Option<&str>, algorithm: &str) -> Result<&'static str, Refused> {
        set.find(id, algorithm).map(|key| key.algorithm)
    }

    #[test]
    fn each_key_signs_in_one_way() {
        let (short, long, coordinate) = ("A_".repeat(64), "A".repeat(342) + "A", "A".repeat(43));
        let modulus = URL_SAFE_NO_PAD.encode([[0, 7].as_slice(), &[7; 255]].concat());
        let rsa = |kid: &str| json!({ "kty": "RSA", "kid": kid, "n": modulus, "e": "AQAB" });
        let with = |mut key: Json, field: &str, value: Json| {
            key[field] = value;
            key
        };
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": coordinate });
        let ec = json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": coordinate, "y": coordinate });
        let keys = set(json!([
            rsa("rsa"),
            with(rsa("pss"), "alg", json!("PS384")),
            with(ed.clone(), "use", json!("sig")),
            with(ec.clone(), "key_ops", json!(["verify"])),
        ]));
        assert_eq!((keys.len(), keys.left_out), (4, 0));
        assert_eq!(found(&keys, Some("rsa"), "RS256"), Ok("RS256"));
        assert_eq!(found(&keys, Some("pss"), "PS384"), Ok("PS384"));
        assert_eq!(found(&keys, Some("ed"), "EdDSA"), Ok("EdDSA"));
        assert_eq!(found(&keys, Some("ec"), "ES256"), Ok("ES256"));
        for (id, algorithm) in [
            ("rsa", "HS256"),
            ("rsa", "none"),
            ("rsa", "RS384"),
            ("pss", "PS256"),
            ("pss", "RS256"),
            ("ec", "EdDSA"),
            ("ed", "ES256"),
            ("ec", "es256"),
        ] {
            assert_eq!(found(&keys, Some(id), algorithm), Err(Refused::Algorithm), "{id} {algorithm}");
        }
        assert_eq!(found(&keys, Some("other"), "RS256"), Err(Refused::UnknownKey));
        assert_eq!(found(&keys, None, "RS256"), Err(Refused::UnknownKey), "there are several");

        let useless = set(json!([
            { "kty": "oct", "kid": "oct", "k": short },
            with(rsa("hmac"), "alg", json!("HS256")),
            with(rsa("encrypts"), "use", json!("enc")),
            with(rsa("signs"), "key_ops", json!(["sign"])),
            with(rsa("short"), "n", json!(short)),
            with(rsa("even longer"), "n", json!(URL_SAFE_NO_PAD.encode([7; 1_025]))),
            with(rsa("zero"), "n", json!(long)),
            with(rsa("without"), "e", Json::Null),
            with(ec.clone(), "alg", json!("ES384")),
            with(ec.clone(), "crv", json!("secp256k1")),
            with(ec, "y", json!("AA")),
            with(ed, "x", json!("AA")),
            "nonsense",
        ]));
        assert_eq!((useless.len(), useless.left_out), (0, 13));
    }

    #[test]
    fn the_only_key_need_not_be_named() {
        let modulus = URL_SAFE_NO_PAD.encode([7; 256]);
        let keys = set(json!([{ "kty": "RSA", "n": modulus, "e": "AQAB" }]));
        assert_eq!(found(&keys, None, "RS256"), Ok("RS256"));
        assert_eq!(found(&keys, None, "HS256"), Err(Refused::Algorithm));
        assert_eq!(found(&keys, Some("id"), "RS256"), Err(Refused::UnknownKey));
        assert_eq!(found(&KeySet::EMPTY, None, "RS256"), Err(Refused::UnknownKey));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let most = json!({ "keys": vec![Json::Null; MAX_KEYS + 1] }).to_string();
        for wrong in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>", &most] {
            assert!(KeySet::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
