//! The real program from outside: killed, cut off from its disk, on a full one, beside another one, among clients that
//! stall, vanish, flood it or come in thousands.

#[path = "../shared/proof.rs"]
mod proof;

mod clients;
mod floods;
mod full;
mod kills;
mod load;
mod memory;
mod mounts;
mod power;
mod program;
mod saturated;
mod syscalls;
mod two;
