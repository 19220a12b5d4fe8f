//! SQL over the series of a store, by DataFusion.
//!
//! There is one table per kind and timeframe, such as `klines_1m(symbol, ts, open, …)`. A statement reads one view of
//! the store, and of it only what its caller can see.
//!
//! Invariants:
//! 1. A statement only reads: no definition, no write, no file, no setting beyond `fastk.as_of`.
//! 2. Decimals are `Decimal128` inside: the engine of SQL truncates and wraps narrower ones without an error.
//! 3. What a scan declares of its rows (order, partitions, counts, bounds) is exact. It declares one order, never two.
//! 4. Memory, time and number of statements are limited, and statements run on threads of their own.

mod asof;
mod asof_exec;
mod batches;
mod catalog;
mod columns;
mod consecutive;
mod doubles;
mod engine;
mod failure;
mod filter;
mod first_last;
mod functions;
mod index;
mod memory;
mod parameters;
mod planner;
mod queries;
mod refine;
mod rows;
mod runs;
mod scan;
mod series_table;
mod settings;
mod slices;
mod statement;
mod system;
mod table;
mod table_functions;
mod table_keys;
#[cfg(test)]
mod tests;
mod times;
mod view;
mod watch;
mod wide;
mod wide_exec;

pub use batches::{WireNumbers, WireTypes, column_type};
pub use catalog::{CATALOG, ListedTable, PUBLIC, SYSTEM};
pub use engine::{QueryCanceller, SqlEngine, SqlRequest, SqlRows, StatementInfo};
pub use parameters::SqlParameters;
pub use queries::{QueryOwner, QueryStatus, RunningQuery};
pub use settings::SqlSettings;
pub use table_keys::TableKeys;
pub use view::{SeesSeries, SqlView, SystemTable, ViewSource};
