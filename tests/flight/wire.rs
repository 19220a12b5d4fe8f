//! Malformed frames over a real socket: recorded traffic of real clients is changed and replayed.
//!
//! Changes affect frames of HTTP/2 (their bytes, kinds, flags, streams, lengths and order), the five-byte prefix of
//! gRPC messages, and the messages as protobuf and as bytes. A connection is then closed at once, closed after the
//! response, or stays open and idle. The server closes each connection, never panics, serves other clients, and its
//! store is intact at the end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::{Criteria, Empty, Ticket};
use fastk::server::flight::FlightSettings;
use fastk::service::{Service, StoreOptions, TaskControl};
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fuzz::{assert_no_panic, change_bytes, change_proto, pick, resident, watch_panics};
use super::proof_amount::Proof;
use super::*;

/// Connections at one hundred percent.
const STATED: u64 = 50_000;
/// Connections at the same time.
const CONCURRENT: u64 = 16;
/// Timeout of a connection on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A connection without data for this time is finished.
const QUIET_TIME: Duration = Duration::from_millis(50);
/// Allowed memory growth after the first connections.
const GROWTH_BYTES_MAX: u64 = 256 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// A frame of HTTP/2.
#[derive(Clone, Debug)]
struct Frame {
    /// A wrong length in the header, if set.
    length: Option<u32>,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let length = self.length.unwrap_or(self.payload.len() as u32).to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }
}

/// The frames in these bytes.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some((head, after_frame)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after_frame)) = after_frame.split_at_checked(length) else { break };
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        found.push(Frame { length: None, kind: head[3], flags: head[4], stream, payload: payload.to_vec() });
        rest = after_frame;
    }
    found
}

/// Records the frames that a client sends while it runs this script.
async fn recorded(server: &str, script: impl AsyncFnOnce(Client)) -> Vec<Frame> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = format!("http://{}", listener.local_addr().unwrap());
    let server = server.trim_start_matches("http://").to_owned();
    let listening = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = tokio::net::TcpStream::connect(server).await.unwrap().into_split();
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let (mut heard, mut some) = (Vec::new(), vec![0; 65_536]);
        loop {
            match from_client.read(&mut some).await {
                Ok(read) if read > 0 => {
                    heard.extend_from_slice(&some[..read]);
                    to_server.write_all(&some[..read]).await.unwrap();
                }
                _ => break,
            }
        }
        drop(to_server);
        let _ = back.await;
        heard
    });
    let channel = Channel::from_shared(between).unwrap().connect().await.unwrap();
    script(Client::new(channel)).await;
    let heard = listening.await.unwrap();
    frames(heard.strip_prefix(PREFACE).expect("it greets"))
}

/// Recorded traffic of clients that list, inspect, read, write and run actions.
async fn scripts(server: &str) -> Vec<Vec<Frame>> {
    let reads = recorded(server, async |mut client| {
        let listed = client.list_flights(Criteria::default()).await.unwrap().into_inner();
        assert_eq!(listed.try_collect::<Vec<_>>().await.unwrap().len(), 1);
        client.get_flight_info(path(KEY)).await.unwrap();
        client.get_schema(command(json!({"series": [KEY], "columns": ["close"]}))).await.unwrap();
        for query in [json!({"series": [KEY], "limit": 5}), json!({"series": [KEY], "numbers": "float64"})] {
            let stream = client.do_get(Ticket::new(query.to_string())).await.unwrap().into_inner();
            stream.try_collect::<Vec<_>>().await.unwrap();
        }
        client.list_actions(Empty {}).await.unwrap().into_inner().try_collect::<Vec<_>>().await.unwrap();
        client.handshake(stream::empty()).await.unwrap();
    });
    let writes = recorded(server, async |mut client| {
        put(&mut client, &[klines(0..30, 1), klines(500..530, 2)]).await;
        for (name, body) in
            [("coverage", json!({"series": KEY})), ("inventory", json!({"limit": 3})), ("health", json!({}))]
        {
            act(&mut client, name, body).await.unwrap();
        }
        put(&mut client, &[klines(100..102, 3)]).await;
    });
    vec![reads.await, writes.await]
}

/// Applies one change to the frames.
fn change(random: &mut StdRng, output: &mut Vec<Frame>) {
    let at = random.random_range(0..output.len());
    let data: Vec<usize> =
        (0..output.len()).filter(|at| output[*at].kind == DATA && output[*at].payload.len() > 5).collect();
    match random.random_range(0..14) {
        0 => drop(output.remove(at)),
        1 => output.insert(at, output[at].clone()),
        2 => {
            let other = random.random_range(0..output.len());
            output.swap(at, other);
        }
        3 => output[at].kind = *pick(random, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]),
        4 => output[at].flags ^= 1 << random.random_range(0..8),
        5 => output[at].stream = *pick(random, &[0, 1, 2, 3, 5, 7, 99, 0x7fff_ffff, u32::MAX]),
        6 => output[at].length = Some(*pick(random, &[0, 1, 8, 16_384, 16_385, 0x00ff_ffff])),
        7 => change_bytes(random, &mut output[at].payload),
        8 => {
            let payload = (0..random.random_range(0..300)).map(|_| random.random()).collect();
            let (kind, flags, stream) = (random.random_range(0..12), random.random(), output[at].stream);
            output.insert(at, Frame { length: None, kind, flags, stream, payload });
        }
        // The other changes affect messages.
        more if !data.is_empty() => {
            let payload = &mut output[*pick(random, &data)].payload;
            let mut message = payload.split_off(5);
            match more {
                9 => payload[0] = random.random(),
                10 => payload[1..].copy_from_slice(
                    &pick(random, &[0, 1, u32::MAX, 1 << 31, 1 << 20, message.len() as u32 + 1]).to_be_bytes(),
                ),
                11 => change_bytes(random, &mut message),
                _ => {
                    change_proto(random, &mut message);
                    payload[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
                }
            }
            payload.extend(message);
        }
        _ => {}
    }
}

/// The end of a connection after all frames are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It is closed at once.
    Gone,
    /// It is closed when no data arrives for [`QUIET_TIME`].
    Heard,
    /// It stays open.
    Stays,
}

/// The bytes of a connection, and its end.
fn odd_connection(random: &mut StdRng, scripts: &[Vec<Frame>]) -> (Vec<u8>, End) {
    let mut output = pick(random, scripts).clone();
    for _ in 0..random.random_range(1..4) {
        if output.is_empty() {
            break;
        }
        change(random, &mut output);
    }
    let mut bytes = PREFACE.to_vec();
    output.iter().for_each(|frame| bytes.extend(frame.bytes()));
    match random.random_range(0..20) {
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => change_bytes(random, &mut bytes),
        _ => {}
    }
    (bytes, *pick(random, &[End::Gone, End::Gone, End::Heard, End::Heard, End::Heard, End::Stays]))
}

fn is_timeout(error: &std::io::Error) -> bool {
    [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind())
}

/// Sends these bytes and reads until the server closes the connection.
fn exchange(address: &str, bytes: &[u8], end: End, replay: &str) -> Vec<Frame> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(if end == End::Heard { QUIET_TIME } else { TIMEOUT })).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let (mut heard, mut waits) = (Vec::new(), end == End::Heard);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The server may have closed it before.
            let _ = writer.write_all(bytes);
            if end == End::Gone {
                let _ = writer.shutdown(Shutdown::Write);
            }
        });
        let mut some = [0; 65_536];
        loop {
            match stream.read(&mut some) {
                Ok(0) => break,
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(error) if waits && is_timeout(&error) => {
                    waits = false;
                    let _ = stream.shutdown(Shutdown::Write);
                    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                }
                Err(error) => {
                    let cut = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
                    assert!(cut.contains(&error.kind()), "the connection does not end: {error}; {replay}");
                    break;
                }
            }
        }
    });
    frames(&heard)
}

#[test]
fn flight_wire() {
    watch_panics();
    let proof = Proof::new("flight_wire", STATED);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = FlightSettings {
        handshake_timeout_ms: 500,
        message_timeout_ms: 500,
        ping_interval_ms: 500,
        ping_timeout_ms: 500,
        ..FlightSettings::default()
    };
    let (server, mut client, scripts) = runtime.block_on(async {
        let server = Running::with(config).await;
        let mut client = registered(&server).await;
        put(&mut client, &[klines(0..300, 0)]).await;
        act(&mut client, "compact", json!({"series": [KEY]})).await.unwrap();
        put(&mut client, &[klines(290..310, 0)]).await;
        let scripts = scripts(&server.address).await;
        (server, client, scripts)
    });
    let address = server.address.trim_start_matches("http://").to_owned();
    // Unchanged recordings are served without an error.
    for script in &scripts {
        let bytes = script.iter().flat_map(Frame::bytes);
        let whole: Vec<u8> = PREFACE.iter().copied().chain(bytes).collect();
        let heard = exchange(&address, &whole, End::Stays, "as recorded");
        let responses = heard.iter().filter(|frame| frame.kind == HEADERS).count();
        let calls = script.iter().filter(|frame| frame.kind == HEADERS).count();
        assert!(responses >= calls && calls > 3, "{calls} calls, {responses} responses");
    }
    let (mut done, mut with_data, mut refused, mut stayed) = (0, 0_u64, 0_u64, 0_u64);
    let (mut first, mut most) = (0, 0);
    while proof.continues(done) {
        let together = CONCURRENT.min(proof.rounds() - done);
        let heard: Vec<(Vec<Frame>, End)> = std::thread::scope(|scope| {
            let one = |number: u64| {
                let mut random = StdRng::seed_from_u64(proof.seed.wrapping_mul(1 << 40).wrapping_add(number));
                let (bytes, end) = odd_connection(&mut random, &scripts);
                (exchange(&address, &bytes, end, &proof.replay(number)), end)
            };
            let started_at: Vec<_> = (done..done + together).map(|number| scope.spawn(move || one(number))).collect();
            started_at.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        done += together;
        for (frames, end) in heard {
            with_data += u64::from(frames.iter().any(|frame| frame.kind == DATA));
            refused += u64::from(frames.iter().any(|frame| [RST_STREAM, GOAWAY].contains(&frame.kind)));
            stayed += u64::from(end == End::Stays);
        }
        assert_no_panic(&proof.replay(done));
        // Other clients are served, on an existing connection and on a new one.
        runtime.block_on(async {
            for client in [&mut client, &mut server.client().await] {
                assert_eq!(act(client, "health", json!({})).await.unwrap()["status"], "ok", "{}", proof.replay(done));
                assert!(all(client).await.num_rows() >= 310, "{}", proof.replay(done));
            }
        });
        most = most.max(resident());
        if first == 0 {
            first = resident();
        }
        assert!(resident() < first + GROWTH_BYTES_MAX, "{first} bytes became {}; {}", resident(), proof.replay(done));
    }
    assert!(
        with_data > done / 10 && refused > done / 10,
        "{with_data} with data, {refused} refused of {done}: the changes are too few or many"
    );
    drop(client);
    let root = runtime.block_on(server.stop());
    let service: Arc<Service> = Service::open(root.path(), false, StoreOptions::default()).unwrap();
    let report = service.verify(&TaskControl::new()).unwrap();
    assert!(report.clean, "{:?}; {}", report.findings, proof.replay(done));
    proof.close(format_args!(
        "{done} connections ({stayed} left open), {with_data} with data, {refused} with a call or connection refused, \
         no panic, {} MiB after the first, {} MiB at most",
        first >> 20,
        most >> 20
    ));
}
