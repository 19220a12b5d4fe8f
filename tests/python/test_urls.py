"""A series is read from its URL by the tools that people have: Polars, pandas and pyarrow, whole and in parts, with a token
in the URL, while others write."""

import io
import json
import subprocess
import threading
import urllib.error

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import support

ROWS = 100_000
STREAM = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    import pyarrow.flight as flight

    server = support.Server(tmp_path_factory.mktemp("urls") / "store").start()
    server.rows = support.klines(ROWS)
    with flight.connect(server.flight) as client:
        command = flight.FlightDescriptor.for_command(
            json.dumps({"series": support.KEY, "create": support.REGISTRATION})
        )
        writer, _ = client.do_put(command, server.rows.schema)
        writer.write_table(server.rows, max_chunksize=65_536)
        writer.close()
    yield server
    server.kill()


def url(server, **parameters):
    text = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"{server.http}/v1/series/{support.KEY}/rows?{text}"


def ask(server, method, address, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with server.request(method, address.removeprefix(server.http), body, headers) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def closes(rows):
    return [float(value) for value in rows["close"].to_pylist()]


def test_an_arrow_file_has_the_rows_of_the_stream(store):
    stream = pa.ipc.open_stream(store.read(url(store, format="arrow").removeprefix(store.http))).read_all()
    file = pa.ipc.open_file(store.read(url(store, format="arrow-file").removeprefix(store.http))).read_all()
    assert file.num_rows == ROWS and file.equals(stream)
    accepted = store.read(
        f"/v1/series/{support.KEY}/rows?latest=3", Accept="application/vnd.apache.arrow.file"
    )
    assert pa.ipc.open_file(accepted).read_all().equals(stream.slice(ROWS - 3))
    empty = store.read(url(store, format="arrow-file", end=0).removeprefix(store.http))
    assert pa.ipc.open_file(empty).read_all().num_rows == 0
    answer = store.request(
        "POST", "/v1/sql?format=arrow-file", {"sql": "SELECT symbol, ts, close FROM klines_1m ORDER BY ts LIMIT 7"}
    ).read()
    found = pa.ipc.open_file(answer).read_all()
    assert found["close"].to_pylist() == stream["close"].to_pylist()[:7]


def test_an_arrow_file_is_written_as_it_is_read(store, tmp_path):
    file = store.read(url(store, format="arrow-file", latest=40_000).removeprefix(store.http))
    server = support.Server(tmp_path / "store").start()
    try:
        server.json("POST", "/v1/series", support.REGISTRATION)
        path = "/v1/klines/BTCUSDT/1m"
        with server.request("POST", path, file, {"Content-Type": "application/vnd.apache.arrow.file"}) as response:
            assert json.loads(response.read())["rows_written"] == 40_000
        again = server.read(url(server, format="arrow-file").removeprefix(server.http))
        assert pa.ipc.open_file(again).read_all().equals(pa.ipc.open_file(file).read_all())
        # pyarrow's own, and with compressed buffers, which are refused as in streams.
        table = pa.ipc.open_file(file).read_all().slice(0, 100)
        for compression, expected in ((None, 200), ("zstd", 400)):
            out = io.BytesIO()
            with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
                writer.write_table(table, max_chunksize=30)
            status, _, text = ask(server, "POST", path, out.getvalue(), Content_Type=STREAM)
            assert status == expected, text
        # Cut anywhere, with a footer of another file, or with bytes after it: refused, and nothing is written.
        server.json("DELETE", path + "?start=0&end=9000000000000")
        other = pa.ipc.open_file(file).schema
        out = io.BytesIO()
        with pa.ipc.new_file(out, other):
            pass
        empty = out.getvalue()
        footer = empty[-10 - int.from_bytes(empty[-10:-6], "little") :]
        body = file[: -10 - int.from_bytes(file[-10:-6], "little")]
        for broken in (file[:-1], file[: len(file) // 2], body, body + footer, file + b"x", file[:8]):
            status, _, text = ask(server, "POST", path, broken, Content_Type=STREAM)
            assert status == 400, text
            assert server.json("GET", f"/v1/series/{support.KEY}")["rows"] == 0
        server.stop()
    finally:
        server.kill()


def test_pandas_reads_a_url(store):
    import pandas as pd

    expected = closes(store.rows)
    assert pd.read_feather(url(store, format="arrow-file", numbers="float64"))["close"].tolist() == expected
    assert pd.read_parquet(url(store, format="parquet", numbers="float64"))["close"].tolist() == expected
    assert pd.read_csv(url(store, format="csv", latest=1000))["close"].tolist() == expected[-1000:]


def test_polars_reads_and_scans_a_url(store):
    import polars as pl

    expected = closes(store.rows)
    parquet, file = (url(store, format=name, numbers="float64") for name in ("parquet", "arrow-file"))
    assert pl.read_parquet(parquet)["close"].to_list() == expected
    assert pl.read_csv(url(store, format="csv", latest=1000))["close"].to_list() == expected[-1000:]
    assert pl.read_ipc(file)["close"].to_list() == expected
    lazy = pl.scan_parquet(parquet)
    assert lazy.select(pl.len()).collect().item() == ROWS
    high = sorted(expected)[ROWS // 2]
    assert lazy.filter(pl.col("close") > high).select("close").collect()["close"].to_list() == [
        value for value in expected if value > high
    ]
    assert lazy.tail(5).select("close").collect()["close"].to_list() == expected[-5:]


def test_several_series_and_resampled_ones_are_read_from_a_url(store):
    import polars as pl

    days = pl.read_parquet(f"{store.http}/v1/query?series=kline/*/1m&every=1d&format=parquet&numbers=float64")
    expected = closes(store.rows)
    full = ROWS // 1440
    assert days["close"].to_list()[:full] == expected[1439::1440][:full]
    assert set(days["series"].to_list()) == {support.KEY}


@pytest.mark.parametrize("form", ["parquet", "arrow-file", "csv", "ndjson", "arrow"])
def test_parts_together_are_the_whole(store, form):
    address = url(store, format=form, latest=20_000)
    status, headers, whole = ask(store, "GET", address)
    assert status == 200 and headers["accept-ranges"] == "bytes"
    tag, length = headers["etag"], len(whole)
    parts = []
    for start in range(0, length, 300_001):
        status, headers, part = ask(store, "GET", address, Range=f"bytes={start}-{start + 300_000}")
        assert status == 206
        last = min(start + 300_001, length) - 1
        assert headers["content-range"] == f"bytes {start}-{last}/{length}" and headers["etag"] == tag
        assert int(headers["content-length"]) == len(part) == last - start + 1
        parts.append(part)
    assert b"".join(parts) == whole
    assert ask(store, "GET", address, Range="bytes=-9")[2] == whole[-9:]
    assert ask(store, "GET", address, Range=f"bytes={length - 9}-")[2] == whole[-9:]
    status, headers, body = ask(store, "GET", address, Range=f"bytes={length}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{length}")
    assert json.loads(body)["code"] == "range_not_satisfiable"
    # What is not supported, or of another body, is answered whole.
    for other in ({"Range": "bytes=1-2,4-5"}, {"Range": "bytes=0-1", "If_Range": '"another"'}):
        assert ask(store, "GET", address, **other)[::2] == (200, whole)
    status, headers, part = ask(store, "GET", address, Range="bytes=0-1", If_Range=tag)
    assert (status, part) == (206, whole[:2])
    if form in ("parquet", "arrow-file"):
        status, headers, body = ask(store, "HEAD", address)
        assert (status, int(headers["content-length"]), headers["etag"], body) == (200, length, tag, b"")


def test_json_is_never_cut(store):
    status, headers, body = ask(store, "GET", url(store, latest=3), Range="bytes=0-9")
    assert status == 200 and "accept-ranges" not in headers and len(json.loads(body)["rows"]) == 3


def test_parts_of_one_reader_are_of_one_commit_while_others_write(store):
    """A file that is put together from parts is always that of one commit, and a new reader sees the newest one."""
    address = url(store, format="parquet", start=support.T0 + ROWS * support.MINUTE)
    stop = threading.Event()
    count = [0]

    def write():
        while not stop.is_set():
            ts = support.T0 + (ROWS + count[0]) * support.MINUTE
            row = {"ts": ts, "open": "1.00", "high": "2.00", "low": "1.00", "close": "2.00", "volume": "3.00000000"}
            store.json("POST", "/v1/klines/BTCUSDT/1m", [row])
            count[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            acknowledged = count[0]
            status, headers, _ = ask(store, "HEAD", address)
            length = int(headers["content-length"])
            parts = []
            for start in range(0, length, 997):
                status, found, part = ask(store, "GET", address, Range=f"bytes={start}-{start + 996}")
                assert status == 206 and found["etag"] == headers["etag"]
                parts.append(part)
            table = pq.read_table(io.BytesIO(b"".join(parts)))
            assert table.num_rows >= acknowledged
    finally:
        stop.set()
        writer.join()
    assert count[0] > 5
    first = support.T0 + ROWS * support.MINUTE
    store.json("DELETE", f"/v1/klines/BTCUSDT/1m?start={first}&end={first + count[0] * support.MINUTE}")


def test_space_of_parts_is_limited_and_given_back(tmp_path):
    config = tmp_path / "fastk.toml"
    config.write_text("[http]\npart_bytes_max = 1048576\n")
    server = support.Server(tmp_path / "store", "--config", str(config)).start()
    try:
        server.json("POST", "/v1/series", support.REGISTRATION)
        rows = [[support.T0 + at * support.MINUTE, 1, 2, 1, 2, at] for at in range(60_000)]
        for at in range(0, len(rows), 20_000):
            server.json("POST", "/v1/klines/BTCUSDT/1m", rows[at : at + 20_000])
        status, _, body = ask(server, "GET", url(server, format="arrow"), Range="bytes=0-9")
        assert status == 413 and json.loads(body)["code"] == "too_large" and "part_bytes_max" in json.loads(body)["hint"]
        # Each takes more than half of the space: the one before gives way.
        for latest in (14_000, 14_001, 14_002, 14_000):
            status, _, body = ask(server, "GET", url(server, format="arrow", latest=latest), Range="bytes=0-9")
            assert (status, len(body)) == (206, 10), body
        server.stop()
    finally:
        server.kill()


def test_a_token_in_the_url_is_enough_and_is_not_logged(tmp_path):
    import pandas as pd

    root = tmp_path / "store"
    made = support.run("admin", "token", "create", "--root", root, "--name", "lab", "--scope", "admin", "--json")
    token = json.loads(made.stdout)["token"]
    config = tmp_path / "fastk.toml"
    config.write_text('[log]\nlevel = "debug"\n')
    server = support.Server(root, "--config", str(config)).start()
    try:
        headers = {"authorization": f"Bearer {token}"}
        server.json("POST", "/v1/series", support.REGISTRATION, headers=headers)
        server.json("POST", "/v1/klines/BTCUSDT/1m", [[support.T0, 1, 2, 1, 2, 3]], headers=headers)
        address = url(server, format="parquet", numbers="float64")
        with pytest.raises(urllib.error.HTTPError):
            pd.read_parquet(address)
        signed = address.replace("http://", f"http://any:{token}@")
        fetched = subprocess.run(["curl", "-sf", signed], check=True, capture_output=True, timeout=60).stdout
        assert pq.read_table(io.BytesIO(fetched))["close"].to_pylist() == [2.0]
        assert pd.read_csv(url(server, format="csv"), storage_options=headers)["close"].tolist() == [2.0]
        server.stop()
        log = server.log.read_text(errors="replace")
        assert "/rows" in log and token not in log
    finally:
        server.kill()
