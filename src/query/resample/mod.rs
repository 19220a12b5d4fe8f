//! Resampling: the rows of a series combined to one row per time bucket.
//!
//! What is in a bucket follows from its borders and the rows between them. The range of a query selects buckets by their
//! start and never cuts one: the rows of the first and of the last bucket are read entirely.

pub mod aggregate;
pub mod fill;
pub mod fold;
pub mod resampling;
pub mod scan;
pub mod series_scan;
pub mod spec;
pub mod table;

pub use aggregate::{Aggregate, AggregateRule};
pub use resampling::Resampling;
pub use scan::BucketScan;
pub use spec::{FillRule, PartialRule, ResampleSpec};
