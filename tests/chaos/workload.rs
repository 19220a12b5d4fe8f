//! Clients that change a server step by step, and know the expected contents.
//!
//! Clients record acknowledged changes. A client has two series and its own snapshots; every change is derived from the
//! seed, the number of the client and that of the change. After a crash every acknowledged change is visible, the one
//! in flight is atomic, and no other is visible.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightClient, FlightDescriptor};
use bytes::Bytes;
use fastk::ErrorCode;
use fastk::cli::remote::{Call, RestClient};
use futures::TryStreamExt;
use hyper::Method;
use imbl::OrdMap;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::program::{Server, get, post};

pub const MINUTE: i64 = 60_000;
const COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];
/// Clients of which one writes through Flight.
pub const CLIENTS: usize = 5;
/// Most named snapshots of a client.
const NAMED_MAX: usize = 2;
/// Most keyed writes that a client may repeat.
const KEYED: usize = 30;

pub type Cells = [i64; 5];
pub type Map = OrdMap<i64, Cells>;

/// Contents of the series and snapshots of one client. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub maps: [Map; 2],
    pub named: OrdMap<String, [Map; 2]>,
}

#[derive(Clone, Debug)]
enum Change {
    Write {
        which: usize,
        mode: &'static str,
        rows: Vec<(i64, Cells)>,
    },
    /// Both series as one commit, with an optional key.
    Many {
        rows: [Vec<(i64, Cells)>; 2],
        key: Option<String>,
    },
    Merge {
        which: usize,
        rows: Vec<(i64, Cells)>,
        key: String,
    },
    Delete {
        which: usize,
        first: i64,
        last: i64,
    },
    Create {
        name: String,
    },
    Drop {
        name: String,
    },
}

impl Change {
    fn key(&self) -> Option<&str> {
        match self {
            Change::Many { key, .. } => key.as_deref(),
            Change::Merge { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The contents after the change.
    fn apply(&self, now: &Contents) -> Contents {
        let mut next = now.clone();
        match self {
            Change::Write { which, rows, .. } => rows.iter().for_each(|(ts, cells)| {
                next.maps[*which].insert(*ts, *cells);
            }),
            Change::Many { rows, .. } => {
                for (map, rows) in next.maps.iter_mut().zip(rows) {
                    map.extend(rows.iter().copied());
                }
            }
            Change::Merge { which, rows, .. } => {
                for (ts, new) in rows {
                    let merged = match next.maps[*which].get(ts) {
                        None => *new,
                        Some(old) => [old[0], old[1].max(new[1]), old[2].min(new[2]), new[3], old[4] + new[4]],
                    };
                    next.maps[*which].insert(*ts, merged);
                }
            }
            Change::Delete { which, first, last } => {
                let removed: Vec<i64> = next.maps[*which].range(*first..=*last).map(|(ts, _)| *ts).collect();
                for ts in removed {
                    next.maps[*which].remove(&ts);
                }
            }
            Change::Create { name } => {
                next.named.insert(name.clone(), next.maps.clone());
            }
            Change::Drop { name } => {
                next.named.remove(name);
            }
        }
        next
    }
}

/// The outcome of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Acknowledged,
    /// The server refused the change.
    Refused(ErrorCode),
    /// No reply, or one that leaves the outcome unknown.
    Open(ErrorCode),
}

/// One client and its recorded contents.
pub struct Client {
    pub number: usize,
    seed: u64,
    /// Digits of prices and of volumes of both series.
    digits: [(u8, u8); 2],
    /// First timestamp and number of the minutes it writes.
    span: (i64, i64),
    pub now: Contents,
    in_flight: Option<(Change, Contents)>,
    keyed: VecDeque<Change>,
    /// The contents at the last check, and after each commit since then.
    base: Contents,
    history: Vec<(u64, Contents)>,
    pub changes: u64,
}

/// The result of the check of one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    /// The change in flight was applied.
    pub there: bool,
    /// Its retry was applied once.
    pub retried: bool,
}

impl Client {
    pub fn new(number: usize, seed: u64) -> Self {
        Self {
            number,
            seed,
            digits: [(0, 0); 2],
            span: (-1_000 * MINUTE, 3_000),
            now: Contents::default(),
            in_flight: None,
            keyed: VecDeque::new(),
            base: Contents::default(),
            history: Vec::new(),
            changes: 0,
        }
    }

    /// Adopts stored rows as its own; later changes overwrite some of them.
    pub fn adopt(&mut self, digits: (u8, u8), rows: Map) {
        let first = rows.get_min().unwrap().0;
        self.span = (first, (rows.get_max().unwrap().0 - first) / MINUTE);
        self.digits[0] = digits;
        self.now.maps[0] = rows;
    }

    pub fn symbol(&self, which: usize) -> String {
        format!("C{}-{}", self.number, ["A", "B"][which])
    }

    fn path(&self, which: usize) -> String {
        format!("/v1/klines/{}/1m", self.symbol(which))
    }

    /// Registers its series, except one that has rows already.
    pub fn register(&self, rest: &RestClient) -> fastk::Result<()> {
        for which in (0..2).filter(|which| self.now.maps[*which].is_empty()) {
            let (price, volume) = self.digits[which];
            let body = json!({"kind": "kline", "symbol": self.symbol(which), "timeframe": "1m",
                "price_digits": price, "volume_digits": volume, "partition": "month"});
            post(rest, "/v1/series", body.to_string())?;
        }
        Ok(())
    }

    fn rows(&self, rng: &mut StdRng) -> Vec<(i64, Cells)> {
        let first = self.span.0 + rng.random_range(0..self.span.1) * MINUTE;
        let (count, step) = (rng.random_range(1..60), rng.random_range(1..30));
        (0..count).map(|row| (first + row * step * MINUTE, self.cells(row))).collect()
    }

    fn cells(&self, row: i64) -> Cells {
        let cell = self.changes as i64 * 100 + row + 10;
        [cell, cell + 9, cell - 9, cell + 1, 1]
    }

    fn change(&self, rng: &mut StdRng) -> Change {
        let which = rng.random_range(0..2);
        let key = || format!("c{}-{}-{}", self.number, self.seed, self.changes);
        match rng.random_range(0..32) {
            0..10 => Change::Write { which, mode: "upsert", rows: self.rows(rng) },
            10..12 => {
                let last = self.now.maps[which].get_max().map_or(self.span.0, |(ts, _)| *ts);
                // Bounded, since the rows of all clients are read in every round.
                let far = last > self.span.0 + 2 * self.span.1 * MINUTE;
                let rows = (1..20).map(|row| (last + row * MINUTE, self.cells(row))).collect();
                if far {
                    let first = self.span.0 + self.span.1 * MINUTE;
                    return Change::Delete { which, first, last };
                }
                Change::Write { which, mode: "append", rows }
            }
            12..17 => {
                let key = rng.random_bool(0.6).then(key);
                Change::Many { rows: [self.rows(rng), self.rows(rng)], key }
            }
            17..24 => Change::Merge { which, rows: self.rows(rng), key: key() },
            24..28 => {
                let first = self.span.0 + rng.random_range(0..self.span.1) * MINUTE;
                Change::Delete { which, first, last: first + rng.random_range(0..self.span.1 / 4) * MINUTE }
            }
            _ if self.now.named.len() < NAMED_MAX => {
                Change::Create { name: format!("c{}-{:08}", self.number, self.changes) }
            }
            _ => Change::Drop { name: self.now.named.get_min().unwrap().0.clone() },
        }
    }

    /// Applies a change through REST; returns its commit and whether it was a repeat.
    fn send(&self, rest: &RestClient, change: &Change) -> fastk::Result<(u64, bool)> {
        let csv = |call: Call, text: String| call.param("numbers", "raw").body("text/csv", Bytes::from(text));
        let lines = |out: &mut String, head: &str, rows: &[(i64, Cells)]| {
            for (ts, [open, high, low, close, volume]) in rows {
                out.push_str(&format!("{head}{ts},{open},{high},{low},{close},{volume}\n"));
            }
        };
        let call = match change {
            Change::Write { which, mode, rows } => {
                let mut text = String::from("ts,open,high,low,close,volume\n");
                lines(&mut text, "", rows);
                csv(Call::new(Method::POST, self.path(*which)).param("mode", mode), text)
            }
            Change::Many { rows, key } => {
                let mut text = String::from("series,ts,open,high,low,close,volume\n");
                for (which, rows) in rows.iter().enumerate() {
                    lines(&mut text, &format!("kline/{}/1m,", self.symbol(which)), rows);
                }
                csv(Call::new(Method::POST, "/v1/write"), text).idempotency_key(key.as_deref())
            }
            Change::Merge { which, rows, key } => {
                let mut text = String::from("ts,open,high,low,close,volume\n");
                lines(&mut text, "", rows);
                csv(Call::new(Method::POST, self.path(*which) + "/merge"), text).idempotency_key(Some(key))
            }
            Change::Delete { which, first, last } => Call::new(Method::DELETE, self.path(*which))
                .param("start", &first.to_string())
                .param("end", &last.to_string()),
            Change::Create { name } => Call::new(Method::POST, "/v1/snapshots")
                .body("application/json", Bytes::from(json!({ "name": name }).to_string())),
            Change::Drop { name } => Call::new(Method::DELETE, format!("/v1/snapshots/{name}")),
        };
        let (reply, replayed): (Value, bool) = rest.json_replayed(call)?;
        Ok((reply["commit"].as_u64().unwrap_or_else(|| panic!("no commit in {reply}")), replayed))
    }

    /// Applies a new change, or repeats an earlier keyed one, which must change nothing.
    pub fn step(&mut self, rest: &RestClient, flight: Option<&mut Flight>) -> Ended {
        self.changes += 1;
        let mut rng = StdRng::seed_from_u64(self.seed ^ ((self.number as u64) << 56) ^ (self.changes << 8));
        if rng.random_bool(0.1) && !self.keyed.is_empty() {
            let change = self.keyed[rng.random_range(0..self.keyed.len())].clone();
            return match self.send(rest, &change) {
                Ok((_, replayed)) => {
                    assert!(replayed, "client {}: {change:?} was acknowledged and is forgotten", self.number);
                    Ended::Acknowledged
                }
                Err(error) => ended(&error, true),
            };
        }
        let change = self.change(&mut rng);
        let after = change.apply(&self.now);
        let done = match (&change, flight) {
            (Change::Write { which, mode, rows }, Some(flight)) => {
                flight.put(&format!("kline/{}/1m", self.symbol(*which)), mode, rows)
            }
            _ => self.send(rest, &change).map(|(commit, replayed)| {
                assert!(!replayed, "client {}: {change:?} is new and was treated as a repeat", self.number);
                commit
            }),
        };
        match done {
            Ok(commit) => {
                self.take(change, after, commit);
                Ended::Acknowledged
            }
            Err(error) => {
                let how = ended(&error, false);
                if let Ended::Open(_) = how {
                    self.in_flight = Some((change, after));
                }
                how
            }
        }
    }

    fn take(&mut self, change: Change, after: Contents, commit: u64) {
        if let Some((last, _)) = self.history.last() {
            assert!(commit >= *last, "client {}: commit {commit} was acknowledged after {last}", self.number);
        }
        if change.key().is_some() {
            self.keyed.push_back(change);
            if self.keyed.len() > KEYED {
                self.keyed.pop_front();
            }
        }
        self.now = after.clone();
        self.history.push((commit, after));
    }

    /// Rows of one of its series, now or under a snapshot.
    pub fn stored(&self, rest: &RestClient, which: usize, as_of: Option<&str>) -> Map {
        let call = Call::new(Method::GET, self.path(which)).param("format", "csv").param("numbers", "raw");
        let body = get(rest, call.maybe("as_of", as_of));
        parse(&body.unwrap_or_else(|error| panic!("client {} cannot read its rows: {error}", self.number)))
    }

    /// The contents of this client on the server.
    pub fn found(&self, rest: &RestClient) -> Contents {
        let list: Value = rest.json(Call::new(Method::GET, "/v1/snapshots")).unwrap();
        let own = format!("c{}-", self.number);
        let names = list["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap());
        let maps = |as_of: Option<&str>| [0, 1].map(|which| self.stored(rest, which, as_of));
        let named = names.filter(|name| name.starts_with(&own)).map(|name| (name.to_owned(), maps(Some(name))));
        Contents { named: named.collect(), maps: maps(None) }
    }

    /// Compares the contents after a crash, retries a keyed change that was in flight, and continues from there.
    pub fn check(&mut self, rest: &RestClient, replay: &str) -> Checked {
        let found = self.found(rest);
        let mut checked = Checked::default();
        self.history.clear();
        self.base = found.clone();
        let Some((change, after)) = self.in_flight.take() else {
            self.same(&found, &self.now, replay);
            return checked;
        };
        checked.there = found != self.now;
        if checked.there && found != after {
            eprintln!("client {}: {change:?} was in flight", self.number);
            self.same(&found, &self.now, replay);
        }
        if change.key().is_some() {
            let (commit, replayed) =
                self.send(rest, &change).unwrap_or_else(|error| panic!("retry: {error}; {replay}"));
            assert_eq!(replayed, checked.there, "the receipt of {change:?} and its rows differ; {replay}");
            self.same(&self.found(rest), &after, replay);
            checked.retried = true;
            if replayed {
                self.keyed.push_back(change);
                self.now = after;
            } else {
                self.take(change, after, commit);
            }
        } else if checked.there {
            self.now = after;
        }
        checked
    }

    /// Compares the contents at a commit; acknowledged commits after it may be lost. Returns whether some were.
    pub fn check_prefix(&mut self, rest: &RestClient, commit: u64, replay: &str) -> bool {
        let found = self.found(rest);
        let kept =
            self.history.iter().rfind(|(number, _)| *number <= commit).map_or(&self.base, |(_, contents)| contents);
        let lost = self.history.last().is_some_and(|(last, _)| *last > commit);
        let there = self.in_flight.take().filter(|(_, after)| !lost && found == *after && found != *kept);
        if there.is_none() {
            let last: Vec<u64> = self.history.iter().rev().take(20).map(|(commit, _)| *commit).collect();
            self.same(&found, kept, &format!("at commit {commit} of {last:?}; {replay}"));
        }
        self.base = found.clone();
        self.now = found;
        self.history.clear();
        if lost {
            self.keyed.clear();
        }
        lost
    }

    fn same(&self, found: &Contents, expected: &Contents, replay: &str) {
        if found == expected {
            return;
        }
        let pairs = |contents: &Contents| {
            let now = contents.maps.iter().enumerate().map(|(which, map)| (format!("series {which}"), map.clone()));
            let named = contents.named.iter().flat_map(|(name, maps)| {
                maps.iter().enumerate().map(move |(which, map)| (format!("{name} {which}"), map.clone()))
            });
            now.chain(named).collect::<std::collections::BTreeMap<String, Map>>()
        };
        let (found, expected) = (pairs(found), pairs(expected));
        let names = [found.keys().cloned().collect::<Vec<_>>(), expected.keys().cloned().collect::<Vec<_>>()];
        for (name, map) in &expected {
            let Some(other) = found.get(name) else { continue };
            let differ: Vec<_> = map.diff(other).take(12).collect();
            if !differ.is_empty() {
                eprintln!("{name}: {} rows for {}, first differences {differ:?}", other.len(), map.len());
            }
        }
        panic!("client {}: the server has other rows than were acknowledged ({names:?}); {replay}", self.number);
    }
}

/// The outcome of a change with this error.
fn ended(error: &fastk::Error, repeat: bool) -> Ended {
    match error.code() {
        code @ (ErrorCode::StorageFull | ErrorCode::Overloaded) => Ended::Refused(code),
        code @ (ErrorCode::Io | ErrorCode::NotReady | ErrorCode::WriterStopped) => Ended::Open(code),
        code => panic!("a change{} was answered {code}: {error}", if repeat { " sent again" } else { "" }),
    }
}

/// Parses the rows of a CSV body.
pub fn parse(csv: &[u8]) -> Map {
    let text = std::str::from_utf8(csv).unwrap();
    let row = |line: &str| {
        let mut cells = line.split(',').map(|cell| cell.parse::<i64>().unwrap());
        let ts = cells.next().unwrap();
        (ts, std::array::from_fn(|_| cells.next().unwrap()))
    };
    text.lines().skip(1).map(row).collect()
}

/// A Flight connection.
pub struct Flight {
    runtime: tokio::runtime::Runtime,
    client: FlightClient,
}

impl Flight {
    pub fn connect(address: &str) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = runtime.block_on(endpoint.connect()).ok()?;
        Some(Self { runtime, client: FlightClient::new(channel) })
    }

    /// One batch as one commit.
    fn put(&mut self, series: &str, mode: &str, rows: &[(i64, Cells)]) -> fastk::Result<u64> {
        let command = json!({"series": series, "numbers": "raw", "mode": mode}).to_string();
        let data = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command)))
            .build(futures::stream::iter([Ok(batch(rows))]));
        let client = &mut self.client;
        let results = self.runtime.block_on(async { client.do_put(data).await?.try_collect::<Vec<_>>().await });
        match results {
            Ok(results) if results.len() == 1 => {
                let reply: Value = serde_json::from_slice(&results[0].app_metadata).unwrap();
                Ok(reply["commit"].as_u64().unwrap())
            }
            Ok(results) => panic!("{} results for one batch", results.len()),
            Err(error) => Err(fastk::Error::new(code_of(&error), error.to_string())),
        }
    }
}

/// The error code of a Flight response; `io` for a broken connection.
pub fn code_of(error: &arrow_flight::error::FlightError) -> ErrorCode {
    let arrow_flight::error::FlightError::Tonic(status) = error else { return ErrorCode::Io };
    let code = status.metadata().get("fastk-error-code").and_then(|value| value.to_str().ok());
    code.and_then(ErrorCode::from_name).unwrap_or(ErrorCode::Io)
}

fn batch(rows: &[(i64, Cells)]) -> RecordBatch {
    let mut fields = vec![Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)];
    fields.extend(COLUMNS.map(|name| Field::new(name, DataType::Int64, false)));
    let ts: TimestampMillisecondArray = rows.iter().map(|(ts, _)| *ts).collect::<Vec<_>>().into();
    let mut columns: Vec<Arc<dyn Array>> = vec![Arc::new(ts.with_timezone("UTC"))];
    for column in 0..COLUMNS.len() {
        columns.push(Arc::new(rows.iter().map(|(_, cells)| cells[column]).collect::<Int64Array>()));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Counts under load.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: AtomicU64,
    /// Refused as `storage_full` or `overloaded`.
    pub refused: AtomicU64,
    /// Refused as `writer_stopped`.
    pub stopped: AtomicU64,
}

/// Lets all clients change the server, and another one request compactions, until `end` returns; `end` stops or kills
/// the server. The last client writes through Flight.
pub fn under_load(clients: &mut [Client], server: Server, end: impl FnOnce(Server, &Tally)) -> Tally {
    let (stop, tally) = (AtomicBool::new(false), Tally::default());
    let last = clients.len() - 1;
    std::thread::scope(|scope| {
        for client in clients.iter_mut() {
            let (stop, tally, http, address) = (&stop, &tally, server.http.clone(), server.flight.clone());
            scope.spawn(move || {
                let rest = RestClient::new(&http).unwrap();
                let mut flight = (client.number == last).then(|| Flight::connect(&address)).flatten();
                let count = |counter: &AtomicU64| {
                    counter.fetch_add(1, Ordering::Relaxed);
                };
                while !stop.load(Ordering::Relaxed) {
                    match client.step(&rest, flight.as_mut()) {
                        Ended::Acknowledged => count(&tally.acknowledged),
                        Ended::Refused(_) => count(&tally.refused),
                        Ended::Open(code) => {
                            if code == ErrorCode::WriterStopped {
                                count(&tally.stopped);
                            }
                            break;
                        }
                    }
                }
            });
        }
        let (stopped, http) = (&stop, server.http.clone());
        scope.spawn(move || {
            let rest = RestClient::new(&http).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(15));
                let _ = post(&rest, "/v1/admin/compact?wait=true", "{}".into());
            }
        });
        // Even if `end` panics, the clients have to finish.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| end(server, &tally)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    tally
}

/// Clients over a directory, registered at the server.
pub fn clients(seed: u64) -> Vec<Client> {
    (0..CLIENTS).map(|number| Client::new(number, seed)).collect()
}

/// Checks every client; returns the number of changes in flight that were applied, and of retries applied once.
pub fn check_all(clients: &mut [Client], rest: &RestClient, replay: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for client in clients {
        let checked = client.check(rest, replay);
        sums.0 += u64::from(checked.there);
        sums.1 += u64::from(checked.retried);
    }
    sums
}
