//! What maintenance did since the store was opened, for health and inventory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::store::read::series_state::SeriesId;

/// What a seal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    pub series_sealed: u64,
    pub chunks_written: u64,
    /// Rows of the chunks written.
    pub rows_sealed: u64,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Groups of chunks considered, and those rewritten.
    pub partitions_considered: u64,
    pub partitions_compacted: u64,
    pub chunks_removed: u64,
    pub chunks_written: u64,
    /// Bytes of the chunk files read, and of those written instead.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What a vacuum did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    pub files_removed: u64,
    /// Replaced files that a reader still has open.
    pub files_waiting: u64,
    pub bytes_waiting: u64,
}

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceCounts {
    /// Series sealed, and chunks written for them.
    pub seals: u64,
    pub chunks_sealed: u64,
    pub checkpoints: u64,
    /// Run files written, and their bytes.
    pub run_files: u64,
    pub run_bytes: u64,
    /// Partitions compacted, chunk files that went for it, bytes read and written.
    pub compactions: u64,
    pub chunks_compacted: u64,
    pub compact_bytes_read: u64,
    pub compact_bytes_written: u64,
    /// Rows deleted by retention.
    pub retention_rows: u64,
    /// Chunk files unlinked, and replaced ones that a reader still held at the last vacuum, with their bytes.
    pub files_removed: u64,
    pub files_waiting: u64,
    pub bytes_waiting: u64,
}

#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<MaintenanceCounts>,
    /// Bytes of chunks that hold nothing readable, where there are any; as of the last compaction step.
    garbage: Mutex<BTreeMap<SeriesId, u64>>,
    /// Bytes of the run files that the manifest lists, and their number.
    runs: Mutex<(u64, u64)>,
}

impl Counters {
    fn change(&self, change: impl FnOnce(&mut MaintenanceCounts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn counts(&self) -> MaintenanceCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_seal(&self, report: SealReport) {
        self.change(|counts| {
            counts.seals += report.series_sealed;
            counts.chunks_sealed += report.chunks_written;
        });
    }

    pub fn add_checkpoint(&self) {
        self.change(|counts| counts.checkpoints += 1);
    }

    pub fn set_runs(&self, bytes: u64, files: u64) {
        *self.runs.lock().unwrap_or_else(PoisonError::into_inner) = (bytes, files);
    }

    /// Bytes of the run files, and their number.
    pub fn runs(&self) -> (u64, u64) {
        *self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_run_file(&self, bytes: u64) {
        self.change(|counts| {
            counts.run_files += 1;
            counts.run_bytes += bytes;
        });
    }

    pub fn add_compaction(&self, report: CompactReport) {
        self.change(|counts| {
            counts.compactions += report.partitions_compacted;
            counts.chunks_compacted += report.chunks_removed;
            counts.compact_bytes_read += report.bytes_before;
            counts.compact_bytes_written += report.bytes_after;
        });
    }

    pub fn add_retention(&self, rows: u64) {
        self.change(|counts| counts.retention_rows += rows);
    }

    pub fn add_vacuum(&self, files: u64) {
        self.change(|counts| counts.files_removed += files);
    }

    pub fn set_waiting(&self, report: VacuumReport) {
        self.change(|counts| {
            counts.files_waiting = report.files_waiting;
            counts.bytes_waiting = report.bytes_waiting;
        });
    }

    pub fn set_garbage(&self, series_id: SeriesId, bytes: u64) {
        let mut garbage = self.garbage.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes == 0 {
            garbage.remove(&series_id);
        } else {
            garbage.insert(series_id, bytes);
        }
    }

    /// Garbage of all series.
    pub fn garbage_total(&self) -> u64 {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Garbage of one series.
    pub fn garbage(&self, series_id: SeriesId) -> u64 {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner).get(&series_id).copied().unwrap_or(0)
    }
}
