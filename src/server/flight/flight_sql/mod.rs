//! Flight SQL, next to the tickets, commands and actions in JSON.
//!
//! A client of Flight SQL sends messages of protobuf where others send JSON. [`messages`] tells them apart, and the
//! methods of the listener hand them over: with the permissions, limits and encoder of all other calls. That is why this
//! is not an implementation of arrow-flight's `FlightSqlService`: its DoGet would go through tonic's encoder, its DoPut
//! would not wait for memory, and its errors would have no code of FastK.
//!
//! The server keeps no state of a client. A handle of a statement has its text, parameters and options, a session is a
//! cookie.

mod actions;
mod calls;
mod catalog;
mod handles;
mod info;
pub(super) mod messages;
mod options;
mod session_messages;

pub use actions::SQL_ACTIONS;
pub(super) use actions::{run_action, sql_action};
pub(super) use calls::{ResultRows, describe, refuse_transaction, rows, schema_of};
pub(super) use handles::{ParameterRow, StatementHandle, one_row};
pub(super) use options::SqlSession;
