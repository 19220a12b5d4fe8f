//! Where imported rows go: an open store, or a running server.

use crate::error::Result;
use crate::service::Mode;
use crate::types::{Rows, SeriesDef, SeriesKey, SeriesSpec};

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Distinct rows stored.
    pub rows: u64,
    /// How many of them replaced a stored row.
    pub replaced: u64,
}

/// A place that takes rows of one series.
pub trait Sink {
    /// For people: a directory or an address.
    fn name(&self) -> String;

    /// The definition of a series, if it is registered.
    fn registered(&mut self, key: &SeriesKey) -> Result<Option<SeriesDef>>;

    /// Registers a series; the same definition again is no error.
    fn register(&mut self, spec: &SeriesSpec) -> Result<SeriesDef>;

    /// Writes rows as one atomic commit and returns when they are durable. Their agreement (high, low, …) was
    /// checked before and is not checked again.
    fn write(&mut self, def: &SeriesDef, rows: Rows, mode: Mode) -> Result<Written>;

    /// Moves what was written into chunk files.
    fn seal(&mut self, key: &SeriesKey) -> Result<()>;
}

/// Opens the target of the flags; none in a dry run that names none.
pub fn open(args: &super::ImportArgs) -> Result<Option<Box<dyn Sink>>> {
    let _ = args;
    Err(crate::Error::internal("not connected yet"))
}
