//! Encoding of results: JSON, NDJSON, CSV, Arrow stream, Parquet.
//!
//! Invariants:
//! 1. The end of a body (the closing bracket, the Arrow end marker, the Parquet footer) is written only after the last
//!    block arrived without an error. After an error a [`BodyEncoder`] yields nothing more.
//! 2. Memory does not grow with the result: an encoder holds at most one block and one piece, except
//!    [`RowsShape::Columns`], which holds the blocks (mostly references into mapped files), and Parquet, which holds
//!    one row group.

pub mod accept;
mod columnar;
mod ipc;
mod text;

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::query::{Block, ResultSchema, ScanStats};
pub(crate) use ipc::ColumnBuffer;

/// Approximate length of the pieces of a body. Blocks of an Arrow stream can have up to 1 MiB.
pub const PIECE_BYTES: usize = 256 * 1024;

/// Rows of one Parquet row group.
pub const ROW_GROUP_ROWS: usize = 65_536;

/// Format of a response body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum OutFormat {
    #[default]
    Json,
    Ndjson,
    Csv,
    Arrow,
    Parquet,
}

impl OutFormat {
    /// All formats; the first acceptable one wins where a client has no preference.
    pub const ALL: [OutFormat; 5] =
        [OutFormat::Json, OutFormat::Ndjson, OutFormat::Csv, OutFormat::Arrow, OutFormat::Parquet];

    /// The value of `format=`, also used in entity tags.
    pub fn name(self) -> &'static str {
        match self {
            OutFormat::Json => "json",
            OutFormat::Ndjson => "ndjson",
            OutFormat::Csv => "csv",
            OutFormat::Arrow => "arrow",
            OutFormat::Parquet => "parquet",
        }
    }

    /// Parses a value of `format=`.
    ///
    /// # Errors
    /// `invalid_argument` naming the value.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::invalid(format!("format {name:?} is not one of json, ndjson, csv, arrow, parquet")))
    }

    /// The `Content-Type` of a body.
    pub fn content_type(self) -> &'static str {
        match self {
            OutFormat::Json => "application/json",
            OutFormat::Ndjson => "application/x-ndjson",
            OutFormat::Csv => "text/csv; charset=utf-8",
            OutFormat::Arrow => "application/vnd.apache.arrow.stream",
            OutFormat::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Whether cells are written as text.
    pub fn is_text(self) -> bool {
        matches!(self, OutFormat::Json | OutFormat::Ndjson | OutFormat::Csv)
    }
}

/// Representation of timestamps in text formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum TimeFormat {
    /// Integers in the unit of the series.
    #[default]
    Epoch,
    /// RFC 3339 text in UTC.
    Rfc3339,
}

impl TimeFormat {
    /// Parses a value of `times=`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "epoch" => Ok(TimeFormat::Epoch),
            "rfc3339" => Ok(TimeFormat::Rfc3339),
            other => Err(Error::invalid(format!("times {other:?} is not one of epoch, rfc3339"))),
        }
    }
}

/// Layout of a JSON response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum JsonShape {
    /// One object per row.
    #[default]
    Rows,
    /// One array per column.
    Columns,
}

impl JsonShape {
    /// Parses a value of `shape=`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "rows" => Ok(JsonShape::Rows),
            "columns" => Ok(JsonShape::Columns),
            other => Err(Error::invalid(format!("shape {other:?} is not one of rows, columns"))),
        }
    }
}

/// Options for encoding a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    pub format: OutFormat,
    pub times: TimeFormat,
    pub shape: JsonShape,
}

impl EncodeOptions {
    /// Rejects options that the format does not support.
    pub fn check(&self) -> Result<()> {
        if self.shape == JsonShape::Columns && self.format != OutFormat::Json {
            return Err(Error::invalid(format!("shape=columns is for json, not for {}", self.format.name())));
        }
        if self.times == TimeFormat::Rfc3339 && !self.format.is_text() {
            return Err(Error::invalid(format!(
                "times=rfc3339 is for json, ndjson and csv; {} has its own timestamp type",
                self.format.name()
            )));
        }
        Ok(())
    }
}

/// The fields after the rows of a JSON response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// The cursor of the next page, when there are more rows.
    pub next_cursor: Option<String>,
    /// Scan statistics, when requested.
    pub stats: Option<ScanStats>,
}

/// Encoder of one format. Methods that return `false` must be called again.
trait BodyWriter: Send {
    /// Writes the bytes before the first row.
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()>;
    /// Accepts the next block. It must have at least one row, and all columns as many words as rows.
    fn accept(&mut self, block: Block) -> Result<()>;
    /// Writes part of the accepted block; true when the block is complete.
    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool>;
    /// Writes part of the bytes after the last row; true when the body is complete.
    fn finish(&mut self, closing: &Trailer, out: &mut OutputBuffer) -> Result<bool>;
}

/// Output of an encoder: finished pieces, and the one being written.
#[derive(Debug, Default)]
pub(crate) struct OutputBuffer {
    ready: VecDeque<Bytes>,
    open: Vec<u8>,
}

impl OutputBuffer {
    /// Pushed bytes up to this length are copied; longer ones become pieces of their own.
    const COPY_BYTES_MAX: usize = 16 * 1024;

    /// Approximate maximum that one step of a text writer appends.
    const STEP_BYTES: usize = 64 * 1024;

    fn is_full(&self) -> bool {
        self.open.len() >= PIECE_BYTES
    }

    /// Ends the piece being written. After a full piece the next one is allocated at full size, so that pieces neither
    /// move while they grow nor keep unused capacity.
    fn cut(&mut self) {
        if !self.open.is_empty() {
            let next = if self.is_full() { Vec::with_capacity(PIECE_BYTES + Self::STEP_BYTES) } else { Vec::new() };
            self.ready.push_back(Bytes::from(std::mem::replace(&mut self.open, next)));
        }
    }

    /// The piece being written.
    pub(crate) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// Ends the piece being written and returns all pieces.
    pub(crate) fn pieces(&mut self) -> Vec<Bytes> {
        self.cut();
        std::mem::take(&mut self.ready).into()
    }

    /// Number of bytes not yet taken.
    pub(crate) fn bytes(&self) -> usize {
        self.ready.iter().map(Bytes::len).sum::<usize>() + self.open.len()
    }

    /// Appends existing bytes; long ones are not copied.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= Self::COPY_BYTES_MAX {
            self.open.extend_from_slice(&bytes);
        } else {
            self.cut();
            self.ready.push_back(bytes);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum EncodeStage {
    Begin,
    Pull,
    Print,
    Finish(Trailer),
    Ended,
}

/// Yields the body of a response in pieces.
///
/// `blocks` yields the rows; `closing` is called once, after the last block, for the trailer. The iterator ends after
/// an error: a consumer must then abort the body, not end it as if it were complete.
pub struct BodyEncoder<I, C> {
    blocks: I,
    closing: C,
    writer: Box<dyn BodyWriter>,
    out: OutputBuffer,
    stage: EncodeStage,
    columns: usize,
}

impl<I, C> BodyEncoder<I, C>
where
    I: Iterator<Item = Result<Block>>,
    C: FnMut(&I) -> Trailer,
{
    /// # Errors
    /// `invalid_argument` when the options contradict each other.
    pub fn new(shape: &ResultSchema, options: EncodeOptions, blocks: I, closing: C) -> Result<Self> {
        options.check()?;
        let writer: Box<dyn BodyWriter> = match (options.format, options.shape) {
            (OutFormat::Json, JsonShape::Columns) => Box::new(text::ColumnWriter::new(shape, options.times)?),
            (OutFormat::Json, JsonShape::Rows) => Box::new(text::RowWriter::json(shape, options.times)?),
            (OutFormat::Ndjson, _) => Box::new(text::RowWriter::ndjson(shape, options.times)),
            (OutFormat::Csv, _) => Box::new(text::RowWriter::csv(shape, options.times)),
            (OutFormat::Arrow, _) => ipc::writer(shape)?,
            (OutFormat::Parquet, _) => Box::new(columnar::Parquet::new(shape)?),
        };
        let columns = shape.columns.len() + 1;
        Ok(Self { blocks, closing, writer, out: OutputBuffer::default(), stage: EncodeStage::Begin, columns })
    }

    /// Runs one step; true when there is more to do.
    fn step(&mut self) -> Result<bool> {
        let next = match &self.stage {
            EncodeStage::Begin => {
                self.writer.begin(&mut self.out)?;
                EncodeStage::Pull
            }
            EncodeStage::Pull => match self.blocks.next() {
                None => EncodeStage::Finish((self.closing)(&self.blocks)),
                Some(block) => {
                    let block = block?;
                    if block.column_count() != self.columns {
                        return Err(Error::internal("a block does not have the columns of its result"));
                    }
                    if block.rows() == 0 {
                        return Ok(true);
                    }
                    self.writer.accept(block)?;
                    EncodeStage::Print
                }
            },
            EncodeStage::Print if self.writer.print(&mut self.out)? => EncodeStage::Pull,
            EncodeStage::Print => EncodeStage::Print,
            EncodeStage::Finish(closing) => {
                if !self.writer.finish(closing, &mut self.out)? {
                    return Ok(true);
                }
                self.out.cut();
                EncodeStage::Ended
            }
            EncodeStage::Ended => return Ok(false),
        };
        self.stage = next;
        Ok(true)
    }
}

impl<I, C> Iterator for BodyEncoder<I, C>
where
    I: Iterator<Item = Result<Block>>,
    C: FnMut(&I) -> Trailer,
{
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.out.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.out.is_full() {
                self.out.cut();
                continue;
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.stage = EncodeStage::Ended;
                    self.out = OutputBuffer::default();
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<I, C> std::fmt::Debug for BodyEncoder<I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyEncoder").field("stage", &self.stage).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
