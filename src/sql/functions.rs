//! `time_bucket(width, ts [, timezone] [, origin])`: the start of the bucket of a time.
//!
//! Borders depend on width, zone and origin only, never on the rows. Without a zone, widths up to days count from
//! 1970-01-01T00:00:00Z, weeks from Monday 1970-01-05, months from January. In a zone buckets of days and more start at
//! midnight of the zone, and shorter ones count from each midnight, so that none crosses it.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, PrimitiveArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field, FieldRef, IntervalUnit, TimeUnit as ArrowUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::ScalarValue;
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, civil};

use super::failure::external;
use crate::error::{Error, Result};

const NAME: &str = "time_bucket";
const USAGE: &str =
    "write time_bucket('1h', ts), time_bucket('1d', ts, 'America/New_York') or time_bucket('65m', ts, origin)";
const DAY_SECONDS: i64 = 86_400;
const NANOS: i64 = 1_000_000_000;
/// Days from 1970-01-01 to the first Monday.
const MONDAY: i64 = 4;

/// The scalar functions of FastK.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(TimeBucket { signature: Signature::user_defined(Volatility::Immutable) }))]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeBucket {
    signature: Signature,
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> SqlResult<Vec<DataType>> {
        let (width, ts, rest) = match types {
            [width, ts, rest @ ..] if rest.len() <= 2 => (width, ts, rest),
            _ => return Err(external(Error::invalid(USAGE))),
        };
        let width = match width {
            DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
            _ => DataType::Utf8,
        };
        let ts = match ts {
            DataType::Timestamp(..) => ts.clone(),
            _ => DataType::Timestamp(ArrowUnit::Millisecond, Some("UTC".into())),
        };
        let mut coerced = vec![width, ts.clone()];
        for (position, data_type) in rest.iter().enumerate() {
            let is_time = matches!(data_type, DataType::Timestamp(..) | DataType::Date32) || position == 1;
            coerced.push(if is_time { ts.clone() } else { DataType::Utf8 });
        }
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> SqlResult<DataType> {
        types.get(1).cloned().ok_or_else(|| external(Error::invalid(USAGE)))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> SqlResult<FieldRef> {
        let ts = args.arg_fields.get(1).ok_or_else(|| external(Error::invalid(USAGE)))?;
        Ok(Arc::new(Field::new(NAME, ts.data_type().clone(), ts.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> SqlResult<ColumnarValue> {
        let (width, ts, rest) = match args.args.as_slice() {
            [ColumnarValue::Scalar(width), ts, rest @ ..] => (width, ts, rest),
            _ => return Err(external(Error::invalid("the width of a bucket is a literal").with_hint(USAGE))),
        };
        let buckets = BucketRule::of(width, rest, &ts.data_type()).map_err(external)?;
        let is_scalar = matches!(ts, ColumnarValue::Scalar(_));
        let array = ts.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let found = buckets.apply(&array).map_err(external)?;
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?)),
            false => Ok(ColumnarValue::Array(found)),
        }
    }

    /// Buckets are in the order of their times.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> SqlResult<SortProperties> {
        let is_constant = |input: &ExprProperties| input.sort_properties == SortProperties::Singleton;
        Ok(match inputs {
            [width, ts, rest @ ..] if is_constant(width) && rest.iter().all(is_constant) => ts.sort_properties,
            _ => SortProperties::Unordered,
        })
    }
}

/// Width of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Nanos(i64),
    Days(i64),
    Weeks(i64),
    Months(i64),
}

impl Width {
    fn of(value: &ScalarValue) -> Result<Self> {
        let invalid = |shown: &str| {
            Error::invalid(format!("{shown} is not the width of a bucket"))
                .with_hint("such as '1m', '4h', '1d', '1w', '1mo', '1q', '1y', or INTERVAL '5 minutes'")
        };
        match value {
            ScalarValue::Utf8(Some(text)) => Self::parse(text).ok_or_else(|| invalid(&format!("{text:?}"))),
            ScalarValue::IntervalMonthDayNano(Some(interval)) => {
                let width = match (interval.months, interval.days, interval.nanoseconds) {
                    (months, 0, 0) if months > 0 => Self::Months(months.into()),
                    (0, days, 0) if days > 0 && days % 7 == 0 => Self::Weeks(i64::from(days) / 7),
                    (0, days, 0) if days > 0 => Self::Days(days.into()),
                    (0, 0, nanos) if nanos > 0 => Self::Nanos(nanos),
                    _ => return Err(invalid(&format!("INTERVAL {value}"))),
                };
                Ok(width)
            }
            other => Err(invalid(&other.to_string())),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
        let count: i64 = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
        let seconds = |seconds: i64| Some(Self::Nanos(count.checked_mul(seconds)?.checked_mul(NANOS)?));
        match unit {
            "s" => seconds(1),
            "m" => seconds(60),
            "h" => seconds(3_600),
            "d" => Some(Self::Days(count)),
            "w" => Some(Self::Weeks(count)),
            "M" | "mo" => Some(Self::Months(count)),
            "q" => Some(Self::Months(count * 3)),
            "y" => Some(Self::Months(count * 12)),
            _ => None,
        }
    }
}

/// The buckets of a column of times.
#[derive(Debug)]
struct BucketRule {
    width: Width,
    zone: Option<TimeZone>,
    /// In the unit of the column.
    origin: Option<i64>,
    per_second: i64,
}

impl BucketRule {
    fn of(width: &ScalarValue, rest: &[ColumnarValue], ts: &DataType) -> Result<Self> {
        let width = Width::of(width)?;
        let DataType::Timestamp(unit, _) = ts else { return Err(Error::invalid(USAGE)) };
        let per_second = match unit {
            ArrowUnit::Second => 1,
            ArrowUnit::Millisecond => 1_000,
            ArrowUnit::Microsecond => 1_000_000,
            ArrowUnit::Nanosecond => NANOS,
        };
        let (mut zone, mut origin) = (None, None);
        for value in rest {
            match value {
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(name))) => zone = Some(zone_named(name)?),
                ColumnarValue::Scalar(
                    ScalarValue::TimestampSecond(Some(at), _)
                    | ScalarValue::TimestampMillisecond(Some(at), _)
                    | ScalarValue::TimestampMicrosecond(Some(at), _)
                    | ScalarValue::TimestampNanosecond(Some(at), _),
                ) => origin = Some(*at),
                ColumnarValue::Scalar(null) if null.is_null() => {}
                _ => return Err(Error::invalid("zone and origin of a bucket are literals").with_hint(USAGE)),
            }
        }
        if let (Width::Nanos(_), Some(_), Some(_)) = (width, &zone, origin) {
            return Err(Error::invalid(
                "buckets shorter than a day count from midnight of the zone, not from an origin",
            )
            .with_hint("leave out the zone or the origin"));
        }
        if let (Width::Nanos(nanos), Some(_)) = (width, &zone)
            && nanos > DAY_SECONDS * NANOS
        {
            return Err(Error::invalid("hours of more than a day have no place in a zone").with_hint("use days"));
        }
        Ok(Self { width, zone, origin, per_second })
    }

    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef> {
        Ok(match array.data_type() {
            DataType::Timestamp(ArrowUnit::Second, zone) => {
                let found = self.starts::<TimestampSecondType>(array)?;
                Arc::new(TimestampSecondArray::from(found.into_data()).with_timezone_opt(zone.clone()))
            }
            DataType::Timestamp(ArrowUnit::Millisecond, zone) => {
                let found = self.starts::<TimestampMillisecondType>(array)?;
                Arc::new(TimestampMillisecondArray::from(found.into_data()).with_timezone_opt(zone.clone()))
            }
            DataType::Timestamp(ArrowUnit::Microsecond, zone) => {
                let found = self.starts::<TimestampMicrosecondType>(array)?;
                Arc::new(TimestampMicrosecondArray::from(found.into_data()).with_timezone_opt(zone.clone()))
            }
            DataType::Timestamp(ArrowUnit::Nanosecond, zone) => {
                let found = self.starts::<TimestampNanosecondType>(array)?;
                Arc::new(TimestampNanosecondArray::from(found.into_data()).with_timezone_opt(zone.clone()))
            }
            _ => return Err(Error::invalid(USAGE)),
        })
    }

    fn starts<T: ArrowTimestampType>(&self, array: &ArrayRef) -> Result<PrimitiveArray<T>> {
        let times = array.as_primitive::<T>();
        // In sorted rows a border is computed once for each bucket.
        let (mut from, mut to) = (1_i64, 0_i64);
        let mut words = Vec::with_capacity(times.len());
        for (row, ts) in times.values().iter().enumerate() {
            if !(from <= *ts && *ts < to) && times.is_valid(row) {
                (from, to) = self.bucket(*ts)?;
            }
            words.push(from);
        }
        Ok(PrimitiveArray::new(words.into(), times.nulls().cloned()))
    }

    /// First tick of the bucket of a time, and of the next one.
    fn bucket(&self, ts: i64) -> Result<(i64, i64)> {
        match (self.width, &self.zone) {
            (Width::Nanos(nanos), None) => {
                let ticks = self.ticks_of(nanos)?;
                self.uniform(ts, ticks, self.origin.unwrap_or(0))
            }
            (Width::Days(days), None) => {
                self.uniform(ts, days * DAY_SECONDS * self.per_second, self.origin.unwrap_or(0))
            }
            (Width::Weeks(weeks), None) => {
                let day = DAY_SECONDS * self.per_second;
                self.uniform(ts, weeks * 7 * day, self.origin.unwrap_or(MONDAY * day))
            }
            (Width::Nanos(nanos), Some(zone)) => {
                let ticks = self.ticks_of(nanos)?;
                let date = self.date(ts, zone)?;
                let midnight = self.start_of_day(date, zone)?;
                let next = date.tomorrow().map_err(|_| out_of_range())?;
                let (from, to) = self.uniform(ts, ticks, midnight)?;
                Ok((from, to.min(self.start_of_day(next, zone)?)))
            }
            (Width::Days(days), Some(zone)) => self.by_days(ts, days, 0, zone),
            (Width::Weeks(weeks), Some(zone)) => self.by_days(ts, weeks * 7, MONDAY, zone),
            (Width::Months(months), zone) => self.by_months(ts, months, zone.as_ref().unwrap_or(&TimeZone::UTC)),
        }
    }

    fn ticks_of(&self, nanos: i64) -> Result<i64> {
        let tick = NANOS / self.per_second;
        if nanos % tick != 0 {
            return Err(Error::invalid("the width of a bucket is not a multiple of the unit of its times"));
        }
        Ok(nanos / tick)
    }

    fn uniform(&self, ts: i64, width: i64, origin: i64) -> Result<(i64, i64)> {
        let since = ts.checked_sub(origin).ok_or_else(out_of_range)?;
        let from = ts.checked_sub(since.rem_euclid(width)).ok_or_else(out_of_range)?;
        Ok((from, from.checked_add(width).ok_or_else(out_of_range)?))
    }

    fn by_days(&self, ts: i64, days: i64, first: i64, zone: &TimeZone) -> Result<(i64, i64)> {
        let epoch = civil::date(1970, 1, 1);
        let day_number =
            |date: civil::Date| -> Result<i64> { Ok(epoch.until(date).map_err(|_| out_of_range())?.get_days().into()) };
        let first = match self.origin {
            Some(origin) => day_number(self.date(origin, zone)?)?,
            None => first,
        };
        let day = day_number(self.date(ts, zone)?)?;
        let from = day - (day - first).rem_euclid(days);
        let start = |day: i64| {
            let date = epoch.checked_add(day.days()).map_err(|_| out_of_range())?;
            self.start_of_day(date, zone)
        };
        Ok((start(from)?, start(from + days)?))
    }

    fn by_months(&self, ts: i64, months: i64, zone: &TimeZone) -> Result<(i64, i64)> {
        let month_number = |date: civil::Date| i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
        let first = match self.origin {
            Some(origin) => month_number(self.date(origin, zone)?),
            None => 1970 * 12,
        };
        let month = month_number(self.date(ts, zone)?);
        let from = month - (month - first).rem_euclid(months);
        let start = |month: i64| {
            let year = i16::try_from(month.div_euclid(12)).map_err(|_| out_of_range())?;
            let month = i8::try_from(month.rem_euclid(12) + 1).map_err(|_| out_of_range())?;
            self.start_of_day(civil::Date::new(year, month, 1).map_err(|_| out_of_range())?, zone)
        };
        Ok((start(from)?, start(from + months)?))
    }

    fn date(&self, ts: i64, zone: &TimeZone) -> Result<civil::Date> {
        let nanos = i128::from(ts) * i128::from(NANOS / self.per_second);
        Ok(zone.to_datetime(Timestamp::from_nanosecond(nanos).map_err(|_| out_of_range())?).date())
    }

    /// The first instant of a day, which is later than midnight where clocks skip it.
    fn start_of_day(&self, date: civil::Date, zone: &TimeZone) -> Result<i64> {
        let start = date.to_zoned(zone.clone()).and_then(|zoned| zoned.start_of_day()).map_err(|_| out_of_range())?;
        let ticks = start.timestamp().as_nanosecond() / i128::from(NANOS / self.per_second);
        i64::try_from(ticks).map_err(|_| out_of_range())
    }
}

fn zone_named(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| {
        Error::invalid(format!("{name:?} is not a time zone")).with_hint("an IANA name such as America/New_York")
    })
}

fn out_of_range() -> Error {
    Error::invalid("a time is too far away for its bucket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(width: &str, ts: &str, zone: Option<&str>, origin: Option<&str>) -> (String, String) {
        let parse = |text: &str| text.parse::<Timestamp>().unwrap();
        let buckets = BucketRule {
            width: Width::parse(width).unwrap(),
            zone: zone.map(|name| zone_named(name).unwrap()),
            origin: origin.map(|text| parse(text).as_millisecond()),
            per_second: 1_000,
        };
        let (from, to) = buckets.bucket(parse(ts).as_millisecond()).unwrap();
        let shown = |ms: i64| Timestamp::from_millisecond(ms).unwrap().to_string();
        (shown(from), shown(to))
    }

    #[test]
    fn borders_are_those_of_the_calendar() {
        let new_york = Some("America/New_York");
        for (width, ts, zone, origin, from, to) in [
            ("1h", "2024-02-01T10:59:59Z", None, None, "2024-02-01T10:00:00Z", "2024-02-01T11:00:00Z"),
            ("1h", "1969-12-31T23:59:59Z", None, None, "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z"),
            (
                "65m",
                "2024-02-01T10:00:00Z",
                None,
                Some("2024-02-01T09:30:00Z"),
                "2024-02-01T09:30:00Z",
                "2024-02-01T10:35:00Z",
            ),
            ("1w", "2024-02-04T23:00:00Z", None, None, "2024-01-29T00:00:00Z", "2024-02-05T00:00:00Z"),
            ("1mo", "2024-02-29T23:00:00Z", None, None, "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
            ("1q", "2024-02-29T23:00:00Z", None, None, "2024-01-01T00:00:00Z", "2024-04-01T00:00:00Z"),
            ("1y", "2024-02-29T23:00:00Z", None, None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
            // The day on which clocks go forward has 23 hours, the one on which they go back 25.
            ("1d", "2024-03-10T12:00:00Z", new_york, None, "2024-03-10T05:00:00Z", "2024-03-11T04:00:00Z"),
            ("1d", "2024-11-03T12:00:00Z", new_york, None, "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z"),
            ("4h", "2024-11-04T04:30:00Z", new_york, None, "2024-11-04T04:00:00Z", "2024-11-04T05:00:00Z"),
            ("4h", "2024-03-10T12:00:00Z", new_york, None, "2024-03-10T09:00:00Z", "2024-03-10T13:00:00Z"),
            ("1w", "2024-03-11T03:00:00Z", new_york, None, "2024-03-04T05:00:00Z", "2024-03-11T04:00:00Z"),
            ("1M", "2024-03-01T03:00:00Z", new_york, None, "2024-02-01T05:00:00Z", "2024-03-01T05:00:00Z"),
            // Clocks of Sao Paulo skipped midnight.
            (
                "1d",
                "2018-11-04T12:00:00Z",
                Some("America/Sao_Paulo"),
                None,
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
        ] {
            assert_eq!(bucket(width, ts, zone, origin), (from.to_owned(), to.to_owned()), "{width} {ts} {zone:?}");
        }
    }

    #[test]
    fn a_width_without_a_unit_or_a_count_is_refused() {
        for text in ["", "h", "0h", "5", "5x", "1.5h", "-1h", "99999999d"] {
            assert!(Width::parse(text).is_none(), "{text}");
        }
    }
}
