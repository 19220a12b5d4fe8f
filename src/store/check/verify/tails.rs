//! Files of tail rows and of receipts that the manifest names.

use std::collections::BTreeMap;

use crate::disk::mmap::Map;
use crate::disk::{self, DiskPath, File};
use crate::error::{Error, ErrorCode, Result};
use crate::format::bytes::words_of;
use crate::format::manifest::{ReceiptsRecord, RunRecord};
use crate::format::receipt::{decode_receipts, salvage_receipts};
use crate::format::run::{decode_run, salvage_run};
use crate::store::check::verify::finding::{Finding, FindingKind, Severity};
use crate::store::check::verify::read_file::FileReadOutcome;
use crate::store::check::verify::run::VerifyRun;
use crate::store::read::run_files::{receipts_path, run_path};
use crate::types::cells;
use crate::types::width::to_usize;

impl VerifyRun<'_> {
    pub fn tails(&mut self) -> Result<()> {
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
        let file = match crate::store::check::verify::read_file::open(&path) {
            FileReadOutcome::Is(file) => file,
            FileReadOutcome::Missing => {
                if self.reading.whole && self.still(|contents| contents.runs.contains_key(&record.id))? {
                    let finding = Finding::new(FindingKind::MissingRunFile, name, "the manifest names it");
                    self.add(finding.file_id(record.id));
                }
                return Ok(());
            }
            FileReadOutcome::Unreadable(error) => {
                self.add(crate::store::check::verify::read_file::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        // Mapped, not read: it may be as large as all tails together.
        let map = match disk::file_bytes(&file, &path).and_then(|bytes| map_of(&file, &path, bytes)) {
            Ok(map) => map,
            Err(error) => {
                self.add(crate::store::check::verify::read_file::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        let bytes = map.as_ref().map_or(&[][..], |map| map.as_slice());
        self.report.files_checked += 1;
        self.report.bytes_checked += bytes.len() as u64;
        match decode_run(bytes) {
            Ok(decoded) => {
                if decoded.crc != record.crc || bytes.len() as u64 != record.bytes {
                    let (expected, found) = (format!("{:08x}", record.crc), format!("{:08x}", decoded.crc));
                    let message = "it is not the file that the manifest names";
                    let finding = Finding::new(FindingKind::DamagedRunFile, &name, message);
                    self.add(finding.file_id(record.id).compared(expected, found));
                }
                let mut strict = BTreeMap::new();
                for run in &decoded.runs {
                    let begin = to_usize(run.offset);
                    let ts: Vec<i64> = words_of(cells::range(bytes, begin..begin + to_usize(run.rows) * 8)).collect();
                    // The first run of a series in a file has its registration.
                    if let Some(def) = crate::format::run::series_of(bytes, run)?.def {
                        strict.insert(run.series_id, def.order.is_by_timestamp());
                    }
                    let strict = strict.get(&run.series_id).is_none_or(|strict| *strict);
                    let rising = ts.is_sorted_by(|a, b| if strict { a < b } else { a <= b });
                    if !rising || ts.first() != Some(&run.ts_min) || ts.last() != Some(&run.ts_max) {
                        let message = "its timestamps are not ascending, or not those of its index";
                        let finding = Finding::new(FindingKind::WrongRows, &name, message);
                        let finding = finding.at(run.offset, run.bytes()).file_id(record.id);
                        self.add_of(run.series_id, finding.rows(run.rows, run.ts_min, run.ts_max));
                    }
                }
            }
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => {
                self.add(Finding::new(FindingKind::NewerFormat, &name, error.detail()).file_id(record.id));
            }
            Err(error) => self.damaged_runs(record, &name, bytes, &error)?,
        }
        self.control.advance(record.bytes)
    }

    /// Names the damaged runs of a file, and damage that costs no row.
    fn damaged_runs(&mut self, record: &RunRecord, name: &str, bytes: &[u8], error: &Error) -> Result<()> {
        let salvage = salvage_run(bytes)?;
        for place in &salvage.damaged {
            let finding = Finding::new(FindingKind::DamagedRun, name, place.reason.clone());
            let finding = finding.at(place.offset, place.bytes).file_id(record.id);
            match &place.run {
                Some(run) => self.add_of(run.series_id, finding.rows(run.rows, run.ts_min, run.ts_max)),
                None => self.add(finding),
            }
        }
        if !salvage.complete {
            let message = format!("{}: rows without any other record may be lost", error.detail());
            let finding = Finding::new(FindingKind::DamagedRunFile, name, message).file_id(record.id);
            let finding = finding.at(bytes.len() as u64, record.bytes.saturating_sub(bytes.len() as u64));
            self.add(finding.compared(format!("{} bytes", record.bytes), format!("{} bytes", bytes.len())));
            return Ok(());
        }
        for place in &salvage.harmless {
            let message = "damaged bytes; no row is affected";
            let finding = Finding::new(FindingKind::DamagedRunFile, name, message).file_id(record.id);
            self.add(finding.at(place.start, place.end.saturating_sub(place.start)).severity(Severity::Warning));
        }
        if salvage.damaged.is_empty() && salvage.harmless.is_empty() {
            let finding = Finding::new(FindingKind::DamagedRunFile, name, error.detail()).file_id(record.id);
            self.add(finding.severity(Severity::Warning));
        }
        Ok(())
    }

    fn receipts(&mut self, record: &ReceiptsRecord) -> Result<()> {
        let path = receipts_path(self.root, record.id);
        let name = self.name(&path);
        let bytes = match crate::store::check::verify::read_file::read(&path) {
            FileReadOutcome::Is(bytes) => bytes,
            FileReadOutcome::Missing => {
                if self.reading.whole && self.still(|contents| contents.receipts.contains_key(&record.id))? {
                    let finding = Finding::new(FindingKind::MissingReceipts, name, "the manifest names it");
                    self.add(finding.file_id(record.id));
                }
                return Ok(());
            }
            FileReadOutcome::Unreadable(error) => {
                self.add(crate::store::check::verify::read_file::unreadable(&name, &error).file_id(record.id));
                return Ok(());
            }
        };
        match decode_receipts(&bytes) {
            Ok(_) if bytes.len() as u64 == record.bytes => {}
            Ok(_) => {
                let finding =
                    Finding::new(FindingKind::DamagedReceipts, &name, "it is not the file that the manifest names");
                self.add(finding.file_id(record.id).compared(record.bytes, bytes.len()));
            }
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => {
                self.add(Finding::new(FindingKind::NewerFormat, &name, error.detail()).file_id(record.id));
            }
            Err(error) => {
                let salvage = salvage_receipts(&bytes)?;
                let intact = format!("{} receipts are intact", salvage.receipts.len());
                let damaged_receipts = |message: &str| {
                    let finding = Finding::new(FindingKind::DamagedReceipts, &name, message);
                    finding.file_id(record.id)
                };
                for place in &salvage.damaged {
                    let message = format!("a page is damaged; {intact}");
                    self.add(damaged_receipts(&message).at(place.start, place.end.saturating_sub(place.start)));
                }
                if salvage.damaged.is_empty() {
                    let message = format!("{}; {intact}", error.detail());
                    self.add(damaged_receipts(&message).compared(record.bytes, bytes.len()));
                }
            }
        }
        self.count(bytes.len() as u64)
    }
}

/// A map of the file; an empty one cannot be mapped.
pub fn map_of(file: &File, path: &DiskPath, bytes: u64) -> Result<Option<Map>> {
    if bytes == 0 { Ok(None) } else { disk::map(file, path).map(Some) }
}
