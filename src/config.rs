//! Configuration: built-in defaults < file < environment < flags, with the origin of every value.
//!
//! `config/fastk.toml` is the reference and equals [`Config::default`]; a test compares them. Loading reports all
//! problems of all sources at once, and an unknown key names the nearest known one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::disk::local;
use crate::error::{Error, Result};
use crate::store::{Durability, StoreOptions};
use crate::types::similar::distance;

/// Shorthand for the variable of `log.level`; it takes precedence over that variable.
pub const LOG_VARIABLE: &str = "FASTK_LOG";
const HOUR_MS: u64 = 3_600_000;
/// Memory that one response may hold.
const RESPONSE_BYTES: u64 = 4 << 20;

/// Prefix of environment variables that set a key: `FASTK__SECTION__KEY`.
pub const ENV_PREFIX: &str = "FASTK__";
/// Prefix of every environment variable meant for this program.
const OWN_PREFIX: &str = "FASTK_";
/// Variables that set no key: those of command line flags.
const VARIABLES: [&str; 6] = [LOG_VARIABLE, "FASTK_CONFIG", "FASTK_TOKEN", "FASTK_CA", "FASTK_CERT", "FASTK_KEY"];
/// Suffixes, after [`OWN_PREFIX`], of variables that only tests read.
const TEST_VARIABLES: [&str; 8] = ["BIN", "BLESS", "KEEP", "PLANTED_FAULT", "PROFILE", "PROOF", "TEST_DATA", "URL"];

/// Effective settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub store: StoreConfig,
    pub http: HttpConfig,
    pub flight: FlightConfig,
    pub limits: LimitsConfig,
    pub tls: TlsConfig,
    pub log: LogConfig,
}

/// Section `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Data directory.
    pub root: PathBuf,
    pub durability: Durability,
    /// Longest time between two flushes under `durability = "interval"`, 1 to 60,000 ms.
    pub sync_interval_ms: u64,
    /// Size of one WAL segment, 64 KiB to 1 GiB.
    pub wal_segment_bytes: u64,
    /// Maximum size of the WAL, four segments to 1 TiB.
    pub wal_bytes_max: u64,
    /// Rows in the tail of one series that trigger a seal, 1 to 2^32; a sorted write of at least this many rows is
    /// written directly to chunks.
    pub tail_rows_max: u64,
    /// Maximum bytes of rows in the run files of all tails, 1 MiB to 1 TiB; above it the longest tails are sealed.
    pub tail_bytes_max: u64,
    /// How long commits returned in replies, cursors and tickets stay readable, at most 7 days.
    pub commit_retention_ms: u64,
    /// Approximate maximum memory for retained commits, 0 to 1 TiB.
    pub commit_retention_bytes_max: u64,
    /// Directory below which clients may create backups; empty to forbid backups by clients.
    pub backup_dir: PathBuf,
}

/// Section `[http]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `address:port` of the REST listener; port 0 picks a free port.
    pub listen: String,
    /// `host:port` at which other machines and containers reach the REST listener; empty for the address of the
    /// listener.
    pub advertise: String,
    /// Maximum size of a request body.
    pub body_bytes_max: u64,
    /// Maximum bytes of all bodies being received or written at one time; more are rejected as `overloaded`.
    pub ingest_bytes_max: u64,
    /// Rows of a JSON response without `limit`.
    pub json_rows_default: u64,
    /// Largest `limit` of a JSON response.
    pub json_rows_max: u64,
    /// Maximum number of concurrent reads.
    pub reads_max: u64,
    /// How long a read waits for one of these permits before it is rejected.
    pub read_queue_timeout_ms: u64,
    /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
    pub connections_max: u64,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub connection_streams_max: u64,
    /// Maximum length of a request target, in bytes.
    pub uri_bytes_max: u64,
    /// Maximum size of the headers of one request.
    pub header_bytes_max: u64,
    /// Maximum ratio of the decompressed to the compressed size of a body.
    pub decompression_ratio_max: u64,
    /// Maximum time from the first byte of a connection or request to the end of its headers.
    pub header_timeout_ms: u64,
    /// How long a connection may be idle between two requests.
    pub idle_timeout_ms: u64,
    /// Maximum pause between two reads of a body.
    pub body_idle_timeout_ms: u64,
    /// Maximum time to receive a body.
    pub body_timeout_ms: u64,
    /// How long a client may read nothing of its response.
    pub stall_timeout_ms: u64,
    /// `address:port` of a separate listener for health and metrics, served by its own threads; empty for none.
    pub health_listen: String,
    /// Whether that listener uses TLS when `[tls]` is set.
    pub health_tls: bool,
    /// Origins whose pages may send requests from a browser.
    pub cors_origins: Vec<String>,
}

/// Section `[flight]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlightConfig {
    /// `address:port` of the Flight listener; port 0 picks a free port.
    pub listen: String,
    /// Maximum size of the columns of one record batch of a `DoPut`.
    pub message_bytes_max: u64,
    /// Maximum bytes of record batches being written, of all clients together; further batches wait.
    pub put_bytes_max: u64,
    /// Maximum number of concurrent `DoGet` responses; more are rejected as `overloaded`.
    pub gets_max: u64,
    /// Maximum number of concurrent `DoPut` calls; more are rejected as `overloaded`.
    pub puts_max: u64,
    /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
    pub connections_max: u64,
    /// Maximum number of concurrent calls on one connection.
    pub connection_streams_max: u64,
    /// Maximum time for the TLS handshake, and then for the HTTP/2 preface, of a new connection.
    pub handshake_timeout_ms: u64,
    /// Maximum time to receive the request message of a call.
    pub message_timeout_ms: u64,
    /// How long a `DoPut` may send nothing.
    pub put_idle_timeout_ms: u64,
    /// How long a client may read nothing of a `DoGet` response.
    pub stall_timeout_ms: u64,
    /// Time without traffic after which a connection is pinged.
    pub ping_interval_ms: u64,
    /// How long a pinged connection may take to reply before it is closed.
    pub ping_timeout_ms: u64,
}

/// Section `[limits]`: limits over both listeners together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Maximum number of concurrent requests and calls.
    pub requests_max: u64,
    /// Maximum number of responses being sent and puts being received.
    pub streams_max: u64,
    /// Maximum number of concurrent requests and calls of one token.
    pub token_requests_max: u64,
    /// Maximum number of responses being sent and puts being received of one token.
    pub token_streams_max: u64,
    /// Maximum memory of all responses being sent, 4 MiB each.
    pub response_bytes_max: u64,
    /// Memory for the rows of all bodies and puts being decoded and written, 48 bytes per cell; a body that needs more
    /// is rejected as `too_large`, one that would have to wait for others as `overloaded`.
    pub decoded_bytes_max: u64,
    /// Maximum time to process a request, from its last byte to the headers of its response.
    pub request_timeout_ms: u64,
    /// Maximum nesting depth of JSON.
    pub json_depth_max: u64,
    /// How long requests in flight may continue after the server begins to shut down.
    pub drain_timeout_ms: u64,
}

/// Section `[tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain of the server; empty for no TLS.
    pub cert: PathBuf,
    /// PEM file with the private key of the certificate.
    pub key: PathBuf,
    /// PEM file with the authorities that sign client certificates; empty when clients need no certificate.
    pub client_ca: PathBuf,
}

impl TlsConfig {
    /// Whether both listeners use TLS.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

/// Section `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A level or `tracing` directives.
    pub level: String,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let engine = StoreOptions::default();
        Self {
            root: "fastk-data".into(),
            durability: engine.durability,
            sync_interval_ms: engine.sync_interval_ms,
            wal_segment_bytes: engine.wal_segment_bytes,
            wal_bytes_max: engine.wal_bytes_max,
            tail_rows_max: engine.tail_rows_max,
            tail_bytes_max: engine.tail_bytes_max,
            commit_retention_ms: engine.commit_retention_ms,
            commit_retention_bytes_max: 64 << 20,
            backup_dir: PathBuf::new(),
        }
    }
}

impl StoreConfig {
    /// The settings of the engine.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            durability: self.durability,
            sync_interval_ms: self.sync_interval_ms,
            wal_segment_bytes: self.wal_segment_bytes,
            wal_bytes_max: self.wal_bytes_max,
            tail_rows_max: self.tail_rows_max,
            tail_bytes_max: self.tail_bytes_max,
            commit_retention_ms: self.commit_retention_ms,
            commit_retention_bytes_max: self.commit_retention_bytes_max,
            ..StoreOptions::default()
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            advertise: String::new(),
            body_bytes_max: 256 << 20,
            ingest_bytes_max: 1 << 30,
            json_rows_default: 10_000,
            json_rows_max: 1_000_000,
            reads_max: 256,
            read_queue_timeout_ms: 5_000,
            connections_max: 1_024,
            connection_streams_max: 128,
            uri_bytes_max: 8 << 10,
            header_bytes_max: 32 << 10,
            decompression_ratio_max: 250,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 300_000,
            body_idle_timeout_ms: 30_000,
            body_timeout_ms: 600_000,
            stall_timeout_ms: 60_000,
            health_listen: String::new(),
            health_tls: true,
            cors_origins: Vec::new(),
        }
    }
}

impl Default for FlightConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8815".into(),
            message_bytes_max: 64 << 20,
            put_bytes_max: 256 << 20,
            gets_max: 64,
            puts_max: 64,
            connections_max: 1_024,
            connection_streams_max: 128,
            handshake_timeout_ms: 20_000,
            message_timeout_ms: 30_000,
            put_idle_timeout_ms: 900_000,
            stall_timeout_ms: 60_000,
            ping_interval_ms: 15_000,
            ping_timeout_ms: 15_000,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            streams_max: 512,
            token_requests_max: 1_024,
            token_streams_max: 128,
            response_bytes_max: 2 << 30,
            decoded_bytes_max: 2 << 30,
            request_timeout_ms: 120_000,
            json_depth_max: 32,
            drain_timeout_ms: 10_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    Default,
    File(PathBuf),
    /// Name of the environment variable.
    Environment(String),
    /// Name of the flag, including its dashes.
    Flag(&'static str),
}

impl std::fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ValueOrigin::Default => f.write_str("default"),
            ValueOrigin::File(path) => write!(f, "file {}", path.display()),
            ValueOrigin::Environment(name) => write!(f, "environment {name}"),
            ValueOrigin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value given on the command line for one key.
#[derive(Clone, Debug)]
pub struct FlagValue {
    pub section: &'static str,
    pub key: &'static str,
    pub flag: &'static str,
    pub value: Value,
}

/// Settings, and the source of each by `section.key`.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: Config,
    origins: BTreeMap<String, ValueOrigin>,
    warnings: Vec<String>,
}

impl LoadedConfig {
    /// Merges all sources. `file` must exist when it is given.
    ///
    /// # Errors
    /// `invalid_argument` with every problem found: unreadable file, unknown keys, wrong types, values out of range.
    pub fn read(file: Option<&Path>, flags: &[FlagValue]) -> Result<Self> {
        Self::read_checked(file, flags, |_| Vec::new())
    }

    /// Like [`LoadedConfig::read`], with further problems found by `check` reported among the others.
    ///
    /// # Errors
    /// As [`LoadedConfig::read`].
    pub fn read_checked(
        file: Option<&Path>,
        flags: &[FlagValue],
        check: impl FnOnce(&Config) -> Vec<String>,
    ) -> Result<Self> {
        let environment =
            std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|n| n.starts_with(OWN_PREFIX));
        let level = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty());
        Self::from_sources(file, environment.collect(), level, flags)?.finish(check)
    }

    fn from_sources(
        file: Option<&Path>,
        variables: Vec<String>,
        level: Option<String>,
        flags: &[FlagValue],
    ) -> Result<ConfigMerge> {
        let mut merge = ConfigMerge::new()?;
        if let Some(path) = file {
            match local::read_text(path) {
                Err(error) => merge.problems.push(error.detail().to_string()),
                Ok(text) => match Figment::from(Toml::string(&text)).extract::<Value>() {
                    Ok(values) => merge.layer(&values, |_, _| ValueOrigin::File(path.to_path_buf())),
                    Err(error) => merge.problems.push(format!("{} is not TOML: {error}", path.display())),
                },
            }
        }
        let (variables, others): (Vec<_>, Vec<_>) =
            variables.into_iter().partition(|name| name.starts_with(ENV_PREFIX));
        merge.warnings = others.iter().filter_map(|name| merge.unread_variable_warning(name)).collect();
        if !variables.is_empty() {
            match Figment::from(Env::prefixed(ENV_PREFIX).split("__")).extract::<Value>() {
                Ok(values) => merge.layer(&values, |section, key| {
                    let name = format!("{section}__{key}").to_uppercase();
                    ValueOrigin::Environment(format!("{ENV_PREFIX}{name}"))
                }),
                Err(error) => merge.problems.push(format!("environment: {error}")),
            }
        }
        if let Some(level) = level {
            merge.set("log", "level", &level.into(), ValueOrigin::Environment(LOG_VARIABLE.into()));
        }
        for flag in flags {
            merge.set(flag.section, flag.key, &flag.value, ValueOrigin::Flag(flag.flag));
        }
        Ok(merge)
    }

    /// Environment variables that look like settings but set nothing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Source of the value of `section.key`.
    pub fn origin(&self, path: &str) -> &ValueOrigin {
        self.origins.get(path).unwrap_or(&ValueOrigin::Default)
    }

    /// The effective values as TOML, each line with its source as a comment.
    pub fn print(&self) -> Result<String> {
        let mut out = String::new();
        for (section, keys) in sections(&self.config)? {
            let _ = writeln!(out, "{}[{section}]", if out.is_empty() { "" } else { "\n" });
            for (key, value) in keys {
                let line = format!("{key} = {value}");
                let _ = writeln!(out, "{line:<40} # {}", self.origin(&format!("{section}.{key}")));
            }
        }
        Ok(out)
    }
}

/// Sections and keys with their values, in order.
fn sections(config: &Config) -> Result<Vec<(String, Map<String, Value>)>> {
    let Value::Object(sections) = to_json(config)? else { return Err(Error::internal("configuration is not a table")) };
    Ok(sections.into_iter().filter_map(|(name, keys)| Some((name, keys.as_object()?.clone()))).collect())
}

fn to_json(config: &Config) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::internal(format!("configuration as JSON: {error}")))
}

/// Values merged so far, and the problems found.
struct ConfigMerge {
    known: Vec<(String, Map<String, Value>)>,
    values: Map<String, Value>,
    origins: BTreeMap<String, ValueOrigin>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl ConfigMerge {
    fn new() -> Result<Self> {
        let known = sections(&Config::default())?;
        let values = known.iter().map(|(name, keys)| (name.clone(), Value::Object(keys.clone()))).collect();
        Ok(Self { known, values, origins: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() })
    }

    fn layer(&mut self, values: &Value, origin: impl Fn(&str, &str) -> ValueOrigin) {
        let Some(sections) = values.as_object() else { return };
        for (section, keys) in sections {
            match keys.as_object() {
                Some(keys) => {
                    for (key, value) in keys {
                        self.set(section, key, value, origin(section, key));
                    }
                }
                None => self.report_unknown_key(section, &origin("", section)),
            }
        }
    }

    fn set(&mut self, section: &str, key: &str, value: &Value, origin: ValueOrigin) {
        let path = format!("{section}.{key}");
        let default = self.known.iter().find(|(name, _)| name == section).and_then(|(_, keys)| keys.get(key));
        let Some(default) = default else { return self.report_unknown_key(&path, &origin) };
        // The environment provider parses digits as a number; a key that holds text keeps them as text.
        let value = match (default, value) {
            (Value::String(_), Value::Number(number)) if matches!(origin, ValueOrigin::Environment(_)) => {
                Value::String(number.to_string())
            }
            // In the environment a list is comma-separated; `[a, b]` was already parsed as a list.
            (Value::Array(_), given) if matches!(origin, ValueOrigin::Environment(_)) && !given.is_array() => {
                let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
                text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Value::from).collect()
            }
            _ => value.clone(),
        };
        let alone = serde_json::json!({ section: { key: value.clone() } });
        if let Err(error) = serde_json::from_value::<Config>(alone) {
            self.problems.push(format!("{path}: {error} ({origin})"));
            return;
        }
        if let Some(keys) = self.values.get_mut(section).and_then(Value::as_object_mut) {
            keys.insert(key.to_string(), value);
        }
        self.origins.insert(path, origin);
    }

    fn report_unknown_key(&mut self, path: &str, origin: &ValueOrigin) {
        let known = self.keys(|section, key| format!("{section}.{key}"));
        let nearest = known.iter().min_by_key(|name| distance(name, path)).cloned().unwrap_or_default();
        let variable = match origin {
            ValueOrigin::Environment(_) => format!(" ({ENV_PREFIX}{})", nearest.replace('.', "__").to_uppercase()),
            _ => String::new(),
        };
        self.problems.push(format!("unknown key {path} ({origin}); the nearest known key is {nearest}{variable}"));
    }

    /// Every key, formatted by `form`.
    fn keys(&self, form: impl Fn(&str, &str) -> String) -> Vec<String> {
        let keys_of_section = |(section, keys): &(String, Map<String, Value>)| -> Vec<String> {
            keys.keys().map(|key| form(section, key)).collect()
        };
        self.known.iter().flat_map(keys_of_section).collect()
    }

    /// A warning for a variable that begins with our prefix but is not read. It is not an error: Kubernetes sets such
    /// variables for a service named `fastk`.
    fn unread_variable_warning(&self, name: &str) -> Option<String> {
        let is_test_variable = name.strip_prefix(OWN_PREFIX).is_some_and(|rest| TEST_VARIABLES.contains(&rest));
        if VARIABLES.contains(&name) || is_test_variable {
            return None;
        }
        let mut known = self.keys(|section, key| format!("{ENV_PREFIX}{section}__{key}").to_uppercase());
        known.extend(VARIABLES.map(String::from));
        // One underscore instead of two is the usual mistake; it counts as no difference.
        let nearest = known.iter().min_by_key(|other| distance(&other.replace("__", "_"), name))?;
        Some(format!("the environment variable {name} is not read; the nearest known one is {nearest}"))
    }

    fn finish(mut self, check: impl FnOnce(&Config) -> Vec<String>) -> Result<LoadedConfig> {
        let config: Config = serde_json::from_value(Value::Object(self.values))
            .map_err(|error| Error::internal(format!("merged configuration: {error}")))?;
        self.problems.extend(config.problems());
        self.problems.extend(check(&config));
        if self.problems.is_empty() {
            return Ok(LoadedConfig { config, origins: self.origins, warnings: self.warnings });
        }
        let detail = match self.problems.as_slice() {
            [one] => format!("configuration: {one}"),
            many => format!("configuration has {} problems:\n  {}", many.len(), many.join("\n  ")),
        };
        Err(Error::invalid(detail).with_hint("config/fastk.toml lists every key with its default"))
    }
}

impl Config {
    /// Values out of range, and values that contradict each other.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut range = |path: &str, value: u64, min: u64, max: u64| {
            if value < min || value > max {
                problems.push(format!("{path} = {value} is outside {min} to {max}"));
            }
        };
        let store = &self.store;
        range("store.sync_interval_ms", store.sync_interval_ms, 1, 60_000);
        range("store.wal_segment_bytes", store.wal_segment_bytes, 64 << 10, 1 << 30);
        range("store.wal_bytes_max", store.wal_bytes_max, store.wal_segment_bytes.saturating_mul(4), 1 << 40);
        range("store.tail_rows_max", store.tail_rows_max, 1, 1 << 32);
        range("store.tail_bytes_max", store.tail_bytes_max, 1 << 20, 1 << 40);
        range("store.commit_retention_ms", store.commit_retention_ms, 0, 7 * 86_400_000);
        range("store.commit_retention_bytes_max", store.commit_retention_bytes_max, 0, 1 << 40);
        range("http.body_bytes_max", self.http.body_bytes_max, 1 << 10, 1 << 40);
        range("http.json_rows_max", self.http.json_rows_max, 1, 1 << 32);
        range("http.json_rows_default", self.http.json_rows_default, 1, self.http.json_rows_max);
        range("http.ingest_bytes_max", self.http.ingest_bytes_max, self.http.body_bytes_max, 1 << 42);
        range("http.reads_max", self.http.reads_max, 1, 1 << 16);
        range("http.connections_max", self.http.connections_max, 1, 1 << 16);
        range("flight.message_bytes_max", self.flight.message_bytes_max, 1 << 16, 1 << 30);
        range("flight.put_bytes_max", self.flight.put_bytes_max, self.flight.message_bytes_max, 1 << 42);
        let http = &self.http;
        range("http.read_queue_timeout_ms", http.read_queue_timeout_ms, 0, HOUR_MS);
        range("http.connection_streams_max", http.connection_streams_max, 1, 1 << 16);
        range("http.uri_bytes_max", http.uri_bytes_max, 256, 60 << 10);
        range("http.header_bytes_max", http.header_bytes_max, 1 << 10, 128 << 10);
        range("http.decompression_ratio_max", http.decompression_ratio_max, 1, 1 << 20);
        range("http.header_timeout_ms", http.header_timeout_ms, 10, HOUR_MS);
        range("http.idle_timeout_ms", http.idle_timeout_ms, 10, 24 * HOUR_MS);
        range("http.body_idle_timeout_ms", http.body_idle_timeout_ms, 10, HOUR_MS);
        range("http.body_timeout_ms", http.body_timeout_ms, 10, 24 * HOUR_MS);
        range("http.stall_timeout_ms", http.stall_timeout_ms, 10, 24 * HOUR_MS);
        let flight = &self.flight;
        range("flight.gets_max", flight.gets_max, 1, 1 << 16);
        range("flight.puts_max", flight.puts_max, 1, 1 << 16);
        range("flight.connections_max", flight.connections_max, 1, 1 << 16);
        range("flight.connection_streams_max", flight.connection_streams_max, 1, 1 << 16);
        range("flight.handshake_timeout_ms", flight.handshake_timeout_ms, 10, HOUR_MS);
        range("flight.message_timeout_ms", flight.message_timeout_ms, 10, HOUR_MS);
        range("flight.put_idle_timeout_ms", flight.put_idle_timeout_ms, 10, 24 * HOUR_MS);
        range("flight.stall_timeout_ms", flight.stall_timeout_ms, 10, 24 * HOUR_MS);
        range("flight.ping_interval_ms", flight.ping_interval_ms, 10, HOUR_MS);
        range("flight.ping_timeout_ms", flight.ping_timeout_ms, 10, HOUR_MS);
        let limits = &self.limits;
        range("limits.requests_max", limits.requests_max, 1, 1 << 20);
        range("limits.streams_max", limits.streams_max, 1, 1 << 20);
        range("limits.token_requests_max", limits.token_requests_max, 1, 1 << 20);
        range("limits.token_streams_max", limits.token_streams_max, 1, 1 << 20);
        range("limits.response_bytes_max", limits.response_bytes_max, RESPONSE_BYTES, 1 << 42);
        range("limits.decoded_bytes_max", limits.decoded_bytes_max, 1 << 24, 1 << 42);
        range("limits.request_timeout_ms", limits.request_timeout_ms, 10, 24 * HOUR_MS);
        range("limits.json_depth_max", limits.json_depth_max, 8, 100);
        range("limits.drain_timeout_ms", limits.drain_timeout_ms, 0, HOUR_MS);
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        let tls = &self.tls;
        if given(&tls.cert) != given(&tls.key) {
            problems.push("tls.cert and tls.key are given together or not at all".into());
        }
        if given(&tls.client_ca) && !given(&tls.cert) {
            problems.push("tls.client_ca needs tls.cert and tls.key".into());
        }
        if store.root.as_os_str().is_empty() {
            problems.push("store.root is empty".into());
        }
        let advertise = &self.http.advertise;
        let is_address = advertise
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !advertise.is_empty() && !is_address {
            problems.push(format!("http.advertise: {advertise:?} is not host:port"));
        }
        let health = &self.http.health_listen;
        if let Some(error) = (!health.is_empty()).then(|| address(health).err()).flatten() {
            problems.push(format!("http.health_listen: {}", error.detail()));
        }
        for (path, text) in [("http.listen", &self.http.listen), ("flight.listen", &self.flight.listen)] {
            if let Err(error) = address(text) {
                problems.push(format!("{path}: {}", error.detail()));
            }
        }
        problems
    }
}

/// Resolves `address:port`.
pub fn address(text: &str) -> Result<SocketAddr> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| Error::invalid(format!("{text:?} is not address:port")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: &[FlagValue]) -> Result<LoadedConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        LoadedConfig::from_sources(Some(file.path()), Vec::new(), None, flags)?.finish(|_| Vec::new())
    }

    #[test]
    fn later_sources_win_and_are_reported() {
        let flag = FlagValue { section: "http", key: "listen", flag: "--http", value: "127.0.0.1:0".into() };
        let loaded = load("[http]\nlisten = '127.0.0.1:9'\n[store]\ntail_rows_max = 7\n", &[flag]).unwrap();
        assert_eq!(loaded.config.http.listen, "127.0.0.1:0");
        assert_eq!(loaded.config.store.tail_rows_max, 7);
        assert_eq!(loaded.origin("http.listen"), &ValueOrigin::Flag("--http"));
        assert!(matches!(loaded.origin("store.tail_rows_max"), ValueOrigin::File(_)));
        assert_eq!(loaded.origin("store.root"), &ValueOrigin::Default);
        let printed = loaded.print().unwrap();
        assert!(printed.contains("# flag --http") && printed.contains("# default"), "{printed}");
        assert!(printed.parse::<toml::Table>().is_ok());
    }

    #[test]
    fn every_problem_is_reported_at_once_with_the_nearest_key() {
        let error = load(
            "[htpp]\nlisten = 'x'\n[store]\ndurabilty = 'sync'\ntail_rows_max = 'many'\nsync_interval_ms = 0\n[http]\nlisten = 'nowhere'\n",
            &[],
        )
        .unwrap_err();
        let text = error.detail();
        for expected in [
            "5 problems",
            "htpp.listen",
            "nearest known key is http.listen",
            "nearest known key is store.durability",
            "store.tail_rows_max: invalid type",
            "store.sync_interval_ms = 0",
            "http.listen: \"nowhere\"",
        ] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
    }

    #[test]
    fn lists_in_the_environment_are_comma_separated() {
        let set = |value: Value| {
            let mut merge = ConfigMerge::new().unwrap();
            merge.set("http", "cors_origins", &value, ValueOrigin::Environment("FASTK__HTTP__CORS_ORIGINS".into()));
            merge.finish(|_| Vec::new()).unwrap().config.http.cors_origins
        };
        let both = ["https://a.example", "http://b.example:81"];
        assert_eq!(set("https://a.example, http://b.example:81,".into()), both);
        assert_eq!(set(serde_json::json!(both)), both);
        assert_eq!(set("https://a.example".into()), both[..1]);
        assert!(set("".into()).is_empty());
        // In a file a list is written as a list: text is an error.
        assert!(load("[http]\ncors_origins = 'https://a.example'\n", &[]).is_err());
    }

    #[test]
    fn variables_that_nothing_reads_are_named_with_the_nearest_known_one() {
        let warnings = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let loaded = LoadedConfig::from_sources(None, names, None, &[]).unwrap().finish(|_| Vec::new());
            loaded.unwrap().warnings().to_vec()
        };
        let test_variables = TEST_VARIABLES.map(|rest| format!("{OWN_PREFIX}{rest}"));
        assert!(warnings(&VARIABLES).is_empty() && warnings(&test_variables.each_ref().map(String::as_str)).is_empty());
        for (name, nearest) in [
            ("FASTK_HTTP_LISTEN", "FASTK__HTTP__LISTEN"),
            ("FASTK_STORE__ROOT", "FASTK__STORE__ROOT"),
            ("FASTK_LOGS", "FASTK_LOG"),
            ("FASTK_TOKENS", "FASTK_TOKEN"),
        ] {
            let expected = format!("the environment variable {name} is not read; the nearest known one is {nearest}");
            assert_eq!(warnings(&[name]), [expected]);
        }
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let load = |file, level, check: fn(&Config) -> Vec<String>| {
            LoadedConfig::from_sources(file, Vec::new(), level, &[]).unwrap().finish(check)
        };
        let missing =
            load(Some(Path::new("/nonexistent/fastk.toml")), None, |_| vec!["another one".into()]).unwrap_err();
        assert!(missing.detail().contains("/nonexistent/fastk.toml") && missing.detail().contains("another one"));
        assert_eq!(load(None, None, |_| Vec::new()).unwrap().config, Config::default());
        let loaded = load(None, Some("debug".into()), |_| Vec::new()).unwrap();
        assert_eq!(loaded.config.log.level, "debug");
        assert!(loaded.print().unwrap().lines().any(|line| line.starts_with("level") && line.ends_with(LOG_VARIABLE)));
    }
}
