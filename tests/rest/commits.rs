//! Earlier commits: a cursor continues only its own query, and the commit of every reply stays readable for a time.

use serde_json::{Value, json};

use crate::client::{Reply, Server, csv_body};

const X: &str = "/v1/klines/X/1m";

fn loaded(rows: i64) -> Server {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, rows)).expect(200);
    server
}

/// The rows of a series as of a commit.
fn at(server: &Server, series: &Value, commit: &Value) -> Reply {
    server.post_json("/v1/query", &json!({"series": series, "commit": commit}).to_string())
}

fn cursor_of(page: &Reply) -> String {
    page.json()["next_cursor"].as_str().unwrap().to_string()
}

#[test]
fn a_cursor_continues_only_its_own_query() {
    let server = loaded(20);
    server.post_json("/v1/snapshots", r#"{"name":"s"}"#).expect(201);
    let query = "start=60000&end=1080000&where=close:gt:42000";
    let page = server.get(&format!("{X}?{query}&limit=5")).expect(200);
    let cursor = cursor_of(&page);
    for other in [
        "start=60000&end=1080000&where=close:gt:42010".to_string(),
        "start=60000&end=1080000".into(),
        "where=close:gt:42000".into(),
        "start=0&end=1080000&where=close:gt:42000".into(),
        "start=60000&end=1000000&where=close:gt:42000".into(),
        format!("{query}&latest=3"),
        format!("{query}&latest_complete=2"),
        format!("{query}&order=desc"),
        format!("{query}&as_of=s"),
        format!("{query}&where=volume:gt:0"),
    ] {
        let problem = server.get(&format!("{X}?{other}&cursor={cursor}&limit=5")).refused("invalid_argument");
        assert!(problem["detail"].as_str().unwrap().contains("another query"), "{other}: {problem}");
    }
    let pages = |presentation: &str| {
        let mut cursor = cursor.clone();
        let mut times: Vec<i64> =
            page.json()["rows"].as_array().unwrap().iter().map(|r| r["ts"].as_i64().unwrap()).collect();
        loop {
            let next = server.get(&format!("{X}?{query}&cursor={cursor}{presentation}")).expect(200).json();
            times.extend(next["rows"].as_array().unwrap().iter().map(|row| row["ts"].as_i64().unwrap()));
            match next["next_cursor"].as_str() {
                Some(next) => cursor = next.into(),
                None => return times,
            }
        }
    };
    let all: Vec<i64> = (1..=18).map(|minute| minute * 60_000).collect();
    for presentation in
        ["&limit=1", "&limit=7&columns=close", "&numbers=float64", "&numbers=float64&limit=2&shape=rows"]
    {
        assert_eq!(pages(presentation), all, "{presentation}");
    }
    // Another number format is another query.
    server.get(&format!("{X}?{query}&cursor={cursor}&numbers=raw")).refused("invalid_argument");
    // A number is the same query in a URL and in a body.
    let body = json!({"series": ["kline/X/1m"], "start": 60_000, "end": "1080000", "cursor": cursor,
                      "where": [{"column": "close", "op": "gt", "value": 42_000}]});
    let next = server.post_json("/v1/query", &body.to_string()).expect(200).json();
    assert_eq!(next["rows"].as_array().unwrap().len(), 13);
}

#[test]
fn the_commit_of_every_reply_stays_readable() {
    let server = loaded(3);
    let before = server.get(X).expect(200).json();
    let mut seen = vec![(before["commit"].clone(), before["rows"].clone())];
    // Overwritten, deleted, compacted: each reply names a commit, whose contents do not change.
    for step in 0..6 {
        let commit = match step % 3 {
            0 => server.post(X, "text/csv", csv_body(step, 4)).expect(200).json()["commit"].clone(),
            1 => server.delete(&format!("{X}?start=60000&end=60000")).expect(200).json()["commit"].clone(),
            _ => {
                server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
                server.get(X).expect(200).json()["commit"].clone()
            }
        };
        seen.push((commit, server.get(X).expect(200).json()["rows"].clone()));
    }
    server.delete("/v1/series/kline/X/1m").expect(200);
    server.kline("X");
    for (commit, rows) in &seen {
        for series in [json!(["kline/X/1m"]), json!(["kline/*/1m"])] {
            let found = at(&server, &series, commit).expect(200).json();
            let plain: Vec<Value> = found["rows"]
                .as_array()
                .unwrap()
                .iter()
                .cloned()
                .map(|mut row| {
                    row.as_object_mut().unwrap().remove("series");
                    row
                })
                .collect();
            assert_eq!((&found["commit"], &json!(plain)), (commit, rows), "{series}");
        }
    }
}

#[test]
fn a_commit_and_a_cursor_outlive_a_restart() {
    let mut server = loaded(10);
    server.kline("Y");
    server.post("/v1/klines/Y/1m", "text/csv", csv_body(0, 3)).expect(200);
    let whole = server.get(X).expect(200).json();
    let cursor = cursor_of(&server.get(&format!("{X}?limit=4")).expect(200));
    let old = server.get(X).expect(200).json()["commit"].clone();
    server.post(X, "text/csv", csv_body(5, 10)).expect(200);
    server.post("/v1/klines/Y/1m", "text/csv", csv_body(3, 3)).expect(200);
    server = server.restarted();
    let found = at(&server, &json!(["kline/X/1m"]), &old).expect(200).json();
    assert_eq!((&found["rows"], &found["version"]), (&whole["rows"], &whole["version"]));
    let many = at(&server, &json!(["kline/*/1m"]), &old).expect(200).json();
    assert_eq!(many["rows"].as_array().unwrap().len(), 13);
    let rest = server.get(&format!("{X}?cursor={cursor}")).expect(200).json();
    assert_eq!(rest["rows"], json!(whole["rows"].as_array().unwrap()[4..]));
    // Again, with the commits that are retained now.
    server.post(X, "text/csv", csv_body(0, 1)).expect(200);
    server = server.restarted();
    assert_eq!(at(&server, &json!(["kline/X/1m"]), &old).expect(200).json()["rows"], whole["rows"]);
}

#[test]
fn a_restart_never_returns_other_rows_under_an_old_commit() {
    let mut server = loaded(10);
    server.kline("Y");
    server.kline("Z");
    server.post("/v1/klines/Y/1m", "text/csv", csv_body(0, 3)).expect(200);
    let still = server.get("/v1/klines/Y/1m").expect(200).json();
    let old = still["commit"].clone();
    // A delete of sealed rows, rows that are sealed together with older ones, and a drop.
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    server.delete(&format!("{X}?start=0&end=60000")).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    server.delete("/v1/series/kline/Z/1m").expect(200);
    server = server.restarted();
    at(&server, &json!(["kline/X/1m"]), &old).refused("commit_gone");
    at(&server, &json!(["kline/*/1m"]), &old).refused("commit_gone");
    at(&server, &json!(["kline/X/1m", "kline/Y/1m"]), &old).refused("commit_gone");
    // Unchanged series have the same rows.
    assert_eq!(at(&server, &json!(["kline/Y/1m"]), &old).expect(200).json()["rows"], still["rows"]);
    // Sealed together with later rows.
    let early = server.post("/v1/klines/Y/1m", "text/csv", csv_body(0, 2)).expect(200).json()["commit"].clone();
    server.post("/v1/klines/Y/1m", "text/csv", csv_body(1, 5)).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    server = server.restarted();
    at(&server, &json!(["kline/Y/1m"]), &early).refused("commit_gone");
}
