//! Long operations as jobs: started, polled, awaited, cancelled; and the findings of verification.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::client::{Reply, Server, csv_body};

/// A server with chunks of one series and rows in the log.
fn loaded() -> Server {
    let server = Server::start();
    server.kline("X");
    server.post("/v1/klines/X/1m", "text/csv", csv_body(0, 30_000)).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    server.post("/v1/klines/X/1m", "text/csv", csv_body(30_000, 10)).expect(200);
    server
}

fn only(reply: &Reply) -> Value {
    let mut reply = reply.json();
    let jobs = reply["jobs"].as_array_mut().unwrap();
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

/// Polls until the job is finished.
fn finished(server: &Server, path: &str) -> Value {
    loop {
        let job = only(&server.get(path).expect(200));
        if ["done", "failed"].contains(&job["status"].as_str().unwrap()) {
            return job;
        }
        std::thread::yield_now();
    }
}

fn file(server: &Server, ending: &str) -> PathBuf {
    let mut waiting = vec![server.root.path().join("chunks")];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                return path;
            }
        }
    }
    panic!("no file {ending}");
}

fn flip(path: &PathBuf, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_job_is_accepted_with_its_location_and_finishes_there() {
    let server = loaded();
    for (verb, unit) in [("verify", "bytes"), ("scrub", "bytes"), ("compact", "series")] {
        let reply = server.post_json(&format!("/v1/admin/{verb}"), "").expect(202);
        let job = only(&reply);
        let path = reply.header("location").unwrap().to_string();
        assert_eq!(path, format!("/v1/admin/jobs/{}", job["id"].as_str().unwrap()));
        assert!(["queued", "running", "done"].contains(&job["status"].as_str().unwrap()));
        assert_eq!((&job["verb"], &job["progress"]["unit"]), (&verb.into(), &unit.into()));
        let done = finished(&server, &path);
        assert_eq!((&done["status"], done["error"].is_null()), (&"done".into(), true), "{done}");
        let progress = &done["progress"];
        assert!(progress["total"].as_u64().unwrap() > 0 && progress["done"] == progress["total"], "{progress}");
        assert!(done["started_at"].is_string() && done["finished_at"].is_string());
        if verb != "compact" {
            assert_eq!((&done["result"]["clean"], &done["result"]["rows"]), (&true.into(), &30_000.into()));
        }
    }
    let listed = server.get("/v1/admin/jobs").expect(200).json();
    let verbs: Vec<&str> = listed["jobs"].as_array().unwrap().iter().map(|job| job["verb"].as_str().unwrap()).collect();
    // The earlier compaction is listed too.
    assert_eq!(verbs, ["compact", "scrub", "verify", "compact"]);
    assert!(listed["jobs"].as_array().unwrap().iter().all(|job| job["result"].is_null()));
}

#[test]
fn waiting_returns_the_finished_job() {
    let server = loaded();
    let reply = server.post_json("/v1/admin/verify?wait=true", r#"{"bytes_per_second":1000000000}"#).expect(200);
    let job = only(&reply);
    assert_eq!((&job["status"], &job["result"]["errors"]), (&"done".into(), &0.into()));
    assert!(reply.header("location").is_some());
}

#[test]
fn a_slow_job_reports_progress_and_can_be_cancelled() {
    let server = loaded();
    let path = |reply: &Reply| reply.header("location").unwrap().to_string();
    let slow = path(&server.post_json("/v1/admin/scrub", r#"{"bytes_per_second":1}"#).expect(202));
    let next = path(&server.post_json("/v1/admin/scrub", "{}").expect(202));
    while only(&server.get(&slow).expect(200))["progress"]["done"] == 0 {
        std::thread::yield_now();
    }
    assert_eq!(only(&server.get(&slow).expect(200))["status"], "running");
    assert_eq!(only(&server.get(&next).expect(200))["status"], "queued");
    // Another operation does not wait for it.
    server.post_json("/v1/admin/verify?wait=true", "").expect(200);
    server.delete(&slow).expect(200);
    let ended = finished(&server, &slow);
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&"failed".into(), &"not_ready".into()));
    assert_eq!(finished(&server, &next)["status"], "done");
    // A finished job does not change.
    assert_eq!(only(&server.delete(&next).expect(200))["status"], "done");
}

#[test]
fn invalid_job_requests_are_refused() {
    let server = loaded();
    for path in ["/v1/admin/jobs/1", "/v1/admin/jobs/%20", "/v1/admin/jobs/0123456789abcdef"] {
        server.get(path).refused("job_not_found");
        server.delete(path).refused("job_not_found");
    }
    for (verb, body) in [
        ("verify", r#"{"series":[]}"#),
        ("verify", r#"{"bytes_per_second":-1}"#),
        ("scrub", r#"{"dry_run":"yes"}"#),
        ("compact", r#"{"series":"kline/X/1m"}"#),
        ("verify", "["),
    ] {
        server.post_json(&format!("/v1/admin/{verb}"), body).refused("invalid_argument");
    }
    server.post_json("/v1/admin/verify?wait=yes", "").refused("invalid_argument");
    server.post_json("/v1/admin/verify?wat=true", "").refused("invalid_argument");
    server.get("/v1/admin/jobs?wait=true").refused("invalid_argument");
    server.post("/v1/admin/scrub", "text/plain", "{}").refused("unsupported_media_type");
    server.post_json("/v1/admin/compact", r#"{"series":["kline/Y/1m"]}"#).refused("series_not_found");
    let (slow, mut refused) = (r#"{"bytes_per_second":1}"#, false);
    // Four run, and sixteen wait.
    for _ in 0..21 {
        let reply = server.post_json("/v1/admin/verify", slow);
        if reply.status == 503 {
            reply.refused("overloaded");
            refused = true;
            break;
        }
        reply.expect(202);
    }
    assert!(refused, "the queue has no end");
    server.service.close_jobs();
    server.post_json("/v1/admin/verify", "").refused("not_ready");
}

#[test]
fn health_is_degraded_until_a_verification_without_findings() {
    let server = loaded();
    let degraded = || {
        let health = server.get("/health").expect(200).json();
        let named: Vec<String> = health["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["status"] != "ok")
            .map(|check| format!("{}: {}", check["name"].as_str().unwrap(), check["detail"].as_str().unwrap()))
            .collect();
        assert_eq!(health["status"] == "ok", named.is_empty());
        let dated = |part: &serde_json::Value| part["since"].as_str().is_some_and(|since| since.ends_with('Z'));
        assert_eq!(dated(&health), !named.is_empty(), "{health}");
        let checks = health["checks"].as_array().unwrap();
        assert!(checks.iter().all(|check| dated(check) == (check["status"] != "ok")), "{health}");
        named
    };
    let report = |body: &str| only(&server.post_json("/v1/admin/scrub?wait=true", body).expect(200))["result"].clone();
    assert_eq!(degraded(), Vec::<String>::new());
    // A sidecar: a dry run reports it, the scrub rebuilds it.
    let zones = file(&server, ".zmap");
    flip(&zones, 40);
    let dry = report(r#"{"dry_run":true,"bytes_per_second":0}"#);
    assert_eq!((&dry["clean"], &dry["findings"][0]["kind"]), (&false.into(), &"damaged_sidecar".into()));
    assert!(degraded()[0].contains("damaged_sidecar in chunks/"), "{:?}", degraded());
    let wet = report(r#"{"bytes_per_second":0}"#);
    assert_eq!((&wet["clean"], wet["rebuilt"].as_array().unwrap().len()), (&true.into(), 1));
    assert_eq!(degraded(), Vec::<String>::new());
    // A block: reads and health report it; a verification names it.
    let chunk = file(&server, ".arrow");
    flip(&chunk, 100_000);
    let again = server.restarted();
    let server = again;
    server.get("/v1/klines/X/1m?limit=5").refused("corrupt_data");
    let health = server.get("/health").expect(200).json();
    assert_eq!(health["status"], "degraded");
    let reads = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "reads").unwrap();
    assert!(reads["detail"].as_str().unwrap().contains("block 0"), "{reads}");
    let job = only(&server.post_json("/v1/admin/verify?wait=true", "").expect(200));
    let finding = &job["result"]["findings"][0];
    assert_eq!((&finding["kind"], &finding["series"]), (&"damaged_block".into(), &"kline/X/1m".into()));
    assert_eq!(job["result"]["errors"], 1);
    let health = server.get("/health").expect(200).text();
    assert!(health.contains("kline/X/1m"), "{health}");
    flip(&chunk, 100_000);
    server.post_json("/v1/admin/verify?wait=true", "").expect(200);
    assert_eq!(server.get("/health").expect(200).json()["status"], "ok");
}

#[test]
fn health_recovers_once_the_damaged_series_is_dropped() {
    let server = loaded();
    let chunk = file(&server, ".arrow");
    flip(&chunk, 100_000);
    let root = Arc::clone(&server.root);
    drop(server);
    // A retained commit still needs the damaged file.
    let server = Server::without_history(root);
    server.get("/v1/klines/X/1m?limit=5").refused("corrupt_data");
    server.post_json("/v1/admin/verify?wait=true", "").expect(200);
    let since = |health: &serde_json::Value| {
        let checks = health["checks"].as_array().unwrap().iter().filter(|check| check["status"] != "ok");
        checks.map(|check| (check["name"].to_string(), check["since"].to_string())).collect::<Vec<_>>()
    };
    let health = server.get("/health").expect(200).json();
    let before = since(&health);
    assert!(before.len() == 2 && before.iter().any(|(name, _)| name.contains("reads")), "{health}");
    // The start of the degradation does not change between requests.
    assert_eq!(since(&server.get("/health").expect(200).json()), before);
    server.delete("/v1/series/kline/X/1m").expect(200);
    let started_at = std::time::Instant::now();
    loop {
        server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
        let health = server.get("/health").expect(200).json();
        if health["status"] == "ok" {
            assert!(health["since"].is_null(), "{health}");
            break;
        }
        assert!(started_at.elapsed().as_secs() < 60, "{health}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_verification_at_one_byte_per_second_lets_other_jobs_run_and_can_be_cancelled() {
    let server = loaded();
    let slow = server.post_json("/v1/admin/verify", r#"{"bytes_per_second":1}"#).expect(202);
    let slow = only(&slow)["id"].as_str().unwrap().to_owned();
    for (verb, body) in [("verify", "{}"), ("scrub", "{}"), ("compact", "{}"), ("verify", "{}")] {
        let done = server.post_json(&format!("/v1/admin/{verb}?wait=true"), body).expect(200);
        assert_eq!(only(&done)["status"], "done", "{verb}");
    }
    let path = format!("/v1/admin/jobs/{slow}");
    server.delete(&path).expect(200);
    let started_at = std::time::Instant::now();
    loop {
        let job = only(&server.get(&path).expect(200));
        if job["status"] == "failed" {
            assert_eq!(job["error"]["code"], "not_ready", "{job}");
            break;
        }
        assert!(started_at.elapsed().as_secs() < 60, "{job}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn orphans_and_overlaps_are_listed() {
    let server = loaded();
    assert_eq!(server.get("/v1/admin/orphans").expect(200).json()["files"], 0);
    std::fs::write(server.root.path().join("notes.txt"), "mine").unwrap();
    let orphans = server.get("/v1/admin/orphans").expect(200).json();
    assert_eq!(
        (&orphans["orphans"][0]["file"], &orphans["orphans"][0]["kind"]),
        (&"notes.txt".into(), &"foreign".into())
    );
    assert_eq!(server.get("/v1/admin/overlaps").expect(200).json()["partitions"], 0);
    server.post("/v1/klines/X/1m", "text/csv", csv_body(100, 50)).expect(200);
    server.service.store().seal(&[]).unwrap();
    let overlaps = server.get("/v1/admin/overlaps").expect(200).json();
    assert_eq!((&overlaps["partitions"], &overlaps["overlapping"]), (&1.into(), &1.into()));
    let overlap = &overlaps["overlaps"][0];
    assert_eq!((&overlap["series"], &overlap["partition"]), (&"kline/X/1m".into(), &"1970-01".into()));
    let (older, newer) = (&overlap["chunks"][0], &overlap["chunks"][1]);
    assert!(older["commit_hi"].as_u64() < newer["commit_lo"].as_u64());
    let pair = &overlap["pairs"][0];
    assert_eq!((&pair["older"], &pair["newer"]), (&older["id"], &newer["id"]));
    assert_eq!(overlap["due"], false);
    assert!(overlap["compaction"][0].as_str().unwrap().contains("2 chunks stay for now"), "{overlap}");
    server.get("/v1/admin/overlaps?series=x").refused("invalid_argument");
}
