//! The two protocol faces: translation only, strangers to each other.

mod begin;
pub mod flight;
pub mod http;
mod lines;
pub mod metrics;
pub mod settings;
pub mod wire;

/// Target of the lines that tell who deleted or administered what.
pub const AUDIT: &str = "fastk::audit";

#[cfg(test)]
mod zero_copy;
