"""Series of a user-defined kind with a field of each sort: every cell comes back through every format.

60,000 rows in the ordinary round, a million with FASTK_PROOF=100.
"""

import json
import time
import urllib.error
import urllib.request

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet
import records
import support
from records import KIND, assert_same_cells, assert_types

PUT, UPLOADED, IMPORTED = "record/XNAS/put", "record/XNAS/uploaded", "record/XNAS/imported"


def post(server, path: str, body: bytes, media: str):
    """A POST as curl sends it."""
    request = urllib.request.Request(server.http + path, body, {"Content-Type": media}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"POST {path}: {error.read().decode()}") from None


def put(client, key: str, table: pa.Table, batch: int) -> list:
    return support.put_table(client, flight.FlightDescriptor.for_path(*key.split("/")), table, batch)


def filled(server, client, table: pa.Table, folder) -> None:
    """The three series, each with all rows: by DoPut, by an uploaded CSV, by `fastk import`."""
    created = post(server, "/v1/kinds", json.dumps(KIND).encode(), "application/json")
    assert created["created"] is True and len(created["fields"]) == 12
    for key in (PUT, UPLOADED, IMPORTED):
        words = key.split("/")
        post(server, "/v1/series", json.dumps({"kind": words[0], "key": words[1:]}).encode(), "application/json")
    rows = table.num_rows
    half = rows // 2
    # Both ways of a put: large batches are written directly to chunks, small ones through the log.
    started = time.monotonic()
    acks = put(client, PUT, table.slice(0, half), 262_144) + put(client, PUT, table.slice(half), 4_096)
    assert sum(ack["rows_written"] for ack in acks) == rows
    put_seconds = time.monotonic() - started
    body = records.to_csv(table)
    started = time.monotonic()
    assert post(server, f"/v1/series/{UPLOADED}/rows", body, "text/csv")["rows_written"] == rows
    upload_seconds = time.monotonic() - started
    path = folder / "rows.csv"
    path.write_bytes(body)
    started = time.monotonic()
    done = support.run("import", path, "--series", IMPORTED, "--server", server.http, "--json")
    assert json.loads(done.stdout)["rows_written"] == rows, done.stdout
    import_seconds = time.monotonic() - started
    print(
        f"\nproof any_record: {rows} rows of 12 fields, {len(body)} bytes as CSV: DoPut {put_seconds:.1f} s, "
        f"CSV over REST {upload_seconds:.1f} s, fastk import {import_seconds:.1f} s"
    )


def ranges(table: pa.Table, rows: int):
    """The table in parts, each with the closed range of its times."""
    ts = table["ts"].cast(pa.int64())
    for first in range(0, table.num_rows, rows):
        part = table.slice(first, rows)
        yield part, ts[first].as_py(), ts[first + part.num_rows - 1].as_py()


def test_every_cell_comes_back_through_every_format_and_from_the_files_alone(server, client, fastk, tmp_path):
    table = records.records(records.amount())
    schema = table.schema
    filled(server, client, table, tmp_path)
    for state in ("as written", "sealed"):
        if state == "sealed":
            server.seal()
        for key in (PUT, UPLOADED, IMPORTED):
            what = f"{key} {state}"
            path = f"/v1/series/{key}/rows"
            arrow = pa.ipc.open_stream(server.read(f"{path}?format=arrow")).read_all()
            assert_types(arrow.schema, schema, what)
            assert_same_cells(arrow, table, f"{what}: Arrow")
            got = client.do_get(flight.Ticket(json.dumps({"series": [key]}))).read_all()
            assert_types(got.schema, schema, what)
            assert_same_cells(got, table, f"{what}: Flight")
    # One series for each text format is enough: the cells are those of the others.
    path = f"/v1/series/{PUT}/rows"
    for part, start, end in ranges(table, 100_000):
        body = server.read(f"{path}?start={start}&end={end}&limit={part.num_rows}")
        assert_same_cells(records.of_json(body, schema), part, "JSON")
    assert_same_cells(records.of_ndjson(server.read(f"{path}?format=ndjson"), schema), table, "NDJSON")
    path = f"/v1/series/{UPLOADED}/rows"
    assert_same_cells(records.of_csv(server.read(f"{path}?format=csv"), schema), table, "CSV")
    parquet = pa.parquet.read_table(pa.BufferReader(server.read(f"{path}?format=parquet")))
    # Parquet has neither decimals of 8 bytes in memory nor dictionaries by itself; the Arrow schema in it restores both.
    assert_same_cells(parquet, table, "Parquet")
    frame = pl.read_parquet(server.read(f"{path}?format=parquet"))
    assert_same_cells(of_polars(frame, schema), table, "Parquet in Polars")
    for ending, read in (("csv", records.of_csv), ("ndjson", records.of_ndjson)):
        out = tmp_path / f"out.{ending}"
        fastk("export", IMPORTED, "--output", out, "--server", server.http)
        assert_same_cells(read(out.read_bytes(), schema), table, f"export to {ending}")
    for ending, read in (("arrow", read_ipc), ("parquet", lambda path: pa.parquet.read_table(path))):
        out = tmp_path / f"out.{ending}"
        fastk("export", IMPORTED, "--output", out, "--server", server.http)
        assert_same_cells(read(out), table, f"export to {ending}")
    part, start, end = next(ranges(table, 10_000))
    done = fastk("query", PUT, "--start", start, "--end", end, "--format", "csv", "--server", server.http)
    assert_same_cells(records.of_csv(done.stdout.encode(), schema), part, "fastk query")
    files = {key: server.files(key) for key in (PUT, UPLOADED, IMPORTED)}
    server.stop()
    # Without a server, and then without FastK.
    done = fastk("query", PUT, "--start", start, "--end", end, "--format", "csv", "--root", server.root)
    assert_same_cells(records.of_csv(done.stdout.encode(), schema), part, "fastk query without a server")
    for key, paths in files.items():
        assert len(paths) >= 3, key
        opened = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths])
        assert_types(opened.schema, schema, key)
        assert_same_cells(opened, table, f"{key}: pyarrow from files")
        frames = pl.concat([pl.read_ipc(path) for path in paths])
        assert_same_cells(of_polars(frames, schema), table, f"{key}: Polars from files")
        scanned = pl.scan_ipc(paths).collect()
        assert_same_cells(of_polars(scanned, schema), table, f"{key}: Polars scanning files")


def read_ipc(path) -> pa.Table:
    with open(path, "rb") as file:
        return pa.ipc.open_file(file).read_all()


def of_polars(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """A frame in the types of the schema: Polars has one type of decimals, and its own of texts and bytes."""
    columns = {}
    for name in frame.columns:
        kind, column = schema.field(name).type, frame[name].to_arrow()
        if pa.types.is_decimal64(kind):
            assert frame[name].dtype == pl.Decimal(column.type.precision, kind.scale), name
            column = column.cast(pa.decimal128(38, kind.scale)).cast(kind)
        elif pa.types.is_dictionary(kind):
            column = pc.cast(column, pa.string())
        elif column.type != kind:
            column = column.cast(kind)
        columns[name] = column
    return pa.table(columns)
