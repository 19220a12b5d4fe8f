//! Arrow Flight through a real server on loopback, with a store in a temporary folder.

#[path = "flight/fuzz.rs"]
mod fuzz;
#[path = "shared/hooked_disk.rs"]
mod hooked_disk;
#[path = "flight/limits.rs"]
mod limits;
#[path = "shared/proof_amount.rs"]
mod proof_amount;
#[path = "flight/sql.rs"]
mod sql;
#[path = "flight/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, Decimal64Array, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::utils::{batches_to_flight_data, flight_data_to_batches};
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
};
use bytes::Bytes;
use fastk::server::flight::{
    self, ACKS_QUEUED_MAX, ACTIONS, CODE_KEY, FlightSettings, METHODS, PROBLEM_KEY, SQL_ACTIONS, UNIMPLEMENTED_METHODS,
};
use fastk::server::tls_stream::Tls;
use fastk::service::{InventoryRow, Service, ServiceLimits, StoreOptions, WriteReply};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The allocator of the program: that of the system keeps memory of threads that ended, which proofs of bounded memory
/// would take for growth.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Client = FlightServiceClient<Channel>;

/// 2024-02-01T00:00:00Z.
const T0: i64 = 1_706_745_600_000;
const MINUTE: i64 = 60_000;
const KEY: &str = "kline/BTCUSDT/1m";

/// A server over a store in a temporary folder.
struct Running {
    address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<fastk::Result<()>>,
    root: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::with(FlightSettings::default()).await
    }

    async fn with(config: FlightSettings) -> Self {
        Self::over(tempfile::tempdir().unwrap(), config).await
    }

    async fn over(root: tempfile::TempDir, config: FlightSettings) -> Self {
        Self::over_store(root, config, StoreOptions::default()).await
    }

    async fn over_store(root: tempfile::TempDir, config: FlightSettings, options: StoreOptions) -> Self {
        let clock = options.clock.clone();
        let service = Service::open(root.path(), true, options).unwrap();
        let gate = Arc::new(fastk::access::Authenticator::with_clock(root.path(), clock).unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(flight::serve(listener, service, gate, config, Tls::off(), async {
            let _ = stopped.await;
        }));
        Self { address, stop, served, root }
    }

    async fn client(&self) -> Client {
        Client::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }

    /// Stops the server and returns its store.
    async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
        self.root
    }
}

/// A client with a kline series of two price digits and four of volume.
async fn registered(server: &Running) -> Client {
    let mut client = server.client().await;
    register(&mut client, KEY).await;
    client
}

async fn register(client: &mut Client, key: &str) {
    let parts: Vec<&str> = key.split('/').collect();
    let spec =
        json!({"kind": "kline", "symbol": parts[1], "timeframe": parts[2], "price_digits": 2, "volume_digits": 4});
    act(client, "register_series", spec).await.unwrap();
}

fn kline_schema() -> SchemaRef {
    let mut fields = vec![Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)];
    for name in ["open", "high", "low", "close"] {
        fields.push(Field::new(name, DataType::Decimal64(18, 2), false));
    }
    fields.push(Field::new("volume", DataType::Decimal64(18, 4), false));
    Arc::new(Schema::new(fields))
}

fn decimals(words: Vec<i64>, digits: i8) -> Arc<Decimal64Array> {
    Arc::new(Decimal64Array::from(words).with_precision_and_scale(18, digits).unwrap())
}

/// Klines at these minutes after [`T0`]; every cell is derived from its minute and `salt`.
fn klines(minutes: impl IntoIterator<Item = i64>, salt: i64) -> RecordBatch {
    let minutes: Vec<i64> = minutes.into_iter().collect();
    let price = |add: i64| minutes.iter().map(|m| 4_200_000 + m * 7 + salt + add).collect::<Vec<_>>();
    let ts: Vec<i64> = minutes.iter().map(|m| T0 + m * MINUTE).collect();
    RecordBatch::try_new(
        kline_schema(),
        vec![
            Arc::new(TimestampMillisecondArray::from(ts).with_timezone("UTC")),
            decimals(price(1), 2),
            decimals(price(5), 2),
            decimals(price(-5), 2),
            decimals(price(2), 2),
            decimals(minutes.iter().map(|m| m * 10_001).collect(), 4),
        ],
    )
    .unwrap()
}

/// The messages of a put.
fn put_messages(descriptor: FlightDescriptor, batches: &[RecordBatch]) -> Vec<FlightData> {
    let mut messages = batches_to_flight_data(&kline_schema(), batches.to_vec()).unwrap();
    messages[0].flight_descriptor = Some(descriptor);
    messages
}

fn path(key: &str) -> FlightDescriptor {
    FlightDescriptor::new_path(key.split('/').map(Into::into).collect())
}

fn command(value: Value) -> FlightDescriptor {
    FlightDescriptor::new_cmd(value.to_string())
}

fn reply(result: arrow_flight::PutResult) -> WriteReply {
    serde_json::from_slice(&result.app_metadata).unwrap()
}

/// Sends a put and reads every acknowledgement, and the error status if there is one.
async fn send(
    client: &mut Client,
    messages: impl Stream<Item = FlightData> + Send + 'static,
) -> (Vec<WriteReply>, Option<Status>) {
    let mut acks = match client.do_put(messages).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut replies = Vec::new();
    loop {
        match acks.message().await {
            Ok(Some(result)) => replies.push(reply(result)),
            Ok(None) => return (replies, None),
            Err(status) => return (replies, Some(status)),
        }
    }
}

async fn put(client: &mut Client, batches: &[RecordBatch]) -> Vec<WriteReply> {
    let (replies, failed) = send(client, stream::iter(put_messages(path(KEY), batches))).await;
    assert!(failed.is_none(), "{failed:?}");
    replies
}

async fn get_ticket(client: &mut Client, ticket: Ticket) -> Result<Vec<RecordBatch>, Status> {
    let messages: Vec<FlightData> = client.do_get(ticket).await?.into_inner().try_collect().await?;
    Ok(flight_data_to_batches(&messages).unwrap())
}

async fn get(client: &mut Client, query: Value) -> Result<RecordBatch, Status> {
    let messages: Vec<FlightData> =
        client.do_get(Ticket::new(query.to_string())).await?.into_inner().try_collect().await?;
    let schema = Arc::new(Schema::try_from(&messages[0]).unwrap());
    let batches = flight_data_to_batches(&messages).unwrap();
    Ok(arrow::compute::concat_batches(&schema, &batches).unwrap())
}

/// All rows of the series.
async fn all(client: &mut Client) -> RecordBatch {
    get(client, json!({"series": [KEY]})).await.unwrap()
}

/// Compares columns only: the schema of a result also has its version.
fn assert_same_rows(found: &RecordBatch, expected: &RecordBatch) {
    assert_eq!(found.schema().fields(), expected.schema().fields());
    assert_eq!(found.columns(), expected.columns());
}

async fn act(client: &mut Client, name: &str, body: Value) -> Result<Value, Status> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let results: Vec<_> = client.do_action(Action::new(name, body)).await?.into_inner().try_collect().await?;
    Ok(serde_json::from_slice(&results[0].body).unwrap())
}

fn code_of(status: &Status) -> &str {
    status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok()).unwrap_or("none")
}

fn problem_of(status: &Status) -> Value {
    let problem = status.metadata().get_bin(PROBLEM_KEY).expect("the status has no problem");
    serde_json::from_slice(&problem.to_bytes().unwrap()).unwrap()
}

#[track_caller]
fn assert_code<T: std::fmt::Debug>(result: Result<T, Status>, code: &str) -> Status {
    let status = result.unwrap_err();
    assert_eq!(code_of(&status), code, "{status:?}");
    assert_eq!(problem_of(&status)["code"], code);
    assert!(status.message().starts_with(&format!("{code}: ")), "{}", status.message());
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_round_trip_exactly_from_the_log_and_from_chunks() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    // Across several blocks and a month boundary, with late and repeated rows.
    let first = klines(0..40_000, 0);
    let late = klines(39_000..41_000, 300);
    let acks = put(&mut client, &[first.clone(), late.clone()]).await;
    assert_eq!(acks.iter().map(|ack| ack.rows_written).collect::<Vec<_>>(), [40_000, 2_000]);
    assert_eq!(acks.iter().map(|ack| ack.rows_replaced).collect::<Vec<_>>(), [0, 1_000]);
    assert!(acks.iter().all(|ack| ack.durable && ack.series.as_str() == KEY));
    assert!(acks[0].commit < acks[1].commit);

    let expected = arrow::compute::concat_batches(&kline_schema(), &[first.slice(0, 39_000), late]).unwrap();
    assert_same_rows(&all(&mut client).await, &expected);
    act(&mut client, "compact", Value::Null).await.unwrap();
    let stored = &act(&mut client, "inventory", Value::Null).await.unwrap()["series"][0];
    assert_eq!((&stored["rows"], &stored["tail_rows"]), (&json!(41_000), &json!(0)));
    assert_same_rows(&all(&mut client).await, &expected);

    // New rows over old chunks.
    put(&mut client, &[klines(100..200, 900)]).await;
    let expected = arrow::compute::concat_batches(
        &kline_schema(),
        &[expected.slice(0, 100), klines(100..200, 900), expected.slice(200, 40_800)],
    )
    .unwrap();
    assert_same_rows(&all(&mut client).await, &expected);

    let (start, end) = (T0 + 90 * MINUTE, T0 + 20_000 * MINUTE);
    let range = get(&mut client, json!({"series": [KEY], "start": start, "end": end})).await.unwrap();
    assert_same_rows(&range, &expected.slice(90, 20_000 - 90 + 1));
    let latest = get(&mut client, json!({"series": [KEY], "latest": 3})).await.unwrap();
    assert_same_rows(&latest, &expected.slice(40_997, 3));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_order_and_numbers_are_as_requested() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..20_000, 0)]).await;
    for sealed in [false, true] {
        if sealed {
            act(&mut client, "compact", json!({"series": [KEY]})).await.unwrap();
        }
        let falling =
            get(&mut client, json!({"series": [KEY], "order": "desc", "columns": ["close"], "limit": 17_000}))
                .await
                .unwrap();
        assert_eq!(falling.num_columns(), 2);
        let ts = falling.column(0).as_any().downcast_ref::<TimestampMillisecondArray>().unwrap();
        let expected: Vec<i64> = (3_000..20_000).rev().map(|m| T0 + m * MINUTE).collect();
        assert_eq!(ts.values(), expected.as_slice());

        let query = |numbers: &str| json!({"series": [KEY], "columns": ["close", "volume"], "numbers": numbers});
        let raw = get(&mut client, query("raw")).await.unwrap();
        let raw = raw.column(1).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
        assert_eq!(raw, (0..20_000).map(|m| 4_200_002 + m * 7).collect::<Vec<_>>());
        let doubles = get(&mut client, query("float64")).await.unwrap();
        let doubles = doubles.column(1).as_any().downcast_ref::<Float64Array>().unwrap();
        for (raw, double) in raw.iter().zip(doubles.values()) {
            assert_eq!(*double, format!("{}.{:02}", raw / 100, raw % 100).parse::<f64>().unwrap());
        }
        let wide = get(&mut client, query("decimal128")).await.unwrap();
        assert_eq!(wide.schema().field(2).data_type(), &DataType::Decimal128(18, 4));
        let text = get(&mut client, query("string")).await.unwrap();
        let text = text.column(1).as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
        assert_eq!((text.value(0), text.value(19_999)), ("42000.02", "43399.95"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_sent_even_if_no_row_matches() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    for _ in 0..2 {
        let none =
            get(&mut client, json!({"series": [KEY], "start": "1999-01-01", "end": "1999-01-02"})).await.unwrap();
        assert_eq!(none.num_rows(), 0);
        assert_eq!(none.schema().fields(), kline_schema().fields());
        let schema = none.schema();
        assert_eq!(schema.metadata()["fastk.series"], KEY);
        assert!(schema.metadata().contains_key("fastk.version") && schema.metadata().contains_key("fastk.commit"));
        put(&mut client, &[klines(0..10, 0)]).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_is_exact_and_its_tickets_stay_at_their_commit() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..30_000, 0)]).await;
    act(&mut client, "compact", Value::Null).await.unwrap();
    put(&mut client, &[klines(30_000..30_100, 0)]).await;
    let before = all(&mut client).await;

    let whole = client.get_flight_info(path(KEY)).await.unwrap().into_inner();
    assert_eq!(whole.flight_descriptor, Some(path(KEY)));
    assert_eq!((whole.total_records, whole.ordered, whole.endpoint.len()), (30_100, true, 1));
    assert!(whole.total_bytes >= 30_100 * 48);
    let request = command(json!({"series": [KEY], "endpoints": 4, "columns": ["close"]}));
    let split = client.get_flight_info(request.clone()).await.unwrap().into_inner();
    assert_eq!(split.flight_descriptor, Some(request.clone()));
    assert_eq!((split.total_records, split.endpoint.len()), (30_100, 4));

    // The store changes, the tickets do not.
    put(&mut client, &[klines(0..31_000, 5_000)]).await;
    act(&mut client, "compact", Value::Null).await.unwrap();
    let tickets = |info: &FlightInfo| {
        let endpoints = info.endpoint.clone();
        assert!(endpoints.iter().all(|endpoint| endpoint.location.is_empty()));
        endpoints.into_iter().map(|endpoint| endpoint.ticket.unwrap()).collect::<Vec<_>>()
    };
    let again = get_ticket(&mut client, tickets(&whole).remove(0)).await.unwrap();
    assert_same_rows(&arrow::compute::concat_batches(&kline_schema(), &again).unwrap(), &before);
    let mut parts = Vec::new();
    for ticket in tickets(&split) {
        let part = get_ticket(&mut client, ticket).await.unwrap();
        assert!(!part.is_empty());
        parts.extend(part);
    }
    let whole = arrow::compute::concat_batches(&parts[0].schema(), &parts).unwrap();
    assert_same_rows(&whole, &before.project(&[0, 4]).unwrap());

    let schema = client.get_schema(request).await.unwrap().into_inner();
    let schema = Schema::try_from(IpcMessage(schema.schema)).unwrap();
    assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["ts", "close"]);
    server.stop().await;
}

/// Bytes of the buffers of a result, counting each dictionary once.
fn bytes_of(batches: &[RecordBatch]) -> usize {
    let words = batches.first().into_iter().flat_map(RecordBatch::columns).filter_map(|column| {
        let words = column.as_dictionary_opt::<arrow::datatypes::Int32Type>()?.values().as_string::<i32>();
        Some(words.iter().flatten().map(|word| word.len() + 4).sum::<usize>() + 4)
    });
    let cells = batches.iter().flat_map(|batch| batch.columns().iter().map(move |column| (batch.num_rows(), column)));
    let width = |kind: &DataType| match kind {
        DataType::Dictionary(..) => 4,
        kind => kind.primitive_width().unwrap(),
    };
    words.sum::<usize>() + cells.map(|(rows, column)| rows * width(column.data_type())).sum::<usize>()
}

#[tokio::test(flavor = "multi_thread")]
async fn info_has_the_bytes_of_the_result_or_none() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    register(&mut client, "kline/A-RATHER-LONG-NAME/1m").await;
    put(&mut client, &[klines(0..1_000, 0)]).await;
    let lists = json!([KEY, "kline/A-RATHER-LONG-NAME/1m"]);
    for query in [
        json!({"series": [KEY]}),
        json!({"series": [KEY], "numbers": "decimal128", "columns": ["close"]}),
        json!({"series": lists}),
        json!({"series": ["kline/*/1m"], "layout": "by_time", "columns": ["close"]}),
        json!({"series": [KEY], "numbers": "string", "columns": []}),
    ] {
        let info = client.get_flight_info(command(query.clone())).await.unwrap().into_inner();
        let stream = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap().into_inner();
        let stream = FlightRecordBatchStream::new_from_flight_data(stream.map_err(Into::into));
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!((info.total_records, info.total_bytes), (rows as i64, bytes_of(&batches) as i64), "{query}");
    }
    let text = command(json!({"series": [KEY], "numbers": "string"}));
    let info = client.get_flight_info(text).await.unwrap().into_inner();
    assert_eq!((info.total_records, info.total_bytes), (1_000, -1), "the size of text is unknown before it is encoded");
    // Endpoints of an empty range return no rows.
    for range in [
        json!({"series": [KEY], "end": "2000-01-01", "endpoints": 4}),
        json!({"series": [KEY], "start": "2024-02-01T00:00:00.0001Z", "end": "2024-02-01T00:00:00.0002Z", "endpoints": 4}),
    ] {
        let info = client.get_flight_info(command(range.clone())).await.unwrap().into_inner();
        assert_eq!(info.total_records, 0, "{range}");
        for endpoint in info.endpoint {
            let batches = get_ticket(&mut client, endpoint.ticket.unwrap()).await.unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "{range}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_has_statistics_and_acknowledgements_mark_repeats() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let once = command(json!({"series": KEY, "idempotency_key": "k"}));
    for replayed in [false, true] {
        let messages = put_messages(once.clone(), &[klines(0..10, 0), klines(10..20, 0)]);
        let stream = client.do_put(futures::stream::iter(messages)).await.unwrap().into_inner();
        let acks: Vec<_> = stream.try_collect().await.unwrap();
        assert_eq!(acks.len(), 2);
        for ack in acks {
            let ack: Value = serde_json::from_slice(&ack.app_metadata).unwrap();
            assert_eq!((&ack["idempotency_replayed"], &ack["rows_written"]), (&replayed.into(), &10.into()));
        }
    }
    for explain in [true, false] {
        let query =
            json!({"series": [KEY], "where": [{"column": "close", "op": "gt", "value": 0}], "explain": explain});
        let ticket = Ticket::new(query.to_string());
        let messages: Vec<FlightData> = client.do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
        let last = messages.last().unwrap();
        assert_eq!(last.data_header.is_empty(), explain);
        if explain {
            let stats: Value = serde_json::from_slice(&last.app_metadata).unwrap();
            assert_eq!((&stats["stats"]["rows_checked"], &stats["stats"]["rows_matched"]), (&20.into(), &20.into()));
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_listed_with_its_schema_counts_and_inventory() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    // More than one page.
    let spec = |n: usize| json!({"kind": "scalar", "category": "feature", "symbol": format!("S{n:04}"), "timeframe": "1m", "name": "rsi"});
    for n in 0..1_001 {
        act(&mut client, "register_series", spec(n)).await.unwrap();
    }
    put(&mut client, &[klines(0..50, 0)]).await;
    let list = |client: &mut Client, prefix: &str| {
        let criteria = Criteria { expression: Bytes::from(prefix.to_string()) };
        let mut client = client.clone();
        async move { client.list_flights(criteria).await.unwrap().into_inner().try_collect::<Vec<FlightInfo>>().await }
    };
    let infos = list(&mut client, "").await.unwrap();
    assert_eq!(infos.len(), 1_002);
    let infos = list(&mut client, "kline/").await.unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!((infos[0].total_records, &infos[0].flight_descriptor), (50, &Some(path(KEY))));
    let row: InventoryRow = serde_json::from_slice(&infos[0].app_metadata).unwrap();
    assert_eq!((row.rows, row.tail_rows, row.first_ts), (50, 50, Some(T0)));
    let schema = Schema::try_from(IpcMessage(infos[0].schema.clone())).unwrap();
    assert_eq!(schema.fields(), kline_schema().fields());
    let ticket = infos[0].endpoint[0].ticket.clone().unwrap();
    assert_eq!(get_ticket(&mut client, ticket).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 50);
    assert_eq!(list(&mut client, "nothing/").await.unwrap().len(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_do_the_same_as_the_operations() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let listed: Vec<_> = client.list_actions(Empty {}).await.unwrap().into_inner().try_collect().await.unwrap();
    let listed: Vec<String> = listed.into_iter().map(|action| action.r#type).collect();
    let (own, of_sql) = listed.split_at(ACTIONS.len());
    assert_eq!(own, ACTIONS.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    assert_eq!(of_sql, SQL_ACTIONS.map(|(name, _)| name));

    let spec = json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    assert_eq!(act(&mut client, "register_series", spec).await.unwrap()["created"], false);
    let other = json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 3});
    assert_code(act(&mut client, "register_series", other).await, "series_exists");

    put(&mut client, &[klines(0..100, 0)]).await;
    let delete = |body: Value| ("delete_range", body);
    let range = json!({"series": KEY, "start": T0 + 10 * MINUTE, "end": T0 + 19 * MINUTE, "dry_run": true});
    let (name, body) = delete(range.clone());
    assert_eq!(act(&mut client, name, body).await.unwrap()["rows_deleted"], 10);
    assert_eq!(all(&mut client).await.num_rows(), 100);
    let mut range = range;
    range["dry_run"] = json!(false);
    assert_eq!(act(&mut client, "delete_range", range).await.unwrap()["rows_deleted"], 10);
    assert_eq!(all(&mut client).await.num_rows(), 90);
    for body in
        [json!({"series": KEY}), json!({"series": KEY, "start": T0}), json!({"series": KEY, "start": 2, "end": 1})]
    {
        assert_code(act(&mut client, "delete_range", body).await, "invalid_argument");
    }
    let everything = json!({"series": KEY, "all": true});
    assert_eq!(act(&mut client, "delete_range", everything).await.unwrap()["rows_deleted"], 90);

    let inventory = act(&mut client, "inventory", json!({"prefix": "kline/"})).await.unwrap();
    assert_eq!(inventory["series"][0]["series"], KEY);
    assert_eq!(act(&mut client, "health", Value::Null).await.unwrap()["status"], "ok");
    assert_code(act(&mut client, "drop_series", json!({"series": KEY, "if_version": 99})).await, "commit_conflict");
    act(&mut client, "drop_series", json!({"series": KEY})).await.unwrap();
    assert_code(get(&mut client, json!({"series": [KEY]})).await, "series_not_found");
    assert_code(act(&mut client, "drop_series", json!({"series": KEY})).await, "series_not_found");
    let report = act(&mut client, "verify", Value::Null).await.unwrap();
    assert_eq!((&report["clean"], &report["findings"]), (&json!(true), &json!([])));
    assert!(report["bytes_checked"].as_u64().unwrap() > 0);
    assert_code(act(&mut client, "verify", json!({"series": [KEY]})).await, "invalid_argument");
    assert_code(act(&mut client, "compact", json!({"series": [KEY]})).await, "series_not_found");
    for name in ["scrub", "nonsense", ""] {
        let status = assert_code(act(&mut client, name, Value::Null).await, "unimplemented");
        assert_eq!(status.code(), Code::Unimplemented);
    }
    server.stop().await;
}

/// A command of a merge.
fn merge(key: &str) -> FlightDescriptor {
    command(json!({"series": KEY, "mode": "merge", "idempotency_key": key}))
}

/// One bar of the minute after [`T0`], as scaled integers.
fn open_bar([open, high, low, close]: [i64; 4], volume: i64) -> RecordBatch {
    let word = |cell: i64| decimals(vec![cell], 2);
    let ts = TimestampMillisecondArray::from(vec![T0]).with_timezone("UTC");
    let columns: Vec<Arc<dyn Array>> =
        vec![Arc::new(ts), word(open), word(high), word(low), word(close), decimals(vec![volume], 4)];
    RecordBatch::try_new(kline_schema(), columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_merges_are_applied_once() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let bars = [open_bar([100, 150, 90, 120], 10), open_bar([120, 130, 80, 85], 7), open_bar([85, 200, 85, 199], 5)];
    // The stream breaks off after two batches, and is sent again from its start.
    let (first, failed) = send(&mut client, stream::iter(put_messages(merge("k"), &bars[..2]))).await;
    assert!(failed.is_none() && first.len() == 2, "{failed:?}");
    let (again, failed) = send(&mut client, stream::iter(put_messages(merge("k"), &bars))).await;
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(again[..2], first);
    assert_same_rows(&all(&mut client).await, &open_bar([100, 200, 80, 199], 22));
    act(&mut client, "compact", Value::Null).await.unwrap();
    let root = server.stop().await;
    let server = Running::over(root, FlightSettings::default()).await;
    let mut client = server.client().await;
    let (after, failed) = send(&mut client, stream::iter(put_messages(merge("k"), &bars))).await;
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(after, again, "after a restart too");
    assert_same_rows(&all(&mut client).await, &open_bar([100, 200, 80, 199], 22));

    // Another batch in place of a written one is refused.
    let (none, failed) = send(&mut client, stream::iter(put_messages(merge("k"), &bars[1..]))).await;
    assert!(none.is_empty());
    assert_code(Err::<(), _>(failed.unwrap()), "idempotency_mismatch");
    // Other writes accept keys too, and a stream with a condition can be sent again.
    let version = after[2].version;
    let guarded = command(json!({"series": KEY, "mode": "insert", "if_version": version, "idempotency_key": "w"}));
    let later = [klines(10..20, 0), klines(20..30, 0)];
    let (written, failed) = send(&mut client, stream::iter(put_messages(guarded.clone(), &later))).await;
    assert!(failed.is_none() && written.len() == 2, "{failed:?}");
    let (repeated, failed) = send(&mut client, stream::iter(put_messages(guarded, &later))).await;
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(repeated, written);
    for bad in [
        json!({"series": KEY, "mode": "merge"}),
        json!({"series": KEY, "mode": "merge", "op": "add", "idempotency_key": "o"}),
        json!({"series": KEY, "mode": "merge", "idempotency_key": "a b"}),
    ] {
        let (none, failed) = send(&mut client, stream::iter(put_messages(command(bad), &bars))).await;
        assert!(none.is_empty());
        assert_code(Err::<(), _>(failed.unwrap()), "invalid_argument");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scalar_is_merged_by_the_op_of_the_command() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let key = "scalar/feature/X/1m/n";
    let create = json!({"kind": "scalar", "category": "feature", "symbol": "X", "timeframe": "1m", "name": "n"});
    let fields = vec![Field::new("ts", DataType::Int64, false), Field::new("value", DataType::Float64, false)];
    let schema = Arc::new(Schema::new(fields));
    for (position, (op, value, expected)) in [
        ("add", 2.5, 2.5),
        ("add", 4.0, 6.5),
        ("max", 5.0, 6.5),
        ("min", 5.0, 5.0),
        ("set", 1.0, 1.0),
        ("last", 8.0, 8.0),
    ]
    .into_iter()
    .enumerate()
    {
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(vec![T0])), Arc::new(Float64Array::from(vec![value]))];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let mut messages = batches_to_flight_data(&schema, vec![batch]).unwrap();
        let once = format!("n-{position}");
        messages[0].flight_descriptor =
            Some(command(json!({"create": create, "mode": "merge", "op": op, "idempotency_key": once})));
        for _ in 0..2 {
            let (_, failed) = send(&mut client, stream::iter(messages.clone())).await;
            assert!(failed.is_none(), "{failed:?}");
            let stored = get(&mut client, json!({"series": [key]})).await.unwrap();
            let stored = stored.column(1).as_any().downcast_ref::<Float64Array>().unwrap().clone();
            assert_eq!(stored.values().to_vec(), [expected], "{op} {value}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_under_a_snapshot_return_the_same_until_it_is_dropped() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..5_000, 0)]).await;
    act(&mut client, "compact", Value::Null).await.unwrap();
    put(&mut client, &[klines(4_000..6_000, 50)]).await;
    let before = all(&mut client).await;
    let made = act(&mut client, "create_snapshot", json!({"name": "s"})).await.unwrap();
    assert_code(act(&mut client, "create_snapshot", json!({"name": "s"})).await, "snapshot_exists");
    for bad in [json!({"name": ".s"}), json!({}), Value::Null] {
        assert_code(act(&mut client, "create_snapshot", bad).await, "invalid_argument");
    }
    let as_of = json!({"series": [KEY], "as_of": "s"});
    let shown = get(&mut client, as_of.clone()).await.unwrap();
    assert_same_rows(&shown, &before);
    assert_eq!(shown.schema().metadata()["fastk.commit"], made["commit"].to_string());
    let request = command(json!({"series": [KEY], "as_of": "s", "endpoints": 3}));
    let info = client.get_flight_info(request.clone()).await.unwrap().into_inner();
    assert_eq!((info.total_records, info.endpoint.len()), (6_000, 3));

    put(&mut client, &[klines(0..7_000, 900)]).await;
    act(&mut client, "delete_range", json!({"series": KEY, "start": T0, "end": T0 + 100 * MINUTE})).await.unwrap();
    act(&mut client, "compact", Value::Null).await.unwrap();
    act(&mut client, "drop_series", json!({"series": KEY})).await.unwrap();
    let root = server.stop().await;
    let server = Running::over(root, FlightSettings::default()).await;
    let mut client = server.client().await;
    assert_code(get(&mut client, json!({"series": [KEY]})).await, "series_not_found");
    let again = get(&mut client, as_of.clone()).await.unwrap();
    assert_eq!(again, shown, "schema, metadata and rows");
    assert_eq!(client.get_flight_info(request.clone()).await.unwrap().into_inner().total_records, 6_000);
    let mut parts = Vec::new();
    for endpoint in info.endpoint.clone() {
        parts.extend(get_ticket(&mut client, endpoint.ticket.unwrap()).await.unwrap());
    }
    assert_same_rows(&arrow::compute::concat_batches(&before.schema(), &parts).unwrap(), &before);

    assert_eq!(act(&mut client, "list_snapshots", Value::Null).await.unwrap(), json!({"snapshots": [made]}));
    assert_eq!(act(&mut client, "inventory", Value::Null).await.unwrap()["totals"]["snapshots"], 1);
    assert_code(get(&mut client, json!({"series": [KEY], "as_of": "s", "commit": 1})).await, "invalid_argument");
    act(&mut client, "drop_snapshot", json!({"name": "s"})).await.unwrap();
    assert_code(act(&mut client, "drop_snapshot", json!({"name": "s"})).await, "snapshot_not_found");
    assert_code(get(&mut client, as_of).await, "snapshot_not_found");
    assert_code(client.get_flight_info(request).await, "snapshot_not_found");
    let root = server.stop().await;
    let server = Running::over(root, FlightSettings::default()).await;
    let mut client = server.client().await;
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    assert_code(get_ticket(&mut client, ticket).await, "commit_gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_under_a_dataset_return_only_its_members() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..3_000, 0)]).await;
    for key in ["kline/ETHUSDT/1m", "kline/OTHER/1m"] {
        register(&mut client, key).await;
        let messages = put_messages(path(key), &[klines(0..10, 5)]);
        let mut replies = client.do_put(stream::iter(messages)).await.unwrap().into_inner();
        while replies.message().await.unwrap().is_some() {}
    }
    let before = all(&mut client).await;
    let root = server.stop().await;
    {
        let service = Service::open(root.path(), false, StoreOptions::default()).unwrap();
        let spec = json!({"name": "two", "members": [KEY, "kline/ETHUSDT/1m"]});
        service.create_dataset(&serde_json::from_value(spec).unwrap()).unwrap();
        assert!(service.close());
    }
    let server = Running::over(root, FlightSettings::default()).await;
    let mut client = server.client().await;
    put(&mut client, &[klines(0..4_000, 900)]).await;
    for as_of in ["dataset:two", "dataset:two@1"] {
        let shown = get(&mut client, json!({"series": [KEY], "as_of": as_of})).await.unwrap();
        assert_same_rows(&shown, &before);
    }
    // The matches of a glob, also through the tickets of its info, which name the version.
    let request = json!({"series": ["kline/*/1m"], "as_of": "dataset:two", "endpoints": 3});
    let info = client.get_flight_info(command(request)).await.unwrap().into_inner();
    assert_eq!((info.total_records, info.endpoint.len()), (3_010, 3));
    let mut rows = 0;
    for endpoint in &info.endpoint {
        let ticket = endpoint.ticket.clone().unwrap();
        let text = String::from_utf8(ticket.ticket.to_vec()).unwrap();
        assert!(text.contains("dataset:two@1"), "{text}");
        let messages = client.do_get(ticket).await.unwrap().into_inner().map_err(Into::into);
        let batches: Vec<RecordBatch> =
            FlightRecordBatchStream::new_from_flight_data(messages).try_collect().await.unwrap();
        rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    assert_eq!(rows, 3_010);
    let query = |series: &str, as_of: &str| json!({"series": [series], "as_of": as_of});
    assert_code(get(&mut client, query("kline/OTHER/1m", "dataset:two")).await, "series_not_found");
    assert_code(get(&mut client, query(KEY, "dataset:none")).await, "dataset_not_found");
    assert_code(get(&mut client, query(KEY, "dataset:two@2")).await, "dataset_not_found");
    assert_code(get(&mut client, query(KEY, "dataset:Two")).await, "invalid_argument");
    let covered = act(&mut client, "coverage", json!({"series": KEY, "as_of": "dataset:two@1"})).await.unwrap();
    assert_eq!(covered["rows"], 3_000);
    let refused =
        assert_code(act(&mut client, "drop_snapshot", json!({"name": "dataset:two@1"})).await, "invalid_argument");
    assert!(refused.message().contains("dataset:two@1"), "{refused}");
    server.stop().await;
}

#[test]
fn the_page_about_flight_matches_the_code() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/flight.md")).unwrap();
    let (_, table) = page.split_once("## Actions").unwrap();
    let (table, _) = table.split_once("## Errors").unwrap();
    let named: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name)).collect();
    assert_eq!(named, ACTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert!(page.contains(CODE_KEY) && page.contains(PROBLEM_KEY));
    let config = FlightSettings::default();
    for claim in [
        format!("| {}, then `overloaded` |", config.gets_max),
        format!("| {}, then the connection that was idle longest is closed |", thousands(config.connections_max)),
        format!("puts being received at one time | {}, then `overloaded` |", config.puts_max),
        format!("does not arrive | ended after {} s, `request_timeout` |", config.message_timeout_ms / 1_000),
        format!("sends nothing | ended after {} s, `request_timeout` |", config.put_idle_timeout_ms / 1_000),
        format!("| streams of one connection | {} |", config.connection_streams_max),
        format!("| {} MiB, then input waits |", config.put_bytes_max >> 20),
        format!("at most {} MiB of columns", config.message_bytes_max >> 20),
        format!(
            "ended after {} s |\n| a connection that does not complete its handshake",
            config.stall_timeout_ms / 1_000
        ),
        format!("complete its handshake | ended after {} s |", config.handshake_timeout_ms / 1_000),
        format!("no longer responds | ended after {} s |", (config.ping_interval_ms + config.ping_timeout_ms) / 1_000),
        format!("responses in progress have {} s to finish", ServiceLimits::default().drain_timeout_ms / 1_000),
        format!("at most {} wait", thousands(ACKS_QUEUED_MAX)),
    ] {
        assert!(page.contains(&claim), "docs/flight.md does not contain {claim:?}");
    }
}

fn thousands(number: usize) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_tickets_and_descriptors_get_their_codes() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..100, 0)]).await;
    let mut cases: Vec<(Vec<u8>, &str)> = [
        ("", "invalid_argument"),
        ("{", "invalid_argument"),
        ("null", "invalid_argument"),
        ("\u{0}\u{0}\u{0}", "invalid_argument"),
        (r#"{"series":[]}"#, "invalid_argument"),
        (r#"{"series":["kline/../1m"]}"#, "invalid_argument"),
        (r#"{"series":["kline/NOPE/1m"]}"#, "series_not_found"),
        (r#"{"series":["kline/BTCUSDT/1m"],"limit":0}"#, "invalid_argument"),
        (r#"{"series":["kline/BTCUSDT/1m"],"latest":0}"#, "invalid_argument"),
        (r#"{"series":["kline/BTCUSDT/1m"],"start":2,"end":1}"#, "invalid_argument"),
        (r#"{"series":["kline/BTCUSDT/1m"],"start":"yesterday"}"#, "invalid_argument"),
        (r#"{"series":["kline/BTCUSDT/1m"],"columns":["nope"]}"#, "schema_mismatch"),
        (r#"{"series":["kline/BTCUSDT/1m"],"nope":1}"#, "invalid_argument"),
        (r#"{"series":["kline/BTCUSDT/1m"],"commit":18446744073709551615}"#, "invalid_argument"),
    ]
    .into_iter()
    .map(|(text, code)| (text.as_bytes().to_vec(), code))
    .collect();
    cases.push((vec![0xff, 0xfe], "invalid_argument"));
    cases.push(("[".repeat(200_000).into_bytes(), "too_large"));
    cases.push((vec![b' '; 300_000], "too_large"));
    for (ticket, code) in cases {
        let shown: String = String::from_utf8_lossy(&ticket).chars().take(60).collect();
        let status = client.do_get(Ticket { ticket: ticket.into() }).await.map(|_| ()).unwrap_err();
        assert_eq!(code_of(&status), code, "{shown}: {status:?}");
    }
    for descriptor in [
        FlightDescriptor::default(),
        path("kline"),
        path("kline/a b/1m"),
        command(json!({})),
        FlightDescriptor::new_path(vec!["kline".into(), "../..".into(), "1m".into()]),
    ] {
        assert_code(client.get_flight_info(descriptor.clone()).await, "invalid_argument");
        assert_code(client.get_schema(descriptor).await, "invalid_argument");
    }
    assert_code(client.get_flight_info(path("kline/NOPE/1m")).await, "series_not_found");
    assert_code(client.poll_flight_info(path(KEY)).await, "unimplemented");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_ends_the_put_and_keeps_the_earlier_ones() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let broken = {
        let good = klines(10..20, 0);
        let mut columns = good.columns().to_vec();
        // The low is above the other prices.
        columns[3] = decimals(vec![99_999_999; 10], 2);
        RecordBatch::try_new(kline_schema(), columns).unwrap()
    };
    let messages = put_messages(path(KEY), &[klines(0..10, 0), broken.clone(), klines(20..30, 0)]);
    let (acks, failed) = send(&mut client, stream::iter(messages)).await;
    assert_eq!(acks.len(), 1);
    let status = assert_code(Err::<(), _>(failed.unwrap()), "invalid_rows");
    let problem = problem_of(&status);
    assert_eq!((&problem["errors"][0]["row"], &problem["errors"][0]["reason"]), (&json!(0), &json!("ohlc")));
    assert_eq!(all(&mut client).await.num_rows(), 10);

    let unchecked = command(json!({"series": KEY, "validate": "none"}));
    let (acks, failed) = send(&mut client, stream::iter(put_messages(unchecked, &[broken]))).await;
    assert!(failed.is_none() && acks[0].rows_written == 10);

    for (mode, minutes, code) in [("insert", 5..40, "rows_exist"), ("append", 19..40, "out_of_order")] {
        let descriptor = command(json!({"series": KEY, "mode": mode}));
        let (acks, failed) = send(&mut client, stream::iter(put_messages(descriptor, &[klines(minutes, 0)]))).await;
        assert!(acks.is_empty());
        assert_code(Err::<(), _>(failed.unwrap()), code);
    }
    assert_eq!(all(&mut client).await.num_rows(), 20);
    let (_, failed) = send(&mut client, stream::iter(put_messages(path("kline/NOPE/1m"), &[klines(0..1, 0)]))).await;
    assert_code(Err::<(), _>(failed.unwrap()), "series_not_found");
    let (_, failed) = send(&mut client, stream::iter(Vec::new())).await;
    assert_code(Err::<(), _>(failed.unwrap()), "invalid_argument");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_rows_gets_one_acknowledgement() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..5, 0)]).await;
    let acks = put(&mut client, &[]).await;
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].rows_written, acks[0].first_ts), (0, None));
    let acks = put(&mut client, &[klines([], 0), klines([], 0)]).await;
    assert_eq!(acks.iter().map(|ack| ack.rows_written).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(all(&mut client).await.num_rows(), 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_can_register_and_be_conditional() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let create =
        json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    let descriptor = command(json!({"series": KEY, "create": create}));
    let (acks, failed) = send(&mut client, stream::iter(put_messages(descriptor, &[klines(0..5, 0)]))).await;
    assert!(failed.is_none(), "{failed:?}");
    let version = acks[0].version;

    let descriptor = command(json!({"series": KEY, "if_version": version}));
    let batches = [klines(5..6, 0), klines(6..7, 0), klines(7..8, 0)];
    let (acks, failed) = send(&mut client, stream::iter(put_messages(descriptor.clone(), &batches))).await;
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(acks.len(), 3);
    let (acks, failed) = send(&mut client, stream::iter(put_messages(descriptor, &batches))).await;
    assert!(acks.is_empty());
    let status = assert_code(Err::<(), _>(failed.unwrap()), "commit_conflict");
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(all(&mut client).await.num_rows(), 8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_first_batch_is_refused_registers_nothing() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let create =
        json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    let mut columns = klines(0..10, 0).columns().to_vec();
    columns.swap(2, 3);
    let broken = RecordBatch::try_new(kline_schema(), columns).unwrap();
    let off_grid = {
        let mut columns = klines(0..2, 0).columns().to_vec();
        columns[0] = Arc::new(TimestampMillisecondArray::from(vec![T0, T0 + 1]).with_timezone("UTC"));
        RecordBatch::try_new(kline_schema(), columns).unwrap()
    };
    for (how, batch, code) in [
        (json!({}), broken, "invalid_rows"),
        (json!({}), off_grid.clone(), "invalid_rows"),
        (json!({"mode": "append"}), klines([5, 4], 0), "out_of_order"),
        (json!({"mode": "insert"}), klines([5, 5], 0), "invalid_rows"),
        (json!({"if_version": 9}), klines(0..1, 0), "commit_conflict"),
        (json!({"missing": "skip"}), klines(0..1, 0), "invalid_argument"),
    ] {
        let mut output = json!({"create": create});
        output.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
        let (acks, failed) = send(&mut client, stream::iter(put_messages(command(output), &[batch]))).await;
        assert!(acks.is_empty());
        assert_code(Err::<(), _>(failed.unwrap()), code);
        assert_code(get(&mut client, json!({"series": [KEY]})).await, "series_not_found");
    }
    // An invalid label is reported before any batch is read.
    let misspelled = json!({"create": {"kind": "kline", "symbol": "X", "timeframe": "1D"}});
    let (_, failed) = send(&mut client, stream::iter(put_messages(command(misspelled), &[klines(0..1, 0)]))).await;
    assert_code(Err::<(), _>(failed.unwrap()), "invalid_argument");
    // A stream without a batch registers; otherwise the first batch does.
    let (acks, failed) = send(&mut client, stream::iter(put_messages(command(json!({"create": create})), &[]))).await;
    assert!(failed.is_none() && acks.len() == 1, "{failed:?}");
    let allowed = command(json!({"create": create, "grid": "allow"}));
    let (acks, failed) = send(&mut client, stream::iter(put_messages(allowed, &[off_grid, klines(5..6, 0)]))).await;
    assert!(failed.is_none() && acks.len() == 2, "{failed:?}");
    assert_eq!(all(&mut client).await.num_rows(), 3);
    let other = json!({"create": {"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 3}});
    let (_, failed) = send(&mut client, stream::iter(put_messages(command(other), &[klines(0..1, 0)]))).await;
    assert_code(Err::<(), _>(failed.unwrap()), "series_exists");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_of_another_unit_are_refused_and_old_data_is_detected_by_the_stream() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let create = json!({"kind": "scalar", "category": "c", "symbol": "X", "timeframe": "tick", "name": "n"});
    let schema = Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
    ]));
    let batch = |ts: i64| {
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(vec![ts])), Arc::new(Float64Array::from(vec![1.0]))];
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    };
    let sent = |how: Value, batches: Vec<RecordBatch>| {
        let mut messages = batches_to_flight_data(&schema, batches).unwrap();
        let mut output = json!({"create": create});
        output.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
        messages[0].flight_descriptor = Some(command(output));
        stream::iter(messages)
    };
    let (_, failed) = send(&mut client, sent(json!({}), vec![batch(T0 / 1_000)])).await;
    let status = assert_code(Err::<(), _>(failed.unwrap()), "invalid_rows");
    assert_eq!(problem_of(&status)["errors"][0]["reason"], "implausible_ts");
    let (acks, failed) = send(&mut client, sent(json!({"implausible_ts": "allow"}), vec![batch(T0 / 1_000)])).await;
    assert!(failed.is_none() && acks.len() == 1, "{failed:?}");
    // 1960 and then January 1970, in separate batches: earlier batches count, written or not.
    let (acks, failed) = send(&mut client, sent(json!({}), vec![batch(-315_619_200_000), batch(864_000_000)])).await;
    assert!(failed.is_none() && acks.len() == 2, "{failed:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_acknowledgement_gets_all_its_rows_written() {
    let server = Running::start().await;
    registered(&server).await;
    // More than the queue and the HTTP/2 buffers of both sides.
    let batches = 6 * ACKS_QUEUED_MAX as i64;
    let narrow = Channel::from_shared(server.address.clone()).unwrap().initial_stream_window_size(65_535);
    let mut client = Client::new(narrow.connect().await.unwrap());
    let (sent, all_sent) = oneshot::channel();
    let messages = put_messages(path(KEY), &[]).into_iter();
    let schema = stream::iter(messages.collect::<Vec<_>>());
    let rows = stream::iter(0..batches)
        .map(|n| batches_to_flight_data(&kline_schema(), vec![klines(n..n + 1, 0)]).unwrap().remove(1));
    let input = schema.chain(rows).chain(
        stream::once(async move {
            let _ = sent.send(());
            None
        })
        .filter_map(|nothing: Option<FlightData>| async move { nothing }),
    );
    let mut unread = client.do_put(input).await.unwrap().into_inner();
    tokio::time::timeout(Duration::from_secs(120), all_sent).await.expect("the input stopped").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut other = server.client().await;
    while (all(&mut other).await.num_rows() as i64) < batches {
        assert!(Instant::now() < deadline, "rows are missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Read late, they still account for every row.
    let mut replies = Vec::new();
    while let Some(result) = unread.message().await.unwrap() {
        replies.push(reply(result));
    }
    assert!((replies.len() as i64) < batches, "{} acknowledgements waited", replies.len());
    assert_eq!(replies.iter().map(|reply| reply.rows_written).sum::<u64>() as i64, batches);
    assert_eq!(replies.last().unwrap().last_ts, Some(T0 + (batches - 1) * MINUTE));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_over_the_limit_are_too_large_with_a_hint() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    // Just over our limit, and over that of the transport.
    for excess in [64 * 1024, 8 * 1024 * 1024] {
        let mut messages = put_messages(path(KEY), &[klines(0..1, 0)]);
        messages[1].data_body = Bytes::from(vec![0; FlightSettings::default().message_bytes_max + excess]);
        let (_, failed) = send(&mut client, stream::iter(messages)).await;
        let status = assert_code(Err::<(), _>(failed.unwrap()), "too_large");
        assert!(status.message().contains("max_chunksize"), "{}", status.message());
        assert_eq!(status.code(), Code::OutOfRange);
    }
    assert_eq!(all(&mut client).await.num_rows(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_put_messages_never_stop_the_server() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let good = put_messages(command(json!({"series": KEY, "validate": "none"})), &[klines(0..100, 0)]);
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut refused, mut taken) = (0, 0);
    for round in 0..600 {
        let mut messages = good.clone();
        let at = random.random_range(0..2);
        let mut header = messages[at].data_header.to_vec();
        match random.random_range(0..6) {
            0 => header.truncate(random.random_range(0..header.len())),
            1 => {
                let bytes = random.random_range(0..messages[1].data_body.len());
                messages[1].data_body.truncate(bytes);
            }
            2 => {
                // A length or an offset that is much too large.
                let word = random.random_range(0..header.len() / 8) * 8;
                header[word..word + 8].copy_from_slice(&random.random::<i64>().to_le_bytes());
            }
            _ => {
                for _ in 0..random.random_range(1..6) {
                    let byte = random.random_range(0..header.len());
                    header[byte] = random.random();
                }
            }
        }
        messages[at].data_header = header.into();
        let sent = tokio::time::timeout(Duration::from_secs(30), send(&mut client, stream::iter(messages))).await;
        match sent.unwrap_or_else(|_| panic!("round {round} of seed {seed} had no response")) {
            (_, None) => taken += 1,
            (_, Some(status)) => {
                refused += 1;
                let expected = ["invalid_argument", "schema_mismatch", "invalid_rows", "too_large"];
                assert!(expected.contains(&code_of(&status)), "round {round} of seed {seed}: {status:?}");
            }
        }
    }
    assert!(refused > taken, "{refused} refused, {taken} taken: the damage is too rare");
    assert_eq!(act(&mut client, "health", Value::Null).await.unwrap()["status"], "ok");
    put(&mut client, &[klines(0..100, 1)]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_match_the_series_are_refused() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let options = IpcWriteOptions::default();
    let with_schema = |schema: Schema| {
        let mut message: FlightData = SchemaAsIpc::new(&schema, &options).into();
        message.flight_descriptor = Some(path(KEY));
        message
    };
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for field in [
        Field::new("series", dictionary, false),
        Field::new_list("ts", Field::new_list_field(DataType::Int64, true), true),
    ] {
        let batch = put_messages(path(KEY), &[klines(0..1, 0)]).remove(1);
        let (acks, failed) = send(&mut client, stream::iter([with_schema(Schema::new(vec![field])), batch])).await;
        assert!(acks.is_empty() && failed.is_some());
    }
    let (_, failed) = send(&mut client, stream::iter([put_messages(path(KEY), &[klines(0..1, 0)]).remove(1)])).await;
    assert_code(Err::<(), _>(failed.unwrap()), "invalid_argument");
    assert_eq!(all(&mut client).await.num_rows(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_last_block_ends_the_result_with_data_loss_and_names_the_file() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..40_000, 0)]).await;
    act(&mut client, "compact", Value::Null).await.unwrap();
    let good = all(&mut client).await;
    drop(client);
    let root = server.stop().await;

    // The raw word of the last close of February is once in its chunk.
    let series = std::fs::read_dir(root.path().join("chunks")).unwrap().next().unwrap().unwrap().path();
    let close = good.column(4).as_any().downcast_ref::<Decimal64Array>().unwrap();
    let mut damaged = None;
    for entry in std::fs::read_dir(series).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let word = close.value(29 * 1_440 - 5_000).to_le_bytes();
        if let Some(at) = bytes.windows(8).position(|window| window == word) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged = path.file_name().map(|name| name.to_string_lossy().into_owned());
        }
    }
    let damaged = damaged.expect("no chunk holds the row");

    let server = Running::over(root, FlightSettings::default()).await;
    let mut client = server.client().await;
    for numbers in ["stored", "float64", "stored"] {
        let ticket = Ticket::new(json!({"series": [KEY], "numbers": numbers}).to_string());
        let mut rows = client.do_get(ticket).await.unwrap().into_inner();
        let mut messages = 0;
        let status = loop {
            match rows.message().await {
                Ok(Some(_)) => messages += 1,
                Ok(None) => panic!("a damaged result ended as if complete"),
                Err(status) => break status,
            }
        };
        assert!(messages > 1, "the healthy blocks before it were not sent");
        assert_eq!((code_of(&status), status.code()), ("corrupt_data", Code::DataLoss));
        assert!(status.message().contains(&damaged), "{} does not name {damaged}", status.message());
    }
    let healthy = get(&mut client, json!({"series": [KEY], "end": T0 + 9_999 * MINUTE})).await.unwrap();
    assert_same_rows(&healthy, &good.slice(0, 10_000));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_token_sees_damage_without_files_ids_or_ranges() {
    use fastk::access;
    use fastk::service::Scope;
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..1_000, 0)]).await;
    act(&mut client, "compact", Value::Null).await.unwrap();
    drop(client);
    let root = server.stop().await;
    let series = std::fs::read_dir(root.path().join("chunks")).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(series).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "arrow") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let make = |prefixes: &[&str]| {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        access::create(root.path(), "t", Scope::Admin, &prefixes).unwrap().token
    };
    let (admin, limited) = (make(&[]), make(&[KEY]));
    let directory = root.path().to_string_lossy().into_owned();
    let server = Running::over(root, FlightSettings::default()).await;
    let channel = server.channel().await;
    for (token, is_limited) in [(&admin, false), (&limited, true)] {
        let mut client =
            FlightServiceClient::with_interceptor(channel.clone(), with_header(&access::bearer_header(token)));
        let outcome = client.do_get(Ticket::new(json!({"series": [KEY]}).to_string())).await;
        let status = match outcome {
            Err(status) => status,
            Ok(response) => {
                let mut messages = response.into_inner();
                loop {
                    match messages.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("damaged rows were sent as if complete"),
                        Err(status) => break status,
                    }
                }
            }
        };
        assert_eq!((code_of(&status), status.code()), ("corrupt_data", Code::DataLoss));
        let sent = format!("{} {}", status.message(), String::from_utf8_lossy(status.details()));
        for word in ["chunk", "timestamps", ".arrow", directory.as_str()] {
            assert!(!is_limited || !sent.contains(word), "{word}: {sent}");
        }
        assert!(is_limited || sent.contains("chunk"), "{sent}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_over_the_limit_are_refused_until_one_disconnects() {
    let server = Running::with(FlightSettings { gets_max: 1, ..FlightSettings::default() }).await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..400_000, 0)]).await;
    let ticket = || Ticket::new(json!({"series": [KEY]}).to_string());
    let mut slow = server.client().await.do_get(ticket()).await.unwrap().into_inner();
    slow.message().await.unwrap();
    let status = client.do_get(ticket()).await.map(|_| ()).unwrap_err();
    assert_eq!((code_of(&status), status.code()), ("overloaded", Code::Unavailable));
    drop(slow);
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.do_get(ticket()).await.is_err() {
        assert!(Instant::now() < deadline, "the permit of a disconnected reader is not released");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_is_disconnected_without_a_clean_end() {
    let server =
        Running::with(FlightSettings { stall_timeout_ms: 3_000, gets_max: 1, ..FlightSettings::default() }).await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..400_000, 0)]).await;
    let ticket = || Ticket::new(json!({"series": [KEY]}).to_string());
    let mut stalled = server.client().await.do_get(ticket()).await.unwrap().into_inner();
    stalled.message().await.unwrap();
    // The permit of the stalled reader is released without any action of it.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut next = loop {
        match client.do_get(ticket()).await {
            Ok(next) => break next.into_inner(),
            Err(status) => assert_eq!(code_of(&status), "overloaded"),
        }
        assert!(Instant::now() < deadline, "the permit of a stalled reader is not released");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // A slow reader is not disconnected.
    let mut messages = 0;
    while next.message().await.unwrap().is_some() {
        messages += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(messages > 24, "{messages} messages are too few for this test");
    loop {
        match stalled.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an aborted result ended as if complete"),
            Err(_) => break,
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_handshake_is_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Running::with(FlightSettings { handshake_timeout_ms: 1_000, ..FlightSettings::default() }).await;
    let address = server.address.trim_start_matches("http://");
    for output in [&b""[..], b"PRI * HTTP/2"] {
        let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
        silent.write_all(output).await.unwrap();
        let mut heard = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), silent.read_to_end(&mut heard)).await;
        assert!(closed.is_ok(), "still open after {output:?}");
    }
    // After the handshake a connection may be idle for longer.
    let mut client = registered(&server).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    put(&mut client, &[klines(0..1, 0)]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_directory_of_the_store() {
    let server = Running::start().await;
    let (root, away) = (server.root.path().to_path_buf(), server.root.path().with_extension("away"));
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    for service in ["", "arrow.flight.protocol.FlightService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let mut changes = health.watch(request).await.unwrap().into_inner();
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(60), changes.message()).await;
            next.unwrap_or_else(|_| panic!("no change of {service:?} is reported")).unwrap().unwrap().status
        };
        assert_eq!(next().await, 1);
        std::fs::rename(&root, &away).unwrap();
        assert_eq!(next().await, 2);
        std::fs::rename(&away, &root).unwrap();
        assert_eq!(next().await, 1);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_works_without_flight_and_open_puts_do_not_delay_the_shutdown() {
    let patient = ServiceLimits { drain_timeout_ms: 3_600_000, ..ServiceLimits::default() };
    let server = limits::within(tempfile::tempdir().unwrap(), FlightSettings::default(), patient).await;
    let mut client = registered(&server).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    for service in ["", "arrow.flight.protocol.FlightService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    }
    // One put that is idle, and one that never stops.
    let open = stream::iter(put_messages(path(KEY), &[klines(0..5, 0)])).chain(stream::pending());
    let batch = put_messages(path(KEY), &[klines(0..1, 0)]).remove(1);
    let busy = stream::iter(put_messages(path(KEY), &[])).chain(stream::repeat(batch));
    let mut busy = client.clone().do_put(busy).await.unwrap().into_inner();
    let mut acks = client.do_put(open).await.unwrap().into_inner();
    assert_eq!(reply(acks.message().await.unwrap().unwrap()).rows_written, 5);
    let ended = tokio::spawn(server.stop());
    let status = acks.message().await.unwrap_err();
    assert_eq!(code_of(&status), "not_ready");
    let status = loop {
        match busy.message().await {
            Ok(ack) => assert!(ack.is_some(), "an aborted put ended as if complete"),
            Err(status) => break status,
        }
    };
    // The one that never stops may lose its connection before it gets the reason: still an error.
    assert!(matches!(code_of(&status), "not_ready" | "none"), "{status:?}");
    drop((acks, busy, client, health));
    tokio::time::timeout(Duration::from_secs(120), ended).await.expect("puts delay the shutdown").unwrap();
}

#[tokio::test]
async fn coverage_is_an_action_and_the_last_complete_intervals_are_a_query() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..100, 0)]).await;
    put(&mut client, &[klines(103..105, 0)]).await;
    let found = act(&mut client, "coverage", json!({"series": KEY})).await.unwrap();
    assert_eq!((&found["expected"], &found["present"]), (&json!(105), &json!(102)));
    assert_eq!((&found["gaps"], &found["gaps_total"]), (&json!([found["longest_gap"]]), &json!(1)));
    assert_eq!(found["longest_gap"]["missing"], 3);
    let part = json!({"series": KEY, "start": T0, "end": T0 + 99 * MINUTE, "times": "rfc3339", "calendar": "24x7", "limit": 5});
    let part = act(&mut client, "coverage", part).await.unwrap();
    assert_eq!((&part["ratio"], &part["start"]), (&json!(1.0), &json!("2024-02-01T00:00:00Z")));
    assert_code(act(&mut client, "coverage", json!({"series": KEY, "calendar": "nyse"})).await, "invalid_argument");
    assert_code(act(&mut client, "coverage", json!({"series": KEY, "unknown": 1})).await, "invalid_argument");
    assert_code(act(&mut client, "coverage", json!({"series": "kline/NOPE/1m"})).await, "series_not_found");
    for (expectation, rows) in [(2, klines(103..105, 0)), (3, klines(97..100, 0)), (101, klines(0..0, 0))] {
        let query = json!({"series": [KEY], "latest_complete": expectation, "endpoints": 4});
        assert_eq!(get(&mut client, query).await.unwrap().columns(), rows.columns(), "the last {expectation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_put_and_a_stalled_reader_delay_no_checkpoint() {
    let options = StoreOptions { wal_segment_bytes: 1 << 20, wal_bytes_max: 2 << 20, ..StoreOptions::default() };
    let root = tempfile::tempdir().unwrap();
    let server = Running::over_store(root, FlightSettings::default(), options).await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..400_000, 0)]).await;
    // One client wrote a batch and is idle, one stops reading after the first message, one has an exact commit in its
    // ticket.
    let open = stream::iter(put_messages(path(KEY), &[klines(400_000..400_005, 0)])).chain(stream::pending());
    let mut acks = server.client().await.do_put(open).await.unwrap().into_inner();
    assert_eq!(reply(acks.message().await.unwrap().unwrap()).rows_written, 5);
    let info = client.get_flight_info(command(json!({"series": [KEY]}))).await.unwrap().into_inner();
    let held = info.endpoint[0].ticket.clone().unwrap();
    let mut stalled = server.client().await.do_get(held.clone()).await.unwrap().into_inner();
    let mut messages = vec![stalled.message().await.unwrap().unwrap()];
    for part in 0..30 {
        put(&mut client, &[klines(part * 5_000..part * 5_000 + 5_000, 3)]).await;
    }
    let wal = server.root.path().join("wal");
    let log_bytes = || -> u64 { std::fs::read_dir(&wal).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum() };
    let deadline = Instant::now() + Duration::from_secs(60);
    while log_bytes() > 4 << 20 {
        assert!(Instant::now() < deadline, "{} bytes of log wait for somebody", log_bytes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // No client lost rows.
    while let Some(message) = stalled.message().await.unwrap() {
        messages.push(message);
    }
    let before = flight_data_to_batches(&messages).unwrap();
    let before = arrow::compute::concat_batches(&before[0].schema(), &before).unwrap();
    assert_same_rows(&before, &klines(0..400_005, 0));
    let again = get_ticket(&mut client, held).await.unwrap();
    let again = arrow::compute::concat_batches(&again[0].schema(), &again).unwrap();
    assert_same_rows(&again, &klines(0..400_005, 0));
    let now = all(&mut client).await;
    assert_same_rows(&now.slice(0, 150_000), &klines(0..150_000, 3));
    assert_same_rows(&now.slice(150_000, 250_005), &klines(150_000..400_005, 0));
    drop((acks, stalled));
    server.stop().await;
}

/// An interceptor that adds this header.
fn with_header(header: &str) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, Status> + Clone + use<> {
    let value: tonic::metadata::MetadataValue<_> = header.parse().unwrap();
    move |mut request| {
        request.metadata_mut().insert("authorization", value.clone());
        Ok(request)
    }
}

/// The outcome of a call.
fn code<T>(outcome: Result<tonic::Response<T>, Status>) -> Result<(), Code> {
    outcome.map(|_| ()).map_err(|status| status.code())
}

/// Reads a response to its end.
async fn drained<T>(outcome: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Result<(), Code> {
    let mut responses = outcome.map_err(|status| status.code())?.into_inner();
    while responses.message().await.map_err(|status| status.code())?.is_some() {}
    Ok(())
}

/// Calls a method with valid arguments, on [`KEY`] if it needs a series, and reads the response to its end.
async fn call<F: Interceptor>(
    client: &mut FlightServiceClient<InterceptedService<Channel, F>>,
    method: &str,
) -> Result<(), Code> {
    let batch = || tokio_stream::iter(put_messages(path(KEY), &[klines(0..3, 0)]));
    match method {
        "DoGet" => drained(client.do_get(Ticket::new(json!({ "series": [KEY] }).to_string())).await).await,
        "DoPut" => drained(client.do_put(batch()).await).await,
        "DoAction" => drained(client.do_action(Action::new("health", "{}")).await).await,
        "DoExchange" => drained(client.do_exchange(batch()).await).await,
        "GetFlightInfo" => code(client.get_flight_info(path(KEY)).await),
        "GetSchema" => code(client.get_schema(path(KEY)).await),
        "Handshake" => drained(client.handshake(tokio_stream::empty()).await).await,
        "ListActions" => drained(client.list_actions(Empty {}).await).await,
        "ListFlights" => drained(client.list_flights(Criteria::default()).await).await,
        "PollFlightInfo" => code(client.poll_flight_info(path(KEY)).await),
        other => panic!("method {other} is not tested here"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_checks_the_token_and_every_ticket_its_series() {
    use fastk::access;
    use fastk::service::Scope;
    let root = tempfile::tempdir().unwrap();
    let make = |scope, prefixes: &[String]| access::create(root.path(), "t", scope, prefixes).unwrap().token;
    let (reader, writer, admin) = (make(Scope::Read, &[]), make(Scope::Write, &[]), make(Scope::Admin, &[]));
    let limited = make(Scope::Admin, &["kline/ETH".to_owned()]);
    let server = Running::over(root, FlightSettings::default()).await;
    let channel = server.channel().await;
    let client = |token: &str| {
        FlightServiceClient::with_interceptor(channel.clone(), with_header(&access::bearer_header(token)))
    };
    let ticket = |key: &str| Ticket::new(json!({ "series": [key] }).to_string());
    let action = |kind: &str, body: Value| Action { r#type: kind.into(), body: body.to_string().into() };
    let spec = |symbol: &str| json!({"kind": "kline", "symbol": symbol, "timeframe": "1m"});

    // Without a token, or with a wrong one, every method is refused.
    for token in [None, Some("fastk_wrong")] {
        let mut bare = FlightServiceClient::with_interceptor(channel.clone(), move |mut request: tonic::Request<()>| {
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", access::bearer_header(token).parse().unwrap());
            }
            Ok(request)
        });
        for method in METHODS {
            assert_eq!(call(&mut bare, method).await, Err(Code::Unauthenticated), "{method}, {token:?}");
        }
    }
    // The health service needs no token.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.unwrap();

    assert_eq!(
        code(client(&reader).do_action(action("register_series", spec("BTCUSDT"))).await),
        Err(Code::PermissionDenied)
    );
    for symbol in ["BTCUSDT", "ETHUSDT"] {
        assert_eq!(code(client(&writer).do_action(action("register_series", spec(symbol))).await), Ok(()));
    }
    // Each method, its required scope, and whether it needs a series, which a token may not have access to.
    for method in METHODS {
        let (needed, of_series) = match method {
            "DoPut" => (Scope::Write, true),
            "DoGet" | "GetFlightInfo" | "GetSchema" => (Scope::Read, true),
            // Actions are checked below.
            "DoAction" | "Handshake" | "ListActions" | "ListFlights" => (Scope::Read, false),
            other => {
                assert!(UNIMPLEMENTED_METHODS.contains(&other), "{other} is new: who may call it?");
                for token in [&reader, &writer, &admin, &limited] {
                    assert_eq!(call(&mut client(token), other).await, Err(Code::Unimplemented), "{other}");
                }
                continue;
            }
        };
        for (own, token) in [(Scope::Read, &reader), (Scope::Write, &writer), (Scope::Admin, &admin)] {
            let expected = if own < needed { Err(Code::PermissionDenied) } else { Ok(()) };
            assert_eq!(call(&mut client(token), method).await, expected, "{method} with {own:?}");
        }
        let expected = if of_series { Err(Code::PermissionDenied) } else { Ok(()) };
        assert_eq!(call(&mut client(&limited), method).await, expected, "{method} for other series");
    }
    for key in [KEY, "kline/NOSUCH/1m"] {
        assert_eq!(code(client(&limited).do_get(ticket(key)).await), Err(Code::PermissionDenied), "{key}");
        assert_eq!(client(&limited).get_flight_info(path(key)).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(client(&limited).get_schema(path(key)).await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(code(client(&limited).do_get(ticket("kline/ETHUSDT/1m")).await), Ok(()));
    let mut seen = client(&limited).list_flights(Criteria::default()).await.unwrap().into_inner();
    let mut listed = 0;
    while seen.message().await.unwrap().is_some() {
        listed += 1;
    }
    assert_eq!(listed, 1, "the series that the token reaches");

    // Each action, its required scope, and the access of a token limited to other series.
    let of_key = json!({ "series": KEY });
    let kind = json!({ "kind": "greeks", "key": ["symbol"], "fields": [{ "name": "delta", "type": "float64" }] });
    let table = [
        ("list_snapshots", json!({}), Scope::Read, true),
        ("inventory", json!({}), Scope::Read, true),
        ("health", json!({}), Scope::Read, true),
        ("coverage", of_key.clone(), Scope::Read, false),
        ("register_series", spec("BTCUSDT"), Scope::Write, false),
        ("create_snapshot", json!({ "name": "s" }), Scope::Write, false),
        ("delete_range", json!({ "series": KEY, "all": true }), Scope::Write, false),
        ("drop_snapshot", json!({ "name": "s" }), Scope::Admin, false),
        ("verify", json!({}), Scope::Admin, false),
        ("compact", json!({}), Scope::Admin, false),
        ("drop_series", of_key, Scope::Admin, false),
        ("list_kinds", json!({}), Scope::Read, true),
        ("describe_kind", json!({ "kind": "kline" }), Scope::Read, true),
        ("register_kind", kind, Scope::Write, false),
        ("drop_kind", json!({ "kind": "greeks" }), Scope::Admin, false),
        ("list_queries", json!({}), Scope::Read, true),
        ("cancel_query", json!({ "id": "1" }), Scope::Read, true),
    ];
    let mut known: Vec<&str> = table.iter().map(|row| row.0).collect();
    let mut offered: Vec<&str> = flight::ACTIONS.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    offered.sort_unstable();
    assert_eq!(known, offered, "each action is in the table");
    for (name, body, needed, is_partly) in table {
        let outcome = code(client(&limited).do_action(action(name, body.clone())).await);
        assert_eq!(outcome == Err(Code::PermissionDenied), !is_partly, "{name} for other series: {outcome:?}");
        for (own, token) in [(Scope::Read, &reader), (Scope::Write, &writer), (Scope::Admin, &admin)] {
            let outcome = code(client(token).do_action(action(name, body.clone())).await);
            assert_eq!(outcome == Err(Code::PermissionDenied), own < needed, "{name} with {own:?}: {outcome:?}");
            // A missing permission is reported for any body.
            let unreadable = Action { r#type: name.into(), body: "{".into() };
            let outcome = code(client(token).do_action(unreadable).await);
            assert_eq!(outcome == Err(Code::PermissionDenied), own < needed, "{name} with {own:?}: {outcome:?}");
        }
    }
    for (token, expected) in [(&reader, Code::PermissionDenied), (&writer, Code::InvalidArgument)] {
        let mut client = client(token);
        let unreadable = FlightDescriptor::new_cmd("{");
        let put = client.do_put(tokio_stream::iter(put_messages(unreadable, &[klines(0..3, 0)]))).await;
        assert_eq!(drained(put).await, Err(expected));
    }

    // Basic is converted to Bearer, with or without padding.
    for header in [access::basic_header("lab", &reader), access::basic_header("lab", &reader).replace('=', "")] {
        let mut basic = FlightServiceClient::with_interceptor(channel.clone(), with_header(&header));
        let reply = basic.handshake(tokio_stream::empty()).await.unwrap();
        assert_eq!(reply.metadata().get("authorization").unwrap().to_str().unwrap(), access::bearer_header(&reader));
        assert_eq!(code(basic.do_get(ticket("kline/ETHUSDT/1m")).await), Ok(()));
    }
    drop(channel);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_put_ends_at_the_first_batch_after_the_revocation() {
    use fastk::access;
    use fastk::clock::Clock;
    use fastk::service::Scope;
    let root = tempfile::tempdir().unwrap();
    let made = access::create(root.path(), "t", Scope::Write, &[]).unwrap();
    let clock = Clock::manual(1_700_000_000_000);
    let options = StoreOptions { clock: clock.clone(), ..StoreOptions::default() };
    let server = Running::over_store(root, FlightSettings::default(), options).await;
    let header = with_header(&access::bearer_header(&made.token));
    let mut client = FlightServiceClient::with_interceptor(server.channel().await, header);
    let spec = json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    let register = Action { r#type: "register_series".into(), body: spec.to_string().into() };
    client.do_action(register).await.unwrap();
    let messages = put_messages(path(KEY), &[klines(0..3, 0), klines(3..6, 0)]);
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let mut messages = messages.into_iter();
    for message in messages.by_ref().take(2) {
        send.send(message).await.unwrap();
    }
    let mut acks = client.do_put(tokio_stream::wrappers::ReceiverStream::new(receive)).await.unwrap().into_inner();
    acks.message().await.unwrap().unwrap();
    access::revoke(server.root.path(), &made.id).unwrap();
    clock.advance(Duration::from_secs(1));
    send.send(messages.next().unwrap()).await.unwrap();
    assert_eq!(acks.message().await.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await;
}
