//! Foreign rows become validated rows of a series: JSON, NDJSON, CSV, Arrow stream, Parquet.

/// Rows read from a body, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub rows: crate::types::Rows,
    /// Rows left out because a value was missing.
    pub skipped: u64,
    /// Rounded cells, by column.
    pub rounded: Vec<u64>,
}
