//! What an operation implements. Most have a request and a reply in JSON, in every interface; long ones run as jobs.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};

use super::spec::Spec;
use crate::cancel::CancelFlag;
use crate::error::Result;
use crate::service::{Precondition, Service};
use crate::store::TaskControl;

/// What a protocol passes to an operation in addition to the request.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Entity tag of `If-Match`, which the series must have.
    pub if_match: Option<String>,
    /// Cancels the work.
    pub stop: CancelFlag,
}

impl Context {
    /// The condition of a change.
    pub fn condition(&self, if_version: Option<u64>) -> Precondition {
        Precondition { if_match: self.if_match.clone(), if_version }
    }
}

/// The entity tag of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityTag {
    /// The tag in the reply, in quotes; the same for every content encoding.
    InReply(String),
    /// A tag without quotes, to which the content encoding is appended.
    OfContent(String),
}

/// An operation with a request and a reply in JSON.
pub trait Operation: Send + Sync + 'static {
    /// The row of the operation in the table.
    const SPEC: Spec;
    /// An object in JSON.
    type Request: Serialize + DeserializeOwned + Send;
    type Reply: Serialize + DeserializeOwned + ToSchema;

    /// The schemas of parameters and body, for the OpenAPI document.
    fn schemas() -> RequestSchemas {
        RequestSchemas::default()
    }

    /// Blocks. Checks the permissions of the caller.
    fn run(service: &Service, request: Self::Request, context: &Context) -> Result<Self::Reply>;

    /// The status of the response, if it is not the first of its route.
    fn status(_reply: &Self::Reply) -> Option<u16> {
        None
    }

    /// The path of what was created or found.
    fn location(_reply: &Self::Reply) -> Option<String> {
        None
    }

    /// The entity tag, determined before the reply: if the store changes in between it is outdated, which only costs a
    /// request.
    fn etag(_service: &Service, _request: &Self::Request) -> Result<Option<EntityTag>> {
        Ok(None)
    }
}

/// An operation that takes long: a server runs it as a job, of which one per operation runs at a time.
pub trait JobOperation: Send + Sync + 'static {
    /// The row of the operation in the table.
    const SPEC: Spec;
    /// Name of the jobs of this operation.
    const VERB: &'static str;
    /// Unit that the progress of the jobs counts.
    const UNIT: &'static str;
    type Request: Serialize + DeserializeOwned + Send + ToSchema + 'static;
    type Reply: Serialize + DeserializeOwned + ToSchema;

    /// The control that counts progress and limits the rate.
    fn control(request: &Self::Request) -> TaskControl;

    /// Fails when the job must not be created.
    fn check(service: &Service, request: &Self::Request) -> Result<()>;

    /// Blocks until it is done.
    fn run(service: &Service, request: &Self::Request, control: &TaskControl) -> Result<Self::Reply>;

    /// The work of a job, for a client.
    fn run_for_client(service: &Service, request: &Self::Request, control: &TaskControl) -> Result<Self::Reply> {
        Self::run(service, request, control)
    }
}

/// The schemas of a request.
#[derive(Default)]
pub struct RequestSchemas {
    pub parameters: Vec<Parameter>,
    pub body: Option<NamedSchema>,
}

impl RequestSchemas {
    /// A request whose parameters are fields of `P`.
    pub fn query<P: IntoParams>() -> Self {
        let mut parameters = P::into_params(|| Some(ParameterIn::Query));
        parameters.iter_mut().for_each(|parameter| parameter.schema = parameter.schema.take().map(without_null));
        Self { parameters, body: None }
    }

    /// A request with the body `B`.
    pub fn body<B: ToSchema>() -> Self {
        Self { parameters: Vec::new(), body: Some(NamedSchema::of::<B>()) }
    }
}

/// The schema of a parameter, which is left out where a field of JSON may be `null`.
fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    let is_null = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
    match schema {
        RefOr::T(Schema::OneOf(union)) if union.items.iter().any(is_null) => {
            let only = union.items.iter().find(|item| !is_null(item)).cloned();
            only.unwrap_or(RefOr::T(Schema::OneOf(union)))
        }
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|found| *found != Type::Null);
            }
            if let SchemaType::Array(types) = &object.schema_type
                && let [only] = types.as_slice()
            {
                object.schema_type = SchemaType::Type(only.clone());
            }
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}

/// The schema of a type, and those of the types in it.
pub struct NamedSchema {
    pub name: String,
    pub all: Vec<(String, RefOr<Schema>)>,
}

impl NamedSchema {
    pub fn of<T: ToSchema>() -> Self {
        let name = T::name().into_owned();
        let mut all = vec![(name.clone(), T::schema())];
        T::schemas(&mut all);
        Self { name, all }
    }
}

impl fmt::Debug for RequestSchemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.parameters.iter().map(|parameter| &parameter.name);
        f.debug_struct("RequestSchemas")
            .field("parameters", &names.collect::<Vec<_>>())
            .field("body", &self.body)
            .finish()
    }
}

impl fmt::Debug for NamedSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedSchema").field("name", &self.name).finish_non_exhaustive()
    }
}
