//! Proofs on the simulated disk: the engine's own code under power cuts, failing operations and planted bugs.
//!
//! `FASTK_PROOF` is the amount in percent of what is stated at each test (1 when it is not set), `FASTK_SEED` replays
//! one case. In the plain dev profile this is slow: `cargo nextest run --cargo-profile proof --no-default-features
//! --test proof`.

mod amount;
mod damage;
mod faults;
mod order;
mod planted;
mod power;
mod recovery;
mod world;
