"""Arrow Flight through pyarrow.flight."""

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest
from support import KEY, MINUTE, PATH, REGISTRATION, T0, assert_same, klines, put_table, words

BY_PATH = flight.FlightDescriptor.for_path(*PATH)


def command(**fields):
    return flight.FlightDescriptor.for_command(json.dumps({"series": KEY, **fields}))


def ticket(**fields):
    return flight.Ticket(json.dumps({"series": [KEY], **fields}))


def act(client, name, body=None):
    results = list(client.do_action(flight.Action(name, b"" if body is None else json.dumps(body).encode())))
    assert len(results) == 1
    return json.loads(results[0].body.to_pybytes())


def register(client):
    return act(client, "register_series", REGISTRATION)


def put(client, table, descriptor=BY_PATH, chunk=65_536):
    """Writes a table batch by batch; gives all acknowledgements."""
    return put_table(client, descriptor, table, chunk)


def get(client, **fields):
    return client.do_get(ticket(**fields)).read_all()


def test_rows_come_back_exactly_from_the_log_from_chunks_and_after_a_restart(server, client):
    assert register(client)["created"] is True
    rows = klines(50_000)
    acks = put(client, rows, chunk=20_000)
    assert [ack["rows_written"] for ack in acks] == [20_000, 20_000, 10_000]
    assert all(ack["durable"] and ack["series"] == KEY for ack in acks)
    assert [ack["commit"] for ack in acks] == sorted({ack["commit"] for ack in acks})
    assert_same(get(client), rows)
    server.seal()
    assert len(server.chunks()) == 2  # February and March
    assert_same(get(client), rows)
    server.restart()
    with flight.connect(server.flight) as again:
        assert_same(get(again), rows)


def test_ranges_are_closed_and_columns_order_and_numbers_as_requested(filled, client):
    rows = filled.rows
    first, last = T0 + 16_000 * MINUTE, T0 + 99_500 * MINUTE
    assert_same(get(client, start=first, end=last), rows.slice(16_000, 83_501))
    assert_same(get(client, latest=1_500), rows.slice(98_500))
    assert_same(get(client, start="2024-02-02", end="2024-02-02"), rows.slice(1_440, 1_440))
    falling = get(client, order="desc", limit=3, columns=["close", "open"])
    assert falling.schema.names == ["ts", "close", "open"]
    assert falling["ts"].to_pylist() == rows["ts"].to_pylist()[:-4:-1]
    assert falling["close"].to_pylist() == rows["close"].to_pylist()[:-4:-1]

    exact = rows["volume"].to_pylist()
    doubles = get(client, columns=["volume"], numbers="float64")["volume"].to_numpy()
    assert np.array_equal(doubles, np.array([float(value) for value in exact]))
    assert get(client, columns=["volume"], numbers="decimal128")["volume"].to_pylist() == exact
    assert get(client, columns=["volume"], numbers="string")["volume"].to_pylist() == [f"{value:.8f}" for value in exact]
    raw = get(client, columns=["volume"], numbers="raw")["volume"]
    assert raw.type == pa.int64() and raw.to_pylist() == [int(value.scaleb(8)) for value in exact]


def test_no_row_still_has_a_schema(filled, client):
    none = get(client, start="1990-01-01", end="1990-12-31")
    assert none.num_rows == 0 and none.schema.types == filled.rows.schema.types
    metadata = none.schema.metadata
    assert metadata[b"fastk.series"] == KEY.encode()
    assert int(metadata[b"fastk.version"]) > 0 and int(metadata[b"fastk.commit"]) > 0


def test_info_is_exact_pinned_and_splits_for_parallel_readers(filled, client):
    info = client.get_flight_info(BY_PATH)
    assert info.descriptor == BY_PATH and info.ordered
    assert info.total_records == 100_000 and info.total_bytes >= 100_000 * 48
    assert info.schema.types == filled.rows.schema.types
    assert client.get_schema(BY_PATH).schema.types == filled.rows.schema.types
    split = client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps({"series": [KEY], "endpoints": 4})))
    assert len(split.endpoints) == 4 and split.total_records == 100_000
    put(client, klines(100_500, salt=77))

    assert len(info.endpoints) == 1 and info.endpoints[0].locations == []
    assert_same(client.do_get(info.endpoints[0].ticket).read_all(), filled.rows)

    def read(endpoint):
        with flight.connect(filled.flight) as own:
            return own.do_get(endpoint.ticket).read_all()

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(read, split.endpoints))
    assert all(part.num_rows > 0 for part in parts)
    assert_same(pa.concat_tables(parts), filled.rows)
    assert get(client).num_rows == 100_500


def test_every_series_is_listed(filled, client):
    scalar = {"kind": "scalar", "category": "feature", "symbol": "X", "timeframe": "1h", "name": "rsi"}
    act(client, "register_series", scalar)
    infos = {b"/".join(info.descriptor.path).decode(): info for info in client.list_flights()}
    assert set(infos) == {KEY, "scalar/feature/X/1h/rsi"}
    info = infos[KEY]
    assert info.total_records == 100_000 and info.schema.names == filled.rows.schema.names
    row = json.loads(info.app_metadata)
    assert row["series"] == KEY and row["rows"] == 100_000 and row["first_ts"] == T0 and row["chunks"] >= 1
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 100_000
    assert [info.descriptor.path[0] for info in client.list_flights(b"scalar/")] == [b"scalar"]


def test_actions(filled, client):
    offered = {action.type for action in client.list_actions()}
    assert {"register_series", "drop_series", "delete_range", "inventory", "health"} <= offered
    assert act(client, "health")["status"] == "ok"
    assert act(client, "inventory")["totals"]["rows"] == 100_000
    deleted = act(client, "delete_range", {"series": KEY, "start": T0, "end": T0 + 9 * MINUTE})
    assert deleted["rows_deleted"] == 10
    assert_same(get(client), filled.rows.slice(10))
    assert act(client, "drop_series", {"series": KEY})["rows_deleted"] == 99_990
    with pytest.raises(KeyError, match="series_not_found"):
        get(client)
    with pytest.raises(NotImplementedError, match="unimplemented.*register_series"):
        act(client, "fly_to_the_moon")


def test_columns_of_any_number_and_time_type_are_taken(server, client):
    register(client)
    stored = klines(1_000)
    prices = ["open", "high", "low", "close"]
    floats = stored.cast(pa.schema([pa.field(f.name, f.type if f.name == "ts" else pa.decimal128(18, f.type.scale)) for f in stored.schema]))
    floats = pa.table({"ts": stored["ts"].cast(pa.int64()), **{name: pc.cast(floats[name], pa.float64()) for name in prices + ["volume"]}})
    shuffled = floats.select(["volume", "close", "ts", "low", "high", "open"])
    put(client, shuffled)
    assert_same(get(client), stored)
    act(client, "delete_range", {"series": KEY, "all": True})
    wide = pa.table({"ts": stored["ts"].cast(pa.timestamp("us", "UTC")), **{name: stored[name].cast(pa.decimal128(30, 10)) for name in prices + ["volume"]}})
    put(client, wide)
    assert_same(get(client), stored)


def test_a_rejected_batch_raises_and_leaves_the_batches_before_it(server, client):
    register(client)
    good, other = klines(10), klines(10, first=10)
    bad = other.set_column(3, "low", other["high"].combine_chunks()).set_column(2, "high", other["low"].combine_chunks())
    writer, reader = client.do_put(BY_PATH, good.schema)
    writer.write_table(good)
    assert json.loads(reader.read().to_pybytes())["rows_written"] == 10
    with pytest.raises(pa.ArrowInvalid, match="invalid_rows"):
        writer.write_table(bad)
        writer.done_writing()
        while reader.read() is not None:
            pass
        writer.close()
    assert_same(get(client), good)


@pytest.mark.parametrize(
    ("mode", "error", "code"),
    [("insert", pa.ArrowException, "rows_exist"), ("append", pa.ArrowException, "out_of_order")],
)
def test_modes_refuse_what_they_must(server, client, mode, error, code):
    register(client)
    put(client, klines(10))
    with pytest.raises(error, match=code):
        put(client, klines(10, first=5), command(mode=mode))
    assert get(client).num_rows == 10
    put(client, klines(10, first=10), command(mode=mode))
    assert get(client).num_rows == 20


def test_a_put_creates_its_series_and_an_empty_one_is_answered(server, client):
    acks = put(client, klines(0), command(create=REGISTRATION))
    assert len(acks) == 1 and acks[0]["rows_written"] == 0
    assert put(client, klines(5))[0]["rows_written"] == 5


def test_a_client_that_never_reads_its_acknowledgements_is_not_held_up(server, client):
    register(client)
    rows = klines(6_000)
    writer, reader = client.do_put(BY_PATH, rows.schema)
    for batch in rows.to_batches(max_chunksize=2):
        writer.write_batch(batch)
    writer.done_writing()
    acks = []
    while (buffer := reader.read()) is not None:
        acks.append(json.loads(buffer.to_pybytes()))
    writer.close()
    assert sum(ack["rows_written"] for ack in acks) == 6_000
    assert acks[-1]["last_ts"] == T0 + 5_999 * MINUTE
    assert_same(get(client), rows)

    # Nor does closing without a look lose a row.
    writer, _ = client.do_put(BY_PATH, rows.schema)
    more = klines(3_000, first=6_000)
    for batch in more.to_batches(max_chunksize=1):
        writer.write_batch(batch)
    writer.close()
    assert_same(get(client), pa.concat_tables([rows, more]))


def test_a_batch_over_the_limit_is_refused_with_the_way_out(server, client):
    register(client)
    rows = klines(1_500_000)  # 72 MB of columns
    with pytest.raises(pa.ArrowException, match="too_large.*max_chunksize"):
        put(client, rows, chunk=1_500_000)
    assert get(client).num_rows == 0
    assert sum(ack["rows_written"] for ack in put(client, rows, chunk=500_000)) == 1_500_000


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"series":[]}', b'{"series":["kline/../1m"]}'])
def test_malformed_tickets_are_invalid_arguments(server, client, body):
    with pytest.raises(pa.ArrowInvalid, match="invalid_argument"):
        client.do_get(flight.Ticket(body)).read_all()


def test_values_are_exact_to_the_last_digit(server, client):
    register(client)
    edge = Decimal("9999999999999999.99")
    rows = klines(2)
    for name in ("open", "high", "low", "close"):
        column = pa.array([edge, -edge], pa.decimal64(18, 2))
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    put(client, rows)
    assert get(client)["close"].to_pylist() == [edge, -edge]
    server.seal()
    assert get(client)["close"].to_pylist() == [edge, -edge]


def test_an_open_bar_is_merged_once_however_often_it_is_sent(server, client):
    register(client)
    bars = klines(3)
    cells = {name: words(bars[name]) for name in ("open", "high", "low", "close", "volume")}
    merge = command(mode="merge", idempotency_key="bar-2024-02-01T00:00")
    # Three updates of one minute, a batch each.
    updates = bars.set_column(0, bars.schema.field("ts"), pa.array([T0] * 3, pa.timestamp("ms", "UTC")))
    first = put(client, updates, merge, chunk=1)
    assert [ack["rows_replaced"] for ack in first] == [0, 1, 1]
    replayed = [ack | {"idempotency_replayed": True} for ack in first]
    assert put(client, updates, merge, chunk=1) == replayed
    server.restart()
    with flight.connect(server.flight) as again:
        assert put(again, updates, merge, chunk=1) == replayed
        bar = get(again, numbers="raw").to_pylist()
    assert len(bar) == 1
    assert bar[0]["open"] == cells["open"][0] and bar[0]["close"] == cells["close"][2]
    assert bar[0]["high"] == cells["high"].max() and bar[0]["low"] == cells["low"].min()
    assert bar[0]["volume"] == cells["volume"].sum()


def test_a_merge_needs_a_key_and_a_key_one_body(client):
    register(client)
    with pytest.raises(pa.ArrowInvalid, match="invalid_argument.*Idempotency-Key"):
        put(client, klines(1), command(mode="merge"))
    put(client, klines(1), command(idempotency_key="k"))
    with pytest.raises(pa.ArrowException, match="idempotency_mismatch"):
        put(client, klines(2), command(idempotency_key="k"))


def test_a_snapshot_shows_the_same_rows_until_it_is_dropped(filled, client):
    made = act(client, "create_snapshot", {"name": "before"})
    assert set(made) == {"name", "commit", "created_at"}
    descriptor = flight.FlightDescriptor.for_command(json.dumps({"series": [KEY], "as_of": "before"}))
    info = client.get_flight_info(descriptor)
    put(client, klines(50_000, salt=5))
    act(client, "delete_range", {"series": KEY, "start": T0, "end": T0 + 1_000 * MINUTE})
    filled.seal()
    filled.restart()
    with flight.connect(filled.flight) as again:
        assert act(again, "list_snapshots") == {"snapshots": [made]}
        shown = get(again, as_of="before")
        assert_same(shown, filled.rows)
        assert int(shown.schema.metadata[b"fastk.commit"]) == made["commit"]
        assert_same(again.do_get(info.endpoints[0].ticket).read_all(), filled.rows)
        assert get(again).num_rows == 100_000 - 1_001
        act(again, "drop_snapshot", {"name": "before"})
        with pytest.raises(pa.ArrowKeyError, match="snapshot_not_found"):
            get(again, as_of="before")


class Problems(flight.ClientMiddlewareFactory):
    """Keeps the problem document of the last call that failed, as docs/flight.md shows it."""

    last = None

    def start_call(self, info):
        return Problem(self)


class Problem(flight.ClientMiddleware):
    def __init__(self, problems):
        super().__init__()
        self.problems = problems

    def received_headers(self, headers):
        if "fastk-problem-bin" in headers:
            self.problems.last = json.loads(headers["fastk-problem-bin"][0])


def test_exceptions_name_the_rows_and_the_problem_comes_with_them(server):
    problems = Problems()
    with flight.connect(server.flight, middleware=[problems]) as client:
        register(client)
        rows = klines(3)
        high = rows["high"].to_pylist()
        high[1] = Decimal("0.01")
        at = rows.schema.get_field_index("high")
        bad = rows.set_column(at, rows.schema.field("high"), pa.array(high, rows["high"].type))
        with pytest.raises(pa.ArrowInvalid) as raised:
            put(client, bad)
        assert "invalid_rows: " in str(raised.value) and "row 1, high: " in str(raised.value)
        problem = problems.last
        assert problem["code"] == "invalid_rows" and problem["type"] == "urn:fastk:error:invalid_rows"
        assert problem["status"] == 422 and problem["title"]
        assert {(row["row"], row["reason"]) for row in problem["errors"]} == {(1, "ohlc")}
        with pytest.raises(KeyError):
            client.do_get(flight.Ticket(json.dumps({"series": ["kline/BTCUSD/1m"]}))).read_all()
        assert problems.last["code"] == "series_not_found" and KEY in problems.last["hint"]


def test_explain_and_replays_are_reported_in_metadata(client):
    register(client)
    once = command(idempotency_key="k")
    assert [ack["idempotency_replayed"] for ack in put(client, klines(5), once)] == [False]
    assert [ack["idempotency_replayed"] for ack in put(client, klines(5), once)] == [True]
    options = {"explain": True, "where": [{"column": "close", "op": "gt", "value": 0}]}
    assert get(client, **options).num_rows == 5
    last = None
    for chunk in client.do_get(ticket(**options)):
        last = chunk
    assert last.data is None and json.loads(last.app_metadata.to_pybytes())["stats"]["rows_matched"] == 5
