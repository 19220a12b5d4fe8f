//! Times as text.

use crate::types::{TimeUnit, time};

/// A time as text.
pub fn rfc3339(wall_ms: i64) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(&mut text, wall_ms, TimeUnit::Ms);
    String::from_utf8_lossy(&text).into_owned()
}
