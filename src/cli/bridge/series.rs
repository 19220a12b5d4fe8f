//! What the bridge reads of a series: its registration, scales, interval and months.

use std::time::{Duration, Instant};

use super::contract::{BridgeCapabilities, BridgeMonth};
use crate::cli::rows::{BodyOptions, check_body};
use crate::cli::target::{CommandTarget, TargetArgs};
use crate::error::{Error, ErrorCode, Result};
use crate::service::operations::{InventoryOf, Register};
use crate::service::{InventoryRow, SeriesFilter, SeriesInfo};
use crate::types::number::DIGITS_MAX;
use crate::types::schema::{timeframe_months, timeframe_ms};
use crate::types::{ColumnType, SeriesKey, SeriesSpec, TimeUnit};

const DAY_MS: i64 = 86_400_000;

/// Timeout of the wait for another process that owns the store and is no server.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts to open the store.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Opens the store, or connects to the server that owns it. Programs often run several bridge commands at once: each
/// waits for the store.
///
/// # Errors
/// Those of [`CommandTarget::open`]; `store_locked` after [`LOCK_TIMEOUT`].
pub fn open(args: &TargetArgs, create: bool) -> Result<CommandTarget> {
    let start = Instant::now();
    loop {
        match CommandTarget::open(args, create) {
            Err(error) if error.code() == ErrorCode::StoreLocked && start.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            opened => return opened,
        }
    }
}

/// The series, if it is registered.
///
/// # Errors
/// `schema_mismatch` for one that does not count milliseconds.
pub fn find(target: &CommandTarget, key: &SeriesKey) -> Result<Option<SeriesInfo>> {
    let info = match target.series(key) {
        Ok(info) => info,
        Err(error) if error.code() == ErrorCode::SeriesNotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if info.unit != TimeUnit::Ms {
        let detail = format!("series {key} has timestamps in {}, the bridge supports ms only", info.unit.name());
        return Err(Error::new(ErrorCode::SchemaMismatch, detail).with_hint("read it with `fastk query`"));
    }
    Ok(Some(info))
}

/// Registers a series unless it exists; `body` is its first write, which is checked before the registration. Returns
/// whether this call registered the series.
pub fn register(target: &CommandTarget, spec: SeriesSpec, body: &[u8], options: &BodyOptions) -> Result<bool> {
    let def = spec.clone().resolve()?;
    check_body(&def, body, options)?;
    Ok(target.run::<Register>(spec)?.created)
}

/// Digits of a column in scaled integers; 0 for a column of plain integers.
///
/// # Errors
/// `schema_mismatch` for other types.
pub fn digits(info: &SeriesInfo, column: &str) -> Result<u8> {
    match info.columns.iter().find(|known| known.name == column).map(|known| known.kind) {
        Some(ColumnType::Decimal { digits }) => Ok(digits),
        Some(ColumnType::Int64) => Ok(0),
        Some(other) => {
            let what = if other == ColumnType::Float64 {
                "doubles".to_owned()
            } else {
                format!("cells of type {}", other.text())
            };
            let detail = format!(
                "column {column} of series {} has {what}, the bridge supports scaled integers only",
                info.series
            );
            Err(Error::new(ErrorCode::SchemaMismatch, detail)
                .with_hint("register it with digits, or read it with `fastk query`"))
        }
        None => Err(Error::new(ErrorCode::SchemaMismatch, format!("series {} has no column {column}", info.series))),
    }
}

/// Digits of a scale; only powers of ten are scales.
pub fn digits_of_scale(what: &str, scale: i64) -> Result<u8> {
    let found = (0..=DIGITS_MAX).find(|digits| scale_of(*digits) == scale);
    found.ok_or_else(|| Error::invalid(format!("{what} {scale} is not a power of ten between 1 and 10^{DIGITS_MAX}")))
}

/// The scale for a number of digits.
pub fn scale_of(digits: u8) -> i64 {
    10_i64.saturating_pow(u32::from(digits))
}

/// Refuses an interval that contradicts the timeframe or the registration.
pub fn check_interval(timeframe: &str, known: Option<&SeriesInfo>, input_ms: i64) -> Result<()> {
    if input_ms <= 0 {
        return Err(Error::invalid(format!("timeframe_ms {input_ms} is not positive")));
    }
    if let Some(months) = timeframe_months(timeframe) {
        // Months differ in length.
        let days = |each: i64| (each * DAY_MS).saturating_mul(i64::from(months));
        let (low, high) = (days(28), days(31));
        if (low..=high).contains(&input_ms) {
            return Ok(());
        }
        let detail = format!("timeframe_ms {input_ms} contradicts timeframe {timeframe} ({low} to {high} ms)");
        return Err(Error::invalid(detail));
    }
    let expected = timeframe_ms(timeframe).map(|ms| (ms, format!("timeframe {timeframe}")));
    let expected = expected.or_else(|| {
        let info = known?;
        Some((info.interval_ms?, format!("the registration of {}", info.series)))
    });
    match expected {
        Some((expected, by)) if expected != input_ms => {
            Err(Error::invalid(format!("timeframe_ms {input_ms} contradicts {by} ({expected} ms)")))
        }
        _ => Ok(()),
    }
}

/// The months of a registered series.
pub fn months(target: &CommandTarget, info: &SeriesInfo) -> Result<Vec<BridgeMonth>> {
    let filter = SeriesFilter { prefix: Some(info.series.to_string()), months: true, ..SeriesFilter::default() };
    let found = target.run::<InventoryOf>(filter)?.series.into_iter().find(|row| row.series == info.series);
    let sidecars = if info.value_index.is_empty() { 1 } else { 2 };
    let months = found.and_then(|row: InventoryRow| row.months).unwrap_or_default();
    let month = |month: crate::service::InventoryMonth| BridgeMonth {
        month_key: month.month,
        chunk_count: month.chunks,
        record_count: month.rows,
        sealed_chunk_count: month.chunks,
        active_delta_count: u64::from(month.in_tail),
        sidecar_count: month.chunks * sidecars,
    };
    Ok(months.into_iter().map(month).collect())
}

/// How predicates on a registered series can be evaluated: every file has a zone map.
pub fn capabilities(info: &SeriesInfo) -> BridgeCapabilities {
    BridgeCapabilities { raw_scan: true, has_zmap: true, has_vix: !info.value_index.is_empty() }
}
