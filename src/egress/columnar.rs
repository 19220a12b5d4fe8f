//! Files: Parquet, with one row group in memory at a time, returned as soon as it is complete, and Arrow.

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::egress::writer::{BodyWriter, OutputBuffer, Trailer};
use crate::error::{Error, Result};
use crate::query::{Block, ResultSchema};

/// Rows of one row group.
const ROW_GROUP_ROWS: usize = 65_536;

/// A Parquet file, compressed with Snappy; the footer is its last piece.
pub(super) struct Parquet {
    shape: ResultSchema,
    schema: SchemaRef,
    /// `None` after the end.
    file: Option<ArrowWriter<Vec<u8>>>,
    block: Option<Block>,
}

fn internal(error: ParquetError) -> Error {
    Error::internal(format!("parquet: {error}"))
}

impl Parquet {
    pub(super) fn new(shape: &ResultSchema) -> Result<Self> {
        let schema = shape.arrow_schema();
        let ts = ColumnPath::from("ts");
        // Timestamps never repeat: the writer would build a dictionary of them only to discard it.
        let properties = WriterProperties::builder()
            .set_created_by(format!("fastk version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_column_dictionary_enabled(ts.clone(), false)
            .set_column_encoding(ts, Encoding::DELTA_BINARY_PACKED)
            .build();
        let file = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(internal)?;
        Ok(Self { shape: shape.clone(), schema, file: Some(file), block: None })
    }

    fn file(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>> {
        self.file.as_mut().ok_or_else(|| Error::internal("a parquet file was finished twice"))
    }
}

impl BodyWriter for Parquet {
    fn begin(&mut self, _out: &mut OutputBuffer) -> Result<()> {
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        if let Some(block) = self.block.take() {
            let batch = self.shape.record_batch(&self.schema, &block)?;
            let file = self.file()?;
            file.write(&batch).map_err(internal)?;
            // The writer counts the bytes it wrote, so its offsets stay correct when the buffer is taken.
            let written = std::mem::take(file.inner_mut());
            out.push(Bytes::from(written));
        }
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        let file = self.file.take().ok_or_else(|| Error::internal("a parquet file was finished twice"))?;
        let rest = file.into_inner().map_err(internal)?;
        out.push(Bytes::from(rest));
        Ok(true)
    }
}

/// A file of the Arrow IPC format: the blocks of the result as record batches, and the footer as its last piece. The
/// writer counts the bytes it wrote, so its offsets stay correct when the buffer is taken.
pub(super) struct ArrowFile {
    shape: ResultSchema,
    schema: SchemaRef,
    file: FileWriter<Vec<u8>>,
    block: Option<Block>,
}

impl ArrowFile {
    pub(super) fn new(shape: &ResultSchema) -> Result<Self> {
        let schema = shape.arrow_schema();
        let file = FileWriter::try_new(Vec::new(), &schema).map_err(broken)?;
        Ok(Self { shape: shape.clone(), schema, file, block: None })
    }

    fn take(&mut self, out: &mut OutputBuffer) {
        out.push(Bytes::from(std::mem::take(self.file.get_mut())));
    }
}

fn broken(error: ArrowError) -> Error {
    Error::internal(format!("arrow file: {error}"))
}

impl BodyWriter for ArrowFile {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        self.take(out);
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        if let Some(block) = self.block.take() {
            let batch = self.shape.record_batch(&self.schema, &block)?;
            self.file.write(&batch).map_err(broken)?;
            self.take(out);
        }
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        self.file.finish().map_err(broken)?;
        self.take(out);
        Ok(true)
    }
}
