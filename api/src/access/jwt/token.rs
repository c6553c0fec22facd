//! Tokens as they are written: a header, claims and a signature, each in base64 (JWS compact serialization, RFC 7515).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

use super::Refused;

/// The longest token that is looked at, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// A token of which nothing is believed yet.
pub(super) struct Token<'t> {
    header: Header,
    /// What the signature is of.
    signed: &'t str,
    claims: Vec<u8>,
    signature: Vec<u8>,
}

/// What else stands in headers, such as keys and addresses of keys, is not looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(shown: &'t str) -> Result<Self, Refused> {
        if shown.len() > MAX_BYTES {
            return Err(Refused::Garbled);
        }
        let (signed, signature) = shown.rsplit_once('.').ok_or(Refused::Garbled)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Garbled)?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Garbled);
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| Refused::Garbled)?;
        // One of another type is for something else, such as to end a session, though the same key has signed it.
        let is_ours = |typ: &String| {
            ["jwt", "at+jwt", "application/at+jwt"].iter().any(|of| typ.eq_ignore_ascii_case(of))
        };
        if !header.typ.as_ref().is_none_or(is_ours) {
            return Err(Refused::Type);
        }
        if header.crit.is_some() {
            return Err(Refused::Critical);
        }
        Ok(Self { header, signed, claims: bytes(claims)?, signature: bytes(signature)? })
    }

    /// How it says that it is signed.
    pub(super) fn algorithm(&self) -> &str {
        &self.header.alg
    }

    /// By which key it says that it is signed.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// What its signature is of.
    pub(super) fn signed(&self) -> &[u8] {
        self.signed.as_bytes()
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// What it says, which is JSON.
    pub(super) fn claims(&self) -> &[u8] {
        &self.claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(header: &str) -> Result<String, Refused> {
        let token = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(header));
        Token::parse(&token).map(|token| token.algorithm().to_owned())
    }

    #[test]
    fn headers_are_read_strictly() {
        assert_eq!(parsed(r#"{"alg":"ES256"}"#), Ok("ES256".to_owned()));
        for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
            assert_eq!(
                parsed(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#)),
                Ok("ES256".to_owned()),
                "{typ}"
            );
        }
        assert_eq!(parsed(r#"{"alg":"ES256","typ":"logout+jwt"}"#), Err(Refused::Type));
        assert_eq!(parsed(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#), Err(Refused::Critical));
        for garbled in ["", "null", "[]", "{}", r#"{"alg":1}"#, r#"{"alg":"none","alg":"ES256"}"#] {
            assert_eq!(parsed(garbled), Err(Refused::Garbled), "{garbled}");
        }
    }

    #[test]
    fn what_is_not_three_parts_of_base64_is_no_token() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let long = "A".repeat(MAX_BYTES);
        for garbled in [
            String::new(),
            header.clone(),
            format!("{header}.e30"),
            format!("{header}.e30.AA.AA"),
            format!("{header}.e30.AA="),
            format!("{header}.e30.A"),
            format!("{header}.e30.AB"),
            format!("{header}.e3+0.AA"),
            format!("{header}.{long}.AA"),
        ] {
            assert_eq!(Token::parse(&garbled).err(), Some(Refused::Garbled), "{garbled}");
        }
    }
}
