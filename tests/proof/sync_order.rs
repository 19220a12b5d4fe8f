//! The order of syncs: no manifest edit names an unsynced file, and no file is removed before the edit that gives it up
//! is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::sim_disk::{Moment, Op, SimDisk, SimState};
use fastk::format::manifest::{Edit, decode_checkpoint, decode_edit};
use fastk::store::WriteMode;
use fastk::types::{Rows, SeriesKey, SeriesSpec};

use super::disk_faults::options;
use super::world::open;

/// The files that the manifest names, updated by each edit.
#[derive(Debug, Default)]
pub struct Order {
    series: BTreeSet<u64>,
    /// Series of each chunk.
    chunks: BTreeMap<u64, u64>,
    runs: BTreeSet<u64>,
    receipts: BTreeSet<u64>,
    first_segment: u64,
    last_edit: Option<PathBuf>,
    /// Every data file an edit ever named.
    ever: BTreeSet<u64>,
    /// Number of checked names and removals.
    pub checked: u64,
}

fn number(path: &Path) -> u64 {
    path.file_stem().and_then(|stem| stem.to_str()?.rsplit('-').next()?.parse().ok()).unwrap_or(0)
}

fn root() -> PathBuf {
    PathBuf::from("/store")
}

fn series_dir(id: u64) -> PathBuf {
    root().join(format!("chunks/{id:010}"))
}

fn manifest_numbers(state: &SimState, ending: &str) -> BTreeMap<u64, PathBuf> {
    let files = state.files().into_keys().filter(|path| path.starts_with(root().join("manifest")));
    files.filter(|path| path.extension().is_some_and(|e| e == ending)).map(|path| (number(&path), path)).collect()
}

impl Order {
    /// The files that a store names now.
    pub fn of(state: &SimState) -> Self {
        let mut order = Self { first_segment: 1, ..Self::default() };
        let mut from = 0;
        if let Some((number, path)) = manifest_numbers(state, "checkpoint").pop_last() {
            order.apply(&decode_checkpoint(&state.file(&path).unwrap()).unwrap());
            from = number + 1;
        }
        for (_, path) in manifest_numbers(state, "edit").range(from..) {
            order.apply(&decode_edit(&state.file(path).unwrap()).unwrap().0);
        }
        order
    }

    fn apply(&mut self, edit: &Edit) {
        self.series.extend(edit.series.iter().map(|series| series.id));
        edit.chunks_removed.iter().for_each(|id| _ = self.chunks.remove(id));
        self.chunks.extend(edit.chunks.iter().map(|chunk| (chunk.id, chunk.series_id)));
        for id in &edit.series_dropped {
            self.series.remove(id);
            self.chunks.retain(|_, series| series != id);
        }
        edit.runs_removed.iter().for_each(|id| _ = self.runs.remove(id));
        self.runs.extend(edit.runs.iter().map(|run| run.id));
        edit.receipts_removed.iter().for_each(|id| _ = self.receipts.remove(id));
        self.receipts.extend(edit.receipts.iter().map(|file| file.id));
        if edit.wal_first_segment != 0 {
            self.first_segment = edit.wal_first_segment;
        }
    }

    /// Checks the moments of an operation; `after` is the disk after the last one.
    pub fn check(&mut self, moments: &[Moment], after: &SimState) {
        for (at, moment) in moments.iter().enumerate() {
            let next = moments.get(at + 1).map_or(after, |next| &next.before);
            let ending = moment.path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            match moment.op {
                Op::Link if ending == "edit" => self.edit(moment, next),
                Op::Remove => self.removal(moment, ending),
                _ => {}
            }
        }
    }

    fn edit(&mut self, moment: &Moment, next: &SimState) {
        let edit = decode_edit(&next.file(&moment.path).unwrap()).unwrap().0;
        if let Some(last) = self.last_edit.as_ref().filter(|last| moment.before.file(last).is_some()) {
            assert_eq!(moment.before.not_durable(last), None, "{} follows an edit", moment.path.display());
        }
        let mut named: Vec<PathBuf> = Vec::new();
        for chunk in &edit.chunks {
            named.push(series_dir(chunk.series_id).join(format!("{}-{:016}.arrow", chunk.partition, chunk.id)));
        }
        for tombstone in &edit.tombstones {
            named.push(series_dir(tombstone.series_id).join(format!("{:020}.tombstone", tombstone.commit)));
        }
        named.extend(edit.runs.iter().map(|run| root().join(format!("runs/{:020}.run", run.id))));
        named.extend(edit.receipts.iter().map(|file| root().join(format!("runs/{:020}.receipts", file.id))));
        for path in named.iter().filter(|path| path.extension().is_none_or(|ending| ending != "tombstone")) {
            let id = number(path);
            assert!(self.ever.insert(id), "{} uses the number {id} again", moment.path.display());
        }
        let dropped = edit.series_dropped.iter().map(|id| series_dir(*id).join("dropped"));
        named.extend(dropped.filter(|marker| {
            let dir = marker.parent().unwrap();
            moment.before.files().keys().any(|path| path.starts_with(dir))
        }));
        if edit.wal_first_segment > 0 {
            named.push(root().join(format!("wal/{:020}.wal", edit.wal_first_segment)));
        }
        for path in named {
            self.checked += 1;
            // Frames of the segment may be unsynced; its header and name must be synced.
            let why = moment
                .before
                .not_durable(&path)
                .filter(|why| !(path.starts_with("/store/wal") && why.contains("bytes")));
            assert_eq!(why, None, "{} names {}", moment.path.display(), path.display());
        }
        self.apply(&edit);
        self.last_edit = Some(moment.path.clone());
    }

    fn removal(&mut self, moment: &Moment, ending: &str) {
        let (path, before) = (&moment.path, &moment.before);
        if before.file(path).is_none() || path.starts_with(root().join("tmp")) {
            return;
        }
        let id = number(path);
        let named = match ending {
            "wal" => id >= self.first_segment,
            "run" => self.runs.contains(&id),
            "receipts" => self.receipts.contains(&id),
            "arrow" => self.chunks.contains_key(&id),
            "edit" | "checkpoint" => {
                let mut newer = manifest_numbers(before, "checkpoint");
                newer.retain(|number, path| {
                    (*number > id || (ending == "edit" && *number == id)) && before.not_durable(path).is_none()
                });
                newer.is_empty()
            }
            "tombstone" | "" => {
                let series = path.parent().and_then(|dir| dir.file_name()?.to_str()?.parse::<u64>().ok());
                series.is_some_and(|series| self.series.contains(&series))
            }
            // Sidecars are derived.
            _ => return,
        };
        self.checked += 1;
        assert!(!named, "{} is removed while the manifest needs it", path.display());
        if let Some(last) = self.last_edit.as_ref().filter(|last| before.file(last).is_some()) {
            assert_eq!(before.not_durable(last), None, "{} is removed", path.display());
        }
    }
}

/// The time of a seal or compaction of many small series is dominated by syncs.
#[test]
fn a_seal_and_a_compaction_of_many_series_sync_each_directory_once() {
    const SERIES: usize = 40;
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options()).unwrap();
    let keys: Vec<SeriesKey> = (0..SERIES).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").unwrap()).collect();
    for key in &keys {
        store.register(SeriesSpec::of_key(key).resolve().unwrap()).unwrap();
    }
    let chunks = root().join("chunks");
    for ts in [60_000, 120_000] {
        for key in &keys {
            let columns = vec![vec![1]; 5];
            store.write(key, Rows::of_words(vec![ts], columns), WriteMode::Upsert, None).unwrap();
        }
        disk.record();
        assert_eq!(store.seal(&[]).unwrap().series_sealed, SERIES as u64);
        let sealed = disk.recorded();
        assert_eq!(synced(&sealed, &chunks), usize::from(ts == 60_000), "series directories are created together");
        assert_eq!(synced_below(&sealed, &chunks), SERIES);
    }
    disk.record();
    assert_eq!(store.compact(&[], true).unwrap().partitions_compacted, SERIES as u64);
    assert_eq!(synced_below(&disk.recorded(), &chunks), SERIES);
}

fn synced(moments: &[Moment], dir: &Path) -> usize {
    moments.iter().filter(|moment| moment.op == Op::SyncDir && moment.path == dir).count()
}

fn synced_below(moments: &[Moment], dir: &Path) -> usize {
    moments.iter().filter(|moment| moment.op == Op::SyncDir && moment.path.parent() == Some(dir)).count()
}
