//! Clients that stall or vanish: 64 that request many rows and read none use bounded memory, and further ones are
//! refused; a thousand that send half a request and disconnect leak nothing; ten thousand idle ones block no other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use bytes::Bytes;
use fastk::cli::remote::Call;
use futures::StreamExt;
use hyper::Method;
use serde_json::{Value, json};
use tonic::Streaming;

use super::program::{Server, get, post, run, serve};
use super::proof_amount::Proof;
use super::workload::MINUTE;

const KEY: &str = "kline/LARGE/1m";
const ROWS: i64 = 400_000;
/// Concurrent readers: the default limit.
const READERS: usize = 64;
/// Allowed anonymous memory while all of them stall.
const ANONYMOUS_MAX: u64 = 256 << 20;
/// Idle connections and half requests, of both listeners together.
const IDLE: usize = 10_000;
/// Allowed growth of anonymous memory with them.
const IDLE_GROWTH_MAX: u64 = 128 << 20;

/// The connection preface of an HTTP/2 client.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A sealed series of 400,000 rows.
fn large(root: &Path, log: &Path) {
    let server = Server::of(serve(root, &[("FASTK__STORE__TAIL_ROWS_MAX", "262144")]), log).unwrap();
    let rest = server.rest();
    let body = r#"{"kind":"kline","symbol":"LARGE","timeframe":"1m","price_digits":2,"volume_digits":3}"#;
    post(&rest, "/v1/series", body.into()).unwrap();
    for part in 0..4 {
        let mut text = String::from("ts,open,high,low,close,volume\n");
        for row in part * ROWS / 4..(part + 1) * ROWS / 4 {
            let price = 4_000_000 + row * 7_919 % 100_000;
            let (high, low, volume) = (price + 50, price - 50, row * 104_729 % 1_000_000);
            text.push_str(&format!("{},{price},{high},{low},{price},{volume}\n", row * MINUTE));
        }
        let call = Call::new(Method::POST, "/v1/klines/LARGE/1m").param("numbers", "raw");
        rest.json::<Value>(call.body("text/csv", Bytes::from(text))).unwrap();
    }
    post(&rest, "/v1/admin/compact?wait=true", "{}".into()).unwrap();
    server.stop();
}

/// Opens a stream on its own connection and reads its first message.
async fn stalled(
    address: &str,
    numbers: &str,
) -> Result<(FlightServiceClient<tonic::transport::Channel>, Streaming<FlightData>), tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = FlightServiceClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(64 << 20);
    let ticket = Ticket::new(json!({"series": [KEY], "numbers": numbers}).to_string());
    let mut stream = client.do_get(ticket).await?.into_inner();
    stream.next().await.unwrap()?;
    Ok((client, stream))
}

#[test]
fn stalled_readers_use_bounded_memory_and_more_are_refused() {
    let proof = Proof::new("stalled_readers", 1);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    large(&root, &log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut output, mut worst) = (Vec::new(), 0);
    for numbers in ["stored", "raw", "float64", "decimal128", "string"] {
        let server = Server::start(&root, &log);
        let before = server.memory("RssAnon");
        let mut held = Vec::new();
        for _ in 0..READERS {
            held.push(runtime.block_on(stalled(&server.flight, numbers)).unwrap());
        }
        // Until the server has filled its buffers.
        std::thread::sleep(Duration::from_millis(1_500));
        let during = server.memory("RssAnon");
        let refused = runtime.block_on(stalled(&server.flight, numbers)).expect_err("one more is refused");
        let code = refused.metadata().get("fastk-error-code").and_then(|code| code.to_str().ok());
        assert_eq!(code, Some("overloaded"), "{refused}");
        // Other clients are served meanwhile.
        let latest = Call::new(Method::GET, "/v1/klines/LARGE/1m").param("latest", "1").param("format", "csv");
        assert_eq!(get(&server.rest(), latest).unwrap().iter().filter(|byte| **byte == b'\n').count(), 2);
        worst = worst.max(during);
        drop(held);
        let started_at = Instant::now();
        loop {
            // A permit is free again once the server detected the disconnect.
            match runtime.block_on(stalled(&server.flight, numbers)) {
                Ok(_) => break,
                Err(status) => {
                    assert!(started_at.elapsed() < Duration::from_secs(60), "no permit is free again: {status}")
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        output.push(format!("{numbers} {} MiB (before {} MiB)", during >> 20, before >> 20));
        server.kill();
    }
    let output = output.join(", ");
    assert!(worst <= ANONYMOUS_MAX, "more than {} MiB: {output}", ANONYMOUS_MAX >> 20);
    proof.close(format_args!("{READERS} stalled readers of {ROWS} rows, one more refused; {output}"));
}

#[test]
fn vanished_clients_leak_nothing() {
    let proof = Proof::new("vanished_clients", 1_000);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = Server::start(&root, &log);
    let body = r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":0,"volume_digits":0}"#;
    post(&server.rest(), "/v1/series", body.into()).unwrap();
    let (files, memory) = (server.open_files(), server.memory("RssAnon"));
    let halves: [&[u8]; 6] = [
        b"",
        b"GET /v1/klines/X/1m?for",
        b"POST /v1/klines/X/1m HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\ncontent-length: 100000\r\n\r\nts,open\n",
        b"POST /v1/klines/X/1m HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n100\r\nts,",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
    ];
    let mut vanished = 0_u64;
    let mut worst = Duration::ZERO;
    let mut open = std::collections::VecDeque::new();
    let mut files_max = files;
    while proof.continues(vanished) {
        let address = if vanished % 5 == 4 { &server.flight } else { &server.http };
        let mut stream = TcpStream::connect(address).unwrap();
        let half = halves[usize::try_from(vanished).unwrap() % halves.len()];
        stream.write_all(half).unwrap();
        open.push_back(stream);
        // Many at once; each disconnects in the middle of its request, some with a reset.
        if open.len() > 200 {
            let stream = open.pop_front().unwrap();
            if vanished.is_multiple_of(2) {
                let _ = stream.set_nonblocking(true);
                let _ = (&stream).read(&mut [0; 1]);
            }
        }
        vanished += 1;
        if vanished.is_multiple_of(50) {
            files_max = files_max.max(server.open_files());
            let started_at = Instant::now();
            let row =
                json!([{"ts": vanished as i64 * MINUTE, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]);
            post(&server.rest(), "/v1/klines/X/1m", row.to_string()).unwrap();
            get(&server.rest(), Call::new(Method::GET, "/v1/klines/X/1m").param("format", "csv")).unwrap();
            worst = worst.max(started_at.elapsed());
        }
    }
    drop(open);
    let started_at = Instant::now();
    // Another client may have a connection open for a moment.
    while server.open_files() > files + 4 {
        assert!(
            started_at.elapsed() < Duration::from_secs(45),
            "{} files are open, {files} before",
            server.open_files()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let returned = started_at.elapsed();
    let after = server.memory("RssAnon");
    assert!(after < memory + (64 << 20), "{} MiB, {} MiB before", after >> 20, memory >> 20);
    let inventory = run(&["admin", "inventory", "--server", &server.http], "");
    assert!(inventory.status.success(), "{inventory:?}");
    server.stop();
    proof.close(format_args!(
        "{vanished} clients vanished, {files_max} files open at most and {files} again after {} ms, a write and a read \
         beside them took {} ms at most, memory {} MiB before and {} MiB after",
        returned.as_millis(),
        worst.as_millis(),
        memory >> 20,
        after >> 20
    ));
}

/// Raises the limit on open files of this process, or returns the maximum.
fn may_open(files: u64) -> Result<(), u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(files.min(most)), maximum: limit.maximum };
    if most < files || setrlimit(Resource::Nofile, raised).is_err() { Err(most) } else { Ok(()) }
}

#[test]
fn ten_thousand_idle_connections_block_no_other_client() {
    let proof = Proof::new("ten_thousand_connections", 1);
    if let Err(most) = may_open(IDLE as u64 + 1_000) {
        return proof.skip(format_args!("this process may have {most} files open only"));
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = Server::start(&root, &log);
    let rest = server.rest();
    let body = r#"{"kind":"kline","symbol":"LARGE","timeframe":"1m","price_digits":0,"volume_digits":0}"#;
    post(&rest, "/v1/series", body.into()).unwrap();
    post(&rest, "/v1/klines/LARGE/1m", r#"[{"ts":0,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#.into()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // An existing and a new client on each listener.
    let is_answered = || {
        for client in [&rest, &server.rest()] {
            let text = get(client, Call::new(Method::GET, "/v1/klines/LARGE/1m").param("format", "csv")).unwrap();
            assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 2);
        }
        drop(runtime.block_on(stalled(&server.flight, "stored")).unwrap());
    };
    is_answered();
    let before = server.memory("RssAnon");
    let halves: [&[u8]; 4] = [b"", b"GET /health HTTP/1.1\r\nx: ", b"PRI * HTTP/2.0\r\n\r\n", PREFACE];
    let (mut idle, mut most, mut files) = (Vec::new(), 0, 0);
    for position in 0..IDLE {
        let address = if position % 2 == 0 { &server.http } else { &server.flight };
        let mut stream = TcpStream::connect(address).unwrap();
        // The server may have closed older connections already.
        let _ = stream.write_all(halves[position / 2 % halves.len()]);
        idle.push(stream);
        if position % 1_000 == 999 {
            is_answered();
            most = most.max(server.memory("RssAnon"));
            files = files.max(server.open_files());
        }
    }
    for _ in 0..20 {
        is_answered();
    }
    most = most.max(server.memory("RssAnon"));
    assert!(most <= before + IDLE_GROWTH_MAX, "{} MiB, {} MiB before", most >> 20, before >> 20);
    drop(idle);
    is_answered();
    server.stop();
    proof.close(format_args!(
        "{IDLE} idle connections on both listeners, {files} files open in the server at most, anonymous memory {} MiB \
         before and {} MiB at most",
        before >> 20,
        most >> 20
    ));
}

/// A server with this hard limit on open files.
fn limited(root: &Path, files: u64) -> std::process::Command {
    let server = serve(root, &[]);
    let mut command = std::process::Command::new("sh");
    super::program::clean(&mut command);
    command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
    command.arg(server.get_program()).args(server.get_args());
    command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Bars of one series, enough for some log segments of the small limits.
fn bars(first: i64, rows: i64) -> String {
    let mut text = String::from("ts,open,high,low,close,volume\n");
    (first..first + rows).for_each(|row| text.push_str(&format!("{},1,1,1,1,{row}\n", row * MINUTE)));
    text
}

fn register(rest: &fastk::cli::remote::RestClient) {
    let body = r#"{"kind":"kline","symbol":"LARGE","timeframe":"1m","price_digits":0,"volume_digits":0}"#;
    post(rest, "/v1/series", body.into()).unwrap();
}

fn send(rest: &fastk::cli::remote::RestClient, first: i64, rows: i64) -> fastk::Result<Value> {
    let call = Call::new(Method::POST, "/v1/klines/LARGE/1m");
    rest.json::<Value>(call.body("text/csv", Bytes::from(bars(first, rows))))
}

fn stored_rows(rest: &fastk::cli::remote::RestClient) -> usize {
    let text = get(rest, Call::new(Method::GET, "/v1/klines/LARGE/1m").param("format", "csv")).unwrap();
    text.iter().filter(|byte| **byte == b'\n').count() - 1
}

#[test]
fn idle_connections_under_a_low_limit_on_open_files_never_stop_writing() {
    const FILES: u64 = 128;
    if let Err(most) = may_open(2 * FILES + 200) {
        eprintln!("SKIPPED: this process may have {most} files open only");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = Server::of(limited(&root, FILES), &log).unwrap();
    assert!(server.logged().contains("connection limits lowered"), "{}", server.logged());
    register(&server.rest());
    let mut idle = Vec::new();
    for position in 0..2 * FILES {
        let address = if position % 2 == 0 { &server.http } else { &server.flight };
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(if position % 4 < 2 { b"" } else { PREFACE });
        idle.push(stream);
    }
    // Every write needs its own log segments, and maintenance writes chunks after it.
    for part in 0..20 {
        send(&server.rest(), part * 1_500, 1_500).unwrap_or_else(|error| panic!("{error}\n{}", server.logged()));
        assert!(server.open_files() < usize::try_from(FILES).unwrap());
    }
    assert_eq!(stored_rows(&server.rest()), 30_000);
    let health = super::program::health(&server.rest());
    let writer = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "writer").unwrap();
    assert_eq!(writer["status"], "ok", "{health}");
    drop(idle);
    server.stop();
}

#[test]
fn a_file_that_cannot_be_created_refuses_its_write_and_the_server_continues() {
    use rustix::process::{Resource, Rlimit, prlimit};
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = Server::start(&root, &log);
    let rest = server.rest();
    register(&rest);
    send(&rest, 0, 10).unwrap();
    let pid = super::program::pid_of(server.pid());
    let limit = |current| prlimit(Some(pid), Resource::Nofile, current).unwrap();
    let before = limit(Rlimit { current: Some(1_024), maximum: Some(1_024) });
    assert!(before.current.is_some());
    // No file descriptor is free. Open connections remain, so the client keeps its own.
    limit(Rlimit { current: Some(3), maximum: Some(1_024) });
    let (mut stored, mut refused) = (10, None);
    for part in 1..100 {
        match send(&rest, part * 1_500, 1_500) {
            Ok(_) => stored += 1_500,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("a log segment was made without a file");
    assert_eq!(refused.code().name(), "overloaded", "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("ulimit")), "{refused:?}");
    limit(Rlimit { current: Some(1_024), maximum: Some(1_024) });
    assert_eq!(stored_rows(&rest), stored, "a refused write left rows");
    send(&rest, 1_000_000, 1_500).unwrap_or_else(|error| panic!("{error}\n{}", server.logged()));
    assert_eq!(stored_rows(&rest), stored + 1_500);
    server.kill();
    let server = Server::start(&root, &log);
    assert_eq!(stored_rows(&server.rest()), stored + 1_500);
    server.stop();
}
