//! DoAction: the operations that are neither a read nor a write, with JSON requests and replies.

use std::sync::{Arc, LazyLock};

use arrow_flight::{Action, ActionType};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::server::flight::describe::json_text;
use crate::server::flight::flight_sql::SQL_ACTIONS;
use crate::server::flight::status::unimplemented;
use crate::service::Service;
use crate::service::operations::{Context, Dispatch, Entry, FlightBinding, OPERATIONS, OperationResult, RawRequest};

/// Name and description of every action with JSON; ListActions returns those of Flight SQL too.
pub static ACTIONS: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let bindings = OPERATIONS.iter().flat_map(|entry| entry.spec.flight.bindings());
    let action = |binding: &FlightBinding| match *binding {
        FlightBinding::Action(name, about) => Some((name, about)),
        FlightBinding::Method(_) => None,
    };
    bindings.filter_map(action).collect()
});

pub(super) fn list() -> Vec<ActionType> {
    let action =
        |(name, description): &(&str, &str)| ActionType { r#type: (*name).into(), description: (*description).into() };
    ACTIONS.iter().chain(&SQL_ACTIONS).map(action).collect()
}

/// The operation of an action.
fn entry(name: &str) -> Option<&'static Entry> {
    let is_action = |binding: &FlightBinding| matches!(binding, FlightBinding::Action(action, _) if *action == name);
    OPERATIONS.iter().find(|entry| entry.spec.flight.bindings().iter().any(is_action))
}

/// Whether an action waits for a job.
pub(super) fn is_job(name: &str) -> bool {
    entry(name).is_some_and(|entry| matches!(entry.call, Dispatch::Job(_)))
}

/// Whether an action has an audit log line.
pub(super) fn is_audited(name: &str) -> bool {
    entry(name).is_some_and(|entry| entry.spec.is_audited())
}

/// Runs an action and returns its reply.
pub(super) fn run(service: &Arc<Service>, action: &Action) -> Result<Bytes> {
    let name = action.r#type.as_str();
    let Some(entry) = entry(name) else {
        // A caller without any permission learns nothing else.
        service.caller().require_scope(crate::service::Scope::Read)?;
        let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
        let excerpt: String = name.chars().take(80).collect();
        return Err(unimplemented(&format!("action {excerpt:?}")).with_hint(format!("actions: {}", names.join(", "))));
    };
    // Checked before the body is parsed, so that a caller without the scope learns nothing else.
    service.caller().require_scope(entry.spec.scope)?;
    let body_name = format!("body of {name}");
    let body = match action.body.as_ref() {
        [] => None,
        text => Some(json_text(&body_name, text, service.limits().json_depth_max)?.to_vec()),
    };
    let input = RawRequest { body, body_name, ..RawRequest::default() };
    match &entry.call {
        Dispatch::Json(call) => match (call.run)(service, input, &Context::default(), &|_| false)? {
            OperationResult::Reply(reply) => Ok(reply.json.into()),
            OperationResult::NotModified(_) => Err(Error::internal("an action has no conditions")),
        },
        // The reply is the result of the job.
        Dispatch::Job(call) => {
            let job = (call.start)(service, input)?;
            let result = service.wait_for_job(&job)?.outcome()?;
            let text = serde_json::to_vec(&result).map_err(|error| Error::internal(format!("reply: {error}")))?;
            Ok(text.into())
        }
        Dispatch::Special => Err(Error::internal(format!("action {name} has no function"))),
    }
}
