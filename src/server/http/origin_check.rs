//! What pages in a browser may not do: ask in the name of whoever looks at them.
//!
//! A browser sends requests of any page to any address, those of this machine too. CORS keeps answers from pages; these
//! rules keep the requests themselves away:
//!
//! 1. What changes something is refused when it comes from a page of another origin that the configuration does not list.
//! 2. A server without tokens that listens on this machine only answers under names of this machine: an address, or
//!    `localhost`. So no page reaches it by a name that its owner points at this machine (DNS rebinding).

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::RequestState;
use crate::error::{Error, ErrorCode, Result};

/// Lets a request in, or not.
///
/// # Errors
/// `permission_denied` naming the origin or the host.
pub(super) fn check(app: &RequestState, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let listed = &app.config().cors_origins;
    let host = host_of(uri, headers);
    let origin = headers.get(header::ORIGIN).filter(|origin| !listed.contains(origin));
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(origin) = origin
        && changes
        && !is_own(origin, host)
    {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        return Err(Error::new(ErrorCode::PermissionDenied, format!("pages of origin {origin:?} may change nothing"))
            .with_hint("http.cors_origins lists the origins that may"));
    }
    if app.config().local_names_only
        && !app.0.gate.asks()
        && let Some(host) = host
        && !is_local(host)
        && !listed.iter().any(|origin| is_own(origin, Some(host)))
    {
        return Err(Error::new(ErrorCode::PermissionDenied, format!("{host:?} is no name of this machine"))
            .with_hint("ask 127.0.0.1 or localhost, list the origin in http.cors_origins, or create a token"));
    }
    Ok(())
}

/// Name and port that a request is for.
fn host_of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let said = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    uri.authority().map(Authority::as_str).or(said)
}

/// Whether an origin is that of the server itself.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, own)| own);
    own.is_some() && own == host
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_addresses_and_localhost() {
        for local in ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "localhost:1", "LOCALHOST", "a.localhost"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["example.com", "localhost.example.com", "127.0.0.1.example.com:80", "?", "", "a b", "[::1"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
