//! Merges of the open bar, and keyed writes that are applied once.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::client::{Reply, Server, csv_body};

const X: &str = "/v1/klines/X/1m";
const MERGE: &str = "/v1/klines/X/1m/merge";
const S: &str = "/v1/scalars/c/X/1m/n";

/// A kline with extra columns of every rule.
fn register(server: &Server) {
    let body = r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":2,"volume_digits":3,"extra_columns":[
        {"name":"trades","type":"int64","merge":"sum"},{"name":"best","type":"int64","merge":"max"},
        {"name":"worst","type":"int64","merge":"min"},{"name":"mark","type":"int64"}]}"#;
    server.post_json("/v1/series", body).expect(201);
}

fn scalar(server: &Server, value: Value) {
    let body = json!({"kind":"scalar","category":"c","symbol":"X","timeframe":"1m","name":"n","value":value});
    server.post_json("/v1/series", &body.to_string()).expect(201);
}

fn bar(ts: i64, [open, high, low, close]: [i64; 4], volume: i64, salt: i64) -> Value {
    json!({"ts": ts, "open": open, "high": high, "low": low, "close": close, "volume": volume,
           "trades": 1, "best": salt, "worst": salt, "mark": salt})
}

fn rows(server: &Server, path: &str) -> Vec<Value> {
    server.get(&format!("{path}?numbers=raw")).expect(200).json()["rows"].as_array().unwrap().clone()
}

fn is_replay(reply: &Reply) -> bool {
    match reply.header("idempotency-replayed") {
        None => false,
        Some("true") => true,
        Some(other) => panic!("idempotency-replayed: {other}"),
    }
}

#[test]
fn concurrent_merges_of_one_open_bar_lose_nothing_and_apply_once() {
    const WRITERS: i64 = 8;
    const MERGES: i64 = 200;
    let server = Server::start();
    register(&server);
    let target = format!("{MERGE}?numbers=raw");
    let replays = AtomicU64::new(0);
    let merged: Vec<(u64, Value)> = std::thread::scope(|scope| {
        let (server, target, replays) = (&server, &target, &replays);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut own = Vec::new();
                    for n in 0..MERGES {
                        let mut random = (writer * MERGES + n).wrapping_mul(0x5DEE_CE66_D1CE_4E5B_u64 as i64);
                        let mut next = |span: i64| {
                            random =
                                random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                            (random >> 33).rem_euclid(span)
                        };
                        let low = 1_000_000 + next(1_000_000);
                        let high = low + 1 + next(1_000);
                        let row = bar(
                            0,
                            [low + next(high - low), high, low, low + next(high - low)],
                            next(10_000),
                            next(1 << 30),
                        );
                        let body = json!([row]).to_string();
                        let key = format!("{writer}-{n}");
                        let first = server.post_once(target, &key, &body).expect(200);
                        let again = server.post_once(target, &key, &body).expect(200);
                        assert_eq!(first.body, again.body, "a retry gets the first reply");
                        assert!(!is_replay(&first) && is_replay(&again));
                        replays.fetch_add(1, Ordering::Relaxed);
                        own.push((first.json()["commit"].as_u64().unwrap(), row));
                    }
                    own
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let total = WRITERS * MERGES;
    assert_eq!(i64::try_from(replays.into_inner()).unwrap(), total);
    let mut in_order = merged.clone();
    in_order.sort_by_key(|(commit, _)| *commit);
    in_order.dedup_by_key(|(commit, _)| *commit);
    assert_eq!(in_order.len() as i64, total, "each merge is a separate commit");
    let all = |column: &str| in_order.iter().map(|(_, row)| row[column].as_i64().unwrap()).collect::<Vec<_>>();
    let expected = vec![json!({
        "ts": 0,
        "open": all("open")[0],
        "high": all("high").into_iter().max(),
        "low": all("low").into_iter().min(),
        "close": all("close").last(),
        "volume": all("volume").into_iter().sum::<i64>(),
        "trades": total,
        "best": all("best").into_iter().max(),
        "worst": all("worst").into_iter().min(),
        "mark": all("mark").last(),
    })];
    assert_eq!(rows(&server, X), expected);
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    assert_eq!(rows(&server, X), expected);
    let server = server.restarted();
    assert_eq!(rows(&server, X), expected);
}

#[test]
fn rows_of_one_merge_are_merged_in_order_into_sealed_and_new_rows() {
    let server = Server::start();
    register(&server);
    let target = format!("{MERGE}?numbers=raw");
    let first = json!([bar(0, [10, 20, 5, 15], 100, 7), bar(60_000, [30, 40, 30, 30], 1, 8)]).to_string();
    let reply = server.post_once(&target, "a", &first).expect(200).json();
    assert_eq!((&reply["rows_written"], &reply["rows_replaced"]), (&json!(2), &json!(0)));
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    let second =
        json!([bar(120_000, [1, 2, 1, 2], 3, 1), bar(0, [16, 25, 16, 16], 10, 9), bar(0, [17, 18, 3, 4], 20, 2),])
            .to_string();
    let reply = server.post_once(&target, "b", &second).expect(200).json();
    assert_eq!(
        (&reply["rows_written"], &reply["rows_replaced"], &reply["rows_duplicate"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let merged = json!({"ts": 0, "open": 10, "high": 25, "low": 3, "close": 4, "volume": 130,
                        "trades": 3, "best": 9, "worst": 2, "mark": 2});
    assert_eq!(rows(&server, X), [merged, bar(60_000, [30, 40, 30, 30], 1, 8), bar(120_000, [1, 2, 1, 2], 3, 1)]);
    // Bodies of every format can be merged.
    server
        .send(
            "POST",
            MERGE,
            &[("content-type", "text/csv"), ("idempotency-key", "c")],
            b"ts,open,high,low,close,volume,trades,best,worst,mark\n0,0.16,0.30,0.16,0.16,0.010,1,1,1,1\n",
        )
        .expect(200);
    assert_eq!((&rows(&server, X)[0]["high"], &rows(&server, X)[0]["volume"]), (&json!(30), &json!(140)));
}

#[test]
fn each_op_merges_a_scalar_by_its_rule() {
    for value in [json!({"type":"decimal","digits":2}), json!({"type":"float64"}), json!({"type":"int64"})] {
        let server = Server::start();
        scalar(&server, value.clone());
        let mut key = 0;
        let mut merge = |query: &str, given: i64| {
            key += 1;
            server
                .post_once(&format!("{S}/merge{query}"), &key.to_string(), &format!(r#"[{{"ts":0,"value":{given}}}]"#))
                .expect(200);
            server.get(S).expect(200).json()["rows"][0]["value"].as_f64().unwrap()
        };
        for (query, given, expected) in [
            ("?op=add", 5, 5.0),
            ("?op=add", 7, 12.0),
            ("?op=add", -2, 10.0),
            ("?op=max", 8, 10.0),
            ("?op=max", 11, 11.0),
            ("?op=min", 12, 11.0),
            ("?op=min", -3, -3.0),
            ("?op=set", 4, 4.0),
            ("?op=last", 6, 6.0),
            ("", 9, 9.0),
        ] {
            assert_eq!(merge(query, given), expected, "{value}: {query} {given}");
        }
        let refused =
            |target: String| server.post_once(&target, "z", r#"[{"ts":0,"value":1}]"#).refused("invalid_argument");
        refused(format!("{S}/merge?op=avg"));
        refused(format!("{S}/merge?mode=upsert"));
        refused(format!("{S}?op=add"));
        assert_eq!(server.state("scalar/c/X/1m/n").0, 11, "a merge is one version, a refused one none");
    }
}

#[test]
fn the_rule_of_a_scalar_is_that_of_its_registration() {
    let server = Server::start();
    scalar(&server, json!({"type":"decimal","digits":1,"merge":"sum"}));
    for (key, value) in [("a", "1.5"), ("b", "2.0")] {
        server.post_once(&format!("{S}/merge"), key, &format!(r#"[{{"ts":0,"value":{value}}}]"#)).expect(200);
    }
    assert_eq!(server.get(S).expect(200).json()["rows"][0]["value"], 3.5);
    let skipped = r#"[{"ts":0,"value":1},{"ts":60000,"value":null}]"#;
    let first = server.post_once(&format!("{S}/merge?missing=skip"), "c", skipped).expect(200);
    assert_eq!((&first.json()["rows_written"], &first.json()["rows_skipped"]), (&json!(1), &json!(1)));
    let again = server.post_once(&format!("{S}/merge?missing=skip"), "c", skipped).expect(200);
    assert_eq!((first.body, true), (again.body.clone(), is_replay(&again)));
}

#[test]
fn a_sum_that_does_not_fit_names_the_row_and_merges_nothing() {
    let server = Server::start();
    register(&server);
    let target = format!("{MERGE}?numbers=raw");
    let almost = 999_999_999_999_999_999_i64;
    let start = json!([bar(0, [1, 1, 1, 1], 1, 1), bar(60_000, [1, 1, 1, 1], almost, 1)]).to_string();
    server.post_once(&target, "a", &start).expect(200);
    let before = (server.state("kline/X/1m"), rows(&server, X));
    let body = json!([bar(0, [1, 1, 1, 1], 1, 1), bar(60_000, [1, 1, 1, 1], 1, 1)]).to_string();
    let problem = server.post_once(&target, "b", &body).refused("invalid_rows");
    assert_eq!(problem["errors"][0]["row"], 1);
    assert_eq!(problem["errors"][0]["field"], "volume");
    assert_eq!(problem["errors"][0]["reason"], "overflow");
    assert_eq!((server.state("kline/X/1m"), rows(&server, X)), before);
    // The key was not consumed.
    server.post_once(&target, "b", &json!([bar(0, [1, 1, 1, 1], 1, 1)]).to_string()).expect(200);
}

#[test]
fn a_merge_without_a_key_or_with_an_op_for_a_kline_is_refused() {
    let server = Server::start();
    register(&server);
    let body = json!([bar(0, [1, 1, 1, 1], 1, 1)]).to_string();
    let problem = server.post_json(MERGE, &body).refused("invalid_argument");
    assert!(problem["detail"].as_str().unwrap().contains("Idempotency-Key"), "{problem}");
    let problem = server.post_once(&format!("{MERGE}?op=add"), "k", &body).refused("invalid_argument");
    assert!(problem["detail"].as_str().unwrap().contains("only for scalars"), "{problem}");
    for key in ["", "a b", "\"\"", &"x".repeat(256)] {
        server.post_once(MERGE, key, &body).refused("invalid_argument");
    }
    server.post_once("/v1/klines/NONE/1m/merge", "k", &body).refused("series_not_found");
    server.post_once(MERGE, "k", &json!([bar(0, [1, 1, 2, 1], 1, 1)]).to_string()).refused("invalid_rows");
    assert_eq!(server.state("kline/X/1m"), (1, 0));
    server.post_once(MERGE, &"x".repeat(255), &body).expect(200);
    // Quotes around a key are not part of the key.
    let quoted = server.post_once(MERGE, &format!("\"{}\"", "x".repeat(255)), &body).expect(200);
    assert!(is_replay(&quoted));
}

#[test]
fn a_retry_gets_its_first_reply_despite_later_changes() {
    let mut server = Server::start();
    server.kline("X");
    let csv = ("content-type", "text/csv");
    let tag = server.get("/v1/series/kline/X/1m").expect(200).header("etag").unwrap().to_string();
    let body = csv_body(0, 3);
    let write = |server: &Server, mode: &str, key: &str| {
        let headers = [csv, ("idempotency-key", key), ("if-match", &tag)];
        server.send("POST", &format!("{X}?mode={mode}"), &headers, body.as_bytes())
    };
    let first = write(&server, "insert", "k").expect(200);
    assert!(!is_replay(&first));
    let same = |server: &Server, when: &str| {
        let again = write(server, "insert", "k").expect(200);
        assert_eq!(again.text(), first.text(), "{when}");
        assert!(is_replay(&again), "{when}");
    };
    // Condition and mode would refuse it now.
    same(&server, "at once");
    write(&server, "insert", "other").refused("commit_conflict");
    // The same rows in another mode are another write, and so are other rows.
    write(&server, "upsert", "k").refused("idempotency_mismatch");
    let headers = [csv, ("idempotency-key", "k")];
    server.send("POST", X, &headers, csv_body(0, 4).as_bytes()).refused("idempotency_mismatch");
    server.kline("Y");
    server.send("POST", "/v1/klines/Y/1m?mode=insert", &headers, body.as_bytes()).refused("idempotency_mismatch");
    server.post(X, "text/csv", csv_body(1, 5)).expect(200);
    same(&server, "after another write");
    server.delete(&format!("{X}?all=true")).expect(200);
    same(&server, "after a delete");
    assert_eq!(server.state("kline/X/1m").1, 0, "it is not written again");
    server = server.restarted();
    same(&server, "after a restart");
    server.post_json("/v1/admin/compact?wait=true", "").expect(200);
    server = server.restarted();
    same(&server, "after the log was trimmed");
    server.delete("/v1/series/kline/X/1m").expect(200);
    write(&server, "insert", "k").refused("series_not_found");
    server.kline("X");
    same(&server, "after the series was dropped and registered again");
    assert_eq!(server.state("kline/X/1m"), (1, 0));
}

#[test]
fn of_many_concurrent_retries_exactly_one_writes() {
    let server = Server::start();
    register(&server);
    let target = format!("{MERGE}?numbers=raw");
    let body = json!([bar(0, [1, 2, 1, 1], 7, 1)]).to_string();
    for round in 0..20 {
        let key = format!("round {round}").replace(' ', "-");
        let replies: Vec<Reply> = std::thread::scope(|scope| {
            let senders: Vec<_> =
                (0..6).map(|_| scope.spawn(|| server.post_once(&target, &key, &body).expect(200))).collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        assert_eq!(replies.iter().filter(|reply| !is_replay(reply)).count(), 1);
        assert!(replies.iter().all(|reply| reply.body == replies[0].body));
    }
    assert_eq!(rows(&server, X)[0]["volume"], 20 * 7);
}

#[test]
fn a_write_of_several_series_is_applied_once_too() {
    let mut server = Server::start();
    server.kline("X");
    server.kline("Y");
    let row =
        |ts: i64| json!({"ts": ts, "open": 1, "high": 2, "low": 1, "close": 1, "volume": 0, "trades": 1, "vwap": 0});
    let body = |keys: &[&str]| {
        let writes: Vec<Value> = keys
            .iter()
            .map(|key| json!({"series": key, "rows": [row(0), row(60_000)]}))
            .chain([json!({"series": "kline/Z/1m", "rows": []})])
            .collect();
        json!({ "writes": writes }).to_string()
    };
    server.kline("Z");
    let target = "/v1/write?mode=insert";
    let first = server.post_once(target, "k", &body(&["kline/X/1m", "kline/Y/1m"])).expect(200);
    assert!(!is_replay(&first));
    assert_eq!(first.json()["rows_written"], 4);
    server.post(X, "text/csv", csv_body(0, 5)).expect(200);
    for _ in 0..2 {
        let again = server.post_once(target, "k", &body(&["kline/X/1m", "kline/Y/1m"])).expect(200);
        assert!(is_replay(&again));
        assert_eq!(again.text(), first.text());
        server = server.restarted();
    }
    server.post_once(target, "k", &body(&["kline/Y/1m", "kline/X/1m"])).refused("idempotency_mismatch");
    server.post_once(target, "other", &body(&["kline/X/1m", "kline/Y/1m"])).refused("rows_exist");
    server.post_once(target, "a b", &body(&["kline/X/1m"])).refused("invalid_argument");
    server.post_once("/v1/write?mode=merge", "m", &body(&["kline/X/1m"])).refused("invalid_argument");
}
