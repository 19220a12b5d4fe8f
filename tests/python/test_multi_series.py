"""Several series in one result and in one write, through pyarrow.flight, REST and Polars."""

import io
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from support import MINUTE, T0

KEYS = [f"scalar/feature/S{n}/1m/rsi_14" for n in range(5)]
GLOB = "scalar/feature/*/1m/rsi_*"


def rows(count=3_000):
    """Rows of all series in the order of `by_series`; series n has every minute divisible by n + 1."""
    frame = []
    for n, key in enumerate(KEYS):
        for minute in range(0, count, n + 1):
            frame.append((key, T0 + minute * MINUTE, (minute * 7 + n) / 4))
    return pl.DataFrame(frame, schema={"series": pl.String, "ts": pl.Int64, "value": pl.Float64}, orient="row")


@pytest.fixture
def filled(server):
    """A server with rows of five series, half of them in chunk files."""
    for key in KEYS:
        _, category, symbol, timeframe, name = key.split("/")
        spec = {"kind": "scalar", "category": category, "symbol": symbol, "timeframe": timeframe, "name": name}
        server.json("POST", "/v1/series", spec)
    table = rows().to_arrow(compat_level=pl.CompatLevel.oldest())
    half = len(table) // 2
    dictionary = table.set_column(0, "series", table["series"].cast(pa.string()).dictionary_encode())
    for part, end in ((table.slice(0, half), True), (dictionary.slice(half), False)):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
        reply = server.json("POST", "/v1/write", sink.getvalue(), headers)
        assert reply["rows_written"] == part.num_rows and reply["durable"] is True
        assert len({entry["commit"] for entry in reply["series"]}) == 1
        if end:
            server.seal()
    return server


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("series").cast(pl.String), pl.col("ts").dt.epoch("ms"))


@pytest.mark.parametrize("layout", ["by_series", "by_time"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_both_layouts_are_read_by_pyarrow_and_polars(filled, layout, order):
    expected = rows().sort(
        ["series", "ts"] if layout == "by_series" else ["ts", "series"],
        descending=[False, order == "desc"] if layout == "by_series" else [order == "desc", False],
    )
    query = {"series": [GLOB], "layout": layout, "order": order}
    with flight.connect(filled.flight) as client:
        table = client.do_get(flight.Ticket(json.dumps(query))).read_all()
        info = client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps(query)))
        assert info.total_records == len(expected)
        assert info.schema.equals(table.schema)
    assert table.schema.field("series").type == pa.dictionary(pa.int32(), pa.string())
    assert table.schema.metadata[b"fastk.series"] == GLOB.encode()
    table.validate(full=True)
    frame = pl.from_arrow(table)
    assert isinstance(frame.schema["series"], (pl.Categorical, pl.Enum))
    assert plain(frame).equals(expected)
    body = json.dumps(query).encode()
    headers = {"Content-Type": "application/json"}
    for form, read in [
        ("arrow", lambda bytes_: pl.read_ipc_stream(io.BytesIO(bytes_))),
        ("parquet", lambda bytes_: pl.from_arrow(pq.read_table(io.BytesIO(bytes_)))),
    ]:
        with filled.request("POST", f"/v1/query?format={form}", body, headers) as response:
            assert plain(read(response.read())).equals(expected), form
    with filled.request("POST", "/v1/query?format=csv", body, headers) as response:
        assert pl.read_csv(response.read()).equals(expected)


def test_the_cross_section_of_the_last_rows_can_be_pivoted(filled):
    query = {"series": [GLOB], "latest": 1, "layout": "by_time"}
    with flight.connect(filled.flight) as client:
        frame = pl.from_arrow(client.do_get(flight.Ticket(json.dumps(query))).read_all())
    last = rows().group_by("series").agg(pl.col("ts").max(), pl.col("value").last()).sort(["ts", "series"])
    assert plain(frame).select("series", "ts", "value").equals(last)


def test_endpoints_split_by_time_and_are_complete_together(filled):
    query = {"series": [GLOB], "layout": "by_time", "endpoints": 4}
    with flight.connect(filled.flight) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps(query)))
        assert len(info.endpoints) == 4 and info.ordered
        tables = [client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        table = pa.concat_tables(tables)
    assert plain(pl.from_arrow(table.unify_dictionaries())).equals(rows().sort(["ts", "series"]))
    assert np.all(np.diff(table["ts"].cast(pa.int64()).to_numpy()) >= 0)
