//! What is fuzzed: one function a target, which takes any bytes and must come back.
//!
//! The same functions run under cargo-fuzz (`tests/fuzz/fuzz_targets/`) and, without nightly, as tests (`rounds.rs`).

/// A file as text, when every byte of it is as it was written.
pub type Strict = fn(&[u8]) -> Option<String>;

/// One fuzz target.
pub struct Target {
    pub name: &'static str,
    /// Takes any bytes. A panic is a finding.
    pub run: fn(&[u8]),
    /// A mutated file is refused or is one of the seeds.
    pub strict: Option<Strict>,
    /// Makes the checksums right again, so that the code behind them is reached.
    pub fix: Option<fn(&mut [u8])>,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that may be held for each byte of input, beside [`MEMORY_FREE`].
    pub memory_factor: usize,
    /// Whether panics of a library are caught on the way, which is then no finding.
    pub catches_panics: bool,
}

/// Bytes any target may hold, however small its input.
pub const MEMORY_FREE: usize = 64 << 10;
