//! Value types without I/O: keys, schemas, numbers, times and rows.

pub mod buckets;
pub mod calendar;
pub mod cells;
pub mod civil_days;
pub mod column;
pub mod dictionary;
pub mod evolution;
pub mod grid;
pub mod key;
pub mod kind;
pub mod number;
pub mod partition;
pub mod row_key;
pub mod rows;
pub mod rules;
pub mod schema;
pub mod similar;
pub mod spec;
pub mod time;
pub mod wide;
pub mod width;

pub use buckets::{Bucket, BucketAlign, BucketText, BucketWalk, TimeBuckets};
pub use calendar::Calendar;
pub use column::{Cell, CellLayout, CellSlice, ColumnCells, NO_ROW, SharedCells};
pub use dictionary::Dictionary;
pub use evolution::ColumnChange;
pub use grid::Grid;
pub use key::SeriesKey;
pub use kind::KindDef;
pub use number::Rounding;
pub use row_key::KeyColumns;
pub use rows::Rows;
pub use rules::RowRule;
pub use schema::{Column, ColumnType, MergeRule, OrderRule, Partition, SeriesDef};
pub use spec::SeriesSpec;
pub use time::TimeUnit;
