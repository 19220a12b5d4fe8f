//! A power cut at every operation: the store opens with every acknowledged commit, complete, and accepts writes.

use std::sync::Arc;

use crate::sim_disk::{Op, SimDisk, SimState};
use fastk::store::{Durability, StoreOptions};

use super::disk_faults;
use super::rounds::cases;
use super::sync_order::Order;
use super::world::{Span, World, compare, keys, observe, open, register_all};

/// Crash images per operation.
const IMAGES: u64 = 4;
/// One image in this many is modified further after the comparison.
const CONTINUE_EVERY: u64 = 24;
/// Operations of a workload that are recorded.
const STEPS: u64 = 40;

/// Opens and compares the crash images of one operation; returns their number.
fn images_of(span: &Span, world: &World, seed: u64) -> u64 {
    let keys = keys();
    let mut count = 0;
    for (at, moment) in span.moments.iter().enumerate() {
        // Writes to the text of the lock file are not compared.
        let images = if moment.before.is_settled() { 1 } else { IMAGES };
        for image in 0..images {
            let seed = seed ^ (at as u64) << 32 ^ image << 56;
            let disk = SimDisk::new(moment.before.after_power_loss(seed), seed);
            let place =
                || format!("{}: power cut at {:?} {}, image {image}", span.what, moment.op, moment.path.display());
            let store = open(&disk, world.options_used()).unwrap_or_else(|error| panic!("{}: {error}", place()));
            let shot = compare(&store, &keys, &span.allowed, &span.receipts)
                .unwrap_or_else(|what| panic!("{}: {what}; torn: {:?}", place(), store.recovery().torn));
            count += 1;
            if seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xffff < 0xffff / CONTINUE_EVERY {
                continue_with(World::adopt(disk, store, shot, &span.receipts, seed), span, &place());
            }
        }
    }
    count
}

/// Runs every kind of operation, then opens the store again.
fn continue_with(mut world: World, span: &Span, place: &str) {
    let mut order = Order::of(&world.disk.state());
    world.disk.record();
    if let Some(last) = span.receipts.last().filter(|_| span.what.starts_with("write")) {
        world.retry(last);
    }
    for _ in 0..4 {
        let step = world.step();
        order.check(&step.moments, &world.disk.state());
    }
    let check = |world: &World, what: &str| world.check().unwrap_or_else(|error| panic!("{place}; {what}: {error}"));
    check(&world, "after more operations");
    world.store().seal(&[]).unwrap();
    check(&world, "after a seal");
    world.step();
    world.store().checkpoint().unwrap();
    check(&world, "after a checkpoint");
    world.reopen();
    check(&world, "after opening again");
}

/// Runs one workload; returns the number of images.
pub fn workload(seed: u64, steps: u64) -> u64 {
    let mut world = World::new(seed);
    // One store in eight is old: about to write a checkpoint of the manifest, several levels of run files.
    if world.rng.percent(12) {
        let edits = [30, 58, 62, 63, 122, 126][(world.rng.roll() % 6) as usize];
        world.age(edits);
    }
    workload_of(world, seed, steps)
}

/// Runs one workload on an existing store.
pub fn workload_of(mut world: World, seed: u64, steps: u64) -> u64 {
    let mut order = Order::of(&world.disk.state());
    world.disk.record();
    let mut count = 0;
    for step in 0..steps {
        let span = world.step();
        order.check(&span.moments, &world.disk.state());
        world.check().unwrap_or_else(|what| panic!("{}: {what}", span.what));
        count += images_of(&span, &world, seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ step);
    }
    count
}

fn part(name: &str) {
    cases(name, "crash images", 250_000, |seed| workload(seed, STEPS));
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_part_1() {
    part("power_cuts::a_power_cut_at_any_operation_loses_nothing_acknowledged_part_1");
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_part_2() {
    part("power_cuts::a_power_cut_at_any_operation_loses_nothing_acknowledged_part_2");
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_part_3() {
    part("power_cuts::a_power_cut_at_any_operation_loses_nothing_acknowledged_part_3");
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged_part_4() {
    part("power_cuts::a_power_cut_at_any_operation_loses_nothing_acknowledged_part_4");
}

/// The first open, which creates the store.
#[test]
fn a_power_cut_during_creation_leaves_a_store_that_can_be_created() {
    cases(
        "power_cuts::a_power_cut_during_creation_leaves_a_store_that_can_be_created",
        "crash images",
        20_000,
        |seed| {
            let disk = SimDisk::new(SimState::default(), seed);
            let options = World::options(&mut crate::sim_disk::Rng(seed));
            disk.record();
            drop(open(&disk, &options).unwrap());
            let empty = [Arc::default()];
            let mut count = 0;
            for (at, moment) in disk.recorded().iter().enumerate() {
                for image in 0..8 {
                    let seed = seed ^ (at as u64) << 32 ^ image << 56;
                    let disk = SimDisk::new(moment.before.after_power_loss(seed), seed);
                    let what = format!("at {:?} {}", moment.op, moment.path.display());
                    let store = open(&disk, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let shot = compare(&store, &keys(), &empty, &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
                    if image == 0 {
                        let mut world = World::adopt(disk, store, shot, &[], seed);
                        for _ in 0..6 {
                            world.step();
                        }
                        world.reopen();
                        world.check().unwrap_or_else(|error| panic!("{what}: {error}"));
                    }
                    count += 1;
                }
            }
            count
        },
    );
}

/// Frames of more than 256 KiB are written in three parts.
#[test]
fn a_power_cut_during_a_commit_too_large_to_be_copied_leaves_it_complete_or_absent() {
    let name = "power_cuts::a_power_cut_during_a_commit_too_large_to_be_copied_leaves_it_complete_or_absent";
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &disk_faults::options()).unwrap();
    register_all(&store);
    disk_faults::fill(&store);
    let (before, _) = observe(&store);
    disk.record();
    disk_faults::put_large(&store).unwrap();
    let moments = disk.recorded();
    let (after, receipts) = observe(&store);
    let writes = moments.iter().filter(|moment| moment.op == Op::Write && moment.path.starts_with("/store/wal"));
    assert_eq!(writes.count(), 3);
    cases(name, "crash images", 2_000, |seed| {
        for (at, moment) in moments.iter().enumerate() {
            let disk = SimDisk::new(moment.before.after_power_loss(seed ^ (at as u64) << 32), seed);
            let store = open(&disk, &disk_faults::options()).unwrap();
            compare(&store, &keys(), &[Arc::clone(&before), Arc::clone(&after)], &receipts)
                .unwrap_or_else(|what| panic!("at {:?} {}: {what}", moment.op, moment.path.display()));
        }
        let store = open(&SimDisk::new(disk.state().after_power_loss(seed), seed), &disk_faults::options()).unwrap();
        compare(&store, &keys(), &[Arc::clone(&after)], &receipts).unwrap();
        moments.len() as u64 + 1
    });
}

/// The cut occurs when a segment has its name and no frame yet, and all earlier frames have left the log.
#[test]
pub fn a_segment_without_frames_does_not_cost_the_one_before_it() {
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &disk_faults::options()).unwrap();
    register_all(&store);
    disk_faults::put(&store, 0, 0, 5).unwrap();
    store.checkpoint().unwrap();
    disk.record();
    disk_faults::put(&store, 0, 10, 200).unwrap();
    let moments = disk.recorded();
    let linked = moments.iter().find(|moment| moment.op == Op::SyncDir && moment.path.ends_with("wal")).unwrap();
    let disk = SimDisk::new(linked.before.clone(), 1);
    let store = open(&disk, &disk_faults::options()).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let store = open(&disk, &disk_faults::options()).unwrap();
    assert_eq!(store.recovery().damage, Vec::<String>::new());
    disk_faults::put(&store, 0, 10, 5).unwrap();
}

/// Without a sync per commit, the log can end in an empty segment after frames that are only in the page cache. Commits
/// shown after an open remain after a power cut right after it.
#[test]
fn commits_shown_after_an_open_remain_despite_an_empty_last_segment() {
    let options = StoreOptions { durability: Durability::None, ..disk_faults::options() };
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options).unwrap();
    register_all(&store);
    disk.record();
    for first in 0..8 {
        disk_faults::put(&store, 0, first * 20, 15).unwrap();
    }
    let mut shown_more = 0;
    for moment in disk.recorded() {
        let killed = SimDisk::new(moment.before.clone(), 1);
        let store = open(&killed, &options).unwrap();
        let (shown, left) = (store.snapshot().commit, killed.state());
        for seed in 0..8 {
            let store = open(&SimDisk::new(left.after_power_loss(seed), 1), &options).unwrap();
            let commit = store.snapshot().commit;
            assert!(commit >= shown, "{:?} {}: {commit} after {shown}", moment.op, moment.path.display());
            shown_more += u64::from(commit == shown);
        }
    }
    assert!(shown_more > 0);
}

/// The cut occurs when the rows of a dropped series are in a chunk and the other commits are still in the log, with a
/// snapshot that was dropped before the one that shows the series.
#[test]
pub fn a_snapshot_still_shows_a_dropped_series_that_was_sealed_ahead_of_the_log() {
    let options = StoreOptions { tail_bytes_max: 0, ..disk_faults::options() };
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options).unwrap();
    register_all(&store);
    store.create_snapshot("older").unwrap();
    disk_faults::put(&store, 0, 0, 5).unwrap();
    store.drop_snapshot("older").unwrap();
    store.create_snapshot("then").unwrap();
    store.drop_series(&keys()[0], None).unwrap();
    disk.record();
    store.checkpoint().unwrap();
    let mut moments = disk.recorded().into_iter();
    let named = moments.find(|moment| moment.op == Op::SyncDir && moment.path.ends_with("manifest")).unwrap();
    let disk = SimDisk::new(named.before, 1);
    let store = open(&disk, &options).unwrap();
    assert_eq!(store.as_of("then").unwrap().get(&keys()[0]).map(|series| series.rows), Some(5));
    store.checkpoint().unwrap();
    drop(store);
    let store = open(&disk, &options).unwrap();
    assert_eq!(store.as_of("then").unwrap().get(&keys()[0]).map(|series| series.rows), Some(5));
}
