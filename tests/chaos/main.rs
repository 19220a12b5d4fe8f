//! The real program under faults: kills, power cuts, full disks, a second process, and clients that stall, vanish,
//! flood it or come in thousands.

#[path = "../shared/proof_amount.rs"]
mod proof_amount;

mod disk_full;
mod file_systems;
mod http2_floods;
mod kills;
mod memory;
mod power_cuts;
mod program;
mod saturation;
mod stalled_clients;
mod syscalls;
mod two_servers;
mod workload;
