//! Features and factors: register, list, describe, change the status, lineage.
//!
//! They differ only in their kind and documentation, hence one function each.

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
/// An identical registration (definition, code version, inputs and outputs) returns the existing version unless it is
/// archived; any other creates the next version.
#[utoipa::path(
    post, path = "/v1/features", operation_id = "registerFeature", tag = "registry",
    request_body = DefinitionSpec,
    responses(
        (status = 201, description = "Registered", body = Defined,
            headers(("Location" = String, description = "Path of the version"))),
        (status = 200, description = "This version already exists", body = Defined),
        DefineFailure,
    ),
)]
pub async fn define_feature(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::define(app, RecordKind::Feature, headers, uri, body).await
}

/// List features
///
/// Ordered by name and version, in pages, without series.
#[utoipa::path(
    get, path = "/v1/features", operation_id = "listFeatures", tag = "registry",
    params(DefinitionParams),
    responses((status = 200, description = "A page of features", body = DefinitionPage), RecordsFailure),
)]
pub async fn list_features(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    records::list(app, RecordKind::Feature, headers, uri).await
}

/// Get the latest version of a feature
///
/// The highest version that is not archived; the highest if all are.
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
/// Ordered by number, in pages, without series.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions", operation_id = "listFeatureVersions", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "rsi-14"), VersionParams),
    responses((status = 200, description = "A page of versions", body = DefinitionPage), DefinitionFailure),
)]
pub async fn list_feature_versions(app: AppState, path: RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::versions(app, RecordKind::Feature, path, headers, uri).await
}

/// Get a version of a feature
///
/// Includes the series.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions/{version}", operation_id = "getFeatureVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The feature", body = Definition), DefinitionFailure),
)]
pub async fn get_feature_version(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Feature, path, headers, uri).await
}

/// Change the status of a feature
///
/// Only the status can be changed.
#[utoipa::path(
    patch, path = "/v1/features/{name}/versions/{version}", operation_id = "changeFeature", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Definition), DefinitionStatusFailure),
)]
pub async fn change_feature(
    app: AppState,
    path: RecordVersionPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    records::change(app, RecordKind::Feature, path, headers, uri, body).await
}

/// Lineage of a feature
///
/// Its ancestors and descendants over any number of steps, at most 1,000 records in each direction.
#[utoipa::path(
    get, path = "/v1/features/{name}/versions/{version}/lineage", operation_id = "getFeatureLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "rsi-14"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DefinitionFailure),
)]
pub async fn feature_lineage(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Feature, path, headers, uri).await
}

/// Register a factor
///
/// An identical registration (definition, code version, inputs and outputs) returns the existing version unless it is
/// archived; any other creates the next version.
#[utoipa::path(
    post, path = "/v1/factors", operation_id = "registerFactor", tag = "registry",
    request_body = DefinitionSpec,
    responses(
        (status = 201, description = "Registered", body = Defined,
            headers(("Location" = String, description = "Path of the version"))),
        (status = 200, description = "This version already exists", body = Defined),
        DefineFailure,
    ),
)]
pub async fn define_factor(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    records::define(app, RecordKind::Factor, headers, uri, body).await
}

/// List factors
///
/// Ordered by name and version, in pages, without series.
#[utoipa::path(
    get, path = "/v1/factors", operation_id = "listFactors", tag = "registry",
    params(DefinitionParams),
    responses((status = 200, description = "A page of factors", body = DefinitionPage), RecordsFailure),
)]
pub async fn list_factors(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    records::list(app, RecordKind::Factor, headers, uri).await
}

/// Get the latest version of a factor
///
/// The highest version that is not archived; the highest if all are.
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
/// Ordered by number, in pages, without series.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions", operation_id = "listFactorVersions", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "momentum-20"), VersionParams),
    responses((status = 200, description = "A page of versions", body = DefinitionPage), DefinitionFailure),
)]
pub async fn list_factor_versions(app: AppState, path: RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::versions(app, RecordKind::Factor, path, headers, uri).await
}

/// Get a version of a factor
///
/// Includes the series.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions/{version}", operation_id = "getFactorVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The factor", body = Definition), DefinitionFailure),
)]
pub async fn get_factor_version(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::get(app, RecordKind::Factor, path, headers, uri).await
}

/// Change the status of a factor
///
/// Only the status can be changed.
#[utoipa::path(
    patch, path = "/v1/factors/{name}/versions/{version}", operation_id = "changeFactor", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Definition), DefinitionStatusFailure),
)]
pub async fn change_factor(
    app: AppState,
    path: RecordVersionPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    records::change(app, RecordKind::Factor, path, headers, uri, body).await
}

/// Lineage of a factor
///
/// Its ancestors and descendants over any number of steps, at most 1,000 records in each direction.
#[utoipa::path(
    get, path = "/v1/factors/{name}/versions/{version}/lineage", operation_id = "getFactorLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "momentum-20"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DefinitionFailure),
)]
pub async fn factor_lineage(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Factor, path, headers, uri).await
}
