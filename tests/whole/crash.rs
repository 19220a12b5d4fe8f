//! `kill -9` of a loading server at random moments. What was acknowledged is kept outside the server: after each
//! restart every acknowledged change is there, the one change in flight is there whole or not at all, and nothing
//! else is.
//!
//! `FASTK_KILL_ROUNDS` sets the rounds, `FASTK_KILL_SEED` the random choices.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastk::ErrorCode;
use fastk::cli::remote::{Call, RestClient};
use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const DAY: i64 = 86_400_000;
const CLIENTS: usize = 4;

type Rows = BTreeMap<i64, i64>;

/// One client's series: what was acknowledged, and the change whose reply never came.
#[derive(Default)]
struct Client {
    acknowledged: Rows,
    in_flight: Option<Rows>,
    changes: u64,
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(root: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fastk"))
            .args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"])
            .arg(root)
            // Small limits, so that sealing, run files and new segments are among what is interrupted.
            .env("FASTK__STORE__WAL_SEGMENT_BYTES", "65536")
            .env("FASTK__STORE__WAL_BYTES_MAX", "262144")
            .env("FASTK__STORE__SEAL_ROWS", "300")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let http = line.split_whitespace().find_map(|word| word.strip_prefix("http="));
        let url = format!("http://{}", http.unwrap_or_else(|| panic!("not ready: {line:?}")));
        Self { child, url }
    }

    fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("reaped");
    }
}

fn path(client: usize) -> String {
    format!("/v1/scalars/metric/C{client}/1d/load")
}

fn register(rest: &RestClient, client: usize) {
    let body = format!(
        r#"{{"kind":"scalar","category":"metric","symbol":"C{client}","timeframe":"1d","name":"load","partition":"month","value":{{"type":"int64"}}}}"#
    );
    let call = Call::new(Method::POST, "/v1/series").body("application/json", Bytes::from(body));
    rest.json::<Value>(call).expect("registered");
}

/// Rows that the change leads to, and the call that makes it. A write spans several partitions.
fn change(rng: &mut StdRng, client: usize, number: u64, before: &Rows) -> (Rows, Call) {
    let mut after = before.clone();
    let call = if rng.random_bool(0.15) {
        let first = rng.random_range(0..400) * DAY;
        let last = first + rng.random_range(0..40) * DAY;
        after.retain(|ts, _| *ts < first || *ts > last);
        Call::new(Method::DELETE, path(client)).param("start", &first.to_string()).param("end", &last.to_string())
    } else {
        let mut body = String::from("ts,value\n");
        let first = rng.random_range(0..300);
        for step in 0..rng.random_range(1..60) {
            let ts = (first + step * 2) * DAY;
            let value = i64::try_from(number).expect("small") * 1_000 + step;
            after.insert(ts, value);
            body.push_str(&format!("{ts},{value}\n"));
        }
        Call::new(Method::POST, path(client)).body("text/csv", Bytes::from(body))
    };
    (after, call)
}

fn load(url: &str, client: usize, mut state: Client, seed: u64, stop: &AtomicBool) -> Client {
    let rest = RestClient::new(url).expect("a client");
    let mut rng = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        state.changes += 1;
        let (after, call) = change(&mut rng, client, state.changes, &state.acknowledged);
        match rest.json::<Value>(call) {
            Ok(_) => state.acknowledged = after,
            Err(error) => {
                assert!(matches!(error.code(), ErrorCode::Io | ErrorCode::NotReady), "refused: {error}");
                state.in_flight = Some(after);
                return state;
            }
        }
    }
    state
}

fn stored(rest: &RestClient, client: usize) -> Rows {
    let mut csv = Vec::new();
    let call = Call::new(Method::GET, path(client)).param("format", "csv");
    rest.stream(call, &mut |bytes| {
        csv.extend_from_slice(&bytes);
        Ok(())
    })
    .expect("every row reads");
    let csv = String::from_utf8(csv).expect("text");
    csv.lines()
        .skip(1)
        .map(|line| {
            let (ts, value) = line.split_once(',').expect("two columns");
            (ts.parse().expect("a timestamp"), value.parse().expect("a value"))
        })
        .collect()
}

fn amount(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_killed_server_keeps_every_acknowledged_change_and_no_half_one() {
    let rounds = amount("FASTK_KILL_ROUNDS", 50);
    let seed = amount("FASTK_KILL_SEED", 1);
    let mut rng = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().expect("a directory");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::default()).collect();
    let (mut acknowledged, mut seen_in_flight) = (0, 0);
    for round in 0..=rounds {
        let server = Server::start(root.path());
        let rest = RestClient::new(&server.url).expect("a client");
        for (client, state) in clients.iter_mut().enumerate() {
            register(&rest, client);
            let found = stored(&rest, client);
            if let Some(in_flight) = state.in_flight.take()
                && found == in_flight
                && found != state.acknowledged
            {
                seen_in_flight += 1;
                state.acknowledged = in_flight;
            }
            let same = found == state.acknowledged;
            assert!(same, "round {round}, client {client}: FASTK_KILL_SEED={seed} FASTK_KILL_ROUNDS={rounds} replays");
        }
        if round == rounds {
            server.kill();
            break;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let before: u64 = clients.iter().map(|client| client.changes).sum();
        let pause = Duration::from_millis(rng.random_range(20..250));
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| rng.random()).collect();
        clients = std::thread::scope(|scope| {
            let threads: Vec<_> = std::mem::take(&mut clients)
                .into_iter()
                .enumerate()
                .map(|(client, state)| {
                    let (url, stop, seed) = (server.url.clone(), Arc::clone(&stop), seeds[client]);
                    scope.spawn(move || load(&url, client, state, seed, &stop))
                })
                .collect();
            std::thread::sleep(pause);
            server.kill();
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
        });
        acknowledged += clients.iter().map(|client| client.changes).sum::<u64>() - before;
    }
    println!("{rounds} kills, {acknowledged} changes sent, {seen_in_flight} in flight were there whole");
    assert!(acknowledged > rounds, "the server was loaded");
}
