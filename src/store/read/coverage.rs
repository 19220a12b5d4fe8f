//! Presence: where one series has rows, at one state, without looking at the rows.
//!
//! Every chunk brings its coverage (a bitmap of the buckets with a row at their start, and the timestamps of the other
//! rows), every run of the tail is read. A tombstone removes exactly the bits and timestamps inside its range, so
//! the union over all sources is exact under deletes. The union over the chunks of a series is cached for the next
//! request, within a bound of bytes.

use std::sync::Arc;

use crate::disk;
use crate::error::{Error, Result};
use crate::format::coverage::Coverage;
use crate::store::read::chunk::{ChunkFile, MapCache, OpenChunk};
use crate::store::read::merge_source::{MergeSource, hidden_ranges};
use crate::store::read::presence::{Origin, Presence};
use crate::store::read::series_state::SeriesState;
use crate::store::read::sidecar::coverage_path;
use crate::types::{Grid, TimeUnit};

impl SeriesState {
    /// The grid of the series at this state.
    ///
    /// # Errors
    /// `invalid_argument` when its intervals have no length.
    pub fn grid(&self) -> Result<Grid> {
        Grid::of(&self.def, self.bounds.map(|(first, _)| first))
    }

    /// Where the series has rows. Costs the chunks when they changed since the last question, else the tail.
    pub fn presence(&self, cache: &MapCache) -> Result<Arc<Presence>> {
        let grid = self.grid()?;
        let origin = Origin::new(&self.chunks, &self.tombstones);
        let sealed = match cache.presence.get(self.id, &origin, grid) {
            Some(sealed) => sealed,
            None => {
                let sealed = Arc::new(self.sealed_presence(cache, grid)?);
                cache.presence.keep(self.id, origin, &sealed);
                sealed
            }
        };
        if self.tail().next().is_none() {
            return Ok(sealed);
        }
        let mut all = sealed.as_ref().clone();
        for run in self.tail() {
            let mut found = Coverage::new(0, grid);
            found.add(run.timestamps());
            all.add(&found, &hidden_ranges(&MergeSource::Run(Arc::clone(run)), &self.tombstones, i64::MIN, i64::MAX));
        }
        all.sort_off_grid();
        Ok(Arc::new(all))
    }

    fn sealed_presence(&self, cache: &MapCache, grid: Grid) -> Result<Presence> {
        let mut all = Presence::empty(grid);
        for chunk in self.chunks.iter() {
            let found = of_chunk(chunk, grid, cache, self.def.unit)?;
            all.add(
                &found,
                &hidden_ranges(&MergeSource::Chunk(Arc::clone(chunk)), &self.tombstones, i64::MIN, i64::MAX),
            );
        }
        all.sort_off_grid();
        all.aligned.optimize();
        Ok(all)
    }
}

/// Coverage of a chunk: as it was worked out before, from its sidecar, or from its timestamps.
fn of_chunk(chunk: &Arc<ChunkFile>, grid: Grid, cache: &MapCache, unit: TimeUnit) -> Result<Arc<Coverage>> {
    if let Some(known) = chunk.opened().and_then(|open| open.coverage.load_full()).filter(|known| known.grid == grid) {
        return Ok(known);
    }
    match read_sidecar(chunk, unit) {
        Ok(found) if found.grid == grid => {
            let found = Arc::new(found);
            if let Some(open) = chunk.opened() {
                open.coverage.store(Some(Arc::clone(&found)));
            }
            return Ok(found);
        }
        Ok(_) => tracing::debug!(chunk = chunk.record.id, "coverage for another grid is recomputed"),
        Err(error) => tracing::warn!(%error, "coverage of a chunk is recomputed"),
    }
    let open = chunk.open(cache)?;
    let found = Arc::new(count_rows(&open, grid)?);
    open.coverage.store(Some(Arc::clone(&found)));
    cache.sidecar_requests.add_chunk(chunk.record.series_id, chunk.record.id);
    Ok(found)
}

fn count_rows(open: &OpenChunk, grid: Grid) -> Result<Coverage> {
    let mut found = Coverage::new(open.meta.chunk_id, grid);
    found.footer_crc = open.footer_crc();
    for position in 0..open.blocks().len() {
        found.add(open.timestamps(position)?.typed_data::<i64>());
    }
    found.optimize();
    Ok(found)
}

/// Coverage of an open chunk from its rows; `None` when the series has no grid.
pub fn from_rows(series: &SeriesState, open: &OpenChunk) -> Result<Option<Coverage>> {
    series.grid().ok().map(|grid| count_rows(open, grid)).transpose()
}

/// Whether a chunk has the coverage that its series needs, if any.
pub fn has_coverage(series: &SeriesState, chunk: &ChunkFile) -> bool {
    let Ok(grid) = series.grid() else { return true };
    read_sidecar(chunk, series.def.unit).is_ok_and(|found| found.grid == grid)
}

fn read_sidecar(chunk: &ChunkFile, unit: TimeUnit) -> Result<Coverage> {
    let path = coverage_path(chunk.path());
    let found = Coverage::decode(&disk::read(&path)?, unit)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))?;
    let record = &chunk.record;
    if found.chunk_id != record.id || found.footer_crc != record.footer_crc || found.rows() != record.rows {
        return Err(Error::corrupt(format!("{} belongs to another chunk", path.display())));
    }
    Ok(found)
}
