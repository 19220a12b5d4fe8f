//! Kinds of series that users register: durable, replayed, in the manifest, and recovered from their series.

use crate::sim_disk::{SimDisk, SimState};
use fastk::ErrorCode;
use fastk::store::{RepairOptions, SeriesWrite, Store, StoreOptions, WriteMode, repair};
use fastk::types::{ColumnChange, KindDef, Rows, SeriesDef, SeriesKey, SeriesSpec};

use super::guarantees::options as engine_options;

const ROOT: &str = "/lab/store";

/// Short segments, so that checkpoints trim the log.
fn options() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 8 << 10, ..engine_options() }
}

fn kind(name: &str) -> KindDef {
    serde_json::from_str(&format!(
        r#"{{"kind":"{name}","key":["underlying","contract"],"unit":"us",
            "fields":[{{"name":"delta","type":"float64"}},{{"name":"price","type":"decimal","digits":4}}],
            "rules":[{{"rule":"non_negative","field":"price"}}],"sql_name":"t_{name}"}}"#
    ))
    .unwrap()
}

fn series(kind: &KindDef, contract: &str) -> SeriesDef {
    SeriesSpec::of_key(&SeriesKey::new(&kind.name, &["SPX", contract]).unwrap()).resolve_as(kind).unwrap()
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(&disk.path(ROOT), false, options()).unwrap()
}

/// A store with the kinds `greeks`, which has a series, and `chains`, which has none.
fn filled() -> SimDisk {
    let disk = SimDisk::new(SimState::default(), 7);
    let store = Store::open_on(&disk.path(ROOT), true, options()).unwrap();
    let greeks = kind("greeks");
    assert!(store.register_kind(greeks.clone()).unwrap().1);
    assert!(store.register_kind(kind("chains")).unwrap().1);
    assert!(!store.register_kind(greeks.clone()).unwrap().1, "the same definition again");
    let def = series(&greeks, "C5000");
    store.register(def.clone()).unwrap();
    let rows = Rows::of_words(vec![1, 2], vec![vec![0, 0], vec![10_000, 20_000]]);
    store.write(&def.key, rows, WriteMode::Upsert, None).unwrap();
    disk
}

fn kinds(store: &Store) -> Vec<String> {
    store.snapshot().kinds.keys().cloned().collect()
}

#[test]
fn kinds_survive_replay_and_checkpoints() {
    let disk = filled();
    let store = open(&disk);
    assert_eq!(kinds(&store), ["chains", "greeks"]);
    assert_eq!(*store.kind("greeks").unwrap(), kind("greeks"));
    let commits = store.snapshot().kinds.values().map(|kind| kind.commit).collect::<Vec<_>>();
    store.checkpoint().unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!(store.snapshot().kinds.values().map(|kind| kind.commit).collect::<Vec<_>>(), commits);
    assert_eq!(*store.kind("greeks").unwrap(), kind("greeks"));
    store.drop_kind("chains").unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!(kinds(&store), ["greeks"], "the drop is replayed");
    store.checkpoint().unwrap();
    drop(store);
    assert_eq!(kinds(&open(&disk)), ["greeks"], "the drop is in the manifest");
}

#[test]
fn a_kind_with_series_cannot_be_dropped_nor_redefined() {
    let disk = filled();
    let store = open(&disk);
    let code = |error: fastk::Error| error.code();
    assert_eq!(code(store.drop_kind("greeks").unwrap_err()), ErrorCode::KindInUse);
    assert_eq!(code(store.drop_kind("greek").unwrap_err()), ErrorCode::NotFound);
    assert_eq!(code(store.drop_kind("kline").unwrap_err()), ErrorCode::KindInUse);
    let other = KindDef { rules: Vec::new(), ..kind("greeks") };
    assert_eq!(code(store.register_kind(other.clone()).unwrap_err()), ErrorCode::KindExists);
    assert_eq!(
        code(store.register_kind(KindDef { name: "trade".into(), ..other.clone() }).unwrap_err()),
        ErrorCode::KindExists
    );
    // A definition that another one has replaced meanwhile.
    assert_eq!(code(store.register(series(&other, "P1")).unwrap_err()), ErrorCode::KindExists);
    let unknown = series(&kind("unknown"), "P1");
    assert_eq!(code(store.register(unknown.clone()).unwrap_err()), ErrorCode::NotFound);
    let write = SeriesWrite {
        create: Some(unknown.clone().into()),
        ..SeriesWrite::new(unknown.key, Rows::of_words(vec![1], vec![vec![0], vec![1]]), WriteMode::Upsert)
    };
    assert_eq!(code(store.write_many(vec![write], None).unwrap_err()), ErrorCode::NotFound);
    let key = series(&kind("greeks"), "C5000").key;
    store.create_snapshot("held").unwrap();
    store.drop_series(&key, None).unwrap();
    let error = store.drop_kind("greeks").unwrap_err();
    assert!(error.hint().unwrap().contains("snapshots"), "{error:?}");
    store.drop_snapshot("held").unwrap();
    store.drop_kind("greeks").unwrap();
    store.register_kind(other).unwrap();
}

#[test]
fn a_rebuilt_manifest_has_the_kinds_of_its_series_and_lists_those_without() {
    for evolved in [false, true] {
        let disk = filled();
        let store = open(&disk);
        store.register(series(&kind("greeks"), "P1")).unwrap();
        if evolved {
            let change: ColumnChange = serde_json::from_str(r#"{"name":"price","digits":6}"#).unwrap();
            store
                .change_series(&series(&kind("greeks"), "P1").key, None, |def| {
                    *def = def.evolved(&[change])?;
                    Ok(())
                })
                .unwrap();
        }
        let key = series(&kind("greeks"), "C5000").key;
        for first in 0..12 {
            let ts: Vec<i64> = (first * 100..first * 100 + 100).collect();
            let price = ts.iter().map(|ts| ts + 1).collect();
            store.write(&key, Rows::of_words(ts, vec![vec![0; 100], price]), WriteMode::Upsert, None).unwrap();
            store.seal(&[]).unwrap();
            store.checkpoint().unwrap();
        }
        drop(store);
        let options = RepairOptions { apply: true, rebuild_manifest: true };
        let report = repair(&disk.path(ROOT), options).unwrap();
        let forgotten = report.forgotten.join("\n");
        assert!(forgotten.contains("kinds without series") && forgotten.contains("kind greeks"), "{forgotten}");
        let store = open(&disk);
        assert_eq!(kinds(&store), ["greeks"]);
        let found = store.kind("greeks").unwrap();
        assert_eq!(
            (&found.key, &found.fields, &found.rules),
            (&kind("greeks").key, &kind("greeks").fields, &kind("greeks").rules)
        );
        assert_eq!(
            store.register_kind(KindDef { unit: fastk::types::TimeUnit::Ms, ..kind("greeks") }).unwrap_err().code(),
            ErrorCode::KindExists
        );
    }
}

#[test]
fn digits_that_a_stored_value_does_not_fit_are_refused_wherever_it_is_stored() {
    for place in ["log", "run", "chunk", "overwritten", "deleted", "chunk without zone map"] {
        let disk = filled();
        let store = open(&disk);
        let key = series(&kind("greeks"), "C5000").key;
        // 123456789012.3456 has twelve digits before the point.
        let write = |price: i64, ts: i64| {
            let rows = Rows::of_words(vec![ts], vec![vec![0], vec![price]]);
            store.write(&key, rows, WriteMode::Upsert, None).unwrap();
        };
        write(-1_234_567_890_123_456, 5);
        match place {
            "run" => store.checkpoint().unwrap(),
            "log" => {}
            _ => drop(store.seal(&[]).unwrap()),
        }
        if place == "overwritten" {
            write(1, 5);
        }
        if place == "deleted" {
            store.delete_range(&key, (5, 5), None).unwrap();
        }
        drop(store);
        let mut state = disk.state();
        if place == "chunk without zone map" {
            for path in state.files().into_keys().filter(|path| path.to_string_lossy().ends_with(".zmap")) {
                state.remove_file(&path).unwrap();
            }
        }
        let disk = SimDisk::new(state, 8);
        let store = open(&disk);
        let before = store.snapshot().commit;
        let widen = |json: &str| {
            let change: ColumnChange = serde_json::from_str(json).unwrap();
            store.change_series(&key, None, |def| {
                *def = def.evolved(&[change])?;
                Ok(())
            })
        };
        let error = widen(r#"{"name":"price","digits":7}"#).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{place}");
        assert!(error.detail().contains("123456789012.3456 does not fit decimal(7)"), "{place}: {error}");
        assert!(error.hint().unwrap().contains("up to 6 digits"), "{place}: {error:?}");
        assert!(
            widen(r#"{"name":"price","digits":27,"wide":true}"#).unwrap_err().hint().unwrap().contains("26 digits")
        );
        assert_eq!(store.snapshot().commit, before, "{place}");
        widen(r#"{"name":"price","digits":6}"#).unwrap();
        widen(r#"{"name":"price","digits":26,"wide":true}"#).unwrap();
        let read = || store.reader().select(&key, &fastk::Select::default()).unwrap().doubles(0).unwrap();
        let rows = read();
        store.seal(&[]).unwrap();
        store.compact(&[], true).unwrap();
        assert_eq!(read(), rows, "{place}");
    }
}
