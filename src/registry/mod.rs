//! The registry: records that describe sets of series (datasets, features, factors), stored in `registry.sqlite` next
//! to the rows.
//!
//! Invariants:
//! 1. Rows do not depend on the registry. It can be lost, damaged or newer than the program: the store still opens and
//!    works, and [`Registry::problem`] reports the state of the registry.
//! 2. A record is immutable except for its status, and no version is assigned twice.
//! 3. A record is inserted atomically, in one transaction.
//! 4. A snapshot that is created or dropped for a dataset is listed in the table `pending` before and until the
//!    operation is done, so that it can be finished when the store is opened after a crash ([`Registry::pending`]).
//! 5. A caller limited to some series finds no record that needs others: the SQL queries filter them, not code after
//!    them.

mod database;
pub mod hash;
mod name;
mod open;
mod records;
mod schema;
#[cfg(test)]
mod tests;

pub use database::Registry;
pub use name::{NAME_CHARS_MAX, RecordKind, RecordRef, RecordStatus, VERSION_MAX, check_name, parse_version};
pub use open::FILE;
pub use records::{
    DatasetFields, DatasetMemberRow, DefinitionFields, LINEAGE_MAX, Lineage, LineageLink, LineageMember,
    PendingSnapshot, Record, RecordPage, RecordSelection, RecordSeries, SeriesRole,
};
