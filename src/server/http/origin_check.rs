//! Protection against requests that pages in a browser send on behalf of their user.
//!
//! A browser sends requests of any page to any address, also of this host. CORS keeps responses from pages; these rules
//! reject the requests themselves:
//!
//! 1. A change requested by a page of another origin is rejected unless the configuration lists that origin.
//! 2. A server without tokens that listens on local addresses only accepts local host names: an address, or
//!    `localhost`. So no page reaches it by a name that its owner points at this host (DNS rebinding).

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::state::RequestState;
use crate::error::{Error, ErrorCode, Result};

/// Accepts or rejects a request.
///
/// # Errors
/// `permission_denied` naming the origin or the host.
pub(super) fn check(app: &RequestState, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let listed = &app.0.cors_origins;
    let host = host_of(uri, headers);
    let origin = headers.get(header::ORIGIN).filter(|origin| !listed.contains(origin));
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(origin) = origin
        && changes
        && !is_same_origin(origin, host)
    {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        return Err(Error::new(ErrorCode::PermissionDenied, format!("pages of origin {origin:?} may not change data"))
            .with_hint("add the origin to http.cors_origins"));
    }
    if app.config().local_names_only
        && !app.0.auth.requires_token()
        && let Some(host) = host
        && !is_local(host)
        && !listed.iter().any(|origin| is_same_origin(origin, Some(host)))
    {
        return Err(Error::new(ErrorCode::PermissionDenied, format!("{host:?} is not a local host name"))
            .with_hint("use 127.0.0.1 or localhost, add the origin to http.cors_origins, or create a token"));
    }
    Ok(())
}

/// Host and port that a request is addressed to.
fn host_of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    uri.authority().map(Authority::as_str).or(host)
}

/// Whether an origin is that of the server itself.
fn is_same_origin(origin: &HeaderValue, host: Option<&str>) -> bool {
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some() && authority == host
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
    fn local_names_are_addresses_and_localhost() {
        for local in ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "localhost:1", "LOCALHOST", "a.localhost"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["example.com", "localhost.example.com", "127.0.0.1.example.com:80", "?", "", "a b", "[::1"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
