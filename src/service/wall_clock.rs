//! The wall clock, for display only: no order depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::width::narrow;
use crate::types::{TimeUnit, time};

/// Milliseconds since the epoch.
pub fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    narrow(now.as_millis())
}

/// A time as text.
pub fn rfc3339(wall_ms: i64) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(&mut text, wall_ms, TimeUnit::Ms);
    String::from_utf8_lossy(&text).into_owned()
}
