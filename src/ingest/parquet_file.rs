//! Parquet bodies.
//!
//! A small file can decode into a huge one: row counts are checked before anything is decoded and again while
//! decoding, and page headers before their pages are unpacked.

use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};

use crate::error::{Error, ErrorCode, Result};
use crate::types::SeriesDef;

use super::batch::{ColumnReader, check_schema, check_size};
use super::{DECODED_BYTES_MAX, Options, Parsed, guarded};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 16_384;

fn broken(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("parquet body is malformed: {error}"))
}

/// Reads a Parquet file.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &Options) -> Result<Parsed> {
    // The footer ends with its length and these four bytes; without them there is nothing to decode.
    if body.len() < 12 || !body.starts_with(b"PAR1") || !body.ends_with(b"PAR1") {
        return Err(Error::invalid("parquet body is cut short or no Parquet file"));
    }
    super::parquet_guard::check_footer(body)?;
    let bytes = Bytes::copy_from_slice(body);
    guarded("parquet", || {
        let metadata = ArrowReaderMetadata::load(&bytes, Default::default()).map_err(broken)?;
        check_schema(def, metadata.schema())?;
        let mut rows = 0_u64;
        let mut unpacked = 0_u64;
        for group in metadata.metadata().row_groups() {
            let count = u64::try_from(group.num_rows()).map_err(|_| broken("a negative row count"))?;
            rows = rows.saturating_add(count);
            for column in group.columns() {
                let size = u64::try_from(column.uncompressed_size()).map_err(|_| broken("a negative size"))?;
                unpacked = unpacked.saturating_add(size);
            }
        }
        check_size(def, rows)?;
        if unpacked > DECODED_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("the body unpacks into {unpacked} bytes, more than {DECODED_BYTES_MAX}"),
            ));
        }
        super::parquet_guard::check_pages(body, metadata.metadata())?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(broken)?;
        let mut columns = ColumnReader::new(def, options);
        let mut decoded = 0_u64;
        for batch in reader {
            let batch = batch.map_err(broken)?;
            decoded += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
            columns.add(&batch)?;
        }
        if decoded != rows {
            return Err(broken(format!("its footer promises {rows} rows, its pages hold {decoded}")));
        }
        columns.finish()
    })
}
