//! REST over HTTP: translation between requests and the verbs of [`Service`], and nothing else.
//!
//! The only module that knows axum. Every verb runs on a blocking thread; no handler touches a file or a map.

mod body;
mod coding;
mod edge;
mod etag;
mod extract;
mod listen;
mod once;
mod openapi;
mod params;
mod problem;
mod reply;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::server::begin::panicked;
use crate::service::Service;
pub use edge::REQUEST_ID;
pub use listen::serve;
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
    /// Most connections at one time; more wait to be accepted.
    pub connections_max: usize,
    /// Longest wait for the whole head of a request.
    pub header_timeout: Duration,
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
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 256 << 20,
            ingest_bytes_max: 1 << 30,
            json_rows_default: 10_000,
            json_rows_max: 1_000_000,
            reads_max: 256,
            slot_wait: Duration::from_secs(5),
            connections_max: 1_024,
            header_timeout: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            body_whole: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            drain: Duration::from_secs(20),
            uri_bytes_max: 8 << 10,
            header_bytes_max: 32 << 10,
        }
    }
}

/// What the handlers share.
#[derive(Clone, Debug)]
struct App(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    service: Arc<Service>,
    config: HttpConfig,
    ingest: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl App {
    fn new(service: Arc<Service>, config: HttpConfig) -> Self {
        let ingest = body::budget(config.ingest_bytes_max);
        let reads = Arc::new(Semaphore::new(config.reads_max));
        Self(Arc::new(Shared { service, config, ingest, reads }))
    }

    fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    /// Runs a verb on a blocking thread; a panic in it becomes `internal`.
    async fn blocking<T, F>(&self, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let service = Arc::clone(&self.0.service);
        match tokio::task::spawn_blocking(move || verb(&service)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(panicked(error.into_panic().as_ref())),
            Err(_) => Err(Error::new(crate::ErrorCode::NotReady, "the server is stopping")),
        }
    }
}

/// The whole face as one router.
pub fn router(service: Arc<Service>, config: HttpConfig) -> Router {
    let app = App::new(service, config);
    let (router, _) = routes::all().split_for_parts();
    let edge = axum::middleware::from_fn_with_state(app.clone(), edge::edge);
    router.with_state(app).merge(routes::docs()).fallback(routes::nothing_here).layer(edge)
}
