//! Tokens (JWT, RFC 7519) that an identity provider signs: whoever shows one is who it says, as long as it says.
//!
//! Nothing in a token decides how it is checked: that is the business of the key which signed it, and of this node's terms (RFC 8725).
//!
//! | module | what it holds |
//! |---|---|
//! | `claims` | what a token says, and whether that counts here |
//! | `jwk` | the keys that may sign |
//! | `source` | the file or the address where they are told |
//! | `token` | tokens as they are written |

mod claims;
mod jwk;
mod source;
mod token;

use std::time::Duration;

use allidb_cluster::Pace;
use allidb_index::model::Timestamp;

pub use claims::TokenTerms;
pub use source::{KeySetError, KeySetPlace};

use super::Identity;
use source::KeySource;
use token::Token;

/// How often at most the keys are asked for anew because a token names one that is not among them.
const ASKS_EVERY: Duration = Duration::from_secs(5);

/// Who is let in by tokens.
pub struct Tokens {
    terms: TokenTerms,
    source: KeySource,
    asking: Pace,
}

/// Why a token is good for nothing. Only the audit log is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this is neither a key nor a token")]
    Garbled,
    #[error("the token is of a type that is not for this")]
    Type,
    #[error("the token has critical extensions")]
    Critical,
    #[error("no key that may sign is the one that the token names")]
    UnknownKey,
    #[error("the token is not signed as its key signs")]
    Algorithm,
    #[error("the signature is wrong")]
    Signature,
    #[error("the claim `{0}` is missing, or is none")]
    Claim(&'static str),
    #[error("the claim that is to name the tenant is missing, or is none")]
    Tenant,
    #[error("the claim that is to name the role is missing, or is none")]
    Role,
    #[error("the claim that names collections is no list of patterns, or the role sees all or none")]
    Collections,
    #[error("another one has issued the token")]
    Issuer,
    #[error("the token is for somebody else")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not good for anything yet")]
    Early,
}

impl Tokens {
    /// Those of which the keys stand there. To be called within a runtime; the keys are read again as long as this lives.
    ///
    /// # Errors
    /// If a file of keys cannot be read. An address that does not answer is asked again.
    pub fn new(place: KeySetPlace, terms: TokenTerms) -> Result<Self, KeySetError> {
        Ok(Self { terms, source: KeySource::open(place)?, asking: Pace::of(ASKS_EVERY) })
    }

    /// Who shows this.
    pub(super) async fn holder(&self, shown: &str, now: Timestamp) -> Result<Identity, Refused> {
        let token = Token::parse(shown)?;
        let mut keys = self.source.keys();
        // Of those that come meanwhile none waits: whoever makes up names of keys would fill the server with them.
        if !keys.has(token.key_id()) && self.asking.is_due() {
            self.source.refresh().await;
            keys = self.source.keys();
        }
        let key = keys.find(token.key_id(), token.algorithm())?;
        if !key.has_signed(&token) {
            return Err(Refused::Signature);
        }
        claims::identity(token.claims(), &self.terms, now)
    }
}
