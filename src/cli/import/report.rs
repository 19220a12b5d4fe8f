//! The report of an import: its findings before it writes, and the final summary as text or JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::ingest::source::CellSource;
use crate::types::schema::Column;
use crate::types::time::rfc3339;
use crate::types::{Rounding, SeriesDef, SeriesKey, TimeUnit};

use super::args::{ImportSettings, OnDuplicate, OnInvalid};
use super::check::{FINDINGS_MAX, InputSummary, Rounded, RowFinding, RowFindings, RowGroup};
use super::mapping::OmittedColumn;
use super::plan::ImportPlan;
use super::repeats::{RepeatedRow, RowPosition};
use super::sink::SinkReply;

/// Most rows of one kind in the text.
const LISTED_MAX: usize = 20;
/// Most rounded numbers in the text.
const ROUNDED_LISTED_MAX: usize = 5;

/// The final summary; `--json` prints it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ImportSummary {
    pub series: SeriesKey,
    /// The target of the rows; null in a dry run without a target.
    pub target: Option<String>,
    pub files: Vec<FileSummary>,
    pub dry_run: bool,
    /// Whether this import registered the series.
    pub registered: bool,
    pub unit: TimeUnit,
    pub columns: Vec<Column>,
    /// Columns of the files that were not imported.
    pub columns_left_out: Vec<OmittedColumnSummary>,
    pub rows_read: u64,
    pub rows_written: u64,
    /// Written rows that replaced a stored one.
    pub rows_replaced: u64,
    /// Rows skipped because another row of the files has the same time.
    pub rows_duplicate: u64,
    /// Rows that repeat the time of another row with different values.
    pub rows_different: u64,
    pub rows_invalid: u64,
    /// Number of invalid rows for each reason.
    pub invalid_reasons: BTreeMap<&'static str, u64>,
    /// Invalid rows skipped by `--on-invalid skip`.
    pub rows_skipped: u64,
    /// Written rows whose open, high, low, close or volume are inconsistent.
    pub rows_inconsistent: u64,
    /// Written rows that start no interval of the timeframe, with `--off-grid allow`.
    pub rows_off_grid: u64,
    /// Rows before 1990.
    pub rows_before_1990: u64,
    /// Rows with rounded numbers, by column.
    pub rounded: BTreeMap<String, u64>,
    /// Earliest and latest time of the accepted rows, in `unit`.
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    pub warnings: Vec<ImportWarning>,
    /// The first thousand of each kind.
    pub invalid: Vec<RowSummary>,
    pub inconsistent: Vec<RowSummary>,
    pub duplicates: Vec<DuplicateSummary>,
    pub rounded_rows: Vec<RoundedSummary>,
}

/// An imported file, and its detected layout.
#[derive(Clone, Debug, Serialize)]
pub struct FileSummary {
    pub path: String,
    /// Detected format, header and time.
    pub found: String,
}

/// A finding that is allowed but suspect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportWarning {
    /// `rounded`, `different_rows`, `off_grid`, `before_1990`, `time_without_date`, `step` or `no_rows`.
    pub kind: &'static str,
    pub message: String,
}

/// A column of the files that was not imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OmittedColumnSummary {
    /// Header of the column, or `column N`.
    pub column: String,
    /// Flags that import it into a new series; null if it does not contain numbers or the series is registered.
    pub flags: Option<String>,
}

/// A row of the input and its error.
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

/// A row with the same time as another row.
#[derive(Clone, Debug, Serialize)]
pub struct DuplicateSummary {
    pub file: String,
    pub row: u64,
    pub line: Option<u64>,
    pub ts: i64,
    pub other_file: String,
    pub other_row: u64,
    pub other_line: Option<u64>,
    /// Whether both rows hold the same values.
    pub identical: bool,
}

/// A number that lost digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoundedSummary {
    pub file: String,
    pub row: u64,
    pub line: Option<u64>,
    pub column: String,
    /// As the file has it.
    pub before: String,
    /// As it is stored.
    pub after: String,
}

impl ImportSummary {
    /// `known` says whether the series is registered already.
    pub fn of(
        settings: &ImportSettings,
        plan: &ImportPlan,
        def: &SeriesDef,
        known: bool,
        checked: &InputSummary,
    ) -> Self {
        let files =
            plan.files.iter().map(|file| FileSummary { path: file.input.label.clone(), found: file.describe() });
        let rounded = def.columns.iter().zip(&checked.rounded).filter(|(_, count)| **count > 0);
        let skipped = if settings.on_invalid == OnInvalid::Skip { checked.invalid.count } else { 0 };
        let repeats = &checked.repeats;
        let mut summary = Self {
            series: settings.key.clone(),
            target: None,
            files: files.collect(),
            dry_run: settings.dry_run,
            registered: false,
            unit: def.unit,
            columns: def.columns.clone(),
            columns_left_out: left_out(plan, known),
            rows_read: checked.rows,
            rows_written: 0,
            rows_replaced: 0,
            rows_duplicate: repeats.dropped(),
            rows_different: repeats.different(),
            rows_invalid: checked.invalid.count,
            invalid_reasons: checked.invalid.reasons.clone(),
            rows_skipped: skipped,
            rows_inconsistent: checked.odd.count,
            rows_off_grid: checked.off_grid.count,
            rows_before_1990: checked.early.count,
            rounded: rounded.map(|(column, count)| (column.name.clone(), *count)).collect(),
            first_ts: checked.first_ts,
            last_ts: checked.last_ts,
            warnings: Vec::new(),
            invalid: rows(plan, &checked.invalid),
            inconsistent: rows(plan, &checked.odd),
            duplicates: repeats.list.iter().take(FINDINGS_MAX).map(|repeat| duplicate(plan, repeat)).collect(),
            rounded_rows: checked.rounded_list.iter().map(|number| rounded_row(plan, def, number)).collect(),
        };
        summary.warnings = summary.warn(settings, plan, checked);
        summary
    }

    fn warn(&self, settings: &ImportSettings, plan: &ImportPlan, checked: &InputSummary) -> Vec<ImportWarning> {
        let mut found = Vec::new();
        let mut warn = |kind, message| found.push(ImportWarning { kind, message });
        let first = |matching: &RowGroup| match matching.first {
            Some((place, ts)) => format!("first {} at {}", position_text(plan, place), rfc3339(ts, self.unit)),
            None => String::new(),
        };
        if checked.rows == 0 {
            warn("no_rows", "the files have no row: nothing was imported and no series was registered".to_string());
        }
        if let (Some(number), Rounding::Nearest) = (self.rounded_rows.first(), settings.rules.rounding) {
            let counts = self.rounded.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
            warn(
                "rounded",
                format!(
                    "--rounding nearest changed numbers: {}; first {}: {} {} became {}",
                    counts.join(", "),
                    at(&number.file, number.line, number.row),
                    number.column,
                    number.before,
                    number.after
                ),
            );
        }
        if self.rows_different > 0 && settings.on_duplicate != OnDuplicate::Reject {
            let done = match settings.on_duplicate {
                OnDuplicate::Identical => "no row of their timestamps is imported",
                _ => "the last row of each timestamp is imported",
            };
            warn(
                "different_rows",
                format!("{} rows repeat a timestamp with different values; {done}", self.rows_different),
            );
        }
        if checked.off_grid.count > 0 {
            let (count, first) = (checked.off_grid.count, first(&checked.off_grid));
            warn(
                "off_grid",
                format!(
                    "{count} rows are not at the start of an interval of {}, {first}",
                    settings.key.timeframe().unwrap_or("the series")
                ),
            );
        }
        for file in plan.files.iter().filter(|file| file.lacks_date) {
            let message = format!(
                "the times of {} look like times of day without a date; set it by --base-date and --time-unit",
                file.input.label
            );
            warn("time_without_date", message);
        }
        if checked.early.count > 0 {
            let (count, first) = (checked.early.count, first(&checked.early));
            warn(
                "before_1990",
                format!("{count} rows are before 1990, {first}; is --time-unit or --time-format right?"),
            );
        }
        if let Some(other) = checked.steps.contradiction(self.unit) {
            let message = format!(
                "{} says {}, and the most common step between rows is {} ({} of {} steps)",
                settings.key,
                settings.key.timeframe().unwrap_or("the series"),
                other.step,
                other.count,
                other.total
            );
            warn("step", message);
        }
        found
    }

    pub fn wrote(&mut self, written: SinkReply) {
        self.rows_written = written.rows;
        self.rows_replaced = written.replaced;
    }

    /// The text form. `refused` is set when invalid rows prevented the import.
    pub fn text(&self, refused: bool) -> String {
        let mut out = String::new();
        let rows_valid = self.rows_read.saturating_sub(self.rows_invalid).saturating_sub(self.rows_duplicate);
        let verb = match self.rows_written {
            _ if refused => "nothing imported".into(),
            _ if self.dry_run => format!("would import {rows_valid} rows"),
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
        line(
            "duplicate",
            match self.rows_different {
                0 => self.rows_duplicate.to_string(),
                different => format!("{}, {different} with different values", self.rows_duplicate),
            },
        );
        let reasons: Vec<String> =
            self.invalid_reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        line(
            "invalid",
            match self.rows_invalid {
                0 => "0".into(),
                count => format!("{count} ({})", reasons.join(", ")),
            },
        );
        line("inconsistent", self.rows_inconsistent.to_string());
        if self.rows_off_grid > 0 {
            line("off grid", self.rows_off_grid.to_string());
        }
        let rounded: Vec<String> = self.rounded.iter().map(|(name, count)| format!("{name} {count}")).collect();
        line("rounded", if rounded.is_empty() { "none".into() } else { rounded.join(", ") });
        if let (Some(first), Some(last)) = (self.first_ts, self.last_ts) {
            line("times", format!("{} to {}", rfc3339(first, self.unit), rfc3339(last, self.unit)));
        }
        if !self.columns_left_out.is_empty() {
            let names: Vec<&str> = self.columns_left_out.iter().map(|left| left.column.as_str()).collect();
            line("not imported", names.join(", "));
        }
        if let Some(flags) = self.import_flags() {
            line("import with", format!("{flags} in a new series"));
        }
        list(&mut out, "invalid rows", self.rows_invalid, LISTED_MAX, &self.invalid, RowSummary::text);
        let title = "inconsistent rows, imported";
        list(&mut out, title, self.rows_inconsistent, LISTED_MAX, &self.inconsistent, RowSummary::text);
        let repeated = self.rows_duplicate.max(self.duplicates.len() as u64);
        list(&mut out, "rows that repeat a timestamp", repeated, LISTED_MAX, &self.duplicates, |row| {
            let same = if row.identical { "identical" } else { "different values" };
            let other = at(&row.other_file, row.other_line, row.other_row);
            format!("{}: {} as in {other}, {same}", at(&row.file, row.line, row.row), rfc3339(row.ts, self.unit))
        });
        let rounded = self.rounded.values().sum();
        list(&mut out, "rounded numbers", rounded, ROUNDED_LISTED_MAX, &self.rounded_rows, |number| {
            let row = at(&number.file, number.line, number.row);
            format!("{row}: {} {} became {}", number.column, number.before, number.after)
        });
        out
    }

    /// The flags that import the omitted columns, as one list per flag.
    fn import_flags(&self) -> Option<String> {
        let (mut extra, mut map) = (Vec::new(), Vec::new());
        for flags in self.columns_left_out.iter().filter_map(|left| left.flags.as_deref()) {
            let mut words = flags.split(' ').skip(1).step_by(2);
            extra.extend(words.next());
            map.extend(words.next());
        }
        let flags = [("--extra", extra), ("--map", map)].into_iter().filter(|(_, values)| !values.is_empty());
        let flags: Vec<String> = flags.map(|(flag, values)| format!("{flag} {}", values.join(","))).collect();
        (!flags.is_empty()).then(|| flags.join(" "))
    }
}

impl RowSummary {
    fn text(&self) -> String {
        format!("{}: {} {} ({})", at(&self.file, self.line, self.row), self.field, self.message, self.reason)
    }
}

fn list<T>(out: &mut String, title: &str, count: u64, listed: usize, rows: &[T], text: impl Fn(&T) -> String) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    for row in rows.iter().take(listed) {
        let _ = writeln!(out, "  {}", text(row));
    }
    let more = count.saturating_sub(rows.len().min(listed) as u64);
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

/// The position of a row as text.
pub fn position_text(plan: &ImportPlan, place: RowPosition) -> String {
    at(&plan.path(place.file), place.line, place.row)
}

fn rows(plan: &ImportPlan, findings: &RowFindings) -> Vec<RowSummary> {
    let row = |finding: &RowFinding| RowSummary {
        file: plan.path(finding.place.file),
        row: finding.place.row,
        line: finding.place.line,
        field: finding.issue.field.clone(),
        reason: finding.issue.reason,
        message: finding.issue.message.clone(),
    };
    findings.list.iter().map(row).collect()
}

fn duplicate(plan: &ImportPlan, repeat: &RepeatedRow) -> DuplicateSummary {
    DuplicateSummary {
        file: plan.path(repeat.place.file),
        row: repeat.place.row,
        line: repeat.place.line,
        ts: repeat.ts,
        other_file: plan.path(repeat.other.file),
        other_row: repeat.other.row,
        other_line: repeat.other.line,
        identical: repeat.identical,
    }
}

fn rounded_row(plan: &ImportPlan, def: &SeriesDef, number: &Rounded) -> RoundedSummary {
    RoundedSummary {
        file: plan.path(number.place.file),
        row: number.place.row,
        line: number.place.line,
        column: def.columns.get(number.column).map(|column| column.name.clone()).unwrap_or_default(),
        before: number.before.clone(),
        after: number.after.clone(),
    }
}

/// The omitted columns of all files, each name once.
fn left_out(plan: &ImportPlan, known: bool) -> Vec<OmittedColumnSummary> {
    let mut found: Vec<OmittedColumnSummary> = Vec::new();
    for OmittedColumn { name, kept_by } in plan.files.iter().flat_map(|file| &file.left_out) {
        let flags = kept_by.as_ref().filter(|_| !known).map(|keep| match keep.map {
            Some(at) => format!("--extra {0} --map {0}={at}", keep.extra),
            None => format!("--extra {}", keep.extra),
        });
        if !found.iter().any(|known| known.column == *name) {
            found.push(OmittedColumnSummary { column: name.clone(), flags });
        }
    }
    found
}

/// The findings before the write: the files, and for each column its source and type.
pub fn findings(plan: &ImportPlan, def: &SeriesDef, is_new: bool) -> String {
    let mut out = String::new();
    for file in &plan.files {
        let _ = writeln!(out, "{}: {}", file.input.label, file.describe());
    }
    let _ = writeln!(out, "{} ({}):", def.key, if is_new { "new" } else { "registered" });
    let from = |of: &dyn Fn(&super::plan::FilePlan) -> String| {
        let mut sources: Vec<String> = Vec::new();
        for source in plan.files.iter().map(of) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources.join(" | ")
    };
    let time = from(&|file| {
        file.mapping.layout.ts.iter().map(|at| file.mapping.layout.source_name(*at)).collect::<Vec<_>>().join(" + ")
    });
    let _ = writeln!(out, "  {:<16} {:<12} from {time}", "ts", def.unit.name());
    for (position, column) in def.columns.iter().enumerate() {
        let source = from(&|file| match file.mapping.layout.columns.get(position) {
            Some(CellSource::Position(at)) => file.mapping.layout.source_name(*at),
            Some(CellSource::Constant(text)) => format!("constant {text}"),
            Some(CellSource::Absent) => "nothing: null".into(),
            None => String::new(),
        });
        let _ = writeln!(out, "  {:<16} {:<12} from {source}", column.name, column.kind.text());
    }
    out
}
