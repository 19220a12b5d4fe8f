//! Rows: write, merge, delete, read, and which intervals have some.
//!
//! Writes and reads stream rows, so each interface has code of its own for them.

use serde::{Deserialize, Serialize};

use super::operation::{Context, EntityTag, Operation, RequestSchemas};
use super::spec::{BodyKind, FlightBinding, Header, Method, Route, Spec};
use crate::egress::OutFormat;
use crate::error::ErrorCode::{
    CommitConflict, CommitGone, CorruptData, DatasetNotFound, IdempotencyMismatch, InvalidRows, NotAcceptable,
    OutOfOrder, RowsExist, SchemaMismatch, SeriesNotFound, SnapshotNotFound, UnsupportedFormat,
};
use crate::error::{Error, Result};
use crate::query::TimeValue;
use crate::service::{CoverageReply, CoverageRequest, DeleteReply, Scope, Service};
use crate::types::SeriesKey;

/// The path of rows of a series of any kind.
const ROWS: &str = "/v1/series/{key}/rows";
/// The paths of rows.
const KLINES: &str = "/v1/klines/{symbol}/{timeframe}";
const SCALARS: &str = "/v1/scalars/{category}/{symbol}/{timeframe}/{name}";

const WRITE_ROUTE: Route = Route {
    body: BodyKind::Rows,
    headers: &[Header::IfMatch, Header::IdempotencyKey, Header::ContentEncoding],
    success: &[(200, "Written")],
    writes: true,
    errors: &[SchemaMismatch, SeriesNotFound, RowsExist, OutOfOrder, IdempotencyMismatch, CommitConflict, InvalidRows],
    about: "All rows become one atomic commit; the reply is sent when they are durable.",
    ..Route::new(Method::Post, "rows")
};

/// Writes rows.
pub(super) const WRITE: Spec = Spec::new("write", Scope::Write)
    .rest(&[
        WRITE_ROUTE.at(KLINES, "writeKlines", "Write klines"),
        WRITE_ROUTE.at(SCALARS, "writeScalars", "Write a scalar series"),
        WRITE_ROUTE.at(ROWS, "writeRows", "Write rows of a series of any kind"),
        Route {
            headers: &[Header::IdempotencyKey, Header::ContentEncoding],
            writes: true,
            errors: &[SchemaMismatch, SeriesNotFound, RowsExist, OutOfOrder, IdempotencyMismatch, InvalidRows],
            ..WRITE_ROUTE
        }
        .at("/v1/write", "writeMany", "Write rows of several series")
        .about(
            "All rows of all series become one atomic commit; the reply is sent when they are durable. JSON names the \
             series in each entry; NDJSON, CSV, Arrow and Parquet have a column `series`, and all series have the \
             columns of the body. Offending rows are numbered over the whole body.",
        ),
    ])
    .flight(&[FlightBinding::Method("DoPut")])
    .cli(&["write", "import", "bridge write-kline-range", "bridge write-scalar-range", "bridge write-indicator-range"]);

const MERGE_ROUTE: Route = Route {
    headers: &[Header::IfMatch, Header::IdempotencyKeyRequired, Header::ContentEncoding],
    success: &[(200, "Merged")],
    ..WRITE_ROUTE
};

/// Merges rows into stored ones.
pub(super) const MERGE: Spec = Spec::new("merge", Scope::Write)
    .rest(&[
        MERGE_ROUTE.at("/v1/klines/{symbol}/{timeframe}/merge", "mergeKlines", "Merge klines").about(
            "Merges each sent row into the stored row of its timestamp: open remains, high is the larger, low the \
             smaller, close the new value, volume the sum; extra columns follow the `merge` of their registration. A \
             row without a stored one is stored as it is. Atomic with any number of concurrent writers.",
        ),
        MERGE_ROUTE
            .at(
                "/v1/scalars/{category}/{symbol}/{timeframe}/{name}/merge",
                "mergeScalars",
                "Merge into a scalar series",
            )
            .about(
                "Merges each sent value into the stored value of its timestamp, by `op`, or by the `merge` of the \
                 registration. A row without a stored one is stored as it is. Atomic with any number of concurrent \
                 writers.",
            ),
        MERGE_ROUTE.at("/v1/series/{key}/rows/merge", "mergeRows", "Merge rows of a series of any kind").about(
            "Merges each sent row into the stored row of its timestamp, each field by the `merge` of its definition. A \
             row without a stored one is stored as it is. Atomic with any number of concurrent writers.",
        ),
    ])
    .flight(&[FlightBinding::Method("DoPut")])
    .cli(&["write"]);

const READ_ROUTE: Route = Route {
    headers: &[Header::Accept, Header::AcceptEncoding, Header::IfNoneMatch, Header::Range],
    success: &[(200, "The rows. Only JSON carries a cursor.")],
    errors: &[
        SchemaMismatch,
        SeriesNotFound,
        SnapshotNotFound,
        DatasetNotFound,
        NotAcceptable,
        CommitGone,
        CorruptData,
        UnsupportedFormat,
    ],
    about: "`start` and `end` select a closed range, `latest` keeps its last rows, `order` sorts them, `limit` truncates.",
    ..Route::new(Method::Get, "rows")
};

/// Reads rows.
pub(super) const READ: Spec = Spec::new("read", Scope::Read)
    .rest(&[
        READ_ROUTE.at(KLINES, "readKlines", "Read klines"),
        READ_ROUTE.at(SCALARS, "readScalars", "Read a scalar series"),
        READ_ROUTE.at(ROWS, "readRows", "Read rows of a series of any kind"),
        READ_ROUTE.at("/v1/query", "readMany", "Read rows of several series").about(
            "Like `POST /v1/query` with the query in parameters, for clients that cache responses: the entity tag \
             changes when any of the series does, and `If-None-Match` returns 304 when none did.",
        ),
        Route {
            method: Method::Post,
            body: BodyKind::Whole,
            headers: &[Header::Accept, Header::AcceptEncoding],
            ..READ_ROUTE
        }
        .at("/v1/query", "queryRows", "Query rows")
        .about(
            "The query object in the body: one series, or several by a list of keys and globs. Rows of several series \
             name theirs in a first column `series`; the entity tag changes when any of the series does.",
        ),
    ])
    .flight(&[FlightBinding::Method("DoGet")])
    .cli(&[
        "query",
        "export",
        "bridge read-kline-range",
        "bridge read-scalar-range",
        "bridge read-indicator-range",
        "bridge query-scalar-predicate",
    ]);

/// Plans a read.
pub(super) const PLAN: Spec = Spec::new("plan", Scope::Read)
    .not_in_rest("a response carries its size")
    .flight(&[FlightBinding::Method("GetFlightInfo")])
    .not_in_cli("a response carries its size");

/// Rows to delete: those of the closed range, or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DeleteRequest {
    #[param(value_type = String)]
    pub series: SeriesKey,
    /// First timestamp to delete: an epoch integer, RFC 3339, or a date. The range is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub start: Option<TimeValue>,
    /// Last timestamp to delete; a date means its last instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub end: Option<TimeValue>,
    /// Delete every row.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    pub all: bool,
    /// Count the rows without deleting them.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    pub dry_run: bool,
    /// The version that the series must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u64>,
}

/// Deletes rows.
#[derive(Debug)]
pub struct Delete;

impl Delete {
    const ROUTE: Route = Route {
        query: &["start", "end", "all", "dry_run"],
        headers: &[Header::IfMatch],
        success: &[(200, "Deleted, or counted")],
        writes: true,
        errors: &[SeriesNotFound, CommitConflict],
        about: "Requires both bounds of the closed range, or `all=true`.",
        ..Route::new(Method::Delete, "rows")
    };
}

impl Operation for Delete {
    const SPEC: Spec = Spec::new("delete", Scope::Write).rest(&[
            Self::ROUTE.at(KLINES, "deleteKlines", "Delete klines"),
            Self::ROUTE.at(SCALARS, "deleteScalars", "Delete rows of a scalar series"),
            Self::ROUTE.at(ROWS, "deleteRows", "Delete rows of a series of any kind"),
        ]).flight(&[FlightBinding::Action(
            "delete_range",
            "deletes the closed range of rows; body: {\"series\": key, \"start\": t, \"end\": t} or {\"series\": key, \"all\": true}; \
             optional: if_version, dry_run",
        )]).cli(&["delete"]);
    type Request = DeleteRequest;
    type Reply = DeleteReply;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<DeleteRequest>()
    }

    fn run(service: &Service, request: DeleteRequest, context: &Context) -> Result<DeleteReply> {
        let range = match (&request.start, &request.end, request.all) {
            (None, None, true) => None,
            (Some(start), Some(end), false) => Some((start.clone(), end.clone())),
            (_, _, true) => return Err(Error::invalid("all=true excludes start and end")),
            _ => {
                return Err(Error::invalid("a delete needs both start and end, or all=true")
                    .with_hint("the range is closed: rows at both bounds are deleted too"));
            }
        };
        service.delete_range(&request.series, range, &context.condition(request.if_version), request.dry_run)
    }
}

/// Reports which intervals of a series have rows.
#[derive(Debug)]
pub struct ReadCoverage;

impl ReadCoverage {
    const ROUTE: Route = Route {
        query: &["start", "end", "calendar", "min_missing", "limit", "times", "as_of"],
        headers: &[Header::AcceptEncoding, Header::IfNoneMatch],
        success: &[(200, "Coverage of the range")],
        errors: &[SeriesNotFound, SnapshotNotFound, DatasetNotFound, CorruptData, UnsupportedFormat],
        about: "Expected and present intervals of the closed range, and the gaps.",
        ..Route::new(Method::Get, "rows")
    };
}

impl Operation for ReadCoverage {
    const SPEC: Spec = Spec::new("coverage", Scope::Read).rest(&[
            Self::ROUTE.at("/v1/coverage/kline/{symbol}/{timeframe}", "getKlineCoverage", "Coverage of klines"),
            Self::ROUTE.at(
                "/v1/coverage/scalar/{category}/{symbol}/{timeframe}/{name}",
                "getScalarCoverage",
                "Coverage of a scalar series",
            ),
            Self::ROUTE.at("/v1/coverage/{key}", "getCoverage", "Coverage of a series of any kind"),
        ]).flight(&[FlightBinding::Action(
            "coverage",
            "returns which intervals have rows; body: {\"series\": key}; optional: start, end, calendar, min_missing, limit, times, as_of",
        )]).cli(&["coverage"]);
    type Request = CoverageRequest;
    type Reply = CoverageReply;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<CoverageRequest>()
    }

    fn run(service: &Service, request: CoverageRequest, _: &Context) -> Result<CoverageReply> {
        service.coverage(&request)
    }

    fn etag(service: &Service, request: &CoverageRequest) -> Result<Option<EntityTag>> {
        Ok(Some(EntityTag::OfContent(format!("{}{}", service.coverage_stem(request)?, OutFormat::Json.name()))))
    }
}
