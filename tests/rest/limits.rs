//! Every limit: at the limit requests fail with its code, below it they succeed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastk::access;
use fastk::server::http::{HttpSettings, serve_opening};
use fastk::server::tls_stream::Tls;
use fastk::service::{OpenProgress, RESPONSE_BYTES, Scope, ServiceLimits};

use crate::client::{Reply, Server, csv_body};
use crate::hooked_disk::Stalling;

const HOUR_MS: u64 = 3_600_000;
/// Timeout on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn server(limits: ServiceLimits) -> Server {
    Server::within(Arc::new(tempfile::tempdir().unwrap()), HttpSettings::default(), limits)
}

/// A server with a response larger than sockets and buffers.
fn loaded(config: HttpSettings, limits: ServiceLimits) -> Server {
    let mut server = Server::start();
    server.kline("X");
    for part in 0..3 {
        server.post("/v1/klines/X/1m", "text/csv", csv_body(part * 100_000, 100_000)).expect(200);
    }
    server.stop().unwrap();
    let root = Arc::clone(&server.root);
    drop(server);
    Server::within(root, config, limits)
}

/// Waits until a condition holds.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started_at = Instant::now();
    while !is_so() {
        assert!(started_at.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn code_of(reply: &Reply) -> String {
    if reply.status < 400 { String::new() } else { reply.json()["code"].as_str().unwrap().to_owned() }
}

/// Starts a write with an incomplete body.
fn half_a_write(server: &Server, token: &str) -> TcpStream {
    let mut stream = server.connect();
    let bearer = access::bearer_header(token);
    let head = format!(
        "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer}\r\ncontent-length: 2\r\n\r\n["
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Starts a write and waits until other requests are refused because of it. A probe may take the only permit first:
/// then the write is started again.
fn start_write(server: &Server, token: &str, is_full: impl Fn() -> bool) -> TcpStream {
    let started_at = Instant::now();
    loop {
        let held = half_a_write(server, token);
        held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // A response is only sent for a refusal.
        let refused = held.peek(&mut [0]).is_ok();
        if !refused && is_full() {
            held.set_read_timeout(Some(TIMEOUT)).unwrap();
            return held;
        }
        assert!(started_at.elapsed() < TIMEOUT, "the write is not in flight");
    }
}

/// Starts to read a response that exceeds all buffers, and reads its first bytes.
fn half_a_read(server: &Server, token: &str) -> TcpStream {
    let mut stream = server.connect();
    let bearer = access::bearer_header(token);
    let head = format!(
        "GET /v1/klines/X/1m?format=csv HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
    stream
}

fn request(server: &Server, token: &str, path: &str) -> Reply {
    server.get_with(path, &[("authorization", &access::bearer_header(token))])
}

#[test]
fn requests_in_flight_have_a_limit() {
    let server = server(ServiceLimits { requests_max: 1, ..ServiceLimits::default() });
    server.kline("X");
    let mut held = start_write(&server, "any", || server.get("/v1/series").status == 503);
    let refused = server.get("/v1/series");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused("overloaded");
    // Health requests are served.
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        server.get(path).expect(200);
    }
    held.write_all(b"]").unwrap();
    Reply::read(held, false).expect(200);
    until("the permit was not released", || server.get("/v1/series").status == 200);
}

#[test]
fn requests_in_flight_have_a_limit_per_token() {
    let root = Arc::new(tempfile::tempdir().unwrap());
    let token = |name: &str| access::create(root.path(), name, Scope::Admin, &[]).unwrap().token;
    let (one, other) = (token("one"), token("other"));
    let limits = ServiceLimits { token_requests_max: 1, ..ServiceLimits::default() };
    let server = Server::within(Arc::clone(&root), HttpSettings::default(), limits);
    let spec = br#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#;
    server.send("POST", "/v1/series", &[("authorization", &access::bearer_header(&one))], spec).expect(201);
    let held = start_write(&server, &one, || request(&server, &one, "/v1/series").status == 429);
    let refused = request(&server, &one, "/v1/series");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused("rate_limited");
    request(&server, &other, "/v1/series").expect(200);
    drop(held);
    until("the permit was not released", || request(&server, &one, "/v1/series").status == 200);
}

#[test]
fn responses_in_progress_have_limits_in_total_per_token_and_in_memory() {
    let plenty = ServiceLimits::default();
    for (limits, of_token, code) in [
        (ServiceLimits { streams_max: 1, ..plenty }, false, "overloaded"),
        (ServiceLimits { response_bytes_max: RESPONSE_BYTES, ..plenty }, false, "overloaded"),
        (ServiceLimits { token_streams_max: 1, ..plenty }, true, "rate_limited"),
    ] {
        let root = {
            let server = loaded(HttpSettings::default(), plenty);
            Arc::clone(&server.root)
        };
        let token = |name: &str| access::create(root.path(), name, Scope::Read, &[]).unwrap().token;
        let (one, other) = (token("one"), token("other"));
        let server = Server::within(Arc::clone(&root), HttpSettings::default(), limits);
        let small = "/v1/klines/X/1m?latest=1";
        request(&server, &one, small).expect(200);
        let held = half_a_read(&server, &one);
        request(&server, &one, small).refused(code);
        assert_eq!(code_of(&request(&server, &other, small)), if of_token { "" } else { code });
        drop(held);
        until("the permit was not released", || request(&server, &one, small).status == 200);
    }
}

#[test]
fn work_over_the_time_limit_is_cancelled_and_releases_its_permit() {
    let limits = ServiceLimits { request_timeout_ms: 200, streams_max: 1, ..ServiceLimits::default() };
    let root = {
        let server = loaded(HttpSettings::default(), ServiceLimits::default());
        server.post("/v1/admin/compact?wait=true", "application/json", "{}").expect(200);
        Arc::clone(&server.root)
    };
    let stalling = Stalling::default();
    let server = Server::on(stalling.disk(), Arc::clone(&root), HttpSettings::default(), limits);
    stalling.stall(true);
    // No row matches, so no byte is sent before the whole scan.
    let slow = "/v1/klines/X/1m?format=csv&where=close:in:1,2,3&where=open:ne:1";
    server.get(slow).refused("deadline_exceeded");
    server.get("/v1/coverage/kline/X/1m").refused("deadline_exceeded");
    // The work still runs and holds its permit.
    let short = "/v1/klines/X/1m?latest=1";
    server.get(short).refused("overloaded");
    // Once it stopped, a short request gets the only permit.
    stalling.stall(false);
    until("the permit was not released", || server.get(short).status == 200);
    drop(server);
    Server::over(root, HttpSettings::default()).get(slow).expect(200);
}

#[test]
fn too_deeply_nested_json_is_refused_everywhere() {
    let server = server(ServiceLimits { json_depth_max: 8, ..ServiceLimits::default() });
    server.kline("X");
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let cell = |levels: usize| format!(r#"{{"ts":{}}}"#, deep(levels));
    for (path, kind, body) in [
        ("/v1/series", "application/json", cell(8)),
        ("/v1/query", "application/json", format!(r#"{{"series":{}}}"#, deep(8))),
        ("/v1/snapshots", "application/json", deep(9)),
        ("/v1/admin/compact", "application/json", deep(100_000)),
        ("/v1/klines/X/1m", "application/json", format!("[{}]", cell(7))),
        ("/v1/klines/X/1m", "application/json", deep(500_000)),
        ("/v1/klines/X/1m", "application/x-ndjson", cell(8)),
        ("/v1/write", "application/json", format!(r#"{{"writes":[{{"series":"kline/X/1m","rows":[{}]}}]}}"#, cell(5))),
    ] {
        server.post(path, kind, &body).refused("too_large");
    }
    // Within the limit its contents are checked.
    server.post("/v1/klines/X/1m", "application/json", format!("[{}]", cell(5))).refused("invalid_rows");
    server.post("/v1/query", "application/json", format!(r#"{{"series":{}}}"#, deep(7))).refused("invalid_argument");
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn a_body_that_expands_too_much_is_refused_and_rows_are_not() {
    let config = HttpSettings { decompression_ratio_max: 60, ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    let send = |coding: &str, body: &[u8]| {
        let headers = [("content-type", "text/csv"), ("content-encoding", coding)];
        server.send("POST", "/v1/klines/X/1m", &headers, body)
    };
    let bomb = vec![b' '; 64 << 20];
    send("zstd", &zstd::encode_all(&*bomb, 3).unwrap()).refused("too_large");
    send("gzip", &gzip(&bomb)).refused("too_large");
    // A nested bomb, decoded once, is not a body of rows.
    let nested = zstd::encode_all(&*zstd::encode_all(&*bomb, 3).unwrap(), 3).unwrap();
    send("zstd", &nested).refused("schema_mismatch");
    assert_eq!(server.state("kline/X/1m").1, 0);
    let rows = csv_body(0, 60_000);
    assert!(rows.len() > 1 << 20);
    send("gzip", &gzip(rows.as_bytes())).expect(200);
    assert_eq!(server.state("kline/X/1m").1, 60_000);
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Sends a request on an open connection and reads the response.
fn is_served_on(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
        return false;
    }
    let mut bytes = [0; 4_096];
    stream.read(&mut bytes).is_ok_and(|read| bytes[..read].starts_with(b"HTTP/1.1 200"))
}

/// Whether the server closes a connection without a response.
fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn an_idle_connection_may_wait_longer_than_the_timeout_of_request_headers() {
    let config = HttpSettings { header_timeout_ms: 2_000, idle_timeout_ms: HOUR_MS, ..HttpSettings::default() };
    let server = Server::with(config);
    let mut idle = server.connect();
    assert!(is_served_on(&mut idle));
    std::thread::sleep(Duration::from_secs(4));
    assert!(is_served_on(&mut idle), "an idle connection was closed");
    // But a started request must arrive in time.
    idle.write_all(b"GET /health").unwrap();
    assert!(is_closed(&mut idle));
    // Also byte by byte.
    let mut slow = server.connect();
    assert!(is_served_on(&mut slow));
    let started_at = Instant::now();
    let mut head = b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: ".iter().chain(std::iter::repeat(&b'y'));
    while slow.write_all(&[*head.next().unwrap()]).is_ok() {
        assert!(started_at.elapsed() < TIMEOUT, "slow headers were accepted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let server = Server::with(HttpSettings { idle_timeout_ms: 2_000, ..HttpSettings::default() });
    let mut idle = server.connect();
    assert!(is_served_on(&mut idle));
    assert!(is_closed(&mut idle));
}

#[test]
fn the_longest_idle_connection_is_closed_for_a_new_one_and_an_active_one_is_not() {
    let server = loaded(HttpSettings { connections_max: 3, ..HttpSettings::default() }, ServiceLimits::default());
    let mut reading = half_a_read(&server, "any");
    let mut first = server.connect();
    assert!(is_served_on(&mut first));
    let mut second = server.connect();
    assert!(is_served_on(&mut second));
    let mut third = server.connect();
    assert!(is_served_on(&mut third), "the newcomer is served");
    assert!(is_closed(&mut first), "and the one that waited longest is not");
    assert!(is_served_on(&mut second));
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "a response was aborted for a new connection");
}

#[test]
fn a_stopping_server_refuses_new_requests_and_finishes_requests_in_flight() {
    let server =
        loaded(HttpSettings::default(), ServiceLimits { drain_timeout_ms: 60_000, ..ServiceLimits::default() });
    let address = server.address;
    server.get("/health/ready").expect(200);
    let mut reading = half_a_read(&server, "any");
    let stopping = std::thread::spawn(move || {
        let mut server = server;
        server.stop().unwrap();
    });
    // The response closes the connection, although the request did not.
    let begin = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let sent = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        (stream, sent)
    };
    // As long as it is not told to stop, the connection stays open: then it is read until it is. If it is told between
    // the connection and its request, it closes what is idle, without an response.
    until("it does not stop", || {
        let mut response = Vec::new();
        let _ = begin("/health/ready").0.read_to_end(&mut response);
        response.starts_with(b"HTTP/1.1 503")
    });
    let request = |path: &str| {
        let (stream, sent) = begin(path);
        sent.unwrap();
        Reply::read(stream, false)
    };
    for path in ["/health/ready", "/v1/series", "/v1/klines/X/1m"] {
        let reply = request(path);
        assert_eq!((reply.header("connection"), reply.header("retry-after")), (Some("close"), Some("1")));
        reply.refused("not_ready");
    }
    assert_eq!(request("/health/live").status, 200);
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "a response in progress was aborted");
    stopping.join().unwrap();
}

#[test]
fn a_store_being_opened_reports_its_progress() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let opening = Arc::new(OpenProgress::default());
    let (opened, is_opened) = tokio::sync::oneshot::channel::<()>();
    let progress = Arc::clone(&opening);
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let until = async { drop(is_opened.await) };
            serve_opening(listener, progress, &HttpSettings::default(), Tls::off(), until).await
        })
    });
    let request = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        Reply::read(stream, false)
    };
    assert_eq!(request("/health/live").expect(200).text(), "{\"status\":\"ok\"}\n");
    let problem = request("/health/ready").refused("not_ready");
    assert_eq!(problem["detail"], "the store is being opened: beginning");
    for path in ["/", "/health", "/v1/series", "/metrics"] {
        request(path).refused("not_ready");
    }
    drop(opened);
    serving.join().unwrap().unwrap();
}
