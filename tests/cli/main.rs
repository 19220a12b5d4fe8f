//! The command line: starts the binary and checks its output and exit status.

mod admin;
mod backups;
mod bridge;
mod commands;
mod data_files;
mod import;
mod program;
mod read_only;
mod repair;
mod server;
mod verify;
