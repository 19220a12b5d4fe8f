//! The engine alone: builds with `--no-default-features`, so that no server is linked.

mod claims;
mod coverage;
mod damage;
mod format_doc;
mod fuzz;
mod golden;
mod kills;
mod model;
mod promises;
mod steps;
mod streams;
