//! Random schedules of threads through the commit queue, retained commits and the map cache, with a runner that decides
//! at every lock and atomic which thread continues.
//!
//! `FASTK_PROOF` is the percentage of the stated amounts (1 when unset). A failure prints the schedule;
//! `FASTK_SCHEDULE`, set to a file with it, replays it. Run it by `cargo nextest run --cargo-profile proof
//! --no-default-features --features schedules --test schedules`.

mod scenarios;
#[path = "../shared/sim_disk.rs"]
mod sim_disk;

use std::time::Instant;

use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};

use scenarios::{config, loads, maps, queue, refusals, retained_commits};

/// Runs a number of schedules of a scenario: half of them take random steps, half change priorities at a few random
/// points.
fn schedules(name: &str, scenario: fn(), stated: usize) {
    let started_at = Instant::now();
    if let Ok(path) = std::env::var("FASTK_SCHEDULE") {
        let schedule = std::fs::read_to_string(path).unwrap();
        Runner::new(ReplayScheduler::new_from_encoded(schedule.trim()), config()).run(scenario);
        return;
    }
    let percent: usize = std::env::var("FASTK_PROOF").map_or(1, |text| text.parse().unwrap());
    let each = (stated * percent / 200).max(1);
    let mut tried = Runner::new(RandomScheduler::new_from_seed(7, each), config()).run(scenario);
    for depth in 2..=4 {
        tried +=
            Runner::new(PctScheduler::new_from_seed(depth as u64, depth, each.div_ceil(3)), config()).run(scenario);
    }
    println!("proof {name}: {tried} schedules, {:.1} s", started_at.elapsed().as_secs_f64());
}

#[test]
fn the_commit_queue_keeps_its_guarantees_under_any_schedule() {
    schedules("the_commit_queue_keeps_its_guarantees_under_any_schedule", queue, 10_000);
}

#[test]
fn retained_commits_stay_readable_under_any_schedule() {
    schedules("retained_commits_stay_readable_under_any_schedule", retained_commits, 5_000);
}

#[test]
fn the_map_cache_stays_bounded_and_correct_under_any_schedule() {
    schedules("the_map_cache_stays_bounded_and_correct_under_any_schedule", maps, 5_000);
}

#[test]
fn a_write_refused_on_a_full_disk_reaches_no_file_under_any_schedule() {
    schedules("a_write_refused_on_a_full_disk_reaches_no_file_under_any_schedule", refusals, 5_000);
}

#[test]
fn a_snapshot_shows_no_rows_loaded_after_it_under_any_schedule() {
    schedules("a_snapshot_shows_no_rows_loaded_after_it_under_any_schedule", loads, 5_000);
}
