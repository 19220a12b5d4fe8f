//! Ends scans from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorCode, Result};

/// Tells the scans that share it to end; they look between blocks. The default is never told.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Ends the scans.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `deadline_exceeded` once it was told.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorCode::DeadlineExceeded, "the read was stopped before it was done"));
        }
        Ok(())
    }
}
