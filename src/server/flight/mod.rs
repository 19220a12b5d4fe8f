//! Arrow Flight over gRPC: protocol translation; the operations are those of [`Service`].
//!
//! Every stream is complete or ends with an error status. Client data is checked before it reaches Arrow, and async
//! workers never wait for disk or mapped memory.

mod acks;
mod actions;
mod connection;
mod decode;
mod describe;
mod encode;
mod flight_sql;
mod get;
mod listen;
mod put;
mod service;
mod settings;
mod sql;
mod status;

pub use acks::ACKS_QUEUED_MAX;
pub use actions::ACTIONS;
pub use flight_sql::SQL_ACTIONS;
#[cfg(test)]
pub(super) use get::pieces;
pub use listen::{serve, without_listener};
pub use service::{METHODS, UNIMPLEMENTED_METHODS};
pub use settings::FlightSettings;
pub use status::{CODE_KEY, PROBLEM_KEY};
