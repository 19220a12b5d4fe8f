"""Imports of real kline files: every interface returns the same values.

Each file is imported with the flags that docs/import.md prints for it, read again by this module alone (csv, gzip,
json, decimal, and pyarrow for Feather and Parquet), and compared row by row with REST (JSON, CSV, Arrow, Parquet),
Flight, and the chunk files as pyarrow and Polars read them.

The files are not part of the repository: FASTK_TEST_DATA names the folder they are in.
"""

import csv
import fnmatch
import functools
import gzip
import io
import json
import os
import re
import shlex
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.flight
import pyarrow.ipc
import pyarrow.parquet
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "import.md"
FOLDER = os.environ.get("FASTK_TEST_DATA")

# Files of the folder without bars: ticks, trades, quotes, books, indicator values, archives.
NOT_BARS = [
    "README*", "*.zip", "*.bi5", "*.tar", "*.dbn*", "*.fwob", "*.feed.gz", "*ticksample*", "*trades*", "*deltas*",
    "*quote_tick_data*", "*-quotes*.parquet", "*-result-*", "oecd-*", "ta-*",
]


def documented():
    """(pattern, flags) from the table of known sources in docs/import.md."""
    section = DOCS.read_text(encoding="utf-8").split("## Command lines for known sources")[1].split("\n## ")[0]
    found = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(cells) != 3 or cells[0] in ("source", "") or set(cells[0]) <= set("-|"):
            continue
        patterns = re.findall(r"`([^`]+)`", cells[1])
        flags = "" if cells[2] == "none" else re.fullmatch(r"`([^`]+)`", cells[2]).group(1)
        found += [(pattern, flags) for pattern in patterns]
    return found


def cases():
    if not FOLDER:
        return []
    found = []
    for path in sorted(Path(FOLDER).iterdir()):
        hits = [flags for pattern, flags in documented() if fnmatch.fnmatchcase(path.name, pattern)]
        if hits:
            found.append(pytest.param(path, hits[0], id=path.name))
    return found


needs_data = pytest.mark.skipif(not FOLDER, reason="FASTK_TEST_DATA is not set: the real data files are not here")


def test_the_table_of_known_sources_is_found():
    assert len(documented()) >= 20
    assert ("vix-*.csv", "--set volume=0 --validate none") in documented()


@needs_data
def test_every_file_of_bars_is_documented_once():
    for path in sorted(Path(FOLDER).iterdir()):
        hits = [pattern for pattern, _ in documented() if fnmatch.fnmatchcase(path.name, pattern)]
        bars = not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in NOT_BARS)
        assert len(hits) == (1 if bars else 0), f"{path.name}: {hits}"


# The independent reader.


class Source:
    """Rows of a file: times in ms, and columns of textual numbers (str) or doubles (numpy)."""

    def __init__(self, ts, columns, skipped=()):
        self.ts = np.array(ts, dtype=np.int64)
        self.columns = columns
        self.skipped = list(skipped)


def text_of(path):
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8-sig")


def table_of(path, delimiter=","):
    return [row for row in csv.reader(io.StringIO(text_of(path)), delimiter=delimiter) if row]


EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MS = timedelta(milliseconds=1)


def ms(moment):
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    ticks, rest = divmod(moment - EPOCH, MS)
    assert not rest
    return ticks


def iso(text):
    return ms(datetime.fromisoformat(text))


def pick(rows, time, **columns):
    return Source([time(row) for row in rows], {name: [row[at] for row in rows] for name, at in columns.items()})


def bitfinex_csv(path):
    return pick(table_of(path), lambda row: int(row[0]), open=1, high=3, low=4, close=2, volume=5)


def json_arrays(path, **order):
    rows = json.loads(text_of(path), parse_float=str, parse_int=str)
    return pick(rows, lambda row: int(row[0]), **order)


def bitfinex_json(path):
    return json_arrays(path, open=1, high=3, low=4, close=2, volume=5)


def freqtrade_json(path):
    return json_arrays(path, open=1, high=2, low=3, close=4, volume=5)


def binance(path):
    header, *rows = table_of(path)
    assert header[0] == "open_time" and len(header) == 12
    names = ["open", "high", "low", "close", "volume", "quote_volume", "count", "taker_buy_volume"]
    names.append("taker_buy_quote_volume")
    return pick(rows, lambda row: int(row[0]), **{name: header.index(name) for name in names})


def histdata_raw(path):
    def time(row):
        wall = datetime.strptime(row[0], "%Y%m%d %H%M%S")
        return ms(wall) + 5 * 3_600_000

    return pick(table_of(path, ";"), time, open=1, high=2, low=3, close=4, volume=5)


def histdata(path):
    return pick(table_of(path, ";")[1:], lambda row: iso(row[0]), open=1, high=2, low=3, close=4, volume=5)


def plain(path):
    return pick(table_of(path)[1:], lambda row: iso(row[0]), open=1, high=2, low=3, close=4, volume=5)


def without_volume(path):
    found = pick(table_of(path)[1:], lambda row: iso(row[0]), open=1, high=2, low=3, close=4)
    found.columns["volume"] = ["0"] * len(found.ts)
    return found


def yahoo(path):
    return pick(table_of(path)[1:], lambda row: iso(row[0]), open=1, high=2, low=3, close=4, volume=6, adj_close=5)


def futures(path):
    def time(row):
        return iso(f"{row[0]} {row[1]}")

    return pick(table_of(path)[1:], time, open=2, high=3, low=4, close=5, volume=6, open_interest=7)


def dated(layout):
    def read(path):
        def time(row):
            return ms(datetime.strptime(row[0], layout))

        return pick(table_of(path)[1:], time, open=1, high=2, low=3, close=4, volume=5)

    return read


def broken(path):
    """The valid rows, and the positions of the others."""
    kept, skipped = [], []
    for number, row in enumerate(table_of(path)[1:]):
        try:
            time = ms(datetime.strptime(row[0], "%m/%d/%Y"))
            open_, high, low, close, volume = (Decimal(cell) for cell in row[1:6])
            if high < max(open_, close, low) or low > min(open_, close, high) or volume < 0:
                raise ValueError
        except (ValueError, ArithmeticError):
            skipped.append(number)
            continue
        kept.append([time, *row[1:6]])
    found = pick(kept, lambda row: row[0], open=1, high=2, low=3, close=4, volume=5)
    found.skipped = skipped
    return found


def typed(path):
    if path.suffix == ".parquet":
        table = pa.parquet.read_table(path)
    else:
        table = pa.feather.read_table(path)
    nanos = table.column(0).cast(pa.timestamp("ns", "UTC")).to_numpy().astype(np.int64)
    assert not (nanos % 1_000_000).any()
    return Source(nanos // 1_000_000, {name: table.column(name).to_numpy() for name in table.column_names[1:]})


READERS = [
    ("bitfinex-*.csv.gz", bitfinex_csv),
    ("bitfinex-*.json.gz", bitfinex_json),
    ("binance-*", binance),
    ("histdata-raw-*", histdata_raw),
    ("histdata-*", histdata),
    ("*.feather", typed),
    ("*.parquet", typed),
    ("freqtrade-*.json.gz", freqtrade_json),
    ("nautilus-fxcm-*", without_volume),
    ("vix-*", without_volume),
    ("backtrader-YHOO-*", yahoo),
    ("backtrader-fut-*", futures),
    ("*-toobig.csv", dated("%m/%d/%Y")),
    ("*-zeros.csv", dated("%m/%d/%y")),
    ("*-bad.csv", broken),
    ("*", plain),
]


def read_source(path):
    return next(reader for pattern, reader in READERS if fnmatch.fnmatchcase(path.name, pattern))(path)


# The expected choices and values of the import.


class Memo(dict):
    """A memoized function of a text."""

    def __init__(self, function):
        self.function = function

    def __missing__(self, text):
        self[text] = value = self.function(text)
        return value


@functools.lru_cache(maxsize=4)
def scaled(digits):
    """text -> (integer with this number of digits, whether digits were lost), half to even."""

    def convert(text):
        with localcontext() as context:
            context.prec = 60
            exact = Decimal(text).scaleb(digits)
            whole = exact.to_integral_value(ROUND_HALF_EVEN)
            return int(whole), whole != exact

    return Memo(convert)


HEADROOM_AFTER, HEADROOM_BEFORE = 2, 3


def digits_of(columns):
    """The common digits of these columns by the rule of docs/import.md; None if only float64 represents them."""
    after = before = 0
    doubles = any(isinstance(column, np.ndarray) for column in columns)
    for column in columns:
        for value in set(column.tolist() if isinstance(column, np.ndarray) else column):
            number = Decimal(repr(value)) if doubles else Decimal(value)
            if doubles:
                number = number.normalize()
            after = max(after, -number.as_tuple().exponent)
            before = max(before, number.adjusted() + 1 if number else 0)
    if after + before + HEADROOM_BEFORE <= 18:
        return min(after + HEADROOM_AFTER, 18 - before - HEADROOM_BEFORE)
    return None if doubles else min(after, 18 - before)


def expected(source):
    """name -> (type, digits, words, rows that lost digits)."""
    prices = [source.columns[name] for name in ("open", "high", "low", "close")]
    found = {}
    for name, column in source.columns.items():
        digits = digits_of(prices if name in ("open", "high", "low", "close") else [column])
        doubles = isinstance(column, np.ndarray)
        if digits is None:
            found[name] = ("float64", None, column.view(np.int64), 0)
            continue
        texts = [repr(value) for value in column.tolist()] if doubles else column
        convert = scaled(digits)
        pairs = [convert[text] for text in texts]
        words = np.array([word for word, _ in pairs], dtype=np.int64)
        extra = name not in ("open", "high", "low", "close", "volume")
        if extra and not doubles and words.any() and all(re.fullmatch("-?[0-9]+", text) for text in set(texts)):
            found[name] = ("int64", None, np.array([int(text) for text in texts], dtype=np.int64), 0)
            continue
        found[name] = ("decimal", digits, words, sum(lost for _, lost in pairs))
    return found


# The interfaces.


def key_of(path):
    """A series key for a file, its timeframe from the name."""
    found = re.search(r"-(\d+)(mo|[mhdw])\b", path.name)
    timeframe = "1d" if not found else found.group(1) + {"mo": "M"}.get(found.group(2), found.group(2))
    if "intraday" in path.name:
        timeframe = "1m"
    symbol = path.name.split(".")[0][-64:].lstrip(".")
    return f"kline/{symbol}/{timeframe}"


def get(server, path, **parameters):
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    with urllib.request.urlopen(f"{server.http}{path}?{query}") as response:
        return response.read()


def words_of(array):
    """The 8-byte words of an Arrow column."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        return np.concatenate([words_of(chunk) for chunk in array.chunks] or [np.array([], dtype=np.int64)])
    assert array.null_count == 0
    if len(array) == 0:
        return np.array([], dtype=np.int64)
    words = np.frombuffer(array.buffers()[1], dtype=np.int64)
    if pa.types.is_decimal128(array.type):
        words = words[::2]
    return words[array.offset : array.offset + len(array)]


def check_table(table, source, expected_columns, order):
    """An Arrow table against the source; `order` sorts the source by time."""
    assert table.column_names == ["ts", *expected_columns]
    assert table.schema.field("ts").type == pa.timestamp("ms", "UTC")
    np.testing.assert_array_equal(words_of(table.column("ts")), source.ts[order])
    for name, (kind, digits, words, _) in expected_columns.items():
        column = table.column(name)
        if kind == "decimal":
            assert pa.types.is_decimal(column.type) and column.type.scale == digits, name
        else:
            assert column.type == {"float64": pa.float64(), "int64": pa.int64()}[kind], name
        np.testing.assert_array_equal(words_of(column), words[order], err_msg=name)


def check_texts(ts, columns, source, expected_columns, order):
    """Textual numbers (str) against the source, by value."""
    np.testing.assert_array_equal(np.array([int(text) for text in ts], dtype=np.int64), source.ts[order])
    for name, (kind, digits, words, _) in expected_columns.items():
        if kind == "float64":
            found = np.array([float(text) for text in columns[name]]).view(np.int64)
        else:
            convert = scaled(digits or 0)
            pairs = [convert[text] for text in columns[name]]
            assert not any(lost for _, lost in pairs), name
            found = np.array([word for word, _ in pairs], dtype=np.int64)
        np.testing.assert_array_equal(found, words[order], err_msg=name)


def check_interfaces(server, key, source, expected_columns, order):
    path = f"/v1/klines/{key.removeprefix('kline/')}"
    names = list(expected_columns)

    reply = json.loads(get(server, path, shape="columns", limit=1_000_000), parse_float=str, parse_int=str)
    assert reply["series"] == key and reply.get("next_cursor") is None
    columns = reply["columns"]
    assert list(columns) == ["ts", *names]
    check_texts(columns["ts"], columns, source, expected_columns, order)

    header, *rows = csv.reader(io.StringIO(get(server, path, format="csv").decode()))
    assert header == ["ts", *names]
    texts = dict(zip(header, zip(*rows)))
    check_texts(texts["ts"], texts, source, expected_columns, order)

    stream = pa.ipc.open_stream(get(server, path, format="arrow")).read_all()
    check_table(stream, source, expected_columns, order)
    parquet = pa.parquet.read_table(pa.BufferReader(get(server, path, format="parquet")))
    check_table(parquet, source, expected_columns, order)

    ticket = pa.flight.Ticket(json.dumps({"series": [key]}).encode())
    with pa.flight.connect(server.flight) as client:
        check_table(client.do_get(ticket).read_all(), source, expected_columns, order)

    # The nearest double to every decimal; for a source of doubles exactly the same.
    doubles = pa.ipc.open_stream(get(server, path, format="arrow", numbers="float64")).read_all()
    for name, (kind, _, _, lost) in expected_columns.items():
        column = source.columns[name]
        if kind == "int64" or lost:
            continue
        values = column if isinstance(column, np.ndarray) else np.array([float(text) for text in column])
        np.testing.assert_array_equal(doubles.column(name).to_numpy(), values[order], err_msg=name)


def check_chunks(server, key, source, expected_columns, order):
    """The chunk files, read by pyarrow and Polars without FastK."""
    tables, frames = [], []
    for file in server.files(key):
        with pa.memory_map(str(file)) as mapped:
            tables.append(pa.ipc.open_file(mapped).read_all().replace_schema_metadata(None))
        frames.append(pl.read_ipc(file))
    assert tables, f"no chunk file of {key}: the import did not seal"
    tables.sort(key=lambda table: words_of(table.column("ts"))[0])
    check_table(pa.concat_tables(tables), source, expected_columns, order)

    frame = pl.concat(frames).sort("ts")
    np.testing.assert_array_equal(frame["ts"].to_physical().to_numpy(), source.ts[order])
    for name, (kind, digits, words, _) in expected_columns.items():
        column = frame[name]
        if kind == "float64":
            found = column.to_numpy().view(np.int64)
        else:
            if kind == "decimal":
                assert column.dtype == pl.Decimal(18, digits), name
            found = column.to_physical().cast(pl.Int64).to_numpy()
        np.testing.assert_array_equal(found, words[order], err_msg=name)


def run_import(fastk, path, key, target, flags=""):
    result = fastk("import", str(path), "--series", key, *target, *shlex.split(flags), "--json", check=False)
    text = result.stdout.decode() if isinstance(result.stdout, bytes) else result.stdout
    return result, json.loads(text) if text.strip() else None


@needs_data
@pytest.mark.parametrize(("path", "flags"), cases())
def test_a_real_file_round_trips_through_every_interface(server, fastk, path, flags):
    source = read_source(path)
    expected_columns = expected(source)
    order = np.argsort(source.ts, kind="stable")
    assert len(np.unique(source.ts)) == len(source.ts)
    key = key_of(path)

    result, summary = run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 0, result.stderr
    stated = {column["name"]: (column["type"], column.get("digits")) for column in summary["columns"]}
    assert stated == {name: (kind, digits) for name, (kind, digits, _, _) in expected_columns.items()}
    assert summary["rows_read"] == len(source.ts) + len(source.skipped)
    assert summary["rows_written"] == len(source.ts)
    assert (summary["rows_replaced"], summary["rows_duplicate"]) == (0, 0)
    assert summary["rounded"] == {name: lost for name, (_, _, _, lost) in expected_columns.items() if lost}
    assert [row["row"] for row in summary["invalid"]] == source.skipped
    assert summary["rows_invalid"] == summary["rows_skipped"] == len(source.skipped)
    assert (summary["first_ts"], summary["last_ts"]) == (source.ts.min(), source.ts.max())
    assert summary["rows_before_1990"] == int((source.ts < ms(datetime(1990, 1, 1))).sum())
    assert {warning["kind"] for warning in summary["warnings"]} <= {"before_1990"} | expected_warnings(flags)
    odd = inconsistent(source, expected_columns) if "--validate none" in flags else []
    assert [row["row"] for row in summary["inconsistent"]] == odd
    assert summary["rows_inconsistent"] == len(odd)

    check_interfaces(server, key, source, expected_columns, order)
    check_chunks(server, key, source, expected_columns, order)


def expected_warnings(flags):
    """Kinds of warnings caused by flags of the table."""
    return {kind for kind, flag in (("rounded", "--rounding nearest"), ("off_grid", "--off-grid allow")) if flag in flags}


def inconsistent(source, expected_columns):
    """Positions of the rows with inconsistent high or low, or a volume below zero."""
    kind = expected_columns["open"][0]
    values = [expected_columns[name][2] for name in ("open", "high", "low", "close")]
    if kind == "float64":
        values = [words.view(np.float64) for words in values]
    open_, high, low, close = values
    volume = expected_columns["volume"][2]
    odd = (high < np.maximum(np.maximum(open_, close), low)) | (low > np.minimum(np.minimum(open_, close), high))
    return np.nonzero(odd | (volume < 0))[0].tolist()


@needs_data
def test_an_import_into_a_directory_can_be_repeated_without_a_change(server, fastk, tmp_path):
    path = Path(FOLDER) / "stockindicators-quotes-longest.csv"
    for root, replaced in ((tmp_path / "store", 0), (tmp_path / "store", 15_821)):
        result, summary = run_import(fastk, path, "kline/GSPC/1d", ["--root", str(root)])
        assert result.returncode == 0, result.stderr
        assert (summary["rows_written"], summary["rows_replaced"]) == (15_821, replaced)
    found = fastk("query", "kline/GSPC/1d", "--root", str(tmp_path / "store"), "--format", "csv")
    assert len(found.stdout.splitlines()) == 15_821 + 1


@needs_data
def test_a_file_with_invalid_rows_is_refused_and_its_rows_are_reported(server, fastk):
    path = Path(FOLDER) / "stockindicators-quotes-bad.csv"
    flags = next(flags for pattern, flags in documented() if fnmatch.fnmatchcase(path.name, pattern))
    key = "kline/BAD/1d"
    flags = flags.replace("--on-invalid skip", "")
    result, summary = run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 2
    assert "invalid_rows" in str(result.stderr)
    assert [row["row"] for row in summary["invalid"]] == read_source(path).skipped
    assert {row["reason"] for row in summary["invalid"]} == {"bad_time", "missing", "ohlc", "negative_volume"}
    assert summary["rows_written"] == 0
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, "/v1/series/kline/BAD/1d")
    assert error.value.code == 404


def test_repeated_and_inconsistent_rows_are_reported_by_position(server, fastk, tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text(
        "date,open,high,low,close,volume\n2024-01-01,1,2,1,1,5\n2024-01-02,1,2,1,1,5\n2024-01-01,1,2,1,1,5\n"
        "2024-01-02,1,2,1,1.5,5\n2024-01-03,3,2,1,1,5\n"
    )
    key = "kline/BARS/1d"
    result, summary = run_import(fastk, path, key, ["--server", server.http], "--validate none")
    assert result.returncode == 2
    assert "error[invalid_rows]" in str(result.stderr) and "--on-duplicate last" in str(result.stderr)
    assert (summary["rows_written"], summary["rows_different"]) == (0, 1)
    with pytest.raises(urllib.error.HTTPError):
        get(server, "/v1/series/kline/BARS/1d")
    flags = "--validate none --on-duplicate last"
    result, summary = run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 0, result.stderr
    assert (summary["rows_read"], summary["rows_written"], summary["rows_duplicate"]) == (5, 3, 2)
    duplicates = [(row["row"], row["line"], row["other_row"], row["identical"]) for row in summary["duplicates"]]
    assert duplicates == [(0, 2, 2, True), (1, 3, 3, False)]
    assert [(row["row"], row["reason"]) for row in summary["inconsistent"]] == [(4, "ohlc")]
    rows = json.loads(get(server, "/v1/klines/BARS/1d"))["rows"]
    assert [row["close"] for row in rows] == [1.0, 1.5, 1.0]


@needs_data
@pytest.mark.parametrize(
    ("name", "ts", "repeats"),
    [("freqtrade-test-XRP_ETH-trades.feather", "ts=timestamp,", True), ("questdb-btc_trades.csv", "", False)],
)
def test_trades_are_refused_and_lose_no_row_silently(server, fastk, name, ts, repeats):
    key = "kline/TRADES/1m"
    path = Path(FOLDER) / name
    flags = f"--map {ts}open=price,high=price,low=price,close=price,volume=amount"
    result, summary = run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 2 and summary["invalid_reasons"]["off_grid"] > 0, result.stderr
    with pytest.raises(urllib.error.HTTPError):
        get(server, f"/v1/series/{key}")
    result, summary = run_import(fastk, path, key, ["--server", server.http], flags + " --off-grid allow")
    if repeats:
        assert result.returncode == 2 and summary["rows_different"] > 0, result.stderr
        assert summary["rows_written"] == 0
    else:
        assert result.returncode == 0, result.stderr
        assert summary["rows_written"] == summary["rows_off_grid"] == summary["rows_read"]


@needs_data
def test_a_glob_over_two_symbols_is_refused(server, fastk):
    files = [Path(FOLDER) / f"binance-usdm-{symbol}-1m-2023-02.csv.gz" for symbol in ("ALGOUSDT", "FILUSDT")]
    key = "kline/MIXED/1m"
    result = fastk("import", *map(str, files), "--series", key, "--server", server.http, "--json", check=False)
    assert result.returncode == 2
    summary = json.loads(result.stdout)
    assert (summary["rows_read"], summary["rows_different"], summary["rows_written"]) == (80_640, 40_320, 0)
    with pytest.raises(urllib.error.HTTPError):
        get(server, f"/v1/series/{key}")


@needs_data
def test_a_later_file_with_smaller_ticks_is_never_rounded_without_the_flag(server, fastk):
    """The months of one symbol in two imports: values that exceed the registration are refused."""
    first, later = (Path(FOLDER) / f"bitfinex-BTCUSD-1m-{year}.csv.gz" for year in (2013, 2014))
    flags = next(flags for pattern, flags in documented() if fnmatch.fnmatchcase(first.name, pattern))
    key, to = "kline/BTCUSD/1m", ["--server", server.http]
    result, summary = run_import(fastk, first, key, to, flags + " --price-digits 2")
    if result.returncode:
        assert "--price-digits" in str(result.stderr) and summary["rows_written"] == 0
        result, summary = run_import(fastk, first, key, to, flags + " --price-digits 2 --rounding nearest")
    assert result.returncode == 0, result.stderr
    result, summary = run_import(fastk, later, key, to, flags)
    if summary["invalid_reasons"].get("precision_loss"):
        assert result.returncode == 2 and "--rounding nearest" in str(result.stderr)
    assert summary["rounded"] == {}


@needs_data
def test_times_since_midnight_of_lean_use_the_date_in_the_file_names(server, fastk, tmp_path):
    import zipfile

    archive = Path(FOLDER) / "lean-equity-SPY-1m-trade-20131007.zip"
    with zipfile.ZipFile(archive) as opened:
        member = opened.namelist()[0]
        opened.extract(member, tmp_path)
    flags = "--map ts=0,open=1,high=2,low=3,close=4,volume=5 --base-date name --time-unit ms --time-zone America/New_York"
    result, summary = run_import(fastk, tmp_path / member, "kline/SPY/1m", ["--server", server.http], flags)
    assert result.returncode == 0, result.stderr
    rows = table_of(tmp_path / member)
    midnight = ms(datetime(2013, 10, 7, 4))
    found = json.loads(get(server, "/v1/klines/SPY/1m", limit=10_000))["rows"]
    assert [row["ts"] for row in found] == [midnight + int(row[0]) for row in rows]
    assert [Decimal(str(row["close"])) for row in found] == [Decimal(row[4]) for row in rows]
