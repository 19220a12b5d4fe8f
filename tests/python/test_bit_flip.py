"""A flipped bit in a file makes every reader through the server raise, never return fewer rows."""

import io
import json
import urllib.error
import urllib.request

import polars as pl
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.ipc
import pyarrow.parquet
import pytest
from support import KEY, MINUTE, REGISTRATION, T0, assert_same, klines

URL = "/v1/klines/BTCUSDT/1m"


def flip_last_block(path, column: str) -> int:
    """Flips a bit of a cell in the last block of a chunk file; returns its offset."""
    with open(path, "rb") as file:
        whole = pa.py_buffer(file.read())
    reader = pyarrow.ipc.open_file(pa.BufferReader(whole))
    assert reader.num_record_batches > 1
    cells = reader.get_batch(reader.num_record_batches - 1).column(reader.schema.get_field_index(column)).buffers()[1]
    offset = cells.address - whole.address + cells.size // 2
    assert 0 < offset < whole.size
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    return offset


def url(server, format, extra=""):
    # Only JSON has a default limit.
    return f"{server.http}{URL}?format={format}{'&limit=1000000' if format == 'json' else ''}{extra}"


def read_body(server, format, extra=""):
    with urllib.request.urlopen(url(server, format, extra), timeout=60) as response:
        return response.read()


def by_flight(server, **fields):
    with flight.connect(server.flight) as client:
        return client.do_get(flight.Ticket(json.dumps({"series": [KEY], **fields}))).read_all()


def by_flight_batches(server):
    """Reads one batch after the other."""
    with flight.connect(server.flight) as client:
        return sum(chunk.data.num_rows for chunk in client.do_get(flight.Ticket(json.dumps({"series": [KEY]}))))


def by_flight_info(server):
    with flight.connect(server.flight) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_path(*KEY.split("/")))
        return client.do_get(info.endpoints[0].ticket).read_all()


READERS = {
    "urllib json": lambda server: json.loads(read_body(server, "json")),
    "urllib columns": lambda server: json.loads(read_body(server, "json", "&shape=columns")),
    "urllib csv": lambda server: read_body(server, "csv"),
    "urllib ndjson": lambda server: read_body(server, "ndjson"),
    "urllib arrow": lambda server: read_body(server, "arrow"),
    "urllib parquet": lambda server: read_body(server, "parquet"),
    "urllib arrow float64": lambda server: read_body(server, "arrow", "&numbers=float64"),
    "urllib arrow descending": lambda server: read_body(server, "arrow", "&order=desc"),
    "polars ipc stream": lambda server: pl.read_ipc_stream(url(server, "arrow")),
    "pyarrow stream of urllib": lambda server: pyarrow.ipc.open_stream(
        urllib.request.urlopen(url(server, "arrow"), timeout=60)
    ).read_all(),
    "flight": by_flight,
    "flight float64": lambda server: by_flight(server, numbers="float64"),
    "flight of the damaged column": lambda server: by_flight(server, columns=["close"]),
    "flight batches": by_flight_batches,
    "flight info": by_flight_info,
}


@pytest.fixture
def damaged(server, client):
    rows = klines(110_000)  # the last month has two blocks
    command = {"series": KEY, "create": REGISTRATION}
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(json.dumps(command)), rows.schema)
    writer.write_table(rows, max_chunksize=65_536)
    writer.close()
    server.seal()
    server.stop()
    flip_last_block(server.chunks()[-1], "close")
    server.start()
    server.rows = rows
    return server


def test_every_reader_works_before_the_damage(filled):
    for name, read in READERS.items():
        assert read(filled) is not None, name


def test_every_reader_through_the_server_raises(damaged):
    silent = []
    for name, read in READERS.items():
        # Twice: a block with a wrong checksum must not pass later.
        for attempt in range(2):
            try:
                result = read(damaged)
            except urllib.error.HTTPError as error:
                assert (error.code, json.loads(error.read())["code"]) == (500, "corrupt_data"), name
            except Exception as error:
                # An unreachable server would raise too.
                assert "refused" not in str(error), name
                print(f"{name}: {type(error).__name__}: {str(error)[:120]}")
            else:
                silent.append((name, attempt, type(result)))
    assert silent == []


def test_damage_is_reported_and_affects_only_its_block(damaged):
    with pytest.raises(Exception, match="corrupt_data"):
        by_flight(damaged)
    healthy = 80_000
    assert_same(by_flight(damaged, end=T0 + (healthy - 1) * MINUTE), damaged.rows.slice(0, healthy))
    body = read_body(damaged, "arrow", f"&end={T0 + (healthy - 1) * MINUTE}")
    assert_same(pyarrow.ipc.open_stream(io.BytesIO(body)).read_all(), damaged.rows.slice(0, healthy))


def test_verification_reports_exactly_the_damaged_block(damaged):
    job = damaged.json("POST", "/v1/admin/verify?wait=true")["jobs"][0]
    assert (job["status"], job["result"]["clean"]) == ("done", False)
    (finding,) = job["result"]["findings"]
    chunk = damaged.chunks()[-1].relative_to(damaged.root)
    assert (finding["kind"], finding["file"], finding["series"]) == ("damaged_block", str(chunk), KEY)
    health = damaged.json("GET", "/health")
    assert (health["status"], KEY in json.dumps(health["checks"])) == ("degraded", True)
