//! Parameters of a statement, from JSON.

use datafusion::common::ScalarValue;
use serde_json::Value;

use crate::error::{Error, Result};

/// The values of `$1`, `$2` and so on. Numbers are integers or decimals where they have no exponent.
///
/// # Errors
/// `invalid_argument` for a list or object.
pub fn values(parameters: &[Value]) -> Result<Vec<ScalarValue>> {
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
    use super::*;

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
