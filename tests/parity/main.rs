//! REST, Flight and the engine agree with one model.

mod interfaces;
mod multi_series;
mod server;
