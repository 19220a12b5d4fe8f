"""Durable writes of many rows: an entire series, and a replacement of a tenth of its rows."""

import itertools
import json
import os
import statistics
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

import data
import peers
from fixtures import ALL, Bench
from measure import PRODUCT, Goal, Line, flushed, same, seconds, take_turns
from processes import put_table
from reads import checked

COLUMNS = "ts BIGINT, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE"
# A body of REST has at most 256 MiB.
BODY_ROWS = 4_000_000
PIECE_BYTES = 1 << 20


class Ingest:
    """Writes the same sorted rows into a new series or table each time, which is then dropped."""

    def __init__(self, bench: Bench):
        self.bench, self.table, self.number = bench, bench.table, itertools.count()
        self.server = bench.durable_server
        self.where = bench.dir("ingest")
        self.duck = bench.keep(duckdb.connect(str(self.where / "ingest.duckdb")), "close")
        self.arctic = bench.keep(peers.Arctic(self.where / "arctic"), "close")
        self.frame = peers.frame(self.table)
        with open(bench.table_file, "rb") as file:
            self.bytes = memoryview(file.read())
        self.bodies = []
        for first in range(0, bench.rows, BODY_ROWS):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.table.schema) as writer:
                writer.write_table(self.table.slice(first, BODY_ROWS), max_chunksize=data.BATCH_ROWS)
            self.bodies.append(sink.getvalue().to_pybytes())
        self.expected = data.checksum(self.table)
        self.unchecked = {"DoPut", "REST", "DuckDB", "ArcticDB"}

    def fresh(self) -> str:
        symbol = f"I{next(self.number)}"
        self.server.json("POST", "/v1/series", {"kind": "kline", "symbol": symbol, "timeframe": "1m"})
        return symbol

    def is_first(self, name: str) -> bool:
        """The first result of a contender is checked."""
        first = name in self.unchecked
        self.unchecked.discard(name)
        return first

    def settle(self, name: str, symbol: str) -> None:
        """Completes pending maintenance of these rows before the next contender's turn."""
        key = f"kline/{symbol}/1m"
        if self.is_first(name):
            found = self.server.flight.do_get(flight.Ticket(json.dumps({"series": [key]}))).read_all()
            same(f"{PRODUCT}, ingest by {name}", data.checksum(found), self.expected)
        self.server.action("drop_series", {"series": key})
        self.server.action("compact")

    def put(self) -> float:
        symbol = self.fresh()
        taken = seconds(self.server.put, {"series": f"kline/{symbol}/1m", "mode": "append"}, self.table)
        self.settle("DoPut", symbol)
        return taken

    def post(self) -> float:
        symbol = self.fresh()
        path = f"/v1/klines/{symbol}/1m?mode=append"

        def work():
            for body in self.bodies:
                reply = self.server.http.call("POST", path, body, "application/vnd.apache.arrow.stream")
                assert json.loads(reply)["durable"]

        taken = seconds(work)
        self.settle("REST", symbol)
        return taken

    def put_bytes(self) -> float:
        path = self.where / "put"
        taken = seconds(put_table, self.bench.flight_peer.flight, str(path), self.table)
        assert path.stat().st_size >= self.table.nbytes
        path.unlink()
        return taken

    def disk(self) -> float:
        path = self.where / "bytes"

        def work():
            with open(path, "wb", buffering=0) as file:
                for at in range(0, len(self.bytes), PIECE_BYTES):
                    file.write(self.bytes[at : at + PIECE_BYTES])
                os.fdatasync(file.fileno())

        taken = seconds(work)
        path.unlink()
        return taken

    def of_duck(self) -> float:
        self.duck.register("source", self.table)
        taken = seconds(peers.run, self.duck, "CREATE TABLE bars AS SELECT * FROM source")
        if self.is_first("DuckDB"):
            same("DuckDB, ingest", data.checksum(self.duck.sql("SELECT * FROM bars").to_arrow_table()), self.expected)
        peers.run(self.duck, "DROP TABLE bars")
        peers.run(self.duck, "CHECKPOINT")
        return taken

    def of_arctic(self) -> float:
        library = self.arctic.library
        taken = seconds(library.write, "bars", self.frame)
        if self.is_first("ArcticDB"):
            same("ArcticDB, ingest", data.checksum(self.arctic.table(library.read("bars").data)), self.expected)
        library.delete("bars")
        return taken


def ingest(bench: Bench) -> list[Line]:
    run = Ingest(bench)
    over_rest, disk = f"{PRODUCT} over REST Arrow", "sequential write and fdatasync"
    contenders = {
        PRODUCT: run.put,
        over_rest: run.post,
        disk: run.disk,
        "Arrow's C++ Flight server that writes and syncs the bytes": run.put_bytes,
        "DuckDB in process": run.of_duck,
        "ArcticDB in process": run.of_arctic,
    }
    samples = take_turns({name: flushed(work) for name, work in contenders.items()}, bench.rounds_long)
    rest = samples.pop(over_rest)
    work = f"bulk ingest, {bench.rows // 1_000_000} M sorted rows, durable"
    how = {"amount": bench.rows, "amount_unit": "rows"}
    goal = Goal("≥ 0.7× the disk", 0.7, (disk,))
    note = [f"the disk took {bench.rows * 48 / 1e6 / statistics.median(samples[disk]):.0f} MB/s"]
    return [
        Line("ingest", f"{work}, over Flight DoPut", samples, goal, **how, notes=note),
        Line("ingest", f"{work}, over REST Arrow", {**samples, PRODUCT: rest}, **how),
    ]


def upsert(bench: Bench) -> list[Line]:
    """Replaces rows at random positions of a long series in one commit."""
    where, key = bench.dir("upsert"), "kline/UPSERT/1m"
    engine = bench.embedded()
    engine.call("open", where / "store")
    engine.call("write", key, bench.table_file, "append")
    engine.call("settle")
    duck = bench.keep(duckdb.connect(str(where / "upsert.duckdb")), "close")
    peers.run(duck, f"CREATE TABLE bars ({COLUMNS}, PRIMARY KEY (ts))")
    duck.register("source", bench.table)
    peers.run(duck, "INSERT INTO bars SELECT * FROM source")
    peers.run(duck, "CHECKPOINT")
    patches = []
    for number in range(bench.rounds_long + 1):
        rows = np.random.default_rng(number).choice(bench.rows, bench.upsert_rows, replace=False)
        patch = data.bars_of(rows, salt=100 * (number + 1))
        patches.append((rows, patch, data.write_file(patch, where / f"patch-{number}.arrow", bench.upsert_rows)))
    settled = {PRODUCT: [], "DuckDB": []}
    turn = {PRODUCT: iter(patches), "DuckDB": iter(patches)}

    def ours() -> float:
        _, _, file = next(turn[PRODUCT])
        reply = engine.call("write", key, file, "upsert")
        assert reply["rows"] == bench.upsert_rows
        taken = reply["ns"][0] / 1e9
        settled[PRODUCT].append(taken + engine.call("settle")["ns"][0] / 1e9)
        return taken

    def of_duck() -> float:
        _, patch, _ = next(turn["DuckDB"])
        duck.register("patch", patch)
        started = time.perf_counter()
        peers.run(duck, "INSERT OR REPLACE INTO bars SELECT * FROM patch")
        taken = time.perf_counter() - started
        peers.run(duck, "CHECKPOINT")
        settled["DuckDB"].append(time.perf_counter() - started)
        return taken

    def check() -> None:
        rows, patch, _ = patches[0]
        columns = [bench.table[name].to_numpy().copy() for name in data.NAMES]
        for name, column in zip(data.NAMES, columns):
            column[rows] = patch[name].to_numpy()
        expected = data.checksum(data.table_of(columns))
        checked(f"{PRODUCT}, upsert", engine.call("range", key, *ALL, 1), expected)
        same("DuckDB, upsert", data.checksum(duck.sql("SELECT * FROM bars ORDER BY ts").to_arrow_table()), expected)

    samples = take_turns({PRODUCT: flushed(ours), "DuckDB": flushed(of_duck)}, bench.rounds_long, check)
    engine.stop()
    work = f"upsert of {bench.upsert_rows:,} scattered rows into {bench.rows // 1_000_000} M, durable"
    how = {"amount": bench.upsert_rows, "amount_unit": "rows"}
    # The first round is left out, as for the others.
    merged = {name: taken[1:] or taken for name, taken in settled.items()}
    return [
        Line("upsert", work, samples, Goal("≥ 2× DuckDB with a key", 2), **how),
        Line("upsert", f"{work}, until merged (settled; CHECKPOINT)", merged, **how),
    ]
