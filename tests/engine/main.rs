//! The engine alone: builds with `--no-default-features`, so that no server is linked.

mod coverage;
mod format_doc;
mod model;
mod promises;
