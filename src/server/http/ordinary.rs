//! Operations with a request and a reply in JSON: one handler for all, which follows their rows in the table.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::Value;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::{RefOr, Required};

use super::content_encoding::ResponseCoding;
use super::etag::{condition, is_known, not_modified};
use super::extract::PathFields;
use super::params::Params;
use super::problem::ProblemResponse;
use super::state::{AppState, RequestState};
use super::{body, idempotency, reply};
use crate::cancel::CancelFlag;
use crate::error::{Error, Result};
use crate::server::blocking::run;
use crate::service::operations::{
    BodyKind, Context, EncodedReply, EntityTag, Header, JobCall, JsonCall, Method, OperationResult, RawRequest, Route,
};
use crate::service::{Job, JobList};

/// Interval between two polls of a job.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A route with what its handler needs of the schemas.
struct Handler {
    route: &'static Route,
    parameters: Vec<Parameter>,
}

/// A request that the handler received.
struct Received {
    path: PathFields,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
}

/// The method of a route, for a router.
pub fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

/// The handler of an operation.
pub fn json(route: &'static Route, call: &'static JsonCall) -> MethodRouter<RequestState> {
    let handler = Arc::new(Handler { route, parameters: (call.schemas)().parameters });
    on(filter(route.method), move |app: AppState, path: PathFields, headers: HeaderMap, uri: Uri, body: Body| {
        let handler = Arc::clone(&handler);
        async move { handler.json(app, call, Received { path, headers, uri, body }).await.map_err(ProblemResponse) }
    })
}

/// The handler that starts the jobs of an operation.
pub fn job(route: &'static Route, call: &'static JobCall) -> MethodRouter<RequestState> {
    let handler = Arc::new(Handler { route, parameters: Vec::new() });
    on(filter(route.method), move |app: AppState, path: PathFields, headers: HeaderMap, uri: Uri, body: Body| {
        let handler = Arc::clone(&handler);
        async move { handler.job(app, call, Received { path, headers, uri, body }).await.map_err(ProblemResponse) }
    })
}

impl Handler {
    async fn json(&self, app: AppState, call: &'static JsonCall, received: Received) -> Result<Response> {
        let Received { path, headers, uri, body } = received;
        let route = self.route;
        let mut fields = self.path_fields(&path)?;
        fields.extend(self.query_fields(&Params::known(&uri, route.query, &[])?)?);
        self.check_idempotency(&headers)?;
        let stop = CancelFlag::default();
        let if_match = if route.headers.contains(&Header::IfMatch) { condition(&headers)?.if_match } else { None };
        let context = Context { if_match, stop: stop.clone() };
        let text = self.body(&app, &headers, body).await?;
        let (service, known) = (Arc::clone(app.service()), headers.clone());
        let work = move || {
            let loaded = text.map(|text| text.load_json(service.limits().json_depth_max)).transpose()?;
            // The share of the budget is held until the request is done.
            let (bytes, _budget) = loaded.map(body::BufferedBody::into_parts).unzip();
            let input = input(route, fields, bytes);
            (call.run)(&service, input, &context, &|tag| is_known(&known, &text_of(tag, &known)))
        };
        let outcome = if route.creates_version {
            app.blocking_without_timeout(move |_| work()).await?
        } else {
            run(false, app.service().limits().request_timeout(), stop, work).await?
        };
        match outcome {
            OperationResult::NotModified(tag) => Ok(not_modified(&text_of(&tag, &headers))),
            OperationResult::Reply(reply) => self.respond(reply, &headers),
        }
    }

    async fn job(&self, app: AppState, call: &'static JobCall, received: Received) -> Result<Response> {
        let Received { headers, uri, body, .. } = received;
        self.check_idempotency(&headers)?;
        let wait = Params::known(&uri, self.route.query, &[])?.flag("wait")?;
        let text = self.body(&app, &headers, body).await?;
        let route = self.route;
        let work = move |service: &crate::service::Service| {
            let loaded = text.map(|text| text.load_json(service.limits().json_depth_max)).transpose()?;
            (call.start)(service, input(route, Vec::new(), loaded.map(|loaded| loaded.bytes)))
        };
        let mut job: Job = app.blocking(work).await?;
        // A client that disconnects meanwhile does not cancel the job.
        while wait && !job.status.is_finished() {
            tokio::time::sleep(POLL_INTERVAL).await;
            job = app.service().poll_job(&job)?;
        }
        let location = HeaderValue::from_str(&format!("/v1/admin/jobs/{}", job.id));
        let mut response = reply::json(if wait { StatusCode::OK } else { StatusCode::ACCEPTED }, &JobList::from(job))?;
        if let Ok(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    /// The fields of the request that its path gives.
    fn path_fields(&self, path: &PathFields) -> Result<Vec<(&'static str, Value)>> {
        let mut fields = Vec::new();
        if let Some((name, value)) = self.route.fixed {
            fields.push((name, value.into()));
        }
        if self.route.names_series() {
            fields.push(("series", path.series()?.as_str().into()));
            return Ok(fields);
        }
        for name in self.route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            fields.extend(path.field(name)?.map(|value| (name, value)));
        }
        Ok(fields)
    }

    /// The fields of the request in its query string, of the types that are documented.
    fn query_fields(&self, params: &Params) -> Result<Vec<(&'static str, Value)>> {
        let mut fields = Vec::new();
        for name in self.route.query {
            let documented = self.parameters.iter().find(|parameter| parameter.name == *name);
            let value = match documented.and_then(type_of) {
                Some(Type::Integer) => params.count(name)?.map(Value::from),
                Some(Type::Boolean) => params.text(name).map(|_| params.flag(name)).transpose()?.map(Value::from),
                _ => params.text(name).map(Value::from),
            };
            let is_required = documented.is_some_and(|parameter| parameter.required == Required::True);
            if value.is_none() && is_required {
                let about = documented.and_then(|parameter| parameter.description.clone()).unwrap_or_default();
                return Err(
                    Error::invalid(format!("parameter {name} is missing")).with_hint(format!("add {name}=…: {about}"))
                );
            }
            fields.extend(value.map(|value| (*name, value)));
        }
        Ok(fields)
    }

    fn check_idempotency(&self, headers: &HeaderMap) -> Result<()> {
        match self.route.method {
            Method::Get => Ok(()),
            _ if self.route.creates_version => idempotency::reject_for_new_version(headers),
            _ => idempotency::reject(headers),
        }
    }

    /// The body, unless the route has none or it is left out.
    async fn body(&self, app: &AppState, headers: &HeaderMap, body: Body) -> Result<Option<body::StagedBody>> {
        match self.route.body {
            BodyKind::None => Ok(None),
            BodyKind::Optional(_) if body::is_empty(headers, &body) => Ok(None),
            _ => body::receive_json(app, headers, body, self.route.long_body).await.map(Some),
        }
    }

    fn respond(&self, reply: EncodedReply, headers: &HeaderMap) -> Result<Response> {
        let EncodedReply { json, status, location, etag } = reply;
        let first = self.route.success.first().map_or(200, |(status, _)| *status);
        let status = StatusCode::from_u16(status.unwrap_or(first)).unwrap_or(StatusCode::OK);
        let mut response = match (self.route.method, &etag) {
            (_, Some(EntityTag::InReply(tag))) => reply::json_tagged(json, tag),
            (Method::Get, _) => reply::encoded_json(headers, json, etag.map(|tag| text_of(&tag, headers)).as_deref())?,
            _ => reply::json_text(status, json),
        };
        *response.status_mut() = status;
        if let Some(location) = location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }
}

/// A request as the operation gets it.
fn input(route: &'static Route, fields: Vec<(&'static str, Value)>, body: Option<Vec<u8>>) -> RawRequest {
    let body_field = match route.body {
        BodyKind::Field(name) => Some(name),
        _ => None,
    };
    // `null` is no body where one may be left out.
    let is_null = |text: &Vec<u8>| matches!(route.body, BodyKind::Optional(_)) && text.trim_ascii() == b"null";
    RawRequest { fields, body: body.filter(|text| !is_null(text)), body_field, body_name: "body".to_owned() }
}

/// The tag in quotes, of the content encoding that the client accepts.
fn text_of(tag: &EntityTag, headers: &HeaderMap) -> String {
    match tag {
        EntityTag::InReply(tag) => tag.clone(),
        EntityTag::OfContent(stem) => format!("\"{stem}{}\"", ResponseCoding::of(headers).suffix()),
    }
}

/// The type of a parameter; `None` for a named one.
fn type_of(parameter: &Parameter) -> Option<Type> {
    let Some(RefOr::T(Schema::Object(schema))) = &parameter.schema else { return None };
    match &schema.schema_type {
        SchemaType::Type(found) => Some(found.clone()),
        SchemaType::Array(types) => types.iter().find(|found| **found != Type::Null).cloned(),
        SchemaType::AnyValue => None,
    }
}
