//! Proofs on the simulated disk: the engine's own code under power cuts, failing operations and planted bugs.
//!
//! `FASTK_PROOF` is the amount in percent of what is stated at each test (1 when it is not set), `FASTK_SEED` replays
//! one case. In the plain dev profile this is slow: `cargo nextest run --cargo-profile proof --no-default-features
//! --test proof`.

mod bit_flips;
mod disk_faults;
mod planted_faults;
mod power_cuts;
mod recovery;
mod rounds;
mod sync_order;
mod world;
