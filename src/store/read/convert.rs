//! Columns as they were written, under another version of the registration.
//!
//! A registration gains digits, wider integers, columns that can be null and values of enums, never loses any. Rows that
//! were written before are read under the new one, and rows written since then can be read under the one that a
//! snapshot has, as long as their values fit it: all of them do, since a snapshot sees no later rows.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::types::number;
use crate::types::{CellSlice, Column, ColumnCells, ColumnType, SeriesDef, SharedCells, cells};

/// The columns of rows written under `from`, `ts` first, under `to`.
///
/// # Errors
/// `internal` for a value that does not fit its column, which is a defect.
pub fn converted(columns: &[SharedCells], rows: usize, from: &SeriesDef, to: &SeriesDef) -> Result<Arc<[SharedCells]>> {
    let mut out = Vec::with_capacity(to.columns.len() + 1);
    out.push(cells::column(columns, 0).clone());
    for column in &to.columns {
        out.push(match from.column(&column.name) {
            Some(stored) => {
                let stored_column = cells::column(&from.columns, stored);
                column_as(cells::column(columns, stored + 1), rows, stored_column, column)?
            }
            None if column.nullable => SharedCells::nulls(column.kind.layout(), rows),
            None => {
                return Err(Error::internal(format!("rows of {} have no column {}", to.key, column.name)));
            }
        });
    }
    Ok(out.into())
}

fn column_as(cells: &SharedCells, rows: usize, from: &Column, to: &Column) -> Result<SharedCells> {
    if from.kind == to.kind {
        return Ok(cells.clone());
    }
    let fail = || {
        let (from_type, to_type) = (from.kind.text(), to.kind.text());
        Error::internal(format!("column {}: a cell of {from_type} does not fit {to_type}", to.name))
    };
    let stored = cells.slice(0, rows);
    let mut out = ColumnCells::with_capacity(to.kind.layout(), rows);
    for row in 0..rows {
        if stored.is_valid(row) {
            push_as(&mut out, stored, row, from.kind, to.kind).ok_or_else(fail)?;
        } else {
            out.push_null();
        }
    }
    Ok(out.into())
}

/// Appends one cell under another type; `None` when it does not fit.
fn push_as(out: &mut ColumnCells, cells: CellSlice<'_>, row: usize, from: ColumnType, to: ColumnType) -> Option<()> {
    if let (ColumnType::Float32, ColumnType::Float64) = (from, to) {
        out.push(f64::from(cells::at(cells.typed::<f32>(), row)));
        return Some(());
    }
    if let (ColumnType::Float64, ColumnType::Float32) = (from, to) {
        let value = cells::at(cells.typed::<f64>(), row);
        #[allow(clippy::cast_possible_truncation, reason = "checked to be exact below")]
        let narrow = value as f32;
        out.push(narrow);
        return (f64::from(narrow).to_bits() == value.to_bits()).then_some(());
    }
    let value = rescaled(integer_at(cells, row, from)?, digits(from)?, digits(to)?)?;
    push_integer(out, value, to)
}

fn digits(kind: ColumnType) -> Option<u8> {
    match kind {
        ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => Some(digits),
        ColumnType::Int64
        | ColumnType::Int32
        | ColumnType::Int16
        | ColumnType::Int8
        | ColumnType::UInt64
        | ColumnType::UInt32
        | ColumnType::UInt16
        | ColumnType::UInt8 => Some(0),
        _ => None,
    }
}

fn rescaled(raw: i128, from: u8, to: u8) -> Option<i128> {
    if let Some(more) = to.checked_sub(from) {
        return raw.checked_mul(10_i128.checked_pow(more.into())?);
    }
    let divisor = 10_i128.checked_pow((from - to).into())?;
    (raw % divisor == 0).then(|| raw / divisor)
}

/// The raw integer of a cell of a decimal or integer type.
fn integer_at(cells: CellSlice<'_>, row: usize, kind: ColumnType) -> Option<i128> {
    Some(match kind {
        ColumnType::Decimal { .. } | ColumnType::Int64 => cells::at(cells.typed::<i64>(), row).into(),
        ColumnType::WideDecimal { .. } => cells::at(cells.typed::<i128>(), row),
        ColumnType::Int32 => cells::at(cells.typed::<i32>(), row).into(),
        ColumnType::Int16 => cells::at(cells.typed::<i16>(), row).into(),
        ColumnType::Int8 => cells::at(cells.typed::<i8>(), row).into(),
        ColumnType::UInt64 => cells::at(cells.typed::<u64>(), row).into(),
        ColumnType::UInt32 => cells::at(cells.typed::<u32>(), row).into(),
        ColumnType::UInt16 => cells::at(cells.typed::<u16>(), row).into(),
        ColumnType::UInt8 => cells::at(cells.typed::<u8>(), row).into(),
        _ => return None,
    })
}

fn push_integer(out: &mut ColumnCells, value: i128, kind: ColumnType) -> Option<()> {
    match kind {
        ColumnType::Decimal { .. } => {
            let raw = i64::try_from(value).ok()?;
            out.push(Some(raw).filter(|raw| raw.unsigned_abs() < number::DECIMAL_LIMIT.unsigned_abs())?);
        }
        ColumnType::WideDecimal { .. } => {
            out.push(Some(value).filter(|raw| raw.unsigned_abs() < number::WIDE_DECIMAL_LIMIT.unsigned_abs())?);
        }
        ColumnType::Int64 => out.push(i64::try_from(value).ok()?),
        ColumnType::Int32 => out.push(i32::try_from(value).ok()?),
        ColumnType::Int16 => out.push(i16::try_from(value).ok()?),
        ColumnType::Int8 => out.push(i8::try_from(value).ok()?),
        ColumnType::UInt64 => out.push(u64::try_from(value).ok()?),
        ColumnType::UInt32 => out.push(u32::try_from(value).ok()?),
        ColumnType::UInt16 => out.push(u16::try_from(value).ok()?),
        ColumnType::UInt8 => out.push(u8::try_from(value).ok()?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_type(cells: impl Into<ColumnCells>, from: ColumnType, to: ColumnType) -> Result<ColumnCells> {
        let cells: ColumnCells = cells.into();
        let rows = cells.len();
        let column = |kind| Column { nullable: true, ..Column::new("x", kind) };
        let out = column_as(&cells.into(), rows, &column(from), &column(to))?;
        let mut copy = ColumnCells::new(to.layout());
        copy.extend(out.slice(0, rows));
        Ok(copy)
    }

    #[test]
    fn wider_types_keep_every_value_and_narrower_ones_only_values_that_fit() {
        let decimal = |digits| ColumnType::Decimal { digits };
        let wide = |digits| ColumnType::WideDecimal { digits };
        assert_eq!(as_type([15_i64, -7], decimal(1), decimal(3)).unwrap(), [1_500, -700]);
        assert_eq!(as_type([1_500_i64], decimal(3), decimal(1)).unwrap(), [15]);
        assert!(as_type([1_501_i64], decimal(3), decimal(1)).is_err());
        assert!(as_type([10_i64.pow(17)], decimal(0), decimal(1)).is_err());
        assert_eq!(as_type([10_i64.pow(17)], decimal(0), wide(1)).unwrap(), ColumnCells::from([10_i128.pow(18)]));
        assert_eq!(
            as_type([200_u8, 7], ColumnType::UInt8, ColumnType::Int16).unwrap(),
            ColumnCells::from([200_i16, 7])
        );
        assert_eq!(as_type([-3_i8], ColumnType::Int8, ColumnType::Int64).unwrap(), [-3]);
        assert!(as_type([-3_i64], ColumnType::Int64, ColumnType::UInt64).is_err());
        assert_eq!(as_type([0.5_f32], ColumnType::Float32, ColumnType::Float64).unwrap(), ColumnCells::from([0.5_f64]));
        assert!(as_type([0.1_f64], ColumnType::Float64, ColumnType::Float32).is_err());
    }

    #[test]
    fn nulls_stay_nulls() {
        let mut cells = ColumnCells::new(crate::types::CellLayout::Bytes(2));
        cells.push(7_u16);
        cells.push_null();
        let out = as_type(cells, ColumnType::UInt16, ColumnType::UInt32).unwrap();
        assert_eq!((out.as_slice().typed::<u32>(), out.as_slice().null_count()), (&[7, 0][..], 1));
    }
}
