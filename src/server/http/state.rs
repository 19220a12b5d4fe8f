//! State of the handlers: what all requests share, and the service with the permissions of one caller.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use tokio::sync::Semaphore;

use super::part_bodies::PartBodies;
use super::problem::ProblemResponse;
use super::settings::HttpSettings;
use super::{console, cors};
use crate::access::Authenticator;
use crate::error::{Error, Result};
use crate::server::blocking::{on_thread, within};
use crate::service::{Permit, PermitKind, Service};
use crate::types::width::to_usize;

/// State shared by requests before they are authenticated.
#[derive(Clone, Debug)]
pub struct RequestState(pub Arc<HttpShared>);

#[derive(Debug)]
pub struct HttpShared {
    pub service: Arc<Service>,
    pub auth: Arc<Authenticator>,
    pub config: HttpSettings,
    /// Origins whose pages may send requests from a browser.
    pub cors_origins: Vec<HeaderValue>,
    pub ingest: Arc<Semaphore>,
    /// Permits of bodies staged in files.
    pub staged_files: Arc<Semaphore>,
    pub reads: Arc<Semaphore>,
    /// Bodies that are read in parts, and the permits of their bytes.
    pub parts: PartBodies,
    pub part_budget: Arc<Semaphore>,
}

/// The ingest budget is counted in units of this many bytes.
pub const BUDGET_UNIT: u64 = 64 * 1024;

/// The permits of an ingest budget of `bytes` bytes.
pub fn budget(bytes: u64) -> Arc<Semaphore> {
    let units = to_usize(bytes.div_ceil(BUDGET_UNIT));
    Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
}

/// Paths without authentication: they reveal nothing about stored data.
const PUBLIC_PATHS: [&str; 6] = ["/", "/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/"];
/// Paths exempt from the limit on concurrent requests.
const MONITORING_PATHS: [&str; 2] = ["/health", "/metrics"];
const PUBLIC_PREFIXES: [&str; 2] = ["/docs/", console::FILES];

impl RequestState {
    pub fn new(service: Arc<Service>, auth: Arc<Authenticator>, config: HttpSettings) -> Self {
        let ingest = budget(config.ingest_bytes_max);
        let reads = Arc::new(Semaphore::new(config.reads_max));
        let staged_files = Arc::new(Semaphore::new(config.staged_files_max()));
        // Validated when the configuration was read.
        let cors_origins = config.cors_origins.iter().filter_map(|text| cors::origin(text).ok()).collect();
        let part_budget = budget(config.part_bytes_max);
        let parts = PartBodies::default();
        let shared =
            HttpShared { service, auth, config, cors_origins, ingest, staged_files, reads, parts, part_budget };
        Self(Arc::new(shared))
    }

    pub fn config(&self) -> &HttpSettings {
        &self.0.config
    }

    pub fn is_draining(&self) -> bool {
        self.0.service.is_draining()
    }

    /// Authenticates a request: the service with the permissions of its caller, and its permit.
    pub fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(Arc<Service>, Option<Permit>)> {
        if PUBLIC_PATHS.contains(&path) || PUBLIC_PREFIXES.iter().any(|prefix| path.starts_with(prefix)) {
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
pub struct AppState {
    pub shared: Arc<HttpShared>,
    pub service: Arc<Service>,
}

impl FromRequestParts<RequestState> for AppState {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &RequestState) -> std::result::Result<Self, Self::Rejection> {
        let service = parts.extensions.get::<Arc<Service>>().cloned();
        let service = service.ok_or_else(|| Error::internal("a request was not authenticated"))?;
        Ok(Self { shared: Arc::clone(&state.0), service })
    }
}

impl AppState {
    pub fn config(&self) -> &HttpSettings {
        &self.shared.config
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Runs an operation on a blocking thread; a panic in it becomes `internal`.
    pub async fn blocking<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        within(self.service.limits().request_timeout(), move || operation(&service)).await
    }

    /// Like [`blocking`](Self::blocking) without a timeout, for work whose duration depends on the number of rows. It
    /// holds the permit of its request, even after the client is gone.
    pub async fn blocking_without_timeout<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Service) -> Result<T> + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        on_thread(move || operation(&service)).await
    }
}
