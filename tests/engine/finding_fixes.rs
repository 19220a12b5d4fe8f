//! Every finding of a check names a fix that settles it: for each kind the damage is made, the check names exactly
//! that kind and the fix, the fix is run, and the next check is clean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fastk::disk::DiskPath;
use fastk::store::{
    Finding, FindingKind, RepairOptions, RepairReport, SeriesWrite, Store, TaskControl, VerifyOptions, VerifyReport,
    WriteMode, repair, verify,
};
use fastk::types::schema::{Retention, ValueIndexSpec};
use fastk::types::{Rows, SeriesKey, SeriesSpec};

use super::guarantees::{MINUTE, def, files, key, minutes, options};

fn check(root: &Path) -> VerifyReport {
    verify(&DiskPath::os(root), VerifyOptions { live: Some(false) }, &TaskControl::new()).unwrap()
}

fn indexed() -> SeriesKey {
    SeriesKey::scalar("feature", "BTCUSDT", "1m", "rsi").unwrap()
}

fn removed() -> SeriesKey {
    SeriesKey::kline("GONE", "1m").unwrap()
}

fn scalars(first: i64, count: i64) -> Rows {
    let mut rows = minutes(first, count);
    rows.columns.truncate(1);
    rows
}

/// A closed store with a file of every kind, including a dropped series that a snapshot shows.
fn sample(root: &Path) {
    let store = Store::open(root, true, options()).unwrap();
    let mut with_index = def(&key());
    with_index.value_index = vec!["close".into()];
    store.register(with_index).unwrap();
    store.register(def(&removed())).unwrap();
    let mut spec = SeriesSpec::of_key(&indexed());
    spec.value_index = Some(ValueIndexSpec::All(true));
    store.register(spec.resolve().unwrap()).unwrap();
    store.write(&key(), minutes(0, 20_000), WriteMode::Upsert, None).unwrap();
    store.write(&removed(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    store.write(&indexed(), scalars(0, 300), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    // Enough edits for two checkpoints of the manifest and edits after them.
    for day in 0..130 {
        store.write(&key(), minutes(day * 40 + 100_000, 3), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
        if day % 20 == 19 {
            store.compact(&[], true).unwrap();
        }
    }
    store.create_snapshot("early").unwrap();
    store.drop_series(&removed(), None).unwrap();
    // A delete that hides sealed rows, and one that is unused after the compaction of its chunks.
    store.delete_range(&indexed(), (10 * MINUTE, 20 * MINUTE), None).unwrap();
    store.delete_range(&key(), (600_000_000, 900_000_000), None).unwrap();
    let write = SeriesWrite::new(indexed(), scalars(5_000, 10), WriteMode::Upsert);
    store.write_many(vec![write], Some("once")).unwrap();
    store
        .change_series(&indexed(), None, |def| {
            def.retention = Some(Retention { max_rows: Some(1_000_000), max_age: None });
            Ok(())
        })
        .unwrap();
    store.checkpoint().unwrap();
    store.write(&indexed(), scalars(6_000, 10), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    store.write(&key(), minutes(200_000, 5), WriteMode::Upsert, None).unwrap();
    store.write(&key(), minutes(200_005, 5), WriteMode::Upsert, None).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn one(root: &Path, dir: &str, ending: &str) -> PathBuf {
    files(root, dir, ending).pop().unwrap_or_else(|| panic!("no {dir}/…{ending}"))
}

fn first(root: &Path, dir: &str, ending: &str) -> PathBuf {
    files(root, dir, ending).into_iter().next().unwrap_or_else(|| panic!("no {dir}/…{ending}"))
}

fn change(path: &Path, work: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    work(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

fn flip(path: &Path, at: usize) {
    change(path, |bytes| {
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 16;
    });
}

/// The command of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fix {
    Repair,
    Scrub,
    /// Opening the store, as every command that changes it does.
    Opening,
}

fn run(root: &Path, fix: Fix) -> Option<RepairReport> {
    match fix {
        Fix::Repair => {
            let options = RepairOptions { apply: true, rebuild_manifest: false };
            Some(repair(&DiskPath::os(root), options).unwrap())
        }
        Fix::Scrub => {
            Store::open(root, false, options()).unwrap().scrub(false, &TaskControl::new()).unwrap();
            None
        }
        Fix::Opening => {
            Store::open(root, false, options()).unwrap();
            None
        }
    }
}

/// Kind, description of the damage, the damage, the command, and whether it may lose data.
type Case = (FindingKind, &'static str, fn(&Path), Fix, Loss);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    Reported,
}

/// The last used byte of the newest log segment.
fn log_end(root: &Path) -> (PathBuf, usize) {
    let path = one(root, "wal", ".wal");
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes.iter().rposition(|byte| *byte != 0).unwrap())
}

fn cases() -> Vec<Case> {
    use FindingKind::*;
    use Fix::{Opening, Repair, Scrub};
    use Loss::{None as Kept, Reported};
    fn largest(root: &Path) -> PathBuf {
        let mut chunks = files(root, "chunks", ".arrow");
        chunks.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
        chunks.pop().unwrap()
    }
    vec![
        (DamagedFormat, "a bit", |root| flip(&root.join("FORMAT"), 3), Repair, Kept),
        (DamagedFormat, "missing", |root| std::fs::remove_file(root.join("FORMAT")).unwrap(), Repair, Kept),
        (
            DamagedEdit,
            "an old one",
            |root| std::fs::write(first(root, "manifest", ".edit"), b"x").unwrap(),
            Repair,
            Kept,
        ),
        (DamagedEdit, "the newest", |root| std::fs::write(one(root, "manifest", ".edit"), b"x").unwrap(), Repair, Kept),
        (DamagedEditCopy, "an old one", |root| flip(&first(root, "manifest", ".edit"), 40), Repair, Kept),
        (DamagedEditCopy, "the newest", |root| flip(&one(root, "manifest", ".edit"), 40), Repair, Kept),
        (
            MissingEdit,
            "an old one",
            |root| std::fs::remove_file(&files(root, "manifest", ".edit")[1]).unwrap(),
            Repair,
            Kept,
        ),
        (MissingEdit, "the newest", |root| std::fs::remove_file(one(root, "manifest", ".edit")).unwrap(), Repair, Kept),
        (DamagedCheckpoint, "the older", |root| flip(&first(root, "manifest", ".checkpoint"), 40), Repair, Kept),
        (DamagedCheckpoint, "the newer", |root| flip(&one(root, "manifest", ".checkpoint"), 40), Repair, Kept),
        (
            MissingCheckpoint,
            "the older",
            |root| std::fs::remove_file(first(root, "manifest", ".checkpoint")).unwrap(),
            Repair,
            Kept,
        ),
        (DamagedCurrent, "a bit", |root| flip(&root.join("manifest/CURRENT"), 20), Repair, Kept),
        (DamagedCurrent, "a bit, opened", |root| flip(&root.join("manifest/CURRENT"), 20), Opening, Kept),
        (DamagedSegment, "its header", |root| flip(&one(root, "wal", ".wal"), 20), Repair, Kept),
        (
            DamagedSegment,
            "cut in unused space",
            |root| change(&one(root, "wal", ".wal"), |b| b.truncate(b.len() - 1)),
            Repair,
            Kept,
        ),
        (
            DamagedSegment,
            "cut in its frames",
            |root| change(&one(root, "wal", ".wal"), |b| b.truncate(300)),
            Repair,
            Reported,
        ),
        (DamagedSegment, "grown", |root| change(&one(root, "wal", ".wal"), |b| b.extend(b"more")), Repair, Kept),
        (
            MissingSegment,
            "the newest",
            |root| std::fs::remove_file(one(root, "wal", ".wal")).unwrap(),
            Repair,
            Reported,
        ),
        (
            DamagedFrame,
            "the last but the marker",
            |root| {
                let (path, end) = log_end(root);
                flip(&path, end - 200)
            },
            Repair,
            Reported,
        ),
        (
            TornTail,
            "the last byte",
            |root| {
                let (path, end) = log_end(root);
                flip(&path, end)
            },
            Opening,
            Kept,
        ),
        (
            TornTail,
            "the last byte, repaired",
            |root| {
                let (path, end) = log_end(root);
                flip(&path, end)
            },
            Repair,
            Kept,
        ),
        (MissingRunFile, "one", |root| std::fs::remove_file(one(root, "runs", ".run")).unwrap(), Repair, Reported),
        (
            DamagedRunFile,
            "its end",
            |root| change(&one(root, "runs", ".run"), |b| b.truncate(b.len() - 3)),
            Repair,
            Reported,
        ),
        (DamagedRun, "a row", |root| flip(&one(root, "runs", ".run"), 450), Repair, Reported),
        (MissingReceipts, "one", |root| std::fs::remove_file(one(root, "runs", ".receipts")).unwrap(), Repair, Kept),
        (DamagedReceipts, "a bit", |root| flip(&one(root, "runs", ".receipts"), 60), Repair, Kept),
        (
            MissingTombstone,
            "needed",
            |root| std::fs::remove_file(one(root, "chunks/0000000003", ".tombstone")).unwrap(),
            Repair,
            Kept,
        ),
        (DamagedTombstone, "needed", |root| flip(&one(root, "chunks/0000000003", ".tombstone"), 40), Repair, Kept),
        (
            DamagedTombstone,
            "no longer needed",
            |root| std::fs::write(root.join("chunks/0000000001/00000000000000000002.tombstone"), b"x").unwrap(),
            Repair,
            Kept,
        ),
        (DamagedRegistration, "a bit", |root| flip(&one(root, "chunks", ".registration"), 40), Repair, Kept),
        (
            DamagedDropMarker,
            "of a series that a snapshot shows",
            |root| flip(&root.join("chunks/0000000002/dropped"), 40),
            Repair,
            Kept,
        ),
        (
            DamagedDropMarker,
            "in a registered series",
            |root| std::fs::write(root.join("chunks/0000000001/dropped"), b"x").unwrap(),
            Repair,
            Kept,
        ),
        (
            StrayDropMarker,
            "of a registered series",
            |root| {
                let file = fastk::format::tombstone::DropFile { series_id: 1, key: key(), commit: 5 };
                let bytes = fastk::format::tombstone::encode_drop(&file).unwrap();
                std::fs::write(root.join("chunks/0000000001/dropped"), bytes).unwrap();
            },
            Repair,
            Kept,
        ),
        (MissingChunk, "the largest", |root| std::fs::remove_file(largest(root)).unwrap(), Repair, Reported),
        (TruncatedChunk, "the largest", |root| change(&largest(root), |b| b.truncate(900_000)), Repair, Reported),
        (GrownChunk, "the largest", |root| change(&largest(root), |b| b.extend(b"more")), Repair, Kept),
        (
            WrongChunk,
            "that of another",
            |root| {
                // Of the same length; another length would be another finding.
                let chunks = files(root, "chunks/0000000001", ".arrow");
                let bytes = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
                let pairs = chunks.iter().flat_map(|one| chunks.iter().map(move |other| (one, other)));
                let (one, other) =
                    pairs.filter(|(one, other)| one < other).find(|(a, b)| bytes(a) == bytes(b)).unwrap();
                std::fs::copy(one, other).unwrap();
            },
            Repair,
            Reported,
        ),
        (DamagedHead, "a bit", |root| flip(&largest(root), 40), Repair, Kept),
        (DamagedBlock, "a cell", |root| flip(&largest(root), 400_000), Repair, Reported),
        (
            DamagedFooter,
            "its end",
            |root| {
                let path = largest(root);
                let at = std::fs::metadata(&path).unwrap().len() as usize - 40;
                flip(&path, at)
            },
            Repair,
            Kept,
        ),
        (MissingSidecar, "a zone map", |root| std::fs::remove_file(one(root, "chunks", ".zmap")).unwrap(), Scrub, Kept),
        (DamagedSidecar, "a zone map", |root| flip(&one(root, "chunks", ".zmap"), 60), Scrub, Kept),
        (
            OrphanFile,
            "a run file",
            |root| std::fs::write(root.join("runs/00000000000000099997.run"), b"x").unwrap(),
            Opening,
            Kept,
        ),
        (
            OrphanFile,
            "a chunk, repaired",
            |root| {
                std::fs::copy(largest(root), root.join("chunks/0000000001/2030-01-0000000000099999.arrow")).unwrap();
            },
            Repair,
            Kept,
        ),
    ]
}

/// Kinds without a case above, and the reason.
const ELSEWHERE: [(FindingKind, &str); 8] = [
    (FindingKind::NewerFormat, "the program that wrote the file settles it"),
    (FindingKind::UnreadableFile, "the operating system has to give the file first"),
    (FindingKind::ForeignFile, "the user has to move it"),
    (FindingKind::StrayBytes, "below: bytes behind a frame"),
    (FindingKind::StaleSidecar, "below: a changed registration"),
    (FindingKind::DamagedRegistry, "tests/cli: the registry is not part of the engine"),
    (FindingKind::WrongRows, "only a defect of the program can write such rows"),
    (FindingKind::ClashingChunks, "only a defect of the program can write such chunks"),
];

/// Damages the store, verifies it, runs the fix, and verifies again.
fn apply_fix(root: &Path, (kind, _, damage, fix, loss): &Case) -> Result<(), String> {
    damage(root);
    let report = check(root);
    let named: Vec<&Finding> = report.findings.iter().filter(|finding| finding.kind == *kind).collect();
    let word = match fix {
        Fix::Repair => "`admin repair --apply`",
        Fix::Scrub => "`admin scrub`",
        Fix::Opening => "the next open",
    };
    if named.is_empty() || named.iter().any(|finding| !finding.remedy.contains(word)) {
        return Err(format!("the remedy is not named: {:?}", report.findings));
    }
    let done = run(root, *fix);
    if done.as_ref().is_some_and(|done| done.has_lost() != (*loss == Loss::Reported)) {
        return Err(format!("it should have lost {loss:?}: {done:?}"));
    }
    let after = check(root);
    if !after.findings.is_empty() {
        return Err(format!("still there: {:?}; {done:?}", after.findings));
    }
    let store = Store::open(root, false, options()).map_err(|error| error.to_string())?;
    if !store.recovery().damage.is_empty() {
        return Err(format!("{:?}", store.recovery()));
    }
    let written = store.write(&key(), minutes(900_000, 1), WriteMode::Upsert, None);
    written.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn the_remedy_of_every_finding_fixes_it() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    sample(&whole);
    let before = check(&whole);
    assert_eq!(before.findings, []);
    let (mut tried, mut wrong) = (BTreeSet::new(), Vec::new());
    for (position, case) in cases().into_iter().enumerate() {
        let root = folder.path().join(format!("case{position}"));
        copy(&whole, &root);
        if let Err(why) = apply_fix(&root, &case) {
            wrong.push(format!("{}: {}, {:?}: {why}", case.0.name(), case.1, case.3));
        }
        std::fs::remove_dir_all(&root).unwrap();
        tried.insert(case.0);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let named: BTreeSet<FindingKind> = ELSEWHERE.iter().map(|(kind, _)| *kind).collect();
    for kind in FindingKind::ALL {
        assert_eq!(tried.contains(kind), !named.contains(kind), "{}: every kind has a case", kind.name());
    }
}

#[test]
fn bytes_after_a_frame_are_fixed_by_a_repair() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path());
    let (path, end) = log_end(folder.path());
    // The padding of the last frame.
    change(&path, |bytes| bytes[(end / 64 + 1) * 64 - 1] = 1);
    let found = check(folder.path());
    let kinds: Vec<FindingKind> = found.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::StrayBytes]);
    assert!(found.findings[0].remedy.contains("`admin repair --apply`"));
    assert!(!run(folder.path(), Fix::Repair).unwrap().has_lost());
    assert_eq!(check(folder.path()).findings, []);
}

#[test]
fn a_stale_sidecar_is_fixed_by_a_scrub() {
    let folder = tempfile::tempdir().unwrap();
    sample(folder.path());
    let store = Store::open(folder.path(), false, options()).unwrap();
    store
        .change_series(&key(), None, |def| {
            def.value_index = vec!["open".into()];
            Ok(())
        })
        .unwrap();
    drop(store);
    let found = check(folder.path());
    assert!(found.findings.iter().all(|finding| finding.kind == FindingKind::StaleSidecar), "{:?}", found.findings);
    assert!(!found.findings.is_empty() && found.findings[0].remedy.contains("`admin scrub`"));
    run(folder.path(), Fix::Scrub);
    assert_eq!(check(folder.path()).findings, []);
}
