//! Rows as text: JSON, NDJSON and CSV.
//!
//! Decimals are written with all their digits, doubles as the shortest text that reads back the same. Nothing is
//! allocated per cell.

use super::{BodyWriter, OutputBuffer, PIECE_BYTES, TimeFormat, Trailer};
use crate::error::{Error, Result};
use crate::query::result::SERIES_COLUMN;
use crate::query::{Block, NumberFormat, ResultSchema, Subject};
use crate::types::{ColumnType, TimeUnit, number, time};

/// Cells of a column written between two looks at the size of the piece; a cell takes 15 to 40 bytes.
const CELLS_A_STEP: usize = 2_048;
/// Bytes that rows written between two looks at the size of the piece take at most.
const ROWS_A_STEP_BYTES: usize = 48 * 1024;
/// Most bytes of a number or time, quotes included: a double has up to 24, a time of a far year 40.
const VALUE_BYTES_MAX: usize = 32;
const TIME_BYTES_MAX: usize = 48;

/// What a word means.
#[derive(Clone, Copy, Debug)]
enum WordFormat {
    Int,
    Decimal(u8),
    Double,
    DecimalAsDouble(u8),
    Rfc3339(TimeUnit),
}

/// How the cells of one column are written.
#[derive(Clone, Debug)]
struct CellWriter {
    /// What stands before the cell: a separator and, in JSON, the name.
    before: Vec<u8>,
    /// The same in an array, and its length, where it fits.
    short: Option<([u8; 16], usize)>,
    value: WordFormat,
    quoted: bool,
}

/// Text written to a room that is large enough for it.
struct LineBuffer<'a> {
    room: &'a mut [u8],
    at: usize,
    /// There was less room than was said.
    is_short: bool,
}

impl LineBuffer<'_> {
    #[inline]
    fn put(&mut self, text: &[u8]) {
        match self.room.get_mut(self.at..self.at + text.len()) {
            Some(slot) => slot.copy_from_slice(text),
            None => self.is_short = true,
        }
        self.at += text.len();
    }

    #[inline]
    fn put_number(&mut self, write: impl FnOnce(&mut [u8; number::TEXT_ROOM]) -> usize) {
        match self.room.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            Some(room) => self.at += write(room),
            None => self.is_short = true,
        }
    }
}

impl CellWriter {
    /// Most bytes that [`CellWriter::put`] writes.
    fn bytes_max(&self) -> usize {
        let value = if matches!(self.value, WordFormat::Rfc3339(_)) { TIME_BYTES_MAX } else { VALUE_BYTES_MAX };
        self.before.len() + value
    }

    #[inline]
    fn put(&self, line: &mut LineBuffer<'_>, word: i64, scratch: &mut Vec<u8>) {
        match self.short {
            // Copied in a piece of fixed length: what follows overwrites the rest.
            Some((text, bytes)) => {
                match line.room.get_mut(line.at..).and_then(|rest| rest.first_chunk_mut()) {
                    Some(slot) => *slot = text,
                    None => line.is_short = true,
                }
                line.at += bytes;
            }
            None => line.put(&self.before),
        }
        self.put_value(line, word, scratch);
    }

    #[inline]
    fn put_value(&self, line: &mut LineBuffer<'_>, word: i64, scratch: &mut Vec<u8>) {
        if self.quoted {
            line.put(b"\"");
        }
        match self.value {
            WordFormat::Int => line.put_number(|out| number::format_i64(out, word)),
            WordFormat::Decimal(digits) => line.put_number(|out| number::format_decimal(out, word, digits)),
            WordFormat::Double => line.put_number(|out| number::format_f64(out, f64::from_bits(word.cast_unsigned()))),
            WordFormat::DecimalAsDouble(digits) => {
                line.put_number(|out| number::format_decimal_as_f64(out, word, digits));
            }
            WordFormat::Rfc3339(unit) => {
                scratch.clear();
                time::write_rfc3339(scratch, word, unit);
                line.put(scratch);
            }
        }
        if self.quoted {
            line.put(b"\"");
        }
    }

    /// Appends the cell alone, without what stands before it.
    #[inline]
    fn write(&self, out: &mut Vec<u8>, word: i64, scratch: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + TIME_BYTES_MAX + number::TEXT_ROOM, 0);
        let mut line = LineBuffer { room: out, at, is_short: false };
        self.put_value(&mut line, word, scratch);
        let end = line.at;
        out.truncate(end);
    }
}

/// The columns of an answer, `ts` first, with their names. CSV knows no quotes: its cells never need them.
fn cells(shape: &ResultSchema, times: TimeFormat, quotes: bool) -> Vec<(String, CellWriter)> {
    let text = shape.numbers == NumberFormat::String;
    let cell = |value, quoted| CellWriter { before: Vec::new(), short: None, value, quoted: quoted && quotes };
    let ts = match times {
        TimeFormat::Epoch => cell(WordFormat::Int, text),
        TimeFormat::Rfc3339 => cell(WordFormat::Rfc3339(shape.unit), true),
    };
    let mut all = vec![("ts".to_string(), ts)];
    for column in &shape.columns {
        let number = match (column.kind, shape.numbers) {
            (ColumnType::Float64, _) => cell(WordFormat::Double, false),
            (ColumnType::Int64, _) => cell(WordFormat::Int, text),
            (ColumnType::Decimal { .. }, NumberFormat::Raw) => cell(WordFormat::Int, false),
            (ColumnType::Decimal { digits }, NumberFormat::Float64) => cell(WordFormat::DecimalAsDouble(digits), false),
            (ColumnType::Decimal { digits }, _) => cell(WordFormat::Decimal(digits), text),
        };
        all.push((column.name.clone(), number));
    }
    all
}

fn json_text(text: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(text).map_err(|error| Error::internal(format!("cannot write {text:?} as JSON: {error}")))
}

/// `{"series":…,"version":…,"commit":…,` before the rows of a JSON answer; several series are a list and have no
/// version.
fn json_head(shape: &ResultSchema) -> Result<Vec<u8>> {
    let mut head = b"{\"series\":".to_vec();
    match &shape.subject {
        Subject::One { series, version } => {
            head.extend(json_text(series.as_str())?);
            head.extend_from_slice(format!(",\"version\":{version}").as_bytes());
        }
        Subject::Many { selectors, .. } => {
            for (position, text) in selectors.iter().enumerate() {
                head.push(if position == 0 { b'[' } else { b',' });
                head.extend(json_text(text)?);
            }
            head.push(b']');
        }
    }
    head.extend_from_slice(format!(",\"commit\":{},", shape.commit).as_bytes());
    Ok(head)
}

/// The cells of the series column, one for each key of an answer of several series, with what stands before them.
/// Nothing in a key needs quotes in CSV or a backslash in JSON.
fn series_cells(shape: &ResultSchema, before: &str, quote: &str) -> Option<Vec<Vec<u8>>> {
    let cell = |key: &str| format!("{before}{quote}{key}{quote}").into_bytes();
    shape.keys().map(|keys| keys.iter().flatten().map(cell).collect())
}

/// `,"next_cursor":…}` after the rows of a JSON answer.
fn json_tail(closing: &Trailer) -> Result<Vec<u8>> {
    let mut tail = b",\"next_cursor\":".to_vec();
    match closing.next_cursor.as_deref() {
        Some(cursor) => tail.extend(json_text(cursor)?),
        None => tail.extend_from_slice(b"null"),
    }
    if let Some(stats) = &closing.stats {
        tail.extend_from_slice(b",\"stats\":");
        serde_json::to_writer(&mut tail, stats).map_err(|error| Error::internal(format!("stats: {error}")))?;
    }
    tail.extend_from_slice(b"}\n");
    Ok(tail)
}

/// One line or object a row.
pub(super) struct RowWriter {
    /// The first cell of a row by its series, where there are several.
    series: Option<Vec<Vec<u8>>>,
    cells: Vec<CellWriter>,
    /// Most bytes of a row.
    row_bytes_max: usize,
    /// Before the first row.
    head: Vec<u8>,
    /// Between rows.
    between: &'static [u8],
    /// After the cells of each row.
    after: &'static [u8],
    /// After the last row of a JSON answer, before its cursor.
    end: Option<&'static [u8]>,
    block: Option<Block>,
    row: usize,
    is_first: bool,
}

impl RowWriter {
    pub(super) fn json(shape: &ResultSchema, times: TimeFormat) -> Result<Self> {
        let mut head = json_head(shape)?;
        head.extend_from_slice(b"\"rows\":[");
        Ok(Self::objects(shape, times, head, b",\n", b"}", Some(b"]")))
    }

    pub(super) fn ndjson(shape: &ResultSchema, times: TimeFormat) -> Self {
        Self::objects(shape, times, Vec::new(), b"", b"}\n", None)
    }

    pub(super) fn csv(shape: &ResultSchema, times: TimeFormat) -> Self {
        let mut all = cells(shape, times, false);
        let series = series_cells(shape, "", "");
        let leading = series.as_ref().map(|_| SERIES_COLUMN);
        let names: Vec<&str> = leading.into_iter().chain(all.iter().map(|(name, _)| name.as_str())).collect();
        let head = format!("{}\n", names.join(",")).into_bytes();
        for (_, cell) in all.iter_mut().skip(usize::from(series.is_none())) {
            cell.before.push(b',');
        }
        Self::new(series, all, head, b"", b"\n", None)
    }

    fn objects(
        shape: &ResultSchema,
        times: TimeFormat,
        head: Vec<u8>,
        between: &'static [u8],
        after: &'static [u8],
        end: Option<&'static [u8]>,
    ) -> Self {
        let mut all = cells(shape, times, true);
        let series = series_cells(shape, &format!("{{\"{SERIES_COLUMN}\":"), "\"");
        for (position, (name, cell)) in all.iter_mut().enumerate() {
            let is_first = position == 0 && series.is_none();
            // Column names are of a-z, 0-9 and _ only.
            cell.before = format!("{}\"{name}\":", if is_first { '{' } else { ',' }).into_bytes();
        }
        Self::new(series, all, head, between, after, end)
    }

    fn new(
        series: Option<Vec<Vec<u8>>>,
        cells: Vec<(String, CellWriter)>,
        head: Vec<u8>,
        between: &'static [u8],
        after: &'static [u8],
        end: Option<&'static [u8]>,
    ) -> Self {
        let with_short = |(_, mut cell): (_, CellWriter)| {
            let mut text = [0; 16];
            cell.short = text
                .get_mut(..cell.before.len())
                .map(|slot| slot.copy_from_slice(&cell.before))
                .map(|()| (text, cell.before.len()));
            cell
        };
        let cells: Vec<CellWriter> = cells.into_iter().map(with_short).collect();
        let series_bytes = series.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let cell_bytes: usize = cells.iter().map(CellWriter::bytes_max).sum();
        let row_bytes_max = series_bytes + cell_bytes + between.len() + after.len();
        Self { series, cells, row_bytes_max, head, between, after, end, block: None, row: 0, is_first: true }
    }
}

impl BodyWriter for RowWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open.extend_from_slice(&self.head);
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        self.row = 0;
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(block) = &self.block else { return Ok(true) };
        let row_bytes = self.row_bytes_max;
        let end = block.rows.min(self.row + (ROWS_A_STEP_BYTES / row_bytes).max(1));
        let columns: Vec<(&CellWriter, &[i64])> =
            self.cells.iter().enumerate().map(|(column, cell)| (cell, block.words(column))).collect();
        let before = out.open.len();
        // Room for the rest of the block at once: a short answer is not moved while it grows.
        out.open.reserve(((block.rows - self.row) * row_bytes).min(PIECE_BYTES + OutputBuffer::STEP_BYTES));
        out.open.resize(before + (end - self.row) * row_bytes + number::TEXT_ROOM, 0);
        let mut line = LineBuffer { room: &mut out.open, at: before, is_short: false };
        let mut scratch = Vec::new();
        for row in self.row..end {
            if !self.is_first {
                line.put(self.between);
            }
            self.is_first = false;
            if let Some(series) = &self.series {
                let cell = series.get(block.labels.at(row));
                line.put(cell.ok_or_else(|| Error::internal("a row of no series of its answer"))?);
            }
            for (cell, words) in &columns {
                // All columns were found to have as many words as the block has rows.
                cell.put(&mut line, words.get(row).copied().unwrap_or_default(), &mut scratch);
            }
            line.put(self.after);
        }
        let LineBuffer { at: written, is_short, .. } = line;
        if is_short {
            return Err(Error::internal("a row is longer than the room for it"));
        }
        out.open.truncate(written);
        self.row = end;
        let done = end == block.rows;
        if done {
            self.block = None;
        }
        Ok(done)
    }

    fn finish(&mut self, closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        if let Some(end) = self.end {
            out.open.extend_from_slice(end);
            out.open.extend(json_tail(closing)?);
        }
        Ok(true)
    }
}

/// One array a column. Keeps the blocks until all have come, then writes them column by column.
pub(super) struct ColumnWriter {
    /// The cells of the series column, by series; written first, where there are several.
    series: Option<Vec<Vec<u8>>>,
    cells: Vec<CellWriter>,
    head: Vec<u8>,
    blocks: Vec<Block>,
    column: usize,
    block: usize,
    row: usize,
}

impl ColumnWriter {
    pub(super) fn new(shape: &ResultSchema, times: TimeFormat) -> Result<Self> {
        let mut head = json_head(shape)?;
        head.extend_from_slice(b"\"columns\":{");
        let mut all = cells(shape, times, true);
        let series = series_cells(shape, "", "\"");
        for (position, (name, cell)) in all.iter_mut().enumerate() {
            let is_first = position == 0 && series.is_none();
            cell.before = format!("{}\"{name}\":[", if is_first { "" } else { "," }).into_bytes();
        }
        let cells = all.into_iter().map(|(_, cell)| cell).collect();
        Ok(Self { series, cells, head, blocks: Vec::new(), column: 0, block: 0, row: 0 })
    }

    /// Writes some of the series column; true when there is no more of it.
    fn print_series(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(series) = &self.series else { return Ok(true) };
        if self.block == 0 && self.row == 0 {
            out.open.extend_from_slice(format!("\"{SERIES_COLUMN}\":[").as_bytes());
        }
        let Some(block) = self.blocks.get(self.block) else {
            out.open.push(b']');
            self.series = None;
            self.block = 0;
            return Ok(false);
        };
        let end = block.rows.min(self.row + CELLS_A_STEP);
        for row in self.row..end {
            if row + self.block > 0 {
                out.open.push(b',');
            }
            let cell = series.get(block.labels.at(row));
            out.open.extend_from_slice(cell.ok_or_else(|| Error::internal("a row of no series of its answer"))?);
        }
        self.row = end;
        if end == block.rows {
            (self.block, self.row) = (self.block + 1, 0);
        }
        Ok(false)
    }
}

impl BodyWriter for ColumnWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open.extend_from_slice(&self.head);
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.blocks.push(block);
        Ok(())
    }

    fn print(&mut self, _out: &mut OutputBuffer) -> Result<bool> {
        Ok(true)
    }

    fn finish(&mut self, closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        if !self.print_series(out)? {
            return Ok(false);
        }
        let Some(cell) = self.cells.get(self.column) else {
            out.open.push(b'}');
            out.open.extend(json_tail(closing)?);
            return Ok(true);
        };
        if self.block == 0 && self.row == 0 {
            out.open.extend_from_slice(&cell.before);
        }
        let Some(block) = self.blocks.get(self.block) else {
            out.open.push(b']');
            (self.column, self.block) = (self.column + 1, 0);
            return Ok(false);
        };
        let words = block.words(self.column);
        let end = words.len().min(self.row + CELLS_A_STEP);
        let mut scratch = Vec::new();
        for (position, word) in words.iter().enumerate().take(end).skip(self.row) {
            if position + self.block > 0 {
                out.open.push(b',');
            }
            cell.write(&mut out.open, *word, &mut scratch);
        }
        self.row = end;
        if end == words.len() {
            (self.block, self.row) = (self.block + 1, 0);
        }
        Ok(false)
    }
}
