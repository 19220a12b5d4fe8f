//! The amount of cases of a random test.

/// The amount that a variable sets, or `default`.
pub fn amount(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
