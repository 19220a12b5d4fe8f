//! DoAction: the verbs that are neither a read nor a write, JSON in and JSON out.

use std::sync::Arc;

use arrow_flight::{Action, ActionType};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::describe::json;
use super::status::unimplemented;
use crate::error::{Error, Result};
use crate::query::TimeValue;
use crate::service::{CoverageRequest, Job, Precondition, Scope, SeriesFilter, Service, range_of};
use crate::types::{SeriesKey, SeriesSpec};

/// Name and description of every action, as ListActions gives them.
pub const ACTIONS: &[(&str, &str)] = &[
    ("register_series", "registers a series; body: the registration as JSON"),
    ("drop_series", "drops a series with all its rows; body: {\"series\": key, \"if_version\": n?}"),
    (
        "delete_range",
        "deletes the closed range of rows; body: {\"series\": key, \"start\": t, \"end\": t} or {\"series\": key, \"all\": true}; \
         optional: if_version, dry_run",
    ),
    ("create_snapshot", "names the store as it is now, for as_of; body: {\"name\": name}"),
    ("drop_snapshot", "takes a named snapshot away; body: {\"name\": name}"),
    ("list_snapshots", "lists the named snapshots; no body"),
    (
        "coverage",
        "tells which intervals have rows; body: {\"series\": key}; optional: start, end, calendar, min_missing, limit, times, as_of",
    ),
    ("inventory", "lists what is stored; body: empty, or a filter as JSON"),
    ("health", "tells how the server is; no body"),
    (
        "verify",
        "checks every file of the store and answers the report when it is done; body: empty, or {\"bytes_per_second\": n}",
    ),
    ("compact", "moves rows of the log into chunk files and merges chunks; body: empty, or {\"series\": [key, …]}"),
];

/// Those that wait for a job.
pub(super) const JOBS: [&str; 2] = ["verify", "compact"];
/// Those the log tells of, with who called them.
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

/// The scope an action needs; which series it may touch is decided by the verb, once the body names them.
fn scope(name: &str) -> Scope {
    match name {
        "drop_series" | "drop_snapshot" | "verify" | "compact" => Scope::Admin,
        "register_series" | "delete_range" | "create_snapshot" => Scope::Write,
        _ => Scope::Read,
    }
}

/// Carries out an action and gives its answer.
pub(super) fn run(service: &Arc<Service>, action: &Action) -> Result<Bytes> {
    let (body, depth_max) = (action.body.as_ref(), service.limits().json_depth_max);
    // Before the body is read: whoever lacks the scope learns that and nothing else.
    service.caller().may(scope(&action.r#type))?;
    match action.r#type.as_str() {
        "register_series" => answer(&service.register(json::<SeriesSpec>("registration", body, depth_max)?)?),
        "drop_series" => {
            let asked: DropRequest = json("body of drop_series", body, depth_max)?;
            answer(&service.drop_series(&asked.series, &version(asked.if_version))?)
        }
        "delete_range" => {
            let asked: DeleteRequest = json("body of delete_range", body, depth_max)?;
            let range = range(service, &asked)?;
            answer(&service.delete_range(&asked.series, range, &version(asked.if_version), asked.dry_run)?)
        }
        "create_snapshot" => {
            answer(&service.create_snapshot(&json::<NameRequest>("body of create_snapshot", body, depth_max)?.name)?)
        }
        "drop_snapshot" => {
            answer(&service.drop_snapshot(&json::<NameRequest>("body of drop_snapshot", body, depth_max)?.name)?)
        }
        "list_snapshots" => answer(&service.snapshots()?),
        "coverage" => answer(&service.coverage(&json::<CoverageRequest>("body of coverage", body, depth_max)?)?),
        "inventory" => answer(&service.inventory(&or_default::<SeriesFilter>("filter", body, depth_max)?)?),
        "health" => answer(&service.health()?),
        // Jobs, so that one of a verb runs at a time; the answer is what came out.
        "verify" => finished(service, service.start_verify(or_default("body of verify", body, depth_max)?)?),
        "compact" => finished(service, service.start_compact(or_default("body of compact", body, depth_max)?)?),
        other => {
            let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let shown: String = other.chars().take(80).collect();
            Err(unimplemented(&format!("action {shown:?}")).with_hint(format!("actions: {}", names.join(", "))))
        }
    }
}

fn finished(service: &Service, job: Job) -> Result<Bytes> {
    answer(&service.wait_for(&job)?.outcome()?)
}

fn or_default<T: Default + serde::de::DeserializeOwned>(what: &str, body: &[u8], depth_max: usize) -> Result<T> {
    if body.is_empty() { Ok(T::default()) } else { json(what, body, depth_max) }
}

fn version(if_version: Option<u64>) -> Precondition {
    Precondition { if_match: None, if_version }
}

fn answer(reply: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(reply).map_err(|error| Error::internal(format!("reply: {error}")))?;
    Ok(text.into())
}

/// The closed range of a delete; `None` is everything, which has to be said.
fn range(service: &Service, asked: &DeleteRequest) -> Result<Option<(i64, i64)>> {
    match (&asked.start, &asked.end, asked.all) {
        (None, None, true) => Ok(None),
        (Some(start), Some(end), false) => {
            let range = range_of(&*service.def(&asked.series)?, Some(start), Some(end))?;
            range.map(Some).ok_or_else(|| Error::invalid("no timestamp lies between start and end"))
        }
        _ => Err(Error::invalid("delete_range needs both start and end, or all=true")),
    }
}
