//! The engine alone: builds with `--no-default-features`, so that no server is linked.

#[path = "../shared/case_amount.rs"]
mod case_amount;
#[path = "../shared/hooked_disk.rs"]
mod hooked_disk;
#[path = "../shared/proof_amount.rs"]
mod proof_amount;
#[path = "../shared/sim_disk.rs"]
mod sim_disk;

mod backup;
mod concurrent_open;
mod conditions;
mod coverage;
mod cuts;
mod damage;
mod embed;
mod finding_fixes;
mod format_doc;
mod fuzz;
mod golden;
mod golden_damage;
mod golden_types;
mod guarantees;
mod kills;
mod kinds;
mod known_defects;
mod maintenance_crashes;
mod model;
mod pages;
mod panels;
mod record_damage;
mod records;
mod repair;
mod resample;
mod slices;
mod streams;
mod verify;
