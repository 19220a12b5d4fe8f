//! The limits of the Flight listener: at a limit calls fail with its code, below it they succeed.

use std::time::Duration;

use arrow_flight::{Action, Ticket};
use fastk::access;
use fastk::disk::DiskPath;
use fastk::server::flight::FlightSettings;
use fastk::service::Scope;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use super::*;
use crate::hooked_disk::Stalling;

/// A server with these limits of operations.
pub async fn within(root: tempfile::TempDir, config: FlightSettings, limits: ServiceLimits) -> Running {
    let service = Service::open(root.path(), true, StoreOptions::default()).unwrap();
    limited(service, root, config, limits).await
}

/// A server with these limits over an open store.
async fn limited(
    service: Arc<Service>,
    root: tempfile::TempDir,
    config: FlightSettings,
    limits: ServiceLimits,
) -> Running {
    service.set_limits(limits);
    let gate = Arc::new(fastk::access::Authenticator::open(root.path()).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(flight::serve(listener, service, gate, config, Tls::off(), async {
        let _ = stopped.await;
    }));
    Running { address, stop, served, root }
}

/// Starts a put that is idle after its first batch, and waits for its acknowledgement.
async fn open_put(
    client: &mut Client,
) -> (tokio::sync::mpsc::Sender<FlightData>, tonic::Streaming<arrow_flight::PutResult>) {
    let (send, receive) = tokio::sync::mpsc::channel(4);
    for message in put_messages(path(KEY), &[klines(0..3, 0)]) {
        send.send(message).await.unwrap();
    }
    let mut acks = client.do_put(tokio_stream::wrappers::ReceiverStream::new(receive)).await.unwrap().into_inner();
    acks.message().await.unwrap().unwrap();
    (send, acks)
}

async fn failed_put(client: &mut Client) -> Status {
    let (replies, failed) = send(client, stream::iter(put_messages(path(KEY), &[klines(5..6, 0)]))).await;
    assert!(replies.is_empty());
    failed.expect("the put was accepted")
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_have_a_limit_and_idle_ones_are_ended() {
    let config = FlightSettings { puts_max: 1, put_idle_timeout_ms: 5_000, ..FlightSettings::default() };
    let server = Running::with(config).await;
    let mut client = registered(&server).await;
    let (held, mut acks) = open_put(&mut client).await;
    let status = failed_put(&mut client).await;
    assert_eq!((code_of(&status), status.code()), ("overloaded", Code::Unavailable));
    let status = acks.message().await.unwrap_err();
    assert_eq!((code_of(&status), status.code()), ("request_timeout", Code::DeadlineExceeded));
    drop(held);
    // Its permit is released, and the acknowledged rows are stored.
    put(&mut client, &[klines(3..4, 0)]).await;
    assert_eq!(all(&mut client).await.num_rows(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_its_ticket_ends_and_takes_no_permit_of_a_reader() {
    let config = FlightSettings { gets_max: 1, message_timeout_ms: 2_000, ..FlightSettings::default() };
    let server = Running::with(config).await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..10, 0)]).await;
    // A call of DoGet whose message never arrives.
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Ticket, FlightData>::default();
    let target = http::uri::PathAndQuery::from_static("/arrow.flight.protocol.FlightService/DoGet");
    let waiting =
        tokio::spawn(
            async move { grpc.streaming(tonic::Request::new(stream::pending()), target, codec).await.map(|_| ()) },
        );
    for _ in 0..20 {
        assert_eq!(all(&mut client).await.num_rows(), 10);
    }
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(code_of(&status), "request_timeout");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_apply_per_token_and_in_total() {
    let plenty = ServiceLimits::default();
    for (limits, of_token, code) in [
        (ServiceLimits { token_streams_max: 1, ..plenty }, true, "rate_limited"),
        (ServiceLimits { streams_max: 1, ..plenty }, false, "overloaded"),
        (ServiceLimits { token_requests_max: 1, ..plenty }, true, "rate_limited"),
        (ServiceLimits { requests_max: 1, ..plenty }, false, "overloaded"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| access::create(root.path(), name, Scope::Admin, &[]).unwrap().token;
        let (one, other) = (make("one"), make("other"));
        let server = within(root, FlightSettings::default(), limits).await;
        let channel = server.channel().await;
        let client = |token: &str| {
            FlightServiceClient::with_interceptor(channel.clone(), with_header(&access::bearer_header(token)))
        };
        let spec =
            json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
        let register = Action { r#type: "register_series".into(), body: spec.to_string().into() };
        drop(client(&one).do_action(register).await.unwrap());
        // The permit of the previous call is released shortly after its result was read.
        let mut messages = put_messages(path(KEY), &[klines(0..3, 0)]).into_iter();
        let mut acks = loop {
            let (again, input) = tokio::sync::mpsc::channel(4);
            match client(&one).do_put(tokio_stream::wrappers::ReceiverStream::new(input)).await {
                Ok(acks) => break (again, acks.into_inner()),
                Err(status) => assert_eq!(code_of(&status), code),
            }
        };
        for message in messages.by_ref() {
            acks.0.send(message).await.unwrap();
        }
        acks.1.message().await.unwrap().unwrap();
        let ticket = || Ticket::new(json!({ "series": [KEY] }).to_string());
        let status = client(&one).do_get(ticket()).await.map(|_| ()).unwrap_err();
        let grpc = if of_token { Code::ResourceExhausted } else { Code::Unavailable };
        assert_eq!((code_of(&status), status.code()), (code, grpc));
        let of_other = client(&other).do_get(ticket()).await.map(|_| ());
        assert_eq!(of_other.is_ok(), of_token, "{code}");
        drop(acks);
        let deadline = Instant::now() + Duration::from_secs(60);
        while client(&one).do_get(ticket()).await.is_err() {
            assert!(Instant::now() < deadline, "the permit was not released");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(channel);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_deeply_nested_json_is_refused_in_tickets_descriptors_commands_and_actions() {
    let root = tempfile::tempdir().unwrap();
    let server =
        within(root, FlightSettings::default(), ServiceLimits { json_depth_max: 8, ..ServiceLimits::default() }).await;
    let mut client = registered(&server).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let query = |levels: usize| format!(r#"{{"series":{}}}"#, deep(levels));
    for (levels, code) in [(8, "too_large"), (50_000, "too_large"), (7, "invalid_argument")] {
        let text = query(levels);
        assert_eq!(code_of(&client.do_get(Ticket::new(text.clone())).await.unwrap_err()), code);
        let descriptor = || FlightDescriptor::new_cmd(text.clone());
        assert_eq!(code_of(&client.get_flight_info(descriptor()).await.unwrap_err()), code);
        assert_eq!(code_of(&client.get_schema(descriptor()).await.unwrap_err()), code);
        let (_, failed) = send(&mut client, stream::iter(put_messages(descriptor(), &[klines(0..1, 0)]))).await;
        assert_eq!(code_of(&failed.unwrap()), code);
        for (name, _) in ACTIONS
            .iter()
            .filter(|(name, _)| !["list_snapshots", "list_kinds", "list_queries", "health"].contains(name))
        {
            let action = Action::new(*name, Bytes::from(text.clone()));
            assert_eq!(code_of(&client.do_action(action).await.unwrap_err()), code, "{name}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_over_the_time_limit_is_cancelled_and_releases_its_permit() {
    let root = {
        let server = Running::start().await;
        let mut client = registered(&server).await;
        put(&mut client, &[klines(0..50_000, 0)]).await;
        act(&mut client, "compact", json!({"series": [KEY]})).await.unwrap();
        drop(client);
        server.stop().await
    };
    let limits = ServiceLimits { request_timeout_ms: 200, streams_max: 1, ..ServiceLimits::default() };
    let stalling = Stalling::default();
    let service = Service::open_on(&DiskPath::new(stalling.disk(), root.path()), true, StoreOptions::default());
    let server = limited(service.unwrap(), root, FlightSettings::default(), limits).await;
    let mut client = server.client().await;
    let slow = json!({"series": [KEY], "where": [{"column": "close", "op": "in", "value": [1, 2]}, {"column": "open", "op": "ne", "value": 1}]});
    stalling.stall(true);
    assert_code(get(&mut client, slow.clone()).await, "deadline_exceeded");
    // The work still runs and holds its permit.
    let short = json!({"series": [KEY], "latest": 1});
    assert_code(get(&mut client, short.clone()).await, "overloaded");
    // Once it stopped, another call gets the only permit.
    stalling.stall(false);
    let deadline = Instant::now() + Duration::from_secs(60);
    while get(&mut client, short.clone()).await.is_err() {
        assert!(Instant::now() < deadline, "the permit was not released");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(client);
    let server = Running::over(server.stop().await, FlightSettings::default()).await;
    assert_eq!(get(&mut server.client().await, slow).await.unwrap().num_rows(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_connection_is_closed_for_a_new_one() {
    let server = Running::with(FlightSettings {
        connections_max: 3,
        handshake_timeout_ms: 3_600_000,
        ..FlightSettings::default()
    })
    .await;
    let address = server.address.trim_start_matches("http://").to_owned();
    let mut client = registered(&server).await;
    let (held, mut acks) = open_put(&mut client).await;
    // Silent connections, and one that is idle after the handshake.
    let mut silent = Vec::new();
    for position in 0..20 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if position % 3 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        }
        silent.push(stream);
    }
    let mut newcomer = server.client().await;
    assert_eq!(all(&mut newcomer).await.num_rows(), 3);
    let mut heard = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), silent[0].read_to_end(&mut heard)).await;
    assert!(closed.is_ok(), "the oldest idle connection is still open");
    // The put was active all the time.
    held.send(put_messages(path(KEY), &[klines(3..4, 0)]).remove(1)).await.unwrap();
    acks.message().await.unwrap().unwrap();
    drop((held, silent));
    server.stop().await;
}
