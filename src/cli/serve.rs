//! `fastk serve`: loads the settings, opens the store, starts the listeners, prints one `ready` line, and shuts down.
//!
//! Invariants:
//! - While the store is being opened, the REST and health addresses only report the progress; Flight is not bound.
//! - A store that another process owns is reported before an address that is in use.
//! - The `ready` line is the only line on standard output, written when both listeners accept.
//! - An address other than loopback is bound only where clients need a token, or under `--insecure`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{listeners, log, open_store, print};
use crate::access::{self, Authenticator};
use crate::config::{Config, FlagValue, LoadedConfig, address};
use crate::error::{Error, ErrorCode, Result};
use crate::server::tls_stream::Tls;
use crate::service::{OpenProgress, Service};

/// Added to the drain timeout of the listeners, which abort open requests themselves.
const DRAIN_SLACK: Duration = Duration::from_secs(15);

/// The signal sent when a write exceeds the limit on file sizes.
const SIGXFSZ: i32 = 25;

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Data directory; created when missing.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// REST address; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// Arrow Flight address; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    flight: Option<String>,
    /// Configuration file.
    #[arg(long, value_name = "FILE", env = "FASTK_CONFIG")]
    config: Option<PathBuf>,
    /// sync, interval or none: when a write is acknowledged.
    #[arg(long)]
    durability: Option<String>,
    /// Listen on addresses reachable from other machines although this store has no tokens.
    #[arg(long)]
    insecure: bool,
    /// Print the effective configuration with the origin of each value, and stop.
    #[arg(long)]
    print_config: bool,
}

impl ServeArgs {
    fn flags(&self) -> Vec<FlagValue> {
        let root = self.root.as_ref().map(|root| root.to_string_lossy().into_owned());
        let flags = [
            ("store", "root", "--root", root),
            ("store", "durability", "--durability", self.durability.clone()),
            ("http", "listen", "--http", self.http.clone()),
            ("flight", "listen", "--flight", self.flight.clone()),
        ];
        flags
            .into_iter()
            .filter_map(|(section, key, flag, value)| Some(FlagValue { section, key, flag, value: value?.into() }))
            .collect()
    }
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> Result<u8> {
    let loaded =
        LoadedConfig::read_checked(args.config.as_deref(), &args.flags(), |config| problems(config, args.insecure))?;
    if args.print_config {
        loaded.warnings().iter().for_each(|warning| print::note(warning));
        print::out(&loaded.print()?)?;
        return Ok(0);
    }
    let warnings = loaded.warnings().to_vec();
    let mut config = loaded.config;
    log::init(&config.log.level, config.log.format)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let http = address(&config.http.listen)?;
    let flight = address(&config.flight.listen)?;
    let health = match config.http.health_listen.as_str() {
        "" => None,
        text => Some(address(text)?),
    };
    listeners::fit_open_files(&mut config);
    crate::server::metrics::start();
    let tls = config.tls.load()?;
    let opening = Arc::new(OpenProgress::default());
    let start =
        |address, tls| StartupListener::start(address, listeners::serve_opening(Arc::clone(&opening), &config, tls));
    let startup_http = start(http, tls.0.clone())?;
    let startup_health =
        health.map(|health| start(health, listeners::health_tls(&config, &tls.0))).transpose()?.flatten();
    let service = open_store::open_with_progress(&config.store.paths.root, true, &config, Some(Arc::clone(&opening)))?;
    let listeners =
        [startup_http.map(StartupListener::end).transpose()?, startup_health.map(StartupListener::end).transpose()?];
    let running = RunningServer::start_on(listeners, service, &config, tls, http, flight)?;
    print::out(&running.ready_line())?;
    running.until_signal()
}

/// Problems of the configuration that the checks of single settings do not find.
fn problems(config: &Config, insecure: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |outcome: Result<()>| problems.extend(outcome.err().map(|error| error.detail().to_string()));
    note(log::filter(&config.log.level).map(drop));
    for text in &config.http.cors_origins {
        note(crate::server::http::cors::origin(text).map(drop));
    }
    note(config.tls.load().map(drop));
    if !insecure {
        match access::list(&config.store.paths.root) {
            Ok(tokens) if tokens.is_empty() => {
                unprotected_listener(config).into_iter().for_each(|open| note(Err(open)))
            }
            Ok(_) => {}
            Err(error) => note(Err(error)),
        }
    }
    problems
}

/// The error for a listener that other machines can reach while no token exists.
fn unprotected_listener(config: &Config) -> Option<Error> {
    let listen = [&config.http.listen, &config.flight.listen, &config.http.health_listen];
    let open = listen.into_iter().filter_map(|text| address(text).ok()).find(|address| !address.ip().is_loopback())?;
    let command = if in_container() {
        "`admin token create --name NAME` in another container on the same volume"
    } else {
        "`fastk admin token create --name NAME`"
    };
    Some(Error::invalid(format!(
        "{open} can be reached from other machines and this store has no tokens: create one with {command}, or listen \
         without tokens by --insecure"
    )))
}

/// Whether this process runs in a container, for hints that name commands.
pub fn in_container() -> bool {
    std::env::var_os("container").is_some()
        || ["/.dockerenv", "/run/.containerenv"].into_iter().any(|mark| std::path::Path::new(mark).exists())
}

/// A server in this process.
pub struct RunningServer {
    runtime: Runtime,
    service: Arc<Service>,
    pub http: SocketAddr,
    pub flight: SocketAddr,
    /// Address of the separate health listener.
    pub health: Option<SocketAddr>,
    health_thread: Option<std::thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// SIGTERM and Ctrl-C, handled from before the listeners accept.
    signals: [Signal; 2],
    listeners: [JoinHandle<Result<()>>; 2],
    /// Drain timeout of the listeners.
    drain: Duration,
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("http", &self.http).field("flight", &self.flight).finish_non_exhaustive()
    }
}

impl RunningServer {
    /// Binds both listeners and starts to serve.
    pub fn start(service: Arc<Service>, config: &Config, http: SocketAddr, flight: SocketAddr) -> Result<Self> {
        Self::start_on([None, None], service, config, config.tls.load()?, http, flight)
    }

    /// Starts on already bound listeners for REST and for health, if given.
    fn start_on(
        [listener, health_listener]: [Option<std::net::TcpListener>; 2],
        service: Arc<Service>,
        config: &Config,
        (http_tls, flight_tls): (Tls, Tls),
        http: SocketAddr,
        flight: SocketAddr,
    ) -> Result<Self> {
        let announced = http_tls.clone();
        let certificates = (http_tls.clone(), flight_tls.clone());
        let authenticator = Arc::new(Authenticator::open(&config.store.paths.root)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("fastk")
            .build()
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start threads: {error}")))?;
        let handler = |kind| {
            let _inside = runtime.enter();
            signal(kind).map_err(|error| Error::new(ErrorCode::Io, format!("cannot wait for signals: {error}")))
        };
        let signals = [handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?];
        // With a handler the signal no longer ends the process: the write fails with an error, as on a full disk.
        drop(handler(SignalKind::from_raw(SIGXFSZ))?);
        let listener_error = |protocol: &str, error| Error::new(ErrorCode::Io, format!("{protocol} listener: {error}"));
        let http_listener = match listener {
            None => runtime.block_on(bind("REST", "--http", http))?,
            Some(listener) => {
                let _inside = runtime.enter();
                TcpListener::from_std(listener).map_err(|error| listener_error("REST", error))?
            }
        };
        let flight_listener = runtime.block_on(bind("Flight", "--flight", flight))?;
        let bound = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| Error::new(ErrorCode::Io, format!("bound address: {error}")))
        };
        let (http, flight) = (bound(&http_listener)?, bound(&flight_listener)?);
        let (stop, stopped) = watch::channel(false);
        let when_stopped = |mut stopped: watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let (health, health_thread) = match config.http.health_listen.as_str() {
            "" => (None, None),
            text => {
                let health_error = |error| listener_error("health", error);
                let listener = match health_listener {
                    None => {
                        let bound = runtime.block_on(bind("health", "http.health_listen", address(text)?))?;
                        bound.into_std().map_err(health_error)?
                    }
                    Some(listener) => listener,
                };
                let at = listener.local_addr().map_err(health_error)?;
                let tls = listeners::health_tls(config, &http_tls);
                let serving = listeners::serve_health(&service, &authenticator, config, tls);
                (Some(at), Some(spawn_listener("fastk-health", listener, serving, when_stopped(stopped.clone()))?))
            }
        };
        let listeners = [
            runtime.spawn(listeners::serve_http(
                http_listener,
                service.clone(),
                authenticator.clone(),
                config,
                http_tls,
                when_stopped(stopped.clone()),
            )),
            runtime.spawn(listeners::serve_flight(
                flight_listener,
                service.clone(),
                authenticator,
                config,
                flight_tls,
                when_stopped(stopped.clone()),
            )),
        ];
        let (weak_service, advertised) = (Arc::downgrade(&service), config.http.advertise.clone());
        listeners::announce(&service, &advertised, http, flight, &announced)?;
        let renewed = move || {
            let announced = weak_service
                .upgrade()
                .map(|service| listeners::announce(&service, &advertised, http, flight, &announced));
            if let Some(Err(error)) = announced {
                tracing::warn!(%error, "LOCK does not name the renewed certificate: commands with --root cannot use this server");
            }
        };
        runtime.spawn(listeners::renew_certificates(certificates, Box::pin(when_stopped(stopped)), renewed));
        tracing::info!(%http, %flight, root = %config.store.paths.root.display(), "ready");
        let drain = config.limits.drain_timeout();
        Ok(Self { runtime, service, http, flight, health, health_thread, stop, signals, listeners, drain })
    }

    /// The line with the addresses of the listeners.
    pub fn ready_line(&self) -> String {
        let health = self.health.map(|health| format!(" health={health}")).unwrap_or_default();
        format!("ready http={} flight={}{health}\n", self.http, self.flight)
    }

    /// Waits for SIGTERM, Ctrl-C or the failure of a listener, then drains.
    pub fn until_signal(mut self) -> Result<u8> {
        let [http, flight] = &mut self.listeners;
        let [terminate, interrupt] = &mut self.signals;
        let failed = self.runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                ended = http => Some(("REST", ended)),
                ended = flight => Some(("Flight", ended)),
            }
        });
        if let Some((protocol, ended)) = failed {
            let cause = match ended {
                Ok(Ok(())) => "it stopped by itself".to_string(),
                Ok(Err(error)) => error.detail().to_string(),
                Err(error) => error.to_string(),
            };
            return Err(Error::new(ErrorCode::Io, format!("the {protocol} listener failed: {cause}")));
        }
        self.stop()
    }

    /// Stops accepting, lets requests finish, and closes the store.
    pub fn stop(self) -> Result<u8> {
        tracing::info!("draining");
        self.service.drain();
        let _ = self.stop.send(true);
        let timeout = self.drain.saturating_add(DRAIN_SLACK);
        listeners::cancel_jobs(&self.service);
        self.runtime.block_on(async {
            for listener in self.listeners {
                match tokio::time::timeout(timeout, listener).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(Ok(Err(error))) => tracing::warn!(%error, "a listener failed while draining"),
                    Ok(Err(error)) => tracing::warn!(%error, "a listener failed while draining"),
                    Err(_) => tracing::warn!("requests were aborted after {} s", timeout.as_secs()),
                }
            }
        });
        if let Some(health_thread) = self.health_thread {
            let _ = health_thread.join();
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        open_store::close(self.service);
        tracing::info!("stopped");
        Ok(0)
    }
}

/// The listener on the REST or health address while the store is being opened.
struct StartupListener {
    listener: std::net::TcpListener,
    opened: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StartupListener {
    /// Binds the address and serves there. `None` if it cannot be bound, which is reported once the store is open.
    fn start(
        address: SocketAddr,
        serving: impl FnOnce(TcpListener, listeners::Shutdown) -> listeners::Serving + Send + 'static,
    ) -> Result<Option<Self>> {
        let failed = |error: std::io::Error| Error::new(ErrorCode::Io, format!("cannot listen on {address}: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let Ok(listener) = runtime.block_on(bind("REST", "--http", address)) else { return Ok(None) };
        let listener = listener.into_std().map_err(failed)?;
        let (opened, mut is_opened) = watch::channel(false);
        let until = async move {
            let _ = is_opened.wait_for(|opened| *opened).await;
        };
        let copy = listener.try_clone().map_err(failed)?;
        let thread = spawn_listener("fastk-opening", copy, serving, until)?;
        Ok(Some(Self { listener, opened, thread: Some(thread) }))
    }

    /// Stops serving and returns the bound listener.
    fn end(mut self) -> Result<std::net::TcpListener> {
        self.stop();
        self.listener.try_clone().map_err(|error| Error::new(ErrorCode::Io, format!("bound listener: {error}")))
    }

    fn stop(&mut self) {
        let _ = self.opened.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for StartupListener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves on a separate thread with its own runtime.
fn spawn_listener(
    name: &'static str,
    listener: std::net::TcpListener,
    serving: impl FnOnce(TcpListener, listeners::Shutdown) -> listeners::Serving + Send + 'static,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<std::thread::JoinHandle<()>> {
    let failed = |error: std::io::Error| Error::new(ErrorCode::Io, format!("cannot start the thread {name}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let serve = move || {
        let served = runtime.block_on(async {
            let listener = TcpListener::from_std(listener)
                .map_err(|error| Error::new(ErrorCode::Io, format!("{name}: {error}")))?;
            serving(listener, Box::pin(stopped)).await
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Err(error) = served {
            tracing::warn!(%error, "the {name} listener failed");
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(serve).map_err(failed)
}

async fn bind(protocol: &str, flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let error = Error::new(ErrorCode::Io, format!("cannot listen on {address} for {protocol}: {error}"));
        error.with_hint(format!("{flag} 127.0.0.1:0 picks a free port"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_bound_without_tokens_or_insecure() {
        let root = tempfile::tempdir().unwrap();
        let with = |http: &str, flight: &str, health: &str, insecure| {
            let mut config = Config::default();
            config.store.paths.root = root.path().into();
            (config.http.listen, config.flight.listen) = (http.into(), flight.into());
            config.http.health_listen = health.into();
            problems(&config, insecure)
        };
        let local = "127.0.0.1:1";
        assert!(with(local, "[::1]:1", "", false).is_empty());
        for open in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1"] {
            for found in [with(open, local, "", false), with(local, open, "", false), with(local, local, open, false)] {
                assert!(matches!(found.as_slice(), [one] if one.starts_with(open)), "{found:?}");
            }
            assert!(with(open, open, open, true).is_empty());
        }
        access::create(root.path(), "t", crate::service::Scope::Read, &[]).unwrap();
        assert!(with("0.0.0.0:1", local, "", false).is_empty());
    }

    #[test]
    fn every_problem_with_the_settings_is_reported_at_once() {
        let mut config = Config::default();
        config.log.level = "fastk=loud".into();
        config.http.cors_origins = vec!["*".into(), "http://good".into(), "http://bad/".into()];
        config.http.listen = "0.0.0.0:1".into();
        config.tls.cert = "/nonexistent/cert.pem".into();
        config.tls.key = "/nonexistent/key.pem".into();
        let root = tempfile::tempdir().unwrap();
        config.store.paths.root = root.path().into();
        let found = problems(&config, false);
        let expected = ["fastk=loud", "\"*\"", "http://bad/", "/nonexistent/", "0.0.0.0:1"];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(found.iter().zip(expected).all(|(found, expected)| found.contains(expected)), "{found:?}");
    }
}
