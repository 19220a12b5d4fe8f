//! The wall clock. Nothing is ordered by it.

/// Milliseconds since the epoch, for display and for ages only: nothing is ordered by it.
pub fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
