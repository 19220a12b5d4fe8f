//! The commands of `fastk bridge` that read and write klines.

use super::args::{InputArgs, KlineArgs, RangeArgs};
use super::contract::{KlineInventory, KlineRange, KlineRecord, KlinesWritten, WriteKlines};
use super::{rows, series};
use crate::error::{Error, Result};
use crate::types::schema::series_not_found;
use crate::types::{SeriesKey, SeriesSpec};

const COLUMNS: [&str; 6] = ["ts", "open", "high", "low", "close", "volume"];

fn key(args: &KlineArgs) -> Result<SeriesKey> {
    SeriesKey::kline(&args.symbol, &args.timeframe)
}

/// Reads the bars of a closed range.
///
/// # Errors
/// `series_not_found`: without a registration the scales are unknown.
pub fn read(args: &KlineArgs, range: RangeArgs) -> Result<KlineRange> {
    let (key, range) = (key(args)?, range.check()?);
    let target = series::open(&args.target, false)?;
    let info = series::find(&target, &key)?.ok_or_else(|| series_not_found(&key))?;
    let (price, volume) = (series::digits(&info, "open")?, series::digits(&info, "volume")?);
    let [_, columns @ ..] = COLUMNS;
    let rows = rows::read(&target, &key, &columns, range)?;
    let record = |[ts, open, high, low, close, volume]: [i64; 6]| KlineRecord { ts, open, high, low, close, volume };
    Ok(KlineRange {
        symbol: args.symbol.clone(),
        timeframe: args.timeframe.clone(),
        timeframe_ms: info.interval_ms,
        start_ts: range.start_ts,
        end_ts: range.end_ts,
        price_scale: series::scale_of(price),
        volume_scale: series::scale_of(volume),
        records: rows.into_iter().map(record).collect(),
    })
}

/// Upserts bars.
pub fn write(args: &KlineArgs, input: &InputArgs) -> Result<KlinesWritten> {
    let key = key(args)?;
    let input_rows: WriteKlines = rows::input(input)?;
    let price = series::digits_of_scale("price_scale", input_rows.price_scale)?;
    let volume = series::digits_of_scale("volume_scale", input_rows.volume_scale)?;
    let mut bars: Vec<[i64; 6]> =
        input_rows.records.iter().map(|r| [r.ts, r.open, r.high, r.low, r.close, r.volume]).collect();
    rows::refuse_repeats(&bars)?;
    series::check_interval(&args.timeframe, None, input_rows.timeframe_ms)?;
    let target = series::open(&args.target, true)?;
    let (registered, body) = match series::find(&target, &key)? {
        Some(info) => {
            series::check_interval(&args.timeframe, Some(&info), input_rows.timeframe_ms)?;
            let (series_price, series_volume) = (series::digits(&info, "open")?, series::digits(&info, "volume")?);
            for (column, name) in COLUMNS.iter().enumerate().skip(1) {
                let (from, to) = if *name == "volume" { (volume, series_volume) } else { (price, series_price) };
                if from != to {
                    rows::rescale(&mut bars, column, name, from, to)?;
                }
            }
            if let Some(extra) = info.columns.get(COLUMNS.len() - 1) {
                return Err(Error::invalid(format!(
                    "series {key} has a column {}, which the bridge does not support",
                    extra.name
                ))
                .with_hint("write it with `fastk write`"));
            }
            (false, rows::body(COLUMNS, &bars))
        }
        None => {
            let mut spec = SeriesSpec::of_key(&key);
            spec.price_scale = Some(input_rows.price_scale);
            spec.volume_scale = Some(input_rows.volume_scale);
            spec.interval_ms = Some(input_rows.timeframe_ms);
            let body = rows::body(COLUMNS, &bars);
            (series::register(&target, spec, &body, &rows::write_options())?, body)
        }
    };
    let written = if bars.is_empty() { 0 } else { rows::write(&target, &key, body)? };
    Ok(KlinesWritten {
        symbol: args.symbol.clone(),
        timeframe: args.timeframe.clone(),
        timeframe_ms: input_rows.timeframe_ms,
        price_scale: input_rows.price_scale,
        volume_scale: input_rows.volume_scale,
        registered,
        requested_record_count: input_rows.records.len() as u64,
        written_record_count: written,
        month_batches_written: rows::months(&bars),
    })
}

/// Reports the stored data by month.
pub fn inventory(args: &KlineArgs) -> Result<KlineInventory> {
    let key = key(args)?;
    let target = series::open(&args.target, false)?;
    let info = series::find(&target, &key)?;
    let scale = |column: &str| match &info {
        Some(info) => series::digits(info, column).map(|digits| Some(series::scale_of(digits))),
        None => Ok(None),
    };
    Ok(KlineInventory {
        symbol: args.symbol.clone(),
        timeframe: args.timeframe.clone(),
        exists: info.is_some(),
        timeframe_ms: info.as_ref().and_then(|info| info.interval_ms),
        price_scale: scale("open")?,
        volume_scale: scale("volume")?,
        record_count: info.as_ref().map_or(0, |info| info.rows),
        coverage_start_ts: info.as_ref().and_then(|info| info.first_ts),
        coverage_end_ts: info.as_ref().and_then(|info| info.last_ts),
        inventory: info.as_ref().map_or(Ok(Vec::new()), |info| series::months(&target, info))?,
        capabilities: info.as_ref().map(series::capabilities),
    })
}
