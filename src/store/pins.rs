//! Commits that a cursor or ticket names, kept readable for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::state::State;
use crate::planted::{Bug, planted};
use crate::sync::Mutex;

/// Most commits kept at once; beyond it the least recently used one goes early. A kept commit costs the tail rows
/// that were merged or sealed since, so their number is bounded.
const PINS_MAX: usize = 256;

/// The kept commits. See the head of this module.
#[derive(Debug)]
pub struct Pins {
    keep: Duration,
    pins: Mutex<BTreeMap<u64, Pin>>,
}

#[derive(Debug)]
struct Pin {
    state: Arc<State>,
    last_used: Instant,
}

impl Pins {
    pub fn new(keep_ms: u64) -> Self {
        Self { keep: Duration::from_millis(keep_ms), pins: Mutex::default() }
    }

    /// Keeps a state readable under its commit.
    pub fn keep(&self, state: &Arc<State>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        pins.retain(|_, pin| now.duration_since(pin.last_used) < self.keep);
        pins.insert(state.commit, Pin { state: Arc::clone(state), last_used: now });
        while pins.len() > PINS_MAX && !planted(Bug::PinsUnlimited) {
            let oldest = pins.iter().min_by_key(|(_, pin)| pin.last_used).map(|(commit, _)| *commit);
            match oldest {
                Some(commit) => pins.remove(&commit),
                None => break,
            };
        }
    }

    /// The kept state of a commit; asking for it keeps it longer.
    pub fn get(&self, commit: u64) -> Option<Arc<State>> {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = pins.get_mut(&commit).filter(|pin| pin.last_used.elapsed() < self.keep)?;
        pin.last_used = Instant::now();
        Some(Arc::clone(&pin.state))
    }

    /// Lets go of what is too old.
    pub fn expire(&self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|_, pin| pin.last_used.elapsed() < self.keep);
    }
}
