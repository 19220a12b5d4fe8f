//! The actions of Flight SQL: prepared statements, cancellation, sessions.

use std::sync::Arc;

use arrow_flight::sql::{
    ActionCancelQueryResult, ActionCreatePreparedStatementResult, Command, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use prost::Message;

use super::calls::refuse_transaction;
use super::handles::StatementHandle;
use super::messages::{sql_command, unpack};
use super::options::{OptionFault, SqlSession};
use super::session_messages::{
    CloseSessionResult, OptionProblem, OptionValue, SessionOptionList, SessionOptionValue, SetSessionOptionsResult,
};
use crate::error::{Error, Result};
use crate::server::flight::describe::schema_bytes;
use crate::server::flight::status::unimplemented;
use crate::service::{Scope, Service};

/// Maximum number of statements of one FlightInfo that are cancelled.
const ENDPOINTS_MAX: usize = 64;

/// Name and description of every action.
pub const SQL_ACTIONS: [(&str, &str); 7] = [
    ("CreatePreparedStatement", "Flight SQL: checks a statement and returns its handle, result and parameters."),
    ("ClosePreparedStatement", "Flight SQL: does nothing, since handles have all of their statement."),
    ("CancelQuery", "Flight SQL: cancels the statement of a FlightInfo; replaced by CancelFlightInfo."),
    ("CancelFlightInfo", "Cancels the statement of a FlightInfo."),
    (
        "SetSessionOptions",
        "Sets options of statements in a cookie: schema, fastk.as_of, fastk-numbers, fastk-timestamps, fastk-profile.",
    ),
    ("GetSessionOptions", "Returns the options of the session."),
    ("CloseSession", "Removes the options of the session."),
];

/// The only result of a cancelled query.
const CANCELLED: i32 = 1;
/// There was nothing to cancel.
const NOT_CANCELLABLE: i32 = 3;

/// The reply of an action.
#[derive(Debug, Default)]
pub struct SqlReply {
    /// The body, unless the action has none.
    pub body: Option<Bytes>,
    /// A cookie that the client keeps.
    pub cookie: Option<String>,
}

impl SqlReply {
    fn of(message: &impl Message) -> Self {
        Self { body: Some(message.encode_to_vec().into()), cookie: None }
    }
}

/// Whether an action is one of Flight SQL.
pub fn sql_action(name: &str) -> bool {
    SQL_ACTIONS.iter().any(|(known, _)| *known == name) || is_refused(name)
}

fn is_refused(name: &str) -> bool {
    [
        "CreatePreparedSubstraitPlan",
        "BeginTransaction",
        "EndTransaction",
        "BeginSavepoint",
        "EndSavepoint",
        "RenewFlightEndpoint",
    ]
    .contains(&name)
}

/// Runs an action.
///
/// # Errors
/// `unimplemented` for transactions and Substrait; those of planning a statement.
pub async fn run_action(service: &Arc<Service>, action: &Action, session: SqlSession) -> Result<SqlReply> {
    service.caller().require_scope(Scope::Read)?;
    let name = action.r#type.as_str();
    match name {
        "CreatePreparedStatement" => match unpack(name, &action.body)? {
            Command::ActionCreatePreparedStatementRequest(request) => {
                refuse_transaction(request.transaction_id.as_ref())?;
                prepare(service, StatementHandle::new(request.query, session)).await
            }
            other => Err(wrong_body(name, &other)),
        },
        "ClosePreparedStatement" => match unpack(name, &action.body)? {
            Command::ActionClosePreparedStatementRequest(_) => Ok(SqlReply::default()),
            other => Err(wrong_body(name, &other)),
        },
        "CancelQuery" => match unpack(name, &action.body)? {
            Command::ActionCancelQueryRequest(request) => {
                let info = flight_info(name, &request.info)?;
                let result = if cancel(service, &info)? { CANCELLED } else { NOT_CANCELLABLE };
                Ok(SqlReply::of(&ActionCancelQueryResult { result }.as_any()))
            }
            other => Err(wrong_body(name, &other)),
        },
        "CancelFlightInfo" => {
            let request =
                CancelFlightInfoRequest::decode(action.body.clone()).map_err(|error| damaged(name, &error))?;
            let info = request.info.ok_or_else(|| Error::invalid("CancelFlightInfo has no FlightInfo"))?;
            let status = if cancel(service, &info)? { CancelStatus::Cancelled } else { CancelStatus::NotCancellable };
            Ok(SqlReply::of(&CancelFlightInfoResult::new(status)))
        }
        "SetSessionOptions" => {
            let request = SessionOptionList::decode(action.body.clone()).map_err(|error| damaged(name, &error))?;
            set_options(service, request, session)
        }
        "GetSessionOptions" => {
            let text = |value: String| SessionOptionValue { option_value: Some(OptionValue::Text(value)) };
            let values = session.values().into_iter();
            let session_options = values.map(|(name, value)| (name.to_owned(), text(value))).collect();
            Ok(SqlReply::of(&SessionOptionList { session_options }))
        }
        "CloseSession" => {
            let reply = SqlReply::of(&CloseSessionResult { status: 1 });
            Ok(SqlReply { cookie: Some(SqlSession::no_cookie()), ..reply })
        }
        other => Err(unimplemented(&format!("action {other}"))
            .with_hint("there are no transactions: each statement reads one commit, each batch is written as one")),
    }
}

fn damaged(name: &str, error: &prost::DecodeError) -> Error {
    Error::invalid(format!("the body of {name} cannot be decoded: {error}"))
}

fn wrong_body(name: &str, command: &Command) -> Error {
    Error::invalid(format!("the body of {name} is {}", super::messages::shown_type(command.type_url())))
}

async fn prepare(service: &Arc<Service>, handle: StatementHandle) -> Result<SqlReply> {
    let info = service.describe_sql(handle.call()?).await?;
    let reply = ActionCreatePreparedStatementResult {
        prepared_statement_handle: handle.to_bytes()?,
        dataset_schema: schema_bytes(&info.schema),
        parameter_schema: schema_bytes(&info.parameters),
    };
    Ok(SqlReply::of(&reply.as_any()))
}

fn flight_info(name: &str, bytes: &[u8]) -> Result<FlightInfo> {
    FlightInfo::decode(bytes).map_err(|error| damaged(name, &error))
}

/// Cancels the statements of the tickets; false when none of them runs.
fn cancel(service: &Service, info: &FlightInfo) -> Result<bool> {
    let mut any = false;
    for endpoint in info.endpoint.iter().take(ENDPOINTS_MAX) {
        let Some(ticket) = &endpoint.ticket else { continue };
        if let Some(Command::TicketStatementQuery(TicketStatementQuery { statement_handle })) =
            sql_command("ticket", &ticket.ticket)?
            && let Some(tag) = StatementHandle::parse(&statement_handle)?.tag
        {
            any |= service.cancel_sql_tagged(tag)?;
        }
    }
    Ok(any)
}

fn set_options(service: &Service, request: SessionOptionList, mut session: SqlSession) -> Result<SqlReply> {
    let mut errors = std::collections::HashMap::new();
    for (name, value) in request.session_options {
        let value = match value.option_value {
            None => None,
            Some(OptionValue::Text(text)) => Some(text),
            Some(OptionValue::Flag(flag)) => Some(flag.to_string()),
            Some(OptionValue::Integer(number)) => Some(number.to_string()),
            Some(OptionValue::Double(number)) => Some(number.to_string()),
            Some(OptionValue::List(list)) => Some(list.values.join(",")),
        };
        let mut changed = session.clone();
        let fault = match changed.set(&name, value.as_deref()) {
            Err(OptionFault::UnknownName) => Some(1),
            Err(OptionFault::InvalidValue) => Some(2),
            Ok(()) if !changed.schema.as_deref().map_or(Ok(true), |schema| service.has_sql_schema(schema))? => Some(2),
            Ok(()) => None,
        };
        match fault {
            Some(value) => drop(errors.insert(name, OptionProblem { value })),
            None => session = changed,
        }
    }
    let cookie = Some(session.cookie());
    Ok(SqlReply { cookie, ..SqlReply::of(&SetSessionOptionsResult { errors }) })
}
