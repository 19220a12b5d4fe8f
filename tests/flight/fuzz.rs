//! Malformed calls of the Flight service in process: no panic, not even a caught one, no hang, no error attributed to
//! the server, no memory growth.
//!
//! Calls are derived from valid ones: their JSON, Arrow messages and protobuf are changed by structure, their bytes and
//! the token header at random. After [`WORLD_CALLS`] calls the store is created again, so that it stays small and a failure
//! can be replayed from there: all choices are derived from the seed and the number of the call.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use arrow_flight::{Action, Criteria, FlightDescriptor, HandshakeRequest, Ticket};
use bytes::Bytes;
use fastk::access::{self, Authenticator};
use fastk::server::flight::{ACTIONS, CODE_KEY, FlightSettings, METHODS, SQL_ACTIONS, without_listener};
use fastk::service::{Durability, Scope, Service, StoreOptions};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::{Value, json};
use tower::Service as _;
use tower::util::BoxCloneService;

use super::proof_amount::Proof;
use super::*;

/// Calls at one hundred percent.
const STATED: u64 = 1_000_000;
/// Calls on one store.
const WORLD_CALLS: u64 = 10_000;
/// Longest time of one call.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Allowed memory growth after the first store.
const GROWTH_BYTES_MAX: u64 = 256 << 20;

/// A call: its method and the messages of its body.
#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    messages: Vec<Vec<u8>>,
}

fn call(method: &'static str, message: &impl Message) -> Call {
    Call { method, messages: vec![message.encode_to_vec()] }
}

/// Valid JSON queries.
fn queries() -> Vec<Value> {
    vec![
        json!({"series": [KEY]}),
        json!({"series": [KEY], "start": T0, "end": "2024-02-02", "columns": ["close"], "limit": 5, "order": "desc"}),
        json!({"series": ["kline/*/1m", "scalar/c/X/1h/n"], "latest": 3, "layout": "by_time", "numbers": "float64"}),
        json!({"series": [KEY], "where": [{"column": "close", "op": "between", "value": ["42000.00", 42001]}], "explain": true}),
        json!({"series": [KEY], "as_of": "s", "numbers": "raw", "endpoints": 3, "latest_complete": 2}),
        json!({"series": [KEY], "commit": 3, "cursor": "x", "numbers": "string"}),
    ]
}

fn commands() -> Vec<Value> {
    vec![
        json!({"series": KEY, "mode": "append", "validate": "none", "rounding": "nearest", "numbers": "raw"}),
        json!({"series": KEY, "mode": "merge", "idempotency_key": "k", "if_version": 2}),
        json!({"create": {"kind": "kline", "symbol": "NEW", "timeframe": "1h", "price_digits": 3}, "missing": "skip"}),
    ]
}

/// Valid messages of Flight SQL; those of actions with their name.
fn sql_messages() -> Vec<(Option<&'static str>, Vec<u8>)> {
    use arrow_flight::sql::*;
    // The handle of a statement: its text and its commit.
    let handle = Bytes::from_static(b"\n\x1aSELECT ts FROM klines_1m a \x03");
    let query = || "SELECT ts, close FROM klines_1m WHERE close > ?".to_owned();
    let command = |message: Any| (None, message.encode_to_vec());
    let action = |name, message: Any| (Some(name), message.encode_to_vec());
    let info = arrow_flight::FlightInfo::new().with_endpoint(arrow_flight::FlightEndpoint::new().with_ticket(Ticket {
        ticket: TicketStatementQuery { statement_handle: handle.clone() }.as_any().encode_to_vec().into(),
    }));
    let cancel = arrow_flight::CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    vec![
        command(CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None }.as_any()),
        command(
            CommandStatementQuery { query: "SELECT * FROM latest('klines_1m')".into(), transaction_id: None }.as_any(),
        ),
        command(TicketStatementQuery { statement_handle: handle.clone() }.as_any()),
        command(CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() }.as_any()),
        command(CommandPreparedStatementUpdate { prepared_statement_handle: handle.clone() }.as_any()),
        command(CommandStatementIngest { table: "klines_1m".into(), ..CommandStatementIngest::default() }.as_any()),
        command(CommandStatementIngest { table: KEY.into(), ..CommandStatementIngest::default() }.as_any()),
        command(CommandGetCatalogs {}.as_any()),
        command(CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("p%".into()) }.as_any()),
        command(
            CommandGetTables { include_schema: true, table_types: vec!["TABLE".into()], ..CommandGetTables::default() }
                .as_any(),
        ),
        command(CommandGetSqlInfo { info: vec![0, 8, 503, 517] }.as_any()),
        command(CommandGetXdbcTypeInfo { data_type: Some(3) }.as_any()),
        command(CommandGetPrimaryKeys { table: "klines_1m".into(), ..CommandGetPrimaryKeys::default() }.as_any()),
        command(CommandGetImportedKeys { table: "klines_1m".into(), ..CommandGetImportedKeys::default() }.as_any()),
        action(
            "CreatePreparedStatement",
            ActionCreatePreparedStatementRequest { query: query(), transaction_id: None }.as_any(),
        ),
        action(
            "ClosePreparedStatement",
            ActionClosePreparedStatementRequest { prepared_statement_handle: handle }.as_any(),
        ),
        action("CancelQuery", ActionCancelQueryRequest { info: info.encode_to_vec().into() }.as_any()),
        (Some("CancelFlightInfo"), cancel),
        (Some("SetSessionOptions"), b"\n\x12\n\x06schema\x12\x08\n\x06system".to_vec()),
        (Some("GetSessionOptions"), Vec::new()),
        (Some("BeginTransaction"), Vec::new()),
    ]
}

/// A call of Flight SQL, mostly with defects.
fn odd_sql(random: &mut StdRng, puts: &[Vec<FlightData>]) -> Call {
    let (action, mut message) = pick(random, &sql_messages()).clone();
    if random.random_bool(0.6) {
        match arrow_flight::sql::Any::decode(message.as_slice()) {
            // The message inside, so that its type remains known.
            Ok(mut any) if random.random_bool(0.8) => {
                let mut value = any.value.to_vec();
                change_proto(random, &mut value);
                any.value = value.into();
                message = any.encode_to_vec();
            }
            _ => change_proto(random, &mut message),
        }
    }
    if let Some(name) = action {
        let name = if random.random_bool(0.9) { name } else { pick(random, &SQL_ACTIONS).0 };
        return call("DoAction", &Action { r#type: name.into(), body: message.into() });
    }
    match random.random_range(0..6) {
        0..2 => call("DoGet", &Ticket { ticket: message.into() }),
        2 => call("GetFlightInfo", &FlightDescriptor::new_cmd(message)),
        3 => call("GetSchema", &FlightDescriptor::new_cmd(message)),
        _ => {
            let put = pick(random, puts);
            let mut odd = odd_put(random, put.as_slice());
            if let Some(first) = odd.messages.first_mut()
                && let Ok(mut data) = FlightData::decode(first.as_slice())
            {
                data.flight_descriptor = Some(FlightDescriptor::new_cmd(message));
                *first = data.encode_to_vec();
            }
            odd
        }
    }
}

fn action_body(name: &str) -> Value {
    match name {
        "register_series" => json!({"kind": "scalar", "category": "c", "symbol": "X", "timeframe": "1h", "name": "n",
            "value": {"type": "decimal", "digits": 3}, "retention": {"max_age": "30d", "max_rows": 10}, "calendar": "24x7"}),
        "drop_series" => json!({"series": KEY, "if_version": 1}),
        "delete_range" => json!({"series": KEY, "start": T0, "end": "2024-02-01T01:00:00Z", "dry_run": true}),
        "create_snapshot" | "drop_snapshot" => json!({"name": "s"}),
        "coverage" => json!({"series": KEY, "start": T0, "end": T0 + 100 * MINUTE, "calendar": "weekdays", "limit": 5}),
        "compact" => json!({"series": [KEY]}),
        // A requested rate is kept, even if the job takes days.
        "verify" => json!({}),
        "inventory" => json!({"prefix": "kline/", "limit": 3}),
        _ => json!({}),
    }
}

pub fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[random.random_range(0..from.len())]
}

/// Changes a value somewhere.
fn change_json(random: &mut StdRng, value: &mut Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() && random.random_bool(0.85) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = pick(random, &keys).clone();
            match random.random_range(0..8) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert(odd_text(random), odd_value(random))),
                2 => {
                    let moved = fields.remove(&key).unwrap_or_default();
                    fields.insert(pick(random, &keys).clone(), moved);
                }
                _ => change_json(random, fields.get_mut(&key).unwrap()),
            }
        }
        Value::Array(items) if !items.is_empty() && random.random_bool(0.7) => {
            let at = random.random_range(0..items.len());
            match random.random_range(0..5) {
                0 => drop(items.remove(at)),
                1 => items.extend(vec![items[at].clone(); random.random_range(1..200)]),
                _ => change_json(random, &mut items[at]),
            }
        }
        Value::String(text) if random.random_bool(0.6) => {
            let mut bytes = text.clone().into_bytes();
            change_bytes(random, &mut bytes);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        other => *other = odd_value(random),
    }
}

fn odd_text(random: &mut StdRng) -> String {
    let texts = [
        "",
        "..",
        "../../etc/passwd",
        "kline/../1m",
        "kline/*/*",
        "*",
        "%2e%2e%2f",
        "a\0b",
        "\\..\\",
        "kline//1m",
        "\u{202e}x",
        "null",
        "9999-99-99",
        "2024-02-30T25:00:00Z",
        "-0",
        "1e999999999",
        "NaN",
        "🕯",
        "unknown",
        "s",
    ];
    match random.random_range(0..4) {
        0 => "x".repeat(random.random_range(0..5_000)),
        _ => (*pick(random, &texts)).to_owned(),
    }
}

fn odd_value(random: &mut StdRng) -> Value {
    match random.random_range(0..9) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2 => json!(pick(random, &[0, 1, -1, i64::MIN, i64::MAX, T0, 253_402_300_800_000])),
        3 => json!(pick(random, &[u64::MAX, 1 << 63, 1 << 53])),
        4 => json!(pick(random, &[0.5, -0.0, 1e308, 5e-324, 1e18])),
        5 => (0..random.random_range(1..60)).fold(json!(1), |inside, _| json!([inside])),
        6 => json!({ odd_text(random): odd_text(random) }),
        7 => json!([]),
        _ => json!(odd_text(random)),
    }
}

/// Changes a few bytes.
pub fn change_bytes(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at + 8 <= bytes.len() => {
                let word: i64 = *pick(random, &[0, -1, i64::MAX, i64::MIN, 1 << 32, 64]);
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            4 => {
                let end = random.random_range(at..=bytes.len()).min(at + 64);
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            _ => {}
        }
    }
}

/// The fields of a protobuf message, each with its tag; `None` when it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
    use prost::encoding::decode_varint;
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = decode_varint(&mut bytes).ok()?;
        let started_at = bytes;
        let length = match tag & 7 {
            0 => {
                decode_varint(&mut bytes).ok()?;
                started_at.len() - bytes.len()
            }
            1 => 8,
            2 => {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                (started_at.len() - bytes.len()).checked_add(length)?
            }
            5 => 4,
            _ => return None,
        };
        found.push((tag, started_at.get(..length)?.to_vec()));
        bytes = started_at.get(length..)?;
    }
    Some(found)
}

/// Removes, duplicates, swaps and renames fields of a protobuf message, or changes their lengths.
pub fn change_proto(random: &mut StdRng, message: &mut Vec<u8>) {
    use prost::encoding::encode_varint;
    let Some(mut found) = fields(message).filter(|found| !found.is_empty()) else {
        return change_bytes(random, message);
    };
    let at = random.random_range(0..found.len());
    match random.random_range(0..7) {
        0 => drop(found.remove(at)),
        1 => found.insert(at, found[at].clone()),
        2 => {
            let other = random.random_range(0..found.len());
            found.swap(at, other);
        }
        3 => found[at].0 = (random.random_range(0..2_000) << 3) | (found[at].0 & 7),
        4 => found[at].0 = (found[at].0 & !7) | random.random_range(0..8),
        5 => {
            let mut length = Vec::new();
            encode_varint(*pick(random, &[0, 1, u64::from(u32::MAX), u64::MAX, 1 << 31]), &mut length);
            found[at].1.splice(0..1, length);
        }
        _ => change_bytes(random, &mut found[at].1),
    }
    message.clear();
    for (tag, value) in found {
        encode_varint(tag, message);
        message.extend(value);
    }
}

/// Messages of a put, some of them changed.
fn odd_put(random: &mut StdRng, good: &[FlightData]) -> Call {
    let mut messages = good.to_vec();
    let text = {
        let mut command = pick(random, &commands()).clone();
        if random.random_bool(0.5) {
            change_json(random, &mut command);
        }
        command.to_string()
    };
    messages[0].flight_descriptor = match random.random_range(0..6) {
        0 => None,
        1 => Some(FlightDescriptor::new_path(vec![odd_text(random), odd_text(random)])),
        2 | 3 => Some(FlightDescriptor::new_cmd(text)),
        _ => Some(path(KEY)),
    };
    let at = random.random_range(0..messages.len());
    match random.random_range(0..8) {
        0 => drop(messages.remove(at)),
        1 => messages.insert(at, messages[at].clone()),
        2 => messages.reverse(),
        3..6 => {
            let mut header = messages[at].data_header.to_vec();
            // Words of a header are aligned.
            for _ in 0..random.random_range(1..4) {
                let width = *pick(random, &[1, 2, 4, 8]);
                let place = random.random_range(0..header.len().max(8) / width) * width;
                let word: u64 = match random.random_range(0..3) {
                    0 => random.random(),
                    1 => random.random_range(0..128),
                    _ => *pick(random, &[0, u64::MAX, i64::MAX as u64, 1 << 31, 1 << 40]),
                };
                if let Some(cells) = header.get_mut(place..place + width) {
                    cells.copy_from_slice(&word.to_le_bytes()[..width]);
                }
            }
            messages[at].data_header = header.into();
        }
        6 => {
            let mut body = messages[at].data_body.to_vec();
            change_bytes(random, &mut body);
            messages[at].data_body = body.into();
        }
        _ => {}
    }
    Call { method: "DoPut", messages: messages.iter().map(Message::encode_to_vec).collect() }
}

/// A call, mostly with one or more defects.
fn odd_call(random: &mut StdRng, puts: &[Vec<FlightData>]) -> Call {
    let mut text = |values: &[Value]| {
        let mut value = pick(random, values).clone();
        for _ in 0..random.random_range(0..3) {
            change_json(random, &mut value);
        }
        let mut bytes = value.to_string().into_bytes();
        if random.random_bool(0.15) {
            change_bytes(random, &mut bytes);
        }
        bytes
    };
    let query = text(&queries());
    let descriptor = |random: &mut StdRng| match random.random_range(0..4) {
        0 => FlightDescriptor::new_path((0..random.random_range(0..6)).map(|_| odd_text(random)).collect()),
        1 => FlightDescriptor { r#type: random.random_range(-1..4), cmd: query.clone().into(), path: vec![KEY.into()] },
        _ => FlightDescriptor::new_cmd(query.clone()),
    };
    let mut made = match random.random_range(0..26) {
        20.. => odd_sql(random, puts),
        0..4 => call("DoGet", &Ticket { ticket: query.into() }),
        4 | 5 => call("GetFlightInfo", &descriptor(random)),
        6 => call("GetSchema", &descriptor(random)),
        7 => call("ListFlights", &Criteria { expression: odd_text(random).into() }),
        8..12 => {
            let (name, _) = pick(random, &ACTIONS);
            // Actions on the whole store take longest.
            let name = if ["verify", "compact"].contains(name) && random.random_bool(0.9) { "inventory" } else { name };
            let mut body = action_body(name);
            for _ in 0..random.random_range(0..3) {
                change_json(random, &mut body);
            }
            let r#type = if random.random_bool(0.05) { odd_text(random) } else { name.to_owned() };
            call("DoAction", &Action { r#type, body: body.to_string().into() })
        }
        12..18 => {
            let good = pick(random, puts);
            odd_put(random, good)
        }
        18 => call("Handshake", &HandshakeRequest { protocol_version: random.random(), payload: query.into() }),
        _ => {
            let method = if random.random_bool(0.2) { "Nothing" } else { *pick(random, &METHODS) };
            call(method, &descriptor(random))
        }
    };
    if random.random_bool(0.3) && !made.messages.is_empty() {
        let at = random.random_range(0..made.messages.len());
        change_proto(random, &mut made.messages[at]);
    }
    made
}

/// The body of a call: each message after its five-byte prefix.
fn framed(random: &mut StdRng, call: &Call) -> Bytes {
    let mut body = Vec::new();
    for message in &call.messages {
        body.push(u8::from(random.random_bool(0.003)));
        let lie = random.random_bool(0.01);
        let length = if lie { *pick(random, &[0, 1, u32::MAX, 1 << 30]) } else { message.len() as u32 };
        body.extend(length.to_be_bytes());
        body.extend(message);
    }
    if random.random_bool(0.1) {
        change_bytes(random, &mut body);
    }
    body.into()
}

/// Headers with a token, mostly a valid one.
fn headers(random: &mut StdRng, tokens: &[String]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    let token = pick(random, tokens);
    let mut value = match random.random_range(0..10) {
        0 => access::basic_header("user", token).into_bytes(),
        1 => odd_text(random).into_bytes(),
        _ => access::bearer_header(token).into_bytes(),
    };
    if random.random_bool(0.05) {
        change_bytes(random, &mut value);
    }
    if let Ok(value) = http::HeaderValue::from_bytes(&value) {
        headers.insert("authorization", value);
    }
    if random.random_bool(0.02) {
        let odd = *pick(
            random,
            &["fastk-session=CgZzeXN0ZW0", "fastk-session=////", "fastk-session", "a=b; fastk-session=%"],
        );
        headers.insert("cookie", http::HeaderValue::from_static(odd));
    }
    if random.random_bool(0.02) {
        let shape: &&str = pick(random, &["float64", "stored", "roman", ""]);
        headers.insert("fastk-numbers", http::HeaderValue::from_static(shape));
    }
    if random.random_bool(0.02) {
        let odd = *pick(random, &["0n", "1S", "99999999H", "x", ""]);
        headers.insert("grpc-timeout", http::HeaderValue::from_static(odd));
    }
    if random.random_bool(0.01) {
        headers.insert("grpc-encoding", http::HeaderValue::from_static("gzip"));
    }
    headers
}

type Body = tonic::body::Body;

/// A Flight service without a listener: calls are bytes, and responses are collected.
struct InProcess(BoxCloneService<http::Request<Body>, http::Response<Body>, Infallible>);

impl InProcess {
    /// Handles a call of a method: the headers of the response merged with its trailers, and the bytes between them; or
    /// the status that aborted the response.
    async fn call(
        &self,
        method: &str,
        headers: http::HeaderMap,
        body: Bytes,
    ) -> Result<(http::HeaderMap, Bytes), tonic::Status> {
        let mut request = http::Request::new(Body::new(Full::new(body)));
        let path = format!("/arrow.flight.protocol.FlightService/{method}");
        *request.uri_mut() = path.parse().map_err(|_| tonic::Status::unimplemented("no method"))?;
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = headers;
        let response = self.0.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let mut merged = parts.headers;
        merged.extend(collected.trailers().cloned().unwrap_or_default());
        Ok((merged, collected.to_bytes()))
    }
}

/// A Flight service over a store with a few rows in chunks and in the tail, a snapshot and tokens.
struct World {
    face: InProcess,
    tokens: Vec<String>,
    service: Arc<Service>,
    root: tempfile::TempDir,
}

async fn world() -> World {
    let root = tempfile::tempdir().unwrap();
    let make = |scope, prefixes: &[String]| access::create(root.path(), "t", scope, prefixes).unwrap().token;
    let limited = make(Scope::Write, &["kline/BTC".to_owned()]);
    let tokens = vec![make(Scope::Admin, &[]), make(Scope::Admin, &[]), limited, make(Scope::Read, &[])];
    let options =
        StoreOptions { durability: Durability::None, background_maintenance: false, ..StoreOptions::default() };
    let service = Service::open(root.path(), true, options).unwrap();
    let gate = Arc::new(Authenticator::open(root.path()).unwrap());
    let face = InProcess(BoxCloneService::new(without_listener(service.clone(), gate, &FlightSettings::default())));
    let world = World { face, tokens, service, root };
    let spec = json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    let act = |name: &str, body: Value| call("DoAction", &Action::new(name, Bytes::from(body.to_string())));
    let put = |minutes: std::ops::Range<i64>| Call {
        method: "DoPut",
        messages: put_messages(path(KEY), &[klines(minutes, 0)]).iter().map(Message::encode_to_vec).collect(),
    };
    let steps = [
        act("register_series", spec),
        act("register_series", action_body("register_series")),
        put(0..300),
        act("compact", json!({"series": [KEY]})),
        act("create_snapshot", json!({"name": "s"})),
        put(290..310),
    ];
    for step in steps {
        let reply = world.plainly(&step).await;
        assert_eq!(reply.get("grpc-status").unwrap(), "0", "{step:?} {reply:?}");
    }
    world
}

impl World {
    /// A valid call.
    async fn plainly(&self, call: &Call) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        headers.insert("authorization", access::bearer_header(&self.tokens[0]).parse().unwrap());
        let frames = call
            .messages
            .iter()
            .flat_map(|message| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat());
        let (mut reply, _) = self.face.call(call.method, headers, frames.collect()).await.unwrap();
        reply.entry("grpc-status").or_insert(http::HeaderValue::from_static("0"));
        reply
    }
}

/// Prints the call in progress when it takes too long, and exits the process.
struct Watchdog {
    now: Arc<Mutex<(Instant, String)>>,
    is_over: Arc<AtomicBool>,
}

impl Watchdog {
    fn start() -> Self {
        let now = Arc::new(Mutex::new((Instant::now(), String::new())));
        let is_over = Arc::new(AtomicBool::new(false));
        let (watched, over) = (now.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let (since, what) = watched.lock().unwrap().clone();
                if !what.is_empty() && since.elapsed() > CALL_MAX {
                    eprintln!("a call takes more than {} s: {what}", CALL_MAX.as_secs());
                    std::process::abort();
                }
            }
        });
        Self { now, is_over }
    }

    fn begin(&self, what: String) {
        *self.now.lock().unwrap() = (Instant::now(), what);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Resident memory of this process in bytes.
pub fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// The panics of this process, including caught ones: no request may cause one.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records the panics of this process from now on.
pub fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            usual(info);
            PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
        }));
    });
}

#[track_caller]
pub fn assert_no_panic(replay: &str) {
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(panics.is_empty(), "{panics:#?}; {replay}");
}

#[test]
fn flight_fuzz() {
    watch_panics();
    let proof = Proof::new("flight_fuzz", STATED);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let puts = vec![
        put_messages(path(KEY), &[klines(0..3, 0)]),
        put_messages(path(KEY), &[klines(5..9, 7), klines(300..330, 1), klines(2..4, 2)]),
    ];
    let watchdog = Watchdog::start();
    let (mut done, mut refused, mut taken) = (0, 0_u64, 0_u64);
    let (mut first, mut most) = (0, 0);
    while proof.continues(done) {
        let world = runtime.block_on(world());
        for _ in 0..WORLD_CALLS {
            if !proof.continues(done) {
                break;
            }
            let mut random = StdRng::seed_from_u64(proof.seed.wrapping_mul(1 << 40).wrapping_add(done));
            let odd = odd_call(&mut random, &puts);
            let (body, who) = (framed(&mut random, &odd), headers(&mut random, &world.tokens));
            watchdog.begin(format!("{}; {} {who:?} {body:?}", proof.replay(done), odd.method));
            let outcome = runtime.block_on(world.face.call(odd.method, who, body));
            let code = match &outcome {
                Ok((reply, _)) => reply.get(CODE_KEY).map(|code| code.to_str().unwrap().to_owned()),
                Err(status) => status.metadata().get(CODE_KEY).map(|code| code.to_str().unwrap().to_owned()),
            };
            assert_no_panic(&proof.replay(done));
            let blame = ["internal", "io", "corrupt_data", "writer_stopped", "store_locked", "storage_full"];
            assert!(
                code.as_deref().is_none_or(|code| !blame.contains(&code)),
                "{odd:?} is answered {code:?}; {}",
                proof.replay(done)
            );
            let status = outcome.as_ref().ok().and_then(|(reply, _)| reply.get("grpc-status").cloned());
            let is_taken = outcome.is_ok() && status.is_none_or(|status| status == "0");
            if is_taken {
                taken += 1
            } else {
                refused += 1
            }
            done += 1;
        }
        watchdog.begin(String::new());
        // The store is intact and serves requests.
        let listed = runtime.block_on(world.plainly(&call("DoAction", &Action::new("inventory", Bytes::new()))));
        assert_eq!(listed.get("grpc-status").unwrap(), "0", "{}", proof.replay(done));
        let report = world.service.verify(&fastk::service::TaskControl::new()).unwrap();
        assert!(report.clean, "{:?}; {}", report.findings, proof.replay(done));
        let World { face, service, root, .. } = world;
        drop((face, service, root));
        most = most.max(resident());
        if first == 0 {
            first = resident();
        }
        assert!(resident() < first + GROWTH_BYTES_MAX, "{first} bytes became {}; {}", resident(), proof.replay(done));
    }
    assert!(
        taken > done / 100 && refused > done / 10,
        "{taken} taken, {refused} refused: the changes are too few or many"
    );
    let mib = |bytes: u64| bytes >> 20;
    proof.close(format!(
        "{done} calls, {refused} refused, {taken} taken, no panic, {} MiB after the first store, {} MiB at most",
        mib(first),
        mib(most)
    ));
}
