//! The mapping from the columns of a file to those of a series: sources, time formats and zones, number forms.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::number_forms::NumberForms;
use super::time::TimeRule;

/// The source of the cells of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellSource {
    Position(usize),
    /// The value given by `--set`, as text.
    Constant(String),
    /// The file does not have the column, whose cells are null.
    Absent,
}

/// The mapping from the rows of one file to rows of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// Whether the first row names the columns.
    pub header: bool,
    /// The time cells, joined with a space when several.
    pub ts: Vec<usize>,
    /// One source for each target.
    pub columns: Vec<CellSource>,
    /// Names of the source columns, if any.
    pub names: Option<Vec<String>>,
}

impl FileLayout {
    /// Positions to read: the time cells first, then the mapped columns.
    pub fn positions(&self) -> Vec<usize> {
        let mapped = self.columns.iter().filter_map(|origin| match origin {
            CellSource::Position(at) => Some(*at),
            CellSource::Constant(_) | CellSource::Absent => None,
        });
        self.ts.iter().copied().chain(mapped).collect()
    }

    /// The name of a source column for messages.
    pub fn source_name(&self, position: usize) -> String {
        match self.names.as_ref().and_then(|names| names.get(position)) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("column {position}"),
        }
    }
}

/// How the cells of a file become cells of the series.
#[derive(Clone, Debug)]
pub struct FileMapping {
    pub layout: FileLayout,
    /// Separator of CSV.
    pub separator: u8,
    pub time: TimeRule,
    /// The zone of times without an offset.
    pub zone: TimeZone,
    /// The date of times of day.
    pub base_date: Option<Date>,
    /// Whether each column keeps its texts as they are, with spaces around them and without number forms.
    pub verbatim: Vec<bool>,
    /// Number forms that are accepted in addition to plain numbers.
    pub number_forms: NumberForms,
}
