//! The listeners of a server: their limits, TLS and certificates.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::access::{Authenticator, fingerprint};
use crate::config::Config;
use crate::disk;
use crate::error::Result;
use crate::server::flight;
use crate::server::http::{self, HttpSettings};
use crate::server::open_files::fit_connections;
use crate::server::tls_stream::Tls;
use crate::service::{OpenProgress, Service};

/// Raises the soft limit on open files to the hard limit, and lowers the connection limits to fit.
pub fn fit_open_files(config: &mut Config) {
    let files_max = disk::raise_open_files_limit();
    if fit_connections(&mut config.http, &mut config.flight, files_max) {
        tracing::warn!(
            files_max,
            http = config.http.connections_max,
            flight = config.flight.connections_max,
            "connection limits lowered: the limit on open files is too low; raise it (ulimit -n, LimitNOFILE)"
        );
    }
}

/// Writes the addresses and the certificate of the server to `LOCK`. A non-empty `advertised` replaces the address of
/// the REST listener.
pub fn announce(service: &Service, advertised: &str, http: SocketAddr, flight: SocketAddr, tls: &Tls) -> Result<()> {
    let certificate = tls.certificate().map(|certificate| fingerprint(&certificate));
    let http = if advertised.is_empty() { http.to_string() } else { advertised.to_owned() };
    service.announce(&http, &flight.to_string(), certificate.as_deref())
}

/// Cancels jobs, so that requests that wait for them end.
pub fn cancel_jobs(service: &Service) {
    service.cancel_jobs();
}

/// The settings of a listener, which accepts only local host names when it is on a loopback address.
fn with_host_check(config: &Config, listen: &str) -> HttpSettings {
    let local_names_only = listen.parse().is_ok_and(|listen: SocketAddr| listen.ip().is_loopback());
    HttpSettings { local_names_only, ..config.http.clone() }
}

/// Time between two checks of the certificate files.
const CERTIFICATE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The future that ends a server, and the one that serves.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;
pub type Serving = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The TLS settings of the health listener, given those of REST.
pub fn health_tls(config: &Config, tls: &Tls) -> Tls {
    if config.http.health_tls { tls.clone() } else { Tls::off() }
}

/// Serves only health and metrics, on the listener that the returned function receives.
pub fn serve_health(
    service: &Arc<Service>,
    authenticator: &Arc<Authenticator>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Shutdown) -> Serving + Send + use<> {
    let config = with_host_check(config, &config.http.health_listen);
    let (service, authenticator) = (Arc::clone(service), Arc::clone(authenticator));
    move |listener, shutdown| Box::pin(http::serve_health(listener, service, authenticator, config, tls, shutdown))
}

/// Serves `not_ready` while a store is being opened, on the listener that the returned function receives.
pub fn serve_opening(
    opening: Arc<OpenProgress>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Shutdown) -> Serving + Send + use<> {
    let config = config.http.clone();
    move |listener, opened| {
        Box::pin(async move {
            // Aborted responses are logged by the listener.
            let _ = http::serve_opening(listener, opening, &config, tls, opened).await;
            Ok(())
        })
    }
}

/// Polls the certificate files until `stopped` resolves. All listeners use a changed certificate from then on;
/// `renewed` is called after each change.
pub async fn renew_certificates(tls: (Tls, Tls), mut stopped: Shutdown, renewed: impl Fn() + Send + Sync + 'static) {
    if !tls.0.is_on() {
        return;
    }
    let renewed = Arc::new(renewed);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(CERTIFICATE_POLL_INTERVAL) => {}
        }
        let ((http, flight), renewed) = (tls.clone(), Arc::clone(&renewed));
        let poll = tokio::task::spawn_blocking(move || {
            flight.renew();
            if http.renew() {
                renewed();
            }
        });
        let _ = poll.await;
    }
}

/// Serves REST until `shutdown`.
pub fn serve_http(
    listener: TcpListener,
    service: Arc<Service>,
    authenticator: Arc<Authenticator>,
    config: &Config,
    tls: Tls,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let at = listener.local_addr().map(|at| at.to_string()).unwrap_or_default();
    http::serve(listener, service, authenticator, with_host_check(config, &at), tls, shutdown)
}

/// Serves Arrow Flight until `shutdown`.
pub fn serve_flight(
    listener: TcpListener,
    service: Arc<Service>,
    authenticator: Arc<Authenticator>,
    config: &Config,
    tls: Tls,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    flight::serve(listener, service, authenticator, config.flight.clone(), tls, shutdown)
}
