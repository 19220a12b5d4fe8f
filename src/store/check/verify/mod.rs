//! Verification: every file of a store is read and compared with what names it.

pub mod chunks;
pub mod files;
pub mod finding;
pub mod log;
pub mod manifest;
pub mod read_file;
pub mod registry;
pub mod run;
pub mod tails;

pub use files::{Orphan, OrphanKind, OrphanReport, orphans};
pub use finding::{Finding, FindingKind, Severity, VerifyReport};
pub use registry::DATASET_SNAPSHOT;
pub use run::{VerifyOptions, verify};
