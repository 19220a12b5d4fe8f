//! What a reader sees: an immutable [`StoreState`] of the entire store at one commit.
//!
//! States share everything that did not change (persistent maps, shared runs and chunks), so making the next one
//! costs the logarithm of the number of series, and taking one costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::HashMap;
use imbl::OrdMap;

use crate::error::{Error, Result};
use crate::format::receipt::Receipt;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::types::kind::{built_in_named, kind_not_found};
use crate::types::{KindDef, SeriesDef, SeriesKey};

/// The store at one commit.
#[derive(Clone, Debug, Default)]
pub struct StoreState {
    pub commit: u64,
    /// Number of the last manifest edit.
    pub edit: u64,
    pub series: OrdMap<SeriesId, Arc<SeriesState>>,
    pub keys: OrdMap<SeriesKey, SeriesId>,
    /// Writes done under an idempotency key, by the hash of the key.
    pub receipts: HashMap<u128, Arc<Receipt>>,
    /// Named views, by name.
    pub snapshots: OrdMap<String, Snapshot>,
    /// Ascending commits of the snapshots: rows on both sides of one are never merged.
    pub snapshot_commits: Arc<Vec<u64>>,
    /// Registered kinds of series, by name.
    pub kinds: OrdMap<String, RegisteredKind>,
    /// Whether existing series are left out: such a state serves one read and is not retained.
    pub is_partial: bool,
}

/// A registered kind of series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredKind {
    pub def: Arc<KindDef>,
    /// Commit of the registration.
    pub commit: u64,
}

/// A named view of the store at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub commit: u64,
    /// Wall clock in milliseconds; for display only.
    pub created_ms: i64,
}

impl StoreState {
    /// The series of this key.
    pub fn get(&self, key: &SeriesKey) -> Option<&Arc<SeriesState>> {
        self.series.get(self.keys.get(key)?)
    }

    /// Sets or replaces a series. During replay a dropped series and its successor of the same key can both exist:
    /// the key means the younger one.
    pub fn put(&mut self, series: SeriesState) {
        if series.dropped_commit.is_none() && self.keys.get(&series.def.key).is_none_or(|id| *id < series.id) {
            self.keys.insert(series.def.key.clone(), series.id);
        }
        self.series.insert(series.id, Arc::new(series));
    }

    /// Whether this very state of a series is in here.
    pub fn has(&self, series: &Arc<SeriesState>) -> bool {
        self.series.get(&series.id).is_some_and(|own| Arc::ptr_eq(own, series))
    }

    /// Sets a later state of a series that is in here under the same key.
    pub fn replace(&mut self, series: SeriesState) {
        self.series.insert(series.id, Arc::new(series));
    }

    /// Removes a series.
    pub fn remove(&mut self, id: SeriesId) -> Option<Arc<SeriesState>> {
        let series = self.series.remove(&id)?;
        if self.keys.get(&series.def.key) == Some(&id) {
            self.keys.remove(&series.def.key);
        }
        Some(series)
    }

    /// Every registered series; `series` also holds dropped ones that a snapshot still shows.
    pub fn registered(&self) -> impl Iterator<Item = &Arc<SeriesState>> {
        self.series.values().filter(|series| series.dropped_commit.is_none())
    }

    /// Drops a series at a commit. It stays hidden while a snapshot needs it; else it is returned.
    pub fn drop_series(&mut self, id: SeriesId, commit: u64) -> Option<Arc<SeriesState>> {
        let series = self.remove(id)?;
        let mut next = series.touched(commit, &self.snapshot_commits);
        next.dropped_commit = Some(commit);
        if next.is_reachable(&self.snapshot_commits) {
            self.series.insert(id, Arc::new(next));
            return None;
        }
        Some(series)
    }

    /// Adds a named view at a commit.
    pub fn create_snapshot(&mut self, name: String, snapshot: Snapshot) {
        self.snapshots.insert(name, snapshot);
        self.set_snapshot_commits();
    }

    /// Removes a named view at a commit. Returns the series dropped by then that nothing shows any more; they are
    /// removed from the state. Replay can know of series that are dropped later: a snapshot in between may show them.
    pub fn drop_snapshot(&mut self, name: &str, commit: u64) -> Vec<Arc<SeriesState>> {
        self.snapshots.remove(name);
        self.set_snapshot_commits();
        let gone = |series: &&Arc<SeriesState>| {
            let dropped = series.dropped_commit.is_some_and(|dropped| dropped <= commit);
            dropped && !series.is_reachable(&self.snapshot_commits)
        };
        let gone: Vec<SeriesId> = self.series.values().filter(gone).map(|series| series.id).collect();
        gone.into_iter().filter_map(|id| self.series.remove(&id)).collect()
    }

    /// Checks that the kind of a series that is to be registered exists, and defines it so.
    ///
    /// # Errors
    /// `not_found`, `kind_exists`.
    pub fn check_kind(&self, def: &SeriesDef) -> Result<()> {
        if built_in_named(def.kind()).is_some() {
            return Ok(());
        }
        let known = self.kinds.get(def.kind());
        known.ok_or_else(|| self.kind_not_found(def.kind()))?.def.check_series(def)
    }

    /// The error for a kind that is not registered.
    pub fn kind_not_found(&self, name: &str) -> Error {
        kind_not_found(name, self.kinds.keys().map(String::as_str))
    }

    /// Adds kinds of which only series are known, as far as they tell. Returns their names.
    pub fn add_kinds_of_series(&mut self) -> Vec<String> {
        let mut unknown: BTreeMap<String, Vec<Arc<SeriesState>>> = BTreeMap::new();
        for series in self.series.values() {
            let name = series.def.kind();
            if built_in_named(name).is_none() && !self.kinds.contains_key(name) {
                unknown.entry(name.to_owned()).or_default().push(Arc::clone(series));
            }
        }
        for (name, series) in &unknown {
            let commit = series.iter().map(|series| series.created_commit).min().unwrap_or_default();
            let def = KindDef::of_series(series.iter().map(|series| series.def.as_ref()));
            if let Some(def) = def {
                self.kinds.insert(name.clone(), RegisteredKind { def: Arc::new(def), commit });
            }
        }
        unknown.into_keys().collect()
    }

    fn set_snapshot_commits(&mut self) {
        let mut snapshot_commits: Vec<u64> = self.snapshots.values().map(|snapshot| snapshot.commit).collect();
        snapshot_commits.sort_unstable();
        self.snapshot_commits = Arc::new(snapshot_commits);
    }

    /// The store as it was at the commit of an existing snapshot.
    pub fn as_of(&self, commit: u64) -> StoreState {
        let mut view = StoreState { commit, edit: self.edit, ..StoreState::default() };
        for series in self.series.values().filter_map(|series| series.as_of(commit)) {
            view.put(series);
        }
        view
    }
}
