//! What maintenance changes in a state: where rows are, never which rows a reader sees.

use std::sync::Arc;

use crate::store::read::chunk::ChunkFile;

use crate::store::read::run::Run;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::StoreState;

/// A change of a state that carries no rows of its own: what maintenance does.
#[derive(Clone, Debug)]
pub enum Structural {
    /// Work on the runs of these series begins: they are not merged with newer runs.
    Freeze(Arc<Vec<SeriesId>>),
    /// The work failed: frozen runs are ordinary runs again.
    Thaw(Arc<Vec<SeriesId>>),
    /// Chunks replace chunks, and the filed and frozen runs where `sealed_commit` is set.
    Chunks { parts: Arc<Vec<NewChunks>>, edit: u64 },
    /// Runs of a file replace the frozen runs, or those of other files.
    Filed { runs: Arc<Vec<(SeriesId, Vec<Arc<Run>>)>>, replaced: Arc<Vec<u64>>, edit: u64 },
    /// Removes receipts older than this time: a retry of their writes is a new write.
    Forget { before_ms: i64 },
}

/// One series' part of a publication of chunks.
#[derive(Clone, Debug)]
pub struct NewChunks {
    pub series_id: SeriesId,
    pub added: Vec<Arc<ChunkFile>>,
    pub removed: Vec<u64>,
    /// Rows of commits up to this one are in chunks now; `None` for a compaction, which leaves the tail alone.
    pub sealed_commit: Option<u64>,
}

impl Structural {
    /// Applies the change; rows seen by a reader stay the same.
    pub fn apply(&self, state: &mut StoreState) {
        let change = |state: &mut StoreState, id: SeriesId, change: &dyn Fn(&mut SeriesState)| {
            if let Some(series) = state.series.get(&id) {
                let mut next = series.as_ref().clone();
                change(&mut next);
                state.series.insert(id, Arc::new(next));
            }
        };
        match self {
            Structural::Freeze(ids) => {
                for id in ids.iter() {
                    change(state, *id, &|series| {
                        let runs = std::mem::take(&mut series.runs);
                        series.frozen.extend(runs);
                    });
                }
            }
            Structural::Thaw(ids) => {
                for id in ids.iter() {
                    change(state, *id, &|series| {
                        let runs = std::mem::take(&mut series.runs);
                        series.runs = std::mem::take(&mut series.frozen);
                        series.runs.extend(runs);
                    });
                }
            }
            Structural::Chunks { parts, edit } => {
                state.edit = state.edit.max(*edit);
                for part in parts.iter() {
                    change(state, part.series_id, &|series| {
                        if let Some(commit) = part.sealed_commit {
                            series.filed.clear();
                            series.frozen.clear();
                            series.sealed_commit = series.sealed_commit.max(commit);
                        }
                        let kept = series.chunks.iter().filter(|c| !part.removed.contains(&c.record.id));
                        series.chunks = Arc::new(kept.chain(&part.added).cloned().collect());
                        series.tombstones = Arc::new(series.needed_tombstones());
                    });
                }
            }
            Structural::Filed { runs, replaced, edit } => {
                state.edit = state.edit.max(*edit);
                for (id, runs) in runs.iter() {
                    change(state, *id, &|series| {
                        if replaced.is_empty() {
                            series.frozen.clear();
                        }
                        series.filed.retain(|run| run.file.is_none_or(|file| !replaced.contains(&file)));
                        series.filed.extend(runs.iter().cloned());
                        series.filed.sort_by_key(|run| run.commit_lo);
                    });
                }
            }
            Structural::Forget { before_ms } => {
                state.receipts.retain(|_, receipt| receipt.wall_ms >= *before_ms);
            }
        }
    }
}
