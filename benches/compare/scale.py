"""Scaling: reads after many small writes, the inventory, opening a store, reading a day from growing stores."""

import functools
import json

import duckdb
import pyarrow as pa
import pyarrow.flight as flight

import data
import peers
from fixtures import ALL, Bench
from measure import PRODUCT, Curve, Goal, Line, p50, same, seconds, take_turns
from processes import Server
from reads import checked, engine_p50

AT_ONCE = f"{PRODUCT}, written at once"
CELLS = "open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE"
ONE, EVERY = "kline/ONE/1m", "kline/ALL/1m"


def after_appends(bench: Bench) -> list[Line]:
    """Reads of the same rows appended one at a time and written at once: in process while they are in the tail, and
    through a server that opened the store afterwards."""
    where, count = bench.dir("appends"), bench.append_rows
    table = data.klines(count)
    file = data.write_file(table, where / "rows.arrow", count)
    engine = bench.embedded()
    engine.call("open", where / "store", "none")
    engine.call("write", EVERY, file, "append")
    taken = engine.call("each", ONE, file)
    assert taken["rows"] == count
    note = [f"{taken['ns'][0] / count / 1e3:.1f} µs per append without a sync"]
    spans = {
        "1 day in the middle": data.span_of(count // 2, 1_440),
        "the last day": data.span_of(count - 1_440, 1_440),
        "all of them": ALL,
    }
    goal = Goal("≤ 1.2× the same rows at once", 1 / 1.2, (AT_ONCE,))
    lines = []

    def measured(what: str, read, check) -> None:
        for name, span in spans.items():
            expected = data.checksum(data.cut(table, span))
            for key in (ONE, EVERY):
                check(key, span, expected)
            ways = {PRODUCT: functools.partial(read, ONE, span), AT_ONCE: functools.partial(read, EVERY, span)}
            work = f"{name}, after {count:,} one-row appends, {what}"
            lines.append(Line("after-appends", work, take_turns(ways, bench.rounds), goal, notes=note))

    def in_process(key: str, span: tuple[int, int]) -> float:
        return engine_p50(engine, 300, "range", key, *span)

    def check_in_process(key: str, span: tuple[int, int], expected) -> None:
        checked(f"{key}, {span}", engine.call("range", key, *span, 1), expected)

    measured("in process", in_process, check_in_process)
    engine.call("close")
    engine.stop()
    server = bench.keep(Server(bench.programs["fastk"], where / "store"))

    def ticket(key: str, span: tuple[int, int]) -> flight.Ticket:
        return flight.Ticket(json.dumps({"series": [key], "start": span[0], "end": span[1]}))

    def by_flight(key: str, span: tuple[int, int]) -> float:
        request = ticket(key, span)
        return p50(lambda: server.flight.do_get(request).read_all(), 100)

    def check_by_flight(key: str, span: tuple[int, int], expected) -> None:
        same(f"{key}, {span}", data.checksum(server.flight.do_get(ticket(key, span)).read_all()), expected)

    spans["all of them"] = data.span_of(0, count)
    measured("over Flight", by_flight, check_by_flight)
    return [*lines, *arctic_after_appends(bench)]


def arctic_after_appends(bench: Bench) -> list[Line]:
    """ArcticDB after a hundredth of the appends."""
    count = bench.append_rows // 100
    arctic = bench.keep(peers.Arctic(bench.dir("appends") / "arctic"), "close")
    library, frame = arctic.library, peers.frame(data.klines(count))
    library.write("at-once", frame)
    library.write("one-by-one", frame.iloc[:1])
    for row in range(1, count):
        library.append("one-by-one", frame.iloc[row : row + 1])
    expected = data.checksum(data.klines(count))
    for name in ("at-once", "one-by-one"):
        same(f"ArcticDB, {name}", data.checksum(arctic.table(library.read(name).data)), expected)
    ways = {
        "ArcticDB": lambda: p50(lambda: library.read("one-by-one").data, 3),
        "ArcticDB, written at once": lambda: p50(lambda: library.read("at-once").data, 3),
    }
    work = f"for comparison: all of them, after {count:,} one-row appends, ArcticDB"
    return [Line("after-appends", work, take_turns(ways, bench.rounds))]


def inventory(bench: Bench) -> list[Line]:
    where, count = bench.dir("inventory"), bench.inventory_series
    file = data.write_file(data.klines(1), where / "row.arrow")
    engine = bench.embedded()
    engine.call("open", where / "store", "none")
    engine.call("spread", "N", 0, count, file)
    engine.call("close")
    engine.stop()
    http = bench.keep(Server(bench.programs["fastk"], where / "store")).http

    def whole() -> list[dict]:
        """Reads all pages, of at most 10,000 series each."""
        series, cursor = [], ""
        while cursor is not None:
            page = json.loads(http.get(f"/inventory?limit=10000{cursor}"))
            series += page["series"]
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        return series

    found = whole()
    keys = [row["series"] for row in found]
    same("inventory", (len(found), keys == sorted(keys), sum(row["rows"] for row in found)), (count, True, count))
    cursors = [""] + [f"&cursor={keys[at - 1]}" for at in range(10_000, count, 10_000)]

    def pages() -> None:
        for cursor in cursors:
            http.get(f"/inventory?limit=10000{cursor}")

    etag = http.reply("GET", "/inventory")[1]["etag"]

    def unchanged() -> None:
        status, _, body = http.reply("GET", "/inventory", headers={"If-None-Match": etag})
        assert status == 304 and not body

    all_of_it = take_turns({PRODUCT: lambda: seconds(pages)}, bench.rounds)
    again = take_turns({PRODUCT: lambda: p50(unchanged, 200)}, bench.rounds)
    work = f"inventory of {count:,} series"
    return [
        Line("inventory", work, all_of_it, Goal("< 100 ms", at_most=0.1), notes=[f"in {len(cursors)} pages"]),
        Line("inventory", f"{work}, unchanged (304)", again, Goal("< 1 ms", at_most=0.001)),
    ]


def opening(bench: Bench) -> list[Line]:
    """Opens the store in a new process each time and reads its memory usage. The manifest lists chunks whose files do not
    exist, so that an open that touched one would fail."""
    where, count = bench.dir("opening"), bench.opening_chunks
    planter = bench.embedded()
    planter.call("plant", where / "store", count)
    planter.stop()
    memory = []

    def once() -> float:
        engine = bench.embedded()
        opened = engine.call("open", where / "store", "idle")
        engine.stop()
        same("opening", (opened["chunks"], opened["rows"]), (count, 10 * count))
        memory.append(opened["anonymous"])
        return opened["ns"][0] / 1e9

    samples = take_turns({PRODUCT: once}, bench.rounds)
    work = f"opening a store of {count:,} chunks"
    taken = {PRODUCT: memory[1:]}
    return [
        Line("opening", work, samples, Goal("< 1 s", at_most=1.0)),
        Line("opening", f"{work}: memory (RssAnon)", taken, Goal("< 200 MB", at_most=200e6), unit="B"),
    ]


class Growing:
    """FastK in process and over Flight, and DuckDB, each with a store that grows from step to step."""

    def __init__(self, bench: Bench, name: str):
        self.bench, self.where = bench, bench.dir(name)
        self.engine = bench.embedded()
        self.duck = bench.keep(duckdb.connect(str(self.where / "growing.duckdb")), "close")
        self.points: dict[str, list[tuple[int, list[float]]]] = {}

    def grow(self, *words) -> None:
        self.engine.call("open", self.where / "store", "none")
        self.engine.call(*words)
        self.engine.call("close")

    def measure(self, size: int, key: str, span: tuple[int, int], rows_of_duck, expected) -> None:
        """A server owns its store exclusively, so it runs on a copy."""
        copy = self.bench.copy(self.where / "store", f"growing-{self.where.name}-{size}")
        server = Server(self.bench.programs["fastk"], copy)
        request = flight.Ticket(json.dumps({"series": [key], "start": span[0], "end": span[1]}))
        self.engine.call("open", self.where / "store")
        try:
            checked(f"{key} in process", self.engine.call("range", key, *span, 1), expected)
            same(f"{key} over Flight", data.checksum(server.flight.do_get(request).read_all()), expected)
            same(f"{key} of DuckDB", data.checksum(rows_of_duck()), expected)
            ways = {
                f"{PRODUCT} in process": lambda: engine_p50(self.engine, 500, "range", key, *span),
                f"{PRODUCT} over Flight": lambda: p50(lambda: server.flight.do_get(request).read_all(), 100),
                "DuckDB in process": lambda: p50(rows_of_duck, 10),
            }
            for name, taken in take_turns(ways, self.bench.rounds_long).items():
                self.points.setdefault(name, []).append((size, taken))
        finally:
            self.engine.call("close")
            server.stop()
            self.bench.remove(copy.name)


def sizes(bench: Bench) -> list[Curve]:
    return [by_rows(bench), by_series(bench)]


def by_rows(bench: Bench) -> Curve:
    growing = Growing(bench, "size-rows")
    peers.run(growing.duck, f"CREATE TABLE bars (ts BIGINT, {CELLS})")
    before = 0
    for size in bench.size_rows:
        more = bench.table.slice(before, size - before)
        file = data.write_file(more, growing.where / "more.arrow")
        growing.grow("write", "kline/BTCUSDT/1m", file, "append")
        growing.duck.register("source", more)
        peers.run(growing.duck, "INSERT INTO bars SELECT * FROM source")
        peers.run(growing.duck, "CHECKPOINT")
        before = size
        span = data.span_of(size // 2, 1_440)
        expected = data.checksum(data.cut(bench.table, span))

        def of_duck() -> pa.Table:
            query = "SELECT * FROM bars WHERE ts BETWEEN ? AND ?"
            return growing.duck.sql(query, params=span).to_arrow_table()

        growing.measure(size, "kline/BTCUSDT/1m", span, of_duck, expected)
    growing.engine.stop()
    return Curve("rows", "1 day of one series", "rows of the series", growing.points)


def by_series(bench: Bench) -> Curve:
    growing = Growing(bench, "size-series")
    day = data.klines(1_440)
    file = data.write_file(day, growing.where / "day.arrow")
    peers.run(growing.duck, f"CREATE TABLE bars (symbol VARCHAR, ts BIGINT, {CELLS})")
    growing.duck.register("day", day)
    before, span, expected = 0, data.span_of(0, 1_440), data.checksum(day)
    for size in bench.size_series:
        growing.grow("spread", "N", before, size, file)
        peers.run(
            growing.duck,
            "INSERT INTO bars SELECT 'N' || lpad(n::VARCHAR, 5, '0') AS symbol, day.* FROM range(?, ?) numbers(n), day "
            "ORDER BY symbol, ts",
            [before, size],
        )
        peers.run(growing.duck, "CHECKPOINT")
        before = size
        symbol = f"N{size // 2:05}"

        def of_duck() -> pa.Table:
            query = "SELECT * EXCLUDE symbol FROM bars WHERE symbol = ? AND ts BETWEEN ? AND ?"
            return growing.duck.sql(query, params=[symbol, *span]).to_arrow_table()

        growing.measure(size, f"kline/{symbol}/1m", span, of_duck, expected)
    growing.engine.stop()
    return Curve("series", "1 day of one series", "series in the store, 1 day each", growing.points)
