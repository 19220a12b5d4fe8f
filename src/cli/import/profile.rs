//! What the numbers and times of the files need: digits of each column, unit of the series.
//!
//! The rule for the digits of a new column, over all files:
//! - `used` is the most digits after the point that a number has: as written in text (`8e-8` has eight), or in the
//!   shortest decimal form of a double.
//! - The column gets [`HEADROOM_AFTER`] digits more than `used`, for the smaller ticks of files to come, as long as
//!   [`HEADROOM_BEFORE`] digits more before the point than the largest number has still fit 18 digits in all.
//! - Where they do not fit, the digits shrink towards `used`. Text then keeps `used` as long as the largest number fits
//!   18 digits with it, and gets fewer where it does not. A column of doubles without that headroom stays float64,
//!   which holds each of them as it is.

use indicatif::ProgressBar;

use crate::error::Result;
use crate::types::number::{fraction_digits, shortest_digits};
use crate::types::schema::{ColumnSpec, DIGITS_MAX};
use crate::types::{ColumnType, SeriesSpec, TimeUnit};

use super::args::ImportSettings;
use super::cell::SourceCell;
use super::mapping::NumberRole;
use super::plan::ImportPlan;

/// Digits after the point that a new column has beyond those of its files.
const HEADROOM_AFTER: u8 = 2;
/// Digits before the point that stay free: numbers a thousand times larger fit.
const HEADROOM_BEFORE: u8 = 3;

/// What one column was seen to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ColumnProfile {
    /// Most digits after the point.
    after: u8,
    /// Most digits before it, of written numbers.
    before: u8,
    /// Largest magnitude among doubles.
    largest: f64,
    floats: bool,
    /// A written or typed number.
    any: bool,
}

impl ColumnProfile {
    fn add(&mut self, cell: SourceCell<'_>) {
        match cell {
            SourceCell::Text(text) => {
                if let Some((after, before)) = fraction_digits(text) {
                    self.written(after, before);
                }
            }
            SourceCell::Int(number) => {
                let before = number.checked_abs().and_then(i64::checked_ilog10).map_or(0, |log| log + 1);
                self.written(0, u8::try_from(before).unwrap_or(u8::MAX));
            }
            SourceCell::Float(number) if number.is_finite() => {
                self.any = true;
                self.floats = true;
                self.after = self.after.max(shortest_digits(number));
                self.largest = self.largest.max(number.abs());
            }
            _ => {}
        }
    }

    fn written(&mut self, after: u8, before: u8) {
        self.any = true;
        self.after = self.after.max(after);
        self.before = self.before.max(before);
    }

    fn join(self, other: ColumnProfile) -> ColumnProfile {
        ColumnProfile {
            after: self.after.max(other.after),
            before: self.before.max(other.before),
            largest: self.largest.max(other.largest),
            floats: self.floats || other.floats,
            any: self.any || other.any,
        }
    }

    /// Most digits before the point, of doubles too.
    fn before(self) -> u8 {
        let mut digits = 0_u8;
        let mut limit = 1.0;
        while self.largest >= limit && digits < u8::MAX {
            digits += 1;
            limit *= 10.0;
        }
        self.before.max(digits)
    }

    /// The digits of the column by the rule above; `None` where only float64 keeps its doubles.
    fn digits(self) -> Option<u8> {
        let largest = DIGITS_MAX.saturating_sub(self.before());
        let spacious = largest.checked_sub(HEADROOM_BEFORE).filter(|digits| self.after <= *digits);
        match spacious {
            Some(digits) => Some(self.after.saturating_add(HEADROOM_AFTER).min(digits)),
            None if self.floats => None,
            None => Some(self.after.min(largest)),
        }
    }
}

/// The finding of the first pass.
#[derive(Clone, Debug, PartialEq)]
pub struct FileProfile {
    pub rows: u64,
    /// Coarsest unit that holds every time.
    pub unit: TimeUnit,
    columns: Vec<ColumnProfile>,
}

/// Reads every row for its digits and its times.
pub fn profile(plan: &ImportPlan, bar: &ProgressBar) -> Result<FileProfile> {
    let mut found =
        FileProfile { rows: 0, unit: TimeUnit::Ms, columns: vec![ColumnProfile::default(); plan.targets.len()] };
    plan.read(bar, &mut |row| {
        found.rows += 1;
        for (seen, cell) in found.columns.iter_mut().zip(row.cells) {
            seen.add(*cell);
        }
        if let Ok(moment) = row.time
            && moment.unit().per_second() > found.unit.per_second()
        {
            found.unit = moment.unit();
        }
        Ok(())
    })?;
    Ok(found)
}

impl FileProfile {
    /// The registration that holds these rows: what the flags leave open follows the source.
    pub fn spec(&self, settings: &ImportSettings, plan: &ImportPlan) -> SeriesSpec {
        let of = |role: NumberRole| {
            let seen = plan.targets.iter().zip(&self.columns).filter(|(target, _)| target.role == role);
            seen.fold(ColumnProfile::default(), |sum, (_, seen)| sum.join(*seen)).digits()
        };
        let mut spec = SeriesSpec::of_key(&settings.key);
        spec.unit = self.unit;
        if settings.key.name().is_none() {
            spec.price_digits = settings.price_digits.or_else(|| of(NumberRole::Price));
            spec.volume_digits = settings.volume_digits.or_else(|| of(NumberRole::Volume));
        } else {
            let digits = settings.value_digits.or_else(|| of(NumberRole::Value));
            spec.value = Some(ColumnSpec { name: None, kind: None, digits, merge: None });
        }
        for (target, seen) in
            plan.targets.iter().zip(&self.columns).filter(|(target, _)| target.role == NumberRole::Extra)
        {
            let given = settings.extra.iter().find(|extra| extra.name == target.name).and_then(|extra| extra.digits);
            // A column that only counts is an integer.
            let counts = given.is_none() && seen.after == 0 && seen.before > 0 && !seen.floats;
            let digits = if counts { None } else { given.or_else(|| seen.digits()) };
            let kind = counts.then(|| "int64".to_string());
            spec.extra_columns.push(ColumnSpec { name: Some(target.name.clone()), kind, digits, merge: None });
        }
        spec
    }
}

/// A column type for people and for the summary.
pub fn describe(kind: ColumnType) -> String {
    match kind {
        ColumnType::Decimal { digits } => format!("decimal({digits})"),
        ColumnType::Float64 => "float64".into(),
        ColumnType::Int64 => "int64".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(cells: &[SourceCell<'_>]) -> Option<u8> {
        let mut seen = ColumnProfile::default();
        cells.iter().for_each(|cell| seen.add(*cell));
        seen.digits()
    }

    #[test]
    fn written_numbers_get_the_digits_they_are_written_with_and_two_more() {
        assert_eq!(digits(&[SourceCell::Text(b"1.50"), SourceCell::Text(b"8e-8")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"100"), SourceCell::Int(7)]), Some(2));
        assert_eq!(digits(&[SourceCell::Text(b"x"), SourceCell::Missing]), Some(2));
    }

    #[test]
    fn numbers_a_thousand_times_larger_fit_where_the_digits_in_use_allow_it() {
        // 7 digits before the point and 3 of headroom leave 8.
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.1234567")]), Some(8));
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.12345678")]), Some(8));
        // Digits in use go before headroom.
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.1234567890")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.12345678901")]), Some(11));
        // 18 digits in all are never exceeded.
        assert_eq!(digits(&[SourceCell::Text(b"23004137.5"), SourceCell::Text(b"0.12345678901")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"999999999999999999.5")]), Some(0));
        assert_eq!(digits(&[SourceCell::Text(b"0.123456789012345678901")]), Some(18));
    }

    #[test]
    fn doubles_get_the_digits_that_read_back_with_the_same_headroom_or_stay_doubles() {
        assert_eq!(digits(&[SourceCell::Float(0.1), SourceCell::Float(28_288.6), SourceCell::Float(3.0)]), Some(3));
        assert_eq!(digits(&[SourceCell::Float(2.198e-5)]), Some(10));
        assert_eq!(digits(&[SourceCell::Float(99_999.123_456_78), SourceCell::Float(0.5)]), Some(10));
        assert_eq!(digits(&[SourceCell::Float(100_000.123_456_78), SourceCell::Float(0.5)]), Some(9));
        assert_eq!(
            digits(&[SourceCell::Float(0.1 + 0.2), SourceCell::Float(1.0)]),
            None,
            "no headroom beside 17 digits"
        );
        assert_eq!(digits(&[SourceCell::Float(0.1 + 0.2), SourceCell::Float(10.0)]), None, "no decimal holds both");
        assert_eq!(digits(&[SourceCell::Float(1e300)]), None);
        assert_eq!(digits(&[SourceCell::Float(f64::NAN), SourceCell::Float(0.5)]), Some(3));
    }
}
