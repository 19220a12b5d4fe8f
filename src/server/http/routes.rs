//! The routes: those of the table of operations, and the interactive documentation.

use std::sync::OnceLock;

use axum::Router;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, on};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::openapi::openapi_json;
use super::params::{NoParams, Params};
use super::problem::ProblemResponse;
use super::state::RequestState;
use super::{monitoring, ordinary, read, sql, write};
use crate::error::{Error, ErrorCode};
use crate::service::operations::{Dispatch, Entry, OPERATIONS, Route};

/// Paths of health and metrics.
const MONITORING: [&str; 4] = ["/health", "/health/live", "/health/ready", "/metrics"];

/// All routes.
pub fn all() -> Router<RequestState> {
    router(|_| true)
}

/// Routes of health and metrics.
pub fn health() -> Router<RequestState> {
    router(|route| MONITORING.contains(&route.path))
}

fn router(is_served: fn(&Route) -> bool) -> Router<RequestState> {
    let routes = OPERATIONS.iter().flat_map(|entry| entry.spec.rest.bindings().iter().map(move |route| (entry, route)));
    let served = routes.filter(|(_, route)| is_served(route));
    let handled = served.filter_map(|(entry, route)| Some((route, handler(entry, route)?)));
    handled.fold(Router::new(), |router, (route, handler)| {
        route.served_paths().iter().fold(router, |router, path| router.route(path, handler.clone()))
    })
}

fn handler(entry: &'static Entry, route: &'static Route) -> Option<MethodRouter<RequestState>> {
    match &entry.call {
        Dispatch::Json(call) => Some(ordinary::json(route, call)),
        Dispatch::Job(call) => Some(ordinary::job(route, call)),
        Dispatch::Special => special(route),
    }
}

/// The handler of a route with code of its own.
fn special(route: &Route) -> Option<MethodRouter<RequestState>> {
    let method = ordinary::filter(route.method);
    Some(match route.id {
        "readKlines" | "readScalars" | "readRows" => on(method, read::read),
        "readMany" => on(method, read::read_many),
        "queryRows" => on(method, read::query),
        "runSql" => on(method, sql::sql),
        "writeKlines" | "writeScalars" | "writeRows" => on(method, write::write),
        "writeMany" => on(method, write::write_many),
        "mergeKlines" | "mergeScalars" | "mergeRows" => on(method, write::merge),
        "getLiveness" => on(method, monitoring::live),
        "getMetrics" => on(method, monitoring::scrape),
        "getOpenapi" => on(method, openapi),
        _ => return None,
    })
}

async fn openapi(uri: Uri) -> Result<Response, ProblemResponse> {
    static TEXT: OnceLock<String> = OnceLock::new();
    Params::of::<NoParams>(&uri)?;
    let text: &'static str = TEXT.get_or_init(openapi_json);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response())
}

/// The interactive documentation, served from the program itself.
pub fn docs() -> Router {
    SwaggerUi::new("/docs").config(Config::new(["/openapi.json"])).into()
}

/// Fallback for unknown paths.
pub async fn not_found(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let error = if path.starts_with("/v1/") && path.contains("//") {
        Error::invalid(format!("{path} has an empty segment"))
            .with_hint("a symbol, timeframe, category or name must have at least one character")
    } else {
        Error::new(ErrorCode::NotFound, format!("{path} does not exist ({method})"))
            .with_hint("GET /openapi.json lists the paths")
    };
    ProblemResponse(error).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_the_table_has_a_handler() {
        for entry in OPERATIONS {
            for route in entry.spec.rest.bindings() {
                assert!(handler(entry, route).is_some(), "{}", route.id);
            }
        }
    }
}
