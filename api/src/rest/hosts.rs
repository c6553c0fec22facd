//! Pages of other sites that let their own name lead to this daemon (DNS rebinding). A browser takes both for one site then, and says no `Origin` when they
//! ask; but it says by which name it has found the daemon, and none of theirs is answered to.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, StatusCode, Uri, header, uri::Authority};
use tonic::Code;

use super::{
    error::{self, Refusal},
    origins::Origins,
};

/// Lets through what is asked of an address, of this machine, or of a host of an origin that is named. Browsers always say what it is.
pub(crate) async fn check(State(named): State<Origins>, request: Request, next: Next) -> Response {
    let said = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if said.chain(authority).all(|host| is_known(host, &named)) {
        return next.run(request).await;
    }
    error::refuse(
        Refusal { code: StatusCode::FORBIDDEN, status: Code::PermissionDenied },
        "without keys this host is not known by that name, which the page of anybody may have; ask for its address, or \
         name it in `listen.origins` as http://NAME:PORT",
    )
}

fn is_known(host: &[u8], named: &[String]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_of = |origin: &String| {
        origin
            .parse::<Uri>()
            .is_ok_and(|origin| origin.host().is_some_and(|of| of.eq_ignore_ascii_case(host)))
    };
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok() || named.iter().any(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_its_addresses_and_the_names_it_was_given() {
        let named = ["https://ours.example".to_owned(), "http://db:7001".to_owned()];
        for known in [
            "localhost",
            "localhost:7001",
            "LocalHost:7001",
            "127.0.0.1:7001",
            "10.1.2.3",
            "[::1]:7001",
            "[2001:db8::1]",
            "ours.example:7001",
            "Ours.Example",
            "db:80",
        ] {
            assert!(is_known(known.as_bytes(), &named), "{known}");
        }
        for unknown in [
            "",
            "theirs.example:7001",
            "x.ours.example",
            "ours.example.theirs.example",
            "localhost.theirs.example",
            "127.0.0.1.theirs.example",
            "localhost@theirs.example",
            "127.0.0.1/theirs.example",
            "dbs",
            "\u{e4}",
        ] {
            assert!(!is_known(unknown.as_bytes(), &named), "{unknown}");
        }
    }
}
