//! The Flight listener: gRPC with its health service, drained at shutdown.

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
use crate::error::{Error, ErrorCode, Result};
use crate::server::flight::connection;
use crate::server::flight::put::PutLimits;
use crate::server::flight::service::{CallAdmission, FlightApi, FlightServer, METHODS, OTHER};
use crate::server::flight::settings::FlightSettings;
use crate::server::metrics;
use crate::server::tls_stream::Tls;
use crate::service::{HealthStatus, Service};

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

/// Serves until `shutdown` resolves, then lets streams finish for `limits.drain_timeout_ms`.
///
/// # Errors
/// `io` when the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: FlightSettings,
    tls: Tls,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    metrics::declare_flight(&METHODS);
    metrics::declare_flight(&[OTHER]);
    let stop = CancellationToken::new();
    let flight = build_server(service.clone(), auth, &config, stop.clone());
    let (health, health_server) = tonic_health::server::health_reporter();
    set_health(&health, true).await;
    let incoming = connection::incoming(
        listener,
        config.connections_max,
        (Duration::from_millis(config.handshake_timeout_ms), Duration::from_millis(config.stall_timeout_ms)),
        tls,
        stop.clone(),
    );
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(u32::try_from(config.connection_streams_max).unwrap_or(u32::MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_STREAMS_MAX))
        .http2_keepalive_interval(Some(Duration::from_millis(config.ping_interval_ms)))
        .http2_keepalive_timeout(Some(Duration::from_millis(config.ping_timeout_ms)))
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
            tokio::time::timeout(service.limits().drain_timeout(), server).await.unwrap_or(Ok(()))
        }
    };
    served.map_err(|error| Error::new(ErrorCode::Io, format!("the flight listener failed: {error}")))
}

/// Sets the status of the listener and of the Flight service in the gRPC health service.
async fn set_health(health: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
    health.set_service_status(<FlightServer as NamedService>::NAME, status).await;
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
    config: &FlightSettings,
    stop: CancellationToken,
) -> FlightServer {
    let api = FlightApi {
        auth: auth.clone(),
        puts: PutLimits::new(config, stop),
        gets: Arc::new(Semaphore::new(config.gets_max)),
        put_permits: Arc::new(Semaphore::new(config.puts_max)),
        settings: config.clone(),
    };
    let admission = CallAdmission { service, auth };
    FlightServer::new(admission, api, config.message_bytes_max.saturating_add(MESSAGE_SLACK_BYTES))
}

/// The service without a listener, for tests.
#[doc(hidden)]
pub fn without_listener(
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: &FlightSettings,
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
