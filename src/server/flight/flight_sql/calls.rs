//! GetFlightInfo, GetSchema and DoGet of a message of Flight SQL.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::{Command, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use prost::Message;

use std::sync::Arc;

use super::catalog::CatalogQuery;
use super::handles::StatementHandle;
use super::messages::shown_type;
use super::options::SqlSession;
use crate::error::{Error, Result};
use crate::server::blocking::on_thread;
use crate::server::flight::describe::schema_bytes;
use crate::server::flight::status::unimplemented;
use crate::service::Service;
use crate::sql::SqlRows;

/// What a message asks for.
enum SqlTarget {
    Statement(Box<StatementHandle>),
    Catalog(CatalogQuery),
}

/// The rows of a message.
#[derive(Debug)]
pub enum ResultRows {
    Statement(Box<SqlRows>),
    Table(RecordBatch),
}

fn target(command: Command, session: SqlSession) -> Result<SqlTarget> {
    Ok(match command {
        Command::CommandStatementQuery(query) => {
            refuse_transaction(query.transaction_id.as_ref())?;
            SqlTarget::Statement(Box::new(StatementHandle::new(query.query, session)))
        }
        Command::CommandPreparedStatementQuery(query) => {
            SqlTarget::Statement(Box::new(StatementHandle::parse(&query.prepared_statement_handle)?))
        }
        Command::TicketStatementQuery(ticket) => {
            SqlTarget::Statement(Box::new(StatementHandle::parse(&ticket.statement_handle)?))
        }
        Command::CommandStatementSubstraitPlan(_) => {
            return Err(unimplemented("Substrait").with_hint("send the statement as SQL"));
        }
        other => match CatalogQuery::of(other) {
            Ok(query) => SqlTarget::Catalog(query),
            Err(other) => {
                let name = shown_type(other.type_url());
                return Err(Error::invalid(format!("{name} cannot be read with this method")));
            }
        },
    })
}

/// Refuses what is part of a transaction, of which there are none.
pub fn refuse_transaction(id: Option<&Bytes>) -> Result<()> {
    match id.is_some_and(|id| !id.is_empty()) {
        true => {
            Err(unimplemented("a transaction")
                .with_hint("each statement reads one commit, each batch is written as one"))
        }
        false => Ok(()),
    }
}

/// The reply of GetFlightInfo: one endpoint on this server.
///
/// # Errors
/// Those of planning the statement.
pub async fn describe(
    service: &Arc<Service>,
    command: Command,
    descriptor: FlightDescriptor,
    session: SqlSession,
) -> Result<FlightInfo> {
    let (schema, ticket, ordered) = match target(command, session)? {
        SqlTarget::Statement(handle) => {
            let info = service.describe_sql(handle.call()?).await?;
            let reads_snapshot = handle.session.as_ref().is_some_and(|session| session.as_of.is_some());
            let commit = (!reads_snapshot).then_some(info.commit);
            let tag = Some(getrandom::u64().map_err(|error| Error::internal(format!("random numbers: {error}")))?);
            let statement_handle = StatementHandle { commit, tag, ..*handle }.to_bytes()?;
            let ticket = TicketStatementQuery { statement_handle }.as_any().encode_to_vec();
            (info.schema, ticket.into(), info.is_ordered)
        }
        SqlTarget::Catalog(query) => {
            service.caller().require_scope(crate::service::Scope::Read)?;
            (query.schema()?, descriptor.cmd.clone(), true)
        }
    };
    Ok(FlightInfo {
        schema: schema_bytes(&schema),
        flight_descriptor: Some(descriptor),
        endpoint: vec![FlightEndpoint { ticket: Some(Ticket { ticket }), ..FlightEndpoint::default() }],
        total_records: -1,
        total_bytes: -1,
        ordered,
        app_metadata: Bytes::new(),
    })
}

/// The schema of the rows of a message.
///
/// # Errors
/// As [`describe`].
pub async fn schema_of(service: &Arc<Service>, command: Command, session: SqlSession) -> Result<SchemaRef> {
    match target(command, session)? {
        SqlTarget::Statement(handle) => Ok(service.describe_sql(handle.call()?).await?.schema),
        SqlTarget::Catalog(query) => {
            service.caller().require_scope(crate::service::Scope::Read)?;
            query.schema()
        }
    }
}

/// The rows of a message.
///
/// # Errors
/// As [`describe`]; those of the statement.
pub async fn rows(service: &Arc<Service>, command: Command, session: SqlSession) -> Result<ResultRows> {
    match target(command, session)? {
        SqlTarget::Statement(handle) => Ok(ResultRows::Statement(Box::new(service.sql_call(handle.call()?).await?))),
        SqlTarget::Catalog(query) => {
            let service = Arc::clone(service);
            on_thread(move || query.rows(&service)).await.map(ResultRows::Table)
        }
    }
}
