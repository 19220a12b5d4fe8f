//! Formats that a library writes batch by batch into a buffer. The writers count the bytes they wrote, so that their offsets
//! stay correct when the buffer is taken.

use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;

use crate::error::{Error, Result};

/// A body of record batches being written.
pub(super) trait BatchFile: Send {
    /// Adds a batch; returns the bytes that are ready.
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes>;
    /// Ends the body; returns the rest of its bytes.
    fn finish(&mut self) -> Result<Bytes>;
}

/// An error of a library that writes what FastK made.
pub(super) fn unwritable(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("a result cannot be written: {error}"))
}

impl BatchFile for StreamWriter<Vec<u8>> {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        self.write(batch).map_err(unwritable)?;
        Ok(std::mem::take(self.get_mut()).into())
    }

    fn finish(&mut self) -> Result<Bytes> {
        self.finish().map_err(unwritable)?;
        Ok(std::mem::take(self.get_mut()).into())
    }
}

impl BatchFile for FileWriter<Vec<u8>> {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        self.write(batch).map_err(unwritable)?;
        Ok(std::mem::take(self.get_mut()).into())
    }

    fn finish(&mut self) -> Result<Bytes> {
        self.finish().map_err(unwritable)?;
        Ok(std::mem::take(self.get_mut()).into())
    }
}

/// A Parquet file returns each row group once it is complete; `None` after its end.
impl BatchFile for Option<ArrowWriter<Vec<u8>>> {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        let writer = self.as_mut().ok_or_else(|| unwritable("it has ended"))?;
        writer.write(batch).map_err(unwritable)?;
        Ok(std::mem::take(writer.inner_mut()).into())
    }

    fn finish(&mut self) -> Result<Bytes> {
        let writer = self.take().ok_or_else(|| unwritable("it has ended"))?;
        Ok(writer.into_inner().map_err(unwritable)?.into())
    }
}
