//! Arrow Flight over gRPC: translation only, the verbs are [`Service`]'s.
//!
//! Every stream either says how it failed or is whole. Nothing a client sends reaches Arrow unchecked, and nothing
//! here waits for disk or mapped memory on an async worker.

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

pub use acks::WAITING_MAX;
pub use actions::ACTIONS;
pub use service::{METHODS, UNANSWERED};
pub use status::{CODE_KEY, PROBLEM_KEY};

/// Room in a message beside its columns: header, descriptor, framing.
const MESSAGE_SLACK_BYTES: usize = 2 * 1024 * 1024;
/// Columns of a block go out as one message of about 1 MiB, text up to four times that.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Most bytes of the headers of one request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client reset before they were accepted, before its connection is closed.
const RESET_STREAMS_MAX: usize = 64;
/// Streams that were reset for an error of the client, before its connection is closed.
const ERROR_STREAMS_MAX: usize = 1024;
/// Between two looks at the store for the health service.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of the Flight listener.
#[derive(Clone, Debug)]
pub struct FlightConfig {
    /// Connections at the same time; the one that did nothing for longest makes room for the next.
    pub connections_max: usize,
    /// Answers that are sent at the same time; more are refused as `overloaded`.
    pub readers_max: usize,
    /// Puts that are received at the same time; more are refused as `overloaded`.
    pub puts_max: usize,
    /// Streams of one connection.
    pub streams_max: u32,
    /// Most bytes of the columns of one record batch of a put.
    pub message_bytes_max: usize,
    /// Bytes of record batches in work, of all puts together; more wait.
    pub put_bytes_max: usize,
    /// How long a new connection may say nothing.
    pub greeting: Duration,
    /// How long the message of a call may take to arrive.
    pub message_timeout: Duration,
    /// How long a put may send nothing.
    pub put_idle: Duration,
    /// How long a reader may take nothing before its connection is ended.
    pub stall: Duration,
    /// A connection that is silent this long is asked whether it lives.
    pub ping_interval: Duration,
    /// A connection that does not answer this long is closed.
    pub ping_timeout: Duration,
    /// How long streams may go on after the server was told to stop.
    pub drain: Duration,
    /// How connections are secured.
    pub tls: Tls,
}

impl FlightConfig {
    /// What the settings give, secured so.
    pub fn of(config: &Config, tls: Tls) -> Self {
        let flight = &config.flight;
        Self {
            connections_max: count(flight.connections_max),
            readers_max: count(flight.readers_max),
            puts_max: count(flight.puts_max),
            streams_max: small(flight.connection_streams_max),
            message_bytes_max: count(flight.message_bytes_max),
            put_bytes_max: count(flight.put_bytes_max),
            greeting: millis(flight.greeting_timeout_ms),
            message_timeout: millis(flight.message_timeout_ms),
            put_idle: millis(flight.put_idle_ms),
            stall: millis(flight.stall_timeout_ms),
            ping_interval: millis(flight.ping_interval_ms),
            ping_timeout: millis(flight.ping_timeout_ms),
            drain: millis(config.limits.drain_timeout_ms),
            tls,
        }
    }
}

impl Default for FlightConfig {
    /// That of the settings.
    fn default() -> Self {
        Self::of(&Config::default(), Tls::off())
    }
}

/// Serves until `shutdown` is ready, then lets streams finish for [`FlightConfig::drain`].
///
/// # Errors
/// `io` when the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: FlightConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    crate::server::metrics::declare_flight(&service::METHODS);
    crate::server::metrics::declare_flight(&[service::OTHER]);
    let stop = CancellationToken::new();
    let flight = front(service.clone(), gate, &config, stop.clone());
    let (health, health_server) = tonic_health::server::health_reporter();
    tell(&health, true).await;
    let incoming = connection::incoming(
        listener,
        config.connections_max,
        (config.greeting, config.stall),
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
    let looks = follow(&health, &service);
    tokio::pin!(server, shutdown, looks);
    let served = tokio::select! {
        served = &mut server => served,
        never = &mut looks => match never {},
        () = &mut shutdown => {
            tell(&health, false).await;
            service.drain();
            stop.cancel();
            // Watchers of the health service never end by themselves.
            tokio::time::timeout(config.drain, server).await.unwrap_or(Ok(()))
        }
    };
    served.map_err(|error| Error::new(ErrorCode::Io, format!("the flight listener failed: {error}")))
}

/// Says of the listener and of Flight whether they serve.
async fn tell(health: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status(<service::FlightServer as NamedService>::NAME, status).await;
}

/// Keeps what is told as the store is: it does not serve while it is failing.
async fn follow(health: &HealthReporter, service: &Arc<Service>) -> Infallible {
    let mut serves = true;
    loop {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let looking = service.clone();
        let look = tokio::task::spawn_blocking(move || looking.health());
        let is_failing = matches!(look.await, Ok(Ok(found)) if found.status == HealthStatus::Failing);
        if serves == is_failing {
            serves = !is_failing;
            tell(health, serves).await;
        }
    }
}

/// The service that answers calls.
fn front(
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: &FlightConfig,
    stop: CancellationToken,
) -> service::FlightServer {
    let face = service::FlightApi {
        gate: gate.clone(),
        puts: put::PutLimits::new(config, stop),
        readers: Arc::new(Semaphore::new(config.readers_max)),
        readers_max: config.readers_max,
        stall: config.stall,
        writers: Arc::new(Semaphore::new(config.puts_max)),
        puts_max: config.puts_max,
        message_timeout: config.message_timeout,
        put_idle: config.put_idle,
    };
    let door = service::CallAdmission { service, gate };
    service::FlightServer::new(door, face, config.message_bytes_max.saturating_add(MESSAGE_SLACK_BYTES))
}

/// The service without a listener, for tests: calls come as bytes, and answers are taken whole.
#[cfg(feature = "proof")]
#[derive(Debug)]
pub struct InProcess(service::FlightServer);

#[cfg(feature = "proof")]
impl InProcess {
    pub fn new(service: Arc<Service>, gate: Arc<Authenticator>, config: &FlightConfig) -> Self {
        Self(front(service, gate, config, CancellationToken::new()))
    }

    /// Answers a call of a method: the headers of the answer together with its trailers, and the bytes between them.
    ///
    /// # Errors
    /// The status that broke the answer off.
    pub async fn call(
        &self,
        method: &str,
        headers: http::HeaderMap,
        body: bytes::Bytes,
    ) -> std::result::Result<(http::HeaderMap, bytes::Bytes), tonic::Status> {
        use http_body_util::{BodyExt, Full};
        let mut request = http::Request::new(tonic::body::Body::new(Full::new(body)));
        let path = format!("/arrow.flight.protocol.FlightService/{method}");
        *request.uri_mut() = path.parse().map_err(|_| tonic::Status::unimplemented("no method"))?;
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = headers;
        let answer = tower::Service::call(&mut self.0.clone(), request).await.unwrap_or_else(|never| match never {});
        let (parts, body) = answer.into_parts();
        let collected = body.collect().await?;
        let mut told = parts.headers;
        told.extend(collected.trailers().cloned().unwrap_or_default());
        Ok((told, collected.to_bytes()))
    }
}

/// The body of an answer, without its trailers.
#[cfg(test)]
pub(super) fn pieces(answer: crate::service::QueryResult) -> Vec<bytes::Bytes> {
    get::pieces(answer)
}
