//! Verification: every file of a store is read and compared with what names it.

pub(in crate::store) mod chunks;
pub(in crate::store) mod files;
pub(in crate::store) mod finding;
pub(in crate::store) mod log;
pub(in crate::store) mod manifest;
pub(in crate::store) mod registry;
pub(in crate::store) mod run;
pub(in crate::store) mod tails;

pub use files::{Orphan, OrphanKind, OrphanReport, orphans};
pub use finding::{Finding, FindingKind, Severity, VerifyReport};
pub use registry::DATASET_SNAPSHOT;
pub use run::{VerifyOptions, verify};
