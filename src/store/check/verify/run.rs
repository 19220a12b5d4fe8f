//! Checking a store: every file, every checksum, and the references between files. Reads only.
//!
//! - It works on the files alone, so it is the same with and without a writer. No lock is taken and no byte
//!   is changed, not even a time of last access that the system does not change by itself.
//! - What looks wrong is checked again while a writer lives: a file that vanished counts as missing only when a
//!   manifest read afterwards still names it.
//! - One damaged thing is one finding. What follows from it (sidecars of a damaged block, files only a lost edit named)
//!   is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::clock::elapsed_ms;
use crate::disk::{self, DiskPath};
use crate::error::{ErrorCode, Result};
use crate::store::check::verify::finding::{Finding, FindingKind, VerifyReport};
use crate::store::check::verify::manifest::{self, ManifestReading};
use crate::store::check::verify::read_file::{FileReadOutcome, check_is_store, open, owner, unreadable};
use crate::store::directory::check_format;
use crate::store::manifest::edits::Contents;
use crate::store::read::chunk_paths::series_dir;
use crate::store::task_control::TaskControl;
use crate::store::wal::component::Wal;
use crate::types::{SeriesDef, SeriesKey};

/// How a store is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Whether a process may be writing to it meanwhile: files it is about to publish are no findings then. `None` to
    /// decide by whether the process named in `LOCK` lives.
    pub live: Option<bool>,
}

/// Checks the store in `root` without its lock.
///
/// # Errors
/// `not_found` when there is none, `unsupported_format` for a newer one, `not_ready` when `control` was cancelled, `io`
/// when a directory cannot be listed. Damage is no error but a finding.
pub fn verify(root: &DiskPath, options: VerifyOptions, control: &TaskControl) -> Result<VerifyReport> {
    let live = options.live.unwrap_or_else(|| has_owner(root));
    run(root, live, 0, control)
}

fn run(root: &DiskPath, live: bool, edit_min: u64, control: &TaskControl) -> Result<VerifyReport> {
    let started = Instant::now();
    check_is_store(root)?;
    let mut check = VerifyRun::new(root, live, control)?;
    check.format()?;
    check.manifest(edit_min)?;
    check.log()?;
    check.tails()?;
    check.chunks()?;
    check.files()?;
    check.registry()?;
    check.report.duration_ms = elapsed_ms(started);
    Ok(check.report)
}

/// The findings in files other than chunks, sidecars, run and receipt files of a store that no process has open.
///
/// # Errors
/// As [`verify`].
pub fn verify_small_files(root: &DiskPath) -> Result<Vec<Finding>> {
    let control = TaskControl::new();
    let mut check = VerifyRun::new(root, false, &control)?;
    check.format()?;
    check.manifest(0)?;
    check.log()?;
    check.files()?;
    check.registry()?;
    Ok(check.report.findings)
}

/// Whether the process named in `LOCK` lives.
pub fn has_owner(root: &DiskPath) -> bool {
    owner(root).is_some()
}

/// A check in progress.
pub struct VerifyRun<'a> {
    pub root: &'a DiskPath,
    pub live: bool,
    pub control: &'a TaskControl,
    pub report: VerifyReport,
    pub reading: ManifestReading,
    /// Registrations as the manifest and the log have them.
    pub defs: BTreeMap<u64, SeriesDef>,
    /// Series that a frame of the log drops.
    pub dropped: BTreeSet<u64>,
}

impl<'a> VerifyRun<'a> {
    pub fn new(root: &'a DiskPath, live: bool, control: &'a TaskControl) -> Result<Self> {
        Ok(Self {
            root,
            live,
            control,
            report: VerifyReport::default(),
            reading: manifest::read(root)?,
            defs: BTreeMap::new(),
            dropped: BTreeSet::new(),
        })
    }

    pub fn contents(&self) -> &Contents {
        &self.reading.contents
    }

    pub fn add(&mut self, finding: Finding) {
        self.report.add(finding);
    }

    /// Adds a finding about a series.
    pub fn add_of(&mut self, series_id: u64, mut finding: Finding) {
        finding.series = self.key(series_id).map(|key| key.to_string());
        finding.series_id = Some(series_id);
        self.report.add(finding);
    }

    pub fn key(&self, series_id: u64) -> Option<&SeriesKey> {
        self.defs.get(&series_id).map(|def| &def.key)
    }

    /// Counts a file that was read.
    pub fn count(&mut self, bytes: u64) -> Result<()> {
        self.report.files_checked += 1;
        self.report.bytes_checked += bytes;
        self.control.advance_unplanned(bytes)
    }

    /// Whether the manifest, as it is now, still needs something that vanished.
    pub fn still(&self, condition: impl Fn(&Contents) -> bool) -> Result<bool> {
        Ok(!self.live || condition(&manifest::read(self.root)?.contents))
    }

    pub fn format(&mut self) -> Result<()> {
        match check_format(self.root) {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
            Err(error) if error.code() == ErrorCode::CorruptData => {
                let exists = self.root.join("FORMAT").exists();
                let message = if exists { "its checksum does not match" } else { "it is missing" };
                self.add(Finding::new(FindingKind::DamagedFormat, "FORMAT", message));
            }
            Err(error) => self.add(unreadable("FORMAT", &error)),
        }
        self.count(0)
    }

    /// Adds the findings of reading the manifest. `edit_min` is the least edit that must exist.
    pub fn manifest(&mut self, edit_min: u64) -> Result<()> {
        let findings = std::mem::take(&mut self.reading.findings);
        findings.into_iter().for_each(|finding| self.add(finding));
        let contents = &self.reading.contents;
        let number = contents.number;
        self.report.edit = number;
        self.report.series = contents.series.len() as u64;
        self.report.files_checked += self.reading.files;
        self.report.bytes_checked += self.reading.bytes;
        self.control.plan(
            contents.chunks.values().map(|chunk| chunk.file_bytes).sum::<u64>()
                + contents.runs.values().map(|run| run.bytes).sum::<u64>(),
        );
        for name in disk::list(&self.root.join("wal"))? {
            let path = self.root.join("wal").join(name);
            if let FileReadOutcome::Is(file) = open(&path) {
                self.control.plan(disk::file_bytes(&file, &path).unwrap_or(0));
            }
        }
        self.control.advance_unplanned(self.reading.bytes)?;
        for (id, record) in &self.reading.contents.series {
            if let Ok(def) = serde_json::from_str(&record.def) {
                self.defs.insert(*id, def);
            }
        }
        if number < edit_min && self.reading.whole {
            self.reading.whole = false;
            let file = format!("manifest/{:020}.edit", number + 1);
            let message = format!("the open store is at edit {edit_min} or later");
            self.add(Finding::new(FindingKind::MissingEdit, file, message).compared(edit_min, number));
        }
        Ok(())
    }

    pub fn dir(&self, series_id: u64) -> DiskPath {
        series_dir(self.root, series_id)
    }

    /// A path below the root, for display.
    pub fn name(&self, path: &DiskPath) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }
}

/// Checks a store that this process has open.
///
/// # Errors
/// As [`verify`].
pub fn verify_open(root: &DiskPath, wal: &Wal, control: &TaskControl) -> Result<VerifyReport> {
    run(root, true, wal.queue.published().edit, control)
}
