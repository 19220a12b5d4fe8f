//! Flight SQL: its messages are handed over with the permissions and limits of all other calls, and nothing else is.

use arrow_flight::CancelFlightInfoRequest;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, CommandGetCatalogs, CommandGetTables, CommandPreparedStatementQuery, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, ProstMessageExt,
};
use fastk::access;
use fastk::service::Scope;
use prost::Message;

use super::*;

fn packed(message: &impl ProstMessageExt) -> Vec<u8> {
    message.as_any().encode_to_vec()
}

fn statement(sql: &str) -> Vec<u8> {
    packed(&CommandStatementQuery { query: sql.into(), transaction_id: None })
}

fn prepare(sql: &str) -> Action {
    Action::new(
        "CreatePreparedStatement",
        packed(&ActionCreatePreparedStatementRequest { query: sql.into(), transaction_id: None }),
    )
}

/// A body of each action that a reader may run.
fn action_bodies() -> [(&'static str, Vec<u8>); 7] {
    let close = ActionClosePreparedStatementRequest { prepared_statement_handle: Bytes::new() };
    let cancel = arrow_flight::sql::ActionCancelQueryRequest { info: FlightInfo::default().encode_to_vec().into() };
    [
        ("CreatePreparedStatement", prepare("SELECT 1").body.to_vec()),
        ("ClosePreparedStatement", packed(&close)),
        ("CancelQuery", packed(&cancel)),
        ("CancelFlightInfo", CancelFlightInfoRequest::new(FlightInfo::default()).encode_to_vec()),
        ("SetSessionOptions", Vec::new()),
        ("GetSessionOptions", Vec::new()),
        ("CloseSession", Vec::new()),
    ]
}

/// The messages of a put of any rows.
fn any_put(descriptor: FlightDescriptor, batches: &[RecordBatch]) -> Vec<FlightData> {
    let mut messages = batches_to_flight_data(&batches[0].schema(), batches.to_vec()).unwrap();
    messages[0].flight_descriptor = Some(descriptor);
    messages
}

/// Rows of a table with the column `symbol`.
fn table_rows(symbol: &str) -> RecordBatch {
    let batch = klines(0..3, 0);
    let symbols: arrow::array::StringArray = (0..batch.num_rows()).map(|_| Some(symbol)).collect();
    let mut fields = vec![Arc::new(Field::new("symbol", DataType::Utf8, false))];
    fields.extend(batch.schema().fields().iter().cloned());
    let mut columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(symbols)];
    columns.extend(batch.columns().iter().cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn ingestion(symbol: &str) -> Vec<FlightData> {
    let command = CommandStatementIngest { table: "klines_1m".into(), ..CommandStatementIngest::default() };
    any_put(FlightDescriptor::new_cmd(packed(&command)), &[table_rows(symbol)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_needs_its_scope_and_series() {
    let root = tempfile::tempdir().unwrap();
    let make = |scope, prefixes: &[String]| access::create(root.path(), "t", scope, prefixes).unwrap().token;
    let (reader, writer) = (make(Scope::Read, &[]), make(Scope::Write, &[]));
    let limited = make(Scope::Write, &["kline/ETH".to_owned()]);
    let server = Running::over(root, FlightSettings::default()).await;
    let channel = server.channel().await;
    let client = |token: &str| {
        FlightServiceClient::with_interceptor(channel.clone(), with_header(&access::bearer_header(token)))
    };
    let spec = json!({"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 4});
    let register = Action::new("register_series", spec.to_string());
    assert_eq!(code(client(&writer).do_action(register).await), Ok(()));

    assert_eq!(action_bodies().map(|(name, _)| name), SQL_ACTIONS.map(|(name, _)| name), "each action is in the table");
    let mut bare = FlightServiceClient::new(channel.clone());
    for (name, body) in action_bodies() {
        let action = || Action::new(name, body.clone());
        assert_eq!(code(bare.do_action(action()).await), Err(Code::Unauthenticated), "{name}");
        for token in [&reader, &writer, &limited] {
            assert_eq!(code(client(token).do_action(action()).await), Ok(()), "{name}");
        }
    }
    for command in [statement("SELECT 1"), packed(&CommandGetCatalogs {}), packed(&CommandGetTables::default())] {
        let descriptor = || FlightDescriptor::new_cmd(command.clone());
        let ticket = || Ticket::new(command.clone());
        assert_eq!(bare.get_flight_info(descriptor()).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(bare.get_schema(descriptor()).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(bare.do_get(ticket()).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(code(client(&reader).get_flight_info(descriptor()).await), Ok(()));
        assert_eq!(code(client(&reader).get_schema(descriptor()).await), Ok(()));
        assert_eq!(drained(client(&reader).do_get(ticket()).await).await, Ok(()));
    }
    let seen = statement("SELECT * FROM klines_1m");
    assert_eq!(drained(client(&reader).do_get(Ticket::new(seen.clone())).await).await, Ok(()));
    assert_eq!(drained(client(&limited).do_get(Ticket::new(seen)).await).await, Err(Code::NotFound));

    for (token, symbol, expected) in [
        (&reader, "BTCUSDT", Err(Code::PermissionDenied)),
        (&writer, "BTCUSDT", Ok(())),
        (&limited, "BTCUSDT", Err(Code::NotFound)),
    ] {
        let put = client(token).do_put(tokio_stream::iter(ingestion(symbol))).await;
        assert_eq!(drained(put).await, expected, "{symbol}");
    }
    let update = CommandStatementUpdate { query: "DELETE FROM klines_1m".into(), transaction_id: None };
    let update = FlightDescriptor::new_cmd(packed(&update));
    let put = client(&writer).do_put(tokio_stream::iter(put_messages(update, &[]))).await;
    assert_eq!(drained(put).await, Err(Code::PermissionDenied));
    drop((channel, bare));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_flight_sql_is_a_clear_error() {
    let server = Running::start().await;
    let mut client = registered(&server).await;
    let unknown = |type_url: &str| Any { type_url: type_url.into(), value: Bytes::new() }.encode_to_vec();
    let good = statement("SELECT 1");
    for (bytes, code) in [
        (good[..good.len() - 2].to_vec(), "invalid_argument"),
        (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7fgarbage".to_vec(), "invalid_argument"),
        (b"\n\x04\xff\xff\xff\xff".to_vec(), "invalid_argument"),
        (unknown("type.googleapis.com/google.protobuf.StringValue"), "invalid_argument"),
        (unknown("type.googleapis.com/arrow.flight.protocol.sql.CommandOfTomorrow"), "unimplemented"),
        (
            packed(&CommandPreparedStatementQuery { prepared_statement_handle: Bytes::from_static(b"\xff") }),
            "invalid_argument",
        ),
        (packed(&CommandStatementUpdate { query: "SELECT 1".into(), transaction_id: None }), "invalid_argument"),
        (
            packed(&CommandStatementQuery { query: "SELECT 1".into(), transaction_id: Some(Bytes::from_static(b"t")) }),
            "unimplemented",
        ),
        (b"\n\n".to_vec(), "invalid_argument"),
    ] {
        let descriptor = || FlightDescriptor::new_cmd(bytes.clone());
        assert_eq!(code_of(&client.do_get(Ticket::new(bytes.clone())).await.unwrap_err()), code, "{bytes:?}");
        assert_eq!(code_of(&client.get_flight_info(descriptor()).await.unwrap_err()), code, "{bytes:?}");
        assert_eq!(code_of(&client.get_schema(descriptor()).await.unwrap_err()), code, "{bytes:?}");
    }
    for (name, body) in action_bodies().into_iter().filter(|(_, body)| !body.is_empty()) {
        for broken in [body[..body.len() - 1].to_vec(), b"{\"sql\": 1}".to_vec(), b"\n\xff".to_vec()] {
            let status = client.do_action(Action::new(name, broken.clone())).await.err();
            // A shorter text can be a statement too.
            assert!(status.is_none_or(|status| code_of(&status) == "invalid_argument"), "{name} {broken:?}");
        }
    }
    // A handle of parameters is checked when it is bound, and when it is used.
    let mut results = client.do_action(prepare("SELECT CAST(? AS BIGINT) AS n")).await.unwrap().into_inner();
    let result = Any::decode(results.message().await.unwrap().unwrap().body).unwrap();
    let prepared: ActionCreatePreparedStatementResult = result.unpack().unwrap().unwrap();
    let command = CommandPreparedStatementQuery { prepared_statement_handle: prepared.prepared_statement_handle };
    let batch =
        |rows: i64| RecordBatch::try_from_iter([("0", Arc::new(Int64Array::from_iter_values(0..rows)) as _)]).unwrap();
    for (batches, code) in [(vec![batch(2)], "invalid_argument"), (vec![batch(1), batch(1)], "invalid_argument")] {
        let messages = any_put(FlightDescriptor::new_cmd(packed(&command)), &batches);
        let (_, failed) = send(&mut client, stream::iter(messages)).await;
        assert_eq!(code_of(&failed.unwrap()), code);
    }
    // JSON begins with the same byte when it begins with a line feed.
    let ticket = Ticket::new("\n{\"sql\": \"SELECT 7 AS n\"}");
    let rows = get_ticket(&mut client, ticket).await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 7);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_count_as_responses_of_the_listener() {
    let config = FlightSettings { gets_max: 1, ..FlightSettings::default() };
    let server = Running::with(config).await;
    let mut client = registered(&server).await;
    put(&mut client, &[klines(0..3, 0)]).await;
    let endless = statement("SELECT a.ts FROM klines_1m a CROSS JOIN generate_series(1, 1000000000) b");
    let mut open = client.do_get(Ticket::new(endless)).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    let status = client.do_get(Ticket::new(packed(&CommandGetCatalogs {}))).await.unwrap_err();
    assert_eq!((code_of(&status), status.code()), ("overloaded", Code::Unavailable));
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.do_get(Ticket::new(packed(&CommandGetCatalogs {}))).await.is_err() {
        assert!(Instant::now() < deadline, "the permit was not released");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}
