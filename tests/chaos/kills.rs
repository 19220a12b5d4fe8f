//! `kill -9` of the real server under load, every tenth time while it starts. The test records acknowledged changes:
//! after each restart, which needs no manual step, all of them are visible, and no partial change is.
//!
//! `FASTK_KILLED_SERVER_ROUNDS` and similar variables set the amount, see `tests/shared/proof_amount.rs`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::program::{Server, assert_verified, health, run, serve, stray_chunks};
use super::proof_amount::Proof;
use super::workload::{Client, Map, check_all, clients, parse, under_load};

/// One in this many kills is during start-up.
const STARTS: u64 = 10;

#[derive(Default)]
struct Counts {
    kills: u64,
    starts: u64,
    acknowledged: u64,
    there: u64,
    retried: u64,
    /// Seals, checkpoints, compactions and files removed before the kills.
    maintenance: [u64; 4],
}

/// Kills the server during its start, at a random time within the duration of a start.
fn kill_while_starting(root: &Path, log: &Path, rng: &mut StdRng, start: Duration) {
    let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut child = serve(root, &[]).stdout(std::process::Stdio::null()).stderr(file).spawn().unwrap();
    std::thread::sleep(start.mul_f64(rng.random_range(0.0..1.1)));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn rounds(proof: &Proof, root: &Path, log: &Path, clients: &mut [Client]) -> Counts {
    let mut rng = StdRng::seed_from_u64(proof.seed);
    let mut counts = Counts::default();
    let mut start = Duration::from_millis(20);
    loop {
        let replay = proof.replay(counts.kills);
        let started_at = Instant::now();
        let server = Server::start(root, log);
        start = started_at.elapsed().min(start * 2);
        let rest = server.rest();
        if counts.kills == 0 {
            clients.iter().for_each(|client| client.register(&rest).unwrap());
        }
        let (there, retried) = check_all(clients, &rest, &replay);
        counts.there += there;
        counts.retried += retried;
        if !proof.continues(counts.kills) {
            server.stop();
            return counts;
        }
        // Sometimes long enough for maintenance to finish.
        let longest = if rng.random_bool(0.15) { 1_200 } else { 150 };
        let pause = Duration::from_millis(rng.random_range(10..longest));
        let tally = under_load(clients, server, |server, _| {
            std::thread::sleep(pause);
            let reported = &health(&rest)["maintenance"];
            for (sum, name) in
                counts.maintenance.iter_mut().zip(["seals", "checkpoints", "compactions", "files_removed"])
            {
                *sum += reported[name].as_u64().unwrap();
            }
            server.kill();
        });
        counts.acknowledged += tally.acknowledged.into_inner();
        counts.kills += 1;
        if counts.kills % STARTS == STARTS - 1 {
            kill_while_starting(root, log, &mut rng, start);
            counts.kills += 1;
            counts.starts += 1;
        }
    }
}

fn close(proof: &Proof, counts: &Counts, root: &Path) {
    let verified = assert_verified(root, &proof.replay(counts.kills));
    let stray = stray_chunks(root);
    let Counts { kills, starts, acknowledged, there, retried, maintenance } = counts;
    assert!(acknowledged >= kills, "the server was not loaded");
    let verified = if verified { "verify finds nothing" } else { "no verify in this program" };
    proof.close(format_args!(
        "{kills} kills, {starts} of them during start-up, {acknowledged} changes acknowledged, {there} in flight were \
         there whole, {retried} retries counted once, seals, checkpoints, compactions and files removed {maintenance:?}, \
         {stray} stray chunk files, {verified}"
    ));
}

#[test]
fn a_killed_server_keeps_every_acknowledged_change_and_no_partial_one() {
    let proof = Proof::new("killed_server", 500);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let mut clients = clients(proof.seed);
    let counts = rounds(&proof, &root, &log, &mut clients);
    close(&proof, &counts, &root);
}

/// Real files of 1-minute klines, one per client for its first series.
fn real_files() -> Option<Vec<PathBuf>> {
    let folder = PathBuf::from(std::env::var_os("FASTK_TEST_DATA")?);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("binance-usdm-") && name.contains("-1m-") && name.ends_with(".csv.gz")
    });
    files.sort();
    files.truncate(2);
    Some(files).filter(|files| !files.is_empty())
}

fn import(client: &mut Client, root: &Path, file: &Path) {
    let (root, key) = (root.to_string_lossy().into_owned(), format!("kline/{}/1m", client.symbol(0)));
    let summary = run(&["import", &file.to_string_lossy(), "--series", &key, "--root", &root, "--json"], "").ok();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let digits = |column: usize| u8::try_from(summary["columns"][column]["digits"].as_u64().unwrap()).unwrap();
    let csv = run(&["query", &key, "--format", "csv", "--numbers", "raw", "--root", &root], "").ok();
    let rows: Map = parse(csv.as_bytes());
    assert_eq!(summary["rows_written"].as_u64(), Some(rows.len() as u64));
    client.adopt((digits(0), digits(4)), rows);
}

#[test]
fn real_klines_survive_every_kill_of_the_server_over_them() {
    let proof = Proof::new("real_klines", 50);
    let Some(files) = real_files() else {
        return proof.skip("FASTK_TEST_DATA names no directory with 1-minute files of Binance");
    };
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let mut clients = clients(proof.seed);
    for (client, file) in clients.iter_mut().zip(&files) {
        import(client, &root, file);
    }
    let before: usize = clients.iter().map(|client| client.now.maps[0].len()).sum();
    assert!(before > 10_000);
    let counts = rounds(&proof, &root, &log, &mut clients);
    close(&proof, &counts, &root);
}
