//! Series and rows: registration, writes, conditions, deletes, drops.

use std::io::Write;

use crate::client::{Server, csv_body, csv_rows};

const X: &str = "/v1/klines/X/1m";

#[test]
fn a_series_is_registered_once_and_found_again() {
    let server = Server::start();
    let body = r#"{"kind":"kline","symbol":"^GSPC","timeframe":"1d","price_digits":2}"#;
    let first = server.post_json("/v1/series", body).expect(201);
    assert_eq!(first.header("location"), Some("/v1/series/kline/%5EGSPC/1d"));
    let first = first.json();
    assert_eq!((&first["created"], &first["series"]), (&true.into(), &"kline/^GSPC/1d".into()));
    assert_eq!(server.post_json("/v1/series", body).expect(200).json()["created"], false);
    server.post_json("/v1/series", &body.replace(":2", ":3")).refused("series_exists");
    let found = server.get("/v1/series/kline/%5EGSPC/1d").expect(200);
    assert_eq!(found.header("etag"), found.json()["etag"].as_str());
    assert_eq!(found.json()["columns"][0]["type"], "decimal");
    let tag = found.header("etag").unwrap();
    server.get_with("/v1/series/kline/%5EGSPC/1d", &[("if-none-match", tag)]).expect(304);
    server.get("/v1/series/kline/%5EGSPC/1h").refused("series_not_found");
}

#[test]
fn lists_are_filtered_and_paged() {
    let server = Server::start();
    for symbol in ["A", "B", "C"] {
        server.kline(symbol);
    }
    let body = r#"{"kind":"scalar","category":"signal","symbol":"A","timeframe":"1m","name":"s"}"#;
    server.post_json("/v1/series", body).expect(201);
    let keys = |target: &str| -> Vec<String> {
        let reply = server.get(target).expect(200).json();
        reply["series"].as_array().unwrap().iter().map(|one| one["series"].as_str().unwrap().into()).collect()
    };
    assert_eq!(keys("/v1/series"), ["kline/A/1m", "kline/B/1m", "kline/C/1m", "scalar/signal/A/1m/s"]);
    assert_eq!(keys("/v1/series?kind=scalar"), ["scalar/signal/A/1m/s"]);
    assert_eq!(keys("/v1/series?symbol=A&kind=kline"), ["kline/A/1m"]);
    assert_eq!(keys("/inventory?prefix=kline/B"), ["kline/B/1m"]);
    let page = server.get("/v1/series?limit=3").expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(keys(&format!("/v1/series?limit=3&cursor={cursor}")), ["scalar/signal/A/1m/s"]);
    server.get("/v1/series?kind=tick").refused("not_found");
    server.get("/v1/series?limit=0").refused("invalid_argument");
}

#[test]
fn a_series_is_changed_and_dropped_under_conditions() {
    let server = Server::start();
    server.kline("X");
    let path = "/v1/series/kline/X/1m";
    let tag = server.get(path).expect(200).header("etag").unwrap().to_string();
    let patch = r#"{"description":"hello"}"#;
    let changed = server.send("PATCH", path, &[("if-match", &tag)], patch.as_bytes()).expect(200).json();
    assert_eq!(changed["description"], "hello");
    server.send("PATCH", path, &[("if-match", &tag)], patch.as_bytes()).refused("commit_conflict");
    server.send("PATCH", path, &[], br#"{"price_digits":3}"#).refused("invalid_argument");
    server.send("DELETE", path, &[("if-match", &tag)], &[]).refused("commit_conflict");
    assert_eq!(server.delete(path).expect(200).json()["series"], "kline/X/1m");
    server.get(path).refused("series_not_found");
    server.delete(path).refused("series_not_found");
    // Scalars have their own paths.
    let body = r#"{"kind":"scalar","category":"c","symbol":"A","timeframe":"1m","name":"n"}"#;
    server.post_json("/v1/series", body).expect(201);
    let path = "/v1/series/scalar/c/A/1m/n";
    assert_eq!(server.send("PATCH", path, &[], patch.as_bytes()).expect(200).json()["description"], "hello");
    server.get(path).expect(200);
    server.delete(path).expect(200);
}

#[test]
fn replies_count_written_replaced_and_repeated_rows() {
    let server = Server::start();
    server.kline("X");
    let reply = server.post(X, "text/csv", csv_body(0, 10)).expect(200).json();
    assert_eq!(reply["series"], "kline/X/1m");
    for (field, value) in
        [("rows_written", 10), ("rows_replaced", 0), ("rows_duplicate", 0), ("rows_skipped", 0), ("version", 2)]
    {
        assert_eq!(reply[field], value, "{field}");
    }
    assert_eq!((&reply["first_ts"], &reply["last_ts"]), (&0.into(), &540_000.into()));
    // 5 to 14, of which 5 to 9 are stored, and 14 twice.
    let body = format!("{}{}", csv_body(5, 10), csv_rows(14, 1));
    let reply = server.post(X, "text/csv", body).expect(200).json();
    assert_eq!((&reply["rows_written"], &reply["rows_replaced"]), (&10.into(), &5.into()));
    assert_eq!(reply["rows_duplicate"], 1);
    // The last of the equal ones wins.
    let row =
        |close: f64| format!(r#"{{"ts":0,"open":1,"high":9,"low":1,"close":{close},"volume":0,"trades":1,"vwap":0}}"#);
    server.post_json(X, &format!("[{},{}]", row(2.0), row(3.0))).expect(200);
    let read = server.get(&format!("{X}?end=0")).expect(200).json();
    assert_eq!(read["rows"][0]["close"], 3.0);
}

#[test]
fn modes_refuse_conflicting_rows() {
    let server = Server::start();
    server.kline("X");
    server.post(&format!("{X}?mode=append"), "text/csv", csv_body(0, 10)).expect(200);
    let before = server.state("kline/X/1m");
    server.post(&format!("{X}?mode=append"), "text/csv", csv_body(9, 2)).refused("out_of_order");
    server.post(&format!("{X}?mode=insert"), "text/csv", csv_body(9, 2)).refused("rows_exist");
    let twice = format!("{}{}", csv_body(20, 1), csv_rows(20, 1));
    server.post(&format!("{X}?mode=insert"), "text/csv", &twice).refused("invalid_rows");
    server.post(&format!("{X}?mode=append"), "text/csv", &twice).refused("invalid_rows");
    server.post(&format!("{X}?mode=merge"), "text/csv", csv_body(20, 1)).refused("invalid_argument");
    server.post(&format!("{X}?mode=replace"), "text/csv", csv_body(20, 1)).refused("invalid_argument");
    assert_eq!(server.state("kline/X/1m"), before);
    server.post(&format!("{X}?mode=insert"), "text/csv", csv_body(10, 2)).expect(200);
    server.post(&format!("{X}?mode=append"), "text/csv", csv_body(12, 2)).expect(200);
}

#[test]
fn a_conditional_write_needs_the_named_version() {
    let server = Server::start();
    server.kline("X");
    let tag = server.post(X, "text/csv", csv_body(0, 1)).expect(200).json()["etag"].as_str().unwrap().to_string();
    let csv = ("content-type", "text/csv");
    // The format part of a tag is ignored.
    let read = server.get(X).expect(200).header("etag").unwrap().to_string();
    assert_ne!(read, tag);
    server.send("POST", X, &[csv, ("if-match", &read)], csv_body(1, 1).as_bytes()).expect(200);
    let before = server.state("kline/X/1m");
    server.send("POST", X, &[csv, ("if-match", &tag)], csv_body(2, 1).as_bytes()).refused("commit_conflict");
    server.send("DELETE", &format!("{X}?all=true"), &[("if-match", &tag)], &[]).refused("commit_conflict");
    assert_eq!(server.state("kline/X/1m"), before);
    server.send("POST", X, &[csv, ("if-match", "*")], csv_body(2, 1).as_bytes()).expect(200);
}

#[test]
fn deletes_remove_a_closed_range_or_every_row() {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 100)).expect(200);
    server.delete(X).refused("invalid_argument");
    server.delete(&format!("{X}?start=0")).refused("invalid_argument");
    server.delete(&format!("{X}?end=0&all=true")).refused("invalid_argument");
    server.delete(&format!("{X}?start=1&end=0")).refused("invalid_argument");
    let range = "start=60000&end=1970-01-01T00:03:00Z";
    let counted = server.delete(&format!("{X}?{range}&dry_run=true")).expect(200).json();
    assert_eq!((&counted["rows_deleted"], &counted["dry_run"]), (&3.into(), &true.into()));
    assert_eq!(server.state("kline/X/1m").1, 100);
    assert_eq!(server.delete(&format!("{X}?{range}")).expect(200).json()["rows_deleted"], 3);
    let read = server.get(&format!("{X}?limit=2")).expect(200).json();
    assert_eq!((&read["rows"][0]["ts"], &read["rows"][1]["ts"]), (&0.into(), &240_000.into()));
    assert_eq!(server.delete(&format!("{X}?all=true")).expect(200).json()["rows_deleted"], 97);
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn bodies_may_be_compressed_long_or_chunked() {
    let server = Server::start();
    server.kline("X");
    let body = csv_body(0, 60_000);
    assert!(body.len() > 2 << 20, "longer than what stays in memory");
    let csv = ("content-type", "text/csv");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let zstd = zstd::encode_all(body.as_bytes(), 1).unwrap();
    for (coding, bytes) in [("identity", body.clone().into_bytes()), ("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let reply = server.send("POST", X, &[csv, ("content-encoding", coding)], &bytes).expect(200).json();
        assert_eq!(reply["rows_written"], 60_000, "{coding}");
    }
    let mut stream = server.connect();
    let head = format!("POST {X} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: text/csv\r\n");
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    for part in csv_body(0, 50).as_bytes().chunks(100) {
        stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).unwrap();
        stream.write_all(part).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(crate::client::Reply::read(stream, false).expect(200).json()["rows_written"], 50);
    // Staged bodies are removed.
    let left = std::fs::read_dir(server.root.path().join("tmp")).unwrap().map(|entry| entry.unwrap().file_name());
    // Files with this extension are the reserve of the engine.
    let left: Vec<_> = left.filter(|name| !name.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn options_of_a_write_have_effect() {
    let server = Server::start();
    server.kline("X");
    let row = |close: &str| {
        format!(r#"[{{"ts":0,"open":1,"high":2,"low":1,"close":{close},"volume":0,"trades":1,"vwap":0}}]"#)
    };
    server.post_json(X, &row("1.005")).refused("invalid_rows");
    server.post_json(&format!("{X}?rounding=nearest"), &row("1.005")).expect(200);
    assert_eq!(server.get(X).expect(200).json()["rows"][0]["close"], 1.0);
    server.post_json(X, &row("3")).refused("invalid_rows");
    server.post_json(&format!("{X}?validate=none"), &row("3")).expect(200);
    let raw = r#"[{"ts":0,"open":100,"high":200,"low":100,"close":150,"volume":1,"trades":1,"vwap":0}]"#;
    server.post_json(&format!("{X}?numbers=raw"), raw).expect(200);
    assert_eq!(server.get(X).expect(200).json()["rows"][0]["close"], 1.5);
    server.post_json(&format!("{X}?missing=skip"), &row("1")).refused("invalid_argument");
    let body = r#"{"kind":"scalar","category":"c","symbol":"A","timeframe":"1m","name":"n"}"#;
    server.post_json("/v1/series", body).expect(201);
    let path = "/v1/scalars/c/A/1m/n";
    let rows = r#"[{"ts":0,"value":1.5},{"ts":60000,"value":null}]"#;
    server.post_json(path, rows).refused("invalid_rows");
    let reply = server.post_json(&format!("{path}?missing=skip"), rows).expect(200).json();
    assert_eq!((&reply["rows_written"], &reply["rows_skipped"]), (&1.into(), &1.into()));
    // The format may be a parameter too, with precedence over the header.
    server.post(&format!("{X}?format=csv"), "application/json", csv_body(0, 1)).expect(200);
}

const S: &str = "/v1/scalars/c/A/1m/n";

/// The reasons of the invalid rows of a refusal, with their positions.
fn reasons(problem: &serde_json::Value) -> Vec<(u64, String)> {
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| (error["row"].as_u64().unwrap(), error["reason"].as_str().unwrap().to_string())).collect()
}

#[test]
fn rows_off_the_grid_or_of_another_unit_are_refused_by_every_write() {
    let server = Server::start();
    for series in [
        r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#,
        r#"{"kind":"scalar","category":"c","symbol":"A","timeframe":"1m","name":"n"}"#,
    ] {
        server.post_json("/v1/series", series).expect(201);
    }
    let bar = |ts: i64| format!(r#"{{"ts":{ts},"open":1,"high":2,"low":1,"close":2,"volume":1}}"#);
    let value = |ts: i64| format!(r#"{{"ts":{ts},"value":1}}"#);
    let good = 1_706_745_600_000_i64;
    for (ts, reason, hint) in
        [(good + 500, "off_grid", "grid=allow"), (good / 1_000, "implausible_ts", "implausible_ts=allow")]
    {
        let bars = format!("[{},{}]", bar(good), bar(ts));
        let values = format!("[{},{}]", value(good), value(ts));
        let many = format!(
            r#"{{"writes":[{{"series":"kline/X/1m","rows":[{}]}},{{"series":"scalar/c/A/1m/n","rows":[{}]}}]}}"#,
            bar(good),
            value(ts)
        );
        let key = ("idempotency-key", "k1");
        let json = ("content-type", "application/json");
        for (target, body) in [
            (X, &bars),
            (S, &values),
            ("/v1/write", &many),
            (&format!("{X}/merge"), &bars),
            (&format!("{S}/merge"), &values),
        ] {
            let problem = server.send("POST", target, &[json, key], body.as_bytes()).refused("invalid_rows");
            assert_eq!(reasons(&problem), [(1, reason.to_string())], "{target}");
            assert!(problem["hint"].as_str().unwrap().contains(hint), "{problem}");
            assert_eq!(problem["errors"][0]["field"], "ts");
        }
        assert_eq!((server.state("kline/X/1m").1, server.state("scalar/c/A/1m/n").1), (0, 0));
    }
    let problem = server.post_json(X, &format!("[{}]", bar(good + 500))).refused("invalid_rows");
    let message = problem["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("nearest grid point is 1706745600000 (2024-02-01T00:00:00Z)"), "{message}");
    // Explicitly allowed rows are stored; both rules are independent.
    server.post_json(&format!("{X}?grid=allow"), &format!("[{}]", bar(good + 500))).expect(200);
    server.post_json(&format!("{X}?grid=allow"), &format!("[{}]", bar(good / 1_000))).refused("invalid_rows");
    let both = format!("{X}?grid=allow&implausible_ts=allow");
    server.post_json(&both, &format!("[{}]", bar(good / 1_000))).expect(200);
    server.post_json(&format!("{X}?grid=maybe"), &format!("[{}]", bar(good))).refused("invalid_argument");
    assert_eq!(server.state("kline/X/1m").1, 2);
}

#[test]
fn bars_of_several_days_are_aligned_to_the_first_stored_one() {
    let server = Server::start();
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"3d"}"#).expect(201);
    let path = "/v1/klines/X/3d";
    let day = |day: i64| {
        let ts = (19_754 + day) * 86_400_000;
        format!(r#"{{"ts":{ts},"open":1,"high":2,"low":1,"close":2,"volume":1}}"#)
    };
    // In an empty series the earliest row of the write is the origin.
    let problem = server.post_json(path, &format!("[{},{},{}]", day(4), day(1), day(5))).refused("invalid_rows");
    assert_eq!(reasons(&problem), [(2, "off_grid".to_string())]);
    server.post_json(path, &format!("[{},{}]", day(4), day(1))).expect(200);
    let problem = server.post_json(path, &format!("[{}]", day(0))).refused("invalid_rows");
    assert!(problem["hint"].as_str().unwrap().contains("grid=allow"), "{problem}");
    let many = format!(r#"{{"writes":[{{"series":"kline/X/3d","rows":[{},{}]}}]}}"#, day(7), day(8));
    assert_eq!(reasons(&server.post_json("/v1/write", &many).refused("invalid_rows")), [(1, "off_grid".to_string())]);
    server.post_json(path, &format!("[{}]", day(-2))).expect(200);
    // Without rows the next write sets the origin again.
    server.delete(&format!("{path}?all=true")).expect(200);
    server.post_json(path, &format!("[{}]", day(0))).expect(200);
}

#[test]
fn an_append_that_goes_back_in_time_is_out_of_order() {
    let server = Server::start();
    server.kline("X");
    let body = format!("{}{}", csv_body(5, 2), csv_rows(4, 1));
    let problem = server.post(&format!("{X}?mode=append"), "text/csv", body).refused("out_of_order");
    assert_eq!(reasons(&problem), [(2, "out_of_order".to_string())]);
    let body = format!("{}{}", csv_body(5, 2), csv_rows(6, 1));
    let problem = server.post(&format!("{X}?mode=append"), "text/csv", body).refused("invalid_rows");
    assert_eq!(reasons(&problem), [(2, "duplicate".to_string())]);
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn a_change_that_changes_nothing_makes_no_commit_and_null_clears_a_field() {
    let server = Server::start();
    server.kline("X");
    let path = "/v1/series/kline/X/1m";
    let patch = |body: &str| server.send("PATCH", path, &[("content-type", "application/json")], body.as_bytes());
    let set = r#"{"description":"a","retention":{"max_age":"30d"},"calendar":"weekdays","value_index":["close"]}"#;
    let changed = patch(set).expect(200).json();
    assert_eq!((&changed["description"], &changed["calendar"]), (&"a".into(), &"weekdays".into()));
    let commit = server.service.health().unwrap().commit;
    for same in [set, "{}", r#"{"description":"a"}"#, r#"{"value_index":["close"]}"#] {
        assert_eq!(patch(same).expect(200).json(), changed, "{same}");
    }
    assert_eq!(server.service.health().unwrap().commit, commit);
    let cleared =
        patch(r#"{"description":null,"retention":null,"calendar":null,"value_index":null}"#).expect(200).json();
    for field in ["description", "retention", "calendar"] {
        assert!(cleared[field].is_null(), "{field}: {cleared}");
    }
    assert_eq!(cleared["value_index"], serde_json::json!([]));
    assert_eq!(cleared["version"].as_u64(), changed["version"].as_u64().map(|version| version + 1));
    assert_eq!(patch(r#"{"calendar":null}"#).expect(200).json(), cleared);
    patch(&format!(r#"{{"description":"{}"}}"#, "x".repeat(5_000))).refused("invalid_argument");
}

#[test]
fn other_spellings_of_a_timeframe_are_refused_at_registration() {
    let server = Server::start();
    for (label, right) in
        [("1D", "use 1d"), ("1H", "use 1h"), ("1min", "use 1m"), ("60min", "use 60m"), ("1hour", "use 1h")]
    {
        for more in ["", r#","interval_ms":60000"#] {
            let body = format!(r#"{{"kind":"kline","symbol":"X","timeframe":"{label}"{more}}}"#);
            let problem = server.post_json("/v1/series", &body).refused("invalid_argument");
            assert!(problem["hint"].as_str().unwrap().contains(right), "{problem}");
        }
    }
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"0m"}"#).refused("invalid_argument");
    let custom = r#"{"kind":"kline","symbol":"X","timeframe":"100tick","interval_ms":60000}"#;
    server.post_json("/v1/series", custom).expect(201);
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"60m"}"#).expect(201);
}

#[test]
fn a_body_without_content_type_is_detected_by_its_first_bytes_or_refused() {
    let server = Server::start();
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#).expect(201);
    let plain = |body: &[u8]| server.send("POST", X, &[], body);
    let rows = r#"[[1706745600000,1,2,1,2,1]]"#;
    let named = r#"{"ts":1706745660000,"open":1,"high":2,"low":1,"close":2,"volume":1}"#;
    for body in [
        rows.to_string(),
        format!("[{named}]"),
        format!(r#"{{"rows":[{named}]}}"#),
        format!("{named}\n"),
        "ts,open,high,low,close,volume\n1706745720000,1,2,1,2,1\n".to_string(),
    ] {
        assert_eq!(plain(body.as_bytes()).expect(200).json()["rows_written"], 1, "{body}");
    }
    for format in ["arrow", "parquet"] {
        let stored = server.get(&format!("{X}?format={format}")).expect(200).body;
        assert_eq!(plain(&stored).expect(200).json()["rows_replaced"], 3, "{format}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(rows.as_bytes()).unwrap();
    for (body, hint) in [
        (b"hello".to_vec(), "Content-Type: application/json"),
        (b"1706745600000,1,2,1,2,1\n".to_vec(), "Content-Type: application/json"),
        (gzip.finish().unwrap(), "Content-Encoding: gzip"),
    ] {
        let problem = plain(&body).refused("unsupported_media_type");
        assert!(problem["hint"].as_str().unwrap().contains(hint), "{problem}");
    }
    // The content types of curl and of web forms are no formats and are ignored.
    for kind in ["application/x-www-form-urlencoded", "text/plain"] {
        let problem = server.post(X, kind, rows).refused("unsupported_media_type");
        assert!(problem["hint"].as_str().unwrap().contains("Content-Type: application/json"), "{problem}");
    }
    // A page of another origin gains nothing by omitting the header.
    server.send("POST", X, &[("origin", "https://example.com")], rows.as_bytes()).refused("permission_denied");
}
