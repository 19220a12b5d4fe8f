"""Reads through a server: Flight and REST, compared with Arrow's own Flight server and a server that only sends bytes."""

import io
import json

import polars as pl
import pyarrow as pa
import pyarrow.flight as flight

import data
from fixtures import DECIMAL_KEY, DECIMAL_SYMBOL, KEY, SYMBOL, Bench
from measure import PRODUCT, Goal, Line, cpu_seconds, p50, same, seconds, take_turns

CPP, BARE = "pyarrow Flight (C++)", "bare HTTP"
# A round streams at least this much, since CPU time has a resolution of a hundredth of a second.
STREAM_BYTES_MIN = 1 << 30
KLINES = f"/v1/klines/{SYMBOL}/1m"


def ticket(**query) -> flight.Ticket:
    return flight.Ticket(json.dumps({"series": [KEY], **query}))


def peer_ticket(**query) -> flight.Ticket:
    return flight.Ticket(json.dumps(query))


def rows_of(client: flight.FlightClient, request: flight.Ticket) -> int:
    """Reads a stream batch by batch without keeping them, so that the client's memory does not matter."""
    return sum(batch.data.num_rows for batch in client.do_get(request))


class Streams:
    """Repeats a read until a gigabyte is received, and records the CPU time of the server."""

    def __init__(self, size: int):
        self.size = size
        self.times = -(-STREAM_BYTES_MIN // size)
        self.cpu: dict[str, list[float]] = {}

    def turn(self, name: str, pid: int, take, expected: int):
        def work() -> float:
            before = cpu_seconds(pid)
            counts = []
            taken = seconds(lambda: counts.extend(take() for _ in range(self.times)))
            if any(count != expected for count in counts):
                raise SystemExit(f"{name} gave {counts}, not {expected}")
            self.cpu.setdefault(name, []).append((cpu_seconds(pid) - before) / (self.times * self.size / 1e9))
            return taken / self.times

        return work

    def lines(self, row: str, work: str, samples: dict, goals: list, cpu_goal: Goal | None, notes=()) -> list[Line]:
        """One line per goal, with shared samples, and one for CPU time."""
        lines = []
        for goal in goals:
            names = [PRODUCT, *goal.against] if goal and goal.against else list(samples)
            chosen = {name: samples[name] for name in names}
            lines.append(Line(row, work, chosen, goal, amount=self.size, amount_unit="B", notes=list(notes)))
        # The first round is left out, as for the times.
        cpu = {name: taken[1:] for name, taken in self.cpu.items()}
        lines.append(Line(row, f"{work}: server CPU", cpu, cpu_goal, unit="s/GB"))
        return lines


def flight_all(bench: Bench) -> list[Line]:
    ours, theirs = bench.server, bench.flight_peer
    checksum = data.checksum(bench.table)
    same(f"{PRODUCT}, Flight", data.checksum(ours.flight.do_get(ticket()).read_all()), checksum)
    same(CPP, data.checksum(theirs.flight.do_get(peer_ticket()).read_all()), checksum)
    streams = Streams(bench.rows * 48)
    contenders = {
        PRODUCT: streams.turn(PRODUCT, ours.pid, lambda: rows_of(ours.flight, ticket()), bench.rows),
        CPP: streams.turn(CPP, theirs.pid, lambda: rows_of(theirs.flight, peer_ticket()), bench.rows),
    }
    samples = take_turns(contenders, bench.rounds)
    goals = [Goal("≥ 1× the C++ server", 1)]
    work = f"Flight DoGet, all {bench.rows // 1_000_000} M rows"
    return streams.lines("flight-all", work, samples, goals, Goal("≤ 1× the C++ server", 1))


def arrow_bodies(bench: Bench, name: str, paths: list[str], checksums: list[tuple[int, int]]):
    """Checks FastK's Arrow bodies and starts a server that sends the same bytes."""
    bodies = []
    for path, expected in zip(paths, checksums):
        body = bench.server.http.get(path)
        same(f"{PRODUCT}, {path}", data.checksum(pa.ipc.open_stream(body).read_all()), expected)
        bodies.append(body)
    return bodies, bare_of(bench, name, bodies)


def bare_of(bench: Bench, name: str, bodies: list[bytes]):
    files = []
    for number, body in enumerate(bodies):
        files.append(bench.dir("files") / f"{name}-{number}.body")
        files[-1].write_bytes(body)
    return bench.bare(files)


def http_all(bench: Bench) -> list[Line]:
    ours, theirs = bench.server, bench.flight_peer
    path = f"{KLINES}?format=arrow"
    bodies, bare = arrow_bodies(bench, "all", [path], [data.checksum(bench.table)])
    same(BARE, bare.http.get("/0") == bodies[0], True)
    size = len(bodies[0])
    del bodies
    streams = Streams(size)
    wire, bare_wire = ours.http.drain(path), bare.http.drain("/0")
    assert min(wire, bare_wire) > size
    contenders = {
        PRODUCT: streams.turn(PRODUCT, ours.pid, lambda: ours.http.drain(path), wire),
        BARE: streams.turn(BARE, bare.pid, lambda: bare.http.drain("/0"), bare_wire),
        CPP: streams.turn(CPP, theirs.pid, lambda: rows_of(theirs.flight, peer_ticket()), bench.rows),
    }
    samples = take_turns(contenders, bench.rounds)
    goals = [Goal("≥ 0.9× the bare server", 0.9, (BARE,)), Goal("≥ 1.2× the C++ Flight server", 1.2, (CPP,))]
    work = f"HTTP Arrow stream, all {bench.rows // 1_000_000} M rows"
    return streams.lines("http-all", work, samples, goals, None, [f"{size / bench.rows:.2f} bytes per row in the body"])


def flight_small(bench: Bench) -> list[Line]:
    ours, theirs = bench.server.flight, bench.flight_peer.flight
    start, end = data.span_of(bench.rows // 2, 1_440)
    cases = (
        ("1 day (1,440 rows)", {"start": start, "end": end}, data.cut(bench.table, (start, end)), True),
        ("latest 100", {"latest": 100}, bench.table.slice(bench.rows - 100), False),
    )
    lines = []
    for work, query, expected, is_goal in cases:
        checksum = data.checksum(expected)
        same(f"{PRODUCT}, Flight, {work}", data.checksum(ours.do_get(ticket(**query)).read_all()), checksum)
        same(f"{CPP}, {work}", data.checksum(theirs.do_get(peer_ticket(**query)).read_all()), checksum)
        contenders = {
            PRODUCT: lambda: p50(lambda: ours.do_get(ticket(**query)).read_all(), 200),
            CPP: lambda: p50(lambda: theirs.do_get(peer_ticket(**query)).read_all(), 200),
        }
        goal = Goal("≤ 0.5× the C++ server's p50", 2) if is_goal else None
        lines.append(Line("flight-day", f"Flight DoGet, {work}, p50", take_turns(contenders, bench.rounds), goal))
    return lines


def rest_day(bench: Bench) -> list[Line]:
    ours = bench.server.http
    span = data.span_of(bench.rows // 2, 1_440)
    expected = data.cut(bench.table, span)
    path = f"{KLINES}?start={span[0]}&end={span[1]}"
    text = ours.get(path)
    same(f"{PRODUCT}, JSON", data.checksum(table_of_text("JSON", text)), data.checksum(expected))
    arrow = ours.get(f"{path}&format=arrow")
    same(f"{PRODUCT}, Arrow", data.checksum(pa.ipc.open_stream(arrow).read_all()), data.checksum(expected))
    bare = bare_of(bench, "day", [text, arrow]).http
    lines = []
    for number, (name, query, body) in enumerate((("JSON", "", text), ("Arrow", "&format=arrow", arrow))):
        same(f"{BARE}, {name}", bare.get(f"/{number}") == body, True)
        contenders = {
            PRODUCT: lambda: p50(lambda: ours.get(path + query), 300),
            BARE: lambda: p50(lambda: bare.get(f"/{number}"), 300),
        }
        goal = Goal("≤ 1.5× the bare handler", 1 / 1.5) if name == "JSON" else None
        work = f"REST {name}, 1 day (1,440 rows), p50"
        note = [f"{len(body) / 1_440:.1f} bytes per row in the body"]
        lines.append(Line("rest-day", work, take_turns(contenders, bench.rounds), goal, notes=note))
    return lines


def bars_served(bench: Bench) -> list[Line]:
    """Half a million consecutive bars, warm, over HTTP and Flight."""
    ours, theirs = bench.server, bench.flight_peer
    start, end = data.span_of(bench.rows * 4 // 10, bench.bars)
    expected = data.checksum(data.cut(bench.table, (start, end)))
    path = f"{KLINES}?start={start}&end={end}&format=arrow"
    bodies, bare = arrow_bodies(bench, "bars", [path], [expected])
    span = {"start": start, "end": end}
    same(f"{PRODUCT}, Flight bars", data.checksum(ours.flight.do_get(ticket(**span)).read_all()), expected)
    same(f"{CPP}, bars", data.checksum(theirs.flight.do_get(peer_ticket(**span)).read_all()), expected)
    note = [f"{len(bodies[0]) / bench.bars:.2f} bytes per row in the body"]
    contenders = {
        PRODUCT: lambda: p50(lambda: ours.http.drain(path), 10),
        BARE: lambda: p50(lambda: bare.http.drain("/0"), 10),
    }
    work = "500,000 consecutive 1m bars"
    lines = [Line("bars-served", f"{work}, HTTP Arrow", take_turns(contenders, bench.rounds), notes=note)]
    contenders = {
        PRODUCT: lambda: p50(lambda: rows_of(ours.flight, ticket(**span)), 10),
        CPP: lambda: p50(lambda: rows_of(theirs.flight, peer_ticket(**span)), 10),
    }
    batches = [batch.data for batch in ours.flight.do_get(ticket(**span))]
    note = [f"{sum(batch.nbytes for batch in batches) / bench.bars:.2f} bytes of columns per row"]
    return [*lines, Line("bars-served", f"{work}, Flight", take_turns(contenders, bench.rounds), notes=note)]


def json_rows(bench: Bench) -> list[Line]:
    """Rows as text: FastK through the server, the peer in process, which favours the peer. The same doubles; and
    decimals, which the peer does not have."""
    ours, rows = bench.server, bench.json_rows
    table = bench.table.slice(0, rows)
    frame = pl.from_arrow(table)
    span = data.span_of(0, rows)
    registration = {"kind": "kline", "symbol": DECIMAL_SYMBOL, "timeframe": "1m", "price_digits": 2, "volume_digits": 3}
    ours.json("POST", "/v1/series", registration)
    ours.put({"series": DECIMAL_KEY}, table)
    ours.action("compact", {"series": [DECIMAL_KEY]})

    where = f"start={span[0]}&end={span[1]}"
    paths = {
        "NDJSON": f"{KLINES}?{where}&format=ndjson",
        "JSON": f"{KLINES}?{where}&format=json&limit={rows}",
        "NDJSON, decimals": f"/v1/klines/{DECIMAL_SYMBOL}/1m?{where}&format=ndjson",
    }
    writes = {"NDJSON": frame.write_ndjson, "JSON": frame.write_json, "NDJSON, decimals": frame.write_ndjson}
    lines = []
    for name, path in paths.items():
        checksum = data.checksum(table)
        same(f"{PRODUCT}, {name}", data.checksum(table_of_text(name, ours.http.get(path))), checksum)
        text = io.BytesIO()
        writes[name](text)
        same(f"Polars, {name}", data.checksum(table_of_text(name, text.getvalue())), checksum)
        contenders = {
            PRODUCT: lambda: seconds(lambda: ours.http.drain(path)),
            "Polars in process": lambda: seconds(lambda: writes[name](io.BytesIO())),
        }
        goal = None if "decimals" in name else Goal("≥ 1.5× Polars", 1.5)
        work = f"{rows:,} rows out as {name}"
        samples = take_turns(contenders, bench.rounds)
        lines.append(Line("json", work, samples, goal, amount=rows, amount_unit="rows"))
    return lines


def table_of_text(name: str, text: bytes) -> pa.Table:
    """Parses every cell again, with Python's number parser."""
    rows = json.loads(text) if name == "JSON" else [json.loads(line) for line in text.splitlines()]
    rows = rows["rows"] if isinstance(rows, dict) else rows
    kinds = [pa.int64(), *[pa.float64()] * (len(data.NAMES) - 1)]
    return data.table_of([pa.array([row[column] for row in rows], kind) for column, kind in zip(data.NAMES, kinds)])
