//! Authorisation by method, route and the key in the path. It is checked before parameters, headers and body are read,
//! so that a caller without permission learns nothing else. Series named only in a body are checked by the operations
//! of the service, which repeat every check.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use crate::error::Result;
use crate::service::{Caller, Scope};
use crate::types::SeriesKey;

/// Routes that concern the whole store, with the method for which they do; `None` for every method.
const STORE_ROUTES: [(&str, Option<Method>); 9] = [
    ("/metrics", None),
    ("/v1/admin/verify", None),
    ("/v1/admin/scrub", None),
    ("/v1/admin/backup", None),
    ("/v1/admin/orphans", None),
    ("/v1/admin/overlaps", None),
    ("/v1/snapshots", Some(Method::POST)),
    ("/v1/snapshots/{name}", Some(Method::DELETE)),
    ("/v1/datasets", Some(Method::POST)),
];

/// Rejects a caller without permission for this route, or for the series in the path.
///
/// # Errors
/// `permission_denied`.
pub fn check(caller: &Caller, method: &Method, route: &str, path: &str) -> Result<()> {
    let Some(scope) = scope(method, route) else { return Ok(()) };
    let is_match = |(store_route, only): &(&str, Option<Method>)| {
        *store_route == route && only.as_ref().is_none_or(|only| only == method)
    };
    if STORE_ROUTES.iter().any(is_match) {
        return caller.require_store(scope);
    }
    match key(route, path) {
        Some(key) => caller.require_series(scope, &key),
        None => caller.require_scope(scope),
    }
}

/// The scope that a route requires; `None` for methods that no route has.
fn scope(method: &Method, route: &str) -> Option<Scope> {
    let is_rows = route.starts_with("/v1/klines/") || route.starts_with("/v1/scalars/");
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PATCH | Method::DELETE
            if route.starts_with("/v1/admin/") =>
        {
            Some(Scope::Admin)
        }
        Method::GET | Method::HEAD => Some(Scope::Read),
        Method::POST if route == "/v1/query" => Some(Scope::Read),
        Method::DELETE if !is_rows => Some(Scope::Admin),
        Method::POST | Method::PATCH | Method::DELETE => Some(Scope::Write),
        _ => None,
    }
}

/// The series in a path; `None` when the route has none, and for an invalid key, which is not a series.
fn key(route: &str, path: &str) -> Option<SeriesKey> {
    if !route.contains("{timeframe}") {
        return None;
    }
    let parts = route.split('/').zip(path.split('/')).filter(|(name, _)| name.starts_with('{'));
    let parts: Vec<_> = parts.map(|(_, part)| percent_decode_str(part).decode_utf8().ok()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [symbol, timeframe] => SeriesKey::kline(symbol, timeframe).ok(),
        [category, symbol, timeframe, name] => SeriesKey::scalar(category, symbol, timeframe, name).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_from_paths_like_the_routes_do() {
        let kline = |path| key("/v1/klines/{symbol}/{timeframe}", path).map(|key| key.to_string());
        assert_eq!(kline("/v1/klines/%5EGSPC/1d").as_deref(), Some("kline/^GSPC/1d"));
        assert_eq!(kline("/v1/klines/%FF/1d"), None);
        assert_eq!(kline("/v1/klines/.a/1d"), None);
        let scalar = key("/v1/coverage/scalar/{category}/{symbol}/{timeframe}/{name}", "/v1/coverage/scalar/a/b/c/d");
        assert_eq!(scalar.unwrap().to_string(), "scalar/a/b/c/d");
        let merge = key("/v1/klines/{symbol}/{timeframe}/merge", "/v1/klines/A/1m/merge");
        assert_eq!(merge.unwrap().to_string(), "kline/A/1m");
        assert_eq!(key("/v1/snapshots/{name}", "/v1/snapshots/x"), None);
    }
}
