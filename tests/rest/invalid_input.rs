//! Invalid input: refused with its documented code, without any write.

use std::io::Write;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::record_batch::RecordBatch;
use fastk::server::http::HttpSettings;

use crate::client::{Reply, Server, csv_body};

const X: &str = "/v1/klines/X/1m";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";

/// A valid row with one field replaced.
fn row(field: &str, text: &str) -> String {
    let mut cells = [
        ("ts", "0"),
        ("open", "1"),
        ("high", "2"),
        ("low", "1"),
        ("close", "1.5"),
        ("volume", "3"),
        ("trades", "4"),
        ("vwap", "1.2"),
    ];
    if let Some(cell) = cells.iter_mut().find(|(name, _)| *name == field) {
        cell.1 = text;
    }
    let cells: Vec<String> =
        cells.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| format!("\"{name}\":{text}")).collect();
    format!("[{{{}}}]", cells.join(","))
}

#[test]
fn invalid_rows_are_reported_and_none_is_written() {
    let server = Server::start();
    server.kline("X");
    server.post_json(X, &row("", "")).expect(200);
    let before = server.state("kline/X/1m");
    for (field, text, code, reason) in [
        ("close", "\"abc\"", "invalid_rows", "not_a_number"),
        ("close", "true", "invalid_rows", "wrong_type"),
        ("close", "null", "invalid_rows", "missing"),
        ("close", "\"NaN\"", "invalid_rows", "not_finite"),
        ("close", "\"Infinity\"", "invalid_rows", "not_finite"),
        ("close", "10000000000000000", "invalid_rows", "overflow"),
        ("close", "1.234", "invalid_rows", "precision_loss"),
        ("trades", "1.5", "invalid_rows", ""),
        ("trades", "9223372036854775808", "invalid_rows", "overflow"),
        ("ts", "\"yesterday\"", "invalid_rows", "bad_time"),
        ("ts", "99999999999999999", "invalid_rows", "time_out_of_range"),
        ("high", "0.5", "invalid_rows", "ohlc"),
        ("volume", "-1", "invalid_rows", "negative_volume"),
    ] {
        let problem = server.post_json(X, &row(field, text)).refused(code);
        let first = &problem["errors"][0];
        assert_eq!((&first["row"], &first["field"]), (&0.into(), &field.into()), "{text}: {problem}");
        assert!(reason.is_empty() || first["reason"] == reason, "{field} {text}: {problem}");
    }
    let missing = server.post_json(X, &row("close", "")).json();
    assert!(["invalid_rows", "schema_mismatch"].contains(&missing["code"].as_str().unwrap()), "{missing}");
    let extra = row("", "").replace("\"ts\"", "\"other\":1,\"ts\"");
    server.post_json(X, &extra).refused("schema_mismatch");
    server.post(X, "text/csv", "ts,open\n0,1\n").refused("schema_mismatch");
    server.post(X, "text/csv", csv_body(0, 3).replace("42001.25", "x")).refused("invalid_rows");
    server.post(X, "application/x-ndjson", "{\"ts\":0}\n").json()["code"].as_str().unwrap();
    let many: Vec<String> = (0..250).map(|_| row("close", "\"x\"").trim_matches(['[', ']']).to_string()).collect();
    let problem = server.post_json(X, &format!("[{}]", many.join(","))).refused("invalid_rows");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 100);
    assert_eq!(server.state("kline/X/1m"), before);
}

#[test]
fn malformed_bodies_of_every_format_are_refused() {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 2_000)).expect(200);
    let arrow = server.get(&format!("{X}?format=arrow")).expect(200).body;
    let parquet = server.get(&format!("{X}?format=parquet")).expect(200).body;
    let before = server.state("kline/X/1m");
    for body in ["", "{", "[1,2]", "\"x\"", "{\"rows\":1}", "[{\"ts\":0}]x", "nul\0", "{\"columns\":{\"ts\":[1]}}"] {
        let reply = server.post_json(X, body);
        assert!((400..500).contains(&reply.status), "{body:?}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{body:?}");
    }
    for cut in [1, 8, 100, arrow.len() / 2, arrow.len() - 9] {
        let reply = server.post(X, ARROW, &arrow[..cut]);
        assert!((400..500).contains(&reply.status), "arrow cut at {cut}: {}", reply.text());
    }
    for cut in [1, 8, 100, parquet.len() / 2, parquet.len() - 1] {
        let reply = server.post(X, PARQUET, &parquet[..cut]);
        assert!((400..500).contains(&reply.status), "parquet cut at {cut}: {}", reply.text());
    }
    for position in (0..arrow.len().min(3_000)).step_by(37) {
        let mut bytes = arrow.clone();
        bytes[position] ^= 0x80;
        // With insert a still readable body conflicts with the rows it was made from.
        let reply = server.post(&format!("{X}?mode=insert"), ARROW, bytes);
        assert!((400..500).contains(&reply.status), "arrow byte {position}: {}", reply.text());
    }
    let ints: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1]));
    let floats: ArrayRef = std::sync::Arc::new(Float64Array::from(vec![1.0]));
    let batch = RecordBatch::try_from_iter([("ts", ints), ("close", floats)]).unwrap();
    let mut stream = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.finish().unwrap();
    server.post(X, ARROW, stream.into_inner().unwrap()).refused("schema_mismatch");
    assert_eq!(server.state("kline/X/1m"), before);
}

#[test]
fn invalid_names_are_refused_on_every_path() {
    let server = Server::start();
    let long = "x".repeat(65);
    for symbol in ["..%2Fx", "%2e%2e%2fx", "%00", "a%20b", "%C3%A4", ".hidden", &long, "a%5Cb", "%FF"] {
        for method in ["GET", "POST", "DELETE"] {
            server.send(method, &format!("/v1/klines/{symbol}/1m"), &[], &[]).refused("invalid_argument");
            server.send(method, &format!("/v1/scalars/c/{symbol}/1m/n"), &[], &[]).refused("invalid_argument");
        }
        for method in ["GET", "PATCH", "DELETE"] {
            server.send(method, &format!("/v1/series/kline/{symbol}/1m"), &[], &[]).refused("invalid_argument");
            server.send(method, &format!("/v1/series/scalar/c/X/1m/{symbol}"), &[], &[]).refused("invalid_argument");
        }
    }
    server.get("/v1/klines//1m").refused("invalid_argument");
    server.get("/v1/klines/../x/1m").refused("not_found");
    for symbol in ["", "../x", "a/b", "ä", &long] {
        let body = serde_json::json!({"kind": "kline", "symbol": symbol, "timeframe": "1m"}).to_string();
        server.post_json("/v1/series", &body).refused("invalid_argument");
    }
    for body in ["", "{", "[]", "{\"kind\":\"tick\"}", r#"{"kind":"kline","symbol":"X","timeframe":"1m","wrong":1}"#] {
        server.post_json("/v1/series", body).refused("invalid_argument");
    }
    assert_eq!(server.get("/v1/series").expect(200).json()["series"].as_array().unwrap().len(), 0);
}

#[test]
fn unknown_series_are_not_found_by_any_operation() {
    let server = Server::start();
    server.get(X).refused("series_not_found");
    server.post_json(X, "[]").refused("series_not_found");
    server.delete(&format!("{X}?all=true")).refused("series_not_found");
    server.delete(&format!("{X}?start=0&end=1")).refused("series_not_found");
    server.post_json("/v1/query", r#"{"series":["kline/X/1m"]}"#).refused("series_not_found");
    server.post_json("/v1/admin/compact?wait=true", r#"{"series":["kline/X/1m"]}"#).refused("series_not_found");
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let config = HttpSettings { body_bytes_max: 1 << 20, ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    let before = server.state("kline/X/1m");
    let body = csv_body(0, 30_000);
    assert!(body.len() > 1 << 20);
    server.post(X, "text/csv", &body).refused("too_large");
    let packed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    assert!(packed.len() < 1 << 20);
    let headers = [("content-type", "text/csv"), ("content-encoding", "zstd")];
    server.send("POST", X, &headers, &packed).refused("too_large");
    // Without a length the limit is exceeded during the read.
    let mut stream = server.connect();
    let head = format!("POST {X}?format=csv HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream.write_all(b"\r\n0\r\n\r\n").unwrap();
    Reply::read(stream, false).refused("too_large");
    assert_eq!(server.state("kline/X/1m"), before);
    server.post_json("/v1/series", &" ".repeat(2 << 20)).refused("too_large");
}

#[test]
fn deeply_nested_bodies_are_refused() {
    let server = Server::start();
    server.kline("X");
    let before = server.state("kline/X/1m");
    let deep = "[".repeat(100_000_000);
    server.post_json(X, &deep).refused("too_large");
    let deep = format!("[{{\"ts\":0,\"open\":{}", "{\"a\":".repeat(20_000_000));
    server.post_json(X, &deep).json();
    server.post(X, "application/x-ndjson", &deep).json();
    server.post_json("/v1/series", &"[".repeat(1_000_000)).refused("too_large");
    server.post_json("/v1/query", &"{\"series\":".repeat(100_000)).refused("too_large");
    assert_eq!(server.state("kline/X/1m"), before);
    server.get("/health").expect(200);
}

#[test]
fn invalid_queries_are_refused() {
    let server = Server::start();
    server.kline("X");
    for (target, code) in [
        ("limit=0", "invalid_argument"),
        ("latest=0", "invalid_argument"),
        ("start=10&end=9", "invalid_argument"),
        ("start=now", "invalid_argument"),
        ("start=1500-01-01", "invalid_argument"),
        ("limit=-1", "invalid_argument"),
        ("limit=1000001", "invalid_argument"),
        ("strat=1", "invalid_argument"),
        ("limit=1&limit=2", "invalid_argument"),
        ("order=up", "invalid_argument"),
        ("numbers=exact", "invalid_argument"),
        ("format=xml", "invalid_argument"),
        ("times=iso", "invalid_argument"),
        ("format=arrow&times=rfc3339", "invalid_argument"),
        ("format=csv&shape=columns", "invalid_argument"),
        ("columns=nope", "schema_mismatch"),
        ("as_of=x", "snapshot_not_found"),
        ("latest_complete=0", "invalid_argument"),
    ] {
        server.get(&format!("{X}?{target}")).refused(code);
    }
    server.get_with(X, &[("accept", "text/html")]).refused("not_acceptable");
    let problem = server.get(&format!("{X}?strat=1")).refused("invalid_argument");
    assert_eq!(problem["hint"], "did you mean start?");
    for (body, code) in [
        ("{}", "invalid_argument"),
        (r#"{"series":[]}"#, "invalid_argument"),
        (r#"{"series":["nope"]}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m"],"unknown":1}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m"],"limit":0}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m","kline/NONE/1m"]}"#, "series_not_found"),
        (r#"{"series":["kline/*/1h"]}"#, "series_not_found"),
        (r#"{"series":["kline/*"]}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m"],"layout":"sideways"}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m"],"as_of":"x"}"#, "snapshot_not_found"),
        (r#"{"series":["kline/*/1m"],"as_of":"x"}"#, "snapshot_not_found"),
        (r#"{"series":["kline/X/1m"],"as_of":"x","commit":1}"#, "invalid_argument"),
        (r#"{"series":["kline/X/1m"],"commit":999}"#, "invalid_argument"),
    ] {
        server.post_json("/v1/query", body).refused(code);
    }
}

#[test]
fn unsupported_headers_are_refused() {
    let server = Server::start();
    server.kline("X");
    let before = server.state("kline/X/1m");
    let body = csv_body(0, 1);
    let csv = ("content-type", "text/csv");
    for (headers, code) in [
        (vec![("content-type", "text/html")], "unsupported_media_type"),
        (vec![("content-type", "application/x-www-form-urlencoded")], "unsupported_media_type"),
        (vec![csv, ("content-encoding", "br")], "unsupported_media_type"),
        (vec![csv, ("content-encoding", "gzip")], "invalid_argument"),
        (vec![csv, ("idempotency-key", "a b")], "invalid_argument"),
        (vec![csv, ("idempotency-key", "a"), ("idempotency-key", "b")], "invalid_argument"),
        (vec![csv, ("if-match", "nonsense")], "invalid_argument"),
        (vec![csv, ("if-match", "W/\"a\"")], "commit_conflict"),
    ] {
        server.send("POST", X, &headers, body.as_bytes()).refused(code);
    }
    let series = "/v1/series/kline/X/1m";
    for (method, path, body) in [
        ("DELETE", format!("{X}?all=true"), ""),
        ("DELETE", series.into(), ""),
        ("PATCH", series.into(), "{}"),
        ("POST", "/v1/series".into(), r#"{"kind":"kline","symbol":"Y","timeframe":"1m"}"#),
        ("POST", "/v1/admin/compact".into(), ""),
        ("POST", "/v1/admin/verify".into(), ""),
        ("POST", "/v1/admin/scrub".into(), ""),
    ] {
        let problem =
            server.send(method, &path, &[("idempotency-key", "k")], body.as_bytes()).refused("invalid_argument");
        assert!(problem["detail"].as_str().unwrap().contains("Idempotency-Key"), "{method} {path}: {problem}");
    }
    server.post("/v1/series", "text/plain", "{}").refused("unsupported_media_type");
    assert_eq!(server.state("kline/X/1m"), before);
}
