//! When rows become known.
//!
//! A bar is stamped with its first moment and known after its last one: at `ts` and the length of its interval. A row of
//! a series without intervals, such as a trade, is known at its `ts`.

use std::sync::Arc;

use crate::types::{Grid, TimeBuckets};

/// When the rows of a series become known, by their timestamps.
#[derive(Clone, Debug)]
pub enum RowsKnown {
    /// This long after `ts`.
    After(i64),
    /// At the end of the interval of a calendar.
    Interval(Grid),
    /// At the end of the bucket.
    Bucket(Arc<TimeBuckets>),
}

impl RowsKnown {
    /// The rows of a series with these intervals, if any.
    pub fn of_grid(grid: Option<Grid>) -> Self {
        match grid {
            None => Self::After(0),
            Some(Grid::Fixed { length, .. }) => Self::After(length),
            Some(months) => Self::Interval(months),
        }
    }

    /// When the rows of these timestamps become known.
    pub fn moments(&self, timestamps: &[i64]) -> Vec<i64> {
        match self {
            Self::After(0) => timestamps.to_vec(),
            Self::After(length) => timestamps.iter().map(|ts| ts.saturating_add(*length)).collect(),
            Self::Interval(grid) => timestamps.iter().map(|ts| end_of(grid, *ts)).collect(),
            Self::Bucket(buckets) => {
                let mut walk = buckets.walk();
                timestamps.iter().map(|ts| walk.at(*ts).end).collect()
            }
        }
    }

    /// When a row of a timestamp becomes known.
    pub fn moment(&self, ts: i64) -> i64 {
        match self {
            Self::After(length) => ts.saturating_add(*length),
            Self::Interval(grid) => end_of(grid, ts),
            Self::Bucket(buckets) => buckets.walk().at(ts).end,
        }
    }

    /// A timestamp before which all rows are known before a moment.
    pub fn first_ts(&self, moment: i64) -> i64 {
        match self {
            Self::After(length) => moment.saturating_sub(*length),
            Self::Interval(grid) => grid.start_of(grid.bucket_of(moment.saturating_sub(1))),
            Self::Bucket(buckets) => {
                let before = moment.saturating_sub(1);
                buckets.walk().at(before).start.min(before)
            }
        }
    }

    /// A timestamp after which no row is known at a moment.
    pub fn last_ts(&self, moment: i64) -> i64 {
        match self {
            Self::After(length) => moment.saturating_sub(*length),
            Self::Interval(_) | Self::Bucket(_) => moment,
        }
    }
}

fn end_of(grid: &Grid, ts: i64) -> i64 {
    grid.end_of(grid.bucket_of(ts)).saturating_add(1)
}
