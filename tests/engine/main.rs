//! The engine alone: builds with `--no-default-features`, so that no server is linked.

mod backup;
mod claims;
mod coverage;
mod format_doc;
mod kills;
mod model;
mod promises;
mod steps;
mod streams;
