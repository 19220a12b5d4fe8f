//! Batches as clients receive them: plain types and distinct names.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::failure::arrow_failure;
use crate::error::Result;

/// The schema of a result: views of texts are texts, and a repeated name gets a number.
pub fn wire_schema(schema: &Schema) -> SchemaRef {
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
        fields.push(Field::new(name, wire_type(field.data_type()), field.is_nullable()));
    }
    Arc::new(Schema::new(fields))
}

fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => wire_type(value),
        other => other.clone(),
    }
}

/// A batch under the schema of its result.
pub fn wire_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let arrays = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
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
        let schema = wire_schema(&Schema::new(vec![field("ts"), field("ts_1"), field("ts"), field("ts")]));
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["ts", "ts_1", "ts_2", "ts_3"]);
        assert_eq!(column_type(schema.field(0).data_type()), "text");
    }
}
