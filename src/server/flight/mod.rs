//! Arrow Flight over gRPC: protocol translation; the operations are those of [`Service`].
//!
//! Every stream is complete or ends with an error status. Client data is checked before it reaches Arrow, and async
//! workers never wait for disk or mapped memory.

mod acks;
mod actions;
mod connection;
mod decode;
mod describe;
mod encode;
mod get;
mod put;
mod service;
mod status;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access::Authenticator;
use crate::config::Config;
use crate::error::{Error, ErrorCode, Result};
use crate::server::settings::{count, millis, small};
use crate::server::tls_stream::Tls;
use crate::service::{HealthStatus, Service};

pub use acks::ACKS_QUEUED_MAX;
pub use actions::ACTIONS;
pub use service::{METHODS, UNIMPLEMENTED_METHODS};
pub use status::{CODE_KEY, PROBLEM_KEY};

/// Space in a message besides its columns: header, descriptor, framing.
const MESSAGE_SLACK_BYTES: usize = 2 * 1024 * 1024;
/// A block is sent as one message of about 1 MiB, text up to four times that.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Maximum size of the headers of one request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams reset by the client before they were accepted, before its connection is closed.
const RESET_STREAMS_MAX: usize = 64;
/// Streams reset for an error of the client, before its connection is closed.
const ERROR_STREAMS_MAX: usize = 1024;
/// Interval between two checks of the store for the gRPC health service.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of the Flight listener.
#[derive(Clone, Debug)]
pub struct FlightLimits {
    /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
    pub connections_max: usize,
    /// Maximum number of concurrent DoGet responses; more are rejected as `overloaded`.
    pub gets_max: usize,
    /// Maximum number of concurrent DoPut calls; more are rejected as `overloaded`.
    pub puts_max: usize,
    /// Maximum number of concurrent streams of one connection.
    pub streams_max: u32,
    /// Maximum size of the columns of one record batch of a put.
    pub message_bytes_max: usize,
    /// Maximum bytes of record batches being processed, of all puts together; further batches wait.
    pub put_bytes_max: usize,
    /// Maximum time for the TLS handshake, and then for the HTTP/2 preface, of a new connection.
    pub handshake_timeout: Duration,
    /// Maximum time to receive the request message of a call.
    pub message_timeout: Duration,
    /// How long a put may send nothing.
    pub put_idle_timeout: Duration,
    /// How long a client may read nothing of a response before its connection is closed.
    pub stall_timeout: Duration,
    /// Time without traffic after which a connection is pinged.
    pub ping_interval: Duration,
    /// How long a pinged connection may take to reply before it is closed.
    pub ping_timeout: Duration,
    /// How long streams may continue after the server begins to shut down.
    pub drain_timeout: Duration,
    /// TLS settings.
    pub tls: Tls,
}

impl FlightLimits {
    /// The limits in the configuration, with TLS settings.
    pub fn of(config: &Config, tls: Tls) -> Self {
        let flight = &config.flight;
        Self {
            connections_max: count(flight.connections_max),
            gets_max: count(flight.gets_max),
            puts_max: count(flight.puts_max),
            streams_max: small(flight.connection_streams_max),
            message_bytes_max: count(flight.message_bytes_max),
            put_bytes_max: count(flight.put_bytes_max),
            handshake_timeout: millis(flight.handshake_timeout_ms),
            message_timeout: millis(flight.message_timeout_ms),
            put_idle_timeout: millis(flight.put_idle_timeout_ms),
            stall_timeout: millis(flight.stall_timeout_ms),
            ping_interval: millis(flight.ping_interval_ms),
            ping_timeout: millis(flight.ping_timeout_ms),
            drain_timeout: millis(config.limits.drain_timeout_ms),
            tls,
        }
    }
}

impl Default for FlightLimits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self::of(&Config::default(), Tls::off())
    }
}

/// Serves until `shutdown` resolves, then lets streams finish for [`FlightLimits::drain_timeout`].
///
/// # Errors
/// `io` when the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: FlightLimits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    crate::server::metrics::declare_flight(&service::METHODS);
    crate::server::metrics::declare_flight(&[service::OTHER]);
    let stop = CancellationToken::new();
    let flight = build_server(service.clone(), auth, &config, stop.clone());
    let (health, health_server) = tonic_health::server::health_reporter();
    set_health(&health, true).await;
    let incoming = connection::incoming(
        listener,
        config.connections_max,
        (config.handshake_timeout, config.stall_timeout),
        config.tls.clone(),
        stop.clone(),
    );
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.streams_max)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_STREAMS_MAX))
        .http2_keepalive_interval(Some(config.ping_interval))
        .http2_keepalive_timeout(Some(config.ping_timeout))
        .add_service(health_server)
        .add_service(flight)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let health_updates = follow_health(&health, &service);
    tokio::pin!(server, shutdown, health_updates);
    let served = tokio::select! {
        served = &mut server => served,
        never = &mut health_updates => match never {},
        () = &mut shutdown => {
            set_health(&health, false).await;
            service.drain();
            stop.cancel();
            // Watch calls of the health service never end by themselves.
            tokio::time::timeout(config.drain_timeout, server).await.unwrap_or(Ok(()))
        }
    };
    served.map_err(|error| Error::new(ErrorCode::Io, format!("the flight listener failed: {error}")))
}

/// Sets the status of the listener and of the Flight service in the gRPC health service.
async fn set_health(health: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status(<service::FlightServer as NamedService>::NAME, status).await;
}

/// Keeps the gRPC health status up to date: not serving while the store is failing.
async fn follow_health(health: &HealthReporter, service: &Arc<Service>) -> Infallible {
    let mut serves = true;
    loop {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let checked = service.clone();
        let check = tokio::task::spawn_blocking(move || checked.health());
        let is_failing = matches!(check.await, Ok(Ok(found)) if found.status == HealthStatus::Failing);
        if serves == is_failing {
            serves = !is_failing;
            set_health(health, serves).await;
        }
    }
}

/// Builds the service that handles calls.
fn build_server(
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: &FlightLimits,
    stop: CancellationToken,
) -> service::FlightServer {
    let api = service::FlightApi {
        auth: auth.clone(),
        puts: put::PutLimits::new(config, stop),
        gets: Arc::new(Semaphore::new(config.gets_max)),
        gets_max: config.gets_max,
        stall_timeout: config.stall_timeout,
        put_permits: Arc::new(Semaphore::new(config.puts_max)),
        puts_max: config.puts_max,
        message_timeout: config.message_timeout,
        put_idle_timeout: config.put_idle_timeout,
    };
    let admission = service::CallAdmission { service, auth };
    service::FlightServer::new(admission, api, config.message_bytes_max.saturating_add(MESSAGE_SLACK_BYTES))
}

/// The service without a listener, for tests.
#[doc(hidden)]
pub fn without_listener(
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: &FlightLimits,
) -> impl tower::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<tonic::body::Body>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    build_server(service, auth, config, CancellationToken::new())
}

/// The body of a response, without its trailers.
#[cfg(test)]
pub(super) fn pieces(result: crate::service::QueryResult) -> Vec<bytes::Bytes> {
    get::pieces(result)
}
