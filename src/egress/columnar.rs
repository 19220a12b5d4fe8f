//! Files of record batches: Parquet, with one row group in memory at a time, and Arrow.

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::egress::batch_file::{BatchFile, unwritable};
use crate::egress::writer::{BodyWriter, OutputBuffer, Trailer};
use crate::error::Result;
use crate::query::{Block, ResultSchema};

/// Rows of one row group.
const ROW_GROUP_ROWS: usize = 65_536;

/// A file of the blocks of a result; its footer is its last piece.
pub(super) struct ColumnarFile {
    shape: ResultSchema,
    schema: SchemaRef,
    file: Box<dyn BatchFile>,
    block: Option<Block>,
}

impl ColumnarFile {
    /// A Parquet file, compressed with Snappy.
    pub(super) fn parquet(shape: &ResultSchema) -> Result<Self> {
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
        let file = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(unwritable)?;
        Ok(Self { shape: shape.clone(), schema, file: Box::new(Some(file)), block: None })
    }

    /// A file of the Arrow IPC format.
    pub(super) fn arrow(shape: &ResultSchema) -> Result<Self> {
        let schema = shape.arrow_schema();
        let file = FileWriter::try_new(Vec::new(), &schema).map_err(unwritable)?;
        Ok(Self { shape: shape.clone(), schema, file: Box::new(file), block: None })
    }
}

impl BodyWriter for ColumnarFile {
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
            out.push(self.file.write(&batch)?);
        }
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        out.push(self.file.finish()?);
        Ok(true)
    }
}
