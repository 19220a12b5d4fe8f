//! Questions and answers: the query object, the scan that merges chunks and tail, and the blocks it yields.

pub mod answer;
pub mod coverage;
pub mod predicate;
pub mod request;
pub mod scan;

pub use answer::{Block, Numbers, Shape, Verbatim};
pub use predicate::{KeyRanges, Operator, Predicate};
pub use request::{Order, Query, When};
pub use scan::{IndexUsed, Scan, ScanSpec, ScanStats, latest_start};
