//! Whether the directory of an open store still exists.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::Lock;

/// Longest wait for a check to end: health requests get a response even when the disk stalls.
const CHECK_TIMEOUT: Duration = Duration::from_millis(250);
/// A check that takes longer is a problem itself.
const STALLED: Duration = Duration::from_secs(10);

/// Checks the directory, one check at a time.
#[derive(Debug)]
pub struct RootCheck(Arc<Check>);

#[derive(Debug)]
struct Check {
    lock: Arc<Lock>,
    /// Start of the check in progress, and the result of the one before it.
    found: Mutex<(Option<Instant>, Option<String>)>,
}

impl Check {
    fn found(&self) -> MutexGuard<'_, (Option<Instant>, Option<String>)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RootCheck {
    pub fn new(lock: Arc<Lock>) -> Self {
        Self(Arc::new(Check { lock, found: Mutex::default() }))
    }

    /// Why the directory is not the one that was opened, or does not respond.
    pub fn problem(&self) -> Option<String> {
        let mut found = self.0.found();
        if let (Some(started), before) = &*found {
            let waited = started.elapsed();
            let stalled = waited >= STALLED;
            let stall = stalled.then(|| format!("the disk has not responded for {} s", waited.as_secs()));
            return stall.or_else(|| before.clone());
        }
        let check = Arc::clone(&self.0);
        let (sender, receiver) = channel();
        let work = move || {
            let problem = check.lock.problem();
            *check.found() = (None, problem.clone());
            // The store may be closed as soon as the result is known.
            drop(check);
            let _ = sender.send(problem);
        };
        found.0 = Some(Instant::now());
        let before = found.1.clone();
        drop(found);
        if std::thread::Builder::new().name("fastk-root".into()).spawn(work).is_err() {
            self.0.found().0 = None;
            return before;
        }
        match receiver.recv_timeout(CHECK_TIMEOUT) {
            Ok(problem) => problem,
            Err(_) => before,
        }
    }
}
