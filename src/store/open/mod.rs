//! Opening a store: recovery from its files.

pub(in crate::store) mod recover;
pub(in crate::store) mod salvage;
