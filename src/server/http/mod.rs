//! REST over HTTP: protocol translation between requests and the operations of [`Service`].
//!
//! The only module that depends on axum. Every operation runs on a blocking thread; no handler touches a file or a map.

mod authorisation;
mod body;
mod content_encoding;
pub mod cors;
mod etag;
mod examples;
mod extract;
mod head_refusal;
mod idempotency;
mod listen;
mod middleware;
mod not_ready;
mod openapi;
mod origin_check;
mod params;
mod problem;
mod reply;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use tokio::sync::Semaphore;

use crate::access::Authenticator;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::server::blocking::{deadline_exceeded, panicked, with_request_context};
use crate::server::settings::{count, millis, small, staged_files};
use crate::server::tls_stream::Tls;
use crate::service::{Permit, PermitKind, Service};
pub use listen::{serve, serve_health};
pub use not_ready::serve_opening;
pub use openapi::openapi_json;
pub use problem::{PROBLEM, Problem};

/// Limits of the REST interface.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Maximum size of a decompressed body of a write.
    pub body_bytes_max: u64,
    /// Maximum bytes of all bodies being received or written at one time.
    pub ingest_bytes_max: u64,
    /// Rows of a JSON response without a limit.
    pub json_rows_default: u64,
    /// Maximum number of rows of a JSON response.
    pub json_rows_max: u64,
    /// Maximum number of concurrent reads.
    pub reads_max: usize,
    /// How long a read waits for one of these permits.
    pub read_queue_timeout: Duration,
    /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
    pub connections_max: usize,
    /// Maximum number of bodies staged in files at one time; more are rejected as `overloaded`.
    pub staged_files_max: usize,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub connection_streams_max: u32,
    /// Maximum ratio of the decompressed to the compressed size of a body.
    pub decompression_ratio_max: u64,
    /// Maximum time to receive the head of a request.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Maximum pause between two reads of a body.
    pub body_idle_timeout: Duration,
    /// Maximum time to receive a body.
    pub body_timeout: Duration,
    /// How long a client may read nothing of a response.
    pub stall_timeout: Duration,
    /// How long open requests may continue after the shutdown was requested.
    pub drain_timeout: Duration,
    /// Maximum length of a request target.
    pub uri_bytes_max: usize,
    /// Maximum size of the headers of a request.
    pub header_bytes_max: usize,
    /// TLS settings.
    pub tls: Tls,
    /// Origins whose pages may send requests from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Whether a server without tokens accepts only local host names.
    pub local_names_only: bool,
}

impl HttpLimits {
    /// The limits in the configuration, with TLS settings.
    pub fn of(config: &Config, tls: Tls) -> Self {
        let http = &config.http;
        Self {
            body_bytes_max: http.body_bytes_max,
            ingest_bytes_max: http.ingest_bytes_max,
            json_rows_default: http.json_rows_default,
            json_rows_max: http.json_rows_max,
            reads_max: count(http.reads_max),
            read_queue_timeout: millis(http.read_queue_timeout_ms),
            connections_max: count(http.connections_max),
            staged_files_max: staged_files(count(http.connections_max)),
            connection_streams_max: small(http.connection_streams_max),
            decompression_ratio_max: http.decompression_ratio_max,
            header_timeout: millis(http.header_timeout_ms),
            idle_timeout: millis(http.idle_timeout_ms),
            body_idle_timeout: millis(http.body_idle_timeout_ms),
            body_timeout: millis(http.body_timeout_ms),
            stall_timeout: millis(http.stall_timeout_ms),
            drain_timeout: millis(config.limits.drain_timeout_ms),
            uri_bytes_max: count(http.uri_bytes_max),
            header_bytes_max: count(http.header_bytes_max),
            tls,
            // Validated when the configuration was read.
            cors_origins: http.cors_origins.iter().filter_map(|text| cors::origin(text).ok()).collect(),
            local_names_only: false,
        }
    }
}

impl Default for HttpLimits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self::of(&Config::default(), Tls::off())
    }
}

/// State shared by requests before they are authenticated.
#[derive(Clone, Debug)]
struct RequestState(Arc<HttpShared>);

#[derive(Debug)]
struct HttpShared {
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: HttpLimits,
    ingest: Arc<Semaphore>,
    /// Permits of bodies staged in files.
    staged_files: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// Paths without authentication: they reveal nothing about stored data.
const PUBLIC_PATHS: [&str; 5] = ["/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/"];
/// Paths exempt from the limit on concurrent requests.
const MONITORING_PATHS: [&str; 2] = ["/health", "/metrics"];
const PUBLIC_PREFIX: &str = "/docs/";

impl RequestState {
    fn new(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpLimits) -> Self {
        let ingest = body::budget(config.ingest_bytes_max);
        let reads = Arc::new(Semaphore::new(config.reads_max));
        let staged_files = Arc::new(Semaphore::new(config.staged_files_max));
        Self(Arc::new(HttpShared { service, auth, config, ingest, staged_files, reads }))
    }

    fn config(&self) -> &HttpLimits {
        &self.0.config
    }

    fn is_draining(&self) -> bool {
        self.0.service.is_draining()
    }

    /// Authenticates a request: the service with the permissions of its caller, and its permit.
    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(Arc<Service>, Option<Permit>)> {
        if PUBLIC_PATHS.contains(&path) || path.starts_with(PUBLIC_PREFIX) {
            return Ok((Arc::clone(&self.0.service), None));
        }
        let values = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let service = self.0.service.as_caller(self.0.auth.admit(values)?);
        // Monitoring must work on an overloaded server.
        let permit =
            if MONITORING_PATHS.contains(&path) { None } else { Some(service.acquire_permit(PermitKind::Request)?) };
        Ok((service, permit))
    }
}

/// State of a handler: exists only for authenticated requests.
#[derive(Clone, Debug)]
struct AppState {
    shared: Arc<HttpShared>,
    service: Arc<Service>,
}

impl FromRequestParts<RequestState> for AppState {
    type Rejection = problem::ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &RequestState) -> std::result::Result<Self, Self::Rejection> {
        let service = parts.extensions.get::<Arc<Service>>().cloned();
        let service = service.ok_or_else(|| Error::internal("a request was not authenticated"))?;
        Ok(Self { shared: Arc::clone(&state.0), service })
    }
}

impl AppState {
    fn config(&self) -> &HttpLimits {
        &self.shared.config
    }

    fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Runs an operation on a blocking thread; a panic in it becomes `internal`.
    async fn blocking<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let timeout = self.service.limits().request_timeout;
        tokio::time::timeout(timeout, self.blocking_without_timeout(operation))
            .await
            .unwrap_or_else(|_| Err(deadline_exceeded(timeout)))
    }

    /// Like [`blocking`](Self::blocking) without a timeout, for work whose duration depends on the number of rows. It
    /// holds the permit of its request, even after the client is gone.
    async fn blocking_without_timeout<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        match tokio::task::spawn_blocking(with_request_context(move || operation(&service))).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(panicked(error.into_panic().as_ref())),
            Err(_) => Err(Error::new(crate::ErrorCode::NotReady, "the server is shutting down")),
        }
    }
}

/// A router with health and metrics alone.
fn health_router(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpLimits) -> Router {
    let app = RequestState::new(service, auth, config);
    let middleware = axum::middleware::from_fn_with_state(app.clone(), middleware::handle);
    routes::health().with_state(app).fallback(routes::not_found).layer(middleware)
}

/// The complete REST router.
pub fn router(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpLimits) -> Router {
    let origins = config.cors_origins.clone();
    let app = RequestState::new(service, auth, config);
    let (router, _) = routes::all().split_for_parts();
    let middleware = axum::middleware::from_fn_with_state(app.clone(), middleware::handle);
    let router = router.with_state(app).merge(routes::docs()).fallback(routes::not_found).layer(middleware);
    // Outermost: a browser sends preflight requests without a token.
    if origins.is_empty() { router } else { router.layer(cors::layer(origins)) }
}
