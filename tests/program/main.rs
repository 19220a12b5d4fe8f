//! The program as its user meets it: the binary is started, its output read, its exit status checked.

mod admin;
mod backups;
mod bridge;
mod checks;
mod data;
mod import;
mod mend;
mod read_only;
mod run;
mod server;
mod verbs;
