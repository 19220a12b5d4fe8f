//! Reads rows of typed tables: Parquet, Arrow files (Feather) and Arrow streams, also compressed.
//!
//! A file is read in batches; inside gzip or zstd it is decompressed into memory, since its footer is at the end. The
//! decoders can panic on damaged bytes: a panic becomes an error that names the file.

use std::io::{BufReader, Cursor, Read};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit as ArrowUnit};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

use crate::disk::local;
use crate::error::{Error, Result};

use super::super::arrow_rows::string_at;
use super::cell::{PREVIEW_ROWS, Preview, SourceCell, SourceRecord, Visit};
use super::file::{Compression, FileFormat, Input, ReadProgress, unobserved};

/// Rows per batch of a Parquet file.
const BATCH_ROWS: usize = 16_384;
/// Largest table that is decompressed in memory, in bytes.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

fn broken(input: &Input, error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{} is damaged or has an unknown format: {error}", input.label))
}

/// Runs a decoder; its panic on damaged bytes becomes an error.
fn guard<T>(input: &Input, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(broken(input, "its decoder panicked")))
}

/// The schema, and the batches of the columns at `keep` (ascending), or of all.
fn open(input: &Input, keep: Option<&[usize]>) -> Result<(Schema, Batches)> {
    let file = || local::open(&input.path).map_err(|error| Error::io("open", &input.path, &error));
    let unpacked = || {
        let mut bytes = Vec::new();
        let mut reader = input.bytes(&unobserved())?.take(UNPACKED_BYTES_MAX + 1);
        reader.read_to_end(&mut bytes).map_err(|error| input.broken(&error))?;
        if bytes.len() as u64 > UNPACKED_BYTES_MAX {
            return Err(Error::invalid(format!("{} is larger than 1 GiB decompressed", input.label))
                .with_hint("decompress it first"));
        }
        Ok(bytes)
    };
    guard(input, || match (input.format, input.compression) {
        (FileFormat::Parquet, Compression::None) => parquet(input, file()?, keep),
        (FileFormat::Parquet, _) => parquet(input, bytes::Bytes::from(unpacked()?), keep),
        (FileFormat::ArrowFile, Compression::None) => arrow_file(input, BufReader::new(file()?), keep),
        (FileFormat::ArrowFile, _) => arrow_file(input, Cursor::new(unpacked()?), keep),
        _ => {
            let bytes = BufReader::new(input.bytes(&unobserved())?);
            let reader = StreamReader::try_new(bytes, None).map_err(|error| broken(input, error))?;
            let schema = reader.schema().as_ref().clone();
            let keep = keep.map(<[usize]>::to_vec);
            let batches = reader.map(move |batch| match &keep {
                Some(keep) => batch?.project(keep),
                None => batch,
            });
            Ok((schema, Box::new(batches) as Batches))
        }
    })
}

fn parquet<R: ChunkReader + 'static>(input: &Input, reader: R, keep: Option<&[usize]>) -> Result<(Schema, Batches)> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(reader).map_err(|error| broken(input, error))?;
    let schema = builder.schema().as_ref().clone();
    let mask = match keep {
        Some(keep) => ProjectionMask::roots(builder.parquet_schema(), keep.iter().copied()),
        None => ProjectionMask::all(),
    };
    let reader =
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| broken(input, error))?;
    Ok((schema, Box::new(reader)))
}

fn arrow_file<R: Read + std::io::Seek + 'static>(
    input: &Input,
    reader: R,
    keep: Option<&[usize]>,
) -> Result<(Schema, Batches)> {
    let reader = FileReader::try_new(reader, None).map_err(|error| broken(input, error))?;
    let schema = reader.schema().as_ref().clone();
    let keep = keep.map(<[usize]>::to_vec);
    let batches = reader.map(move |batch| match &keep {
        Some(keep) => batch?.project(keep),
        None => batch,
    });
    Ok((schema, Box::new(batches)))
}

/// A column as one of the types of cells.
enum CellColumn {
    Float(ArrayRef),
    Int(ArrayRef),
    Text(ArrayRef),
    Flag(ArrayRef),
    Bytes(ArrayRef),
    Time { ticks: ArrayRef, per_second: i64, zoned: bool },
    TimeOfDay { ticks: ArrayRef, per_second: i64 },
    Wrong(&'static str),
}

impl CellColumn {
    fn of(array: &ArrayRef) -> std::result::Result<Self, ArrowError> {
        use DataType as T;
        Ok(match array.data_type() {
            T::Float16 | T::Float32 | T::Float64 => CellColumn::Float(cast(array, &T::Float64)?),
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
                CellColumn::Int(cast(array, &T::Int64)?)
            }
            // Text keeps the digits of decimals, and unsigned integers beyond the signed range.
            T::UInt64 | T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => {
                CellColumn::Text(cast(array, &T::Utf8)?)
            }
            T::Utf8 | T::LargeUtf8 | T::Utf8View => CellColumn::Text(cast(array, &T::Utf8)?),
            T::Dictionary(_, values) => return Self::of(&cast(array, values)?),
            T::Timestamp(unit, zone) => {
                let per_second = match unit {
                    ArrowUnit::Second => 1,
                    ArrowUnit::Millisecond => 1_000,
                    ArrowUnit::Microsecond => 1_000_000,
                    ArrowUnit::Nanosecond => 1_000_000_000,
                };
                CellColumn::Time { ticks: cast(array, &T::Int64)?, per_second, zoned: zone.is_some() }
            }
            T::Date32 | T::Date64 => {
                let seconds = cast(array, &T::Timestamp(ArrowUnit::Millisecond, None))?;
                CellColumn::Time { ticks: cast(&seconds, &T::Int64)?, per_second: 1_000, zoned: false }
            }
            T::Time32(unit) | T::Time64(unit) => {
                // Not every unit of these types casts to a 64-bit integer in one step.
                let (per_second, ticks) = match unit {
                    ArrowUnit::Second => (1, cast(&cast(array, &T::Int32)?, &T::Int64)?),
                    ArrowUnit::Millisecond => (1_000, cast(&cast(array, &T::Int32)?, &T::Int64)?),
                    ArrowUnit::Microsecond => (1_000_000, cast(array, &T::Int64)?),
                    ArrowUnit::Nanosecond => (1_000_000_000, cast(array, &T::Int64)?),
                };
                CellColumn::TimeOfDay { ticks, per_second }
            }
            T::Boolean => CellColumn::Flag(Arc::clone(array)),
            T::FixedSizeBinary(_) | T::Binary | T::LargeBinary | T::BinaryView => CellColumn::Bytes(Arc::clone(array)),
            T::Null => CellColumn::Wrong("null"),
            _ => CellColumn::Wrong("neither a number nor a time"),
        })
    }

    fn cell(&self, row: usize) -> SourceCell<'_> {
        let (CellColumn::Float(array)
        | CellColumn::Int(array)
        | CellColumn::Text(array)
        | CellColumn::Flag(array)
        | CellColumn::Bytes(array)
        | CellColumn::Time { ticks: array, .. }
        | CellColumn::TimeOfDay { ticks: array, .. }) = self
        else {
            return match self {
                CellColumn::Wrong(what) => SourceCell::Wrong(what),
                _ => SourceCell::Missing,
            };
        };
        if row >= array.len() || array.is_null(row) {
            return SourceCell::Missing;
        }
        match self {
            CellColumn::Float(array) => SourceCell::Float(array.as_primitive::<Float64Type>().value(row)),
            CellColumn::Int(array) => SourceCell::Int(array.as_primitive::<Int64Type>().value(row)),
            CellColumn::Text(array) => SourceCell::Text(array.as_string::<i32>().value(row).as_bytes()),
            CellColumn::Flag(array) => SourceCell::Flag(array.as_boolean().value(row)),
            CellColumn::Bytes(array) => string_at(array.as_ref(), row).map_or(SourceCell::Missing, SourceCell::Bytes),
            CellColumn::Time { ticks, per_second, zoned } => SourceCell::Time {
                ticks: ticks.as_primitive::<Int64Type>().value(row),
                per_second: *per_second,
                zoned: *zoned,
            },
            CellColumn::TimeOfDay { ticks, per_second } => {
                SourceCell::TimeOfDay { ticks: ticks.as_primitive::<Int64Type>().value(row), per_second: *per_second }
            }
            CellColumn::Wrong(what) => SourceCell::Wrong(what),
        }
    }
}

/// Names and the first rows.
pub fn preview(input: &Input) -> Result<Preview> {
    let (schema, mut batches) = open(input, None)?;
    let names = schema.fields().iter().map(|field| field.name().clone()).collect();
    let rows = guard(input, || {
        let Some(batch) = batches.next() else { return Ok(Vec::new()) };
        let batch = batch.map_err(|error| broken(input, error))?;
        let batch = batch.slice(0, batch.num_rows().min(PREVIEW_ROWS));
        let columns = columns(&batch).map_err(|error| broken(input, error))?;
        let row = |row| columns.iter().map(|column| column.cell(row).trimmed().show().into_owned()).collect();
        Ok((0..batch.num_rows()).map(row).collect())
    })?;
    Ok(Preview { names: Some(names), rows })
}

fn columns(batch: &RecordBatch) -> std::result::Result<Vec<CellColumn>, ArrowError> {
    batch.columns().iter().map(CellColumn::of).collect()
}

/// Reads every row and passes the cells at `positions` to `visit`.
pub fn read(input: &Input, positions: &[usize], progress: &ReadProgress, visit: &mut Visit<'_>) -> Result<()> {
    let mut keep = positions.to_vec();
    keep.sort_unstable();
    keep.dedup();
    // The index of each position among the projected columns.
    let places: Vec<usize> = positions.iter().filter_map(|at| keep.binary_search(at).ok()).collect();
    let (_, mut batches) = open(input, Some(&keep))?;
    let mut first = 0_u64;
    loop {
        let decoded = guard(input, || {
            let Some(batch) = batches.next() else { return Ok(None) };
            let batch = batch.map_err(|error| broken(input, error))?;
            Ok(Some((batch.num_rows(), columns(&batch).map_err(|error| broken(input, error))?)))
        })?;
        let Some((rows, columns)) = decoded else { break };
        let columns: Vec<&CellColumn> = places.iter().filter_map(|place| columns.get(*place)).collect();
        for row in 0..rows {
            let cells: Vec<SourceCell<'_>> = columns.iter().map(|column| column.cell(row)).collect();
            visit(SourceRecord { row: first + row as u64, line: None, cells: &cells })?;
        }
        first += rows as u64;
    }
    progress(input.bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        DictionaryArray, Float64Array, Int64Array, StringArray, TimestampMillisecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

    use super::super::file::tests::{file, gzip};
    use super::*;

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("date", Arc::new(TimestampMillisecondArray::from(vec![1_000, 2_000]).with_timezone("UTC"))),
            ("open", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
            ("count", Arc::new(Int64Array::from(vec![3, 4]))),
            ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 1]))),
            ("text", Arc::new(StringArray::from(vec!["2.50", ""]))),
            ("venue", Arc::new(vec!["a", "b"].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn feather(lz4: bool) -> Vec<u8> {
        let compression = lz4.then_some(arrow::ipc::CompressionType::LZ4_FRAME);
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut bytes = Vec::new();
        let mut writer = FileWriter::try_new_with_options(&mut bytes, &batch().schema(), options).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        drop(writer);
        bytes
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &batch().schema()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        drop(writer);
        bytes
    }

    fn parquet() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch().schema(), None).unwrap();
        writer.write(&batch()).unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn every_format_gives_the_same_cells() {
        let containers = [
            feather(false),
            feather(true),
            stream(),
            parquet(),
            gzip(&feather(true)),
            gzip(&parquet()),
            gzip(&stream()),
        ];
        for bytes in containers {
            let (_folder, path) = file("x", &bytes);
            let input = Input::detect(&path).unwrap();
            assert_eq!(preview(&input).unwrap().names.unwrap(), ["date", "open", "count", "big", "text", "venue"]);
            let mut found = Vec::new();
            read(&input, &[4, 0, 1, 2, 3, 5], &unobserved(), &mut |record| {
                found.push(format!("{:?}", record.cells));
                Ok(())
            })
            .unwrap();
            let first = [
                SourceCell::Text(b"2.50"),
                SourceCell::Time { ticks: 1_000, per_second: 1_000, zoned: true },
                SourceCell::Float(1.5),
                SourceCell::Int(3),
                SourceCell::Text(b"18446744073709551615"),
                SourceCell::Text(b"a"),
            ];
            assert_eq!(found.first().unwrap(), &format!("{first:?}"), "{:?}", input.format);
            assert!(found.last().unwrap().starts_with("[Text([]), Time"), "{found:?}");
            assert_eq!(found.len(), 2);
        }
    }

    #[test]
    fn damaged_tables_are_errors_and_never_crash_the_process() {
        for bytes in [feather(true), feather(false), parquet(), stream()] {
            for cut in [bytes.len() / 2, bytes.len() - 9] {
                let (_folder, path) = file("cut", bytes.split_at(cut).0);
                let Ok(input) = Input::detect(&path) else { continue };
                let read = read(&input, &[0, 1], &unobserved(), &mut |_| Ok(()));
                // A stream truncated after its last message has no end marker, and is complete.
                if input.format != FileFormat::ArrowStream {
                    assert_eq!(read.unwrap_err().code(), crate::ErrorCode::InvalidArgument);
                }
            }
        }
    }
}
