//! The target of a command: a store that it opens itself, or the server that owns the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;

use super::certificates::ServerTrust;
use super::remote::{Call, RestClient, segment, series_path};
use super::{engine, job, print};
use crate::config::{Config, LoadedConfig};
use crate::disk::process_lives;
use crate::error::{Error, ErrorCode, Result};
use crate::query::{CancelFlag, Predicate, Query};
use crate::registry::{RecordKind, RecordStatus};
use crate::service::{
    Acknowledged, BackupReply, BackupRequest, CompactReply, CoverageReply, CoverageRequest, Dataset, DatasetPage,
    DatasetSpec, Defined, Definition, DefinitionPage, DefinitionSpec, DeleteReply, DropReply, FilesReply, FilesRequest,
    Health, IdempotencyKey, Inventory, LineageReply, OrphanReport, OverlapReport, Precondition, RecordFilter,
    RecordPatch, Registered, RowMode, ScrubRequest, SeriesFilter, SeriesInfo, SeriesPage, Service, SnapshotDropped,
    SnapshotInfo, SnapshotList, StatusReply, TaskControl, VerifyReport, VerifyRequest, WriteManyReply, WriteMethod,
    WriteOptions, scrub_control,
};
use crate::types::{SeriesKey, SeriesSpec};

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

const SNAPSHOTS: &str = "/v1/snapshots";
/// Limits to try for one JSON response, largest first: the default maximum of servers, then lower ones they may be
/// configured to. The last attempt sends no limit, which every server accepts.
const JSON_ROWS: [u64; 3] = [1_000_000, 100_000, 10_000];
/// Longest request target of a read in bytes; servers accept 8,192 by default.
const TARGET_BYTES_MAX: usize = 4_000;
/// Bytes at the end of a JSON response that contain its cursor.
const END_BYTES: usize = 512;

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

/// This directory, or the configured one.
pub fn root_or_configured(root: Option<&Path>) -> Result<PathBuf> {
    match root {
        Some(root) => Ok(root.to_path_buf()),
        None => Ok(config()?.store.root),
    }
}

/// How the rows of a body are decoded.
#[derive(Clone, Debug, Default)]
pub struct BodyOptions {
    pub format: String,
    pub validate: Option<String>,
    pub rounding: Option<String>,
    pub numbers: Option<String>,
    pub missing: Option<String>,
    pub grid: Option<String>,
    pub implausible_ts: Option<String>,
}

impl BodyOptions {
    /// Accepts any timestamp: for callers that checked them, or that accept any.
    pub fn any_time(self) -> Self {
        Self { grid: Some("allow".into()), implausible_ts: Some("allow".into()), ..self }
    }
}

/// How rows are encoded.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// `json`, `ndjson`, `csv`, `arrow` or `parquet`.
    pub format: String,
    /// `epoch` or `rfc3339`.
    pub times: Option<String>,
    /// `rows` or `columns`.
    pub shape: Option<String>,
}

impl CommandTarget {
    /// Opens the store, or connects to the server that owns it and prints so to standard error. A missing store is
    /// created when `create` is set, else it is `not_found`.
    pub fn open(args: &TargetArgs, create: bool) -> Result<Self> {
        if let Some(server) = &args.server {
            return Ok(CommandTarget::Remote(Box::new(args.client(server, None)?)));
        }
        let config = config()?;
        let root = args.root.clone().unwrap_or_else(|| config.store.root.clone());
        match engine::open(&root, create, &config) {
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
        match engine::owner(&root) {
            Some(owner) if process_lives(owner.pid) => Self::through_owner(&root, args, none),
            _ => Err(none),
        }
    }

    fn through_owner(root: &Path, args: &TargetArgs, locked: Error) -> Result<Self> {
        let Some(engine::StoreOwner { pid, http: Some(http), tls }) = engine::owner(root) else { return Err(locked) };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = args.client(&format!("{scheme}://{http}"), tls.map(|tls| tls.certificate_sha256))?.announced();
        print::note(&format!("{} is owned by process {pid}: going through {}", root.display(), client.url()));
        Ok(CommandTarget::Remote(Box::new(client)))
    }

    pub fn register(&self, spec: SeriesSpec) -> Result<Registered> {
        match self {
            CommandTarget::Local(service) => service.register(spec),
            CommandTarget::Remote(client) => client.json(json_body(Call::new(Method::POST, "/v1/series"), &spec)?),
        }
    }

    pub fn series(&self, key: &SeriesKey) -> Result<SeriesInfo> {
        match self {
            CommandTarget::Local(service) => service.series(key),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, series_path(key, false))),
        }
    }

    pub fn list(&self, filter: &SeriesFilter) -> Result<SeriesPage> {
        match self {
            CommandTarget::Local(service) => service.list(filter),
            CommandTarget::Remote(client) => {
                client.json(with_series_filter(Call::new(Method::GET, "/v1/series"), filter))
            }
        }
    }

    pub fn inventory(&self, filter: &SeriesFilter) -> Result<Inventory> {
        match self {
            CommandTarget::Local(service) => service.inventory(filter),
            CommandTarget::Remote(client) => {
                client.json(with_series_filter(Call::new(Method::GET, "/inventory"), filter))
            }
        }
    }

    pub fn coverage(&self, request: &CoverageRequest) -> Result<CoverageReply> {
        match self {
            CommandTarget::Local(service) => service.coverage(request),
            CommandTarget::Remote(client) => client.json(coverage_call(request)?),
        }
    }

    pub fn health(&self) -> Result<Health> {
        match self {
            CommandTarget::Local(service) => service.health(),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, "/health").accept_unavailable()),
        }
    }

    /// Whether the store accepts requests.
    pub fn ready(&self) -> Result<StatusReply> {
        match self {
            CommandTarget::Local(service) => service.readiness(),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, "/health/ready").accept_unavailable()),
        }
    }

    /// Seals and compacts these series (all when empty).
    pub fn compact(&self, series: &[SeriesKey]) -> Result<CompactReply> {
        match self {
            CommandTarget::Local(service) => service.compact(series),
            CommandTarget::Remote(client) => {
                let body = (!series.is_empty()).then(|| serde_json::json!({ "series": series }));
                job::remote(client, "compact", body)
            }
        }
    }

    /// Backs up the store.
    pub fn backup(&self, request: &BackupRequest) -> Result<BackupReply> {
        match self {
            CommandTarget::Local(service) => {
                let watch = request.control();
                job::local(&watch, "bytes", || service.backup(request, &watch))
            }
            CommandTarget::Remote(client) => job::remote(client, "backup", Some(value(request)?)),
        }
    }

    /// Verifies every file of the store.
    pub fn verify(&self, request: VerifyRequest) -> Result<VerifyReport> {
        match self {
            CommandTarget::Local(service) => {
                service.verify(&TaskControl::with_rate(request.bytes_per_second.unwrap_or(0)))
            }
            CommandTarget::Remote(client) => job::remote(client, "verify", Some(value(&request)?)),
        }
    }

    /// Verifies every file and rebuilds damaged sidecars.
    pub fn scrub(&self, request: ScrubRequest) -> Result<VerifyReport> {
        match self {
            CommandTarget::Local(service) => service.scrub(request.dry_run, &scrub_control(request)),
            CommandTarget::Remote(client) => job::remote(client, "scrub", Some(value(&request)?)),
        }
    }

    pub fn orphans(&self) -> Result<OrphanReport> {
        match self {
            CommandTarget::Local(service) => service.orphans(),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, "/v1/admin/orphans")),
        }
    }

    pub fn overlaps(&self) -> Result<OverlapReport> {
        match self {
            CommandTarget::Local(service) => service.overlaps(),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, "/v1/admin/overlaps")),
        }
    }

    /// The chunk files of a series.
    pub fn files(&self, request: &FilesRequest) -> Result<FilesReply> {
        match self {
            CommandTarget::Local(service) => service.files(request, &CancelFlag::default()),
            CommandTarget::Remote(client) => client.json(
                Call::new(Method::GET, "/v1/admin/files")
                    .param("series", request.series.as_str())
                    .maybe("as_of", request.as_of.as_deref()),
            ),
        }
    }

    pub fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        match self {
            CommandTarget::Local(service) => service.create_snapshot(name),
            CommandTarget::Remote(client) => {
                client.json(json_body(Call::new(Method::POST, SNAPSHOTS), &serde_json::json!({ "name": name }))?)
            }
        }
    }

    pub fn drop_snapshot(&self, name: &str) -> Result<SnapshotDropped> {
        match self {
            CommandTarget::Local(service) => service.drop_snapshot(name),
            CommandTarget::Remote(client) => {
                client.json(Call::new(Method::DELETE, format!("{SNAPSHOTS}/{}", segment(name))))
            }
        }
    }

    pub fn snapshots(&self) -> Result<SnapshotList> {
        match self {
            CommandTarget::Local(service) => service.snapshots(),
            CommandTarget::Remote(client) => client.json(Call::new(Method::GET, SNAPSHOTS)),
        }
    }

    pub fn create_dataset(&self, spec: &DatasetSpec) -> Result<Dataset> {
        match self {
            CommandTarget::Local(service) => service.create_dataset(spec),
            CommandTarget::Remote(client) => client.json(json_body(Call::new(Method::POST, "/v1/datasets"), spec)?),
        }
    }

    pub fn datasets(&self, filter: &RecordFilter) -> Result<DatasetPage> {
        match self {
            CommandTarget::Local(service) => service.datasets(filter),
            CommandTarget::Remote(client) => {
                client.json(with_record_filter(Call::new(Method::GET, "/v1/datasets"), filter)?)
            }
        }
    }

    pub fn dataset(&self, name: &str, version: Option<u32>) -> Result<Dataset> {
        match self {
            CommandTarget::Local(service) => service.dataset(name, version),
            CommandTarget::Remote(client) => {
                client.json(record_call(Method::GET, RecordKind::Dataset, name, version, ""))
            }
        }
    }

    pub fn dataset_versions(&self, name: &str, filter: &RecordFilter) -> Result<DatasetPage> {
        match self {
            CommandTarget::Local(service) => service.dataset_versions(name, filter),
            CommandTarget::Remote(client) => {
                client.json(with_record_filter(versions_call(RecordKind::Dataset, name), filter)?)
            }
        }
    }

    pub fn set_dataset_status(&self, name: &str, version: u32, status: RecordStatus) -> Result<Dataset> {
        match self {
            CommandTarget::Local(service) => service.set_dataset_status(name, Some(version), status),
            CommandTarget::Remote(client) => {
                let call = record_call(Method::PATCH, RecordKind::Dataset, name, Some(version), "");
                client.json(json_body(call, &RecordPatch { status })?)
            }
        }
    }

    pub fn lineage(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<LineageReply> {
        match self {
            CommandTarget::Local(service) => service.lineage(kind, name, version),
            CommandTarget::Remote(client) => client.json(record_call(Method::GET, kind, name, version, "/lineage")),
        }
    }

    pub fn define(&self, kind: RecordKind, spec: &DefinitionSpec) -> Result<Defined> {
        match self {
            CommandTarget::Local(service) => service.define(kind, spec),
            CommandTarget::Remote(client) => client.json(json_body(Call::new(Method::POST, records_path(kind)), spec)?),
        }
    }

    pub fn definitions(&self, kind: RecordKind, filter: &RecordFilter) -> Result<DefinitionPage> {
        match self {
            CommandTarget::Local(service) => service.definitions(kind, filter),
            CommandTarget::Remote(client) => {
                client.json(with_record_filter(Call::new(Method::GET, records_path(kind)), filter)?)
            }
        }
    }

    pub fn definition(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<Definition> {
        match self {
            CommandTarget::Local(service) => service.definition(kind, name, version),
            CommandTarget::Remote(client) => client.json(record_call(Method::GET, kind, name, version, "")),
        }
    }

    pub fn definition_versions(&self, kind: RecordKind, name: &str, filter: &RecordFilter) -> Result<DefinitionPage> {
        match self {
            CommandTarget::Local(service) => service.definition_versions(kind, name, filter),
            CommandTarget::Remote(client) => client.json(with_record_filter(versions_call(kind, name), filter)?),
        }
    }

    pub fn set_definition_status(
        &self,
        kind: RecordKind,
        name: &str,
        version: u32,
        status: RecordStatus,
    ) -> Result<Definition> {
        match self {
            CommandTarget::Local(service) => service.set_definition_status(kind, name, Some(version), status),
            CommandTarget::Remote(client) => {
                let call = record_call(Method::PATCH, kind, name, Some(version), "");
                client.json(json_body(call, &RecordPatch { status })?)
            }
        }
    }

    pub fn drop_series(&self, key: &SeriesKey, condition: &Precondition) -> Result<DropReply> {
        match self {
            CommandTarget::Local(service) => service.drop_series(key, condition),
            CommandTarget::Remote(client) => {
                let tag = self.tag(key, condition)?;
                client.json(Call::new(Method::DELETE, series_path(key, false)).if_match(tag.as_deref()))
            }
        }
    }

    /// Deletes a closed range, or every row when `range` is `None`.
    pub fn delete(
        &self,
        key: &SeriesKey,
        range: Option<(&str, &str)>,
        condition: &Precondition,
        dry_run: bool,
    ) -> Result<DeleteReply> {
        match self {
            CommandTarget::Local(service) => {
                let range = range.map(|(start, end)| (engine::time_value(start), engine::time_value(end)));
                service.delete_range(key, range, condition, dry_run)
            }
            CommandTarget::Remote(client) => {
                let call = Call::new(Method::DELETE, series_path(key, true));
                let call = match range {
                    Some((start, end)) => call.param("start", start).param("end", end),
                    None => call.param("all", "true"),
                };
                let call = if dry_run { call.param("dry_run", "true") } else { call };
                client.json(call.if_match(self.tag(key, condition)?.as_deref()))
            }
        }
    }

    /// Writes the rows of a body as one commit.
    pub fn write(
        &self,
        key: &SeriesKey,
        body: Bytes,
        options: &BodyOptions,
        write_options: &WriteOptions,
    ) -> Result<Acknowledged> {
        let client = match self {
            CommandTarget::Local(service) => return engine::write(service, key, &body, options, write_options),
            CommandTarget::Remote(client) => client,
        };
        write_options.check(key)?;
        let path = series_path(key, true);
        let call = match write_options.method {
            WriteMethod::Mode(mode) => with_mode(Call::new(Method::POST, path), mode),
            WriteMethod::Merge(op) => Call::new(Method::POST, path + "/merge").maybe("op", op.map(|op| op.name())),
        };
        let once = write_options.idempotency_key.as_ref().map(IdempotencyKey::as_str);
        let tag = match once {
            None => self.tag(key, &write_options.condition)?,
            Some(_) => self.tag_of_retry(key, &write_options.condition)?,
        };
        let call = with_body_options(call, options).if_match(tag.as_deref()).idempotency_key(once);
        let (reply, repeated) = client.json_replayed(call.body(engine::media_type(&options.format)?, body))?;
        Ok(Acknowledged { reply, repeated })
    }

    /// Writes the rows of many series as one commit.
    pub fn write_many(
        &self,
        body: Bytes,
        options: &BodyOptions,
        mode: RowMode,
        once: Option<&IdempotencyKey>,
    ) -> Result<Acknowledged<WriteManyReply>> {
        match self {
            CommandTarget::Local(service) => engine::write_many(service, &body, options, mode, once),
            CommandTarget::Remote(client) => {
                let call = with_body_options(with_mode(Call::new(Method::POST, "/v1/write"), mode), options)
                    .idempotency_key(once.map(IdempotencyKey::as_str))
                    .body(engine::media_type(&options.format)?, body);
                let (reply, repeated) = client.json_replayed(call)?;
                Ok(Acknowledged { reply, repeated })
            }
        }
    }

    /// Passes the encoded rows of a query to `sink`, one buffer at a time. After an error they are not a valid result.
    ///
    /// JSON without a limit means every row, or `too_large`: a truncated page would look like the whole result.
    pub fn read(
        &self,
        query: &Query,
        options: &OutputOptions,
        sink: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        if options.format != "json" || query.limit.is_some() {
            return self.stream(query, options, sink);
        }
        let mut query = query.clone();
        let mut end = Vec::new();
        self.read_page(&mut query, options, &mut |piece: Bytes| {
            end.extend_from_slice(piece.get(piece.len().saturating_sub(END_BYTES)..).unwrap_or_default());
            end.drain(..end.len().saturating_sub(END_BYTES));
            sink(piece)
        })?;
        if !String::from_utf8_lossy(&end).contains("\"next_cursor\":null") {
            let first = query.limit.map_or_else(String::new, |rows| format!("the {rows} of "));
            let detail = format!("{} has more rows than {first}one JSON response", query.series.join(", "));
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("--format ndjson has no limit, or --limit N"));
        }
        Ok(())
    }

    /// Passes one JSON response to `sink`. For a query without a limit, the largest limit that the server accepts
    /// becomes the limit of the query and of the pages that follow.
    pub fn read_page(
        &self,
        query: &mut Query,
        options: &OutputOptions,
        sink: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        if query.limit.is_some() {
            return self.stream(query, options, sink);
        }
        let mut rows = JSON_ROWS.into_iter();
        loop {
            query.limit = rows.next();
            let mut has_output = false;
            let done = self.stream(query, options, &mut |piece: Bytes| {
                has_output = true;
                sink(piece)
            });
            match done {
                // The server may have a lower limit; any other error occurs again.
                Err(error)
                    if error.code() == ErrorCode::InvalidArgument
                        && matches!(self, CommandTarget::Remote(_))
                        && query.limit.is_some()
                        && !has_output => {}
                done => return done,
            }
        }
    }

    fn stream(&self, query: &Query, options: &OutputOptions, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        match self {
            CommandTarget::Local(service) => engine::read(service, query, options, sink),
            CommandTarget::Remote(client) => client.stream(read_call(query, options)?, sink),
        }
    }

    /// The entity tag of a condition. REST has conditions on tags only, so the version is looked up: another version is
    /// a conflict at once, and the tag detects changes in between.
    fn tag(&self, key: &SeriesKey, condition: &Precondition) -> Result<Option<String>> {
        let Some(version) = condition.if_version else { return Ok(condition.if_match.clone()) };
        let info = self.series(key)?;
        if info.version != version {
            let detail = format!("series {key} is at version {}, not {version}", info.version);
            return Err(Error::new(ErrorCode::CommitConflict, detail));
        }
        Ok(Some(info.etag))
    }

    /// The entity tag of a condition on a write that may be a retry, which only the server knows: a version that
    /// differs from the current one is sent too.
    fn tag_of_retry(&self, key: &SeriesKey, condition: &Precondition) -> Result<Option<String>> {
        let Some(version) = condition.if_version else { return Ok(condition.if_match.clone()) };
        let tag = self.series(key)?.etag;
        let mut parts = tag.rsplitn(3, '-');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(format), Some(_), Some(stem)) => Ok(Some(format!("{stem}-{version}-{format}"))),
            _ => Err(Error::internal(format!("the entity tag {tag} of {key} cannot be parsed"))),
        }
    }
}

fn value<T: serde::Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::internal(format!("request as JSON: {error}")))
}

fn json_body<T: serde::Serialize>(call: Call, value: &T) -> Result<Call> {
    let body = serde_json::to_vec(value).map_err(|error| Error::internal(format!("request as JSON: {error}")))?;
    Ok(call.body("application/json", body.into()))
}

/// Adds the write mode as a parameter.
fn with_mode(call: Call, mode: RowMode) -> Call {
    let mode = serde_json::to_value(mode).ok();
    call.maybe("mode", mode.as_ref().and_then(|mode| mode.as_str()))
}

/// Adds the decode options as parameters.
fn with_body_options(call: Call, options: &BodyOptions) -> Call {
    call.maybe("validate", options.validate.as_deref())
        .maybe("rounding", options.rounding.as_deref())
        .maybe("numbers", options.numbers.as_deref())
        .maybe("missing", options.missing.as_deref())
        .maybe("grid", options.grid.as_deref())
        .maybe("implausible_ts", options.implausible_ts.as_deref())
}

fn records_path(kind: RecordKind) -> String {
    format!("/v1/{}s", kind.name())
}

fn versions_call(kind: RecordKind, name: &str) -> Call {
    Call::new(Method::GET, format!("{}/{}/versions", records_path(kind), segment(name)))
}

/// A request about one version of a record, or its latest.
fn record_call(method: Method, kind: RecordKind, name: &str, version: Option<u32>, below: &str) -> Call {
    let version = version.map_or_else(|| "latest".to_owned(), |version| version.to_string());
    Call::new(method, format!("{}/{}/versions/{version}{below}", records_path(kind), segment(name)))
}

/// Adds the filter as parameters of a GET.
fn with_record_filter(mut call: Call, filter: &RecordFilter) -> Result<Call> {
    let serde_json::Value::Object(fields) = value(filter)? else {
        return Err(Error::internal("a filter is not a JSON object"));
    };
    for (name, value) in &fields {
        call = call.param(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(call)
}

fn with_series_filter(call: Call, filter: &SeriesFilter) -> Call {
    let limit = filter.limit.map(|limit| limit.to_string());
    call.maybe("kind", filter.kind.map(|kind| kind.name()))
        .maybe("symbol", filter.symbol.as_deref())
        .maybe("timeframe", filter.timeframe.as_deref())
        .maybe("category", filter.category.as_deref())
        .maybe("name", filter.name.as_deref())
        .maybe("prefix", filter.prefix.as_deref())
        .maybe("limit", limit.as_deref())
        .maybe("cursor", filter.cursor.as_deref())
        .maybe("months", filter.months.then_some("true"))
}

/// The request as parameters of a GET.
fn coverage_call(request: &CoverageRequest) -> Result<Call> {
    let mut path = String::from("/v1/coverage");
    path.push_str(series_path(&request.series, false).trim_start_matches("/v1/series"));
    let mut call = Call::new(Method::GET, path);
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(request) else {
        return Err(Error::internal("a request is not a JSON object"));
    };
    for (name, value) in fields.iter().filter(|(name, _)| *name != "series") {
        // Text is sent as it is, numbers and calendars as JSON.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        call = call.param(name, &text);
    }
    Ok(call)
}

/// The query as parameters of a GET; as a body if it is long or has several series.
fn read_call(query: &Query, options: &OutputOptions) -> Result<Call> {
    let with_output = |call: Call| {
        call.param("format", &options.format)
            .maybe("times", options.times.as_deref())
            .maybe("shape", options.shape.as_deref())
    };
    let as_body = || json_body(with_output(Call::new(Method::POST, "/v1/query")), query);
    let key = match query.series.as_slice() {
        [only] if !only.contains('*') => SeriesKey::parse(only)?,
        _ => return as_body(),
    };
    let mut call = with_output(Call::new(Method::GET, series_path(&key, true)));
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(query) else {
        return Err(Error::internal("a query is not a JSON object"));
    };
    for (name, value) in fields {
        match value {
            // For one series the layouts do not differ.
            _ if name == "layout" => {}
            // Appended at the end: a cursor is bound to its query, so the choice of GET or POST must not depend on it.
            _ if name == "cursor" => {}
            serde_json::Value::String(text) => call = call.param(&name, &text),
            serde_json::Value::Number(number) => call = call.param(&name, &number.to_string()),
            serde_json::Value::Array(_) if name == "series" => {}
            serde_json::Value::Array(items) if name == "where" => {
                for item in items {
                    let predicate: Predicate = serde_json::from_value(item)
                        .map_err(|error| Error::internal(format!("a predicate is not valid: {error}")))?;
                    call = call.param(&name, &predicate.to_text());
                }
            }
            serde_json::Value::Array(items) => {
                let words: Vec<&str> = items.iter().filter_map(|item| item.as_str()).collect();
                call = call.param(&name, &words.join(","));
            }
            serde_json::Value::Bool(true) => call = call.param(&name, "true"),
            _ => {}
        }
    }
    if call.target_bytes() > TARGET_BYTES_MAX {
        return as_body();
    }
    Ok(call.maybe("cursor", query.cursor.as_deref()))
}
