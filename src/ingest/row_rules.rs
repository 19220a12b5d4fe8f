//! Rules between the cells of a row: those of its kind, with a fast check of bars, and the valid time range.

use crate::error::Result;
use crate::types::kind::are_bar_rules;
use crate::types::number::NumberError;
use crate::types::{Column, ColumnCells, ColumnType, RowRule, Rows, SeriesDef, time};

use super::cell::{CellError, raw_wide, raw_word, show_cell, show_word};
use super::field_rules::{self, double_order};
use super::options::{DecodeOptions, RowRules};
use super::parsed::{ParsedRows, TimeBounds};
use super::row_errors::RowErrors;
use super::timestamp_rules;

/// Checks rows in stored form: time range, finite and bounded cells, positions of enum values and texts, nulls only where
/// the column is nullable, and the rules of klines unless the options disable them.
///
/// # Errors
/// `invalid_rows`.
pub fn validate(def: &SeriesDef, rows: &Rows, options: &DecodeOptions) -> Result<()> {
    rows.check_columns(&def.columns)?;
    let mut errors = RowErrors::default();
    for (row, ts) in (0_u64..).zip(&rows.ts) {
        if !time::in_range(*ts, def.unit) {
            errors.add_time(def, row, "time_out_of_range", || ts.to_string());
        }
    }
    for (at, (column, cells)) in def.columns.iter().zip(&rows.columns).enumerate() {
        check_column(def, rows, at, column, cells, &mut errors);
    }
    check_rules(def, rows, options, &mut errors);
    errors.into_result()
}

/// Checks the cells of a column in stored form that are not null.
fn check_column(def: &SeriesDef, rows: &Rows, at: usize, column: &Column, cells: &ColumnCells, errors: &mut RowErrors) {
    let slice = cells.as_slice();
    let texts = rows.texts.get(at);
    let number = |is_good: bool, error: NumberError| if is_good { None } else { Some(CellError::Number(error)) };
    let bad = |row: usize| -> Option<CellError> {
        if !slice.is_valid(row) {
            return None;
        }
        match column.kind {
            ColumnType::Decimal { .. } => raw_word(at_row(slice.words(), row)).err().map(CellError::Number),
            ColumnType::WideDecimal { .. } => raw_wide(at_row(slice.typed(), row)).err().map(CellError::Number),
            ColumnType::Float64 => number(double(at_row(slice.words(), row)).is_finite(), NumberError::NotFinite),
            ColumnType::Float32 => number(at_row::<f32>(slice.typed(), row).is_finite(), NumberError::NotFinite),
            ColumnType::Timestamp { unit } => {
                let is_good = time::in_range(at_row(slice.words(), row), unit);
                (!is_good).then_some(CellError::Time("time_out_of_range"))
            }
            ColumnType::Enum => {
                let position = usize::from(at_row::<u8>(slice.typed(), row));
                (position >= column.values.len()).then_some(CellError::UnknownValue)
            }
            ColumnType::Text => {
                let position = at_row::<u32>(slice.typed(), row);
                texts.and_then(|texts| texts.get(position)).is_none().then_some(CellError::UnknownText)
            }
            _ => None,
        }
    };
    for row in 0..cells.len() {
        if let Some(error) = bad(row) {
            errors.add_cell(def, row as u64, at, error, || show_cell(slice, row, column, texts));
        }
    }
}

fn at_row<T: Copy>(cells: &[T], row: usize) -> T {
    crate::types::cells::at(cells, row)
}

/// Adds errors for rows that break a rule for timestamps or between columns. Rows that already have an error are not
/// checked.
pub(super) fn check_rows(
    def: &SeriesDef,
    stored: TimeBounds,
    parsed: &mut ParsedRows,
    options: &DecodeOptions,
    errors: &mut RowErrors,
) {
    timestamp_rules::check(def, stored, parsed, options, errors);
    check_rules(def, &parsed.rows, options, errors);
}

fn double(word: i64) -> f64 {
    f64::from_bits(word.cast_unsigned())
}

/// A comparable key of a word: doubles by value (all finite, zeros equal), integers unchanged.
pub(super) fn ordered(word: i64, kind: ColumnType) -> i64 {
    if kind == ColumnType::Float64 { double_order(word) } else { word }
}

/// Whether all rows follow the rules. No early exit, so that the loop is vectorized.
fn all_valid(
    [open, high, low, close, volume]: [&[i64]; 5],
    price: impl Fn(i64) -> i64,
    amount: impl Fn(i64) -> i64,
) -> bool {
    let rows = open.iter().zip(high).zip(low).zip(close).zip(volume);
    rows.fold(true, |good, ((((open, high), low), close), volume)| {
        let (open, high, low, close) = (price(*open), price(*high), price(*low), price(*close));
        let high_fits = (high >= open) & (high >= close) & (high >= low);
        good & high_fits & (low <= open) & (low <= close) & (amount(*volume) >= 0)
    })
}

/// Adds errors for rows that break the rules of their kind. Rows that already have an error are not checked.
fn check_rules(def: &SeriesDef, rows: &Rows, options: &DecodeOptions, errors: &mut RowErrors) {
    if def.rules.is_empty() || options.validate == RowRules::None {
        return;
    }
    if !are_bar_rules(&def.rules) {
        return field_rules::check(def, &rows.columns, errors, |rule| rule.name().into());
    }
    if has_plain_bars(def, rows) {
        return check_bars(def, rows, errors);
    }
    field_rules::check(def, &rows.columns, errors, |rule| match rule {
        RowRule::NonNegative { field } => format!("negative_{field}").into(),
        _ => "ohlc".into(),
    });
}

/// Whether the first columns are those of a bar, each with 8 bytes per cell and none null.
fn has_plain_bars(def: &SeriesDef, rows: &Rows) -> bool {
    let names = ["open", "high", "low", "close", "volume"];
    let mut columns = def.columns.iter().zip(&rows.columns).zip(names);
    let is_plain = |((column, cells), name): ((&Column, &ColumnCells), &str)| {
        column.name == name
            && matches!(column.kind, ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64)
            && !cells.as_slice().has_validity()
    };
    rows.columns.len() >= names.len() && columns.all(is_plain)
}

/// The rules of bars, for columns of 8 bytes.
fn check_bars(def: &SeriesDef, rows: &Rows, errors: &mut RowErrors) {
    let ([open_at, high_at, low_at, close_at, volume_at], Some([open, high, low, close, volume])) =
        ([0, 1, 2, 3, 4], rows.columns.first_chunk::<5>())
    else {
        return;
    };
    let Some([price, _, _, _, volume_column]) = def.columns.first_chunk::<5>() else { return };
    let columns @ [open, high, low, close, volume] = [open, high, low, close, volume].map(ColumnCells::words);
    let is_valid = match (price.kind == ColumnType::Float64, volume_column.kind == ColumnType::Float64) {
        (false, false) => all_valid(columns, |word| word, |word| word),
        (false, true) => all_valid(columns, |word| word, double_order),
        (true, false) => all_valid(columns, double_order, |word| word),
        (true, true) => all_valid(columns, double_order, double_order),
    };
    if is_valid {
        return;
    }
    let known_bad = if errors.is_empty() { Vec::new() } else { errors.rows() };
    let prices = open.iter().zip(high).zip(low).zip(close).zip(volume);
    for (row, ((((open, high), low), close), volume)) in (0_u64..).zip(prices) {
        let price_key = |word: &i64| ordered(*word, price.kind);
        let (o, h, l, c, v) =
            (price_key(open), price_key(high), price_key(low), price_key(close), ordered(*volume, volume_column.kind));
        if h >= o.max(c).max(l) && l <= o.min(c) && v >= 0 {
            continue;
        }
        if known_bad.binary_search(&row).is_ok() {
            continue;
        }
        let word = |word: &i64| show_word(*word, price.kind);
        let greatest = [(o, open, open_at), (c, close, close_at), (l, low, low_at)].into_iter().max();
        if let Some((value, other, at)) = greatest
            && h < value
        {
            errors.add(def, row, high_at + 1, "ohlc", |_| {
                format!("high {} is below {} {}", word(high), name(def, at), word(other))
            });
        }
        let least = [(o, open, open_at), (c, close, close_at)].into_iter().min();
        if let Some((value, other, at)) = least
            && l > value
        {
            errors.add(def, row, low_at + 1, "ohlc", |_| {
                format!("low {} is above {} {}", word(low), name(def, at), word(other))
            });
        }
        if v < 0 {
            errors.add(def, row, volume_at + 1, "negative_volume", |_| {
                format!("volume {} is negative", show_word(*volume, volume_column.kind))
            });
        }
    }
}

fn name(def: &SeriesDef, at: usize) -> &str {
    def.columns.get(at).map_or("", |column| column.name.as_str())
}
