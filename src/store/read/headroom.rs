//! Whether the stored values of a series fit columns with more digits.
//!
//! Every value in a file or in the tail counts, also one that a newer row or a delete hides: it is converted with those
//! around it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::store::read::chunk::MapCache;
use crate::store::read::series_state::SeriesState;
use crate::types::number::{DECIMAL_LIMIT, DIGITS_MAX, WIDE_DECIMAL_LIMIT};
use crate::types::schema::WIDE_DIGITS_MAX;
use crate::types::{CellSlice, ColumnType, SeriesDef, cells, wide};

/// Whether a column of `to` has more digits after the point than in `from`, so that its largest values may not fit.
pub fn has_more_digits(from: &SeriesDef, to: &SeriesDef) -> bool {
    from.columns.iter().zip(&to.columns).any(|(from, to)| largest(from.kind, to.kind).is_some())
}

/// Checks that every stored value fits the columns of `to`, which came from those of the series.
///
/// # Errors
/// `invalid_argument` naming the column, its largest value and the digits that are possible; those of reading.
pub fn check_digits(series: &SeriesState, cache: &Arc<MapCache>, to: &SeriesDef) -> Result<()> {
    for (at, (from, to)) in series.def.columns.iter().zip(&to.columns).enumerate() {
        let Some(limit) = largest(from.kind, to.kind) else { continue };
        let stored = largest_stored(series, cache, at, limit)?;
        if stored <= limit {
            continue;
        }
        let digits = from.kind.digits().unwrap_or_default();
        let shown = show(stored, digits);
        let possible = (digits..=WIDE_DIGITS_MAX).take_while(|digits| fits(stored, from.kind, *digits, to.kind)).last();
        let possible = possible.unwrap_or(digits);
        let hint = match to.kind {
            ColumnType::Decimal { .. } => {
                format!("it can have up to {possible} digits, or more with \"wide\": true")
            }
            _ => format!("it can have up to {possible} digits"),
        };
        return Err(Error::invalid(format!(
            "column {}: a stored value of magnitude {shown} does not fit {}",
            from.name,
            to.kind.text()
        ))
        .with_hint(hint));
    }
    Ok(())
}

/// Digits of a type and the limit of its scaled integers; `None` for types without digits.
fn decimal(kind: ColumnType) -> Option<(u8, i128)> {
    match kind {
        ColumnType::Decimal { digits } => Some((digits, DECIMAL_LIMIT.into())),
        ColumnType::WideDecimal { digits } => Some((digits, WIDE_DECIMAL_LIMIT)),
        _ => None,
    }
}

/// The largest scaled integer of `from` that fits `to`; `None` when all do.
fn largest(from: ColumnType, to: ColumnType) -> Option<i128> {
    let ((digits, own), (more, limit)) = (decimal(from)?, decimal(to)?);
    let factor = 10_i128.checked_pow(more.checked_sub(digits)?.into())?;
    Some((limit - 1) / factor).filter(|largest| *largest < own - 1)
}

/// Whether a scaled integer of `from` fits a decimal of the width of `to` with this number of digits.
fn fits(raw: i128, from: ColumnType, digits: u8, to: ColumnType) -> bool {
    let (to, digits_max) = match to {
        ColumnType::Decimal { .. } => (ColumnType::Decimal { digits }, DIGITS_MAX),
        _ => (ColumnType::WideDecimal { digits }, WIDE_DIGITS_MAX),
    };
    digits <= digits_max && largest(from, to).is_none_or(|largest| raw <= largest)
}

/// The largest magnitude in a column, under the present registration. Where zone maps say that no value of a chunk is
/// beyond the limit, its blocks are not read.
fn largest_stored(series: &SeriesState, cache: &Arc<MapCache>, column: usize, limit: i128) -> Result<i128> {
    let kind = cells::column(&series.def.columns, column).kind;
    let mut found = 0;
    for run in series.tail() {
        found = largest_in(run.block(&series.def)?.column(column + 1), kind).max(found);
    }
    for chunk in series.chunks.iter() {
        let open = chunk.open(cache)?;
        let stored = open.meta.series.columns.get(column).map(|stored| stored.kind);
        if stored == Some(kind)
            && let ColumnType::Decimal { .. } = kind
            && let Some(summary) = open.zones(cache).and_then(|zones| zones.whole.get(column + 1))
        {
            let (low, high) = summary.keys;
            // Of nulls alone, the lowest key is above the highest.
            if low > high || i128::from(low) >= -limit && i128::from(high) <= limit {
                continue;
            }
        }
        for position in 0..open.blocks().len() {
            found = largest_in(open.block(position, &series.def)?.column(column + 1), kind).max(found);
        }
    }
    Ok(found)
}

/// The largest magnitude of the cells of a column of decimals.
fn largest_in(cells: CellSlice<'_>, kind: ColumnType) -> i128 {
    match kind {
        ColumnType::Decimal { .. } => {
            let largest = cells.typed::<i64>().iter().map(|raw| raw.unsigned_abs()).max();
            largest.unwrap_or_default().into()
        }
        ColumnType::WideDecimal { .. } => {
            cells.typed::<i128>().iter().map(|raw| raw.saturating_abs()).max().unwrap_or_default()
        }
        _ => 0,
    }
}

/// A scaled integer as decimal text.
fn show(raw: i128, digits: u8) -> String {
    let mut text = Vec::new();
    wide::write_wide(&mut text, raw, digits);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_that_fits_more_digits_is_known() {
        let decimal = |digits| ColumnType::Decimal { digits };
        let wide = |digits| ColumnType::WideDecimal { digits };
        assert_eq!(largest(decimal(2), decimal(2)), None);
        assert_eq!(largest(decimal(2), decimal(4)), Some(9_999_999_999_999_999));
        assert_eq!(largest(decimal(0), decimal(18)), Some(0));
        assert_eq!(largest(decimal(2), wide(22)), None);
        assert_eq!(largest(decimal(2), wide(23)), Some(99_999_999_999_999_999));
        assert_eq!(largest(wide(2), wide(3)), Some(10_i128.pow(37) - 1));
        assert_eq!(largest(ColumnType::Int8, ColumnType::Int16), None);
        assert!(fits(999, decimal(0), 15, decimal(0)) && !fits(1_000, decimal(0), 15, decimal(0)));
        assert!(!fits(0, decimal(0), 19, decimal(0)));
        assert_eq!((show(5, 2), show(1_234, 0)), ("0.05".to_owned(), "1234".to_owned()));
    }
}
