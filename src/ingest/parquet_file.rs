//! Parquet bodies.
//!
//! A small file can decode into gigabytes: row counts are checked before and while decoding, and page headers before
//! their pages are decompressed.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::ColumnReader as ColumnReaders;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::error::{Error, ErrorCode, Result};
use crate::types::schema::BYTES_LENGTH_MAX;
use crate::types::{SeriesDef, SeriesKey};

use super::arrow_rows::ArrowRows;
use super::batch_splitter::BatchSplitter;
use super::body_keys::{BodyKeys, SERIES, no_series_column};
use super::columns::{ColumnReader, check_schema, check_size, is_binary};
use super::guarded::guarded;
use super::memory::{DECODED_BYTES_MAX, Reservation, grow_rows};
use super::options::DecodeOptions;
use super::parquet_guard::{check_footer, check_pages};
use super::parsed::Part;
use super::string_columns::is_text;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 16_384;
/// Rows decoded at a time where a number is stored as a byte array of variable length.
const LONG_BATCH_ROWS: usize = 256;
/// Maximum number of bytes of a number.
const NUMBER_BYTES_MAX: i32 = 32;
/// Memory of a batch cell while it is decoded: its value and its levels.
const BATCH_CELL_BYTES: u64 = 64;
/// Memory of the decoded footer per byte of its encoding.
const FOOTER_FACTOR: u64 = 32;

fn broken(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("parquet body is malformed: {error}"))
}

/// The metadata of a file with a checked footer and size, its bytes and its number of rows.
fn open(body: &[u8]) -> Result<(ArrowReaderMetadata, Bytes, u64)> {
    // A file starts and ends with these four bytes; the length of the footer comes before the last ones.
    if body.len() < 12 || !body.starts_with(b"PAR1") || !body.ends_with(b"PAR1") {
        return Err(Error::invalid("parquet body is truncated or not a Parquet file"));
    }
    check_footer(body)?;
    let bytes = Bytes::copy_from_slice(body);
    guarded("parquet", || {
        let metadata = ArrowReaderMetadata::load(&bytes, Default::default()).map_err(broken)?;
        let metadata = with_views(metadata)?;
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
        if unpacked > DECODED_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("the body unpacks into {unpacked} bytes, more than {DECODED_BYTES_MAX}"),
            ));
        }
        Ok((metadata, bytes.clone(), rows))
    })
}

/// Reads strings and bytes of variable length as slices of their pages: copied for each row, a few bytes of a dictionary
/// could become gigabytes.
fn with_views(metadata: ArrowReaderMetadata) -> Result<ArrowReaderMetadata> {
    let view_of = |kind: &DataType| match kind {
        DataType::Dictionary(_, words) if is_text(words) => Some(DataType::Utf8View),
        kind if is_text(kind) => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => Some(DataType::BinaryView),
        _ => None,
    };
    let fields = metadata.schema().fields();
    if !fields.iter().any(|field| view_of(field.data_type()).is_some()) {
        return Ok(metadata);
    }
    let fields = fields.iter().map(|field| match view_of(field.data_type()) {
        Some(kind) => Arc::new(Field::new(field.name(), kind, field.is_nullable())),
        None => Arc::clone(field),
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).map_err(broken)
}

/// Whether the cells of a type are slices of their pages.
fn is_view(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8View | DataType::BinaryView)
}

/// Checks all pages and returns the memory they take.
fn pages_memory(body: &[u8], metadata: &ArrowReaderMetadata) -> Result<u64> {
    let views: Vec<bool> = metadata.schema().fields().iter().map(|field| is_view(field.data_type())).collect();
    check_pages(body, metadata.metadata(), &views)
}

/// Reserves memory for all rows of a file, by the row counts in its footer, and for the pages and batches in memory
/// while it is decoded. Decoding returns no more rows than that.
pub(super) fn reserve(body: &[u8], def: Option<&SeriesDef>, reservation: &mut Reservation) -> Result<()> {
    if body.len() >= 12 && body.ends_with(b"PAR1") {
        reservation.grow(check_footer(body)?.saturating_mul(FOOTER_FACTOR))?;
    }
    // The entire file is copied before it is decoded.
    reservation.grow(body.len() as u64)?;
    let (metadata, _, rows) = open(body)?;
    let columns = metadata.schema().fields().len() as u64;
    grow_rows(reservation, def, rows, columns)?;
    let lengths = metadata.metadata().file_metadata().schema_descr().columns().iter();
    let lengths = lengths.map(|column| u64::try_from(column.type_length()).unwrap_or(0)).sum::<u64>();
    let row = columns.saturating_mul(BATCH_CELL_BYTES).saturating_add(lengths);
    let batch = rows.min(BATCH_ROWS as u64).saturating_mul(row);
    let pages = guarded("parquet", || pages_memory(body, &metadata))?;
    let long = if has_long_numbers(&metadata)? { pages.saturating_mul(LONG_BATCH_ROWS as u64) } else { pages };
    reservation.grow(batch.saturating_add(long))
}

/// Whether a number is stored as a byte array of variable length, which can be as long as its page.
///
/// # Errors
/// `invalid_argument` for numbers of a fixed length above [`NUMBER_BYTES_MAX`].
fn has_long_numbers(metadata: &ArrowReaderMetadata) -> Result<bool> {
    let mut found = false;
    let columns = metadata.metadata().file_metadata().schema_descr().columns();
    for (field, column) in metadata.schema().fields().iter().zip(columns) {
        let bytes_max = match field.data_type() {
            DataType::FixedSizeBinary(_) => BYTES_LENGTH_MAX.into(),
            _ => NUMBER_BYTES_MAX,
        };
        match column.physical_type() {
            PhysicalType::BYTE_ARRAY => found |= !is_view(field.data_type()),
            PhysicalType::FIXED_LEN_BYTE_ARRAY if column.type_length() > bytes_max => {
                return Err(broken(format!("column {} has cells of {} bytes", column.name(), column.type_length())));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Passes the batches of the columns at these positions, all when `None`, to `sink` until it returns false.
fn read(
    metadata: ArrowReaderMetadata,
    bytes: Bytes,
    columns: Option<&[usize]>,
    rows: u64,
    sink: &mut dyn FnMut(ArrowRows) -> Result<bool>,
) -> Result<()> {
    let batch_rows = if has_long_numbers(&metadata)? { LONG_BATCH_ROWS } else { BATCH_ROWS };
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata).with_batch_size(batch_rows);
    let reader = match columns {
        Some(columns) => {
            let mask = ProjectionMask::roots(reader.parquet_schema(), columns.iter().copied());
            reader.with_projection(mask)
        }
        None => reader,
    };
    let mut decoded = 0_u64;
    for batch in reader.build().map_err(broken)? {
        let batch = batch.map_err(broken)?;
        decoded += batch.num_rows() as u64;
        if decoded > rows {
            return Err(broken(format!("the footer lists {rows} rows, the pages have more")));
        }
        if !sink(ArrowRows::of(batch)?)? {
            return Ok(());
        }
    }
    if decoded != rows {
        return Err(broken(format!("the footer lists {rows} rows, the pages have {decoded}")));
    }
    Ok(())
}

/// Decodes a Parquet file.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<Part> {
    let (metadata, bytes, rows) = open(body)?;
    guarded("parquet", || {
        check_schema(def, metadata.schema())?;
        check_size(def, rows)?;
        pages_memory(body, &metadata)?;
        let mut columns = ColumnReader::new(def, options);
        read(metadata, bytes, None, rows, &mut |batch| columns.add(batch).map(|()| true))?;
        Ok(columns.into_parts())
    })
}

fn series_position(metadata: &ArrowReaderMetadata) -> Result<usize> {
    metadata.schema().fields().iter().position(|field| field.name() == SERIES).ok_or_else(no_series_column)
}

/// The keys of a file, and for each row the position of its key. Values are read as slices of their pages: copied to
/// strings, a few bytes could become gigabytes.
pub(super) fn series_of_rows(body: &[u8]) -> Result<(Vec<SeriesKey>, Vec<u32>)> {
    let (metadata, bytes, rows) = open(body)?;
    if rows.saturating_mul(16) > DECODED_BYTES_MAX {
        return Err(Error::new(ErrorCode::TooLarge, format!("a body of {rows} rows decodes into too many bytes")));
    }
    guarded("parquet", || {
        let at = series_position(&metadata)?;
        pages_memory(body, &metadata)?;
        let file = SerializedFileReader::new(bytes).map_err(broken)?;
        let mut labels = BodyKeys::default();
        let mut seen = 0_u64;
        for group in 0..file.num_row_groups() {
            let group = file.get_row_group(group).map_err(broken)?;
            let ColumnReaders::ByteArrayColumnReader(mut column) = group.get_column_reader(at).map_err(broken)? else {
                return Err(Error::new(ErrorCode::SchemaMismatch, "column series is not a string"));
            };
            loop {
                let (mut levels, mut words) = (Vec::new(), Vec::new());
                let (records, found, _) =
                    column.read_records(BATCH_ROWS, Some(&mut levels), None, &mut words).map_err(broken)?;
                for word in &words {
                    labels.push(word.data())?;
                }
                if found < records {
                    return Err(labels.missing());
                }
                seen += records as u64;
                if records == 0 {
                    break;
                }
            }
        }
        if seen != rows {
            return Err(broken(format!("the footer lists {rows} rows, column series has {seen}")));
        }
        Ok(labels.into_parts())
    })
}

/// Passes the batches of a file, without the column `series`, to `sink` until it returns false.
fn each_batch(body: &[u8], sink: &mut dyn FnMut(ArrowRows) -> Result<bool>) -> Result<()> {
    let (metadata, bytes, rows) = open(body)?;
    guarded("parquet", || {
        let at = series_position(&metadata)?;
        // Only flat types are decoded, strings as views.
        let fields = metadata.schema().fields();
        let others: Vec<usize> = (0..fields.len()).filter(|position| *position != at).collect();
        let odd = fields.iter().enumerate().find(|(position, field)| {
            let kind = field.data_type();
            let is_cell =
                is_text(kind) || is_binary(kind) || matches!(kind, DataType::Timestamp(..) | DataType::Boolean);
            *position != at && !kind.is_numeric() && !is_cell
        });
        if let Some((_, field)) = odd {
            let detail = format!("column {} is {}, which no column of a series takes", field.name(), field.data_type());
            return Err(Error::new(ErrorCode::SchemaMismatch, detail));
        }
        pages_memory(body, &metadata)?;
        read(metadata, bytes, Some(&others), rows, sink)
    })
}

/// Decodes a body with a series column; `of_row` has the series of each row.
pub(super) fn parse_labelled(
    defs: &[Arc<SeriesDef>],
    of_row: &[u32],
    body: &[u8],
    options: &DecodeOptions,
) -> Result<Vec<Part>> {
    let mut columns = BatchSplitter::new(defs, of_row, options);
    each_batch(body, &mut |batch| columns.add(&batch))?;
    Ok(columns.into_parts())
}
