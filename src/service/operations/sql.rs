//! SQL: run a statement, list and cancel those that run.

use serde::{Deserialize, Serialize};

use super::operation::{Context, Operation};
use super::spec::{BodyKind, FlightBinding, Header, Method, Route, Spec};
use super::store::NoRequest;
use crate::error::ErrorCode::{
    CorruptData, DatasetNotFound, NotAcceptable, NotFound, SnapshotNotFound, UnsupportedFormat,
};
use crate::error::{Error, Result};
use crate::service::{Scope, Service, SqlQueryCancelled, SqlQueryList};

/// Runs a statement. Its rows are a stream, so each interface has code of its own for it.
pub(super) const RUN_SQL: Spec = Spec::new("sql", Scope::Read)
    .rest(&[Route {
        body: BodyKind::Whole,
        headers: &[Header::Accept, Header::AcceptEncoding],
        success: &[(200, "The rows. JSON has names and types of the columns, and says whether rows were left out.")],
        errors: &[NotFound, SnapshotNotFound, DatasetNotFound, NotAcceptable, CorruptData, UnsupportedFormat],
        ..Route::new(Method::Post, "sql")
    }
    .at("/v1/sql", "runSql", "Run a SQL statement")
    .about(
        "One query over tables of series, such as `klines_1m`, at one commit. It only reads. Decimals are exact. \
         `SHOW TABLES` lists the tables, `DESCRIBE klines_1m` their columns.",
    )])
    .flight(&[FlightBinding::Method("DoGet")])
    .cli(&["sql"]);

/// Lists the statements that wait or run.
#[derive(Debug)]
pub struct ListSqlQueries;

impl Operation for ListSqlQueries {
    const SPEC: Spec = Spec::new("list statements", Scope::Read)
        .rest(&[Route { success: &[(200, "The statements")], ..Route::new(Method::Get, "sql") }
            .at("/v1/sql/queries", "listSqlQueries", "List the statements that run")
            .about(
                "Oldest first. A caller sees its own; a token with the scope admin, not limited to some series, sees all.",
            )])
        .flight(&[FlightBinding::Action("list_queries", "lists the SQL statements that wait or run; no body")])
        .cli(&["sql"]);
    type Request = NoRequest;
    type Reply = SqlQueryList;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<SqlQueryList> {
        service.sql_queries()
    }
}

/// A statement to cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlQueryRequest {
    /// Its number in the list.
    pub id: String,
}

/// Cancels a statement.
#[derive(Debug)]
pub struct CancelSqlQuery;

impl Operation for CancelSqlQuery {
    const SPEC: Spec = Spec::new("cancel a statement", Scope::Read)
        .rest(&[Route { success: &[(200, "Cancelled")], errors: &[NotFound], ..Route::new(Method::Delete, "sql") }
            .at("/v1/sql/queries/{id}", "cancelSqlQuery", "Cancel a statement")
            .about("The statement ends with the error deadline_exceeded; its response is aborted.")])
        .flight(&[FlightBinding::Action(
            "cancel_query",
            "cancels a SQL statement; body: {\"id\": number of the statement as text}",
        )])
        .cli(&["sql"]);
    type Request = SqlQueryRequest;
    type Reply = SqlQueryCancelled;

    fn run(service: &Service, request: SqlQueryRequest, _: &Context) -> Result<SqlQueryCancelled> {
        let id = request.id.parse();
        service
            .cancel_sql(id.map_err(|_| Error::invalid(format!("{:?} is not the number of a statement", request.id)))?)
    }
}
