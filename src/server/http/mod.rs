//! REST over HTTP: protocol translation between requests and the operations of [`Service`].
//!
//! The only module that depends on axum. Every operation runs on a blocking thread; no handler touches a file or a map.

mod authorisation;
mod body;
mod console;
mod content_encoding;
pub mod cors;
mod etag;
mod examples;
mod extract;
mod head_refusal;
mod idempotency;
mod listen;
mod middleware;
mod monitoring;
mod not_ready;
mod openapi;
mod openapi_parts;
mod ordinary;
mod origin_check;
mod params;
mod part_bodies;
mod parts;
mod problem;
mod problem_docs;
mod read;
mod reply;
mod router;
mod routes;
mod schemas;
mod settings;
mod special_docs;
mod sql;
mod state;
mod udf;
mod write;

pub use listen::{serve, serve_health};
pub use not_ready::serve_opening;
pub use openapi::openapi_json;
pub use problem::{PROBLEM, Problem};
pub use router::router;
pub use settings::HttpSettings;
