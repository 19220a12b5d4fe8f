//! The form in which protocols call an operation: without its types, requests and replies as JSON.

use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess};
use serde_json::Value;

use super::operation::{Context, EntityTag, JobOperation, NamedSchema, Operation, RequestSchemas};
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::service::{Job, Service};

/// A row of the table with the functions that run it.
#[derive(Debug)]
pub struct Entry {
    pub spec: Spec,
    pub call: Dispatch,
}

/// How a protocol runs an operation.
#[derive(Debug)]
pub enum Dispatch {
    /// One function from request to reply.
    Json(JsonCall),
    /// A job.
    Job(JobCall),
    /// Code of each interface: streams of rows, text, or work without a store.
    Special,
}

/// Whether the client already has the reply with an entity tag: then it is not computed.
pub type IsKnown<'a> = &'a dyn Fn(&EntityTag) -> bool;

/// The functions of an [`Operation`].
#[derive(Debug)]
pub struct JsonCall {
    pub schemas: fn() -> RequestSchemas,
    pub reply: fn() -> NamedSchema,
    pub run: fn(&Service, RawRequest, &Context, IsKnown<'_>) -> Result<OperationResult>,
}

/// The functions of a [`JobOperation`].
#[derive(Debug)]
pub struct JobCall {
    pub schemas: fn() -> RequestSchemas,
    pub start: fn(&Service, RawRequest) -> Result<Job>,
}

impl Entry {
    /// An operation with a request and a reply in JSON.
    pub const fn json<O: Operation>() -> Self {
        let call = JsonCall { schemas: O::schemas, reply: NamedSchema::of::<O::Reply>, run: run::<O> };
        Self { spec: O::SPEC, call: Dispatch::Json(call) }
    }

    /// An operation that a server runs as a job.
    pub const fn job<O: JobOperation>() -> Self {
        let schemas = RequestSchemas::body::<O::Request>;
        let call = JobCall { schemas, start: start::<O> };
        Self { spec: O::SPEC, call: Dispatch::Job(call) }
    }

    /// An operation that every interface implements itself.
    pub const fn special(spec: Spec) -> Self {
        Self { spec, call: Dispatch::Special }
    }
}

/// A request as a protocol received it.
#[derive(Debug, Default)]
pub struct RawRequest {
    /// Fields of the request: from path and query string.
    pub fields: Vec<(&'static str, Value)>,
    /// The text of the JSON, if there is one.
    pub body: Option<Vec<u8>>,
    /// The field of the request that the text is; `None` for the whole request.
    pub body_field: Option<&'static str>,
    /// Name of the text in errors.
    pub body_name: String,
}

impl RawRequest {
    /// The request.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T> {
        let Self { mut fields, body, body_field, body_name } = self;
        let invalid = |error: serde_json::Error| Error::invalid(format!("the {body_name} is invalid: {error}"));
        match (body, body_field) {
            (Some(text), None) => return serde_json::from_slice(&text).map_err(invalid),
            (Some(text), Some(field)) => fields.push((field, serde_json::from_slice(&text).map_err(invalid)?)),
            (None, _) => {}
        }
        let is_empty = fields.is_empty();
        let access = Fields { left: fields.into_iter(), value: None, body_field, body_name: &body_name };
        T::deserialize(MapAccessDeserializer::new(access)).map_err(|error| match is_empty {
            true => Error::invalid(format!("the {body_name} is invalid: {error}")),
            false => Error::invalid(error.to_string()),
        })
    }
}

/// The fields of a request, whose errors name the field.
struct Fields<'a> {
    left: std::vec::IntoIter<(&'static str, Value)>,
    value: Option<(&'static str, Value)>,
    body_field: Option<&'static str>,
    body_name: &'a str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, Self::Error> {
        self.value = self.left.next();
        let Some((name, _)) = &self.value else { return Ok(None) };
        seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> std::result::Result<V::Value, Self::Error> {
        let (name, value) = self.value.take().unwrap_or_default();
        seed.deserialize(value).map_err(|error| {
            let what = if self.body_field == Some(name) {
                format!("the {} is invalid", self.body_name)
            } else {
                format!("parameter {name}")
            };
            Self::Error::custom(format!("{what}: {error}"))
        })
    }
}

/// The end of a request.
#[derive(Debug)]
pub enum OperationResult {
    /// The client has the reply with this tag.
    NotModified(EntityTag),
    Reply(EncodedReply),
}

/// A reply, and what REST puts into the head of its response.
#[derive(Debug)]
pub struct EncodedReply {
    pub json: Vec<u8>,
    pub status: Option<u16>,
    pub location: Option<String>,
    pub etag: Option<EntityTag>,
}

fn run<O: Operation>(
    service: &Service,
    input: RawRequest,
    context: &Context,
    is_known: IsKnown<'_>,
) -> Result<OperationResult> {
    let request = input.parse::<O::Request>()?;
    let etag = O::etag(service, &request)?;
    if let Some(tag) = &etag
        && is_known(tag)
    {
        return Ok(OperationResult::NotModified(tag.clone()));
    }
    let reply = O::run(service, request, context)?;
    let (status, location) = (O::status(&reply), O::location(&reply));
    Ok(OperationResult::Reply(EncodedReply { json: encode(&reply)?, status, location, etag }))
}

fn start<O: JobOperation>(service: &Service, input: RawRequest) -> Result<Job> {
    let request = input.parse::<O::Request>()?;
    service.caller().require_scope(O::SPEC.scope)?;
    O::check(service, &request)?;
    let control = O::control(&request);
    service.start_job(O::VERB, O::UNIT, control, move |service, control| O::run_for_client(service, &request, control))
}

/// A reply as JSON.
fn encode(reply: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(reply).map_err(|error| Error::internal(format!("reply as JSON: {error}")))
}
