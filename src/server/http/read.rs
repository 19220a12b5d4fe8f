//! Reads of rows: their parameters and formats to a query, and its result as a stream.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Uri, header};

use super::body;
use super::extract::SeriesPath;
use super::params::{Params, QueryParams, ReadManyParams, ReadParams};
use super::parts;
use super::problem::HandlerResult;
use super::reply;
use super::state::AppState;
use crate::egress::EncodeOptions;
use crate::error::Result;
use crate::query::resample::spec::split_list;
use crate::query::{MultiLayout, PanelJoin, Predicate, Query, TimeValue};

/// The values of the `Accept` header, joined.
pub(super) fn accept(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// Rows of the series in the path.
pub async fn read(
    app: AppState,
    SeriesPath(key): SeriesPath,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
) -> HandlerResult {
    let (query, options) = query_of(&Params::of::<ReadParams>(&uri)?, vec![key.to_string()], &headers)?;
    respond(&app, (&method, &uri, &headers), query, options).await
}

/// The query of these parameters and series.
fn query_of(params: &Params, series: Vec<String>, headers: &HeaderMap) -> Result<(Query, EncodeOptions)> {
    let when = |name: &str| params.text(name).map(|text| TimeValue::Text(text.into()));
    let columns = params.text("columns").map(|text| text.split(',').map(|name| name.trim().to_string()).collect());
    let predicates = params.all("where").map(Predicate::parse).collect::<Result<Vec<_>>>()?;
    let agg: Vec<String> = params.all("agg").flat_map(split_list).collect();
    let query = Query {
        predicates: (!predicates.is_empty()).then_some(predicates),
        explain: params.flag("explain")?,
        start: when("start"),
        end: when("end"),
        columns,
        latest: params.count("latest")?,
        latest_complete: params.count("latest_complete")?,
        limit: params.count("limit")?,
        ties: params.word("ties")?,
        order: params.word("order")?,
        numbers: params.word("numbers")?,
        cursor: params.text("cursor").map(String::from),
        as_of: params.text("as_of").map(String::from),
        every: params.text("every").map(String::from),
        align: params.optional_word("align")?,
        tz: params.text("tz").map(String::from),
        session: params.text("session").map(String::from),
        offset: params.text("offset").map(String::from),
        fill: params.optional_word("fill")?,
        partial: params.optional_word("partial")?,
        agg: (!agg.is_empty()).then_some(agg),
        series,
        ..Query::default()
    };
    Ok((query, params.options(&accept(headers))?))
}

/// Rows of several series, with the query in parameters.
pub async fn read_many(app: AppState, method: Method, headers: HeaderMap, uri: Uri) -> HandlerResult {
    let params = Params::of_both::<ReadManyParams, ReadParams>(&uri)?;
    let series: Vec<String> =
        params.all("series").flat_map(|text| text.split(',')).map(|text| text.trim().to_string()).collect();
    let (query, options) = query_of(&params, series, &headers)?;
    let query = Query {
        layout: params.text("layout").map(MultiLayout::from_name).transpose()?,
        join: params.text("join").map(PanelJoin::parse).transpose()?,
        ..query
    };
    respond(&app, (&method, &uri, &headers), query, options).await
}

/// The rows of a GET, or the part of them that it asks for.
async fn respond(
    app: &AppState,
    request: (&Method, &Uri, &HeaderMap),
    mut query: Query,
    options: EncodeOptions,
) -> HandlerResult {
    let (method, uri, headers) = request;
    let limit_by = reply::limit_rows(app, &mut query, options.format)?;
    if parts::wants_part(method, headers, options.format) {
        return Ok(parts::respond(app, request, query, options).await?);
    }
    Ok(reply::query_response(app, headers, query, options, limit_by, Some(uri)).await?)
}

/// Rows of the query in the body.
pub async fn query(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> HandlerResult {
    let options = Params::of::<QueryParams>(&uri).and_then(|params| params.options(&accept(&headers)))?;
    let mut query: Query = body::json(&app, &headers, body).await?;
    let limit_by = reply::limit_rows(&app, &mut query, options.format)?;
    Ok(reply::query_response(&app, &headers, query, options, limit_by, None).await?)
}
