//! A saturated server: clients write, 64 readers read, and health is requested all the time.
//!
//! Stated amount: 600 s. Acknowledged changes are compared every few seconds, and every health request has to succeed.
//! A run of the stated amount also asserts that memory stops growing, and the latency of health on its own listener. A
//! shorter run prints both without asserting them. `FASTK_BIN` selects the binary.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastk::cli::remote::{Call, RestClient};
use hyper::Method;

use super::program::{Server, assert_verified, get, serve};
use super::proof_amount::Proof;
use super::workload::{CLIENTS, Client, check_all, clients, under_load};

const READERS: usize = 64;
/// Seconds between two comparisons of all acknowledged changes.
const SLICE: u64 = 20;
/// Seconds from which on latency and memory are asserted.
const STATED: u64 = 600;
/// Interval of health requests.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Maximum of the 99th percentile of health on its own listener, in milliseconds.
const HEALTH_P99_MAX: f64 = 50.0;
/// Warm-up, in which caches fill.
const WARM_SECONDS: u64 = 60;
/// Minimum number of memory samples after the warm-up.
const SAMPLES_MIN: usize = 9;
/// Allowed growth of anonymous memory between the medians of the second and the last third of these samples.
const GROWTH_MAX: u64 = 16 << 20;

/// The requests of readers, in turn.
fn call(reader: usize, turn: usize, clients: &[String]) -> Call {
    let symbol = &clients[(reader + turn) % clients.len()];
    let call = Call::new(Method::GET, format!("/v1/klines/{symbol}/1m"));
    match (reader + turn) % 4 {
        0 => call.param("latest", "100"),
        1 => call.param("format", "arrow"),
        2 => call.param("where", "close:gt:0").param("format", "csv"),
        _ => call.param("start", "0").param("end", "86400000").param("numbers", "float64"),
    }
}

/// Requests `/health/live` periodically on one connection; returns the latencies in milliseconds. A slow response also
/// counts for the requests that it delayed, corrected for coordinated omission.
fn probe(address: &str, stop: &AtomicBool) -> Vec<f64> {
    let rest = RestClient::new(address).unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started_at = Instant::now();
        get(&rest, Call::new(Method::GET, "/health/live")).expect("health responds");
        let mut waited = started_at.elapsed();
        loop {
            took.push(waited.as_secs_f64() * 1e3);
            match waited.checked_sub(PROBE_EVERY) {
                Some(rest) if !rest.is_zero() => waited = rest,
                _ => break,
            }
        }
        std::thread::sleep(PROBE_EVERY);
    }
    took
}

/// The quantile at `share`.
fn quantile(took: &[f64], share: f64) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).ceil() as usize]
}

fn quantiles(took: &[f64]) -> String {
    let [half, most, longest] = [0.5, 0.99, 1.0].map(|share| quantile(took, share));
    format!("{} asked, p50 {half:.1} ms, p99 {most:.1} ms, longest {longest:.1} ms", took.len())
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// The medians of the second and the last third of the samples after the warm-up; `None` for too few samples.
fn late_medians(memory: &[(u64, u64)]) -> Option<(u64, u64)> {
    let late: Vec<u64> = memory.iter().filter(|(at, _)| *at >= WARM_SECONDS).map(|(_, bytes)| *bytes).collect();
    let third = late.len() / 3;
    (late.len() >= SAMPLES_MIN).then(|| (median(&late[third..2 * third]), median(&late[2 * third..])))
}

#[test]
fn memory_growth_needs_many_samples_after_the_warm_up() {
    let steady = |samples: u64| (0..samples).map(|n| (n * SLICE, 100 + n % 2)).collect::<Vec<_>>();
    assert_eq!(late_medians(&steady(4)), None, "one late sample is too few");
    assert_eq!(late_medians(&steady(11)), None);
    assert!(late_medians(&steady(12)).is_some_and(|(one, other)| one.abs_diff(other) <= 1));
    let growing: Vec<(u64, u64)> = (0..30).map(|n| (n * SLICE, n * (8 << 20))).collect();
    assert!(late_medians(&growing).is_some_and(|(one, other)| other > one + GROWTH_MAX));
    // A short peak is no growth.
    let mut peak = steady(30);
    peak[25].1 = 1 << 30;
    assert!(late_medians(&peak).is_some_and(|(one, other)| one.abs_diff(other) <= 1));
}

#[test]
fn a_saturated_server_reports_health_loses_no_commit_and_does_not_grow() {
    let proof = Proof::new("saturated_server", STATED);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = Server::of(serve(&root, &[("FASTK__HTTP__HEALTH_LISTEN", "127.0.0.1:0")]), &log).unwrap();
    let (http, alone) = (server.http.clone(), server.health.clone().expect("a listener for health"));
    let mut clients = clients(proof.seed);
    clients.iter().for_each(|client| client.register(&server.rest()).unwrap());
    let symbols: Vec<String> = clients.iter().flat_map(|client| [client.symbol(0), client.symbol(1)]).collect();

    let (stop, reads, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let unexpected: Mutex<Vec<String>> = Mutex::default();
    let mut memory: Vec<(u64, u64)> = Vec::new();
    let mut changes = 0;
    let (mut server, started_at) = (Some(server), Instant::now());
    let (beside, with_others) = std::thread::scope(|scope| {
        let (stop, reads, refused, unexpected) = (&stop, &reads, &refused, &unexpected);
        let (symbols, http) = (&symbols, http.as_str());
        let beside = scope.spawn(|| probe(&alone, stop));
        let with_others = scope.spawn(|| probe(http, stop));
        for reader in 0..READERS {
            scope.spawn(move || {
                let rest = RestClient::new(http).unwrap();
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match get(&rest, call(reader, turn, symbols)) {
                        Ok(_) => _ = reads.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.code() == fastk::ErrorCode::Overloaded => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => unexpected.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut done = 0;
            while proof.continues(done) {
                let slice = SLICE.min(proof.rounds() - done);
                changes += loaded(&mut clients, &mut server, Duration::from_secs(slice));
                done += slice;
                let running = server.as_ref().unwrap();
                check_all(&mut clients, &running.rest(), &proof.replay(done));
                memory.push((started_at.elapsed().as_secs(), running.memory("RssAnon")));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let probes = (beside.join().unwrap(), with_others.join().unwrap());
        if let Err(panic) = watched {
            std::panic::resume_unwind(panic);
        }
        probes
    });
    let unexpected = unexpected.into_inner().unwrap();
    assert!(unexpected.is_empty(), "{} reads failed, such as {:?}", unexpected.len(), unexpected.first());
    server.take().unwrap().stop();
    assert_verified(&root, &proof.replay(0));

    let mib = |bytes: u64| bytes >> 20;
    let of_memory = match late_medians(&memory) {
        None => {
            let last = memory.last().map_or(0, |(_, bytes)| *bytes);
            format!("anonymous memory {} MiB at the end, not judged: the run is too short", mib(last))
        }
        Some((before, after)) => {
            assert!(after <= before + GROWTH_MAX, "anonymous memory grew from {before} to {after} bytes: {memory:?}");
            format!("anonymous memory {} MiB, then {} MiB", mib(before), mib(after))
        }
    };
    let is_long = started_at.elapsed().as_secs() >= STATED;
    let p99 = quantile(&beside, 0.99);
    assert!(!is_long || p99 <= HEALTH_P99_MAX, "health on its own listener: {}", quantiles(&beside));
    let (reads, refused) = (reads.into_inner(), refused.into_inner());
    assert!(reads > 0 && changes > 0, "the server was not loaded");
    proof.close(format_args!(
        "{CLIENTS} clients made {changes} changes, {READERS} readers {reads} reads ({refused} refused as overloaded) in {} s; \
         health on its own listener{}: {}; beside the others: {}; {of_memory}",
        started_at.elapsed().as_secs(),
        if is_long { "" } else { " (not judged)" },
        quantiles(&beside),
        quantiles(&with_others),
    ));
}

/// Lets the clients change the server for this time; returns the number of acknowledged changes.
fn loaded(clients: &mut [Client], server: &mut Option<Server>, time: Duration) -> u64 {
    let running = server.take().unwrap();
    let mut back = None;
    let tally = under_load(clients, running, |running, _| {
        std::thread::sleep(time);
        back = Some(running);
    });
    *server = back;
    tally.acknowledged.into_inner()
}
