//! The query object, shared by `POST /v1/query`, Flight tickets and descriptors, and the command line.

use serde::{Deserialize, Serialize};

use super::answer::Numbers;
use super::predicate::Predicate;
use crate::types::SeriesKey;

/// Direction of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Order {
    #[default]
    Asc,
    Desc,
}

/// An end of a closed range as a caller writes it: an epoch integer in the unit of the series, or text
/// (RFC 3339, a date, or an integer).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum When {
    Epoch(i64),
    Text(String),
}

/// What to read. Everything but `series` may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Query {
    /// Series keys. Globs and several series are refused as `unimplemented` by this version.
    pub series: Vec<String>,
    /// First timestamp wanted; the range is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<When>,
    /// Last timestamp wanted; the range is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<When>,
    /// Number columns wanted, in this order; `ts` always comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Conditions every row has to meet, all of them.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicates: Option<Vec<Predicate>>,
    /// Keep only the last N rows of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<u64>,
    /// Give at most this many rows, in the order of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(default)]
    pub order: Order,
    #[serde(default)]
    pub numbers: Numbers,
    /// Answer as the snapshot of this name shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// Answer as of this commit; `commit_gone` when it is no longer kept. Not together with `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_complete: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    #[serde(default)]
    pub explain: bool,
    /// Continues an earlier answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many endpoints GetFlightInfo splits the answer into, by time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u64>,
}

impl Query {
    /// All rows of one series.
    pub fn of(key: &SeriesKey) -> Self {
        Self { series: vec![key.to_string()], ..Self::default() }
    }
}
