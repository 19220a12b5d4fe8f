//! DoAction: the operations that are neither a read nor a write, with JSON requests and replies.

use std::sync::Arc;

use arrow_flight::{Action, ActionType};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::describe::json;
use super::status::unimplemented;
use crate::error::{Error, Result};
use crate::query::TimeValue;
use crate::service::{CoverageRequest, Job, Precondition, Scope, SeriesFilter, Service};
use crate::types::{SeriesKey, SeriesSpec};

/// Name and description of every action, as returned by ListActions.
pub const ACTIONS: &[(&str, &str)] = &[
    ("register_series", "registers a series; body: the registration as JSON"),
    ("drop_series", "drops a series with all its rows; body: {\"series\": key, \"if_version\": n?}"),
    (
        "delete_range",
        "deletes the closed range of rows; body: {\"series\": key, \"start\": t, \"end\": t} or {\"series\": key, \"all\": true}; \
         optional: if_version, dry_run",
    ),
    ("create_snapshot", "creates a named snapshot of the current commit; body: {\"name\": name}"),
    ("drop_snapshot", "drops a named snapshot; body: {\"name\": name}"),
    ("list_snapshots", "lists the named snapshots; no body"),
    (
        "coverage",
        "returns which intervals have rows; body: {\"series\": key}; optional: start, end, calendar, min_missing, limit, times, as_of",
    ),
    ("inventory", "lists the stored series; body: empty, or a filter as JSON"),
    ("health", "returns the health of the server; no body"),
    (
        "verify",
        "verifies every file of the store and returns the report when done; body: empty, or {\"bytes_per_second\": n}",
    ),
    ("compact", "seals rows of the WAL into chunk files and merges chunks; body: empty, or {\"series\": [key, …]}"),
];

/// Actions that wait for a job.
pub(super) const JOBS: [&str; 2] = ["verify", "compact"];
/// Actions with an audit log line.
pub(super) const AUDITED: [&str; 5] = ["drop_series", "delete_range", "drop_snapshot", "verify", "compact"];

pub(super) fn list() -> Vec<ActionType> {
    let action =
        |(name, description): &(&str, &str)| ActionType { r#type: (*name).into(), description: (*description).into() };
    ACTIONS.iter().map(action).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropRequest {
    series: SeriesKey,
    if_version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteRequest {
    series: SeriesKey,
    start: Option<TimeValue>,
    end: Option<TimeValue>,
    #[serde(default)]
    all: bool,
    if_version: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameRequest {
    name: String,
}

/// The scope that an action requires; the operation checks the series once the body is parsed.
fn scope(name: &str) -> Scope {
    match name {
        "drop_series" | "drop_snapshot" | "verify" | "compact" => Scope::Admin,
        "register_series" | "delete_range" | "create_snapshot" => Scope::Write,
        _ => Scope::Read,
    }
}

/// Runs an action and returns its reply.
pub(super) fn run(service: &Arc<Service>, action: &Action) -> Result<Bytes> {
    let (body, depth_max) = (action.body.as_ref(), service.limits().json_depth_max);
    // Checked before the body is parsed, so that a caller without the scope learns nothing else.
    service.caller().require_scope(scope(&action.r#type))?;
    match action.r#type.as_str() {
        "register_series" => encode(&service.register(json::<SeriesSpec>("registration", body, depth_max)?)?),
        "drop_series" => {
            let request: DropRequest = json("body of drop_series", body, depth_max)?;
            encode(&service.drop_series(&request.series, &version(request.if_version))?)
        }
        "delete_range" => {
            let request: DeleteRequest = json("body of delete_range", body, depth_max)?;
            let range = range(&request)?;
            encode(&service.delete_range(&request.series, range, &version(request.if_version), request.dry_run)?)
        }
        "create_snapshot" => {
            encode(&service.create_snapshot(&json::<NameRequest>("body of create_snapshot", body, depth_max)?.name)?)
        }
        "drop_snapshot" => {
            encode(&service.drop_snapshot(&json::<NameRequest>("body of drop_snapshot", body, depth_max)?.name)?)
        }
        "list_snapshots" => encode(&service.snapshots()?),
        "coverage" => encode(&service.coverage(&json::<CoverageRequest>("body of coverage", body, depth_max)?)?),
        "inventory" => encode(&service.inventory(&or_default::<SeriesFilter>("filter", body, depth_max)?)?),
        "health" => encode(&service.health()?),
        // Jobs, so that one of each operation runs at a time; the reply is the result of the job.
        "verify" => wait_for(service, service.start_verify(or_default("body of verify", body, depth_max)?)?),
        "compact" => wait_for(service, service.start_compact(or_default("body of compact", body, depth_max)?)?),
        other => {
            let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let excerpt: String = other.chars().take(80).collect();
            Err(unimplemented(&format!("action {excerpt:?}")).with_hint(format!("actions: {}", names.join(", "))))
        }
    }
}

fn wait_for(service: &Service, job: Job) -> Result<Bytes> {
    encode(&service.wait_for_job(&job)?.outcome()?)
}

fn or_default<T: Default + serde::de::DeserializeOwned>(what: &str, body: &[u8], depth_max: usize) -> Result<T> {
    if body.is_empty() { Ok(T::default()) } else { json(what, body, depth_max) }
}

fn version(if_version: Option<u64>) -> Precondition {
    Precondition { if_match: None, if_version }
}

fn encode(reply: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(reply).map_err(|error| Error::internal(format!("reply: {error}")))?;
    Ok(text.into())
}

/// The bounds of a delete; `None` is every row, which must be requested explicitly.
fn range(request: &DeleteRequest) -> Result<Option<(TimeValue, TimeValue)>> {
    match (&request.start, &request.end, request.all) {
        (None, None, true) => Ok(None),
        (Some(start), Some(end), false) => Ok(Some((start.clone(), end.clone()))),
        _ => Err(Error::invalid("delete_range needs both start and end, or all=true")),
    }
}
