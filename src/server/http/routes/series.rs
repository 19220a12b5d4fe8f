//! Series: register, list, describe, change, drop.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{AppState, Outcome};
use crate::error::Result;
use crate::server::http::etag::{condition, is_known, not_modified};
use crate::server::http::extract::{KlinePath, ScalarPath};
use crate::server::http::openapi::{
    AnyFailure, Category, ChangeFailure, RegisterFailure, SeriesFailure, Symbol, Timeframe,
};
use crate::server::http::params::{FilterParams, NoParams, Params, RouteParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{DropReply, Registered, SeriesFilter, SeriesInfo, SeriesPage, SeriesPatch};
use crate::types::{Kind, SeriesKey, SeriesSpec};

/// Parses the filter of a list.
pub fn filter<P: RouteParams>(uri: &Uri) -> Result<SeriesFilter> {
    let params = Params::of::<P>(uri)?;
    let text = |name: &str| params.text(name).map(String::from);
    Ok(SeriesFilter {
        kind: match params.text("kind") {
            None => None,
            Some("kline") => Some(Kind::Kline),
            Some("scalar") => Some(Kind::Scalar),
            Some(other) => {
                return Err(crate::Error::invalid(format!("parameter kind: {other:?} is not kline or scalar")));
            }
        },
        symbol: text("symbol"),
        timeframe: text("timeframe"),
        category: text("category"),
        name: text("name"),
        prefix: text("prefix"),
        limit: params.count("limit")?,
        cursor: text("cursor"),
        months: params.flag("months")?,
    })
}

/// List series
///
/// Ordered by key, in pages.
#[utoipa::path(
    get, path = "/v1/series", operation_id = "listSeries", tag = "series",
    params(FilterParams),
    responses((status = 200, description = "A page of series", body = SeriesPage), AnyFailure),
)]
pub async fn list_series(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let filter = filter::<FilterParams>(&uri)?;
    let page = app.blocking(move |service| service.list(&filter)).await?;
    Ok(reply::json_coded(&headers, &page, None)?)
}

/// Register a series
///
/// Registering the same definition again is no error.
#[utoipa::path(
    post, path = "/v1/series", operation_id = "registerSeries", tag = "series",
    request_body = SeriesSpec,
    responses(
        (status = 201, description = "Registered", body = Registered,
            headers(("Location" = String, description = "Path of the series"))),
        (status = 200, description = "Already registered with the same definition", body = Registered),
        RegisterFailure,
    ),
)]
pub async fn register_series(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::reject(&headers)?;
    let spec: SeriesSpec = body::json(&app, &headers, body).await?;
    let registered = app.blocking(move |service| service.register(spec)).await?;
    let status = if registered.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = reply::json(status, &registered)?;
    if let Ok(location) = HeaderValue::from_str(&location(&registered.info.series)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Path of a series, percent-encoded.
fn location(key: &SeriesKey) -> String {
    format!("/v1/series/{}", encoded(key.as_str()))
}

/// A path segment, percent-encoded.
pub fn encoded(part: &str) -> impl std::fmt::Display {
    const SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-');
    utf8_percent_encode(part, SET)
}

/// Get a kline series
#[utoipa::path(
    get, path = "/v1/series/kline/{symbol}/{timeframe}", operation_id = "getKlineSeries", tag = "series",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The series", body = SeriesInfo, headers(("ETag" = String))),
        (status = 304, description = "Not modified"), SeriesFailure,
    ),
)]
pub async fn get_kline(app: AppState, KlinePath(key): KlinePath, headers: HeaderMap, uri: Uri) -> Outcome {
    get_one(&app, key, &headers, &uri).await
}

/// Get a scalar series
#[utoipa::path(
    get, path = "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", operation_id = "getScalarSeries",
    tag = "series",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The series", body = SeriesInfo, headers(("ETag" = String))),
        (status = 304, description = "Not modified"), SeriesFailure,
    ),
)]
pub async fn get_scalar(app: AppState, ScalarPath(key): ScalarPath, headers: HeaderMap, uri: Uri) -> Outcome {
    get_one(&app, key, &headers, &uri).await
}

async fn get_one(app: &AppState, key: SeriesKey, headers: &HeaderMap, uri: &Uri) -> Outcome {
    Params::of::<NoParams>(uri)?;
    let info = app.blocking(move |service| service.series(&key)).await?;
    if is_known(headers, &info.etag) {
        return Ok(not_modified(&info.etag));
    }
    Ok(reply::json_tagged(&info, &info.etag)?)
}

/// Change a kline series
///
/// Changes retention, calendar, value index or description; absent fields are unchanged.
#[utoipa::path(
    patch, path = "/v1/series/kline/{symbol}/{timeframe}", operation_id = "changeKlineSeries", tag = "series",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    request_body = SeriesPatch,
    responses((status = 200, description = "The changed series", body = SeriesInfo), ChangeFailure),
)]
pub async fn change_kline(
    app: AppState,
    KlinePath(key): KlinePath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    change(&app, key, &headers, &uri, body).await
}

/// Change a scalar series
///
/// Changes retention, calendar, value index or description; absent fields are unchanged.
#[utoipa::path(
    patch, path = "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", operation_id = "changeScalarSeries",
    tag = "series",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    request_body = SeriesPatch,
    responses((status = 200, description = "The changed series", body = SeriesInfo), ChangeFailure),
)]
pub async fn change_scalar(
    app: AppState,
    ScalarPath(key): ScalarPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    change(&app, key, &headers, &uri, body).await
}

async fn change(app: &AppState, key: SeriesKey, headers: &HeaderMap, uri: &Uri, body: Body) -> Outcome {
    Params::of::<NoParams>(uri)?;
    idempotency::reject(headers)?;
    let condition = condition(headers)?;
    let patch: SeriesPatch = body::json(app, headers, body).await?;
    let info = app.blocking(move |service| service.change(&key, patch, &condition)).await?;
    Ok(reply::json(StatusCode::OK, &info)?)
}

/// Drop a kline series
///
/// Deletes all its rows.
#[utoipa::path(
    delete, path = "/v1/series/kline/{symbol}/{timeframe}", operation_id = "dropKlineSeries", tag = "series",
    params(
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    responses((status = 200, description = "Dropped", body = DropReply), ChangeFailure),
)]
pub async fn drop_kline(app: AppState, KlinePath(key): KlinePath, headers: HeaderMap, uri: Uri) -> Outcome {
    drop_one(&app, key, &headers, &uri).await
}

/// Drop a scalar series
///
/// Deletes all its rows.
#[utoipa::path(
    delete, path = "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", operation_id = "dropScalarSeries",
    tag = "series",
    params(
        ("category" = Category, Path, description = "Category"),
        ("symbol" = Symbol, Path, description = "Symbol"),
        ("timeframe" = Timeframe, Path, description = "Timeframe"),
        ("name" = Symbol, Path, description = "Name"),
        ("If-Match" = Option<String>, Header, description = "Entity tag the series must have"),
    ),
    responses((status = 200, description = "Dropped", body = DropReply), ChangeFailure),
)]
pub async fn drop_scalar(app: AppState, ScalarPath(key): ScalarPath, headers: HeaderMap, uri: Uri) -> Outcome {
    drop_one(&app, key, &headers, &uri).await
}

async fn drop_one(app: &AppState, key: SeriesKey, headers: &HeaderMap, uri: &Uri) -> Outcome<Response> {
    Params::of::<NoParams>(uri)?;
    idempotency::reject(headers)?;
    let condition = condition(headers)?;
    let dropped = app.blocking(move |service| service.drop_series(&key, &condition)).await?;
    Ok(reply::json(StatusCode::OK, &dropped)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_percent_encoded() {
        let key = SeriesKey::kline("^GSPC", "1d").unwrap();
        assert_eq!(location(&key), "/v1/series/kline/%5EGSPC/1d");
    }
}
