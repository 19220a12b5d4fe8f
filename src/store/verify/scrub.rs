//! Scrubbing: a check that also puts sidecars in order.

use super::super::Watch;
use super::finding::{FindingKind, VerifyReport};
use crate::disk;
use crate::error::Result;
use crate::store::Inner;
use crate::store::sidecar::SidecarReport;

impl Inner {
    /// Checks everything; writes sidecars anew that are damaged, missing or stale unless `dry_run`.
    pub fn scrub(&self, dry_run: bool, watch: &Watch) -> Result<VerifyReport> {
        let mut report = self.verify(watch)?;
        if dry_run {
            return Ok(report);
        }
        let mut position = 0;
        while let Some(finding) = report.findings.get(position) {
            watch.check()?;
            let ours = matches!(
                finding.kind,
                FindingKind::DamagedSidecar | FindingKind::MissingSidecar | FindingKind::StaleSidecar
            );
            let (Some(series_id), Some(chunk_id), true) = (finding.series_id, finding.file_id, ours) else {
                position += 1;
                continue;
            };
            match self.rebuild(series_id, chunk_id, &finding.file, finding.kind == FindingKind::DamagedSidecar) {
                Ok(()) => report.set_rebuilt(position),
                Err(error) => {
                    // A sidecar of a damaged chunk cannot be made; the chunk is a finding of its own.
                    tracing::warn!(file = finding.file, %error, "a sidecar could not be written anew");
                    position += 1;
                }
            }
        }
        Ok(report)
    }

    fn rebuild(&self, series_id: u64, chunk_id: u64, file: &str, damaged: bool) -> Result<()> {
        let state = self.queue.published();
        let chunk = state
            .series
            .get(&series_id)
            .and_then(|series| Some((series, series.chunks.iter().find(|chunk| chunk.record.id == chunk_id)?)));
        // A chunk that was replaced meanwhile took its sidecars with it.
        let Some((series, chunk)) = chunk else { return Ok(()) };
        if damaged {
            // Not every damage shows without the rows: without the file a new one is written for certain.
            let open = chunk.open_uncached()?;
            (0..open.blocks().len()).try_for_each(|block| open.verify(block).map(|_| ()))?;
            disk::remove(&self.root.join(file))?;
        }
        self.rebuild_chunk(series, chunk, &mut SidecarReport::default())
    }
}
