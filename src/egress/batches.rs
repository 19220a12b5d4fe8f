//! Record batches of any columns as a body, for results that are not those of series: JSON, NDJSON, CSV, Arrow, Parquet.
//!
//! Numbers are written with all their digits; a double that is no number is text (`"NaN"`). Times are epoch integers in
//! their unit, or RFC 3339. A null is `null`, in CSV an empty cell; there an empty text is `""`.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    SchemaRef, TimeUnit as ArrowUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::egress::batch_file::{BatchFile, unwritable};
use crate::egress::options::{EncodeOptions, JsonShape, OutFormat, TimeFormat};
use crate::egress::text::{write_csv_text, write_json_text};
use crate::egress::writer::{OutputBuffer, PIECE_BYTES};
use crate::error::{Error, Result};
use crate::types::{TimeUnit, time};

/// Rows written between two checks of the size of a piece.
const STEP_ROWS: usize = 256;

/// A name and a type of a column, as JSON responses state them.
pub type ColumnLabel = (String, String);

/// Yields the body of a result in pieces. After an error there is no further piece, and the body is not complete.
pub struct BatchEncoder<I> {
    batches: I,
    schema: SchemaRef,
    /// What comes before the cell of each column in JSON: its name.
    names: Vec<Vec<u8>>,
    format: FormatWriter,
    times: TimeFormat,
    out: OutputBuffer,
    /// The batch being written, and its next row.
    batch: Option<(RecordBatch, usize)>,
    rows: usize,
    /// Maximum rows of a response in JSON.
    rows_max: Option<usize>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    Rows,
    End { truncated: bool },
    Ended,
}

enum FormatWriter {
    Json { columns: Vec<ColumnLabel> },
    Ndjson,
    Csv,
    File(Box<dyn BatchFile>),
}

impl<I: Iterator<Item = Result<RecordBatch>>> BatchEncoder<I> {
    /// An encoder of batches of a schema; `columns` are the names and types that JSON states, and `rows_max` the rows
    /// after which it is truncated.
    ///
    /// # Errors
    /// `invalid_argument` for options that the format does not support, and for types that a file cannot have.
    pub fn new(
        schema: SchemaRef,
        columns: Vec<ColumnLabel>,
        options: EncodeOptions,
        rows_max: Option<usize>,
        batches: I,
    ) -> Result<Self> {
        options.check()?;
        if options.shape == JsonShape::Columns {
            return Err(Error::invalid("shape=columns is for rows of series").with_hint("leave out shape"));
        }
        let format = match options.format {
            OutFormat::Json => FormatWriter::Json { columns },
            OutFormat::Ndjson => FormatWriter::Ndjson,
            OutFormat::Csv => FormatWriter::Csv,
            OutFormat::Arrow => {
                FormatWriter::File(Box::new(StreamWriter::try_new(Vec::new(), &schema).map_err(unwritable)?))
            }
            OutFormat::ArrowFile => {
                FormatWriter::File(Box::new(FileWriter::try_new(Vec::new(), &schema).map_err(unwritable)?))
            }
            OutFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_created_by(format!("fastk version {}", env!("CARGO_PKG_VERSION")))
                    .set_compression(Compression::SNAPPY)
                    .build();
                let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(|error| {
                    Error::invalid(format!("parquet: {error}")).with_hint("cast the column, or use arrow")
                })?;
                FormatWriter::File(Box::new(Some(writer)))
            }
        };
        let name = |field: &FieldRef| {
            let mut name = Vec::new();
            write_json_text(&mut name, field.name())?;
            name.push(b':');
            Ok(name)
        };
        Ok(Self {
            batches,
            names: schema.fields().iter().map(name).collect::<Result<_>>()?,
            schema,
            format,
            times: options.times,
            out: OutputBuffer::default(),
            batch: None,
            rows: 0,
            rows_max: rows_max.filter(|_| options.format == OutFormat::Json),
            stage: Stage::Begin,
        })
    }

    fn step(&mut self) -> Result<()> {
        self.stage = match self.stage {
            Stage::Begin => {
                self.begin()?;
                Stage::Rows
            }
            Stage::Rows => self.write_rows()?,
            Stage::End { truncated } => {
                self.end(truncated)?;
                Stage::Ended
            }
            Stage::Ended => Stage::Ended,
        };
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        let out = self.out.open();
        match &self.format {
            FormatWriter::Json { columns } => {
                out.extend_from_slice(b"{\"columns\":[");
                for (position, (name, kind)) in columns.iter().enumerate() {
                    out.extend_from_slice(if position == 0 { b"{\"name\":" } else { b",{\"name\":" });
                    write_json_text(out, name)?;
                    out.extend_from_slice(b",\"type\":");
                    write_json_text(out, kind)?;
                    out.push(b'}');
                }
                out.extend_from_slice(b"],\"rows\":[");
            }
            FormatWriter::Csv => {
                for (position, field) in self.schema.fields().iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    write_csv_text(out, field.name());
                }
                out.push(b'\n');
            }
            _ => {}
        }
        Ok(())
    }

    fn write_rows(&mut self) -> Result<Stage> {
        let Some((batch, from)) = self.batch.take() else {
            return Ok(match self.batches.next().transpose()? {
                Some(batch) => {
                    self.batch = (batch.num_rows() > 0).then_some((batch, 0));
                    Stage::Rows
                }
                None => Stage::End { truncated: false },
            });
        };
        let left = self.rows_max.map_or(usize::MAX, |max| max.saturating_sub(self.rows));
        if left == 0 {
            return Ok(Stage::End { truncated: true });
        }
        let is_text = !matches!(self.format, FormatWriter::File(_));
        let rows = (batch.num_rows() - from).min(if is_text { STEP_ROWS.min(left) } else { usize::MAX });
        let part = batch.slice(from, rows);
        match &mut self.format {
            FormatWriter::File(file) => self.out.push(file.write(&part)?),
            _ => self.write_text(&part)?,
        }
        self.rows += rows;
        if from + rows < batch.num_rows() {
            self.batch = Some((batch, from + rows));
        }
        Ok(Stage::Rows)
    }

    fn write_text(&mut self, part: &RecordBatch) -> Result<()> {
        let cells: Vec<Cells<'_>> =
            part.columns().iter().map(|column| Cells::of(column, self.times)).collect::<Result<_>>()?;
        let is_csv = matches!(self.format, FormatWriter::Csv);
        let separates = matches!(self.format, FormatWriter::Json { .. });
        for row in 0..part.num_rows() {
            let out = self.out.open();
            if is_csv {
                for (position, cells) in cells.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    cells.write_csv(out, row)?;
                }
                out.push(b'\n');
                continue;
            }
            if separates && self.rows + row > 0 {
                out.push(b',');
            }
            out.push(b'{');
            for (position, (cells, name)) in cells.iter().zip(&self.names).enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(name);
                cells.write_json(out, row)?;
            }
            out.push(b'}');
            if !separates {
                out.push(b'\n');
            }
        }
        Ok(())
    }

    fn end(&mut self, truncated: bool) -> Result<()> {
        match &mut self.format {
            FormatWriter::Json { .. } => {
                let end = format!("],\"truncated\":{truncated}}}");
                self.out.open().extend_from_slice(end.as_bytes());
            }
            FormatWriter::File(file) => self.out.push(file.finish()?),
            FormatWriter::Ndjson | FormatWriter::Csv => {}
        }
        self.out.cut();
        Ok(())
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for BatchEncoder<I> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.out.take_ready() {
                return Some(Ok(piece));
            }
            if self.stage == Stage::Ended {
                return None;
            }
            if self.out.bytes() >= PIECE_BYTES {
                self.out.cut();
                continue;
            }
            if let Err(error) = self.step() {
                self.stage = Stage::Ended;
                self.out = OutputBuffer::default();
                return Some(Err(error));
            }
        }
    }
}

impl<I> std::fmt::Debug for BatchEncoder<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchEncoder").field("rows", &self.rows).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// The cells of a column as text.
enum Cells<'a> {
    /// Texts that are numbers in JSON.
    Number(ArrayFormatter<'a>, &'a ArrayRef),
    Int(&'a ArrayRef, fn(&dyn Array, usize) -> i64),
    Float(&'a ArrayRef, fn(&dyn Array, usize) -> (f64, String)),
    Time(&'a ArrayRef, TimeUnit, fn(&dyn Array, usize) -> i64, TimeFormat),
    Bool(&'a ArrayRef),
    Text(ArrayFormatter<'a>, &'a ArrayRef),
    /// Of a column of nulls only, which has no bitmap.
    Null,
}

fn word<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array, row: usize) -> i64 {
    array.as_primitive::<T>().value(row)
}

fn small<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> i64
where
    T::Native: Into<i64>,
{
    array.as_primitive::<T>().value(row).into()
}

static FORMAT: std::sync::LazyLock<FormatOptions<'static>> =
    std::sync::LazyLock::new(|| FormatOptions::default().with_display_error(false));

impl<'a> Cells<'a> {
    fn of(array: &'a ArrayRef, times: TimeFormat) -> Result<Self> {
        let formatter = || ArrayFormatter::try_new(array.as_ref(), &FORMAT).map_err(unwritable);
        let time = |unit, value| Cells::Time(array, unit, value, times);
        Ok(match array.data_type() {
            DataType::Int64 => Cells::Int(array, word::<Int64Type>),
            DataType::Int32 => Cells::Int(array, small::<Int32Type>),
            DataType::Int16 => Cells::Int(array, small::<Int16Type>),
            DataType::Int8 => Cells::Int(array, small::<Int8Type>),
            DataType::UInt32 => Cells::Int(array, small::<UInt32Type>),
            DataType::UInt16 => Cells::Int(array, small::<UInt16Type>),
            DataType::UInt8 => Cells::Int(array, small::<UInt8Type>),
            DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Cells::Number(formatter()?, array)
            }
            DataType::Float64 => Cells::Float(array, |array, row| {
                let value = array.as_primitive::<Float64Type>().value(row);
                (value, format!("{value:?}"))
            }),
            DataType::Float32 => Cells::Float(array, |array, row| {
                let value = array.as_primitive::<Float32Type>().value(row);
                (value.into(), format!("{value:?}"))
            }),
            DataType::Boolean => Cells::Bool(array),
            DataType::Null => Cells::Null,
            DataType::Timestamp(ArrowUnit::Second, _) => time(TimeUnit::S, word::<TimestampSecondType>),
            DataType::Timestamp(ArrowUnit::Millisecond, _) => time(TimeUnit::Ms, word::<TimestampMillisecondType>),
            DataType::Timestamp(ArrowUnit::Microsecond, _) => time(TimeUnit::Us, word::<TimestampMicrosecondType>),
            DataType::Timestamp(ArrowUnit::Nanosecond, _) => time(TimeUnit::Ns, word::<TimestampNanosecondType>),
            _ => Cells::Text(formatter()?, array),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Null => true,
            Cells::Number(_, array)
            | Cells::Int(array, _)
            | Cells::Float(array, _)
            | Cells::Time(array, ..)
            | Cells::Bool(array)
            | Cells::Text(_, array) => array.is_null(row),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>, row: usize) -> Result<()> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Cells::Time(_, _, _, TimeFormat::Rfc3339) => {
                out.push(b'"');
                self.write_plain(out, row)?;
                out.push(b'"');
            }
            Cells::Float(array, value) if !value(array, row).0.is_finite() => {
                out.push(b'"');
                self.write_plain(out, row)?;
                out.push(b'"');
            }
            Cells::Text(formatter, _) => {
                let mut text = String::new();
                formatter.value(row).write(&mut text).map_err(unwritable)?;
                write_json_text(out, &text)?;
            }
            _ => self.write_plain(out, row)?,
        }
        Ok(())
    }

    fn write_csv(&self, out: &mut Vec<u8>, row: usize) -> Result<()> {
        if self.is_null(row) {
            return Ok(());
        }
        match self {
            Cells::Text(formatter, _) => {
                let mut text = String::new();
                formatter.value(row).write(&mut text).map_err(unwritable)?;
                write_csv_text(out, &text);
            }
            _ => self.write_plain(out, row)?,
        }
        Ok(())
    }

    fn write_plain(&self, out: &mut Vec<u8>, row: usize) -> Result<()> {
        match self {
            Cells::Int(array, value) => {
                out.extend_from_slice(itoa::Buffer::new().format(value(array, row)).as_bytes());
            }
            Cells::Number(formatter, _) | Cells::Text(formatter, _) => {
                let mut text = String::new();
                formatter.value(row).write(&mut text).map_err(unwritable)?;
                out.extend_from_slice(text.as_bytes());
            }
            Cells::Float(array, value) => {
                out.extend_from_slice(value(array, row).1.as_bytes());
            }
            Cells::Time(array, _, value, TimeFormat::Epoch) => {
                out.extend_from_slice(itoa::Buffer::new().format(value(array, row)).as_bytes());
            }
            Cells::Time(array, unit, value, TimeFormat::Rfc3339) => {
                time::write_rfc3339(out, value(array, row), *unit);
            }
            Cells::Bool(array) => {
                let text: &[u8] = if array.as_boolean().value(row) { b"true" } else { b"false" };
                out.extend_from_slice(text);
            }
            Cells::Null => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{
        BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMillisecondArray,
    };

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![Some(1_500), None]).with_timezone("UTC"))),
            (
                "price",
                Arc::new(Decimal128Array::from(vec![Some(-10_050), None]).with_precision_and_scale(18, 2).unwrap()),
            ),
            ("count", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("ratio", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)]))),
            ("name", Arc::new(StringArray::from(vec![Some("a\"b,\n"), Some("")]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn encoded(format: OutFormat, times: TimeFormat, rows_max: Option<usize>) -> Vec<u8> {
        let options = EncodeOptions { format, times, ..EncodeOptions::default() };
        let columns = vec![("ts".to_owned(), "timestamp(ms)".to_owned())];
        let batches = [batch(), batch()].map(Ok);
        let encoder = BatchEncoder::new(batch().schema(), columns, options, rows_max, batches.into_iter()).unwrap();
        encoder.map(|piece| piece.unwrap().to_vec()).collect::<Vec<_>>().concat()
    }

    #[test]
    fn cells_are_exact_in_every_text_format() {
        let text = |format, times| String::from_utf8(encoded(format, times, Some(2))).unwrap();
        assert_eq!(
            text(OutFormat::Json, TimeFormat::Epoch),
            concat!(
                r#"{"columns":[{"name":"ts","type":"timestamp(ms)"}],"rows":["#,
                r#"{"ts":1500,"price":-100.50,"count":9223372036854775807,"ratio":0.1,"name":"a\"b,\n","flag":true},"#,
                r#"{"ts":null,"price":null,"count":null,"ratio":"NaN","name":"","flag":null}"#,
                r#"],"truncated":true}"#
            )
        );
        let ndjson = text(OutFormat::Ndjson, TimeFormat::Rfc3339);
        assert!(ndjson.starts_with(r#"{"ts":"1970-01-01T00:00:01.500Z","price":-100.50,"#), "{ndjson}");
        assert_eq!(ndjson.lines().count(), 4);
        assert_eq!(
            text(OutFormat::Csv, TimeFormat::Epoch),
            format!(
                "ts,price,count,ratio,name,flag\n{}",
                "1500,-100.50,9223372036854775807,0.1,\"a\"\"b,\n\",true\n,,,NaN,\"\",\n".repeat(2)
            )
        );
    }

    #[test]
    fn a_result_is_truncated_only_where_rows_are_left_out() {
        let text = |rows_max| String::from_utf8(encoded(OutFormat::Json, TimeFormat::Epoch, rows_max)).unwrap();
        assert!(text(Some(3)).ends_with(r#""truncated":true}"#) && text(Some(4)).ends_with(r#""truncated":false}"#));
        assert!(text(None).ends_with(r#""truncated":false}"#));
    }

    #[test]
    fn arrow_and_parquet_have_the_rows_and_their_end() {
        let body = encoded(OutFormat::Arrow, TimeFormat::Epoch, None);
        let reader = arrow::ipc::reader::StreamReader::try_new(body.as_slice(), None).unwrap();
        let batches: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
        assert!(batches.len() == 2 && batches.iter().all(|found| format!("{found:?}") == format!("{:?}", batch())));
        assert_eq!(body.get(body.len() - 8..), Some(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0][..]));
        let body = Bytes::from(encoded(OutFormat::Parquet, TimeFormat::Epoch, None));
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(body, 100).unwrap();
        assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 4);
    }

    #[test]
    fn after_an_error_nothing_looks_like_an_end() {
        let batches = [Ok(batch()), Err(Error::invalid("x"))];
        let encoder =
            BatchEncoder::new(batch().schema(), Vec::new(), EncodeOptions::default(), None, batches.into_iter())
                .unwrap();
        let pieces: Vec<Result<Bytes>> = encoder.collect();
        assert!(pieces.last().unwrap().is_err());
        let written: Vec<u8> = pieces.iter().flatten().flat_map(|piece| piece.to_vec()).collect();
        assert!(!String::from_utf8(written).unwrap().contains("truncated"));
    }
}
