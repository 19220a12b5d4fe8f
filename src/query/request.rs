//! The query object, shared by `POST /v1/query`, Flight tickets and descriptors, and the command line.

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::query::limit::LimitTies;
use crate::query::panel::PanelJoin;
use crate::query::predicate::Predicate;
use crate::query::resample::{FillRule, PartialRule, ResampleSpec};
use crate::query::result::NumberFormat;
use crate::types::{BucketAlign, SeriesKey};

/// Direction of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowOrder {
    #[default]
    Asc,
    Desc,
}

/// Row order of a result over several series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MultiLayout {
    /// One series after the other, by key; inside a series by time.
    #[default]
    BySeries,
    /// By time; rows of one timestamp by series key: the cross-section.
    ByTime,
    /// A panel: one row per timestamp, one column per series and field.
    Wide,
}

impl MultiLayout {
    /// Parses `by_series`, `by_time` or `wide`; `-` is read as `_`.
    ///
    /// # Errors
    /// `invalid_argument` naming the text.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.replace('-', "_").as_str() {
            "by_series" => Ok(MultiLayout::BySeries),
            "by_time" => Ok(MultiLayout::ByTime),
            "wide" => Ok(MultiLayout::Wide),
            _ => Err(Error::invalid(format!("layout {name:?} is not one of by_series, by_time, wide"))),
        }
    }
}

/// A bound of a closed range as a caller writes it: an epoch integer in the unit of the series, or text
/// (RFC 3339, a date, or an integer).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a time is an epoch integer, or text: RFC 3339 or a date")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum TimeValue {
    Epoch(i64),
    Text(String),
}

/// Deserializes `null` as the default, like a missing field.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// A query. All fields except `series` are optional and may be null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Query {
    /// Series keys and globs, all of one kind; `*` matches any characters within one part of a key. A single key returns
    /// the columns of its series. A glob, or more than one entry, adds a `series` column in first position. With `layout`
    /// `wide` series of any kinds, in the order of the list.
    pub series: Vec<String>,
    /// First timestamp, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<TimeValue>,
    /// Last timestamp, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TimeValue>,
    /// Number columns to return, in this order, after `ts`. By default all columns; of several series those common to
    /// all, in the order of the first series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Conditions, combined by AND.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicates: Option<Vec<Predicate>>,
    /// Keep only the last N matching rows of the range, of each series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub latest: Option<u64>,
    /// Return at most this many rows, of all series together, in the order of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub limit: Option<u64>,
    /// Whether the limit may separate rows of one timestamp of a series: `whole` (the default) returns the rest of them
    /// too, `split` does not.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<LimitTies>))]
    pub ties: LimitTies,
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<RowOrder>))]
    pub order: RowOrder,
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<NumberFormat>))]
    pub numbers: NumberFormat,
    /// Read the snapshot of this name, or a dataset version: `dataset:NAME@VERSION`, or `dataset:NAME` for the latest
    /// version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// Read this commit; `commit_gone` when it is no longer retained. Not together with `as_of`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub latest_complete: Option<u64>,
    /// Row order of several series; `by_series` by default. `wide` returns one row per timestamp and one column per series
    /// and field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<MultiLayout>,
    /// How the series of `layout` `wide` are joined: `"exact"` (the default), all timestamps of all series; or
    /// `{"asof":"5m"}`, the rows of the first series with the last known row of each other series, no older than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<PanelJoin>,
    /// Combine the rows to one row per bucket of this length: a count and one of s, m, h, d, w, M (months), q (quarters)
    /// and y, such as `1h` or `65m`. `start` and `end` select buckets by their start; each has all of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// What the borders of buckets follow: by default `session` with `session`, `local` with `tz`, else `utc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<BucketAlign>,
    /// IANA zone of `align` `local` and `session`, such as `America/New_York`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tz: Option<String>,
    /// Trading sessions: `09:30-16:00`, `mon-fri 09:30-16:00`, several separated by commas, an exchange such as
    /// `XNYS`, or `calendar` for those of the calendar of the series. Rows outside of them are in no bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Shifts the borders: `09:30`, `-02:00`, `30m` or `-1d`; under `local` by local time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<String>,
    /// What a bucket without rows, between buckets with rows, becomes; `none` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<FillRule>,
    /// What becomes of buckets that are not complete or not closed; `mark` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<PartialRule>,
    /// Columns of the result: `COLUMN:RULE` with a rule of first, last, min, max, sum, wide_sum, mean and count,
    /// `vwap(PRICE,QUANTITY)` or `count`; each optionally followed by `if COLUMN:OP:VALUE` and `as NAME`. By default each
    /// column of the series by its merge rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agg: Option<Vec<String>>,
    /// Return scan statistics: at the end of a JSON response, for other formats in the header or trailer `fastk-stats`,
    /// over Flight in the metadata of a last message without rows.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "server", schema(value_type = Option<bool>))]
    pub explain: bool,
    /// Continues an earlier result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Number of endpoints into which GetFlightInfo splits the result, by time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(minimum = 1))]
    pub endpoints: Option<u64>,
}

impl Query {
    /// All rows of one series.
    pub fn of(key: &SeriesKey) -> Self {
        Self { series: vec![key.to_string()], ..Self::default() }
    }

    /// The resampling; `None` where it has none.
    ///
    /// # Errors
    /// `invalid_argument` for options of a resampling without `every`.
    pub fn resample(&self) -> Result<Option<ResampleSpec>> {
        let Query { every, align, tz, session, offset, fill, partial, agg, .. } = self;
        let Some(every) = every else {
            let options = [
                ("align", align.is_some()),
                ("tz", tz.is_some()),
                ("session", session.is_some()),
                ("offset", offset.is_some()),
                ("fill", fill.is_some()),
                ("partial", partial.is_some()),
                ("agg", agg.is_some()),
            ];
            return match options.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => {
                    Err(Error::invalid(format!("{name} needs every"))
                        .with_hint("such as every=1h: the length of buckets"))
                }
                None => Ok(None),
            };
        };
        Ok(Some(ResampleSpec {
            every: every.clone(),
            align: *align,
            tz: tz.clone(),
            session: session.clone(),
            offset: offset.clone(),
            fill: fill.unwrap_or_default(),
            partial: partial.unwrap_or_default(),
            agg: agg.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_without_every_are_refused() {
        let query: Query = serde_json::from_str(r#"{"series":["kline/A/1m"],"fill":"prev"}"#).unwrap();
        assert!(query.resample().unwrap_err().detail().contains("fill needs every"));
        let query: Query = serde_json::from_str(r#"{"series":["kline/A/1m"]}"#).unwrap();
        assert_eq!(query.resample().unwrap(), None);
    }
}
