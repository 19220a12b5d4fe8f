//! Progress of opening a store, for display.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The steps of an opening, in their order.
const STEPS: [&str; 5] =
    ["beginning", "reading the manifest", "reading the log", "applying commits of the log", "tidying"];

/// Progress of an opening; passed in the options of a store.
#[derive(Debug, Default)]
pub struct OpenProgress {
    step: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

/// What an opening does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenStep {
    Manifest = 1,
    Log,
    Commits,
    Tidy,
}

impl OpenProgress {
    /// Begins a step of `total` parts; 0 where they are not counted.
    pub fn begin(&self, step: OpenStep, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.step.store(step as u8, Ordering::Relaxed);
    }

    /// One more part is done.
    pub fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of the step, parts done, parts in total.
    pub fn progress(&self) -> (u8, u64, u64) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (self.step.load(Ordering::Relaxed), load(&self.done), load(&self.total))
    }
}

/// Two are equal when they are the same object.
impl PartialEq for OpenProgress {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for OpenProgress {}

impl fmt::Display for OpenProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, done, total) = self.progress();
        f.write_str(STEPS.get(usize::from(step)).copied().unwrap_or_default())?;
        if total > 0 { write!(f, ", {done} of {total}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::DiskPath;
    use crate::store::facade::Store;
    use crate::store::options::StoreOptions;

    #[test]
    fn opening_reports_its_steps() {
        let opening = OpenProgress::default();
        assert_eq!(opening.to_string(), "beginning");
        opening.begin(OpenStep::Log, 3);
        opening.advance();
        assert_eq!(opening.to_string(), "reading the log, 1 of 3");
        let dir = tempfile::tempdir().unwrap();
        let opening = Arc::new(OpenProgress::default());
        let options =
            StoreOptions { opening: Some(opening.clone()), background_maintenance: false, ..StoreOptions::default() };
        for commits in [0, 1] {
            let store = Store::open_on(&DiskPath::os(dir.path()), true, options.clone()).unwrap();
            assert_eq!(opening.progress().0, OpenStep::Tidy as u8);
            assert_eq!(store.recovery().commits_replayed, commits);
            if commits == 0 {
                store.create_snapshot("one").unwrap();
            }
        }
    }
}
