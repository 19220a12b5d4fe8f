//! Proofs on the simulated disk: the engine's own code under power cuts and failing operations.
//!
//! `FASTK_PROOF` is the percentage of the amount stated at each test (1 when unset), `FASTK_SEED` replays one case. The
//! dev profile is slow, so use `cargo nextest run --cargo-profile proof --no-default-features --test proof`.

mod bit_flips;
mod disk_faults;
mod power_cuts;
mod recovery;
mod rounds;
#[path = "../shared/sim_disk.rs"]
mod sim_disk;
mod sync_order;
mod world;
