//! What the command line uses of the layers below: opening a store, decoding bodies, encoding responses, the listeners.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::target::{BodyOptions, OutputOptions};
use crate::access::{Authenticator, fingerprint};
use crate::config::{Config, TlsConfig};
use crate::disk::{self, DiskPath, local};
use crate::egress::{self, BodyEncoder, JsonShape, OutFormat, TimeFormat, Trailer};
use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::ingest::{self, BodyFormat};
use crate::query::{Query, TimeValue};
use crate::server::flight::{self, FlightLimits};
use crate::server::http::{self, HttpLimits};
use crate::server::settings::{self, count, health_connections, millis};
use crate::server::tls_stream::Tls;
use crate::service::{
    Acknowledged, IdempotencyKey, OpenProgress, OrphanReport, OverlapReport, RowMode, Service, ServiceLimits,
    StoreOptions, TaskControl, VerifyOptions, VerifyReport, WriteManyReply, WriteOptions,
};
use crate::store::{self, ReadOnly};
use crate::types::{SeriesDef, SeriesKey};

/// The process that owns a store, from its `LOCK` file.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreOwner {
    pub pid: u32,
    /// REST address, once a server listens there.
    #[serde(default)]
    pub http: Option<String>,
    /// Set when the server requires TLS.
    #[serde(default)]
    pub tls: Option<OwnerTls>,
}

/// The certificate of the owner of a store.
#[derive(Clone, Debug, Deserialize)]
pub struct OwnerTls {
    /// SHA-256 of its certificate, in hexadecimal.
    pub certificate_sha256: String,
}

/// The owner of the store. Only valid after `store_locked`: the file remains when its owner has exited.
pub fn owner(root: &Path) -> Option<StoreOwner> {
    serde_json::from_slice(&local::read(&root.join("LOCK")).ok()?).ok()
}

/// Raises the soft limit on open files to the hard limit, and lowers the connection limits to fit.
pub fn fit_open_files(config: &mut Config) {
    let files_max = disk::raise_open_files_limit();
    if settings::fit_connections(config, files_max) {
        tracing::warn!(
            files_max,
            http = config.http.connections_max,
            flight = config.flight.connections_max,
            "connection limits lowered: the limit on open files is too low; raise it (ulimit -n, LimitNOFILE)"
        );
    }
}

/// Opens the store, and replaces the address of an earlier server in its `LOCK` file.
///
/// A directory without write permission is opened read-only.
pub fn open(root: &Path, create: bool, config: &Config) -> Result<Arc<Service>> {
    open_with_options(root, create, config, StoreOptions { read_only: ReadOnly::Opened, ..config.store.options() })
}

/// Opens the store for a server, which needs a writable directory; reports the progress to `opening`.
pub fn open_with_progress(
    root: &Path,
    create: bool,
    config: &Config,
    opening: Option<Arc<OpenProgress>>,
) -> Result<Arc<Service>> {
    open_with_options(root, create, config, StoreOptions { opening, ..config.store.options() })
}

fn open_with_options(root: &Path, create: bool, config: &Config, options: StoreOptions) -> Result<Arc<Service>> {
    let service = Service::open(root, create, options)?;
    service.set_limits(limits(config));
    service.allow_backups(&config.store.backup_dir);
    let holder = serde_json::json!({ "pid": std::process::id(), "format": FORMAT_VERSION });
    service.store().describe_holder(&format!("{holder}\n"))?;
    Ok(service)
}

/// Writes the addresses and the certificate of the server to `LOCK`. A non-empty `advertised` replaces the address of
/// the REST listener.
pub fn announce(service: &Service, advertised: &str, http: SocketAddr, flight: SocketAddr, tls: &Tls) -> Result<()> {
    let certificate = tls.certificate().map(|certificate| fingerprint(&certificate));
    let http = if advertised.is_empty() { http.to_string() } else { advertised.to_owned() };
    service.announce(&http, &flight.to_string(), certificate.as_deref())
}

/// Verifies every file of a store, without opening it.
pub fn verify(root: &Path, watch: &TaskControl) -> Result<VerifyReport> {
    store::verify(&DiskPath::os(root), VerifyOptions::default(), watch)
}

/// Files that the manifest of a store does not name, without opening it.
pub fn orphans(root: &Path) -> Result<OrphanReport> {
    store::orphans(&DiskPath::os(root))
}

/// Which chunks overlap, without opening the store.
pub fn overlaps(root: &Path) -> Result<OverlapReport> {
    store::overlaps(&DiskPath::os(root))
}

/// Cancels jobs, so that requests that wait for them end.
pub fn cancel_jobs(service: &Service) {
    service.cancel_jobs();
}

/// Closes the store: ends its jobs, checkpoints the log so that the next open has nothing to replay, and releases the
/// directory.
pub fn close(service: Arc<Service>) {
    service.close_jobs();
    service.try_checkpoint();
    if !service.close() {
        // Acknowledged writes are safe; the next open replays the log.
        tracing::warn!("a request is still running; the next open replays the log");
    }
}

/// Accepts only local host names when the listener is on a loopback address.
fn with_host_check(config: HttpLimits, listen: &str) -> HttpLimits {
    let local_names_only = listen.parse().is_ok_and(|listen: SocketAddr| listen.ip().is_loopback());
    HttpLimits { local_names_only, ..config }
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
    gate: &Arc<Authenticator>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Shutdown) -> Serving + Send + use<> {
    let all = HttpLimits::of(config, tls);
    let limited = HttpLimits { connections_max: health_connections(all.connections_max), ..all };
    let config = with_host_check(limited, &config.http.health_listen);
    let (service, gate) = (Arc::clone(service), Arc::clone(gate));
    move |listener, shutdown| Box::pin(http::serve_health(listener, service, gate, config, shutdown))
}

/// Serves `not_ready` while a store is being opened, on the listener that the returned function receives.
pub fn serve_opening(
    opening: Arc<OpenProgress>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Shutdown) -> Serving + Send + use<> {
    // Short: every response only says that the store is not open yet.
    let config = HttpLimits { drain_timeout: Duration::from_millis(100), ..HttpLimits::of(config, tls) };
    move |listener, opened| {
        Box::pin(async move {
            // Aborted responses are logged by the listener.
            let _ = http::serve_opening(listener, opening, config, opened).await;
            Ok(())
        })
    }
}

/// The TLS settings of both listeners, REST and Flight.
///
/// # Errors
/// Those of [`Tls::load`].
pub fn secured(config: &TlsConfig) -> Result<(Tls, Tls)> {
    if !config.is_on() {
        return Ok((Tls::off(), Tls::off()));
    }
    let client_ca = (!config.client_ca.as_os_str().is_empty()).then_some(config.client_ca.as_path());
    let load = |protocols: &[&str]| Tls::load(&config.cert, &config.key, client_ca, protocols);
    Ok((load(&["h2", "http/1.1"])?, load(&["h2"])?))
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

/// An integer is an epoch; other text is parsed when the unit of the series is known.
pub fn time_value(text: &str) -> TimeValue {
    text.parse().map_or_else(|_| TimeValue::Text(text.to_string()), TimeValue::Epoch)
}

/// Writes the rows of a body as one commit.
pub fn write(
    service: &Service,
    key: &SeriesKey,
    body: &[u8],
    options: &BodyOptions,
    write_options: &WriteOptions,
) -> Result<Acknowledged> {
    write_options.check(key)?;
    let reading = decode_options(options)?;
    let format = body_format(&options.format)?;
    let (def, stored) = service.known(key)?;
    service.write_with(key, ingest::parse_into(format, &def, stored, body, &reading)?, write_options)
}

/// Checks that a series with this definition would accept the body.
pub fn check_body(def: &SeriesDef, body: &[u8], options: &BodyOptions) -> Result<()> {
    ingest::parse(body_format(&options.format)?, def, body, &decode_options(options)?).map(|_| ())
}

/// Writes the rows of many series as one commit.
pub fn write_many(
    service: &Service,
    body: &[u8],
    options: &BodyOptions,
    mode: RowMode,
    once: Option<&IdempotencyKey>,
) -> Result<Acknowledged<WriteManyReply>> {
    let parsed =
        ingest::parse_many(body_format(&options.format)?, body, &decode_options(options)?, &|key| service.known(key))?;
    service.write_many(parsed, mode, once)
}

/// The decode options of a body.
fn decode_options(options: &BodyOptions) -> Result<ingest::DecodeOptions> {
    Ok(ingest::DecodeOptions {
        numbers: parse_or_default("numbers", options.numbers.as_deref())?,
        rounding: parse_or_default("rounding", options.rounding.as_deref())?,
        missing: parse_or_default("missing", options.missing.as_deref())?,
        validate: parse_or_default("validate", options.validate.as_deref())?,
        grid: parse_or_default("grid", options.grid.as_deref())?,
        implausible_ts: parse_or_default("implausible_ts", options.implausible_ts.as_deref())?,
    })
}

/// Parses a value of an enumeration; its default for `None`.
fn parse_or_default<T: serde::de::DeserializeOwned + Default>(what: &str, text: Option<&str>) -> Result<T> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_value(text.into()).map_err(|error| Error::invalid(format!("{what}: {error}")))
}

fn body_format(name: &str) -> Result<BodyFormat> {
    let unknown = || Error::invalid(format!("format {name:?} is not one of json, ndjson, csv, arrow, parquet"));
    BodyFormat::from_name(name).ok_or_else(unknown)
}

/// The media type of a body in this format.
pub fn media_type(format: &str) -> Result<&'static str> {
    Ok(body_format(format)?.media_type())
}

/// Passes the encoded rows of a query to `sink`, one buffer at a time.
pub fn read(
    service: &Service,
    query: &Query,
    options: &OutputOptions,
    sink: &mut dyn FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let encoding = egress::EncodeOptions {
        format: OutFormat::from_name(&options.format)?,
        times: options.times.as_deref().map(TimeFormat::from_name).transpose()?.unwrap_or_default(),
        shape: options.shape.as_deref().map(JsonShape::from_name).transpose()?.unwrap_or_default(),
    };
    let rows = service.read(query)?;
    let shape = rows.shape.clone();
    for piece in BodyEncoder::new(&shape, encoding, rows, |rows| Trailer {
        next_cursor: rows.next_cursor(),
        stats: rows.stats(),
    })? {
        sink(piece?)?;
    }
    Ok(())
}

/// Serves REST until `shutdown`.
pub fn serve_http(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: &Config,
    tls: Tls,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let at = listener.local_addr().map(|at| at.to_string()).unwrap_or_default();
    http::serve(listener, service, gate, with_host_check(HttpLimits::of(config, tls), &at), shutdown)
}

/// Serves Arrow Flight until `shutdown`.
pub fn serve_flight(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: &Config,
    tls: Tls,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    flight::serve(listener, service, gate, FlightLimits::of(config, tls), shutdown)
}

/// How long requests in flight may continue after a stop.
pub fn drain(config: &Config) -> Duration {
    millis(config.limits.drain_timeout_ms)
}

/// The limits of service operations.
fn limits(config: &Config) -> ServiceLimits {
    let limits = &config.limits;
    ServiceLimits {
        requests_max: limits.requests_max,
        streams_max: limits.streams_max,
        token_requests_max: limits.token_requests_max,
        token_streams_max: limits.token_streams_max,
        response_bytes_max: limits.response_bytes_max,
        decoded_bytes_max: limits.decoded_bytes_max,
        request_timeout: millis(limits.request_timeout_ms),
        json_depth_max: count(limits.json_depth_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_give_the_default_service_limits() {
        assert_eq!(limits(&Config::default()), ServiceLimits::default());
    }
}
