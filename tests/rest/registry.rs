//! Datasets, features and factors through REST: creation, lists, reads, and a lost registry.

use std::collections::BTreeSet;

use fastk::access;
use fastk::service::{RestoreOptions, Scope, Service, StoreOptions, TaskControl, restore_backup};
use serde_json::{Value, json};
use sha2_of::checksum_of;

use super::client::{Reply, Server, csv_body};

const X: &str = "/v1/klines/X/1m";

/// The checksum as documented on the page about the registry, computed from responses.
mod sha2_of {
    use serde_json::Value;

    use super::Server;

    /// Checksums of members (key, layout, columns as raw words by row) and of the dataset.
    pub fn checksum_of(server: &Server, members: &[(&str, &str)], as_of: &str) -> (Vec<String>, String) {
        let mut each = Vec::new();
        let mut whole = b"fastk-dataset 1\n".to_vec();
        for (key, layout) in members {
            let path = format!("/v1/{}", key.replacen("kline/", "klines/", 1));
            let reply = server.get(&format!("{path}?shape=columns&numbers=raw&as_of={as_of}")).expect(200).json();
            let columns: Vec<(String, Vec<Value>)> = layout
                .split(',')
                .map(|column| {
                    let (name, kind) = column.split_once(':').unwrap();
                    (kind.to_owned(), reply["columns"][name].as_array().unwrap().clone())
                })
                .collect();
            let rows = columns[0].1.len();
            let mut bytes = Vec::new();
            for row in 0..rows {
                for (kind, cells) in &columns {
                    let word = match kind.as_str() {
                        "float64" => cells[row].as_f64().unwrap().to_le_bytes(),
                        _ => cells[row].as_i64().unwrap().to_le_bytes(),
                    };
                    bytes.extend_from_slice(&word);
                }
            }
            let own = fastk::registry::hash::sha256(&bytes);
            whole.extend_from_slice(format!("{key} {layout} {rows} {own}\n").as_bytes());
            each.push(own);
        }
        (each, fastk::registry::hash::sha256(&whole))
    }
}

const LAYOUT: &str = "ts:ms,open:decimal(2),high:decimal(2),low:decimal(2),close:decimal(2),volume:decimal(3),\
    trades:int64,vwap:float64";

fn filled() -> Server {
    let server = Server::start();
    for symbol in ["X", "Y"] {
        server.kline(symbol);
        server.post(&format!("/v1/klines/{symbol}/1m"), "text/csv", csv_body(0, 3_000)).expect(200);
    }
    server
}

fn create(server: &Server, spec: &Value) -> Value {
    server.post_json("/v1/datasets", &spec.to_string()).expect(201).json()
}

fn patch(server: &Server, path: &str, status: &str) -> Reply {
    let body = json!({ "status": status }).to_string();
    server.send(
        "PATCH",
        path,
        &[("content-type", "application/json"), ("content-length", &body.len().to_string())],
        body.as_bytes(),
    )
}

fn snapshots(server: &Server) -> BTreeSet<String> {
    let list = server.get("/v1/snapshots").expect(200).json();
    list["snapshots"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn names(page: &Value, list: &str, field: &str) -> Vec<String> {
    page[list].as_array().unwrap().iter().map(|one| one[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_dataset_describes_its_snapshot_and_never_changes() {
    let mut server = filled();
    let spec = json!({
        "name": "both", "members": ["kline/*/1m", "kline/X/1m"], "source": "here", "market": "spot",
        "description": "two of them",
    });
    let reply = server.post_json("/v1/datasets", &spec.to_string()).expect(201);
    assert_eq!(reply.header("location"), Some("/v1/datasets/both/versions/1"));
    let made = reply.json();
    let expected = json!({
        "dataset": "dataset:both@1", "name": "both", "version": 1, "status": "active", "description": "two of them",
        "source": "here", "market": "spot", "snapshot": "dataset:both@1", "owns_snapshot": true, "rows": 6_000,
        "series_count": 2, "derived_from": [],
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}");
    }
    let keys: Vec<&str> = ["kline/X/1m", "kline/Y/1m"].into();
    let members = made["members"].as_array().unwrap();
    assert_eq!(members.iter().map(|member| member["series"].as_str().unwrap()).collect::<Vec<_>>(), keys);
    let times = server.get(&format!("{X}?times=rfc3339&limit=1")).expect(200).json();
    assert_eq!(made["start"], times["rows"][0]["ts"]);
    let times = server.get(&format!("{X}?times=rfc3339&latest=1")).expect(200).json();
    assert_eq!(made["end"], times["rows"][0]["ts"]);
    assert_eq!(made["commit"], server.get("/v1/snapshots").expect(200).json()["snapshots"][0]["commit"]);

    // The checksum is the documented one, for rows in the log and in chunks.
    let all: Vec<(&str, &str)> = keys.iter().map(|key| (*key, LAYOUT)).collect();
    let (each, whole) = checksum_of(&server, &all, "dataset:both@1");
    assert_eq!(made["checksum"], whole.as_str());
    assert_eq!(members.iter().map(|member| member["checksum"].as_str().unwrap()).collect::<Vec<_>>(), each);
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    // The same rows once more change versions, not the content.
    server.post(X, "text/csv", csv_body(0, 10)).expect(200);
    let again = create(&server, &spec);
    assert_eq!((&again["version"], &again["checksum"]), (&2.into(), &made["checksum"]));
    assert_ne!(again["members"][0]["version"], made["members"][0]["version"]);
    server.post(X, "text/csv", csv_body(0, 10).replace(".10,", ".11,")).expect(200);
    let other = create(&server, &spec);
    assert_ne!(other["checksum"], made["checksum"]);
    assert_eq!(other["members"][1]["checksum"], made["members"][1]["checksum"]);

    let get = |server: &Server, path: &str| server.get(path).expect(200).json();
    assert_eq!(get(&server, "/v1/datasets/both/versions/1"), made);
    assert_eq!(get(&server, "/v1/datasets/both"), other);
    assert_eq!(get(&server, "/v1/datasets/both/versions/latest"), other);
    server.delete(&format!("{X}?all=true")).expect(200);
    server.delete("/v1/series/kline/Y/1m").expect(200);
    server = server.restarted();
    assert_eq!(get(&server, "/v1/datasets/both/versions/1"), made);
    let (_, still) = checksum_of(&server, &all, "dataset:both@1");
    assert_eq!(still, whole, "the rows exist although the series changed");
    assert_eq!(get(&server, "/health")["status"], "ok");
}

#[test]
fn reads_under_a_dataset_return_its_members_from_its_snapshot() {
    let server = filled();
    server.kline("Z");
    create(&server, &json!({"name": "two", "members": ["kline/X/1m", "kline/Y/1m"]}));
    let before = server.get(&format!("{X}?format=csv")).expect(200).text();
    server.post(X, "text/csv", csv_body(2_990, 500).replace(".10,", ".11,")).expect(200);
    let v2 = create(&server, &json!({"name": "two", "members": ["kline/X/1m"], "derived_from": ["two@1"]}));
    let read = |as_of: &str| server.get(&format!("{X}?format=csv&as_of={as_of}"));
    assert_eq!(read("dataset:two@1").expect(200).text(), before);
    assert_eq!(read("dataset:two").expect(200).text(), server.get(&format!("{X}?format=csv")).expect(200).text());
    let page = server.get(&format!("{X}?limit=2&as_of=dataset:two@2")).expect(200).json();
    assert_eq!(page["commit"], v2["commit"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    server.get(&format!("{X}?limit=2&as_of=dataset:two@2&cursor={cursor}")).expect(200);

    // No members: by name refused, by glob not found.
    let z = server.get("/v1/klines/Z/1m?as_of=dataset:two@1").refused("series_not_found");
    assert!(z["detail"].as_str().unwrap().contains("not a member of dataset:two@1"), "{z}");
    server.get("/v1/klines/Y/1m?as_of=dataset:two").refused("series_not_found");
    let query = |body: Value| server.post_json("/v1/query?format=csv", &body.to_string());
    let labels = |text: &str| -> BTreeSet<String> {
        text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect()
    };
    let found = query(json!({"series": ["kline/*/1m"], "as_of": "dataset:two@1"})).expect(200).text();
    assert_eq!(labels(&found), ["kline/X/1m", "kline/Y/1m"].map(String::from).into());
    let found = query(json!({"series": ["kline/*/1m"], "as_of": "dataset:two@2"})).expect(200).text();
    assert_eq!(labels(&found), ["kline/X/1m".to_owned()].into());
    query(json!({"series": ["kline/Z*/1m"], "as_of": "dataset:two@1"})).refused("series_not_found");
    query(json!({"series": ["kline/X/1m", "kline/Z/1m"], "as_of": "dataset:two@1"})).refused("series_not_found");
    // A cursor of one version does not continue another, nor a read without it.
    let request = |as_of: Option<&str>, cursor: Option<&str>| {
        let body = json!({"series": ["kline/*/1m"], "limit": 5, "as_of": as_of, "cursor": cursor});
        server.post_json("/v1/query", &body.to_string())
    };
    let cursor = request(Some("dataset:two@1"), None).expect(200).json()["next_cursor"].as_str().unwrap().to_owned();
    request(Some("dataset:two@1"), Some(&cursor)).expect(200);
    request(Some("dataset:two@2"), Some(&cursor)).refused("invalid_argument");
    request(None, Some(&cursor)).refused("invalid_argument");

    let coverage = server.get("/v1/coverage/kline/X/1m?as_of=dataset:two@1").expect(200).json();
    assert_eq!(coverage["rows"], 3_000);
    server.get("/v1/coverage/kline/Z/1m?as_of=dataset:two@1").refused("series_not_found");
    read("dataset:none").refused("dataset_not_found");
    read("dataset:two@3").refused("dataset_not_found");
    for bad in ["dataset:", "dataset:two@", "dataset:two@x", "dataset:Two", "dataset:two@0"] {
        read(bad).refused("invalid_argument");
    }
}

#[test]
fn a_snapshot_of_a_dataset_cannot_be_dropped_until_it_is_archived() {
    let mut server = filled();
    server.post_json("/v1/snapshots", r#"{"name":"kept"}"#).expect(201);
    create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}));
    let on = create(&server, &json!({"name": "b", "members": ["kline/X/1m"], "snapshot": "kept"}));
    assert_eq!((&on["snapshot"], &on["owns_snapshot"]), (&"kept".into(), &false.into()));
    for (snapshot, dataset) in [("kept", "dataset:b@1"), ("dataset:a@1", "dataset:a@1")] {
        let refused = server.delete(&format!("/v1/snapshots/{snapshot}")).refused("invalid_argument");
        assert!(refused["detail"].as_str().unwrap().contains(&format!("used by {dataset}")), "{refused}");
        assert!(refused["hint"].as_str().unwrap().contains("archived"), "{refused}");
    }
    server.post_json("/v1/snapshots", r#"{"name":"dataset:a@9"}"#).refused("invalid_argument");
    server.delete("/v1/snapshots/none").refused("snapshot_not_found");
    patch(&server, "/v1/datasets/b/versions/1", "archived").expect(200);
    server.delete("/v1/snapshots/kept").expect(200);
    assert_eq!(patch(&server, "/v1/datasets/a/versions/1", "archived").expect(200).json()["status"], "archived");
    assert_eq!(snapshots(&server), BTreeSet::new());
    server.get(&format!("{X}?as_of=dataset:a@1")).refused("snapshot_not_found");
    patch(&server, "/v1/datasets/a/versions/1", "active").refused("invalid_argument");
    patch(&server, "/v1/datasets/a/versions/1", "archived").expect(200);
    // Its description remains, and its number is not reused.
    assert_eq!(server.get("/v1/datasets/a").expect(200).json()["rows"], 3_000);
    assert_eq!(create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}))["version"], 2);
    server = server.restarted();
    assert_eq!(snapshots(&server), ["dataset:a@2".to_owned()].into());
    assert_eq!(server.get("/v1/datasets/a").expect(200).json()["version"], 2, "the latest that is not archived");
}

#[test]
fn archiving_a_dataset_again_releases_a_snapshot_that_was_not_dropped() {
    let server = filled();
    create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}));
    let file = server.root.path().join("registry.sqlite");
    let change = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    change("CREATE TRIGGER keep BEFORE DELETE ON pending BEGIN SELECT RAISE(ABORT, 'kept'); END");
    let path = "/v1/datasets/a/versions/1";
    patch(&server, path, "archived").refused("internal");
    assert_eq!(server.get(path).expect(200).json()["status"], "archived");
    // As when the snapshot could not be dropped.
    server.service.store().create_snapshot("dataset:a@1").unwrap();
    change("DROP TRIGGER keep");
    server.delete("/v1/snapshots/dataset:a@1").refused("invalid_argument");
    patch(&server, path, "archived").expect(200);
    assert_eq!(snapshots(&server), BTreeSet::new());
    patch(&server, path, "archived").expect(200);
}

#[test]
fn a_dataset_that_cannot_be_created_leaves_no_snapshot() {
    let server = filled();
    let refused = |spec: Value, code: &str| {
        server.post_json("/v1/datasets", &spec.to_string()).refused(code);
    };
    for (spec, code) in [
        (json!({"name": "a", "members": []}), "invalid_argument"),
        (json!({"name": "A", "members": ["kline/X/1m"]}), "invalid_argument"),
        (json!({"name": "a".repeat(49), "members": ["kline/X/1m"]}), "invalid_argument"),
        (json!({"name": "a", "members": ["kline/N/1m"]}), "series_not_found"),
        (json!({"name": "a", "members": ["kline/N*/1m"]}), "series_not_found"),
        (json!({"name": "a", "members": ["X"]}), "invalid_argument"),
        (json!({"name": "a", "members": ["kline/X/1m"], "snapshot": "none"}), "snapshot_not_found"),
        (json!({"name": "a", "members": ["kline/X/1m"], "status": "archived"}), "invalid_argument"),
        (json!({"name": "a", "members": ["kline/X/1m"], "derived_from": ["b@1"]}), "dataset_not_found"),
        (json!({"name": "a", "members": ["kline/X/1m"], "derived_from": ["feature:b@1"]}), "not_found"),
        (json!({"name": "a", "members": ["kline/X/1m"], "derived_from": ["b"]}), "invalid_argument"),
        (json!({"name": "a", "members": ["kline/X/1m"], "source": "s".repeat(257)}), "invalid_argument"),
        (json!({"name": "a", "members": ["kline/X/1m"], "version": 3}), "invalid_argument"),
    ] {
        refused(spec, code);
    }
    let once = server.post_once("/v1/datasets", "k", r#"{"name":"a","members":["kline/X/1m"]}"#);
    assert!(once.refused("invalid_argument")["hint"].as_str().unwrap().contains("versions"));
    assert_eq!(snapshots(&server), BTreeSet::new());
    server.get("/v1/datasets/a").refused("dataset_not_found");

    // A block with a wrong checksum fails the creation, and its snapshot is dropped.
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    let chunk = std::fs::read_dir(server.root.path().join("chunks"))
        .unwrap()
        .flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "arrow"))
        .unwrap();
    let mut bytes = std::fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::remove_file(&chunk).unwrap();
    std::fs::write(&chunk, &bytes).unwrap();
    let server = server.restarted();
    server.post_json("/v1/datasets", r#"{"name":"a","members":["kline/*/1m"]}"#).refused("corrupt_data");
    assert_eq!(snapshots(&server), BTreeSet::new());
    server.get("/v1/datasets/a").refused("dataset_not_found");
}

#[test]
fn a_dataset_interrupted_by_a_crash_is_removed_by_the_next_open() {
    let mut server = filled();
    let made = create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}));
    server.stop().unwrap();
    let root = server.root.clone();
    drop(server);
    // As after a crash between the snapshot and the record: the pending note and the snapshot exist.
    {
        let records = fastk::registry::Registry::open(root.path(), true, 0);
        assert_eq!(records.begin_dataset("a", None, 0).unwrap().version, 2);
        let store = fastk::Store::open(
            root.path(),
            false,
            StoreOptions { background_maintenance: false, ..Default::default() },
        )
        .unwrap();
        store.create_snapshot("dataset:a@2").unwrap();
        store.create_snapshot("mine").unwrap();
    }
    let server = Server::over(root, Default::default());
    assert_eq!(snapshots(&server), ["dataset:a@1", "mine"].map(String::from).into());
    assert_eq!(server.get("/v1/datasets/a").expect(200).json(), made);
}

#[test]
fn two_creators_of_one_dataset_get_a_version_each() {
    let server = filled();
    let spec = json!({"name": "a", "members": ["kline/*/1m"]}).to_string();
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let make = || server.post_json("/v1/datasets", &spec).expect(201).json()["version"].as_u64().unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
    assert_eq!(snapshots(&server).len(), 4);
    let list = server.get("/v1/datasets/a/versions?limit=3").expect(200).json();
    assert_eq!(names(&list, "datasets", "dataset"), ["dataset:a@1", "dataset:a@2", "dataset:a@3"]);
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/datasets/a/versions?cursor={cursor}")).expect(200).json();
    assert_eq!((names(&rest, "datasets", "dataset"), &rest["next_cursor"]), (vec!["dataset:a@4".into()], &Value::Null));
    assert!(rest["datasets"][0].get("members").is_none(), "lists leave them out");
    server.get("/v1/datasets/b/versions").refused("dataset_not_found");
    for bad in ["limit=0", "limit=1001", "cursor=x", "status=new", "name=a"] {
        server.get(&format!("/v1/datasets/a/versions?{bad}")).refused("invalid_argument");
    }
}

#[test]
fn an_equal_definition_is_the_same_version_and_another_one_the_next() {
    let mut server = filled();
    create(&server, &json!({"name": "raw", "members": ["kline/X/1m"]}));
    let spec = |definition: &str, code: &str| {
        format!(
            r#"{{"name":"rsi-14","definition":{definition},"code_version":"{code}","inputs":["kline/Y/1m","raw@1"],
                "outputs":["scalar/feature/X/1m/rsi_14"],"description":"of February"}}"#
        )
    };
    let define = |server: &Server, body: &str, status: u16| {
        let reply = server.post_json("/v1/features", body).expect(status);
        let version = reply.json()["version"].as_u64().unwrap();
        assert_eq!(reply.header("location").unwrap(), format!("/v1/features/rsi-14/versions/{version}"));
        reply.json()
    };
    let first = define(&server, &spec(r#"{"period":14,"on":"close"}"#, "c1"), 201);
    let text = r#"{"on":"close","period":14}"#;
    assert_eq!(first["config_hash"], fastk::registry::hash::sha256(text.as_bytes()));
    let expected = json!({
        "created": true, "reference": "feature:rsi-14@1", "kind": "feature", "name": "rsi-14", "version": 1,
        "status": "active", "description": "of February", "definition": {"on": "close", "period": 14},
        "config_hash": first["config_hash"], "code_version": "c1", "inputs": ["dataset:raw@1", "kline/Y/1m"],
        "outputs": ["scalar/feature/X/1m/rsi_14"], "series_count": 2, "created_at": first["created_at"],
    });
    assert_eq!(first, expected);
    let same = define(&server, &spec(r#"{ "on" : "close", "period" : 14.0 }"#, "c1"), 200);
    assert_eq!((&same["created"], &same["created_at"]), (&false.into(), &first["created_at"]));
    assert_eq!(define(&server, &spec(text, "c2"), 201)["version"], 2);
    assert_eq!(define(&server, &spec(r#"{"period":15}"#, "c2"), 201)["version"], 3);
    assert_eq!(define(&server, &spec(text, "c1"), 200)["version"], 1);
    server = server.restarted();
    assert_eq!(define(&server, &spec(text, "c1"), 200)["version"], 1);
    // A factor with the same name is another record.
    assert_eq!(server.post_json("/v1/factors", &spec(text, "c1")).expect(201).json()["reference"], "factor:rsi-14@1");
    assert_eq!(server.get("/v1/factors/rsi-14").expect(200).json()["kind"], "factor");

    let get = |path: &str| server.get(path).expect(200).json();
    assert_eq!(get("/v1/features/rsi-14")["version"], 3);
    assert_eq!(get("/v1/features/rsi-14/versions/1")["code_version"], "c1");
    let changed = patch(&server, "/v1/features/rsi-14/versions/3", "deprecated").expect(200).json();
    assert_eq!(changed["status"], "deprecated");
    let list = |query: &str| names(&get(&format!("/v1/features?{query}")), "definitions", "reference");
    assert_eq!(list("status=deprecated"), ["feature:rsi-14@3"]);
    assert_eq!(list("derived_from=raw@1&limit=2"), ["feature:rsi-14@1", "feature:rsi-14@2"]);
    assert_eq!(list("series=kline/Y/1m&limit=1&cursor=rsi-14@2"), ["feature:rsi-14@3"]);
    assert_eq!(list("series=kline/X/1m"), Vec::<String>::new());
    assert_eq!(names(&get("/v1/features/rsi-14/versions"), "definitions", "reference").len(), 3);

    for (body, code) in [
        (json!({"name": "f", "definition": 1, "code_version": "1", "inputs": ["kline/X/1m"]}), "invalid_argument"),
        (json!({"name": "f", "definition": {}, "code_version": "", "inputs": ["kline/X/1m"]}), "invalid_argument"),
        (json!({"name": "f", "definition": {}, "code_version": "1", "inputs": []}), "invalid_argument"),
        (json!({"name": "f", "definition": {}, "code_version": "1", "inputs": ["kline/N/1m"]}), "series_not_found"),
        (json!({"name": "f", "definition": {}, "code_version": "1", "inputs": ["raw@2"]}), "dataset_not_found"),
        (json!({"name": "f", "definition": {}, "code_version": "1", "inputs": ["factor:no@1"]}), "not_found"),
        (
            json!({"name": "f", "definition": {"n": u64::MAX}, "code_version": "1", "inputs": ["raw@1"]}),
            "invalid_argument",
        ),
        (
            json!({"name": "f", "definition": {}, "code_version": "1", "inputs": ["raw@1"], "outputs": ["x"]}),
            "invalid_argument",
        ),
        (json!({"name": "f", "definition": {}, "inputs": ["raw@1"]}), "invalid_argument"),
    ] {
        server.post_json("/v1/features", &body.to_string()).refused(code);
    }
    server.get("/v1/features/f").refused("not_found");
    server.get("/v1/features/rsi-14/versions/4").refused("not_found");
    server.get("/v1/features/rsi-14/versions/first").refused("invalid_argument");
    patch(&server, "/v1/features/rsi-14/versions/4", "active").refused("not_found");
    for kind in ["dataset", "feature", "factor"] {
        let refused = server.get(&format!("/v1/{kind}s/rsi-14/versions/first")).refused("invalid_argument");
        assert!(refused["detail"].as_str().unwrap().starts_with(&format!("{kind} version")), "{refused}");
    }
    // An archived version stays archived: an equal definition creates the next one.
    patch(&server, "/v1/features/rsi-14/versions/1", "archived").expect(200);
    assert_eq!(define(&server, &spec(text, "c1"), 201)["version"], 4);
    assert_eq!(define(&server, &spec(text, "c1"), 200)["version"], 4);
}

#[test]
fn a_record_with_the_most_and_longest_keys_fits_a_request() {
    let server = filled();
    let (symbol, category) = ("S".repeat(64), "c".repeat(32));
    let outputs = |count: usize| -> Vec<String> {
        (0..count).map(|number| format!("scalar/{category}/{symbol}/1m/{number:0>64}")).collect()
    };
    let spec = |count: usize| {
        let definition = json!({"note": "x".repeat(200 << 10)});
        let inputs = ["kline/X/1m"];
        json!({"name": "wide", "definition": definition, "code_version": "1", "inputs": inputs, "outputs": outputs(count)})
            .to_string()
    };
    let body = spec(10_000);
    assert!(body.len() > 1 << 20, "longer than what other requests may have: {}", body.len());
    let made = server.post_json("/v1/features", &body).expect(201).json();
    assert_eq!((made["series_count"].as_u64(), made["outputs"].as_array().unwrap().len()), (Some(10_001), 10_000));
    let refused = server.post_json("/v1/features", &spec(10_001)).refused("too_large");
    assert!(refused["detail"].as_str().unwrap().contains("10001 outputs"), "{refused}");
    server.post_json("/v1/features", &" ".repeat((8 << 20) + 1)).refused("too_large");
    server.post_json("/v1/snapshots", &" ".repeat(1 << 20)).refused("too_large");
}

#[test]
fn lineage_covers_all_steps_in_both_directions() {
    let server = filled();
    create(&server, &json!({"name": "raw", "members": ["kline/X/1m"]}));
    create(&server, &json!({"name": "clean", "members": ["kline/X/1m"], "derived_from": ["raw@1"]}));
    let body = r#"{"name":"f","definition":{},"code_version":"1","inputs":["clean@1"]}"#;
    server.post_json("/v1/features", body).expect(201);
    let body = r#"{"name":"g","definition":{},"code_version":"1","inputs":["feature:f@1"]}"#;
    server.post_json("/v1/factors", body).expect(201);
    let of = |path: &str| server.get(&format!("/v1/{path}/lineage")).expect(200).json();
    let found = of("datasets/clean/versions/1");
    assert_eq!(names(&found, "upstream", "record"), ["dataset:raw@1"]);
    assert_eq!(names(&found, "downstream", "record"), ["feature:f@1", "factor:g@1"]);
    assert_eq!(found["downstream"][1]["depth"], 2);
    let edges = json!([
        {"parent": "dataset:clean@1", "child": "feature:f@1"}, {"parent": "dataset:raw@1", "child": "dataset:clean@1"},
        {"parent": "feature:f@1", "child": "factor:g@1"},
    ]);
    assert_eq!((&found["edges"], &found["truncated"]), (&edges, &false.into()));
    assert_eq!(names(&of("factors/g/versions/latest"), "upstream", "record").len(), 3);
    assert_eq!(names(&of("features/f/versions/1"), "downstream", "record"), ["factor:g@1"]);
    server.get("/v1/datasets/none/versions/1/lineage").refused("dataset_not_found");
}

#[test]
fn a_limited_token_learns_nothing_of_records_that_need_other_series() {
    let root = tempfile::tempdir().unwrap();
    let make = |scope, prefixes: &[&str]| {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        access::create(root.path(), "t", scope, &prefixes).unwrap().token
    };
    let (admin, writer) = (make(Scope::Admin, &[]), make(Scope::Write, &[]));
    let limited = make(Scope::Admin, &["kline/X"]);
    let server = Server::over(root.into(), Default::default());
    let request = |token: &str, method: &str, path: &str, body: &Value| {
        let bearer = access::bearer_header(token);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len().to_string();
        let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        if method == "PATCH" {
            headers.push(("content-length", &length));
        }
        server.send(method, path, &headers, body.as_bytes())
    };
    let get = |token: &str, path: &str| request(token, "GET", path, &Value::Null);
    for symbol in ["X", "Y"] {
        let spec = json!({"kind": "kline", "symbol": symbol, "timeframe": "1m"});
        request(&admin, "POST", "/v1/series", &spec).expect(201);
    }
    let dataset = |name: &str, members: Value, parents: Value| {
        let spec = json!({"name": name, "members": members, "derived_from": parents});
        request(&writer, "POST", "/v1/datasets", &spec).expect(201);
    };
    dataset("open", json!(["kline/X/1m"]), json!([]));
    dataset("secret", json!(["kline/*/1m"]), json!([]));
    dataset("mixed", json!(["kline/X/1m"]), json!(["open@1", "secret@1"]));
    let feature = |token: &str, name: &str, inputs: Value| {
        let spec = json!({"name": name, "definition": {}, "code_version": "1", "inputs": inputs});
        request(token, "POST", "/v1/features", &spec)
    };
    feature(&writer, "hidden", json!(["kline/X/1m", "secret@1"])).expect(201);
    feature(&writer, "deeper", json!(["feature:hidden@1"])).expect(201);
    feature(&limited, "own", json!(["kline/X/1m", "open@1"])).expect(201);

    let page = get(&limited, "/v1/datasets?limit=2").expect(200).json();
    assert_eq!(names(&page, "datasets", "name"), ["mixed", "open"]);
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!(page["datasets"][0]["derived_from"], json!(["dataset:open@1"]));
    assert_eq!(names(&get(&limited, "/v1/features").expect(200).json(), "definitions", "name"), ["own"]);
    assert_eq!(names(&get(&writer, "/v1/features").expect(200).json(), "definitions", "name").len(), 3);
    // Hidden and missing records have the same response, except for the requested name.
    let response_for = |name: &str, below: &str| {
        let problem = get(&limited, &format!("/v1/datasets/{name}{below}")).refused("dataset_not_found");
        problem["detail"].as_str().unwrap().replace(name, "…")
    };
    for below in ["", "/versions", "/versions/1", "/versions/1/lineage"] {
        assert_eq!(response_for("secret", below), response_for("nosuch", below));
    }
    get(&limited, "/v1/features/hidden").refused("not_found");
    get(&limited, "/v1/features/deeper/versions/1").refused("not_found");
    get(&limited, &format!("{X}?as_of=dataset:open@1")).expect(200);
    get(&limited, &format!("{X}?as_of=dataset:secret@1")).refused("dataset_not_found");
    feature(&limited, "no", json!(["secret@1"])).refused("dataset_not_found");
    feature(&limited, "no", json!(["kline/Y/1m"])).refused("permission_denied");
    let lineage = get(&limited, "/v1/datasets/open/versions/1/lineage").expect(200).json();
    assert_eq!(names(&lineage, "downstream", "record"), ["dataset:mixed@1", "feature:own@1"]);
    let list = get(&limited, "/v1/snapshots").expect(200).json();
    assert_eq!(names(&list, "snapshots", "name"), ["dataset:mixed@1", "dataset:open@1"]);
    let made_of = |token: &str, parent: &str| {
        names(&get(token, &format!("/v1/datasets?derived_from={parent}")).expect(200).json(), "datasets", "name")
    };
    assert_eq!(
        (made_of(&limited, "open@1"), made_of(&writer, "secret@1")),
        (vec!["mixed".into()], vec!["mixed".into()])
    );
    assert_eq!(made_of(&limited, "secret@1"), Vec::<String>::new());
    let counted = |token: &str| get(token, "/inventory").expect(200).json()["totals"]["snapshots"].as_u64();
    assert_eq!((counted(&limited), counted(&writer)), (Some(2), Some(3)));
    let archive = json!({"status": "archived"});
    request(&limited, "PATCH", "/v1/datasets/secret/versions/1", &archive).refused("dataset_not_found");
    request(&limited, "PATCH", "/v1/datasets/open/versions/1", &json!({"status": "deprecated"})).expect(200);
    // Releasing a snapshot needs the permission to drop one.
    for token in [&limited, &writer] {
        request(token, "PATCH", "/v1/datasets/open/versions/1", &archive).refused("permission_denied");
    }
    request(&writer, "PATCH", "/v1/features/own/versions/1", &archive).expect(200);
    request(&admin, "PATCH", "/v1/datasets/open/versions/1", &archive).expect(200);
}

#[test]
fn a_limited_token_lists_other_snapshots_while_the_registry_is_unusable() {
    let root = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let make = |prefixes: &[String]| access::create(root.path(), "t", Scope::Write, prefixes).unwrap().token;
    let (writer, limited) = (make(&[]), make(&["kline/X".into()]));
    let bearer = |token: &str| access::bearer_header(token);
    let post = |server: &Server, path: &str, body: &str| {
        let headers = [("authorization", bearer(&writer)), ("content-type", "application/json".into())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        server.send("POST", path, &headers, body.as_bytes()).expect(201);
    };
    let seen = |server: &Server| {
        let get =
            |path: &str| server.get_with(path, &[("authorization", bearer(&limited).as_str())]).expect(200).json();
        let counted = get("/inventory")["totals"]["snapshots"].as_u64();
        (names(&get("/v1/snapshots"), "snapshots", "name"), counted)
    };
    let mut server = Server::over(root.clone(), Default::default());
    post(&server, "/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#);
    post(&server, "/v1/snapshots", r#"{"name":"mine"}"#);
    post(&server, "/v1/datasets", r#"{"name":"a","members":["kline/X/1m"]}"#);
    assert_eq!(seen(&server), (vec!["dataset:a@1".into(), "mine".into()], Some(2)));
    server.stop().unwrap();
    drop(server);
    let newer = rusqlite::Connection::open(root.path().join("registry.sqlite")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let server = Server::over(root.clone(), Default::default());
    assert_eq!(seen(&server), (vec!["mine".into()], Some(1)));
}

fn check_of(server: &Server, name: &str) -> Value {
    let health = server.get("/health").expect(200).json();
    let check = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).cloned();
    json!({"status": health["status"], "check": check.unwrap()})
}

#[test]
fn rows_are_readable_without_the_registry() {
    let mut server = filled();
    let first = create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}));
    let rows = server.get(&format!("{X}?format=csv")).expect(200).text();
    let file = |server: &Server| server.root.path().join("registry.sqlite");
    let again = |mut server: Server, change: &dyn Fn(&std::path::Path)| {
        server.stop().unwrap();
        let root = server.root.clone();
        drop(server);
        change(&root.path().join("registry.sqlite"));
        let server = Server::over(root, Default::default());
        assert_eq!(server.get(&format!("{X}?format=csv")).expect(200).text(), rows);
        server
    };

    // Lost: the names of snapshots show that there was one.
    server = again(server, &|file| std::fs::remove_file(file).unwrap());
    assert!(file(&server).exists());
    assert_eq!(server.get("/v1/datasets").expect(200).json()["datasets"], json!([]));
    let lost = server.get(&format!("{X}?as_of=dataset:a@1")).refused("dataset_not_found");
    assert!(lost["detail"].as_str().unwrap().contains("\"a\""), "{lost}");
    assert_eq!(snapshots(&server), ["dataset:a@1".to_owned()].into());
    // The old snapshot can get a dataset again, and its number is not used for another.
    let back = create(&server, &json!({"name": "a", "members": ["kline/X/1m"], "snapshot": "dataset:a@1"}));
    assert_eq!((&back["version"], &back["checksum"]), (&2.into(), &first["checksum"]));
    assert_eq!(check_of(&server, "registry")["status"], "ok");

    // Damaged: quarantined, reported, created again.
    server = again(server, &|file| std::fs::write(file, b"no database").unwrap());
    let check = check_of(&server, "registry");
    assert_eq!((&check["status"], &check["check"]["status"]), (&"degraded".into(), &"degraded".into()));
    assert!(check["check"]["detail"].as_str().unwrap().contains("quarantine/"), "{check}");
    create(&server, &json!({"name": "b", "members": ["kline/X/1m"]}));
    let orphans = server.get("/v1/admin/orphans").expect(200).json();
    let found: Vec<(&str, &str)> = orphans["orphans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["file"].as_str().unwrap(), one["kind"].as_str().unwrap()))
        .collect();
    assert!(found.iter().all(|(file, _)| !file.starts_with("registry.")), "{found:?}");
    let verified = server.post_json("/v1/admin/verify?wait=true", "").expect(200).json();
    assert_eq!(verified["jobs"][0]["result"]["findings"], json!([]), "{verified}");

    // Newer: refused by name, unchanged, and the store works.
    server = again(server, &|file| {
        let bytes = std::fs::read(file).unwrap();
        // Bytes 60 to 63 of a SQLite file are its `user_version`.
        let newer = [&bytes[..60], &99_u32.to_be_bytes(), &bytes[64..]].concat();
        std::fs::write(file, newer).unwrap();
    });
    let before = std::fs::read(file(&server)).unwrap();
    let refused = server.get("/v1/datasets").refused("unsupported_format");
    assert!(refused["detail"].as_str().unwrap().contains("version 99"), "{refused}");
    server.post_json("/v1/datasets", r#"{"name":"c","members":["kline/X/1m"]}"#).refused("unsupported_format");
    server.get(&format!("{X}?as_of=dataset:b@1")).refused("unsupported_format");
    assert_eq!(check_of(&server, "registry")["status"], "degraded");
    server.post(X, "text/csv", csv_body(5_000, 1)).expect(200);
    assert_eq!(std::fs::read(file(&server)).unwrap(), before);
}

#[test]
fn a_record_refused_by_the_registry_drops_its_snapshot() {
    let mut server = filled();
    let made = create(&server, &json!({"name": "a", "members": ["kline/X/1m"]}));
    let file = server.root.path().join("registry.sqlite");
    let change = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    change("CREATE TRIGGER refuse BEFORE INSERT ON record BEGIN SELECT RAISE(ABORT, 'refused'); END");
    let spec = json!({"name": "a", "members": ["kline/X/1m"]});
    server.post_json("/v1/datasets", &spec.to_string()).refused("internal");
    let definition = r#"{"name":"f","definition":{},"code_version":"1","inputs":["a@1"]}"#;
    server.post_json("/v1/features", definition).refused("internal");
    assert_eq!(snapshots(&server), ["dataset:a@1".to_owned()].into());
    assert_eq!(server.get("/v1/datasets/a").expect(200).json(), made);
    // If that cannot be noted either, the next open does it.
    change("CREATE TRIGGER keep BEFORE DELETE ON pending BEGIN SELECT RAISE(ABORT, 'kept'); END");
    server.post_json("/v1/datasets", &spec.to_string()).refused("internal");
    assert_eq!(server.service.store().snapshots().len(), 1);
    server.service.store().create_snapshot("dataset:a@2").unwrap();
    change("DROP TRIGGER keep; DROP TRIGGER refuse");
    server = server.restarted();
    assert_eq!(snapshots(&server), ["dataset:a@1".to_owned()].into());
    assert_eq!(create(&server, &spec)["version"], 2);
    server.post(X, "text/csv", csv_body(9_000, 1)).expect(200);
}

#[test]
fn a_backup_includes_the_registry_and_a_restored_store_has_it() {
    let server = filled();
    let place = tempfile::tempdir().unwrap();
    server.service.allow_backups(&place.path().join("backups"));
    let dir = place.path().join("backups/monday");
    let back_up = || {
        let reply = server.post_json("/v1/admin/backup?wait=true", r#"{"dir":"monday"}"#).expect(200).json();
        assert_eq!(reply["jobs"][0]["status"], "done", "{reply}");
    };
    let copies = || -> Vec<String> {
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("registry")).collect()
    };
    back_up();
    assert_eq!(copies(), Vec::<String>::new(), "there is no registry yet");
    let made = create(&server, &json!({"name": "a", "members": ["kline/*/1m"]}));
    back_up();
    let earlier = copies();
    create(&server, &json!({"name": "a", "members": ["kline/X/1m"], "derived_from": ["a@1"]}));
    back_up();
    assert_eq!(copies().len(), 1, "one copy, of the last time");
    assert_ne!(copies(), earlier);
    assert_eq!(
        std::fs::read_dir(server.root.path().join("tmp"))
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().contains("registry") })
            .count(),
        0
    );

    // Read in place, without a change to any file.
    let listing = |dir: &std::path::Path| -> BTreeSet<(String, u64)> {
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
    };
    let before = listing(&dir);
    {
        let backup = Service::open(&dir, false, StoreOptions::default()).unwrap();
        assert_eq!(serde_json::to_value(backup.dataset("a", Some(1)).unwrap()).unwrap(), made);
        let query = fastk::query::Query {
            series: vec!["kline/X/1m".into()],
            as_of: Some("dataset:a@1".into()),
            ..Default::default()
        };
        let rows: usize = backup.read(&query).unwrap().map(|block| block.unwrap().rows()).sum();
        assert_eq!(rows, 3_000);
        let spec = serde_json::from_value(json!({"name": "a", "members": ["kline/X/1m"]})).unwrap();
        assert_eq!(backup.create_dataset(&spec).unwrap_err().code().name(), "writer_stopped");
    }
    assert_eq!(listing(&dir), before);

    for (name, link) in [("copied", false), ("linked", true)] {
        let root = place.path().join(name);
        let options = RestoreOptions { apply: true, link, ..RestoreOptions::default() };
        restore_backup(&dir, &root, &options, &TaskControl::new()).unwrap();
        let restored =
            Service::open(&root, false, StoreOptions { background_maintenance: false, ..Default::default() }).unwrap();
        assert_eq!(serde_json::to_value(restored.dataset("a", Some(1)).unwrap()).unwrap(), made);
        assert_eq!(restored.dataset("a", None).unwrap().version, 2);
        let spec = serde_json::from_value(json!({"name": "a", "members": ["kline/X/1m"]})).unwrap();
        assert_eq!(restored.create_dataset(&spec).unwrap().version, 3);
        assert!(restored.close());
    }
    assert_eq!(listing(&dir), before, "a restored store changes only its own files");

    // As of the first version: the second one is listed, and its rows are missing.
    let root = place.path().join("then");
    let as_of = Some("dataset:a@1".to_owned());
    let options = RestoreOptions { apply: true, as_of, ..RestoreOptions::default() };
    restore_backup(&dir, &root, &options, &TaskControl::new()).unwrap();
    let restored =
        Service::open(&root, false, StoreOptions { background_maintenance: false, ..Default::default() }).unwrap();
    assert_eq!(restored.dataset("a", None).unwrap().version, 2);
    let read = |version: u32| {
        let as_of = Some(format!("dataset:a@{version}"));
        let query = fastk::query::Query { series: vec!["kline/X/1m".into()], as_of, ..Default::default() };
        restored.read(&query).map(|result| result.map(|block| block.unwrap().rows()).sum::<usize>())
    };
    assert_eq!(read(1).unwrap(), 3_000);
    assert_eq!(read(2).unwrap_err().code().name(), "snapshot_not_found");
}

#[test]
fn a_limited_token_cannot_add_a_version_to_a_name_it_does_not_see() {
    let root = tempfile::tempdir().unwrap();
    let make = |scope, prefixes: &[&str]| {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        access::create(root.path(), "t", scope, &prefixes).unwrap().token
    };
    let (writer, limited) = (make(Scope::Write, &[]), make(Scope::Write, &["kline/X"]));
    let server = Server::over(root.into(), Default::default());
    let request = |token: &str, path: &str, body: &Value| {
        let bearer = access::bearer_header(token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        server.send("POST", path, &headers, body.to_string().as_bytes())
    };
    for symbol in ["X", "Y"] {
        request(&writer, "/v1/series", &json!({"kind": "kline", "symbol": symbol, "timeframe": "1m"})).expect(201);
    }
    let define = |token: &str, kind: &str, name: &str, symbol: &str, code: &str| {
        let inputs = json!([format!("kline/{symbol}/1m")]);
        let spec = json!({"name": name, "definition": {}, "code_version": code, "inputs": inputs});
        request(token, &format!("/v1/{kind}"), &spec)
    };
    for kind in ["features", "factors"] {
        define(&writer, kind, "theirs", "Y", "1").expect(201);
        define(&limited, kind, "theirs", "X", "1").refused("permission_denied");
        define(&limited, kind, "own", "X", "1").expect(201);
        define(&limited, kind, "own", "X", "2").expect(201);
        // Once another token has a version, the name is shared.
        define(&writer, kind, "own", "Y", "1").expect(201);
        define(&limited, kind, "own", "X", "3").refused("permission_denied");
        let next = define(&writer, kind, "theirs", "Y", "2").expect(201).json();
        assert_eq!(next["version"], 2, "{next}");
    }
    // A dataset concerns the whole store.
    request(&limited, "/v1/datasets", &json!({"name": "d", "members": ["kline/X/1m"]})).refused("permission_denied");
}
