//! Several series at once: refusals, formats of bodies, and atomic visibility.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, LargeStringArray, RecordBatch, StringArray, UInt16Array,
    UInt32Array,
};
use arrow::datatypes::UInt16Type;
use arrow::ipc::writer::StreamWriter;
use serde_json::{Value, json};

use crate::client::Server;

const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";
const NDJSON: &str = "application/x-ndjson";

fn scalar(server: &Server, symbol: &str, value: &str) {
    let body = format!(
        r#"{{"kind":"scalar","category":"f","symbol":"{symbol}","timeframe":"tick","name":"n","value":{value}}}"#
    );
    server.post_json("/v1/series", &body).expect(201);
}

fn key(symbol: &str) -> String {
    format!("scalar/f/{symbol}/tick/n")
}

fn query(server: &Server, query: &Value) -> String {
    server.post_json("/v1/query?format=csv", &query.to_string()).expect(200).text()
}

/// All stored rows, by series.
fn all(server: &Server) -> String {
    query(server, &json!({"series": ["scalar/*/*/*/*"]}))
}

/// A server with scalars A, B and C of two digits.
fn scalars() -> Server {
    let server = Server::start();
    for symbol in ["A", "B", "C"] {
        scalar(&server, symbol, r#"{"digits":2}"#);
    }
    server
}

fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

const LABELS: [&str; 6] = ["A", "B", "A", "B", "A", "A"];

fn ts() -> ArrayRef {
    Arc::new(Int64Array::from_iter_values([1, 1, 2, 2, 3, 4]))
}

fn values() -> ArrayRef {
    Arc::new(Float64Array::from_iter_values([0.25, 10.25, 0.5, 10.5, 0.75, 1.0]))
}

fn labels() -> Vec<String> {
    LABELS.iter().map(|symbol| key(symbol)).collect()
}

#[test]
fn every_format_writes_many_series_as_one_commit() {
    let expected = "series,ts,value\nscalar/f/A/tick/n,1,0.25\nscalar/f/A/tick/n,2,0.50\nscalar/f/A/tick/n,3,0.75\n\
        scalar/f/A/tick/n,4,1.00\nscalar/f/B/tick/n,1,10.25\nscalar/f/B/tick/n,2,10.50\n";
    let cells = [(1, "0.25"), (1, "10.25"), (2, "0.5"), (2, "10.5"), (3, "0.75"), (4, "1.0")];
    let mut csv = String::from("ts,series,value\n");
    let mut lines = String::new();
    for (label, (ts, value)) in labels().iter().zip(cells) {
        csv += &format!("{ts},{label},{value}\n");
        lines += &format!("{{\"value\":{value},\"ts\":{ts},\"series\":\"{label}\"}}\n");
    }
    let writes = json!({"writes": [
        {"series": key("A"), "rows": [{"ts": 1, "value": "0.25"}, {"ts": 2, "value": 0.5}, {"ts": 3, "value": 0.75},
            {"ts": 4, "value": 1}]},
        {"series": key("B"), "columns": {"ts": [1, 2], "value": [10.25, 10.5]}}
    ]});
    let words = || Arc::new(StringArray::from(vec![key("C"), key("B"), key("A")]));
    let positions = UInt16Array::from_iter_values([2, 1, 2, 1, 2, 2]);
    let dictionary: ArrayRef = Arc::new(DictionaryArray::<UInt16Type>::new(positions, words()));
    let plain: ArrayRef = Arc::new(StringArray::from(labels()));
    let large: ArrayRef = Arc::new(LargeStringArray::from(labels()));
    let columns = |series: &ArrayRef| vec![("ts", ts()), ("series", series.clone()), ("value", values())];
    for (name, kind, body) in [
        ("json", "application/json", writes.to_string().into_bytes()),
        ("ndjson", NDJSON, lines.into_bytes()),
        ("csv", "text/csv", csv.into_bytes()),
        ("arrow", ARROW, stream(columns(&plain))),
        ("arrow, large strings", ARROW, stream(columns(&large))),
        ("arrow, dictionary", ARROW, stream(columns(&dictionary))),
        ("parquet", PARQUET, parquet(columns(&plain))),
        ("parquet, dictionary", PARQUET, parquet(columns(&dictionary))),
    ] {
        let server = scalars();
        let reply = server.post("/v1/write", kind, body).expect(200).json();
        assert_eq!(all(&server), expected, "{name}");
        let count = |field: &str| reply[field].as_u64().unwrap();
        assert_eq!((count("series_count"), count("rows_written"), count("rows_replaced")), (2, 6, 0), "{name}");
        let commit = server.service.store().snapshot().commit;
        assert_eq!(count("commit"), commit, "{name}");
        for (symbol, rows) in [("A", 4), ("B", 2)] {
            let entry =
                reply["series"].as_array().unwrap().iter().find(|entry| entry["series"] == key(symbol)).unwrap();
            assert_eq!((&entry["rows_written"], &entry["commit"]), (&json!(rows), &json!(commit)), "{name}");
        }
        assert_eq!(server.state(&key("C")), (1, 0), "{name}");
        // Responses are valid bodies: they can be written to another server unchanged.
        let other = scalars();
        for format in ["csv", "ndjson", "arrow", "parquet"] {
            let out = server.post_json(&format!("/v1/query?format={format}"), r#"{"series":["scalar/f/*/tick/n"]}"#);
            let body = out.expect(200).body;
            other.post(&format!("/v1/write?format={format}"), "application/octet-stream", body).expect(200);
            assert_eq!(all(&other), expected, "{name} through {format}");
        }
    }
}

#[test]
fn a_body_of_several_series_is_refused_as_a_whole() {
    let server = scalars();
    server.kline("K");
    let before = all(&server);
    let write = |kind: &str, body: String| server.post("/v1/write", kind, body);
    let json = |body: Value| write("application/json", body.to_string());
    let good = json!({"series": key("A"), "rows": [{"ts": 1, "value": 1}]});
    let problem = json(json!({"writes": [good, {"series": key("NONE"), "rows": []}]})).refused("series_not_found");
    assert!(problem["detail"].as_str().unwrap().contains("NONE"));
    json(json!({"writes": [good, good]})).refused("invalid_argument");
    json(json!({"writes": [good, {"series": key("B")}]})).refused("invalid_argument");
    json(json!({"writes": [{"series": "nothing", "rows": []}]})).refused("invalid_argument");
    json(json!({"writes": [], "more": 1})).refused("invalid_argument");
    json(json!([good])).refused("invalid_argument");
    let problem = json(
        json!({"writes": [good, {"series": key("B"), "rows": [{"ts": 1, "value": 1}, {"ts": 2, "value": "1.234"}]},
        {"series": key("C"), "columns": {"ts": [1, 2], "value": [1, "x"]}}]}),
    )
    .refused("invalid_rows");
    let errors = problem["errors"].as_array().unwrap();
    let place = |at: usize| (errors[at]["row"].as_u64().unwrap(), errors[at]["series"].as_str().unwrap().to_owned());
    assert_eq!((errors.len(), place(0), place(1)), (2, (2, key("B")), (4, key("C"))));
    // A column body: rows are those of the file.
    let csv =
        format!("series,ts,value\n{a},1,1\n{b},1,1\n{a},2,1.234\n{b},2,2\n{b},3,zz\n", a = key("A"), b = key("B"));
    let problem = write("text/csv", csv).refused("invalid_rows");
    let errors = problem["errors"].as_array().unwrap();
    let place = |at: usize| (errors[at]["row"].as_u64().unwrap(), errors[at]["series"].as_str().unwrap().to_owned());
    assert_eq!((errors.len(), place(0), place(1)), (2, (2, key("A")), (4, key("B"))));
    for (kind, body, code) in [
        ("text/csv", "ts,value\n1,1\n".to_owned(), "schema_mismatch"),
        ("text/csv", format!("series,ts,value,more\n{},1,1,1\n", key("A")), "schema_mismatch"),
        ("text/csv", format!("series,ts,value\n{},1,1\nkline/K/1m,1,1\n", key("A")), "schema_mismatch"),
        ("text/csv", "series,ts,value\n,1,1\n".to_owned(), "invalid_rows"),
        ("text/csv", "series,ts,value\nx,1,1\n".to_owned(), "invalid_argument"),
        (NDJSON, "{\"ts\":1,\"value\":1}\n".to_owned(), "invalid_rows"),
        (NDJSON, format!("{{\"series\":\"{}\",\"ts\":1,\"value\":1,\"x\":1}}\n", key("A")), "schema_mismatch"),
        (NDJSON, "{\"series\":5,\"ts\":1,\"value\":1}\n".to_owned(), "invalid_argument"),
    ] {
        write(kind, body.clone()).refused(code);
        assert_eq!(all(&server), before, "{body}");
    }
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 6]));
    let no_words = stream(vec![("ts", ts()), ("series", floats), ("value", values())]);
    server.post("/v1/write", ARROW, no_words).refused("schema_mismatch");
    let labelled = format!("series,ts,value\n{},1,1\n", key("A"));
    let headers = [("content-type", "text/csv"), ("if-match", "\"x-1-1-any\"")];
    server.send("POST", "/v1/write", &headers, labelled.as_bytes()).refused("invalid_argument");
    write("text/csv", labelled.clone()).expect(200);
    server.post("/v1/write?mode=insert", "text/csv", labelled).refused("rows_exist");
}

#[test]
fn damaged_arrow_bodies_of_several_series_are_refused_or_read_but_never_crash_the_server() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let server = scalars();
    let words = Arc::new(StringArray::from(vec![key("C"), key("B"), key("A")]));
    let positions = UInt32Array::from_iter_values([2, 1, 2, 1, 2, 2]);
    let dictionary: ArrayRef = Arc::new(DictionaryArray::new(positions, words as ArrayRef));
    let plain: ArrayRef = Arc::new(StringArray::from(labels()));
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut refused = 0;
    for round in 0..3_000 {
        let series = if round % 2 == 0 { &dictionary } else { &plain };
        let columns = vec![("ts", ts()), ("series", series.clone()), ("value", values())];
        let mut body = if round % 5 == 0 { parquet(columns) } else { stream(columns) };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..body.len() / 8) * 8;
            match random.random_range(0..3) {
                0 => body[at] = random.random(),
                1 => body[at..at + 8].copy_from_slice(&random.random_range(-1..=i64::MAX).to_le_bytes()),
                _ => body.truncate(body.len() - random.random_range(0..8)),
            }
        }
        let format = if round % 5 == 0 { fastk::ingest::BodyFormat::Parquet } else { fastk::ingest::BodyFormat::Arrow };
        let read = fastk::ingest::parse_many(format, &body, &Default::default(), &|key| server.service.known(key));
        refused += usize::from(read.is_err());
    }
    assert!(refused > 1_000, "seed {seed}: only {refused} refused");
}

#[test]
fn incompatible_series_are_refused_by_name() {
    let server = Server::start();
    scalar(&server, "TWO", r#"{"digits":2}"#);
    scalar(&server, "FIVE", r#"{"digits":5}"#);
    scalar(&server, "FLOAT", r#"{"type":"float64"}"#);
    scalar(&server, "INT", r#"{"type":"int64"}"#);
    server.kline("K");
    let other_unit = r#"{"kind":"scalar","category":"f","symbol":"US","timeframe":"tick","name":"n","unit":"us","value":{"digits":2}}"#;
    server.post_json("/v1/series", other_unit).expect(201);
    let refused = |names: &[&str], more: Value, code: &str| {
        let mut query = json!({"series": names.iter().map(|name| key(name)).collect::<Vec<_>>()});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post_json("/v1/query", &query.to_string()).refused(code)
    };
    let problem = refused(&["TWO", "FLOAT"], json!({}), "schema_mismatch");
    assert!(problem["hint"].as_str().unwrap().contains("float64"));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("column value") && detail.contains(&key("TWO")) && detail.contains(&key("FLOAT")),
        "{detail}"
    );
    refused(&["TWO", "FIVE"], json!({"numbers": "raw"}), "schema_mismatch");
    refused(&["TWO", "INT"], json!({"numbers": "float64"}), "schema_mismatch");
    refused(&["TWO", "US"], json!({}), "schema_mismatch");
    refused(&["TWO", "FIVE"], json!({"columns": ["other"]}), "schema_mismatch");
    refused(&["TWO", "FIVE"], json!({"where": [{"column": "other", "op": "gt", "value": 1}]}), "schema_mismatch");
    refused(&["TWO", "FIVE"], json!({"cursor": "1.1.1.1.a.00000000"}), "invalid_argument");
    let mixed = json!({"series": [key("TWO"), "kline/K/1m"]});
    server.post_json("/v1/query", &mixed.to_string()).refused("invalid_argument");
    let globs: Vec<String> = (0..101).map(|n| format!("scalar/f/{n}*/tick/n")).collect();
    server.post_json("/v1/query", &json!({"series": globs}).to_string()).refused("too_large");

    // Different digits are compatible unless a cell does not fit.
    let rows = |name: &str, value: &str| {
        let path = format!("/v1/scalars/f/{name}/tick/n");
        server.post_json(&path, &format!(r#"[{{"ts":1,"value":"{value}"}}]"#)).expect(200);
    };
    rows("TWO", "1.25");
    rows("FIVE", "-0.00001");
    rows("FLOAT", "0.1");
    let request = json!({"series": [key("TWO"), key("FIVE")]});
    assert_eq!(
        query(&server, &request),
        "series,ts,value\nscalar/f/FIVE/tick/n,1,-0.00001\nscalar/f/TWO/tick/n,1,1.25000\n"
    );
    let request = json!({"series": [key("TWO"), key("FLOAT")], "numbers": "float64"});
    assert_eq!(query(&server, &request), "series,ts,value\nscalar/f/FLOAT/tick/n,1,0.1\nscalar/f/TWO/tick/n,1,1.25\n");
    rows("TWO", "12345678901234.25");
    for layout in ["by_series", "by_time"] {
        let problem = refused(&["TWO", "FIVE"], json!({"layout": layout}), "schema_mismatch");
        assert!(problem["detail"].as_str().unwrap().contains("12345678901234.25"), "{problem}");
        assert!(problem["hint"].as_str().unwrap().contains("numbers=float64"), "{problem}");
    }
    let request = json!({"series": [key("TWO"), key("FIVE")], "numbers": "float64"});
    assert!(query(&server, &request).contains("12345678901234.25"));

    // A cursor continues only its own query.
    rows("FIVE", "0.5");
    rows("TWO", "0.5");
    let page = |series: Value, more: Value| {
        let mut query = json!({"series": series, "limit": 1});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post_json("/v1/query", &query.to_string())
    };
    let both = json!([key("TWO"), key("FIVE")]);
    let cursor = page(both.clone(), json!({})).expect(200).json()["next_cursor"].clone();
    page(both.clone(), json!({"cursor": cursor, "order": "desc"})).refused("invalid_argument");
    page(both.clone(), json!({"cursor": cursor, "layout": "by_time"})).refused("invalid_argument");
    page(json!([key("TWO")]), json!({"cursor": cursor})).refused("invalid_argument");
    let last = page(both, json!({"cursor": cursor})).expect(200).json();
    assert_eq!(last["rows"], json!([{"series": key("TWO"), "ts": 1, "value": 0.5}]));
}

#[test]
fn responses_of_several_series_have_the_documented_shape() {
    let server = scalars();
    let body = format!("series,ts,value\n{a},1,0.5\n{b},1,1.5\n{a},2,2.5\n", a = key("A"), b = key("B"));
    server.post("/v1/write", "text/csv", body).expect(200);
    let query =
        |format: &str, query: &Value| server.post_json(&format!("/v1/query?{format}"), &query.to_string()).expect(200);
    let by_time = json!({"series": ["scalar/f/*/tick/n"], "layout": "by_time", "order": "desc", "limit": 2});
    let reply = query("", &by_time);
    assert!(reply.header("fastk-version").is_none());
    let text = reply.text();
    assert!(
        text.starts_with(
            "{\"series\":[\"scalar/f/*/tick/n\"],\"commit\":4,\"rows\":[\
             {\"series\":\"scalar/f/A/tick/n\",\"ts\":2,\"value\":2.50},\n\
             {\"series\":\"scalar/f/A/tick/n\",\"ts\":1,\"value\":0.50}],\"next_cursor\":\""
        ),
        "{text}"
    );
    // The response to a glob names the series even for one match, that to a single key does not.
    assert_eq!(
        query("format=csv", &json!({"series": ["scalar/f/B*/tick/n"]})).text(),
        "series,ts,value\nscalar/f/B/tick/n,1,1.50\n"
    );
    assert_eq!(query("format=csv", &json!({"series": [key("B")]})).text(), "ts,value\n1,1.50\n");
    let columns = query("shape=columns", &json!({"series": ["scalar/*/*/*/*"], "latest": 1})).json();
    assert_eq!(columns["columns"], json!({"series": [key("A"), key("B")], "ts": [2, 1], "value": [2.5, 1.5]}));
    let strings = query("format=ndjson", &json!({"series": ["scalar/f/B*/tick/n"], "numbers": "string"})).text();
    assert_eq!(strings, "{\"series\":\"scalar/f/B/tick/n\",\"ts\":\"1\",\"value\":\"1.50\"}\n");
    // The tag changes with any of the series.
    let tag = || query("", &json!({"series": ["scalar/f/*/tick/n"]})).header("etag").unwrap().to_owned();
    let before = tag();
    assert_eq!(before, tag());
    server.post_json("/v1/scalars/f/C/tick/n", r#"[{"ts":1,"value":1}]"#).expect(200);
    assert_ne!(before, tag());
    let stats =
        query("", &json!({"series": ["scalar/f/*/tick/n"], "where": [{"op": "gt", "value": 1}], "explain": true}));
    assert_eq!(stats.json()["stats"]["rows_matched"], json!(2));
}

#[test]
fn every_reader_sees_the_same_value_in_all_series() {
    let server = Server::start();
    for symbol in 0..20 {
        scalar(&server, &format!("S{symbol}"), r#"{"digits":0}"#);
    }
    let write = |value: i64| {
        let writes: Vec<Value> = (0..20)
            .map(|symbol| json!({"series": key(&format!("S{symbol}")), "rows": [{"ts": 1, "value": value}]}))
            .collect();
        server.post_json("/v1/write", &json!({ "writes": writes }).to_string()).expect(200);
    };
    write(0);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = ["by_series", "by_time"]
            .into_iter()
            .map(|layout| {
                let (server, done) = (&server, &done);
                scope.spawn(move || {
                    let request = json!({"series": ["scalar/f/S*/tick/n"], "layout": layout});
                    let mut distinct = std::collections::BTreeSet::new();
                    while !done.load(Ordering::Relaxed) {
                        let text = query(server, &request);
                        let values: Vec<&str> =
                            text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap()).collect();
                        assert_eq!(values.len(), 20);
                        assert!(values.iter().all(|value| *value == values[0]), "{text}");
                        distinct.insert(values[0].to_owned());
                    }
                    distinct.len()
                })
            })
            .collect();
        for value in 1..150 {
            write(value);
        }
        server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
        for value in 150..200 {
            write(value);
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).min().unwrap()
    });
    assert!(seen > 5, "readers saw only {seen} commits");
}

#[test]
fn rows_of_several_series_are_read_by_get_with_an_entity_tag() {
    let server = Server::start();
    for symbol in ["X", "Y"] {
        server.kline(symbol);
        server.post(&format!("/v1/klines/{symbol}/1m"), "text/csv", crate::client::csv_body(0, 3)).expect(200);
    }
    let target = "/v1/query?series=kline/X/1m,kline/Y/1m&layout=by_time&columns=close&latest=2&format=csv";
    let first = server.get(target).expect(200);
    let body = r#"{"series":["kline/X/1m","kline/Y/1m"],"layout":"by_time","columns":["close"],"latest":2}"#;
    assert_eq!(first.body, server.post_json("/v1/query?format=csv", body).expect(200).body);
    let repeated = server.get(&target.replace("1m,kline", "1m&series=kline")).expect(200);
    assert_eq!(repeated.body, first.body);
    let tag = first.header("etag").unwrap().to_string();
    assert_eq!(server.get_with(target, &[("if-none-match", &tag)]).expect(304).header("etag"), Some(tag.as_str()));
    server.post("/v1/klines/Y/1m", "text/csv", crate::client::csv_body(3, 1)).expect(200);
    let changed = server.get_with(target, &[("if-none-match", &tag)]).expect(200);
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    server.get("/v1/query").refused("invalid_argument");
    server.get("/v1/query?series=kline/*/1m&layout=sideways").refused("invalid_argument");
    server.get("/v1/series?symbol=X&symbol=Y").refused("invalid_argument");
}
