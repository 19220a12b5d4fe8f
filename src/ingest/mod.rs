//! Request bodies and files of users to validated rows: JSON, NDJSON, CSV, Arrow, Parquet.
//!
//! A body has the columns of its series and is decoded as a whole ([`parse`]); a file is read row by row through a
//! column mapping ([`source`]). Both use the same words of cells, rules of rows and [`DecodeOptions`].
//!
//! Invariants:
//! - A body is accepted or rejected as a whole: any invalid row rejects it, and the error lists the first hundred row
//!   errors by position.
//! - Rows keep the order of the body; the store handles repeated timestamps.
//! - Decimals in text form become fixed point without passing through a double.
//! - [`parse`] does not panic on any body. The decoded size of a body is known, and can be bounded, before any of it is
//!   decoded ([`reserve`]); no body decodes into more than [`DECODED_BYTES_MAX`] of cells.

pub mod arrow_guard;
mod arrow_messages;
mod arrow_rows;
mod arrow_stream;
mod batch_splitter;
mod body_keys;
mod builder;
mod cell;
mod column_set;
mod columns;
mod csv_text;
mod decode;
mod depth;
mod field_rules;
mod format;
mod guarded;
mod header;
mod json;
mod key_columns;
mod memory;
mod multi;
mod options;
mod parquet_file;
mod parquet_guard;
mod parsed;
mod reserve;
mod row_errors;
mod row_reader;
mod row_rules;
pub mod source;
mod string_columns;
#[cfg(test)]
mod tests;
mod timestamp_rules;
#[cfg(test)]
mod typed_tests;

pub use arrow_messages::ArrowDecoder;
pub use arrow_rows::ArrowRows;
pub use cell::{show_cell, show_word};
pub use decode::{from_arrow_into, from_batch, from_batch_into, parse, parse_into};
pub use depth::check_depth;
pub use format::BodyFormat;
pub use key_columns::KeyOfCells;
pub use memory::{CELL_BYTES, DECODED_BYTES_MAX, DecodeMemory, Reservation, row_memory};
pub use multi::{Lookup, from_arrow_many, parse_many};
pub use options::{DecimalInput, DecodeOptions, GridRule, ImplausibleTs, MissingCells, RowRules};
pub use parsed::{Known, ParsedRows, TimeBounds};
pub use reserve::reserve;
pub use row_rules::validate;
