//! The outermost middleware of every request: its id, head limits, authentication, panics, and rendered errors.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;

use super::problem::{ProblemResponse, render};
use super::state::RequestState;
use super::{authorisation, origin_check};
use crate::error::{Error, ErrorCode};
use crate::server::blocking::{PERMIT, panicked};
use crate::server::ids::{REQUEST_ID, request_id};
use crate::server::{AUDIT, metrics};
use crate::service::Caller;
use crate::service::operations::documented_path;

/// Handles a request.
pub async fn handle(State(app): State<RequestState>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let (method, version) = (request.method().clone(), request.version());
    let path = request.uri().path().to_string();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let started = Instant::now();
    let span = tracing::info_span!("request", id);
    let admitted = head_limits(&app, &request)
        .and_then(|()| origin_check::check(&app, &method, request.uri(), request.headers()))
        .and_then(|()| app.admit(&path, request.headers()));
    let allowed = match (&admitted, &route) {
        (Ok((service, _)), Some(route)) => authorisation::check(service.caller(), &method, route.as_str(), &path),
        _ => Ok(()),
    };
    let known_caller = admitted.as_ref().map(|(service, _)| service.caller().clone()).ok();
    let caller = admitted.as_ref().map(|(service, _)| service.caller().id.clone()).unwrap_or_default();
    // Archiving a dataset drops its snapshot, retention deletes rows.
    let may_drop = method == Method::DELETE || method == Method::PATCH;
    let is_audited = may_drop || (path.starts_with("/v1/admin/") && method != Method::GET);
    let mut audit = is_audited.then(|| AuditRecord {
        id: id.clone(),
        caller,
        method: method.clone(),
        target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        status: 0,
    });
    let mut permit = None;
    let prepared = admitted.and_then(|admitted| allowed.map(|()| admitted)).map(|(service, held_permit)| {
        permit = held_permit.map(Arc::new);
        request.extensions_mut().insert(service);
    });
    let response = match prepared {
        Err(error) => ProblemResponse(error).into_response(),
        Ok(()) => {
            let response = AssertUnwindSafe(next.run(request).instrument(span)).catch_unwind();
            let outcome = match &permit {
                Some(permit) => PERMIT.scope(Arc::clone(permit), response).await,
                None => response.await,
            };
            outcome.unwrap_or_else(|panic| ProblemResponse(panicked(panic.as_ref())).into_response())
        }
    };
    let response = redact(response, known_caller.as_ref(), &id);
    let mut response = render(response, &method, &path, &id);
    if let Some(held_permit) = permit {
        // Held until its body is sent.
        response.extensions_mut().insert(held_permit);
    }
    if version < Version::HTTP_2 && app.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"fastk\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    let status = response.status().as_u16();
    if status == 401 {
        metrics::rejected("rest");
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    metrics::http_request(&documented_path(route), known_method(&method), status, started.elapsed());
    if let Some(audit) = &mut audit {
        audit.status = status;
    }
    tracing::debug!(request_id = id, %method, path, status, elapsed_us = started.elapsed().as_micros(), "request done");
    response
}

/// Redacts the error of a failed response for its caller; the log has the complete error.
fn redact(mut response: Response, caller: Option<&Caller>, id: &str) -> Response {
    let Some(caller) = caller.filter(|caller| caller.is_limited()) else { return response };
    if let Some(error) = response.extensions_mut().remove::<Error>() {
        let redacted = caller.redact(error.clone());
        if redacted.detail() != error.detail() {
            tracing::error!(request_id = id, %error, "the error was redacted for a limited token");
        }
        response.extensions_mut().insert(redacted);
    }
    response
}

/// Audit log line of a request that deletes or administers, logged however it ends; status 0 when the client left
/// first.
struct AuditRecord {
    id: String,
    caller: Arc<str>,
    method: Method,
    target: String,
    status: u16,
}

impl Drop for AuditRecord {
    fn drop(&mut self) {
        let AuditRecord { id, caller, method, target, status } = self;
        tracing::info!(target: AUDIT, request_id = *id, caller = &**caller, %method, asked = target, status, "audit");
    }
}

/// The metric label of a method.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.iter().zip(NAMES).find(|(known, _)| *known == method).map_or("other", |(_, name)| name)
}

fn head_limits(app: &RequestState, request: &Request) -> Result<(), Error> {
    let config = app.config();
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let found = if hosts == 0 { "no Host header".to_string() } else { format!("{hosts} Host headers") };
        return Err(Error::invalid(format!("the request has {found}"))
            .with_hint("HTTP/1.1 requires one Host header: the name and port of the server"));
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > config.uri_bytes_max {
        return Err(Error::new(
            ErrorCode::UriTooLong,
            format!("the request target has {target} bytes, the limit is {}", config.uri_bytes_max),
        ));
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers > config.header_bytes_max {
        return Err(Error::new(
            ErrorCode::HeadersTooLarge,
            format!("the request headers have {headers} bytes, the limit is {}", config.header_bytes_max),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    use std::sync::Arc;

    use super::*;
    use crate::access::Authenticator;
    use crate::server::http::problem::Problem;
    use crate::server::http::settings::HttpSettings;
    use crate::server::http::state::AppState;
    use crate::service::{Service, StoreOptions};

    async fn panicking_handler() -> &'static str {
        panic!("a secret")
    }

    #[test]
    fn a_panic_becomes_an_internal_error_without_details() {
        let root = tempfile::tempdir().unwrap();
        let service =
            Service::open(root.path(), true, StoreOptions { background_maintenance: false, ..Default::default() })
                .unwrap();
        let auth = Arc::new(Authenticator::open(root.path()).unwrap());
        let state = RequestState::new(service.clone(), auth, HttpSettings::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let layer = axum::middleware::from_fn_with_state(state.clone(), handle);
            let router = Router::new().route("/panicking_handler", get(panicking_handler)).layer(layer);
            let request = Request::get("/panicking_handler")
                .header(header::HOST, "localhost")
                .header(REQUEST_ID, "id1")
                .body(Body::empty())
                .unwrap();
            let response = router.oneshot(request).await.unwrap();
            assert_eq!((response.status().as_u16(), &response.headers()[&REQUEST_ID]), (500, &"id1".parse().unwrap()));
            let body = to_bytes(response.into_body(), 10_000).await.unwrap();
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!((problem.code.as_str(), problem.request_id.as_str()), ("internal", "id1"));
            assert!(!String::from_utf8_lossy(&body).contains("secret"));
            // A panic on a blocking thread is handled in the same way.
            let app = AppState { shared: state.0.clone(), service };
            let error = app.blocking::<(), _>(|_| panic!("a secret")).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
        });
    }
}
