//! The two protocol interfaces, which only translate and do not depend on each other.

mod blocking;
mod connections;
pub mod flight;
pub mod http;
mod ids;
pub mod metrics;
pub mod open_files;
mod problem;
pub mod tls_stream;

pub use crate::access::AUDIT;

#[cfg(test)]
mod zero_copy;
