//! Files of tail rows and of receipts that the manifest names.

use super::finding::{Finding, FindingKind};
use super::{Check, Look};
use crate::disk;
use crate::error::{ErrorCode, Result};
use crate::format::manifest::{ReceiptsRecord, RunRecord};
use crate::format::receipt::decode_receipts;
use crate::format::run::decode_run;
use crate::store::checkpoint::{receipts_path, run_path};

impl Check<'_> {
    pub(super) fn tails(&mut self) -> Result<()> {
        let runs: Vec<RunRecord> = self.contents().runs.values().cloned().collect();
        let receipts: Vec<ReceiptsRecord> = self.contents().receipts.values().cloned().collect();
        for record in &runs {
            self.run_file(record)?;
        }
        for record in &receipts {
            self.receipts(record)?;
        }
        Ok(())
    }

    fn run_file(&mut self, record: &RunRecord) -> Result<()> {
        let path = run_path(self.root, record.id);
        let name = self.name(&path);
        let file = match super::open(&path) {
            Look::Is(file) => file,
            Look::Gone => {
                if self.reading.whole && self.still(|contents| contents.runs.contains_key(&record.id))? {
                    let finding = Finding::new(FindingKind::MissingRunFile, name, "the manifest names it");
                    self.add(finding.file_id(record.id));
                }
                return Ok(());
            }
            Look::Unreadable(error) => {
                self.add(super::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        // Mapped, not read: it may be as large as all tails together.
        let map = match disk::file_bytes(&file, &path).and_then(|bytes| Ok((bytes, disk::map(&file, &path)?))) {
            Ok((_, map)) => map,
            Err(error) => {
                self.add(super::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        let bytes = map.as_slice();
        self.report.files_checked += 1;
        self.report.bytes_checked += bytes.len() as u64;
        let before = self.report.count();
        match decode_run(bytes) {
            Ok((crc, entries)) => {
                if crc != record.crc || bytes.len() as u64 != record.bytes {
                    let (expected, found) = (format!("{:08x}", record.crc), format!("{crc:08x}"));
                    let message = "it is another file than the manifest names";
                    let finding = Finding::new(FindingKind::DamagedRunFile, &name, message);
                    self.add(finding.file_id(record.id).compared(expected, found));
                }
                for entry in &entries {
                    let begin = usize::try_from(entry.offset).unwrap_or(usize::MAX);
                    let rows = usize::try_from(entry.rows).unwrap_or(usize::MAX);
                    let ts = words(bytes.get(begin..begin.saturating_add(rows.saturating_mul(8))).unwrap_or_default());
                    let rising = ts.windows(2).all(|pair| pair.first() < pair.last());
                    if !rising || ts.first() != Some(&entry.ts_min) || ts.last() != Some(&entry.ts_max) {
                        let message = "its timestamps do not rise, or are others than its index says";
                        let finding = Finding::new(FindingKind::WrongRows, &name, message);
                        let finding = finding.at(entry.offset, entry.bytes()).file_id(record.id);
                        self.add_of(entry.series_id, finding.rows(entry.rows, entry.ts_min, entry.ts_max));
                    }
                }
            }
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => {
                self.add(Finding::new(FindingKind::NewerFormat, &name, error.detail()).file_id(record.id));
            }
            Err(error) if bytes.len() as u64 != record.bytes => {
                let finding = Finding::new(FindingKind::DamagedRunFile, &name, error.detail());
                let finding = finding.file_id(record.id).at(0, bytes.len() as u64);
                self.add(finding.compared(format!("{} bytes", record.bytes), format!("{} bytes", bytes.len())));
            }
            Err(error) => self.damaged_runs(record, &name, bytes, error.detail()),
        }
        if self.report.count() == before {
            tracing::debug!(file = name, "a file of tail rows is whole");
        }
        self.watch.advance(record.bytes)
    }

    /// Names the damaged runs of a file.
    fn damaged_runs(&mut self, record: &RunRecord, name: &str, bytes: &[u8], reason: &str) {
        let finding = Finding::new(FindingKind::DamagedRunFile, name, reason);
        self.add(finding.file_id(record.id).at(0, bytes.len() as u64));
    }

    fn receipts(&mut self, record: &ReceiptsRecord) -> Result<()> {
        let path = receipts_path(self.root, record.id);
        let name = self.name(&path);
        let bytes = match super::read(&path) {
            Look::Is(bytes) => bytes,
            Look::Gone => {
                if self.reading.whole && self.still(|contents| contents.receipts.contains_key(&record.id))? {
                    let finding = Finding::new(FindingKind::MissingReceipts, name, "the manifest names it");
                    self.add(finding.file_id(record.id));
                }
                return Ok(());
            }
            Look::Unreadable(error) => {
                self.add(super::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        match decode_receipts(&bytes) {
            Ok(_) if bytes.len() as u64 == record.bytes => {}
            Ok(_) => {
                let finding = Finding::new(FindingKind::DamagedReceipts, &name, "it is another file");
                self.add(finding.file_id(record.id).compared(record.bytes, bytes.len()));
            }
            Err(error) => {
                let finding = Finding::new(FindingKind::DamagedReceipts, &name, error.detail());
                self.add(finding.file_id(record.id).at(0, bytes.len() as u64));
            }
        }
        self.count(bytes.len() as u64)
    }
}

/// Cells of 8 bytes.
pub(super) fn words(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|cell| i64::from_le_bytes(cell.try_into().unwrap_or_default())).collect()
}
