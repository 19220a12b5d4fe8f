//! Backups and restores.

pub mod as_of;
pub mod create;
pub mod listing;
pub mod restore;
pub mod target;
pub mod view;
