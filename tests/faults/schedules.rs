//! Planted faults that random schedules of threads find. Built in the copy of the package that `copy.py` makes.

#[path = "../schedules/scenarios.rs"]
mod scenarios;
#[path = "../shared/sim_disk.rs"]
mod sim_disk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use fastk::planted::with;
use shuttle::Runner;
use shuttle::scheduler::RandomScheduler;

use scenarios::{config, loads, logged_queue, maps, queue, refusals, retained_commits};

/// Asserts that the schedules find a planted fault.
fn finds(fault: &'static str, scenario: fn()) {
    let started_at = Instant::now();
    let run = || Runner::new(RandomScheduler::new_from_seed(11, 20_000), config()).run(scenario);
    let found = catch_unwind(AssertUnwindSafe(|| with(fault, run)));
    assert!(found.is_err(), "{fault} went unnoticed");
    println!("{fault} noticed, {:.1} s", started_at.elapsed().as_secs_f64());
}

#[test]
fn schedules_find_waiters_that_are_not_woken() {
    finds("WaitersNotWoken", queue);
}

#[test]
fn schedules_find_maintenance_that_a_leader_forgets() {
    finds("MaintenanceForgotten", logged_queue);
}

#[test]
fn schedules_find_commits_shown_before_they_are_written() {
    finds("ShownBeforeWritten", queue);
}

#[test]
fn schedules_find_rows_read_before_their_chunks_are_there() {
    finds("LoadReadEarly", retained_commits);
}

#[test]
fn schedules_find_files_taken_from_their_readers() {
    finds("ReadersIgnored", retained_commits);
}

#[test]
fn schedules_find_maps_without_a_bound() {
    finds("MapsUnlimited", maps);
}

#[test]
fn schedules_find_refused_writes_that_were_sealed() {
    finds("MovedBeforeDecided", refusals);
}

#[test]
fn schedules_find_loads_with_an_earlier_number() {
    finds("LoadNotRenumbered", loads);
}
