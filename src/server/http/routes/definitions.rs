//! Features and factors: register, list, look at, change the status of, lineage.
//!
//! They are the same but for their kind and the words of their documents, which stand at a function each.

use axum::body::Body;
use axum::http::{HeaderMap, Uri};

use super::{AppState, Outcome, records};
use crate::registry::RecordKind;
use crate::server::http::extract::{RecordPath, RecordVersionPath};
use crate::server::http::openapi::{DefineFailure, DefinitionFailure, DefinitionStatusFailure, RecordsFailure};
use crate::server::http::params::{DefinitionParams, VersionParams};
use crate::service::{Defined, Definition, DefinitionPage, DefinitionSpec, LineageReply, RecordPatch};

/// Register a feature
///
/// The same definition, code version, inputs and outputs again are the version that is there, unless it is archived;
/// anything else is the next one.
#[utoipa::path(
    post, path = "/v1/features", operation_id = "registerFeature", tag = "registry",
    request_body = DefinitionSpec,
    responses(
        (status = 201, description = "Registered", body = Defined,
            headers(("Location" = String, description = "Path of the version"))),
        (status = 200, description = "This version was there already", body = Defined),
        DefineFailure,
    ),
)]
pub async fn define_feature(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::define(app, RecordKind::Feature, headers, uri, body).await
}

/// List features
///
/// By name and version, in pages, without their series.
#[utoipa::path(
    get, path = "/v1/features", operation_id = "listFeatures", tag = "registry",
    params(DefinitionParams),
    responses((status = 200, description = "A page of features", body = DefinitionPage), RecordsFailure),
)]
pub async fn list_features(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    records::list(app, RecordKind::Feature, headers, uri).await
}

/// Look at the latest version of a feature
///
/// The highest that is not archived; the highest where all are.
#[utoipa::path(
    get, path = "/v1/features/{name}", operation_id = "getFeature", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "rsi-14")),
    responses((status = 200, description = "The feature", body = Definition), DefinitionFailure),
)]
pub async fn get_feature(app: AppState, RecordPath(name): RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Feature, RecordVersionPath { name, version: None }, headers, uri).await
}

/// List the versions of a feature
///
/// By number, in pages, without their series.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions", operation_id = "listFeatureVersions", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "rsi-14"), VersionParams),
    responses((status = 200, description = "A page of versions", body = DefinitionPage), DefinitionFailure),
)]
pub async fn list_feature_versions(app: AppState, of: RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::versions(app, RecordKind::Feature, of, headers, uri).await
}

/// Look at a version of a feature
///
/// With its series.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions/{version}", operation_id = "getFeatureVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The feature", body = Definition), DefinitionFailure),
)]
pub async fn get_feature_version(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Feature, of, headers, uri).await
}

/// Change the status of a feature
///
/// Nothing else of it can be changed.
#[utoipa::path(
    patch, path = "/v1/features/{name}/versions/{version}", operation_id = "changeFeature", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Definition), DefinitionStatusFailure),
)]
pub async fn change_feature(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::change(app, RecordKind::Feature, of, headers, uri, body).await
}

/// Lineage of a feature
///
/// What it is computed from and what was made from it, over any number of steps, 1,000 records each way at most.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions/{version}/lineage", operation_id = "getFeatureLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DefinitionFailure),
)]
pub async fn feature_lineage(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Feature, of, headers, uri).await
}

/// Register a factor
///
/// The same definition, code version, inputs and outputs again are the version that is there, unless it is archived;
/// anything else is the next one.
#[utoipa::path(
    post, path = "/v1/factors", operation_id = "registerFactor", tag = "registry",
    request_body = DefinitionSpec,
    responses(
        (status = 201, description = "Registered", body = Defined,
            headers(("Location" = String, description = "Path of the version"))),
        (status = 200, description = "This version was there already", body = Defined),
        DefineFailure,
    ),
)]
pub async fn define_factor(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::define(app, RecordKind::Factor, headers, uri, body).await
}

/// List factors
///
/// By name and version, in pages, without their series.
#[utoipa::path(
    get, path = "/v1/factors", operation_id = "listFactors", tag = "registry",
    params(DefinitionParams),
    responses((status = 200, description = "A page of factors", body = DefinitionPage), RecordsFailure),
)]
pub async fn list_factors(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    records::list(app, RecordKind::Factor, headers, uri).await
}

/// Look at the latest version of a factor
///
/// The highest that is not archived; the highest where all are.
#[utoipa::path(
    get, path = "/v1/factors/{name}", operation_id = "getFactor", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "momentum-20")),
    responses((status = 200, description = "The factor", body = Definition), DefinitionFailure),
)]
pub async fn get_factor(app: AppState, RecordPath(name): RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Factor, RecordVersionPath { name, version: None }, headers, uri).await
}

/// List the versions of a factor
///
/// By number, in pages, without their series.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions", operation_id = "listFactorVersions", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "momentum-20"), VersionParams),
    responses((status = 200, description = "A page of versions", body = DefinitionPage), DefinitionFailure),
)]
pub async fn list_factor_versions(app: AppState, of: RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::versions(app, RecordKind::Factor, of, headers, uri).await
}

/// Look at a version of a factor
///
/// With its series.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions/{version}", operation_id = "getFactorVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The factor", body = Definition), DefinitionFailure),
)]
pub async fn get_factor_version(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Factor, of, headers, uri).await
}

/// Change the status of a factor
///
/// Nothing else of it can be changed.
#[utoipa::path(
    patch, path = "/v1/factors/{name}/versions/{version}", operation_id = "changeFactor", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Definition), DefinitionStatusFailure),
)]
pub async fn change_factor(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::change(app, RecordKind::Factor, of, headers, uri, body).await
}

/// Lineage of a factor
///
/// What it is computed from and what was made from it, over any number of steps, 1,000 records each way at most.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions/{version}/lineage", operation_id = "getFactorLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DefinitionFailure),
)]
pub async fn factor_lineage(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Factor, of, headers, uri).await
}
