"""`fastk files`: in every state of a series the listed files are exactly its rows, or it says that they are not.

Read with Polars and pyarrow alone, and compared with rows that the test keeps by itself, and with the result of a query.
"""

import io
import json
import urllib.error

import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
import support

DAY = 1_440
DAYS = 40  # two partitions
WHOLE = ["ts", "open", "high", "low", "close", "volume"]


def ts(minute):
    return support.T0 + minute * support.MINUTE


class Series:
    """A series, and what must be in it."""

    def __init__(self, server):
        self.server, self.rows = server, {}
        server.json("POST", "/v1/series", support.REGISTRATION)

    def put(self, first, count, salt=0):
        table = support.klines(count, first=first, salt=salt)
        body = io.BytesIO()
        with ipc.new_stream(body, table.schema) as writer:
            writer.write_table(table)
        headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
        self.server.json("POST", "/v1/klines/BTCUSDT/1m", body.getvalue(), headers)
        for row in zip(*(table[name].cast(pa.int64() if name == "ts" else table[name].type).to_pylist() for name in WHOLE)):
            self.rows[row[0]] = row

    def delete(self, first, last):
        self.server.json("DELETE", f"/v1/klines/BTCUSDT/1m?start={ts(first)}&end={ts(last)}")
        self.rows = {at: row for at, row in self.rows.items() if not ts(first) <= at <= ts(last)}

    def expected(self):
        return [self.rows[at] for at in sorted(self.rows)]


def cells(table):
    """Rows of an Arrow table in the order of time."""
    table = table.sort_by("ts")
    columns = [table[name].cast(pa.int64()) if name == "ts" else table[name] for name in WHOLE]
    return list(zip(*(column.to_pylist() for column in columns)))


def polars_cells(paths):
    if not paths:
        return []
    table = pl.concat([pl.read_ipc(path) for path in paths]).sort("ts")
    ts_column = table["ts"].dt.timestamp("ms")
    return list(zip(ts_column.to_list(), *(table[name].to_list() for name in WHOLE[1:])))


def check(fastk, where, expected, *flags, root=None):
    """What `fastk files` lists is these rows, or it says that it is not; gives its JSON."""
    done = fastk("files", support.KEY, *flags, *where, check=False)
    report = fastk("files", support.KEY, "--json", *(flag for flag in flags if flag != "--exact"), *where, check=False)
    listed = json.loads(report.stdout)
    assert listed["exact"] == (done.returncode == 0) == (report.returncode == 0)
    assert listed["rows"] == len(expected)
    paths = done.stdout.splitlines()
    if listed["exact"]:
        assert polars_cells(paths) == expected, "listed as exact, and is not"
        tables = [ipc.open_file(path).read_all() for path in paths]
        assert (cells(pa.concat_tables(tables)) if tables else []) == expected
    else:
        assert done.returncode == report.returncode == 1
        assert paths == [], "nothing is printed that could be taken for the series"
        assert "not exactly" in done.stderr and "hint: " in done.stderr
    # With the row ranges, the files are right in every state.
    parts = []
    for one in listed["files"]:
        table = ipc.open_file(f"{root or listed['root']}/{one['file']}").read_all()
        assert table.num_rows == one["rows"]
        assert sum(part["end"] - part["start"] for part in one["row_ranges"]) == one["rows_current"] > 0
        parts += [table.slice(part["start"], part["end"] - part["start"]) for part in one["row_ranges"]]
    found = cells(pa.concat_tables(parts)) if parts else []
    assert len(found) == listed["rows_in_files"] == len(expected) - listed["rows_outside"]
    assert set(found) <= set(expected) and len(set(found)) == len(found)
    assert sum(one["rows"] for one in listed["files"]) == listed["rows_in_files"] + listed["rows_left_out"]
    return listed


def queried(server, as_of=None):
    url = "/v1/klines/BTCUSDT/1m?format=arrow" + (f"&as_of={as_of}" if as_of else "")
    return cells(ipc.open_stream(server.read(url)).read_all())


def test_the_listed_files_are_the_series_in_every_state_or_it_says_so(server, fastk, tmp_path):
    series = Series(server)
    target = ["--server", server.http]

    def state(*flags):
        assert queried(server) == series.expected()
        return check(fastk, target, series.expected(), *flags)

    empty = state()
    assert empty["exact"] and empty["files"] == []
    series.put(0, DAYS * DAY)
    in_log = state()
    assert not in_log["exact"] and in_log["rows_outside"] == DAYS * DAY and in_log["files"] == []
    sealed = state("--exact")
    assert sealed["exact"] and len(sealed["files"]) == 2

    # A snapshot, a correction, a delete, and a compaction, which does not merge across the snapshot.
    server.json("POST", "/v1/snapshots", {"name": "before"})
    then = series.expected()
    series.put(100, 700, salt=5)
    corrected = state()
    assert not corrected["exact"] and corrected["rows_outside"] == 700
    series.delete(2_000, 3_440)
    series.delete(33 * DAY, 34 * DAY)
    deleted = state()
    assert not deleted["exact"] and deleted["rows_left_out"] > 0
    apart = state("--exact")
    assert not apart["exact"] and apart["rows_outside"] == 0 and apart["snapshots"] == ["before"]
    glob = sum(ipc.open_file(path).read_all().num_rows for path in server.chunks())
    assert glob > len(series.rows), "a glob of the directory would be right: this state shows nothing"
    # The snapshot itself has exact files.
    assert queried(server, "before") == then
    past = check(fastk, target, then, "--as-of", "before")
    assert past["exact"] and past["files"] == sealed["files"]

    # The same from the directory, without a server, and after it came back.
    server.stop()
    root = ["--root", server.root]
    assert not check(fastk, root, series.expected(), root=server.root)["exact"]
    server.start()
    target[:] = ["--server", server.http]
    assert not state()["exact"]

    # Without the snapshot a compaction makes them exact; late rows and the log undo that.
    server.json("DELETE", "/v1/snapshots/before")
    assert not state()["exact"]
    merged = state("--exact")
    assert merged["exact"] and merged["rows_left_out"] == merged["rows_outside"] == 0
    series.put(2_500, 10)
    late = state()
    assert not late["exact"] and late["rows_outside"] == 10
    server.seal()
    assert state()["exact"]
    series.delete(0, DAYS * DAY)
    assert state("--exact")["files"] == []
    series.put(0, 3, salt=9)
    server.stop()
    done = fastk("files", support.KEY, "--exact", *root)
    assert polars_cells(done.stdout.splitlines()) == series.expected()
    assert all(path.startswith(str(server.root)) for path in done.stdout.splitlines())


def test_interleaved_rows_are_listed_by_ranges(server, fastk):
    series = Series(server)
    series.put(0, 500)
    server.seal()
    server.json("POST", "/v1/snapshots", {"name": "kept"})
    for minute in range(0, 500, 50):
        series.put(minute, 1, salt=3)
    fastk("admin", "compact", "--server", server.http)
    listed = check(fastk, ["--server", server.http], series.expected())
    older, newer = listed["files"]
    assert [older["rows_current"], newer["rows_current"]] == [490, 10]
    assert len(older["row_ranges"]) == 10 and newer["row_ranges"] == [{"start": 0, "end": 10}]


def test_an_unknown_series_and_damage_are_errors_and_no_empty_lists(server, fastk):
    series = Series(server)
    series.put(0, 500)
    server.seal()
    target = ["--server", server.http]
    missing = fastk("files", "kline/NONE/1m", *target, check=False)
    assert missing.returncode == 3 and "series_not_found" in missing.stderr and missing.stdout == ""
    with pytest.raises(urllib.error.HTTPError, match="400"):
        server.read("/v1/admin/files")
    # Overlapped, so that its timestamps have to be read.
    server.json("POST", "/v1/snapshots", {"name": "kept"})
    series.put(10, 1, salt=1)
    server.stop()
    [chunk] = server.chunks()
    content = bytearray(chunk.read_bytes())
    middle = len(content) // 3
    content[middle] ^= 1
    chunk.write_bytes(content)
    damaged = fastk("files", support.KEY, "--root", server.root, check=False)
    assert damaged.returncode == 8 and "corrupt_data" in damaged.stderr and damaged.stdout == ""
