//! Opening a store: recovery from its files.

pub mod covered;
pub mod current_chunks;
pub mod engine;
pub mod recover;
pub mod replay;
pub mod salvage;
