//! The engine alone: builds with `--no-default-features`, so that no server is linked.

#[path = "../shared/hooked.rs"]
mod hooked;
#[path = "../shared/proof.rs"]
mod proof;

mod backup;
mod claims;
mod coverage;
mod cuts;
mod damage;
mod embed;
mod format_doc;
mod fuzz;
mod golden;
mod golden_damage;
mod kills;
mod model;
mod openers;
mod promises;
mod repair;
mod settled;
mod steps;
mod streams;
mod verify;
