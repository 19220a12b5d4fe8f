//! Coverage: which intervals of a series have rows.

use axum::http::{HeaderMap, Uri};

use super::{AppState, Outcome};
use crate::egress::OutFormat;
use crate::error::Result;
use crate::query::TimeValue;
use crate::server::http::content_encoding::ResponseCoding;
use crate::server::http::etag::{entity_tag, is_known, not_modified};
use crate::server::http::extract::{KlinePath, ScalarPath};
use crate::server::http::openapi::{Category, CoverageFailure, Symbol, Timeframe};
use crate::server::http::params::{CoverageParams, Params};
use crate::server::http::reply;
use crate::service::{CoverageReply, CoverageRequest};
use crate::types::{Calendar, SeriesKey};

/// Coverage of klines
///
/// Expected and present intervals of the closed range, and the gaps.
#[utoipa::path(
    get, path = "/v1/coverage/kline/{symbol}/{timeframe}", operation_id = "getKlineCoverage", tag = "rows",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        CoverageParams,
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "Coverage of the range", body = CoverageReply, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        CoverageFailure,
    ),
)]
pub async fn kline_coverage(app: AppState, KlinePath(key): KlinePath, headers: HeaderMap, uri: Uri) -> Outcome {
    coverage(&app, key, &headers, &uri).await
}

/// Coverage of a scalar series
///
/// Expected and present intervals of the closed range, and the gaps.
#[utoipa::path(
    get, path = "/v1/coverage/scalar/{category}/{symbol}/{timeframe}/{name}", operation_id = "getScalarCoverage",
    tag = "rows",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        CoverageParams,
        ("Accept-Encoding" = Option<String>, Header, description = "gzip or zstd"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "Coverage of the range", body = CoverageReply, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        CoverageFailure,
    ),
)]
pub async fn scalar_coverage(app: AppState, ScalarPath(key): ScalarPath, headers: HeaderMap, uri: Uri) -> Outcome {
    coverage(&app, key, &headers, &uri).await
}

async fn coverage(app: &AppState, key: SeriesKey, headers: &HeaderMap, uri: &Uri) -> Outcome {
    let request = request(key, uri)?;
    let coding = ResponseCoding::of(headers);
    let request_for_tag = request.clone();
    // The tag is computed first: if the series changes in between it is outdated, which only costs a request.
    let stem = app.blocking(move |service| service.coverage_stem(&request_for_tag)).await?;
    let tag = entity_tag(&stem, OutFormat::Json, coding);
    if is_known(headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let found = app.blocking(move |service| service.coverage(&request)).await?;
    Ok(reply::json_coded(headers, &found, Some(&tag))?)
}

fn request(key: SeriesKey, uri: &Uri) -> Result<CoverageRequest> {
    let params = Params::of::<CoverageParams>(uri)?;
    let when = |name: &str| params.text(name).map(|text| TimeValue::Text(text.into()));
    Ok(CoverageRequest {
        start: when("start"),
        end: when("end"),
        calendar: params.text("calendar").map(Calendar::parse_text).transpose()?,
        min_missing: params.count("min_missing")?,
        limit: params.count("limit")?,
        times: Some(params.word("times")?),
        as_of: params.text("as_of").map(String::from),
        ..CoverageRequest::of(key)
    })
}
