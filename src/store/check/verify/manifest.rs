//! The manifest, read for checking: every edit and checkpoint on disk, also those that opening would not read.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::current::{Current, decode_current};
use crate::format::manifest::{Edit, decode_checkpoint, decode_edit};
use crate::store::check::verify::finding::{Finding, FindingKind, Severity};
use crate::store::check::verify::read_file::FileReadOutcome;
use crate::store::manifest::edits::{CHECKPOINT_EDITS, Contents};

/// Most times the directory is read while files appear and disappear in it.
const TRIES: usize = 8;

/// The manifest as read from its files.
#[derive(Debug, Default)]
pub struct ManifestReading {
    pub contents: Contents,
    /// Whether the contents are all that was ever published: nothing that is needed is damaged or missing.
    pub whole: bool,
    pub findings: Vec<Finding>,
    /// Chunks, runs and receipt files that some edit on disk names, whether or not they still count.
    pub ever: BTreeSet<u64>,
    /// Names in the directory that are files of the manifest.
    pub names: BTreeSet<String>,
    /// The hint `CURRENT`: a lower bound of the newest edit and log segment.
    pub current: Current,
    pub files: u64,
    pub bytes: u64,
}

/// Reads the manifest of a store. A writer may publish edits and remove old ones meanwhile.
///
/// # Errors
/// `unsupported_format` for a newer one, `io` when the directory cannot be listed.
pub fn read(root: &DiskPath) -> Result<ManifestReading> {
    let mut last = None;
    for attempt in 0..TRIES {
        // Before the edits: it is written after them.
        let current = read_current(root)?;
        let names = disk::list(&root.join("manifest"))?;
        let (reading, moved) = read_once(root, &names, &current)?;
        if !moved && (reading.findings.is_empty() || Some(&names) == last.as_ref() || attempt + 1 == TRIES) {
            return Ok(reading);
        }
        // What looks damaged is read twice: the names can be those of two moments.
        last = Some(names);
        crate::store::check::verify::read_file::pause();
    }
    let current = read_current(root)?;
    Ok(read_once(root, &disk::list(&root.join("manifest"))?, &current)?.0)
}

/// The hint `CURRENT`, and a finding if the file is damaged. A new store has no such file.
fn read_current(root: &DiskPath) -> Result<(Current, Option<Finding>)> {
    let file = "manifest/CURRENT";
    Ok(match crate::store::check::verify::read_file::read(&root.join(file)) {
        FileReadOutcome::Missing => (Current::default(), None),
        FileReadOutcome::Unreadable(error) => {
            (Current::default(), Some(crate::store::check::verify::read_file::unreadable(file, &error)))
        }
        FileReadOutcome::Is(bytes) => match decode_current(&bytes) {
            Ok(current) => (current, None),
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
            Err(error) => {
                let finding = Finding::new(FindingKind::DamagedCurrent, file, error.detail());
                (Current::default(), Some(finding.at(0, bytes.len() as u64)))
            }
        },
    })
}

/// The number in a file name, when the name is exactly that of the number.
pub fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    digits.parse().ok().filter(|number: &u64| format!("{number:020}") == digits)
}

/// An edit or checkpoint as it is on disk.
enum EditState {
    Whole(Box<Edit>),
    Damaged,
}

/// Reads the files of a listing once; the flag is set if one of them disappeared before it was read.
fn read_once(
    root: &DiskPath,
    names: &[String],
    (current, wrong): &(Current, Option<Finding>),
) -> Result<(ManifestReading, bool)> {
    let dir = root.join("manifest");
    let mut reading = ManifestReading { whole: true, current: *current, ..ManifestReading::default() };
    reading.findings.extend(wrong.clone());
    reading.files += u64::from(root.join("manifest/CURRENT").exists());
    let mut moved = false;
    let (mut edits, mut checkpoints) = (BTreeMap::new(), BTreeMap::new());
    for name in names {
        let (number, is_edit) = match (number_of(name, ".edit"), number_of(name, ".checkpoint")) {
            (Some(number), _) => (number, true),
            (_, Some(number)) => (number, false),
            _ => continue,
        };
        reading.names.insert(name.clone());
        let file = format!("manifest/{name}");
        let bytes = match crate::store::check::verify::read_file::read(&dir.join(name)) {
            FileReadOutcome::Is(bytes) => bytes,
            FileReadOutcome::Missing => {
                moved = true;
                continue;
            }
            FileReadOutcome::Unreadable(error) => {
                reading.findings.push(crate::store::check::verify::read_file::unreadable(&file, &error));
                if is_edit { &mut edits } else { &mut checkpoints }.insert(number, EditState::Damaged);
                continue;
            }
        };
        reading.files += 1;
        reading.bytes += bytes.len() as u64;
        let decoded =
            if is_edit { decode_edit(&bytes) } else { decode_checkpoint(&bytes).map(|checkpoint| (checkpoint, None)) };
        if let Ok((_, Some(damage))) = &decoded {
            let length = (bytes.len() as u64).saturating_sub(damage.offset);
            let finding = Finding::new(FindingKind::DamagedEditCopy, &file, damage.reason.clone());
            reading.findings.push(finding.at(damage.offset, length));
        }
        let state = match decoded.map(|(edit, _)| edit) {
            Ok(edit) if edit.number == number => EditState::Whole(Box::new(edit)),
            Ok(edit) => {
                let kind = if is_edit { FindingKind::DamagedEdit } else { FindingKind::DamagedCheckpoint };
                let message = "it is the file of another number";
                reading.findings.push(Finding::new(kind, file, message).compared(number, edit.number));
                EditState::Damaged
            }
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => {
                return Err(Error::new(error.code(), format!("{file}: {}", error.detail())));
            }
            Err(error) => {
                let kind = if is_edit { FindingKind::DamagedEdit } else { FindingKind::DamagedCheckpoint };
                let finding = Finding::new(kind, file, error.detail()).at(0, bytes.len() as u64);
                reading.findings.push(finding);
                EditState::Damaged
            }
        };
        if let EditState::Whole(edit) = &state {
            reading.ever.extend(edit.chunks.iter().chain(&edit.chunks_waiting).map(|chunk| chunk.id));
            reading.ever.extend(edit.chunks_removed.iter().chain(&edit.chunks_unlinked));
            reading.ever.extend(edit.runs.iter().map(|run| run.id).chain(edit.runs_removed.iter().copied()));
            reading.ever.extend(edit.receipts.iter().map(|file| file.id).chain(edit.receipts_removed.iter().copied()));
        }
        if is_edit { &mut edits } else { &mut checkpoints }.insert(number, state);
    }
    follow(&mut reading, &edits, &checkpoints);
    if reading.whole && reading.contents.number < current.edit {
        reading.whole = false;
        let file = format!("manifest/{:020}.edit", reading.contents.number + 1);
        let finding = Finding::new(FindingKind::MissingEdit, file, "CURRENT names a later edit");
        reading.findings.push(finding.compared(current.edit, reading.contents.number));
    }
    Ok((reading, moved))
}

/// Applies the edits one after the other, from the oldest one from which they are complete, and compares each
/// checkpoint on the way with what they say.
fn follow(reading: &mut ManifestReading, edits: &BTreeMap<u64, EditState>, checkpoints: &BTreeMap<u64, EditState>) {
    let whole_checkpoint = |number: u64| match checkpoints.get(&number) {
        Some(EditState::Whole(edit)) => Some(edit),
        _ => None,
    };
    let newest = checkpoints.keys().copied().filter(|number| whole_checkpoint(*number).is_some()).max().unwrap_or(0);
    let end = edits.keys().chain(checkpoints.keys()).copied().max().unwrap_or(0);
    let first_checkpoint = checkpoints.keys().copied().find(|number| whole_checkpoint(*number).is_some());
    let begin = match first_checkpoint {
        // Everything since the first edit exists, or should.
        None => 0,
        Some(_) if edits.contains_key(&1) => 0,
        Some(number) => number,
    };
    if begin > 0 {
        // The edits since the older checkpoint are retained; before them nothing is.
        let first_edit = edits.keys().copied().find(|number| *number <= begin);
        let has_older = checkpoints.keys().any(|number| *number < newest);
        if first_edit.is_some() && !has_older {
            let number = first_edit.unwrap_or(1) - 1;
            let message = "the older of the two checkpoints is missing; the edits after it exist";
            let file = format!("manifest/{number:020}.checkpoint");
            reading.findings.push(Finding::new(FindingKind::MissingCheckpoint, file, message));
        }
    }
    let mut contents = Contents::empty();
    if let Some(edit) = whole_checkpoint(begin) {
        contents.apply(edit.as_ref().clone());
    }
    let mut number = begin;
    while number < end {
        number += 1;
        match edits.get(&number) {
            Some(EditState::Whole(edit)) => contents.apply(edit.as_ref().clone()),
            state => {
                let needed = number > newest;
                if state.is_none() {
                    let file = format!("manifest/{number:020}.edit");
                    let message =
                        if needed { "its contents are unknown" } else { "a checkpoint repeats it, so nothing is lost" };
                    let severity = if needed { Severity::Error } else { Severity::Warning };
                    reading.findings.push(Finding::new(FindingKind::MissingEdit, file, message).severity(severity));
                }
                if needed {
                    reading.whole = false;
                    continue;
                }
                // On to the next checkpoint; what is between is counted above only where it is missing.
                let next = checkpoints.range(number..).find_map(|(number, _)| whole_checkpoint(*number));
                if let Some(edit) = next {
                    for skipped in number + 1..=edit.number {
                        if !edits.contains_key(&skipped) {
                            let file = format!("manifest/{skipped:020}.edit");
                            let message = "a checkpoint repeats it, so nothing is lost";
                            let finding = Finding::new(FindingKind::MissingEdit, file, message);
                            reading.findings.push(finding.severity(Severity::Warning));
                        }
                    }
                    contents = Contents::empty();
                    contents.apply(edit.as_ref().clone());
                    number = edit.number;
                }
                continue;
            }
        }
        if let Some(edit) = whole_checkpoint(number).filter(|_| reading.whole) {
            let mut derived = Contents::empty();
            derived.apply(edit.as_ref().clone());
            if derived.as_edit() != contents.as_edit() {
                let file = format!("manifest/{number:020}.checkpoint");
                let message = "it contradicts the edits before it";
                reading.findings.push(Finding::new(FindingKind::DamagedCheckpoint, file, message));
            }
        }
    }
    // A damaged edit whose contents a checkpoint repeats costs nothing.
    for finding in &mut reading.findings {
        let number = finding.file.strip_prefix("manifest/").and_then(|name| number_of(name, ".edit"));
        if finding.kind == FindingKind::DamagedEdit && number.is_some_and(|number| number <= newest) {
            finding.severity = Severity::Warning;
            finding.message = format!("{}; a checkpoint repeats it, so nothing is lost", finding.message);
        }
    }
    if newest == 0 && !checkpoints.is_empty() && !edits.contains_key(&1) {
        reading.whole = false;
    }
    // With no intact checkpoint, and edits missing that one had made superfluous, the damage is in the checkpoint.
    if newest == 0
        && let Some(first) = edits.keys().copied().find(|number| *number > 1).filter(|_| !edits.contains_key(&1))
    {
        reading.findings.retain(|finding| {
            let number = finding.file.strip_prefix("manifest/").and_then(|name| number_of(name, ".edit"));
            finding.kind != FindingKind::MissingEdit || number.is_none_or(|number| number >= first)
        });
        for finding in &mut reading.findings {
            if finding.kind == FindingKind::DamagedCheckpoint {
                finding.severity = Severity::Error;
                finding.remedy = FindingKind::MissingEdit.remedy().into();
            }
        }
        if checkpoints.is_empty() {
            let file = format!("manifest/{:020}.checkpoint", first - 1);
            let message = "no checkpoint exists, and the edits before it are missing";
            let finding = Finding::new(FindingKind::MissingCheckpoint, file, message).severity(Severity::Error);
            reading.findings.push(finding);
        }
    }
    if newest > 0 && end > newest + CHECKPOINT_EDITS {
        let file = format!("manifest/{:020}.checkpoint", newest + CHECKPOINT_EDITS);
        let message = "no checkpoint was written for a long time, or the newest one is missing; the edits exist";
        reading.findings.push(Finding::new(FindingKind::MissingCheckpoint, file, message).severity(Severity::Note));
    }
    reading.contents = contents;
}
