//! Authorisation by method, route and the key in the path. It is checked before parameters, headers and body are read,
//! so that a caller without permission learns nothing else. Series named only in a body are checked by the operations
//! of the service, which repeat every check.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::Method;
use percent_encoding::percent_decode_str;

use crate::error::Result;
use crate::service::Caller;
use crate::service::operations::{ANY_KEY, OPERATIONS, Route, Spec};
use crate::types::SeriesKey;

/// The operation of each path and method.
static SPECS: LazyLock<HashMap<(String, &str), &Spec>> = LazyLock::new(|| {
    let specs = OPERATIONS.iter().map(|entry| &entry.spec);
    let routes = specs.flat_map(|spec| spec.rest.bindings().iter().map(move |route| (spec, route)));
    let paths = |(spec, route): (&'static Spec, &'static Route)| {
        route.served_paths().into_iter().map(move |path| ((path, route.method.name()), spec))
    };
    routes.flat_map(paths).collect()
});

/// Rejects a caller without permission for this route, or for the series in the path.
///
/// # Errors
/// `permission_denied`.
pub fn check(caller: &Caller, method: &Method, route: &str, path: &str) -> Result<()> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let Some(spec) = SPECS.get(&(route.to_owned(), method)) else { return Ok(()) };
    if spec.whole_store {
        return caller.require_store(spec.scope);
    }
    match key(route, path) {
        Some(key) => caller.require_series(spec.scope, &key),
        None => caller.require_scope(spec.scope),
    }
}

/// The series in a path; `None` when the route has none, and for an invalid key, which is not a series.
fn key(route: &str, path: &str) -> Option<SeriesKey> {
    let is_any = route.contains(ANY_KEY);
    if !route.contains("{timeframe}") && !is_any {
        return None;
    }
    let parts = route.split('/').zip(path.split('/')).filter(|(name, _)| name.starts_with('{'));
    let parts: Vec<_> = parts.map(|(_, part)| percent_decode_str(part).decode_utf8().ok()).collect::<Option<_>>()?;
    if is_any {
        return SeriesKey::parse(&parts.join("/")).ok();
    }
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
        for path in ["/v1/series/greeks%2FSPX%2FC5000/rows", "/v1/series/greeks/SPX/C5000/rows"] {
            let count = path.split('/').count() - 4;
            let route = ["", "/v1/series/{key}/rows", "", "/v1/series/{key}/{word1}/{word2}/rows"][count];
            assert_eq!(key(route, path).unwrap().to_string(), "greeks/SPX/C5000");
        }
        assert_eq!(key("/v1/snapshots/{name}", "/v1/snapshots/x"), None);
    }
}
