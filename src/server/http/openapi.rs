//! The OpenAPI document: the annotations of the routes, plus the schemas of bodies and errors.

use std::collections::BTreeMap;

use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat,
    SchemaType, Type,
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
            whose `code` is one of a fixed table. An error after the first byte of a response aborts its body: a \
            body that ends regularly is complete.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "the server that serves this document")),
    modifiers(&Bearer, &ProblemExamples),
    security((), ("bearer" = [])),
    components(schemas(
        crate::service::VerifyReport, crate::service::Finding, crate::service::CompactReply,
        Problem, crate::query::IndexUsed, ScanStats, Cell, Row, RowList, ColumnLists, RowsObject, ColumnsObject, RowsBody,
        SeriesRows, WritesBody, SeriesOrList, RowsReply, Binary, Symbol, Timeframe, Category, ContentCoding, crate::egress::OutFormat, crate::egress::TimeFormat,
        crate::egress::JsonShape, crate::service::RowMode, crate::service::MergeOp, crate::ingest::BodyFormat,
        crate::ingest::DecimalInput, crate::ingest::MissingCells,
        crate::ingest::RowRules, crate::ingest::GridRule, crate::ingest::ImplausibleTs, crate::types::Rounding,
    )),
    tags(
        (name = "series", description = "Register, list, change and drop series"),
        (name = "rows", description = "Write, read and delete rows"),
        (name = "snapshots", description = "Named snapshots of the whole store that stay readable"),
        (name = "registry", description = "Datasets, features and factors: versioned metadata of series"),
        (name = "server", description = "Inventory, health and administration"),
    ),
)]
pub struct Document;

/// The OpenAPI document as it is served and committed: JSON with two spaces of indentation and a final newline.
pub fn openapi_json() -> String {
    let mut document = super::routes::all().into_openapi();
    merge_all_of(&mut document);
    if let Err(error) = super::examples::add(&mut document) {
        tracing::error!(%error, "the OpenAPI document has no examples");
    }
    // The registry of OpenAPI formats spells unsigned formats `uint…`.
    let mut text = document.to_pretty_json().unwrap_or_default().replace("\"format\": \"u-int", "\"format\": \"uint");
    text.push('\n');
    text
}

/// Every operation by route and method, with its success statuses and 500.
pub fn operations() -> Vec<(String, &'static str, Vec<u16>)> {
    let mut found = vec![("none".to_owned(), "GET", vec![404])];
    for (route, item) in super::routes::all().into_openapi().paths.paths {
        let methods =
            [("GET", item.get), ("POST", item.post), ("PUT", item.put), ("PATCH", item.patch), ("DELETE", item.delete)];
        for (method, operation) in methods {
            let Some(operation) = operation else { continue };
            let mut statuses: Vec<u16> =
                operation.responses.responses.keys().filter_map(|status| status.parse().ok()).collect();
            statuses.retain(|status| *status < 400 || *status == 500);
            found.push((route.clone(), method, statuses));
        }
    }
    found
}

/// The error responses of a route: one per status, with its codes.
pub fn problems(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        let codes_of_status = by_status.entry(code.http()).or_default();
        if !codes_of_status.contains(code) {
            codes_of_status.push(*code);
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let text =
                codes.iter().map(|code| format!("`{}`: {}", code.name(), code.title())).collect::<Vec<_>>().join(" ");
            let mut content = Content::new(Some(Ref::from_schema_name("Problem")));
            let example = |code: ErrorCode| RefOr::Ref(Ref::new(format!("#/components/examples/{}", code.name())));
            content.examples = codes.iter().map(|code| (code.name().to_owned(), example(*code))).collect();
            (status.to_string(), ResponseBuilder::new().description(text).content(PROBLEM, content).build().into())
        })
        .collect()
}

/// Codes of every route.
const EVERYWHERE: [ErrorCode; 4] =
    [ErrorCode::UriTooLong, ErrorCode::HeadersTooLarge, ErrorCode::Internal, ErrorCode::Io];

/// Codes of every route that requires a token.
const AUTHENTICATED: [ErrorCode; 2] = [ErrorCode::Unauthenticated, ErrorCode::PermissionDenied];

/// Codes of every route with limits on concurrency and time.
const LIMITED: [ErrorCode; 3] = [ErrorCode::RateLimited, ErrorCode::Overloaded, ErrorCode::DeadlineExceeded];

/// Public routes.
#[derive(Debug)]
pub struct PublicFailure;

impl IntoResponses for PublicFailure {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[&[ErrorCode::InvalidArgument][..], &EVERYWHERE].concat())
    }
}

/// The health route, whose 503 is not a problem document.
#[derive(Debug)]
pub struct HealthFailure;

impl IntoResponses for HealthFailure {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[&[ErrorCode::InvalidArgument][..], &AUTHENTICATED, &EVERYWHERE].concat())
    }
}

/// The bearer token of a request.
#[derive(Debug)]
pub struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token created by `fastk admin token create`. A server without tokens requires none, and accepts \
                 only local host names.",
            ))
            .build();
        document
            .components
            .get_or_insert_with(Components::new)
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// A problem document for every code, referenced by the error responses.
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
                    let codes = [$(ErrorCode::$code,)* ErrorCode::NotReady];
                    problems(&[&codes[..], &AUTHENTICATED, &LIMITED, &EVERYWHERE].concat())
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
    /// Describing a series.
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
    /// Listing the files of a series.
    FilesFailure: InvalidArgument SeriesNotFound SnapshotNotFound DatasetNotFound TooLarge CorruptData UnsupportedFormat;
    /// Writing rows.
    WriteFailure: InvalidArgument SchemaMismatch SeriesNotFound RequestTimeout RowsExist OutOfOrder IdempotencyMismatch
        CommitConflict TooLarge UnsupportedMediaType InvalidRows Overloaded WriterStopped StorageFull;
    /// Writing rows of several series.
    WriteManyFailure: InvalidArgument SchemaMismatch SeriesNotFound RequestTimeout RowsExist OutOfOrder
        IdempotencyMismatch TooLarge UnsupportedMediaType InvalidRows Overloaded WriterStopped StorageFull;
    /// Deleting rows.
    DeleteFailure: InvalidArgument SeriesNotFound CommitConflict WriterStopped StorageFull;
    /// Creating a snapshot.
    CreateSnapshotFailure: InvalidArgument RequestTimeout SnapshotExists TooLarge UnsupportedMediaType Overloaded
        WriterStopped StorageFull;
    /// Dropping a snapshot.
    DropSnapshotFailure: InvalidArgument SnapshotNotFound CorruptData UnsupportedFormat WriterStopped StorageFull;
    /// Starting a job on the whole store.
    StartFailure: InvalidArgument RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Starting a backup.
    BackupFailure: InvalidArgument RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Starting a job on some series.
    AdminFailure: InvalidArgument SeriesNotFound RequestTimeout TooLarge UnsupportedMediaType Overloaded;
    /// Creating a dataset.
    CreateDatasetFailure: InvalidArgument NotFound SeriesNotFound SnapshotNotFound DatasetNotFound RequestTimeout TooLarge
        UnsupportedMediaType CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Describing datasets.
    DatasetFailure: InvalidArgument DatasetNotFound CorruptData UnsupportedFormat;
    /// Listing records.
    RecordsFailure: InvalidArgument CorruptData UnsupportedFormat;
    /// Changing the status of a dataset.
    DatasetStatusFailure: InvalidArgument PermissionDenied DatasetNotFound RequestTimeout TooLarge UnsupportedMediaType
        CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Registering a feature or factor.
    DefineFailure: InvalidArgument NotFound SeriesNotFound DatasetNotFound RequestTimeout TooLarge UnsupportedMediaType
        CorruptData UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Describing a feature or factor.
    DefinitionFailure: InvalidArgument NotFound CorruptData UnsupportedFormat;
    /// Changing the status of a feature or factor.
    DefinitionStatusFailure: InvalidArgument NotFound RequestTimeout TooLarge UnsupportedMediaType CorruptData
        UnsupportedFormat Overloaded WriterStopped StorageFull;
    /// Describing a job.
    JobFailure: InvalidArgument JobNotFound;
}

/// Merges every component composed by `allOf` into one object with all fields: code generators handle `allOf`
/// inconsistently.
fn merge_all_of(document: &mut utoipa::openapi::OpenApi) {
    let Some(components) = &mut document.components else { return };
    let schemas = components.schemas.clone();
    for schema in components.schemas.values_mut() {
        if let RefOr::T(Schema::AllOf(parts)) = schema {
            let mut merged = ObjectBuilder::new().build();
            if parts.items.iter().all(|part| add_fields(&schemas, part, &mut merged)) {
                merged.description.clone_from(&parts.description);
                merged.example.clone_from(&parts.example);
                *schema = RefOr::T(Schema::Object(merged));
            }
        }
    }
}

/// Adds the fields of an object to another, following references; returns whether it was an object.
fn add_fields(schemas: &BTreeMap<String, RefOr<Schema>>, part: &RefOr<Schema>, merged: &mut Object) -> bool {
    match part {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
            schemas.get(name).is_some_and(|named| add_fields(schemas, named, merged))
        }
        RefOr::T(Schema::Object(object)) => {
            merged.properties.extend(object.properties.clone());
            merged.required.extend(object.required.iter().cloned());
            true
        }
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter().all(|part| add_fields(schemas, part, merged)),
        RefOr::T(_) => false,
    }
}

fn object(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().description(Some(description))
}

fn named(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn list_of(name: &str, description: &str) -> Schema {
    Schema::Array(ArrayBuilder::new().items(named(name)).description(Some(description)).build())
}

fn text(description: &str) -> Schema {
    Schema::Object(object(description).schema_type(Type::String).build())
}

fn count(description: &str) -> Schema {
    Schema::Object(object(description).schema_type(Type::Integer).build())
}

/// An object without additional fields.
fn closed(object: ObjectBuilder) -> Schema {
    Schema::Object(object.additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false))).build())
}

/// Schemas of JSON bodies and responses. Every union and object has a name, since generators of clients derive types
/// from names: for anonymous ones they invent a name in each place, or omit the operation.
macro_rules! schemas {
    ($($(#[$outer:meta])* $name:ident $schema:expr;)*) => {
        $(
            $(#[$outer])*
            #[derive(Debug)]
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    RefOr::T($schema)
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

schemas! {
    /// A cell of a row.
    Cell Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("A number, or its text"))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::Number).build()))
            .item(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()))
            .build(),
    );
    /// A row by the names of its columns.
    Row Schema::Object(
        object("A row: `ts` and every number column by name").additional_properties(Some(named("Cell"))).build(),
    );
    /// Rows, one object each.
    RowList list_of("Row", "Rows, one object each");
    /// Cells by column.
    ColumnLists Schema::Object(
        object("The cells of each column by name, including `ts`")
            .additional_properties(Some(Schema::Array(ArrayBuilder::new().items(named("Cell")).build())))
            .build(),
    );
    /// Body of a JSON write with the key `rows`.
    RowsObject closed(object("An object with the key `rows`").property("rows", named("RowList")).required("rows"));
    /// Body of a JSON write with the key `columns`.
    ColumnsObject closed(object("An object with the key `columns`").property("columns", named("ColumnLists")).required("columns"));
    /// Body of a JSON write: rows, or columns.
    RowsBody Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("Rows to write. Every column must be present; decimals are parsed exactly, also from text."))
            .item(named("RowsObject"))
            .item(named("ColumnsObject"))
            .item(named("RowList"))
            .build(),
    );
    /// Rows of one series in a write of several.
    SeriesRows closed(
        object("Rows of one series: `rows` or `columns`")
            .property("series", text("Key of the series, at most once per body"))
            .property("rows", named("RowList"))
            .property("columns", named("ColumnLists"))
            .required("series"),
    );
    /// Body of a JSON write of several series.
    WritesBody Schema::Object(
        object("Rows to write, by series")
            .property("writes", list_of("SeriesRows", "One entry per series"))
            .required("writes")
            .build(),
    );
    /// The series of a response.
    SeriesOrList Schema::OneOf(
        OneOfBuilder::new()
            .description(Some("Key of the series; a list for several series, whose rows each have a `series`"))
            .item(text("Key of the series"))
            .item(Schema::Array(ArrayBuilder::new().items(RefOr::T(text("A key or glob"))).build()))
            .build(),
    );
    /// A JSON response to a read.
    RowsReply Schema::Object(
        object("The rows: `rows`, or `columns` under `shape=columns`")
            .property("series", named("SeriesOrList"))
            .property("version", count("Version of the series; absent for several"))
            .property("commit", count("Commit of the store"))
            .property("rows", named("RowList"))
            .property("columns", named("ColumnLists"))
            .property("next_cursor", Schema::Object(
                object("Continues after the last row; null when no row is left")
                    .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
                    .build(),
            ))
            .property("stats", named("ScanStats"))
            .required("series")
            .required("commit")
            .required("next_cursor")
            .build(),
    );
}

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
    /// A symbol or name in a key.
    Symbol "^[A-Za-z0-9_:@+=^$&-][A-Za-z0-9._:@+=^$&-]{0,63}$"
        "1 to 64 characters: ASCII letters, digits and `. _ - : @ + = ^ $ &`, not starting with a dot";
    /// A timeframe in a key.
    Timeframe "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,31}$"
        "A count and one of `s m h d w M` (`1m` a minute, `1M` a month), or a label of 1 to 32 ASCII letters, digits and `. _ -`";
    /// A category in a key.
    Category "^[A-Za-z0-9_]{1,32}$" "1 to 32 characters: ASCII letters, digits and `_`";
}

/// Content encoding of a body.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "documents a header")]
pub enum ContentCoding {
    Identity,
    Gzip,
    Zstd,
}

/// Binary data.
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
    fn the_committed_document_is_up_to_date() {
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
    fn every_error_has_an_example_of_each_of_its_codes() {
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
    fn every_reference_resolves() {
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

    /// Finds the parts of the document for which a generator would have to invent a name.
    fn unnamed(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        let is_component = path.starts_with("/components/schemas/") && path.matches('/').count() == 3;
        if let serde_json::Value::Object(map) = value {
            let null = serde_json::json!({"type": "null"});
            for union in ["oneOf", "anyOf"] {
                let members: Vec<_> = map.get(union).and_then(|list| list.as_array()).into_iter().flatten().collect();
                let members: Vec<_> = members.into_iter().filter(|member| **member != null).collect();
                let simple = |member: &serde_json::Value| {
                    let is_object = member.get("properties").is_some() || member.get("additionalProperties").is_some();
                    !is_object && ["oneOf", "anyOf", "allOf"].iter().all(|inner| member.get(inner).is_none())
                };
                let is_reference = members.len() == 1 && members[0].get("$ref").is_some();
                if !(members.is_empty() || is_component || is_reference) {
                    found.push(format!("{path}: a union without a name"));
                }
                if !members.iter().all(|member| simple(member)) {
                    found.push(format!("{path}: a member of a union without a name"));
                }
            }
            if map.contains_key("allOf") {
                found.push(format!("{path}: allOf"));
            }
            let kinds = map.get("type").and_then(|kinds| kinds.as_array()).map_or(&[][..], Vec::as_slice);
            if kinds.iter().filter(|kind| **kind != "null").count() > 1 {
                found.push(format!("{path}: several types"));
            }
            if map.get("properties").is_some_and(serde_json::Value::is_object) && !is_component {
                found.push(format!("{path}: an object without a name"));
            }
            // Examples are not schemas.
            for (name, inner) in map.iter().filter(|(name, _)| !matches!(name.as_str(), "example" | "examples")) {
                unnamed(inner, &format!("{path}/{name}"), found);
            }
        } else if let serde_json::Value::Array(items) = value {
            for (at, inner) in items.iter().enumerate() {
                unnamed(inner, &format!("{path}/{at}"), found);
            }
        }
    }

    #[test]
    fn every_union_and_object_has_a_name_for_generators() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        let mut found = Vec::new();
        unnamed(&document["components"]["schemas"], "/components/schemas", &mut found);
        unnamed(&document["paths"], "/paths", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn the_document_is_valid_for_any_server_with_or_without_tokens() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        assert_eq!(document["servers"].as_array().unwrap().len(), 1);
        assert_eq!(document["servers"][0]["url"], "/");
        assert_eq!(document["security"], serde_json::json!([{}, {"bearer": []}]));
    }
}
