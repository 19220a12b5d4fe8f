//! Replay: the commits of the log, applied oldest first to what the manifest says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::Result;
use crate::format::wal::{Commit, LoggedChange};

use crate::store::manifest::edits::Contents;
use crate::store::open::covered::CoveredCommits;
use crate::store::read::retained_commits::ReplayedCommits;
use crate::store::read::run::Run;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::{RegisteredKind, Snapshot, StoreState};
use crate::store::registration::{parse_def, parse_kind};
use crate::types::{OrderRule, Rows};

/// Rows of one series that were read from the log one after the other and are not yet a run: as many as follow each
/// other in time with nothing between them, so that rows written one at a time are not merged one at a time again.
#[derive(Debug)]
pub struct UnsortedRows {
    rows: Rows,
    commit_lo: u64,
    commit_hi: u64,
}

/// Most rows buffered for a series.
const UNSORTED_ROWS_MAX: usize = 65_536;

/// Applies logged commits, oldest first.
pub struct Replay<'a> {
    pub state: &'a mut StoreState,
    pub contents: &'a Contents,
    pub next_series_id: u64,
    pub unsorted: HashMap<SeriesId, UnsortedRows>,
    /// Snapshots that were made, by name and commit, whether or not they were dropped again.
    pub snapshots_seen: BTreeSet<(String, u64)>,
    /// Series that no file names, and the commits of their changes.
    pub unknown: BTreeMap<SeriesId, Vec<u64>>,
    /// Where the manifest is lost: rows that chunks have.
    pub covered: Option<CoveredCommits>,
    pub replayed: ReplayedCommits,
}

impl Replay<'_> {
    /// Keeps the state as it is now.
    pub fn keep(&mut self) {
        self.build_all_runs();
        self.replayed.states.push(Arc::new(self.state.clone()));
    }

    /// Makes a run of the buffered rows of a series.
    pub fn build_run(&mut self, id: SeriesId) {
        let Some(UnsortedRows { rows, commit_lo, commit_hi }) = self.unsorted.remove(&id) else { return };
        let snapshot_commits = Arc::clone(&self.state.snapshot_commits);
        let Some(series) = self.state.series.get_mut(&id) else { return };
        if let Some(run) = Run::new(&series.def, rows, commit_lo, commit_hi) {
            Arc::make_mut(series).push_run(run, &snapshot_commits);
        }
    }

    pub fn build_all_runs(&mut self) {
        let ids: Vec<SeriesId> = self.unsorted.keys().copied().collect();
        ids.into_iter().for_each(|id| self.build_run(id));
    }

    fn write(&mut self, id: SeriesId, rows: Rows, replaced: u64, number: u64, wall_ms: i64) {
        let snapshot_commits = Arc::clone(&self.state.snapshot_commits);
        let arrival = self.state.series.get(&id).is_some_and(|series| series.def.order == OrderRule::Arrival);
        let follows = self.unsorted.get(&id).is_some_and(|unsorted| {
            let (last, first) = (unsorted.rows.ts.last(), rows.ts.first());
            (last < first || arrival && last == first) && unsorted.rows.len() + rows.len() <= UNSORTED_ROWS_MAX
        });
        if !follows {
            self.build_run(id);
        }
        if let Some(series) = self.state.series.get_mut(&id) {
            Arc::make_mut(series).count_rows_written(&rows, replaced, number, wall_ms, &snapshot_commits);
        }
        if rows.is_empty() {
            // Its rows are in chunks or run files.
            return;
        }
        match self.unsorted.get_mut(&id) {
            Some(unsorted) => {
                unsorted.commit_hi = number;
                unsorted.rows.append(rows);
            }
            None => {
                self.unsorted.insert(id, UnsortedRows { rows, commit_lo: number, commit_hi: number });
            }
        }
    }

    /// Applies a commit unless chunks hold it already.
    pub fn commit(&mut self, number: u64, commit: Commit) -> Result<()> {
        self.state.commit = self.state.commit.max(number);
        if let Some(receipt) = commit.receipt {
            self.state.receipts.insert(receipt.key, Arc::new(receipt));
        }
        for operation in commit.operations {
            let id = match &operation {
                LoggedChange::Write { series_id, .. }
                | LoggedChange::Delete { series_id, .. }
                | LoggedChange::Register { series_id, .. }
                | LoggedChange::Drop { series_id } => *series_id,
                LoggedChange::CreateSnapshot { name } => {
                    // Rows before and after it stay apart.
                    self.build_all_runs();
                    let snapshot = Snapshot { commit: number, created_ms: commit.wall_ms };
                    self.snapshots_seen.insert((name.clone(), number));
                    self.state.create_snapshot(name.clone(), snapshot);
                    continue;
                }
                LoggedChange::DropSnapshot { name } => {
                    self.build_all_runs();
                    self.state.drop_snapshot(name, number);
                    continue;
                }
                LoggedChange::RegisterKind { def } => {
                    let def = parse_kind(def)?;
                    self.state.kinds.insert(def.name.clone(), RegisteredKind { def, commit: number });
                    continue;
                }
                LoggedChange::DropKind { name } => {
                    self.state.kinds.remove(name);
                    continue;
                }
            };
            self.next_series_id = self.next_series_id.max(id + 1);
            if !matches!(operation, LoggedChange::Write { .. }) {
                self.replayed.rewritten.insert(id, number);
            }
            if matches!(operation, LoggedChange::Drop { .. }) {
                self.replayed.dropped = number;
            }
            if let LoggedChange::Write { texts, .. } = &operation
                && let Some(series) = self.state.series.get_mut(&id).filter(|_| !texts.is_empty())
            {
                let dictionaries = Arc::make_mut(&mut Arc::make_mut(series).dictionaries);
                if texts.iter().try_for_each(|texts| texts.add_to(dictionaries)).is_err() {
                    // The frame with the texts before them is lost, and without these its own mean nothing.
                    self.unknown.entry(id).or_default().push(number);
                    continue;
                }
            }
            let known = self.state.series.get(&id).map(|series| series.sealed_commit);
            if known.is_some_and(|sealed_commit| number <= sealed_commit) {
                continue;
            }
            match (operation, known) {
                (LoggedChange::Register { def, .. }, None) => {
                    // A series the manifest once knew and no longer does was dropped; ids are never used twice.
                    self.state.put(SeriesState::new(id, parse_def(&def)?, number));
                }
                (LoggedChange::Write { rows, .. }, Some(_)) if !self.are_of_series(id, &rows) => {
                    // The change of columns before it is lost: the cells cannot be read.
                    self.unknown.entry(id).or_default().push(number);
                }
                (LoggedChange::Write { replaced, mut rows, .. }, Some(_)) => {
                    if let (Some(covered), Some(series)) = (&mut self.covered, self.state.series.get(&id)) {
                        rows = covered.remaining(series, rows, number);
                    }
                    self.write(id, rows, replaced, number, commit.wall_ms);
                }
                (other, Some(_)) => {
                    self.build_run(id);
                    self.change(id, other, number, commit.wall_ms)?;
                }
                // The manifest never knew it, and its registration is not in the log.
                (_, None) if id >= self.contents.next_series_id => self.unknown.entry(id).or_default().push(number),
                // Rows of a series that a later commit dropped, with the drop already in the manifest.
                (_, None) => {
                    let base = self.contents.base_commit;
                    tracing::debug!(id, number, base, "a logged change has no series");
                }
            }
        }
        Ok(())
    }

    /// Whether rows have the columns that the series has at this commit.
    fn are_of_series(&self, id: SeriesId, rows: &Rows) -> bool {
        self.state.series.get(&id).is_some_and(|series| rows.check_columns(&series.def.columns).is_ok())
    }

    /// Applies a change of an existing series, other than a write.
    fn change(&mut self, id: SeriesId, operation: LoggedChange, number: u64, wall_ms: i64) -> Result<()> {
        let snapshot_commits = Arc::clone(&self.state.snapshot_commits);
        let Some(series) = self.state.series.get(&id).cloned() else { return Ok(()) };
        match operation {
            LoggedChange::Register { def, .. } => {
                let mut next = series.touched(number, &snapshot_commits);
                next.set_def(parse_def(&def)?);
                self.state.put(next);
            }
            LoggedChange::Delete { start, end, deleted, left, .. } => {
                // Chunks may be ahead of the log, so nothing is read here: what was left is in the log.
                let mut next = series.without_range((start, end), deleted, number, wall_ms, &snapshot_commits);
                next.bounds = left;
                self.state.put(next);
            }
            LoggedChange::Drop { .. } => {
                self.state.drop_series(id, number);
            }
            LoggedChange::Write { .. }
            | LoggedChange::CreateSnapshot { .. }
            | LoggedChange::DropSnapshot { .. }
            | LoggedChange::RegisterKind { .. }
            | LoggedChange::DropKind { .. } => {}
        }
        Ok(())
    }
}
