"""Random predicates over real series: every interface returns exactly the rows that Polars selects.

Decimals are compared as Polars decimals with space for more digits than the column has, floats as float64, integers as
integers. FASTK_PREDICATE_ROUNDS (default 60) is the number of predicates a series, FASTK_PREDICATE_SEED (default 1)
where they begin; a failure prints what replays it.
"""

import json
import os
import random
import time
import urllib.parse
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import support

FOLDER = os.environ.get("FASTK_TEST_DATA")
ROUNDS = int(os.environ.get("FASTK_PREDICATE_ROUNDS", "60"))
SEED = int(os.environ.get("FASTK_PREDICATE_SEED", "1"))
MORE_DIGITS = 4

BINANCE = ["--extra", "quote_volume,count,taker_buy_volume,taker_buy_quote_volume"]
# file, key, flags of the import
FILES = [
    ("binance-spot-BTCUSDT-1h.csv.gz", "kline/BTCUSDT/1h", BINANCE),
    ("binance-spot-BTCUSDT-1d.csv.gz", "kline/BTCUSDT/1d", [*BINANCE, "--rounding", "nearest"]),
    ("binance-usdm-FILUSDT-1m-2023-02.csv.gz", "kline/FILUSDT/1m", BINANCE),
    ("histdata-EURUSD-1m-2015-Q1.csv.gz", "kline/EURUSD/1m", []),
    ("vix-1d-1990_2026.csv", "kline/VIX/1d", ["--set", "volume=0", "--validate", "none"]),
    ("freqtrade-test-XRPUSDT-8h-funding_rate.feather", "kline/XRPFUNDING/8h",
     ["--validate", "none", "--off-grid", "allow"]),
]
needs_data = pytest.mark.skipif(not FOLDER, reason="FASTK_TEST_DATA is not set: the real data files are not here")

ONE = ["eq", "ne", "gt", "gte", "lt", "lte"]
OPERATORS = [*ONE, "between", "between_exclusive", "in", "not_in"]


def read_arrow(server, path, conditions=()):
    query = "&".join(["format=arrow", *("where=" + urllib.parse.quote(text, safe=":,") for text in conditions)])
    return pa.ipc.open_stream(server.read(f"{path}?{query}")).read_all()


class Rows:
    """All rows of a series, read once without a predicate."""

    def __init__(self, table):
        self.table = table.combine_chunks()
        self.kinds, frame = {}, {}
        for name in table.column_names:
            column = table[name]
            if name == "ts":
                self.kinds[name] = 0
                frame[name] = pl.from_arrow(column.cast(pa.int64()))
            elif pa.types.is_decimal(column.type):
                # The scaled integers as decimals with more digits, so that no conversion loses one.
                self.kinds[name] = column.type.scale
                cells = pl.Series(name, support.words(column))
                wide = pl.Decimal(38, column.type.scale + MORE_DIGITS)
                frame[name] = cells.cast(pl.Decimal(38, 0)).cast(wide) / pl.Series([10**column.type.scale]).cast(wide)
                frame[name] = frame[name].cast(wide)
            else:
                self.kinds[name] = "float64" if pa.types.is_floating(column.type) else 0
                frame[name] = pl.from_arrow(column)
        self.frame = pl.DataFrame({name: cells.rename(name) for name, cells in frame.items()}).with_row_index("row")
        # Checks some cells of the frame against the Arrow table.
        for name in table.column_names[1:]:
            for row in (0, table.num_rows // 2, table.num_rows - 1):
                assert self.frame[name][row] == table[name][row].as_py(), (name, row)

    def value(self, chance, name):
        """A text value to compare a column with."""
        cells, kind = self.frame[name], self.kinds[name]
        stored = cells[chance.randrange(len(cells))]
        way = chance.randrange(10)
        if kind == "float64":
            if way < 3:
                # All digits of the double: another text of the same number.
                return format(Decimal(stored), "f")
            if way < 6:
                return repr(stored)
            return repr(chance.choice([cells.min(), cells.max(), np.nextafter(stored, np.inf).item(),
                                       (stored + cells[chance.randrange(len(cells))]) / 2, -1e300, 1e300, 0.0]))
        step = Decimal(1).scaleb(-kind)
        stored = Decimal(stored).quantize(step)
        if way < 4:
            return format(stored, "f")
        if way < 6:
            # Between two values of the column.
            return format(stored + step * Decimal(chance.randrange(-9_999, 9_999)).scaleb(-4), "f")
        if way < 8:
            other = Decimal(cells[chance.randrange(len(cells))])
            return format(((stored + other) / 2).quantize(step.scaleb(-1)), "f")
        low, high = Decimal(cells.min()), Decimal(cells.max())
        return format(chance.choice([low, high, low - step, high + step, Decimal(0), -(Decimal(10) ** 15)]), "f")

    def expression(self, name, op, texts):
        kind = self.kinds[name]
        if kind == "float64":
            values = [pl.lit(float(text)) for text in texts]
        else:
            values = [pl.lit(Decimal(text), dtype=pl.Decimal(38, kind + MORE_DIGITS)) for text in texts]
        column = pl.col(name) if kind == "float64" else pl.col(name).cast(pl.Decimal(38, kind + MORE_DIGITS))
        first, last = values[0], values[-1]
        same = pl.any_horizontal([column == value for value in values])
        return {
            "eq": column == first,
            "ne": column != first,
            "gt": column > first,
            "gte": column >= first,
            "lt": column < first,
            "lte": column <= first,
            "between": (column >= first) & (column <= last),
            "between_exclusive": (column > first) & (column < last),
            "in": same,
            "not_in": ~same,
        }[op]


def draw(chance, rows):
    """One to three conditions: (column, operator, texts)."""
    conditions = []
    for _ in range(chance.choice([1, 1, 1, 2, 2, 3])):
        name = chance.choice(list(rows.kinds))
        op = chance.choice(OPERATORS)
        count = 1 if op in ONE else 2 if op.startswith("between") else chance.randrange(1, 6)
        texts = [rows.value(chance, name) for _ in range(count)]
        if op.startswith("between") and chance.random() < 0.9:
            texts.sort(key=Decimal)
        conditions.append((name, op, texts))
    return conditions


def check(server, client, key, path, rows, begin, count):
    """`count` predicates from seed `begin`; returns the number that matched some but not all rows."""
    telling = 0
    for seed in range(begin, begin + count):
        conditions = draw(random.Random(f"{key} {seed}"), rows)
        positions = rows.frame.filter(*[rows.expression(*condition) for condition in conditions])["row"]
        expected = rows.table.take(pa.array(positions.to_numpy()))
        telling += 0 < len(positions) < len(rows.frame)
        texts = [f"{name}:{op}:{','.join(values)}" for name, op, values in conditions]
        query = {"series": [key], "where": [
            {"column": name, "op": op, "value": values if len(values) > 1 or op in ("in", "not_in") else values[0]}
            for name, op, values in conditions
        ]}
        try:
            support.assert_same(read_arrow(server, path, texts), expected)
            support.assert_same(client.do_get(flight.Ticket(json.dumps(query).encode())).read_all(), expected)
        except AssertionError as error:
            raise AssertionError(
                f"{key}: {' and '.join(texts)} ({len(positions)} rows positions); replay: FASTK_PREDICATE_SEED={seed} "
                f"FASTK_PREDICATE_ROUNDS=1"
            ) from error
    return telling


def index_everything(server, path):
    """Requests indexes of all columns and waits until maintenance has built them."""
    server.json("PATCH", f"/v1/series/{path}", {"value_index": True})
    number = None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pairs = [(chunk, chunk.with_suffix(".vix").exists()) for chunk in server.chunks()]
        if pairs and all(there for _, there in pairs):
            return
        number = sum(not there for _, there in pairs)
        time.sleep(0.1)
    raise AssertionError(f"{number} chunks of {path} have no value index")


def check_with_and_without_index(server, client, key):
    kind, rest = key.split("/", 1)
    path = f"/v1/{kind}s/{rest}"
    rows = Rows(read_arrow(server, path))
    assert not list(server.root.glob("chunks/*/*.vix"))
    telling = check(server, client, key, path, rows, SEED, ROUNDS)
    index_everything(server, key)
    telling += check(server, client, key, path, rows, SEED, ROUNDS)
    assert telling > ROUNDS / 4 or ROUNDS < 10, "most predicates matched no row or every row"
    # A rare value is looked up in the index.
    column = rows.frame.columns[5]
    counts = rows.frame[column].value_counts().sort("count")
    rare, times = counts.row(0)
    text = repr(rare) if rows.kinds[column] == "float64" else format(rare, "f")
    reply = server.json("GET", f"{path}?where={column}:eq:{text}&explain=true")
    assert len(reply["rows"]) == times
    if len(server.chunks()) == 1 and len(rows.frame) > 40_000:
        assert reply["stats"]["index_used"] in ("value_index", "both"), reply["stats"]
        assert reply["stats"]["rows_checked"] == times, reply["stats"]


@needs_data
@pytest.mark.parametrize("name, key, flags", FILES, ids=[key for _, key, _ in FILES])
def test_predicates_on_real_bars_equal_polars(server, client, fastk, name, key, flags):
    fastk("import", Path(FOLDER) / name, "--series", key, "--server", server.http, *flags)
    check_with_and_without_index(server, client, key)


@needs_data
def test_predicates_on_doubles_equal_polars(server, client, fastk):
    """Closes as doubles, and their logarithmic returns, which have no short decimal form."""
    fastk("import", Path(FOLDER) / "binance-spot-BTCUSDT-1h.csv.gz", "--series", "kline/BTCUSDT/1h",
          "--server", server.http, *BINANCE)
    table = pa.ipc.open_stream(server.read("/v1/klines/BTCUSDT/1h?format=arrow&numbers=float64&columns=close")).read_all()
    server.json("DELETE", "/v1/series/kline/BTCUSDT/1h")
    close = table["close"].to_numpy()
    for name, values in [("close", close), ("return", np.diff(np.log(close), prepend=np.log(close[0])))]:
        key = f"scalar/feature/BTCUSDT/1h/{name}"
        create = {"kind": "scalar", "category": "feature", "symbol": "BTCUSDT", "timeframe": "1h", "name": name}
        command = flight.FlightDescriptor.for_command(json.dumps({"series": key, "create": create}))
        rows = pa.table({"ts": table["ts"], "value": pa.array(values)})
        writer, _ = client.do_put(command, rows.schema)
        writer.write_table(rows, max_chunksize=65_536)
        writer.close()
    server.seal()
    for name in ("close", "return"):
        key = f"scalar/feature/BTCUSDT/1h/{name}"
        path = f"/v1/scalars/feature/BTCUSDT/1h/{name}"
        rows = Rows(read_arrow(server, path))
        for begin in (SEED, SEED + ROUNDS):
            check(server, client, key, path, rows, begin, ROUNDS)
            if begin == SEED:
                server.json("PATCH", f"/v1/series/{key}", {"value_index": ["value"]})
                time.sleep(1.5)
    assert list(server.root.glob("chunks/*/*.vix"))
