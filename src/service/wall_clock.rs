//! Times in milliseconds since the epoch as RFC 3339 text.

use crate::types::{TimeUnit, time};

/// The RFC 3339 text of a time in milliseconds since the epoch.
pub fn rfc3339(wall_ms: i64) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(&mut text, wall_ms, TimeUnit::Ms);
    String::from_utf8_lossy(&text).into_owned()
}
