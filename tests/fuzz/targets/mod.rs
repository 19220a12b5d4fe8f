//! Fuzz targets: one function per target, which accepts any bytes and must return.
//!
//! The same functions run under cargo-fuzz (`tests/fuzz/fuzz_targets/`) and, without nightly, as tests (`rounds.rs`).

/// A file as text if it decodes without damage.
pub type Strict = fn(&[u8]) -> Option<String>;

/// One fuzz target.
pub struct Target {
    pub name: &'static str,
    /// Accepts any bytes. A panic is a finding.
    pub run: fn(&[u8]),
    /// A mutated file is refused or is one of the seeds.
    pub strict: Option<Strict>,
    /// Corrects the checksums, so that the code after them is reached.
    pub fix: Option<fn(&mut [u8])>,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Allowed allocation per byte of input, in addition to [`MEMORY_FREE`].
    pub memory_factor: usize,
    /// Whether panics of a library are caught, which are then no findings.
    pub catches_panics: bool,
}

/// Bytes that any target may allocate, for any size of input.
pub const MEMORY_FREE: usize = 64 << 10;
