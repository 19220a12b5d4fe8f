//! Each operation of the disk fails, once and permanently: every call succeeds or returns a documented error, reads
//! continue, acknowledged commits remain, and the writer stops or continues as documented.

use std::sync::Arc;

use crate::sim_disk::{Fault, FaultPlan, Moment, Op, Rng, SimDisk, SimState};
use fastk::store::{Durability, SeriesWrite, Store, StoreOptions, WriteMode};
use fastk::{Error, ErrorCode};

use super::rounds::{amount, cases, close};
use super::world::{MINUTE, Once, Shot, compare, keys, minutes, observe, open, register_all};

/// A call with at most one commit.
type Call = fn(&Store) -> fastk::Result<()>;

pub struct Scenario {
    pub name: &'static str,
    /// Creates the store for the calls.
    prepare: fn(&Store),
    calls: &'static [Call],
}

pub fn options() -> StoreOptions {
    StoreOptions {
        wal_segment_bytes: 4 << 10,
        durability: Durability::Sync,
        background_maintenance: false,
        tail_rows_max: 3_200,
        ..StoreOptions::default()
    }
}

pub fn put(store: &Store, which: usize, first: i64, count: i64) -> fastk::Result<()> {
    store.write(&keys()[which], minutes(first, count, 0), WriteMode::Upsert, None).map(drop)
}

pub fn fill(store: &Store) {
    for which in 0..3 {
        put(store, which, 0, 12).unwrap();
    }
    store.create_snapshot("then").unwrap();
    put(store, 0, 5, 10).unwrap();
    store.delete_range(&keys()[1], (3 * MINUTE, 6 * MINUTE), None).unwrap();
    many(store).unwrap();
}

fn many(store: &Store) -> fastk::Result<()> {
    let writes = keys().into_iter().map(|key| SeriesWrite::new(key, minutes(20, 4, 3), WriteMode::Upsert));
    store.write_many(writes.collect(), Some("many")).map(drop)
}

/// A commit whose frame is not gathered with others: its head, payload and padding are written one after the other.
pub fn put_large(store: &Store) -> fastk::Result<()> {
    let writes = keys().into_iter().map(|key| SeriesWrite::new(key, minutes(100, 2_500, 3), WriteMode::Upsert));
    store.write_many(writes.collect(), Some("large")).map(drop)
}

fn sealed_often(store: &Store) {
    fill(store);
    for part in 0..4 {
        put(store, 0, part * 7, 9).unwrap();
        put(store, 1, part * 5, 9).unwrap();
        store.seal(&[]).unwrap();
    }
}

fn settled_often(store: &Store) {
    fill(store);
    for part in 0..7 {
        put(store, 2, part * 3, 5).unwrap();
        store.checkpoint().unwrap();
    }
}

fn seal(store: &Store) -> fastk::Result<()> {
    store.seal(&[]).map(drop)
}

fn compact(store: &Store) -> fastk::Result<()> {
    store.compact(&[], true).map(drop)
}

fn vacuum(store: &Store) -> fastk::Result<()> {
    store.vacuum().map(drop)
}

fn drop_first(store: &Store) -> fastk::Result<()> {
    store.drop_series(&keys()[0], None).map(drop)
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "write", prepare: fill, calls: &[|store| put(store, 0, 30, 2)] },
    Scenario {
        name: "write beyond a segment",
        prepare: fill,
        calls: &[|store| put(store, 0, 30, 60), |store| put(store, 1, 30, 60), |store| put(store, 2, 30, 200)],
    },
    Scenario {
        name: "write of many",
        prepare: |store| {
            fill(store);
            store.seal(&[]).unwrap();
        },
        calls: &[|store| {
            let mode = WriteMode::Merge { first: None };
            let writes = keys().into_iter().map(|key| SeriesWrite::new(key, minutes(2, 20, 5), mode));
            store.write_many(writes.collect(), Some("more")).map(drop)
        }],
    },
    Scenario { name: "write too large to be copied", prepare: fill, calls: &[put_large] },
    Scenario {
        name: "delete",
        prepare: sealed_often,
        calls: &[|store| store.delete_range(&keys()[0], (4 * MINUTE, 9 * MINUTE), None).map(drop)],
    },
    Scenario {
        name: "snapshot",
        prepare: fill,
        calls: &[|store| store.create_snapshot("now").map(drop), |store| store.drop_snapshot("then").map(drop)],
    },
    Scenario {
        name: "load",
        prepare: |store| {
            fill(store);
            store.seal(&[]).unwrap();
            store.delete_range(&keys()[0], (2 * MINUTE, 3 * MINUTE), None).unwrap();
        },
        // Across the end of a day, and after rows that are only in the log.
        calls: &[
            |store| put(store, 0, 1_200, 3_200),
            |store| put(store, 1, 1_000, 2),
            |store| put(store, 1, 1_200, 3_200),
        ],
    },
    Scenario { name: "seal", prepare: fill, calls: &[seal] },
    Scenario { name: "checkpoint", prepare: fill, calls: &[Store::checkpoint] },
    Scenario { name: "run merge", prepare: settled_often, calls: &[|store| put(store, 2, 40, 2), Store::checkpoint] },
    Scenario { name: "compaction", prepare: sealed_often, calls: &[compact] },
    Scenario {
        name: "vacuum",
        prepare: |store| {
            sealed_often(store);
            store.drop_snapshot("then").unwrap();
            store.compact(&[], true).unwrap();
        },
        calls: &[vacuum],
    },
    Scenario {
        name: "sidecars",
        prepare: |store| {
            fill(store);
            store.seal(&[]).unwrap();
            for key in keys() {
                store
                    .change_series(&key, None, |def| {
                        def.value_index = vec!["high".into()];
                        Ok(())
                    })
                    .unwrap();
            }
        },
        calls: &[|store| store.rebuild_sidecars().map(drop)],
    },
    Scenario {
        name: "manifest checkpoint",
        prepare: |store| {
            fill(store);
            for part in 0..61 {
                put(store, 2, part, 1).unwrap();
                store.seal(&[]).unwrap();
            }
        },
        calls: &[|store| put(store, 0, 50, 1), seal, |store| put(store, 0, 51, 1), seal],
    },
    Scenario { name: "drop", prepare: sealed_often, calls: &[drop_first, Store::checkpoint, vacuum] },
    Scenario {
        name: "retention",
        prepare: |store| {
            sealed_often(store);
            store
                .change_series(&keys()[0], None, |def| {
                    def.retention = Some(fastk::types::schema::Retention { max_age: None, max_rows: Some(5) });
                    Ok(())
                })
                .unwrap();
        },
        calls: &[|store| store.apply_retention(&[]).map(drop), compact, vacuum],
    },
    Scenario {
        name: "change of a series",
        prepare: sealed_often,
        calls: &[|store| {
            let change = |def: &mut fastk::SeriesDef| {
                def.value_index = vec!["low".into()];
                Ok(())
            };
            store.change_series(&keys()[0], None, change).map(drop)
        }],
    },
];

/// A run of a scenario without faults.
struct Plain {
    base: SimState,
    /// The contents of the store before the first call and after each.
    shots: Vec<Arc<Shot>>,
    receipts: Vec<Once>,
    /// The purpose of each operation that changes the disk.
    roles: Vec<Role>,
    ops: u64,
}

/// The purpose of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Frames and their syncs.
    Frames,
    NewSegment,
    Edit,
    Other,
}

impl Plain {
    fn of(scenario: &Scenario) -> Self {
        let disk = SimDisk::new(SimState::default(), 1);
        let store = open(&disk, &options()).unwrap();
        register_all(&store);
        (scenario.prepare)(&store);
        let base = disk.state();
        drop(store);
        let disk = SimDisk::new(base.clone(), 2);
        let store = open(&disk, &options()).unwrap();
        let (shot, mut receipts) = observe(&store);
        let mut shots = vec![shot];
        disk.record();
        disk.fail(None);
        for call in scenario.calls {
            call(&store).unwrap();
        }
        let ops = disk.counted().0;
        let moments = disk.recorded();
        // Runs again and observes the contents between the calls: those reads must not be counted.
        drop(store);
        let disk = SimDisk::new(base.clone(), 2);
        let store = open(&disk, &options()).unwrap();
        for call in scenario.calls {
            call(&store).unwrap();
            let (shot, found) = observe(&store);
            shots.push(shot);
            receipts = found;
        }
        let roles = (0..moments.len()).map(|at| {
            let moment = &moments[at];
            let here = moment.path.to_string_lossy();
            if here.contains("/wal/") && matches!(moment.op, Op::Write | Op::Sync) {
                return Role::Frames;
            }
            // A temporary file serves the next link; the sync of a directory serves the last link.
            let linked = if here.contains("/tmp/") && moment.op != Op::Remove {
                let own = |next: &&Moment| next.op != Op::Remove || next.path != moment.path;
                moments[at..].iter().take_while(own).find(|moment| moment.op == Op::Link)
            } else if moment.op == Op::SyncDir {
                moments[..at].iter().rev().find(|moment| moment.op == Op::Link)
            } else {
                Some(moment).filter(|moment| moment.op == Op::Link)
            };
            if here.contains("/wal/") && moment.op == Op::Remove {
                return Role::NewSegment;
            }
            match linked.map(|moment| moment.path.to_string_lossy().into_owned()) {
                Some(path) if path.ends_with(".edit") => Role::Edit,
                Some(path) if path.ends_with(".wal") => Role::NewSegment,
                _ => Role::Other,
            }
        });
        Self { base, shots, receipts, roles: roles.collect(), ops }
    }
}

fn documented(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Io | ErrorCode::StorageFull | ErrorCode::WriterStopped)
}

/// Runs a scenario with these faults; returns whether any occurred.
fn run(scenario: &Scenario, plain: &Plain, plans: &[FaultPlan], seed: u64) -> bool {
    let place = format!("{}, {plans:?}", scenario.name);
    let disk = SimDisk::new(plain.base.clone(), seed);
    let store = open(&disk, &options()).unwrap();
    disk.fail(plans.first().copied());
    if let Some(second) = plans.get(1) {
        disk.fail_also(*second);
    }
    let (mut done, mut failed) = (0, None);
    for call in scenario.calls {
        if let Err(error) = call(&store) {
            assert!(documented(&error), "{place}: {error:?}");
            failed = Some(error);
            break;
        }
        done += 1;
    }
    let ((ops, faults), hit) = (disk.counted(), disk.hit());
    disk.fail(None);
    let place = format!("{place}, failed at {hit:?}, answered {failed:?}");
    assert!(ops <= 4 * plain.ops + 300, "{place}: {ops} operations, {} without faults", plain.ops);

    // Acknowledged commits are visible; the failed one is atomic.
    let mut allowed = vec![Arc::clone(&plain.shots[done])];
    allowed.extend(plain.shots.get(done + 1).cloned());
    let same = |store: &Store, allowed: &[Arc<Shot>], what: &str| {
        compare(store, &keys(), allowed, &plain.receipts).unwrap_or_else(|error| panic!("{place}; {what}: {error}"))
    };
    let shown = same(&store, &allowed, "in the same process");
    let crashed = disk.state();

    let stopped = store.writer_stopped();
    if stopped.is_some() && matches!(hit, Some((Op::Write | Op::Sync, ref path)) if path.starts_with("/store/wal")) {
        assert_eq!(shown.commit, plain.shots[done].commit, "{place}: what was refused is shown");
    }
    if let (Some((op, _)), [plan]) = (&hit, plans) {
        let role = plain.roles.get(usize::try_from(plan.at).unwrap()).copied();
        let role = if plan.only_changes && plan.fault != Fault::Short { role } else { None };
        match (role, plan.fault) {
            (Some(Role::Frames), Fault::Io) | (Some(Role::Edit), Fault::Io) => {
                assert!(stopped.is_some(), "{place}: the store goes on after {op:?} failed");
            }
            // Frames are written into reserved space: a full disk occurs only where it loses nothing.
            (Some(Role::Frames), Fault::Full) => assert!(stopped.is_some(), "{place}: it goes on after {op:?} failed"),
            (Some(Role::Other), _) if !plan.forever => assert_eq!(stopped, None, "{place}"),
            // A checkpoint on a full disk releases the reserve and retries.
            (Some(Role::NewSegment), Fault::Full) if *op == Op::Remove => assert_eq!(stopped, None, "{place}"),
            (Some(Role::NewSegment), Fault::Full) => {
                assert_eq!(stopped, None, "{place}");
                assert_eq!(failed.as_ref().map(Error::code), Some(ErrorCode::StorageFull), "{place}");
            }
            (Some(Role::Frames | Role::Edit | Role::NewSegment), Fault::Interrupted) if *op != Op::Sync => {
                assert!(failed.is_none(), "{place}: an interrupted call is made again");
            }
            _ => {}
        }
        if matches!(plan.fault, Fault::Short) {
            assert!(failed.is_none() && stopped.is_none(), "{place}: a short write or read goes on");
        }
    }
    let mut last = shown;
    if stopped.is_some() {
        let refused = put(&store, 2, 900, 1).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::WriterStopped, "{place}");
        assert_eq!(
            seal(&store).err().map(|error| error.code()).unwrap_or(ErrorCode::WriterStopped),
            ErrorCode::WriterStopped,
            "{place}"
        );
        last = same(&store, &allowed, "when writing has stopped");
    } else {
        // The calls continue after the failed one.
        let repeat = failed.is_some() && last.commit == plain.shots[done].commit;
        for call in &scenario.calls[done + usize::from(failed.is_some() && !repeat)..] {
            call(&store).unwrap_or_else(|error| panic!("{place}; again: {error}"));
        }
        last = same(&store, &plain.shots[plain.shots.len() - 1..], "after going on").clone();
    }
    drop(store);

    // A power cut right after the fault, a kill, and an orderly close.
    for image in 0..3 {
        let left = if image == 0 { crashed.clone() } else { crashed.after_power_loss(seed ^ image) };
        let disk = SimDisk::new(left, seed);
        let store = open(&disk, &options()).unwrap_or_else(|error| panic!("{place}; power cut {image}: {error}"));
        same(&store, &allowed, "after a power cut");
    }
    let store = open(&disk, &options()).unwrap_or_else(|error| panic!("{place}; opened again: {error}"));
    // Frames of a stopped writer may be recovered or not.
    let end = if stopped.is_some() { allowed } else { vec![last] };
    same(&store, &end, "opened again");
    put(&store, 2, 901, 1).unwrap_or_else(|error| panic!("{place}; opened again: {error}"));
    seal(&store).unwrap();
    store.checkpoint().unwrap();
    let (shot, _) = observe(&store);
    drop(store);
    let store = open(&disk, &options()).unwrap();
    same(&store, &[shot], "at last");
    faults > 0
}

const KINDS: [(Fault, bool, bool); 8] = [
    (Fault::Io, false, true),
    (Fault::Io, true, true),
    (Fault::Full, false, true),
    (Fault::Full, true, true),
    (Fault::Io, false, false),
    (Fault::Io, true, false),
    (Fault::Short, false, false),
    (Fault::Interrupted, false, false),
];

/// Every operation of these scenarios, until no fault occurs.
fn every(test: &str, part: usize) {
    let started_at = std::time::Instant::now();
    // A fixed share of the operations when the amount is below 100 percent.
    let step = usize::try_from(20 / amount(20)).unwrap().max(1);
    let mut count = 0;
    for number in (0..SCENARIOS.len()).filter(|number| number % 3 == part) {
        count += exhaust(number, step);
    }
    close(test, &format!("{count} faults in {} scenarios", SCENARIOS.len().div_ceil(3)), started_at);
}

/// Every fault at every `step`th operation of a scenario; returns the number of runs.
pub fn exhaust(number: usize, step: usize) -> u64 {
    let scenario = &SCENARIOS[number];
    let plain = Plain::of(scenario);
    let mut count = 0;
    for (fault, forever, only_changes) in KINDS {
        for at in (number as u64 % step as u64..).step_by(step) {
            let plan = FaultPlan { at, fault, forever, only_changes };
            count += 1;
            if !run(scenario, &plain, &[plan], at) {
                break;
            }
        }
    }
    count
}

#[test]
fn any_failed_operation_keeps_the_guarantees_part_1() {
    every("disk_faults::any_failed_operation_keeps_the_guarantees_part_1", 0);
}

#[test]
fn any_failed_operation_keeps_the_guarantees_part_2() {
    every("disk_faults::any_failed_operation_keeps_the_guarantees_part_2", 1);
}

#[test]
fn any_failed_operation_keeps_the_guarantees_part_3() {
    every("disk_faults::any_failed_operation_keeps_the_guarantees_part_3", 2);
}

#[test]
fn any_two_failed_operations_keep_the_guarantees() {
    let plains: Vec<Plain> = SCENARIOS.iter().map(Plain::of).collect();
    cases("disk_faults::any_two_failed_operations_keep_the_guarantees", "double faults", 10_000, |seed| {
        let mut rng = Rng(seed);
        let which = (rng.roll() % SCENARIOS.len() as u64) as usize;
        let ops = plains[which].ops;
        let mut plan = || {
            let (fault, forever, only_changes) = KINDS[(rng.roll() % KINDS.len() as u64) as usize];
            FaultPlan { at: rng.roll() % ops, fault, forever: forever && fault == Fault::Io, only_changes }
        };
        let plans = [plan(), plan()];
        run(&SCENARIOS[which], &plains[which], &plans, seed);
        1
    });
}

/// States in which a store is opened.
fn openings() -> Vec<(&'static str, SimState)> {
    let made = |prepare: fn(&Store)| {
        let disk = SimDisk::new(SimState::default(), 1);
        let store = open(&disk, &options()).unwrap();
        register_all(&store);
        prepare(&store);
        let state = disk.state();
        drop(store);
        (state, disk)
    };
    let replay = made(|store| {
        fill(store);
        put(store, 0, 30, 100).unwrap();
    });
    let torn = {
        let disk = SimDisk::new(replay.0.clone(), 3);
        let store = open(&disk, &options()).unwrap();
        disk.record();
        put(&store, 0, 60, 9).unwrap();
        let moments = disk.recorded();
        let images = (0..100).flat_map(|seed| moments.iter().map(move |moment| moment.before.after_power_loss(seed)));
        let torn =
            |state: &SimState| !open(&SimDisk::new(state.clone(), 1), &options()).unwrap().recovery().torn.is_empty();
        { images }.find(torn).expect("some image has a torn tail")
    };
    let dropped = made(|store| {
        sealed_often(store);
        store.drop_snapshot("then").unwrap();
        drop_first(store).unwrap();
    });
    vec![
        ("a new store", SimState::default()),
        ("a log to replay", replay.0),
        ("a torn log", torn),
        (
            "chunks and run files",
            made(|store| {
                sealed_often(store);
                put(store, 1, 70, 3).unwrap();
                store.checkpoint().unwrap();
                put(store, 1, 80, 3).unwrap();
            })
            .0,
        ),
        ("a dropped series", dropped.0),
        ("an orderly end", dropped.1.state()),
    ]
}

#[test]
fn any_failed_operation_during_open_loses_nothing() {
    let (started_at, mut count) = (std::time::Instant::now(), 0);
    for (name, base) in openings() {
        let disk = SimDisk::new(base.clone(), 5);
        disk.fail(None);
        let store = open(&disk, &options()).unwrap();
        let ops = disk.counted().0;
        let (shot, receipts) = observe(&store);
        let same = |store: &Store, place: &str| {
            compare(store, &keys(), &[Arc::clone(&shot)], &receipts).unwrap_or_else(|error| panic!("{place}: {error}"))
        };
        for (fault, forever, only_changes) in KINDS {
            for at in 0.. {
                let plan = FaultPlan { at, fault, forever, only_changes };
                let disk = SimDisk::new(base.clone(), 5);
                disk.fail(Some(plan));
                let outcome = open(&disk, &options());
                let ((done, faults), hit) = (disk.counted(), disk.hit());
                disk.fail(None);
                let place = format!("{name}, {plan:?}, failed at {hit:?}");
                assert!(done <= 4 * ops + 300, "{place}: {done} operations, {ops} without faults");
                match outcome {
                    Ok(store) => {
                        same(&store, &place);
                    }
                    Err(error) => assert!(documented(&error), "{place}: {error:?}"),
                }
                for image in 0..2 {
                    let left = if image == 0 { disk.state() } else { disk.state().after_power_loss(at) };
                    let disk = SimDisk::new(left, at);
                    let store = open(&disk, &options()).unwrap_or_else(|error| panic!("{place}; then: {error}"));
                    same(&store, &place);
                    if shot.commit > 0 {
                        put(&store, 2, 900, 1).unwrap();
                    }
                }
                count += 1;
                if faults == 0 {
                    break;
                }
            }
        }
    }
    let name = "any_failed_operation_during_open_loses_nothing";
    close(name, &format!("{count} faults"), started_at);
}

#[test]
fn any_failed_operation_during_close_loses_nothing() {
    let (started_at, mut count) = (std::time::Instant::now(), 0);
    let plain = Plain::of(&SCENARIOS[0]);
    for (fault, forever, only_changes) in KINDS {
        for at in 0.. {
            let disk = SimDisk::new(plain.base.clone(), at);
            let store = open(&disk, &options()).unwrap();
            put(&store, 0, 30, 2).unwrap();
            disk.fail(Some(FaultPlan { at, fault, forever, only_changes }));
            drop(store);
            let faults = disk.counted().1;
            disk.fail(None);
            let store = open(&disk, &options()).unwrap();
            compare(&store, &keys(), &plain.shots[1..], &plain.receipts).unwrap();
            count += 1;
            if faults == 0 {
                break;
            }
        }
    }
    let name = "any_failed_operation_during_close_loses_nothing";
    close(name, &format!("{count} faults"), started_at);
}
