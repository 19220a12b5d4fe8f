//! The OpenAPI document: what the routes say of themselves, plus the schemas of bodies and errors.

use std::collections::BTreeMap;

use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType,
    Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi, PartialSchema, ToSchema};

use super::problem::{PROBLEM, Problem};
use crate::error::{Error, ErrorCode, RowError};
use crate::query::ScanStats;

/// The document without its paths.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "FastK",
        description = "Market-data time series over REST. Ranges are closed. Errors are RFC 9457 problem documents \
            whose `code` is one of a fixed table. After the first byte of an answer an error breaks the body off: a \
            body that ends properly is whole.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "http://127.0.0.1:8080", description = "a server on this machine")),
    modifiers(&Bearer, &ProblemExamples),
    security(("bearer" = [])),
    components(schemas(
        crate::service::VerifyReport, crate::service::Finding, crate::service::CompactReply,
        Problem, crate::query::IndexUsed, RowsBody, WritesBody, RowsReply, Binary, Symbol, Timeframe, Category, ContentCoding, crate::egress::OutFormat, crate::egress::Times,
        crate::egress::RowsShape, crate::service::Mode, crate::service::MergeOp, crate::ingest::BodyFormat,
        crate::ingest::Numbers, crate::ingest::Missing,
        crate::ingest::Validate, crate::ingest::GridRule, crate::ingest::ImplausibleTs, crate::types::Rounding,
    )),
    tags(
        (name = "series", description = "Register, list, change and drop series"),
        (name = "rows", description = "Write, read and delete rows"),
        (name = "snapshots", description = "Named views of the whole store that stay readable"),
        (name = "registry", description = "Datasets, features and factors: what series mean together, in versions"),
        (name = "server", description = "What is stored and how the server is"),
    ),
)]
pub struct Document;

/// The OpenAPI document as it is served and committed: JSON with two spaces of indentation and a final newline.
pub fn openapi_json() -> String {
    let mut document = super::routes::all().into_openapi();
    if let Err(error) = super::examples::add(&mut document) {
        tracing::error!(%error, "the OpenAPI document has no examples");
    }
    // The names of unsigned formats in the registry of OpenAPI.
    let mut text = document.to_pretty_json().unwrap_or_default().replace("\"format\": \"u-int", "\"format\": \"uint");
    text.push('\n');
    text
}

/// The error responses of a route: one per status, naming its codes.
pub fn problems(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        let same = by_status.entry(code.http()).or_default();
        if !same.contains(code) {
            same.push(*code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let text =
                codes.iter().map(|code| format!("`{}`: {}", code.name(), code.title())).collect::<Vec<_>>().join(" ");
            let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
            let shown = |code: ErrorCode| RefOr::Ref(Ref::new(format!("#/components/examples/{}", code.name())));
            content.examples = codes.iter().map(|code| (code.name().to_owned(), shown(*code))).collect();
            (status.to_string(), ResponseBuilder::new().description(text).content(PROBLEM, content).build().into())
        })
        .collect()
}

/// Codes of every route.
const EVERYWHERE: [ErrorCode; 4] =
    [ErrorCode::UriTooLong, ErrorCode::HeadersTooLarge, ErrorCode::Internal, ErrorCode::Io];

/// Codes of every route that asks for a token.
const GATED: [ErrorCode; 2] = [ErrorCode::Unauthenticated, ErrorCode::PermissionDenied];

/// Codes of every route that works for its caller: how much may be under way, and how long.
const LIMITED: [ErrorCode; 3] = [ErrorCode::RateLimited, ErrorCode::Overloaded, ErrorCode::DeadlineExceeded];

/// What everybody may ask.
#[derive(Debug)]
pub struct OpenFailure;

impl IntoResponses for OpenFailure {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[&[ErrorCode::InvalidArgument][..], &EVERYWHERE].concat())
    }
}

/// Asking how the server is, whose 503 is an answer and no problem document.
#[derive(Debug)]
pub struct HealthFailure;

impl IntoResponses for HealthFailure {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[&[ErrorCode::InvalidArgument][..], &GATED, &EVERYWHERE].concat())
    }
}

/// The token of a request.
#[derive(Debug)]
pub struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token of `fastk admin token create`. A server whose store has no tokens asks for none, and answers \
                 this machine only.",
            ))
            .build();
        document
            .components
            .get_or_insert_with(Components::new)
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// A problem document of every code, which the error responses refer to.
#[derive(Debug)]
pub struct ProblemExamples;

impl Modify for ProblemExamples {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let examples = ErrorCode::ALL.iter().map(|code| (code.name().to_owned(), RefOr::T(problem_example(*code))));
        document.components.get_or_insert_with(Components::new).examples.extend(examples);
    }
}

fn problem_example(code: ErrorCode) -> Example {
    let mut detail = code.title().trim_end_matches('.').to_owned();
    if let Some(first) = detail.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let row = RowError {
        series: None,
        row: 7,
        field: "open".into(),
        reason: "missing".into(),
        message: "open is missing".into(),
    };
    let rows = if code == ErrorCode::InvalidRows { vec![row] } else { Vec::new() };
    let problem = Problem::new(&Error::new(code, detail).with_rows(rows), "5f0c9a7d3e1b2846");
    ExampleBuilder::new().summary(code.title()).value(serde_json::to_value(problem).ok()).build()
}

macro_rules! failures {
    ($($(#[$outer:meta])* $name:ident: $($code:ident)*;)*) => {
        $(
            $(#[$outer])*
            #[derive(Debug)]
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    let own = [$(ErrorCode::$code,)* ErrorCode::NotReady];
                    problems(&[&own[..], &GATED, &LIMITED, &EVERYWHERE].concat())
                }
            }
        )*
    };
}

failures! {
    /// Any request.
    AnyFailure: InvalidArgument;
    /// Registering a series.
    RegisterFailure: InvalidArgument RequestTimeout SeriesExists TooLarge UnsupportedMediaType Overloaded WriterStopped
        StorageFull;
    /// Looking at a series.
    SeriesFailure: InvalidArgument SeriesNotFound;
    /// Changing or dropping a series.
    ChangeFailure: InvalidArgument SeriesNotFound RequestTimeout CommitConflict TooLarge UnsupportedMediaType
        Overloaded WriterStopped StorageFull;
    /// Reading rows.
    ReadFailure: InvalidArgument SchemaMismatch SeriesNotFound SnapshotNotFound DatasetNotFound NotAcceptable CommitGone
        CorruptData UnsupportedFormat Overloaded;
    /// Reading rows by a query in the body.
    QueryFailure: InvalidArgument SchemaMismatch SeriesNotFound SnapshotNotFound DatasetNotFound NotAcceptable
        RequestTimeout CommitGone TooLarge UnsupportedMediaType CorruptData UnsupportedFormat Overloaded;
    /// Coverage of a series.
    CoverageFailure: InvalidArgument SeriesNotFound SnapshotNotFound DatasetNotFound CorruptData UnsupportedFormat;
    /// Writing rows.
    WriteFailure: InvalidArgument SchemaMismatch SeriesNotFound RequestTimeout RowsExist OutOfOrder IdempotencyMismatch
        CommitConflict TooLarge UnsupportedMediaType InvalidRows Overloaded WriterStopped StorageFull;
    /// Writing rows of many series.
    WriteManyFailure: InvalidArgument SchemaMismatch SeriesNotFound RequestTimeout RowsExist OutOfOrder
        IdempotencyMismatch TooLarge UnsupportedMediaType InvalidRows Overloaded WriterStopped StorageFull;
    /// Deleting rows.
    DeleteFailure: InvalidArgument SeriesNotFound CommitConflict WriterStopped StorageFull;
    /// Creating a snapshot.
    CreateSnapshotFailure: InvalidArgument RequestTimeout SnapshotExists TooLarge UnsupportedMediaType Overloaded
        WriterStopped StorageFull;
    /// Dropping a snapshot.
    DropSnapshotFailure: InvalidArgument SnapshotNotFound CorruptData UnsupportedFormat WriterStopped StorageFull;
    /// Starting a job about the whole store.
    StartFailure: InvalidArgument RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Starting a backup.
    BackupFailure: InvalidArgument RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Starting a job about some series.
    AdminFailure: InvalidArgument SeriesNotFound RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Creating a dataset.
    CreateDatasetFailure: InvalidArgument NotFound SeriesNotFound SnapshotNotFound DatasetNotFound RequestTimeout TooLarge
        UnsupportedMediaType CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Looking at datasets.
    DatasetFailure: InvalidArgument DatasetNotFound CorruptData UnsupportedFormat;
    /// Listing records.
    RecordsFailure: InvalidArgument CorruptData UnsupportedFormat;
    /// Changing the status of a dataset.
    DatasetStatusFailure: InvalidArgument PermissionDenied DatasetNotFound RequestTimeout TooLarge UnsupportedMediaType
        CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Registering a feature or factor.
    DefineFailure: InvalidArgument NotFound SeriesNotFound DatasetNotFound RequestTimeout TooLarge UnsupportedMediaType
        CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Looking at a feature or factor.
    DefinitionFailure: InvalidArgument NotFound CorruptData UnsupportedFormat;
    /// Changing the status of a feature or factor.
    DefinitionStatusFailure: InvalidArgument NotFound RequestTimeout TooLarge UnsupportedMediaType CorruptData
        UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Looking at a job.
    JobFailure: InvalidArgument JobNotFound;
}

fn object(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().description(Some(description))
}

fn cell() -> Schema {
    let kind = SchemaType::from_iter([Type::Number, Type::String]);
    Schema::Object(ObjectBuilder::new().schema_type(kind).description(Some("A number, or its text")).build())
}

fn row_objects() -> Schema {
    let row = object("A row: `ts` and every number column by name").additional_properties(Some(cell())).build();
    Schema::Array(ArrayBuilder::new().items(RefOr::T(Schema::Object(row))).build())
}

fn column_arrays() -> Schema {
    let cells = Schema::Array(ArrayBuilder::new().items(RefOr::T(cell())).build());
    Schema::Object(object("Each column's cells by name, `ts` among them").additional_properties(Some(cells)).build())
}

/// Body of a JSON write: rows, or columns.
#[derive(Debug)]
pub struct RowsBody;

impl PartialSchema for RowsBody {
    fn schema() -> RefOr<Schema> {
        let rows = object("Rows under a name")
            .property("rows", row_objects())
            .required("rows")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
            .build();
        let columns = object("Columns under a name")
            .property("columns", column_arrays())
            .required("columns")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
            .build();
        let body = OneOfBuilder::new()
            .description(Some("Rows to write. Every column must be present; decimals are read exactly, also as text."))
            .item(row_objects())
            .item(Schema::Object(rows))
            .item(Schema::Object(columns))
            .build();
        RefOr::T(Schema::OneOf(body))
    }
}

impl ToSchema for RowsBody {}

/// Body of a JSON write of many series.
#[derive(Debug)]
pub struct WritesBody;

impl PartialSchema for WritesBody {
    fn schema() -> RefOr<Schema> {
        let series = object("Key of the series; each stands once").schema_type(Type::String).build();
        let entry = object("Rows of one series: `rows` or `columns`")
            .property("series", Schema::Object(series))
            .property("rows", row_objects())
            .property("columns", column_arrays())
            .required("series")
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
            .build();
        let entries = ArrayBuilder::new().items(RefOr::T(Schema::Object(entry))).build();
        let body = object("Rows to write, by series").property("writes", Schema::Array(entries)).required("writes");
        RefOr::T(Schema::Object(body.build()))
    }
}

impl ToSchema for WritesBody {}

/// A JSON answer to a read.
#[derive(Debug)]
pub struct RowsReply;

impl PartialSchema for RowsReply {
    fn schema() -> RefOr<Schema> {
        let text = |about: &str| Schema::Object(object(about).schema_type(Type::String).build());
        let count = |about: &str| Schema::Object(object(about).schema_type(Type::Integer).build());
        let cursor = object("Continues after the last row; null when nothing is left")
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .build();
        let asked = ArrayBuilder::new().items(RefOr::T(text("A key or glob"))).description(Some("What was asked for"));
        let subject = OneOfBuilder::new()
            .item(text("Key of the series"))
            .item(Schema::Array(asked.build()))
            .description(Some("A list for several series, whose rows have a `series` of their own"))
            .build();
        let reply = object("An answer: `rows`, or `columns` under `shape=columns`")
            .property("series", Schema::OneOf(subject))
            .property("version", count("Version of the series; not there for several"))
            .property("commit", count("Commit of the store"))
            .property("rows", row_objects())
            .property("columns", column_arrays())
            .property("next_cursor", Schema::Object(cursor))
            .property("stats", <ScanStats as PartialSchema>::schema())
            .required("series")
            .required("commit")
            .required("next_cursor");
        RefOr::T(Schema::Object(reply.build()))
    }
}

impl ToSchema for RowsReply {}

macro_rules! texts {
    ($($(#[$outer:meta])* $name:ident $pattern:literal $about:literal;)*) => {
        $(
            $(#[$outer])*
            #[derive(Debug)]
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    RefOr::T(Schema::Object(object($about).schema_type(Type::String).pattern(Some($pattern)).build()))
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

texts! {
    /// A symbol or name as part of a key.
    Symbol "^[A-Za-z0-9_:@+=^$&-][A-Za-z0-9._:@+=^$&-]{0,63}$"
        "1 to 64 of ASCII letters, digits and `. _ - : @ + = ^ $ &`, no dot first";
    /// A timeframe as part of a key.
    Timeframe "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,31}$"
        "A count and one of `s m h d w M` (`1m` a minute, `1M` a month), or a label of 1 to 32 ASCII letters, digits and `. _ -`";
    /// A category as part of a key.
    Category "^[A-Za-z0-9_]{1,32}$" "1 to 32 of ASCII letters, digits and `_`";
}

/// How a body is encoded.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "documents a header")]
pub enum ContentCoding {
    Identity,
    Gzip,
    Zstd,
}

/// Bytes that are no text.
#[derive(Debug)]
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        RefOr::T(Schema::Object(object("Bytes").schema_type(Type::String).format(Some(format)).build()))
    }
}

impl ToSchema for Binary {}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/fastk.v1.json")
    }

    /// Run with `FASTK_BLESS=1` to rewrite the committed document.
    #[test]
    fn the_committed_document_is_what_the_code_says() {
        let now = openapi_json();
        if std::env::var_os("FASTK_BLESS").is_some() {
            std::fs::create_dir_all(committed().parent().unwrap()).unwrap();
            std::fs::write(committed(), &now).unwrap();
        }
        let committed = std::fs::read_to_string(committed()).unwrap_or_default();
        assert!(committed == now, "openapi/fastk.v1.json is stale: run this test with FASTK_BLESS=1");
    }

    #[test]
    fn every_operation_is_named_and_documents_its_errors() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_string()), "{name} is used twice");
                let is_camel = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains('_');
                assert!(is_camel, "{name}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
                let problem = &responses["500"]["content"][PROBLEM]["schema"]["$ref"];
                assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}");
                let in_path = path.matches('{').count();
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let documented = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(documented, in_path, "{method} {path}");
                if matches!(method.as_str(), "post" | "patch") {
                    assert!(operation["requestBody"].is_object(), "{method} {path}");
                }
            }
        }
        assert!(names.len() >= 20, "{names:?}");
    }

    #[test]
    fn every_error_shows_a_problem_document_of_each_of_its_codes() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        let operations = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
        let mut seen = 0;
        for (_, operation) in operations {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let content = &response["content"][PROBLEM];
                if content.is_null() {
                    continue;
                }
                for code in response["description"].as_str().unwrap().split('`').skip(1).step_by(2) {
                    let reference = content["examples"][code]["$ref"].as_str().unwrap().trim_start_matches('#');
                    let shown = &document.pointer(reference).unwrap()["value"];
                    let problem: Problem = serde_json::from_value(shown.clone()).unwrap();
                    assert_eq!((problem.code.as_str(), problem.status.to_string()), (code, status.clone()));
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        fn walk<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
            match value {
                serde_json::Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(|reference| reference.as_str()));
                    map.values().for_each(|value| walk(value, found));
                }
                serde_json::Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
