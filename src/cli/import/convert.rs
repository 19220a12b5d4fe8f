//! Converts one source row into one row of the series, or returns the reason why it is invalid.

use std::cell::OnceCell;
use std::cmp::Ordering;

use crate::types::grid::OFF_GRID;
use crate::types::number::{
    DIGITS_MAX, NumberError, f64_to_decimal, parse_decimal, parse_f64, parse_i64, shortest_digits, write_decimal,
    write_f64, write_i64,
};
use crate::types::time::rfc3339;
use crate::types::{ColumnType, Grid, Kind, Rounding, SeriesDef};

use super::args::{ImportSettings, OffGrid, ValidateFlag};
use super::cell::SourceCell;
use super::forms::flags_for;
use super::plan::SourceRow;

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
    /// Set when the time starts no interval of the timeframe, which the flags allow.
    pub off_grid: bool,
}

/// Converts rows for one registration.
#[derive(Clone, Debug)]
pub struct Converter<'a> {
    def: &'a SeriesDef,
    rounding: Rounding,
    validate: ValidateFlag,
    /// Positions of open, high, low, close and volume.
    bar: Option<[usize; 5]>,
    off_grid: OffGrid,
    /// Earliest stored time, the origin of intervals of several days or weeks.
    first_stored: Option<i64>,
    /// Set by the first row if no row is stored; `None` in it if the timeframe has no fixed length.
    grid: OnceCell<Option<Grid>>,
}

impl<'a> Converter<'a> {
    /// `first_stored` is the earliest stored time of the series.
    pub fn new(def: &'a SeriesDef, settings: &ImportSettings, first_stored: Option<i64>) -> Self {
        let at = |name| def.column(name);
        let bar = (def.kind() == Kind::Kline)
            .then(|| Some([at("open")?, at("high")?, at("low")?, at("close")?, at("volume")?]))
            .flatten();
        Self {
            def,
            rounding: settings.rounding,
            validate: settings.validate,
            bar,
            off_grid: settings.off_grid,
            first_stored,
            grid: OnceCell::new(),
        }
    }

    /// Converts `row` into `out`, which is overwritten.
    pub fn convert(&self, row: &SourceRow<'_>, out: &mut Converted) -> Result<(), Issue> {
        out.cells.clear();
        out.rounded = 0;
        out.odd = None;
        let time = row.time.as_ref().map_err(Clone::clone).and_then(|moment| moment.ticks(self.def.unit));
        out.ts = time.map_err(|bad| {
            let written: Vec<_> = row.time_cells.iter().map(|cell| cell.show()).collect();
            Issue::new("ts", bad.reason, format!("{} {}", quote(&written.join(" ")), bad.message))
        })?;
        for (at, (column, cell)) in self.def.columns.iter().zip(row.cells).enumerate() {
            let (word, rounded) = number(*cell, column.kind, self.rounding).map_err(|reason| Issue {
                digits: (reason == "precision_loss").then(|| digits_needed(*cell)),
                flags: flags_for(cell.show().as_bytes()).filter(|_| reason == "not_a_number"),
                ..Issue::new(&column.name, reason, describe(*cell, reason, column.kind))
            })?;
            out.cells.push(word);
            out.rounded |= u64::from(rounded) << (at & 63);
        }
        out.odd = self.contradiction(&out.cells);
        if let (Some(issue), ValidateFlag::Ohlc) = (&out.odd, self.validate) {
            return Err(issue.clone());
        }
        let grid = self.grid.get_or_init(|| Grid::of(self.def, self.first_stored.or(Some(out.ts))).ok());
        out.off_grid = grid.is_some_and(|grid| !grid.has(out.ts));
        if !out.off_grid || self.off_grid == OffGrid::Allow {
            return Ok(());
        }
        let message = format!("{} starts no interval of {}", rfc3339(out.ts, self.def.unit), self.def.key.timeframe());
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
        let value = |at: usize| Some((*cells.get(at)?, self.def.columns.get(at)?.kind));
        let below = |a: usize, b: usize| compare(value(a), value(b)) == Some(Ordering::Less);
        let issue = |field: &str, reason, message: String| Some(Issue::new(field, reason, message));
        for (at, name) in [(open, "open"), (close, "close"), (low, "low")] {
            if below(high, at) {
                return issue("high", "ohlc", format!("is below {name}"));
            }
        }
        for (at, name) in [(open, "open"), (close, "close")] {
            if below(at, low) {
                return issue("low", "ohlc", format!("is above {name}"));
            }
        }
        let negative = match value(volume)? {
            (word, ColumnType::Float64) => f64::from_bits(word.cast_unsigned()) < 0.0,
            (word, _) => word < 0,
        };
        if negative { issue("volume", "negative_volume", "is below zero".into()) } else { None }
    }
}

fn compare(a: Option<(i64, ColumnType)>, b: Option<(i64, ColumnType)>) -> Option<Ordering> {
    match (a?, b?) {
        ((a, ColumnType::Float64), (b, _)) => {
            f64::from_bits(a.cast_unsigned()).partial_cmp(&f64::from_bits(b.cast_unsigned()))
        }
        ((a, _), (b, _)) => Some(a.cmp(&b)),
    }
}

/// The raw value of a cell and whether digits were lost, or the reason of the error.
fn number(cell: SourceCell<'_>, kind: ColumnType, rounding: Rounding) -> Result<(i64, bool), &'static str> {
    let reason = NumberError::reason;
    match (cell, kind) {
        (SourceCell::Missing, _) => Err("missing"),
        (SourceCell::Wrong(_) | SourceCell::Time { .. } | SourceCell::TimeOfDay { .. }, _) => Err("wrong_type"),
        (SourceCell::Text(text), ColumnType::Decimal { digits }) => {
            parse_decimal(text, digits, rounding).map(|fixed| (fixed.raw, fixed.rounded)).map_err(reason)
        }
        (SourceCell::Text(text), ColumnType::Float64) => {
            parse_f64(text).map(|value| (value.to_bits().cast_signed(), false)).map_err(reason)
        }
        (SourceCell::Text(text), ColumnType::Int64) => match parse_i64(text) {
            Ok(value) => Ok((value, false)),
            Err(NumberError::PrecisionLoss) if rounding == Rounding::Nearest => {
                parse_decimal(text, 0, rounding).map(|fixed| (fixed.raw, fixed.rounded)).map_err(reason)
            }
            Err(error) => Err(error.reason()),
        },
        (SourceCell::Int(value), ColumnType::Int64) => Ok((value, false)),
        (SourceCell::Int(value), _) => {
            number(SourceCell::Text(itoa::Buffer::new().format(value).as_bytes()), kind, rounding)
        }
        (SourceCell::Float(value), ColumnType::Decimal { digits }) => double(value, digits, rounding),
        (SourceCell::Float(value), ColumnType::Int64) => double(value, 0, rounding),
        (SourceCell::Float(value), ColumnType::Float64) if value.is_finite() => {
            Ok((value.to_bits().cast_signed(), false))
        }
        (SourceCell::Float(_), ColumnType::Float64) => Err("not_finite"),
    }
}

/// A double as fixed point: exact when its shortest decimal form has no more digits.
fn double(value: f64, digits: u8, rounding: Rounding) -> Result<(i64, bool), &'static str> {
    match f64_to_decimal(value, digits) {
        Ok(fixed) if fixed.rounded && rounding == Rounding::Exact => Err(NumberError::PrecisionLoss.reason()),
        Ok(fixed) => Ok((fixed.raw, fixed.rounded)),
        Err(error) => Err(error.reason()),
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

/// A raw value of a column as text.
pub fn show_raw(word: i64, kind: ColumnType) -> String {
    let mut out = Vec::new();
    match kind {
        ColumnType::Decimal { digits } => write_decimal(&mut out, word, digits),
        ColumnType::Float64 => write_f64(&mut out, f64::from_bits(word.cast_unsigned())),
        ColumnType::Int64 => write_i64(&mut out, word),
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn describe(cell: SourceCell<'_>, reason: &str, kind: ColumnType) -> String {
    let shown = quote(&cell.show());
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

/// The text in quotes, truncated for a message.
fn quote(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
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
