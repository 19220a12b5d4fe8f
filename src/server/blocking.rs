//! Runs blocking work for both protocols, inline or on a blocking thread.
//!
//! Handing a small response to another thread and back takes longer than producing it. Work known not to block
//! therefore runs on the thread that has the request, all other work on a blocking thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result, panic_message};
use crate::service::Permit;

tokio::task_local! {
    /// The permit of the request or call in progress.
    pub(super) static PERMIT: Arc<Permit>;
}

/// The permit of the current request, for work that continues after the client is gone: it counts as in flight until it
/// ends.
pub(super) fn current_permit() -> Option<Arc<Permit>> {
    PERMIT.try_with(Arc::clone).ok()
}

/// Wraps work for another thread: it holds the permit of the current request until it ends, and its log lines name the
/// request.
fn with_request_context<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let (permit, span) = (current_permit(), tracing::Span::current());
    move || {
        let _permit = permit;
        span.in_scope(work)
    }
}

/// Runs work on a blocking thread. It holds the permit of its request until it ends, even after the client is gone.
///
/// # Errors
/// Those of the work; `internal` for a panic, `not_ready` when the runtime ends before the work begins.
pub(super) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(with_request_context(work)).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(panicked(error.into_panic().as_ref())),
        Err(_) => Err(Error::new(ErrorCode::NotReady, "the server is shutting down")),
    }
}

/// Runs work on a blocking thread and waits for it at most for `timeout`; work that has begun is not interrupted.
///
/// # Errors
/// Those of [`on_thread`]; `deadline_exceeded`.
pub(super) async fn within<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    in_time(timeout, on_thread(work)).await
}

/// Waits for work at most for `timeout`; it ends when it is dropped.
///
/// # Errors
/// Those of the work; `deadline_exceeded`.
pub(super) async fn in_time<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(deadline_exceeded(timeout)))
}

/// Runs the first part of a response; a panic in it becomes `internal`. Work that exceeds `timeout`, or whose request
/// is dropped, is cancelled through `stop`.
///
/// # Errors
/// Those of the work; `deadline_exceeded`.
pub(super) async fn run<T: Send + 'static>(
    is_quick: bool,
    timeout: Duration,
    stop: CancelFlag,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_quick {
        return catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    }
    let mut guard = CancelOnDrop(Some(stop));
    let result = tokio::time::timeout(timeout, on_thread(work)).await;
    if result.is_ok() {
        guard.0 = None;
    }
    result.unwrap_or_else(|_| Err(deadline_exceeded(timeout)))
}

/// Cancels the work when the future guard for it is dropped.
struct CancelOnDrop(Option<CancelFlag>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop.cancel();
        }
    }
}

/// The error of a request that exceeded its processing time.
fn deadline_exceeded(timeout: Duration) -> Error {
    let detail = format!("the request did not finish within {} ms", timeout.as_millis());
    Error::new(ErrorCode::DeadlineExceeded, detail).with_hint(
        "request less at a time; a change may still be applied: check, or repeat it with its idempotency key",
    )
}

/// The error of a panic; its message goes only to the log.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    Error::internal(format!("panic: {}", panic_message(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn work_returns_its_result_and_a_panic_is_an_error() {
        for is_quick in [true, false] {
            assert_eq!(run(is_quick, HOUR, CancelFlag::default(), || Ok(1)).await.unwrap(), 1);
            let error =
                run(is_quick, HOUR, CancelFlag::default(), || -> Result<()> { panic!("broken") }).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
            assert!(error.to_string().contains("broken"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_quick_work_runs_inline() {
        let here = std::thread::current().id();
        assert_eq!(run(true, HOUR, CancelFlag::default(), || Ok(std::thread::current().id())).await.unwrap(), here);
        assert_ne!(run(false, HOUR, CancelFlag::default(), || Ok(std::thread::current().id())).await.unwrap(), here);
    }

    #[tokio::test]
    async fn work_that_times_out_or_is_dropped_is_cancelled() {
        let runs_until = |stop: CancelFlag, ended: std::sync::mpsc::Sender<()>| {
            move || -> Result<()> {
                while stop.check().is_ok() {
                    std::thread::yield_now();
                }
                ended.send(()).map_err(|error| Error::internal(error.to_string()))
            }
        };
        let (ended, end) = std::sync::mpsc::channel();
        let stop = CancelFlag::default();
        let timeout = Duration::from_millis(20);
        let error = run(false, timeout, stop.clone(), runs_until(stop, ended.clone())).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
        end.recv().unwrap();
        let stop = CancelFlag::default();
        let work = run(false, HOUR, stop.clone(), runs_until(stop, ended));
        assert!(tokio::time::timeout(timeout, work).await.is_err());
        end.recv().unwrap();
    }
}
