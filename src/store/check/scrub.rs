//! Scrubbing: a check that also puts sidecars in order.

use std::collections::BTreeSet;

use crate::disk;
use crate::error::Result;
use crate::store::check::verify::finding::{Finding, FindingKind, VerifyReport};
use crate::store::facade::StoreInner;
use crate::store::read::sidecar::{SidecarReport, is_stale, value_index_path};
use crate::store::task_control::TaskControl;

impl StoreInner {
    /// Checks everything; writes sidecars anew that are damaged, missing or stale unless `dry_run`.
    pub fn scrub(&self, dry_run: bool, watch: &TaskControl) -> Result<VerifyReport> {
        let mut report = self.verify(watch)?;
        if dry_run {
            return Ok(report);
        }
        self.add_stale(&mut report, watch)?;
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

    /// Value indexes of other columns than the registrations ask for. A check beside a writer leaves them out, since the
    /// registration may be newer than what it read; here the state is known.
    fn add_stale(&self, report: &mut VerifyReport, watch: &TaskControl) -> Result<()> {
        let state = self.queue.published();
        let known: BTreeSet<u64> = report.findings.iter().filter_map(|finding| finding.file_id).collect();
        for series in state.series.values() {
            for chunk in series.chunks.iter().filter(|chunk| !known.contains(&chunk.record.id)) {
                watch.check()?;
                // A chunk that cannot be opened is a finding of its own.
                let Ok(open) = chunk.open_uncached() else { continue };
                if !is_stale(&open, chunk.path(), &series.def) {
                    continue;
                }
                let path = value_index_path(chunk.path());
                let file = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
                let finding =
                    Finding::new(FindingKind::StaleSidecar, file, "the registration asks for other columns now");
                let mut finding = finding.file_id(chunk.record.id);
                finding.series = Some(series.def.key.to_string());
                finding.series_id = Some(series.id);
                report.add(finding);
            }
        }
        Ok(())
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
