//! Full disks with various amounts of free space: writes are refused as `storage_full`, reads continue, deletes succeed
//! or report why not, writing resumes when there is space again, and no acknowledged commit is lost.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastk::ErrorCode;
use fastk::cli::remote::{Call, RestClient};
use hyper::Method;
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};

use super::file_systems::Mount;
use super::program::{Server, get, health, pid_of, post};
use super::proof_amount::Proof;
use super::workload::{Client, Tally, check_all, clients, under_load};

/// Whether `/health` has to report the full disk.
const HEALTH_REPORTS_FULL: bool = false;
/// Whether deletes have to succeed on a full disk.
const DELETES_CONTINUE: bool = false;
/// Whether the writer has to survive every full disk. Today it stops when commits share a flush that does not fit into
/// one segment, and there is no space for the next one.
const WRITER_STAYS: bool = true;
/// Timeout for the disk to be full, and for writes to resume.
const TIMEOUT: Duration = Duration::from_secs(60);

const WRITABLE: &str = "/v1/klines/EXTRA/1m";

#[derive(Default)]
struct Counts {
    levels: u64,
    acknowledged: u64,
    refused: u64,
    degraded: u64,
    deleted: u64,
    stopped: u64,
    resumed_ms_max: u128,
}

/// A file that uses the free space except some bytes.
struct Ballast {
    file: std::fs::File,
    bytes: u64,
    level: u64,
    began: Instant,
}

impl Ballast {
    fn new(mount: &Path, level: u64) -> Self {
        let file = std::fs::File::create(mount.join("ballast")).unwrap();
        Self { file, bytes: 0, level, began: Instant::now() }
    }
}

impl Ballast {
    fn press(&mut self) {
        let free = rustix::fs::fstatvfs(&self.file).unwrap();
        let free = free.f_bavail * free.f_frsize;
        // Each turn leaves less free space.
        let pages = self.began.elapsed().as_millis() as u64 / 10;
        let level = self.level.saturating_sub(pages * 4_096);
        let zeros = vec![0; usize::try_from(free.saturating_sub(level)).unwrap()];
        if self.file.write_all_at(&zeros, self.bytes).is_ok() {
            self.bytes += zeros.len() as u64;
        } else {
            self.bytes = self.file.metadata().unwrap().len();
        }
    }

    fn relieve(&mut self) {
        self.file.set_len(0).unwrap();
        self.file.flush().unwrap();
    }
}

fn one_row(rest: &RestClient, minute: i64) -> fastk::Result<Value> {
    let row = json!([{"ts": minute * 60_000, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]);
    post(rest, WRITABLE, row.to_string())
}

/// Fills the disk of a server under load, checks it, frees space and checks again.
fn fill_and_free(mut server: Server, tally: &Tally, squeeze: &mut Ballast, counts: &mut Counts, replay: &str) {
    let rest = server.rest();
    std::thread::sleep(Duration::from_millis(30));
    let started_at = Instant::now();
    while tally.refused.load(Ordering::Relaxed) == 0 && tally.stopped.load(Ordering::Relaxed) == 0 {
        assert!(started_at.elapsed() < TIMEOUT, "the disk is never full: {tally:?}; {replay}\n{}", server.logged());
        assert!(server.lives(), "the server ended on a full disk; {replay}\n{}", server.logged());
        squeeze.press();
        std::thread::sleep(Duration::from_millis(10));
    }
    // Reads continue.
    let call = Call::new(Method::GET, WRITABLE).param("format", "csv");
    let rows = String::from_utf8(get(&rest, call).unwrap_or_else(|error| panic!("{error}; {replay}"))).unwrap();
    assert_eq!(rows.lines().count(), 11, "{replay}");
    let degraded = health(&rest)["status"] == "degraded";
    counts.degraded += u64::from(degraded);
    assert!(degraded || !HEALTH_REPORTS_FULL, "{}; {replay}", health(&rest));
    // Deletes are what an operator needs now.
    let deleted = rest.json::<Value>(Call::new(Method::DELETE, WRITABLE).param("start", "0").param("end", "0"));
    match &deleted {
        Ok(reply) => counts.deleted += u64::from(reply["rows_deleted"] == 1),
        Err(error) => {
            let code = error.code();
            assert!(matches!(code, ErrorCode::StorageFull | ErrorCode::WriterStopped), "{error}; {replay}");
            if DELETES_CONTINUE {
                panic!("{error}; {replay}");
            }
        }
    }
    squeeze.relieve();
    let started_at = Instant::now();
    loop {
        match one_row(&rest, 100) {
            Ok(_) => break,
            Err(error) if error.code() == ErrorCode::StorageFull && started_at.elapsed() < TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.code() == ErrorCode::WriterStopped && !WRITER_STAYS => {
                eprintln!("{error}; {replay}");
                counts.stopped += 1;
                return server.kill();
            }
            Err(error) => panic!("there is space and writing does not resume: {error}; {replay}\n{}", server.logged()),
        }
    }
    counts.resumed_ms_max = counts.resumed_ms_max.max(started_at.elapsed().as_millis());
    std::thread::sleep(Duration::from_millis(30));
    server.kill();
}

/// A server with clients, and a series that only the test writes to.
fn started(root: &Path, log: &Path, seed: u64) -> (Server, Vec<Client>) {
    let clients = clients(seed);
    let server = Server::start(root, log);
    let rest = server.rest();
    clients.iter().for_each(|client| client.register(&rest).unwrap());
    let extra = r#"{"kind":"kline","symbol":"EXTRA","timeframe":"1m","price_digits":0,"volume_digits":0}"#;
    post(&rest, "/v1/series", extra.into()).unwrap();
    for minute in 0..10 {
        one_row(&rest, minute).unwrap();
    }
    (server, clients)
}

fn close(proof: &Proof, counts: &Counts) {
    let Counts { levels, acknowledged, refused, degraded, deleted, stopped, resumed_ms_max } = counts;
    proof.close(format_args!(
        "{levels} levels, {acknowledged} changes acknowledged, {refused} refused as storage_full, health said so \
         {degraded} times, a delete went through {deleted} times, the writer stopped {stopped} times, writes resumed \
         within {resumed_ms_max} ms"
    ));
}

#[test]
fn full_disk_refuses_writes_keeps_reads_and_resumes() {
    let proof = Proof::new("full_disk", 200);
    let mut counts = Counts::default();
    while proof.continues(counts.levels) {
        let (replay, number) = (proof.replay(counts.levels), counts.levels);
        let mount = match Mount::in_memory((8 + number % 33) << 20) {
            Ok(mount) => mount,
            Err(why) => return proof.skip(why),
        };
        let (root, log) = (mount.point().join("store"), mount.outside("log"));
        // From less than a page of space to some segments.
        let left = (number * 37 % 200) * 4_096;
        let mut squeeze = Ballast::new(mount.point(), left);
        let (server, mut clients) = started(&root, &log, proof.seed + number);
        let tally = under_load(&mut clients, server, |server, tally| {
            fill_and_free(server, tally, &mut squeeze, &mut counts, &replay);
        });
        counts.levels += 1;
        counts.acknowledged += tally.acknowledged.into_inner();
        counts.refused += tally.refused.into_inner();
        let server = Server::start(&root, &log);
        check_all(&mut clients, &server.rest(), &replay);
        server.kill();
    }
    close(&proof, &counts);
}

/// Many rows as one commit, whose frame needs its own segment of about 250 kB.
fn large_write(rest: &RestClient) -> fastk::Result<Value> {
    let mut text = String::from("ts,open,high,low,close,volume\n");
    (0..5_000_i64).for_each(|row| text.push_str(&format!("{},1,1,1,1,{row}\n", (1_000 + row) * 60_000)));
    rest.json(Call::new(Method::POST, WRITABLE).body("text/csv", Bytes::from(text)))
}

#[test]
fn file_size_limit_refuses_only_files_that_are_too_large() {
    let proof = Proof::new("file_size_limit", 40);
    let (mut levels, mut acknowledged, mut degraded, mut stopped) = (0, 0, 0, 0);
    while proof.continues(levels) {
        let replay = proof.replay(levels);
        let folder = tempfile::tempdir().unwrap();
        let (root, log) = (folder.path().join("store"), folder.path().join("log"));
        // A segment of the log fits; chunks and runs may or may not.
        let bytes = 65_536 + levels * 31 % 40 * 4_000;
        let (server, mut clients) = started(&root, &log, proof.seed + levels);
        let tally = under_load(&mut clients, server, |mut server, tally| {
            let rest = server.rest();
            let limit = |current: Option<u64>| {
                let pid = Some(pid_of(server.pid()));
                rustix::process::prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
            };
            limit(Some(bytes));
            let error = large_write(&rest).unwrap_err();
            if error.code() == ErrorCode::WriterStopped && !WRITER_STAYS {
                stopped += 1;
                return server.kill();
            }
            assert_eq!(error.code(), ErrorCode::StorageFull, "{error}; {replay}");
            let before = tally.acknowledged.load(Ordering::Relaxed);
            let started_at = Instant::now();
            while tally.acknowledged.load(Ordering::Relaxed) < before + 200 {
                assert!(started_at.elapsed() < TIMEOUT, "small writes do not continue; {replay}\n{}", server.logged());
                std::thread::sleep(Duration::from_millis(5));
            }
            degraded += u64::from(health(&rest)["status"] == "degraded");
            limit(None);
            large_write(&rest).unwrap_or_else(|error| panic!("{error}; {replay}"));
            assert!(server.lives(), "{replay}");
            server.kill();
        });
        levels += 1;
        acknowledged += tally.acknowledged.into_inner();
        let server = Server::start(&root, &log);
        check_all(&mut clients, &server.rest(), &replay);
        server.kill();
    }
    proof.close(format_args!(
        "{levels} limits, {acknowledged} changes acknowledged, maintenance failed under {degraded} of them, the writer stopped \
         {stopped} times"
    ));
}
