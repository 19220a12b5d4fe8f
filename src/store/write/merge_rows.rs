//! Merges a new row with the stored row of its timestamp, column by column, by the merge rules of the registration.

use crate::error::{Error, ErrorCode, Result, RowError};
use crate::types::Rows;
use crate::types::cells;
use crate::types::number::DECIMAL_LIMIT;
use crate::types::schema::{ColumnType, MergeRule, SeriesDef};

fn rule_of(def: &SeriesDef, column: usize, first: Option<MergeRule>) -> (MergeRule, ColumnType) {
    let of_column = def.columns.get(column).map_or((MergeRule::Last, ColumnType::Int64), |c| (c.merge, c.kind));
    match (column, first) {
        (0, Some(rule)) => (rule, of_column.1),
        _ => of_column,
    }
}

/// Sorts by timestamp; rows of the same timestamp are folded in the order given. Returns how many were folded.
pub fn fold(rows: &mut Rows, def: &SeriesDef, first: Option<MergeRule>) -> Result<usize> {
    if rows.is_ascending() {
        return Ok(0);
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| rows.ts.get(*row).copied());
    let before = rows.len();
    let mut folded = Rows::like(rows, before);
    for row in order {
        let Some(ts) = rows.ts.get(row).copied() else { continue };
        let cells: Vec<i64> = rows.columns.iter().filter_map(|column| column.words().get(row).copied()).collect();
        if folded.ts.last() == Some(&ts) {
            let at = folded.len() - 1;
            let stored: Vec<i64> = folded.columns.iter().filter_map(|column| column.words().get(at).copied()).collect();
            for (column, cell) in folded.columns.iter_mut().zip(&cells) {
                if let Some(last) = column.words_mut().last_mut() {
                    *last = *cell;
                }
            }
            combine(&mut folded, at, &stored, def, first)?;
        } else {
            folded.push(ts, &cells);
        }
    }
    *rows = folded;
    Ok(before - rows.len())
}

/// Merges the stored cells into a row of the write.
pub fn combine(rows: &mut Rows, row: usize, stored: &[i64], def: &SeriesDef, first: Option<MergeRule>) -> Result<()> {
    let ts = cells::at(&rows.ts, row);
    for (position, (column, old)) in rows.columns.iter_mut().zip(stored).enumerate() {
        let (rule, kind) = rule_of(def, position, first);
        let Some(cell) = column.words_mut().get_mut(row) else { continue };
        *cell = match (rule, kind) {
            (MergeRule::Last, _) => *cell,
            (MergeRule::First, _) => *old,
            (MergeRule::Max, ColumnType::Float64) => double(f64::max(as_double(*old), as_double(*cell))),
            (MergeRule::Min, ColumnType::Float64) => double(f64::min(as_double(*old), as_double(*cell))),
            (MergeRule::Max, _) => (*cell).max(*old),
            (MergeRule::Min, _) => (*cell).min(*old),
            (MergeRule::Sum, kind) => sum(*old, *cell, kind).ok_or_else(|| sum_error(def, position, row, ts))?,
        };
    }
    Ok(())
}

fn as_double(word: i64) -> f64 {
    f64::from_bits(word.cast_unsigned())
}

fn double(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

fn sum(old: i64, new: i64, kind: ColumnType) -> Option<i64> {
    match kind {
        ColumnType::Float64 => Some(as_double(old) + as_double(new)).filter(|sum| sum.is_finite()).map(double),
        ColumnType::Int64 => old.checked_add(new),
        ColumnType::Decimal { .. } => {
            old.checked_add(new).filter(|sum| sum.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs())
        }
        _ => None,
    }
}

fn sum_error(def: &SeriesDef, column: usize, row: usize, ts: i64) -> Error {
    let name = def.columns.get(column).map_or("", |column| column.name.as_str());
    let message = format!("the sum of {name} at timestamp {ts} does not fit the column");
    Error::new(ErrorCode::InvalidRows, format!("{}: {message}", def.key)).with_rows(vec![RowError {
        series: None,
        row: row as u64,
        field: name.into(),
        reason: "overflow".into(),
        message,
    }])
}
