//! Converts one source row into one row of the series, or returns the reason why it is invalid.

use std::cell::{OnceCell, RefCell};

use super::super::builder::ColumnBuilder;
use super::super::cell::{CellError, ColumnReading, Stored, TextForm, float_cell, int_cell, show_wide, show_word};
use super::super::options::{DecodeOptions, GridRule, RowRules};
use super::super::row_errors::quote;
use super::super::row_rules::ordered;
use super::cell::SourceCell;
use super::mapped::MappedRow;
use super::number_forms::flags_for;
use crate::error::{Error, Result};
use crate::types::grid::OFF_GRID;
use crate::types::kind::are_bar_rules;
use crate::types::number::{NumberError, parse_wide_decimal, shortest_digits};
use crate::types::schema::WIDE_DIGITS_MAX;
use crate::types::time::{convert, in_range, rfc3339};
use crate::types::width::to_usize;
use crate::types::{Column, ColumnType, Dictionary, Grid, Rounding, RowRule, Rows, SeriesDef};

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
    /// The text that its enum does not list; only with the reason `unknown_value`.
    pub value: Option<String>,
}

impl Issue {
    pub fn new(field: &str, reason: &'static str, message: String) -> Self {
        Self { field: field.into(), reason, message, digits: None, flags: None, value: None }
    }
}

/// A cell of a converted row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConvertedCell {
    Null,
    /// A cell of up to 8 bytes, in the low bytes.
    Word(i64),
    Wide(i128),
    Text(String),
    /// The bytes of a cell, or their hexadecimal digits.
    Bytes(Vec<u8>),
    Hex(Vec<u8>),
}

impl ConvertedCell {
    fn of(stored: Stored<'_>) -> Self {
        match stored {
            Stored::Word(word) => Self::Word(word),
            Stored::Wide(wide) => Self::Wide(wide),
            Stored::Text(text) => Self::Text(text.to_owned()),
            Stored::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Stored::Hex(digits) => Self::Hex(digits.to_ascii_lowercase()),
        }
    }

    fn stored(&self) -> Option<Stored<'_>> {
        Some(match self {
            Self::Null => return None,
            Self::Word(word) => Stored::Word(*word),
            Self::Wide(wide) => Stored::Wide(*wide),
            Self::Text(text) => Stored::Text(text),
            Self::Bytes(bytes) => Stored::Bytes(bytes),
            Self::Hex(digits) => Stored::Hex(digits),
        })
    }

    /// The word of a cell of up to 8 bytes.
    fn word(&self) -> Option<i64> {
        match self {
            Self::Word(word) => Some(*word),
            _ => None,
        }
    }

    /// A key that orders as the number or time does; `None` for nulls and other types.
    fn order(&self, kind: ColumnType) -> Option<i128> {
        match (self, kind) {
            (Self::Word(word), ColumnType::Float64) => Some(ordered(*word, kind).into()),
            (Self::Word(word), ColumnType::Float32) => {
                let wider = f64::from(f32::from_bits(u32::try_from(*word).ok()?));
                Some(ordered(wider.to_bits().cast_signed(), ColumnType::Float64).into())
            }
            (Self::Word(word), ColumnType::UInt64) => Some(word.cast_unsigned().into()),
            (Self::Word(word), _) => Some((*word).into()),
            (Self::Wide(wide), _) => Some(*wide),
            _ => None,
        }
    }

    /// A number as text, for messages.
    pub fn show(&self, kind: ColumnType) -> String {
        match (self, kind) {
            (Self::Word(word), ColumnType::Float32) => {
                u32::try_from(*word).map_or_else(|_| word.to_string(), |bits| f32::from_bits(bits).to_string())
            }
            (Self::Word(word), kind) => show_word(*word, kind),
            (Self::Wide(wide), ColumnType::WideDecimal { digits }) => show_wide(*wide, digits),
            (Self::Text(text), _) => text.clone(),
            (other, _) => format!("{other:?}"),
        }
    }
}

/// A row of the series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    pub ts: i64,
    pub cells: Vec<ConvertedCell>,
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
    readings: Vec<ColumnReading<'a>>,
    /// The different texts of each column so far.
    texts: RefCell<Vec<Dictionary>>,
    options: DecodeOptions,
    /// Positions of open, high, low, close and volume, where all of them have words and no nulls.
    bar: Option<[usize; 5]>,
    /// Other rules with the position of their field and of those that it is compared with.
    rules: Vec<(&'a RowRule, usize, Vec<usize>)>,
    /// Earliest stored time, the origin of intervals of several days or weeks.
    first_stored: Option<i64>,
    /// Set by the first row if no row is stored; `None` in it if the timeframe has no fixed length.
    grid: OnceCell<Option<Grid>>,
}

impl<'a> Converter<'a> {
    /// `first_stored` is the earliest stored time of the series.
    pub fn new(def: &'a SeriesDef, options: DecodeOptions, first_stored: Option<i64>) -> Self {
        let at = |name| def.column(name);
        let is_plain = |at: usize| {
            def.columns.get(at).is_some_and(|column| {
                matches!(column.kind, ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64)
                    && !column.nullable
            })
        };
        let bar = are_bar_rules(&def.rules)
            .then(|| Some([at("open")?, at("high")?, at("low")?, at("close")?, at("volume")?]))
            .flatten()
            .filter(|bar| bar.iter().all(|at| is_plain(*at)));
        let named =
            |rule: &'a RowRule| Some((rule, at(rule.field())?, rule.others().iter().filter_map(|of| at(of)).collect()));
        let rules = if bar.is_some() { Vec::new() } else { def.rules.iter().filter_map(named).collect() };
        let readings = def.columns.iter().map(ColumnReading::new).collect();
        let texts = RefCell::new(vec![Dictionary::default(); def.columns.len()]);
        Self { def, readings, texts, options, bar, rules, first_stored, grid: OnceCell::new() }
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
        for (at, (reading, cell)) in self.readings.iter().zip(row.cells).enumerate() {
            let column = reading.column;
            let converted = convert_cell(*cell, reading, self.options.rounding);
            let converted = converted.and_then(|(cell, rounded)| self.admit(at, cell).map(|cell| (cell, rounded)));
            let (converted, rounded) = converted.map_err(|reason| Issue {
                digits: (reason == "precision_loss").then(|| digits_needed(*cell)),
                flags: flags_for(cell.show().as_bytes()).filter(|_| reason == "not_a_number"),
                value: (reason == "unknown_value").then(|| cell.show().into_owned()),
                ..Issue::new(&column.name, reason, describe(*cell, reason, column))
            })?;
            out.cells.push(converted);
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
            self.def.timeframe().unwrap_or("the series")
        );
        Err(Issue::new("ts", OFF_GRID, message))
    }

    /// Counts a text among the different ones of its column.
    fn admit(&self, at: usize, cell: ConvertedCell) -> Result<ConvertedCell, &'static str> {
        if let ConvertedCell::Text(text) = &cell
            && let Some(texts) = self.texts.borrow_mut().get_mut(at)
            && texts.insert(text).is_none()
        {
            return Err(CellError::DictionaryFull.reason());
        }
        Ok(cell)
    }

    /// The series of the rows.
    pub fn def(&self) -> &'a SeriesDef {
        self.def
    }

    /// The grid of the series, once a row was converted.
    pub fn grid(&self) -> Option<Grid> {
        self.grid.get().copied().flatten()
    }

    /// The first rule of the kind that a row breaks.
    fn contradiction(&self, cells: &[ConvertedCell]) -> Option<Issue> {
        let value = |at: usize| cells.get(at)?.order(self.def.columns.get(at)?.kind);
        let name = |at: usize| self.def.columns.get(at).map_or("", |column| &column.name);
        for (rule, at, others) in &self.rules {
            let Some(own) = value(*at) else { continue };
            let broken = |other: &&usize| value(**other).is_some_and(|other| is_broken(rule, own, other));
            let message = match (rule, others.iter().find(broken)) {
                (RowRule::NonNegative { .. }, _) if own < 0 => "is below zero".to_owned(),
                (RowRule::AtLeast { .. }, Some(other)) => format!("is below {}", name(*other)),
                (RowRule::AtMost { .. }, Some(other)) => format!("is above {}", name(*other)),
                _ => continue,
            };
            let reason = match rule {
                _ if !are_bar_rules(&self.def.rules) => rule.name(),
                RowRule::NonNegative { .. } => "negative_volume",
                _ => "ohlc",
            };
            return Some(Issue::new(name(*at), reason, message));
        }
        self.bar_contradiction(cells)
    }

    /// high ≥ max(open, close, low), low ≤ min(open, close, high), volume ≥ 0.
    fn bar_contradiction(&self, cells: &[ConvertedCell]) -> Option<Issue> {
        let [open, high, low, close, volume] = self.bar?;
        let value = |at: usize| Some(ordered(cells.get(at)?.word()?, self.def.columns.get(at)?.kind));
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

/// Whether a rule between two fields is broken by these values.
fn is_broken(rule: &RowRule, own: i128, other: i128) -> bool {
    match rule {
        RowRule::NonNegative { .. } => false,
        RowRule::AtLeast { .. } => own < other,
        RowRule::AtMost { .. } => own > other,
    }
}

/// Collects converted rows as rows of the series.
#[derive(Debug)]
pub struct RowCollector<'a> {
    def: &'a SeriesDef,
    ts: Vec<i64>,
    columns: Vec<ColumnBuilder<'a>>,
}

impl<'a> RowCollector<'a> {
    /// No rows, with memory for `capacity` of them.
    pub fn new(def: &'a SeriesDef, capacity: usize) -> Self {
        let columns = def.columns.iter().map(|column| ColumnBuilder::new(column, capacity)).collect();
        Self { def, ts: Vec::with_capacity(capacity), columns }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    /// Appends a row; false, and nothing appended, when the rows have too many different texts for it.
    ///
    /// # Errors
    /// `internal` for a cell that was not converted for its column.
    pub fn push(&mut self, row: &Converted) -> Result<bool> {
        let has_room = self.columns.iter_mut().zip(&row.cells).all(|(column, cell)| match cell {
            ConvertedCell::Text(text) => column.word_of(text.as_bytes()).is_ok(),
            _ => true,
        });
        if !has_room {
            return Ok(false);
        }
        self.ts.push(row.ts);
        for (column, cell) in self.columns.iter_mut().zip(&row.cells) {
            match cell.stored() {
                Some(stored) => column.push(stored).map_err(|error| {
                    let name = &column.column().name;
                    Error::internal(format!("a cell of {name} {}", error.sentence(column.column())))
                })?,
                None => column.push_null(),
            }
        }
        Ok(true)
    }

    /// The rows.
    pub fn into_rows(self) -> Rows {
        let (columns, texts): (Vec<_>, Vec<_>) = self.columns.into_iter().map(ColumnBuilder::into_parts).unzip();
        let mut rows = Rows::new(self.ts, columns);
        if self.def.columns.iter().any(|column| column.kind == ColumnType::Text) {
            rows.texts = texts;
        }
        rows
    }
}

/// The stored form of a cell and whether digits were lost, or the reason of the error.
fn convert_cell(
    cell: SourceCell<'_>,
    reading: &ColumnReading<'_>,
    rounding: Rounding,
) -> Result<(ConvertedCell, bool), &'static str> {
    let kind = reading.column.kind;
    let wrong = Err(CellError::NotAText);
    let is_number = !matches!(
        kind,
        ColumnType::Bool
            | ColumnType::Timestamp { .. }
            | ColumnType::Enum
            | ColumnType::Text
            | ColumnType::Bytes { .. }
    );
    let number = |cell: Result<(Stored<'static>, bool), NumberError>| cell.map_err(CellError::from);
    let time = |ts: Option<i64>, unit| match ts {
        Some(ts) if in_range(ts, unit) => Ok((Stored::Word(ts), false)),
        Some(_) => Err(CellError::Time("time_out_of_range")),
        None => Err(CellError::Time("bad_time")),
    };
    let options = DecodeOptions { rounding, ..DecodeOptions::default() };
    let stored = match (cell, kind) {
        (SourceCell::Missing, _) if reading.column.nullable => return Ok((ConvertedCell::Null, false)),
        (SourceCell::Missing, _) => Err(CellError::Missing),
        (SourceCell::Text(text), _) => reading.text(text, TextForm::String, &options),
        (SourceCell::Int(value), _) if is_number => number(int_cell(value.into(), kind)),
        (SourceCell::Int(value), ColumnType::Timestamp { unit }) => time(Some(value), unit),
        (SourceCell::Float(value), _) if is_number => number(float_cell(value, kind, rounding)),
        (SourceCell::Flag(flag), ColumnType::Bool) => Ok((Stored::Word(flag.into()), false)),
        (SourceCell::Time { ticks, per_second, .. }, ColumnType::Timestamp { unit }) => {
            time(convert(ticks, per_second, unit), unit)
        }
        (SourceCell::Bytes(bytes), ColumnType::Bytes { length }) if bytes.len() == to_usize(length) => {
            Ok((Stored::Bytes(bytes), false))
        }
        (SourceCell::Bytes(_), ColumnType::Bytes { .. }) => Err(CellError::BadBytes),
        _ => wrong,
    };
    match stored {
        // A double with more digits than its column: without leave to round it is no value of the column.
        Ok((_, true)) if rounding == Rounding::Exact => Err(NumberError::PrecisionLoss.reason()),
        stored => stored.map(|(stored, lost)| (ConvertedCell::of(stored), lost)).map_err(CellError::reason),
    }
}

/// Digits after the point that hold this number exactly; saturates at 255.
fn digits_needed(cell: SourceCell<'_>) -> u8 {
    match cell {
        SourceCell::Float(value) => shortest_digits(value),
        SourceCell::Text(text) => {
            let loss = Err(NumberError::PrecisionLoss);
            let exact = |digits: &u8| parse_wide_decimal(text, *digits, Rounding::Exact) != loss;
            (0..=WIDE_DIGITS_MAX).find(exact).unwrap_or(u8::MAX)
        }
        _ => 0,
    }
}

fn describe(cell: SourceCell<'_>, reason: &'static str, column: &Column) -> String {
    let shown = quote(cell.show().as_bytes());
    let of = |error: CellError| format!("{shown} {}", error.sentence(column));
    match (reason, column.kind) {
        ("missing", _) => "is missing".into(),
        ("unknown_value", _) => of(CellError::UnknownValue),
        ("bad_text", _) => of(CellError::BadText),
        ("too_long", _) => of(CellError::TooLong),
        ("dictionary_full", _) => of(CellError::DictionaryFull),
        ("bad_bytes", _) => of(CellError::BadBytes),
        ("bad_time" | "time_out_of_range", _) => of(CellError::Time(reason)),
        ("wrong_type", ColumnType::Bool) => of(CellError::NotABool),
        ("wrong_type", ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. }) => of(CellError::NotAText),
        ("wrong_type", ColumnType::Timestamp { .. }) => format!("{shown} is not a time"),
        ("wrong_type", _) => format!("{shown} is not a number"),
        ("not_a_number", _) => match flags_for(cell.show().as_bytes()) {
            Some(flags) => format!("{shown} is not a plain number; use {flags}"),
            None => format!("{shown} is not a number"),
        },
        ("not_finite", _) => format!("{shown} is not finite"),
        ("precision_loss", ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits }) => {
            format!("{shown} has more than {digits} digits")
        }
        ("precision_loss", ColumnType::Float32) => of(CellError::Number(NumberError::PrecisionLoss)),
        ("precision_loss", _) => format!("{shown} is not an integer"),
        _ => format!("{shown} is beyond the range of the column"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIMAL: ColumnType = ColumnType::Decimal { digits: 2 };

    fn number(cell: SourceCell<'_>, kind: ColumnType, rounding: Rounding) -> Result<(i64, bool), &'static str> {
        let column = Column::new("v", kind);
        convert_cell(cell, &ColumnReading::new(&column), rounding)
            .map(|(cell, rounded)| (cell.word().unwrap(), rounded))
    }

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
            (SourceCell::Text(b"0.1234567890123456789"), 19),
            (SourceCell::Text(b"0.123456789012345678901234567890123456789"), u8::MAX),
        ] {
            assert_eq!(digits_needed(cell), expected, "{cell:?}");
        }
    }
}
