//! What a check found: one [`Finding`] for each damaged, missing or unexpected thing, and the report over all of them.

use serde::{Deserialize, Serialize};

/// Maximum findings in a report; further ones are only counted.
pub const FINDINGS_MAX: usize = 10_000;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Severity {
    /// Nothing is wrong: leftovers of a crash or a change, which maintenance or the next open removes.
    Note,
    /// No data is lost, but a redundant or derived file is damaged, or a file does not belong here.
    Warning,
    /// Stored data is damaged or missing.
    Error,
}

macro_rules! kinds {
    ($($variant:ident $name:literal $severity:ident $title:literal $remedy:literal;)*) => {
        /// What was found, as a stable name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
        pub enum FindingKind {
            $(#[doc = $title] $variant,)*
        }

        impl FindingKind {
            /// All kinds, in the order of the documentation.
            pub const ALL: &'static [FindingKind] = &[$(FindingKind::$variant,)*];

            /// The word in reports.
            pub fn name(self) -> &'static str {
                match self { $(FindingKind::$variant => $name,)* }
            }

            /// How much it matters, unless the finding says otherwise.
            pub fn severity(self) -> Severity {
                match self { $(FindingKind::$variant => Severity::$severity,)* }
            }

            /// One sentence about what it means.
            pub fn title(self) -> &'static str {
                match self { $(FindingKind::$variant => $title,)* }
            }

            /// What to do about it, and what that costs.
            pub fn remedy(self) -> &'static str {
                match self { $(FindingKind::$variant => $remedy,)* }
            }
        }
    };
}

kinds! {
    DamagedFormat "damaged_format" Error "`FORMAT`, which has the version of the store's format, is damaged or missing."
        "`admin repair --apply` rewrites it; nothing is lost";
    NewerFormat "newer_format" Error "A file was written by a newer program."
        "use the program that wrote it";
    UnreadableFile "unreadable_file" Error "The operating system could not read a file."
        "check the disk and its permissions, then verify again";
    DamagedEdit "damaged_edit" Error "A manifest edit is damaged."
        "`admin repair --apply` moves it to quarantine; if no checkpoint repeats it, the manifest is rebuilt from the other files and what only it recorded is listed";
    DamagedEditCopy "damaged_edit_copy" Warning "One of the two copies in a manifest edit is damaged; the other one is intact."
        "nothing is lost; the next checkpoints replace the file, `admin repair --apply` does so immediately";
    MissingEdit "missing_edit" Error "A manifest edit is missing."
        "restore the file; otherwise `admin repair --apply` rebuilds the manifest from the other files and lists what only it recorded";
    DamagedCheckpoint "damaged_checkpoint" Warning "A manifest checkpoint is damaged, or contradicts the edits before it."
        "nothing is lost while the other checkpoint and the edits after it exist; `admin repair --apply` moves it to quarantine and writes a new one";
    MissingCheckpoint "missing_checkpoint" Warning "The older of the two manifest checkpoints is missing."
        "nothing is lost while the newer one is intact; `admin repair --apply` writes a new one";
    DamagedCurrent "damaged_current" Warning "`CURRENT`, a hint to the newest manifest edit, is damaged."
        "nothing is lost; `admin repair --apply`, or the next open, rewrites it";
    DamagedSegment "damaged_segment" Error "The header of a log segment is damaged, or the segment is shorter or longer than its header says."
        "the store is read-only; `admin repair --apply` keeps every intact frame and lists the lost log positions";
    MissingSegment "missing_segment" Error "A log segment is missing."
        "restore the file; otherwise `admin repair --apply` keeps every intact frame and lists the lost log positions";
    DamagedFrame "damaged_frame" Error "Synced frames of the log are damaged."
        "the store is read-only; `admin repair --apply` keeps every intact frame and lists the lost log positions";
    TornTail "torn_tail" Note "The log ends with an incomplete write that was never acknowledged."
        "nothing to do: the next open truncates it, as does `admin repair --apply`";
    StrayBytes "stray_bytes" Note "Unused bytes of the log are not zero."
        "nothing to do: they are never read; `admin repair --apply` starts a new log without them";
    MissingRunFile "missing_run_file" Error "A run file is missing."
        "restore the file; otherwise `admin repair --apply` removes it from the manifest and lists the series that lose rows";
    DamagedRunFile "damaged_run_file" Error "The head, index or trailer of a run file is damaged."
        "`admin repair --apply` writes a new file from the intact runs";
    DamagedRun "damaged_run" Error "A run in a run file is damaged; its rows are not served."
        "`admin repair --apply` writes a new file from the other runs; the rows of this one are lost";
    MissingReceipts "missing_receipts" Error "A receipt file is missing: retries of those writes would be applied again."
        "restore the file; otherwise `admin repair --apply` removes it from the manifest";
    DamagedReceipts "damaged_receipts" Error "A receipt file is damaged: retries of those writes would be applied again."
        "`admin repair --apply` keeps the intact pages";
    MissingTombstone "missing_tombstone" Warning "A tombstone file is missing; the manifest still has the delete."
        "`admin repair --apply` rewrites it; without it a rebuilt manifest would show the deleted rows again";
    DamagedTombstone "damaged_tombstone" Warning "A tombstone file is damaged, or contradicts the manifest."
        "`admin repair --apply` rewrites it; without it a rebuilt manifest would show the deleted rows again";
    DamagedRegistration "damaged_registration" Warning "The file that repeats a registration for a rebuilt manifest is damaged."
        "`admin repair --apply` rewrites it; without it a rebuilt manifest would show an older registration, or none";
    DamagedDropMarker "damaged_drop_marker" Warning "The marker of a dropped series is damaged."
        "`admin repair --apply` rewrites it, or moves it to quarantine if its series exists or was removed completely; without it a rebuilt manifest could show the series again";
    StrayDropMarker "stray_drop_marker" Warning "A series that was not dropped has a drop marker."
        "`admin repair --apply` moves it to quarantine; with it a rebuilt manifest would omit the series";
    MissingChunk "missing_chunk" Error "A chunk file is missing."
        "restore the file; otherwise `admin repair --apply` removes it from the manifest and lists its rows as lost";
    TruncatedChunk "truncated_chunk" Error "A chunk file is shorter than the manifest says."
        "`admin repair --apply` keeps the intact blocks in a new file; the others are lost";
    GrownChunk "grown_chunk" Error "A chunk file is longer than the manifest says."
        "`admin repair --apply` writes a new file without the added bytes; nothing is lost";
    WrongChunk "wrong_chunk" Error "A chunk file is not the one the manifest names."
        "restore the right file; otherwise `admin repair --apply` removes it from the manifest and lists its rows as lost";
    DamagedHead "damaged_head" Warning "The bytes before the first block of a chunk are damaged."
        "`admin repair --apply` writes a new file with a new head; nothing is lost";
    DamagedBlock "damaged_block" Error "A block of a chunk is damaged; its rows are not served."
        "`admin repair --apply` keeps the other blocks in a new file; the rows of this one are lost";
    DamagedFooter "damaged_footer" Error "The footer of a chunk is damaged; none of its rows are served."
        "`admin repair --apply` rebuilds the footer from the head and the blocks";
    WrongRows "wrong_rows" Error "The checksum of a block is right, but its rows cannot be."
        "a defect of the program that wrote it: please report it; `admin restore` restores an earlier backup";
    ClashingChunks "clashing_chunks" Error "Two chunks have rows of the same times and commits: it is not defined which one takes precedence."
        "a defect of the program that wrote them: please report it; `admin restore` restores an earlier backup";
    MissingSidecar "missing_sidecar" Warning "A sidecar is missing: queries take longer."
        "`admin scrub` rebuilds it from the chunk; nothing is lost";
    DamagedSidecar "damaged_sidecar" Warning "A sidecar is damaged, or does not match the rows of its chunk."
        "`admin scrub` rebuilds it from the chunk; nothing is lost";
    StaleSidecar "stale_sidecar" Note "A value index lacks columns that the registration now requires."
        "nothing to do: maintenance or `admin scrub` rebuilds it";
    DamagedRegistry "damaged_registry" Error "The registry of datasets, features and factors is damaged, or it is empty or missing while there are snapshots of datasets."
        "`admin repair --apply` moves it to quarantine and creates an empty one; rows and snapshots stay, the descriptions are lost unless a backup has them";
    OrphanFile "orphan_file" Note "A file that nothing refers to, left by a crash."
        "nothing to do: it is never read, and the next open removes it, as does `admin repair --apply`; `admin list-orphans` shows what it is";
    ForeignFile "foreign_file" Warning "A file that FastK did not create."
        "move it out of the data directory";
}

/// One damaged, missing or unexpected thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Finding {
    pub severity: Severity,
    pub kind: FindingKind,
    /// Path below the data directory.
    pub file: String,
    /// Offset of the damage in the file, and its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Key of the series, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Number of the chunk, run or receipt file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<u64>,
    /// Position of the block in its chunk, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Affected rows: how many at most, and between which timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts_min: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts_max: Option<i64>,
    /// Affected log positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_min: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn_max: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What is wrong in this case.
    pub message: String,
    /// What to do about it, and what that costs.
    pub remedy: String,
}

impl Finding {
    /// A finding of a kind in a file below the root.
    pub fn new(kind: FindingKind, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: kind.severity(),
            kind,
            file: file.into(),
            offset: None,
            bytes: None,
            series: None,
            series_id: None,
            partition: None,
            file_id: None,
            block: None,
            rows: None,
            ts_min: None,
            ts_max: None,
            lsn_min: None,
            lsn_max: None,
            expected: None,
            found: None,
            message: message.into(),
            remedy: kind.remedy().into(),
        }
    }

    /// Where in the file.
    pub fn at(mut self, offset: u64, bytes: u64) -> Self {
        self.offset = Some(offset);
        self.bytes = Some(bytes);
        self
    }

    /// The affected rows.
    pub fn rows(mut self, rows: u64, ts_min: i64, ts_max: i64) -> Self {
        self.rows = Some(rows);
        self.ts_min = Some(ts_min);
        self.ts_max = Some(ts_max);
        self
    }

    /// What was expected and what was found.
    pub fn compared(mut self, expected: impl ToString, found: impl ToString) -> Self {
        self.expected = Some(expected.to_string());
        self.found = Some(found.to_string());
        self
    }

    /// Which file it is.
    pub fn file_id(mut self, id: u64) -> Self {
        self.file_id = Some(id);
        self
    }

    /// Another severity than that of the kind.
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

/// What a check of a complete store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct VerifyReport {
    /// Whether there is no error and no warning. Notes are no reason to do anything.
    pub clean: bool,
    /// Last manifest edit that was read.
    pub edit: u64,
    pub series: u64,
    pub chunks: u64,
    /// Rows of the chunks that were checked.
    pub rows: u64,
    pub files_checked: u64,
    pub bytes_checked: u64,
    pub duration_ms: u64,
    pub errors: u64,
    pub warnings: u64,
    pub notes: u64,
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
    /// Sidecars that a scrub found damaged or missing and rebuilt; they are not among the findings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilt: Vec<Finding>,
}

impl Default for VerifyReport {
    fn default() -> Self {
        Self {
            clean: true,
            edit: 0,
            series: 0,
            chunks: 0,
            rows: 0,
            files_checked: 0,
            bytes_checked: 0,
            duration_ms: 0,
            errors: 0,
            warnings: 0,
            notes: 0,
            findings: Vec::new(),
            findings_left_out: 0,
            rebuilt: Vec::new(),
        }
    }
}

impl VerifyReport {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        *self.count_of(finding.severity) += 1;
        self.clean = self.errors == 0 && self.warnings == 0;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    /// Moves a finding that was fixed to the list of rebuilt sidecars.
    pub fn set_rebuilt(&mut self, position: usize) {
        if position >= self.findings.len() {
            return;
        }
        let finding = self.findings.remove(position);
        let count = self.count_of(finding.severity);
        *count = count.saturating_sub(1);
        self.clean = self.errors == 0 && self.warnings == 0;
        self.rebuilt.push(finding);
    }

    fn count_of(&mut self, severity: Severity) -> &mut u64 {
        match severity {
            Severity::Note => &mut self.notes,
            Severity::Warning => &mut self.warnings,
            Severity::Error => &mut self.errors,
        }
    }

    /// How many findings there are, notes included.
    pub fn count(&self) -> u64 {
        self.errors + self.warnings + self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_as_its_name() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn findings_beyond_the_limit_are_counted() {
        let mut report = VerifyReport::default();
        report.add(Finding::new(FindingKind::TornTail, "wal/1", "x"));
        assert!(report.clean, "a note needs no action");
        for _ in 0..FINDINGS_MAX {
            report.add(Finding::new(FindingKind::DamagedBlock, "chunks/1", "x"));
        }
        assert_eq!((report.findings.len(), report.findings_left_out), (FINDINGS_MAX, 1));
        assert_eq!((report.clean, report.count()), (false, FINDINGS_MAX as u64 + 1));
    }
}
