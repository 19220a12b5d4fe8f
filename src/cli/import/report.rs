//! What an import tells: what it found before it writes, and the closing summary as text or JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::error::{Error, ErrorCode};
use crate::types::schema::Column;
use crate::types::time::write_rfc3339;
use crate::types::{SeriesDef, SeriesKey, TimeUnit};

use super::args::{OnInvalid, Settings};
use super::check::{Checked, FINDINGS_MAX, Finding, Findings};
use super::mapping::Origin;
use super::plan::Plan;
use super::profile::describe;
use super::repeats::Repeat;
use super::sink::Written;

/// How many rows of one kind the text lists.
const LISTED_MAX: usize = 20;

/// The closing summary; its JSON form is the answer of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub series: SeriesKey,
    /// Where the rows went; null in a dry run without a target.
    pub target: Option<String>,
    pub files: Vec<FileSummary>,
    pub dry_run: bool,
    /// Whether the series was new and has been registered.
    pub registered: bool,
    pub unit: TimeUnit,
    pub columns: Vec<Column>,
    pub rows_read: u64,
    pub rows_written: u64,
    /// How many of the written rows replaced a stored one.
    pub rows_replaced: u64,
    /// Rows that a later row of the same time took the place of.
    pub rows_duplicate: u64,
    pub rows_invalid: u64,
    /// Invalid rows left out by `--on-invalid skip`.
    pub rows_skipped: u64,
    /// Written rows whose open, high, low, close or volume contradict each other.
    pub rows_inconsistent: u64,
    /// Rows that lost digits, for each column that did.
    pub rounded: BTreeMap<String, u64>,
    /// Earliest and latest time of the accepted rows, in `unit`.
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// The first thousand of each kind.
    pub invalid: Vec<RowSummary>,
    pub inconsistent: Vec<RowSummary>,
    pub duplicates: Vec<DuplicateSummary>,
}

/// One file.
#[derive(Clone, Debug, Serialize)]
pub struct FileSummary {
    pub path: String,
    /// Format, header and time as they were found.
    pub found: String,
}

/// A row of the input and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct RowSummary {
    pub file: String,
    /// Zero-based position among the data rows of its file.
    pub row: u64,
    /// Line from 1, where the format has lines.
    pub line: Option<u64>,
    pub field: String,
    pub reason: &'static str,
    pub message: String,
}

/// A row that another of the same time took the place of.
#[derive(Clone, Debug, Serialize)]
pub struct DuplicateSummary {
    pub file: String,
    pub row: u64,
    pub line: Option<u64>,
    pub ts: i64,
    pub kept_file: String,
    pub kept_row: u64,
    pub kept_line: Option<u64>,
    /// Whether both rows hold the same values.
    pub identical: bool,
}

impl Summary {
    pub fn of(settings: &Settings, plan: &Plan, def: &SeriesDef, checked: &Checked) -> Self {
        let files = plan
            .files
            .iter()
            .map(|file| FileSummary { path: file.input.path.display().to_string(), found: file.describe() });
        let rounded = def.columns.iter().zip(&checked.rounded).filter(|(_, count)| **count > 0);
        let skipped = if settings.on_invalid == OnInvalid::Skip { checked.invalid.count } else { 0 };
        Self {
            series: settings.key.clone(),
            target: None,
            files: files.collect(),
            dry_run: settings.dry_run,
            registered: false,
            unit: def.unit,
            columns: def.columns.clone(),
            rows_read: checked.rows,
            rows_written: 0,
            rows_replaced: 0,
            rows_duplicate: checked.repeats.list.len() as u64,
            rows_invalid: checked.invalid.count,
            rows_skipped: skipped,
            rows_inconsistent: checked.odd.count,
            rounded: rounded.map(|(column, count)| (column.name.clone(), *count)).collect(),
            first_ts: checked.first_ts,
            last_ts: checked.last_ts,
            invalid: rows(plan, &checked.invalid),
            inconsistent: rows(plan, &checked.odd),
            duplicates: checked.repeats.list.iter().take(FINDINGS_MAX).map(|repeat| duplicate(plan, repeat)).collect(),
        }
    }

    pub fn wrote(&mut self, written: Written) {
        self.rows_written = written.rows;
        self.rows_replaced = written.replaced;
    }

    /// The error of an import that `--on-invalid reject` refuses. The rows stand in the summary.
    pub fn refusal(&self) -> Error {
        Error::new(
            ErrorCode::InvalidRows,
            format!("{} of {} rows are invalid, nothing was written", self.rows_invalid, self.rows_read),
        )
        .with_hint("--on-invalid skip leaves them out; --validate none keeps rows whose high, low or volume contradict")
    }

    /// The text form.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let whole = self.rows_read.saturating_sub(self.rows_invalid).saturating_sub(self.rows_duplicate);
        let verb = match self.rows_written {
            _ if self.rows_invalid > self.rows_skipped => "nothing imported".into(),
            _ if self.dry_run => format!("would import {whole} rows"),
            rows => format!("imported {rows} rows"),
        };
        let _ = writeln!(out, "{verb} into {}", self.series);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<13} {value}");
        };
        line("read", self.rows_read.to_string());
        if !self.dry_run {
            line("written", self.rows_written.to_string());
            line("replaced", self.rows_replaced.to_string());
        }
        line("duplicate", self.rows_duplicate.to_string());
        line("invalid", self.rows_invalid.to_string());
        line("inconsistent", self.rows_inconsistent.to_string());
        let rounded: Vec<String> = self.rounded.iter().map(|(name, count)| format!("{name} {count}")).collect();
        line("rounded", if rounded.is_empty() { "none".into() } else { rounded.join(", ") });
        if let (Some(first), Some(last)) = (self.first_ts, self.last_ts) {
            line("times", format!("{} to {}", rfc3339(first, self.unit), rfc3339(last, self.unit)));
        }
        list(&mut out, "invalid rows", self.rows_invalid, &self.invalid, RowSummary::text);
        list(&mut out, "inconsistent rows, kept", self.rows_inconsistent, &self.inconsistent, RowSummary::text);
        list(&mut out, "duplicate rows, the last one of a time stays", self.rows_duplicate, &self.duplicates, |row| {
            let same = if row.identical { "identical" } else { "different" };
            let kept = at(&row.kept_file, row.kept_line, row.kept_row);
            format!("{}: {} again at {kept}, {same}", at(&row.file, row.line, row.row), rfc3339(row.ts, self.unit))
        });
        out
    }
}

impl RowSummary {
    fn text(&self) -> String {
        format!("{}: {} {} ({})", at(&self.file, self.line, self.row), self.field, self.message, self.reason)
    }
}

fn list<T>(out: &mut String, title: &str, count: u64, rows: &[T], text: impl Fn(&T) -> String) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    for row in rows.iter().take(LISTED_MAX) {
        let _ = writeln!(out, "  {}", text(row));
    }
    let more = count.saturating_sub(rows.len().min(LISTED_MAX) as u64);
    if more > 0 {
        let _ = writeln!(out, "  and {more} more; --json lists up to {FINDINGS_MAX}");
    }
}

fn at(file: &str, line: Option<u64>, row: u64) -> String {
    match line {
        Some(line) => format!("{file} line {line} (row {row})"),
        None => format!("{file} row {row}"),
    }
}

fn rfc3339(ts: i64, unit: TimeUnit) -> String {
    let mut out = Vec::new();
    write_rfc3339(&mut out, ts, unit);
    String::from_utf8_lossy(&out).into_owned()
}

fn rows(plan: &Plan, findings: &Findings) -> Vec<RowSummary> {
    let row = |finding: &Finding| RowSummary {
        file: plan.path(finding.place.file),
        row: finding.place.row,
        line: finding.place.line,
        field: finding.issue.field.clone(),
        reason: finding.issue.reason,
        message: finding.issue.message.clone(),
    };
    findings.list.iter().map(row).collect()
}

fn duplicate(plan: &Plan, repeat: &Repeat) -> DuplicateSummary {
    DuplicateSummary {
        file: plan.path(repeat.dropped.file),
        row: repeat.dropped.row,
        line: repeat.dropped.line,
        ts: repeat.ts,
        kept_file: plan.path(repeat.kept.file),
        kept_row: repeat.kept.row,
        kept_line: repeat.kept.line,
        identical: repeat.identical,
    }
}

/// What was found, before anything is written: the files, and for each column its source and type.
pub fn findings(plan: &Plan, def: &SeriesDef, known: bool) -> String {
    let mut out = String::new();
    for file in &plan.files {
        let _ = writeln!(out, "{}: {}", file.input.path.display(), file.describe());
    }
    let _ = writeln!(out, "{} ({}):", def.key, if known { "registered already" } else { "new" });
    let from = |of: &dyn Fn(&super::plan::FilePlan) -> String| {
        let mut sources: Vec<String> = Vec::new();
        for source in plan.files.iter().map(of) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources.join(" | ")
    };
    let time =
        from(&|file| file.layout.ts.iter().map(|at| file.layout.source_name(*at)).collect::<Vec<_>>().join(" + "));
    let _ = writeln!(out, "  {:<16} {:<12} from {time}", "ts", def.unit.name());
    for (position, column) in def.columns.iter().enumerate() {
        let source = from(&|file| match file.layout.columns.get(position) {
            Some(Origin::Position(at)) => file.layout.source_name(*at),
            Some(Origin::Constant(text)) => format!("constant {text}"),
            None => String::new(),
        });
        let _ = writeln!(out, "  {:<16} {:<12} from {source}", column.name, describe(column.kind));
    }
    out
}
