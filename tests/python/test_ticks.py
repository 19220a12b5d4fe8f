"""Trades of which most share their timestamp with the one before, and of which some arrive late: they come back in the
order of their arrival after seals, compactions, `kill -9` and restarts.

The expected rows are kept here: those of every acknowledged commit, sorted by time alone, so that rows of one time stay in
the order of their commits and of their rows in the commit. FASTK_TICKS_SEED replays a round.
"""

import json
import os
import random
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import records
import support
from records import assert_same_cells
from support import T0

SEED = int(os.environ.get("FASTK_TICKS_SEED", "1"))
KEY, PATH = "tick/XNAS/ACME", "/v1/series/tick/XNAS/ACME/rows"
FIELDS = [
    {"name": "price", "type": "decimal", "digits": 4},
    {"name": "qty", "type": "decimal", "digits": 8},
    {"name": "side", "type": "enum", "values": ["buy", "sell"]},
    {"name": "id", "type": "uint64"},
    {"name": "flags", "type": "uint16"},
    {"name": "sent", "type": "timestamp", "unit": "ns", "nullable": True},
    {"name": "venue", "type": "text"},
]
VENUES = ["nyse", "arca", "bats", "iex", "edgx", "memx"]
BATCH = 400
# Microseconds between different times: an hour in all, so that several batches meet in the same blocks.
STEP = 1_000


class Feed:
    """Batches of trades: more than 70 % have the time of the one before, every tenth batch is late."""

    def __init__(self, seed: int):
        self.chance = np.random.default_rng(seed)
        self.next_id = 0
        self.now = T0 * 1000
        self.batches = 0

    def batch(self, rows: int = BATCH) -> pa.Table:
        self.batches += 1
        steps = np.where(self.chance.random(rows) < 0.75, 0, self.chance.integers(1, 5, rows)) * STEP
        ts = self.now + np.cumsum(steps)
        self.now = int(ts[-1])
        if self.batches % 10 == 0:
            # A whole batch at times that many rows have already.
            ts = T0 * 1000 + (ts - T0 * 1000) // 2 // STEP * STEP
        late = self.chance.random(rows) < 0.02
        ts = np.where(late, np.maximum(ts - self.chance.integers(0, 5_000, rows) * STEP, T0 * 1000), ts)
        ids = np.arange(self.next_id, self.next_id + rows, dtype=np.uint64)
        self.next_id += rows
        return pa.table(
            {
                "ts": pa.array(ts).cast(pa.timestamp("us", "UTC")),
                "price": support.decimals(self.chance.integers(1, 10**9, rows), 4),
                "qty": support.decimals(self.chance.integers(1, 10**14, rows), 8),
                "side": pa.DictionaryArray.from_arrays(
                    pa.array(self.chance.integers(0, 2, rows).astype(np.uint8)), pa.array(["buy", "sell"])
                ),
                "id": pa.array(ids),
                "flags": pa.array(self.chance.integers(0, 2**16, rows).astype(np.uint16)),
                "sent": pc.if_else(
                    pa.array(self.chance.random(rows) < 0.3), None, pa.array(ts * 1000 + 7)
                ).cast(pa.timestamp("ns", "UTC")),
                "venue": pa.DictionaryArray.from_arrays(
                    pa.array(self.chance.integers(0, len(VENUES), rows).astype(np.int32)), pa.array(VENUES)
                ),
            }
        )


def in_order(batches: list) -> pa.Table:
    """The rows as they have to come back: by time, and rows of one time as they arrived."""
    every = pa.concat_tables(batches).unify_dictionaries().combine_chunks()
    return every.take(pa.array(np.argsort(every["ts"].cast(pa.int64()).to_numpy(), kind="stable")))


def register(server, order):
    kind = {"kind": "tick", "key": ["venue_name", "symbol"], "unit": "us", "order": order, "fields": FIELDS}
    server.json("POST", "/v1/kinds", kind)
    server.json("POST", "/v1/series", {"kind": "tick", "key": ["XNAS", "ACME"]})


def write(server, batch: pa.Table, by: str) -> None:
    """One commit in one of the formats; returns when it is acknowledged."""
    if by == "csv":
        body, media = records.to_csv(batch), "text/csv"
    elif by == "arrow":
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, batch.schema) as stream:
            stream.write_table(batch)
        body, media = out.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream"
    else:
        rows = records.as_texts(batch).to_pylist()
        for row in rows:
            row["ts"], row["sent"] = int(row["ts"]), None if row["sent"] is None else int(row["sent"])
        body, media = json.dumps(rows).encode(), "application/json"
    with server.request("POST", PATH, body, {"Content-Type": media}) as response:
        assert json.loads(response.read())["rows_written"] == batch.num_rows


def read_flight(server) -> pa.Table:
    with flight.connect(server.flight) as client:
        return client.do_get(flight.Ticket(json.dumps({"series": [KEY]}))).read_all()


def check(server, batches: list, what: str) -> None:
    expected = in_order(batches)
    assert_same_cells(read_flight(server), expected, f"{what}: Flight")
    arrow = pa.ipc.open_stream(server.read(f"{PATH}?format=arrow")).read_all()
    assert_same_cells(arrow, expected, f"{what}: Arrow")
    falling = records.of_csv(server.read(f"{PATH}?format=csv&order=desc"), expected.schema)
    assert_same_cells(falling.take(np.arange(expected.num_rows)[::-1]), expected, f"{what}: descending")
    ts = expected["ts"].cast(pa.int64()).to_numpy()
    # Ranges that begin and end at times of many rows have all of them.
    for at in (len(ts) // 3, len(ts) // 2):
        start, end = int(ts[at]), int(ts[min(at + 500, len(ts) - 1)])
        first, last = np.searchsorted(ts, start, "left"), np.searchsorted(ts, end, "right")
        body = server.read(f"{PATH}?format=ndjson&start={start}&end={end}")
        part = expected.slice(first, last - first)
        assert_same_cells(records.of_ndjson(body, expected.schema), part, f"{what}: a range")


class Putter(threading.Thread):
    """Puts batches as one stream until the server dies; knows which were sent and how many were acknowledged."""

    def __init__(self, server, feed: Feed):
        super().__init__(daemon=True)
        self.address, self.feed = server.flight, feed
        self.sent, self.acknowledged = [], 0
        self.is_enough = threading.Event()

    def run(self):
        try:
            with flight.connect(self.address) as client:
                path = flight.FlightDescriptor.for_path(*KEY.split("/"))
                writer, reader = client.do_put(path, self.feed.batch(1).schema)

                def count():
                    try:
                        while reader.read() is not None:
                            self.acknowledged += 1
                            if self.acknowledged == 5:
                                self.is_enough.set()
                    except (pa.ArrowException, flight.FlightError):
                        pass
                    self.is_enough.set()

                threading.Thread(target=count, daemon=True).start()
                while True:
                    batch = self.feed.batch()
                    self.sent.append(batch)
                    writer.write_table(batch)
                    # Not far ahead of the acknowledgements, so that some batches are always under way.
                    while len(self.sent) - self.acknowledged > 8 and not self.is_enough.wait(0.001):
                        pass
        except (pa.ArrowException, flight.FlightError):
            pass
        finally:
            self.is_enough.set()


def test_trades_stay_in_the_order_of_arrival_through_seals_compactions_kills_and_restarts(server):
    register(server, "arrival")
    rounds = 40 if records.PERCENT >= 100 else 6
    choice, feed = random.Random(SEED), Feed(SEED)
    batches: list = []
    under_way = survived = 0
    for turn in range(rounds):
        what = f"seed {SEED}, round {turn}"
        for _ in range(choice.randint(2, 6)):
            batch = feed.batch()
            write(server, batch, choice.choice(["csv", "arrow", "json"]))
            batches.append(batch)
        if choice.random() < 0.5:
            server.seal()
        if turn % 2 == 0:
            check(server, batches, what)
        if turn % 3 == 1:
            server.restart()
            continue
        putter = Putter(server, feed)
        putter.start()
        assert putter.is_enough.wait(60), what
        server.kill()
        putter.join(60)
        acknowledged, sent = putter.acknowledged, putter.sent
        assert acknowledged >= 5, f"{what}: {acknowledged}"
        server.start()
        # What was acknowledged is there; of what was under way, whole commits in their order.
        more = server.json("GET", f"/v1/series/{KEY}")["rows"] - sum(batch.num_rows for batch in batches)
        kept = more // BATCH
        assert more == kept * BATCH and acknowledged <= kept <= len(sent), f"{what}: {more} rows more, {acknowledged}"
        batches += sent[:kept]
        under_way, survived = under_way + len(sent) - acknowledged, survived + kept - acknowledged
        check(server, batches, what)
    server.seal()
    check(server, batches, "sealed")
    expected = in_order(batches)
    equal = pc.sum(pc.equal(expected["ts"][1:], expected["ts"][:-1])).as_py() / expected.num_rows
    assert equal > 0.7
    paths = server.files(KEY)
    server.stop()
    files = pa.concat_tables([pa.ipc.open_file(str(path)).read_all() for path in paths])
    assert_same_cells(files, expected, "pyarrow from the files")
    print(
        f"\nproof ticks: {expected.num_rows} trades in {len(batches)} commits, {equal:.0%} with the time of the one before, "
        f"{rounds} rounds; {survived} of {under_way} commits under way at a kill were kept, whole"
    )


def test_a_million_trades_take_little_more_than_their_cells_on_disk(server, client):
    register(server, "arrival")
    feed, rows = Feed(SEED), 0
    path = flight.FlightDescriptor.for_path(*KEY.split("/"))
    writer, reader = client.do_put(path, feed.batch(1).schema)
    while rows < 1_000_000:
        batch = feed.batch(262_144)
        rows += batch.num_rows
        writer.write_table(batch)
    writer.done_writing()
    while reader.read() is not None:
        pass
    writer.close()
    server.seal()
    files = server.files(KEY)
    sidecars = [path.with_suffix(".zmap") for path in files]
    chunk_bytes = sum(path.stat().st_size for path in files) / rows
    sidecar_bytes = sum(path.stat().st_size for path in sidecars) / rows
    # ts, price, qty and id of 8 bytes, side of 1, flags of 2, sent of 8 and a bit of its bitmap, venue of 4.
    cells = 8 + 8 + 8 + 1 + 8 + 2 + 8 + 1 / 8 + 4
    print(
        f"\nproof bytes_a_row: {rows} trades: {cells} bytes of cells, {chunk_bytes:.3f} of chunks, {sidecar_bytes:.3f} of "
        f"sidecars; most memory of the server {records.peak_bytes(server) >> 20} MiB"
    )
    assert chunk_bytes + sidecar_bytes < cells * 1.02


def test_trades_with_an_id_are_stored_once_and_the_newest_wins(server):
    """A feed that repeats batches after a reconnection, some trades with corrections."""
    register(server, {"unique": ["ts", "id"]})
    choice, feed = random.Random(SEED), Feed(SEED)
    newest: dict = {}
    sent: list = []
    for turn in range(30):
        batch = feed.batch()
        if turn % 3 == 2:
            again = choice.choice(sent)
            batch = again.set_column(1, "price", support.decimals(np.full(again.num_rows, turn + 1), 4))
            batch = pa.concat_tables([batch, feed.batch(50)]).unify_dictionaries().combine_chunks()
            batch = batch.take(pa.array(np.random.default_rng(turn).permutation(batch.num_rows)))
        sent.append(batch)
        write(server, batch, choice.choice(["csv", "arrow", "json"]))
        newest.update({(row["ts"], row["id"]): row for row in batch.to_pylist()})
        if turn % 7 == 6:
            server.seal()
        if turn % 11 == 10:
            server.kill()
            server.start()
    rows = [newest[key] for key in sorted(newest)]
    expected = pa.Table.from_pylist(rows, schema=sent[0].schema)
    for state in ("as written", "sealed", "restarted"):
        if state == "sealed":
            server.seal()
        if state == "restarted":
            server.restart()
        assert_same_cells(read_flight(server), expected, state)
        assert_same_cells(records.of_csv(server.read(f"{PATH}?format=csv"), expected.schema), expected, state)
        assert server.json("GET", f"/v1/series/{KEY}")["rows"] == len(rows)
