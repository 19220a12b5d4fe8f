//! The commands of `fastk bridge` that read and write scalars. An indicator is a scalar in the category `indicator`.

use bytes::Bytes;
use serde::Deserialize;

use super::args::{InputArgs, RangeArgs, ScalarArgs};
use super::contract::{
    BridgeMatch, BridgeStats, IndicatorRange, PredicateAnswer, ScalarInventory, ScalarRange, ScalarRecord,
    ScalarsWritten, WriteScalars,
};
use super::predicate::PredicateArgs;
use super::{rows, series};
use crate::cli::rows::OutputOptions;
use crate::cli::target::CommandTarget;
use crate::error::{Error, Result};
use crate::query::{Query, ScanStats};
use crate::service::SeriesInfo;
use crate::types::schema::{ColumnSpec, ValueIndexSpec, timeframe_ms};
use crate::types::{SeriesKey, SeriesSpec};

const COLUMNS: [&str; 2] = ["ts", "value"];

fn key(args: &ScalarArgs) -> Result<SeriesKey> {
    SeriesKey::scalar(&args.category, &args.base.symbol, &args.base.timeframe, &args.name)
}

/// The series, if it is registered, in scaled integers.
fn find(target: &CommandTarget, key: &SeriesKey) -> Result<Option<SeriesInfo>> {
    let info = series::find(target, key)?;
    if let Some(info) = &info {
        series::digits(info, "value")?;
    }
    Ok(info)
}

/// Reads the values of a closed range; none when the series is not registered.
pub fn read(args: &ScalarArgs, range: RangeArgs) -> Result<ScalarRange> {
    let (key, range) = (key(args)?, range.check()?);
    read_from(&series::open(&args.base.target, false)?, args, &key, range)
}

fn read_from(target: &CommandTarget, args: &ScalarArgs, key: &SeriesKey, range: RangeArgs) -> Result<ScalarRange> {
    let info = find(target, key)?;
    let rows = if info.is_some() { rows::read(target, key, &["value"], range)? } else { Vec::new() };
    Ok(ScalarRange {
        symbol: args.base.symbol.clone(),
        timeframe: args.base.timeframe.clone(),
        category: args.category.clone(),
        name: args.name.clone(),
        timeframe_ms: info.as_ref().and_then(|info| info.interval_ms),
        start_ts: range.start_ts,
        end_ts: range.end_ts,
        exists: info.is_some(),
        coverage_start_ts: info.as_ref().and_then(|info| info.first_ts),
        coverage_end_ts: info.as_ref().and_then(|info| info.last_ts),
        total_record_count: info.as_ref().map_or(0, |info| info.rows),
        records: rows.into_iter().map(|[ts, value]| ScalarRecord { ts, value }).collect(),
    })
}

/// Reads the values of an indicator, with the price scale of its klines.
pub fn read_indicator(args: &ScalarArgs, range: RangeArgs) -> Result<IndicatorRange> {
    let (key, range) = (key(args)?, range.check()?);
    let target = series::open(&args.base.target, false)?;
    let base = series::find(&target, &SeriesKey::kline(&args.base.symbol, &args.base.timeframe)?)?;
    let found = read_from(&target, args, &key, range)?;
    Ok(IndicatorRange {
        symbol: found.symbol,
        timeframe: found.timeframe,
        category: found.category,
        name: found.name,
        timeframe_ms: found.timeframe_ms.or(base.as_ref().and_then(|base| base.interval_ms)),
        start_ts: found.start_ts,
        end_ts: found.end_ts,
        exists: found.exists,
        base_price_scale: base.and_then(|base| series::digits(&base, "open").ok()).map(series::scale_of),
        coverage_start_ts: found.coverage_start_ts,
        coverage_end_ts: found.coverage_end_ts,
        total_record_count: found.total_record_count,
        records: found.records,
    })
}

/// Upserts values.
pub fn write(args: &ScalarArgs, input: &InputArgs) -> Result<ScalarsWritten> {
    let key = key(args)?;
    let input: WriteScalars = rows::input(input)?;
    let values: Vec<[i64; 2]> = input.records.iter().map(|record| [record.ts, record.value]).collect();
    rows::refuse_repeats(&values)?;
    let check = |known: Option<&SeriesInfo>| match input.timeframe_ms {
        Some(interval) => series::check_interval(&args.base.timeframe, known, interval),
        None => Ok(()),
    };
    check(None)?;
    let target = series::open(&args.base.target, true)?;
    let body = rows::body(COLUMNS, &values);
    let (registered, interval) = match find(&target, &key)? {
        Some(info) => {
            check(Some(&info))?;
            (false, info.interval_ms.or(input.timeframe_ms))
        }
        None => {
            let mut spec = SeriesSpec::of_key(&key);
            spec.interval_ms = match input.timeframe_ms.or_else(|| timeframe_ms(&args.base.timeframe)) {
                Some(interval) => Some(interval),
                None => {
                    let base = SeriesKey::kline(&args.base.symbol, &args.base.timeframe)?;
                    series::find(&target, &base)?.and_then(|base| base.interval_ms)
                }
            };
            let interval = spec.interval_ms;
            // As in the contract: integers whose scale only the caller knows, with a value index.
            spec.value = Some(ColumnSpec { name: None, kind: Some("int64".into()), digits: None, merge: None });
            spec.value_index = Some(ValueIndexSpec::All(true));
            (series::register(&target, spec, &body, &rows::write_options())?, interval)
        }
    };
    let written = if values.is_empty() { 0 } else { rows::write(&target, &key, body)? };
    Ok(ScalarsWritten {
        symbol: args.base.symbol.clone(),
        timeframe: args.base.timeframe.clone(),
        category: args.category.clone(),
        name: args.name.clone(),
        timeframe_ms: interval,
        registered,
        requested_record_count: input.records.len() as u64,
        written_record_count: written,
        month_batches_written: rows::months(&values),
    })
}

/// Reports the stored data by month.
pub fn inventory(args: &ScalarArgs) -> Result<ScalarInventory> {
    let key = key(args)?;
    let target = series::open(&args.base.target, false)?;
    let info = find(&target, &key)?;
    Ok(ScalarInventory {
        symbol: args.base.symbol.clone(),
        timeframe: args.base.timeframe.clone(),
        category: args.category.clone(),
        name: args.name.clone(),
        exists: info.is_some(),
        record_count: info.as_ref().map_or(0, |info| info.rows),
        coverage_start_ts: info.as_ref().and_then(|info| info.first_ts),
        coverage_end_ts: info.as_ref().and_then(|info| info.last_ts),
        inventory: info.as_ref().map_or(Ok(Vec::new()), |info| series::months(&target, info))?,
        capabilities: info.as_ref().map(series::capabilities),
    })
}

/// Finds the rows of a closed range whose value matches.
pub fn query(args: &ScalarArgs, range: RangeArgs, flags: &PredicateArgs) -> Result<PredicateAnswer> {
    let (key, range, predicate) = (key(args)?, range.check()?, flags.predicate()?);
    let target = series::open(&args.base.target, false)?;
    let info = find(&target, &key)?;
    let (mut matches, mut stats) = (Vec::new(), BridgeStats::default());
    if let Some(mut query) =
        rows::query(&key, &["value"], range).filter(|_| info.is_some() && !predicate.matches_nothing())
    {
        query.predicates = Some(vec![predicate.to_query()]);
        (matches, stats) = search(&target, query)?;
    }
    let found = |row: ScalarRecord| BridgeMatch { ts: row.ts, value: flags.return_values.then_some(row.value) };
    Ok(PredicateAnswer {
        symbol: args.base.symbol.clone(),
        timeframe: args.base.timeframe.clone(),
        category: args.category.clone(),
        name: args.name.clone(),
        timeframe_ms: info.as_ref().and_then(|info| info.interval_ms),
        start_ts: range.start_ts,
        end_ts: range.end_ts,
        exists: info.is_some(),
        coverage_start_ts: info.as_ref().and_then(|info| info.first_ts),
        coverage_end_ts: info.as_ref().and_then(|info| info.last_ts),
        total_record_count: info.as_ref().map_or(0, |info| info.rows),
        predicate,
        return_values: flags.return_values,
        matches: matches.into_iter().map(found).collect(),
        stats,
    })
}

/// The members of a JSON response that are used here.
#[derive(Deserialize)]
struct RecordPages {
    rows: Vec<ScalarRecord>,
    next_cursor: Option<String>,
    #[serde(default)]
    stats: Option<ScanStats>,
}

/// Every row that a query finds, and the statistics of all its pages.
fn search(target: &CommandTarget, mut query: Query) -> Result<(Vec<ScalarRecord>, BridgeStats)> {
    query.explain = true;
    let options = OutputOptions { format: "json".into(), times: Some("epoch".into()), shape: Some("rows".into()) };
    let (mut rows, mut stats) = (Vec::new(), ScanStats::default());
    loop {
        let mut text = Vec::new();
        target.read_page(&mut query, &options, &mut |piece: Bytes| {
            text.extend_from_slice(&piece);
            Ok(())
        })?;
        let page: RecordPages =
            serde_json::from_slice(&text).map_err(|error| Error::internal(format!("reply as JSON: {error}")))?;
        rows.extend(page.rows);
        if let Some(more) = page.stats {
            stats.add(&more);
        }
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok((rows, stats.into())),
        }
    }
}
