//! `fastk bridge`: the ten JSON commands of the fastk_bridge contract 0.1.0-rc.1, for programs that call FastK as a
//! subprocess.
//!
//! Invariants:
//! - Standard output is one JSON object on one line: the result, or `{"ok":false,"error":{…}}` with a non-zero exit
//!   status. All other text goes to standard error.
//! - Numbers are scaled integers and never pass through a double.
//! - The same call prints the same bytes whether it opens the store or goes through the server that owns it.

mod args;
pub mod contract;
mod klines;
mod predicate;
mod rows;
mod run;
mod scalars;
mod schemas;
mod series;

pub use run::{BridgeArgs, fail, run};
pub use schemas::schemas;
