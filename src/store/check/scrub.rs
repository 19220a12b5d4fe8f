//! Scrubbing: a check that also rebuilds sidecars.

use std::collections::BTreeSet;

use crate::disk::{self, DiskPath};
use crate::error::Result;
use crate::store::check::verify::finding::{Finding, FindingKind, VerifyReport};
use crate::store::check::verify::run::verify_open;
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::sidecars::{SidecarReport, is_stale};
use crate::store::read::sidecar::value_index_path;
use crate::store::task_control::TaskControl;

/// Checks everything; rewrites sidecars that are damaged, missing or stale unless `dry_run`.
pub fn scrub(root: &DiskPath, maintenance: &Maintenance, dry_run: bool, control: &TaskControl) -> Result<VerifyReport> {
    let mut report = verify_open(root, &maintenance.wal, control)?;
    if dry_run {
        return Ok(report);
    }
    add_stale(root, maintenance, &mut report, control)?;
    let mut position = 0;
    while let Some(finding) = report.findings.get(position) {
        control.check()?;
        let is_sidecar = matches!(
            finding.kind,
            FindingKind::DamagedSidecar | FindingKind::MissingSidecar | FindingKind::StaleSidecar
        );
        let (Some(series_id), Some(chunk_id), true) = (finding.series_id, finding.file_id, is_sidecar) else {
            position += 1;
            continue;
        };
        match rebuild(
            root,
            maintenance,
            series_id,
            chunk_id,
            &finding.file,
            finding.kind == FindingKind::DamagedSidecar,
        ) {
            Ok(()) => report.set_rebuilt(position),
            Err(error) => {
                // A sidecar of a damaged chunk cannot be made; the chunk is a finding of its own.
                tracing::warn!(file = finding.file, %error, "a sidecar could not be rewritten");
                position += 1;
            }
        }
    }
    Ok(report)
}

/// Value indexes of other columns than the registrations require. A check without the store leaves them out, since the
/// registration may be newer than what it read; here the state is known.
fn add_stale(
    root: &DiskPath,
    maintenance: &Maintenance,
    report: &mut VerifyReport,
    control: &TaskControl,
) -> Result<()> {
    let state = maintenance.wal.queue.published();
    let known: BTreeSet<u64> = report.findings.iter().filter_map(|finding| finding.file_id).collect();
    for series in state.series.values() {
        for chunk in series.chunks.iter().filter(|chunk| !known.contains(&chunk.record.id)) {
            control.check()?;
            // A chunk that cannot be opened is a finding of its own.
            let Ok(open) = chunk.open_uncached() else { continue };
            if !is_stale(&open, chunk.path(), &series.def) {
                continue;
            }
            let path = value_index_path(chunk.path());
            let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            let finding = Finding::new(FindingKind::StaleSidecar, file, "the registration now requires other columns");
            let mut finding = finding.file_id(chunk.record.id);
            finding.series = Some(series.def.key.to_string());
            finding.series_id = Some(series.id);
            report.add(finding);
        }
    }
    Ok(())
}

fn rebuild(
    root: &DiskPath,
    maintenance: &Maintenance,
    series_id: u64,
    chunk_id: u64,
    file: &str,
    damaged: bool,
) -> Result<()> {
    let state = maintenance.wal.queue.published();
    let chunk = state
        .series
        .get(&series_id)
        .and_then(|series| Some((series, series.chunks.iter().find(|chunk| chunk.record.id == chunk_id)?)));
    // A chunk that was replaced since the check no longer has sidecars.
    let Some((series, chunk)) = chunk else { return Ok(()) };
    if damaged {
        // Not every damage shows without the rows: without the file a new one is written for certain.
        let open = chunk.open_uncached()?;
        (0..open.blocks().len()).try_for_each(|block| open.verify(block).map(|_| ()))?;
        disk::remove(&root.join(file))?;
    }
    maintenance.rebuild_sidecars_of(series, chunk, &mut SidecarReport::default())
}
