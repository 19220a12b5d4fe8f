//! Batches as clients receive them: plain types and distinct names.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::failure::arrow_failure;
use crate::error::Result;

/// Maximum digits of a `Decimal64`.
const NARROW_DIGITS_MAX: u8 = 18;

/// The form of decimals in a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireNumbers {
    /// `Decimal128`, or `Decimal256` where it needs more digits.
    #[default]
    Decimal128,
    /// The nearest double.
    Float64,
    /// `Decimal64` up to 18 digits, as rows are stored.
    Stored,
    /// Text.
    Text,
}

/// The types of a result as a client wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireTypes {
    pub numbers: WireNumbers,
    /// Whether all timestamps are in nanoseconds.
    pub nanoseconds: bool,
}

/// The schema of a result: views of texts are texts, and a repeated name gets a number.
pub fn wire_schema(schema: &Schema, types: WireTypes) -> SchemaRef {
    let mut taken: HashSet<String> = HashSet::new();
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut name = field.name().clone();
        for number in 1.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{}_{number}", field.name());
        }
        fields.push(Field::new(name, wire_type(field.data_type(), types), field.is_nullable()));
    }
    Arc::new(Schema::new(fields))
}

fn wire_type(data_type: &DataType, types: WireTypes) -> DataType {
    let inner = |field: &Field| Arc::new(field.clone().with_data_type(wire_type(field.data_type(), types)));
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => wire_type(value, types),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| inner(field)).collect()),
        DataType::Timestamp(_, zone) if types.nanoseconds => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        DataType::Decimal128(..) | DataType::Decimal256(..) => match (types.numbers, data_type) {
            (WireNumbers::Float64, _) => DataType::Float64,
            (WireNumbers::Text, _) => DataType::Utf8,
            (WireNumbers::Stored, DataType::Decimal128(precision, scale)) if *precision <= NARROW_DIGITS_MAX => {
                DataType::Decimal64(*precision, *scale)
            }
            (WireNumbers::Decimal128 | WireNumbers::Stored, other) => other.clone(),
        },
        other => other.clone(),
    }
}

/// A batch under the schema of its result.
///
/// # Errors
/// `invalid_argument` for a cell that the type of its result cannot hold.
pub fn wire_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    // Otherwise a time beyond the range of nanoseconds would be null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let arrays = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast_with_options(column, field.data_type(), &options),
        }
    });
    let arrays: Vec<ArrayRef> = arrays.collect::<std::result::Result<_, _>>().map_err(|error| arrow_failure(&error))?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(|error| arrow_failure(&error))
}

/// A type as responses in JSON name it.
pub fn column_type(data_type: &DataType) -> String {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    match data_type {
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        DataType::Timestamp(of, _) => format!("timestamp({})", unit(of)),
        DataType::Utf8 => "text".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Binary | DataType::FixedSizeBinary(_) => "bytes".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::Duration(of) => format!("duration({})", unit(of)),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_numbered() {
        let field = |name: &str| Field::new(name, DataType::Utf8View, true);
        let fields = vec![field("ts"), field("ts_1"), field("ts"), field("ts")];
        let schema = wire_schema(&Schema::new(fields), WireTypes::default());
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["ts", "ts_1", "ts_2", "ts_3"]);
        assert_eq!(column_type(schema.field(0).data_type()), "text");
    }

    #[test]
    fn a_client_gets_the_types_that_it_asks_for() {
        use DataType::*;
        let ts = || Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let list = |item: DataType| List(Arc::new(Field::new_list_field(item, true)));
        let of = |numbers, nanoseconds, data_type: DataType| wire_type(&data_type, WireTypes { numbers, nanoseconds });
        assert_eq!(of(WireNumbers::Decimal128, false, Decimal128(18, 2)), Decimal128(18, 2));
        assert_eq!(of(WireNumbers::Float64, false, Decimal256(50, 2)), Float64);
        assert_eq!(of(WireNumbers::Stored, false, Decimal128(18, 2)), Decimal64(18, 2));
        assert_eq!(of(WireNumbers::Stored, false, Decimal128(19, 2)), Decimal128(19, 2));
        assert_eq!(of(WireNumbers::Text, false, Decimal128(18, 2)), Utf8);
        assert_eq!(of(WireNumbers::Float64, true, ts()), Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
        assert_eq!(of(WireNumbers::Float64, false, list(Utf8View)), list(Utf8));
        assert_eq!(of(WireNumbers::Float64, false, Dictionary(Box::new(Int32), Box::new(Utf8View))), Utf8);
    }

    #[test]
    fn a_time_beyond_nanoseconds_is_an_error_and_not_null() {
        let times = arrow::array::TimestampMillisecondArray::from(vec![i64::MAX / 1_000]);
        let batch = RecordBatch::try_from_iter([("ts", Arc::new(times) as ArrayRef)]).unwrap();
        let schema = wire_schema(&batch.schema(), WireTypes { nanoseconds: true, ..WireTypes::default() });
        assert_eq!(wire_batch(&batch, &schema).unwrap_err().code(), crate::ErrorCode::InvalidArgument);
    }
}
