//! Files of users as rows of raw cells, and the column mapping in front of the validation.
//!
//! [`file`] detects the format of a file; `csv`, `json` and `table` read its rows as borrowed cells; `mapping` says
//! which of them are the columns of a series, and how times and numbers are written; `mapped` reads the rows by that
//! mapping; `convert` validates each and makes it a row of the series.
//!
//! A request body needs no mapping: its columns have the names, units and scales of the series. Both ways share the
//! words of cells and the rules of rows.
//!
//! Memory does not grow with the file: it is read in batches, or row by row.

mod cell;
mod convert;
mod csv;
pub mod file;
mod json;
mod mapped;
mod mapping;
mod number_forms;
mod table;
mod time;

pub use cell::{Preview, SourceCell};
pub use convert::{Converted, ConvertedCell, Converter, Issue, RowCollector};
pub use csv::sniff;
pub use file::{FileFormat, Input, ReadProgress};
pub use mapped::{MappedRow, preview, read};
pub use mapping::{CellSource, FileLayout, FileMapping};
pub use number_forms::{NumberForms, flags_for};
pub use time::{
    EpochUnit, TimeRule, date_in_name, is_plain_number, look_like_times_of_day, looks_like_time, parse_zone,
};
