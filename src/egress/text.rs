//! Rows as text: JSON, NDJSON and CSV.
//!
//! Decimals are written with all their digits, floats as the shortest text that reads back the same, bytes in lower-case
//! hexadecimal digits. A null is `null`, in CSV an empty cell; there an empty text is `""`. Nothing is allocated per
//! cell.
//!
//! Blocks of numbers of 8 bytes without nulls, which most are, have a path of their own: the maximum length of a row is
//! known, and cells are written to a buffer of that size.

use arrow::array::{Array, StringArray};

use crate::egress::options::TimeFormat;
use crate::egress::writer::{BodyWriter, OutputBuffer, PIECE_BYTES, Trailer};
use crate::error::{Error, Result};
use crate::query::result::{ResultColumn, SERIES_COLUMN};
use crate::query::{Block, NumberFormat, ResultSchema, Subject};
use crate::types::width::to_usize;
use crate::types::{Cell, CellSlice, ColumnType, Dictionary, TimeUnit, cells, number, time, wide};

/// Cells of a column written between two checks of the piece's size; a cell takes 15 to 40 bytes.
const CELLS_PER_STEP: usize = 2_048;
/// Bytes of rows written between two checks of the piece's size; texts can exceed them by a row.
const STEP_BYTES_MAX: usize = 48 * 1024;
/// Maximum bytes of a number or time, including quotes: a double has up to 24, a time in a far year 40.
const VALUE_BYTES_MAX: usize = 32;
const TIME_BYTES_MAX: usize = 48;

/// How cells are written that are not numbers or times of 8 bytes.
#[derive(Clone, Debug)]
enum OtherFormat {
    UInt64,
    Int32,
    Int16,
    Int8,
    UInt32,
    UInt16,
    UInt8,
    Float32,
    Wide(u8),
    WideAsDouble(u8),
    Bool,
    Enum(Labels),
    Text(Labels),
    Hex,
}

/// The texts that the cells of a column are positions in.
#[derive(Clone, Debug)]
struct Labels {
    column: String,
    texts: StringArray,
    syntax: Syntax,
}

/// How texts and nulls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Json,
    Csv,
}

impl Labels {
    fn write(&self, out: &mut Vec<u8>, position: usize) -> Result<()> {
        if position >= self.texts.len() {
            return Err(Error::corrupt(format!("a cell of column {} is not in its dictionary", self.column)));
        }
        let text = self.texts.value(position);
        match self.syntax {
            Syntax::Json => write_json_text(out, text),
            Syntax::Csv => {
                write_csv_text(out, text);
                Ok(())
            }
        }
    }
}

/// Appends a JSON string.
pub(super) fn write_json_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if !text.bytes().all(is_plain) {
        return serde_json::to_writer(out, text)
            .map_err(|error| Error::internal(format!("cannot write {text:?} as JSON: {error}")));
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// Appends a CSV cell, quoted where a reader could take it for something else: an empty text for a null, a space at
/// either end for one that is not part of it.
pub(super) fn write_csv_text(out: &mut Vec<u8>, text: &str) {
    let is_special = |byte: u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !text.is_empty() && text.trim() == text && !text.bytes().any(is_special) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Interpretation and format of a word.
#[derive(Clone, Copy, Debug)]
enum WordFormat {
    Int,
    Decimal(u8),
    Double,
    DecimalAsDouble(u8),
    Rfc3339(TimeUnit),
}

/// Writes the cells of one column.
#[derive(Clone, Debug)]
struct CellWriter {
    /// Prefix of the cell: a separator and, in JSON, the name.
    prefix: Vec<u8>,
    /// The prefix in an array and its length, where it fits.
    short_prefix: Option<([u8; 16], usize)>,
    value: WordFormat,
    /// Format of cells that are no words; `value` has no meaning then.
    other: Option<OtherFormat>,
    quoted: bool,
    /// Text of a null.
    null: &'static [u8],
}

/// Text written to a preallocated buffer.
struct LineBuffer<'a> {
    buffer: &'a mut [u8],
    at: usize,
    /// The buffer was too small.
    is_short: bool,
}

impl LineBuffer<'_> {
    #[inline]
    fn put(&mut self, text: &[u8]) {
        match self.buffer.get_mut(self.at..self.at + text.len()) {
            Some(slot) => slot.copy_from_slice(text),
            None => self.is_short = true,
        }
        self.at += text.len();
    }

    #[inline]
    fn put_number(&mut self, write: impl FnOnce(&mut [u8; number::TEXT_BUFFER_BYTES]) -> usize) {
        match self.buffer.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            Some(slot) => self.at += write(slot),
            None => self.is_short = true,
        }
    }
}

impl CellWriter {
    /// Maximum bytes that [`CellWriter::put`] writes.
    fn bytes_max(&self) -> usize {
        let value = if matches!(self.value, WordFormat::Rfc3339(_)) { TIME_BYTES_MAX } else { VALUE_BYTES_MAX };
        self.prefix.len() + value
    }

    #[inline]
    fn put(&self, line: &mut LineBuffer<'_>, word: i64, scratch: &mut Vec<u8>) {
        match self.short_prefix {
            // Copied with a fixed length; the next text overwrites the surplus.
            Some((text, bytes)) => {
                match line.buffer.get_mut(line.at..).and_then(|rest| rest.first_chunk_mut()) {
                    Some(slot) => *slot = text,
                    None => line.is_short = true,
                }
                line.at += bytes;
            }
            None => line.put(&self.prefix),
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

    /// Appends the cell of a row without its prefix.
    fn append(&self, out: &mut Vec<u8>, cells: CellSlice<'_>, row: usize, scratch: &mut Vec<u8>) -> Result<()> {
        if !cells.is_valid(row) {
            out.extend_from_slice(self.null);
            return Ok(());
        }
        let Some(other) = &self.other else {
            self.write(out, cells::at(cells.words(), row), scratch);
            return Ok(());
        };
        if self.quoted {
            out.push(b'"');
        }
        match other {
            OtherFormat::UInt64 => wide::write_u64(out, at(cells, row)),
            OtherFormat::Int32 => number::write_i64(out, at::<i32>(cells, row).into()),
            OtherFormat::Int16 => number::write_i64(out, at::<i16>(cells, row).into()),
            OtherFormat::Int8 => number::write_i64(out, at::<i8>(cells, row).into()),
            OtherFormat::UInt32 => number::write_i64(out, at::<u32>(cells, row).into()),
            OtherFormat::UInt16 => number::write_i64(out, at::<u16>(cells, row).into()),
            OtherFormat::UInt8 => number::write_i64(out, at::<u8>(cells, row).into()),
            OtherFormat::Float32 => wide::write_f32(out, at(cells, row)),
            OtherFormat::Wide(digits) => wide::write_wide(out, at(cells, row), *digits),
            OtherFormat::WideAsDouble(digits) => number::write_f64(out, wide::wide_to_f64(at(cells, row), *digits)),
            OtherFormat::Bool => out.extend_from_slice(if cells.flag(row) { b"true" } else { b"false" }),
            OtherFormat::Enum(labels) => labels.write(out, at::<u8>(cells, row).into())?,
            OtherFormat::Text(labels) => labels.write(out, to_usize(at::<u32>(cells, row)))?,
            OtherFormat::Hex => {
                let bytes = cells.slice(row, 1).plain().unwrap_or_default();
                out.extend(bytes.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]));
            }
        }
        if self.quoted {
            out.push(b'"');
        }
        Ok(())
    }

    /// Appends the cell without its prefix.
    #[inline]
    fn write(&self, out: &mut Vec<u8>, word: i64, scratch: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + TIME_BYTES_MAX + number::TEXT_BUFFER_BYTES, 0);
        let mut line = LineBuffer { buffer: out, at, is_short: false };
        self.put_value(&mut line, word, scratch);
        let end = line.at;
        out.truncate(end);
    }
}

/// The cell of a row as a value of its type.
fn at<T: Cell>(cells: CellSlice<'_>, row: usize) -> T {
    cells::at(cells.typed(), row)
}

fn hex_digit(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}

/// Names and writers of the columns of a result, `ts` first. CSV cells other than texts never need quotes.
fn cells(shape: &ResultSchema, times: TimeFormat, syntax: Syntax) -> Vec<(String, CellWriter)> {
    let is_text = shape.numbers == NumberFormat::String;
    let (null, quotes): (&[u8], _) = if syntax == Syntax::Json { (b"null", true) } else { (b"", false) };
    let of = |value, other, quoted| {
        let quoted = quoted && quotes;
        CellWriter { prefix: Vec::new(), short_prefix: None, value, other, quoted, null }
    };
    let word = |value, quoted| of(value, None, quoted);
    let other = |other, quoted| of(WordFormat::Int, Some(other), quoted);
    let time = |unit| match times {
        TimeFormat::Epoch => word(WordFormat::Int, is_text),
        TimeFormat::Rfc3339 => word(WordFormat::Rfc3339(unit), true),
    };
    let labels = |column: &ResultColumn| Labels {
        column: column.name.clone(),
        texts: column
            .labels
            .as_ref()
            .map_or_else(|| Dictionary::default().labels().clone(), |all| all.labels().clone()),
        syntax,
    };
    let cell = |column: &ResultColumn| match (column.kind, shape.numbers) {
        (ColumnType::Float64, _) => word(WordFormat::Double, false),
        (ColumnType::Int64, _) => word(WordFormat::Int, is_text),
        (ColumnType::Decimal { .. }, NumberFormat::Raw) => word(WordFormat::Int, false),
        (ColumnType::Decimal { digits }, NumberFormat::Float64) => word(WordFormat::DecimalAsDouble(digits), false),
        (ColumnType::Decimal { digits }, _) => word(WordFormat::Decimal(digits), is_text),
        (ColumnType::Timestamp { unit }, _) => time(unit),
        (ColumnType::WideDecimal { .. }, NumberFormat::Raw) => other(OtherFormat::Wide(0), false),
        (ColumnType::WideDecimal { digits }, NumberFormat::Float64) => other(OtherFormat::WideAsDouble(digits), false),
        (ColumnType::WideDecimal { digits }, _) => other(OtherFormat::Wide(digits), is_text),
        (ColumnType::UInt64, _) => other(OtherFormat::UInt64, is_text),
        (ColumnType::Int32, _) => other(OtherFormat::Int32, false),
        (ColumnType::Int16, _) => other(OtherFormat::Int16, false),
        (ColumnType::Int8, _) => other(OtherFormat::Int8, false),
        (ColumnType::UInt32, _) => other(OtherFormat::UInt32, false),
        (ColumnType::UInt16, _) => other(OtherFormat::UInt16, false),
        (ColumnType::UInt8, _) => other(OtherFormat::UInt8, false),
        (ColumnType::Float32, _) => other(OtherFormat::Float32, false),
        (ColumnType::Bool, _) => other(OtherFormat::Bool, false),
        (ColumnType::Enum, _) => other(OtherFormat::Enum(labels(column)), false),
        (ColumnType::Text, _) => other(OtherFormat::Text(labels(column)), false),
        (ColumnType::Bytes { .. }, _) => other(OtherFormat::Hex, true),
    };
    let columns = shape.columns.iter().map(|column| (column.name.clone(), cell(column)));
    std::iter::once(("ts".to_owned(), time(shape.unit))).chain(columns).collect()
}

/// Whether a column of a block is written as words.
fn is_of_words(writer: &CellWriter, cells: CellSlice<'_>) -> bool {
    writer.other.is_none() && !cells.has_validity()
}

fn json_text(text: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(text).map_err(|error| Error::internal(format!("cannot write {text:?} as JSON: {error}")))
}

/// `{"series":…,"version":…,"commit":…,` before the rows of a JSON response; several series are a list and have no
/// version.
fn json_head(shape: &ResultSchema) -> Result<Vec<u8>> {
    let mut head = b"{\"series\":".to_vec();
    match &shape.subject {
        Subject::One { series, version } => {
            head.extend(json_text(series.as_str())?);
            head.extend_from_slice(format!(",\"version\":{version}").as_bytes());
        }
        Subject::Many { selectors, .. } | Subject::Panel { selectors, .. } => {
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

/// The cells of the series column with their prefix, one for each key of a result of several series. No key needs
/// quotes in CSV or escapes in JSON.
fn series_cells(shape: &ResultSchema, prefix: &str, quote: &str) -> Option<Vec<Vec<u8>>> {
    let cell = |key: &str| format!("{prefix}{quote}{key}{quote}").into_bytes();
    shape.keys().map(|keys| keys.iter().flatten().map(cell).collect())
}

/// `,"next_cursor":…}` after the rows of a JSON response.
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

/// Writes one line or object per row.
pub(super) struct RowWriter {
    /// The first cell of a row, by series, in a result of several series.
    series: Option<Vec<Vec<u8>>>,
    cells: Vec<CellWriter>,
    /// Maximum bytes of a row.
    row_bytes_max: usize,
    /// Text before the first row.
    head: Vec<u8>,
    /// Text between rows.
    between: &'static [u8],
    /// Text after the cells of each row.
    after: &'static [u8],
    /// Text after the last row of a JSON response, before the cursor.
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
        let mut all = cells(shape, times, Syntax::Csv);
        let series = series_cells(shape, "", "");
        let leading = series.as_ref().map(|_| SERIES_COLUMN);
        let names: Vec<&str> = leading.into_iter().chain(all.iter().map(|(name, _)| name.as_str())).collect();
        let head = format!("{}\n", names.join(",")).into_bytes();
        for (_, cell) in all.iter_mut().skip(usize::from(series.is_none())) {
            cell.prefix.push(b',');
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
        let mut all = cells(shape, times, Syntax::Json);
        let series = series_cells(shape, &format!("{{\"{SERIES_COLUMN}\":"), "\"");
        for (position, (name, cell)) in all.iter_mut().enumerate() {
            let is_first = position == 0 && series.is_none();
            // Column names have only a-z, 0-9 and _.
            cell.prefix = format!("{}\"{name}\":", if is_first { '{' } else { ',' }).into_bytes();
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
        let with_short_prefix = |(_, mut cell): (_, CellWriter)| {
            let mut text = [0; 16];
            cell.short_prefix = text
                .get_mut(..cell.prefix.len())
                .map(|slot| slot.copy_from_slice(&cell.prefix))
                .map(|()| (text, cell.prefix.len()));
            cell
        };
        let cells: Vec<CellWriter> = cells.into_iter().map(with_short_prefix).collect();
        let series_bytes = series.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let cell_bytes: usize = cells.iter().map(CellWriter::bytes_max).sum();
        let row_bytes_max = series_bytes + cell_bytes + between.len() + after.len();
        Self { series, cells, row_bytes_max, head, between, after, end, block: None, row: 0, is_first: true }
    }
}

impl RowWriter {
    /// Writes rows with cells of any type until they are long enough; true when the block is complete.
    fn print_cells(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(block) = &self.block else { return Ok(true) };
        let columns: Vec<(&CellWriter, CellSlice<'_>)> = self.cells.iter().zip(block.columns()).collect();
        let out = out.open();
        let full = out.len() + STEP_BYTES_MAX;
        let mut scratch = Vec::new();
        while self.row < block.rows() && out.len() < full {
            if !self.is_first {
                out.extend_from_slice(self.between);
            }
            self.is_first = false;
            if let Some(series) = &self.series {
                out.extend_from_slice(series_cell(series, block, self.row)?);
            }
            for (writer, cells) in &columns {
                out.extend_from_slice(&writer.prefix);
                writer.append(out, *cells, self.row, &mut scratch)?;
            }
            out.extend_from_slice(self.after);
            self.row += 1;
        }
        let done = self.row == block.rows();
        if done {
            self.block = None;
        }
        Ok(done)
    }
}

/// The text of the series of a row.
fn series_cell<'a>(series: &'a [Vec<u8>], block: &Block, row: usize) -> Result<&'a [u8]> {
    let cell = series.get(block.series_of(row));
    cell.map(Vec::as_slice).ok_or_else(|| Error::internal("a row belongs to no series of its result"))
}

impl BodyWriter for RowWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open().extend_from_slice(&self.head);
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        self.row = 0;
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(block) = &self.block else { return Ok(true) };
        if !self.cells.iter().zip(block.columns()).all(|(writer, cells)| is_of_words(writer, cells)) {
            return self.print_cells(out);
        }
        let row_bytes = self.row_bytes_max;
        let end = block.rows().min(self.row + (STEP_BYTES_MAX / row_bytes).max(1));
        let columns: Vec<(&CellWriter, &[i64])> =
            self.cells.iter().enumerate().map(|(column, cell)| (cell, block.words(column))).collect();
        let length_before = out.open().len();
        // Reserve space for the rest of the block at once: a short response is not moved while it grows.
        out.open().reserve(((block.rows() - self.row) * row_bytes).min(PIECE_BYTES + OutputBuffer::STEP_BYTES));
        out.open().resize(length_before + (end - self.row) * row_bytes + number::TEXT_BUFFER_BYTES, 0);
        let mut line = LineBuffer { buffer: out.open(), at: length_before, is_short: false };
        let mut scratch = Vec::new();
        for row in self.row..end {
            if !self.is_first {
                line.put(self.between);
            }
            self.is_first = false;
            if let Some(series) = &self.series {
                line.put(series_cell(series, block, row)?);
            }
            for (cell, words) in &columns {
                // The encoder checked that all columns have as many words as the block has rows.
                cell.put(&mut line, cells::at(words, row), &mut scratch);
            }
            line.put(self.after);
        }
        let LineBuffer { at: written, is_short, .. } = line;
        if is_short {
            return Err(Error::internal("a row is longer than its buffer"));
        }
        out.open().truncate(written);
        self.row = end;
        let done = end == block.rows();
        if done {
            self.block = None;
        }
        Ok(done)
    }

    fn finish(&mut self, closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        if let Some(end) = self.end {
            out.open().extend_from_slice(end);
            out.open().extend(json_tail(closing)?);
        }
        Ok(true)
    }
}

/// Writes one array per column. Holds all blocks until the last has arrived, then writes them column by column.
pub(super) struct ColumnWriter {
    /// The cells of the series column, by series; written first, in a result of several series.
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
        let mut all = cells(shape, times, Syntax::Json);
        let series = series_cells(shape, "", "\"");
        for (position, (name, cell)) in all.iter_mut().enumerate() {
            let is_first = position == 0 && series.is_none();
            cell.prefix = format!("{}\"{name}\":[", if is_first { "" } else { "," }).into_bytes();
        }
        let cells = all.into_iter().map(|(_, cell)| cell).collect();
        Ok(Self { series, cells, head, blocks: Vec::new(), column: 0, block: 0, row: 0 })
    }

    /// Writes part of the series column; true when it is complete.
    fn print_series(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(series) = &self.series else { return Ok(true) };
        if self.block == 0 && self.row == 0 {
            out.open().extend_from_slice(format!("\"{SERIES_COLUMN}\":[").as_bytes());
        }
        let Some(block) = self.blocks.get(self.block) else {
            out.open().push(b']');
            self.series = None;
            self.block = 0;
            return Ok(false);
        };
        let end = block.rows().min(self.row + CELLS_PER_STEP);
        for row in self.row..end {
            if row + self.block > 0 {
                out.open().push(b',');
            }
            out.open().extend_from_slice(series_cell(series, block, row)?);
        }
        self.row = end;
        if end == block.rows() {
            (self.block, self.row) = (self.block + 1, 0);
        }
        Ok(false)
    }
}

impl BodyWriter for ColumnWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open().extend_from_slice(&self.head);
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
            out.open().push(b'}');
            out.open().extend(json_tail(closing)?);
            return Ok(true);
        };
        if self.block == 0 && self.row == 0 {
            out.open().extend_from_slice(&cell.prefix);
        }
        let Some(block) = self.blocks.get(self.block) else {
            out.open().push(b']');
            (self.column, self.block) = (self.column + 1, 0);
            return Ok(false);
        };
        let cells = block.column(self.column);
        if !is_of_words(cell, cells) {
            let out = out.open();
            let full = out.len() + STEP_BYTES_MAX;
            let mut scratch = Vec::new();
            while self.row < block.rows() && out.len() < full {
                if self.row + self.block > 0 {
                    out.push(b',');
                }
                cell.append(out, cells, self.row, &mut scratch)?;
                self.row += 1;
            }
            if self.row == block.rows() {
                (self.block, self.row) = (self.block + 1, 0);
            }
            return Ok(false);
        }
        let words = cells.words();
        let end = words.len().min(self.row + CELLS_PER_STEP);
        let mut scratch = Vec::new();
        for (position, word) in words.iter().enumerate().take(end).skip(self.row) {
            if position + self.block > 0 {
                out.open().push(b',');
            }
            cell.write(out.open(), *word, &mut scratch);
        }
        self.row = end;
        if end == words.len() {
            (self.block, self.row) = (self.block + 1, 0);
        }
        Ok(false)
    }
}
