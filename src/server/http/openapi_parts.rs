//! What the OpenAPI document says of a route in addition to the table of operations.

use utoipa::openapi::RefOr;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{Schema, SchemaType, Type};

/// What the document says of a route in addition to the table of operations.
#[derive(Default)]
pub struct Parts {
    pub parameters: Vec<Parameter>,
    pub body: Option<RequestBody>,
    /// Media types of the response with their schemas.
    pub contents: Vec<(&'static str, RefOr<Schema>)>,
    /// Headers of the response: name, schema and description.
    pub headers: Vec<(&'static str, RefOr<Schema>, &'static str)>,
}

/// A schema that allows `null` too.
pub fn nullable(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Type(only) = object.schema_type {
                object.schema_type = SchemaType::from_iter([only, Type::Null]);
            }
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}
