//! Every planted fault makes a proof fail. Built in the copy of the package that `copy.py` makes:
//!
//! ```sh
//! cargo nextest run --manifest-path "$(tests/faults/copy.py)/Cargo.toml" --cargo-profile proof --no-default-features \
//!     --test faults -E 'test(/^detection::/)'
//! ```

#[path = "../proof/bit_flips.rs"]
mod bit_flips;
#[path = "../shared/case_amount.rs"]
mod case_amount;
mod detection;
#[path = "../proof/disk_faults.rs"]
mod disk_faults;
#[path = "../proof/power_cuts.rs"]
mod power_cuts;
#[allow(dead_code, reason = "amounts are used, proofs that run for a time are not")]
#[path = "../shared/proof_amount.rs"]
mod proof_amount;
#[allow(dead_code, reason = "some helpers are for other tests of the engine")]
#[path = "../engine/records.rs"]
mod records;
#[path = "../proof/recovery.rs"]
mod recovery;
#[path = "../proof/rounds.rs"]
mod rounds;
#[path = "../shared/sim_disk.rs"]
mod sim_disk;
#[path = "../engine/slices.rs"]
mod slices;
#[path = "../proof/sync_order.rs"]
mod sync_order;
#[path = "../proof/world.rs"]
mod world;
