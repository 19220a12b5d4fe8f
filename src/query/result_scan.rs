//! The scan of any plan: rows as they are stored, combined to buckets, or side by side.

use crate::error::Result;
use crate::query::multi::{MultiScan, PagePosition};
use crate::query::panel::PanelScan;
use crate::query::resample::BucketScan;
use crate::query::scan::ScanStats;
use crate::store::Block;

/// Rows of a plan, block by block.
#[derive(Debug)]
pub enum ResultScan {
    /// Stored rows.
    Rows(Box<MultiScan>),
    /// Rows of buckets.
    Buckets(Box<BucketScan>),
    /// Rows of a panel.
    Panel(Box<PanelScan>),
}

impl ResultScan {
    /// Where the first row beyond the limit is, once the scan has ended; `None` without one.
    pub fn next_position(&self) -> Option<PagePosition> {
        match self {
            Self::Rows(scan) => scan.next_position(),
            Self::Buckets(scan) => scan.next_position(),
            Self::Panel(scan) => scan.next_position(),
        }
    }

    /// Statistics of the scan so far, over all series.
    pub fn stats(&self) -> ScanStats {
        match self {
            Self::Rows(scan) => scan.stats(),
            Self::Buckets(scan) => scan.stats(),
            Self::Panel(scan) => scan.stats(),
        }
    }
}

impl Iterator for ResultScan {
    type Item = Result<Block>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Rows(scan) => scan.next(),
            Self::Buckets(scan) => scan.next(),
            Self::Panel(scan) => scan.next(),
        }
    }
}
