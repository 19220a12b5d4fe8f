//! Converts one source row into one row of the series, or returns the reason why it is invalid.

use std::cell::OnceCell;

use super::super::cell::{float_word, int_word, number_word};
use super::super::options::{DecimalInput, DecodeOptions, GridRule, RowRules};
use super::super::row_errors::quote;
use super::super::row_rules::ordered;
use super::cell::SourceCell;
use super::mapped::MappedRow;
use super::number_forms::flags_for;
use crate::types::grid::OFF_GRID;
use crate::types::number::{DIGITS_MAX, NumberError, parse_decimal, shortest_digits};
use crate::types::time::rfc3339;
use crate::types::{ColumnType, Grid, Kind, Rounding, SeriesDef};

/// Why a row is refused, or what is inconsistent in an accepted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Column of the series.
    pub field: String,
    /// A stable reason of row errors.
    pub reason: &'static str,
    pub message: String,
    /// Digits that its column would need; only with the reason `precision_loss`.
    pub digits: Option<u8>,
    /// Flags that would accept the number; only with the reason `not_a_number`.
    pub flags: Option<String>,
}

impl Issue {
    pub fn new(field: &str, reason: &'static str, message: String) -> Self {
        Self { field: field.into(), reason, message, digits: None, flags: None }
    }
}

/// A row of the series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    pub ts: i64,
    pub cells: Vec<i64>,
    /// A bit for each column that lost digits.
    pub rounded: u64,
    /// Set when open, high, low, close or volume are inconsistent.
    pub odd: Option<Issue>,
    /// Set when the time is not the start of an interval of the timeframe, which the flags allow.
    pub off_grid: bool,
}

/// Converts rows for one registration.
#[derive(Clone, Debug)]
pub struct Converter<'a> {
    def: &'a SeriesDef,
    options: DecodeOptions,
    /// Positions of open, high, low, close and volume.
    bar: Option<[usize; 5]>,
    /// Earliest stored time, the origin of intervals of several days or weeks.
    first_stored: Option<i64>,
    /// Set by the first row if no row is stored; `None` in it if the timeframe has no fixed length.
    grid: OnceCell<Option<Grid>>,
}

impl<'a> Converter<'a> {
    /// `first_stored` is the earliest stored time of the series.
    pub fn new(def: &'a SeriesDef, options: DecodeOptions, first_stored: Option<i64>) -> Self {
        let at = |name| def.column(name);
        let bar = (def.kind() == Kind::Kline)
            .then(|| Some([at("open")?, at("high")?, at("low")?, at("close")?, at("volume")?]))
            .flatten();
        Self { def, options, bar, first_stored, grid: OnceCell::new() }
    }

    /// Converts `row` into `out`, which is overwritten.
    pub fn convert(&self, row: &MappedRow<'_>, out: &mut Converted) -> Result<(), Issue> {
        out.cells.clear();
        out.rounded = 0;
        out.odd = None;
        let time = row.time.as_ref().map_err(Clone::clone).and_then(|moment| moment.ticks(self.def.unit));
        out.ts = time.map_err(|bad| {
            let written: Vec<_> = row.time_cells.iter().map(|cell| cell.show()).collect();
            Issue::new("ts", bad.reason, format!("{} {}", quote(written.join(" ").as_bytes()), bad.message))
        })?;
        for (at, (column, cell)) in self.def.columns.iter().zip(row.cells).enumerate() {
            let (word, rounded) = number(*cell, column.kind, self.options.rounding).map_err(|reason| Issue {
                digits: (reason == "precision_loss").then(|| digits_needed(*cell)),
                flags: flags_for(cell.show().as_bytes()).filter(|_| reason == "not_a_number"),
                ..Issue::new(&column.name, reason, describe(*cell, reason, column.kind))
            })?;
            out.cells.push(word);
            out.rounded |= u64::from(rounded) << (at & 63);
        }
        out.odd = self.contradiction(&out.cells);
        if let (Some(issue), RowRules::Ohlc) = (&out.odd, self.options.validate) {
            return Err(issue.clone());
        }
        let grid = self.grid.get_or_init(|| Grid::of(self.def, self.first_stored.or(Some(out.ts))).ok());
        out.off_grid = grid.is_some_and(|grid| !grid.has(out.ts));
        if !out.off_grid || self.options.grid == GridRule::Allow {
            return Ok(());
        }
        let message = format!(
            "{} is not the start of an interval of {}",
            rfc3339(out.ts, self.def.unit),
            self.def.key.timeframe()
        );
        Err(Issue::new("ts", OFF_GRID, message))
    }

    /// The series of the rows.
    pub fn def(&self) -> &'a SeriesDef {
        self.def
    }

    /// The grid of the series, once a row was converted.
    pub fn grid(&self) -> Option<Grid> {
        self.grid.get().copied().flatten()
    }

    /// high ≥ max(open, close, low), low ≤ min(open, close, high), volume ≥ 0.
    fn contradiction(&self, cells: &[i64]) -> Option<Issue> {
        let [open, high, low, close, volume] = self.bar?;
        let value = |at: usize| Some(ordered(*cells.get(at)?, self.def.columns.get(at)?.kind));
        let [open_value, high_value, low_value, close_value] = [value(open)?, value(high)?, value(low)?, value(close)?];
        let issue = |field: &str, reason, message: String| Some(Issue::new(field, reason, message));
        for (other, name) in [(open_value, "open"), (close_value, "close"), (low_value, "low")] {
            if high_value < other {
                return issue("high", "ohlc", format!("is below {name}"));
            }
        }
        for (other, name) in [(open_value, "open"), (close_value, "close")] {
            if low_value > other {
                return issue("low", "ohlc", format!("is above {name}"));
            }
        }
        if value(volume)? < 0 { issue("volume", "negative_volume", "is below zero".into()) } else { None }
    }
}

/// The raw value of a cell and whether digits were lost, or the reason of the error.
fn number(cell: SourceCell<'_>, kind: ColumnType, rounding: Rounding) -> Result<(i64, bool), &'static str> {
    let word = match cell {
        SourceCell::Missing => return Err("missing"),
        SourceCell::Wrong(_) | SourceCell::Time { .. } | SourceCell::TimeOfDay { .. } => return Err("wrong_type"),
        SourceCell::Text(text) => number_word(text, kind, DecimalInput::Decimal, rounding),
        SourceCell::Int(value) => int_word(value, kind),
        SourceCell::Float(value) => float_word(value, kind, rounding),
    };
    match word {
        // A double with more digits than its column: without leave to round it is no value of the column.
        Ok((_, true)) if rounding == Rounding::Exact => Err(NumberError::PrecisionLoss.reason()),
        word => word.map_err(NumberError::reason),
    }
}

/// Digits after the point that hold this number exactly; saturates at 255.
fn digits_needed(cell: SourceCell<'_>) -> u8 {
    match cell {
        SourceCell::Float(value) => shortest_digits(value),
        SourceCell::Text(text) => {
            let exact = |digits: &u8| parse_decimal(text, *digits, Rounding::Exact) != Err(NumberError::PrecisionLoss);
            (0..=DIGITS_MAX).find(exact).unwrap_or(u8::MAX)
        }
        _ => 0,
    }
}

fn describe(cell: SourceCell<'_>, reason: &str, kind: ColumnType) -> String {
    let shown = quote(cell.show().as_bytes());
    match (reason, kind) {
        ("missing", _) => "is missing".into(),
        ("wrong_type", _) => format!("{shown} is not a number"),
        ("not_a_number", _) => match flags_for(cell.show().as_bytes()) {
            Some(flags) => format!("{shown} is not a plain number; use {flags}"),
            None => format!("{shown} is not a number"),
        },
        ("not_finite", _) => format!("{shown} is not finite"),
        ("precision_loss", ColumnType::Decimal { digits }) => format!("{shown} has more than {digits} digits"),
        ("precision_loss", _) => format!("{shown} is not an integer"),
        _ => format!("{shown} is beyond the range of the column"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIMAL: ColumnType = ColumnType::Decimal { digits: 2 };

    #[test]
    fn every_kind_of_cell_converts_to_every_kind_of_column() {
        let bits = |value: f64| Ok((value.to_bits().cast_signed(), false));
        for (cell, kind, expected) in [
            (SourceCell::Text(b"1.50"), DECIMAL, Ok((150, false))),
            (SourceCell::Text(b"8e-8"), ColumnType::Decimal { digits: 8 }, Ok((8, false))),
            (SourceCell::Text(b"1.505"), DECIMAL, Ok((150, true))),
            (SourceCell::Text(b"1.515"), DECIMAL, Ok((152, true))),
            (SourceCell::Float(0.1 + 0.2), DECIMAL, Ok((30, true))),
            (SourceCell::Float(1.25), DECIMAL, Ok((125, false))),
            (SourceCell::Int(7), DECIMAL, Ok((700, false))),
            (SourceCell::Text(b"0.1"), ColumnType::Float64, bits(0.1)),
            (SourceCell::Float(0.1), ColumnType::Float64, bits(0.1)),
            (SourceCell::Int(3), ColumnType::Float64, bits(3.0)),
            (SourceCell::Int(i64::MAX), ColumnType::Int64, Ok((i64::MAX, false))),
            (SourceCell::Text(b"7"), ColumnType::Int64, Ok((7, false))),
            (SourceCell::Text(b"7.5"), ColumnType::Int64, Ok((8, true))),
            (SourceCell::Missing, DECIMAL, Err("missing")),
            (SourceCell::Text(b"x"), DECIMAL, Err("not_a_number")),
            (SourceCell::Text(b"nan"), DECIMAL, Err("not_finite")),
            (SourceCell::Float(f64::INFINITY), ColumnType::Float64, Err("not_finite")),
            (SourceCell::Text(b"1e17"), DECIMAL, Err("overflow")),
            (SourceCell::Wrong("a boolean"), DECIMAL, Err("wrong_type")),
        ] {
            assert_eq!(number(cell, kind, Rounding::Nearest), expected, "{cell:?} {kind:?}");
        }
        for (cell, kind, expected) in [
            (SourceCell::Text(b"1.505"), DECIMAL, Err("precision_loss")),
            (SourceCell::Text(b"1.5000"), DECIMAL, Ok((150, false))),
            (SourceCell::Float(0.1 + 0.2), DECIMAL, Err("precision_loss")),
            (SourceCell::Float(0.25), DECIMAL, Ok((25, false))),
            (SourceCell::Text(b"7.5"), ColumnType::Int64, Err("precision_loss")),
            (SourceCell::Float(7.5), ColumnType::Int64, Err("precision_loss")),
            (SourceCell::Float(7.0), ColumnType::Int64, Ok((7, false))),
        ] {
            assert_eq!(number(cell, kind, Rounding::Exact), expected, "exact: {cell:?} {kind:?}");
        }
    }

    #[test]
    fn the_digits_that_a_number_needs_are_counted() {
        for (cell, expected) in [
            (SourceCell::Text(b"1.50500"), 3),
            (SourceCell::Text(b"8e-8"), 8),
            (SourceCell::Float(0.1 + 0.2), 17),
            (SourceCell::Text(b"0.1234567890123456789"), u8::MAX),
        ] {
            assert_eq!(digits_needed(cell), expected, "{cell:?}");
        }
    }
}
