//! A verification names exactly the damaged files and changes none; a scrub writes only sidecars.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fastk::ErrorCode;
use fastk::disk::DiskPath;
use fastk::store::{
    FindingKind, OrphanKind, RepairOptions, SeriesWrite, Severity, Store, StoreOptions, TaskControl, VerifyOptions,
    VerifyReport, WriteMode, orphans, repair, verify,
};
use fastk::types::schema::ValueIndexSpec;
use fastk::types::{Rows, SeriesKey, SeriesSpec};

use super::guarantees::{MINUTE, def, files, key, minutes, options, read};
use super::known_defects::contents;

const QUIET: VerifyOptions = VerifyOptions { live: Some(false) };

fn check(root: &Path) -> VerifyReport {
    verify(&DiskPath::os(root), QUIET, &TaskControl::new()).unwrap()
}

fn kinds(report: &VerifyReport) -> Vec<(FindingKind, &str)> {
    report.findings.iter().map(|finding| (finding.kind, finding.file.as_str())).collect()
}

fn indexed() -> SeriesKey {
    SeriesKey::scalar("feature", "BTCUSDT", "1m", "rsi").unwrap()
}

fn scalars(first: i64, count: i64) -> Rows {
    let mut rows = minutes(first, count);
    rows.columns.truncate(1);
    rows
}

/// A closed store with every kind of file: chunks of several blocks, all sidecars, deletes, run files, receipts, two
/// checkpoints with edits, and frames in the log.
fn sample(root: &Path) {
    let store = Store::open(root, true, options()).unwrap();
    store.register(def(&key())).unwrap();
    let mut spec = SeriesSpec::of_key(&indexed());
    spec.value_index = Some(ValueIndexSpec::All(true));
    store.register(spec.resolve().unwrap()).unwrap();
    // This series has no row and no chunk.
    store.register(def(&SeriesKey::kline("EMPTY", "1m").unwrap())).unwrap();
    store.write(&key(), minutes(0, 40_000), WriteMode::Upsert, None).unwrap();
    store.write(&indexed(), scalars(0, 3_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    // One edit per seal, until there are two checkpoints and edits after them.
    for day in 0..130 {
        store.write(&key(), minutes(day * 40 + 100_000, 3), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
        if day % 20 == 19 {
            store.compact(&[], true).unwrap();
        }
    }
    store.delete_range(&key(), (600_000_000, 900_000_000), None).unwrap();
    let write = SeriesWrite::new(indexed(), scalars(5_000, 10), WriteMode::Upsert);
    store.write_many(vec![write], Some("once")).unwrap();
    store.checkpoint().unwrap();
    store.write(&indexed(), scalars(6_000, 10), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    store.vacuum().unwrap();
    store.write(&key(), minutes(200_000, 5), WriteMode::Upsert, None).unwrap();
    store.write(&key(), minutes(200_005, 5), WriteMode::Upsert, None).unwrap();
}

/// Files of the sample without the lock, by their path below the root.
fn all_files(root: &Path) -> Vec<(String, PathBuf)> {
    let name = |path: &PathBuf| path.strip_prefix(root.join(".")).unwrap().display().to_string();
    files(root, ".", "").into_iter().map(|path| (name(&path), path)).filter(|(name, _)| name != "LOCK").collect()
}

#[test]
fn a_clean_store_has_no_findings() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let report = check(root.path());
    assert_eq!((kinds(&report), report.clean, report.count()), (vec![], true, 0));
    let names: Vec<String> = all_files(root.path()).into_iter().map(|(name, _)| name).collect();
    for ending in [
        ".arrow",
        ".zmap",
        ".vix",
        ".cov",
        ".tombstone",
        ".registration",
        ".run",
        ".receipts",
        ".edit",
        ".checkpoint",
        ".wal",
        "CURRENT",
    ] {
        assert!(names.iter().any(|name| name.ends_with(ending)), "the sample lacks {ending}");
    }
    assert_eq!(report.files_checked, names.len() as u64, "every file was checked");
    assert_eq!((report.series, report.rows > 43_000), (3, true));
    let store = Store::open(root.path(), false, options()).unwrap();
    let inside = store.verify(&TaskControl::new()).unwrap();
    assert_eq!((kinds(&inside), inside.clean), (vec![], true));
}

#[test]
fn a_series_listed_twice_is_sealed_and_compacted_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    let named = [key(), key(), key()];
    for first in [0, 50] {
        store.write(&key(), minutes(first, 100), WriteMode::Upsert, None).unwrap();
        let sealed = store.seal(&named).unwrap();
        assert_eq!((sealed.series_sealed, sealed.chunks_written, sealed.rows_sealed), (1, 1, 100));
        assert_eq!(kinds(&store.verify(&TaskControl::new()).unwrap()), vec![]);
    }
    let compacted = store.compact(&named, true).unwrap();
    assert_eq!((compacted.partitions_compacted, compacted.chunks_removed, compacted.chunks_written), (1, 2, 1));
    assert_eq!(store.apply_retention(&named).unwrap().iter().map(|(_, deleted)| deleted.rows_deleted).sum::<u64>(), 0);
    drop(store);
    let report = check(root.path());
    assert_eq!((kinds(&report), report.rows), (vec![], 150));
}

#[test]
fn verification_changes_no_byte_and_needs_no_lock() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let store = Store::open(root.path(), false, options()).unwrap();
    let before = contents(root.path());
    let report = verify(&DiskPath::os(root.path()), VerifyOptions::default(), &TaskControl::new()).unwrap();
    assert_eq!((kinds(&report), report.clean), (vec![], true));
    orphans(&DiskPath::os(root.path())).unwrap();
    assert!(contents(root.path()) == before, "a byte changed");
    drop(store);
    // Nor does it with every file damaged.
    for (_, path) in all_files(root.path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(byte) = bytes.get_mut(20) {
            *byte ^= 4;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let before = contents(root.path());
    let report = check(root.path());
    assert!(!report.clean && contents(root.path()) == before);
}

/// Damages one file after the other, and checks that exactly that file is named.
fn one_by_one(what: &str, damage: impl Fn(&Path, &[u8], usize) -> bool, rounds: usize) {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let proof = crate::proof_amount::percent() >= 50.0;
    let mut edits = 0;
    for (name, path) in all_files(root.path()) {
        // Edits are alike: one is enough.
        edits += usize::from(name.ends_with(".edit"));
        if !proof && name.ends_with(".edit") && edits % 12 != 1 {
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for round in 0..rounds {
            if !damage(&path, &whole, round) {
                continue;
            }
            let report = check(root.path());
            let named: Vec<(FindingKind, &str)> = kinds(&report);
            assert!(!named.is_empty(), "{what} {round} of {name} was not noticed");
            assert!(named.iter().all(|(_, file)| *file == name), "{what} {round} of {name} gave {named:?}");
            std::fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(kinds(&check(root.path())), []);
}

#[test]
fn a_flipped_bit_is_the_only_finding() {
    let places = [0, 8, 13, 17, 30, 70, 100];
    one_by_one(
        "bit",
        |path, whole, round| {
            let at = match round {
                0..7 => places[round],
                7 => whole.len() / 2,
                8 => whole.len().saturating_sub(1),
                _ => whole.len().saturating_sub(15 + 97 * (round - 9)),
            };
            let Some(byte) = whole.get(at) else { return false };
            let mut damaged = whole.to_vec();
            damaged[at] = byte ^ 16;
            std::fs::write(path, damaged).unwrap();
            true
        },
        14,
    );
}

#[test]
fn a_truncated_or_empty_file_is_the_only_finding() {
    one_by_one(
        "cut",
        |path, whole, round| {
            let length = [0, 1, 70, whole.len() / 2, whole.len() - 1][round];
            if length >= whole.len() {
                return false;
            }
            std::fs::write(path, &whole[..length]).unwrap();
            true
        },
        5,
    );
}

#[test]
fn an_extended_file_is_the_only_finding() {
    one_by_one(
        "addition",
        |path, whole, _| {
            std::fs::write(path, [whole, b"more"].concat()).unwrap();
            true
        },
        1,
    );
}

#[test]
fn a_missing_file_is_the_only_finding() {
    one_by_one(
        "removal",
        |path, _, _| {
            // No other file refers to the manifest hint, nor to a registration file.
            if path.ends_with("CURRENT") || path.to_string_lossy().ends_with(".registration") {
                return false;
            }
            std::fs::remove_file(path).unwrap();
            true
        },
        1,
    );
}

#[test]
fn a_finding_has_the_affected_rows_and_the_remedy() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let path = files(root.path(), "chunks", "0000000000000001.arrow").pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // In the second of three blocks.
    bytes[1_200_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let report = check(root.path());
    let [finding] = report.findings.as_slice() else { panic!("{:?}", kinds(&report)) };
    assert_eq!((finding.kind, finding.severity), (FindingKind::DamagedBlock, Severity::Error));
    assert_eq!(finding.series.as_deref(), Some(key().as_str()));
    assert_eq!((finding.block, finding.rows), (Some(1), Some(16_384)));
    assert_eq!((finding.ts_min, finding.ts_max), (Some(16_384 * MINUTE), Some(32_767 * MINUTE)));
    assert!(finding.offset.is_some_and(|offset| offset < 1_200_000 && 1_200_000 < offset + finding.bytes.unwrap()));
    assert!(finding.expected != finding.found && finding.remedy.contains("repair"));
    assert_eq!((report.errors, report.clean), (1, false));
}

#[test]
fn two_chunks_swapped_are_both_named() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let chunks = files(root.path(), "chunks/0000000001", ".arrow");
    let (a, b) = (&chunks[0], &chunks[1]);
    let (in_a, in_b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    std::fs::write(a, &in_b).unwrap();
    std::fs::write(b, &in_a).unwrap();
    let report = check(root.path());
    let mut named: Vec<&str> = report.findings.iter().map(|finding| finding.file.as_str()).collect();
    named.dedup();
    let name = |path: &Path| path.strip_prefix(root.path()).unwrap().display().to_string();
    named.sort_unstable();
    assert_eq!(named, [name(a), name(b)]);
}

#[test]
fn foreign_files_and_leftovers_are_distinguished() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let chunk = files(root.path(), "chunks/0000000001", ".arrow").remove(0);
    let put = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let foreign = [
        "notes.txt",
        "wal/1.wal",
        "manifest/5.edit",
        "runs/readme",
        "chunks/x",
        "chunks/0000000001/copy.arrow",
        "chunks/0000000001/1970-01-0000000000000001.arrow.bak",
    ];
    for name in foreign {
        put(name, b"x");
    }
    put("chunks/0000000001/2030-01-0000000000099999.arrow", &std::fs::read(&chunk).unwrap());
    put("chunks/0000000077/all-0000000000099998.zmap", b"x");
    put("runs/00000000000000099997.run", b"x");
    put("runs/00000000000000000002.run", b"x");
    put("tmp/17-1.tmp", b"x");
    put("quarantine/old", b"x");
    let report = check(root.path());
    let mut expectation: Vec<(FindingKind, &str)> =
        foreign.iter().map(|name| (FindingKind::ForeignFile, *name)).collect();
    for name in [
        "chunks/0000000001/2030-01-0000000000099999.arrow",
        "chunks/0000000077/all-0000000000099998.zmap",
        "runs/00000000000000099997.run",
        "runs/00000000000000000002.run",
    ] {
        expectation.push((FindingKind::OrphanFile, name));
    }
    let mut found = kinds(&report);
    found.sort();
    expectation.sort();
    assert_eq!(found, expectation);
    assert_eq!((report.warnings, report.notes), (7, 4));
    let listed = orphans(&DiskPath::os(root.path())).unwrap();
    let of = |kind: OrphanKind| {
        let mut names: Vec<&str> =
            listed.orphans.iter().filter(|orphan| orphan.kind == kind).map(|orphan| orphan.file.as_str()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(of(OrphanKind::Foreign).len(), 7);
    assert_eq!(of(OrphanKind::Unfinished).len(), 3);
    assert_eq!(of(OrphanKind::GivenUp), ["runs/00000000000000000002.run"]);
    assert_eq!(
        (of(OrphanKind::Temporary), of(OrphanKind::Quarantined)),
        (vec!["tmp/17-1.tmp"], vec!["quarantine/old"])
    );
    assert_eq!((listed.files, listed.orphans.len()), (13, 13));
}

#[test]
fn a_replaced_chunk_held_by_a_reader_is_listed_and_no_finding() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let store = Store::open(root.path(), false, options()).unwrap();
    let held = store.snapshot();
    store.write(&key(), minutes(0, 50), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    store.compact(&[], true).unwrap();
    store.vacuum().unwrap();
    assert_eq!(kinds(&check(root.path())), []);
    let listed = || {
        let listed = orphans(&DiskPath::os(root.path())).unwrap().orphans;
        listed.into_iter().map(|orphan| orphan.kind).collect::<Vec<_>>()
    };
    assert!(!listed().is_empty() && listed().iter().all(|kind| *kind == OrphanKind::Waiting));
    drop(held);
    store.vacuum().unwrap();
    assert_eq!(listed(), []);
}

#[test]
fn verification_during_writes_has_no_findings() {
    let rounds = if crate::proof_amount::percent() >= 50.0 { 200 } else { 15 };
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let small = StoreOptions {
        wal_segment_bytes: 1 << 16,
        wal_bytes_max: 1 << 17,
        tail_rows_max: 2_000,
        background_maintenance: true,
        commit_retention_ms: 10,
        ..StoreOptions::default()
    };
    let store = Store::open(root.path(), false, small).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let first = (n * 7_919) % 90_000;
                store.write(&key(), minutes(first, 500), WriteMode::Upsert, None).unwrap();
                store.write(&indexed(), scalars(first, 300), WriteMode::Upsert, None).unwrap();
                match n % 40 {
                    9 => drop(store.delete_range(&key(), (first * MINUTE, (first + 100) * MINUTE), None).unwrap()),
                    19 => drop(store.compact(&[], true).unwrap()),
                    29 => {
                        let other = SeriesKey::kline("OTHER", "1m").unwrap();
                        store.register(def(&other)).unwrap();
                        store.write(&other, minutes(first, 3_000), WriteMode::Upsert, None).unwrap();
                        store.checkpoint().unwrap();
                        store.drop_series(&other, None).unwrap();
                        store.checkpoint().unwrap();
                    }
                    _ => {}
                }
            }
        });
        for round in 0..rounds {
            let live = VerifyOptions { live: Some(true) };
            let outside = verify(&DiskPath::os(root.path()), live, &TaskControl::new()).unwrap();
            let inside = store.verify(&TaskControl::new()).unwrap();
            for report in [outside, inside] {
                if report.count() > 0 {
                    stop.store(true, Ordering::Relaxed);
                }
                assert_eq!(report.findings, [], "round {round}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(store);
    assert_eq!(kinds(&check(root.path())), []);
}

#[test]
fn a_torn_end_of_the_log_is_a_note_and_damage_before_it_an_error() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let segment = files(root.path(), "wal", ".wal").pop().unwrap();
    let whole = std::fs::read(&segment).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut torn = whole.clone();
    torn[end] ^= 1;
    std::fs::write(&segment, &torn).unwrap();
    let report = check(root.path());
    assert_eq!((report.findings[0].kind, report.clean), (FindingKind::TornTail, true));
    let mut rot = whole.clone();
    rot[200] ^= 1;
    std::fs::write(&segment, &rot).unwrap();
    let report = check(root.path());
    let [finding] = report.findings.as_slice() else { panic!("{:?}", kinds(&report)) };
    assert_eq!((finding.kind, report.clean), (FindingKind::DamagedFrame, false));
    assert!(finding.lsn_min.is_some() && finding.lsn_min <= finding.lsn_max);
}

/// A crash after a segment was created for the last of several frames, before the first of them was written: the
/// writer continues in it with lower positions than its header states.
#[test]
fn frames_below_the_position_in_the_segment_header_are_no_finding_and_not_lost() {
    use fastk::format::wal::{SEGMENT_HEADER_BYTES, SegmentHeader, decode_segment_header, encode_segment_header};
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    drop(store);
    let last = files(root.path(), "wal", ".wal").pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    let header = decode_segment_header(&bytes).unwrap();
    let (number, first_lsn) = (header.number + 1, header.first_lsn + 1_000);
    let made = encode_segment_header(&SegmentHeader { number, first_lsn, epoch: !header.epoch, ..header });
    bytes.fill(0);
    bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&made);
    let made = last.with_file_name(format!("{number:020}.wal"));
    std::fs::write(&made, &bytes).unwrap();

    let store = Store::open(root.path(), false, options()).unwrap();
    store.seal(&[]).unwrap();
    store.checkpoint().unwrap();
    store.write(&key(), minutes(10, 5), WriteMode::Upsert, None).unwrap();
    let rows = read(&store, &key()).unwrap();
    drop(store);
    assert_eq!(files(root.path(), "wal", ".wal"), [made]);
    assert_eq!(kinds(&check(root.path())), []);

    for file in files(root.path(), "manifest", "") {
        std::fs::remove_file(file).unwrap();
    }
    repair(&DiskPath::os(root.path()), RepairOptions { apply: true, rebuild_manifest: true }).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!((rows.len(), read(&store, &key()).unwrap()), (15, rows));
}

#[test]
fn a_scrub_rebuilds_sidecars_and_changes_no_data() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let mut damaged = 0;
    for (position, (name, path)) in all_files(root.path()).into_iter().enumerate() {
        let sidecar = [".zmap", ".vix", ".cov"].iter().any(|ending| name.ends_with(ending));
        if !sidecar {
            continue;
        }
        damaged += 1;
        match position % 3 {
            0 => std::fs::remove_file(&path).unwrap(),
            1 => std::fs::write(&path, b"").unwrap(),
            _ => {
                let mut bytes = std::fs::read(&path).unwrap();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
    let store = Store::open(root.path(), false, options()).unwrap();
    let before = contents(root.path());
    let dry = store.scrub(true, &TaskControl::new()).unwrap();
    assert_eq!((dry.warnings, dry.rebuilt.len(), dry.clean), (damaged, 0, false));
    assert!(contents(root.path()) == before, "a dry run changes nothing");
    let report = store.scrub(false, &TaskControl::new()).unwrap();
    assert_eq!((report.rebuilt.len() as u64, report.count(), report.clean), (damaged, 0, true));
    let after = contents(root.path());
    let is_data = |name: &str| ![".zmap", ".vix", ".cov"].iter().any(|ending| name.ends_with(ending));
    let data = |files: &super::known_defects::Files| {
        files.iter().filter(|(name, _)| is_data(name)).map(|(n, b)| (n.clone(), b.clone())).collect::<Vec<_>>()
    };
    assert!(data(&after) == data(&before), "only sidecars may change");
    drop(store);
    assert_eq!(kinds(&check(root.path())), []);
}

#[test]
fn a_wrong_sidecar_with_a_valid_checksum_is_found_and_rebuilt() {
    use fastk::format::coverage::Coverage;
    use fastk::format::zone_map::ZoneMap;
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let path = files(root.path(), "chunks", ".zmap").remove(0);
    let mut map = ZoneMap::decode(&std::fs::read(&path).unwrap()).unwrap();
    map.columns[1].max[0] -= 1;
    std::fs::write(&path, map.encode()).unwrap();
    let other = files(root.path(), "chunks", ".cov").remove(0);
    let mut coverage = Coverage::decode(&std::fs::read(&other).unwrap(), Default::default()).unwrap();
    let bit = coverage.aligned.min().unwrap();
    coverage.aligned.remove(bit);
    std::fs::write(&other, coverage.encode()).unwrap();
    let report = check(root.path());
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::DamagedSidecar; 2]);
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(store.scrub(false, &TaskControl::new()).unwrap().rebuilt.len(), 2);
    assert_eq!(kinds(&check(root.path())), []);
}

#[test]
fn a_damaged_sidecar_of_a_damaged_chunk_remains_a_finding() {
    let root = tempfile::tempdir().unwrap();
    sample(root.path());
    let chunk = files(root.path(), "chunks/0000000001", "0000000000000001.arrow").remove(0);
    let mut bytes = std::fs::read(&chunk).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&chunk, bytes).unwrap();
    std::fs::remove_file(chunk.with_extension("zmap")).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    let report = store.scrub(false, &TaskControl::new()).unwrap();
    let found: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!((found, report.rebuilt.len()), (vec![FindingKind::DamagedBlock, FindingKind::MissingSidecar], 0));
}

#[test]
fn verification_can_be_cancelled_and_needs_a_store() {
    let root = tempfile::tempdir().unwrap();
    let at = DiskPath::os(root.path());
    assert_eq!(verify(&at, QUIET, &TaskControl::new()).unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(orphans(&at).unwrap_err().code(), ErrorCode::NotFound);
    sample(root.path());
    let watch = TaskControl::new();
    watch.cancel();
    assert_eq!(verify(&at, QUIET, &watch).unwrap_err().code(), ErrorCode::NotReady);
    let watch = TaskControl::new();
    let report = verify(&at, QUIET, &watch).unwrap();
    let (done, total) = watch.progress();
    assert_eq!(done, total);
    assert!(report.bytes_checked <= done);
}

#[test]
fn overlaps_are_the_same_from_an_open_store_and_from_its_files() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    for round in 0..3 {
        store.write(&key(), minutes(round * 100, 5_000), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
    }
    let inside = store.overlaps();
    assert_eq!((inside.partitions, inside.overlapping), (1, 1));
    let [overlap] = inside.overlaps.as_slice() else { panic!("{inside:?}") };
    let ids: Vec<u64> = overlap.chunks.iter().map(|chunk| chunk.id).collect();
    let pairs: Vec<(u64, u64)> = overlap.pairs.iter().map(|pair| (pair.older, pair.newer)).collect();
    assert_eq!(pairs, [(ids[0], ids[1]), (ids[0], ids[2]), (ids[1], ids[2])]);
    assert_eq!((overlap.pairs[1].ts_min, overlap.pairs[1].ts_max), (200 * MINUTE, 4_999 * MINUTE));
    // 15,000 rows for 5,200 timestamps: more than 30 % garbage.
    assert_eq!((overlap.rows, overlap.rows_hidden, overlap.due), (15_000, 9_800, true));
    assert!(overlap.compaction[0].contains("compacted into one of 5200 rows"), "{overlap:?}");
    assert_eq!(
        fastk::store::overlaps(&DiskPath::os(root.path()), StoreOptions::default().chunk_bytes_max).unwrap(),
        inside
    );
    store.compact(&[], false).unwrap();
    assert_eq!(store.overlaps(), Default::default());
}

#[test]
fn the_page_about_verification_lists_every_kind_of_finding() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verify.md")).unwrap();
    let (_, table) = page.split_once("## Findings").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let documented: Vec<String> =
        table.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| format!("| `{line}")).collect();
    let severity = |kind: &FindingKind| serde_json::to_value(kind.severity()).unwrap().as_str().unwrap().to_owned();
    let coded: Vec<String> = FindingKind::ALL
        .iter()
        .map(|kind| format!("| `{}` | {} | {} | {} |", kind.name(), severity(kind), kind.title(), kind.remedy()))
        .collect();
    assert!(documented == coded, "the table should be\n{}", coded.join("\n"));
}
