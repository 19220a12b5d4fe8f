//! Every file of an import with its layout, and the one way to read their rows.

use indicatif::ProgressBar;

use crate::error::Result;

use super::args::Settings;
use super::cell::{Cell, Preview, Record};
use super::clock::{BadTime, Clock, Moment, TimeRule};
use super::mapping::{Layout, Origin, Target, resolve};
use super::open::{Format, Input};
use super::{csv, json, table};

/// One file, ready to read.
#[derive(Clone, Debug)]
pub struct FilePlan {
    pub input: Input,
    pub layout: Layout,
    pub rule: TimeRule,
    /// Separator of CSV.
    pub separator: u8,
}

impl FilePlan {
    /// Settles everything the first rows of a file tell.
    pub fn of(settings: &Settings, targets: &[Target], input: Input) -> Result<Self> {
        let mut separator = b',';
        let preview: Preview = match input.format {
            Format::Csv => {
                separator = match settings.delimiter {
                    Some(separator) => separator,
                    None => csv::sniff(&input)?,
                };
                csv::preview(&input, separator)?
            }
            Format::Json => json::preview(&input)?,
            Format::Parquet | Format::ArrowFile | Format::ArrowStream => table::preview(&input)?,
        };
        let layout = resolve(settings, targets, &preview, &input.path.display().to_string())?;
        let data = preview.rows.iter().skip(usize::from(layout.header));
        let times: Vec<String> = data
            .map(|row| {
                let parts: Vec<&str> = layout.ts.iter().filter_map(|at| row.get(*at)).map(String::as_str).collect();
                parts.join(" ")
            })
            .collect();
        let rule = TimeRule::detect(settings.time_unit, settings.time_format.as_deref(), &times);
        Ok(Self { input, layout, rule, separator })
    }

    /// For people: what the file is and how its time is written.
    pub fn describe(&self) -> String {
        let mut text = self.input.format.name().to_string();
        if self.input.format == Format::Csv {
            let separator = char::from(self.separator);
            text.push_str(&if separator == '\t' { " tab".into() } else { format!(" '{separator}'") });
            text.push_str(if self.layout.header { ", header" } else { ", no header" });
        }
        text.push_str(", time ");
        text.push_str(&self.rule.describe());
        text
    }
}

/// A source row with its place and its cells by target.
#[derive(Debug)]
pub struct SourceRow<'a> {
    /// Which file, as a position in the plan.
    pub file: usize,
    /// Zero-based data row in the file.
    pub row: u64,
    pub line: Option<u64>,
    /// Zero-based number over all files.
    pub number: u64,
    pub time: std::result::Result<Moment, BadTime>,
    /// The time as written, for messages.
    pub time_cells: &'a [Cell<'a>],
    /// One cell for each target.
    pub cells: &'a [Cell<'a>],
}

/// All files of an import.
#[derive(Clone, Debug)]
pub struct Plan {
    pub files: Vec<FilePlan>,
    pub targets: Vec<Target>,
    pub zone: super::clock::Zone,
}

impl Plan {
    /// Looks at the beginning of every file.
    pub fn of(settings: &Settings, targets: Vec<Target>) -> Result<Self> {
        let files = settings
            .files
            .iter()
            .map(|path| FilePlan::of(settings, &targets, Input::detect(path)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { files, targets, zone: settings.zone.clone() })
    }

    /// Bytes of all files on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.input.bytes).sum()
    }

    /// The path of a file as given.
    pub fn path(&self, file: usize) -> String {
        self.files.get(file).map(|file| file.input.path.display().to_string()).unwrap_or_default()
    }

    /// Reads every row of every file in order.
    pub fn read(&self, bar: &ProgressBar, visit: &mut dyn FnMut(SourceRow<'_>) -> Result<()>) -> Result<()> {
        let mut number = 0;
        for (at, file) in self.files.iter().enumerate() {
            let mut clock = Clock::new(file.rule.clone(), self.zone.clone());
            let positions = file.layout.positions();
            let times = file.layout.ts.len();
            let mut each = |record: Record<'_>| {
                let (time_cells, mut mapped) = record.cells.split_at(times.min(record.cells.len()));
                let mut cells = Vec::with_capacity(file.layout.columns.len());
                for origin in &file.layout.columns {
                    cells.push(match origin {
                        Origin::Constant(text) => Cell::Text(text.as_bytes()),
                        Origin::Position(_) => match mapped {
                            [cell, rest @ ..] => {
                                mapped = rest;
                                *cell
                            }
                            [] => Cell::Missing,
                        },
                    });
                }
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
                Format::Csv => csv::read(input, file.separator, file.layout.header, &positions, bar, &mut each)?,
                Format::Json => {
                    let names = file.layout.names.as_deref().filter(|_| !file.layout.header);
                    json::read(input, names, file.layout.header, &positions, bar, &mut each)?;
                }
                Format::Parquet | Format::ArrowFile | Format::ArrowStream => {
                    table::read(input, &positions, bar, &mut each)?;
                }
            }
        }
        Ok(())
    }
}
