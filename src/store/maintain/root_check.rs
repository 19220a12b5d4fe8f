//! Whether the directory of an open store is still there.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::Lock;

/// Longest wait for a look to end: whoever asks how the store is gets an answer when the disk stalls.
const PATIENCE: Duration = Duration::from_millis(250);
/// A look that takes so long is a finding.
const STALLED: Duration = Duration::from_secs(10);

/// Looks at the directory, one look at a time.
#[derive(Debug)]
pub struct RootCheck(Arc<Look>);

#[derive(Debug)]
struct Look {
    lock: Arc<Lock>,
    /// The look under way, and what the one before it found.
    found: Mutex<(Option<Instant>, Option<String>)>,
}

impl Look {
    fn found(&self) -> MutexGuard<'_, (Option<Instant>, Option<String>)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RootCheck {
    pub fn new(lock: Arc<Lock>) -> Self {
        Self(Arc::new(Look { lock, found: Mutex::default() }))
    }

    /// Why the directory is not the one that was opened, or does not answer.
    pub fn problem(&self) -> Option<String> {
        let mut found = self.0.found();
        if let (Some(begun), before) = &*found {
            let waited = begun.elapsed();
            let stalled = waited >= STALLED;
            let stall = stalled.then(|| format!("the disk has not answered for {} s", waited.as_secs()));
            return stall.or_else(|| before.clone());
        }
        let look = Arc::clone(&self.0);
        let (tell, told) = channel();
        let work = move || {
            let problem = look.lock.problem();
            *look.found() = (None, problem.clone());
            // The store may be closed as soon as somebody knows.
            drop(look);
            let _ = tell.send(problem);
        };
        found.0 = Some(Instant::now());
        let before = found.1.clone();
        drop(found);
        if std::thread::Builder::new().name("fastk-root".into()).spawn(work).is_err() {
            self.0.found().0 = None;
            return before;
        }
        match told.recv_timeout(PATIENCE) {
            Ok(problem) => problem,
            Err(_) => before,
        }
    }
}
