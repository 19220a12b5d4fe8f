//! Operations of the registry: datasets, features and factors.
//!
//! - A dataset snapshots the whole store, so creating one requires the permission to create a snapshot, and archiving
//!   one, which drops its snapshot, requires the permission to drop a snapshot.
//! - A caller limited to some series neither sees nor changes a record that includes other series; such records are
//!   reported as not found.

pub(super) mod as_of;
pub(super) mod catalog;
mod datasets;
mod definitions;
mod records;
mod replies;

pub use replies::*;
