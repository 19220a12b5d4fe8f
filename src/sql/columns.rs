//! The columns of a table: the union over its series.
//!
//! Numbers of different types get the type that holds all of them: floats win over decimals, decimals over integers, and
//! a decimal has the most digits on either side of the point. A column that some series lacks can be null.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, TimeUnit as ArrowUnit};

use crate::format::chunk::{decimal_scale, stored_type, timestamp_type};
use crate::types::{Column, ColumnType, SeriesDef, TimeUnit};

/// Maximum digits of a `Decimal128`.
const PRECISION_MAX: u8 = 38;

/// What the cells of a column are, of all series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnClass {
    /// Decimals and integers: exact numbers.
    Exact,
    /// `Float64` in all series.
    Double,
    Label,
    /// Conditions on other columns are not evaluated by the scan.
    Other,
}

/// A column of a table after its keys and `ts`.
#[derive(Clone, Debug)]
pub struct TableColumn {
    pub name: String,
    pub data_type: DataType,
    pub class: ColumnClass,
    pub nullable: bool,
}

/// The columns of a table of these series, in the order in which they appear first.
pub fn union<'a>(defs: impl Iterator<Item = &'a SeriesDef>) -> Vec<TableColumn> {
    let mut columns: Vec<Union> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    let (mut series, mut last): (usize, Option<&[Column]>) = (0, None);
    let mut repeated = 0;
    for def in defs {
        series += 1;
        // Thousands of series mostly have the same columns.
        if last == Some(def.columns.as_slice()) {
            repeated += 1;
            continue;
        }
        add_repeated(&mut columns, &positions, last, repeated);
        repeated = 0;
        for column in &def.columns {
            match positions.get(&column.name).and_then(|at| columns.get_mut(*at)) {
                Some(union) => union.add(column),
                None => {
                    positions.insert(column.name.clone(), columns.len());
                    columns.push(Union::of(column));
                }
            }
        }
        last = Some(&def.columns);
    }
    add_repeated(&mut columns, &positions, last, repeated);
    columns.into_iter().map(|union| union.finish(series)).collect()
}

fn add_repeated(columns: &mut [Union], positions: &HashMap<String, usize>, same: Option<&[Column]>, times: usize) {
    for column in same.unwrap_or_default() {
        if let Some(union) = positions.get(&column.name).and_then(|at| columns.get_mut(*at)) {
            union.series += times;
        }
    }
}

/// A column of the series so far.
struct Union {
    name: String,
    class: ColumnClass,
    data_type: DataType,
    nullable: bool,
    /// Series that have it.
    series: usize,
}

impl Union {
    fn of(column: &Column) -> Self {
        let (class, data_type) = (class_of(column.kind), type_of(column.kind));
        Self { name: column.name.clone(), class, data_type, nullable: column.nullable, series: 1 }
    }

    fn add(&mut self, column: &Column) {
        let (class, data_type) = (class_of(column.kind), type_of(column.kind));
        self.series += 1;
        self.nullable |= column.nullable;
        if self.data_type != data_type {
            let common = common_type(&self.data_type, &data_type);
            let is_exact = self.class == ColumnClass::Exact && class == ColumnClass::Exact;
            self.class = if is_exact { ColumnClass::Exact } else { ColumnClass::Other };
            self.data_type = common;
        } else if self.class != class {
            self.class = ColumnClass::Other;
        }
    }

    fn finish(self, series: usize) -> TableColumn {
        let nullable = self.nullable || self.series < series;
        TableColumn { name: self.name, data_type: self.data_type, class: self.class, nullable }
    }
}

fn class_of(kind: ColumnType) -> ColumnClass {
    match kind {
        ColumnType::Decimal { .. }
        | ColumnType::WideDecimal { .. }
        | ColumnType::Int64
        | ColumnType::Int32
        | ColumnType::Int16
        | ColumnType::Int8
        | ColumnType::UInt64
        | ColumnType::UInt32
        | ColumnType::UInt16
        | ColumnType::UInt8 => ColumnClass::Exact,
        ColumnType::Float64 => ColumnClass::Double,
        ColumnType::Enum | ColumnType::Text => ColumnClass::Label,
        ColumnType::Float32 | ColumnType::Bool | ColumnType::Timestamp { .. } | ColumnType::Bytes { .. } => {
            ColumnClass::Other
        }
    }
}

/// The type of a column in SQL: as it is stored, but for decimals of 8 bytes, with which DataFusion does not calculate
/// exactly, and dictionaries, which it groups slowly.
pub fn type_of(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Decimal { digits } => DataType::Decimal128(18, decimal_scale(digits)),
        ColumnType::Enum | ColumnType::Text => DataType::Utf8View,
        other => stored_type(other),
    }
}

/// Digits of an integer type.
fn integer_digits(data_type: &DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        _ => return None,
    })
}

/// The type that holds the cells of both; text where there is no other.
fn common_type(one: &DataType, other: &DataType) -> DataType {
    use DataType::{Decimal128, Float32, Float64, Int64, Timestamp, UInt64, Utf8View};
    let is_float = |data_type: &DataType| matches!(data_type, Float32 | Float64);
    let is_number = |data_type: &DataType| is_float(data_type) || as_decimal(data_type).is_some();
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (one, other) if is_number(one) && is_number(other) && (is_float(one) || is_float(other)) => Float64,
        (one, other) => match (integer_digits(one), integer_digits(other), as_decimal(one), as_decimal(other)) {
            (Some(_), Some(_), _, _) if *one != UInt64 && *other != UInt64 => Int64,
            (_, _, Some((whole, scale)), Some((other_whole, other_scale))) => {
                let scale = scale.max(other_scale);
                let precision = whole.max(other_whole).saturating_add(scale.unsigned_abs()).min(PRECISION_MAX);
                Decimal128(precision, scale)
            }
            _ => match (one, other) {
                (Timestamp(unit, zone), Timestamp(other, _)) => Timestamp(finer(*unit, *other), zone.clone()),
                _ => Utf8View,
            },
        },
    }
}

/// Digits before the point and after it.
fn as_decimal(data_type: &DataType) -> Option<(u8, i8)> {
    match data_type {
        DataType::Decimal128(precision, scale) => Some((precision.saturating_sub(scale.unsigned_abs()), *scale)),
        other => Some((integer_digits(other)?, 0)),
    }
}

fn finer(one: ArrowUnit, other: ArrowUnit) -> ArrowUnit {
    one.max(other)
}

/// The finest unit of the series.
pub fn finest(units: impl Iterator<Item = TimeUnit>) -> TimeUnit {
    units.max_by_key(|unit| unit.per_second()).unwrap_or_default()
}

/// The fields of a table.
pub fn fields(keys: &[String], unit: TimeUnit, columns: &[TableColumn]) -> Vec<Field> {
    let keys = keys.iter().map(|name| Field::new(name, DataType::Utf8View, false));
    let ts = Field::new("ts", timestamp_type(unit), false);
    let columns = columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), column.nullable));
    keys.chain([ts]).chain(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_type_holds_the_cells_of_both() {
        use DataType::*;
        for (one, other, common) in [
            (Decimal128(18, 2), Decimal128(18, 8), Decimal128(24, 8)),
            (Decimal128(18, 2), Float64, Float64),
            (Float32, Float64, Float64),
            (Float32, Int64, Float64),
            (Int8, UInt32, Int64),
            (Int64, UInt64, Decimal128(20, 0)),
            (Int64, Decimal128(18, 2), Decimal128(21, 2)),
            (Decimal128(38, 4), Decimal128(18, 8), Decimal128(38, 8)),
            (Utf8View, Int64, Utf8View),
            (Boolean, Int64, Utf8View),
        ] {
            assert_eq!(common_type(&one, &other), common, "{one} {other}");
            assert_eq!(common_type(&other, &one), common, "{other} {one}");
        }
    }
}
