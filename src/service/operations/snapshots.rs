//! Named snapshots of the whole store: create, drop, list.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Operation, RequestSchemas};
use super::series::encoded;
use super::spec::{BodyKind, FlightBinding, Method, Route, Spec};
use super::store::NoRequest;
use crate::error::ErrorCode::{CorruptData, SnapshotExists, SnapshotNotFound, UnsupportedFormat};
use crate::error::Result;
use crate::service::{Scope, Service, SnapshotDropped, SnapshotInfo, SnapshotList};

/// A snapshot to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// 1 to 64 characters: ASCII letters, digits and `. _ - : @ + = ^ $ &`, not starting with a dot.
    #[schema(example = "before-repair")]
    pub name: String,
}

/// Creates a snapshot.
#[derive(Debug)]
pub struct CreateSnapshot;

impl Operation for CreateSnapshot {
    const SPEC: Spec = Spec::new("create a snapshot", Scope::Write)
        .whole_store()
        .rest(&[Route {
            body: BodyKind::Whole,
            success: &[(201, "Created")],
            location: "Path of the snapshot",
            writes: true,
            errors: &[SnapshotExists],
            ..Route::new(Method::Post, "snapshots")
        }
        .at("/v1/snapshots", "createSnapshot", "Create a snapshot")
        .about(
            "Creates a named snapshot of the current commit, for `as_of`. It stays readable until it is dropped, \
             regardless of writes, deletes and compactions.",
        )])
        .flight(&[FlightBinding::Action(
            "create_snapshot",
            "creates a named snapshot of the current commit; body: {\"name\": name}",
        )])
        .cli(&["snapshot create"]);
    type Request = SnapshotSpec;
    type Reply = SnapshotInfo;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<SnapshotSpec>()
    }

    fn run(service: &Service, request: SnapshotSpec, _: &Context) -> Result<SnapshotInfo> {
        service.create_snapshot(&request.name)
    }

    fn location(reply: &SnapshotInfo) -> Option<String> {
        Some(format!("/v1/snapshots/{}", encoded(&reply.name)))
    }
}

/// Drops a snapshot.
#[derive(Debug)]
pub struct DropSnapshot;

impl Operation for DropSnapshot {
    const SPEC: Spec = Spec::new("drop a snapshot", Scope::Admin)
        .whole_store()
        .rest(&[Route {
            success: &[(200, "Dropped")],
            writes: true,
            errors: &[SnapshotNotFound, CorruptData, UnsupportedFormat],
            ..Route::new(Method::Delete, "snapshots")
        }
        .at("/v1/snapshots/{name}", "dropSnapshot", "Drop a snapshot")
        .about("Data visible only in this snapshot is removed by maintenance.")])
        .flight(&[FlightBinding::Action("drop_snapshot", "drops a named snapshot; body: {\"name\": name}")])
        .cli(&["snapshot drop"]);
    type Request = SnapshotSpec;
    type Reply = SnapshotDropped;

    fn run(service: &Service, request: SnapshotSpec, _: &Context) -> Result<SnapshotDropped> {
        service.drop_snapshot(&request.name)
    }
}

/// Lists the snapshots.
#[derive(Debug)]
pub struct ListSnapshots;

impl Operation for ListSnapshots {
    const SPEC: Spec = Spec::new("list snapshots", Scope::Read)
        .rest(&[Route { success: &[(200, "The snapshots")], ..Route::new(Method::Get, "snapshots") }
            .at("/v1/snapshots", "listSnapshots", "List snapshots")
            .about("All snapshots, ordered by name.")])
        .flight(&[FlightBinding::Action("list_snapshots", "lists the named snapshots; no body")])
        .cli(&["snapshot list"]);
    type Request = NoRequest;
    type Reply = SnapshotList;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<SnapshotList> {
        service.snapshots()
    }
}
