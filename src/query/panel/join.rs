//! How the series of a panel are joined.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::TimeUnit;
use crate::types::grid::interval_ticks;
use crate::types::schema::timeframe_ms;

/// How the series of a panel are joined: `"exact"`, or `{"asof":"5m"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a join is \"exact\", or {\"asof\":\"5m\"} with the longest age of a row")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum PanelJoin {
    Exact(ExactJoin),
    AsOf(AsOfJoin),
}

/// The rows are those of all timestamps of all series; a series without a row at a timestamp has nulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum ExactJoin {
    Exact,
}

/// The rows are those of the first series; each other series adds its last row that is known at that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AsOfJoin {
    /// Tolerance: the longest time since a row became known, a count and one of s, m, h, d and w, such as `5m`. Older
    /// rows are nulls.
    pub asof: String,
    /// When rows of series with intervals become known.
    #[serde(default)]
    pub known: KnownAt,
}

/// When a row of a series with intervals becomes known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum KnownAt {
    /// When its interval, or bucket, ends.
    #[default]
    Close,
    /// At its `ts`.
    Ts,
}

impl Default for PanelJoin {
    fn default() -> Self {
        Self::Exact(ExactJoin::Exact)
    }
}

impl PanelJoin {
    /// Parses `exact`, `asof:5m` or `asof:5m:ts`.
    ///
    /// # Errors
    /// `invalid_argument` naming the text.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!("join {text:?} is not exact or asof:TOLERANCE"))
                .with_hint("asof:5m, or asof:5m:ts for rows that are known at their ts")
        };
        let mut parts = text.split(':');
        let join = match (parts.next(), parts.next()) {
            (Some("exact"), None) => return Ok(Self::default()),
            (Some("asof"), Some(tolerance)) => AsOfJoin {
                asof: tolerance.to_owned(),
                known: match parts.next() {
                    None | Some("close") => KnownAt::Close,
                    Some("ts") => KnownAt::Ts,
                    Some(_) => return Err(invalid()),
                },
            },
            _ => return Err(invalid()),
        };
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self::AsOf(join))
    }

    /// The join as [`parse`](Self::parse) reads it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Exact(_) => "exact".into(),
            Self::AsOf(AsOfJoin { asof, known: KnownAt::Close }) => format!("asof:{asof}"),
            Self::AsOf(AsOfJoin { asof, known: KnownAt::Ts }) => format!("asof:{asof}:ts"),
        }
    }
}

impl AsOfJoin {
    /// The tolerance in the unit of the series.
    ///
    /// # Errors
    /// `invalid_argument` for a text that is not a length.
    pub fn tolerance(&self, unit: TimeUnit) -> Result<i64> {
        let shown: String = self.asof.chars().take(40).collect();
        let ms = timeframe_ms(&self.asof).ok_or_else(|| {
            Error::invalid(format!("asof {shown:?} is not a tolerance"))
                .with_hint("a count from 1 on and one of s, m, h, d and w, such as 5m or 1d")
        })?;
        interval_ticks(ms, unit).map_err(|error| Error::invalid(format!("asof {shown:?}: {}", error.detail())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_read_from_json_and_from_text() {
        let json = |text: &str| serde_json::from_str::<PanelJoin>(text);
        let five = |known| PanelJoin::AsOf(AsOfJoin { asof: "5m".into(), known });
        for (object, text, join) in [
            (r#""exact""#, "exact", PanelJoin::default()),
            (r#"{"asof":"5m"}"#, "asof:5m", five(KnownAt::Close)),
            (r#"{"asof":"5m","known":"ts"}"#, "asof:5m:ts", five(KnownAt::Ts)),
        ] {
            assert_eq!((json(object).unwrap(), PanelJoin::parse(text).unwrap()), (join.clone(), join.clone()));
            assert_eq!(join.to_text(), text);
        }
        for wrong in [r#""inner""#, r#"{"asof":5}"#, r#"{"asof":"5m","known":"open"}"#, r#"{"asof":"5m","by":"x"}"#] {
            assert!(json(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "asof", "asof:5m:open", "asof:5m:ts:x", "exact:5m", "inner"] {
            assert!(PanelJoin::parse(wrong).is_err(), "{wrong}");
        }
        let tolerance = |text: &str| AsOfJoin { asof: text.into(), known: KnownAt::Close }.tolerance(TimeUnit::Us);
        assert_eq!(tolerance("5m").unwrap(), 300_000_000);
        for wrong in ["", "5", "0m", "-5m", "1M", "1.5h", "99999999999999999999d", "999999999999w"] {
            assert!(tolerance(wrong).is_err(), "{wrong}");
        }
    }
}
