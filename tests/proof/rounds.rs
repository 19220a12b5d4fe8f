//! The amount to try, and the replay of failures.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The share of the amount stated for 100 percent; at least 1.
pub fn amount(stated: u64) -> u64 {
    (stated * setting("FASTK_PROOF").unwrap_or(1) / 100).max(1)
}

/// Runs cases until they have tried [`amount`] of `stated`; `case` gets a seed and returns the number of its tries.
/// Prints the summary line, or the command that replays the failed case.
pub fn cases(test: &str, what: &str, stated: u64, mut case: impl FnMut(u64) -> u64) {
    let started_at = Instant::now();
    let replay = setting("FASTK_SEED");
    let expected = if replay.is_some() { 1 } else { amount(stated) };
    // Each test has its own seeds, the same in every run.
    let first = test.bytes().fold(0x5eed_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte))) << 24;
    let (mut tried, mut count) = (0, 0);
    while tried < expected {
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
    close(test, &format!("{tried} {what} in {count} cases"), started_at);
}

/// Prints the summary line of a test.
pub fn close(test: &str, counts: &str, started_at: Instant) {
    let name = test.rsplit("::").next().unwrap_or(test);
    println!("proof {name}: {counts}, {:.1} s", started_at.elapsed().as_secs_f64());
}
