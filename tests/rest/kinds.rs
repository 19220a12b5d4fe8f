//! Kinds of series that users register, and rows of series of any kind.

use serde_json::{Value, json};

use crate::client::Server;

const GREEKS: &str = r#"{"kind":"greeks","key":["underlying","contract"],"unit":"us","order":{"unique":["ts"]},
    "fields":[{"name":"delta","type":"float64"},{"name":"price","type":"decimal","digits":4},
    {"name":"size","type":"int64","merge":"sum"}],
    "rules":[{"rule":"non_negative","field":"price"},{"rule":"at_least","field":"size","of":["size2"]}],"partition":"auto"}"#;

fn greeks() -> String {
    GREEKS.replace(r#"{"rule":"at_least","field":"size","of":["size2"]}"#, r#"{"rule":"non_negative","field":"size"}"#)
}

const SERIES: &str = r#"{"kind":"greeks","key":["SPX","C5000"]}"#;
const ROWS: &str = "/v1/series/greeks/SPX/C5000/rows";

fn started() -> Server {
    let server = Server::start();
    server.post_json("/v1/kinds", &greeks()).expect(201);
    server.post_json("/v1/series", SERIES).expect(201);
    server
}

fn rows(from: i64, count: i64) -> String {
    let rows: Vec<Value> =
        (from..from + count).map(|n| json!({"ts": n, "delta": 0.5, "price": format!("{n}.25"), "size": n})).collect();
    json!({ "rows": rows }).to_string()
}

#[test]
fn a_kind_is_registered_listed_described_and_dropped() {
    let server = Server::start();
    server.post_json("/v1/kinds", GREEKS).refused("invalid_argument");
    let created = server.post_json("/v1/kinds", &greeks()).expect(201).json();
    assert_eq!(
        (&created["created"], &created["sql_name"], &created["built_in"]),
        (&json!(true), &json!("greeks"), &json!(false))
    );
    let again = server.post_json("/v1/kinds", &greeks()).expect(200).json();
    assert_eq!((&again["created"], &again["commit"]), (&json!(false), &created["commit"]));
    server.post_json("/v1/kinds", &greeks().replace("\"us\"", "\"ns\"")).refused("kind_exists");
    server.post_json("/v1/kinds", &greeks().replace("greeks", "trade")).refused("kind_exists");
    server.post_json("/v1/kinds", &greeks().replace("greeks", "kline")).refused("kind_exists");
    let listed = server.get("/v1/kinds").expect(200).json();
    let names: Vec<&str> =
        listed["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap()).collect();
    let built_in =
        ["kline", "scalar", "trade", "quote", "book", "depth", "funding", "open_interest", "liquidation", "status"];
    assert_eq!(names, [&built_in[..], &["greeks"]].concat());
    let kind = server.get("/v1/kinds/greeks").expect(200).json();
    assert_eq!(kind["fields"][1], json!({"name": "price", "type": "decimal", "digits": 4, "merge": "last"}));
    assert_eq!(kind["order"], json!({"unique": ["ts"]}));
    server.post_json("/v1/series", SERIES).expect(201);
    server.delete("/v1/kinds/greeks").refused("kind_in_use");
    server.delete("/v1/series/greeks/SPX/C5000").expect(200);
    server.delete("/v1/kinds/greeks").expect(200);
    server.delete("/v1/kinds/greeks").refused("not_found");
    server.get("/v1/kinds/greeks").refused("not_found");
}

#[test]
fn series_of_a_kind_are_registered_by_their_words() {
    let server = Server::start();
    let unknown = server.post_json("/v1/series", SERIES);
    assert!(unknown.refused("not_found")["detail"].as_str().unwrap().contains("greeks"));
    server.post_json("/v1/kinds", &greeks()).expect(201);
    let info = server.post_json("/v1/series", SERIES).expect(201).json();
    assert_eq!(
        (&info["series"], &info["unit"], &info["partition"]),
        (&json!("greeks/SPX/C5000"), &json!("us"), &json!("day"))
    );
    assert_eq!((&info["key"], &info["key_names"]), (&json!(["SPX", "C5000"]), &json!(["underlying", "contract"])));
    assert_eq!(info["order"], json!({"unique": ["ts"]}));
    server.post_json("/v1/series", SERIES).expect(200);
    let close = server.post_json("/v1/series", r#"{"kind":"greekz","key":["SPX","C5000"]}"#).refused("not_found");
    assert!(close["hint"].as_str().unwrap().contains("greeks"));
    for (bad, code) in [
        (r#"{"kind":"greeks","key":["SPX"]}"#, "invalid_argument"),
        (r#"{"kind":"greeks","symbol":"SPX","timeframe":"1m"}"#, "invalid_argument"),
        (r#"{"kind":"greeks","key":["SPX","rows"]}"#, "invalid_argument"),
        (r#"{"kind":"greeks","key":["SPX","C5000"],"unit":"s"}"#, "series_exists"),
        (r#"{"kind":"kline","key":["SPX","1m"]}"#, "invalid_argument"),
    ] {
        server.post_json("/v1/series", bad).refused(code);
    }
    let hourly = r#"{"kind":"greeks","key":["SPX","P1"],"unit":"s","partition":"hour","value_index":["price"]}"#;
    let info = server.post_json("/v1/series", hourly).expect(201).json();
    assert_eq!((&info["unit"], &info["partition"]), (&json!("s"), &json!("hour")));
    let listed = server.get("/v1/series?kind=greeks").expect(200).json();
    assert_eq!(listed["series"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("/v1/series?kind=kline").expect(200).json()["series"], json!([]));
}

#[test]
fn rows_of_any_kind_are_written_read_merged_and_deleted() {
    let server = started();
    let reply = server.post_json(ROWS, &rows(1, 5)).expect(200).json();
    assert_eq!((&reply["series"], &reply["rows_written"]), (&json!("greeks/SPX/C5000"), &json!(5)));
    let read = server.get(&format!("{ROWS}?start=2&end=3")).expect(200).json();
    assert_eq!(
        read["rows"],
        json!([{"ts": 2, "delta": 0.5, "price": 2.25, "size": 2}, {"ts": 3, "delta": 0.5, "price": 3.25, "size": 3}])
    );
    // A key is one segment too.
    let encoded = server.get("/v1/series/greeks%2FSPX%2FC5000/rows?start=2&end=3").expect(200).json();
    assert_eq!(encoded, read);
    let info = server.get("/v1/series/greeks/SPX/C5000").expect(200).json();
    assert_eq!(info["rows"], json!(5));
    let query = json!({"series": ["greeks/*/C5000"], "latest": 1}).to_string();
    let read = server.post_json("/v1/query", &query).expect(200).json();
    assert_eq!(read["rows"][0]["series"], json!("greeks/SPX/C5000"));
    let broken = json!([{"ts": 9, "delta": 0.0, "price": "-1", "size": 1}]).to_string();
    let error = server.post_json(ROWS, &broken).refused("invalid_rows");
    assert_eq!(error["errors"][0]["reason"], json!("non_negative"));
    assert_eq!(error["errors"][0]["message"], json!("price -1.0000 is negative"));
    server.post_json(&format!("{ROWS}?validate=none"), &broken).expect(200);
    let gone = server.delete(&format!("{ROWS}?start=2&end=9")).expect(200).json();
    assert_eq!(gone["rows_deleted"], json!(5));
    server.get("/v1/series/greeks/SPX/C1/rows").refused("series_not_found");
    // The presets are keys as well.
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#).expect(201);
    let bars = json!([{"ts": 0, "open": 1, "high": 2, "low": 1, "close": 1, "volume": 1}]).to_string();
    server.post_json("/v1/series/kline/X/1m/rows", &bars).expect(200);
    let generic = server.get("/v1/series/kline/X/1m/rows").expect(200).json();
    assert_eq!(generic, server.get("/v1/klines/X/1m").expect(200).json());
}

#[test]
fn several_series_of_a_kind_are_written_in_one_commit() {
    let server = started();
    server.post_json("/v1/series", r#"{"kind":"greeks","key":["SPX","P1"]}"#).expect(201);
    let write = |key: &str| json!({"series": key, "rows": [{"ts": 1, "delta": 1.0, "price": "1", "size": 1}]});
    let body = json!({"writes": [write("greeks/SPX/C5000"), write("greeks/SPX/P1")]}).to_string();
    assert_eq!(server.post_json("/v1/write", &body).expect(200).json()["series_count"], json!(2));
    server.post_json("/v1/series", r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#).expect(201);
    let mixed = json!({"series": ["greeks/SPX/P1", "kline/X/1m"]}).to_string();
    server.post_json("/v1/query", &mixed).refused("invalid_argument");
}

#[test]
fn columns_become_wider_and_others_are_refused() {
    let server = started();
    let path = "/v1/series/greeks/SPX/C5000";
    let change = |columns: Value| {
        let body = json!({ "columns": columns }).to_string();
        server.send("PATCH", path, &[("content-type", "application/json")], body.as_bytes())
    };
    let info = change(json!([{"name": "price", "digits": 6}, {"name": "venue", "type": "text", "nullable": true}]));
    let info = info.expect(200).json();
    assert_eq!(info["columns"][1]["digits"], json!(6));
    assert_eq!(info["columns"][3]["nullable"], json!(true));
    for (columns, text) in [
        (json!([{"name": "price", "digits": 2}]), "digits"),
        (json!([{"name": "size", "type": "int32"}]), "nothing else"),
        (json!([{"name": "fee", "type": "int32"}]), "nullable"),
    ] {
        let error = change(columns).refused("invalid_argument");
        assert!(error["hint"].as_str().unwrap().contains(text), "{error}");
    }
    // The kind stays as it is, and registering the series again is no error.
    assert_eq!(server.get("/v1/kinds/greeks").expect(200).json()["fields"][1]["digits"], json!(4));
    server.post_json("/v1/series", SERIES).expect(200);
    server.post_json("/v1/series", r#"{"kind":"greeks","key":["SPX","P1"]}"#).expect(201);
}

#[test]
fn kinds_are_there_after_a_restart() {
    let server = started();
    server.post_json(ROWS, &rows(1, 3)).expect(200);
    let before = (server.get("/v1/kinds").expect(200).json(), server.get(ROWS).expect(200).json());
    let server = server.restarted();
    assert_eq!((server.get("/v1/kinds").expect(200).json(), server.get(ROWS).expect(200).json()), before);
}

#[test]
fn pages_keep_rows_of_one_timestamp_together_unless_told() {
    let server = started();
    let tick = r#"{"kind":"print","key":["symbol"],"unit":"ms","order":"arrival",
        "fields":[{"name":"number","type":"int64"}],"partition":"day"}"#;
    server.post_json("/v1/kinds", tick).expect(201);
    server.post_json("/v1/series", r#"{"kind":"print","key":["A"]}"#).expect(201);
    let times = [1, 1, 2, 2, 2, 2, 3];
    let rows: Vec<Value> = times.iter().enumerate().map(|(n, ts)| json!({"ts": ts, "number": n})).collect();
    let path = "/v1/series/print/A/rows";
    server.post_json(&format!("{path}?implausible_ts=allow"), &json!({ "rows": rows }).to_string()).expect(200);
    let pages = |options: &str| {
        let (mut cursor, mut pages) = (String::new(), Vec::new());
        loop {
            let page = server.get(&format!("{path}?{options}{cursor}")).expect(200).json();
            let numbers = page["rows"].as_array().unwrap().iter().map(|row| row["number"].as_i64().unwrap());
            pages.push(numbers.collect::<Vec<_>>());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return pages,
            }
        }
    };
    assert_eq!(pages("limit=3"), vec![vec![0, 1, 2, 3, 4, 5], vec![6]]);
    assert_eq!(pages("limit=3&ties=split"), vec![vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    assert_eq!(pages("limit=2&order=desc&ties=whole"), vec![vec![6, 5, 4, 3, 2], vec![1, 0]]);
    assert_eq!(pages("limit=2&order=desc&ties=split"), vec![vec![6, 5], vec![4, 3], vec![2, 1], vec![0]]);
    server.get(&format!("{path}?limit=2&ties=half")).refused("invalid_argument");
    // A page in NDJSON names the page that follows it.
    let page = server.get(&format!("{path}?limit=3&format=ndjson")).expect(200);
    assert_eq!(page.text().lines().count(), 6);
    let body = json!({"series": ["print/A"], "limit": 3, "ties": "split"}).to_string();
    let page = server.post_json("/v1/query", &body).expect(200).json();
    assert_eq!(page["rows"].as_array().unwrap().len(), 3);
}
