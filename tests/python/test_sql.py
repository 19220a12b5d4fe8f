"""SQL: random statements return what DuckDB returns on the same rows, and every door is shut from outside.

Rows are loaded into DuckDB from the Parquet responses of FastK. Decimals are compared exactly, doubles to 12 digits.
FASTK_SQL_ROUNDS (default 300) is the number of random statements, FASTK_SQL_SEED (default 1) where they begin; a failure
prints the statement.
"""

import io
import json
import math
import os
import random
import subprocess
import threading
import time
import urllib.error
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest
import support

FOLDER = os.environ.get("FASTK_TEST_DATA")
ROUNDS = int(os.environ.get("FASTK_SQL_ROUNDS", "300"))
SEED = int(os.environ.get("FASTK_SQL_SEED", "1"))
needs_data = pytest.mark.skipif(not FOLDER, reason="FASTK_TEST_DATA is not set: the real data files are not here")

BINANCE = ["--extra", "quote_volume,count,taker_buy_volume,taker_buy_quote_volume"]
# file, symbol, timeframe, flags of the import
FILES = [
    ("binance-spot-BTCUSDT-1h.csv.gz", "BTCUSDT", "1h", BINANCE),
    ("binance-usdm-FILUSDT-1m-2023-02.csv.gz", "FILUSDT", "1m", BINANCE),
    ("binance-usdm-ALGOUSDT-1m-2023-02.csv.gz", "ALGOUSDT", "1m", BINANCE),
    ("histdata-EURUSD-1m-2015-Q1.csv.gz", "EURUSD", "1m", []),
]
PRICES = ["open", "high", "low", "close"]


def run(server, sql, format="arrow", **fields):
    """The result of a statement as an Arrow table."""
    with server.request("POST", f"/v1/sql?format={format}", {"sql": sql, **fields}) as response:
        body = response.read()
    if format == "arrow":
        return pa.ipc.open_stream(body).read_all()
    return body


def refused(server, sql, **fields):
    """The problem document of a statement that fails."""
    with pytest.raises(urllib.error.HTTPError) as failed:
        run(server, sql, "json", **fields)
    return json.loads(failed.value.read())


def plain(value):
    """A cell as a value that compares across both engines."""
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return value.astimezone(timezone.utc)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, Decimal):
        return value.normalize()
    return value


def same(one, other):
    if isinstance(one, float) or isinstance(other, float):
        if one is None or other is None:
            return one is other
        one, other = float(one), float(other)
        return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other


def key(row):
    """A sort key for rows of a result without an order; doubles are compared by few digits."""
    return [
        (cell is None, "" if cell is None else f"{float(cell):.6e}" if isinstance(cell, float) else str(cell))
        for cell in row
    ]


def rows_of(table):
    return [tuple(plain(cell) for cell in row) for row in zip(*(column.to_pylist() for column in table.columns))]


def duck(connection, sql):
    """The rows that DuckDB returns."""
    return rows_of(connection.sql(sql).to_arrow_table())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A server with real bars, and DuckDB with the same rows in tables of the same names."""
    server = support.Server(tmp_path_factory.mktemp("sql") / "store").start()
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    try:
        for name, symbol, timeframe, flags in FILES:
            flags = [*flags, "--server", server.http]
            support.run("import", Path(FOLDER) / name, "--series", f"kline/{symbol}/{timeframe}", *flags)
        server.seal()
        # Some rows are only in the log, and some replace others.
        read = json.loads(server.read("/v1/klines/FILUSDT/1m?latest=500&numbers=string"))
        server.json("POST", "/v1/klines/FILUSDT/1m", {"rows": read["rows"][::3]})
        tables = {}
        for _, symbol, timeframe, _ in FILES:
            body = server.read(f"/v1/klines/{symbol}/{timeframe}?format=parquet&numbers=decimal128")
            table = pa.parquet.read_table(io.BytesIO(body))
            tables.setdefault(f"klines_{timeframe}", []).append(
                table.add_column(0, "symbol", pa.array([symbol] * len(table)))
            )
        for name, parts in tables.items():
            names = list(dict.fromkeys(column for part in parts for column in part.column_names))
            for part, rows in enumerate(parts):
                connection.register(f"part_{part}", rows)
            # Decimals of different digits: DuckDB unites them as FastK does.
            union = " UNION ALL BY NAME ".join(f"SELECT * FROM part_{part}" for part in range(len(parts)))
            connection.execute(f"CREATE TABLE {name} AS SELECT {', '.join(names)} FROM ({union})")
        yield server, connection
    finally:
        server.kill()


class Statements:
    """Random statements in the SQL that both engines understand."""

    def __init__(self, seed, connection):
        self.chance = random.Random(seed)
        self.connection = connection
        self.bounds = {
            name: duck(connection, f"SELECT min(ts), max(ts) FROM {name}")[0]
            for name in ("klines_1m", "klines_1h")
        }
        self.closes = {
            name: [row[0] for row in duck(connection, f"SELECT close FROM {name} USING SAMPLE 200 ROWS (reservoir, 7)")]
            for name in self.bounds
        }

    def time(self, table):
        low, high = self.bounds[table]
        at = low + timedelta(seconds=self.chance.random() * (high - low).total_seconds())
        if self.chance.random() < 0.5:
            at = at.replace(second=0, microsecond=0)
        return f"TIMESTAMPTZ '{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}+00:00'"

    def condition(self, table, alias=""):
        c = self.chance
        dot = f"{alias}." if alias else ""
        close = c.choice(self.closes[table])
        finer = close + c.choice([Decimal(0), Decimal("0.00000001"), Decimal("-0.005"), Decimal("0.5")])
        return c.choice(
            [
                lambda: f"{dot}ts {c.choice(['<', '<=', '>', '>=', '='])} {self.time(table)}",
                lambda: "{0}ts BETWEEN {1} AND {2}".format(dot, *sorted([self.time(table), self.time(table)])),
                lambda: f"{dot}symbol {c.choice(['=', '<>', '<', '>='])} '{c.choice(['FILUSDT', 'ALGOUSDT', 'EURUSD', 'BTCUSDT'])}'",
                lambda: f"{dot}symbol LIKE '{c.choice(['%USDT', 'A%', '%L%', 'EUR_SD'])}'",
                lambda: f"{dot}symbol IN ('FILUSDT', 'BTCUSDT')",
                lambda: f"{dot}{c.choice(PRICES)} {c.choice(['<', '<=', '>', '>=', '=', '<>'])} {finer:f}",
                lambda: f"{dot}close {c.choice(['', 'NOT '])}BETWEEN {min(close, finer):f} AND {max(close, finer) + 1:f}",
                lambda: f"{dot}close {c.choice(['', 'NOT '])}IN ({close:f}, {finer:f}, 5)",
                lambda: f"{dot}volume {c.choice(['>', '<='])} {c.randrange(0, 100_000)}",
                lambda: f"{dot}quote_volume IS {c.choice(['', 'NOT '])}NULL",
                lambda: f"{dot}count > {c.randrange(0, 500)}",
                lambda: f"{dot}close {c.choice(['>', '<'])} {dot}open",
                lambda: f"{dot}high - {dot}low > 2 * abs({dot}close - {dot}open)",
                lambda: f"extract(hour FROM {dot}ts) = {c.randrange(24)}",
            ]
        )()

    def where(self, table, alias="", least=0):
        count = self.chance.choice([least, 1, 1, 2, 3])
        conditions = [self.condition(table, alias) for _ in range(max(count, least))]
        joined = " AND ".join(conditions)
        if len(conditions) > 1 and self.chance.random() < 0.15:
            joined = "(" + ") OR (".join(conditions) + ")"
        return f" WHERE {joined}" if conditions else ""

    def statement(self):
        """(statement of FastK, statement of DuckDB, whether the order counts)"""
        c = self.chance
        table = c.choice(["klines_1m", "klines_1m", "klines_1h"])
        kind = c.randrange(12)
        where = self.where(table)
        if kind == 0:
            columns = ", ".join(["symbol", "ts", *c.sample(PRICES + ["volume", "quote_volume", "count"], c.randrange(1, 4))])
            order = c.choice(["symbol, ts", "ts, symbol", "ts DESC, symbol", "symbol, ts DESC", "symbol DESC, ts"])
            sql = f"SELECT {columns} FROM {table}{where} ORDER BY {order} LIMIT {c.randrange(1, 300)}"
            if c.random() < 0.2:
                sql += f" OFFSET {c.randrange(50)}"
            return sql, sql, True
        if kind == 1:
            sql = f"SELECT count(*), count(quote_volume), min(ts), max(ts), min(low), max(high), sum(volume) FROM {table}{where}"
            return sql, sql, True
        if kind == 2:
            sql = f"SELECT symbol, count(*) AS n, sum(close) AS s, min(close), max(volume) FROM {table}{where} GROUP BY symbol ORDER BY symbol"
            return sql, sql, True
        if kind == 3:
            width, interval = c.choice(
                [("5m", "5 minutes"), ("1h", "1 hour"), ("4h", "4 hours"), ("1d", "1 day"), ("1w", "7 days"), ("1mo", "1 month")]
            )
            body = "AS t, first(open, ts) AS o, max(high) AS h, min(low) AS l, last(close, ts) AS c, sum(volume) AS v, count(*) AS n"
            duck = body.replace("first(open, ts)", "arg_min(open, ts)").replace("last(close, ts)", "arg_max(close, ts)")
            rest = f" FROM {table}{where} GROUP BY symbol, t ORDER BY symbol, t"
            return (
                f"SELECT symbol, time_bucket('{width}', ts) {body}{rest}",
                f"SELECT symbol, time_bucket(INTERVAL '{interval}', ts) {duck}{rest}",
                True,
            )
        if kind == 4:
            zone = c.choice(["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Australia/Sydney"])
            width, unit = c.choice([("1d", "day"), ("1w", "week"), ("1mo", "month"), ("1q", "quarter"), ("1y", "year")])
            body = f"AS t, count(*) AS n, sum(volume) AS v FROM {table}{where} GROUP BY symbol, t ORDER BY symbol, t"
            return (
                f"SELECT symbol, time_bucket('{width}', ts, '{zone}') {body}",
                f"SELECT symbol, date_trunc('{unit}', ts AT TIME ZONE '{zone}') AT TIME ZONE '{zone}' {body}",
                True,
            )
        if kind == 5:
            one, other = c.sample(["FILUSDT", "ALGOUSDT", "EURUSD"], 2)
            more = self.condition("klines_1m", "a")
            sql = (
                "SELECT count(*), sum(a.close - b.close), min(a.ts), max(b.volume) FROM klines_1m a "
                f"{c.choice(['JOIN', 'LEFT JOIN'])} klines_1m b ON a.ts = b.ts AND b.symbol = '{other}' "
                f"WHERE a.symbol = '{one}' AND {more}"
            )
            return sql, sql, True
        if kind == 6:
            frame = c.choice([3, 20, 60])
            sql = (
                f"SELECT symbol, ts, close - lag(close) OVER w AS change, sum(volume) OVER (PARTITION BY symbol ORDER BY ts "
                f"ROWS BETWEEN {frame} PRECEDING AND CURRENT ROW) AS total, row_number() OVER w AS n "
                f"FROM {table}{where} WINDOW w AS (PARTITION BY symbol ORDER BY ts) ORDER BY symbol, ts LIMIT 200"
            )
            return sql, sql, True
        if kind in (8, 9):
            return self.as_of()
        if kind == 10:
            # As-of joins of a table with itself and with buckets of it.
            more = self.condition(table, "a")
            op = c.choice([">", "<"])
            sql = (
                f"SELECT a.symbol, a.ts, a.close - b.close AS change, b.ts AS other FROM {table} a {{}} {table} b {{}} "
                f"WHERE {more} ORDER BY a.symbol, a.ts LIMIT {c.randrange(1, 200)}"
            )
            on, when = "a.symbol = b.symbol", f"a.ts {op} b.ts"
            return (
                sql.format("ASOF JOIN", f"MATCH_CONDITION ({when}) ON {on}"),
                sql.format("ASOF LEFT JOIN", f"ON {on} AND {when}"),
                True,
            )
        if kind == 7:
            sql = (
                f"SELECT symbol, close * 2 + 1 AS x, coalesce(quote_volume, 0) AS q, "
                f"CASE WHEN close > open THEN close - open ELSE 0 END AS up, round(close, 1) AS r, "
                f"CAST(close AS DOUBLE) / 3 AS d FROM {table}{where} ORDER BY symbol, ts LIMIT 150"
            )
            return sql, sql, True
        sql = (
            f"SELECT symbol, avg(CAST(close AS DOUBLE)) AS mean, stddev(CAST(close AS DOUBLE)) AS deviation, "
            f"count(DISTINCT close) AS different FROM {table}{where} GROUP BY symbol HAVING count(*) > {c.randrange(3)}"
        )
        return sql, sql, False


    def as_of(self):
        """As-of joins of two tables, whose sides lack symbols of the other, with and without keys."""
        c = self.chance
        left, right = c.choice([("klines_1h", "klines_1m"), ("klines_1m", "klines_1h"), ("klines_1m", "klines_1m")])
        op = c.choice([">=", ">", "<=", "<"])
        kept = self.condition(right, "r")
        other = c.choice([f"(SELECT r.* FROM {right} r WHERE {kept})", right])
        # Times of the left side that are in between those of the right one.
        shift = c.choice(["ts", "ts + INTERVAL '30 seconds'", "ts - INTERVAL '17 seconds'"])
        one = f"(SELECT symbol, {shift} AS ts, close, volume FROM {left})"
        where = f" WHERE {self.condition(left, 'a').replace('quote_volume', 'volume').replace('a.count', 'a.volume')}"
        where = where if not any(word in where for word in ("a.open", "a.high", "a.low")) else ""
        keys = c.choice(["a.symbol = b.symbol", "a.symbol = b.symbol", "a.symbol = b.symbol AND a.close = b.close", ""])
        if not keys:
            # The nearest of all symbols: one symbol, so that there are no equal times.
            other = f"(SELECT * FROM {right} WHERE symbol = '{c.choice(['FILUSDT', 'BTCUSDT', 'EURUSD'])}')"
        if c.random() < 0.5:
            columns = "count(*) AS n, count(b.ts) AS matched, sum(a.close - b.close) AS s, min(b.ts) AS low, max(b.ts) AS high"
            rest = where
        else:
            columns = "a.symbol, a.ts, a.close, b.symbol AS other, b.ts AS at, b.close AS near"
            rest = f"{where} ORDER BY a.symbol, a.ts LIMIT {c.randrange(1, 300)}"
        ours = f"MATCH_CONDITION (a.ts {op} b.ts)" + (f" ON {keys}" if keys else "")
        theirs = "ON " + (f"{keys} AND " if keys else "") + f"a.ts {op} b.ts"
        return (
            f"SELECT {columns} FROM {one} a ASOF JOIN {other} b {ours}{rest}",
            f"SELECT {columns} FROM {one} a ASOF LEFT JOIN {other} b {theirs}{rest}",
            True,
        )


@needs_data
def test_random_statements_return_what_duckdb_returns(both):
    server, connection = both
    statements = Statements(SEED, connection)
    rows_seen = 0
    for number in range(ROUNDS):
        ours, theirs, ordered = statements.statement()
        try:
            found = rows_of(run(server, ours))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"statement {number} of seed {SEED}: {ours}\n{error.read().decode()}") from error
        wanted = duck(connection, theirs)
        if not ordered:
            found, wanted = sorted(found, key=key), sorted(wanted, key=key)
        where = f"statement {number} of seed {SEED}: {ours}"
        assert len(found) == len(wanted), where
        for one, other in zip(found, wanted):
            assert all(same(a, b) for a, b in zip(one, other, strict=True)), f"{where}\n{one}\n{other}"
        rows_seen += len(found)
    assert rows_seen > ROUNDS


@needs_data
def test_vwap_is_the_quotient_of_exact_sums(both):
    server, connection = both
    ours = run(server, "SELECT symbol, vwap(close, volume) v FROM klines_1m WHERE volume > 0 GROUP BY symbol ORDER BY symbol")
    theirs = duck(
        connection,
        "SELECT symbol, CAST(sum(CAST(close AS DECIMAL(38,8)) * volume) AS DOUBLE) / CAST(sum(volume) AS DOUBLE) "
        "FROM (SELECT symbol, CAST(close AS DECIMAL(18,6)) close, CAST(volume AS DECIMAL(18,3)) volume FROM klines_1m) "
        "WHERE volume > 0 GROUP BY symbol ORDER BY symbol",
    )
    for (symbol, one), (other_symbol, other) in zip(rows_of(ours), theirs, strict=True):
        assert symbol == other_symbol and math.isclose(one, float(other), rel_tol=1e-9), (symbol, one, other)


@pytest.fixture
def bars(server, client):
    """A server with 5,000 bars of two symbols."""
    for symbol in ("AAA", "BBB"):
        server.json("POST", "/v1/series", {**support.REGISTRATION, "symbol": symbol})
        body = io.BytesIO()
        table = support.klines(5_000)
        with pa.ipc.new_stream(body, table.schema) as writer:
            writer.write_table(table)
        headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
        with server.request("POST", f"/v1/klines/{symbol}/1m", body.getvalue(), headers) as response:
            assert json.loads(response.read())["rows_written"] == 5_000
    return server


def test_every_format_has_the_same_rows(bars):
    sql = "SELECT symbol, ts, close, volume, close > 42000 AS above, CAST(close AS DOUBLE) AS d, NULL AS n FROM klines_1m ORDER BY symbol, ts LIMIT 700"
    table = run(bars, sql)
    assert table.schema.field("close").type == pa.decimal128(18, 2) and table.schema.field("symbol").type == pa.string()
    assert pa.parquet.read_table(io.BytesIO(run(bars, sql, "parquet"))).select(["symbol", "close", "d"]) == table.select(["symbol", "close", "d"])
    reply = json.loads(run(bars, sql, "json"), parse_float=Decimal)
    assert reply["truncated"] is False
    assert reply["columns"][:3] == [
        {"name": "symbol", "type": "text"}, {"name": "ts", "type": "timestamp(ms)"}, {"name": "close", "type": "decimal(18,2)"}
    ]
    assert [row["close"] for row in reply["rows"]] == table["close"].to_pylist()
    assert [row["ts"] for row in reply["rows"]] == table["ts"].cast(pa.int64()).to_pylist()
    assert all(row["n"] is None for row in reply["rows"])
    lines = [json.loads(line, parse_float=Decimal) for line in run(bars, sql, "ndjson").splitlines()]
    assert lines == reply["rows"]
    text = run(bars, sql, "csv").decode().splitlines()
    assert text[0] == "symbol,ts,close,volume,above,d,n" and len(text) == 701
    assert text[1].startswith(f"AAA,{support.T0},")
    with bars.request("POST", "/v1/sql?format=csv&times=rfc3339", {"sql": sql}) as response:
        assert response.read().decode().splitlines()[1].startswith("AAA,2024-02-01T00:00:00Z,")
        assert int(response.headers["fastk-commit"]) > 0 and int(response.headers["fastk-query-id"]) > 0
    with bars.request("POST", "/v1/sql", {"sql": sql}, {"Accept": "text/csv", "Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Type"].startswith("text/csv") and response.headers["Content-Encoding"] == "gzip"


def test_tickets_and_actions_of_flight(bars, client):
    import pyarrow.flight as flight

    sql = "SELECT symbol, ts, close FROM klines_1m WHERE close > ? ORDER BY symbol, ts"
    ticket = flight.Ticket(json.dumps({"sql": sql, "params": ["42050"]}))
    table = client.do_get(ticket).read_all()
    assert len(table) > 3_000 and table == run(bars, sql, params=["42050"])
    with pytest.raises(pa.ArrowInvalid, match="nothing"):
        client.do_get(flight.Ticket(json.dumps({"sql": "SELECT nothing FROM klines_1m"}))).read_all()
    reader = client.do_get(flight.Ticket(json.dumps({"sql": "SELECT a.ts FROM klines_1m a CROSS JOIN klines_1m b"})))
    reader.read_chunk()
    listed = json.loads(next(client.do_action(flight.Action("list_queries", b""))).body.to_pybytes())
    (query,) = listed["queries"]
    body = json.dumps({"id": str(query["id"])}).encode()
    assert json.loads(next(client.do_action(flight.Action("cancel_query", body))).body.to_pybytes()) == {"id": query["id"]}
    with pytest.raises((flight.FlightError, pa.ArrowException), match="cancelled"):
        reader.read_all()


def test_kinds_have_tables_of_all_their_types(server):
    server.json("POST", "/v1/kinds", {
        "kind": "greeks", "key": ["underlying", "contract"], "unit": "us", "order": "arrival", "sql_name": "option_greeks",
        "fields": [
            {"name": "delta", "type": "float64", "nullable": True}, {"name": "price", "type": "decimal", "digits": 4},
            {"name": "side", "type": "enum", "values": ["buy", "sell"]}, {"name": "venue", "type": "text", "nullable": True},
            {"name": "size", "type": "uint32"}, {"name": "live", "type": "bool"},
            {"name": "wide", "type": "decimal", "digits": 6, "wide": True}, {"name": "half", "type": "float32"},
            {"name": "seen", "type": "timestamp", "unit": "ms"}, {"name": "hash", "type": "bytes", "length": 2},
        ],
    })
    rows = []
    for at in range(300):
        rows.append({
            "ts": support.T0 * 1000 + at // 2, "delta": None if at % 3 == 0 else at / 7, "price": f"{at}.{at % 10}",
            "side": ["buy", "sell"][at % 2], "venue": None if at % 5 == 0 else f"venue {at % 4}", "size": at * 1_000,
            "live": at % 2 == 0, "wide": f"{10**20 + at}.5", "half": at / 2, "seen": support.T0 + at, "hash": f"{at % 256:02x}ff",
        })
    for contract in ("C1", "P1"):
        server.json("POST", "/v1/series", {"kind": "greeks", "key": ["SPX", contract]})
        server.json("POST", f"/v1/series/greeks/SPX/{contract}/rows", {"rows": rows})
    for sealed in (False, True):
        if sealed:
            server.seal()
        table = run(server, "SELECT * FROM option_greeks WHERE contract = 'C1' ORDER BY ts, size")
        assert table.column_names == ["underlying", "contract", "ts", *(name for name in rows[0] if name != "ts")]
        found = table.to_pylist()
        assert len(found) == 300 and found[7]["wide"] == Decimal(10**20 + 7) + Decimal("0.5") and found[3]["delta"] is None
        assert [row["venue"] for row in found] == [row["venue"] for row in rows]
        assert [row["hash"].hex() for row in found] == [row["hash"] for row in rows]
        assert [row["price"] for row in found] == [Decimal(row["price"]) for row in rows]
        for condition, wanted in [
            ("side = 'buy'", lambda row: row["side"] == "buy"),
            ("venue IN ('venue 1', 'nowhere')", lambda row: row["venue"] == "venue 1"),
            ("venue <> 'venue 1'", lambda row: row["venue"] not in (None, "venue 1")),
            ("venue LIKE '%3'", lambda row: row["venue"] == "venue 3"),
            ("venue IS NULL", lambda row: row["venue"] is None),
            ("delta IS NULL AND live", lambda row: row["delta"] is None and row["live"]),
            ("delta > 20.5", lambda row: row["delta"] is not None and row["delta"] > 20.5),
            ("NOT (delta > 20.5)", lambda row: row["delta"] is not None and not row["delta"] > 20.5),
            ("size >= 150000 AND size < 4000000000", lambda row: row["size"] >= 150_000),
            ("price BETWEEN 10 AND 20.15", lambda row: Decimal(10) <= Decimal(row["price"]) <= Decimal("20.15")),
            ("wide > 100000000000000000100.5", lambda row: Decimal(row["wide"]) > Decimal("100000000000000000100.5")),
            ("half = 3.5", lambda row: row["half"] == 3.5),
            ("seen = TIMESTAMP '2024-02-01T00:00:00.005'", lambda row: row["seen"] == support.T0 + 5),
            ("ts = TIMESTAMP '2024-02-01T00:00:00.000003'", lambda row: row["ts"] == support.T0 * 1000 + 3),
        ]:
            sql = f"SELECT count(*) AS n, sum(size) AS s FROM option_greeks WHERE contract = 'P1' AND {condition}"
            chosen = [row for row in rows if wanted(row)]
            assert run(server, sql).to_pylist() == [{"n": len(chosen), "s": sum(row["size"] for row in chosen) or None}], condition
        grouped = run(server, "SELECT contract, side, venue, count(*) AS n FROM option_greeks GROUP BY 1, 2, 3").to_pylist()
        assert sum(row["n"] for row in grouped) == 600 and len(grouped) == 2 * len({(row["side"], row["venue"]) for row in rows})
        last = run(server, "SELECT contract, size FROM latest('option_greeks', 2) ORDER BY contract, size").to_pylist()
        assert [row["size"] for row in last] == [298_000, 299_000] * 2


def test_json_says_when_rows_are_left_out(bars):
    reply = json.loads(run(bars, "SELECT a.ts FROM klines_1m a CROSS JOIN (VALUES (1), (2)) t(x)", "json"))
    assert reply["truncated"] is True and len(reply["rows"]) == 10_000
    assert len(run(bars, "SELECT a.ts FROM klines_1m a CROSS JOIN (VALUES (1), (2)) t(x)", "ndjson").splitlines()) == 20_000


def test_parameters_are_values_and_never_text_of_the_statement(bars):
    sql = "SELECT count(*) AS n FROM klines_1m WHERE symbol = ? AND close < ? AND ts >= ?"
    found = run(bars, sql, params=["AAA", "42100.5", "2024-02-01T01:00:00Z"]).to_pylist()
    wanted = sum(
        row["close"] < Decimal("42100.5") and row["ts"].timestamp() * 1000 >= support.T0 + 3_600_000
        for row in support.klines(5_000).select(["ts", "close"]).to_pylist()
    )
    assert found == [{"n": wanted}]
    assert run(bars, "SELECT ? AS x", params=["'; DROP TABLE klines_1m; --"]).to_pylist() == [{"x": "'; DROP TABLE klines_1m; --"}]
    assert refused(bars, "SELECT $2", params=[1])["code"] == "invalid_argument"


def test_snapshots_are_read_by_name(bars):
    bars.json("POST", "/v1/snapshots", {"name": "before"})
    bars.json("DELETE", "/v1/klines/AAA/1m?all=true")
    count = "SELECT count(*) AS n FROM klines_1m WHERE symbol = 'AAA'"
    assert run(bars, count).to_pylist() == [{"n": 0}]
    assert run(bars, count, as_of="before").to_pylist() == [{"n": 5_000}]
    assert run(bars, f"SET fastk.as_of = 'before'; {count}").to_pylist() == [{"n": 5_000}]
    assert run(bars, "SELECT count(*) AS n FROM as_of('klines_1m', 'before')").to_pylist() == [{"n": 10_000}]
    assert refused(bars, count, as_of="none")["code"] == "snapshot_not_found"


def test_every_door_is_shut_from_outside(bars, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nvery-secret\n")
    before = sorted(tmp_path.rglob("*.csv*"))
    for sql in [
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"COPY klines_1m TO '{tmp_path}/out.parquet' STORED AS PARQUET",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{secret}'",
        f"CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'https://example.com/x.csv'",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM \"{secret}\"",
        f"SELECT * FROM 'file://{secret}'",
        f"SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '/etc/passwd'",
        "CREATE TABLE t AS SELECT 1", "CREATE VIEW v AS SELECT 1", "CREATE SCHEMA s", "CREATE DATABASE d",
        "CREATE OR REPLACE FUNCTION f(INT) RETURNS INT RETURN $1 + 1",
        "DROP TABLE klines_1m", "DROP SCHEMA public CASCADE", "DELETE FROM klines_1m", "UPDATE klines_1m SET close = 1",
        "INSERT INTO klines_1m SELECT * FROM klines_1m", "TRUNCATE TABLE klines_1m",
        "SET datafusion.runtime.memory_limit = '100G'", "SET datafusion.runtime.memory_limit = '100G'; SELECT 1",
        "SET datafusion.execution.target_partitions = 1000; SELECT 1", "RESET datafusion.runtime.memory_limit",
        "SHOW ALL", "SELECT * FROM information_schema.df_settings", "SELECT * FROM \"information_schema\".\"DF_SETTINGS\"",
        "PREPARE p AS SELECT 1", "EXECUTE p", "BEGIN", "COMMIT", "KILL 1",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    ]:
        problem = refused(bars, sql)
        assert problem["code"] in ("invalid_argument", "permission_denied", "not_found", "unimplemented"), (sql, problem)
        assert "very-secret" not in json.dumps(problem), sql
    assert sorted(tmp_path.rglob("*.csv*")) == before
    assert refused(bars, "SELECT '" + "x" * 300_000 + "'")["code"] == "too_large"
    assert len(run(bars, "SELECT * FROM klines_1m")) == 10_000


def test_memory_and_time_of_a_statement_are_limited(tmp_path):
    config = tmp_path / "fastk.toml"
    config.write_text("[sql]\nquery_memory_bytes_max = 8388608\ntimeout_ms = 60000\nqueries_max = 2\nqueue_max = 1\n")
    server = support.Server(tmp_path / "store", "--config", str(config)).start()
    try:
        many = "generate_series(1, 3000000) a(x)"
        problem = refused(server, f"SELECT count(*) FROM {many} JOIN generate_series(1, 3000000) b(x) ON a.x = b.x")
        assert problem["code"] == "too_large" and "hint" in problem, problem
        endless = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 8"
        problem = refused(server, endless, timeout_ms=1_000)
        assert problem["code"] == "deadline_exceeded" and problem["status"] == 504, problem
        # A join that compares all rows of a batch with all of another table, over and over.
        for symbol in ("AAA", "BBB"):
            server.json("POST", "/v1/series", {**support.REGISTRATION, "symbol": symbol})
            body = io.BytesIO()
            table = support.klines(100_000)
            with pa.ipc.new_stream(body, table.schema) as writer:
                writer.write_table(table)
            headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
            server.request("POST", f"/v1/klines/{symbol}/1m", body.getvalue(), headers).close()
        pairs = "SELECT count(*) FROM klines_1m a, klines_1m b WHERE a.close < b.close"
        problem = refused(server, pairs, timeout_ms=1_000)
        assert problem["code"] == "deadline_exceeded" and "1000 ms" in problem["detail"], problem
        # Its threads are free, and the same is cancelled by its id.
        assert json.loads(run(server, "SELECT count(*) AS n FROM klines_1m WHERE close > 0", "json"))["rows"] == [{"n": 200_000}]
        found = []
        running = threading.Thread(target=lambda: found.append(refused(server, pairs)))
        running.start()
        deadline = time.monotonic() + 20
        while not (queries := server.json("GET", "/v1/sql/queries")["queries"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        server.json("DELETE", f"/v1/sql/queries/{queries[0]['id']}")
        running.join(30)
        assert found and found[0]["code"] == "deadline_exceeded" and "cancelled" in found[0]["detail"], found
        assert server.json("GET", "/v1/sql/queries")["queries"] == []
        assert json.loads(run(server, "SELECT 1 AS x", "json"))["rows"] == [{"x": 1}]
        # Three places: two run, one waits, the fourth is refused.
        failures = []
        threads = [threading.Thread(target=lambda: failures.append(refused(server, endless)["code"])) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(server.json("GET", "/v1/sql/queries")["queries"]) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert refused(server, "SELECT 1")["code"] == "overloaded"
        for query in server.json("GET", "/v1/sql/queries")["queries"]:
            assert query["sql"] == endless and query["status"] in ("waiting", "planning", "running")
            assert server.json("DELETE", f"/v1/sql/queries/{query['id']}") == {"id": query["id"]}
        for thread in threads:
            thread.join(60)
        assert failures == ["deadline_exceeded"] * 3
        assert json.loads(run(server, "SELECT 1 AS x", "json"))["rows"] == [{"x": 1}]
        with pytest.raises(urllib.error.HTTPError) as failed:
            server.request("DELETE", "/v1/sql/queries/12345")
        assert json.loads(failed.value.read())["code"] == "not_found"
    finally:
        server.stop()


def test_a_client_that_leaves_ends_its_statement(bars):
    sql = "SELECT a.ts, b.close FROM klines_1m a CROSS JOIN klines_1m b"
    response = bars.request("POST", "/v1/sql?format=csv", {"sql": sql})
    assert response.read(1_000)
    assert len(bars.json("GET", "/v1/sql/queries")["queries"]) == 1
    response.close()
    deadline = time.monotonic() + 30
    while bars.json("GET", "/v1/sql/queries")["queries"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert bars.json("GET", "/v1/sql/queries")["queries"] == []


def test_tokens_see_their_own_series_and_statements(tmp_path):
    root = tmp_path / "store"
    tokens = {}
    for name, scope, prefix in [("all", "admin", None), ("some", "read", "kline/AAA"), ("other", "read", "kline/BBB")]:
        flags = ["--prefix", prefix] if prefix else []
        done = support.run("admin", "token", "create", "--root", root, "--name", name, "--scope", scope, "--json", *flags)
        tokens[name] = {"Authorization": "Bearer " + json.loads(done.stdout)["token"]}
    server = support.Server(root).start()
    try:
        for symbol in ("AAA", "SECRETS"):
            server.json("POST", "/v1/series", {**support.REGISTRATION, "symbol": symbol}, tokens["all"])
            row = {"ts": support.T0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}
            server.json("POST", f"/v1/klines/{symbol}/1m", {"rows": [row]}, tokens["all"])

        def reply(who, sql):
            try:
                return server.json("POST", "/v1/sql", {"sql": sql}, tokens[who])
            except urllib.error.HTTPError as error:
                return json.loads(error.read())

        assert [row["symbol"] for row in reply("all", "SELECT symbol FROM klines_1m ORDER BY 1")["rows"]] == ["AAA", "SECRETS"]
        assert [row["symbol"] for row in reply("some", "SELECT symbol FROM klines_1m")["rows"]] == ["AAA"]
        assert reply("other", "SELECT symbol FROM klines_1m")["code"] == "not_found"
        for sql in [
            "SELECT count(*) FROM klines_1m", "SELECT * FROM klines_1m WHERE symbol = 'SECRETS'", "SELECT * FROM \"kline/SECRETS/1m\"",
            "SELECT * FROM latest('kline/SECRETS/1m')", "SELECT * FROM system.series", "SELECT * FROM system.chunks",
            "SELECT * FROM information_schema.tables", "SELECT * FROM information_schema.columns", "SHOW TABLES",
            "EXPLAIN ANALYZE SELECT * FROM klines_1m", "EXPLAIN VERBOSE SELECT * FROM klines_1m", "SELECT nothing FROM klines_1m",
        ]:
            rows = json.dumps(reply("some", sql))
            echoed = rows.replace("kline/SECRETS/1m", "") if "SECRETS" in sql else rows
            assert "SECRETS" not in echoed, (sql, rows)
        done = []
        slow = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 8"
        running = threading.Thread(target=lambda: done.append(reply("all", slow)["code"]))
        running.start()
        deadline = time.monotonic() + 20
        while not server.json("GET", "/v1/sql/queries", headers=tokens["all"])["queries"] and time.monotonic() < deadline:
            time.sleep(0.01)
        (query,) = server.json("GET", "/v1/sql/queries", headers=tokens["all"])["queries"]
        assert server.json("GET", "/v1/sql/queries", headers=tokens["some"])["queries"] == []
        own = reply("some", "SELECT sql FROM system.queries")["rows"]
        assert own == [{"sql": "SELECT sql FROM system.queries"}]
        with pytest.raises(urllib.error.HTTPError) as failed:
            server.request("DELETE", f"/v1/sql/queries/{query['id']}", headers=tokens["some"])
        assert failed.value.code == 404
        server.json("DELETE", f"/v1/sql/queries/{query['id']}", headers=tokens["all"])
        running.join(30)
        assert done == ["deadline_exceeded"]
        with pytest.raises(urllib.error.HTTPError) as failed:
            server.request("POST", "/v1/sql", {"sql": "SELECT 1"})
        assert failed.value.code == 401
    finally:
        server.kill()


def test_the_command_line_prints_every_format(bars, fastk):
    sql = "SELECT symbol, ts, close FROM klines_1m ORDER BY symbol, ts LIMIT 2"
    shown = fastk("sql", sql, "--server", bars.http).stdout
    assert "symbol" in shown and "2024-02-01T00:01:00Z" in shown
    csv = fastk("sql", sql, "--format", "csv", "--server", bars.http).stdout
    assert csv.splitlines()[0] == "symbol,ts,close" and len(csv.splitlines()) == 3
    found = fastk("sql", "SELECT count(*) AS n FROM klines_1m WHERE symbol = ?", "--param", "AAA", "--json", "--server", bars.http)
    assert json.loads(found.stdout)["rows"] == [{"n": 5_000}]
    failed = fastk("sql", "SELECT nothing FROM klines_1m", "--server", bars.http, check=False)
    assert failed.returncode == 2 and "error[invalid_argument]" in failed.stderr and "hint:" in failed.stderr
    assert json.loads(fastk("sql", "--queries", "--json", "--server", bars.http).stdout) == {"queries": []}
    missing = fastk("sql", "--cancel", "7", "--server", bars.http, check=False)
    assert missing.returncode == 3 and "error[not_found]" in missing.stderr
    # Without a server the command opens the store itself.
    bars.stop()
    assert fastk("sql", sql, "--format", "csv", "--root", bars.root).stdout == csv
    piped = subprocess.run([support.binary(), "sql", "-", "--format", "csv", "--root", str(bars.root)], input=sql, capture_output=True, text=True)
    assert piped.stdout == csv
