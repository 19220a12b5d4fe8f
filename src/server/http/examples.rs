//! Examples of the OpenAPI document, taken from `openapi/examples.json`: requests, and the responses of a test server.
//!
//! The requests of the file can be sent in its order; a test sends them, and rewrites the responses under
//! `FASTK_BLESS=1`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, PathItem};
use utoipa::openapi::{Content, OpenApi, RefOr, Required, Schema};

use crate::error::{Error, Result};

/// The file as compiled into the program.
const TEXT: &str = include_str!("../../../openapi/examples.json");

/// Content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    /// By name, for operations without an example of their own.
    parameters: BTreeMap<String, Value>,
    operations: Vec<Example>,
}

/// The examples of one operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    /// The `operationId` of the operation.
    operation: String,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    /// Other parameters that a parameter must be sent with.
    #[serde(default, rename = "with")]
    _with: BTreeMap<String, Vec<String>>,
    /// Bodies by media type.
    #[serde(default)]
    bodies: BTreeMap<String, Value>,
    /// Responses by status and media type.
    #[serde(default)]
    responses: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Adds the examples to the document.
///
/// # Errors
/// `internal` when the file is invalid.
pub fn add(document: &mut OpenApi) -> Result<()> {
    let examples: Examples =
        serde_json::from_str(TEXT).map_err(|error| Error::internal(format!("openapi/examples.json: {error}")))?;
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            let example_of_operation = examples.operations.iter().find(|example| example.operation == id);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    let named = example_of_operation
                        .and_then(|example_of_operation| example_of_operation.parameters.get(&parameter.name));
                    let example = named.or_else(|| examples.parameters.get(&parameter.name)).cloned();
                    set_parameter_example(parameter, example);
                }
            }
            let Some(example_of_operation) = example_of_operation else { continue };
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                body.content
                    .iter_mut()
                    .for_each(|(kind, content)| set_example(content, example_of_operation.bodies.get(kind)));
            }
            for (status, response) in &mut operation.responses.responses {
                if let (RefOr::T(response), Some(responses)) = (response, example_of_operation.responses.get(status)) {
                    response.content.iter_mut().for_each(|(kind, content)| set_example(content, responses.get(kind)));
                }
            }
        }
    }
    Ok(())
}

/// Pages that send requests ("Try it out") fill their form with the `example` of parameters: only required parameters
/// have one. Others have examples in their schema, which a form does not use; enumerations need none.
fn set_parameter_example(parameter: &mut Parameter, example: Option<Value>) {
    let is_required = parameter.required == Required::True;
    let in_form = if is_required { example.clone() } else { None };
    *parameter = ParameterBuilder::from(std::mem::take(parameter)).example(in_form).build();
    if is_required {
        return;
    }
    match &mut parameter.schema {
        Some(RefOr::T(Schema::Object(schema))) => schema.examples = example.into_iter().collect(),
        Some(RefOr::T(Schema::Array(schema))) => schema.examples = example.into_iter().collect(),
        _ => {}
    }
}

fn set_example(content: &mut RefOr<Content>, example: Option<&Value>) {
    if let RefOr::T(content) = content {
        content.example = example.cloned();
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::openapi_json;

    /// Binary formats, which have no example.
    const BINARY: [&str; 3] =
        ["application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file", "application/vnd.apache.parquet"];

    #[test]
    fn every_operation_shows_its_parameters_bodies_and_responses() {
        let document: Value = serde_json::from_str(&openapi_json()).unwrap();
        let examples: Examples = serde_json::from_str(TEXT).unwrap();
        let (mut ids, mut missing) = (Vec::new(), Vec::new());
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                ids.push(id);
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let schema = &parameter["schema"];
                    let has_words = |schema: &Value| {
                        let target =
                            schema["$ref"].as_str().and_then(|to| document.pointer(to.trim_start_matches('#')));
                        target.is_some_and(|target| {
                            let mut each = target["oneOf"].as_array().into_iter().flatten();
                            target["enum"].is_array()
                                || target["oneOf"].is_array() && each.all(|one| one["enum"].is_array())
                        })
                    };
                    let has_example = if parameter["required"] == true {
                        !parameter["example"].is_null()
                    } else {
                        schema["examples"].is_array() || has_words(schema) || has_words(&schema["oneOf"][0])
                    };
                    if !has_example {
                        missing.push(format!("{id}: parameter {}", parameter["name"]));
                    }
                }
                let mut contents = vec![("body", &operation["requestBody"]["content"])];
                let good = |status: &str| status.starts_with('2');
                let responses = operation["responses"].as_object().unwrap().iter().filter(|(status, _)| good(status));
                contents.extend(responses.map(|(status, response)| (status.as_str(), &response["content"])));
                for (place, content) in contents {
                    for (kind, content) in content.as_object().into_iter().flatten() {
                        if content["example"].is_null() && !BINARY.contains(&kind.as_str()) {
                            missing.push(format!("{id}: {place} {kind}"));
                        }
                    }
                }
            }
        }
        assert!(missing.is_empty(), "without an example in openapi/examples.json: {missing:#?}");
        let unknown: Vec<_> = examples
            .operations
            .iter()
            .filter(|example_of_operation| !ids.contains(&&*example_of_operation.operation))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn no_example_fills_an_optional_parameter_in_a_form() {
        let document: Value = serde_json::from_str(&openapi_json()).unwrap();
        let mut seen = 0;
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    if parameter["required"] == true {
                        continue;
                    }
                    // What Swagger UI 5 reads, in this order.
                    let schema = &parameter["schema"];
                    let named = schema["$ref"].as_str().or_else(|| schema["oneOf"][0]["$ref"].as_str());
                    let named = named.and_then(|to| document.pointer(to.trim_start_matches('#'))).unwrap_or(schema);
                    let places = [parameter, schema, named];
                    let fills = places.iter().any(|place| !place["example"].is_null() || !place["default"].is_null());
                    let id = operation["operationId"].as_str().unwrap();
                    assert!(!fills && parameter["examples"].is_null(), "{id}: {}", parameter["name"]);
                    seen += 1;
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
