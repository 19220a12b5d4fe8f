//! Every file of an import with its layout, and the reader of their rows.

use std::path::Path;

use indicatif::ProgressBar;

use crate::error::{Error, Result};

use super::args::{BaseDate, ImportSettings};
use super::cell::{Preview, SourceCell, SourceRecord};
use super::clock::{BadTime, SourceTime, TimeReader, TimeRule, date_in_name, is_plain_number, look_like_times_of_day};
use super::forms::Forms;
use super::mapping::{CellSource, FileLayout, OmittedColumn, TargetColumn, resolve};
use super::open::{FileFormat, Input};
use super::stdin::STDIN;
use super::{csv, json, table};

/// One file, ready to read.
#[derive(Clone, Debug)]
pub struct FilePlan {
    pub input: Input,
    pub layout: FileLayout,
    pub rule: TimeRule,
    /// Separator of CSV.
    pub separator: u8,
    /// The date for its times of day, from `--base-date`.
    pub base: Option<jiff::civil::Date>,
    /// Set when its times look like numbers since midnight and no date is given.
    pub lacks_date: bool,
    /// Columns of the file that are not imported.
    pub left_out: Vec<OmittedColumn>,
}

impl FilePlan {
    /// Resolves the layout of a file from its first rows.
    pub fn of(settings: &ImportSettings, targets: &[TargetColumn], input: Input) -> Result<Self> {
        let mut separator = b',';
        let preview: Preview = match input.format {
            FileFormat::Csv => {
                separator = match settings.delimiter {
                    Some(separator) => separator,
                    None => csv::sniff(&input)?,
                };
                csv::preview(&input, separator)?
            }
            FileFormat::Json => json::preview(&input)?,
            FileFormat::Parquet | FileFormat::ArrowFile | FileFormat::ArrowStream => table::preview(&input)?,
        };
        let layout = resolve(settings, targets, &preview, &input.label)?;
        let left_out = layout.left_out(targets, &preview);
        let data = preview.rows.iter().skip(usize::from(layout.header));
        let times: Vec<String> = data
            .map(|row| {
                let parts: Vec<&str> = layout.ts.iter().filter_map(|at| row.get(*at)).map(String::as_str).collect();
                parts.join(" ")
            })
            .collect();
        let rule = TimeRule::detect(settings.time_unit, settings.time_format.as_deref(), &times);
        let base = settings.base_date.map(|base| base_of(base, &input)).transpose()?;
        let counted = times.iter().find(|text| !text.trim().is_empty()).is_some_and(|text| is_plain_number(text));
        if base.is_some() && counted && settings.time_unit.is_none() && settings.time_format.is_none() {
            return Err(Error::invalid(format!("{}: the unit of its times since midnight is unknown", input.label))
                .with_hint("--time-unit s, ms, us or ns for numbers; --time-format %H%M%S for clock digits"));
        }
        let lacks_date = base.is_none() && look_like_times_of_day(&rule, settings.time_unit, &times);
        Ok(Self { input, layout, rule, separator, base, lacks_date, left_out })
    }

    /// A description of the format of the file and of its times.
    pub fn describe(&self) -> String {
        let mut text = self.input.format.name().to_string();
        if self.input.format == FileFormat::Csv {
            let separator = char::from(self.separator);
            text.push_str(&if separator == '\t' { " tab".into() } else { format!(" '{separator}'") });
            text.push_str(if self.layout.header { ", header" } else { ", no header" });
        }
        text.push_str(", time ");
        match (self.base, &self.rule) {
            (Some(base), TimeRule::Epoch(_)) => {
                let rule = self.rule.describe();
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

/// A source row with its position and its cells by target.
#[derive(Debug)]
pub struct SourceRow<'a> {
    /// Position of the file in the plan.
    pub file: usize,
    /// Zero-based data row in the file.
    pub row: u64,
    pub line: Option<u64>,
    /// Zero-based number over all files.
    pub number: u64,
    pub time: std::result::Result<SourceTime, BadTime>,
    /// The time as text, for messages.
    pub time_cells: &'a [SourceCell<'a>],
    /// One cell for each target.
    pub cells: &'a [SourceCell<'a>],
}

/// The cells of one row that the number forms rewrite.
#[derive(Debug, Default)]
struct RewrittenCells {
    text: Vec<u8>,
    /// Position among the cells, and the end of its new text.
    ends: Vec<(usize, usize)>,
}

impl RewrittenCells {
    fn of(&mut self, forms: Forms, cells: &[SourceCell<'_>]) {
        self.text.clear();
        self.ends.clear();
        if forms.is_plain() {
            return;
        }
        for (at, cell) in cells.iter().enumerate() {
            if let SourceCell::Text(text) = cell
                && forms.rewrite(text, &mut self.text)
            {
                self.ends.push((at, self.text.len()));
            }
        }
    }

    fn put<'a>(&'a self, cells: &mut [SourceCell<'a>]) {
        let mut begin = 0;
        for (at, end) in &self.ends {
            if let (Some(cell), Some(text)) = (cells.get_mut(*at), self.text.get(begin..*end)) {
                *cell = SourceCell::Text(text);
            }
            begin = *end;
        }
    }
}

/// All files of an import.
#[derive(Clone, Debug)]
pub struct ImportPlan {
    pub files: Vec<FilePlan>,
    pub targets: Vec<TargetColumn>,
    pub zone: super::clock::AssumedZone,
    /// Accepted number forms besides plain numbers.
    forms: Forms,
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
        Ok(Self { files, targets, zone: settings.zone.clone(), forms: settings.forms })
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
        let mut number = 0;
        for (at, file) in self.files.iter().enumerate() {
            let mut clock = TimeReader::new(file.rule.clone(), self.zone.clone()).on(file.base);
            let mut rewritten = RewrittenCells::default();
            let positions = file.layout.positions();
            let times = file.layout.ts.len();
            let mut each = |record: SourceRecord<'_>| {
                let (time_cells, mut mapped) = record.cells.split_at(times.min(record.cells.len()));
                let mut cells = Vec::with_capacity(file.layout.columns.len());
                for origin in &file.layout.columns {
                    cells.push(match origin {
                        CellSource::Constant(text) => SourceCell::Text(text.as_bytes()),
                        CellSource::Position(_) => match mapped {
                            [cell, rest @ ..] => {
                                mapped = rest;
                                *cell
                            }
                            [] => SourceCell::Missing,
                        },
                    });
                }
                rewritten.of(self.forms, &cells);
                rewritten.put(&mut cells);
                let row = SourceRow {
                    file: at,
                    row: record.row,
                    line: record.line,
                    number,
                    time: clock.read(time_cells),
                    time_cells,
                    cells: &cells,
                };
                number += 1;
                visit(row)
            };
            let input = &file.input;
            match input.format {
                FileFormat::Csv => csv::read(input, file.separator, file.layout.header, &positions, bar, &mut each)?,
                FileFormat::Json => {
                    let names = file.layout.names.as_deref().filter(|_| !file.layout.header);
                    json::read(input, names, file.layout.header, &positions, bar, &mut each)?;
                }
                FileFormat::Parquet | FileFormat::ArrowFile | FileFormat::ArrowStream => {
                    table::read(input, &positions, bar, &mut each)?;
                }
            }
        }
        Ok(())
    }
}
