//! FastK: a storage engine and query server for market-data time series.
//!
//! Layers point strictly down: `error` < `types` < `format`, `disk` < `store` < `query`, `ingest` < `egress` <
//! `service`, `config` < `server` < `cli`. `docs/architecture.md` says what each owns.

#![warn(missing_debug_implementations)]
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
pub mod disk;
#[cfg(feature = "server")]
pub mod egress;
pub mod error;
pub mod format;
#[cfg(feature = "server")]
pub mod ingest;
pub mod query;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
pub mod store;
pub mod types;

pub use error::{Error, ErrorCode, Result};
