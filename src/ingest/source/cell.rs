//! Rows of borrowed cells, as every kind of source returns them.

use std::borrow::Cow;

/// One value of a source row, borrowed from the reader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SourceCell<'a> {
    /// Absent, empty or null.
    Missing,
    /// Text of a CSV field, a JSON number or a JSON string; empty only where a column keeps texts as they are.
    Text(&'a [u8]),
    Int(i64),
    Float(f64),
    Flag(bool),
    /// Bytes that are no text.
    Bytes(&'a [u8]),
    /// A typed timestamp; `zoned` when it is an instant rather than a wall-clock time.
    Time {
        ticks: i64,
        per_second: i64,
        zoned: bool,
    },
    /// A typed time of day.
    TimeOfDay {
        ticks: i64,
        per_second: i64,
    },
    /// A value that is neither a number nor a time, with its name for the message.
    Wrong(&'static str),
}

impl<'a> SourceCell<'a> {
    /// A text cell; empty text counts as missing.
    pub fn text(text: &'a [u8]) -> Self {
        if text.is_empty() { SourceCell::Missing } else { SourceCell::Text(text) }
    }

    /// The cell without spaces around its text.
    pub(super) fn trimmed(self) -> Self {
        match self {
            SourceCell::Text(text) => SourceCell::text(text.trim_ascii()),
            other => other,
        }
    }

    /// The cell as text for messages and for joining.
    pub fn show(self) -> Cow<'a, str> {
        match self {
            SourceCell::Missing => Cow::Borrowed(""),
            SourceCell::Text(text) => String::from_utf8_lossy(text),
            SourceCell::Int(number) => number.to_string().into(),
            SourceCell::Float(number) => number.to_string().into(),
            SourceCell::Flag(flag) => flag.to_string().into(),
            SourceCell::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            SourceCell::Time { ticks, .. } | SourceCell::TimeOfDay { ticks, .. } => ticks.to_string().into(),
            SourceCell::Wrong(what) => what.into(),
        }
    }
}

/// One row of a source.
#[derive(Clone, Copy, Debug)]
pub struct SourceRecord<'a> {
    /// Zero-based position among the data rows of its file.
    pub row: u64,
    /// Line of the file on which the row begins, from 1, where the format has lines.
    pub line: Option<u64>,
    /// The requested cells, in the requested order.
    pub cells: &'a [SourceCell<'a>],
}

/// Receives one row after the other; an error ends the reading.
pub type Visit<'v> = dyn FnMut(SourceRecord<'_>) -> crate::Result<()> + 'v;

/// Names and first rows of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// Column names, where the format itself has them (objects, tables).
    pub names: Option<Vec<String>>,
    /// The first rows, as text; without names the first of them may be a header.
    pub rows: Vec<Vec<String>>,
}

/// Most rows of a preview.
pub const PREVIEW_ROWS: usize = 1_000;
