//! The command line: raw flags are turned into validated settings; one file per command.
//!
//! Errors go to standard error as `error[code]: …` and `hint: …`; the exit status comes from the error table.

mod admin;
mod backup;
pub mod bridge;
mod certificates;
mod command;
mod coverage;
mod dataset;
mod definition;
mod files;
mod inspect;
mod job;
mod kind;
mod listeners;
mod log;
mod open_store;
mod print;
mod read;
mod register;
pub mod remote;
mod repair;
mod request;
mod rows;
mod series_filter;
mod snapshot;
mod sql;
mod stats;
pub mod target;
mod token;
mod transfer;
mod verify;
mod write;

pub mod demo;
pub mod import;
pub mod serve;

pub use command::{commands, main};
