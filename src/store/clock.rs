//! The wall clock. Nothing is ordered by it.

use std::time::Instant;

use crate::types::width::narrow;

/// Milliseconds since the epoch, for display and for ages only: nothing is ordered by it.
pub fn wall_ms() -> i64 {
    // A clock before the epoch counts as the epoch.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    narrow(now.as_millis())
}

/// Milliseconds since a moment, for display.
pub fn elapsed_ms(begun: Instant) -> u64 {
    narrow(begun.elapsed().as_millis())
}
