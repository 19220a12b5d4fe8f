//! The target of a command: a store that it opens itself, or the server that owns the store. Either runs the operations
//! of the table.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::certificates::ServerTrust;
use super::remote::RestClient;
use super::{job, open_store, print, request};
use crate::config::{Config, LoadedConfig};
use crate::disk::process_lives;
use crate::error::{Error, ErrorCode, Result};
use crate::service::operations::{Context, DescribeSeries, JobOperation, Operation, SeriesRequest};
use crate::service::{Precondition, SeriesInfo, Service};
use crate::types::SeriesKey;

/// The flags that select the store of a command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TargetArgs {
    /// Data directory [default: the configured one]. If a server owns it, the command goes through that server.
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub root: Option<PathBuf>,
    /// REST address of a running server: http://host:port, or https://host:port under TLS.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Token, for a server that requires one.
    #[arg(long, value_name = "TOKEN", env = "FASTK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Trusted certificates (PEM) for an https:// server, instead of the roots of the system.
    #[arg(long, value_name = "FILE", env = "FASTK_CA")]
    pub ca: Option<PathBuf>,
    /// Client certificate (PEM), for an https:// server that requires one; needs --key.
    #[arg(long = "cert", value_name = "FILE", env = "FASTK_CERT")]
    pub client_cert: Option<PathBuf>,
    /// Key (PEM) of --cert.
    #[arg(long = "key", value_name = "FILE", env = "FASTK_KEY")]
    pub client_key: Option<PathBuf>,
}

impl TargetArgs {
    /// A client of a server; under TLS only the pinned certificate is accepted if there is one.
    fn client(&self, server: &str, pinned: Option<String>) -> Result<RestClient> {
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(Error::invalid("--cert and --key go together")),
        };
        let trust = ServerTrust { ca: self.ca.clone(), identity, pinned };
        Ok(RestClient::with_trust(server, &trust)?.with_token(self.token.as_deref()))
    }
}

/// Arguments of a command that has only a target and an output format.
#[derive(Debug, clap::Args)]
pub struct PlainArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// An open store, or a client of the server that owns it.
#[derive(Debug)]
pub enum CommandTarget {
    Local(Arc<Service>),
    Remote(Box<RestClient>),
}

fn config() -> Result<Config> {
    let file = std::env::var_os("FASTK_CONFIG").map(PathBuf::from);
    Ok(LoadedConfig::read(file.as_deref(), &[])?.config)
}

/// The data directory, for commands that read its files themselves.
pub fn root_of(args: &TargetArgs) -> Result<PathBuf> {
    root_or_configured(args.root.as_deref())
}

/// The given data directory, or the configured one.
pub fn root_or_configured(root: Option<&Path>) -> Result<PathBuf> {
    match root {
        Some(root) => Ok(root.to_path_buf()),
        None => Ok(config()?.store.paths.root),
    }
}

/// The configured size of chunks.
pub fn chunk_bytes_max() -> Result<u64> {
    Ok(config()?.store.options.chunk_bytes_max)
}

impl CommandTarget {
    /// Opens the store, or connects to the server that owns it and prints so to standard error. A missing store is
    /// created when `create` is set, else it is `not_found`.
    pub fn open(args: &TargetArgs, create: bool) -> Result<Self> {
        if let Some(server) = &args.server {
            return Ok(CommandTarget::Remote(Box::new(args.client(server, None)?)));
        }
        let config = config()?;
        let root = args.root.clone().unwrap_or_else(|| config.store.paths.root.clone());
        match open_store::open(&root, create, &config) {
            Ok(service) => Ok(CommandTarget::Local(service)),
            Err(error) if error.code() == ErrorCode::StoreLocked => Self::through_owner(&root, args, error),
            Err(error) => Err(error),
        }
    }

    /// Connects to the server without opening the store.
    ///
    /// # Errors
    /// `not_ready` when no server has the store open.
    pub fn running(args: &TargetArgs) -> Result<Self> {
        if let Some(server) = &args.server {
            return Ok(CommandTarget::Remote(Box::new(args.client(server, None)?)));
        }
        let root = root_of(args)?;
        let none = Error::new(ErrorCode::NotReady, format!("no server has {} open", root.display()));
        match open_store::owner(&root) {
            Some(owner) if process_lives(owner.pid) => Self::through_owner(&root, args, none),
            _ => Err(none),
        }
    }

    fn through_owner(root: &Path, args: &TargetArgs, locked: Error) -> Result<Self> {
        let Some(open_store::StoreOwner { pid, http: Some(http), tls }) = open_store::owner(root) else {
            return Err(locked);
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = args.client(&format!("{scheme}://{http}"), tls.map(|tls| tls.certificate_sha256))?.announced();
        print::note(&format!("{} is owned by process {pid}: going through {}", root.display(), client.url()));
        Ok(CommandTarget::Remote(Box::new(client)))
    }

    /// Runs an operation.
    pub fn run<O: Operation>(&self, request: O::Request) -> Result<O::Reply> {
        self.run_if::<O>(request, &Precondition::default())
    }

    /// Runs an operation on condition that its series has an entity tag. A condition on the version is in the request.
    pub fn run_if<O: Operation>(&self, request: O::Request, condition: &Precondition) -> Result<O::Reply> {
        match self {
            CommandTarget::Local(service) => {
                O::run(service, request, &Context { if_match: condition.if_match.clone(), ..Context::default() })
            }
            CommandTarget::Remote(client) => {
                let request = request::value(&request)?;
                let tag = match request::condition(&request) {
                    Some((key, version)) => {
                        self.tag(&key, &Precondition { if_version: Some(version), ..condition.clone() })?
                    }
                    None => condition.if_match.clone(),
                };
                client.json(request::call(&O::SPEC, &request)?.if_match(tag.as_deref()))
            }
        }
    }

    /// Runs a long operation and shows its progress.
    pub fn run_job<O: JobOperation>(&self, request: &O::Request) -> Result<O::Reply> {
        match self {
            CommandTarget::Local(service) => {
                let control = O::control(request);
                job::local(&control, O::UNIT, || O::run(service, request, &control))
            }
            CommandTarget::Remote(client) => {
                job::remote(client, O::VERB, request::call(&O::SPEC, &request::value(request)?)?)
            }
        }
    }

    /// One series.
    pub fn series(&self, key: &SeriesKey) -> Result<SeriesInfo> {
        self.run::<DescribeSeries>(SeriesRequest { series: key.clone() })
    }

    /// One series, which must be at this version if there is one.
    pub fn series_at(&self, key: &SeriesKey, version: Option<u64>) -> Result<SeriesInfo> {
        let info = self.series(key)?;
        match version.filter(|expected| *expected != info.version) {
            None => Ok(info),
            Some(expected) => {
                let detail = format!("series {key} is at version {}, not {expected}", info.version);
                Err(Error::new(ErrorCode::CommitConflict, detail))
            }
        }
    }

    /// The entity tag of a condition. REST has conditions on tags only, so the version is looked up: another version is
    /// a conflict at once, and the tag detects changes in between.
    pub fn tag(&self, key: &SeriesKey, condition: &Precondition) -> Result<Option<String>> {
        match condition.if_version {
            None => Ok(condition.if_match.clone()),
            version => Ok(Some(self.series_at(key, version)?.etag)),
        }
    }
}
