//! The real program from outside: killed, cut off from its disk, on a full one, beside another one, among clients that
//! stall or vanish.

#[path = "../shared/proof.rs"]
mod proof;

mod clients;
mod full;
mod kills;
mod load;
mod mounts;
mod power;
mod program;
mod saturated;
mod syscalls;
mod two;
