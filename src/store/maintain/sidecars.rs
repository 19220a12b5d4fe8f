//! Rebuilding sidecars that are missing, damaged or no longer what the registration requires.

use std::sync::Arc;

use crate::disk::StagedFile;
use crate::error::Result;
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::sidecars::{SidecarReport, rebuild_unusable, replace};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::coverage;
use crate::store::read::series_state::SeriesState;
use crate::store::read::sidecar::coverage_path;

impl Maintenance {
    /// Checks every sidecar of every chunk and writes those that are missing, damaged or no longer what the
    /// registration requires.
    pub fn rebuild_sidecars(&self) -> Result<SidecarReport> {
        let state = self.wal.queue.published();
        let mut report = SidecarReport::default();
        self.reads.cache.sidecar_requests.take();
        for series in state.series.values() {
            for chunk in series.chunks.iter() {
                self.rebuild_sidecars_of(series, chunk, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Rebuilds the sidecars of the chunks that readers found without a usable one since the last call.
    pub fn rebuild_requested(&self) -> Result<SidecarReport> {
        let mut report = SidecarReport::default();
        let requests = self.reads.cache.sidecar_requests.take();
        if requests.is_empty() {
            return Ok(report);
        }
        let state = self.wal.queue.published();
        for (series_id, chunk_id) in requests {
            let Some(series) = state.series.get(&series_id) else { continue };
            if let Some(chunk) = series.chunks.iter().find(|chunk| chunk.record.id == chunk_id) {
                self.rebuild_sidecars_of(series, chunk, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Rebuilds the sidecars of one chunk under the maintenance lock. Readers continue with the files they have open.
    pub fn rebuild_sidecars_of(
        &self,
        series: &SeriesState,
        chunk: &Arc<ChunkFile>,
        report: &mut SidecarReport,
    ) -> Result<()> {
        let _lock = self.publisher.lock();
        report.chunks_checked += 1;
        let open = chunk.open_uncached()?;
        let before = *report;
        let tmp = self.root.join("tmp");
        self.wal.queue.stop_on_panic(|| rebuild_unusable(&open, chunk.path(), &tmp, &series.def, report))?;
        if !coverage::has_coverage(series, chunk) {
            let mut staged = StagedFile::create(&tmp)?;
            if let Some(coverage) = coverage::from_rows(series, &open)? {
                staged.put(&coverage.encode())?;
                replace(staged, &coverage_path(chunk.path()))?;
                report.rebuilt += 1;
            }
        }
        if *report != before {
            tracing::info!(chunk = chunk.name(), "sidecars were rebuilt");
            chunk.close();
        }
        Ok(())
    }
}
