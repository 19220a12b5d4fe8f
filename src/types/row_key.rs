//! The key of a row: its timestamp, and the columns that tell rows of one timestamp apart.

use std::cmp::Ordering;

use super::cells;
use super::column::CellSlice;
use super::schema::{ColumnType, SeriesDef};

/// The columns of a key after `ts`. Empty where there is one row per timestamp, and for rows in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyColumns(Vec<(usize, ColumnType)>);

impl KeyColumns {
    /// The columns of a registration; `ts` is column 0.
    pub fn of(def: &SeriesDef) -> Self {
        let kind = |column: usize| column.checked_sub(1).and_then(|at| def.columns.get(at)).map(|column| column.kind);
        Self(def.unique_columns().into_iter().filter_map(|column| Some((column, kind(column)?))).collect())
    }

    /// Whether the timestamp is the whole key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Order of two rows of one timestamp. Columns are given with `ts` first.
    pub fn compare(&self, a: &[CellSlice<'_>], row_a: usize, b: &[CellSlice<'_>], row_b: usize) -> Ordering {
        let compare = |(column, kind): &(usize, ColumnType)| {
            compare_cells(*kind, *cells::column(a, *column), row_a, *cells::column(b, *column), row_b)
        };
        self.0.iter().map(compare).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

/// Order of two cells of one type. Enums and texts are in the order of their positions.
pub fn compare_cells(kind: ColumnType, a: CellSlice<'_>, row_a: usize, b: CellSlice<'_>, row_b: usize) -> Ordering {
    macro_rules! typed {
        ($cell:ty) => {
            cells::at(a.typed::<$cell>(), row_a).cmp(&cells::at(b.typed::<$cell>(), row_b))
        };
    }
    match kind {
        ColumnType::Decimal { .. } | ColumnType::Int64 | ColumnType::Timestamp { .. } => typed!(i64),
        ColumnType::WideDecimal { .. } => typed!(i128),
        ColumnType::Int32 => typed!(i32),
        ColumnType::Int16 => typed!(i16),
        ColumnType::Int8 => typed!(i8),
        ColumnType::UInt64 => typed!(u64),
        ColumnType::UInt32 | ColumnType::Text => typed!(u32),
        ColumnType::UInt16 => typed!(u16),
        ColumnType::UInt8 | ColumnType::Enum => typed!(u8),
        ColumnType::Float64 => cells::at(a.typed::<f64>(), row_a).total_cmp(&cells::at(b.typed::<f64>(), row_b)),
        ColumnType::Float32 => cells::at(a.typed::<f32>(), row_a).total_cmp(&cells::at(b.typed::<f32>(), row_b)),
        ColumnType::Bool => a.flag(row_a).cmp(&b.flag(row_b)),
        ColumnType::Bytes { .. } => a.slice(row_a, 1).plain().cmp(&b.slice(row_b, 1).plain()),
    }
}
