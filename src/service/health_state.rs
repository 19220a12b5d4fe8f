//! What health remembers between two calls: the findings of the last check, and since when each problem exists.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::service::wall_clock::rfc3339;

/// Findings of the last check, until a check is clean or every damaged file it found is removed.
#[derive(Debug, Default)]
pub struct LastVerify(Mutex<Option<LastFindings>>);

#[derive(Clone, Debug)]
pub struct LastFindings {
    pub text: String,
    /// The damaged files; empty when a missing file is among the findings.
    pub files: Vec<PathBuf>,
}

impl LastVerify {
    fn lock(&self) -> MutexGuard<'_, Option<LastFindings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the findings of a check; `None` when it was clean.
    pub fn set(&self, found: Option<LastFindings>) {
        *self.lock() = found;
    }

    /// The findings, without access to the disk.
    pub fn findings(&self) -> Option<String> {
        self.lock().as_ref().map(|found| found.text.clone())
    }

    /// The findings, unless every damaged file has been removed since.
    pub fn current(&self) -> Option<String> {
        let files = self.lock().as_ref().map(|found| found.files.clone())?;
        if !files.is_empty() && files.iter().all(|file| matches!(file.try_exists(), Ok(false))) {
            let mut last = self.lock();
            // Another check may have recorded findings meanwhile.
            if last.as_ref().is_some_and(|found| found.files == files) {
                *last = None;
            }
        }
        self.findings()
    }
}

/// Time since which each health check has a problem.
#[derive(Debug, Default)]
pub struct HealthHistory(Mutex<BTreeMap<&'static str, i64>>);

impl HealthHistory {
    /// Records whether a check has a problem now, and returns since when.
    pub fn since(&self, name: &'static str, has_problem: bool, now_ms: i64) -> Option<String> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !has_problem {
            since.remove(name);
            return None;
        }
        Some(rfc3339(*since.entry(name).or_insert(now_ms)))
    }
}
