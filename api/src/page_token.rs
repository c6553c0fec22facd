//! Page tokens: where a listing goes on, sealed so that only this cluster can have made it and only the same
//! question can use it.
//!
//! ```text
//! base64url( format (1 byte) ∥ key the page before ended at ∥ mac (32 bytes) )
//! mac = keyed blake3( tenant ∥ call ∥ hash of the request without page size and token ∥ format ∥ key )
//! ```

use allidb_index::model::TenantId;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use tonic::Status;

use crate::status;

const FORMAT: u8 = 1;
const MAC_BYTES: usize = 32;

/// A token longer than this was not made here: the longest names what 10,000 hits were, in eight bytes each.
const MAX_TOKEN_BYTES: usize = 128 << 10;

/// Makes and opens the tokens of one request.
pub(crate) struct PageTokens {
    mac: blake3::Hasher,
}

impl PageTokens {
    /// For a `request` to `call` whose page size and token were cleared: a caller may change the size of
    /// pages on the way, and nothing else.
    pub(crate) fn new(key: &[u8; 32], tenant: TenantId, call: &str, request: &impl Message) -> Self {
        let mut mac = blake3::Hasher::new_keyed(key);
        mac.update(&tenant.0.to_be_bytes());
        mac.update(blake3::hash(call.as_bytes()).as_bytes());
        // Maps are ordered in the generated types, so equal requests have equal bytes.
        mac.update(blake3::hash(&request.encode_to_vec()).as_bytes());
        Self { mac }
    }

    /// The token of the page that goes on after `key`.
    pub(crate) fn seal(&self, key: impl AsRef<[u8]>) -> String {
        let key = key.as_ref();
        let mut token = Vec::with_capacity(1 + key.len() + MAC_BYTES);
        token.push(FORMAT);
        token.extend_from_slice(key);
        let mac = self.mac_of(&token);
        token.extend_from_slice(mac.as_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The key inside; `None` for the first page.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where the token is not one that [`PageTokens::seal`] gave for the same request.
    pub(crate) fn open(&self, token: &str) -> Result<Option<String>, Status> {
        let key = self.open_bytes(token)?;
        key.map(|key| String::from_utf8(key).map_err(|_| status::bad_page_token())).transpose()
    }

    /// The same where the key is no text.
    ///
    /// # Errors
    /// As for [`PageTokens::open`].
    pub(crate) fn open_bytes(&self, token: &str) -> Result<Option<Vec<u8>>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        self.key_in(token).map(Some).ok_or_else(status::bad_page_token)
    }

    fn key_in(&self, token: &str) -> Option<Vec<u8>> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (payload, mac) = bytes.split_last_chunk::<MAC_BYTES>()?;
        // Hashes compare in constant time.
        if self.mac_of(payload) != blake3::Hash::from_bytes(*mac) {
            return None;
        }
        payload.strip_prefix(&[FORMAT]).map(<[u8]>::to_vec)
    }

    fn mac_of(&self, payload: &[u8]) -> blake3::Hash {
        self.mac.clone().update(payload).finalize()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic_types::StatusExt;

    use super::*;
    use crate::v1;

    fn request(collection: &str) -> v1::RangeScanRequest {
        v1::RangeScanRequest { collection: collection.into(), ..Default::default() }
    }

    fn tokens(tenant: u64, call: &str, collection: &str) -> PageTokens {
        PageTokens::new(&[7; 32], TenantId(tenant), call, &request(collection))
    }

    #[test]
    fn only_the_same_question_opens_a_token() {
        let token = tokens(1, "scan", "a").seal("n-1");
        assert_eq!(tokens(1, "scan", "a").open(&token).expect("our own"), Some("n-1".to_owned()));
        assert_eq!(tokens(1, "scan", "a").open("").expect("the first page"), None);
        let other_key = PageTokens::new(&[8; 32], TenantId(1), "scan", &request("a"));
        for foreign in [tokens(2, "scan", "a"), tokens(1, "list", "a"), tokens(1, "scan", "b"), other_key] {
            let status = foreign.open(&token).expect_err("foreign");
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(status.get_details_error_info().expect("info").reason, "PAGE_TOKEN");
            assert_eq!(
                status.get_details_bad_request().expect("field").field_violations[0].field,
                "page_token"
            );
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(key in ".{0,300}") {
            let tokens = tokens(1, "scan", "a");
            prop_assert_eq!(tokens.open(&tokens.seal(&key)).expect("our own"), Some(key));
        }

        #[test]
        fn a_changed_token_is_refused(key in ".{0,50}", at: prop::sample::Index, flip in 1..=255u8, cut: prop::sample::Index) {
            let tokens = tokens(1, "scan", "a");
            let token = tokens.seal(&key);
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(tokens.open(&URL_SAFE_NO_PAD.encode(&bytes)).is_err());
            let cut = cut.index(token.len() - 1) + 1;
            prop_assert!(tokens.open(&token[..cut]).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(token in ".{1,200}") {
            prop_assert!(tokens(1, "scan", "a").open(&token).is_err());
        }
    }
}
