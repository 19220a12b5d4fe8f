//! Bodies that are small on the wire and large once decoded: the memory of the process stays within the configured
//! limit, excess bodies are refused without being buffered, and bodies that fit are written.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightDescriptor, PutResult};
use bytes::Bytes;
use fastk::cli::remote::{Call, RestClient};
use futures::StreamExt;
use hyper::Method;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::program::{Server, post, serve};

/// Configured limit on memory for decoded rows.
const DECODED_MAX: u64 = 64 << 20;
/// Allowed memory besides: threads, buffers, bodies, the tail.
const MARGIN: u64 = 96 << 20;
const MINUTE: i64 = 60_000;
const PARQUET: &str = "application/vnd.apache.parquet";
const ARROW: &str = "application/vnd.apache.arrow.stream";

fn server(root: &std::path::Path, log: &std::path::Path) -> Server {
    let bytes = DECODED_MAX.to_string();
    // Rows are sealed as soon as possible, so that memory does not grow with the written rows.
    Server::of(serve(root, &[("FASTK__LIMITS__DECODED_BYTES_MAX", &bytes)]), log).unwrap()
}

fn register(rest: &RestClient, symbol: &str) {
    let body = format!(r#"{{"kind":"kline","symbol":"{symbol}","timeframe":"1m","price_digits":0,"volume_digits":0}}"#);
    post(rest, "/v1/series", body).unwrap();
}

/// Bars with the same values in every minute.
fn bars(first: i64, rows: i64) -> RecordBatch {
    let ones = || Arc::new(Float64Array::from(vec![1.0; usize::try_from(rows).unwrap()])) as ArrayRef;
    let ts = Arc::new(Int64Array::from_iter_values((first..first + rows).map(|row| row * MINUTE))) as ArrayRef;
    let names = ["open", "high", "low", "close", "volume"];
    RecordBatch::try_from_iter(std::iter::once(("ts", ts)).chain(names.map(|name| (name, ones())))).unwrap()
}

/// A file whose columns are run-length encoded: constant values by dictionary, timestamps by constant step.
fn run_lengths(batch: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_column_dictionary_enabled("ts".into(), false)
        .set_column_encoding("ts".into(), Encoding::DELTA_BINARY_PACKED)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

/// The code of a refused body; empty for a written one.
fn send(rest: &RestClient, path: &str, kind: &str, body: &[u8]) -> String {
    let call = Call::new(Method::POST, path).body(kind, Bytes::copy_from_slice(body));
    rest.json::<Value>(call).err().map_or_else(String::new, |error| error.code().name().into())
}

/// Sends a compressed CSV body; returns the code of a refusal.
fn send_zstd(server: &Server, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    let head = format!(
        "POST /v1/klines/X/1m HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: text/csv\r\n\
         content-encoding: zstd\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The body may be refused before it is sent completely.
    let _ = stream.write_all(body);
    let mut heard = String::new();
    let _ = stream.read_to_string(&mut heard);
    let body = heard.split("\r\n\r\n").nth(1).unwrap_or_default();
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{heard}"));
    problem["code"].as_str().unwrap_or_default().to_owned()
}

/// Runs work and samples the anonymous memory of a server; returns its peak growth.
fn watched(server: &Server, work: impl FnOnce()) -> u64 {
    let before = server.memory("RssAnon");
    let (peak, over) = (AtomicU64::new(before), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(server.memory("RssAnon"), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        // A failed assertion must not leave the sampling thread running.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        if let Err(cause) = done {
            std::panic::resume_unwind(cause);
        }
    });
    peak.into_inner() - before
}

#[test]
fn small_bodies_of_many_rows_stay_within_the_limit_on_decoded_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = server(&root, &log);
    let rest = server.rest();
    (0..10).for_each(|n| register(&rest, &format!("X{n}")));
    // 48 bytes per row of 6 cells: the large body is three times the limit, of the other exactly one fits at a time.
    let (bomb, fits) = (run_lengths(&bars(0, 700_000)), run_lengths(&bars(0, 200_000)));
    assert!(bomb.len() < 100_000 && fits.len() < 100_000, "{} and {} bytes", bomb.len(), fits.len());
    let written = AtomicU64::new(0);
    let grown = watched(&server, || {
        std::thread::scope(|scope| {
            for n in 0..10 {
                let (server, bomb, fits, written) = (&server, &bomb, &fits, &written);
                scope.spawn(move || {
                    let (rest, path) = (server.rest(), format!("/v1/klines/X{n}/1m"));
                    assert_eq!(send(&rest, &path, PARQUET, bomb), "too_large");
                    // A client that is refused for memory retries.
                    loop {
                        match send(&rest, &path, PARQUET, fits).as_str() {
                            "overloaded" => std::thread::sleep(Duration::from_millis(50)),
                            "" => break,
                            other => panic!("{other}"),
                        }
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
    });
    assert_eq!(written.into_inner(), 10);
    assert!(grown <= DECODED_MAX + MARGIN, "{} MiB more", grown >> 20);
    server.stop();
    eprintln!("ten bodies of {} bytes and 200,000 rows at once: {} MiB more at most", fits.len(), grown >> 20);
}

#[test]
fn bodies_that_expand_when_decoded_are_refused_before_decoding() {
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = server(&root, &log);
    let rest = server.rest();
    register(&rest, "X");
    let key = "kline/X/1m";
    let rows = 700_000;
    // A series column with few long values, or one value for all rows.
    let labelled = |words: Vec<&str>, batch: RecordBatch| {
        let keys = (0..batch.num_rows()).map(|row| i32::try_from(row % words.len()).unwrap());
        let labels = DictionaryArray::<Int32Type>::new(keys.collect(), Arc::new(StringArray::from(words.clone())));
        let mut columns: Vec<(String, ArrayRef)> = vec![("series".into(), Arc::new(labels))];
        let fields = batch.schema();
        columns
            .extend(fields.fields().iter().zip(batch.columns()).map(|(field, of)| (field.name().clone(), of.clone())));
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let long = "s".repeat(1 << 19);
    let zeros = zstd::encode_all(&vec![b'0'; 200 << 20][..], 1).unwrap();
    let commas = ",".repeat(4 << 20);
    let many = labelled(vec![key], bars(0, rows));
    let cases: [(&str, &str, &str, Vec<u8>, &str); 7] = [
        ("run lengths", "/v1/klines/X/1m", PARQUET, run_lengths(&bars(0, rows)), "too_large"),
        ("run lengths of many series", "/v1/write", PARQUET, run_lengths(&many), "too_large"),
        ("a dictionary of one word", "/v1/write", ARROW, stream(&many), "too_large"),
        (
            "a dictionary of long words, Arrow",
            "/v1/write",
            ARROW,
            stream(&labelled(vec![&long], bars(0, 1_000))),
            "invalid_argument",
        ),
        (
            "a dictionary of long words, Parquet",
            "/v1/write",
            PARQUET,
            run_lengths(&labelled(vec![&long], bars(0, 100))),
            "invalid_argument",
        ),
        ("cells of one byte", "/v1/klines/X/1m", "text/csv", commas.clone().into_bytes(), "too_large"),
        (
            "columns of short cells",
            "/v1/klines/X/1m",
            "application/json",
            format!("{{\"columns\":{{\"ts\":[{}1]}}}}", "1,".repeat(2 << 20)).into_bytes(),
            "too_large",
        ),
    ];
    let grown = watched(&server, || {
        for (what, path, kind, body, code) in &cases {
            assert_eq!(send(&rest, path, kind, body), *code, "{what}, {} bytes", body.len());
        }
        assert_eq!(send_zstd(&server, &zeros), "too_large");
        // A window larger than the accepted maximum.
        let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
        wide.long_distance_matching(true).unwrap();
        wide.window_log(27).unwrap();
        wide.write_all(b"ts,open,high,low,close,volume\n").unwrap();
        let wide = wide.finish().unwrap();
        assert_eq!(send_zstd(&server, &wide), "invalid_argument");
        assert_eq!(put(&server, key, &bars(0, rows)).unwrap_err().code(), tonic::Code::OutOfRange);
    });
    assert!(grown <= DECODED_MAX + MARGIN, "{} MiB more", grown >> 20);
    // A body that fits is written through both protocols.
    assert_eq!(send(&rest, "/v1/klines/X/1m", PARQUET, &run_lengths(&bars(0, 1_000))), "");
    assert_eq!(send(&rest, "/v1/write", ARROW, &stream(&labelled(vec![key], bars(0, 1_000)))), "");
    assert_eq!(put(&server, key, &bars(1_000, 1_000)).unwrap(), 1);
    server.stop();
    eprintln!("{} MiB more at most", grown >> 20);
}

/// Puts one batch through Flight; returns the number of acknowledgements.
fn put(server: &Server, key: &str, batch: &RecordBatch) -> Result<usize, tonic::Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.flight)).unwrap();
        let mut client = FlightServiceClient::new(endpoint.connect().await.unwrap()).max_encoding_message_size(1 << 30);
        let mut messages = batches_to_flight_data(&batch.schema(), vec![batch.clone()]).unwrap();
        let path = key.split('/').map(str::to_owned).collect();
        messages[0].flight_descriptor = Some(FlightDescriptor::new_path(path));
        let mut acks = client.do_put(futures::stream::iter(messages)).await?.into_inner();
        let mut count = 0;
        while let Some(ack) = acks.next().await {
            let _: PutResult = ack?;
            count += 1;
        }
        Ok(count)
    })
}
