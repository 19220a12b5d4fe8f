//! The OpenAPI document, made from the table of operations.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content, HeaderBuilder, HttpMethod, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{Modify, OpenApi, PartialSchema};

use super::openapi_parts::{Parts, nullable};
use super::problem::Problem;
use super::problem_docs::{self, ProblemExamples};
use super::schemas::{
    Binary, Category, Cell, ColumnLists, ColumnsObject, ContentCoding, Row, RowList, RowsBody, RowsObject, RowsReply,
    SeriesOrList, SeriesRows, SqlColumn, SqlReply, Symbol, Timeframe, WritesBody,
};
use super::special_docs;
use crate::query::ScanStats;
use crate::service::JobList;
use crate::service::operations::{
    BodyKind, Dispatch, Entry, Guard, Header, Method, NamedSchema, OPERATIONS, RequestSchemas, Route, WaitParams,
};

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
        crate::service::VerifyReport, crate::service::Finding, crate::service::CompactReply, crate::service::JobList,
        crate::query::Query, crate::query::MultiLayout, crate::query::panel::PanelJoin, crate::query::panel::ExactJoin,
        crate::query::panel::AsOfJoin, crate::query::panel::KnownAt, crate::service::WriteReply, crate::service::WriteManyReply,
        crate::service::StatusReply, Problem, crate::query::IndexUsed, ScanStats, Cell, Row, RowList, ColumnLists, RowsObject, ColumnsObject, RowsBody,
        SeriesRows, WritesBody, SeriesOrList, RowsReply, Binary, Symbol, Timeframe, Category, ContentCoding, crate::egress::OutFormat, crate::egress::TimeFormat,
        crate::egress::JsonShape, crate::service::RowMode, crate::service::MergeOp, crate::ingest::BodyFormat,
        crate::ingest::DecimalInput, crate::ingest::MissingCells,
        crate::service::SqlStatement, SqlReply, SqlColumn, crate::ingest::RowRules, crate::ingest::GridRule, crate::ingest::ImplausibleTs, crate::types::Rounding,
    )),
    tags(
        (name = "series", description = "Register, list, change and drop series"),
        (name = "kinds", description = "Register, list and drop kinds of series"),
        (name = "rows", description = "Write, read and delete rows"),
        (name = "sql", description = "SQL over tables of series"),
        (name = "snapshots", description = "Named snapshots of the whole store that stay readable"),
        (name = "registry", description = "Datasets, features and factors: versioned metadata of series"),
        (name = "server", description = "Inventory, health and administration"),
    ),
)]
pub struct Document;

/// The OpenAPI document as it is served and committed: JSON with two spaces of indentation and a final newline.
pub fn openapi_json() -> String {
    let mut document = document();
    merge_all_of(&mut document);
    if let Err(error) = super::examples::add(&mut document) {
        tracing::error!(%error, "the OpenAPI document has no examples");
    }
    // The registry of OpenAPI formats spells unsigned formats `uint…`.
    let mut text = document.to_pretty_json().unwrap_or_default().replace("\"format\": \"u-int", "\"format\": \"uint");
    text.push('\n');
    text
}

/// The document before its examples are added.
fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let mut schemas = Vec::new();
    for entry in OPERATIONS {
        for route in entry.spec.rest.bindings() {
            let method = match route.method {
                Method::Get => HttpMethod::Get,
                Method::Post => HttpMethod::Post,
                Method::Patch => HttpMethod::Patch,
                Method::Delete => HttpMethod::Delete,
            };
            let operation = operation(route, parts(entry, route, &mut schemas));
            document.paths.add_path_operation(route.path, vec![method], operation);
        }
    }
    document.components.get_or_insert_with(Components::new).schemas.extend(schemas);
    document
}

/// The success of a request for a part of the body.
const PART: (u16, &str) = (206, "The bytes that `Range` names, of a body that is not JSON.");

/// Every operation by route and method, with its success statuses and 500.
pub fn operations() -> Vec<(String, &'static str, Vec<u16>)> {
    let mut found = vec![("none".to_owned(), "GET", vec![404])];
    for route in OPERATIONS.iter().flat_map(|entry| entry.spec.rest.bindings()) {
        let mut statuses: Vec<u16> = route.success.iter().map(|(status, _)| *status).filter(|s| *s < 400).collect();
        if route.headers.contains(&Header::Range) {
            statuses.push(PART.0);
        }
        if route.headers.contains(&Header::IfNoneMatch) {
            statuses.push(304);
        }
        statuses.push(500);
        found.push((route.path.to_owned(), route.method.name(), statuses));
    }
    found
}

fn parts(entry: &Entry, route: &Route, schemas: &mut Vec<(String, RefOr<Schema>)>) -> Parts {
    match &entry.call {
        Dispatch::Special => special_docs::parts(route),
        Dispatch::Json(call) => {
            let reply = (call.reply)();
            let content = reference(&reply.name);
            schemas.extend(reply.all);
            json_parts(route, (call.schemas)(), content, schemas)
        }
        Dispatch::Job(call) => {
            let mut request = (call.schemas)();
            request.parameters = RequestSchemas::query::<WaitParams>().parameters;
            json_parts(route, request, reference(&NamedSchema::of::<JobList>().name), schemas)
        }
    }
}

fn json_parts(
    route: &Route,
    request: RequestSchemas,
    reply: RefOr<Schema>,
    schemas: &mut Vec<(String, RefOr<Schema>)>,
) -> Parts {
    let named = |name: &&str| request.parameters.iter().find(|parameter| parameter.name == **name).cloned();
    let parameters = route.query.iter().filter_map(named).collect();
    let body = request.body.filter(|_| route.body != BodyKind::None).map(|body| {
        schemas.extend(body.all);
        json_body(route, reference(&body.name))
    });
    Parts { parameters, body, contents: vec![("application/json", reply)], headers: Vec::new() }
}

fn json_body(route: &Route, schema: RefOr<Schema>) -> RequestBody {
    match route.body {
        BodyKind::Optional(about) => {
            let null = Object::builder().schema_type(SchemaType::Type(Type::Null));
            let either = OneOfBuilder::new().item(schema).item(null);
            RequestBodyBuilder::new()
                .description(Some(about))
                .content("application/json", Content::new(Some(either)))
                .build()
        }
        _ => RequestBodyBuilder::new()
            .content("application/json", Content::new(Some(schema)))
            .required(Some(Required::True))
            .build(),
    }
}

/// A reference to a schema.
fn reference(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn operation(route: &Route, parts: Parts) -> Operation {
    let Parts { parameters, body, contents, headers } = parts;
    let mut builder = OperationBuilder::new()
        .tag(route.tag)
        .summary(Some(route.title))
        .description((!route.about.is_empty()).then_some(route.about))
        .operation_id(Some(route.id))
        .request_body(body);
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| path_parameter(route, name));
    let in_head = route.headers.iter().map(|header| header_parameter(*header));
    for parameter in in_path.chain(parameters).chain(in_head) {
        builder = builder.parameter(parameter);
    }
    let is_conditional = route.headers.contains(&Header::IfNoneMatch);
    let part = route.headers.contains(&Header::Range).then_some(&PART);
    for (position, (status, about)) in route.success.iter().chain(part).enumerate() {
        let mut response = ResponseBuilder::new().description(*about);
        // No type of the complete body describes a part of it, and clients would get a union of both.
        for (media_type, schema) in contents.iter().filter(|_| *status != PART.0) {
            response = response.content(*media_type, Content::new(Some(schema.clone())));
        }
        if position == 0 && !route.location.is_empty() {
            let header = HeaderBuilder::new().schema(Some(String::schema())).description(Some(route.location));
            response = response.header("Location", header.build());
        }
        if is_conditional && !headers.iter().any(|(name, ..)| *name == "ETag") {
            response = response.header("ETag", HeaderBuilder::new().schema(Some(String::schema())).build());
        }
        for (name, schema, about) in &headers {
            let header = HeaderBuilder::new().schema(Some(schema.clone()));
            let header = header.description((!about.is_empty()).then_some(*about));
            response = response.header(*name, header.build());
        }
        builder = builder.response(status.to_string(), response.build());
    }
    if is_conditional {
        builder = builder.response("304", Response::new("Not modified"));
    }
    for (status, response) in problem_docs::of_route(route) {
        builder = builder.response(status, response);
    }
    if route.guard == Guard::Public {
        builder = builder.security(SecurityRequirement::default());
    }
    builder.build()
}

fn path_parameter(route: &Route, name: &str) -> Parameter {
    let (schema, about) = match name {
        "symbol" => (reference("Symbol"), "Symbol"),
        "timeframe" => (reference("Timeframe"), "Timeframe"),
        "category" => (reference("Category"), "Category"),
        "name" if route.names_series() => (reference("Symbol"), "Name"),
        "name" => (String::schema(), "Name"),
        "key" => (String::schema(), "Key, such as `greeks/SPX/C5000`; its slashes as they are, or as %2F"),
        "kind" => (String::schema(), "Name of the kind"),
        "version" => (String::schema(), "Version, or `latest`: the highest that is not archived"),
        _ => (String::schema(), "Id of the job"),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .description(Some(about))
        .required(Required::True)
        .schema(Some(schema))
        .build()
}

fn header_parameter(header: Header) -> Parameter {
    const KEY: &str = "1 to 255 visible ASCII characters. A repeat within 24 hours returns the first reply and changes \
        nothing.";
    let text = nullable(String::schema());
    let (name, about, schema) = match header {
        Header::Accept => ("Accept", "Formats the client accepts", text),
        Header::AcceptEncoding => ("Accept-Encoding", "gzip or zstd", text),
        Header::ContentEncoding => {
            let null = Object::builder().schema_type(SchemaType::Type(Type::Null));
            let either = OneOfBuilder::new().item(reference("ContentCoding")).item(null);
            ("Content-Encoding", "gzip or zstd", RefOr::T(Schema::OneOf(either.build())))
        }
        Header::IfMatch => ("If-Match", "Entity tag the series must have", text),
        Header::IfNoneMatch => ("If-None-Match", "Entity tags of cached responses", text),
        Header::Range => ("Range", "`bytes=FIRST-LAST`, a part of a body that is not JSON", text),
        Header::IdempotencyKey => ("Idempotency-Key", KEY, text),
        Header::IdempotencyKeyRequired => ("Idempotency-Key", KEY, String::schema()),
    };
    let required = if header == Header::IdempotencyKeyRequired { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(about))
        .required(required)
        .schema(Some(schema))
        .build()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::problem::PROBLEM;

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
