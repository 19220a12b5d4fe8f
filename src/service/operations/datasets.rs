//! Datasets: create, list, describe, change the status; and the lineage of any record.

use serde::{Deserialize, Serialize};

use super::operation::{Context, Operation, RequestSchemas};
use super::spec::{BodyKind, Method, Route, Spec};
use crate::error::ErrorCode::{
    CorruptData, DatasetNotFound, NotFound, PermissionDenied, SeriesNotFound, SnapshotNotFound, UnsupportedFormat,
};
use crate::error::{ErrorCode, Result};
use crate::registry::{RecordKind, RecordRef};
use crate::service::{Dataset, DatasetPage, DatasetSpec, LineageReply, RecordFilter, RecordPatch, Scope, Service};

/// Why the registry has no Flight actions.
pub(super) const NOT_IN_FLIGHT: &str = "Flight transports rows and can read a dataset; REST has the registry";
/// The query parameters of a list of versions.
pub(super) const VERSION_QUERY: &[&str] = &["status", "limit", "cursor"];
/// How the latest version is described.
pub(super) const LATEST: &str = "The highest version that is not archived; the highest if all are.";
const ERRORS: &[ErrorCode] = &[DatasetNotFound, CorruptData, UnsupportedFormat];

/// The path of a version.
pub(super) fn location(record: &RecordRef) -> String {
    format!("/v1/{}s/{}/versions/{}", record.kind.name(), record.name, record.version)
}

/// One version of a dataset, feature or factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRequest {
    #[serde(default)]
    pub kind: RecordKind,
    pub name: String,
    /// The latest that is not archived when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// A change of the status of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    #[serde(default)]
    pub kind: RecordKind,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    pub change: RecordPatch,
}

/// Creates the next version of a dataset.
#[derive(Debug)]
pub struct CreateDataset;

impl Operation for CreateDataset {
    const SPEC: Spec = Spec::new("create a dataset", Scope::Write)
        .whole_store()
        .rest(&[Route {
            body: BodyKind::Whole,
            long_body: true,
            creates_version: true,
            success: &[(201, "Created")],
            location: "Path of the version",
            writes: true,
            errors: &[NotFound, SeriesNotFound, SnapshotNotFound, DatasetNotFound, CorruptData, UnsupportedFormat],
            ..Route::new(Method::Post, "registry")
        }
        .at("/v1/datasets", "createDataset", "Create a dataset")
        .about(
            "Creates the next version of the name: its members at a snapshot, with a checksum over every row. \
             Responds when all rows are read. Later only the status can change.",
        )])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset create"]);
    type Request = DatasetSpec;
    type Reply = Dataset;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<DatasetSpec>()
    }

    fn run(service: &Service, request: DatasetSpec, _: &Context) -> Result<Dataset> {
        service.create_dataset(&request)
    }

    fn location(reply: &Dataset) -> Option<String> {
        Some(location(&reply.dataset))
    }
}

/// Lists datasets.
#[derive(Debug)]
pub struct ListDatasets;

impl Operation for ListDatasets {
    const SPEC: Spec = Spec::new("list datasets", Scope::Read)
        .rest(&[Route {
            query: &["name", "status", "source", "market", "series", "derived_from", "limit", "cursor"],
            success: &[(200, "A page of datasets")],
            errors: &[CorruptData, UnsupportedFormat],
            ..Route::new(Method::Get, "registry")
        }
        .at("/v1/datasets", "listDatasets", "List datasets")
        .about("Ordered by name and version, in pages, without members.")])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset list"]);
    type Request = RecordFilter;
    type Reply = DatasetPage;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<RecordFilter>()
    }

    fn run(service: &Service, request: RecordFilter, _: &Context) -> Result<DatasetPage> {
        service.datasets(&request)
    }
}

/// Lists the versions of a dataset.
#[derive(Debug)]
pub struct ListDatasetVersions;

impl Operation for ListDatasetVersions {
    const SPEC: Spec = Spec::new("list the versions of a dataset", Scope::Read)
        .rest(&[Route {
            query: VERSION_QUERY,
            success: &[(200, "A page of versions")],
            errors: ERRORS,
            ..Route::new(Method::Get, "registry")
        }
        .at("/v1/datasets/{name}/versions", "listDatasetVersions", "List the versions of a dataset")
        .about("Ordered by number, in pages, without members.")])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset versions"]);
    type Request = RecordFilter;
    type Reply = DatasetPage;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<RecordFilter>()
    }

    fn run(service: &Service, request: RecordFilter, _: &Context) -> Result<DatasetPage> {
        service.dataset_versions(request.name.as_deref().unwrap_or_default(), &request)
    }
}

/// Describes a dataset.
#[derive(Debug)]
pub struct DescribeDataset;

impl DescribeDataset {
    const ROUTE: Route =
        Route { success: &[(200, "The dataset")], errors: ERRORS, ..Route::new(Method::Get, "registry") };
}

impl Operation for DescribeDataset {
    const SPEC: Spec = Spec::new("describe a dataset", Scope::Read)
        .rest(&[
            Self::ROUTE
                .at("/v1/datasets/{name}/versions/{version}", "getDatasetVersion", "Get a version of a dataset")
                .about("Includes the members."),
            Self::ROUTE.at("/v1/datasets/{name}", "getDataset", "Get the latest version of a dataset").about(LATEST),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset show"]);
    type Request = RecordRequest;
    type Reply = Dataset;

    fn run(service: &Service, request: RecordRequest, _: &Context) -> Result<Dataset> {
        service.dataset(&request.name, request.version)
    }
}

/// Changes the status of a dataset.
#[derive(Debug)]
pub struct ChangeDataset;

impl Operation for ChangeDataset {
    const SPEC: Spec = Spec::new("change the status of a dataset", Scope::Write)
        .rest(&[Route {
            body: BodyKind::Field("change"),
            success: &[(200, "Changed")],
            writes: true,
            errors: &[PermissionDenied, DatasetNotFound, CorruptData, UnsupportedFormat],
            ..Route::new(Method::Patch, "registry")
        }
        .at("/v1/datasets/{name}/versions/{version}", "changeDataset", "Change the status of a dataset")
        .about(
            "Archiving drops the snapshot that the dataset owns, which requires the scope to drop one; the dataset can \
             then no longer be read.",
        )])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset status"]);
    type Request = RecordChange;
    type Reply = Dataset;

    fn schemas() -> RequestSchemas {
        RequestSchemas::body::<RecordPatch>()
    }

    fn run(service: &Service, request: RecordChange, _: &Context) -> Result<Dataset> {
        service.set_dataset_status(&request.name, request.version, request.change.status)
    }
}

/// Reports what a record is derived from, and what from it.
#[derive(Debug)]
pub struct ReadLineage;

impl ReadLineage {
    const ROUTE: Route = Route {
        success: &[(200, "The lineage")],
        errors: &[NotFound, CorruptData, UnsupportedFormat],
        about: "Its ancestors and descendants over any number of steps, at most 1,000 records in each direction.",
        ..Route::new(Method::Get, "registry")
    };
}

impl Operation for ReadLineage {
    const SPEC: Spec = Spec::new("lineage of a dataset, feature or factor", Scope::Read)
        .rest(&[
            Route { errors: ERRORS, ..Self::ROUTE }
                .at("/v1/datasets/{name}/versions/{version}/lineage", "getDatasetLineage", "Lineage of a dataset")
                .with("kind", "dataset"),
            Self::ROUTE
                .at("/v1/features/{name}/versions/{version}/lineage", "getFeatureLineage", "Lineage of a feature")
                .with("kind", "feature"),
            Self::ROUTE
                .at("/v1/factors/{name}/versions/{version}/lineage", "getFactorLineage", "Lineage of a factor")
                .with("kind", "factor"),
        ])
        .not_in_flight(NOT_IN_FLIGHT)
        .cli(&["dataset lineage", "feature lineage", "factor lineage"]);
    type Request = RecordRequest;
    type Reply = LineageReply;

    fn run(service: &Service, request: RecordRequest, _: &Context) -> Result<LineageReply> {
        service.lineage(request.kind, &request.name, request.version)
    }
}
