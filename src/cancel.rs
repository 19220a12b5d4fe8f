//! Cancellation: one flag for reads, operations and jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorCode, Result};

/// A flag that ends the work that shares it: scans check it between blocks, jobs between files.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Ends the work that shares the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the work has to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Ends a read.
    ///
    /// # Errors
    /// `deadline_exceeded` once [`CancelFlag::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorCode::DeadlineExceeded, "the read was cancelled before it finished"));
        }
        Ok(())
    }
}
