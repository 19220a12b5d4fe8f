//! Configuration: built-in defaults < file < environment < flags, with the origin of every value.
//!
//! Each section is the struct of the part that uses it. `config/fastk.toml` is made of their keys, defaults and texts;
//! a test compares them. Loading reports all problems of all sources at once, and an unknown key names the nearest known
//! one.

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
use crate::server::flight::FlightSettings;
use crate::server::http::HttpSettings;
use crate::server::tls_stream::TlsSettings;
use crate::service::{ServiceLimits, StoreOptions};
use crate::settings::{Section, SettingText, settings};
use crate::sql::SqlSettings;
use crate::types::similar::distance;

/// Shorthand for the variable of `log.level`; it takes precedence over that variable.
pub const LOG_VARIABLE: &str = "FASTK_LOG";

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
    pub store: StoreSettings,
    pub http: HttpSettings,
    pub flight: FlightSettings,
    pub limits: ServiceLimits,
    pub sql: SqlSettings,
    pub tls: TlsSettings,
    pub log: LogSettings,
}

/// Section `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreSettings {
    #[serde(flatten)]
    pub paths: StorePaths,
    #[serde(flatten)]
    pub options: StoreOptions,
}

impl Default for StoreSettings {
    fn default() -> Self {
        let options = StoreOptions { commit_retention_bytes_max: 64 << 20, ..StoreOptions::default() };
        Self { paths: StorePaths::default(), options }
    }
}

settings! {
    /// The directories in the section `[store]`.
    pub struct StorePaths {
        /// Data directory. One process owns it at a time.
        root: PathBuf = "fastk-data".into();
        /// Directory below which clients of a server may create backups, best on another disk; "" forbids backups by
        /// clients.
        backup_dir: PathBuf = PathBuf::new();
    }
}

settings! {
    /// Section `[log]`.
    pub struct LogSettings {
        /// "text" or "json"; logs always go to standard error.
        format: LogFormat = LogFormat::Text;
        /// error, warn, info, debug, trace, or directives such as "info,fastk=debug". FASTK_LOG overrides it.
        level: String = "info".into();
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
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
    /// The keys of each section in order, each with the lines of its text. A section can be listed in parts.
    pub fn keys() -> [(&'static str, &'static [SettingText]); 8] {
        [
            ("store", StorePaths::KEYS),
            ("store", StoreOptions::KEYS),
            ("http", HttpSettings::KEYS),
            ("flight", FlightSettings::KEYS),
            ("limits", ServiceLimits::KEYS),
            ("sql", SqlSettings::KEYS),
            ("tls", TlsSettings::KEYS),
            ("log", LogSettings::KEYS),
        ]
    }

    /// Values out of range, and values that contradict each other.
    fn problems(&self) -> Vec<String> {
        let Self { store, http, flight, limits, sql, tls, log: _ } = self;
        let mut problems = store.options.out_of_range("store");
        problems.extend(http.out_of_range("http"));
        problems.extend(flight.out_of_range("flight"));
        problems.extend(limits.out_of_range("limits"));
        problems.extend(sql.out_of_range("sql"));
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        if given(&tls.cert) != given(&tls.key) {
            problems.push("tls.cert and tls.key are given together or not at all".into());
        }
        if given(&tls.client_ca) && !given(&tls.cert) {
            problems.push("tls.client_ca needs tls.cert and tls.key".into());
        }
        if store.paths.root.as_os_str().is_empty() {
            problems.push("store.root is empty".into());
        }
        let advertise = &http.advertise;
        let is_address = advertise
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !advertise.is_empty() && !is_address {
            problems.push(format!("http.advertise: {advertise:?} is not host:port"));
        }
        let health = &http.health_listen;
        if let Some(error) = (!health.is_empty()).then(|| address(health).err()).flatten() {
            problems.push(format!("http.health_listen: {}", error.detail()));
        }
        for (path, text) in [("http.listen", &http.listen), ("flight.listen", &flight.listen)] {
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
        assert_eq!(loaded.config.store.options.tail_rows_max, 7);
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
