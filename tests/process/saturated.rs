//! A server that has more to do than it can: clients write, 64 readers read, and health is asked all the while.
//!
//! Stated amount: 600 s. What was acknowledged is compared every few seconds, health is always answered, and memory does
//! not go on growing. How fast health is answered is told, not asserted: the machine may have other things to do.
//! `FASTK_BIN` names the program; a debug build is told apart by its figures.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastk::cli::remote::{Call, RestClient};
use hyper::Method;

use super::load::{CLIENTS, Client, check_all, clients, under_load};
use super::program::{Server, assert_verified, get, serve};
use super::proof::Proof;

const READERS: usize = 64;
/// Seconds between two comparisons of everything acknowledged.
const SLICE: u64 = 20;
/// Anonymous memory may still grow by so much once the first minute is over.
const GROWTH_MAX: u64 = 64 << 20;

/// What readers ask for, in turn.
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

/// Asks for life again and again on one connection: milliseconds each answer took.
fn probe(address: &str, stop: &AtomicBool) -> Vec<f64> {
    let rest = RestClient::new(address).unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        get(&rest, Call::new(Method::GET, "/health/live")).expect("health is answered");
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(20));
    }
    took
}

fn quantiles(mut took: Vec<f64>) -> String {
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    format!("{} asked, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", took.len(), at(0.5), at(0.99), at(1.0))
}

#[test]
fn a_saturated_server_answers_for_its_health_loses_nothing_and_does_not_grow() {
    let proof = Proof::new("saturated_server", 600);
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
    let (mut server, begun) = (Some(server), Instant::now());
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
            while proof.goes_on(done) {
                let slice = SLICE.min(proof.rounds() - done);
                changes += loaded(&mut clients, &mut server, Duration::from_secs(slice));
                done += slice;
                let running = server.as_ref().unwrap();
                check_all(&mut clients, &running.rest(), &proof.replay(done));
                memory.push((begun.elapsed().as_secs(), running.memory("RssAnon")));
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

    let settled = memory.iter().find(|(at, _)| *at >= 60).map(|(_, bytes)| *bytes);
    let last = memory.last().map_or(0, |(_, bytes)| *bytes);
    if let Some(settled) = settled {
        assert!(last <= settled + GROWTH_MAX, "anonymous memory grew from {settled} to {last} bytes: {memory:?}");
    }
    let (reads, refused) = (reads.into_inner(), refused.into_inner());
    assert!(reads > 0 && changes > 0, "the server was not loaded");
    proof.close(format_args!(
        "{CLIENTS} clients made {changes} changes, {READERS} readers {reads} reads ({refused} refused as overloaded) in {} s; \
         health on its own listener: {}; beside the others: {}; anonymous memory {} MiB after a minute, {} MiB at the end",
        begun.elapsed().as_secs(),
        quantiles(beside),
        quantiles(with_others),
        settled.unwrap_or(0) >> 20,
        last >> 20,
    ));
}

/// Lets the clients change the server for so long; gives how many changes were acknowledged.
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
