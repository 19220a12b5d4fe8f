//! Floods of HTTP/2 frames over one connection: abusive ones end with their connection, moderate ones are processed;
//! meanwhile the memory of the process stays small and other clients are served.
//!
//! Both listeners get the same floods. Floods of requests end with a request that expects a response.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fastk::cli::remote::Call;
use hyper::Method;

use super::program::{Server, get, post, serve};
use super::proof_amount::Proof;

/// Timeout of a flood on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Allowed growth of anonymous memory in bytes.
const GROWTH_MAX: u64 = 64 << 20;
/// Streams that are reset as fast as they can be sent.
const RESETS: u32 = 20_000;
/// Rounds of resets, each processed before the next.
const ROUNDS: u32 = 200;
/// Resets per round: fewer than may wait to be accepted.
const ROUND_RESETS: u32 = 32;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The error code for excessive load.
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: method and scheme by index, other headers as literals.
fn head(method: u8, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    let mut block = [&[method, 0x86, 0x04][..], &text(path), &[0x01], &text("localhost")].concat();
    for (name, value) in more {
        block.extend([&[0][..], &text(name), &text(value)].concat());
    }
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;
const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// The requests to a listener.
struct Target {
    name: &'static str,
    address: String,
    /// A request that causes work, without the end of its body if it has one.
    request: Vec<u8>,
    request_flags: u8,
    /// The headers of a request whose body is awaited.
    open: Vec<u8>,
    /// A request that expects a response, on this stream.
    last: fn(u32) -> Vec<u8>,
}

fn targets(server: &Server) -> [Target; 2] {
    let flight = |method: &str| head(POST, &format!("/arrow.flight.protocol.FlightService/{method}"), &GRPC);
    [
        Target {
            name: "REST",
            address: server.http.clone(),
            request: head(GET, "/v1/klines/X/1m", &[]),
            request_flags: END_HEADERS | END_STREAM,
            open: head(POST, "/v1/klines/X/1m", &[("content-type", "text/csv")]),
            last: |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(GET, "/health/live", &[])),
        },
        Target {
            name: "Flight",
            address: server.flight.clone(),
            request: flight("DoGet"),
            request_flags: END_HEADERS,
            open: flight("DoPut"),
            last: |stream| {
                let check = frame(HEADERS, END_HEADERS, stream, &head(POST, "/grpc.health.v1.Health/Check", &GRPC));
                [check, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
            },
        },
    ]
}

/// The outcome of a flood.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The connection was closed, with this error code if any.
    Closed(Option<u32>),
    /// The last request succeeded.
    Answered,
}

/// An HTTP/2 connection that sends arbitrary frames.
struct Framed {
    stream: TcpStream,
    heard: Vec<u8>,
    code: Option<u32>,
}

impl Framed {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self { stream, heard: Vec::new(), code: None }
    }

    /// Connects, sends the preface, and opens the receive window.
    fn connect_with_preface(address: &str) -> Self {
        let mut made = Self::connect(address);
        let window = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
        made.stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &window].concat()).unwrap();
        made
    }

    /// The next frame: kind, flags, stream, payload. `None` once the connection is closed.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some((head, rest)) = self.heard.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if rest.len() >= length {
                    let (kind, flags) = (head[3], head[4]);
                    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
                    let payload: Vec<u8> = self.heard.drain(..9 + length).skip(9).collect();
                    if let (GOAWAY, Some(code)) = (kind, payload.get(4..8)) {
                        self.code = Some(u32::from_be_bytes(code.try_into().unwrap()));
                    }
                    return Some((kind, flags, stream, payload));
                }
            }
            let mut some = [0; 65_536];
            match self.stream.read(&mut some) {
                Ok(0) => return None,
                Ok(read) => self.heard.extend_from_slice(&some[..read]),
                Err(error) => {
                    let cut = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
                    assert!(cut.contains(&error.kind()), "neither a response nor a close: {error}");
                    return None;
                }
            }
        }
    }

    /// Reads until the connection is closed or the request on this stream has a response.
    fn outcome(&mut self, last: u32) -> Outcome {
        let mut is_success = false;
        while let Some((kind, flags, stream, payload)) = self.next() {
            if stream != last {
                continue;
            }
            assert_ne!(kind, RST_STREAM, "the last request is refused");
            // Status 200 by its index.
            is_success |= kind == HEADERS && payload.first() == Some(&0x88);
            if [HEADERS, DATA].contains(&kind) && flags & END_STREAM != 0 {
                assert!(is_success, "the last request fails");
                return Outcome::Answered;
            }
        }
        Outcome::Closed(self.code)
    }
}

/// Sends these bytes while reading, so that a full receive buffer does not end the connection.
fn flood(mut connection: Framed, bytes: Vec<u8>, last: u32) -> Outcome {
    let mut writer = connection.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || drop(writer.write_all(&bytes)));
    let outcome = connection.outcome(last);
    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    sending.join().unwrap();
    outcome
}

/// Requests that are reset, in rounds: each round ends with a response before the next.
fn resets_in_rounds(target: &Target) -> Outcome {
    let mut connection = Framed::connect_with_preface(&target.address);
    let mut stream = 1;
    for _ in 0..ROUNDS {
        let mut bytes = Vec::new();
        for _ in 0..ROUND_RESETS {
            bytes.extend(frame(HEADERS, target.request_flags, stream, &target.request));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        bytes.extend((target.last)(stream));
        connection.stream.write_all(&bytes).unwrap();
        let outcome = connection.outcome(stream);
        if outcome != Outcome::Answered {
            return outcome;
        }
        stream += 2;
    }
    Outcome::Answered
}

#[test]
fn floods_of_http2_frames_end_their_connection_or_are_processed() {
    let proof = Proof::new("http2_floods", 1);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let settings = [
        ("FASTK__HTTP__HEADER_TIMEOUT_MS", "2000"),
        ("FASTK__FLIGHT__HANDSHAKE_TIMEOUT_MS", "2000"),
        ("FASTK__FLIGHT__PING_INTERVAL_MS", "2000"),
        ("FASTK__FLIGHT__PING_TIMEOUT_MS", "2000"),
    ];
    let server = Server::of(serve(&root, &settings), &log).unwrap();
    let rest = server.rest();
    let body = r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":0,"volume_digits":0}"#;
    post(&rest, "/v1/series", body.into()).unwrap();
    let row = r#"[{"ts":0,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#;
    post(&rest, "/v1/klines/X/1m", row.into()).unwrap();
    let read = || get(&rest, Call::new(Method::GET, "/v1/klines/X/1m").param("format", "csv")).unwrap();
    let (rows, before) = (read(), server.memory("RssAnon"));
    let (mut most, mut output) = (0, Vec::new());

    let connect = Framed::connect_with_preface;
    let calm = |outcome: Outcome| outcome == Outcome::Closed(Some(ENHANCE_YOUR_CALM));
    let closed = |outcome: Outcome| matches!(outcome, Outcome::Closed(_));
    for target in targets(&server) {
        let mut report = |what: &str, outcome: Outcome, is_right: bool| {
            assert!(is_right, "{}: {what}: {outcome:?}", target.name);
            assert_eq!(read(), rows, "{}: {what}", target.name);
            most = most.max(server.memory("RssAnon"));
            output.push(format!("{} {what} {outcome:?}", target.name));
        };
        let bare = Framed::connect(&target.address);
        let outcome = flood(bare, PREFACE.to_vec(), 1);
        report("no settings", outcome, closed(outcome));

        // Headers without END_HEADERS.
        let headers = frame(HEADERS, 0, 1, &target.request);
        let endless = [headers, frame(CONTINUATION, 0, 1, &[0x0f; 16_000]).repeat(200)].concat();
        let outcome = flood(connect(&target.address), endless, 1);
        report("headers without an end", outcome, closed(outcome));

        // More than the server accepts before the next is read: it closes the connection.
        let mut resets = Vec::new();
        for stream in (1..=2 * RESETS).step_by(2) {
            resets.extend(frame(HEADERS, target.request_flags, stream, &target.request));
            resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        let last = 2 * RESETS + 1;
        resets.extend((target.last)(last));
        let outcome = flood(connect(&target.address), resets, last);
        report("streams that are reset at once", outcome, calm(outcome));

        // A moderate rate is processed.
        let outcome = resets_in_rounds(&target);
        report("streams that are reset in rounds", outcome, outcome == Outcome::Answered);

        let empty = [frame(HEADERS, END_HEADERS, 1, &target.open), frame(DATA, 0, 1, &[]).repeat(20_000)].concat();
        let outcome = flood(connect(&target.address), [empty, (target.last)(3)].concat(), 3);
        report("data without data", outcome, calm(outcome));

        // These send no request and end at a timeout.
        for (what, bytes) in [
            ("pings", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
            ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(20_000)),
            ("frames of no kind", frame(99, 255, 7, &[1; 1_000]).repeat(2_000)),
        ] {
            let outcome = flood(connect(&target.address), bytes, 1);
            report(what, outcome, closed(outcome));
        }
    }
    let mib = |bytes: u64| bytes >> 20;
    assert!(most <= before + GROWTH_MAX, "anonymous memory grew from {} to {} MiB", mib(before), mib(most));
    let mut server = server;
    assert!(server.lives());
    server.stop();
    proof.close(format_args!(
        "{}; anonymous memory {} MiB before, {} MiB at most",
        output.join(", "),
        mib(before),
        mib(most)
    ));
}
