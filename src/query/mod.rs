//! Queries and results: the query object, the planner, and the scan that merges chunks and tail into blocks.

pub mod columns;
pub mod condition;
pub mod coverage;
pub mod limit;
mod multi;
pub mod panel;
pub mod plan;
pub mod predicate;
pub mod range;
pub mod reader;
pub mod request;
pub mod resample;
pub mod result;
pub mod result_scan;
pub mod scan;
pub mod select;

pub use crate::store::{Block, SeriesIndexes, StoredMessage};
pub use condition::Condition;
pub use limit::{LimitTies, RowLimit};
pub use multi::{MultiScan, PagePosition, RowSubject, ScanMember};
pub use panel::{AsOfJoin, KnownAt, PanelJoin, PanelScan};
pub use plan::{Planner, RangeSpec, ReadPlan, RowSpec};
pub use predicate::{Operator, Predicate};
pub use range::ClosedRange;
pub use reader::{RowStream, Select, StoreReader};
pub use request::{MultiLayout, Query, RowOrder, TimeValue};
pub use resample::{FillRule, PartialRule, ResampleSpec};
pub use result::{NumberFormat, ResultColumn, ResultSchema, Subject};
pub use result_scan::ResultScan;
pub use scan::{IndexUsed, Scan, ScanSpec, ScanStats, latest_start, latest_start_until};
