//! Floods of HTTP/2 frames over one connection: what may not go on ends with its connection, what may is worked off, and
//! the process stays small and answers others all the while.
//!
//! Both listeners get the same floods. Behind those that ask something stands a request of which an answer counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fastk::cli::remote::Call;
use hyper::Method;

use super::program::{Server, get, post, serve};
use super::proof_amount::Proof;

/// How long a flood may take to come to an end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the process may hold more of, beside mapped files, than before the floods.
const GROWTH_MAX: u64 = 64 << 20;
/// Streams that are reset as fast as they can be sent.
const RESETS: u32 = 20_000;
/// The same in rounds, of which each is over before the next.
const ROUNDS: u32 = 200;
/// Fewer than may wait to be accepted.
const ROUND_RESETS: u32 = 32;

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
/// The code by which a server says that somebody goes too far.
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: the method and the scheme by their index, the rest as it is.
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

/// What is asked of a listener.
struct Face {
    name: &'static str,
    address: String,
    /// A request that is work, without the end of its body if it has one.
    request: Vec<u8>,
    request_flags: u8,
    /// The head of a request whose body is awaited.
    open: Vec<u8>,
    /// A request of which an answer counts, on this stream.
    last: fn(u32) -> Vec<u8>,
}

fn faces(server: &Server) -> [Face; 2] {
    let flight = |method: &str| head(POST, &format!("/arrow.flight.protocol.FlightService/{method}"), &GRPC);
    [
        Face {
            name: "REST",
            address: server.http.clone(),
            request: head(GET, "/v1/klines/X/1m", &[]),
            request_flags: END_HEADERS | END_STREAM,
            open: head(POST, "/v1/klines/X/1m", &[("content-type", "text/csv")]),
            last: |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(GET, "/health/live", &[])),
        },
        Face {
            name: "Flight",
            address: server.flight.clone(),
            request: flight("DoGet"),
            request_flags: END_HEADERS,
            open: flight("DoPut"),
            last: |stream| {
                let asked = frame(HEADERS, END_HEADERS, stream, &head(POST, "/grpc.health.v1.Health/Check", &GRPC));
                [asked, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
            },
        },
    ]
}

/// How a connection ended, or that it did not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// Closed, after this code if one was told.
    Closed(Option<u32>),
    /// The last request was answered by success.
    Answered,
}

/// A connection of HTTP/2 that says what it likes.
struct Framed {
    stream: TcpStream,
    heard: Vec<u8>,
    code: Option<u32>,
}

impl Framed {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, heard: Vec::new(), code: None }
    }

    /// Connects, greets, and takes as much as there is.
    fn greet(address: &str) -> Self {
        let mut made = Self::connect(address);
        let window = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
        made.stream.write_all(&[GREETING, &frame(SETTINGS, 0, 0, &[]), &window].concat()).unwrap();
        made
    }

    /// The next frame that comes: kind, flags, stream, payload. Nothing once the connection is closed.
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
                    assert!(cut.contains(&error.kind()), "neither an answer nor an end: {error}");
                    return None;
                }
            }
        }
    }

    /// Reads until the connection is closed or the request on this stream is answered.
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

/// Says this, and reads all the while, so that it is not the reading that ends it.
fn flood(mut connection: Framed, bytes: Vec<u8>, last: u32) -> Outcome {
    let mut writer = connection.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || drop(writer.write_all(&bytes)));
    let outcome = connection.outcome(last);
    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    sending.join().unwrap();
    outcome
}

/// Streams that are asked for and reset, in rounds: a request is answered behind each before the next begins.
fn patient_resets(face: &Face) -> Outcome {
    let mut connection = Framed::greet(&face.address);
    let mut stream = 1;
    for _ in 0..ROUNDS {
        let mut bytes = Vec::new();
        for _ in 0..ROUND_RESETS {
            bytes.extend(frame(HEADERS, face.request_flags, stream, &face.request));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        bytes.extend((face.last)(stream));
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
fn floods_of_http2_frames_end_their_connection_or_are_worked_off() {
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
    let (mut most, mut said) = (0, Vec::new());

    let greeted = Framed::greet;
    let calm = |outcome: Outcome| outcome == Outcome::Closed(Some(ENHANCE_YOUR_CALM));
    let closed = |outcome: Outcome| matches!(outcome, Outcome::Closed(_));
    for face in faces(&server) {
        let mut told = |what: &str, outcome: Outcome, is_right: bool| {
            assert!(is_right, "{}: {what}: {outcome:?}", face.name);
            assert_eq!(read(), rows, "{}: {what}", face.name);
            most = most.max(server.memory("RssAnon"));
            said.push(format!("{} {what} {outcome:?}", face.name));
        };
        let bare = Framed::connect(&face.address);
        let outcome = flood(bare, GREETING.to_vec(), 1);
        told("no settings", outcome, closed(outcome));

        // They never say where the headers end.
        let begun = frame(HEADERS, 0, 1, &face.request);
        let endless = [begun, frame(CONTINUATION, 0, 1, &[0x0f; 16_000]).repeat(200)].concat();
        let outcome = flood(greeted(&face.address), endless, 1);
        told("headers without an end", outcome, closed(outcome));

        // More than the server accepts before the next is read: it ends that.
        let mut resets = Vec::new();
        for stream in (1..=2 * RESETS).step_by(2) {
            resets.extend(frame(HEADERS, face.request_flags, stream, &face.request));
            resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        let last = 2 * RESETS + 1;
        resets.extend((face.last)(last));
        let outcome = flood(greeted(&face.address), resets, last);
        told("streams that are reset at once", outcome, calm(outcome));

        // In a measure that it can accept they are worked off.
        let outcome = patient_resets(&face);
        told("streams that are reset in rounds", outcome, outcome == Outcome::Answered);

        let empty = [frame(HEADERS, END_HEADERS, 1, &face.open), frame(DATA, 0, 1, &[]).repeat(20_000)].concat();
        let outcome = flood(greeted(&face.address), [empty, (face.last)(3)].concat(), 3);
        told("data without data", outcome, calm(outcome));

        // These ask nothing, and nobody waits for a request for ever.
        for (what, bytes) in [
            ("pings", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
            ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(20_000)),
            ("frames of no kind", frame(99, 255, 7, &[1; 1_000]).repeat(2_000)),
        ] {
            let outcome = flood(greeted(&face.address), bytes, 1);
            told(what, outcome, closed(outcome));
        }
    }
    let mib = |bytes: u64| bytes >> 20;
    assert!(most <= before + GROWTH_MAX, "anonymous memory grew from {} to {} MiB", mib(before), mib(most));
    let mut server = server;
    assert!(server.lives());
    server.stop();
    proof.close(format_args!(
        "{}; anonymous memory {} MiB before, {} MiB at most",
        said.join(", "),
        mib(before),
        mib(most)
    ));
}
