//! Merges a new row with the stored row of its timestamp, column by column, by the merge rules of the registration.

use crate::error::{Error, ErrorCode, Result, RowError};
use crate::types::number::{DECIMAL_LIMIT, WIDE_DECIMAL_LIMIT};
use crate::types::row_key::compare_cells;
use crate::types::schema::{Column, ColumnType, MergeRule, SeriesDef};
use crate::types::{CellSlice, ColumnCells, Rows, cells};

/// Rule of a column: its own, or for the first column the given one.
fn rule_of(column: &Column, position: usize, first: Option<MergeRule>) -> MergeRule {
    first.filter(|_| position == 0).unwrap_or(column.merge)
}

/// Sorts by timestamp; rows of the same timestamp are folded in the order given. Returns how many were folded.
pub fn fold(rows: &mut Rows, def: &SeriesDef, first: Option<MergeRule>) -> Result<usize> {
    if rows.is_ascending() {
        return Ok(0);
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| cells::at(&rows.ts, *row));
    let before = rows.len();
    let mut folded = Rows::like(rows, before);
    for row in order {
        let ts = cells::at(&rows.ts, row);
        let mut new = Rows::like(rows, 1);
        new.ts.push(ts);
        for (to, from) in new.columns.iter_mut().zip(&rows.columns) {
            to.extend(from.as_slice().slice(row, 1));
        }
        if folded.ts.last() == Some(&ts) {
            let last = folded.len() - 1;
            let stored: Vec<CellSlice<'_>> = folded.columns.iter().map(ColumnCells::as_slice).collect();
            combine(&mut new, 0, &stored, last, def, first)?;
            for (to, from) in folded.columns.iter_mut().zip(&new.columns) {
                to.set(last, from.as_slice(), 0);
            }
        } else {
            folded.ts.push(ts);
            for (to, from) in folded.columns.iter_mut().zip(&new.columns) {
                to.extend(from.as_slice());
            }
        }
    }
    *rows = folded;
    Ok(before - rows.len())
}

/// Merges the cells of a stored row into a row of the write. A null leaves the cell of the other row.
pub fn combine(
    rows: &mut Rows,
    row: usize,
    stored: &[CellSlice<'_>],
    stored_row: usize,
    def: &SeriesDef,
    first: Option<MergeRule>,
) -> Result<()> {
    let ts = cells::at(&rows.ts, row);
    for (position, ((cells, old), column)) in rows.columns.iter_mut().zip(stored).zip(&def.columns).enumerate() {
        if !old.is_valid(stored_row) {
            continue;
        }
        let new = cells.as_slice();
        let is_old = !new.is_valid(row) || {
            let order = || compare_cells(column.kind, new, row, *old, stored_row);
            match rule_of(column, position, first) {
                MergeRule::Last => false,
                MergeRule::First => true,
                MergeRule::Max => order().is_lt(),
                MergeRule::Min => order().is_gt(),
                MergeRule::Sum => {
                    let sum = sum(column.kind, new, row, *old, stored_row);
                    let sum = sum.ok_or_else(|| sum_error(def, &column.name, row, ts))?;
                    cells.set(row, sum.as_slice(), 0);
                    continue;
                }
            }
        };
        if is_old {
            cells.set(row, *old, stored_row);
        }
    }
    Ok(())
}

/// The sum of two cells; `None` when it does not fit the column, or for a type without sums.
fn sum(kind: ColumnType, a: CellSlice<'_>, row_a: usize, b: CellSlice<'_>, row_b: usize) -> Option<ColumnCells> {
    macro_rules! checked {
        ($cell:ty) => {{
            let (a, b) = (cells::at(a.typed::<$cell>(), row_a), cells::at(b.typed::<$cell>(), row_b));
            a.checked_add(b)
        }};
    }
    macro_rules! float {
        ($cell:ty) => {{
            let sum = cells::at(a.typed::<$cell>(), row_a) + cells::at(b.typed::<$cell>(), row_b);
            [Some(sum).filter(|sum| sum.is_finite())?].into()
        }};
    }
    Some(match kind {
        ColumnType::Float64 => float!(f64),
        ColumnType::Float32 => float!(f32),
        ColumnType::Decimal { .. } => {
            [checked!(i64).filter(|sum| sum.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs())?].into()
        }
        ColumnType::WideDecimal { .. } => {
            [checked!(i128).filter(|sum| sum.unsigned_abs() < WIDE_DECIMAL_LIMIT.unsigned_abs())?].into()
        }
        ColumnType::Int64 => [checked!(i64)?].into(),
        ColumnType::Int32 => [checked!(i32)?].into(),
        ColumnType::Int16 => [checked!(i16)?].into(),
        ColumnType::Int8 => [checked!(i8)?].into(),
        ColumnType::UInt64 => [checked!(u64)?].into(),
        ColumnType::UInt32 => [checked!(u32)?].into(),
        ColumnType::UInt16 => [checked!(u16)?].into(),
        ColumnType::UInt8 => [checked!(u8)?].into(),
        ColumnType::Bool
        | ColumnType::Timestamp { .. }
        | ColumnType::Enum
        | ColumnType::Text
        | ColumnType::Bytes { .. } => return None,
    })
}

fn sum_error(def: &SeriesDef, name: &str, row: usize, ts: i64) -> Error {
    let message = format!("the sum of {name} at timestamp {ts} does not fit the column");
    Error::new(ErrorCode::InvalidRows, format!("{}: {message}", def.key)).with_rows(vec![RowError {
        series: None,
        row: row as u64,
        field: name.into(),
        reason: "overflow".into(),
        message,
    }])
}
