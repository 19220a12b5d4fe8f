//! Extractors for percent-decoded path segments: series keys, names of snapshots and records, and job ids. Keys are
//! validated.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::ProblemResponse;
use crate::error::Error;
use crate::registry::{RecordKind, parse_version};
use crate::types::SeriesKey;

/// `{symbol}/{timeframe}` in a path.
#[derive(Debug)]
pub struct KlinePath(pub SeriesKey);

/// `{category}/{symbol}/{timeframe}/{name}` in a path.
#[derive(Debug)]
pub struct ScalarPath(pub SeriesKey);

/// `{name}` in the path of a snapshot; not validated: an invalid name is not found either.
#[derive(Debug)]
pub struct SnapshotPath(pub String);

/// `{id}` in the path of a job; not validated: an invalid id is not found either.
#[derive(Debug)]
pub struct JobPath(pub String);

/// `{name}` in the path of a dataset, feature or factor; not validated.
#[derive(Debug)]
pub struct RecordPath(pub String);

/// `{name}/versions/{version}` in such a path; the version is a number, or `latest`.
#[derive(Debug)]
pub struct RecordVersionPath {
    pub name: String,
    pub version: Option<u32>,
}

impl<S: Send + Sync> FromRequestParts<S> for RecordPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path(name) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|error| invalid_path(&error))?;
        Ok(RecordPath(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RecordVersionPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path((name, version)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|error| invalid_path(&error))?;
        let version =
            if version == "latest" { None } else { Some(parse_version(kind_of(parts.uri.path()), &version)?) };
        Ok(RecordVersionPath { name, version })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| invalid_path(&error))?;
        Ok(JobPath(id))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SnapshotPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path(name) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|error| invalid_path(&error))?;
        Ok(SnapshotPath(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for KlinePath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path((symbol, timeframe)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|error| invalid_path(&error))?;
        Ok(KlinePath(SeriesKey::kline(&symbol, &timeframe)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ScalarPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let Path((category, symbol, timeframe, name)) =
            Path::<(String, String, String, String)>::from_request_parts(parts, state)
                .await
                .map_err(|error| invalid_path(&error))?;
        Ok(ScalarPath(SeriesKey::scalar(&category, &symbol, &timeframe, &name)?))
    }
}

/// The record kind of `/v1/datasets/…`, `/v1/features/…` or `/v1/factors/…`.
fn kind_of(path: &str) -> RecordKind {
    let word = path.split('/').nth(2).and_then(|segment| segment.strip_suffix('s'));
    word.and_then(RecordKind::from_name).unwrap_or(RecordKind::Dataset)
}

fn invalid_path(error: &axum::extract::rejection::PathRejection) -> Error {
    Error::invalid(format!("the path is invalid: {}", error.body_text()))
}
