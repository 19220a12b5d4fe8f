//! The table of operations: what each one is called, takes and returns, who may run it, and how each interface reaches
//! it.
//!
//! The routes and the OpenAPI document of REST, the actions of Flight, the authorisation of both, and the requests that
//! the command line sends to a server are made from the table. `spec` has the columns of a row, `operation` what an
//! operation implements, `entry` the form in which protocols call it; the other files have the rows by subject, and
//! `table` lists them.

mod admin;
mod datasets;
mod definitions;
mod entry;
mod kinds;
mod operation;
mod rows;
mod series;
mod snapshots;
mod spec;
mod sql;
mod store;
mod table;
mod tools;

pub use admin::*;
pub use datasets::*;
pub use definitions::*;
pub use entry::{Dispatch, EncodedReply, Entry, JobCall, JsonCall, OperationResult, RawRequest};
pub use kinds::*;
pub use operation::{Context, EntityTag, JobOperation, NamedSchema, Operation, RequestSchemas};
pub use rows::*;
pub use series::*;
pub use snapshots::*;
pub use spec::{ANY_KEY, Access, BodyKind, FlightBinding, Guard, Header, Method, Route, Spec, documented_path};
pub use sql::{CancelSqlQuery, ListSqlQueries, SqlQueryRequest};
pub use store::*;
pub use table::OPERATIONS;
