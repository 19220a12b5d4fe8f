//! Builds REST requests from the table of operations.

use hyper::Method;
use serde_json::{Map, Value};

use super::remote::{Call, json_body, segment};
use crate::error::{Error, Result};
use crate::service::operations::{ANY_KEY, BodyKind, Method as RouteMethod, Route, Spec};
use crate::types::SeriesKey;
use crate::types::key::{KLINE, SCALAR};

/// A request as JSON.
pub fn value<T: serde::Serialize>(request: &T) -> Result<Value> {
    serde_json::to_value(request).map_err(|error| Error::internal(format!("request as JSON: {error}")))
}

/// The condition on the version of a series in a request.
pub fn condition(request: &Value) -> Option<(SeriesKey, u64)> {
    let version = request.get("if_version")?.as_u64()?;
    Some((SeriesKey::parse(request.get("series")?.as_str()?).ok()?, version))
}

/// The request to a server.
pub fn call(spec: &Spec, request: &Value) -> Result<Call> {
    let missing = || Error::internal(format!("REST has no request for {}", spec.name));
    let fields = request.as_object().ok_or_else(missing)?;
    let series = fields.get("series").and_then(Value::as_str).map(SeriesKey::parse).transpose()?;
    let fits = |route: &&Route| fits(route, fields, series.as_ref());
    let route = spec.rest.bindings().iter().find(fits).ok_or_else(missing)?;
    let method = match route.method {
        RouteMethod::Get => Method::GET,
        RouteMethod::Post => Method::POST,
        RouteMethod::Patch => Method::PATCH,
        RouteMethod::Delete => Method::DELETE,
    };
    let mut call = Call::new(method, path(route, fields, series.as_ref()));
    for name in route.query {
        match fields.get(*name) {
            // The server has the same defaults.
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::String(text)) => call = call.param(name, text),
            // Numbers, and calendars as JSON.
            Some(other) => call = call.param(name, &other.to_string()),
        }
    }
    if route.success.iter().any(|(status, _)| *status == 503) {
        call = call.accept_unavailable();
    }
    match route.body {
        BodyKind::None | BodyKind::Rows => Ok(call),
        BodyKind::Whole | BodyKind::Optional(_) => json_body(call, request),
        BodyKind::Field(name) => json_body(call, fields.get(name).unwrap_or(&Value::Null)),
    }
}

/// Whether a request matches a route: it has the kind of the route and a value for each path parameter.
fn fits(route: &Route, fields: &Map<String, Value>, series: Option<&SeriesKey>) -> bool {
    if route.fixed.is_some_and(|(name, value)| fields.get(name).and_then(Value::as_str) != Some(value)) {
        return false;
    }
    if route.names_series() {
        return series.is_some_and(|key| match key.kind() {
            _ if route.path.contains(ANY_KEY) => true,
            SCALAR => route.path.contains("{category}"),
            KLINE => !route.path.contains("{category}"),
            _ => false,
        });
    }
    placeholders(route).all(|name| name == "version" || fields.contains_key(name))
}

fn placeholders(route: &Route) -> impl Iterator<Item = &'static str> {
    route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path(route: &Route, fields: &Map<String, Value>, series: Option<&SeriesKey>) -> String {
    let mut key_parts = series.map_or("", SeriesKey::as_str).split('/').skip(1);
    let mut path = String::new();
    for part in route.path.split('/').skip(1) {
        path.push('/');
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            path.push_str(part);
            continue;
        };
        let text = match fields.get(name) {
            _ if part == ANY_KEY => {
                let words: Vec<String> =
                    series.map_or("", SeriesKey::as_str).split('/').map(|word| segment(word).to_string()).collect();
                path.push_str(&words.join("/"));
                continue;
            }
            _ if route.names_series() => key_parts.next().unwrap_or_default().to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            // No version means the latest.
            None => "latest".to_owned(),
        };
        path.push_str(&segment(&text).to_string());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::operations::{DescribeDataset, ListDefinitions, Operation, ReadCoverage};

    fn target(spec: &Spec, request: Value) -> String {
        call(spec, &request).unwrap().target().to_owned()
    }

    #[test]
    fn the_fields_of_a_request_are_in_the_path_and_the_query_string() {
        let scalar = serde_json::json!({"series": "scalar/risk/^GSPC/1d/var", "limit": 5, "start": "2024-01-01"});
        assert_eq!(
            target(&ReadCoverage::SPEC, scalar),
            "/v1/coverage/scalar/risk/%5EGSPC/1d/var?start=2024-01-01&limit=5"
        );
        let kline = serde_json::json!({"series": "kline/A/1m"});
        assert_eq!(target(&ReadCoverage::SPEC, kline), "/v1/coverage/kline/A/1m");
        let latest = serde_json::json!({"kind": "dataset", "name": "x"});
        assert_eq!(target(&DescribeDataset::SPEC, latest), "/v1/datasets/x/versions/latest");
        let factors = serde_json::json!({"kind": "factor", "name": "x", "limit": null});
        assert_eq!(target(&ListDefinitions::SPEC, factors), "/v1/factors?name=x");
    }
}
