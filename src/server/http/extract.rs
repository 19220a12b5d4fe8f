//! The fields of a request in its path, percent-decoded.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use serde_json::Value;

use super::problem::ProblemResponse;
use crate::error::{Error, Result};
use crate::registry::{RecordKind, parse_version};
use crate::types::SeriesKey;

/// The named segments of a path.
#[derive(Debug)]
pub struct PathFields {
    segments: Vec<(String, String)>,
    kind: RecordKind,
}

impl<S: Send + Sync> FromRequestParts<S> for PathFields {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, ProblemResponse> {
        let kind = kind_of(parts.uri.path());
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::invalid(format!("the path is invalid: {}", error.body_text())))?;
        let segments = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { segments, kind })
    }
}

impl PathFields {
    /// The series in the path: a kline, a scalar, or a key of any kind.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn series(&self) -> Result<SeriesKey> {
        let parts: Vec<&str> = self.segments.iter().map(|(_, value)| value.as_str()).collect();
        if self.segments.first().is_some_and(|(name, _)| name == "key") {
            return SeriesKey::parse(&parts.join("/"));
        }
        match parts.as_slice() {
            [symbol, timeframe] => SeriesKey::kline(symbol, timeframe),
            [category, symbol, timeframe, name] => SeriesKey::scalar(category, symbol, timeframe, name),
            _ => Err(Error::internal("the path names no series")),
        }
    }

    /// The value of a segment as a field of a request. Names and ids are not validated: what is invalid is not found
    /// either. `None` for the version `latest`.
    ///
    /// # Errors
    /// `invalid_argument` for a version that is no number.
    pub fn field(&self, name: &str) -> Result<Option<Value>> {
        let Some((_, text)) = self.segments.iter().find(|(segment, _)| segment == name) else { return Ok(None) };
        Ok(match (name, text.as_str()) {
            ("version", "latest") => None,
            ("version", number) => Some(parse_version(self.kind, number)?.into()),
            (_, text) => Some(text.into()),
        })
    }
}

/// The record kind of `/v1/datasets/…`, `/v1/features/…` or `/v1/factors/…`.
fn kind_of(path: &str) -> RecordKind {
    let word = path.split('/').nth(2).and_then(|segment| segment.strip_suffix('s'));
    word.and_then(RecordKind::from_name).unwrap_or_default()
}

/// A series in a path.
#[derive(Debug)]
pub struct SeriesPath(pub SeriesKey);

impl<S: Send + Sync> FromRequestParts<S> for SeriesPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, ProblemResponse> {
        Ok(SeriesPath(PathFields::from_request_parts(parts, state).await?.series()?))
    }
}
