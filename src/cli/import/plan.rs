//! Every file of an import with its layout, and the reader of their rows.

use std::path::Path;
use std::rc::Rc;

use indicatif::ProgressBar;

use crate::error::{Error, Result};
use crate::ingest::source::{
    self, FileFormat, FileMapping, Input, MappedRow, ReadProgress, TimeRule, date_in_name, is_plain_number,
    look_like_times_of_day,
};

use super::args::{BaseDate, ImportSettings};
use super::mapping::{OmittedColumn, TargetColumn, left_out, resolve};
use super::stdin::STDIN;

/// One file, ready to read.
#[derive(Clone, Debug)]
pub struct FilePlan {
    pub input: Input,
    pub mapping: FileMapping,
    /// Set when the times of the file look like numbers since midnight and no date is given.
    pub lacks_date: bool,
    /// Columns of the file that are not imported.
    pub left_out: Vec<OmittedColumn>,
}

impl FilePlan {
    /// Resolves the layout of a file from its first rows.
    pub fn of(settings: &ImportSettings, targets: &[TargetColumn], input: Input) -> Result<Self> {
        let separator = match (input.format, settings.delimiter) {
            (FileFormat::Csv, Some(separator)) => separator,
            (FileFormat::Csv, None) => source::sniff(&input)?,
            _ => b',',
        };
        let preview = source::preview(&input, separator)?;
        let layout = resolve(settings, targets, &preview, &input.label)?;
        let left_out = left_out(&layout, targets, &preview);
        let data = preview.rows.iter().skip(usize::from(layout.header));
        let times: Vec<String> = data
            .map(|row| {
                let parts: Vec<&str> = layout.ts.iter().filter_map(|at| row.get(*at)).map(String::as_str).collect();
                parts.join(" ")
            })
            .collect();
        let time = TimeRule::detect(settings.time_unit, settings.time_format.as_deref(), &times);
        let base_date = settings.base_date.map(|base| base_of(base, &input)).transpose()?;
        let counted = times.iter().find(|text| !text.trim().is_empty()).is_some_and(|text| is_plain_number(text));
        if base_date.is_some() && counted && settings.time_unit.is_none() && settings.time_format.is_none() {
            return Err(Error::invalid(format!("{}: the unit of its times since midnight is unknown", input.label))
                .with_hint("--time-unit s, ms, us or ns for numbers; --time-format %H%M%S for clock digits"));
        }
        let lacks_date = base_date.is_none() && look_like_times_of_day(&time, settings.time_unit, &times);
        let (zone, number_forms) = (settings.zone.clone(), settings.number_forms);
        let verbatim = targets.iter().map(|target| target.is_text).collect();
        let mapping = FileMapping { layout, separator, time, zone, base_date, verbatim, number_forms };
        Ok(Self { input, mapping, lacks_date, left_out })
    }

    /// A description of the format of the file and of its times.
    pub fn describe(&self) -> String {
        let mut text = self.input.format.name().to_string();
        if self.input.format == FileFormat::Csv {
            let separator = char::from(self.mapping.separator);
            text.push_str(&if separator == '\t' { " tab".into() } else { format!(" '{separator}'") });
            text.push_str(if self.mapping.layout.header { ", header" } else { ", no header" });
        }
        text.push_str(", time ");
        match (self.mapping.base_date, &self.mapping.time) {
            (Some(base), rule @ TimeRule::Epoch(_)) => {
                let rule = rule.describe();
                text.push_str(&format!("{} since midnight of {base}", rule.trim_start_matches("epoch ")));
            }
            (Some(base), rule) => text.push_str(&format!("{} on {base}", rule.describe())),
            (None, rule) => text.push_str(&rule.describe()),
        }
        text
    }
}

/// The base date of a file.
fn base_of(base: BaseDate, input: &Input) -> Result<jiff::civil::Date> {
    match base {
        BaseDate::Given(date) => Ok(date),
        BaseDate::FileName => {
            let name = Path::new(&input.label).file_name().unwrap_or_default().to_string_lossy();
            date_in_name(&name).ok_or_else(|| {
                Error::invalid(format!("{}: its name has no date for --base-date name", input.label))
                    .with_hint("YYYYMMDD or YYYY-MM-DD in the name, or --base-date with the date itself")
            })
        }
    }
}

/// A row with its position in the input.
#[derive(Debug)]
pub struct SourceRow<'a> {
    /// Position of the file in the plan.
    pub file: usize,
    /// Zero-based number over all files.
    pub number: u64,
    pub mapped: MappedRow<'a>,
}

/// All files of an import.
#[derive(Clone, Debug)]
pub struct ImportPlan {
    pub files: Vec<FilePlan>,
    pub targets: Vec<TargetColumn>,
}

impl ImportPlan {
    /// Reads the first rows of every file; `staged` is the file with standard input.
    pub fn of(settings: &ImportSettings, targets: Vec<TargetColumn>, staged: Option<&Path>) -> Result<Self> {
        let files = settings
            .files
            .iter()
            .map(|path| {
                let input = match staged.filter(|_| path.as_os_str() == STDIN) {
                    Some(staged) => Input::labelled(staged, "standard input".into())?,
                    None => Input::detect(path)?,
                };
                FilePlan::of(settings, &targets, input)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { files, targets })
    }

    /// Bytes of all files on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.input.bytes).sum()
    }

    /// The path of a file as given.
    pub fn path(&self, file: usize) -> String {
        self.files.get(file).map(|file| file.input.label.clone()).unwrap_or_default()
    }

    /// Reads every row of every file in order.
    pub fn read(&self, bar: &ProgressBar, visit: &mut dyn FnMut(SourceRow<'_>) -> Result<()>) -> Result<()> {
        let bar = bar.clone();
        let progress: ReadProgress = Rc::new(move |bytes| bar.inc(bytes));
        let mut number = 0;
        for (at, file) in self.files.iter().enumerate() {
            source::read(&file.input, &file.mapping, &progress, &mut |mapped| {
                let row = SourceRow { file: at, number, mapped };
                number += 1;
                visit(row)
            })?;
        }
        Ok(())
    }
}
