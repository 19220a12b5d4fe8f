//! Dates of the proleptic Gregorian calendar as days from 1970-01-01, for loops over rows: plain arithmetic without
//! bounds, since a range of a query may end anywhere. Compared with `jiff` over all valid dates.

/// Days from 1970-01-01 of a date of the proleptic Gregorian calendar.
pub fn days_from_civil(year: i64, month: u8, day: u8) -> i64 {
    // Years start in March, so that a leap day is the last of its year; 400 years are 146,097 days.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days from 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn dates_and_days_are_those_of_jiff_over_the_valid_years() {
        let (mut at, end) = (date(1677, 12, 31), date(2262, 1, 1));
        let mut days = at.duration_since(date(1970, 1, 1)).as_hours() / 24;
        assert_eq!(days_from_civil(1678, 1, 1) * 86_400, super::super::time::MIN_SECOND);
        assert_eq!(days_from_civil(2262, 1, 1) * 86_400 - 1, super::super::time::MAX_SECOND);
        while at <= end {
            let (month, day) = (at.month().unsigned_abs(), at.day().unsigned_abs());
            assert_eq!(days_from_civil(at.year().into(), month, day), days, "{at}");
            assert_eq!(civil_from_days(days), (at.year().into(), month, day), "{at}");
            (at, days) = (at.tomorrow().unwrap(), days + 1);
        }
    }
}
