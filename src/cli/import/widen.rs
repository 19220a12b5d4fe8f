//! The wider columns that the files need in a registered series: `--widen`.
//!
//! Digits and decimals of 16 bytes for numbers that lose digits or do not fit, wider integers for those out of range,
//! further values of an enum. A wider column of no use is never asked for: the rows are checked again, and nothing changes
//! unless all are accepted.

use std::collections::BTreeSet;

use crate::types::number::DIGITS_MAX;
use crate::types::schema::{ENUM_VALUES_MAX, WIDE_DIGITS_MAX, is_enum_value};
use crate::types::{ColumnChange, ColumnType, SeriesDef};

use super::check::InputSummary;
use super::mapping::{NumberRole, TargetColumn};
use super::profile::FileProfile;

/// Integer types with the digits that every number of so many digits fits.
const SIGNED: [(ColumnType, u8); 4] =
    [(ColumnType::Int8, 2), (ColumnType::Int16, 4), (ColumnType::Int32, 9), (ColumnType::Int64, u8::MAX)];
const UNSIGNED: [(ColumnType, u8); 4] =
    [(ColumnType::UInt8, 2), (ColumnType::UInt16, 4), (ColumnType::UInt32, 9), (ColumnType::UInt64, u8::MAX)];

/// Names of the columns with cells that a wider column could hold.
pub fn narrow_columns(checked: &InputSummary, def: &SeriesDef) -> BTreeSet<String> {
    let can_widen = |name: &&String| {
        let kind = def.column(name).and_then(|at| def.columns.get(at)).map(|column| column.kind);
        kind.is_some_and(|kind| match kind {
            ColumnType::Decimal { .. } => true,
            ColumnType::WideDecimal { .. } => checked.digits_needed.contains_key(*name),
            ColumnType::Int64 | ColumnType::UInt64 => false,
            kind => SIGNED.iter().chain(&UNSIGNED).any(|(integer, _)| *integer == kind),
        })
    };
    let numbers = checked.digits_needed.keys().chain(&checked.overflows).filter(can_widen).cloned();
    numbers.chain(further_values(checked, def).map(|change| change.name)).collect()
}

/// The enums with the values that the files have more, where they can have them.
fn further_values<'a>(checked: &'a InputSummary, def: &'a SeriesDef) -> impl Iterator<Item = ColumnChange> + 'a {
    checked.unknown_values.iter().filter_map(|(name, found)| {
        let column = def.columns.get(def.column(name)?)?;
        let values: Vec<String> = column.values.iter().chain(found).cloned().collect();
        let can_have = values.len() <= ENUM_VALUES_MAX && found.iter().all(|value| is_enum_value(value));
        can_have.then(|| ColumnChange { name: name.clone(), values: Some(values), ..ColumnChange::default() })
    })
}

/// The changes that make the narrow columns hold the cells of the files, as far as there are any.
pub fn changes(
    def: &SeriesDef,
    checked: &InputSummary,
    narrow: &BTreeSet<String>,
    targets: &[TargetColumn],
    profile: &FileProfile,
) -> Vec<ColumnChange> {
    let used = |name: &str| {
        let at = targets.iter().position(|target| target.name == name);
        at.and_then(|at| profile.digits_used(at)).unwrap_or((0, 0))
    };
    // The four prices of a bar have the same digits.
    let is_price = |name: &str| targets.iter().any(|target| target.name == name && target.role == NumberRole::Price);
    let prices: Vec<&str> = match narrow.iter().any(|name| is_price(name)) {
        true => targets.iter().filter(|target| target.role == NumberRole::Price).map(|t| t.name.as_str()).collect(),
        false => Vec::new(),
    };
    let group = prices.iter().map(|name| used(name)).fold((0, 0), |a: (u8, u8), b| (a.0.max(b.0), a.1.max(b.1)));
    let columns =
        def.columns.iter().filter(|column| narrow.contains(&column.name) || prices.contains(&column.name.as_str()));
    let numbers = columns.filter_map(|column| {
        let (after, before) = if prices.contains(&column.name.as_str()) { group } else { used(&column.name) };
        let wider = wider(column.kind, after, before)?;
        let change = ColumnChange { name: column.name.clone(), ..ColumnChange::default() };
        Some(match wider {
            ColumnType::Decimal { digits } => ColumnChange { digits: Some(digits), ..change },
            ColumnType::WideDecimal { digits } => ColumnChange { digits: Some(digits), wide: Some(true), ..change },
            kind => ColumnChange { kind: Some(kind.name().to_owned()), ..change },
        })
    });
    numbers.chain(further_values(checked, def)).collect()
}

/// The narrowest type wider than `kind` for numbers of so many digits after and before the point.
fn wider(kind: ColumnType, after: u8, before: u8) -> Option<ColumnType> {
    let fits = |digits: u8, most: u8| digits.checked_add(before).is_some_and(|count| count <= most);
    match kind {
        ColumnType::Decimal { digits } => {
            let digits = digits.max(after);
            if fits(digits, DIGITS_MAX) {
                return Some(ColumnType::Decimal { digits });
            }
            fits(digits, WIDE_DIGITS_MAX).then_some(ColumnType::WideDecimal { digits })
        }
        ColumnType::WideDecimal { digits } => {
            let digits = digits.max(after);
            fits(digits, WIDE_DIGITS_MAX).then_some(ColumnType::WideDecimal { digits })
        }
        kind => [SIGNED, UNSIGNED].iter().find_map(|family| {
            let own = family.iter().position(|(integer, _)| *integer == kind)?;
            let mut wider = family.iter().skip(own + 1);
            wider.find(|(_, digits)| before <= *digits).map(|(integer, _)| *integer)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_wider_type_is_chosen() {
        let decimal = |digits| ColumnType::Decimal { digits };
        let wide = |digits| ColumnType::WideDecimal { digits };
        for (kind, after, before, expected) in [
            (decimal(2), 4, 5, Some(decimal(4))),
            (decimal(2), 0, 16, Some(decimal(2))),
            (decimal(2), 0, 17, Some(wide(2))),
            (decimal(8), 12, 10, Some(wide(12))),
            (decimal(2), 30, 9, None),
            (wide(10), 12, 20, Some(wide(12))),
            (ColumnType::Int8, 0, 3, Some(ColumnType::Int16)),
            (ColumnType::Int16, 0, 9, Some(ColumnType::Int32)),
            (ColumnType::Int8, 0, 12, Some(ColumnType::Int64)),
            (ColumnType::UInt32, 0, 20, Some(ColumnType::UInt64)),
            (ColumnType::UInt64, 0, 20, None),
            (ColumnType::Text, 0, 1, None),
        ] {
            assert_eq!(wider(kind, after, before), expected, "{kind:?} {after} {before}");
        }
    }
}
