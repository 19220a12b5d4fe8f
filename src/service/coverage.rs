//! The operation `coverage`, and the ratio in the inventory.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::egress::TimeFormat;
use crate::error::{Error, Result};
use crate::query::coverage::{CoverageSpec, Gap, coverage, ratio};
use crate::query::{ClosedRange, TimeValue};
use crate::service::caller::Scope;
use crate::service::shared::Service;
use crate::store::{SeriesState, StoreState};
use crate::types::width::to_usize;
use crate::types::{Calendar, Grid, SeriesKey, TimeUnit, time};

/// Default and maximum number of gaps listed.
const GAPS_DEFAULT: u64 = 10_000;
const GAPS_MAX: u64 = 1_000_000;

/// A coverage request. Everything but `series` is optional.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct CoverageRequest {
    #[param(value_type = String)]
    pub series: SeriesKey,
    /// First timestamp of the closed range: an epoch integer in the unit of the series, RFC 3339, or a date. By
    /// default the bucket of the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub start: Option<TimeValue>,
    /// Last timestamp of the closed range; a date means its last instant. By default the last row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub end: Option<TimeValue>,
    /// When rows are expected, instead of the calendar of the series: `24x7`, `weekdays`, an exchange such as
    /// `XNYS`, or JSON with weekly windows in an IANA time zone, `{"zone":"America/New_York","windows":[{"from":"Sun 17:00","to":"Fri
    /// 17:00"}]}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json_or_text")]
    #[param(value_type = Option<String>)]
    pub calendar: Option<Value>,
    /// List only gaps of at least this many intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub min_missing: Option<u64>,
    /// List at most this many gaps; 10,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1_000_000)]
    pub limit: Option<u64>,
    /// Format of timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<TimeFormat>,
    /// Read the series at the snapshot of this name, with its calendar at that time; or `dataset:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

/// A calendar as JSON, or as text that may be JSON: a query parameter is always text.
fn json_or_text<'de, D: serde::Deserializer<'de>>(input: D) -> std::result::Result<Option<Value>, D::Error> {
    Ok(Option::<Value>::deserialize(input)?.map(|value| match value.as_str() {
        Some(text) => Calendar::parse_text(text).unwrap_or(value),
        None => value,
    }))
}

impl CoverageRequest {
    /// The whole series by its own calendar.
    pub fn of(series: SeriesKey) -> Self {
        Self {
            series,
            start: None,
            end: None,
            calendar: None,
            min_missing: None,
            limit: None,
            times: None,
            as_of: None,
        }
    }
}

/// A timestamp in a reply: an integer in the unit of the series, or RFC 3339 under `times=rfc3339`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum ShownTime {
    Epoch(i64),
    Text(String),
}

impl ShownTime {
    fn new(ts: i64, unit: TimeUnit, times: TimeFormat) -> Self {
        match times {
            TimeFormat::Epoch => ShownTime::Epoch(ts),
            TimeFormat::Rfc3339 => {
                let mut text = Vec::new();
                time::write_rfc3339(&mut text, ts, unit);
                ShownTime::Text(String::from_utf8_lossy(&text).into_owned())
            }
        }
    }
}

/// Adjacent expected buckets without a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct GapReply {
    /// Start of the first missing bucket.
    pub start: ShownTime,
    /// Start of the last missing bucket.
    pub end: ShownTime,
    /// Number of expected buckets that are missing; closed buckets in between do not count.
    pub missing: u64,
}

/// Coverage of a range of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CoverageReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub version: u64,
    pub commit: u64,
    /// The calendar that was used.
    #[cfg_attr(feature = "server", schema(value_type = Value, example = "24x7"))]
    pub calendar: Value,
    /// Length of a bucket in milliseconds; null for calendar months.
    pub interval_ms: Option<i64>,
    /// Length of a bucket in calendar months; null otherwise.
    pub interval_months: Option<i64>,
    /// A timestamp that starts a bucket: the phase of the grid.
    pub origin: ShownTime,
    /// First and last row of the series; null when it has none.
    pub first_ts: Option<ShownTime>,
    pub last_ts: Option<ShownTime>,
    /// First and last bucket that start in the range; null when none does.
    pub start: Option<ShownTime>,
    pub end: Option<ShownTime>,
    /// Buckets that start in the range while the calendar is open.
    pub expected: u64,
    /// Expected buckets with at least one row.
    pub present: u64,
    /// Present over expected; null when no bucket is expected.
    pub ratio: Option<f64>,
    /// Rows in the range.
    pub rows: u64,
    /// Rows that are not at the start of their bucket.
    pub off_grid: u64,
    /// Rows in buckets that are closed by the calendar.
    pub outside_calendar: u64,
    /// Gaps in time order, at most `limit`.
    pub gaps: Vec<GapReply>,
    /// Number of gaps, listed or not.
    pub gaps_total: u64,
    /// Whether there are more gaps than are listed.
    pub truncated: bool,
    /// The gap with the most missing buckets, the earliest of equal ones; null without gaps.
    pub longest_gap: Option<GapReply>,
}

/// A count in a request that must be at least 1.
fn positive(what: &str, value: Option<u64>, default: u64) -> Result<u64> {
    match value {
        Some(0) => Err(Error::invalid(format!("{what} must be at least 1"))),
        value => Ok(value.unwrap_or(default)),
    }
}

impl Service {
    /// Which buckets of a series have rows, and where the gaps are.
    ///
    /// # Errors
    /// `series_not_found`, `snapshot_not_found`; `invalid_argument` for a series without an interval length, an invalid
    /// calendar, range or limit.
    pub fn coverage(&self, request: &CoverageRequest) -> Result<CoverageReply> {
        self.caller.require_series(Scope::Read, &request.series)?;
        let state = self.state_as_of(request.as_of.as_deref(), &request.series)?;
        let series = self.series_state(&state, &request.series)?;
        let value = request.calendar.clone().or_else(|| series.def.calendar.clone());
        let calendar = Calendar::of(value.as_ref())?;
        let missing_min = positive("min_missing", request.min_missing, 1)?;
        let gaps_max = positive("limit", request.limit, GAPS_DEFAULT)?;
        if gaps_max > GAPS_MAX {
            return Err(Error::invalid(format!("limit {gaps_max} is above {GAPS_MAX}")));
        }
        let range = ClosedRange::parse_non_empty(series.def.unit, request.start.as_ref(), request.end.as_ref())?;
        let (start, end) = range.given_bounds();
        let spec = CoverageSpec { start, end, calendar: &calendar, missing_min, gaps_max: to_usize(gaps_max) };
        let report = coverage(&series, self.store().cache(), &spec)?;
        let (unit, times) = (series.def.unit, request.times.unwrap_or_default());
        let stamp = |ts: i64| ShownTime::new(ts, unit, times);
        let gap = |gap: &Gap| GapReply { start: stamp(gap.start), end: stamp(gap.end), missing: gap.missing };
        let (interval_ms, interval_months) = match report.grid {
            Grid::Fixed { length, .. } => (Some(length / (unit.per_second() / 1_000)), None),
            Grid::Months { length, .. } => (None, Some(length)),
        };
        Ok(CoverageReply {
            series: series.def.key.clone(),
            version: series.version,
            commit: state.commit,
            calendar: value.unwrap_or_else(|| "24x7".into()),
            interval_ms,
            interval_months,
            origin: stamp(report.grid.start_of(0)),
            first_ts: series.bounds.map(|(first, _)| stamp(first)),
            last_ts: series.bounds.map(|(_, last)| stamp(last)),
            start: report.bounds.map(|(first, _)| stamp(first)),
            end: report.bounds.map(|(_, last)| stamp(last)),
            expected: report.expected,
            present: report.present,
            ratio: report.ratio(),
            rows: report.rows,
            off_grid: report.off_grid,
            outside_calendar: report.outside_calendar,
            gaps: report.gaps.iter().map(gap).collect(),
            gaps_total: report.gaps_total,
            truncated: report.gaps_total > report.gaps.len() as u64,
            longest_gap: report.longest_gap.as_ref().map(gap),
        })
    }

    /// Entity-tag stem of the coverage of a series.
    pub fn coverage_stem(&self, request: &CoverageRequest) -> Result<String> {
        self.caller.require_series(Scope::Read, &request.series)?;
        let series =
            self.series_state(&*self.state_as_of(request.as_of.as_deref(), &request.series)?, &request.series)?;
        Ok(self.stem(series.id, series.version))
    }

    /// Ratio of a series for the inventory; null without a grid or rows, and when it cannot be computed.
    pub(super) fn coverage_ratio(&self, state: &StoreState, series: &SeriesState) -> Option<f64> {
        if let Some(known) = self.ratios.get(series) {
            return known;
        }
        match ratio(series, self.store().cache()) {
            Ok(ratio) => {
                self.ratios.insert(series, ratio, state);
                ratio
            }
            Err(error) => {
                tracing::warn!(%error, series = %series.def.key, "cannot compute coverage");
                None
            }
        }
    }
}
