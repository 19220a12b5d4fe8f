//! What the numbers and times of the files require: digits of each column, unit of the series.
//!
//! The rule for the digits of a new column, over all files:
//! - `used` is the largest number of digits after the point: as written in text (`8e-8` has eight), or in the shortest
//!   decimal form of a double.
//! - The column gets [`HEADROOM_AFTER`] digits more than `used`, for smaller ticks of later files, as long as
//!   [`HEADROOM_BEFORE`] digits more before the point than those of the largest number still fit 18 digits in total.
//! - If they do not fit, the digits shrink towards `used`. Text then keeps `used` as long as the largest number fits
//!   18 digits with it, else gets fewer. A column of doubles without that headroom stays float64, which represents each
//!   of them exactly.

use indicatif::ProgressBar;

use crate::error::Result;
use crate::ingest::source::SourceCell;
use crate::types::kind::{built_in_named, is_preset};
use crate::types::number::{DIGITS_MAX, fraction_digits, shortest_digits};
use crate::types::schema::ColumnSpec;
use crate::types::{SeriesSpec, TimeUnit};

use super::args::ImportSettings;
use super::mapping::NumberRole;
use super::plan::ImportPlan;

/// Digits after the point that a new column has beyond those of its files.
const HEADROOM_AFTER: u8 = 2;
/// Free digits before the point: numbers a thousand times larger fit.
const HEADROOM_BEFORE: u8 = 3;

/// Statistics of the numbers of one column.
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

    /// The digits of the column by the rule above; `None` if only float64 represents its doubles.
    fn digits(self) -> Option<u8> {
        let largest = DIGITS_MAX.saturating_sub(self.before());
        let with_headroom = largest.checked_sub(HEADROOM_BEFORE).filter(|digits| self.after <= *digits);
        match with_headroom {
            Some(digits) => Some(self.after.saturating_add(HEADROOM_AFTER).min(digits)),
            None if self.floats => None,
            None => Some(self.after.min(largest)),
        }
    }
}

/// The result of the first pass.
#[derive(Clone, Debug, PartialEq)]
pub struct FileProfile {
    pub rows: u64,
    /// Coarsest unit that holds every time.
    pub unit: TimeUnit,
    columns: Vec<ColumnProfile>,
}

/// Reads every row and collects its digits and times.
pub fn profile(plan: &ImportPlan, bar: &ProgressBar) -> Result<FileProfile> {
    let mut found =
        FileProfile { rows: 0, unit: TimeUnit::Ms, columns: vec![ColumnProfile::default(); plan.targets.len()] };
    plan.read(bar, &mut |row| {
        found.rows += 1;
        for (profile, cell) in found.columns.iter_mut().zip(row.mapped.cells) {
            profile.add(*cell);
        }
        if let Ok(moment) = row.mapped.time
            && moment.unit().per_second() > found.unit.per_second()
        {
            found.unit = moment.unit();
        }
        Ok(())
    })?;
    Ok(found)
}

impl FileProfile {
    /// Most digits after and before the point of the numbers of a column.
    pub fn digits_used(&self, column: usize) -> Option<(u8, u8)> {
        self.columns.get(column).map(|profile| (profile.after, profile.before()))
    }

    /// The registration for these rows: from the flags, else from the source.
    pub fn spec(&self, settings: &ImportSettings, plan: &ImportPlan) -> SeriesSpec {
        let of = |role: NumberRole| {
            let profile = plan.targets.iter().zip(&self.columns).filter(|(target, _)| target.role == role);
            profile.fold(ColumnProfile::default(), |sum, (_, profile)| sum.join(*profile)).digits()
        };
        let mut spec = SeriesSpec::of_key(&settings.key);
        if let Some(kind) = built_in_named(settings.key.kind()).filter(|kind| !is_preset(&kind.name)) {
            let has = |role: NumberRole| plan.targets.iter().any(|target| target.role == role);
            let digits = |given: Option<u8>, role| given.or_else(|| of(role)).filter(|_| has(role) || given.is_some());
            spec.price_digits = digits(settings.price_digits, NumberRole::Price);
            spec.volume_digits = digits(settings.volume_digits, NumberRole::Volume);
            spec.unit = Some(self.unit).filter(|unit| unit.per_second() > kind.unit.per_second());
            return spec;
        }
        spec.unit = Some(self.unit);
        if settings.key.name().is_none() {
            spec.price_digits = settings.price_digits.or_else(|| of(NumberRole::Price));
            spec.volume_digits = settings.volume_digits.or_else(|| of(NumberRole::Volume));
        } else {
            let digits = settings.value_digits.or_else(|| of(NumberRole::Value));
            spec.value = Some(ColumnSpec { name: None, kind: None, digits, merge: None });
        }
        for (target, profile) in
            plan.targets.iter().zip(&self.columns).filter(|(target, _)| target.role == NumberRole::Extra)
        {
            let flag_digits =
                settings.extra.iter().find(|extra| extra.name == target.name).and_then(|extra| extra.digits);
            // A column without fractions is an integer.
            let counts = flag_digits.is_none() && profile.after == 0 && profile.before > 0 && !profile.floats;
            let digits = if counts { None } else { flag_digits.or_else(|| profile.digits()) };
            let kind = counts.then(|| "int64".to_string());
            spec.extra_columns.push(ColumnSpec { name: Some(target.name.clone()), kind, digits, merge: None });
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(cells: &[SourceCell<'_>]) -> Option<u8> {
        let mut profile = ColumnProfile::default();
        cells.iter().for_each(|cell| profile.add(*cell));
        profile.digits()
    }

    #[test]
    fn text_numbers_get_their_digits_and_two_more() {
        assert_eq!(digits(&[SourceCell::Text(b"1.50"), SourceCell::Text(b"8e-8")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"100"), SourceCell::Int(7)]), Some(2));
        assert_eq!(digits(&[SourceCell::Text(b"x"), SourceCell::Missing]), Some(2));
    }

    #[test]
    fn numbers_a_thousand_times_larger_fit_if_the_used_digits_allow_it() {
        // 7 digits before the point and 3 of headroom leave 8.
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.1234567")]), Some(8));
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.12345678")]), Some(8));
        // Used digits have precedence over headroom.
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.1234567890")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"2300413.7295"), SourceCell::Text(b"0.12345678901")]), Some(11));
        // The total never exceeds 18 digits.
        assert_eq!(digits(&[SourceCell::Text(b"23004137.5"), SourceCell::Text(b"0.12345678901")]), Some(10));
        assert_eq!(digits(&[SourceCell::Text(b"999999999999999999.5")]), Some(0));
        assert_eq!(digits(&[SourceCell::Text(b"0.123456789012345678901")]), Some(18));
    }

    #[test]
    fn doubles_get_the_digits_that_round_trip_with_headroom_or_stay_doubles() {
        assert_eq!(digits(&[SourceCell::Float(0.1), SourceCell::Float(28_288.6), SourceCell::Float(3.0)]), Some(3));
        assert_eq!(digits(&[SourceCell::Float(2.198e-5)]), Some(10));
        assert_eq!(digits(&[SourceCell::Float(99_999.123_456_78), SourceCell::Float(0.5)]), Some(10));
        assert_eq!(digits(&[SourceCell::Float(100_000.123_456_78), SourceCell::Float(0.5)]), Some(9));
        assert_eq!(digits(&[SourceCell::Float(0.1 + 0.2), SourceCell::Float(1.0)]), None, "no headroom with 17 digits");
        assert_eq!(
            digits(&[SourceCell::Float(0.1 + 0.2), SourceCell::Float(10.0)]),
            None,
            "no decimal represents both"
        );
        assert_eq!(digits(&[SourceCell::Float(1e300)]), None);
        assert_eq!(digits(&[SourceCell::Float(f64::NAN), SourceCell::Float(0.5)]), Some(3));
    }
}
