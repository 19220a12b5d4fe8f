//! Partition bounds in UTC.

use super::civil_days::{civil_from_days, days_from_civil};
use super::schema::Partition;
use super::time::TimeUnit;

/// One partition of the time axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSpan {
    /// `2024-02-01T05`, `2024-02-01`, `2024-02`, `2024` or `all`; sorts by time within the valid years.
    pub name: String,
    /// First and last timestamp inside.
    pub start: i64,
    pub end: i64,
}

impl Partition {
    /// The partition `ts` lies in.
    pub fn span_of(self, ts: i64, unit: TimeUnit) -> PartitionSpan {
        let day_ticks = 86_400 * unit.per_second();
        let day = ts.div_euclid(day_ticks);
        let (year, month, _) = civil_from_days(day);
        let (name, first_day, next_day) = match self {
            Partition::All => {
                return PartitionSpan { name: "all".into(), start: i64::MIN, end: i64::MAX };
            }
            Partition::Hour => {
                let ticks = 3_600 * unit.per_second();
                let hour = ts.div_euclid(ticks);
                let (year, month, dom) = civil_from_days(hour.div_euclid(24));
                let start = hour.saturating_mul(ticks);
                return PartitionSpan {
                    name: format!("{year:04}-{month:02}-{dom:02}T{:02}", hour.rem_euclid(24)),
                    start,
                    end: start.saturating_add(ticks - 1),
                };
            }
            Partition::Day => {
                let (year, month, dom) = civil_from_days(day);
                (format!("{year:04}-{month:02}-{dom:02}"), day, day + 1)
            }
            Partition::Month => {
                let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                (format!("{year:04}-{month:02}"), days_from_civil(year, month, 1), days_from_civil(next.0, next.1, 1))
            }
            Partition::Year => (format!("{year:04}"), days_from_civil(year, 1, 1), days_from_civil(year + 1, 1, 1)),
        };
        PartitionSpan {
            name,
            start: first_day.saturating_mul(day_ticks),
            end: next_day.saturating_mul(day_ticks).saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_contiguous_and_contain_their_timestamps() {
        for kind in [Partition::Hour, Partition::Day, Partition::Month, Partition::Year] {
            let mut ts = -86_400_000 * 800;
            for _ in 0..40 {
                let span = kind.span_of(ts, TimeUnit::Ms);
                assert!(span.start <= ts && ts <= span.end, "{kind:?} {ts}");
                assert_eq!(kind.span_of(span.start, TimeUnit::Ms), span);
                assert_eq!(kind.span_of(span.end, TimeUnit::Ms), span);
                assert_eq!(kind.span_of(span.end + 1, TimeUnit::Ms).start, span.end + 1);
                ts = span.end + 1;
            }
        }
        let leap = 1_709_164_800_000; // 2024-02-29
        assert_eq!(Partition::Day.span_of(leap, TimeUnit::Ms).name, "2024-02-29");
        assert_eq!(Partition::Hour.span_of(leap + 5 * 3_600_000, TimeUnit::Ms).name, "2024-02-29T05");
        assert_eq!(Partition::Hour.span_of(-1, TimeUnit::S).name, "1969-12-31T23");
        assert_eq!(Partition::Month.span_of(leap, TimeUnit::Ms).name, "2024-02");
        assert_eq!(Partition::Year.span_of(-1, TimeUnit::Ns).name, "1969");
    }
}
