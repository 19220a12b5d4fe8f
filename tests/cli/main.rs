//! The program as its user meets it: the binary is started, its output read, its exit status checked.

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
