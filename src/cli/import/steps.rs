//! The time steps between rows, and whether they match the timeframe.

use std::collections::HashMap;

use crate::types::{Grid, TimeUnit};

/// Most distinct steps to count: an input with more has no common step.
const STEPS_MAX: usize = 1 << 16;
/// Fewer steps than this are not compared with the timeframe.
const STEPS_MIN: u64 = 3;

/// How often each step between consecutive rows of a file occurs, in either direction.
#[derive(Clone, Debug, Default)]
pub struct StepCounts {
    /// Ticks, or months for a timeframe of months.
    counts: HashMap<u64, u64>,
    total: u64,
    last: Option<(usize, i64)>,
    grid: Option<Grid>,
}

/// The most common step, if it differs from the timeframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherStep {
    pub step: String,
    pub count: u64,
    pub total: u64,
}

impl StepCounts {
    /// Counts the step to the next valid row. `grid` is that of the series, `None` if its timeframe has no fixed
    /// length.
    pub fn push(&mut self, file: usize, ts: i64, grid: Option<Grid>) {
        let Some(grid) = grid else { return };
        self.grid = Some(grid);
        let position = match grid {
            Grid::Fixed { .. } => ts,
            Grid::Months { .. } => grid.bucket_of(ts),
        };
        let last = self.last.replace((file, position));
        let Some((_, last)) = last.filter(|(of, last)| *of == file && *last != position) else { return };
        self.total += 1;
        let step = position.abs_diff(last);
        if self.counts.len() < STEPS_MAX || self.counts.contains_key(&step) {
            *self.counts.entry(step).or_default() += 1;
        }
    }

    /// The most common step, if it is not one interval of the timeframe. Between equally common steps the interval has
    /// precedence.
    pub fn contradiction(&self, unit: TimeUnit) -> Option<OtherStep> {
        let grid = self.grid.filter(|_| self.total >= STEPS_MIN)?;
        let interval = match grid {
            Grid::Fixed { length, .. } => length.unsigned_abs(),
            Grid::Months { .. } => 1,
        };
        let rank = |step: u64, count: u64| (count, step == interval, std::cmp::Reverse(step));
        let (step, count) =
            self.counts.iter().map(|(step, count)| (*step, *count)).max_by_key(|(step, count)| rank(*step, *count))?;
        let name = match grid {
            Grid::Fixed { .. } => duration(step, unit),
            Grid::Months { length, .. } => format!("{}M", step.saturating_mul(length.unsigned_abs())),
        };
        (step != interval).then_some(OtherStep { step: name, count, total: self.total })
    }
}

/// Ticks in the notation of timeframes, in the largest unit that divides them.
fn duration(ticks: u64, unit: TimeUnit) -> String {
    let per_second = unit.per_second().unsigned_abs();
    if !ticks.is_multiple_of(per_second) {
        return format!("{ticks} {}", unit.name());
    }
    let seconds = ticks / per_second;
    let units = [(604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let fits = units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length));
    fits.map_or_else(String::new, |(length, name)| format!("{}{name}", seconds / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Grid = Grid::Fixed { length: 60_000, phase: 0 };

    fn contradiction(grid: Grid, minutes: &[i64]) -> Option<String> {
        let mut steps = StepCounts::default();
        minutes.iter().for_each(|minute| steps.push(0, minute * 60_000, Some(grid)));
        steps.contradiction(TimeUnit::Ms).map(|found| format!("{} {} of {}", found.step, found.count, found.total))
    }

    #[test]
    fn the_most_common_step_decides() {
        assert_eq!(contradiction(MINUTE, &[0, 60, 120, 180]).as_deref(), Some("1h 3 of 3"));
        assert_eq!(contradiction(MINUTE, &[180, 120, 60, 0]).as_deref(), Some("1h 3 of 3"), "newest first");
        assert_eq!(contradiction(MINUTE, &[0, 1, 3, 10, 11, 400]), None, "gaps contradict nothing");
        assert_eq!(contradiction(MINUTE, &[0, 1, 3, 4, 6]), None, "the interval has precedence");
        assert_eq!(contradiction(MINUTE, &[0, 60, 120]), None, "too few");
        assert_eq!(contradiction(MINUTE, &[0, 5, 5, 10, 15]).as_deref(), Some("5m 3 of 3"), "repeats are not steps");
    }

    #[test]
    fn months_count_as_months() {
        let months = Grid::Months { length: 1, phase: 0, unit: TimeUnit::Ms };
        let day = 24 * 60;
        assert_eq!(contradiction(months, &[0, 31 * day, 59 * day, 90 * day]), None);
        assert_eq!(contradiction(months, &[0, 90 * day, 181 * day, 273 * day]).as_deref(), Some("3M 3 of 3"));
    }

    #[test]
    fn steps_across_files_do_not_count() {
        let mut steps = StepCounts::default();
        (0..8).for_each(|at| steps.push(usize::try_from(at).unwrap(), at * 7 * 60_000, Some(MINUTE)));
        assert_eq!(steps.contradiction(TimeUnit::Ms), None);
    }
}
