//! `fastk import`: imports files of bars into one series; every row is checked before the first is written.
//!
//! [`crate::ingest::source`] reads and validates the rows. The phases here: [`stdin`] stages standard input; [`mapping`]
//! resolves the source of each column; [`plan`] has the mapping of each file; [`profile`] reads every file for the
//! digits its numbers use; [`check`] validates every row without writing and finds every invalid, inconsistent or
//! repeated one; [`widen`] finds wider columns for them; [`refusal`] says why no row is written; [`deliver`] writes to a [`sink`]; [`report`] prints the
//! findings and the summary.
//!
//! Invariants:
//! - No row is written before every row of every file was read and is valid, or skipped by a flag.
//! - No value is changed without `--rounding nearest`, and then each change is counted.
//! - An import that stores no row removes its registration of the series.
//! - Memory does not grow with the input, except by a few words per row that may repeat another.
//! - Every row of the input is written, or counted and reported with its position as invalid or duplicate.

pub mod args;
pub mod check;
pub mod deliver;
pub mod mapping;
pub mod plan;
pub mod profile;
pub mod refusal;
pub mod repeats;
pub mod report;
pub mod run;
pub mod sink;
pub mod stdin;
pub mod steps;
#[cfg(test)]
mod tests;
pub mod widen;

pub use args::ImportArgs;
pub use run::{ImportOutcome, import, run};
