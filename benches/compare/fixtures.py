"""Shared fixtures of the comparison: created on first use, and closed at the end."""

import contextlib
import json
import shutil
from functools import cached_property
from pathlib import Path

import pyarrow as pa

import data
import peers
from processes import Bare, Embedded, FlightPeer, Server

SYMBOL, KEY = "BTCUSDT", "kline/BTCUSDT/1m"
SCALAR_KEY = "scalar/feature/BTCUSDT/1m/signal"
DECIMAL_SYMBOL, DECIMAL_KEY = "DECIMALS", "kline/DECIMALS/1m"
ALL = (-(2**62), 2**62)


class Bench:
    """One run: amounts, directories and the measured programs."""

    def __init__(self, work: Path, programs: dict[str, str], quick: bool):
        self.work, self.programs, self.quick = work, programs, quick
        # An odd number of rounds, so that the median is one of them; fewer where a round takes half a minute.
        self.rounds, self.rounds_long = (3, 3) if quick else (7, 5)
        self.rows = 1_000_000 if quick else 10_000_000
        self.json_rows = 200_000 if quick else 1_000_000
        self.wide_symbols, self.wide_rows = 500, 2_000 if quick else 20_000
        self.upsert_rows = self.rows // 10
        self.append_rows = 10_000 if quick else 100_000
        self.inventory_series, self.opening_chunks = 20_000, 100_000
        self.older_symbols, self.older_months, self.older_bars = 24, 10, 4_167 if quick else 41_667
        self.size_rows = [10**power for power in range(4, 7 if quick else 8)]
        self.size_series = [10**power for power in range(0, 4 if quick else 5)]
        self.bars = 500_000
        self.stack = contextlib.ExitStack()

    def close(self) -> None:
        self.stack.close()

    def keep(self, thing, close: str = "stop"):
        """Registers `thing` to be closed at the end of the run."""
        self.stack.callback(getattr(thing, close))
        return thing

    def dir(self, name: str) -> Path:
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def remove(self, name: str) -> None:
        shutil.rmtree(self.work / name, ignore_errors=True)

    @cached_property
    def table(self) -> pa.Table:
        """The bars, memory-mapped to leave memory to the measured programs."""
        return peers.mapped(self.table_file)

    @cached_property
    def table_file(self) -> str:
        return data.write_file(data.klines(self.rows), self.dir("files") / "klines.arrow")

    @cached_property
    def scalar_file(self) -> str:
        return data.write_file(data.scalars(self.rows), self.dir("files") / "scalars.arrow")

    @cached_property
    def store(self) -> Path:
        """A store of the bars, and of scalars with a value index, after maintenance."""
        root = self.work / "store"
        engine = self.embedded()
        engine.call("open", root)
        engine.call("write", KEY, self.table_file, "append")
        parts = {"kind": "scalar", "category": "feature", "symbol": SYMBOL, "timeframe": "1m", "name": "signal"}
        engine.call("register", json.dumps({**parts, "value_index": True}))
        engine.call("write", SCALAR_KEY, self.scalar_file, "append")
        engine.call("settle")
        engine.call("close")
        engine.stop()
        return root

    def embedded(self) -> Embedded:
        return self.keep(Embedded(self.programs["embedded"]))

    @cached_property
    def engine(self) -> Embedded:
        """The embedded engine on the store."""
        engine = self.embedded()
        engine.call("open", self.store)
        return engine

    def copy(self, store: Path, name: str) -> Path:
        """Copies a closed store, for a second owner."""
        to = self.work / name
        shutil.copytree(store, to, ignore=shutil.ignore_patterns("LOCK"))
        return to

    @cached_property
    def server(self) -> Server:
        """A server on a copy of the store."""
        store = self.store
        if "engine" in self.__dict__:
            self.engine.call("close")
        root = self.copy(store, "served")
        if "engine" in self.__dict__:
            self.engine.call("open", store)
        return self.keep(Server(self.programs["fastk"], root))

    @cached_property
    def durable_server(self) -> Server:
        """A server for writes."""
        return self.keep(Server(self.programs["fastk"], self.work / "written"))

    @cached_property
    def flight_peer(self) -> FlightPeer:
        return self.keep(FlightPeer(self.table_file, self.work / "flight_peer.log"))

    def bare(self, files: list[Path]) -> Bare:
        return self.keep(Bare(self.programs["bare"], files, self.work / "bare.log"))

    @cached_property
    def duck(self) -> peers.DuckNative:
        return self.keep(peers.DuckNative(self.dir("peers"), self.table_file), "close")

    @cached_property
    def arctic(self) -> peers.Arctic:
        return self.keep(peers.Arctic(self.dir("peers") / "arctic", self.table_file), "close")

    @cached_property
    def sqlite(self) -> peers.Sqlite:
        return self.keep(peers.Sqlite(self.dir("peers"), self.table_file), "close")

    @cached_property
    def engines(self) -> list:
        """All engines in process, with the bars."""
        where, file = self.dir("peers"), self.table_file
        files = [peers.DuckParquet(where, file), peers.PolarsParquet(where, file), peers.PolarsIpc(where, file)]
        return [self.duck, self.arctic, *files, self.sqlite]

    @cached_property
    def scalar_engines(self) -> list:
        """All engines in process, with the scalars; with a value index where the engine supports one."""
        where, file = self.dir("peers"), self.scalar_file
        return [
            self.keep(peers.DuckNative(where, file, index="value"), "close"),
            self.keep(peers.Arctic(where / "arctic-scalars", file), "close"),
            peers.PolarsParquet(where, file),
            peers.PolarsIpc(where, file),
            self.keep(peers.Sqlite(where, file, index="value"), "close"),
        ]
