//! Options for decoding a body.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::key::SCALAR;
use crate::types::{Rounding, SeriesDef};

/// Representation of cells of decimal columns in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema), schema(as = WrittenNumbers))]
pub enum DecimalInput {
    /// The decimal number.
    #[default]
    Decimal,
    /// The scaled integer.
    Raw,
}

/// Handling of rows whose value is null or NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MissingCells {
    #[default]
    Reject,
    /// Leave the row out and count it. Scalars only.
    Skip,
}

/// Rules between the columns of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowRules {
    /// Klines: high ≥ max(open, close, low), low ≤ min(open, close, high), volume ≥ 0.
    #[default]
    Ohlc,
    None,
}

/// Handling of rows whose timestamp is not on the grid of the timeframe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum GridRule {
    /// Reject the body. Timeframes without a length have no grid.
    #[default]
    Reject,
    /// Store the rows unchanged.
    Allow,
}

/// Handling of timestamps within the first 48 days of 1970 that would lie in 1990 to 2099 in a coarser unit, such as
/// seconds in a series of milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum ImplausibleTs {
    /// Reject the body, unless it or the series has other rows from before 1990, or there are several such timestamps
    /// and all start an interval of the timeframe.
    #[default]
    Reject,
    /// Store the rows unchanged.
    Allow,
}

/// Options for decoding a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecodeOptions {
    pub numbers: DecimalInput,
    /// Applies to decimals in text form; doubles are always stored as the nearest decimal.
    pub rounding: Rounding,
    pub missing: MissingCells,
    pub validate: RowRules,
    pub grid: GridRule,
    pub implausible_ts: ImplausibleTs,
}

impl DecodeOptions {
    /// The same options without checks of timestamps, for callers that check them.
    pub fn any_time(self) -> Self {
        Self { grid: GridRule::Allow, implausible_ts: ImplausibleTs::Allow, ..self }
    }

    /// Checks that the options fit the kind of a series.
    pub(super) fn check(&self, def: &SeriesDef) -> Result<()> {
        if self.missing == MissingCells::Skip && def.kind() != SCALAR {
            return Err(Error::invalid(format!("missing=skip is for scalars, {} is a {}", def.key, def.kind())));
        }
        Ok(())
    }
}
