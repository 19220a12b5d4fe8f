//! How much is tried, and how a failure is replayed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// So many of what is stated for 100 percent; at least one.
pub fn amount(stated: u64) -> u64 {
    (stated * setting("FASTK_PROOF").unwrap_or(1) / 100).max(1)
}

/// Runs cases until one after the other has tried `stated` (taken by [`amount`]); `case` gets a seed and gives how
/// many things it tried. Prints what was done, or how the failing case is run again.
pub fn cases(test: &str, what: &str, stated: u64, mut case: impl FnMut(u64) -> u64) {
    let begun = Instant::now();
    let replay = setting("FASTK_SEED");
    let wanted = if replay.is_some() { 1 } else { amount(stated) };
    // Each test has seeds of its own, the same ones in every run.
    let first = test.bytes().fold(0x5eed_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte))) << 24;
    let (mut tried, mut count) = (0, 0);
    while tried < wanted {
        let seed = replay.unwrap_or(first + count);
        match catch_unwind(AssertUnwindSafe(|| case(seed))) {
            Ok(more) => tried += more,
            Err(cause) => {
                println!(
                    "replay: FASTK_SEED={seed} cargo test --profile proof --no-default-features --test proof \
                     -- --exact {test}"
                );
                resume_unwind(cause);
            }
        }
        count += 1;
    }
    close(test, &format!("{tried} {what} in {count} cases"), begun);
}

/// Prints the closing line of a test.
pub fn close(test: &str, counts: &str, begun: Instant) {
    let name = test.rsplit("::").next().unwrap_or(test);
    println!("proof {name}: {counts}, {:.1} s", begun.elapsed().as_secs_f64());
}
