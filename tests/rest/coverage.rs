//! Coverage through REST: every parameter and every refusal, and reads of the last complete intervals.

use serde_json::{Value, json};

use crate::client::{Server, csv_body};

const X: &str = "/v1/coverage/kline/X/1m";
const ROWS: &str = "/v1/klines/X/1m";
const MINUTE: i64 = 60_000;

/// Minutes 0 to 9, 12 to 14 and 20, and a row half a minute after minute 20.
fn loaded() -> Server {
    let server = Server::start();
    server.kline("X");
    for (first, rows) in [(0, 10), (12, 3), (20, 1)] {
        server.post(ROWS, "text/csv", csv_body(first, rows)).expect(200);
    }
    let off = csv_body(20, 1).replace(&format!("\n{}", 20 * MINUTE), &format!("\n{}", 20 * MINUTE + 30_000));
    server.post(&format!("{ROWS}?grid=allow"), "text/csv", off).expect(200);
    server
}

fn get(server: &Server, query: &str) -> Value {
    server.get(&format!("{X}{query}")).expect(200).json()
}

fn gap(start: i64, end: i64, missing: u64) -> Value {
    json!({"start": start * MINUTE, "end": end * MINUTE, "missing": missing})
}

#[test]
fn coverage_reports_present_and_missing_intervals() {
    let server = loaded();
    for sealed in [false, true] {
        if sealed {
            server.post_json("/v1/admin/compact?wait=true", "").expect(200);
        }
        let (version, commit) = (5, 5);
        assert_eq!(
            get(&server, ""),
            json!({
                "series": "kline/X/1m", "version": version, "commit": commit, "calendar": "24x7", "interval_ms": MINUTE,
                "interval_months": null, "origin": 0, "first_ts": 0, "last_ts": 20 * MINUTE + 30_000, "start": 0,
                "end": 20 * MINUTE, "expected": 21, "present": 14, "ratio": 14.0 / 21.0, "rows": 15, "off_grid": 1,
                "outside_calendar": 0, "gaps": [gap(10, 11, 2), gap(15, 19, 5)], "gaps_total": 2, "truncated": false,
                "longest_gap": gap(15, 19, 5),
            })
        );
    }
}

#[test]
fn every_parameter_of_coverage_has_an_effect() {
    let server = loaded();
    let found = get(&server, &format!("?start=-60000&end={}", 22 * MINUTE));
    assert_eq!((&found["expected"], &found["gaps_total"]), (&24.into(), &4.into()));
    assert_eq!(found["gaps"][0], gap(-1, -1, 1));
    assert_eq!(found["gaps"][3], gap(21, 22, 2));
    let found = get(&server, "?start=1970-01-01T00:09:30Z&end=1970-01-01T00:12:59Z");
    assert_eq!((&found["start"], &found["end"], &found["expected"]), (&600_000.into(), &720_000.into(), &3.into()));
    let day = get(&server, "?start=1970-01-01&end=1970-01-01");
    assert_eq!((&day["expected"], &day["present"]), (&1_440.into(), &14.into()));
    let found = get(&server, "?min_missing=3");
    assert_eq!((&found["gaps"], &found["gaps_total"]), (&json!([gap(15, 19, 5)]), &1.into()));
    let found = get(&server, "?min_missing=9");
    assert_eq!((&found["gaps"], &found["longest_gap"]["missing"]), (&json!([]), &5.into()));
    let found = get(&server, "?limit=1");
    assert_eq!(
        (&found["gaps"], &found["gaps_total"], &found["truncated"]),
        (&json!([gap(10, 11, 2)]), &2.into(), &true.into())
    );
    let found = get(&server, "?times=rfc3339&limit=1");
    assert_eq!(found["gaps"][0], json!({"start": "1970-01-01T00:10:00Z", "end": "1970-01-01T00:11:00Z", "missing": 2}));
    assert_eq!((&found["origin"], &found["last_ts"]), (&"1970-01-01T00:00:00Z".into(), &"1970-01-01T00:20:30Z".into()));
    // Saturday and Sunday are 1970-01-03 and 04.
    let found = get(&server, "?calendar=weekdays&start=1970-01-02&end=1970-01-05");
    assert_eq!((&found["expected"], &found["gaps_total"]), (&2_880.into(), &1.into()));
    assert_eq!(found["calendar"], "weekdays");
    // 00:13 to 00:20 of Thursdays.
    let windows =
        "%7B%22zone%22:%22Etc/GMT%22,%22windows%22:%5B%7B%22from%22:%22Thu+00:13%22,%22to%22:%22Thu+00:20%22%7D%5D%7D";
    let found = get(&server, &format!("?calendar={windows}"));
    assert_eq!((&found["expected"], &found["present"], &found["outside_calendar"]), (&7.into(), &2.into(), &13.into()));
    assert_eq!(found["calendar"]["windows"][0]["from"], "Thu 00:13");
}

#[test]
fn no_expected_intervals_give_no_ratio() {
    let server = Server::start();
    server.kline("X");
    for query in ["", "?start=0"] {
        let found = get(&server, query);
        assert_eq!((&found["expected"], &found["ratio"], &found["start"]), (&0.into(), &Value::Null, &Value::Null));
        assert_eq!((&found["longest_gap"], &found["first_ts"]), (&Value::Null, &Value::Null));
    }
    let found = get(&server, "?start=0&end=60000");
    assert_eq!((&found["expected"], &found["ratio"], &found["gaps"]), (&2.into(), &0.0.into(), &json!([gap(0, 1, 2)])));
    server.post(ROWS, "text/csv", csv_body(5, 1)).expect(200);
    // After the last row, without an end.
    assert_eq!(get(&server, "?start=360000")["expected"], 0);
    assert_eq!(get(&server, "?start=1&end=2")["expected"], 0);
}

#[test]
fn unchanged_coverage_is_not_sent_again() {
    let server = loaded();
    let first = server.get(X).expect(200);
    let tag = first.header("etag").unwrap().to_string();
    assert_eq!(server.get_with(X, &[("if-none-match", &tag)]).status, 304);
    let zipped = server.get_with(X, &[("accept-encoding", "gzip")]).expect(200);
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    server.delete(&format!("{ROWS}?start=0&end=0")).expect(200);
    let next = server.get_with(X, &[("if-none-match", &tag)]).expect(200).json();
    assert_eq!((&next["first_ts"], &next["expected"]), (&MINUTE.into(), &20.into()));
}

#[test]
fn invalid_coverage_requests_name_the_parameter() {
    let server = loaded();
    for query in [
        "min_missing=0",
        "limit=0",
        "limit=1000001",
        "start=9&end=8",
        "start=x",
        "times=iso",
        "calendar=nyse",
        "calendar=%7B%22zone%22:%22Mars/Base%22,%22windows%22:%5B%5D%7D",
        "calendar=%7B",
        "latest=5",
        "min_missing=1&min_missing=2",
    ] {
        server.get(&format!("{X}?{query}")).refused("invalid_argument");
    }
    server.get(&format!("{X}?as_of=x")).refused("snapshot_not_found");
    server.get("/v1/coverage/kline/Y/1m").refused("series_not_found");
    server.get("/v1/coverage/scalar/c/Y/1m/n").refused("series_not_found");
    server.get("/v1/coverage/nope/Y/1m").refused("series_not_found");
    server
        .post_json("/v1/series", r#"{"kind":"scalar","category":"c","symbol":"Y","timeframe":"tick","name":"n"}"#)
        .expect(201);
    let problem = server.get("/v1/coverage/scalar/c/Y/tick/n").refused("invalid_argument");
    assert!(problem["detail"].as_str().unwrap().contains("\"tick\""), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("interval_ms"), "{problem}");
    server.get("/v1/scalars/c/Y/tick/n?latest_complete=1").refused("invalid_argument");
}

#[test]
fn a_calendar_is_checked_when_it_is_registered_or_changed() {
    let server = loaded();
    let series = "/v1/series/kline/X/1m";
    for bad in [r#""nyse""#, "5", r#"{"zone":"UTC"}"#, r#"{"zone":"UTC","windows":[{"from":"Mon","to":"Tue 00:00"}]}"#]
    {
        let body = format!(r#"{{"kind":"kline","symbol":"Z","timeframe":"1m","calendar":{bad}}}"#);
        let problem = server.post_json("/v1/series", &body).refused("invalid_argument");
        assert!(problem["detail"].as_str().unwrap().contains("calendar"), "{problem}");
        let patch = format!(r#"{{"calendar":{bad}}}"#);
        server
            .send("PATCH", series, &[("content-type", "application/json")], patch.as_bytes())
            .refused("invalid_argument");
    }
    let windows = r#"{"zone":"UTC","windows":[{"from":"Thu 00:00","to":"Thu 00:10"}]}"#;
    let patch = format!(r#"{{"calendar":{windows}}}"#);
    server.send("PATCH", series, &[("content-type", "application/json")], patch.as_bytes()).expect(200);
    let found = get(&server, "");
    assert_eq!(
        (&found["expected"], &found["present"], &found["outside_calendar"]),
        (&10.into(), &10.into(), &5.into())
    );
    let row = server.get("/inventory").expect(200).json()["series"][0].clone();
    assert_eq!(row["coverage_ratio"], 1.0, "the inventory uses the calendar of the series");
    assert_eq!(get(&server, "?calendar=24x7")["ratio"], 14.0 / 21.0);
}

fn times(server: &Server, query: &str) -> Vec<i64> {
    let rows = server.get(&format!("{ROWS}?columns=close&{query}")).expect(200).json();
    rows["rows"].as_array().unwrap().iter().map(|row| row["ts"].as_i64().unwrap()).collect()
}

#[test]
fn the_last_complete_intervals_can_be_read() {
    let server = loaded();
    let minutes = |range: std::ops::Range<i64>| range.map(|minute| minute * MINUTE).collect::<Vec<_>>();
    assert_eq!(times(&server, "latest_complete=1"), [20 * MINUTE, 20 * MINUTE + 30_000]);
    assert_eq!(times(&server, "latest_complete=2"), minutes(13..15));
    assert_eq!(times(&server, "latest_complete=3&order=desc"), [14 * MINUTE, 13 * MINUTE, 12 * MINUTE]);
    assert_eq!(times(&server, "latest_complete=4"), minutes(6..10));
    assert_eq!(times(&server, "latest_complete=4&limit=2"), minutes(6..8));
    assert_eq!(times(&server, "latest_complete=10"), minutes(0..10));
    assert_eq!(times(&server, "latest_complete=11"), [0_i64; 0]);
    assert_eq!(times(&server, "latest_complete=4&end=300000"), minutes(2..6));
    assert_eq!(times(&server, "latest_complete=4&start=360000&end=480000"), [0_i64; 0]);
    // Rows after the end are ignored.
    assert_eq!(times(&server, "latest_complete=1&end=1229999"), [20 * MINUTE]);
    // The predicate filters these rows and selects no others.
    assert_eq!(times(&server, "latest_complete=4&where=close:gte:42008.25"), minutes(8..10));
    let pages = server.get(&format!("{ROWS}?latest_complete=10&limit=6")).expect(200).json();
    let cursor = pages["next_cursor"].as_str().unwrap();
    assert_eq!(times(&server, &format!("latest_complete=10&limit=6&cursor={cursor}")), minutes(6..10));
    server.get(&format!("{ROWS}?latest_complete=0")).refused("invalid_argument");
    server.get(&format!("{ROWS}?latest_complete=1&latest=1")).refused("invalid_argument");
    let query = r#"{"series":["kline/X/1m"],"latest_complete":2,"columns":["close"]}"#;
    let found = server.post_json("/v1/query?format=csv", query).expect(200).text();
    assert_eq!(found, "ts,close\n780000,42013.25\n840000,42014.25\n");
}

#[test]
fn rows_outside_the_calendar_are_not_in_the_last_complete_intervals() {
    let server = loaded();
    let windows = r#"{"calendar":{"zone":"UTC","windows":[{"from":"Thu 00:02","to":"Thu 00:05"},{"from":"Thu 00:07","to":"Thu 00:09"}]}}"#;
    server
        .send("PATCH", "/v1/series/kline/X/1m", &[("content-type", "application/json")], windows.as_bytes())
        .expect(200);
    let minutes = |list: &[i64]| list.iter().map(|minute| minute * MINUTE).collect::<Vec<_>>();
    assert_eq!(times(&server, "latest_complete=4"), minutes(&[3, 4, 7, 8]));
    assert_eq!(times(&server, "latest_complete=4&order=desc&limit=3"), minutes(&[8, 7, 4]));
    assert_eq!(times(&server, "latest_complete=6"), [0_i64; 0]);
    server.delete(&format!("{ROWS}?start=300000&end=360000")).expect(200);
    assert_eq!(times(&server, "latest_complete=5"), minutes(&[2, 3, 4, 7, 8]));
}

/// Prints the time of the inventory of 10,000 sealed series: cold, warm, and after a write to every tenth.
#[test]
#[ignore = "a measurement: run it alone, in release"]
fn the_inventory_of_ten_thousand_series_is_measured() {
    use fastk::service::SeriesFilter;
    use fastk::store::{Durability, Store, StoreOptions, WriteMode};
    use fastk::types::{Rows, SeriesKey, SeriesSpec};
    let root = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { background_maintenance: false, durability: Durability::None, ..StoreOptions::default() };
    let keys: Vec<SeriesKey> =
        (0..10_000).map(|n| SeriesKey::scalar("c", &format!("S{n}"), "1m", "n").unwrap()).collect();
    let rows = |from: i64| Rows::of_words((from..from + 100).map(|n| n * MINUTE).collect(), vec![vec![0; 100]]);
    {
        let store = Store::open(root.path(), true, options.clone()).unwrap();
        for key in &keys {
            store.register(SeriesSpec::of_key(key).resolve().unwrap()).unwrap();
            store.write(key, rows(0), WriteMode::Upsert, None).unwrap();
        }
        store.seal(&[]).unwrap();
    }
    let service = fastk::service::Service::open(root.path(), false, options).unwrap();
    let filter = SeriesFilter { limit: Some(10_000), ..SeriesFilter::default() };
    let measure = |what: &str| {
        let started_at = std::time::Instant::now();
        let found = service.inventory(&filter).unwrap();
        println!("{what}: {:.1} ms", started_at.elapsed().as_secs_f64() * 1_000.0);
        assert!(found.series.len() == 10_000 && found.series.iter().all(|row| row.coverage_ratio.is_some()));
    };
    measure("cold");
    measure("warm");
    for key in keys.iter().step_by(10) {
        service.store().write(key, rows(50), WriteMode::Upsert, None).unwrap();
    }
    measure("after 1,000 writes");
}
