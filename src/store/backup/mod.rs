//! Backups and restores.

pub(in crate::store) mod as_of;
pub(in crate::store) mod create;
pub(in crate::store) mod restore;
pub(in crate::store) mod target;
