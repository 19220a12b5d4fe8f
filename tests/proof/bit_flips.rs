//! A flipped bit in any file is reported, or changes no visible content.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::sim_disk::{Rng, SimDisk, SimState};
use fastk::format::wal::{FrameRead, SEGMENT_HEADER_BYTES, decode_segment_header, frame_at};
use fastk::store::{Store, WriteMode};
use fastk::{ErrorCode, Predicate, Select};

use super::disk_faults::{fill, options, put};
use super::rounds::cases;
use super::world::{MINUTE, Once, Shot, compare, keys, minutes, observe, open, register_all};

/// A store with every kind of file, and its visible contents.
pub struct Whole {
    pub state: SimState,
    files: BTreeMap<PathBuf, Arc<Vec<u8>>>,
    shot: Arc<Shot>,
    receipts: Vec<Once>,
    results: Vec<String>,
}

/// Results of queries that use sidecars.
fn results(store: &Store) -> fastk::Result<Vec<String>> {
    let reader = store.reader();
    let mut results = Vec::new();
    for key in keys() {
        for text in ["close:gt:29900", "open:eq:15", "open:lt:-20", "volume:gt:300", "ts:lt:600000"] {
            let predicates = [Predicate::parse(text)?];
            let select = || Select { predicates: &predicates, ..Select::default() };
            results.push(format!("{key} {text} {:?}", reader.select(&key, &select())?.doubles(0)?));
        }
        results.push(format!("{key} {:?}", reader.coverage(&key)?));
    }
    Ok(results)
}

impl Whole {
    pub fn new() -> Self {
        let disk = SimDisk::new(SimState::default(), 1);
        let store = open(&disk, &options()).unwrap();
        register_all(&store);
        put(&store, 1, 0, 3_100).unwrap();
        fill(&store);
        store.seal(&[]).unwrap();
        // More edits than between two checkpoints of the manifest.
        for part in 0..64 {
            put(&store, 2, part * 2, 1).unwrap();
            store.seal(&[]).unwrap();
        }
        store.compact(&[], true).unwrap();
        store.vacuum().unwrap();
        put(&store, 0, 40, 9).unwrap();
        store.checkpoint().unwrap();
        put(&store, 1, 4_000, 3).unwrap();
        store.delete_range(&keys()[0], (41 * MINUTE, 42 * MINUTE), None).unwrap();
        store.write(&keys()[2], minutes(60, 5, 7), WriteMode::Merge { first: None }, None).unwrap();
        let (shot, receipts) = observe(&store);
        drop(store);
        let state = disk.state();
        let store = open(&SimDisk::new(state.clone(), 1), &options()).unwrap();
        let results = results(&store).unwrap();
        drop(store);
        let mut files = state.files();
        files.retain(|path, _| !path.ends_with("LOCK"));
        Self { state, files, shot, receipts, results }
    }

    /// Asserts that the damage is reported, or the visible contents are unchanged.
    fn check(&self, state: SimState, place: &str) {
        let store = match open(&SimDisk::new(state, 1), &options()) {
            Ok(store) => store,
            Err(error) if matches!(error.code(), ErrorCode::CorruptData | ErrorCode::UnsupportedFormat) => return,
            Err(error) => panic!("{place}: {error}"),
        };
        if !store.recovery().damage.is_empty() {
            return;
        }
        if let Err(what) = compare(&store, &keys(), &[Arc::clone(&self.shot)], &self.receipts) {
            assert!(what.contains("corrupt_data"), "{place}: {what}");
            return;
        }
        match results(&store) {
            Ok(found) => assert!(found == self.results, "{place}: other results"),
            Err(error) => assert_eq!(error.code(), ErrorCode::CorruptData, "{place}: {error}"),
        }
    }

    /// Flips one bit of one file of the given kinds.
    pub fn flip(&self, kinds: &[&str], rng: &mut Rng) {
        let files: Vec<_> = self.files.iter().filter(|(path, _)| is_of(path, kinds)).collect();
        let (path, bytes) = files[(rng.roll() % files.len() as u64) as usize];
        let places = if is_of(path, &["wal"]) { frames(bytes) } else { vec![(0, bytes.len())] };
        let (from, to) = places[(rng.roll() % places.len() as u64) as usize];
        let at = from + (rng.roll() % (to - from) as u64) as usize;
        let mut bytes = bytes.as_ref().clone();
        bytes[at] ^= 1 << (rng.roll() % 8);
        let mut state = self.state.clone();
        state.put_file(path, bytes).unwrap();
        self.check(state, &format!("{}, byte {at}", path.display()));
    }
}

fn is_of(path: &std::path::Path, kinds: &[&str]) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| kinds.contains(&ending))
}

/// Byte ranges of the frames of a segment.
fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let epoch = decode_segment_header(segment).unwrap().epoch;
    let (mut at, mut found) = (SEGMENT_HEADER_BYTES, Vec::new());
    while let FrameRead::Frame(header, payload) = frame_at(segment, at, epoch) {
        let bytes = fastk::format::wal::FRAME_HEADER_BYTES + payload.len();
        if header.commit > 0 {
            found.push((at, at + bytes));
        }
        at += fastk::format::wal::frame_bytes(payload.len());
    }
    found
}

/// Every kind of file except tombstones, which an open does not read.
const KINDS: [&[&str]; 9] =
    [&["wal"], &["edit"], &["checkpoint"], &["run"], &["receipts"], &["arrow"], &["zmap"], &["cov"], &["vix"]];

#[test]
fn a_flipped_bit_in_any_file_is_reported_or_changes_nothing() {
    let whole = Whole::new();
    for kind in KINDS {
        assert!(whole.files.keys().any(|path| is_of(path, kind)), "no file of kind {kind:?}");
    }
    cases("bit_flips::a_flipped_bit_in_any_file_is_reported_or_changes_nothing", "flipped bits", 20_000, |seed| {
        let mut rng = Rng(seed);
        let kind = KINDS[(rng.roll() % KINDS.len() as u64) as usize];
        whole.flip(kind, &mut rng);
        1
    });
}
