//! The body of a response, piece by piece.
//!
//! Invariants:
//! 1. The end of a body (the closing bracket, the Arrow end marker, the Parquet footer) is written only after the last
//!    block arrived without an error. After an error a [`BodyEncoder`] yields nothing more.
//! 2. Memory does not grow with the result: an encoder holds at most one block and one piece, except
//!    [`JsonShape::Columns`], which holds the blocks (mostly references into mapped files), and Parquet, which holds
//!    one row group.

use bytes::Bytes;

use crate::egress::options::{EncodeOptions, JsonShape, OutFormat};
use crate::egress::writer::{BodyWriter, OutputBuffer, Trailer};
use crate::egress::{columnar, ipc, text};
use crate::error::{Error, Result};
use crate::query::{Block, ResultSchema};

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
            (OutFormat::Arrow, _) => Box::new(ipc::ArrowWriter::new(shape)),
            (OutFormat::ArrowFile, _) => Box::new(columnar::ColumnarFile::arrow(shape)?),
            (OutFormat::Parquet, _) => Box::new(columnar::ColumnarFile::parquet(shape)?),
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
            if let Some(piece) = self.out.take_ready() {
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
