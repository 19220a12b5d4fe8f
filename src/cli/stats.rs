//! `fastk admin stats` and `capabilities`: totals of the store, and how predicates on each series can be evaluated.

use serde::Serialize;

use super::print;
use super::series_filter::FilterArgs;
use super::target::{CommandTarget, PlainArgs};
use crate::error::Result;
use crate::query::Operator;
use crate::service::operations::{HealthOf, InventoryOf, NoRequest};
use crate::service::{HealthStatus, InventoryTotals, MaintenanceStatus, SeriesFilter, SeriesInfo};
use crate::types::SeriesKey;

/// The reply of `stats`.
#[derive(Debug, Serialize)]
struct StoreStats {
    status: HealthStatus,
    version: String,
    format: u32,
    durability: String,
    uptime_seconds: u64,
    commit: u64,
    totals: InventoryTotals,
    maintenance: MaintenanceStatus,
}

/// How predicates on one series can be evaluated.
#[derive(Debug, Serialize)]
struct SeriesCapabilities {
    series: SeriesKey,
    raw_scan: bool,
    has_zmap: bool,
    has_vix: bool,
    /// Columns with a value index.
    value_index: Vec<String>,
    /// Whether the interval is known, and with it coverage and gaps.
    has_coverage: bool,
}

/// The reply of `capabilities`.
#[derive(Debug, Serialize)]
struct Capabilities {
    commit: u64,
    /// Operators of predicates, on every column.
    operators: Vec<&'static str>,
    series: Vec<SeriesCapabilities>,
}

impl From<SeriesInfo> for SeriesCapabilities {
    fn from(info: SeriesInfo) -> Self {
        Self {
            raw_scan: true,
            has_zmap: true,
            has_vix: !info.value_index.is_empty(),
            has_coverage: info.interval_ms.is_some()
                || info.timeframe.as_deref().and_then(crate::types::schema::timeframe_months).is_some(),
            value_index: info.value_index,
            series: info.series,
        }
    }
}

/// Prints totals and what maintenance did.
pub fn stats(args: &PlainArgs) -> Result<u8> {
    let target = CommandTarget::open(&args.target, false)?;
    let health = target.run::<HealthOf>(NoRequest {})?;
    let inventory = target.run::<InventoryOf>(SeriesFilter { limit: Some(1), ..SeriesFilter::default() })?;
    let stats = StoreStats {
        status: health.status,
        version: health.version,
        format: health.format,
        durability: health.durability,
        uptime_seconds: health.uptime_seconds,
        commit: inventory.commit,
        totals: inventory.totals,
        maintenance: health.maintenance,
    };
    print::reply(&stats, args.json)?;
    Ok(0)
}

/// Prints how predicates on each series can be evaluated.
pub fn capabilities(args: &FilterArgs) -> Result<u8> {
    let found = args.list(&CommandTarget::open(&args.plain.target, false)?)?;
    let capabilities = Capabilities {
        commit: found.commit,
        operators: Operator::ALL.iter().map(|(_, name)| *name).collect(),
        series: found.series.into_iter().map(SeriesCapabilities::from).collect(),
    };
    if args.plain.json {
        print::reply(&capabilities, true)?;
        return Ok(0);
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_string();
    let rows = capabilities.series.into_iter().map(|row| {
        let indexed = if row.value_index.is_empty() { "-".to_string() } else { row.value_index.join(" ") };
        vec![row.series.to_string(), yes(row.raw_scan), yes(row.has_zmap), indexed, yes(row.has_coverage)]
    });
    print::out(&print::table(&["series", "scan", "zone_map", "value_index", "coverage"], rows.collect()))?;
    print::out(&format!("operators: {}\n", capabilities.operators.join(", ")))?;
    Ok(0)
}
