//! The rules between the fields of a row that its kind states, for columns of every type.

use std::borrow::Cow;

use crate::types::column::CellSlice;
use crate::types::{Column, ColumnCells, ColumnType, RowRule, SeriesDef, cells, time};

use super::row_errors::RowErrors;

/// An integer that orders as a double does, by its bits; zeros are equal.
pub(super) fn double_order(word: i64) -> i64 {
    match word {
        i64::MIN => 0,
        // The magnitude bits of a negative double, inverted, order as its value does.
        word if word < 0 => word ^ i64::MAX,
        word => word,
    }
}

/// A column that a rule names.
struct Field<'a> {
    at: usize,
    column: &'a Column,
    cells: CellSlice<'a>,
}

impl<'a> Field<'a> {
    fn named(def: &'a SeriesDef, columns: &'a [ColumnCells], name: &str) -> Option<Self> {
        let at = def.column(name)?;
        Some(Self { at, column: def.columns.get(at)?, cells: columns.get(at)?.as_slice() })
    }

    /// A key that orders as the cell of a row does; `None` for a null, and for types without an order.
    fn order(&self, row: usize) -> Option<i128> {
        if !self.cells.is_valid(row) {
            return None;
        }
        Some(match self.column.kind {
            ColumnType::Decimal { .. } | ColumnType::Int64 | ColumnType::Timestamp { .. } => {
                cells::at(self.cells.typed::<i64>(), row).into()
            }
            ColumnType::WideDecimal { .. } => cells::at(self.cells.typed::<i128>(), row),
            ColumnType::Float64 => double_order(cells::at(self.cells.typed::<i64>(), row)).into(),
            ColumnType::Float32 => {
                let wider = f64::from(cells::at(self.cells.typed::<f32>(), row));
                double_order(wider.to_bits().cast_signed()).into()
            }
            ColumnType::Int32 => cells::at(self.cells.typed::<i32>(), row).into(),
            ColumnType::Int16 => cells::at(self.cells.typed::<i16>(), row).into(),
            ColumnType::Int8 => cells::at(self.cells.typed::<i8>(), row).into(),
            ColumnType::UInt64 => cells::at(self.cells.typed::<u64>(), row).into(),
            ColumnType::UInt32 => cells::at(self.cells.typed::<u32>(), row).into(),
            ColumnType::UInt16 => cells::at(self.cells.typed::<u16>(), row).into(),
            ColumnType::UInt8 => cells::at(self.cells.typed::<u8>(), row).into(),
            ColumnType::Bool | ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. } => return None,
        })
    }

    /// The cell of a row, for messages.
    fn show(&self, row: usize) -> String {
        let raw = self.order(row).unwrap_or_default();
        match self.column.kind {
            ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => decimal(raw, digits),
            ColumnType::Float64 => f64::from_bits(cells::at(self.cells.typed::<u64>(), row)).to_string(),
            ColumnType::Float32 => cells::at(self.cells.typed::<f32>(), row).to_string(),
            ColumnType::Timestamp { unit } => time::rfc3339(cells::at(self.cells.typed::<i64>(), row), unit),
            _ => raw.to_string(),
        }
    }
}

/// A scaled integer as decimal text.
fn decimal(raw: i128, digits: u8) -> String {
    let digits = usize::from(digits);
    let text = format!("{:0>width$}", raw.unsigned_abs(), width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    let sign = if raw < 0 { "-" } else { "" };
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Adds errors for rows that break a rule of their kind. Rows that already have an error are not checked. `reason`
/// names a broken rule.
pub(super) fn check(
    def: &SeriesDef,
    columns: &[ColumnCells],
    errors: &mut RowErrors,
    reason: impl Fn(&RowRule) -> Cow<'static, str>,
) {
    let known_bad = if errors.is_empty() { Vec::new() } else { errors.rows() };
    let is_known = |row: u64| known_bad.binary_search(&row).is_ok();
    for rule in &def.rules {
        let Some(field) = Field::named(def, columns, rule.field()) else { continue };
        let others: Vec<Field<'_>> = rule.others().iter().filter_map(|name| Field::named(def, columns, name)).collect();
        for (row, number) in (0..field.cells.len()).zip(0_u64..) {
            let Some(own) = field.order(row) else { continue };
            // The other field that the cell is most in conflict with.
            let values = others.iter().filter_map(|other| Some((other.order(row)?, other)));
            let (broken, than) = match rule {
                RowRule::NonNegative { .. } => (own < 0, None),
                RowRule::AtLeast { .. } => {
                    let greatest = values.max_by_key(|(value, _)| *value);
                    (greatest.as_ref().is_some_and(|(value, _)| own < *value), greatest)
                }
                RowRule::AtMost { .. } => {
                    let least = values.min_by_key(|(value, _)| *value);
                    (least.as_ref().is_some_and(|(value, _)| own > *value), least)
                }
            };
            if !broken || is_known(number) {
                continue;
            }
            errors.add(def, number, field.at + 1, &reason(rule), |name| {
                let shown = field.show(row);
                match than {
                    None => format!("{name} {shown} is negative"),
                    Some((_, other)) => {
                        let how = if matches!(rule, RowRule::AtLeast { .. }) { "below" } else { "above" };
                        format!("{name} {shown} is {how} {} {}", other.column.name, other.show(row))
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{KindDef, Rows, SeriesKey, SeriesSpec};

    fn def(rules: &str) -> SeriesDef {
        let kind: KindDef = serde_json::from_str(&format!(
            r#"{{"kind":"q","key":["x"],"fields":[{{"name":"bid","type":"decimal","digits":2,"nullable":true}},
                {{"name":"ask","type":"decimal","digits":2}},{{"name":"size","type":"int32"}},
                {{"name":"lo","type":"float32"}},{{"name":"hi","type":"float32"}}],"rules":{rules}}}"#
        ))
        .unwrap();
        kind.check().unwrap();
        SeriesSpec::of_key(&SeriesKey::new("q", &["x"]).unwrap()).resolve_as(&kind).unwrap()
    }

    fn broken(rules: &str, rows: &Rows) -> Vec<(u64, String, String)> {
        let def = def(rules);
        let mut errors = RowErrors::default();
        check(&def, &rows.columns, &mut errors, |rule| rule.name().into());
        let rows = errors.into_result().err().map(|error| error.rows().to_vec()).unwrap_or_default();
        rows.into_iter().map(|error| (error.row, error.reason, error.message)).collect()
    }

    #[test]
    fn rules_of_a_kind_compare_the_fields_of_each_row() {
        let mut bid = ColumnCells::from(vec![100_i64, 250]);
        bid.push_null();
        let rows = Rows::new(
            vec![1, 2, 3],
            vec![
                bid,
                vec![101_i64, 249, 1].into(),
                vec![1_i32, -7, 0].into(),
                vec![-1.5_f32, -0.0, 2.0].into(),
                vec![-2.5_f32, 0.0, 3.0].into(),
            ],
        );
        let rules = r#"[{"rule":"at_least","field":"ask","of":["bid"]},{"rule":"non_negative","field":"size"},
            {"rule":"at_most","field":"lo","of":["hi"]}]"#;
        assert_eq!(
            broken(rules, &rows),
            [
                (0, "at_most".into(), "lo -1.5 is above hi -2.5".to_owned()),
                (1, "at_least".into(), "ask 2.49 is below bid 2.50".to_owned()),
                (1, "non_negative".into(), "size -7 is negative".to_owned()),
            ]
        );
    }

    #[test]
    fn decimals_are_shown_with_their_digits() {
        assert_eq!((decimal(-5, 2), decimal(12_345, 3), decimal(7, 0)), ("-0.05".into(), "12.345".into(), "7".into()));
    }
}
