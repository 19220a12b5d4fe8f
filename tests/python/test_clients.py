"""Responses and chunk files in other clients: Polars, pyarrow and DuckDB."""

import io
import json

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as dataset
import pyarrow.flight as flight
import pyarrow.ipc
import pytest
from support import KEY, MINUTE, T0, assert_same, words

URL = "/v1/klines/BTCUSDT/1m"


@pytest.fixture
def sealed(filled):
    """All rows are in chunk files."""
    filled.seal()
    return filled


def get(server, **fields):
    with flight.connect(server.flight) as client:
        return client.do_get(flight.Ticket(json.dumps({"series": [KEY], **fields}))).read_all()


def assert_frame(frame: pl.DataFrame, rows: pa.Table) -> None:
    """Asserts that a Polars frame has exactly these rows."""
    assert frame.columns == rows.schema.names
    assert frame.height == rows.num_rows
    assert frame.schema["ts"] == pl.Datetime("ms", "UTC")
    assert np.array_equal(frame["ts"].dt.epoch("ms").to_numpy(), rows["ts"].cast(pa.int64()).to_numpy())
    for name in rows.schema.names[1:]:
        digits = rows.schema.field(name).type.scale
        assert isinstance(frame.schema[name], pl.Decimal) and frame.schema[name].scale == digits
        assert frame[name].null_count() == 0
        scaled = [int(value.scaleb(digits)) for value in frame[name].to_list()]
        assert np.array_equal(np.array(scaled, np.int64), words(rows[name])), name


def test_polars_reads_the_rest_url(filled):
    assert_frame(pl.read_ipc_stream(f"{filled.http}{URL}?format=arrow"), filled.rows)
    start, end = T0 + 5 * MINUTE, T0 + 50_000 * MINUTE
    part = pl.read_ipc_stream(f"{filled.http}{URL}?format=arrow&start={start}&end={end}&numbers=float64&columns=close")
    assert part.columns == ["ts", "close"] and part.height == 49_996
    expected = [float(value) for value in filled.rows["close"].slice(5, 49_996).to_pylist()]
    assert part["close"].to_list() == expected


def test_polars_reads_a_flight_result(filled):
    assert_frame(pl.from_arrow(get(filled)), filled.rows)
    mean = pl.from_arrow(get(filled, numbers="float64")).select(pl.col("close").mean()).item()
    assert mean == pytest.approx(float(sum(filled.rows["close"].to_pylist())) / 100_000, rel=1e-12)


def test_pyarrow_reads_chunk_files_without_the_server(sealed):
    chunks = sealed.files()
    sealed.stop()
    assert len(chunks) >= 3  # February, March, April
    tables = [pyarrow.ipc.open_file(pa.memory_map(str(path))).read_all() for path in chunks]
    rows = pa.concat_tables(tables).sort_by("ts")
    assert_same(rows, sealed.rows)
    scanned = dataset.dataset([str(path) for path in chunks], format="ipc").to_table().sort_by("ts")
    assert_same(scanned, sealed.rows)


def test_polars_reads_chunk_files_without_the_server(sealed):
    chunks = sealed.files()
    sealed.stop()
    frames = [pl.read_ipc(path) for path in chunks]
    assert_frame(pl.concat(frames).sort("ts"), sealed.rows)
    lazy = pl.scan_ipc(chunks)
    assert_frame(lazy.sort("ts").collect(), sealed.rows)


def test_duckdb_reads_results_and_chunk_files_through_pyarrow(sealed):
    query = "select count(*), epoch_ms(min(ts)), epoch_ms(max(ts)), sum(close), max(volume), typeof(any_value(close)) from rows"

    def summary_of(rows):
        return duckdb.connect().execute(query).fetchone()

    expected = sealed.rows
    close, volume = expected["close"].to_pylist(), expected["volume"].to_pylist()
    for rows in (
        get(sealed),
        pyarrow.ipc.open_stream(io.BytesIO(sealed.read(f"{URL}?format=arrow"))).read_all(),
        dataset.dataset([str(path) for path in sealed.files()], format="ipc"),
    ):
        count, first, last, total, most, kind = summary_of(rows)
        assert (count, total, most) == (100_000, sum(close), max(volume)), type(rows)
        assert kind == "DECIMAL(18,2)"
        assert (first, last) == (T0, T0 + 99_999 * MINUTE)


def test_every_rest_format_has_the_same_rows(filled):
    import csv

    import pyarrow.parquet as parquet

    rows = filled.rows
    stream = pyarrow.ipc.open_stream(io.BytesIO(filled.read(f"{URL}?format=arrow"))).read_all()
    assert_same(stream, rows)
    table = parquet.read_table(io.BytesIO(filled.read(f"{URL}?format=parquet")))
    assert table.schema.names == rows.schema.names
    for name in rows.schema.names:
        assert table[name].to_pylist() == rows[name].to_pylist(), name
    text = list(csv.DictReader(io.StringIO(filled.read(f"{URL}?format=csv").decode())))
    assert [int(line["ts"]) for line in text] == rows["ts"].cast(pa.int64()).to_pylist()
    from decimal import Decimal

    for name in rows.schema.names[1:]:
        assert [Decimal(line[name]) for line in text] == rows[name].to_pylist(), name
    lines = [json.loads(line, parse_float=Decimal) for line in filled.read(f"{URL}?format=ndjson").splitlines()]
    response = json.loads(filled.read(f"{URL}?limit=1000000"), parse_float=Decimal)
    assert response["rows"] == lines
    for name in rows.schema.names[1:]:
        assert [Decimal(line[name]) for line in lines] == rows[name].to_pylist(), name
