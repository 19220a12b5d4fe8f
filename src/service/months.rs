//! Rows and chunks of a series per calendar month, for the inventory.

use std::sync::Arc;

use crate::error::Result;
use crate::service::replies::InventoryMonth;
use crate::store::{MapCache, SeriesState};
use crate::types::Partition;

/// The months that have rows, in UTC and in order. Blocks within one month are counted without reading their
/// timestamps.
pub fn of(series: &SeriesState, cache: &Arc<MapCache>) -> Result<Vec<InventoryMonth>> {
    let mut months = Vec::new();
    let Some((first, last)) = series.bounds else { return Ok(months) };
    let mut at = first;
    while at <= last {
        let span = Partition::Month.span_of(at, series.def.unit);
        let range = (span.start, span.end);
        let rows = series.count_rows(cache, range)?;
        if rows > 0 {
            months.push(InventoryMonth {
                month: span.name,
                rows,
                chunks: series.chunks.within(range).count() as u64,
                in_tail: series.tail().any(|run| run.ts_min() <= span.end && run.ts_max() >= span.start),
            });
        }
        match span.end.checked_add(1) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(months)
}
