//! The query object, shared by `POST /v1/query`, Flight tickets and descriptors, and the command line.

use serde::{Deserialize, Deserializer, Serialize};

use super::predicate::Predicate;
use super::result::NumberFormat;
use crate::error::{Error, Result};
use crate::types::SeriesKey;

/// Direction of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowOrder {
    #[default]
    Asc,
    Desc,
}

/// How an answer of several series is arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MultiLayout {
    /// One series after the other, by key; inside a series by time.
    #[default]
    BySeries,
    /// By time; rows of one timestamp by series key: the cross-section.
    ByTime,
}

impl MultiLayout {
    /// Reads `by_series` or `by_time`; `-` stands for `_`.
    ///
    /// # Errors
    /// `invalid_argument` naming the word.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.replace('-', "_").as_str() {
            "by_series" => Ok(MultiLayout::BySeries),
            "by_time" => Ok(MultiLayout::ByTime),
            _ => Err(Error::invalid(format!("layout {name:?} is not one of by_series, by_time"))),
        }
    }
}

/// An end of a closed range as a caller writes it: an epoch integer in the unit of the series, or text
/// (RFC 3339, a date, or an integer).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a time is an epoch integer, or text: RFC 3339 or a date")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum TimeValue {
    Epoch(i64),
    Text(String),
}

/// Reads `null` as if the field were left out.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// What to read. Everything but `series` may be left out, or null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Query {
    /// Series keys and globs, all klines or all scalars; `*` stands for any characters within one part of a key. A
    /// single key answers the columns of its series. A glob, or more than one entry, answers a `series` column first.
    pub series: Vec<String>,
    /// First timestamp wanted; the range is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<TimeValue>,
    /// Last timestamp wanted; the range is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TimeValue>,
    /// Number columns wanted, in this order; `ts` always comes first. Of several series those common to all, in the
    /// order of the first one, unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Conditions every row has to meet, all of them.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicates: Option<Vec<Predicate>>,
    /// Keep only the last N rows of the range, of each series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub latest: Option<u64>,
    /// Give at most this many rows, of all series together, in the order of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub limit: Option<u64>,
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<RowOrder>))]
    pub order: RowOrder,
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<NumberFormat>))]
    pub numbers: NumberFormat,
    /// Answer as the snapshot of this name shows it, or as a dataset pins it: `dataset:NAME@VERSION`, or `dataset:NAME` for
    /// its latest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// Answer as of this commit; `commit_gone` when it is no longer kept. Not together with `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub latest_complete: Option<u64>,
    /// How several series are arranged; `by_series` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<MultiLayout>,
    /// Tells how the answer was found: at the end of a JSON answer, of other formats in the header or trailer
    /// `fastk-stats`, over Flight in the metadata of a last message without rows.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<bool>))]
    pub explain: bool,
    /// Continues an earlier answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many endpoints GetFlightInfo splits the answer into, by time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub endpoints: Option<u64>,
}

impl Query {
    /// All rows of one series.
    pub fn of(key: &SeriesKey) -> Self {
        Self { series: vec![key.to_string()], ..Self::default() }
    }
}
