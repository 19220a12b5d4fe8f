//! Library decoders can panic on hostile bytes: the panic becomes an error.

use crate::error::{Error, Result};

/// Runs a library decoder and converts its panics on hostile bytes to errors.
pub(super) fn guarded<T>(what: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    // All state the closure changed is dropped with the error, so no broken state is visible afterwards.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::invalid(format!("{what} body is malformed"))))
}
