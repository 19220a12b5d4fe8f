//! REST through a real server on a real socket, with a temporary store.

mod access;
mod attacks;
mod backups;
mod client;
mod commits;
mod coverage;
mod fuzz;
#[path = "../shared/hooked_disk.rs"]
mod hooked_disk;
mod invalid_input;
mod jobs;
mod kinds;
mod limits;
mod merges;
mod multi_series;
mod reads;
mod registry;
mod server;
mod snapshots;
mod writes;
