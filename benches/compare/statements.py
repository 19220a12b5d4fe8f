"""SQL and resampling through the server: statements over Flight, compared with the same questions to engines in process.

Results are compared column by column before they are timed: doubles to nine digits, since sums of doubles depend on the
order of the additions, everything else exactly.
"""

import json
import statistics
import threading
import time

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.flight as flight

import data
import peers
from cross import wide_table
from fixtures import SYMBOL, Bench
from measure import PRODUCT, Goal, Line, p50, take_turns
from processes import Server

RESAMPLED, GROUPED = "resample", "GROUP BY time_bucket"
EVENTS = 100_000
SQL_CLIENTS = 64
BARS = "first(open, ts) AS open, max(high) AS high, min(low) AS low, last(close, ts) AS close, sum(volume) AS volume"
DUCK_BARS = (
    "arg_min(open, ts) AS open, max(high) AS high, min(low) AS low, arg_max(close, ts) AS close, sum(volume) AS volume"
)
POLARS_BARS = [
    pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(), pl.col("volume").sum()
]


def asked(client: flight.FlightClient, query: dict) -> pa.Table:
    return client.do_get(flight.Ticket(json.dumps(query))).read_all()


def values(column) -> np.ndarray:
    """Cells as numbers or texts: timestamps as milliseconds, decimals as doubles."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64())
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    elif pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column.to_numpy(zero_copy_only=False)


def matches(name: str, found: pa.Table, expected: pa.Table, order: list[str]) -> None:
    """A fast wrong result does not count."""
    if found.num_rows != expected.num_rows:
        raise SystemExit(f"{name} returned {found.num_rows} rows, expected {expected.num_rows}")
    tables = []
    for table in (found, expected):
        columns = {column: values(table[column]) for column in expected.column_names}
        rows = np.lexsort([columns[column] for column in reversed(order)]) if order else slice(None)
        tables.append({column: cells[rows] for column, cells in columns.items()})
    for column in expected.column_names:
        ours, theirs = tables[0][column], tables[1][column]
        if theirs.dtype.kind == "f":
            right = np.allclose(ours.astype(float), theirs, rtol=1e-9, atol=0, equal_nan=True)
        else:
            right = (ours == theirs).all()
        if not right:
            raise SystemExit(f"{name} returned other values of {column}")


def compared(bench, row, work, ours: dict, others: dict, order, goal=None, calls=1, rounds=None) -> list[Line]:
    """One line for each way to ask FastK, against the same peers: all return Arrow tables, or what converts to one."""
    expected = None
    for name, query in {**others, **ours}.items():
        found = query()
        found = found.to_arrow() if isinstance(found, pl.DataFrame) else found
        if not isinstance(found, pa.Table):
            found = bench.arctic.table(found)
        if expected is None:
            expected = found.rename_columns([column.lower() for column in found.column_names])
        else:
            matches(f"{name}, {row}", found, expected, order)
    contenders = {name: lambda query=query: p50(query, calls) for name, query in {**ours, **others}.items()}
    samples = take_turns(contenders, rounds or bench.rounds_long)
    theirs = {name: samples[name] for name in others}
    goals = goal if isinstance(goal, dict) else dict.fromkeys(ours, goal)
    lines = []
    for name in ours:
        text = f"{work}, {name}" if len(ours) > 1 else work
        lines.append(Line(row, text, {PRODUCT: samples[name], **theirs}, goals.get(name)))
    return lines


def statements(bench: Bench) -> list[Line]:
    """Questions on one series."""
    client, duck = bench.server.flight, bench.duck.connection
    frame = pl.scan_ipc(bench.table_file)
    rows = f"{bench.rows // 1_000_000} M rows"
    start, end = data.span_of(bench.rows // 2, 1_440)
    year = data.span_of(bench.rows * 4 // 10, 525_600 if bench.rows > 1_000_000 else 100_000)

    def sql(text: str):
        return lambda: asked(client, {"sql": text})

    def duck_sql(text: str):
        return lambda: duck.sql(text).to_arrow_table()

    def span(bounds: tuple[int, int]) -> str:
        return f"ts BETWEEN to_timestamp_millis({bounds[0]}) AND to_timestamp_millis({bounds[1]})"

    def line(row, work, ours, theirs, order, goal=None, calls=1, **others):
        peers_of = {"DuckDB": duck_sql(theirs), **others}
        return compared(bench, row, f"SQL over Flight, {work}", {PRODUCT: sql(ours)}, peers_of, order, goal, calls)

    series = f"klines_1m WHERE symbol = '{SYMBOL}'"
    hour = f"ts // {data.HOUR} * {data.HOUR}"
    lines = line(
        "sql-day", "1 day", f"SELECT * FROM {series} AND {span((start, end))} ORDER BY ts",
        f"SELECT * FROM bars WHERE ts BETWEEN {start} AND {end} ORDER BY ts", ["ts"], Goal("≤ 1.5× DuckDB in process", 1 / 1.5), 20,
    )
    lines += line(
        "sql-year", "1 year of 3 columns", f"SELECT ts, close, volume FROM {series} AND {span(year)}",
        f"SELECT ts, close, volume FROM bars WHERE ts BETWEEN {year[0]} AND {year[1]}", ["ts"], Goal("≤ 1× DuckDB in process", 1), 3,
    )
    lines += line(
        "sql-count", f"rows with close > v of {rows}", f"SELECT count(*) AS n FROM {series} AND close > {data.CLOSE_ABOVE}",
        f"SELECT count(*) AS n FROM bars WHERE close > {data.CLOSE_ABOVE}", [], Goal("≥ 1.5× DuckDB", 1.5), 3,
    )
    # One-hour bars: the operator of the engine in four ways, and the general one of SQL.
    http, path = bench.server.http, f"/v1/klines/{SYMBOL}/1m?every=1h&format=arrow&columns=open,high,low,close,volume"
    key = f"kline/{SYMBOL}/1m"
    columns = "ts, open, high, low, close, volume"
    ours = {
        f"{RESAMPLED} over Flight": lambda: asked(client, {"series": [key], "every": "1h"}),
        f"{RESAMPLED} over REST": lambda: pa.ipc.open_stream(http.get(path)).read_all(),
        f"{RESAMPLED} in SQL": sql(f"SELECT {columns} FROM resample('klines_1m', '1h') WHERE symbol = '{SYMBOL}'"),
        GROUPED: sql(f"SELECT time_bucket('1h', ts) AS ts, {BARS} FROM {series} GROUP BY 1"),
    }
    hours = {
        "DuckDB": duck_sql(f"SELECT {hour} AS ts, {DUCK_BARS} FROM bars GROUP BY 1"),
        "Polars": lambda: frame.set_sorted("ts").group_by_dynamic("ts", every=f"{data.HOUR}i").agg(POLARS_BARS).collect(),
        "ArcticDB": bench.arctic.hours,
    }
    goals = {name: Goal("≥ 4× the best peer", 4) for name in ours} | {GROUPED: Goal("≥ 1× the best peer", 1)}
    lines += compared(bench, "sql-hours", f"1 h bars of {rows}", ours, hours, ["ts"], goals)
    zone = "America/New_York"
    local = pl.from_epoch("ts", time_unit="ms").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    days = frame.with_columns(local).set_sorted("ts").group_by_dynamic("ts", every="1d").agg(POLARS_BARS)
    lines += compared(
        bench, "sql-days", f"days of {zone} of {rows}",
        {f"{RESAMPLED} over Flight": lambda: asked(client, {"series": [key], "every": "1d", "align": "local", "tz": zone})},
        {"Polars": days.collect}, ["ts"], Goal("≥ 2× the best peer", 2),
    )
    lines += line(
        "sql-last", "ORDER BY ts DESC LIMIT 100", f"SELECT * FROM {series} ORDER BY ts DESC LIMIT 100",
        "SELECT * FROM bars ORDER BY ts DESC LIMIT 100", ["ts"], Goal("≥ 3× DuckDB", 3), 10,
    )
    lines += line(
        "sql-top", "ORDER BY high DESC, ts LIMIT 10", f"SELECT * FROM {series} ORDER BY high DESC, ts LIMIT 10",
        "SELECT * FROM bars ORDER BY high DESC, ts LIMIT 10", ["ts"], Goal("≥ 1× DuckDB", 1),
    )
    lines += line(
        "sql-vwap", "volume-weighted price of each day", f"SELECT time_bucket('1d', ts) AS ts, vwap(close, volume) AS price FROM {series} GROUP BY 1",
        f"SELECT ts // {data.DAY} * {data.DAY} AS ts, sum(close * volume) / sum(volume) AS price FROM bars GROUP BY 1",
        ["ts"], Goal("≥ 1× DuckDB", 1),
    )
    lines += line(
        "sql-window", "average of 20 rows, its maximum", "SELECT max(mean) AS top FROM (SELECT avg(close) OVER (ORDER BY ts ROWS 19 PRECEDING) AS mean "
        f"FROM {series})", "SELECT max(mean) AS top FROM (SELECT avg(close) OVER (ORDER BY ts ROWS 19 PRECEDING) AS mean FROM bars)",
        [], Goal("≥ 0.67× DuckDB", 0.67),
    )
    # The last bar at or before each of many events.
    times = data.BEGIN + data.scatter(np.arange(EVENTS, dtype=np.int64), 21, bench.rows * data.MINUTE)
    times.sort()
    events = pa.table({"ts": times, "value": np.arange(EVENTS, dtype=np.float64)})
    bench.server.put({"series": "scalar/feature/EVENTS/event/price", "create": {
        "kind": "scalar", "category": "feature", "symbol": "EVENTS", "timeframe": "event", "name": "price"}}, dedup(events))
    bench.server.action("compact", {"series": ["scalar/feature/EVENTS/event/price"]})
    events = dedup(events)
    duck.register("events", events)
    asof = compared(
        bench, "sql-asof", f"SQL over Flight, as-of join of {events.num_rows:,} events with {rows}",
        {PRODUCT: sql(
            "SELECT e.ts, e.value, b.close FROM scalars_feature_event e ASOF JOIN "
            f"(SELECT ts, close FROM {series}) b MATCH_CONDITION (e.ts >= b.ts)"
        )},
        {
            "DuckDB": duck_sql("SELECT e.ts, e.value, b.close FROM events e ASOF LEFT JOIN bars b ON e.ts >= b.ts"),
            "Polars": lambda: pl.from_arrow(events).lazy().set_sorted("ts").join_asof(
                frame.select("ts", "close").set_sorted("ts"), on="ts").collect(),
        },
        ["ts"], Goal("≥ 3× the best peer", 3),
    )
    return lines + asof


def dedup(events: pa.Table) -> pa.Table:
    """One event for each timestamp."""
    ts = events["ts"].to_numpy()
    return events.filter(pa.array(np.append(True, ts[1:] != ts[:-1])))


class WideServer:
    """A server and peers with the same minutes of many symbols."""

    def __init__(self, bench: Bench):
        wide = wide_table(bench.wide_symbols, bench.wide_rows)
        where = bench.dir("statements")
        file = data.write_file(wide.drop_columns("symbol").combine_chunks(), where / "wide.arrow", bench.wide_rows)
        engine = bench.embedded()
        engine.call("open", where / "store")
        engine.call("write", "kline/S{}/1m", file, "append")
        engine.call("settle")
        engine.call("close")
        self.server = bench.keep(Server(bench.programs["fastk"], where / "store"))
        self.duck = bench.keep(duckdb.connect(str(where / "wide.duckdb")), "close")
        self.duck.register("source", wide)
        peers.run(self.duck, "CREATE TABLE bars AS SELECT * FROM source")
        self.duck.unregister("source")
        self.ipc = where / "wide.ipc"
        pl.from_arrow(wide).write_ipc(self.ipc)


def symbols(bench: Bench) -> list[Line]:
    """Questions on many series, and native reads beside clients of SQL."""
    wide = WideServer(bench)
    client, duck, frame = wide.server.flight, wide.duck, pl.scan_ipc(wide.ipc)
    rows = f"{bench.wide_symbols} symbols of {bench.wide_rows:,} rows"
    hour = f"ts // {data.HOUR} * {data.HOUR}"
    order = ["symbol", "ts"]

    def sql(text: str):
        return lambda: asked(client, {"sql": text})

    hours = {
        f"{RESAMPLED} in SQL": sql("SELECT symbol, ts, open, high, low, close, volume FROM resample('klines_1m', '1h')"),
        GROUPED: sql(f"SELECT symbol, time_bucket('1h', ts) AS ts, {BARS} FROM klines_1m GROUP BY 1, 2"),
    }
    peers_hours = {
        "DuckDB": lambda: duck.sql(f"SELECT symbol, {hour} AS ts, {DUCK_BARS} FROM bars GROUP BY 1, 2").to_arrow_table(),
        "Polars": lambda: frame.group_by("symbol", (pl.col("ts") // data.HOUR * data.HOUR).alias("ts")).agg(
            POLARS_BARS).collect(),
    }
    goals = {f"{RESAMPLED} in SQL": Goal("≥ 3.3× the best peer", 3.3), GROUPED: Goal("≥ 1× DuckDB", 1, ("DuckDB",))}
    lines = compared(bench, "sql-symbols", f"1 h bars of {rows}", hours, peers_hours, order, goals)
    latest = {
        "DuckDB": lambda: duck.sql(
            "SELECT symbol, max(ts) AS ts, arg_max(close, ts) AS close FROM bars GROUP BY symbol").to_arrow_table(),
        "Polars": lambda: frame.group_by("symbol").agg(pl.col("ts").last(), pl.col("close").last()).collect(),
    }
    lines += compared(
        bench, "sql-symbols", f"SQL over Flight, last row of each of {rows}",
        {PRODUCT: sql("SELECT symbol, ts, close FROM latest('klines_1m')")}, latest, ["symbol"], Goal("≤ 5 ms", at_most=0.005), 3,
    )
    pair = "a.symbol = 'S000' AND b.symbol = 'S001'"
    both = "SELECT count(*) AS n, corr(a.close, b.close) AS r FROM {0} a JOIN {0} b ON a.ts = b.ts WHERE " + pair
    lines += compared(
        bench, "sql-symbols", f"SQL over Flight, correlation of two of {rows}", {PRODUCT: sql(both.format("klines_1m"))},
        {"DuckDB": lambda: duck.sql(both.format("bars")).to_arrow_table()}, [], Goal("≥ 1× DuckDB", 1), 5,
    )
    return [*lines, beside_clients(bench, wide.server)]


def beside_clients(bench: Bench, server: Server) -> Line:
    """Native reads of one day, alone and beside clients that send statements: the 99th percentile."""
    start, end = data.span_of(bench.wide_rows // 2, 1_440)
    native = {"series": ["kline/S001/1m"], "start": start, "end": end}
    heavy = f"SELECT symbol, time_bucket('1h', ts) AS ts, {BARS} FROM klines_1m GROUP BY 1, 2"
    light = f"SELECT * FROM klines_1m WHERE symbol = 'S002' AND ts >= to_timestamp_millis({start}) ORDER BY ts LIMIT 1440"

    def p99(count: int = 400) -> float:
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            asked(server.flight, native)
            times.append(time.perf_counter() - begun)
        return statistics.quantiles(times, n=100)[98]

    def beside() -> float:
        stopped = threading.Event()

        def client(text: str) -> None:
            with flight.connect("grpc://" + server.addresses["flight"]) as own:
                while not stopped.is_set():
                    try:
                        asked(own, {"sql": text})
                    except flight.FlightUnavailableError:
                        # More statements wait than are admitted.
                        stopped.wait(0.05)

        threads = [threading.Thread(target=client, args=(heavy if number == 0 else light,)) for number in range(SQL_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            return p99()
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    samples = take_turns({"alone": p99, PRODUCT: beside}, bench.rounds)
    work = f"p99 of a native read of 1 day beside {SQL_CLIENTS} clients of SQL in one Python process"
    return Line("sql-symbols", work, {PRODUCT: samples[PRODUCT], "alone": samples["alone"]}, Goal("≤ 2× alone", 0.5, ("alone",)))
