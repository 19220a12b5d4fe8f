//! The two protocol faces: translation only, strangers to each other.

mod begin;
pub mod flight;
pub mod http;
mod ids;
mod lines;
pub mod metrics;
mod problem;
pub mod settings;
pub mod wire;

pub use crate::access::AUDIT;

#[cfg(test)]
mod zero_copy;
