//! What a token says, and whether that counts here.

use std::{sync::Arc, time::Duration};

use allidb_index::model::{CollectionSet, Role, TenantId, Timestamp};
use serde_json::{Map, Value as Json};

use super::Refused;
use crate::access::Identity;

/// Characters of a token's subject that are noted.
const MAX_SUBJECT: usize = 128;

/// What tokens have to say to count here.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenTerms {
    /// Who has issued them (`iss`).
    pub issuer: String,
    /// Whom they are for, among others (`aud`).
    pub audience: String,
    /// The claim that says whose data is meant: a number.
    pub tenant_claim: String,
    /// The claim that says what their holder may do: the name of a role.
    pub role_claim: String,
    /// The claim that says which collections alone a reader or writer sees, if it is there: a list of patterns.
    pub collections_claim: String,
    /// By how much clocks may differ.
    pub leeway: Duration,
}

/// Who shows a token that says this, whose signature is right.
pub(super) fn identity(claims: &[u8], terms: &TokenTerms, now: Timestamp) -> Result<Identity, Refused> {
    let claims: Map<String, Json> = serde_json::from_slice(claims).map_err(|_| Refused::Garbled)?;
    if claims.get("iss").and_then(Json::as_str) != Some(&terms.issuer) {
        return Err(Refused::Issuer);
    }
    let is_ours = |audience: &Json| audience.as_str() == Some(&terms.audience);
    let is_for_us = match claims.get("aud") {
        Some(Json::Array(audiences)) => audiences.iter().any(is_ours),
        Some(audience) => is_ours(audience),
        None => false,
    };
    if !is_for_us {
        return Err(Refused::Audience);
    }
    let end = later(date(&claims, "exp")?.ok_or(Refused::Claim("exp"))?, terms.leeway);
    if now >= end {
        return Err(Refused::Expired);
    }
    if date(&claims, "nbf")?.is_some_and(|begin| later(now, terms.leeway) < begin) {
        return Err(Refused::Early);
    }
    let tenant = claims.get(&terms.tenant_claim).and_then(Json::as_u64).filter(|tenant| *tenant > 0);
    let role = claims.get(&terms.role_claim).and_then(Json::as_str).and_then(Role::named);
    let subject = claims.get("sub").and_then(Json::as_str).unwrap_or_default();
    let subject: String = subject.chars().take(MAX_SUBJECT).collect();
    let role = role.ok_or(Refused::Role)?;
    Ok(Identity {
        tenant: TenantId(tenant.ok_or(Refused::Tenant)?),
        key: Some(Arc::from(format!("token:{subject}"))),
        role: Some(role),
        collections: collections(&claims, &terms.collections_claim, role)?,
        expire_at: Some(end),
    })
}

/// Which collections somebody of this role sees. An empty list is not taken as none: somebody may have meant no collection.
fn collections(claims: &Map<String, Json>, name: &str, role: Role) -> Result<CollectionSet, Refused> {
    let Some(told) = claims.get(name) else { return Ok(CollectionSet::ALL) };
    let patterns = told.as_array().filter(|patterns| !patterns.is_empty()).ok_or(Refused::Collections)?;
    let pattern = |pattern: &Json| pattern.as_str().map(str::to_owned).ok_or(Refused::Collections);
    let patterns = patterns.iter().map(pattern).collect::<Result<_, _>>()?;
    let found = CollectionSet::of(name, patterns);
    let found = found.and_then(|found| role.check_collections(name, &found).map(|()| found));
    found.map_err(|_| Refused::Collections)
}

/// Seconds since 1970, which may have a fraction.
fn date(claims: &Map<String, Json>, name: &'static str) -> Result<Option<Timestamp>, Refused> {
    let Some(date) = claims.get(name) else { return Ok(None) };
    let seconds = date.as_f64().ok_or(Refused::Claim(name))?;
    // What no clock reaches is as far as they go.
    Ok(Some(Timestamp((seconds * 1e6) as i64)))
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn judged(change: impl FnOnce(&mut Json)) -> Result<Identity, Refused> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "allidb", "sub": "ada", "exp": NOW + 60, "nbf": NOW - 60,
            "tenant": 7, "role": "writer",
        });
        change(&mut claims);
        let terms = TokenTerms {
            issuer: "https://id.example".into(),
            audience: "allidb".into(),
            tenant_claim: "tenant".into(),
            role_claim: "role".into(),
            collections_claim: "collections".into(),
            leeway: Duration::from_secs(10),
        };
        identity(claims.to_string().as_bytes(), &terms, Timestamp(NOW * 1_000_000))
    }

    #[test]
    fn a_token_says_who_shows_it() {
        let expected = Identity {
            tenant: TenantId(7),
            key: Some("token:ada".into()),
            role: Some(Role::Writer),
            collections: CollectionSet::ALL,
            expire_at: Some(Timestamp((NOW + 70) * 1_000_000)),
        };
        assert_eq!(judged(|_| {}), Ok(expected.clone()));
        assert_eq!(judged(|claims| claims["aud"] = json!(["other", "allidb"])), Ok(expected));
        let subject = |sub: Json| judged(|claims| claims["sub"] = sub).expect("good").key;
        assert_eq!(subject(json!(7)), Some("token:".into()));
        assert_eq!(subject(json!("ä".repeat(1_000))), Some(format!("token:{}", "ä".repeat(128)).into()));
    }

    #[test]
    fn a_token_may_be_for_some_collections() {
        let of = |role: &str, told: Json| {
            judged(|claims| {
                claims["role"] = json!(role);
                claims["collections"] = told;
            })
        };
        let seen = of("reader", json!(["news", "team-*"])).expect("good").collections;
        assert_eq!([seen.has("news"), seen.has("team-a"), seen.has("other")], [true, true, false]);
        let wrong = [
            json!([]),
            json!("news"),
            json!([7]),
            json!(["*"]),
            json!([""]),
            json!(["a*b"]),
            Json::Null,
            json!({}),
        ];
        for wrong in wrong {
            assert_eq!(of("writer", wrong.clone()), Err(Refused::Collections), "{wrong}");
        }
        for role in ["admin", "operator"] {
            assert_eq!(of(role, json!(["news"])), Err(Refused::Collections), "{role}");
        }
    }

    #[test]
    fn times_count_to_the_leeway() {
        let at = |name: &'static str, date: Json| judged(|claims| claims[name] = date).map(drop);
        assert_eq!(at("exp", json!(NOW - 9)), Ok(()));
        assert_eq!(at("exp", json!(NOW - 10)), Err(Refused::Expired));
        assert_eq!(at("exp", json!(NOW as f64 - 9.5)), Ok(()));
        assert_eq!(at("exp", json!(-1e300)), Err(Refused::Expired));
        assert_eq!(at("exp", json!(1e300)), Ok(()));
        assert_eq!(at("nbf", json!(NOW + 10)), Ok(()));
        assert_eq!(at("nbf", json!(NOW + 11)), Err(Refused::Early));
        for wrong in [json!("1700000060"), Json::Null, json!([]), json!(true)] {
            assert_eq!(at("exp", wrong.clone()), Err(Refused::Claim("exp")), "{wrong}");
            assert_eq!(at("nbf", wrong.clone()), Err(Refused::Claim("nbf")), "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        let expected = [
            ("iss", Refused::Issuer),
            ("aud", Refused::Audience),
            ("exp", Refused::Claim("exp")),
            ("tenant", Refused::Tenant),
            ("role", Refused::Role),
        ];
        for (name, refused) in expected {
            let without =
                judged(|claims| drop(claims.as_object_mut().and_then(|claims| claims.remove(name))));
            assert_eq!(without, Err(refused), "without {name}");
        }
        let wrong = [
            ("iss", json!("https://id.example/"), Refused::Issuer),
            ("iss", json!(["https://id.example"]), Refused::Issuer),
            ("aud", json!("allidb2"), Refused::Audience),
            ("aud", json!([["allidb"]]), Refused::Audience),
            ("aud", json!([]), Refused::Audience),
            ("tenant", json!(0), Refused::Tenant),
            ("tenant", json!(-7), Refused::Tenant),
            ("tenant", json!(7.5), Refused::Tenant),
            ("tenant", json!("7"), Refused::Tenant),
            ("role", json!("root"), Refused::Role),
            ("role", json!("Writer"), Refused::Role),
            ("role", json!(["writer"]), Refused::Role),
        ];
        for (name, value, refused) in wrong {
            assert_eq!(judged(|claims| claims[name] = value.clone()), Err(refused), "{name} {value}");
        }
        assert_eq!(judged(|claims| *claims = json!(["iss"])), Err(Refused::Garbled));
    }
}
