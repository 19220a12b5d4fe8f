//! Time: units, partitions' borders, and text in both directions.
//!
//! Timestamps are UTC epoch integers in the unit of the series. Ranges are closed.

use serde::{Deserialize, Serialize};

/// Unit of the timestamps of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    #[default]
    Ms,
    Us,
    Ns,
}

impl TimeUnit {
    /// Ticks in a second.
    pub fn per_second(self) -> i64 {
        match self {
            TimeUnit::Ms => 1_000,
            TimeUnit::Us => 1_000_000,
            TimeUnit::Ns => 1_000_000_000,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        }
    }

    /// First valid timestamp: 1678-01-01T00:00:00Z.
    pub fn min_ts(self) -> i64 {
        MIN_SECOND * self.per_second()
    }

    /// Last valid timestamp: the last tick of 2261-12-31.
    pub fn max_ts(self) -> i64 {
        (MAX_SECOND + 1) * self.per_second() - 1
    }
}

/// 1678-01-01T00:00:00Z in seconds.
pub const MIN_SECOND: i64 = -9_214_560_000;
/// 2261-12-31T23:59:59Z in seconds.
pub const MAX_SECOND: i64 = 9_214_646_399;

/// Which end of a closed range a text stands for: it decides the meaning of a bare date and of finer digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Start,
    End,
}
