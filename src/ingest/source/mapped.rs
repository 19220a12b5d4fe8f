//! The rows of a file, mapped to the columns of a series.

use super::cell::{Preview, SourceCell, SourceRecord};
use super::file::{FileFormat, Input, ReadProgress};
use super::mapping::{CellSource, FileMapping};
use super::number_forms::NumberForms;
use super::time::{BadTime, SourceTime, TimeReader};
use super::{csv, json, table};
use crate::error::Result;

/// A row of a file, with its cells by column of the series.
#[derive(Debug)]
pub struct MappedRow<'a> {
    /// Zero-based data row in the file.
    pub row: u64,
    pub line: Option<u64>,
    pub time: std::result::Result<SourceTime, BadTime>,
    /// The time as text, for messages.
    pub time_cells: &'a [SourceCell<'a>],
    /// One cell for each column of the mapping.
    pub cells: &'a [SourceCell<'a>],
}

/// The cells of one row that the number forms rewrite.
#[derive(Debug, Default)]
struct RewrittenCells {
    text: Vec<u8>,
    /// Position among the cells, and the end of its new text.
    ends: Vec<(usize, usize)>,
}

fn is_verbatim(verbatim: &[bool], at: usize) -> bool {
    verbatim.get(at).copied().unwrap_or(false)
}

impl RewrittenCells {
    fn of(&mut self, forms: NumberForms, cells: &[SourceCell<'_>], verbatim: &[bool]) {
        self.text.clear();
        self.ends.clear();
        if forms.is_plain() {
            return;
        }
        for (at, cell) in cells.iter().enumerate() {
            if let SourceCell::Text(text) = cell
                && !is_verbatim(verbatim, at)
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

/// Reads every row of a file in order.
///
/// # Errors
/// `invalid_argument` for a file that does not follow its format, `io`, and those of `visit`.
pub fn read(
    input: &Input,
    mapping: &FileMapping,
    progress: &ReadProgress,
    visit: &mut dyn FnMut(MappedRow<'_>) -> Result<()>,
) -> Result<()> {
    let layout = &mapping.layout;
    let mut times = TimeReader::new(mapping.time.clone(), mapping.zone.clone()).on(mapping.base_date);
    let mut rewritten = RewrittenCells::default();
    let positions = layout.positions();
    let time_count = layout.ts.len();
    let mut each = |record: SourceRecord<'_>| {
        let (time_cells, mut mapped) = record.cells.split_at(time_count.min(record.cells.len()));
        let time_cells: Vec<SourceCell<'_>> = time_cells.iter().map(|cell| cell.trimmed()).collect();
        let mut cells = Vec::with_capacity(layout.columns.len());
        for (at, source) in layout.columns.iter().enumerate() {
            let cell = match source {
                CellSource::Constant(text) => SourceCell::Text(text.as_bytes()),
                CellSource::Absent => SourceCell::Missing,
                CellSource::Position(_) => match mapped {
                    [cell, rest @ ..] => {
                        mapped = rest;
                        *cell
                    }
                    [] => SourceCell::Missing,
                },
            };
            cells.push(if is_verbatim(&mapping.verbatim, at) { cell } else { cell.trimmed() });
        }
        rewritten.of(mapping.number_forms, &cells, &mapping.verbatim);
        rewritten.put(&mut cells);
        let time = times.read(&time_cells);
        visit(MappedRow { row: record.row, line: record.line, time, time_cells: &time_cells, cells: &cells })
    };
    match input.format {
        FileFormat::Csv => csv::read(input, mapping.separator, layout.header, &positions, progress, &mut each),
        FileFormat::Json => {
            let names = layout.names.as_deref().filter(|_| !layout.header);
            json::read(input, names, layout.header, &positions, progress, &mut each)
        }
        FileFormat::Parquet | FileFormat::ArrowFile | FileFormat::ArrowStream => {
            table::read(input, &positions, progress, &mut each)
        }
    }
}

/// Names and first rows of a file; `separator` is that of CSV.
///
/// # Errors
/// As [`read`].
pub fn preview(input: &Input, separator: u8) -> Result<Preview> {
    match input.format {
        FileFormat::Csv => csv::preview(input, separator),
        FileFormat::Json => json::preview(input),
        FileFormat::Parquet | FileFormat::ArrowFile | FileFormat::ArrowStream => table::preview(input),
    }
}
