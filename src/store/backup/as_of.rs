//! A store as a named snapshot shows it, as a manifest of its own.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorCode, Result};
use crate::format::manifest::{SeriesRecord, SnapshotRecord};
use crate::store::manifest::edits::Contents;
use crate::store::read::tombstone::has_snapshot_between;

/// What the manifest would say had the store ended at the commit of a snapshot. Run and receipt files still have what
/// came later.
pub fn as_of(contents: &Contents, name: &str) -> Result<Contents> {
    let commit = snapshot(contents, name)?.commit;
    let mut then = contents.clone();
    then.base_commit = commit;
    then.snapshots.retain(|_, snapshot| snapshot.commit <= commit);
    then.kinds.retain(|_, kind| kind.commit <= commit);
    let mut snapshot_commits: Vec<u64> = then.snapshots.values().map(|snapshot| snapshot.commit).collect();
    snapshot_commits.sort_unstable();
    then.series = contents
        .series
        .values()
        .filter_map(|series| series_as_of(series, commit, &snapshot_commits).transpose())
        .map(|series| series.map(|series| (series.id, series)))
        .collect::<Result<_>>()?;
    let series: BTreeSet<u64> = then.series.keys().copied().collect();
    then.chunks.retain(|_, chunk| chunk.commit_hi <= commit && series.contains(&chunk.series_id));
    then.tombstones.retain(|(series_id, at, ..)| *at <= commit && series.contains(series_id));
    Ok(then)
}

fn snapshot<'a>(contents: &'a Contents, name: &str) -> Result<&'a SnapshotRecord> {
    contents.snapshots.get(name).ok_or_else(|| {
        let names: Vec<&str> = contents.snapshots.keys().map(String::as_str).collect();
        let hint = match names.as_slice() {
            [] => "it has no snapshots".to_owned(),
            names => format!("it has {}", names.join(", ")),
        };
        Error::new(ErrorCode::SnapshotNotFound, format!("the backup has no snapshot {name:?}")).with_hint(hint)
    })
}

/// A series at a commit; `None` when neither the store nor a snapshot of then shows it.
fn series_as_of(series: &SeriesRecord, commit: u64, snapshot_commits: &[u64]) -> Result<Option<SeriesRecord>> {
    let dropped = series.dropped_commit > 0 && series.dropped_commit <= commit;
    if series.created_commit > commit
        || (dropped && !has_snapshot_between(snapshot_commits, series.created_commit, series.dropped_commit))
    {
        return Ok(None);
    }
    let mut then = series.clone();
    then.dropped_commit = if dropped { series.dropped_commit } else { 0 };
    then.sealed_commit = series.sealed_commit.min(commit);
    if series.last_commit <= commit {
        return Ok(Some(then));
    }
    let view = series.views.iter().find(|view| view.last_commit <= commit && commit <= view.commit);
    let view = view.ok_or_else(|| {
        Error::corrupt(format!("the manifest does not have the state of series {} at commit {commit}", series.id))
    })?;
    if !view.def.is_empty() {
        then.def.clone_from(&view.def);
    }
    (then.version, then.rows, then.last_commit) = (view.version, view.rows, view.last_commit);
    (then.first_ts, then.last_ts) = (view.first_ts, view.last_ts);
    // Views of earlier snapshots. An empty registration in a view is that of the series, which is replaced here: the
    // view then gets the registration of the series.
    then.views.retain(|earlier| earlier.commit < view.last_commit);
    for earlier in &mut then.views {
        if earlier.def.is_empty() && then.def != series.def {
            earlier.def.clone_from(&series.def);
        }
    }
    Ok(Some(then))
}
