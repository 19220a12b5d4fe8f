//! The amount of a proof to run, the seed of its random choices, and its summary line.
//!
//! Every proof states an amount. `FASTK_PROOF` is the percentage of it to run (1 when unset); for the proof `name`
//! `FASTK_NAME_ROUNDS` sets the amount, `FASTK_NAME_SECONDS` a duration instead, `FASTK_NAME_SEED` the seed.

use std::time::{Duration, Instant};

/// One run of a proof.
#[derive(Debug)]
pub struct Proof {
    name: &'static str,
    rounds: u64,
    until: Option<Instant>,
    started_at: Instant,
    pub seed: u64,
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The percentage of the stated amounts to run.
pub fn percent() -> f64 {
    setting("FASTK_PROOF").unwrap_or(1.0)
}

impl Proof {
    /// The proof of this name, with its stated amount.
    pub fn new(name: &'static str, stated: u64) -> Self {
        let of = |what: &str| format!("FASTK_{}_{what}", name.to_uppercase());
        let share = (stated as f64 * percent() / 100.0).ceil() as u64;
        let seconds: Option<u64> = setting(&of("SECONDS"));
        let rounds = setting(&of("ROUNDS")).unwrap_or(if seconds.is_some() { u64::MAX } else { share.max(1) });
        let started_at = Instant::now();
        let until = seconds.map(|seconds| started_at + Duration::from_secs(seconds));
        Self { name, rounds, until, started_at, seed: setting(&of("SEED")).unwrap_or(1) }
    }

    /// The maximum number of rounds.
    #[allow(dead_code)] // Not every proof knows its rounds in advance.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Whether another round follows after `done` rounds.
    pub fn continues(&self, done: u64) -> bool {
        done < self.rounds && self.until.is_none_or(|until| Instant::now() < until)
    }

    /// The command that replays the proof up to this round.
    pub fn replay(&self, round: u64) -> String {
        let (name, upper) = (self.name, self.name.to_uppercase());
        let rounds = round + 1;
        format!(
            "round {round}; replay: FASTK_{upper}_SEED={} FASTK_{upper}_ROUNDS={rounds} cargo nextest run {name}",
            self.seed
        )
    }

    /// Prints the summary line.
    pub fn close(&self, counts: impl std::fmt::Display) {
        println!("proof {}: {counts}; seed {}, {:.1} s", self.name, self.seed, self.started_at.elapsed().as_secs_f64());
    }

    #[allow(dead_code)] // Proofs of the engine run on every machine.
    /// Prints that the proof cannot run on this machine.
    pub fn skip(&self, why: impl std::fmt::Display) {
        println!("proof {}: SKIPPED: {why}", self.name);
    }
}
