//! Responses while the store is being opened, with the progress of the open.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use super::listen::serve_router;
use super::problem::{ProblemResponse, render};
use super::reply;
use super::settings::HttpSettings;
use crate::error::{Error, ErrorCode, Result};
use crate::server::ids::{REQUEST_ID, random_id};
use crate::server::tls_stream::Tls;
use crate::service::{OpenProgress, StatusReply};

/// How long responses may continue once the store is open. Short: each only says that it is not.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Serves until `opened` completes: `/health/live` with 200, every other path with `not_ready`.
///
/// # Errors
/// None of consequence: the listener is used again to serve the store.
pub async fn serve_opening(
    listener: TcpListener,
    opening: Arc<OpenProgress>,
    config: &HttpSettings,
    tls: Tls,
    opened: impl Future<Output = ()>,
) -> Result<()> {
    let app = Router::new().fallback(move |request: Request| {
        let opening = Arc::clone(&opening);
        async move { respond(&request, &opening) }
    });
    serve_router(listener, app, config, tls, DRAIN_TIMEOUT, opened, || {}).await
}

fn respond(request: &Request, opening: &OpenProgress) -> Response {
    let (method, path, id) = (request.method().clone(), request.uri().path(), random_id());
    let response = if path == "/health/live" {
        reply::json(StatusCode::OK, &StatusReply::OK).unwrap_or_else(|e| ProblemResponse(e).into_response())
    } else {
        let detail = format!("the store is being opened: {opening}");
        ProblemResponse(Error::new(ErrorCode::NotReady, detail).with_hint("retry shortly")).into_response()
    };
    let mut response = render(response, &method, path, &id);
    let headers = response.headers_mut();
    // The next request must reach the server that then runs.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}
