//! CORS: pages of other origins, none by default, those in the configuration otherwise.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::error::{Error, Result};
use crate::server::ids::REQUEST_ID;

/// How long a browser caches a preflight response.
const MAX_AGE: Duration = Duration::from_secs(600);

/// An origin as sent by browsers: scheme, host and port, without a path.
///
/// # Errors
/// `invalid_argument` naming the text; `*` is not allowed, since responses need a token.
pub fn origin(text: &str) -> Result<HeaderValue> {
    let invalid = || {
        Error::invalid(format!("{text:?} is not an origin"))
            .with_hint("such as https://charts.example.com or http://127.0.0.1:5173")
    };
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(invalid)?;
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b);
    if rest.is_empty() || !rest.bytes().all(legal) {
        return Err(invalid());
    }
    HeaderValue::from_str(text).map_err(|_| invalid())
}

/// Allows pages of these origins to send requests and read responses.
pub(super) fn layer(origins: Vec<HeaderValue>) -> CorsLayer {
    let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect::<Vec<_>>();
    let mut request_headers =
        vec![header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH, header::IF_NONE_MATCH, REQUEST_ID];
    request_headers.extend(named(&["idempotency-key"]));
    let mut exposed_headers = vec![header::ETAG, header::LOCATION, header::LINK, REQUEST_ID];
    exposed_headers.extend(named(&[
        "fastk-version",
        "fastk-commit",
        "fastk-truncated",
        "fastk-stats",
        "idempotency-replayed",
    ]));
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(request_headers)
        .expose_headers(exposed_headers)
        .max_age(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_host_and_port() {
        for good in ["http://127.0.0.1:5173", "https://charts.example.com", "http://[::1]:80", "http://localhost"] {
            assert_eq!(origin(good).unwrap(), good);
        }
        for bad in
            ["*", "", "null", "charts.example.com", "https://", "https://a/b", "https://a/", "HTTPS://A", "https://a b"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
