//! Queries and results: the query object, the scan that merges chunks and tail, and the blocks it yields.

pub mod cancel;
pub mod coverage;
pub mod multi;
pub mod predicate;
pub mod reader;
pub mod request;
pub mod result;
pub mod scan;
pub mod select;

pub use crate::store::{Block, SeriesIndexes, StoredMessage};
pub use cancel::CancelFlag;
pub use multi::{MultiScan, ScanMember};
pub use predicate::{KeyRanges, Operator, Predicate};
pub use reader::{RowStream, Select, StoreReader};
pub use request::{MultiLayout, Query, RowOrder, TimeValue};
pub use result::{NumberFormat, ResultColumn, ResultSchema, Subject};
pub use scan::{IndexUsed, Scan, ScanSpec, ScanStats, latest_start, latest_start_until};
