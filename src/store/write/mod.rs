//! Changes requested by callers: rows, registrations, deletes, snapshots.

pub mod adopt_texts;
pub mod bulk_load;
pub mod delete;
pub mod idempotency;
pub mod kinds;
pub mod merge_rows;
pub mod prepare;
pub mod request;
pub mod rows;
pub mod series;
pub mod snapshots;
pub mod writes;
