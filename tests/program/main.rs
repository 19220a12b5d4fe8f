//! The program as its user meets it: the binary is started, its output read, its exit status checked.

mod backups;
mod checks;
mod data;
mod run;
mod server;
mod verbs;
