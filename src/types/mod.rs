//! Value types without I/O: keys, schemas, numbers, times and rows.

pub mod calendar;
pub mod cells;
pub mod civil_days;
pub mod column;
pub mod dictionary;
pub mod grid;
pub mod key;
pub mod number;
pub mod partition;
pub mod row_key;
pub mod rows;
pub mod schema;
pub mod similar;
pub mod time;
pub mod wide;
pub mod width;

pub use calendar::Calendar;
pub use column::{Cell, CellLayout, CellSlice, ColumnCells, SharedCells};
pub use dictionary::Dictionary;
pub use grid::Grid;
pub use key::{Kind, SeriesKey};
pub use number::Rounding;
pub use row_key::KeyColumns;
pub use rows::Rows;
pub use schema::{Column, ColumnType, MergeRule, OrderRule, Partition, SeriesDef, SeriesSpec};
pub use time::TimeUnit;
