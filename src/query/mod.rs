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

pub use answer::{Block, NumberFormat, ResultColumn, ResultSchema, SeriesIndexes, Subject, Verbatim};
pub use many::{MultiScan, ScanMember};
pub use predicate::{KeyRanges, Operator, Predicate};
pub use reader::{RowStream, Select, StoreReader};
pub use request::{MultiLayout, Query, RowOrder, TimeValue};
pub use scan::{IndexUsed, Scan, ScanSpec, ScanStats, latest_start, latest_start_until};
pub use stop::CancelFlag;
