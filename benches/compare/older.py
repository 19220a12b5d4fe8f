"""The workload of FastK's predecessors: months of bars of a few symbols, and short ranges of them."""

import random
import sqlite3
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

import data
from fixtures import ALL, Bench
from measure import PRODUCT, Line, flushed, same, take_turns
from reads import checked

RANGES, RANGE_BARS = 100, 1_024
# The peers take minutes a round.
ROUNDS = 3
INSERT = "INSERT INTO bars VALUES (?, ?, ?, ?, ?, ?, ?)"


def disk_bytes(where: Path) -> int:
    """Allocated size of files, without holes."""
    return sum(path.stat().st_blocks * 512 for path in where.rglob("*") if path.is_file())


class Older:
    def __init__(self, bench: Bench):
        self.bench, self.where = bench, bench.dir("older")
        self.bars, self.months = bench.older_bars, bench.older_months
        self.rows = self.bars * self.months
        self.symbols = [f"O{number:02}" for number in range(bench.older_symbols)]
        # Different cells for each symbol at the same minutes.
        self.tables = []
        minutes = pa.array(data.BEGIN + np.arange(self.rows) * data.MINUTE)
        for number in range(bench.older_symbols):
            self.tables.append(data.klines(self.rows, first=number * self.rows).set_column(0, "ts", minutes))
        self.files = [
            data.write_file(table.combine_chunks(), self.where / f"{symbol}.arrow", self.bars)
            for symbol, table in zip(self.symbols, self.tables)
        ]
        self.engine = bench.embedded()
        self.sqlite: sqlite3.Connection | None = None
        self.number = 0
        choose = random.Random(1)
        starts = []
        for _ in range(RANGES):
            month, offset = choose.randrange(self.months), choose.randrange(self.bars - RANGE_BARS)
            starts.append((choose.randrange(len(self.symbols)), month, month * self.bars + offset))
        # Symbol, month and row; no range crosses a month, so that one CSV file is sufficient.
        self.ranges = starts

    def month(self, number: int, month: int) -> pa.Table:
        return self.tables[number].slice(month * self.bars, self.bars)

    def write_ours(self) -> float:
        self.engine.call("close")
        self.bench.remove("older/store")
        self.engine.call("open", self.where / "store")
        replies = [
            self.engine.call("write", f"kline/{symbol}/1m", file, "append")
            for symbol, file in zip(self.symbols, self.files)
        ]
        assert sum(reply["rows"] for reply in replies) == self.rows * len(self.symbols)
        taken = sum(reply["ns"][0] for reply in replies) / 1e9
        self.engine.call("settle")
        return taken

    def write_sqlite(self) -> float:
        """One transaction per month; the conversion of columns to Python rows is not timed."""
        if self.sqlite:
            self.sqlite.close()
        self.bench.remove("older/sqlite")
        path = self.bench.dir("older/sqlite") / "bars.sqlite"
        self.sqlite = sqlite3.connect(path, isolation_level=None)
        self.sqlite.execute("PRAGMA journal_mode = WAL")
        self.sqlite.execute("PRAGMA synchronous = NORMAL")
        cells = "open REAL, high REAL, low REAL, close REAL, volume REAL"
        key = "PRIMARY KEY (symbol, ts)) WITHOUT ROWID"
        self.sqlite.execute(f"CREATE TABLE bars (symbol TEXT, ts INTEGER, {cells}, {key}")
        taken = 0.0
        for number, symbol in enumerate(self.symbols):
            for month in range(self.months):
                columns = [column.to_pylist() for column in self.month(number, month).columns]
                rows = list(zip([symbol] * self.bars, *columns))
                started = time.perf_counter()
                self.sqlite.execute("BEGIN")
                self.sqlite.executemany(INSERT, rows)
                self.sqlite.execute("COMMIT")
                taken += time.perf_counter() - started
        self.sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return taken

    def write_csv(self) -> float:
        """One file per month, not synced."""
        self.bench.remove("older/csv")
        where = self.bench.dir("older/csv")
        taken = 0.0
        for number, symbol in enumerate(self.symbols):
            for month in range(self.months):
                rows = self.month(number, month)
                started = time.perf_counter()
                csv.write_csv(rows, where / f"{symbol}-{month:02}.csv")
                taken += time.perf_counter() - started
        return taken

    def read_csv(self, number: int, month: int) -> pa.Table:
        return csv.read_csv(self.where / "csv" / f"{self.symbols[number]}-{month:02}.csv")

    def full_ours(self) -> float:
        return sum(self.engine.call("sum", f"kline/{symbol}/1m", *ALL, 1)["ns"][0] for symbol in self.symbols) / 1e9

    def full_sqlite(self) -> float:
        started = time.perf_counter()
        cursor = self.sqlite.execute("SELECT * FROM bars")
        assert sum(len(rows) for rows in iter(lambda: cursor.fetchmany(65_536), [])) == self.rows * len(self.symbols)
        return time.perf_counter() - started

    def full_csv(self) -> float:
        started = time.perf_counter()
        for number in range(len(self.symbols)):
            for month in range(self.months):
                data.cells(self.read_csv(number, month))
        return time.perf_counter() - started

    def ranges_ours(self) -> float:
        taken = 0
        for number, _, first in self.ranges:
            span = data.span_of(first, RANGE_BARS)
            taken += self.engine.call("range", f"kline/{self.symbols[number]}/1m", *span, 1)["ns"][0]
        return taken / 1e9

    def range_sqlite(self, number: int, first: int) -> list[tuple]:
        columns = ", ".join(data.NAMES)
        query = f"SELECT {columns} FROM bars WHERE symbol = ? AND ts BETWEEN ? AND ? ORDER BY ts"
        return self.sqlite.execute(query, (self.symbols[number], *data.span_of(first, RANGE_BARS))).fetchall()

    def range_csv(self, number: int, month: int, first: int) -> pa.Table:
        return data.cut(self.read_csv(number, month), data.span_of(first, RANGE_BARS))

    def ranges_sqlite(self) -> float:
        started = time.perf_counter()
        for number, _, first in self.ranges:
            self.range_sqlite(number, first)
        return time.perf_counter() - started

    def ranges_csv(self) -> float:
        started = time.perf_counter()
        for number, month, first in self.ranges:
            self.range_csv(number, month, first)
        return time.perf_counter() - started

    def check(self) -> None:
        for number, symbol in enumerate(self.symbols):
            expected = data.checksum(self.tables[number])
            checked(f"{PRODUCT}, {symbol}", self.engine.call("range", f"kline/{symbol}/1m", *ALL, 1), expected)
            months = pa.concat_tables(self.read_csv(number, month) for month in range(self.months))
            same(f"CSV, {symbol}", data.checksum(months), expected)
        for number, month, first in self.ranges[:10]:
            expected = data.checksum(self.tables[number].slice(first, RANGE_BARS))
            rows = self.range_sqlite(number, first)
            found = data.table_of([pa.array(cells) for cells in zip(*rows)])
            same("SQLite, range", data.checksum(found), expected)
            same("CSV, range", data.checksum(self.range_csv(number, month, first)), expected)
        count = self.sqlite.execute("SELECT count(*) FROM bars").fetchone()[0]
        same("SQLite", count, self.rows * len(self.symbols))


def older(bench: Bench) -> list[Line]:
    run = Older(bench)
    sqlite, text = "SQLite (WAL, NORMAL)", "CSV"
    writes = {PRODUCT: run.write_ours, sqlite: run.write_sqlite, text: run.write_csv}
    samples = take_turns({name: flushed(work) for name, work in writes.items()}, ROUNDS, run.check)
    rows = run.rows * len(run.symbols)
    what = f"{bench.older_symbols} symbols × {run.months} months × {run.bars:,} bars"
    lines = [Line("older", f"{what}: write", samples, amount=rows, amount_unit="rows")]
    run.engine.call("close")
    size = {
        PRODUCT: disk_bytes(run.where / "store"),
        sqlite: disk_bytes(run.where / "sqlite"),
        text: disk_bytes(run.where / "csv"),
    }
    run.engine.call("open", run.where / "store")
    note = [f"{size[PRODUCT] / rows:.1f} bytes per row on disk"]
    taken = {name: [one] for name, one in size.items()}
    lines.append(Line("older", f"{what}: size on disk", taken, unit="B", notes=note))
    full = {PRODUCT: run.full_ours, sqlite: run.full_sqlite, text: run.full_csv}
    samples = take_turns(full, ROUNDS)
    lines.append(Line("older", f"{what}: full read, every cell", samples, amount=rows, amount_unit="rows"))
    ranges = {PRODUCT: run.ranges_ours, sqlite: run.ranges_sqlite, text: run.ranges_csv}
    samples = take_turns(ranges, ROUNDS)
    lines.append(Line("older", f"{RANGES} ranges of {RANGE_BARS:,} bars", samples))
    run.engine.stop()
    return lines
