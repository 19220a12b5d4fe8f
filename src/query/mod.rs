//! Questions and answers: the query object, the scan that merges chunks and tail, and the blocks it yields.

pub mod answer;
pub mod coverage;
pub mod many;
pub mod predicate;
pub mod reader;
pub mod request;
pub mod scan;
pub mod select;
pub mod stop;

pub use answer::{Block, Labels, Numbers, OutColumn, Shape, Subject, Verbatim};
pub use many::{ManyScan, Member};
pub use predicate::{KeyRanges, Operator, Predicate};
pub use reader::{Answer, Reader, Select};
pub use request::{Layout, Order, Query, When};
pub use scan::{IndexUsed, Scan, ScanSpec, ScanStats, latest_start, latest_start_until};
pub use stop::Stop;
