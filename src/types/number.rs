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
