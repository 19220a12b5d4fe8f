//! The version of the formats of a data directory.

/// Format version of a data directory, stored in `FORMAT`.
pub const FORMAT_VERSION: u32 = 2;
