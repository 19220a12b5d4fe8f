//! REST over HTTP: translation between requests and the verbs of [`Service`], and nothing else.
//!
//! The only module that knows axum. Every verb runs on a blocking thread; no handler touches a file or a map.

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
use crate::server::blocking::{carried, panicked, too_long};
use crate::server::settings::{count, millis, small, staged_files};
use crate::server::tls_stream::Tls;
use crate::service::{Permit, PermitKind, Service};
pub use listen::{serve, serve_health};
pub use not_ready::serve_opening;
pub use openapi::openapi_json;
pub use problem::{PROBLEM, Problem};

/// Limits of the REST face. Every one has an end.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Longest body of a write, once decoded.
    pub body_bytes_max: u64,
    /// Bytes of all bodies being received or written at one time.
    pub ingest_bytes_max: u64,
    /// Rows of a JSON answer when no limit is given.
    pub json_rows_default: u64,
    /// Most rows of a JSON answer.
    pub json_rows_max: u64,
    /// Most answers under way at one time.
    pub reads_max: usize,
    /// Longest wait for one of them to end.
    pub slot_wait: Duration,
    /// Most connections at one time; the one that did nothing for longest makes room for the next.
    pub connections_max: usize,
    /// Bodies that wait in a file of their own at one time; more are refused as `overloaded`.
    pub staged_files_max: usize,
    /// Most requests under way on one connection of HTTP/2.
    pub connection_streams_max: u32,
    /// How many times longer than it was sent a compressed body may become.
    pub expansion_max: u64,
    /// Longest wait for the whole head of a request.
    pub header_timeout: Duration,
    /// Longest wait for the next request of a connection.
    pub idle_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub body_idle: Duration,
    /// Longest wait for a whole body.
    pub body_whole: Duration,
    /// Longest time a client may take no byte of an answer.
    pub stall: Duration,
    /// How long open requests may go on after the shutdown was asked for.
    pub drain: Duration,
    /// Longest request target.
    pub uri_bytes_max: usize,
    /// Bytes of all request headers.
    pub header_bytes_max: usize,
    /// How connections are secured.
    pub tls: Tls,
    /// Origins whose pages may ask from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Whether a server without tokens answers under names of this machine alone.
    pub local_names_only: bool,
}

impl HttpConfig {
    /// What the settings give, secured so.
    pub fn of(config: &Config, tls: Tls) -> Self {
        let http = &config.http;
        Self {
            body_bytes_max: http.body_bytes_max,
            ingest_bytes_max: http.ingest_bytes_max,
            json_rows_default: http.json_rows_default,
            json_rows_max: http.json_rows_max,
            reads_max: count(http.reads_max),
            slot_wait: millis(http.reads_wait_ms),
            connections_max: count(http.connections_max),
            staged_files_max: staged_files(count(http.connections_max)),
            connection_streams_max: small(http.connection_streams_max),
            expansion_max: http.expansion_max,
            header_timeout: millis(http.header_timeout_ms),
            idle_timeout: millis(http.idle_timeout_ms),
            body_idle: millis(http.body_idle_ms),
            body_whole: millis(http.body_timeout_ms),
            stall: millis(http.stall_timeout_ms),
            drain: millis(config.limits.drain_timeout_ms),
            uri_bytes_max: count(http.uri_bytes_max),
            header_bytes_max: count(http.header_bytes_max),
            tls,
            // They were looked at when the settings were read.
            cors_origins: http.cors_origins.iter().filter_map(|text| cors::origin(text).ok()).collect(),
            local_names_only: false,
        }
    }
}

impl Default for HttpConfig {
    /// That of the settings.
    fn default() -> Self {
        Self::of(&Config::default(), Tls::off())
    }
}

/// What requests share before it is known who asks.
#[derive(Clone, Debug)]
struct RequestState(Arc<HttpShared>);

#[derive(Debug)]
struct HttpShared {
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: HttpConfig,
    ingest: Arc<Semaphore>,
    /// Permits of bodies that wait in a file of their own.
    staged_files: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// Paths that everybody may ask: they tell nothing of what is stored.
const OPEN_PATHS: [&str; 5] = ["/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/"];
/// Paths that are answered however much is under way.
const WATCH_PATHS: [&str; 2] = ["/health", "/metrics"];
const OPEN_BELOW: &str = "/docs/";

impl RequestState {
    fn new(service: Arc<Service>, gate: Arc<Authenticator>, config: HttpConfig) -> Self {
        let ingest = body::budget(config.ingest_bytes_max);
        let reads = Arc::new(Semaphore::new(config.reads_max));
        let staged_files = Arc::new(Semaphore::new(config.staged_files_max));
        Self(Arc::new(HttpShared { service, gate, config, ingest, staged_files, reads }))
    }

    fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    fn is_draining(&self) -> bool {
        self.0.service.is_draining()
    }

    /// The verbs as whoever sent this request may use them, and its place among those under way.
    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(Arc<Service>, Option<Permit>)> {
        if OPEN_PATHS.contains(&path) || path.starts_with(OPEN_BELOW) {
            return Ok((Arc::clone(&self.0.service), None));
        }
        let values = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let service = self.0.service.as_caller(self.0.gate.admit(values)?);
        // Who watches the server is to see that it has too much to do.
        let held = if WATCH_PATHS.contains(&path) { None } else { Some(service.take(PermitKind::Request)?) };
        Ok((service, held))
    }
}

/// What a handler works with: only a request that was let in gets one.
#[derive(Clone, Debug)]
struct AppState {
    shared: Arc<HttpShared>,
    service: Arc<Service>,
}

impl FromRequestParts<RequestState> for AppState {
    type Rejection = problem::ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, gated: &RequestState) -> std::result::Result<Self, Self::Rejection> {
        let service = parts.extensions.get::<Arc<Service>>().cloned();
        let service = service.ok_or_else(|| Error::internal("a request came past the gate"))?;
        Ok(Self { shared: Arc::clone(&gated.0), service })
    }
}

impl AppState {
    fn config(&self) -> &HttpConfig {
        &self.shared.config
    }

    fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Runs a verb on a blocking thread; a panic in it becomes `internal`.
    async fn blocking<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let patience = self.service.limits().request_timeout;
        tokio::time::timeout(patience, self.to_the_end(verb)).await.unwrap_or_else(|_| Err(too_long(patience)))
    }

    /// The same for work that takes as long as there are rows: it has no end but its own. It holds the place of its
    /// request, also when nobody waits for it any more.
    async fn to_the_end<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        match tokio::task::spawn_blocking(carried(move || verb(&service))).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(panicked(error.into_panic().as_ref())),
            Err(_) => Err(Error::new(crate::ErrorCode::NotReady, "the server is stopping")),
        }
    }
}

/// Health and metrics alone.
fn health_router(service: Arc<Service>, gate: Arc<Authenticator>, config: HttpConfig) -> Router {
    let app = RequestState::new(service, gate, config);
    let edge = axum::middleware::from_fn_with_state(app.clone(), middleware::edge);
    routes::health().with_state(app).fallback(routes::nothing_here).layer(edge)
}

/// The whole face as one router.
pub fn router(service: Arc<Service>, gate: Arc<Authenticator>, config: HttpConfig) -> Router {
    let origins = config.cors_origins.clone();
    let app = RequestState::new(service, gate, config);
    let (router, _) = routes::all().split_for_parts();
    let edge = axum::middleware::from_fn_with_state(app.clone(), middleware::edge);
    let router = router.with_state(app).merge(routes::docs()).fallback(routes::nothing_here).layer(edge);
    // Outermost: a browser asks whether it may before it sends a token.
    if origins.is_empty() { router } else { router.layer(cors::layer(origins)) }
}
