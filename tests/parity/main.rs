//! The whole program: one model behind all faces.

mod interfaces;
mod multi_series;
mod server;
