"""The cross-section: one bar of many symbols."""

import json

import arcticdb
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight

import data
import peers
from fixtures import Bench
from measure import PRODUCT, Goal, Line, p50, same, take_turns
from processes import Server
from reads import checked, engine_p50

BY_TIME = "DuckDB sorted by time"


def wide_table(symbols: int, rows: int) -> pa.Table:
    """The same minutes of many symbols, one symbol after the other."""
    n = np.arange(symbols * rows)
    names = pa.array([f"S{number:03}" for number in range(symbols)])
    labels = pa.DictionaryArray.from_arrays(pa.array((n // rows).astype(np.int32)), names)
    table = data.klines(len(n)).set_column(0, "ts", pa.array(data.BEGIN + n % rows * data.MINUTE))
    return table.add_column(0, "symbol", labels.cast(pa.string()))


class Peers:
    """Each peer stores the symbols one after the other, as FastK does, since it must also serve ranges of one
    symbol. DuckDB sorted by time does not serve those well: it is shown but not compared."""

    def __init__(self, bench: Bench, wide: pa.Table, ts: int):
        self.ts, where = ts, bench.dir("wide")
        self.duck = bench.keep(duckdb.connect(str(where / "wide.duckdb")), "close")
        self.duck.register("source", wide)
        peers.run(self.duck, "CREATE TABLE by_symbol AS SELECT * FROM source")
        peers.run(self.duck, "CREATE TABLE by_time AS SELECT * FROM source ORDER BY ts, symbol")
        self.duck.unregister("source")
        self.parquet, self.ipc = where / "wide.parquet", where / "wide.ipc"
        frame = pl.from_arrow(wide)
        frame.write_parquet(self.parquet)
        frame.write_ipc(self.ipc)
        self.arctic = bench.keep(peers.Arctic(where / "arctic"), "close")
        self.names = [f"S{number:03}" for number in range(bench.wide_symbols)]
        for number, name in enumerate(self.names):
            rows = wide.slice(number * bench.wide_rows, bench.wide_rows).drop_columns("symbol")
            self.arctic.library.write(name, peers.frame(rows))

    def of_duck(self, table: str) -> pa.Table:
        return self.duck.sql(f"SELECT * FROM {table} WHERE ts = ?", params=[self.ts]).to_arrow_table()

    def of_arctic(self) -> list:
        moment = peers.moment(self.ts)
        requests = [arcticdb.ReadRequest(name, date_range=(moment, moment)) for name in self.names]
        return [item.data for item in self.arctic.library.read_batch(requests)]

    def queries(self) -> dict:
        at = pl.col("ts") == self.ts
        return {
            "DuckDB": lambda: self.of_duck("by_symbol"),
            BY_TIME: lambda: self.of_duck("by_time"),
            "Polars on Parquet": lambda: pl.scan_parquet(self.parquet).filter(at).collect(),
            "Polars on Arrow IPC": lambda: pl.scan_ipc(self.ipc).filter(at).collect(),
            "ArcticDB": self.of_arctic,
        }

    def table(self, result) -> pa.Table:
        if isinstance(result, list):
            rows = pa.concat_tables(self.arctic.table(one) for one in result)
            return rows.add_column(0, "symbol", pa.array(self.names))
        table = result if isinstance(result, pa.Table) else result.to_arrow()
        return table.set_column(0, "symbol", table["symbol"].cast(pa.string())).sort_by("symbol")


def cross(bench: Bench) -> list[Line]:
    wide = wide_table(bench.wide_symbols, bench.wide_rows)
    ts = data.BEGIN + bench.wide_rows // 2 * data.MINUTE
    one_bar = wide.filter(pc.equal(wide["ts"], ts))
    series = pa.array([f"kline/{symbol}/1m" for symbol in one_bar["symbol"].to_pylist()])
    expected = data.checksum(one_bar.set_column(0, "series", series))

    where = bench.dir("wide")
    file = data.write_file(wide.drop_columns("symbol").combine_chunks(), where / "wide.arrow", bench.wide_rows)
    engine = bench.embedded()
    engine.call("open", where / "store")
    engine.call("write", "kline/S{}/1m", file, "append")
    engine.call("settle")
    engine.call("close")
    served = bench.copy(where / "store", "wide-served")
    engine.call("open", where / "store")
    checked(f"{PRODUCT}, cross", engine.call("cross", "kline/S", ts, 1), expected)

    client = bench.keep(Server(bench.programs["fastk"], served)).flight
    ticket = flight.Ticket(json.dumps({"series": ["kline/S*/1m"], "start": ts, "end": ts, "layout": "by_time"}))
    same(f"{PRODUCT} over Flight, cross", data.checksum(client.do_get(ticket).read_all()), expected)

    others = Peers(bench, wide, ts)
    queries = others.queries()
    expected = data.checksum(one_bar)
    for name, query in queries.items():
        same(f"{name}, cross", data.checksum(others.table(query())), expected)

    over_flight = f"{PRODUCT} over Flight"
    contenders = {
        PRODUCT: lambda: engine_p50(engine, 200, "cross", "kline/S", ts),
        over_flight: lambda: p50(lambda: client.do_get(ticket).read_all(), 100),
    }
    contenders |= {name: lambda query=query: p50(query, 3) for name, query in queries.items()}
    samples = take_turns(contenders, bench.rounds_long)
    by_flight = {PRODUCT: samples.pop(over_flight)}
    others_only = {name: taken for name, taken in samples.items() if name != PRODUCT}
    work, goal = f"cross-section, one bar of {bench.wide_symbols} symbols", Goal("≥ 20× the best peer", 20)
    return [
        Line("cross", f"{work}, embedded", samples, goal, aside=(BY_TIME,)),
        Line("cross", f"{work}, over Flight (peers in process)", by_flight | others_only, goal, aside=(BY_TIME,)),
    ]
