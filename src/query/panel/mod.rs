//! Panels: several series side by side, one row per timestamp and one column per series and field.
//!
//! Series of any kinds meet in one table, as they are or combined to buckets. The rows are merged as streams: memory
//! does not grow with them.

pub mod columns;
pub mod join;
pub mod known;
pub mod scan;

pub use columns::PanelColumns;
pub use join::{AsOfJoin, ExactJoin, KnownAt, PanelJoin};
pub use scan::{Panel, PanelScan};
