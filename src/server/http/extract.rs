//! Series keys, names of snapshots and records, and ids of jobs from paths, after percent-decoding. Keys are validated.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::Failure;
use crate::error::Error;
use crate::registry::{RecordKind, parse_version};
use crate::types::SeriesKey;

/// `{symbol}/{timeframe}` of a path.
#[derive(Debug)]
pub struct Kline(pub SeriesKey);

/// `{category}/{symbol}/{timeframe}/{name}` of a path.
#[derive(Debug)]
pub struct Scalar(pub SeriesKey);

/// `{name}` of the path of a snapshot; not validated, since a name that cannot be is not found either.
#[derive(Debug)]
pub struct SnapshotName(pub String);

/// `{id}` of the path of a job; not validated, since an id that cannot be is not found either.
#[derive(Debug)]
pub struct JobId(pub String);

/// `{name}` of the path of a dataset, feature or factor; not validated either.
#[derive(Debug)]
pub struct RecordName(pub String);

/// `{name}/versions/{version}` of such a path; the version is a number, or `latest`.
#[derive(Debug)]
pub struct RecordVersion {
    pub name: String,
    pub version: Option<u32>,
}

impl<S: Send + Sync> FromRequestParts<S> for RecordName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| unreadable(&error))?;
        Ok(RecordName(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RecordVersion {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path((name, version)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|error| unreadable(&error))?;
        let version =
            if version == "latest" { None } else { Some(parse_version(kind_of(parts.uri.path()), &version)?) };
        Ok(RecordVersion { name, version })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for JobId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| unreadable(&error))?;
        Ok(JobId(id))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SnapshotName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| unreadable(&error))?;
        Ok(SnapshotName(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Kline {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path((symbol, timeframe)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|error| unreadable(&error))?;
        Ok(Kline(SeriesKey::kline(&symbol, &timeframe)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scalar {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path((category, symbol, timeframe, name)) =
            Path::<(String, String, String, String)>::from_request_parts(parts, state)
                .await
                .map_err(|error| unreadable(&error))?;
        Ok(Scalar(SeriesKey::scalar(&category, &symbol, &timeframe, &name)?))
    }
}

/// The kind that `/v1/datasets/…`, `/v1/features/…` or `/v1/factors/…` is about.
fn kind_of(path: &str) -> RecordKind {
    let word = path.split('/').nth(2).and_then(|segment| segment.strip_suffix('s'));
    word.and_then(RecordKind::from_name).unwrap_or(RecordKind::Dataset)
}

fn unreadable(error: &axum::extract::rejection::PathRejection) -> Error {
    Error::invalid(format!("the path cannot be read: {}", error.body_text()))
}
