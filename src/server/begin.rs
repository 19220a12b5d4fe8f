//! Where the first part of an answer is made.
//!
//! Handing a small answer to another thread and back takes longer than making it. So what is known to wait for nothing
//! is made by the thread that has the request, and everything else by one that may wait for the disk.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Runs the first part of an answer; a panic in it becomes `internal`.
pub(super) async fn begin<T: Send + 'static>(
    is_quick: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    let caught = move || {
        let _in_span = span.entered();
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    };
    if is_quick {
        return caught();
    }
    let task = tokio::task::spawn_blocking(caught);
    task.await.unwrap_or_else(|error| Err(Error::internal(format!("a blocking task ended early: {error}"))))
}

/// The error of a panic: its message is for the log.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    Error::internal(format!("panic: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[tokio::test]
    async fn work_is_done_and_its_panic_is_an_error() {
        for is_quick in [true, false] {
            assert_eq!(begin(is_quick, || Ok(1)).await.unwrap(), 1);
            let error = begin(is_quick, || -> Result<()> { panic!("broken") }).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
            assert!(error.to_string().contains("broken"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_quick_work_stays_on_its_thread() {
        let here = std::thread::current().id();
        assert_eq!(begin(true, || Ok(std::thread::current().id())).await.unwrap(), here);
        assert_ne!(begin(false, || Ok(std::thread::current().id())).await.unwrap(), here);
    }
}
