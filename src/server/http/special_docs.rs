//! What the OpenAPI document says of the routes with code of their own: bodies and responses of rows, and text.

use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{Content, Ref, RefOr, Required};
use utoipa::{IntoParams, PartialSchema};

use super::openapi_parts::{Parts, nullable};
use super::params::{
    MergeKlineParams, MergeScalarParams, QueryParams, ReadManyParams, ReadParams, SqlParams, WriteParams,
};
use crate::egress::OutFormat;
use crate::ingest::BodyFormat;
use crate::service::operations::Route;

/// The parts of a route.
pub fn parts(route: &Route) -> Parts {
    match route.id {
        "readKlines" | "readScalars" | "readRows" => rows(query::<ReadParams>(), None),
        "readMany" => rows([query::<ReadManyParams>(), query::<ReadParams>()].concat(), None),
        "queryRows" => rows(query::<QueryParams>(), Some(body("application/json", "Query"))),
        "runSql" => sql(),
        "writeKlines" | "writeScalars" | "writeRows" => write(query::<WriteParams>(), "RowsBody", "WriteReply"),
        "writeMany" => write(query::<WriteParams>(), "WritesBody", "WriteManyReply"),
        "mergeKlines" | "mergeRows" => write(query::<MergeKlineParams>(), "RowsBody", "WriteReply"),
        "mergeScalars" => write(query::<MergeScalarParams>(), "RowsBody", "WriteReply"),
        "getLiveness" => content("application/json", named("StatusReply")),
        "getMetrics" => content("text/plain", String::schema()),
        "getOpenapi" => content("application/json", serde_json::Value::schema()),
        _ => Parts::default(),
    }
}

fn query<P: IntoParams>() -> Vec<Parameter> {
    P::into_params(|| Some(ParameterIn::Query))
}

fn named(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn content(media_type: &'static str, schema: RefOr<Schema>) -> Parts {
    Parts { contents: vec![(media_type, schema)], ..Parts::default() }
}

fn body(media_type: &str, schema: &str) -> RequestBody {
    RequestBodyBuilder::new()
        .content(media_type, Content::new(Some(named(schema))))
        .required(Some(Required::True))
        .build()
}

/// The formats of rows; in JSON they have this schema.
fn formats(json: &str) -> Vec<(&'static str, RefOr<Schema>)> {
    vec![
        (BodyFormat::Json.media_type(), named(json)),
        (BodyFormat::Ndjson.media_type(), String::schema()),
        (BodyFormat::Csv.media_type(), String::schema()),
        (BodyFormat::Arrow.media_type(), named("Binary")),
        (BodyFormat::Parquet.media_type(), named("Binary")),
    ]
}

/// The formats of rows that are returned, one more than can be sent.
fn returned_formats(json: &str) -> Vec<(&'static str, RefOr<Schema>)> {
    let mut all = formats(json);
    all.push((OutFormat::ArrowFile.content_type(), named("Binary")));
    all
}

/// A response with rows; a read without a body has pages and can be cached.
fn rows(parameters: Vec<Parameter>, body: Option<RequestBody>) -> Parts {
    let mut headers =
        vec![("ETag", String::schema(), ""), ("fastk-version", u64::schema(), ""), ("fastk-commit", u64::schema(), "")];
    if body.is_none() {
        headers.extend([
            ("fastk-truncated", nullable(u64::schema()), "Rows returned, when the default limit leaves rows out"),
            ("Link", nullable(String::schema()), "The next page, when rows are left out"),
            ("fastk-stats", nullable(String::schema()), "Statistics of the scan as JSON, under explain"),
        ]);
    }
    Parts { parameters, body, contents: returned_formats("RowsReply"), headers }
}

/// A response with the rows of a statement.
fn sql() -> Parts {
    let headers = vec![
        ("fastk-commit", u64::schema(), ""),
        ("fastk-query-id", u64::schema(), "Number of the statement, by which it is cancelled"),
    ];
    let (parameters, body) = (query::<SqlParams>(), Some(body("application/json", "SqlStatement")));
    Parts { parameters, body, contents: returned_formats("SqlReply"), headers }
}

fn write(parameters: Vec<Parameter>, rows: &str, reply: &str) -> Parts {
    let mut body = RequestBodyBuilder::new().description(Some("The rows")).required(Some(Required::True));
    for (media_type, schema) in formats(rows) {
        body = body.content(media_type, Content::new(Some(schema)));
    }
    let replayed = "true: the key was used before and this is its first reply";
    Parts {
        parameters,
        body: Some(body.build()),
        contents: vec![("application/json", named(reply))],
        headers: vec![("Idempotency-Replayed", nullable(bool::schema()), replayed)],
    }
}
