//! The inventory: the stored series with their sizes, and totals.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::service::caller::Scope;
use crate::service::replies::{Inventory, InventoryRow, InventoryTotals, SeriesFilter};
use crate::service::shared::Service;
use crate::service::wall_clock::rfc3339;
use crate::service::{months, page};
use crate::store::SeriesState;

impl Service {
    /// The stored series with totals of those the caller can see; totals that cannot be split by series are 0 for a
    /// caller limited to some.
    pub fn inventory(&self, filter: &SeriesFilter) -> Result<Inventory> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        let mut totals = InventoryTotals { snapshots: self.visible_snapshots(&state), ..InventoryTotals::default() };
        if !self.caller.is_limited() {
            totals.wal_bytes = self.store.log_bytes().0;
            totals.garbage_bytes = self.store.garbage_bytes_total();
            totals.run_bytes = self.store.run_files().0;
        }
        for series in state.series.values().filter(|series| self.caller.can_see(&series.def.key)) {
            // A dropped series that a snapshot contains has files, but does not count as a series.
            totals.bytes += series.file_bytes();
            totals.chunks += series.chunks.len() as u64;
            if series.dropped_commit.is_none() {
                totals.series += 1;
                totals.rows += series.rows;
                totals.tail_rows += series.tail_rows();
            }
        }
        let (found, next_cursor) = page::select(&state, filter, &self.caller)?;
        let mut rows = Vec::with_capacity(found.len());
        for series in &found {
            let ratio = self.coverage_ratio(&state, series);
            let mut row = inventory_row(series, ratio, self.store.garbage_bytes(series.id));
            if filter.months {
                row.months = Some(months::of(series, self.store.cache())?);
            }
            rows.push(row);
        }
        Ok(Inventory { commit: state.commit, totals, series: rows, next_cursor })
    }

    /// Entity tag of the inventory, without quotes.
    pub fn inventory_etag(&self) -> Result<String> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        // Callers limited to other series see another inventory. A snapshot becomes visible to them when its dataset is
        // created, which is not a commit.
        let limits = if self.caller.is_limited() {
            let prefixes = xxh3_64(self.caller.prefixes.join("\n").as_bytes());
            format!("-{prefixes:016x}.{}", self.visible_snapshots(&state))
        } else {
            String::new()
        };
        Ok(format!("{}-{}-{}{limits}", self.store.epoch(), state.commit, state.edit))
    }
}

fn inventory_row(series: &SeriesState, coverage_ratio: Option<f64>, garbage_bytes: u64) -> InventoryRow {
    let last_write_at = (series.last_write_ms > 0).then(|| rfc3339(series.last_write_ms));
    InventoryRow {
        series: series.def.key.clone(),
        rows: series.rows,
        bytes: series.file_bytes(),
        garbage_bytes,
        chunks: series.chunks.len() as u64,
        tail_rows: series.tail_rows(),
        unit: series.def.unit,
        first_ts: series.bounds.map(|(first, _)| first),
        last_ts: series.bounds.map(|(_, last)| last),
        coverage_ratio,
        version: series.version,
        last_write_at,
        months: None,
    }
}
