//! Changes that a caller asks for: rows, registrations, deletes, snapshots.

pub(in crate::store) mod bulk_load;
pub(in crate::store) mod rows;
pub(in crate::store) mod snapshots;
