//! The power goes while a store is being opened after a power cut, and again; and opening twice changes nothing the
//! second time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use fastk::disk::sim::{Rng, SimDisk, SimState};

use super::rounds::cases;
use super::world::{Shot, Span, World, compare, keys, open};

/// Everything that lies on the disk, but not who holds the lock, and not what has no name yet.
fn files(state: &SimState) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
    let mut files = state.files();
    files.retain(|path, _| !path.ends_with("LOCK") && !path.starts_with("/store/tmp"));
    files
}

/// Opens what a cut left, and cuts again within that, so many levels deep. Gives how many images were opened.
fn cut(state: &SimState, world: &World, span: &Span, allowed: &[Arc<Shot>], depth: u32, dice: &mut Rng) -> u64 {
    // A killed process leaves everything, but nothing more is durable than was.
    let seed = dice.roll();
    let left = if depth > 0 && seed.is_multiple_of(4) { state.clone() } else { state.after_power_loss(seed) };
    let disk = SimDisk::new(left, dice.roll());
    disk.record();
    let store =
        open(&disk, world.options_used()).unwrap_or_else(|error| panic!("{}, {depth} more cuts: {error}", span.what));
    let shot = compare(&store, &keys(), allowed, &span.receipts)
        .unwrap_or_else(|what| panic!("{}, {depth} more cuts: {what}", span.what));
    let moments = disk.recorded();
    let opened = disk.state();
    let mut count = 1;
    // What was shown once stays, whatever comes.
    let shown = [shot];
    if depth > 0 {
        // The first level takes every moment, the ones below a few.
        let every = depth == 3;
        for moment in &moments {
            if every || dice.percent(100 / (moments.len() as u64).max(1) + 3) {
                count += cut(&moment.before, world, span, allowed, depth - 1, dice);
            }
        }
        count += cut(&opened, world, span, &shown, 0, dice);
    }
    // As if the process had been killed right behind the opening. The second one may be the first that is sure of the
    // newest edit, and removes what no edit names; the third has nothing left to do.
    let mut before = opened;
    for time in 2..4 {
        let disk = SimDisk::new(before.clone(), dice.roll());
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
    if dice.percent(10) {
        drop(store);
        let closed = disk.state();
        count += cut(&closed, world, span, &shown, 0, dice);
    }
    count
}

pub fn workload(seed: u64, steps: u64) -> u64 {
    let mut world = World::new(seed);
    let edits = if world.dice.percent(8) { 40 + world.dice.roll() % 30 } else { world.dice.roll() % 6 };
    world.age(edits);
    world.disk.record();
    let mut dice = Rng(!seed);
    let mut count = 0;
    for _ in 0..steps {
        let span = world.step();
        let interesting: Vec<_> = span.moments.iter().filter(|moment| !moment.before.is_settled()).collect();
        if !interesting.is_empty() {
            let moment = interesting[(dice.roll() % interesting.len() as u64) as usize];
            count += cut(&moment.before, &world, &span, &span.allowed, 3, &mut dice);
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
