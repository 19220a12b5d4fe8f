//! Where the first part of an answer is made.
//!
//! Handing a small answer to another thread and back takes longer than making it. So what is known to wait for nothing
//! is made by the thread that has the request, and everything else by one that may wait for the disk.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::query::CancelFlag;
use crate::service::Permit;

tokio::task_local! {
    /// The place of the request or call that is being answered.
    pub(super) static PLACE: Arc<Permit>;
}

/// That place, for work that goes on when nobody waits for it any more: until its end it counts as under way.
pub(super) fn held() -> Option<Arc<Permit>> {
    PLACE.try_with(Arc::clone).ok()
}

/// Work for another thread that still belongs to the request that is being answered: it keeps its place until it ends,
/// and what it logs names the request.
pub(super) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let (place, span) = (held(), tracing::Span::current());
    move || {
        let _place = place;
        span.in_scope(work)
    }
}

/// Runs the first part of an answer; a panic in it becomes `internal`. What takes longer than `patience`, or is not waited
/// for any more, is told to `stop`.
///
/// # Errors
/// Those of the work; `deadline_exceeded`.
pub(super) async fn begin<T: Send + 'static>(
    is_quick: bool,
    patience: Duration,
    stop: CancelFlag,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let caught =
        carried(move || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
    if is_quick {
        return caught();
    }
    let mut waiting = CancelOnDrop(Some(stop));
    match tokio::time::timeout(patience, tokio::task::spawn_blocking(caught)).await {
        Ok(done) => {
            waiting.0 = None;
            done.unwrap_or_else(|error| Err(Error::internal(format!("a blocking task ended early: {error}"))))
        }
        Err(_) => Err(too_long(patience)),
    }
}

/// Tells the work to stop when nobody waits for it any more.
struct CancelOnDrop(Option<CancelFlag>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = &self.0 {
            stop.now();
        }
    }
}

/// The error of work on a request that took longer than it may.
pub(super) fn too_long(patience: Duration) -> Error {
    let detail = format!("the request was not done within {} ms", patience.as_millis());
    Error::new(ErrorCode::DeadlineExceeded, detail)
        .with_hint("ask for less at a time; a change may still be made: look, or repeat it under its idempotency key")
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

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn work_is_done_and_its_panic_is_an_error() {
        for is_quick in [true, false] {
            assert_eq!(begin(is_quick, LONG, CancelFlag::default(), || Ok(1)).await.unwrap(), 1);
            let error =
                begin(is_quick, LONG, CancelFlag::default(), || -> Result<()> { panic!("broken") }).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal);
            assert!(error.to_string().contains("broken"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_quick_work_stays_on_its_thread() {
        let here = std::thread::current().id();
        assert_eq!(begin(true, LONG, CancelFlag::default(), || Ok(std::thread::current().id())).await.unwrap(), here);
        assert_ne!(begin(false, LONG, CancelFlag::default(), || Ok(std::thread::current().id())).await.unwrap(), here);
    }

    #[tokio::test]
    async fn work_that_takes_too_long_or_is_given_up_is_told_to_stop() {
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
        let patience = Duration::from_millis(20);
        let error = begin(false, patience, stop.clone(), runs_until(stop, ended.clone())).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
        end.recv().unwrap();
        let stop = CancelFlag::default();
        let work = begin(false, LONG, stop.clone(), runs_until(stop, ended));
        assert!(tokio::time::timeout(patience, work).await.is_err());
        end.recv().unwrap();
    }
}
