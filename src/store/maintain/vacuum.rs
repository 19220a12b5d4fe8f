//! Vacuum: files that were replaced and that no reader uses are unlinked. Nothing else is ever unlinked.

use crate::error::Result;
use crate::format::manifest::Edit;
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::counters::VacuumReport;

impl Maintenance {
    /// Unlinks what can be unlinked and records it.
    pub fn vacuum(&self) -> Result<VacuumReport> {
        let mut files = self.publisher.lock();
        let before = files.manifest.contents.waiting.len();
        // Publishing anything unlinks them.
        let waiting = files.manifest.contents.waiting.keys();
        if waiting.into_iter().any(|id| !files.is_read(*id)) {
            let publish = || self.publisher.publish(&mut files, Edit::default());
            self.wal.queue.stop_on_panic(|| self.wal.reserve.with_reserve(publish))?;
        }
        let waiting = &files.manifest.contents.waiting;
        let report = VacuumReport {
            files_removed: (before - waiting.len()) as u64,
            files_waiting: waiting.len() as u64,
            bytes_waiting: waiting.values().map(|record| record.file_bytes).sum(),
        };
        self.publisher.counters.set_waiting(report);
        Ok(report)
    }
}
