//! How the command line reaches what is below it: opening a store, bodies in, answers out, the two listeners.

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
use crate::disk::{self, DiskPath};
use crate::egress::{self, BodyEncoder, JsonShape, OutFormat, TimeFormat, Trailer};
use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::ingest::{self, BodyFormat};
use crate::query::{Query, TimeValue};
use crate::server::flight::{self, FlightConfig};
use crate::server::http::{self, HttpConfig};
use crate::server::settings::{self, count, health_connections, millis};
use crate::server::tls_stream::Tls;
use crate::service::{
    Acknowledged, IdempotencyKey, OpenProgress, OrphanReport, OverlapReport, RowMode, Service, ServiceLimits,
    StoreOptions, TaskControl, VerifyOptions, VerifyReport, WriteManyReply, WriteOptions, range_of,
};
use crate::store::{self, ReadOnly};
use crate::types::{SeriesDef, SeriesKey};

/// The process that owns a store, as its `LOCK` file tells.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreOwner {
    pub pid: u32,
    /// REST address, once a server answers there.
    #[serde(default)]
    pub http: Option<String>,
    /// Set when it answers under TLS only.
    #[serde(default)]
    pub tls: Option<OwnerTls>,
}

/// How the owner of a store is known under TLS.
#[derive(Clone, Debug, Deserialize)]
pub struct OwnerTls {
    /// SHA-256 of its certificate, in hexadecimal.
    pub certificate_sha256: String,
}

/// Who owns the store; only meaningful after `store_locked`, since the file stays when its owner is gone.
pub fn owner(root: &Path) -> Option<StoreOwner> {
    serde_json::from_slice(&std::fs::read(root.join("LOCK")).ok()?).ok()
}

/// Raises the limit on open files as far as it goes, and fits the connection limits into it.
pub fn fit_open_files(config: &mut Config) {
    let files_max = disk::raise_open_files_limit();
    if settings::fit_connections(config, files_max) {
        tracing::warn!(
            files_max,
            http = config.http.connections_max,
            flight = config.flight.connections_max,
            "fewer connections than configured: the process may open few files; raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}

/// Opens the store, and says in its `LOCK` that no server answers yet: what stands there may be of a process that
/// is gone.
///
/// A directory that cannot be written to is opened for reading.
pub fn open(root: &Path, create: bool, config: &Config) -> Result<Arc<Service>> {
    open_with(root, create, config, StoreOptions { read_only: ReadOnly::Opened, ..config.store.options() })
}

/// The same for a server, which needs a directory that it can write to; `opening` is told how far it is.
pub fn open_telling(
    root: &Path,
    create: bool,
    config: &Config,
    opening: Option<Arc<OpenProgress>>,
) -> Result<Arc<Service>> {
    open_with(root, create, config, StoreOptions { opening, ..config.store.options() })
}

fn open_with(root: &Path, create: bool, config: &Config, options: StoreOptions) -> Result<Arc<Service>> {
    let service = Service::open(root, create, options)?;
    service.limit(limits(config));
    service.allow_backups(&config.store.backup_dir);
    let holder = serde_json::json!({ "pid": std::process::id(), "format": FORMAT_VERSION });
    service.store().describe_holder(&format!("{holder}\n"))?;
    Ok(service)
}

/// Says in `LOCK` where the server answers, and with which certificate. `advertised` goes before the address of the REST
/// listener where it is set.
pub fn announce(service: &Service, advertised: &str, http: SocketAddr, flight: SocketAddr, tls: &Tls) -> Result<()> {
    let certificate = tls.certificate().map(|certificate| fingerprint(&certificate));
    let http = if advertised.is_empty() { http.to_string() } else { advertised.to_owned() };
    service.announce(&http, &flight.to_string(), certificate.as_deref())
}

/// Checks every file of a store, without opening it.
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

/// Asks jobs to stop, so that requests that wait for them end.
pub fn cancel_jobs(service: &Service) {
    service.end_jobs(false);
}

/// Closes the store: ends its jobs, moves what the log holds into files, so that the next opening has nothing to replay,
/// and gives the directory free.
pub fn close(service: Arc<Service>) {
    service.end_jobs(true);
    service.settle();
    if !service.close() {
        // What was acknowledged is safe all the same; the next opening has a little more to do.
        tracing::warn!("a request is still at work; the store is left as after a crash");
    }
}

/// Whether only names of this machine are good depends on where a face listens.
fn named(config: HttpConfig, listen: &str) -> HttpConfig {
    let local_names_only = listen.parse().is_ok_and(|listen: SocketAddr| listen.ip().is_loopback());
    HttpConfig { local_names_only, ..config }
}

/// How often a server looks whether its certificate files changed.
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(1);

/// The end of a server, and its work.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;
pub type Serving = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// How the listener for health is secured, where that for REST is secured so.
pub fn health_tls(config: &Config, tls: &Tls) -> Tls {
    if config.http.health_tls { tls.clone() } else { Tls::off() }
}

/// Serves health and metrics alone, once there is a listener.
pub fn serve_health(
    service: &Arc<Service>,
    gate: &Arc<Authenticator>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Ended) -> Serving + Send + use<> {
    let all = HttpConfig::of(config, tls);
    let few = HttpConfig { connections_max: health_connections(all.connections_max), ..all };
    let config = named(few, &config.http.health_listen);
    let (service, gate) = (Arc::clone(service), Arc::clone(gate));
    move |listener, shutdown| Box::pin(http::serve_health(listener, service, gate, config, shutdown))
}

/// Answers for a store that is being opened, once there is a listener.
pub fn serve_opening(
    opening: Arc<OpenProgress>,
    config: &Config,
    tls: Tls,
) -> impl FnOnce(TcpListener, Ended) -> Serving + Send + use<> {
    // Nobody is worth waiting for: all that is told is that nothing is there yet.
    let config = HttpConfig { drain: Duration::from_millis(100), ..HttpConfig::of(config, tls) };
    move |listener, opened| {
        Box::pin(async move {
            // What is left of it then is cut, which it says itself.
            let _ = http::serve_opening(listener, opening, config, opened).await;
            Ok(())
        })
    }
}

/// How both listeners are secured: what REST and what Flight speaks.
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

/// Looks again and again whether the certificate files changed, until `stopped` ends; both listeners, and the one for
/// health, use what they hold from then on. `renewed` is called after another certificate came into use.
pub async fn renew_certificates(tls: (Tls, Tls), mut stopped: Ended, renewed: impl Fn() + Send + Sync + 'static) {
    if !tls.0.is_on() {
        return;
    }
    let renewed = Arc::new(renewed);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(LOOK_AT_CERTIFICATES) => {}
        }
        let ((http, flight), renewed) = (tls.clone(), Arc::clone(&renewed));
        let look = tokio::task::spawn_blocking(move || {
            flight.renew();
            if http.renew() {
                renewed();
            }
        });
        let _ = look.await;
    }
}

/// A closed range from words, in the unit of the series.
pub fn closed_range(service: &Service, key: &SeriesKey, start: &str, end: &str) -> Result<(i64, i64)> {
    let (start, end) = (when(start), when(end));
    let range = range_of(service.def(key)?.as_ref(), Some(&start), Some(&end))?;
    range.ok_or_else(|| Error::invalid("no timestamp lies between start and end"))
}

/// An integer is an epoch, everything else is left to the reader.
pub fn when(text: &str) -> TimeValue {
    text.parse().map_or_else(|_| TimeValue::Text(text.to_string()), TimeValue::Epoch)
}

/// Writes the rows of a body as one commit.
pub fn write(
    service: &Service,
    key: &SeriesKey,
    body: &[u8],
    options: &BodyOptions,
    terms: &WriteOptions,
) -> Result<Acknowledged> {
    terms.check(key)?;
    let reading = reading(options)?;
    let format = body_format(&options.format)?;
    let (def, stored) = service.known(key)?;
    service.write_under(key, ingest::parse_into(format, &def, stored, body, &reading)?, terms)
}

/// Refuses a body that a series defined so would not take.
pub fn check_body(def: &SeriesDef, body: &[u8], options: &BodyOptions) -> Result<()> {
    ingest::parse(body_format(&options.format)?, def, body, &reading(options)?).map(|_| ())
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
        ingest::parse_many(body_format(&options.format)?, body, &reading(options)?, &|key| service.known(key))?;
    service.write_many(parsed, mode, once)
}

/// How the rows of a body are read.
fn reading(options: &BodyOptions) -> Result<ingest::DecodeOptions> {
    Ok(ingest::DecodeOptions {
        numbers: word("numbers", options.numbers.as_deref())?,
        rounding: word("rounding", options.rounding.as_deref())?,
        missing: word("missing", options.missing.as_deref())?,
        validate: word("validate", options.validate.as_deref())?,
        grid: word("grid", options.grid.as_deref())?,
        implausible_ts: word("implausible_ts", options.implausible_ts.as_deref())?,
    })
}

/// A value of an enumeration by its word, or its default.
fn word<T: serde::de::DeserializeOwned + Default>(what: &str, text: Option<&str>) -> Result<T> {
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

/// Gives the rows of a query to `sink` piece by piece.
pub fn read(
    service: &Service,
    query: &Query,
    options: &OutputOptions,
    sink: &mut dyn FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let writing = egress::EncodeOptions {
        format: OutFormat::from_name(&options.format)?,
        times: options.times.as_deref().map(TimeFormat::from_name).transpose()?.unwrap_or_default(),
        shape: options.shape.as_deref().map(JsonShape::from_name).transpose()?.unwrap_or_default(),
    };
    let answer = service.read(query)?;
    let shape = answer.shape.clone();
    for piece in BodyEncoder::new(&shape, writing, answer, |answer| Trailer {
        next_cursor: answer.next_cursor(),
        stats: answer.stats(),
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
    http::serve(listener, service, gate, named(HttpConfig::of(config, tls), &at), shutdown)
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
    flight::serve(listener, service, gate, FlightConfig::of(config, tls), shutdown)
}

/// How long what is under way may go on once the server was told to stop.
pub fn drain(config: &Config) -> Duration {
    millis(config.limits.drain_timeout_ms)
}

/// The limits of the verbs.
fn limits(config: &Config) -> ServiceLimits {
    let limits = &config.limits;
    ServiceLimits {
        requests_max: limits.requests_max,
        streams_max: limits.streams_max,
        token_requests_max: limits.token_requests_max,
        token_streams_max: limits.token_streams_max,
        answer_bytes_max: limits.answer_bytes_max,
        decoded_bytes_max: limits.decoded_bytes_max,
        request_timeout: millis(limits.request_timeout_ms),
        json_depth_max: count(limits.json_depth_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_verbs_are_those_of_the_settings() {
        assert_eq!(limits(&Config::default()), ServiceLimits::default());
    }
}
