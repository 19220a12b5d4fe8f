//! The other files of the directory: deletes and drops next to the chunks, and files that nothing names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::disk::{self, DiskPath};
use crate::error::Result;
use crate::format::backup::is_registry_copy;
use crate::format::manifest::ChunkRecord;
use crate::format::tombstone::{decode_drop, decode_registration, decode_tombstone};
use crate::store::check::verify::finding::{Finding, FindingKind};
use crate::store::check::verify::manifest::{ManifestReading, number_of};
use crate::store::check::verify::read_file::{FileReadOutcome, READ_ATTEMPTS};
use crate::store::check::verify::run::VerifyRun;
use crate::store::directory::{BACKUP_BEGUN, LISTING};
use crate::store::publish::series_files::{DROP_MARKER, REGISTRATION, tombstone_name};
use crate::store::read::chunk_paths::{chunk_id_of, chunk_name, series_dir};
use crate::store::read::sidecar::EXTENSIONS;

/// Names at the top of a data directory. Those of the control plane are not the engine's, but belong there.
const ROOT_NAMES: [&str; 17] = [
    "LOCK",
    "FORMAT",
    "wal",
    "runs",
    "manifest",
    "chunks",
    "tmp",
    "quarantine",
    LISTING,
    BACKUP_BEGUN,
    "tokens.json",
    "tokens.lock",
    "tokens.json.new",
    "registry.sqlite",
    "registry.sqlite-wal",
    "registry.sqlite-shm",
    "registry.sqlite-journal",
];

/// Why a file that the manifest does not name may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum OrphanKind {
    /// Replaced by a compaction or deleted; it is removed when its last reader closes it, at the latest at the next open.
    Waiting,
    /// No longer in the manifest; its removal was not finished, or not durable.
    GivenUp,
    /// Of a series that was dropped; it goes when its last reader does.
    Dropped,
    /// Written by a seal or compaction that is in progress, or was interrupted before it was published.
    Unfinished,
    /// In `tmp`: being written, reserved, or left over; the next open removes it.
    Temporary,
    /// Set aside by a repair.
    Quarantined,
    /// FastK did not create it.
    Foreign,
}

impl OrphanKind {
    fn why(self) -> &'static str {
        match self {
            Self::Waiting => "replaced; removed when its last reader closes it, at the latest at the next open",
            Self::GivenUp => "no longer in the manifest; the next open or the next edit removes it",
            Self::Dropped => "of a dropped series; removed when its last reader closes it",
            Self::Unfinished => {
                "written by a seal or compaction that is in progress or was interrupted; it is not read"
            }
            Self::Temporary => "being written, reserved disk space, or left by a crash; the next open removes it",
            Self::Quarantined => "moved to quarantine by a repair; remove it when you no longer need it",
            Self::Foreign => "FastK did not create it",
        }
    }
}

/// A file that the manifest does not name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Orphan {
    /// Path below the data directory.
    pub file: String,
    pub kind: OrphanKind,
    pub bytes: u64,
    /// Why it may exist, and what happens to it.
    pub why: String,
}

/// Every file that the manifest does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct OrphanReport {
    pub files: u64,
    pub bytes: u64,
    /// The first 10,000.
    pub orphans: Vec<Orphan>,
}

/// Lists what the manifest of the store in `root` does not name. Takes no lock.
///
/// # Errors
/// `not_found` when there is no store; `unsupported_format`, `io`.
pub fn orphans(root: &DiskPath) -> Result<OrphanReport> {
    crate::store::check::verify::read_file::check_is_store(root)?;
    let listing = DirListing::read(root)?;
    let reading = crate::store::check::verify::manifest::read(root)?;
    let mut report = OrphanReport::default();
    // What a living owner has in `tmp` is in use.
    let in_use = crate::store::check::verify::read_file::owner(root).map(|pid| format!("{pid}-"));
    for (dir, name) in &listing.files {
        let Some(kind) = classify(&reading, &listing, dir, name) else { continue };
        if dir == "tmp" && in_use.as_ref().is_some_and(|in_use| name.starts_with(in_use)) {
            continue;
        }
        let path = path_of(root, dir, name);
        let bytes = match crate::store::check::verify::read_file::open(&path) {
            FileReadOutcome::Is(file) => disk::file_bytes(&file, &path).unwrap_or(0),
            // It went in between.
            FileReadOutcome::Missing => continue,
            FileReadOutcome::Unreadable(_) => 0,
        };
        report.files += 1;
        report.bytes += bytes;
        if report.orphans.len() < crate::store::check::verify::finding::FINDINGS_MAX {
            report.orphans.push(Orphan { file: joined(dir, name), kind, bytes, why: kind.why().into() });
        }
    }
    Ok(report)
}

fn joined(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.into() } else { format!("{dir}/{name}") }
}

fn path_of(root: &DiskPath, dir: &str, name: &str) -> DiskPath {
    if dir.is_empty() { root.join(name) } else { root.join(dir).join(name) }
}

/// Everything in the directory, taken before the manifest is read: what is published in between is named by then.
#[derive(Default)]
struct DirListing {
    /// Directory below the root, and name.
    files: Vec<(String, String)>,
    /// Numbers of the series that have a directory, and whether the marker of a drop is in it.
    series: BTreeMap<u64, bool>,
}

impl DirListing {
    fn read(root: &DiskPath) -> Result<Self> {
        let mut listing = Self::default();
        listing.dir(root, "")?;
        for dir in ["wal", "runs", "manifest", "tmp", "quarantine"] {
            listing.dir(root, dir)?;
        }
        for name in disk::list(&root.join("chunks"))? {
            let id = name.parse::<u64>().ok().filter(|id| format!("{id:010}") == name);
            let dir = format!("chunks/{name}");
            match id.filter(|_| root.join(&dir).is_dir()) {
                Some(id) => {
                    let before = listing.files.len();
                    listing.dir(root, &dir)?;
                    let marked = listing.files.iter().skip(before).any(|(_, name)| name == DROP_MARKER);
                    listing.series.insert(id, marked);
                }
                None => listing.files.push(("chunks".into(), name)),
            }
        }
        Ok(listing)
    }

    fn dir(&mut self, root: &DiskPath, dir: &str) -> Result<()> {
        let path = if dir.is_empty() { root.clone() } else { root.join(dir) };
        let names = disk::list(&path)?;
        self.files.extend(names.into_iter().map(|name| (dir.to_owned(), name)));
        Ok(())
    }
}

/// Why a file exists that the manifest does not name; `None` for one that belongs there.
fn classify(reading: &ManifestReading, listing: &DirListing, dir: &str, name: &str) -> Option<OrphanKind> {
    let contents = &reading.contents;
    let of_file = |id: u64| {
        let known = id < contents.next_file_id || reading.ever.contains(&id);
        Some(if known { OrphanKind::GivenUp } else { OrphanKind::Unfinished })
    };
    match dir {
        "" => (!ROOT_NAMES.contains(&name) && !is_registry_copy(name)).then_some(OrphanKind::Foreign),
        "tmp" => Some(OrphanKind::Temporary),
        "quarantine" => Some(OrphanKind::Quarantined),
        "manifest" => (!reading.names.contains(name) && !is_manifest_name(name)).then_some(OrphanKind::Foreign),
        "wal" => match number_of(name, ".wal") {
            Some(number) if number >= contents.wal_first_segment => None,
            Some(_) => Some(OrphanKind::GivenUp),
            None => Some(OrphanKind::Foreign),
        },
        "runs" => match (number_of(name, ".run"), number_of(name, ".receipts")) {
            (Some(id), _) if contents.runs.contains_key(&id) => None,
            (_, Some(id)) if contents.receipts.contains_key(&id) => None,
            (Some(id), _) | (_, Some(id)) => of_file(id),
            _ => Some(OrphanKind::Foreign),
        },
        _ => {
            let Some(series_id) = dir.strip_prefix("chunks/").and_then(|id| id.parse::<u64>().ok()) else {
                return Some(OrphanKind::Foreign);
            };
            let dropped =
                listing.series.get(&series_id).copied().unwrap_or(false) && !contents.series.contains_key(&series_id);
            let commit = number_of(name, ".tombstone").or(number_of(name, REGISTRATION));
            if name == DROP_MARKER || commit.is_some() {
                // Their contents stay true, whatever the manifest still needs of them.
                return dropped.then_some(OrphanKind::Dropped);
            }
            let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
            let of_chunk = extension == "arrow" || EXTENSIONS.contains(&extension);
            let Some(id) = chunk_id_of(name).filter(|_| of_chunk && name.matches('.').count() == 1) else {
                return Some(OrphanKind::Foreign);
            };
            let stem = name.strip_suffix(extension).unwrap_or(name);
            let is = |record: &ChunkRecord| {
                record.series_id == series_id
                    && chunk_name(&record.partition, id).strip_suffix("arrow").is_some_and(|wanted| wanted == stem)
            };
            if contents.chunks.get(&id).is_some_and(is) {
                None
            } else if contents.waiting.get(&id).is_some_and(is) {
                Some(OrphanKind::Waiting)
            } else if dropped {
                Some(OrphanKind::Dropped)
            } else if reading.ever.contains(&id) {
                Some(OrphanKind::GivenUp)
            } else {
                Some(OrphanKind::Unfinished)
            }
        }
    }
}

fn is_manifest_name(name: &str) -> bool {
    name == "CURRENT" || number_of(name, ".edit").is_some() || number_of(name, ".checkpoint").is_some()
}

impl VerifyRun<'_> {
    pub fn files(&mut self) -> Result<()> {
        self.tombstones()?;
        let listing = DirListing::read(self.root)?;
        let reading = crate::store::check::verify::manifest::read(self.root)?;
        for (dir, name) in &listing.files {
            if name == DROP_MARKER {
                self.drop_marker(&reading, dir)?;
            } else if dir.starts_with("chunks/") && number_of(name, REGISTRATION).is_some() {
                self.registration(dir, name)?;
            } else if dir.starts_with("chunks/") && number_of(name, ".tombstone").is_some() {
                self.superseded_tombstone(dir, name)?;
            }
            let Some(kind) = classify(&reading, &listing, dir, name) else { continue };
            let finding = match kind {
                OrphanKind::Foreign => FindingKind::ForeignFile,
                // What a writer has in progress, and what a lost edit named, is not left over.
                OrphanKind::GivenUp | OrphanKind::Unfinished if !self.live && reading.whole => FindingKind::OrphanFile,
                _ => continue,
            };
            let path = path_of(self.root, dir, name);
            for _ in 0..if self.live { READ_ATTEMPTS } else { 0 } {
                if !path.exists() {
                    break;
                }
                crate::store::check::verify::read_file::pause();
            }
            if path.exists() {
                self.add(Finding::new(finding, joined(dir, name), kind.why()));
            }
        }
        Ok(())
    }

    /// The file of every delete the manifest has.
    fn tombstones(&mut self) -> Result<()> {
        let tombstones: Vec<(u64, u64, i64, i64)> = self.contents().tombstones.iter().copied().collect();
        for (series_id, commit, start, end) in tombstones {
            let path = series_dir(self.root, series_id).join(tombstone_name(commit));
            let name = self.name(&path);
            let message = format!("the delete of {start} to {end} at commit {commit}");
            match crate::store::check::verify::read_file::read(&path) {
                FileReadOutcome::Is(bytes) => {
                    self.count(bytes.len() as u64)?;
                    match decode_tombstone(&bytes) {
                        Ok(file)
                            if (file.series_id, file.commit, file.start, file.end)
                                == (series_id, commit, start, end) => {}
                        Ok(file) => {
                            let found = format!("{} to {} at commit {}", file.start, file.end, file.commit);
                            let finding = Finding::new(FindingKind::DamagedTombstone, name, message.clone());
                            self.add_of(series_id, finding.compared(message, found));
                        }
                        Err(error) => {
                            let message = format!("{message}: {}", error.detail());
                            self.add_of(series_id, Finding::new(FindingKind::DamagedTombstone, name, message));
                        }
                    }
                }
                FileReadOutcome::Missing => {
                    let named = |contents: &crate::store::manifest::edits::Contents| {
                        contents.tombstones.contains(&(series_id, commit, start, end))
                    };
                    if self.reading.whole && self.still(named)? {
                        self.add_of(series_id, Finding::new(FindingKind::MissingTombstone, name, message));
                    }
                }
                FileReadOutcome::Unreadable(error) => {
                    self.add_of(series_id, crate::store::check::verify::read_file::unreadable(&name, &error))
                }
            }
        }
        Ok(())
    }

    /// A tombstone file that the manifest no longer needs: it is read when a manifest is rebuilt.
    fn superseded_tombstone(&mut self, dir: &str, name: &str) -> Result<()> {
        let (Some(commit), Some(series_id)) =
            (number_of(name, ".tombstone"), dir.strip_prefix("chunks/").and_then(|id| id.parse::<u64>().ok()))
        else {
            return Ok(());
        };
        if self.contents().tombstones_of(series_id).any(|(_, known, ..)| *known == commit) {
            return Ok(());
        }
        let path = path_of(self.root, dir, name);
        let FileReadOutcome::Is(bytes) = crate::store::check::verify::read_file::read(&path) else { return Ok(()) };
        self.count(bytes.len() as u64)?;
        let wrong = match decode_tombstone(&bytes) {
            Ok(file) if (file.series_id, file.commit) == (series_id, commit) => return Ok(()),
            Ok(_) => "it is the file of another delete".to_owned(),
            Err(error) => error.detail().to_owned(),
        };
        let message = format!("{wrong}; the manifest no longer needs it");
        let mut finding = Finding::new(FindingKind::DamagedTombstone, joined(dir, name), message);
        finding.remedy = "`admin repair --apply` moves it to quarantine; no stored row depends on it".into();
        self.add_of(series_id, finding);
        Ok(())
    }

    /// A registration next to the chunks: it is read when a manifest is rebuilt.
    fn registration(&mut self, dir: &str, name: &str) -> Result<()> {
        let (Some(commit), Some(series_id)) =
            (number_of(name, REGISTRATION), dir.strip_prefix("chunks/").and_then(|id| id.parse::<u64>().ok()))
        else {
            return Ok(());
        };
        let FileReadOutcome::Is(bytes) = crate::store::check::verify::read_file::read(&path_of(self.root, dir, name))
        else {
            return Ok(());
        };
        self.count(bytes.len() as u64)?;
        let wrong = match decode_registration(&bytes) {
            Ok(file) if (file.series_id, file.commit) == (series_id, commit) => return Ok(()),
            Ok(_) => "it belongs to another series".to_owned(),
            Err(error) => error.detail().to_owned(),
        };
        self.add_of(series_id, Finding::new(FindingKind::DamagedRegistration, joined(dir, name), wrong));
        Ok(())
    }

    fn drop_marker(&mut self, reading: &ManifestReading, dir: &str) -> Result<()> {
        let Some(series_id) = dir.strip_prefix("chunks/").and_then(|id| id.parse::<u64>().ok()) else {
            return Ok(());
        };
        let name = joined(dir, DROP_MARKER);
        let FileReadOutcome::Is(bytes) = crate::store::check::verify::read_file::read(&self.root.join(&name)) else {
            return Ok(());
        };
        self.count(bytes.len() as u64)?;
        match decode_drop(&bytes) {
            Ok(marker) if marker.series_id == series_id => {}
            Ok(marker) => {
                let finding = Finding::new(FindingKind::DamagedDropMarker, name, "it is the marker of another series");
                self.add_of(series_id, finding.compared(series_id, marker.series_id));
                return Ok(());
            }
            Err(error) => {
                self.add_of(series_id, Finding::new(FindingKind::DamagedDropMarker, name, error.detail()));
                return Ok(());
            }
        }
        // A drop is in the log before its marker is written; while a writer lives, the log read before may be too old.
        let known = reading.contents.series.get(&series_id).is_some_and(|series| series.dropped_commit == 0);
        if known && !self.live && reading.whole && !self.dropped.contains(&series_id) {
            self.add_of(
                series_id,
                Finding::new(FindingKind::StrayDropMarker, name, "neither manifest nor log has a drop of it"),
            );
        }
        Ok(())
    }
}
