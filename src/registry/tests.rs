//! The file created, migrated, lost, damaged, newer, and with concurrent writers.

use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::error::ErrorCode;

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tmp", "quarantine"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    dir
}

fn open(root: &Path) -> Registry {
    Registry::open(root, false, 1_000)
}

fn dataset(pending_dataset: &PendingSnapshot, keys: &[&str]) -> Record {
    let part = |key: &&str| RecordSeries {
        series: (*key).to_owned(),
        role: SeriesRole::Member,
        member: Some(DatasetMemberRow {
            version: 1,
            rows: 2,
            first_ts: Some(1),
            last_ts: Some(2),
            checksum: "c".into(),
        }),
    };
    Record {
        reference: RecordRef::new(RecordKind::Dataset, &pending_dataset.name, pending_dataset.version),
        status: RecordStatus::Active,
        description: None,
        created_at: "2024-02-01T00:00:00Z".into(),
        dataset: Some(DatasetFields {
            source: Some("here".into()),
            market: None,
            snapshot: pending_dataset.snapshot.clone(),
            snapshot_commit: 7,
            owns_snapshot: pending_dataset.drops,
            start: None,
            end: None,
            rows: 2,
            checksum: "d".into(),
        }),
        definition: None,
        parents: Vec::new(),
        parts: keys.iter().map(part).collect(),
        parts_total: 0,
    }
}

fn add(registry: &Registry, name: &str, keys: &[&str], parents: &[&str]) -> RecordRef {
    let pending_dataset = registry.begin_dataset(name, None, 0).unwrap();
    let mut record = dataset(&pending_dataset, keys);
    record.parents = parents.iter().map(|text| text.parse().unwrap()).collect();
    registry.insert_dataset(&record).unwrap();
    record.reference
}

fn feature(name: &str, keys: &[&str], parents: &[&str]) -> Record {
    let part = |key: &&str| RecordSeries { series: (*key).to_owned(), role: SeriesRole::Input, member: None };
    Record {
        reference: RecordRef::new(RecordKind::Feature, name, 1),
        dataset: None,
        definition: Some(DefinitionFields {
            definition: "{}".into(),
            config_hash: "h".into(),
            code_version: "1".into(),
        }),
        parents: parents.iter().map(|text| text.parse().unwrap()).collect(),
        parts: keys.iter().map(part).collect(),
        ..dataset(&PendingSnapshot { name: name.into(), version: 1, snapshot: String::new(), drops: false }, &[])
    }
}

fn get(registry: &Registry, name: &str, visible_prefixes: &[&str]) -> Option<Record> {
    let visible_prefixes: Vec<String> = visible_prefixes.iter().map(ToString::to_string).collect();
    registry.get(RecordKind::Dataset, name, None, &visible_prefixes).unwrap()
}

#[test]
fn there_is_no_file_before_the_first_record() {
    let dir = dir();
    let registry = open(dir.path());
    assert_eq!(get(&registry, "a", &[]), None);
    assert!(registry.pending().unwrap().is_empty() && !registry.copy_to(&dir.path().join("copy")).unwrap());
    assert!(!dir.path().join(FILE).exists());
    let made = add(&registry, "a", &["kline/A/1m"], &[]);
    assert_eq!(made.to_string(), "dataset:a@1");
    assert!(dir.path().join(FILE).exists());
    drop(registry);
    let found = get(&open(dir.path()), "a", &[]).unwrap();
    assert_eq!((found.reference, found.parts.len()), (made, 1));
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| dir.path().join(name).metadata().unwrap().permissions().mode();
    std::fs::File::create(dir.path().join("other")).unwrap();
    assert_eq!(mode(FILE), mode("other"), "as any other new file");
}

#[test]
fn a_file_of_an_earlier_version_is_migrated_with_its_records() {
    let dir = dir();
    let path = dir.path().join(FILE);
    let mut old = Connection::open(&path).unwrap();
    schema::migrate_to(&mut old, 1).unwrap();
    assert_eq!(schema::version_of(&old).unwrap(), 1);
    old.execute_batch(
        "INSERT INTO record (kind, name, version, status, created_at, snapshot, snapshot_commit, row_count, checksum)
         VALUES ('dataset', 'a', 3, 'active', '2024-02-01T00:00:00Z', 's', 9, 0, 'c');
         INSERT INTO part (record, role, series, version, row_count, checksum)
         VALUES (1, 'member', 'kline/A/1m', 1, 0, 'c');",
    )
    .unwrap();
    assert!(old.prepare("SELECT definition FROM record").is_err(), "that came later");
    drop(old);
    // A copy in a backup is migrated only in memory.
    let before = std::fs::read(&path).unwrap();
    let registry = Registry::open_read_only(Some(&path));
    assert_eq!(get(&registry, "a", &["kline/A"]).unwrap().reference.version, 3);
    let refused = registry.begin_dataset("a", None, 0).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WriterStopped);
    drop(registry);
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let registry = open(dir.path());
    assert_eq!(registry.problem(), None);
    assert_eq!(get(&registry, "a", &["kline/A"]).unwrap().parts[0].series, "kline/A/1m");
    assert_eq!(get(&registry, "a", &["kline/B"]), None);
    assert!(registry.define(feature("f", &["kline/A/1m"], &["a@3"]), "i", &[]).unwrap().1);
    assert_eq!(add(&registry, "a", &["kline/A/1m"], &[]).version, 4);
    drop(registry);
    assert_eq!(schema::version_of(&Connection::open(&path).unwrap()).unwrap(), schema::version());
}

#[test]
fn a_newer_file_is_rejected_and_not_changed() {
    let dir = dir();
    drop(add(&open(dir.path()), "a", &["kline/A/1m"], &[]));
    let path = dir.path().join(FILE);
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", schema::version() + 1).unwrap();
    drop(newer);
    let before = std::fs::read(&path).unwrap();
    let registry = open(dir.path());
    let error = registry.begin_dataset("a", None, 0).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
    assert!(error.detail().contains("version 3") && error.detail().contains("up to 2"), "{error}");
    assert_eq!(registry.pending().unwrap_err().code(), ErrorCode::UnsupportedFormat);
    assert!(registry.problem().unwrap().contains("version 3"));
    drop(registry);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 0);
}

#[test]
fn a_lost_file_is_created_again_and_a_damaged_one_quarantined_with_the_reason() {
    let dir = dir();
    let path = dir.path().join(FILE);
    assert_eq!(Registry::open(dir.path(), true, 1_000).problem(), None);
    assert!(path.exists(), "a file was expected, so a new one is created");
    let whole = {
        drop(add(&open(dir.path()), "a", &["kline/A/1m"], &[]));
        std::fs::read(&path).unwrap()
    };
    let foreign = {
        let other = dir.path().join("other.sqlite");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        std::fs::read(&other).unwrap()
    };
    let mut torn = whole.clone();
    for byte in torn.iter_mut().skip(4_096).take(8_000) {
        *byte = 0x5a;
    }
    let cut = whole[..whole.len() / 2].to_vec();
    for (number, bytes) in
        [b"no database at all, but text of some length".to_vec(), foreign, torn, cut].iter().enumerate()
    {
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dir.path().join("registry.sqlite-wal"), b"").unwrap();
        let registry = Registry::open(dir.path(), true, 5_000);
        let problem = registry.problem().unwrap();
        assert!(problem.contains("moved to quarantine/"), "{problem}");
        assert_eq!(get(&registry, "a", &[]), None);
        // The registry works again at once.
        assert_eq!(add(&registry, "a", &["kline/A/1m"], &[]).version, 1);
        let kept = dir.path().join(format!("quarantine/{}", 5_000 + number));
        assert_eq!(&std::fs::read(kept.join(FILE)).unwrap(), bytes);
        let note: serde_json::Value =
            serde_json::from_slice(&std::fs::read(kept.join("registry.sqlite.reason.json")).unwrap()).unwrap();
        assert_eq!(note["file"], FILE);
        assert!(problem.starts_with(note["reason"].as_str().unwrap()), "{note}");
        drop(registry);
        assert_eq!(open(dir.path()).problem(), None, "the next open finds nothing wrong");
    }
    // A log without its file is useless.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(dir.path().join("registry.sqlite-wal"), b"left").unwrap();
    let registry = Registry::open(dir.path(), false, 9_000);
    assert!(registry.problem().is_none() && get(&registry, "a", &[]).is_none());
    assert_eq!(std::fs::read(dir.path().join("quarantine/9000/registry.sqlite-wal")).unwrap(), b"left");
}

#[test]
fn concurrent_creators_get_a_version_each() {
    let dir = dir();
    let registry = open(dir.path());
    let mut versions: Vec<u32> = std::thread::scope(|scope| {
        let make = || (0..10).map(|_| add(&registry, "a", &["kline/A/1m"], &[]).version).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, (1..=40).collect::<Vec<_>>());
    // A pending version is not assigned again, and a version used by a snapshot is never assigned.
    let pending_dataset = registry.begin_dataset("a", None, 0).unwrap();
    assert_eq!(registry.begin_dataset("a", Some("s"), 50).unwrap().version, 51);
    assert_eq!((pending_dataset.version, pending_dataset.snapshot.as_str()), (41, "dataset:a@41"));
    assert_eq!(registry.pending().unwrap().len(), 2);
    assert_eq!(registry.needed_by("s").unwrap()[0].version, 51);
    registry.remove_pending(&pending_dataset).unwrap();
    assert_eq!(registry.pending().unwrap().len(), 1);
}

#[test]
fn a_record_that_cannot_be_finished_leaves_no_trace() {
    let dir = dir();
    let registry = open(dir.path());
    let pending_dataset = registry.begin_dataset("a", None, 0).unwrap();
    let mut record = dataset(&pending_dataset, &["kline/A/1m"]);
    record.parents = vec!["gone@1".parse().unwrap()];
    assert_eq!(registry.insert_dataset(&record).unwrap_err().code(), ErrorCode::DatasetNotFound);
    assert_eq!(get(&registry, "a", &[]), None);
    assert_eq!(registry.pending().unwrap(), [pending_dataset], "for the cleanup");
}

#[test]
fn the_same_definition_keeps_its_version() {
    let dir = dir();
    let registry = open(dir.path());
    let define = |identity: &str| {
        let (reference, created) = registry.define(feature("f", &["kline/A/1m"], &[]), identity, &[]).unwrap();
        (reference.version, created)
    };
    assert_eq!([define("x"), define("x"), define("y"), define("x")], [(1, true), (1, false), (2, true), (1, false)]);
    let of_name = |name: &str| registry.get(RecordKind::Feature, name, None, &[]).unwrap();
    assert_eq!(of_name("f").unwrap().reference.version, 2);
    let archived: RecordRef = "feature:f@2".parse().unwrap();
    assert_eq!(registry.set_status(&archived, RecordStatus::Archived).unwrap(), None);
    assert_eq!(of_name("f").unwrap().reference.version, 1, "the latest that is not archived");
    let error = registry.set_status(&archived, RecordStatus::Active).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(of_name("g").is_none());
    // An archived version is not reused: the same definition becomes a new version.
    assert_eq!([define("y"), define("y"), define("x")], [(3, true), (3, false), (1, false)]);
}

#[test]
fn lineage_covers_all_steps_and_hides_invisible_records() {
    let dir = dir();
    let registry = open(dir.path());
    add(&registry, "raw", &["kline/A/1m"], &[]);
    add(&registry, "secret", &["kline/B/1m"], &[]);
    add(&registry, "clean", &["kline/A/1m"], &["raw@1", "secret@1"]);
    registry.define(feature("f", &[], &["clean@1"]), "f", &[]).unwrap();
    registry.define(feature("g", &["kline/B/1m"], &["feature:f@1"]), "g", &[]).unwrap();
    add(&registry, "last", &["kline/A/1m"], &["feature:f@1", "raw@1"]);
    let lineage = |of: &str, visible_prefixes: &[&str]| {
        let visible_prefixes: Vec<String> = visible_prefixes.iter().map(ToString::to_string).collect();
        registry.lineage(&of.parse().unwrap(), &visible_prefixes).unwrap()
    };
    let names = |nodes: &[LineageMember]| nodes.iter().map(|n| (n.reference.to_string(), n.depth)).collect::<Vec<_>>();
    let own = |pairs: &[(&str, u32)]| pairs.iter().map(|(n, d)| (n.to_string(), *d)).collect::<Vec<_>>();
    let found = lineage("last@1", &[]).unwrap();
    let upstream = [("dataset:raw@1", 1), ("feature:f@1", 1), ("dataset:clean@1", 2), ("dataset:secret@1", 3)];
    assert_eq!(names(&found.upstream), own(&upstream));
    assert_eq!((found.edges.len(), found.truncated), (5, false));
    let found = lineage("raw@1", &[]).unwrap();
    assert_eq!(
        names(&found.downstream),
        own(&[("dataset:clean@1", 1), ("dataset:last@1", 1), ("feature:f@1", 2), ("feature:g@1", 3)])
    );
    // For a caller that sees only A: neither the secret nor records that need it.
    let found = lineage("clean@1", &["kline/A"]).unwrap();
    assert_eq!(names(&found.upstream), own(&[("dataset:raw@1", 1)]));
    assert_eq!(names(&found.downstream), own(&[("feature:f@1", 1), ("dataset:last@1", 2)]));
    assert_eq!(get(&registry, "clean", &["kline/A"]).unwrap().parents.len(), 1);
    assert_eq!(lineage("secret@1", &["kline/A"]), None);
    assert_eq!(lineage("none@1", &[]), None);
}

#[test]
fn a_truncated_lineage_is_marked() {
    let dir = dir();
    let registry = open(dir.path());
    add(&registry, "root", &["kline/A/1m"], &[]);
    for number in 0..=LINEAGE_MAX {
        registry.define(feature(&format!("f{number}"), &["kline/A/1m"], &["root@1"]), "i", &[]).unwrap();
    }
    let found = registry.lineage(&"root@1".parse().unwrap(), &[]).unwrap().unwrap();
    assert_eq!((found.downstream.len(), found.truncated), (LINEAGE_MAX, true));
}

#[test]
fn lists_are_filtered_and_paged_over_visible_records() {
    let dir = dir();
    let registry = open(dir.path());
    for (name, key) in [("b", "kline/A/1m"), ("a", "kline/B/1m"), ("b", "kline/A/1m"), ("c", "kline/A/1h")] {
        add(&registry, name, &[key], &[]);
    }
    let page = |limit: usize, after: Option<(&str, u32)>, visible_prefixes: &[&str], series: Option<&str>| {
        let visible_prefixes: Vec<String> = visible_prefixes.iter().map(ToString::to_string).collect();
        let filter = RecordSelection {
            kind: RecordKind::Dataset,
            name: None,
            status: None,
            source: Some("here"),
            market: None,
            series,
            parent: None,
            after: after.map(|(name, version)| (name.to_owned(), version)),
            limit,
            visible_prefixes: &visible_prefixes,
        };
        let page = registry.page(&filter).unwrap();
        (page.records.iter().map(|record| record.reference.short()).collect::<Vec<_>>(), page.is_last)
    };
    assert_eq!(page(3, None, &[], None), (vec!["a@1".into(), "b@1".into(), "b@2".into()], false));
    assert_eq!(page(3, Some(("b", 2)), &[], None), (vec!["c@1".into()], true));
    assert_eq!(page(1, None, &["kline/A"], None), (vec!["b@1".into()], false), "hidden records do not count");
    assert_eq!(page(9, None, &["kline/C"], None), (Vec::new(), true));
    assert_eq!(page(9, None, &["kline/A/1h", "kline/B"], None).0, ["a@1", "c@1"]);
    assert_eq!(page(9, None, &[], Some("kline/A/1m")).0, ["b@1", "b@2"]);
}

#[test]
fn records_derived_from_a_hidden_record_are_not_found_by_it() {
    let dir = dir();
    let registry = open(dir.path());
    add(&registry, "open", &["kline/A/1m"], &[]);
    let secret = add(&registry, "secret", &["kline/B/1m"], &[]);
    add(&registry, "mixed", &["kline/A/1m"], &["open@1", "secret@1"]);
    let made_of = |parent: &str, visible_prefixes: &[&str]| {
        let visible_prefixes: Vec<String> = visible_prefixes.iter().map(ToString::to_string).collect();
        let filter = RecordSelection {
            kind: RecordKind::Dataset,
            name: None,
            status: None,
            source: None,
            market: None,
            series: None,
            parent: Some(&parent.parse().unwrap()),
            after: None,
            limit: 9,
            visible_prefixes: &visible_prefixes,
        };
        registry.page(&filter).unwrap().records.iter().map(|record| record.reference.short()).collect::<Vec<_>>()
    };
    assert_eq!(made_of("secret@1", &[]), ["mixed@1"]);
    assert_eq!(made_of("open@1", &["kline/A"]), ["mixed@1"]);
    assert_eq!(made_of("secret@1", &["kline/A", "kline/C"]), made_of("nosuch@1", &["kline/A"]));
    let seen = |visible_prefixes: &str| registry.is_visible(&secret, &[visible_prefixes.to_owned()]).unwrap();
    assert!(seen("kline/B") && !seen("kline/A") && registry.is_visible(&secret, &[]).unwrap());
    assert!(!registry.is_visible(&"secret@2".parse().unwrap(), &[]).unwrap());
}

#[test]
fn archiving_a_dataset_marks_its_own_snapshot_to_be_dropped() {
    let dir = dir();
    let registry = open(dir.path());
    let own = add(&registry, "a", &["kline/A/1m"], &[]);
    let pending_dataset = registry.begin_dataset("b", Some("kept"), 0).unwrap();
    registry.insert_dataset(&dataset(&pending_dataset, &["kline/A/1m"])).unwrap();
    assert_eq!(registry.needed_by("dataset:a@1").unwrap(), std::slice::from_ref(&own));
    assert_eq!(registry.needed_by("kept").unwrap().len(), 1);
    let pending = registry.set_status(&own, RecordStatus::Archived).unwrap().unwrap();
    assert_eq!(pending.snapshot, "dataset:a@1");
    assert_eq!(registry.pending().unwrap(), std::slice::from_ref(&pending));
    // Archiving again returns the entry while it is pending.
    assert_eq!(registry.set_status(&own, RecordStatus::Archived).unwrap().as_ref(), Some(&pending));
    registry.remove_pending(&pending).unwrap();
    assert_eq!(registry.set_status(&own, RecordStatus::Archived).unwrap(), None);
    assert!(registry.pending().unwrap().is_empty());
    assert!(registry.needed_by("dataset:a@1").unwrap().is_empty());
    // A snapshot that existed before stays.
    assert_eq!(registry.set_status(&"b@1".parse().unwrap(), RecordStatus::Archived).unwrap(), None);
    assert!(registry.needed_by("kept").unwrap().is_empty());
}

#[test]
fn a_copy_is_complete_and_independent() {
    let dir = dir();
    let registry = open(dir.path());
    add(&registry, "a", &["kline/A/1m"], &[]);
    let copy = dir.path().join("a name with %, ? and #.sqlite");
    assert!(registry.copy_to(&copy).unwrap());
    add(&registry, "a", &["kline/A/1m"], &[]);
    let copied = Registry::open_read_only(Some(&copy));
    assert_eq!(get(&copied, "a", &[]).unwrap().reference.version, 1);
    assert_eq!(copied.problem(), None);
    let exists_with = |end: &str| dir.path().join(format!("a name with %, ? and #.sqlite{end}")).exists();
    assert!(!exists_with("-wal") && !exists_with("-shm"));
    assert!(registry.copy_to(&copy).is_err(), "never over a file");
}
