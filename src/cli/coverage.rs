//! `fastk coverage`: which intervals of a series have rows, and where the gaps are.

use super::print;
use super::rows::time_value;
use super::target::{CommandTarget, TargetArgs};
use crate::egress::TimeFormat;
use crate::error::Result;
use crate::service::coverage::ShownTime;
use crate::service::operations::ReadCoverage;
use crate::service::{CoverageReply, CoverageRequest};
use crate::types::{Calendar, SeriesKey};

#[derive(Debug, clap::Args)]
pub struct CoverageArgs {
    /// kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or a registered kind and its words
    key: String,
    /// First timestamp: epoch in the unit of the series, RFC 3339, or a date. The range is closed.
    #[arg(long, allow_negative_numbers = true)]
    start: Option<String>,
    /// Last timestamp, as --start; a date means its last instant.
    #[arg(long, allow_negative_numbers = true)]
    end: Option<String>,
    /// 24x7, weekdays, an exchange such as XNYS, or JSON of weekly windows [default: that of the series].
    #[arg(long)]
    calendar: Option<String>,
    /// List only gaps of at least N intervals.
    #[arg(long, value_name = "N")]
    min_missing: Option<u64>,
    /// List at most N gaps [default: 10000].
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Read under this snapshot, with its calendar, or under dataset:NAME@VERSION.
    #[arg(long, value_name = "NAME")]
    as_of: Option<String>,
    /// epoch or rfc3339 [default: rfc3339, with --json epoch].
    #[arg(long)]
    times: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints the coverage of a series.
pub fn run(args: CoverageArgs) -> Result<u8> {
    let default = if args.json { TimeFormat::Epoch } else { TimeFormat::Rfc3339 };
    let request = CoverageRequest {
        start: args.start.as_deref().map(time_value),
        end: args.end.as_deref().map(time_value),
        calendar: args.calendar.as_deref().map(Calendar::parse_text).transpose()?,
        min_missing: args.min_missing,
        as_of: args.as_of,
        limit: args.limit,
        times: Some(args.times.as_deref().map_or(Ok(default), TimeFormat::from_name)?),
        ..CoverageRequest::of(SeriesKey::parse(&args.key)?)
    };
    let found = CommandTarget::open(&args.target, false)?.run::<ReadCoverage>(request)?;
    if args.json {
        print::reply(&found, true)?;
    } else {
        print::out(&text(&found))?;
    }
    Ok(0)
}

fn text(found: &CoverageReply) -> String {
    let stamp = |stamp: &ShownTime| match stamp {
        ShownTime::Epoch(ts) => ts.to_string(),
        ShownTime::Text(text) => text.clone(),
    };
    let or_dash = |value: Option<String>| value.unwrap_or("-".into());
    let mut text = format!(
        "{}: {} of {} intervals present ({}), {} to {}\n",
        found.series,
        found.present,
        found.expected,
        or_dash(found.ratio.map(|ratio| format!("{:.4} %", ratio * 100.0))),
        or_dash(found.start.as_ref().map(stamp)),
        or_dash(found.end.as_ref().map(stamp)),
    );
    text.push_str(&format!(
        "{} rows, {} off the grid, {} outside the calendar {}; gaps: {}\n",
        found.rows,
        found.off_grid,
        found.outside_calendar,
        found.calendar.as_str().map_or_else(|| found.calendar.to_string(), str::to_string),
        found.gaps_total,
    ));
    if !found.gaps.is_empty() {
        let rows = found.gaps.iter().map(|gap| vec![gap.missing.to_string(), stamp(&gap.start), stamp(&gap.end)]);
        text.push_str(&print::table(&["missing", "first", "last"], rows.collect()));
    }
    if found.truncated {
        text.push_str(&format!("the first {} gaps; --limit or --min-missing choose others\n", found.gaps.len()));
    }
    text
}
