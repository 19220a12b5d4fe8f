//! Arrow streams. Complete chunk blocks are sent as stored in the file; other blocks are framed again.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use crate::egress::writer::{BodyWriter, OutputBuffer, Trailer};
use crate::error::{Error, Result};
use crate::format::ipc;
use crate::query::{Block, NumberFormat, ResultSchema};
use crate::types::{ColumnType, number};

/// The writer of an Arrow stream: messages are framed here, except string columns, which the arrow library writes.
pub(super) fn writer(shape: &ResultSchema) -> Result<Box<dyn BodyWriter>> {
    let schema = shape.arrow_schema();
    if shape.numbers == NumberFormat::String {
        let stream = StreamWriter::try_new(Vec::new(), &schema).map_err(internal)?;
        return Ok(Box::new(StringWriter { shape: shape.clone(), schema, stream, block: None }));
    }
    let conversions = shape
        .columns
        .iter()
        .map(|column| match (column.kind, shape.numbers) {
            (ColumnType::Decimal { digits }, NumberFormat::Float64) => Conversion::Double(digits),
            (ColumnType::Decimal { .. }, NumberFormat::Decimal128) => Conversion::Wide,
            _ => Conversion::None,
        })
        .collect();
    Ok(Box::new(FixedWidthWriter {
        is_plain: shape.is_plain(),
        keys: shape.keys().cloned(),
        conversions,
        schema,
        block: None,
    }))
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("arrow stream: {error}"))
}

/// Conversion of the words of a column.
#[derive(Clone, Copy)]
enum Conversion {
    None,
    /// From decimals of this many digits to doubles.
    Double(u8),
    /// From 64-bit to 128-bit decimals.
    Wide,
}

/// Columns of fixed width, without validity buffers.
struct FixedWidthWriter {
    schema: SchemaRef,
    /// The dictionary of the series column, where there is one.
    keys: Option<Arc<StringArray>>,
    is_plain: bool,
    conversions: Vec<Conversion>,
    block: Option<Block>,
}

/// A column's buffer as the owner of output bytes, so that nothing is copied.
struct ColumnBuffer(Buffer);

impl AsRef<[u8]> for ColumnBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Zeros after a column.
const PADDING: &[u8] = &[0; ipc::ALIGNMENT];

/// The message of fixed-width columns: its header and its body, in pieces that share the memory of the columns.
pub(crate) fn batch_message(rows: usize, columns: impl Iterator<Item = Buffer>) -> (Vec<u8>, Vec<Bytes>) {
    let mut sizes = Vec::with_capacity(columns.size_hint().0);
    let mut body = Vec::with_capacity(2 * columns.size_hint().0);
    for column in columns {
        let bytes = column.len();
        sizes.push(bytes);
        body.push(Bytes::from_owner(ColumnBuffer(column)));
        body.extend(PADDING.get(..ipc::padded(bytes) - bytes).map(Bytes::from_static));
    }
    (ipc::batch_header(rows, &sizes), body)
}

impl BodyWriter for FixedWidthWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open().extend(ipc::framed(&ipc::schema_header(&self.schema)));
        if let Some(keys) = &self.keys {
            let (header, body) = ipc::dictionary_message(keys.iter().flatten());
            out.open().extend(ipc::framed(&header));
            out.push(body.into());
        }
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(block) = self.block.take() else { return Ok(true) };
        if let (true, Some(stored)) = (self.is_plain, block.message()) {
            out.push(stored.bytes());
            return Ok(true);
        }
        let conversions = std::iter::once(&Conversion::None).chain(&self.conversions);
        let series = self.keys.as_ref().map(|_| block.series_indexes().into_inner());
        let numbers = block.packed_columns().zip(conversions).map(|(column, conversion)| match conversion {
            Conversion::None => column.buffer().clone(),
            Conversion::Double(digits) => {
                let mut doubles = Vec::with_capacity(block.rows());
                number::decimals_to_f64(column.words(), *digits, &mut doubles);
                Buffer::from_vec(doubles)
            }
            Conversion::Wide => {
                Buffer::from_vec(column.words().iter().map(|word| i128::from(*word)).collect::<Vec<_>>())
            }
        });
        let (header, body) = batch_message(block.rows(), series.into_iter().chain(numbers));
        out.open().extend(ipc::framed(&header));
        body.into_iter().for_each(|piece| out.push(piece));
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        out.open().extend_from_slice(&ipc::END_OF_STREAM);
        Ok(true)
    }
}

/// Number columns as text: their cells have no fixed width, so the writer of the arrow library frames them.
struct StringWriter {
    shape: ResultSchema,
    schema: SchemaRef,
    stream: StreamWriter<Vec<u8>>,
    block: Option<Block>,
}

impl StringWriter {
    fn drain(&mut self, out: &mut OutputBuffer) {
        out.push(Bytes::from(std::mem::take(self.stream.get_mut())));
    }
}

impl BodyWriter for StringWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        self.drain(out);
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        if let Some(block) = self.block.take() {
            let batch = self.shape.record_batch(&self.schema, &block)?;
            self.stream.write(&batch).map_err(internal)?;
            self.drain(out);
        }
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        self.stream.finish().map_err(internal)?;
        self.drain(out);
        Ok(true)
    }
}
