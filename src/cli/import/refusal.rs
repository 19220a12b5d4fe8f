//! Why an import writes no row, and hints for it.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorCode};
use crate::types::SeriesDef;
use crate::types::grid::OFF_GRID;
use crate::types::number::DIGITS_MAX;

use super::args::{ImportSettings, OnDuplicate, OnInvalid};
use super::check::InputSummary;
use super::mapping::NumberRole;
use super::plan::ImportPlan;
use super::report::position_text;

/// Most alternatives in one hint.
const HINTS_MAX: usize = 3;

/// The import to check.
#[derive(Clone, Copy, Debug)]
pub struct RefusedImport<'a> {
    pub settings: &'a ImportSettings,
    pub plan: &'a ImportPlan,
    pub def: &'a SeriesDef,
    /// Whether its columns are those of a registered series or kind.
    pub known: bool,
    pub checked: &'a InputSummary,
}

impl RefusedImport<'_> {
    /// The error of rows that the flags do not allow; `None` if every row is allowed or skipped by a flag.
    pub fn refusal(&self) -> Option<Error> {
        let Self { settings, checked, .. } = *self;
        let invalid = checked.invalid.count;
        if invalid > 0 && settings.on_invalid == OnInvalid::Reject {
            let detail = format!("{invalid} of {} rows are invalid; nothing was written", checked.rows);
            return Some(refused(detail, self.hint_for_invalid_rows("--on-invalid skip skips these rows")));
        }
        let different = checked.repeats.list.iter().find(|repeat| !repeat.identical);
        if let (Some(first), OnDuplicate::Reject) = (different, settings.on_duplicate) {
            let detail = format!(
                "{} of {} rows repeat a timestamp with different values, first {} after {}; nothing was written",
                checked.repeats.different(),
                checked.rows,
                position_text(self.plan, first.place),
                position_text(self.plan, first.other)
            );
            let hint = "bars have one row for each timestamp: trades, several symbols in one file and files of another \
                        series do not fit one series; --on-duplicate last keeps the last row of each timestamp, \
                        --on-duplicate identical leaves such timestamps out";
            return Some(refused(detail, hint.into()));
        }
        if checked.rows > 0 && checked.accepted() == 0 {
            let detail = match (invalid, checked.rows) {
                (invalid, rows) if invalid == rows => format!("all {rows} rows are invalid; nothing was written"),
                (_, rows) => format!("none of {rows} rows is left to import; nothing was written"),
            };
            let general = "a series is registered with its first row; --dry-run shows how the columns are read";
            return Some(refused(detail, self.hint_for_invalid_rows(general)));
        }
        None
    }

    /// Hints for the reasons, the most common first, and `general` last.
    fn hint_for_invalid_rows(&self, general: &str) -> String {
        let mut reasons: Vec<(&str, u64)> = self.checked.invalid.reasons.iter().map(|(word, n)| (*word, *n)).collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut hints: Vec<String> = Vec::new();
        for hint in reasons.into_iter().map(|(reason, _)| self.hint(reason)) {
            if !hint.is_empty() && !hints.contains(&hint) && hints.len() < HINTS_MAX {
                hints.push(hint);
            }
        }
        hints.push(general.into());
        hints.join("; ")
    }

    fn hint(&self, reason: &str) -> String {
        match reason {
            "precision_loss" => self.more_digits(),
            "overflow" if self.known && !super::widen::narrow_columns(self.checked, self.def).is_empty() => {
                "--widen makes the columns of the series wide enough for these files".into()
            }
            "overflow" => "a decimal column holds numbers of up to 18 digits: fewer digits after the point \
                           (--price-digits, --volume-digits, --extra NAME:DIGITS of a new series) leave more before it"
                .into(),
            OFF_GRID => format!(
                "--off-grid allow stores rows that start no interval of {}; for intervals with another start, register \
                 the series with fastk register --origin TS; for another timeframe, use another --series",
                self.settings.key.timeframe().unwrap_or("the series")
            ),
            "ohlc" | "negative_volume" => "--validate none imports rows with inconsistent high, low or volume".into(),
            "at_least" | "at_most" | "non_negative" => {
                "--validate none imports rows that break a rule of their kind".into()
            }
            "bad_time" => "set the format of times by --time-format, --time-unit and --base-date".into(),
            "time_out_of_range" => "set the unit of epoch numbers by --time-unit".into(),
            "not_a_number" | "wrong_type" => match self.flags_for_numbers() {
                Some(flags) => format!("{flags} accepts these numbers"),
                None => "--map COLUMN=SOURCE selects another column of the file".into(),
            },
            "unknown_value" if self.known && !super::widen::narrow_columns(self.checked, self.def).is_empty() => {
                "--widen adds the texts to the values of the enum; check that none is misspelt".into()
            }
            "missing" => "--set COLUMN=NUMBER fills a column that the files do not have".into(),
            _ => String::new(),
        }
    }

    /// The flags named by the messages of the rows.
    fn flags_for_numbers(&self) -> Option<String> {
        let rows = self.checked.invalid.list.iter().filter(|finding| finding.issue.reason == "not_a_number");
        rows.filter_map(|finding| finding.issue.flags.clone()).next()
    }

    /// A hint for columns whose numbers have more digits than the column.
    fn more_digits(&self) -> String {
        let (mut narrow, mut full) = (Vec::new(), Vec::new());
        let mut flags: BTreeMap<&str, u8> = BTreeMap::new();
        let mut extras: Vec<String> = Vec::new();
        for (name, digits) in &self.checked.digits_needed {
            let Some(column) = self.def.column(name).and_then(|at| self.def.columns.get(at)) else { continue };
            let role = self.plan.targets.iter().find(|target| target.name == *name).map(|target| target.role);
            // Digits chosen by the import are the most that fit.
            if *digits > DIGITS_MAX || !(self.known || self.is_given(name, role)) {
                full.push(name.as_str());
                continue;
            }
            let has = column.kind.digits().unwrap_or(0);
            narrow.push(format!("{name} has {has} of the {digits} digits it needs"));
            let flag = match role {
                Some(NumberRole::Price) => "--price-digits",
                Some(NumberRole::Volume) => "--volume-digits",
                Some(NumberRole::Value) | None => "--value-digits",
                Some(NumberRole::Extra) => {
                    extras.push(format!("{name}:{digits}"));
                    continue;
                }
            };
            let most = flags.entry(flag).or_default();
            *most = (*digits).max(*most);
        }
        let mut flags: Vec<String> = flags.into_iter().map(|(flag, digits)| format!("{flag} {digits}")).collect();
        if !extras.is_empty() {
            flags.push(format!("--extra {}", extras.join(",")));
        }
        let mut hints = Vec::new();
        if !narrow.is_empty() {
            let (narrow, flags) = (narrow.join(", "), flags.join(" "));
            hints.push(match self.known {
                true => format!("{narrow}: --widen gives the columns of the series the digits that these files need"),
                false => format!("{narrow}: {flags} keeps them"),
            });
        }
        if !full.is_empty() {
            let full = full.join(", ");
            hints.push(format!(
                "18 digits do not hold both the largest number of {full} and every digit after the point"
            ));
        }
        hints.push("--rounding nearest rounds such numbers half to even, and counts and lists them".into());
        hints.join("; ")
    }

    /// Whether a flag sets the digits of a column.
    fn is_given(&self, name: &str, role: Option<NumberRole>) -> bool {
        match role {
            Some(NumberRole::Price) => self.settings.price_digits.is_some(),
            Some(NumberRole::Volume) => self.settings.volume_digits.is_some(),
            Some(NumberRole::Extra) => {
                self.settings.extra.iter().any(|extra| extra.name == name && extra.digits.is_some())
            }
            Some(NumberRole::Value) | None => self.settings.value_digits.is_some(),
        }
    }
}

fn refused(detail: String, hint: String) -> Error {
    Error::new(ErrorCode::InvalidRows, detail).with_hint(hint)
}
