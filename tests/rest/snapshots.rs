//! Named snapshots, and reads under them.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use serde_json::{Value, json};

use crate::client::{Server, csv_body};

const X: &str = "/v1/klines/X/1m";
const S: &str = "/v1/scalars/c/X/1m/n";

fn scalar(server: &Server) {
    let body = r#"{"kind":"scalar","category":"c","symbol":"X","timeframe":"1m","name":"n","value":{"digits":2}}"#;
    server.post_json("/v1/series", body).expect(201);
}

fn values(server: &Server, first: i64, rows: i64, add: i64) {
    let rows: Vec<Value> =
        (first..first + rows).map(|minute| json!({"ts": minute * 60_000, "value": minute + add})).collect();
    server.post_json(S, &json!({ "rows": rows }).to_string()).expect(200);
}

fn create(server: &Server, name: &str) -> Value {
    server.post_json("/v1/snapshots", &json!({ "name": name }).to_string()).expect(201).json()
}

/// One response, without parts that depend on the location of its rows.
#[derive(Debug, PartialEq)]
enum Seen {
    Text(String),
    Arrow(RecordBatch),
}

/// The responses to every kind of read of both series, now or under a snapshot.
fn everything(server: &Server, as_of: Option<&str>) -> Vec<Seen> {
    let under = as_of.map(|name| format!("&as_of={name}")).unwrap_or_default();
    let mut seen = Vec::new();
    for path in [X, S] {
        for query in
            ["format=json", "format=csv&order=desc", "format=ndjson&latest=700", "format=csv&start=60000&end=6000000"]
        {
            seen.push(Seen::Text(server.get(&format!("{path}?{query}{under}")).expect(200).text()));
        }
        let body = server.get(&format!("{path}?format=arrow{under}")).expect(200).body;
        let batches = StreamReader::try_new(body.as_slice(), None).unwrap();
        let schema = batches.schema();
        let batches: Vec<RecordBatch> = batches.map(Result::unwrap).collect();
        seen.push(Seen::Arrow(concat_batches(&schema, &batches).unwrap()));
    }
    for path in ["kline/X/1m", "scalar/c/X/1m/n"] {
        let coverage = server.get(&format!("/v1/coverage/{path}?min_missing=1{under}")).expect(200);
        seen.push(Seen::Text(coverage.text()));
    }
    let complete = server.get(&format!("{X}?format=csv&latest_complete=100{under}")).expect(200);
    seen.push(Seen::Text(complete.text()));
    let found = server.get(&format!("{X}?format=csv&where=close:between:42010,42400{under}")).expect(200);
    seen.push(Seen::Text(found.text()));
    for series in ["kline/X/1m", "scalar/c/X/1m/n"] {
        let mut query = json!({"series": [series], "latest": 5, "numbers": "string"});
        if let Some(name) = as_of {
            query["as_of"] = name.into();
        }
        seen.push(Seen::Text(server.post_json("/v1/query", &query.to_string()).expect(200).text()));
    }
    // Several series at once: those of the snapshot.
    for layout in ["by_series", "by_time"] {
        let mut query = json!({"series": ["kline/*/1m"], "layout": layout, "columns": ["open", "close"]});
        if let Some(name) = as_of {
            query["as_of"] = name.into();
        }
        seen.push(Seen::Text(server.post_json("/v1/query?format=csv", &query.to_string()).expect(200).text()));
    }
    seen
}

#[test]
fn the_contents_of_a_snapshot_never_change() {
    let mut server = Server::start();
    server.kline("X");
    scalar(&server);
    server.post(X, "text/csv", csv_body(0, 3_000)).expect(200);
    values(&server, 0, 2_000, 0);
    server.kline("Y");
    server.post("/v1/klines/Y/1m", "text/csv", csv_body(10, 40)).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    // Rows in chunks, overwritten, deleted, and only in the log.
    server.post(X, "text/csv", csv_body(2_500, 1_000)).expect(200);
    server.delete(&format!("{X}?start=600000&end=1200000")).expect(200);
    values(&server, 1_990, 20, 7);

    let first = create(&server, "first");
    assert_eq!(first["commit"], server.get("/health").expect(200).json()["commit"]);
    let now = everything(&server, None);
    let mut held = vec![("first", everything(&server, Some("first")))];
    assert_eq!(held[0].1, now, "a new snapshot has the current contents");
    let read = server.get(&format!("{X}?as_of=first&limit=1")).expect(200).json();
    assert_eq!(read["commit"], first["commit"]);

    let check = |server: &Server, held: &[(&str, Vec<Seen>)], after: &str| {
        for (name, seen) in held {
            assert_eq!(&everything(server, Some(name)), seen, "{name} after {after}");
        }
    };
    let mut shifted = csv_body(100, 500).replace(".10,", ".11,");
    server.post(X, "text/csv", &shifted).expect(200);
    values(&server, 0, 50, 100);
    check(&server, &held, "an upsert");
    server.delete(&format!("{X}?start=0&end=60000000")).expect(200);
    check(&server, &held, "a delete");
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    check(&server, &held, "a seal");
    server = server.restarted();
    check(&server, &held, "a restart");

    create(&server, "second");
    held.push(("second", everything(&server, Some("second"))));
    assert_ne!(held[0].1, held[1].1);
    shifted = csv_body(2_000, 2_000).replace(".55,", ".56,");
    server.post(X, "text/csv", &shifted).expect(200);
    server.delete(&format!("{S}?all=true")).expect(200);
    for round in 0..10 {
        values(&server, round * 7, 30, round);
        server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    }
    server.service.store().compact(&[], true).unwrap();
    server.service.store().vacuum().unwrap();
    check(&server, &held, "compaction and vacuum");
    server = server.restarted();
    check(&server, &held, "another restart");

    server.delete("/v1/series/kline/X/1m").expect(200);
    server.delete("/v1/series/scalar/c/X/1m/n").expect(200);
    server.kline("Z");
    server.get(X).refused("series_not_found");
    check(&server, &held, "the series were dropped");
    // The same key again, with other digits, is another series.
    let body = r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":5}"#;
    server.post_json("/v1/series", body).expect(201);
    check(&server, &held, "another series took the key");
    server.service.store().checkpoint().unwrap();
    server.service.store().vacuum().unwrap();
    server = server.restarted();
    check(&server, &held, "the last restart");

    // The second snapshot remains without the first, and vice versa.
    server.delete("/v1/snapshots/first").expect(200);
    server.get(&format!("{X}?as_of=first")).refused("snapshot_not_found");
    held.remove(0);
    server.service.store().compact(&[], true).unwrap();
    server.service.store().vacuum().unwrap();
    check(&server, &held, "the first snapshot was dropped");
    server.delete("/v1/snapshots/second").expect(200);
    server.get(&format!("{X}?as_of=second")).refused("snapshot_not_found");
    server.get(&format!("{S}?as_of=second")).refused("snapshot_not_found");
}

#[test]
fn snapshots_are_created_listed_and_dropped_by_name() {
    let mut server = Server::start();
    server.kline("X");
    let list = |server: &Server| -> Vec<Value> {
        server.get("/v1/snapshots").expect(200).json()["snapshots"].as_array().unwrap().clone()
    };
    assert_eq!(list(&server), Vec::<Value>::new());
    let made = server.post_json("/v1/snapshots", r#"{"name":"b:1^2"}"#).expect(201);
    assert_eq!(made.header("location"), Some("/v1/snapshots/b%3A1%5E2"));
    let b = made.json();
    assert_eq!(b["name"], "b:1^2");
    assert!(b["created_at"].as_str().unwrap().ends_with('Z'), "{b}");
    let a = create(&server, "a");
    assert!(a["commit"].as_u64() > b["commit"].as_u64());
    assert_eq!(list(&server), [a.clone(), b.clone()], "by name");
    assert_eq!(server.get("/inventory").expect(200).json()["totals"]["snapshots"], 2);
    server.post_json("/v1/snapshots", r#"{"name":"a"}"#).refused("snapshot_exists");
    let long = "x".repeat(65);
    for name in ["", ".hidden", "a b", "a/b", "ä", long.as_str()] {
        server.post_json("/v1/snapshots", &json!({ "name": name }).to_string()).refused("invalid_argument");
    }
    for body in ["{}", "[]", "", r#"{"name":1}"#, r#"{"name":"c","more":1}"#] {
        server.post_json("/v1/snapshots", body).refused("invalid_argument");
    }
    server.send("POST", "/v1/snapshots", &[("idempotency-key", "k")], br#"{"name":"c"}"#).refused("invalid_argument");
    server.get("/v1/snapshots?limit=1").refused("invalid_argument");
    server = server.restarted();
    assert_eq!(list(&server), [a, b.clone()], "they survive a restart");
    server.delete("/v1/snapshots/none").refused("snapshot_not_found");
    let dropped = server.delete("/v1/snapshots/a").expect(200).json();
    assert_eq!(dropped["name"], "a");
    assert_eq!(dropped["commit"], server.get("/health").expect(200).json()["commit"]);
    server.delete("/v1/snapshots/a").refused("snapshot_not_found");
    assert_eq!(list(&server), [b]);
    // The name is free again.
    create(&server, "a");
    server.delete("/v1/snapshots/b%3A1%5E2").expect(200);
    assert_eq!(server.get("/inventory").expect(200).json()["totals"]["snapshots"], 1);
}

#[test]
fn a_snapshot_shows_the_series_of_its_commit() {
    let server = Server::start();
    server.kline("X");
    create(&server, "s");
    server.kline("Y");
    server.get("/v1/klines/Y/1m?as_of=s").refused("series_not_found");
    server.get("/v1/klines/Y/1m").expect(200);
    assert_eq!(server.get(&format!("{X}?as_of=s")).expect(200).json()["rows"], json!([]));
    server.delete("/v1/series/kline/X/1m").expect(200);
    assert_eq!(server.get(&format!("{X}?as_of=s")).expect(200).json()["version"], 1);
}

#[test]
fn cursors_of_a_snapshot_are_valid_as_long_as_it_exists() {
    let mut server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 10)).expect(200);
    create(&server, "s");
    let whole = server.get(&format!("{X}?as_of=s")).expect(200).json();
    let page = server.get(&format!("{X}?as_of=s&limit=4")).expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap().to_string();
    server.delete(&format!("{X}?all=true")).expect(200);
    // A restart releases commits that were retained for cursors; the snapshot still holds its own.
    server = server.restarted();
    let rest = server.get(&format!("{X}?as_of=s&cursor={cursor}")).expect(200).json();
    assert_eq!(rest["commit"], whole["commit"]);
    let rows = [page["rows"].as_array().unwrap().as_slice(), rest["rows"].as_array().unwrap()].concat();
    assert_eq!(json!(rows), whole["rows"]);
    // Without the name it is another query, although at the same commit.
    server.get(&format!("{X}?cursor={cursor}")).refused("invalid_argument");
    let body = json!({"series": ["kline/X/1m"], "commit": whole["commit"]}).to_string();
    assert_eq!(server.post_json("/v1/query", &body).expect(200).json()["rows"], whole["rows"]);
    create(&server, "t");
    server.get(&format!("{X}?as_of=t&cursor={cursor}")).refused("invalid_argument");
    server.delete("/v1/snapshots/s").expect(200);
    server.get(&format!("{X}?as_of=s&cursor={cursor}")).refused("snapshot_not_found");
    server = server.restarted();
    server.get(&format!("{X}?cursor={cursor}")).refused("commit_gone");
}

#[test]
fn a_response_under_a_snapshot_keeps_its_entity_tag() {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 10)).expect(200);
    let before = server.get(X).expect(200);
    create(&server, "s");
    let target = format!("{X}?as_of=s");
    let tag = server.get(&target).expect(200).header("etag").unwrap().to_string();
    assert_eq!(before.header("etag"), Some(tag.as_str()), "the series is the same at the same version");
    server.post(X, "text/csv", csv_body(5, 10)).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    let again = server.get_with(&target, &[("if-none-match", &tag)]).expect(304);
    assert_eq!(again.header("etag"), Some(tag.as_str()));
    server.get_with(X, &[("if-none-match", &tag)]).expect(200);
    let coverage = "/v1/coverage/kline/X/1m?as_of=s";
    server.get_with(coverage, &[("if-none-match", &tag)]).expect(304);
    assert_eq!(server.get(&target).expect(200).header("fastk-version"), before.header("fastk-version"));
}
