//! Power cuts during the open after a power cut, repeatedly; and a second open changes no file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::sim_disk::{Rng, SimDisk, SimState};

use super::rounds::cases;
use super::world::{Shot, Span, World, compare, keys, open};

/// All files on the disk except the lock and files without a name.
fn files(state: &SimState) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
    let mut files = state.files();
    files.retain(|path, _| !path.ends_with("LOCK") && !path.starts_with("/store/tmp"));
    files
}

/// Opens a crash image and cuts the power again during that, `depth` levels deep. Returns the number of opened images.
fn cut(state: &SimState, world: &World, span: &Span, allowed: &[Arc<Shot>], depth: u32, rng: &mut Rng) -> u64 {
    // A kill leaves the page cache, but makes nothing more durable.
    let seed = rng.roll();
    let left = if depth > 0 && seed.is_multiple_of(4) { state.clone() } else { state.after_power_loss(seed) };
    let disk = SimDisk::new(left, rng.roll());
    disk.record();
    let store =
        open(&disk, world.options_used()).unwrap_or_else(|error| panic!("{}, {depth} more cuts: {error}", span.what));
    let shot = compare(&store, &keys(), allowed, &span.receipts)
        .unwrap_or_else(|what| panic!("{}, {depth} more cuts: {what}", span.what));
    let moments = disk.recorded();
    let opened = disk.state();
    let mut count = 1;
    // A state that was shown once remains.
    let shown = [shot];
    if depth > 0 {
        // The first level tries every operation, deeper levels a few.
        let every = depth == 3;
        for moment in &moments {
            if every || rng.percent(100 / (moments.len() as u64).max(1) + 3) {
                count += cut(&moment.before, world, span, allowed, depth - 1, rng);
            }
        }
        count += cut(&opened, world, span, &shown, 0, rng);
    }
    // A kill right after the open. The second open may be the first that trusts the newest edit, and removes files that
    // no edit names; the third changes no file.
    let mut before = opened;
    for time in 2..4 {
        let disk = SimDisk::new(before.clone(), rng.roll());
        let store = open(&disk, world.options_used()).unwrap();
        let (first, then) = (files(&before), files(&disk.state()));
        let paths = first.keys().chain(then.keys());
        let changed: BTreeSet<&PathBuf> = paths.filter(|path| first.get(*path) != then.get(*path)).collect();
        let removed = changed.iter().filter(|path| !then.contains_key(**path)).count();
        let may = if time == 2 { store.recovery().leftovers_removed } else { 0 };
        assert!(
            changed.len() == removed && removed as u64 == may,
            "{}, {depth} more cuts: opening {time} times changed {changed:?}",
            span.what
        );
        compare(&store, &keys(), &shown, &span.receipts)
            .unwrap_or_else(|what| panic!("{}: opened {time} times: {what}", span.what));
        if may == 0 {
            break;
        }
        before = disk.state();
    }
    if rng.percent(10) {
        drop(store);
        let closed = disk.state();
        count += cut(&closed, world, span, &shown, 0, rng);
    }
    count
}

pub fn workload(seed: u64, steps: u64) -> u64 {
    let mut world = World::new(seed);
    let edits = if world.rng.percent(8) { 40 + world.rng.roll() % 30 } else { world.rng.roll() % 6 };
    world.age(edits);
    world.disk.record();
    let mut rng = Rng(!seed);
    let mut count = 0;
    for _ in 0..steps {
        let span = world.step();
        let interesting: Vec<_> = span.moments.iter().filter(|moment| !moment.before.is_settled()).collect();
        if !interesting.is_empty() {
            let moment = interesting[(rng.roll() % interesting.len() as u64) as usize];
            count += cut(&moment.before, &world, &span, &span.allowed, 3, &mut rng);
        }
    }
    count
}

#[test]
fn power_cuts_while_opening_after_a_power_cut_lose_nothing_part_1() {
    let name = "recovery::power_cuts_while_opening_after_a_power_cut_lose_nothing_part_1";
    cases(name, "crash images", 50_000, |seed| workload(seed, 12));
}

#[test]
fn power_cuts_while_opening_after_a_power_cut_lose_nothing_part_2() {
    let name = "recovery::power_cuts_while_opening_after_a_power_cut_lose_nothing_part_2";
    cases(name, "crash images", 50_000, |seed| workload(seed, 12));
}
