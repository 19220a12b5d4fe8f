//! Parameters of a statement, from JSON or from a row of Arrow.

use arrow::array::Array;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use serde_json::Value;

use super::failure::{arrow_failure, failure};

use crate::error::{Error, Result};

/// The values of a statement.
#[derive(Clone, Debug)]
pub enum SqlParameters {
    Values(Vec<Value>),
    /// The only row of a batch, a column for each parameter.
    Row(RecordBatch),
}

impl Default for SqlParameters {
    fn default() -> Self {
        Self::Values(Vec::new())
    }
}

impl SqlParameters {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Values(values) => values.is_empty(),
            Self::Row(row) => row.num_columns() == 0,
        }
    }

    /// The values of `$1`, `$2` and so on.
    ///
    /// # Errors
    /// `invalid_argument` for what is not a single value, and for more than one row.
    pub fn scalars(&self) -> Result<Vec<ScalarValue>> {
        match self {
            Self::Values(parameters) => values(parameters),
            Self::Row(row) => row_values(row),
        }
    }
}

fn row_values(row: &RecordBatch) -> Result<Vec<ScalarValue>> {
    if row.num_rows() != 1 {
        return Err(Error::invalid(format!("the parameters of a query are one row, not {}", row.num_rows()))
            .with_hint("execute the statement once for each row"));
    }
    let value = |(position, column): (usize, &arrow::array::ArrayRef)| {
        let wide = match column.data_type() {
            // DataFusion does not calculate exactly with narrower decimals.
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                Some(DataType::Decimal128(*precision, *scale))
            }
            DataType::Dictionary(_, value) => Some(value.as_ref().clone()),
            DataType::RunEndEncoded(_, value) => Some(value.data_type().clone()),
            other if other.is_nested() => {
                return Err(Error::invalid(format!("parameter {} is {other}", position + 1))
                    .with_hint("parameters are numbers, texts, times, bytes, true, false and null"));
            }
            _ => None,
        };
        let cell = match wide {
            Some(wide) => cast(column, &wide).map_err(|error| arrow_failure(&error))?,
            None => column.slice(0, 1),
        };
        ScalarValue::try_from_array(&cell, 0).map_err(|error| failure(&error))
    };
    row.columns().iter().enumerate().map(value).collect()
}

/// The values of `$1`, `$2` and so on. Numbers are integers or decimals where they have no exponent.
///
/// # Errors
/// `invalid_argument` for a list or object.
fn values(parameters: &[Value]) -> Result<Vec<ScalarValue>> {
    let value = |(position, value): (usize, &Value)| {
        Ok(match value {
            Value::Null => ScalarValue::Null,
            Value::Bool(flag) => ScalarValue::Boolean(Some(*flag)),
            Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
            Value::Number(number) => number_value(&number.to_string())
                .ok_or_else(|| Error::invalid(format!("parameter {} is not a number: {number}", position + 1)))?,
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::invalid(format!("parameter {} is a list or an object", position + 1))
                    .with_hint("parameters are numbers, texts, true, false and null"));
            }
        })
    };
    parameters.iter().enumerate().map(value).collect()
}

fn number_value(text: &str) -> Option<ScalarValue> {
    if let Ok(integer) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(integer)));
    }
    let digits = text.trim_start_matches('-');
    if let Some((whole, fraction)) = digits.split_once('.')
        && !text.contains(['e', 'E'])
        && whole.len() + fraction.len() <= 38
    {
        let raw: i128 = format!("{whole}{fraction}").parse().ok()?;
        let raw = if text.starts_with('-') { -raw } else { raw };
        let scale = i8::try_from(fraction.len()).ok()?;
        let precision = u8::try_from((whole.len() + fraction.len()).max(1)).ok()?;
        return Some(ScalarValue::Decimal128(Some(raw), precision, scale));
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(|value| ScalarValue::Float64(Some(value)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal64Array, Int64Array, ListArray, StringArray};

    use super::*;

    #[test]
    fn a_row_has_a_value_for_each_parameter() {
        let price = Decimal64Array::from(vec![10_050]).with_precision_and_scale(18, 2).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("0", Arc::new(price)),
            ("1", Arc::new(StringArray::from(vec!["BTC"]))),
            ("2", Arc::new(Int64Array::from(vec![None]))),
        ];
        let scalars = SqlParameters::Row(RecordBatch::try_from_iter(columns).unwrap()).scalars().unwrap();
        let price = ScalarValue::Decimal128(Some(10_050), 18, 2);
        assert_eq!(scalars, [price, ScalarValue::from("BTC"), ScalarValue::Int64(None)]);
        let list = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some([Some(1)])]);
        for wrong in [Arc::new(list) as ArrayRef, Arc::new(Int64Array::from(vec![1, 2]))] {
            let row = RecordBatch::try_from_iter([("0", wrong)]).unwrap();
            assert_eq!(SqlParameters::Row(row).scalars().unwrap_err().code(), crate::ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn numbers_without_an_exponent_are_exact() {
        let parse = |text: &str| values(&[serde_json::from_str(text).unwrap()]).unwrap().remove(0);
        assert_eq!(parse("-5"), ScalarValue::Int64(Some(-5)));
        assert_eq!(parse("-100.10"), ScalarValue::Decimal128(Some(-1_001), 4, 1));
        assert_eq!(parse("1e300"), ScalarValue::Float64(Some(1e300)));
        assert_eq!(parse("null"), ScalarValue::Null);
        assert!(values(&[serde_json::json!([1])]).is_err());
    }
}
