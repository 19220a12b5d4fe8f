//! Whether the directory of an open store is still there.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::facade::StoreInner;

/// Longest wait for a look to end: whoever asks how the store is gets an answer when the disk stalls.
const PATIENCE: Duration = Duration::from_millis(250);
/// A look that takes so long is a finding.
const STALLED: Duration = Duration::from_secs(10);

/// The look under way, and what the one before it found.
#[derive(Debug, Default)]
pub struct RootCheck(Mutex<(Option<Instant>, Option<String>)>);

impl StoreInner {
    fn looking(&self) -> MutexGuard<'_, (Option<Instant>, Option<String>)> {
        self.looking.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the directory is not the one that was opened, or does not answer.
    pub fn root_lost(self: &Arc<Self>) -> Option<String> {
        let mut looking = self.looking();
        if let (Some(begun), before) = &*looking {
            let waited = begun.elapsed();
            let stalled = waited >= STALLED;
            let stall = stalled.then(|| format!("the disk has not answered for {} s", waited.as_secs()));
            return stall.or_else(|| before.clone());
        }
        let inner = Arc::clone(self);
        let (tell, told) = channel();
        let look = move || {
            let problem = inner.lock.problem();
            *inner.looking() = (None, problem.clone());
            // The store may be closed as soon as somebody knows.
            drop(inner);
            let _ = tell.send(problem);
        };
        looking.0 = Some(Instant::now());
        let before = looking.1.clone();
        drop(looking);
        if std::thread::Builder::new().name("fastk-root".into()).spawn(look).is_err() {
            self.looking().0 = None;
            return before;
        }
        match told.recv_timeout(PATIENCE) {
            Ok(problem) => problem,
            Err(_) => before,
        }
    }
}
