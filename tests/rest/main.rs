//! REST through a real server on a real socket, over a temporary store.

mod access;
mod attacks;
mod backups;
mod client;
mod commits;
mod coverage;
mod fuzz;
#[path = "../shared/hooked.rs"]
mod hooked;
mod jobs;
mod limits;
mod many;
mod merges;
mod reads;
mod refusals;
mod registry;
mod server;
mod snapshots;
mod writes;
