//! SQL: a statement in the body, its rows as a stream.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;

use super::body;
use super::content_encoding::ResponseCoding;
use super::params::{Params, SqlParams};
use super::problem::HandlerResult;
use super::read::accept;
use super::reply::{self, PieceStream};
use super::state::AppState;
use crate::cancel::CancelFlag;
use crate::egress::{BatchEncoder, EncodeOptions, OutFormat};
use crate::error::{Error, ErrorCode, Result};
use crate::server::blocking::run;
use crate::service::{PermitKind, SqlStatement};
use crate::sql::column_type;

/// Runs the statement of the body.
pub async fn sql(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> HandlerResult {
    let options = Params::of::<SqlParams>(&uri).and_then(|params| params.options(&accept(&headers)))?;
    let statement: SqlStatement = body::json(&app, &headers, body).await?;
    Ok(response(&app, &headers, statement, options).await?)
}

async fn response(
    app: &AppState,
    headers: &HeaderMap,
    statement: SqlStatement,
    options: EncodeOptions,
) -> Result<Response> {
    // Parquet is compressed internally.
    let coding =
        if options.format == OutFormat::Parquet { ResponseCoding::Identity } else { ResponseCoding::of(headers) };
    let service = Arc::clone(app.service());
    let timeout = service.limits().request_timeout();
    let rows = tokio::time::timeout(timeout, service.sql(statement)).await.map_err(|_| {
        Error::new(
            ErrorCode::DeadlineExceeded,
            format!("the first rows were not ready within {} ms", timeout.as_millis()),
        )
    })??;
    // Statements that wait for their turn keep no permit from reads.
    let permit = service.acquire_permit(PermitKind::Response)?;
    let (id, commit, canceller) = (rows.id(), rows.commit(), rows.canceller());
    let schema = Arc::clone(rows.schema());
    let columns = schema.fields().iter().map(|field| (field.name().clone(), column_type(field.data_type()))).collect();
    let rows_max = service.sql_settings().json_rows_max;
    let encoder = BatchEncoder::new(schema, columns, options, Some(rows_max), rows)?;
    let pieces = PieceStream::new(Box::new(encoder), coding)?;
    let (started, permit) =
        run(false, timeout, CancelFlag::default(), move || Ok((reply::start(pieces)?, permit))).await?;
    let stall_timeout = Duration::from_millis(app.config().stall_timeout_ms);
    let body = reply::streamed(started, format!("sql statement {id}"), permit, stall_timeout, canceller);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(options.format.content_type()));
    if let Some(coding) = coding.header() {
        headers.insert(header::CONTENT_ENCODING, coding);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("fastk-commit", HeaderValue::from(commit));
    headers.insert("fastk-query-id", HeaderValue::from(id));
    Ok(response)
}
