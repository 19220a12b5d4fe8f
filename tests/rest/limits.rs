//! Every limit: reached it answers its code, below it nothing happens.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastk::access;
use fastk::server::http::{HttpConfig, serve_opening};
use fastk::service::{OpenProgress, RESPONSE_BYTES, Scope, ServiceLimits};

use crate::client::{Reply, Server, csv_body};
use crate::hooked_disk::Stalling;

const HOUR: Duration = Duration::from_secs(3_600);
/// How long something may take to come about on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn server(limits: ServiceLimits) -> Server {
    Server::within(Arc::new(tempfile::tempdir().unwrap()), HttpConfig::default(), limits)
}

/// A server with an answer larger than what sockets and buffers hold.
fn loaded(config: HttpConfig, limits: ServiceLimits) -> Server {
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

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn code_of(reply: &Reply) -> String {
    if reply.status < 400 { String::new() } else { reply.json()["code"].as_str().unwrap().to_owned() }
}

/// Begins a write whose body does not end.
fn half_a_write(server: &Server, token: &str) -> TcpStream {
    let mut stream = server.connect();
    let bearer = access::bearer_header(token);
    let head = format!(
        "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer}\r\ncontent-length: 2\r\n\r\n["
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Begins a write and waits until others are refused for it. The request that looks may take the only place before it:
/// then it is begun again.
fn under_way(server: &Server, token: &str, is_full: impl Fn() -> bool) -> TcpStream {
    let begun = Instant::now();
    loop {
        let held = half_a_write(server, token);
        held.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // An answer comes only where it was refused.
        let refused = held.peek(&mut [0]).is_ok();
        if !refused && is_full() {
            held.set_read_timeout(Some(PATIENCE)).unwrap();
            return held;
        }
        assert!(begun.elapsed() < PATIENCE, "the write is not under way");
    }
}

/// Begins to read an answer that does not fit anywhere, and takes its first bytes.
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

fn ask(server: &Server, token: &str, path: &str) -> Reply {
    server.get_with(path, &[("authorization", &access::bearer_header(token))])
}

#[test]
fn requests_under_way_have_a_limit_of_everybody() {
    let server = server(ServiceLimits { requests_max: 1, ..ServiceLimits::default() });
    server.kline("X");
    let mut held = under_way(&server, "any", || server.get("/v1/series").status == 503);
    let refused = server.get("/v1/series");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused("overloaded");
    // Whoever watches the server is answered.
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        server.get(path).expect(200);
    }
    held.write_all(b"]").unwrap();
    Reply::read(held, false).expect(200);
    until("the place was not given back", || server.get("/v1/series").status == 200);
}

#[test]
fn requests_under_way_have_a_limit_of_each_token() {
    let root = Arc::new(tempfile::tempdir().unwrap());
    let token = |name: &str| access::create(root.path(), name, Scope::Admin, &[]).unwrap().token;
    let (one, other) = (token("one"), token("other"));
    let limits = ServiceLimits { token_requests_max: 1, ..ServiceLimits::default() };
    let server = Server::within(Arc::clone(&root), HttpConfig::default(), limits);
    let spec = br#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#;
    server.send("POST", "/v1/series", &[("authorization", &access::bearer_header(&one))], spec).expect(201);
    let held = under_way(&server, &one, || ask(&server, &one, "/v1/series").status == 429);
    let refused = ask(&server, &one, "/v1/series");
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused("rate_limited");
    ask(&server, &other, "/v1/series").expect(200);
    drop(held);
    until("the place was not given back", || ask(&server, &one, "/v1/series").status == 200);
}

#[test]
fn answers_being_sent_have_limits_of_everybody_of_each_token_and_of_memory() {
    let plenty = ServiceLimits::default();
    for (limits, of_token, code) in [
        (ServiceLimits { streams_max: 1, ..plenty }, false, "overloaded"),
        (ServiceLimits { response_bytes_max: RESPONSE_BYTES, ..plenty }, false, "overloaded"),
        (ServiceLimits { token_streams_max: 1, ..plenty }, true, "rate_limited"),
    ] {
        let root = {
            let server = loaded(HttpConfig::default(), plenty);
            Arc::clone(&server.root)
        };
        let token = |name: &str| access::create(root.path(), name, Scope::Read, &[]).unwrap().token;
        let (one, other) = (token("one"), token("other"));
        let server = Server::within(Arc::clone(&root), HttpConfig::default(), limits);
        let small = "/v1/klines/X/1m?latest=1";
        ask(&server, &one, small).expect(200);
        let held = half_a_read(&server, &one);
        ask(&server, &one, small).refused(code);
        assert_eq!(code_of(&ask(&server, &other, small)), if of_token { "" } else { code });
        drop(held);
        until("the place was not given back", || ask(&server, &one, small).status == 200);
    }
}

#[test]
fn work_that_takes_too_long_ends_and_leaves_its_place() {
    let request_timeout = Duration::from_millis(200);
    let limits = ServiceLimits { request_timeout, streams_max: 1, ..ServiceLimits::default() };
    let root = {
        let server = loaded(HttpConfig::default(), ServiceLimits::default());
        server.post("/v1/admin/compact?wait=true", "application/json", "{}").expect(200);
        Arc::clone(&server.root)
    };
    let stalling = Stalling::default();
    let server = Server::on(stalling.disk(), Arc::clone(&root), HttpConfig::default(), limits);
    stalling.stall(true);
    // Nothing is found, so that nothing goes out before everything was looked through.
    let slow = "/v1/klines/X/1m?format=csv&where=close:in:1,2,3&where=open:ne:1";
    server.get(slow).refused("deadline_exceeded");
    server.get("/v1/coverage/kline/X/1m").refused("deadline_exceeded");
    // The work is still there, and so is its place taken.
    let short = "/v1/klines/X/1m?latest=1";
    server.get(short).refused("overloaded");
    // Once it was stopped, a short answer gets the only place.
    stalling.stall(false);
    until("the place was not given back", || server.get(short).status == 200);
    drop(server);
    Server::over(root, HttpConfig::default()).get(slow).expect(200);
}

#[test]
fn json_nested_too_deep_is_refused_wherever_it_comes() {
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
    // Within the limit it is judged by what it says.
    server.post("/v1/klines/X/1m", "application/json", format!("[{}]", cell(5))).refused("invalid_rows");
    server.post("/v1/query", "application/json", format!(r#"{{"series":{}}}"#, deep(7))).refused("invalid_argument");
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn a_body_that_grows_too_much_is_refused_and_rows_are_not() {
    let config = HttpConfig { decompression_ratio_max: 60, ..HttpConfig::default() };
    let server = Server::with(config);
    server.kline("X");
    let send = |coding: &str, body: &[u8]| {
        let headers = [("content-type", "text/csv"), ("content-encoding", coding)];
        server.send("POST", "/v1/klines/X/1m", &headers, body)
    };
    let bomb = vec![b' '; 64 << 20];
    send("zstd", &zstd::encode_all(&*bomb, 3).unwrap()).refused("too_large");
    send("gzip", &gzip(&bomb)).refused("too_large");
    // A bomb in a bomb is what it is once decoded: no rows.
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

/// Asks on an open connection and reads the answer.
fn ask_on(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
        return false;
    }
    let mut bytes = [0; 4_096];
    stream.read(&mut bytes).is_ok_and(|read| bytes[..read].starts_with(b"HTTP/1.1 200"))
}

/// Whether the server closes a connection without a word.
fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn a_connection_may_wait_between_two_requests_longer_than_a_request_may_take_to_come() {
    let header_timeout = Duration::from_secs(2);
    let config = HttpConfig { header_timeout, idle_timeout: HOUR, ..HttpConfig::default() };
    let server = Server::with(config);
    let mut idle = server.connect();
    assert!(ask_on(&mut idle));
    std::thread::sleep(2 * header_timeout);
    assert!(ask_on(&mut idle), "an idle connection was closed");
    // But a request that was begun has to come.
    idle.write_all(b"GET /health").unwrap();
    assert!(is_closed(&mut idle));
    // And so it is byte by byte.
    let mut slow = server.connect();
    assert!(ask_on(&mut slow));
    let begun = Instant::now();
    let mut head = b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: ".iter().chain(std::iter::repeat(&b'y'));
    while slow.write_all(&[*head.next().unwrap()]).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a slow head lived on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_connection_that_waits_too_long_for_its_next_request_is_closed() {
    let server = Server::with(HttpConfig { idle_timeout: Duration::from_secs(2), ..HttpConfig::default() });
    let mut idle = server.connect();
    assert!(ask_on(&mut idle));
    assert!(is_closed(&mut idle));
}

#[test]
fn the_connection_that_did_nothing_for_longest_makes_room_and_one_at_work_does_not() {
    let server = loaded(HttpConfig { connections_max: 3, ..HttpConfig::default() }, ServiceLimits::default());
    let mut reading = half_a_read(&server, "any");
    let mut first = server.connect();
    assert!(ask_on(&mut first));
    let mut second = server.connect();
    assert!(ask_on(&mut second));
    let mut third = server.connect();
    assert!(ask_on(&mut third), "the newcomer is served");
    assert!(is_closed(&mut first), "and the one that waited longest is not");
    assert!(ask_on(&mut second));
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "an answer was cut for a newcomer");
}

#[test]
fn while_it_stops_a_server_refuses_what_is_new_and_finishes_what_is_not() {
    let server = loaded(HttpConfig { drain_timeout: PATIENCE, ..HttpConfig::default() }, ServiceLimits::default());
    let address = server.address;
    server.get("/health/ready").expect(200);
    let mut reading = half_a_read(&server, "any");
    let stopping = std::thread::spawn(move || {
        let mut server = server;
        server.stop().unwrap();
    });
    // Its answer says that the connection ends, although this does not ask for that.
    let begin = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        (stream, sent)
    };
    // As long as it is not told to stop, the connection stays open: then it is read until it is. If it is told between the
    // connection and its request, it closes what is idle, without an answer.
    until("it does not stop", || {
        let mut answer = Vec::new();
        let _ = begin("/health/ready").0.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 503")
    });
    let ask = |path: &str| {
        let (stream, sent) = begin(path);
        sent.unwrap();
        Reply::read(stream, false)
    };
    for path in ["/health/ready", "/v1/series", "/v1/klines/X/1m"] {
        let reply = ask(path);
        assert_eq!((reply.header("connection"), reply.header("retry-after")), (Some("close"), Some("1")));
        reply.refused("not_ready");
    }
    assert_eq!(ask("/health/live").status, 200);
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "an open answer was cut");
    stopping.join().unwrap();
}

#[test]
fn a_store_that_is_being_opened_tells_how_far_that_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let opening = Arc::new(OpenProgress::default());
    let (opened, is_opened) = tokio::sync::oneshot::channel::<()>();
    let told = Arc::clone(&opening);
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let until = async { drop(is_opened.await) };
            serve_opening(listener, told, HttpConfig::default(), until).await
        })
    });
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        Reply::read(stream, false)
    };
    assert_eq!(ask("/health/live").expect(200).text(), "{\"status\":\"ok\"}\n");
    let problem = ask("/health/ready").refused("not_ready");
    assert_eq!(problem["detail"], "the store is being opened: beginning");
    for path in ["/", "/health", "/v1/series", "/metrics"] {
        ask(path).refused("not_ready");
    }
    drop(opened);
    serving.join().unwrap().unwrap();
}
