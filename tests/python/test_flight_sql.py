"""Flight SQL with its clients: ADBC, and through it Polars, pandas and DuckDB; the calls of the JDBC driver and of Grafana.

The JDBC driver and Grafana are no Python packages: their calls are repeated with messages written here.
"""

import datetime
import json
import threading
import time
from decimal import Decimal

import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager
import duckdb
import flight_sql_messages as messages
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import support
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

ENDLESS = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 8"


@pytest.fixture
def bars(server, client):
    """A server with 5,000 bars of two symbols, a scalar, and a snapshot before the last rows."""
    for symbol in ("AAA", "BBB"):
        server.json("POST", "/v1/series", {**support.REGISTRATION, "symbol": symbol})
        support.put_table(client, flight.FlightDescriptor.for_path("kline", symbol, "1m"), support.klines(4_000), 4_000)
    server.json("POST", "/v1/snapshots", {"name": "before"})
    for symbol in ("AAA", "BBB"):
        support.put_table(client, flight.FlightDescriptor.for_path("kline", symbol, "1m"), support.klines(1_000, 4_000), 500)
    spec = {"kind": "scalar", "category": "feature", "symbol": "AAA", "timeframe": "1h", "name": "rsi", "value": {"digits": 2}}
    server.json("POST", "/v1/series", spec)
    return server


def connect(server, token=None, **options):
    """A connection of ADBC; `options` are those of the database."""
    known = {name: value for name, value in options.items()}
    if token:
        known[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
    return dbapi.connect(server.flight, db_kwargs=known, autocommit=True)


@pytest.fixture
def adbc(bars):
    with connect(bars) as connection:
        yield connection


def fetched(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def failure(connection, sql, parameters=None):
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error) as failed:
        cursor.execute(sql, parameters)
        cursor.fetchall()
    return failed.value


def test_rows_arrive_with_their_exact_cells(adbc):
    table = fetched(adbc, "SELECT symbol, ts, open, close, volume FROM klines_1m ORDER BY symbol, ts")
    assert table.schema == pa.schema(
        [
            pa.field("symbol", pa.string(), nullable=False),
            pa.field("ts", pa.timestamp("ms", "UTC"), nullable=False),
            pa.field("open", pa.decimal128(18, 2), nullable=False),
            pa.field("close", pa.decimal128(18, 2), nullable=False),
            pa.field("volume", pa.decimal128(18, 8), nullable=False),
        ]
    )
    expected = support.klines(5_000)
    for symbol, part in (("AAA", table.slice(0, 5_000)), ("BBB", table.slice(5_000))):
        assert set(part["symbol"].to_pylist()) == {symbol}
        for name in ("ts", "open", "close", "volume"):
            assert part[name].to_pylist() == expected[name].to_pylist()
    with adbc.cursor() as cursor:
        cursor.execute("SELECT close FROM klines_1m ORDER BY symbol, ts LIMIT 1")
        assert cursor.fetchone() == (expected["close"][0].as_py(),) and cursor.fetchone() is None
        assert cursor.description[0][0] == "close"
    assert fetched(adbc, "SELECT symbol FROM klines_1m WHERE false").num_rows == 0


def test_flight_info_has_the_schema_of_the_rows(client, bars):
    for sql in [
        "SELECT * FROM klines_1m LIMIT 3",
        "SELECT symbol, sum(close), avg(CAST(close AS DOUBLE)), count(*), max(ts) FROM klines_1m GROUP BY symbol",
        "SELECT a.ts, b.close FROM klines_1m a LEFT JOIN klines_1m b ON a.ts = b.ts AND b.symbol = 'none' LIMIT 5",
        "SELECT close FROM klines_1m UNION ALL SELECT 1.5 UNION ALL SELECT NULL",
        "SELECT CASE WHEN close > 42000 THEN close END, coalesce(close, 0), nullif(close, 1) FROM klines_1m LIMIT 2",
        "SELECT NULL AS n, 1 AS one, 'a' AS a, true AS t, DATE '2024-01-01' AS d, INTERVAL '1 day' AS i, x'00' AS b, [1, 2] AS l",
        "SELECT time_bucket('1h', ts) t, first(open, ts), last(close, ts), vwap(close, volume) FROM klines_1m GROUP BY t",
        "SELECT lag(close) OVER (PARTITION BY symbol ORDER BY ts) FROM klines_1m LIMIT 5",
        "SELECT * FROM resample('klines_1m', '1h') LIMIT 3",
        "SELECT * FROM latest('klines_1m')",
        "SELECT * FROM system.series",
        "SELECT * FROM system.queries",
        "SELECT * FROM information_schema.columns",
        "SELECT a.ts, b.ts FROM klines_1m a JOIN klines_1m b ON a.ts = b.ts LIMIT 1",
        "WITH w AS (SELECT symbol, ts FROM klines_1m) SELECT * FROM w WHERE ts > '2024-02-01T01:00:00Z' ORDER BY ts LIMIT 1",
        "EXPLAIN SELECT * FROM klines_1m",
        "EXPLAIN ANALYZE SELECT count(*) FROM klines_1m",
        "SHOW TABLES",
        "DESCRIBE klines_1m",
    ]:
        for headers in ({}, {"fastk_profile": "grafana"}, {"fastk_numbers": "stored"}, {"fastk_numbers": "string"}):
            found = messages.info(client, "CommandStatementQuery", messages.field(1, sql), **headers)
            messages.read(client, found)
            descriptor = flight.FlightDescriptor.for_command(messages.packed("CommandStatementQuery", messages.field(1, sql)))
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            assert client.get_schema(descriptor, messages.options(**names)).schema.equals(found.schema), sql
    ordered = messages.info(client, "CommandStatementQuery", messages.field(1, "SELECT ts FROM klines_1m ORDER BY ts LIMIT 1"))
    assert ordered.ordered and ordered.total_records == -1
    assert not messages.info(client, "CommandStatementQuery", messages.field(1, "SELECT ts FROM klines_1m")).ordered


def test_the_ticket_of_a_flight_info_reads_its_commit(bars, client):
    found = messages.info(client, "CommandStatementQuery", messages.field(1, "SELECT count(*) AS n FROM klines_1m"))
    support.put_table(client, flight.FlightDescriptor.for_path("kline", "AAA", "1m"), support.klines(10, 6_000), 10)
    assert messages.read(client, found).to_pylist() == [{"n": 10_000}]
    assert messages.read(client, found).to_pylist() == [{"n": 10_000}], "a ticket can be read again"
    assert messages.query(client, "SELECT count(*) AS n FROM klines_1m").to_pylist() == [{"n": 10_010}]


def test_parameters_have_their_types(adbc):
    middle = support.klines(5_000)["close"][2_500].as_py()
    count = "SELECT count(*) FROM klines_1m WHERE "
    at = datetime.datetime(2024, 2, 1, 1, tzinfo=datetime.timezone.utc)
    closes = support.klines(5_000)["close"].to_pylist()
    for sql, parameters, expected in [
        ("symbol = ?", ("AAA",), 5_000),
        ("symbol = ? AND close > ?", ("AAA", middle), sum(close > middle for close in closes)),
        ("close > $2 AND symbol = $1", ("AAA", middle), sum(close > middle for close in closes)),
        ("symbol = ? AND close = ?", ("AAA", middle), closes.count(middle)),
        ("symbol = ? AND ts >= ?", ("BBB", at), 5_000 - 60),
        ("symbol = ? AND ts >= ?", ("BBB", at.replace(tzinfo=None)), 5_000 - 60),
        ("symbol = ? AND ts >= ?", ("BBB", "2024-02-01T01:00:00Z"), 5_000 - 60),
        ("symbol = ? AND close > ?", ("AAA", 0), 5_000),
        ("symbol = ? AND close > ?", ("AAA", float(middle)), sum(float(close) > float(middle) for close in closes)),
        ("symbol = ? AND (close > 0 OR ?)", ("AAA", True), 5_000),
        ("symbol = ?", (None,), 0),
    ]:
        assert fetched(adbc, count + sql, parameters).to_pylist() == [{"count(*)": expected}], (sql, parameters)
    assert fetched(adbc, "SELECT ? AS a, ? AS b", ("x", Decimal("0.10"))).to_pylist() == [{"a": "x", "b": Decimal("0.10")}]
    with adbc.cursor() as cursor:
        sql = count + "symbol = ? AND close > ? AND ts >= ? AND ? LIKE 'a%'"
        schema = cursor.adbc_prepare(sql)
        assert schema.names == ["$1", "$2", "$3", "$4"]
        assert schema.types[:3] == [pa.string(), pa.decimal128(18, 2), pa.timestamp("ms", "UTC")]
        # The same prepared statement, with other parameters.
        for symbol, n in (("AAA", 5_000), ("none", 0), ("BBB", 5_000)):
            cursor.execute(sql, (symbol, Decimal(0), at.replace(year=2020), "abc"))
            assert cursor.fetchone() == (n,)
    assert adbc_status(failure(adbc, count + "symbol = ?", ([1, 2],))) == "INVALID_ARGUMENT"
    assert adbc_status(failure(adbc, count + "symbol = ? AND close > ?", ("AAA",))) == "INVALID_ARGUMENT"
    # ADBC sends several rows as an update.
    with adbc.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="run it as a query"):
        cursor.executemany(count + "symbol = ?", [("AAA",), ("BBB",)])


def adbc_status(error):
    return error.status_code.name


def test_the_catalog_is_listed(adbc):
    objects = adbc.adbc_get_objects(depth="all").read_all().to_pylist()
    assert [catalog["catalog_name"] for catalog in objects] == ["fastk"]
    schemas = {schema["db_schema_name"]: schema["db_schema_tables"] for schema in objects[0]["catalog_db_schemas"]}
    tables = {table["table_name"]: table for table in schemas["public"]}
    assert set(tables) == {"klines_1m", "scalars_feature_1h"} and tables["klines_1m"]["table_type"] == "TABLE"
    columns = [column["column_name"] for column in tables["klines_1m"]["table_columns"]]
    assert columns == ["symbol", "ts", "open", "high", "low", "close", "volume"]
    assert {table["table_name"] for table in schemas["system"]} == {"series", "chunks", "snapshots", "datasets", "queries"}
    assert {table["table_type"] for table in schemas["system"]} == {"SYSTEM TABLE"}
    one = adbc.adbc_get_objects(depth="tables", table_name_filter="klines%", db_schema_filter="pub%").read_all().to_pylist()
    assert [table["table_name"] for table in one[0]["catalog_db_schemas"][0]["db_schema_tables"]] == ["klines_1m"]
    assert adbc.adbc_get_table_types() == ["SYSTEM TABLE", "TABLE"]
    schema = adbc.adbc_get_table_schema("klines_1m")
    assert schema.equals(fetched(adbc, "SELECT * FROM klines_1m LIMIT 1").schema)
    assert adbc.adbc_get_table_schema("klines_1m", catalog_filter="fastk", db_schema_filter="public") == schema
    of_key = adbc.adbc_get_table_schema("kline/AAA/1m")
    assert of_key.equals(fetched(adbc, 'SELECT * FROM "kline/AAA/1m" LIMIT 1').schema) and "symbol" not in of_key.names
    with pytest.raises(adbc_driver_manager.Error):
        adbc.adbc_get_table_schema("nothing")
    info = adbc.adbc_get_info()
    assert info["vendor_name"] == "FastK" and info["vendor_version"]


def test_metadata_answers_without_a_catalog(client, bars):
    assert messages.rows(client, "CommandGetCatalogs").to_pylist() == [{"catalog_name": "fastk"}]
    schemas = messages.rows(client, "CommandGetDbSchemas").to_pylist()
    assert [row["db_schema_name"] for row in schemas] == ["public", "system"]
    tables = messages.rows(client, "CommandGetTables", messages.field(5, True))
    names = [(row["db_schema_name"], row["table_name"]) for row in tables.to_pylist()]
    assert ("public", "klines_1m") in names and ("system", "series") in names
    for row in tables.to_pylist():
        sent = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
        found = messages.query(client, f"SELECT * FROM {row['db_schema_name']}.{row['table_name']} LIMIT 0").schema
        assert sent.names == found.names and sent.types == found.types
    bare = messages.rows(client, "CommandGetTables")
    assert bare.num_rows == tables.num_rows and bare.column_names == tables.column_names[:-1]
    for filters, found in [
        (messages.field(1, "fastk") + messages.field(2, "public") + messages.field(3, "klines\\_1m"), ["klines_1m"]),
        (messages.field(1, "other"), []),
        (messages.field(4, "TABLE"), ["klines_1m", "scalars_feature_1h"]),
        (messages.field(4, "VIEW"), []),
        (messages.field(3, "kline/BBB/1m"), ["kline/BBB/1m"]),
    ]:
        assert messages.rows(client, "CommandGetTables", filters)["table_name"].to_pylist() == found, filters
    types = messages.rows(client, "CommandGetTableTypes")["table_type"].to_pylist()
    assert types == ["SYSTEM TABLE", "TABLE"]
    keys = messages.rows(client, "CommandGetPrimaryKeys", messages.field(3, "klines_1m")).to_pylist()
    assert [(key["column_name"], key["key_sequence"]) for key in keys] == [("symbol", 1), ("ts", 2)]
    assert messages.rows(client, "CommandGetPrimaryKeys", messages.field(3, "nothing")).num_rows == 0
    cross = messages.field(3, "klines_1m") + messages.field(6, "klines_1m")
    for name, body in [("ExportedKeys", messages.field(3, "klines_1m")), ("ImportedKeys", messages.field(3, "klines_1m")), ("CrossReference", cross)]:
        assert messages.rows(client, f"CommandGet{name}", body).num_rows == 0
    types = messages.rows(client, "CommandGetXdbcTypeInfo").to_pylist()
    assert {"DECIMAL", "VARCHAR", "BIGINT", "DOUBLE"} <= {row["type_name"] for row in types}
    decimals = messages.rows(client, "CommandGetXdbcTypeInfo", messages.field(1, 3)).to_pylist()
    assert [row["type_name"] for row in decimals] == ["DECIMAL"]


def test_errors_have_the_codes_of_adbc_and_of_fastk(adbc, bars, client):
    for sql, code, name in [
        ("SELECT nothing FROM klines_1m", "INVALID_ARGUMENT", "invalid_argument"),
        ("SELECT (", "INVALID_ARGUMENT", "invalid_argument"),
        ("SELECT 1; SELECT 2", "INVALID_ARGUMENT", "invalid_argument"),
        ("SELECT * FROM nothing", "NOT_FOUND", "not_found"),
        ("DROP TABLE klines_1m", "UNAUTHORIZED", "permission_denied"),
        ("INSERT INTO klines_1m SELECT * FROM klines_1m", "UNAUTHORIZED", "permission_denied"),
        ("COPY (SELECT 1) TO 'x.csv'", "UNAUTHORIZED", "permission_denied"),
        ("SELECT 1/0 FROM klines_1m", "INVALID_ARGUMENT", "invalid_argument"),
        ("SET fastk.as_of = 'none'; SELECT 1", "NOT_FOUND", "snapshot_not_found"),
    ]:
        error = failure(adbc, sql)
        assert adbc_status(error) == code and f"{name}: " in str(error), (sql, error)
    with adbc.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="permission_denied"):
        cursor.adbc_prepare("DELETE FROM klines_1m")
    # What is not a message of Flight SQL.
    statement = messages.packed("CommandStatementQuery", messages.field(1, "SELECT 1"))
    for bad, hint in [
        (statement[:-3], "neither JSON nor a message"),
        (b"\n\xff\xff\xff\xff\x0fgarbage", "neither JSON nor a message"),
        (messages.field(1, "type.googleapis.com/google.protobuf.StringValue"), "has the type"),
        (messages.packed("CommandStatementQuery", b"\n\x20cut"), "cannot be decoded"),
        (messages.packed("TicketStatementQuery", messages.field(1, b"\xff\xff")), "not one of this server"),
    ]:
        for call in (lambda: client.do_get(flight.Ticket(bad)), lambda: client.get_flight_info(flight.FlightDescriptor.for_command(bad))):
            with pytest.raises(pa.ArrowInvalid, match=hint):
                call()
    with pytest.raises(NotImplementedError, match="CommandOfTomorrow"):
        client.do_get(flight.Ticket(messages.packed("CommandOfTomorrow")))
    # JSON may begin with a line feed, whose byte begins a message of Flight SQL.
    ticket = "\n" + json.dumps({"sql": "SELECT 1 AS one"})
    assert client.do_get(flight.Ticket(ticket)).read_all().to_pylist() == [{"one": 1}]
    for name in ("BeginTransaction", "EndTransaction", "BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan"):
        with pytest.raises(NotImplementedError):
            messages.act(client, name, messages.packed(f"Action{name}Request"))


def test_tokens_see_their_series_only(tmp_path):
    root, tokens = tmp_path / "store", {}
    for name, flags in [("all", ["--scope", "write"]), ("some", ["--scope", "read", "--prefix", "kline/AAA"]), ("other", ["--scope", "write", "--prefix", "kline/X"])]:
        done = support.run("admin", "token", "create", "--root", root, "--name", name, "--json", *flags)
        tokens[name] = json.loads(done.stdout)["token"]
    server = support.Server(root).start()
    try:
        headers = {"Authorization": f"Bearer {tokens['all']}"}
        for symbol in ("AAA", "SECRETS"):
            server.json("POST", "/v1/series", {**support.REGISTRATION, "symbol": symbol}, headers)
        with connect(server, tokens["all"]) as connection:
            with connection.cursor() as cursor:
                assert cursor.adbc_ingest("klines_1m", rows_of("AAA", 5), mode="append") == 5
                assert cursor.adbc_ingest("klines_1m", rows_of("SECRETS", 7), mode="append") == 7
        with connect(server, tokens["some"]) as connection:
            assert fetched(connection, "SELECT DISTINCT symbol FROM klines_1m").to_pylist() == [{"symbol": "AAA"}]
            shown = json.dumps(connection.adbc_get_objects(depth="all").read_all().to_pylist(), default=str)
            assert "klines_1m" in shown and "SECRETS" not in shown
            assert adbc_status(failure(connection, 'SELECT * FROM "kline/SECRETS/1m"')) == "NOT_FOUND"
            with pytest.raises(adbc_driver_manager.Error):
                connection.adbc_get_table_schema("kline/SECRETS/1m")
            with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="scope write"):
                cursor.adbc_ingest("klines_1m", rows_of("AAA", 5), mode="append")
        with connect(server, tokens["other"]) as connection:
            assert adbc_status(failure(connection, "SELECT * FROM klines_1m")) == "NOT_FOUND"
            public = connection.adbc_get_objects(depth="tables", db_schema_filter="public").read_all().to_pylist()
            assert not any(schema["db_schema_tables"] for catalog in public for schema in catalog["catalog_db_schemas"])
            with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="cannot access series"):
                cursor.adbc_ingest("klines_1m", rows_of("AAA", 5), mode="create_append")
        # A prepared statement of one caller is planned with the permissions of the one that runs it.
        with flight.connect(server.flight) as client:
            of = lambda name: {"authorization": f"Bearer {tokens[name]}"}
            handle, _, _ = messages.prepare(client, "SELECT DISTINCT symbol FROM klines_1m ORDER BY symbol", **of("all"))
            ticket = flight.Ticket(messages.packed("CommandPreparedStatementQuery", messages.field(1, handle)))
            seen = client.do_get(ticket, messages.options(**of("some"))).read_all()["symbol"].to_pylist()
            assert seen == ["AAA"]
            for call in (lambda: client.do_get(ticket), lambda: messages.act(client, "GetSessionOptions", b"")):
                with pytest.raises(flight.FlightUnauthenticatedError):
                    call()
        # Name and password, as clients of databases ask for them: the password is the token.
        with dbapi.connect(server.flight, db_kwargs={"username": "any", "password": tokens["all"]}, autocommit=True) as connection:
            assert fetched(connection, "SELECT count(*) AS n FROM klines_1m").to_pylist() == [{"n": 12}]
        with pytest.raises(adbc_driver_manager.Error) as failed, connect(server) as connection:
            fetched(connection, "SELECT 1")
        assert adbc_status(failed.value) == "UNAUTHENTICATED"
    finally:
        server.kill()


def rows_of(symbol, count, first=0):
    """Bars with a column of their symbol, with decimals as all clients have them."""
    table = support.klines(count, first)
    for at, name in enumerate(table.column_names):
        if pa.types.is_decimal64(table[name].type):
            kind = pa.decimal128(18, table[name].type.scale)
            table = table.set_column(at, name, table[name].cast(kind))
    return table.add_column(0, "symbol", pa.array([symbol] * count))


def ingest(connection, name, rows, mode, **options):
    with connection.cursor() as cursor:
        return cursor.adbc_ingest(name, rows, mode=mode, **options)


def test_rows_are_ingested_and_never_replaced_as_a_whole(server):
    with connect(server) as connection:
        both = pa.concat_tables([rows_of("AAA", 3_000), rows_of("BBB", 2_000), rows_of("AAA", 10, 3_000)])
        with pytest.raises(adbc_driver_manager.Error, match="not_found"):
            ingest(connection, "klines_1m", both, "append")
        assert ingest(connection, "klines_1m", both, "create") == 5_010
        # The digits of new series are those of the decimals.
        found = {row["key"] for row in fetched(connection, "SELECT key FROM system.series").to_pylist()}
        assert found == {"kline/AAA/1m", "kline/BBB/1m"}
        stored = fetched(connection, "SELECT symbol, ts, open, high, low, close, volume FROM klines_1m ORDER BY symbol, ts")
        sorted_rows = both.sort_by([("symbol", "ascending"), ("ts", "ascending")])
        assert stored.to_pylist() == sorted_rows.to_pylist()
        with pytest.raises(adbc_driver_manager.Error, match="exists") as failed:
            ingest(connection, "klines_1m", both, "create")
        assert adbc_status(failed.value) == "ALREADY_EXISTS"
        with pytest.raises(adbc_driver_manager.Error, match="history"):
            ingest(connection, "klines_1m", both, "replace")
        # Rows of the same time are replaced, others are added; a symbol that is not registered is.
        assert ingest(connection, "klines_1m", rows_of("AAA", 20, 3_000), "append") == 20
        assert ingest(connection, "klines_1m", rows_of("CCC", 5), "create_append", db_schema_name="public") == 5
        counts = fetched(connection, "SELECT symbol, count(*) AS n FROM klines_1m GROUP BY symbol ORDER BY symbol").to_pylist()
        assert counts == [{"symbol": "AAA", "n": 3_020}, {"symbol": "BBB", "n": 2_000}, {"symbol": "CCC", "n": 5}]
        # A dictionary of symbols, a series by its key, scalars, doubles.
        rows = rows_of("BBB", 4, 9_000)
        assert ingest(connection, "klines_1m", rows.set_column(0, "symbol", rows["symbol"].dictionary_encode()), "append") == 4
        assert ingest(connection, "kline/DDD/1m", rows_of("DDD", 6).drop_columns("symbol"), "create") == 6
        assert fetched(connection, 'SELECT count(*) AS n FROM "kline/DDD/1m"').to_pylist() == [{"n": 6}]
        ts = rows_of("X", 3)["ts"]
        scalars = pa.table({"symbol": ["AAA"] * 3, "name": ["a", "b", "a"], "ts": ts, "value": [0.5, 1.5, 2.5]})
        assert ingest(connection, "scalars_risk_1m", scalars, "create") == 3
        assert fetched(connection, "SELECT symbol, name, ts, value FROM scalars_risk_1m ORDER BY ts").to_pylist() == scalars.to_pylist()
        doubles = rows_of("EEE", 3)
        for at, name in enumerate(doubles.column_names):
            if pa.types.is_decimal(doubles[name].type):
                doubles = doubles.set_column(at, name, doubles[name].cast(pa.float64()))
        # They would turn the column of all symbols into doubles.
        with pytest.raises(adbc_driver_manager.Error, match="register the series with its digits"):
            ingest(connection, "klines_1m", doubles, "append")
        assert ingest(connection, "klines_1h", doubles.slice(0, 1), "create") == 1
        for name, rows, message in [
            ("nothing_1m", both, "no kind of series"),
            ("klines_1m", both.drop_columns("symbol"), "no column"),
            ("klines_1m", both.drop_columns("close"), "close"),
            ("klines_1m", both.append_column("colour", pa.array(["red"] * 5_010)), "colour"),
            ("klines_1m", both.set_column(0, "symbol", pa.array([None] * 5_010, pa.string())), "symbol is missing"),
            ("klines_1m", both.set_column(0, "symbol", pa.array(["a/b"] * 5_010)), "a/b"),
        ]:
            with pytest.raises(adbc_driver_manager.Error, match=message):
                ingest(connection, name, rows, "append")
        with pytest.raises(adbc_driver_manager.Error):
            ingest(connection, "klines_1m", both, "append", temporary=True)
        with pytest.raises(adbc_driver_manager.Error, match="schema"):
            ingest(connection, "series", both, "append", db_schema_name="system")
        assert fetched(connection, "SELECT count(*) AS n FROM klines_1m").to_pylist() == [{"n": 3_020 + 2_004 + 5 + 6}]


def running(server):
    return server.json("GET", "/v1/sql/queries")["queries"]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def test_statements_are_cancelled_by_their_clients(bars, adbc, client):
    outcomes = []

    def run_adbc(cursor):
        try:
            cursor.execute(ENDLESS)
            outcomes.append(cursor.fetchall())
        except adbc_driver_manager.Error as error:
            outcomes.append(adbc_status(error))

    with adbc.cursor() as cursor:
        thread = threading.Thread(target=run_adbc, args=(cursor,))
        thread.start()
        wait_for(lambda: any(query["status"] == "running" for query in running(bars)))
        cursor.adbc_cancel()
        thread.join(60)
    assert outcomes == ["CANCELLED"]
    wait_for(lambda: not running(bars))
    found = messages.info(client, "CommandStatementQuery", messages.field(1, ENDLESS))
    sent = found.serialize()
    requests = {
        "CancelFlightInfo": messages.field(1, sent),
        "CancelQuery": messages.packed("ActionCancelQueryRequest", messages.field(1, sent)),
    }

    def status_of(name, reply):
        values = messages.unpacked("ActionCancelQueryResult", reply) if name == "CancelQuery" else dict(messages.fields(reply))
        return values[1]

    def run(outcomes):
        try:
            outcomes.append(client.do_get(found.endpoints[0].ticket).read_all())
        except flight.FlightTimedOutError as error:
            outcomes.append("cancelled" in str(error))

    for name, request in requests.items():
        outcomes = []
        thread = threading.Thread(target=run, args=(outcomes,))
        thread.start()
        wait_for(lambda: any(query["status"] == "running" for query in running(bars)))
        assert status_of(name, messages.act(client, name, request)) == 1, "cancelled"
        thread.join(60)
        assert outcomes == [True], name
        wait_for(lambda: not running(bars))
        assert status_of(name, messages.act(client, name, request)) == 3, "nothing to cancel"
    # A statement of which the client reads no more ends too.
    with adbc.cursor() as cursor:
        cursor.execute("SELECT a.close FROM klines_1m a, klines_1m b")
        cursor.fetchone()
    wait_for(lambda: not running(bars))


def set_option(connection, name, value, read_as=None):
    """Sets an option of the session, until it is read back.

    The Go library of Flight drops the cookie of a reply when the goroutine that watches the end of the stream is first.
    """

    def is_set():
        connection.set_options(**{name: value})
        try:
            found = connection.get_option(read_as or name)
        except adbc_driver_manager.Error as error:
            assert error.status_code == adbc_driver_manager.AdbcStatusCode.NOT_FOUND
            found = ""
        return found == value

    wait_for(is_set)


def test_options_of_sessions_and_calls(bars, client):
    cookies = {"adbc.flight.sql.rpc.with_cookie_middleware": "true"}
    count = "SELECT count(*) AS n FROM klines_1m"
    with connect(bars, **cookies) as connection:
        inner = connection.adbc_connection
        option = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
        set_option(inner, option + "fastk.as_of", "before", read_as=option + "fastk-as-of")
        assert fetched(connection, count).to_pylist() == [{"n": 8_000}]
        set_option(inner, option + "fastk-numbers", "float64")
        assert fetched(connection, "SELECT close FROM klines_1m LIMIT 1").schema.types == [pa.float64()]
        assert inner.get_option(option + "fastk-as-of") == "before"
        set_option(inner, option + "fastk-as-of", "")
        set_option(inner, "adbc.connection.db_schema", "system")
        assert fetched(connection, "SELECT count(*) AS n FROM series").to_pylist() == [{"n": 3}]
        assert fetched(connection, "SELECT count(*) AS n FROM public.klines_1m").to_pylist() == [{"n": 10_000}]
        for name, value in [(option + "colour", "red"), (option + "fastk-numbers", "roman"), ("adbc.connection.catalog", "other")]:
            with pytest.raises(adbc_driver_manager.Error):
                inner.set_options(**{name: value})
    # Without cookies, options are headers of each call.
    headers = {"adbc.flight.sql.rpc.call_header.fastk-as-of": "before", "adbc.flight.sql.rpc.call_header.fastk-numbers": "string"}
    with connect(bars, **headers) as connection:
        assert fetched(connection, count).to_pylist() == [{"n": 8_000}]
        assert fetched(connection, "SELECT close FROM klines_1m LIMIT 1").schema.types == [pa.string()]
    for name, value, kind in [("decimal128", None, pa.decimal128(18, 2)), ("stored", None, pa.decimal64(18, 2)), ("float64", None, pa.float64())]:
        table = messages.query(client, "SELECT close, ts FROM klines_1m LIMIT 1", fastk_numbers=name)
        assert table.schema.types == [kind, pa.timestamp("ms", "UTC")]
    in_ns = messages.query(client, "SELECT ts FROM klines_1m LIMIT 1", fastk_timestamps="ns")
    assert in_ns.schema.types == [pa.timestamp("ns", "UTC")]
    with pytest.raises(pa.ArrowInvalid, match="fastk-numbers"):
        messages.query(client, "SELECT 1", fastk_numbers="roman")
    with pytest.raises(pa.ArrowInvalid, match="cookie"):
        messages.query(client, "SELECT 1", cookie="fastk-session=%%")


def test_polars_pandas_and_duckdb_read_through_adbc(adbc):
    import pandas
    import polars

    sql = "SELECT ts, close FROM klines_1m WHERE symbol = 'AAA' ORDER BY ts"
    expected = support.klines(5_000)["close"].to_pylist()
    frame = polars.read_database(sql, connection=adbc)
    assert frame["close"].to_list() == expected and frame["close"].dtype == polars.Decimal(18, 2)
    assert frame["ts"].dtype == polars.Datetime("ms", "UTC")
    frame = polars.read_database("SELECT count(*) AS n FROM klines_1m WHERE symbol = ?", adbc, execute_options={"parameters": ("AAA",)})
    assert frame["n"].to_list() == [5_000]
    with adbc.cursor() as cursor:
        cursor.execute(sql)
        table = cursor.fetch_df()
    assert list(table["close"]) == expected and str(table["ts"].dtype) == "datetime64[ms, UTC]"
    assert len(pandas.read_sql(sql, adbc)) == 5_000
    frame = pandas.DataFrame({"symbol": "NEW", "ts": table["ts"].head(3), **{name: table["close"].head(3) for name in ("open", "high", "low", "close")}})
    frame["volume"] = [Decimal("1.50000000")] * 3
    assert frame.to_sql("klines_1m", adbc, if_exists="append", index=False) == 3
    written = polars.DataFrame(frame).with_columns(symbol=polars.lit("POL"))
    assert written.write_database("klines_1m", adbc, engine="adbc", if_table_exists="append") == 3
    counts = fetched(adbc, "SELECT symbol, count(*) AS n FROM klines_1m WHERE symbol > 'C' GROUP BY symbol ORDER BY symbol")
    assert counts.to_pylist() == [{"symbol": "NEW", "n": 3}, {"symbol": "POL", "n": 3}]
    # The extension of DuckDB for ADBC is downloaded; the rows of a cursor are a stream that DuckDB reads as well.
    with adbc.cursor() as cursor:
        cursor.execute(sql)
        reader = cursor.fetch_record_batch()
        found = duckdb.sql("SELECT count(*), sum(close) FROM reader").fetchall()[0]
    assert found == (5_000, sum(expected))


JDBC_INFO = [0, 1, 2, 3, 500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510, 511, 512, 513, 514, 515, 516, 517, 518]
JDBC_INFO += [519, 520, 521, 522, 523, 524, 525, 526, 527, 528, 529, 530, 531, 532, 533, 534, 535, 536, 537, 538, 539, 540]
JDBC_INFO += [541, 542, 543, 544, 545, 546, 547, 548, 549, 550, 551, 552, 553, 554, 555, 556, 557, 558, 559, 560, 561, 562]
JDBC_INFO += [563, 564, 565, 566, 567, 568, 569, 570, 571, 572, 573, 574]


class Cookies(flight.ClientMiddlewareFactory):
    """Keeps cookies as the JDBC driver does."""

    def __init__(self):
        self.cookies = {}

    def start_call(self, info):
        return CookiesOfCall(self.cookies)


class CookiesOfCall(flight.ClientMiddleware):
    def __init__(self, cookies):
        self.cookies = cookies

    def sending_headers(self):
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}

    def received_headers(self, headers):
        for cookie in headers.get("set-cookie", []):
            parts = cookie.split(";")
            name, value = parts[0].split("=", 1)
            if any(part.strip().lower() == "max-age=0" for part in parts):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value


def test_the_calls_of_the_jdbc_driver(bars):
    keeper = Cookies()
    with flight.connect(bars.flight, middleware=[keeper]) as client:
        # DriverManager.getConnection("jdbc:arrow-flight-sql://host:port?catalog=fastk"); Basic becomes Bearer.
        client.authenticate_basic_token("any", "any")
        entry = messages.field(1, "catalog") + messages.field(2, messages.option_value("fastk"))
        assert messages.act(client, "SetSessionOptions", messages.field(1, entry)) == b"", "no option was refused"
        assert keeper.cookies
        # DatabaseMetaData.
        info = messages.rows(client, "CommandGetSqlInfo", b"".join(messages.field(1, code) for code in JDBC_INFO))
        values = dict(zip(info["info_name"].to_pylist(), info["value"].to_pylist()))
        assert set(values) == set(JDBC_INFO)
        assert (values[0], values[3], values[504], values[528]) == ("FastK", True, '"', 1 << 2)
        assert values[517] == [] or values[517] == {}, "no conversions"
        everything = messages.rows(client, "CommandGetSqlInfo")
        assert set(JDBC_INFO) < set(everything["info_name"].to_pylist())
        # Every statement is prepared, also those without parameters: one with a schema of its result is a query.
        handle, dataset, parameters = messages.prepare(client, "SELECT symbol, ts, close FROM klines_1m ORDER BY ts LIMIT 3")
        assert dataset.names == ["symbol", "ts", "close"] and parameters.names == []
        command = messages.field(1, handle)
        table = messages.rows(client, "CommandPreparedStatementQuery", command)
        assert table.num_rows == 3 and table.schema.types == [pa.string(), pa.timestamp("ms", "UTC"), pa.decimal128(18, 2)]
        assert messages.act(client, "ClosePreparedStatement", messages.packed("ActionClosePreparedStatementRequest", command)) is None
        # With parameters, which are bound in the types that the server named.
        handle, _, parameters = messages.prepare(client, "SELECT count(*) AS n FROM klines_1m WHERE symbol = ? AND close >= ?")
        assert parameters.types == [pa.string(), pa.decimal128(18, 2)]
        row = pa.Table.from_pylist([{"$1": "AAA", "$2": Decimal("0.00")}], parameters)
        bound = messages.bind(client, handle, row)
        assert messages.rows(client, "CommandPreparedStatementQuery", messages.field(1, bound)).to_pylist() == [{"n": 5_000}]
        # Without them the statement cannot run.
        with pytest.raises(pa.ArrowInvalid):
            messages.rows(client, "CommandPreparedStatementQuery", messages.field(1, handle))
        with pytest.raises(flight.FlightUnauthorizedError):
            messages.prepare(client, "UPDATE klines_1m SET close = 1")
        # executeUpdate of a query.
        descriptor = flight.FlightDescriptor.for_command(messages.packed("CommandPreparedStatementUpdate", messages.field(1, bound)))
        writer, _ = client.do_put(descriptor, pa.schema([]))
        with pytest.raises(pa.ArrowInvalid, match="run it as a query"):
            writer.close()
        with pytest.raises(pa.ArrowInvalid, match="one row"):
            messages.bind(client, handle, pa.concat_tables([row, row]))
        # The options of the session apply to what is prepared in it.
        for name, value in [("schema", "system"), ("fastk.as_of", "before")]:
            entry = messages.field(1, name) + messages.field(2, messages.option_value(value))
            messages.act(client, "SetSessionOptions", messages.field(1, entry))
        refused = messages.field(1, messages.field(1, "schema") + messages.field(2, messages.option_value("none")))
        refused += messages.field(1, messages.field(1, "colour") + messages.field(2, messages.integer_option(7)))
        problems = [dict(messages.fields(value)) for _, value in messages.fields(messages.act(client, "SetSessionOptions", refused))]
        assert {problem[1]: problem[2] for problem in problems} == {b"schema": messages.field(1, 2), b"colour": messages.field(1, 1)}
        options = [dict(messages.fields(value)) for _, value in messages.fields(messages.act(client, "GetSessionOptions", b""))]
        found = {option[1].decode(): dict(messages.fields(option[2]))[1].decode() for option in options}
        assert found == {"catalog": "fastk", "schema": "system", "fastk-as-of": "before"}
        assert messages.query(client, "SELECT count(*) AS n FROM series").to_pylist() == [{"n": 2}]
        assert messages.act(client, "CloseSession", b"") == messages.field(1, 1), "closed"
        assert keeper.cookies == {}
        assert messages.query(client, "SELECT count(*) AS n FROM klines_1m").to_pylist() == [{"n": 10_000}]
    # A parameter of the URL that the driver does not know is a header of each call.
    with flight.connect(bars.flight) as client:
        found = messages.query(client, "SELECT close FROM klines_1m LIMIT 1", fastk_numbers="float64")
        assert found.schema.types == [pa.float64()]


def test_the_calls_of_grafana(bars, client):
    """The InfluxDB data source in SQL mode: GetFlightInfo and DoGet, with its metadata as headers."""
    headers = {"fastk_profile": "grafana", "database": "fastk"}
    sql = (
        "SELECT time_bucket('1h', ts) AS time, symbol, last(close, ts) AS close, sum(volume) AS volume, count(*) AS bars, "
        "max(close) > 42000 AS high FROM klines_1m WHERE ts >= '2024-02-01T00:00:00Z' AND ts <= '2024-02-02T00:00:00Z' "
        "GROUP BY time, symbol ORDER BY time, symbol"
    )
    table = messages.query(client, sql, **headers)
    assert table.schema.names == ["time", "symbol", "close", "volume", "bars", "high"]
    allowed = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    for column in table.schema:
        assert column.type == pa.timestamp("ns", "UTC") or any(is_allowed(column.type) for is_allowed in allowed), column
    assert table.num_rows == 50 and table["time"][0].as_py() == datetime.datetime(2024, 2, 1, tzinfo=datetime.timezone.utc)
    exact = messages.query(client, sql)
    assert table["close"].to_pylist() == [float(close) for close in exact["close"].to_pylist()]
    for listing in ("SHOW TABLES", "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'klines_1m'"):
        assert messages.query(client, listing, **headers).num_rows > 1
