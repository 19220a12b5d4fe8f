"""Other engines in process, each used as its documentation recommends, with default settings.

Each stores the rows of one Arrow file and returns a closed range, all rows, the last rows, and rows above a value, in
its cheapest form and in any order. `table` converts a result to an Arrow table for the check before the timing.
"""

import sqlite3
from pathlib import Path

import arcticdb
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

import data

# Address space of ArcticDB's LMDB environment, which does not grow by itself.
ARCTIC_MAP = "64GB"
SQLITE_ROWS = 65_536


def mapped(file: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(file)).read_all()


def frame(table: pa.Table) -> pd.DataFrame:
    """A pandas frame with the timestamp index that ArcticDB needs."""
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "ts"}
    index = pd.DatetimeIndex(table["ts"].to_numpy().astype("datetime64[ms]").astype("datetime64[ns]"), name="ts")
    return pd.DataFrame(columns, index=index)


def run(connection: duckdb.DuckDBPyConnection, statement: str, values=None) -> None:
    """Executes a DuckDB statement and discards its result."""
    connection.execute(statement, values).complete()


def moment(ts: int) -> pd.Timestamp:
    return pd.Timestamp(ts, unit="ms")


class DuckNative:
    """A table in DuckDB's own file, inserted by time."""

    name = "DuckDB"

    def __init__(self, where: Path, file: str, index: str | None = None):
        self.connection = duckdb.connect(str(where / f"{Path(file).stem}.duckdb"))
        self.connection.register("source", mapped(file))
        run(self.connection, "CREATE TABLE bars AS SELECT * FROM source")
        if index:
            run(self.connection, f"CREATE INDEX by_{index} ON bars ({index})")
        self.connection.unregister("source")
        run(self.connection, "CHECKPOINT")
        self.rows = "bars"

    def _ask(self, condition: str, *values) -> pa.Table:
        return self.connection.sql(f"SELECT * FROM {self.rows} {condition}", params=values).to_arrow_table()

    def range(self, start: int, end: int):
        return self._ask("WHERE ts BETWEEN ? AND ?", start, end)

    def all(self):
        return self._ask("")

    def latest(self, count: int):
        return self._ask("ORDER BY ts DESC LIMIT ?", count)

    def above(self, column: str, value: float):
        return self._ask(f"WHERE {column} > ?", value)

    def hours(self):
        """One-hour bars; `first` and `last` have no order in a parallel aggregation, so the rows are named by time."""
        columns = "arg_min(open, ts) AS open, max(high) AS high, min(low) AS low, arg_max(close, ts) AS close"
        hour = f"ts // {data.HOUR} * {data.HOUR}"
        return self.connection.sql(
            f"SELECT {hour} AS ts, {columns}, sum(volume) AS volume FROM {self.rows} GROUP BY 1 ORDER BY 1"
        ).to_arrow_table()

    def table(self, given) -> pa.Table:
        return given

    def close(self) -> None:
        self.connection.close()


class DuckParquet(DuckNative):
    """DuckDB on a Parquet file that it wrote."""

    name = "DuckDB on Parquet"

    def __init__(self, where: Path, file: str):
        path = where / f"{Path(file).stem}.duckdb.parquet"
        self.connection = duckdb.connect()
        self.connection.register("source", mapped(file))
        run(self.connection, f"COPY source TO '{path}' (FORMAT parquet)")
        self.connection.unregister("source")
        self.rows = f"read_parquet('{path}')"


class PolarsParquet:
    """Polars on a Parquet file that it wrote."""

    name = "Polars on Parquet"

    def __init__(self, where: Path, file: str):
        self.path = where / f"{Path(file).stem}.polars.parquet"
        pl.from_arrow(mapped(file)).write_parquet(self.path)

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path)

    def range(self, start: int, end: int):
        return self._scan().filter(pl.col("ts").is_between(start, end)).collect()

    def all(self):
        return self._scan().collect().to_arrow()

    def latest(self, count: int):
        return self._scan().tail(count).collect()

    def above(self, column: str, value: float):
        return self._scan().filter(pl.col(column) > value).collect()

    def hours(self):
        bars = self._scan().set_sorted("ts").group_by_dynamic("ts", every=f"{data.HOUR}i")
        return bars.agg(
            pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last(), pl.col("volume").sum()
        ).collect()

    def table(self, given) -> pa.Table:
        return given if isinstance(given, pa.Table) else given.to_arrow()

    def close(self) -> None:
        pass


class PolarsIpc(PolarsParquet):
    """Polars on the Arrow file itself."""

    name = "Polars on Arrow IPC"

    def __init__(self, where: Path, file: str):
        self.path = file

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_ipc(self.path)


class Arctic:
    """ArcticDB on LMDB."""

    name = "ArcticDB"

    def __init__(self, where: Path, file: str | None = None):
        where.mkdir(parents=True, exist_ok=True)
        self.store = arcticdb.Arctic(f"lmdb://{where}?map_size={ARCTIC_MAP}")
        self.library = self.store.get_library("bars", create_if_missing=True)
        if file:
            self.library.write("bars", frame(mapped(file)))

    def range(self, start: int, end: int):
        return self.library.read("bars", date_range=(moment(start), moment(end))).data

    def all(self):
        return self.library.read("bars", output_format="pyarrow").data

    def latest(self, count: int):
        return self.library.tail("bars", count).data

    def above(self, column: str, value: float):
        query = arcticdb.QueryBuilder()
        return self.library.read("bars", query_builder=query[query[column] > value]).data

    def hours(self):
        rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        return self.library.read("bars", query_builder=arcticdb.QueryBuilder().resample("1h").agg(rules)).data

    def table(self, given) -> pa.Table:
        if not isinstance(given, pa.Table):
            given = pa.Table.from_pandas(given.reset_index(), preserve_index=False)
        return given.replace_schema_metadata(None)

    def close(self) -> None:
        del self.library, self.store


class Sqlite:
    """SQLite with its write-ahead log, rows by timestamp."""

    name = "SQLite"

    def __init__(self, where: Path, file: str, index: str | None = None):
        table = mapped(file)
        self.names = table.column_names
        self.connection = sqlite3.connect(where / f"{Path(file).stem}.sqlite", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        # Only while loading; there are no later writes.
        self.connection.execute("PRAGMA synchronous = OFF")
        columns = ", ".join(f"{name} REAL NOT NULL" for name in self.names[1:])
        self.connection.execute(f"CREATE TABLE bars (ts INTEGER PRIMARY KEY, {columns})")
        self.connection.execute("BEGIN")
        marks = ", ".join("?" for _ in self.names)
        for batch in table.to_batches():
            rows = zip(*(column.to_pylist() for column in batch.columns))
            self.connection.executemany(f"INSERT INTO bars VALUES ({marks})", rows)
        self.connection.execute("COMMIT")
        if index:
            self.connection.execute(f"CREATE INDEX by_{index} ON bars ({index})")
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def range(self, start: int, end: int):
        return self.connection.execute("SELECT * FROM bars WHERE ts BETWEEN ? AND ?", (start, end)).fetchall()

    def all(self):
        """Rows are discarded one by one: ten million Python tuples at once would measure memory."""
        cursor = self.connection.execute("SELECT * FROM bars")
        return sum(len(rows) for rows in iter(lambda: cursor.fetchmany(SQLITE_ROWS), []))

    def latest(self, count: int):
        return self.connection.execute("SELECT * FROM bars ORDER BY ts DESC LIMIT ?", (count,)).fetchall()

    def above(self, column: str, value: float):
        return self.connection.execute(f"SELECT * FROM bars WHERE {column} > ?", (value,)).fetchall()

    def table(self, given) -> pa.Table:
        if isinstance(given, int):
            cursor = self.connection.execute("SELECT * FROM bars")
            return pa.concat_tables(self.table(rows) for rows in iter(lambda: cursor.fetchmany(SQLITE_ROWS), []))
        columns = list(zip(*given)) or [() for _ in self.names]
        arrays = [np.array(columns[0], np.int64), *(np.array(column, np.float64) for column in columns[1:])]
        return pa.table(dict(zip(self.names, arrays)))

    def close(self) -> None:
        self.connection.close()
