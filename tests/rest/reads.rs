//! Reading rows: formats, ranges, pages, entity tags, encodings, and bodies after an error.

use std::io::{Read, Write};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Decimal64Type, Float64Type, Int64Type, TimestampMillisecondType};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use fastk::query::{Query, TimeValue};
use fastk::server::http::HttpSettings;
use fastk::types::SeriesKey;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::client::{Reply, Server, csv_body, csv_rows};

const X: &str = "/v1/klines/X/1m";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";

fn loaded(rows: i64) -> Server {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, rows)).expect(200);
    server
}

fn arrow(reply: &Reply) -> Vec<RecordBatch> {
    StreamReader::try_new(reply.body.as_slice(), None).unwrap().map(|batch| batch.unwrap()).collect()
}

fn rows_of(reply: &Reply) -> Vec<serde_json::Value> {
    reply.json()["rows"].as_array().unwrap().clone()
}

fn times_of(reply: &Reply) -> Vec<i64> {
    rows_of(reply).iter().map(|row| row["ts"].as_i64().unwrap()).collect()
}

/// The text of the array of rows in a JSON response.
fn rows_text(reply: &Reply) -> String {
    let text = reply.text();
    let (first, last) = (text.find("\"rows\":").unwrap() + 7, text.rfind(",\"next_cursor\"").unwrap());
    text[first..last].to_string()
}

#[test]
fn every_format_in_gives_the_same_rows_in_every_format_out() {
    let server = loaded(3_000);
    let expected = csv_body(0, 3_000);
    // The rows of one series are written to another in each format, and read as CSV.
    for (symbol, format, kind) in [
        ("J", "json", "application/json"),
        ("N", "ndjson", "application/x-ndjson"),
        ("C", "csv", "text/csv"),
        ("A", "arrow", ARROW),
        ("P", "parquet", PARQUET),
    ] {
        let out = server.get(&format!("{X}?format={format}")).expect(200);
        assert!(out.header("content-type").unwrap().starts_with(kind), "{format}");
        let same = server.get_with(X, &[("accept", kind)]).expect(200);
        assert!(same.body == out.body, "{format} by Accept");
        server.kline(symbol);
        let path = format!("/v1/klines/{symbol}/1m");
        let body = if format == "json" { rows_text(&out).into_bytes() } else { out.body };
        let reply = server.post(&path, kind, &body).expect(200).json();
        assert_eq!((&reply["rows_written"], &reply["durable"]), (&3_000.into(), &true.into()), "{format}");
        let back = server.get(&format!("{path}?format=csv")).expect(200).text();
        // 42000.10 and 0.5 are encoded by column type: all digits of decimals, the shortest form of doubles.
        assert!(back == expected, "{format}: {}", &back[..200]);
    }
}

#[test]
fn json_responses_have_the_documented_shape() {
    let server = loaded(2);
    let reply = server.get(X).expect(200);
    assert_eq!(
        reply.text(),
        "{\"series\":\"kline/X/1m\",\"version\":2,\"commit\":2,\"rows\":[\
         {\"ts\":0,\"open\":42000.10,\"high\":42001.00,\"low\":41999.55,\"close\":42000.25,\"volume\":0.125,\"trades\":-5,\"vwap\":0.5},\n\
         {\"ts\":60000,\"open\":42001.10,\"high\":42002.00,\"low\":42000.55,\"close\":42001.25,\"volume\":1.125,\"trades\":-4,\"vwap\":1.5}\
         ],\"next_cursor\":null}\n"
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("fastk-commit"), Some("2"));
    let columns = server.get(&format!("{X}?shape=columns&columns=close")).expect(200).text();
    assert!(columns.contains("\"columns\":{\"ts\":[0,60000],\"close\":[42000.25,42001.25]}"), "{columns}");
    let query = r#"{"series":["kline/X/1m"],"columns":["close"],"order":"desc","limit":1}"#;
    let queried = server.post_json("/v1/query", query).expect(200).text();
    assert!(queried.contains("\"rows\":[{\"ts\":60000,\"close\":42001.25}],\"next_cursor\":\""), "{queried}");
    let queried = server.post_json("/v1/query?format=csv&times=rfc3339", query).expect(200).text();
    assert_eq!(queried, "ts,close\n1970-01-01T00:01:00Z,42001.25\n");
}

#[test]
fn numbers_have_the_requested_format() {
    let server = loaded(1);
    for (numbers, row) in [
        ("stored", r#"{"ts":0,"close":42000.25,"trades":-5,"vwap":0.5}"#),
        ("float64", r#"{"ts":0,"close":42000.25,"trades":-5,"vwap":0.5}"#),
        ("decimal128", r#"{"ts":0,"close":42000.25,"trades":-5,"vwap":0.5}"#),
        ("raw", r#"{"ts":0,"close":4200025,"trades":-5,"vwap":0.5}"#),
        ("string", r#"{"ts":"0","close":"42000.25","trades":"-5","vwap":0.5}"#),
    ] {
        let target = format!("{X}?columns=close,trades,vwap&numbers={numbers}");
        let line = server.get(&format!("{target}&format=ndjson")).expect(200).text();
        assert_eq!(line.trim_end(), row, "{numbers}");
        for format in ["arrow", "parquet"] {
            let reply = server.get(&format!("{target}&format={format}")).expect(200);
            let (schema, batch) = if format == "arrow" {
                let batch = arrow(&reply).remove(0);
                (batch.schema(), batch)
            } else {
                let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(reply.body)).unwrap();
                (file.schema().clone(), file.build().unwrap().next().unwrap().unwrap())
            };
            assert_eq!(schema.metadata()["fastk.series"], "kline/X/1m", "{format}");
            assert_eq!(batch["ts"].as_primitive::<TimestampMillisecondType>().value(0), 0);
            let close = &batch["close"];
            match numbers {
                "stored" => {
                    assert_eq!(close.data_type(), &DataType::Decimal64(18, 2));
                    assert_eq!(close.as_primitive::<Decimal64Type>().value(0), 4_200_025);
                }
                "float64" => assert_eq!(close.as_primitive::<Float64Type>().value(0), 42_000.25),
                "decimal128" => assert_eq!(close.data_type(), &DataType::Decimal128(18, 2)),
                "raw" => assert_eq!(close.as_primitive::<Int64Type>().value(0), 4_200_025),
                _ => assert_eq!(close.as_string::<i32>().value(0), "42000.25"),
            }
        }
    }
}

#[test]
fn ranges_are_closed_and_latest_comes_before_order_and_limit() {
    let server = loaded(5_000);
    let times = |query: &str| times_of(&server.get(&format!("{X}?{query}")).expect(200));
    assert_eq!(times("start=60000&end=180000"), [60_000, 120_000, 180_000]);
    assert_eq!(times("start=1970-01-01T00:01:00Z&end=1970-01-01T00:02:30Z"), [60_000, 120_000]);
    assert_eq!(times("start=1970-01-01T01:01:00+01:00&end=120000"), [60_000, 120_000]);
    assert_eq!(times("end=1970-01-01").len(), 1_440);
    assert_eq!(times("latest=2"), [4_998 * 60_000, 4_999 * 60_000]);
    assert_eq!(times("latest=3&order=desc&limit=2"), [4_999 * 60_000, 4_998 * 60_000]);
    assert_eq!(times("end=120000&latest=2"), [60_000, 120_000]);
    assert_eq!(times("start=2030-01-01"), [0_i64; 0]);
    let only_ts = server.get(&format!("{X}?columns=ts&limit=1")).expect(200);
    assert_eq!(rows_of(&only_ts)[0].as_object().unwrap().len(), 1);
}

#[test]
fn pages_join_without_gap_and_never_mix_commits() {
    let server = loaded(1_000);
    for order in ["asc", "desc"] {
        let mut expected: Vec<i64> = (0..1_000).map(|row| row * 60_000).collect();
        if order == "desc" {
            expected.reverse();
        }
        let (mut all, mut cursor, mut commits) = (Vec::new(), String::new(), Vec::new());
        loop {
            let page = server.get(&format!("{X}?order={order}&limit=137{cursor}")).expect(200);
            all.extend(times_of(&page));
            let page = page.json();
            commits.push(page["commit"].as_u64().unwrap());
            // A write between two pages is not seen by the next one.
            server.post(X, "text/csv", csv_body(5_000, 1)).expect(200);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(all, expected, "{order}");
        assert_eq!(commits.len(), 8);
        assert!(commits.windows(2).all(|pair| pair[0] == pair[1]), "{commits:?}");
        server.delete(&format!("{X}?start=300000000&end=300000000")).expect(200);
    }
    server.get(&format!("{X}?cursor=nonsense")).refused("invalid_argument");
}

#[test]
fn json_has_a_default_limit_and_other_formats_have_none() {
    let config = HttpSettings { json_rows_default: 10, json_rows_max: 20, ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 50)).expect(200);
    let page = server.get(X).expect(200);
    assert_eq!(times_of(&page).len(), 10);
    assert!(page.json()["next_cursor"].is_string());
    assert_eq!(times_of(&server.get(&format!("{X}?limit=20")).expect(200)).len(), 20);
    server.get(&format!("{X}?limit=21")).refused("invalid_argument");
    assert_eq!(server.get(&format!("{X}?format=csv")).expect(200).text().lines().count(), 51);
    assert_eq!(server.get(&format!("{X}?format=csv&limit=30")).expect(200).text().lines().count(), 31);
}

#[test]
fn entity_tags_change_with_version_format_and_encoding() {
    let server = loaded(10);
    let first = server.get(X).expect(200);
    let tag = first.header("etag").unwrap().to_string();
    assert!(tag.starts_with('"') && tag.ends_with("-json\""), "{tag}");
    assert_eq!(first.header("vary"), Some("Accept, Accept-Encoding"));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
        let reply = server.get_with(X, &[("if-none-match", &known)]).expect(304);
        assert_eq!(reply.header("etag"), Some(tag.as_str()));
        assert_eq!(reply.header("vary"), Some("Accept, Accept-Encoding"));
    }
    let csv = server.get_with(X, &[("if-none-match", &tag), ("accept", "text/csv")]).expect(200);
    assert_eq!(csv.header("etag").unwrap(), tag.replace("-json", "-csv"));
    let zipped = server.get_with(X, &[("if-none-match", &tag), ("accept-encoding", "gzip")]).expect(200);
    assert_eq!(zipped.header("etag").unwrap(), tag.replace("-json", "-json+gzip"));
    server.get_with(&format!("{X}?limit=0"), &[("if-none-match", "*")]).refused("invalid_argument");
    server.post(X, "text/csv", csv_body(10, 1)).expect(200);
    let later = server.get_with(X, &[("if-none-match", &tag)]).expect(200);
    assert_ne!(later.header("etag"), Some(tag.as_str()));
    assert_eq!(times_of(&later).len(), 11);
}

#[test]
fn responses_are_compressed_only_on_request() {
    let server = loaded(20_000);
    let plain = server.get_with(&format!("{X}?format=ndjson"), &[]).expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    let gzip = server.get_with(&format!("{X}?format=ndjson"), &[("accept-encoding", "gzip, deflate")]).expect(200);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(gzip.body.as_slice()).read_to_end(&mut text).unwrap();
    assert!(text == plain.body);
    let zstd = server.get_with(&format!("{X}?format=arrow"), &[("accept-encoding", "gzip, zstd")]).expect(200);
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    let arrow = server.get(&format!("{X}?format=arrow")).expect(200);
    assert!(zstd::decode_all(zstd.body.as_slice()).unwrap() == arrow.body);
    let parquet = server.get_with(&format!("{X}?format=parquet"), &[("accept-encoding", "gzip")]).expect(200);
    assert_eq!((parquet.header("content-encoding"), parquet.body.get(..4)), (None, Some(&b"PAR1"[..])));
}

#[test]
fn a_head_request_returns_only_headers() {
    let server = loaded(10);
    let whole = server.get(X).expect(200);
    let head = server.send("HEAD", X, &[], &[]);
    assert_eq!((head.status, head.header("etag")), (200, whole.header("etag")));
    assert_eq!(head.header("content-length"), whole.header("content-length"));
}

#[test]
fn long_responses_are_the_same_from_tail_and_chunks() {
    let server = loaded(100_000);
    let expected = csv_body(0, 100_000);
    let mut seen = Vec::new();
    for stage in ["tail", "chunks"] {
        if stage == "chunks" {
            let jobs = server.post_json("/v1/admin/compact?wait=true", "").expect(200).json();
            assert_eq!(jobs["jobs"][0]["status"], "done");
            assert_eq!(jobs["jobs"][0]["verb"], "compact");
            assert_eq!(jobs["jobs"][0]["result"]["rows_sealed"], 100_000);
        }
        assert!(server.get(&format!("{X}?format=csv")).expect(200).text() == expected, "{stage}");
        let reply = server.get(&format!("{X}?format=arrow")).expect(200);
        assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
        let batches = arrow(&reply);
        let cells: Vec<i64> =
            batches.iter().flat_map(|batch| batch["close"].as_primitive::<Decimal64Type>().values().to_vec()).collect();
        assert_eq!(cells.len(), 100_000);
        seen.push(cells);
        let part = server.get(&format!("{X}?format=csv&start=3000000&end=2999940000&columns=volume")).expect(200);
        assert_eq!(part.text().lines().count(), 49_999 - 50 + 1 + 1, "{stage}");
    }
    assert!(seen[0] == seen[1]);
    assert!(seen[0].iter().enumerate().all(|(row, cell)| *cell == 4_200_025 + 100 * row as i64));
}

/// Flips a bit near the end of the only chunk's columns.
fn damage(server: &Server) {
    fn files(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "arrow") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    files(&server.root.path().join("chunks"), &mut found);
    found.sort();
    let path = found.last().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - 40_000;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_block_aborts_a_response_and_never_completes_it() {
    for (query, encoding) in [
        ("format=ndjson", ""),
        ("format=csv", ""),
        ("format=arrow", ""),
        ("format=arrow&numbers=float64", ""),
        ("format=parquet", ""),
        ("format=json&limit=1000000", ""),
        ("format=ndjson", "gzip"),
        ("format=csv", "zstd"),
    ] {
        let server = loaded(40_000);
        let whole = server.get_with(&format!("{X}?{query}"), &[("accept-encoding", encoding)]).expect(200);
        server.post_json("/v1/admin/compact?wait=true", "").expect(200);
        damage(&server);
        let broken = server.get_with(&format!("{X}?{query}"), &[("accept-encoding", encoding)]);
        // A Parquet file of one row group and highly compressed bodies are complete before their first byte; all others
        // are in progress by then.
        if query != "format=parquet" && encoding != "zstd" {
            assert_eq!(broken.status, 200, "{query} {encoding}");
            assert!(!broken.is_whole, "{query} {encoding}");
            assert!(broken.body.len() < whole.body.len(), "{query} {encoding}");
            let end = &whole.body[whole.body.len() - 8..];
            assert!(!broken.body.ends_with(end), "{query} {encoding}");
        } else {
            broken.refused("corrupt_data");
        }
        // A body that is complete before its first byte fails with an error status.
        server.get(&format!("{X}?shape=columns&limit=1000000")).refused("corrupt_data");
        server.get(&format!("{X}?limit=10")).expect(200);
    }
}

#[test]
fn a_client_that_disconnects_frees_its_slot() {
    let config = HttpSettings { reads_max: 1, ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    for part in 0..4 {
        server.post(X, "text/csv", csv_body(part * 100_000, 100_000)).expect(200);
    }
    for _ in 0..3 {
        let mut stream = server.connect();
        stream.write_all(format!("GET {X}?format=ndjson HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut some = [0; 1000];
        stream.read_exact(&mut some).unwrap();
        drop(stream);
        server.get(&format!("{X}?limit=1")).expect(200);
    }
}

#[test]
fn too_many_concurrent_responses_are_refused() {
    let server = Server::with(HttpSettings { reads_max: 1, read_queue_timeout_ms: 200, ..HttpSettings::default() });
    server.kline("X");
    for part in 0..4 {
        server.post(X, "text/csv", csv_body(part * 100_000, 100_000)).expect(200);
    }
    let mut stream = server.connect();
    stream.write_all(format!("GET {X}?format=ndjson HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut some = [0; 1000];
    stream.read_exact(&mut some).unwrap();
    let refused = server.get(X);
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused("overloaded");
}

#[test]
fn a_stalled_client_is_disconnected() {
    let server = Server::with(HttpSettings { stall_timeout_ms: 300, reads_max: 1, ..HttpSettings::default() });
    server.kline("X");
    for part in 0..4 {
        server.post(X, "text/csv", csv_body(part * 100_000, 100_000)).expect(200);
    }
    let mut stream = server.connect();
    stream.write_all(format!("GET {X}?format=ndjson HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1, "it has a response");
    // Its slot is free again although the client keeps its connection.
    let started_at = std::time::Instant::now();
    while server.get(&format!("{X}?limit=1")).status != 200 {
        assert!(started_at.elapsed().as_secs() < 60, "the slot of a stalled client is not released");
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    let cut = Reply::read(stream, false);
    assert!(!cut.is_whole);
}

#[test]
fn scalars_read_like_klines() {
    let server = Server::start();
    let body = r#"{"kind":"scalar","category":"feature","symbol":"X","timeframe":"1m","name":"rsi_14",
        "value":{"type":"decimal","digits":2}}"#;
    server.post_json("/v1/series", body).expect(201);
    let path = "/v1/scalars/feature/X/1m/rsi_14";
    server.post_json(path, r#"{"columns":{"ts":[60000,120000],"value":["70.25",-1]}}"#).expect(200);
    let reply = server.get(path).expect(200).text();
    assert!(reply.contains(r#""rows":[{"ts":60000,"value":70.25},"#), "{reply}");
    assert_eq!(server.get(&format!("{path}?format=csv&latest=1")).expect(200).text(), "ts,value\n120000,-1.00\n");
    assert!(csv_rows(0, 1).starts_with("0,"));
}

#[test]
fn predicates_select_rows_and_report_statistics() {
    let server = Server::start();
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 40_000)).expect(200);
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    let all = server.get(&format!("{X}?format=csv&numbers=raw")).expect(200).text();
    let (head, rows) = all.split_once('\n').unwrap();
    let close = head.split(',').position(|name| name == "close").unwrap();
    let raw = |row: &str| row.split(',').nth(close).unwrap().parse::<i64>().unwrap();
    let mut closes: Vec<i64> = rows.lines().map(raw).collect();
    closes.sort_unstable();
    let (low, high) = (closes[closes.len() / 3], closes[closes.len() / 2]);
    for (condition, holds) in [
        (format!("close:gt:{high}"), Box::new(move |v: i64| v > high) as Box<dyn Fn(i64) -> bool>),
        (format!("close:between:{low},{high}"), Box::new(move |v| (low..=high).contains(&v))),
        (format!("close:between_exclusive:{low},{high}"), Box::new(move |v| low < v && v < high)),
        (format!("close:not_in:{low},{high}"), Box::new(move |v| v != low && v != high)),
        (format!("close:eq:{low}"), Box::new(move |v| v == low)),
    ] {
        let expectation: Vec<&str> = rows.lines().filter(|row| holds(raw(row))).collect();
        let found = server.get(&format!("{X}?format=csv&numbers=raw&where={condition}")).expect(200).text();
        assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), expectation, "{condition}");
    }
    // Both conditions apply; decimals are compared exactly, for any number of digits.
    let query = format!("{X}?format=csv&where=close:gte:{0}.{1:02}0&where=close:lt:{0}.{1:02}1", low / 100, low % 100);
    let found = server.get(&query).expect(200).text();
    assert_eq!(found.lines().count() - 1, closes.iter().filter(|close| **close == low).count());
    // A condition on ts narrows the range; one on a column is narrowed by zone maps.
    let explained = server.get(&format!("{X}?where=ts:lt:60000000&explain=true")).expect(200).json();
    let stats = &explained["stats"];
    assert_eq!(stats["rows_checked"].as_u64().unwrap() as usize, explained["rows"].as_array().unwrap().len());
    let condition = format!("close:gte:{}", closes[closes.len() - 20] / 100 + 1);
    let explained = server.get(&format!("{X}?where={condition}&explain=true")).expect(200).json();
    let stats = &explained["stats"];
    assert_eq!(stats["rows_matched"].as_u64().unwrap() as usize, explained["rows"].as_array().unwrap().len());
    assert!(stats["zones_scanned"].as_u64() < stats["zones_considered"].as_u64(), "{stats}");
    assert_eq!(stats["index_used"], "zone_map");
    for (condition, code) in [
        ("close:like:1", "invalid_argument"),
        ("close:gt:many", "invalid_argument"),
        ("close:gt:nan", "invalid_argument"),
        ("close:between:1", "invalid_argument"),
        ("close:gt:1,2", "invalid_argument"),
        ("close", "invalid_argument"),
        ("gt:1", "invalid_argument"),
        ("turnover:gt:1", "schema_mismatch"),
    ] {
        server.get(&format!("{X}?where={condition}")).refused(code);
    }
}

#[test]
fn only_small_reads_from_memory_run_on_the_connection_thread() {
    let server = Server::start();
    server.kline("BTC");
    server.post("/v1/klines/BTC/1m", "text/csv", csv_body(0, 60_000)).expect(200);
    server.service.store().seal(&[]).unwrap();
    let query = |change: &dyn Fn(&mut Query)| {
        let mut query = Query::of(&SeriesKey::kline("BTC", "1m").unwrap());
        change(&mut query);
        server.service.is_in_memory(&query)
    };
    let day = |query: &mut Query| {
        (query.start, query.end) = (Some(TimeValue::Epoch(60_000 * 40_000)), Some(TimeValue::Epoch(60_000 * 41_000)));
    };
    assert!(!query(&day), "its checksum was not verified yet");
    server.get("/v1/klines/BTC/1m?start=2400000000&end=2460000000").expect(200);
    assert!(query(&day), "it is in memory and checked now");
    assert!(!query(&|_| {}), "four blocks are not few");
    assert!(!query(&|query| query.latest = Some(10)), "the last block was not read yet");
    server.get("/v1/klines/BTC/1m?latest=10").expect(200);
    assert!(query(&|query| query.latest = Some(10)));
    // Some rows of the block are after the end: earlier ones are needed too.
    let before_end =
        |query: &mut Query| (query.latest, query.end) = (Some(100), Some(TimeValue::Epoch(60_000 * 59_400)));
    assert!(!query(&before_end));
    let filtered = |query: &mut Query| {
        day(query);
        query.predicates = Some(vec![fastk::Predicate::parse("close:gt:1").unwrap()]);
    };
    assert!(!query(&filtered), "a condition may look at much");
    assert!(!query(&|query| query.series = vec!["kline/*/1m".into()]));
    assert!(!query(&|query| query.series = vec!["kline/NOSUCH/1m".into()]));
    // The response does not depend on the thread.
    let path = "/v1/klines/BTC/1m?start=2400000000&end=2460000000&limit=20000";
    let here = server.get(path).expect(200).body;
    let elsewhere = server.get(&format!("{path}&where=close:gt:0")).expect(200).body;
    assert_eq!(here, elsewhere);
}

#[test]
fn a_large_set_of_values_is_accepted_and_a_larger_one_refused() {
    let server = Server::start();
    server
        .post_json("/v1/series", r#"{"kind":"scalar","category":"c","symbol":"A","timeframe":"tick","name":"n"}"#)
        .expect(201);
    let rows: String = (0..200_000).map(|n| format!("{n},{}.5\n", n % 50_000)).collect();
    server.post("/v1/scalars/c/A/tick/n", "text/csv", format!("ts,value\n{rows}")).expect(200);
    let query = |values: Vec<String>| {
        let predicates = serde_json::json!([{"op": "in", "value": values}]);
        let body = serde_json::json!({"series": ["scalar/c/A/tick/n"], "where": predicates, "limit": 1_000_000});
        server.post_json("/v1/query", &body.to_string())
    };
    // Every second value is stored.
    let found = query((0..90_000).map(|n| format!("{}.{}", n / 2, if n % 2 == 0 { 5 } else { 6 })).collect());
    assert_eq!(found.expect(200).json()["rows"].as_array().unwrap().len(), 4 * 45_000);
    let problem = query((0..100_001).map(|n| n.to_string()).collect()).refused("too_large");
    assert!(problem["hint"].as_str().unwrap().contains("between"), "{problem}");
}

#[test]
fn ts_is_compared_with_every_format_of_time() {
    let server = Server::start();
    server.kline("X");
    // Two days of hours from 1970-01-01 on.
    let hours: String = (0..48).map(|hour| format!("{},1,2,1,1,1,1,1\n", hour * 3_600_000)).collect();
    server.post(X, "text/csv", format!("ts,open,high,low,close,volume,trades,vwap\n{hours}")).expect(200);
    let day = 86_400_000_i64;
    let all: Vec<i64> = (0..48).map(|hour| hour * 3_600_000).collect();
    let is = |test: &dyn Fn(i64) -> bool| all.iter().copied().filter(|ts| test(*ts)).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<i64>)> = vec![
        ("gte:1970-01-02", is(&|ts| ts >= day)),
        ("gt:1970-01-01", is(&|ts| ts >= day)),
        ("lte:1970-01-01", is(&|ts| ts < day)),
        ("lt:1970-01-02", is(&|ts| ts < day)),
        ("eq:1970-01-02", is(&|ts| ts >= day)),
        ("ne:1970-01-02", is(&|ts| ts < day)),
        ("in:1970-01-01T03:00:00Z,1970-01-01T05:00:00+01:00,7200000", vec![7_200_000, 10_800_000, 14_400_000]),
        ("in:1970-01-01T03:00:00Z,1970-01-01", is(&|ts| ts < day)),
        ("not_in:1970-01-01,86400000", is(&|ts| ts > day)),
        ("between:1970-01-01T22:00:00Z,1970-01-02T01:00:00Z", is(&|ts| (79_200_000..=90_000_000).contains(&ts))),
        ("between:1970-01-02,1970-01-02", is(&|ts| ts >= day)),
        ("between_exclusive:1970-01-01,1970-01-03", is(&|ts| ts >= day)),
        ("gte:1970-01-02T00:00:00.0001Z", is(&|ts| ts > day)),
        ("lte:1970-01-02T00:00:00.0001Z", is(&|ts| ts <= day)),
        ("eq:1970-01-02T00:00:00.0001Z", Vec::new()),
        ("gt:86400000", is(&|ts| ts > day)),
        ("eq:8.64e7", vec![day]),
    ];
    for (predicate, expected) in cases {
        let found = server.get(&format!("{X}?where=ts:{}", predicate.replace('+', "%2B"))).expect(200);
        assert_eq!(times_of(&found), expected, "{predicate}");
    }
    let problem = server.get(&format!("{X}?where=ts:gte:yesterday")).refused("invalid_argument");
    assert!(problem["detail"].as_str().unwrap().contains("predicate on ts: time \"yesterday\""), "{problem}");
}

#[test]
fn a_range_inside_one_tick_has_no_rows() {
    let server = loaded(3);
    let of = |range: &str| server.get(&format!("{X}?{range}"));
    for range in [
        "start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0002Z",
        "start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0001Z",
        "start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0002Z&latest=1",
        "start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0002Z&order=desc&where=close:gt:0",
        "start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0002Z&latest_complete=1",
    ] {
        assert!(times_of(&of(range).expect(200)).is_empty(), "{range}");
    }
    let many = server.get("/v1/query?series=kline/*/1m&start=1970-01-01T00:01:00.0001Z&end=1970-01-01T00:01:00.0002Z");
    assert!(rows_of(&many.expect(200)).is_empty());
    for range in
        ["start=1970-01-01T00:01:00.0002Z&end=1970-01-01T00:01:00.0001Z", "start=5&end=1970-01-01T00:00:00.0045Z"]
    {
        of(range).refused("invalid_argument");
    }
    let whole = of("start=1970-01-01T00:00:59.9999Z&end=1970-01-01T00:01:00.0001Z").expect(200);
    assert_eq!(times_of(&whole), [60_000]);
}

#[test]
fn null_equals_a_missing_field() {
    let server = loaded(3);
    let names = ["start", "end", "columns", "where", "latest", "limit", "order", "numbers", "as_of", "commit"];
    let more = ["latest_complete", "layout", "explain", "cursor", "endpoints"];
    let of_buckets = ["every", "align", "tz", "session", "offset", "fill", "agg"];
    let mut query = serde_json::json!({"series": ["kline/X/1m"]});
    for name in names.into_iter().chain(more).chain(of_buckets) {
        query[name] = serde_json::Value::Null;
    }
    let all = server.post_json("/v1/query", &query.to_string()).expect(200);
    assert_eq!(all.body, server.get(X).expect(200).body);
    query["where"] = serde_json::json!([{"column": null, "op": "gt", "value": 1}]);
    server.post_json("/v1/query", &query.to_string()).refused("invalid_argument");
}

#[test]
fn statistics_are_in_every_format() {
    let server = loaded(40_000);
    server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
    let in_json = |target: &str| {
        let text = server.get(&format!("{target}&format=json&limit=1000000")).expect(200).json();
        text["stats"].clone()
    };
    for target in [format!("{X}?explain=true&where=close:gt:42100"), format!("{X}?explain=true&latest=2&columns=close")]
    {
        let expected = in_json(&target);
        for format in ["csv", "ndjson", "arrow", "parquet"] {
            let reply = server.get_with(&format!("{target}&format={format}"), &[("te", "trailers")]).expect(200);
            let output = reply.header("fastk-stats").unwrap_or_else(|| panic!("{format}: {:?}", reply.headers));
            assert_eq!(serde_json::from_str::<serde_json::Value>(output).unwrap(), expected, "{format} {target}");
        }
    }
    let plain = server.get_with(&format!("{X}?format=csv"), &[("te", "trailers")]).expect(200);
    assert_eq!((plain.header("fastk-stats"), plain.header("trailer")), (None, None));
}

#[test]
fn a_response_limited_by_the_server_has_a_header_for_it() {
    let server = Server::with(HttpSettings { json_rows_default: 5, ..HttpSettings::default() });
    server.kline("X");
    server.post(X, "text/csv", csv_body(0, 12)).expect(200);
    for target in [X.to_string(), format!("{X}?order=desc&where=volume:gt:0"), "/v1/query?series=kline/*/1m".into()] {
        let (mut next, mut times, mut pages) = (target.clone(), Vec::new(), 0);
        loop {
            let page = server.get(&next).expect(200);
            times.extend(times_of(&page));
            pages += 1;
            let Some(link) = page.header("link") else {
                assert_eq!(page.header("fastk-truncated"), None);
                break;
            };
            assert_eq!(page.header("fastk-truncated"), Some("5"));
            next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_string();
            let cursor = page.json()["next_cursor"].as_str().unwrap().to_string();
            assert!(next.ends_with(&format!("cursor={cursor}")), "{next} {cursor}");
        }
        assert_eq!((times.len(), pages), (12, 3), "{target}");
    }
    // Not for complete responses or requested limits.
    for target in [format!("{X}?end=240000"), format!("{X}?limit=5"), format!("{X}?format=csv")] {
        assert_eq!(server.get(&target).expect(200).header("fastk-truncated"), None, "{target}");
    }
    let body = server.post_json("/v1/query", r#"{"series":["kline/X/1m"]}"#).expect(200);
    assert_eq!((body.header("fastk-truncated"), body.header("link")), (Some("5"), None));
}

#[test]
fn the_error_of_a_missing_series_names_similar_ones() {
    let server = loaded(1);
    server.kline("ETHUSDT");
    server.kline("BTCUSDT");
    let hint = |reply: Reply| reply.refused("series_not_found")["hint"].as_str().unwrap().to_string();
    for path in [
        "/v1/klines/ETHUSD/1m",
        "/v1/klines/ethusdt/1m",
        "/v1/coverage/kline/ETHUSDT/5m",
        "/v1/series/kline/ETHUSTD/1m",
    ] {
        assert!(hint(server.get(path)).starts_with("did you mean kline/ETHUSDT/1m"), "{path}");
    }
    let written = server.post("/v1/klines/BTCUSD/1m", "text/csv", csv_body(0, 1));
    assert!(hint(written).starts_with("did you mean kline/BTCUSDT/1m"));
    let many = server.post_json("/v1/query", r#"{"series":["kline/X/1m","kline/BTCUSD/1m"]}"#);
    assert!(hint(many).starts_with("did you mean kline/BTCUSDT/1m"));
    assert!(!hint(server.get("/v1/klines/COMPLETELY.OTHER/1h")).contains("did you mean"));
}

#[test]
fn operators_of_other_languages_get_a_hint() {
    let server = loaded(1);
    for (given, spelled) in [
        ("close%3E100", "write close:gt:100"),
        ("close%3C=1.5", "write close:lte:1.5"),
        ("close=2", "write close:eq:2"),
    ] {
        let problem = server.get(&format!("{X}?where={given}")).refused("invalid_argument");
        assert_eq!(problem["hint"], spelled);
    }
}
