"""Small durable writes: one row, and one bar of many symbols."""

import functools
import itertools
import json
import sqlite3
import statistics

import arcticdb
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

import data
import peers
from fixtures import ALL, Bench
from measure import PRODUCT, Goal, Line, flushed, seconds, take_turns
from reads import engine_p50

ZEROED, GROWING = "fdatasync, zero-filled file", "fdatasync, growing file"
REST = f"{PRODUCT} through REST JSON"
SYMBOLS = 500
BAR = (100.0, 101.0, 99.0, 100.5, 1.5)
CELLS = "open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE"


class Writers:
    """All engines with one series, and with one per symbol; timestamps advance from call to call."""

    def __init__(self, bench: Bench):
        self.where = bench.dir("writers")
        self.minute = itertools.count(1)
        self.engine = bench.embedded()
        self.engine.call("open", self.where / "store")
        self.engine.call("register", json.dumps({"kind": "kline", "symbol": "ONE", "timeframe": "1m"}))
        self.server = bench.durable_server
        self.duck = bench.keep(duckdb.connect(str(self.where / "writers.duckdb")), "close")
        peers.run(self.duck, f"CREATE TABLE one (ts BIGINT, {CELLS})")
        peers.run(self.duck, f"CREATE TABLE many (symbol VARCHAR, ts BIGINT, {CELLS})")
        self.sqlite = bench.keep(sqlite3.connect(self.where / "writers.sqlite", isolation_level=None), "close")
        self.sqlite.execute("PRAGMA journal_mode = WAL")
        self.sqlite.execute("PRAGMA synchronous = FULL")
        self.sqlite.execute(f"CREATE TABLE one (ts INTEGER PRIMARY KEY, {CELLS})")
        key = "PRIMARY KEY (symbol, ts)) WITHOUT ROWID"
        self.sqlite.execute(f"CREATE TABLE many (symbol TEXT, ts INTEGER, {CELLS}, {key}")
        self.arctic = bench.keep(peers.Arctic(self.where / "arctic"), "close")
        self.names = [f"F{number:03}" for number in range(SYMBOLS)]
        self.arctic.library.write("one", self.frame(0))
        self.arctic.library.write_batch([arcticdb.WritePayload(name, self.frame(0)) for name in self.names])
        for symbol in ["ONE", *self.names]:
            self.server.json("POST", "/v1/series", {"kind": "kline", "symbol": symbol, "timeframe": "1m"})

    def frame(self, minute: int) -> pd.DataFrame:
        cells = [np.array([data.BEGIN + minute * data.MINUTE]), *(np.array([cell]) for cell in BAR)]
        return peers.frame(data.table_of(cells))

    def frame_now(self) -> pd.DataFrame:
        return self.frame(next(self.minute))

    def payloads(self) -> list:
        frame = self.frame_now()
        return [arcticdb.WritePayload(name, frame) for name in self.names]

    def row(self) -> tuple:
        return (data.BEGIN + next(self.minute) * data.MINUTE, *BAR)

    def rows(self) -> list[tuple]:
        row = self.row()
        return [(name, *row) for name in self.names]

    def arrow_rows(self) -> pa.Table:
        return pa.table(dict(zip(("symbol", *data.NAMES), map(list, zip(*self.rows())))))

    def body(self, symbols: list[str]) -> bytes:
        row = dict(zip(data.NAMES, self.row()))
        return json.dumps({"writes": [{"series": f"kline/{symbol}/1m", "rows": [row]} for symbol in symbols]}).encode()

    def post(self, body: bytes) -> None:
        reply = json.loads(self.server.http.call("POST", "/v1/write", body))
        assert reply["durable"] and reply["rows_written"] == reply["series_count"] > 0

    def duck_one(self, row: tuple) -> None:
        peers.run(self.duck, "INSERT INTO one VALUES (?, ?, ?, ?, ?, ?)", row)

    def duck_many(self, rows: pa.Table) -> None:
        self.duck.register("source", rows)
        peers.run(self.duck, "INSERT INTO many SELECT * FROM source")

    def sqlite_one(self, row: tuple) -> None:
        self.sqlite.execute("INSERT INTO one VALUES (?, ?, ?, ?, ?, ?)", row)

    def sqlite_many(self, rows: list[tuple]) -> None:
        self.sqlite.execute("BEGIN")
        self.sqlite.executemany("INSERT INTO many VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.sqlite.execute("COMMIT")

    def sync(self, size: int, times: int, how: str) -> float:
        return statistics.median(self.engine.call("fdatasync", self.where, size, times, how)["ns"]) / 1e9

    def counts(self, symbol: str) -> dict[str, int]:
        """Rows of one symbol in each engine, whose last row must be the written bar."""
        table, which = ("one", "") if symbol == "ONE" else ("many", f"WHERE symbol = '{symbol}'")
        counts = {}
        for name, connection in (("DuckDB", self.duck), ("SQLite", self.sqlite)):
            counts[name] = connection.execute(f"SELECT count(*) FROM {table} {which}").fetchall()[0][0]
            last = f"SELECT {', '.join(data.NAMES[1:])} FROM {table} {which} ORDER BY ts DESC LIMIT 1"
            assert connection.execute(last).fetchall() in ([BAR], [])
        frame = self.arctic.library.read("one" if symbol == "ONE" else symbol).data
        assert tuple(frame.iloc[-1]) == BAR
        counts["ArcticDB"] = len(frame)
        counts[PRODUCT] = self.engine.call("range", f"kline/{symbol}/1m", *ALL, 1)["rows"]
        rows = self.server.json("GET", f"/v1/klines/{symbol}/1m?limit=1000000")["rows"]
        assert not rows or tuple(rows[-1][name] for name in data.NAMES[1:]) == BAR
        counts[REST] = len(rows)
        return counts

    def checked(self, symbol: str, ways: dict) -> dict:
        """Checks that one write adds one row of the symbol, which is then the last row."""
        before = self.counts(symbol)
        for name in before:
            ways[name][0](1)
        after = self.counts(symbol)
        assert all(after[name] == before[name] + 1 for name in before), (before, after)
        return {name: flushed(functools.partial(way, calls)) for name, (way, calls) in ways.items()}


def writes(prepare, write):
    """The median of many writes; their rows are created outside the timing."""

    def way(calls: int) -> float:
        return statistics.median(seconds(write, prepared) for prepared in [prepare() for _ in range(calls)])

    return way


@functools.cache
def writers(bench: Bench) -> Writers:
    return Writers(bench)


def append(bench: Bench) -> list[Line]:
    """One client, one row per commit."""
    all_of = writers(bench)
    engine, library = all_of.engine, all_of.arctic.library
    first = engine.call("append", "kline/ONE/1m", 10)
    assert first["durable"]
    logged = first["logged"]
    ways = {
        PRODUCT: (lambda calls: engine_p50(engine, calls, "append", "kline/ONE/1m"), 300),
        ZEROED: (lambda calls: all_of.sync(logged, calls, "zeroed"), 300),
        GROWING: (lambda calls: all_of.sync(logged, calls, "growing"), 300),
        REST: (writes(lambda: all_of.body(["ONE"]), all_of.post), 100),
        "DuckDB": (writes(all_of.row, all_of.duck_one), 30),
        "SQLite": (writes(all_of.row, all_of.sqlite_one), 100),
        "ArcticDB": (writes(all_of.frame_now, lambda frame: library.append("one", frame)), 10),
    }
    samples = take_turns(all_of.checked("ONE", ways), bench.rounds)
    limit = {name: samples[name] for name in (PRODUCT, ZEROED, GROWING)}
    engines = {name: samples[name] for name in (PRODUCT, "DuckDB", "SQLite", "ArcticDB")}
    work, note = "single durable append, one client", [f"{logged} bytes in the log"]
    goal = Goal("≤ 2× the bare sync", 0.5, (ZEROED,))
    return [
        Line("append", f"{work}, in process, against the disk", limit, goal, notes=note),
        Line("append", f"{work}, in process, against engines", engines),
        Line("append", f"{work}, through REST JSON, against the disk", {**limit, PRODUCT: samples[REST]}),
    ]


def fan_in(bench: Bench) -> list[Line]:
    """One bar of 500 symbols in one call."""
    all_of = writers(bench)
    engine, library = all_of.engine, all_of.arctic.library
    first = engine.call("fanin", "F", SYMBOLS, 3)
    assert first["durable"] and first["rows"] == SYMBOLS
    logged = first["logged"]
    ways = {
        PRODUCT: (lambda calls: engine_p50(engine, calls, "fanin", "F", SYMBOLS), 30),
        REST: (writes(lambda: all_of.body(all_of.names), all_of.post), 20),
        ZEROED: (lambda calls: all_of.sync(logged, calls, "zeroed"), 100),
        GROWING: (lambda calls: all_of.sync(logged, calls, "growing"), 100),
        "DuckDB": (writes(all_of.arrow_rows, all_of.duck_many), 5),
        "SQLite": (writes(all_of.rows, all_of.sqlite_many), 10),
        "ArcticDB": (writes(all_of.payloads, library.append_batch), 1),
    }
    samples = take_turns(all_of.checked(all_of.names[-1], ways), bench.rounds_long)
    limit = {name: samples[name] for name in (PRODUCT, ZEROED, GROWING)}
    engines = {name: samples[name] for name in (PRODUCT, "DuckDB", "SQLite", "ArcticDB")}
    rest = {**limit, PRODUCT: samples[REST]}
    work, note = f"durable write, 1 bar × {SYMBOLS} symbols in one call", [f"{logged} bytes in the log"]
    others = ("DuckDB", "SQLite")
    return [
        Line("fan-in", f"{work}, in process", engines, Goal("≥ 100× ArcticDB", 100, ("ArcticDB",)), aside=others),
        Line("fan-in", f"{work}, against the disk", limit, Goal("≤ 3× the bare sync", 1 / 3, (ZEROED,)), notes=note),
        Line("fan-in", f"{work}, through REST JSON", rest, Goal("≤ 10× the bare sync", 0.1, (ZEROED,)), notes=note),
    ]
