//! Backups through REST: their location, results and errors.

use fastk::service::{RestoreOptions, Service, TaskControl, restore_backup};
use serde_json::{Value, json};

use super::client::{Reply, Server, csv_body};

fn only(reply: &Reply) -> Value {
    let mut reply = reply.json();
    let jobs = reply["jobs"].as_array_mut().unwrap();
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

/// Waits for the backup and returns the job.
fn back_up(server: &Server, body: &Value) -> Value {
    only(&server.post_json("/v1/admin/backup?wait=true", &body.to_string()).expect(200))
}

#[test]
fn a_server_without_a_backup_directory_refuses_backups() {
    let server = Server::start();
    let reply = server.post_json("/v1/admin/backup", r#"{"dir":"monday"}"#).refused("permission_denied");
    assert!(reply["hint"].as_str().unwrap().contains("backup_dir"));
    assert_eq!(server.get("/v1/admin/jobs").expect(200).json()["jobs"], json!([]));
}

#[test]
fn a_client_can_back_up_only_below_the_backup_directory() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("backups");
    server.service.allow_backups(&top);
    server.kline("X");
    server.post("/v1/klines/X/1m", "text/csv", csv_body(0, 30_000)).expect(200);
    for bad in ["", "..", "../x", "/tmp/x", "a/../../x", "a\\u0000b"] {
        let body = format!(r#"{{"dir":"{bad}"}}"#);
        server.post_json("/v1/admin/backup", &body).refused("invalid_argument");
        let body = format!(r#"{{"dir":"good","base":"{bad}"}}"#);
        server.post_json("/v1/admin/backup", &body).refused("invalid_argument");
    }
    for body in ["", "{}", r#"{"dir":7}"#, r#"{"dir":"x","to":"y"}"#] {
        server.post_json("/v1/admin/backup", body).refused("invalid_argument");
    }
    assert!(!top.exists() && std::fs::read_dir(place.path()).unwrap().next().is_none());

    let planned = back_up(&server, &json!({"dir": "monday", "dry_run": true}));
    assert_eq!((&planned["result"]["dry_run"], &planned["result"]["rows"]), (&true.into(), &30_000.into()));
    assert!(!top.exists());
    let done = back_up(&server, &json!({"dir": "monday"}));
    assert_eq!(
        (&done["verb"], &done["status"], &done["progress"]["unit"]),
        (&"backup".into(), &"done".into(), &"bytes".into())
    );
    assert!(done["progress"]["total"].as_u64().unwrap() > 0 && done["progress"]["done"] == done["progress"]["total"]);
    let result = &done["result"];
    assert_eq!((&result["dir"], &result["rows"], &result["series"]), (&"monday".into(), &30_000.into(), &1.into()));
    assert!(result["files_linked"].as_u64().unwrap() > 0 && result["damaged"] == json!([]));

    // Errors name no path of the server.
    std::fs::create_dir(top.join("full")).unwrap();
    std::fs::write(top.join("full/letter"), "dear").unwrap();
    let failed = back_up(&server, &json!({"dir": "full"}));
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&"failed".into(), &"invalid_argument".into()));
    let text = failed.to_string();
    assert!(text.contains("full is not empty") && !text.contains(&place.path().display().to_string()), "{text}");

    let tuesday = back_up(&server, &json!({"dir": "tuesday", "base": "monday", "copy": true}));
    assert_eq!(tuesday["result"]["files_linked"], 0, "{tuesday}");
    let again = back_up(&server, &json!({"dir": "tuesday"}));
    assert_eq!((&again["result"]["files_linked"], &again["result"]["files_copied"]), (&0.into(), &0.into()), "{again}");

    // The restored store returns the same rows, with other entity tags.
    let root = place.path().join("restored");
    let options = RestoreOptions { apply: true, ..RestoreOptions::default() };
    let restored = restore_backup(&top.join("tuesday"), &root, &options, &TaskControl::new()).unwrap();
    assert_eq!((restored.applied, restored.rows), (true, 30_000));
    let read = "/v1/klines/X/1m?latest=100&format=csv";
    let (rows, tag) = (server.get(read).expect(200).text(), server.get(read).header("etag").unwrap().to_string());
    let service = Service::open(&root, false, Default::default()).unwrap();
    assert_ne!(service.store().epoch(), tag.trim_matches('"').split('-').next().unwrap());
    let key = fastk::SeriesKey::kline("X", "1m").unwrap();
    assert_eq!(service.series(&key).unwrap().rows, 30_000);
    assert_eq!(rows.lines().count(), 101);
}

#[test]
fn a_slow_backup_can_be_cancelled_and_leaves_no_files() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    server.service.allow_backups(place.path());
    server.kline("X");
    server.post("/v1/klines/X/1m", "text/csv", csv_body(0, 30_000)).expect(200);
    let reply = server.post_json("/v1/admin/backup", r#"{"dir":"slow","bytes_per_second":1}"#).expect(202);
    let path = reply.header("location").unwrap().to_string();
    while only(&server.get(&path).expect(200))["progress"]["done"] == 0 {
        std::thread::yield_now();
    }
    // Writes continue meanwhile.
    server.post("/v1/klines/X/1m", "text/csv", csv_body(30_000, 10)).expect(200);
    server.delete(&path).expect(200);
    let ended = loop {
        let job = only(&server.get(&path).expect(200));
        if job["status"] == "failed" {
            break job;
        }
        std::thread::yield_now();
    };
    assert_eq!(ended["error"]["code"], "not_ready");
    assert!(!place.path().join("slow").exists());
}
