//! `fastk demo`: a server over sample data, and example requests.

pub mod lines;
mod run;
mod sample;

pub use run::{DemoArgs, run};
