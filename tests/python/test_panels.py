"""Panels equal the joins of Polars and pandas over the same rows, cell by cell, through every interface.

FASTK_TEST_DATA names the folder of the real files; the last tests need none.
"""

import io
import json
import urllib.error
import urllib.parse

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.flight
import pyarrow.parquet
import pytest
import support
import test_import_real_data as real
from test_resample import imported

MINUTE = 60_000
FIELDS = ["open", "high", "low", "close", "volume"]


def frame(server, query):
    with server.request("POST", "/v1/query?format=arrow", query) as response:
        return pl.from_arrow(pa.ipc.open_stream(response.read()).read_all())


def read(server, key, prefix, **options):
    """The rows of a series under the names of a panel."""
    rows = frame(server, {"series": [key], **options})
    names = {name: prefix if name == "value" else f"{prefix}.{name}" for name in rows.columns if name != "ts"}
    return rows.rename(names)


def outer(frames):
    joined = frames[0]
    for other in frames[1:]:
        joined = joined.join(other, on="ts", how="full", coalesce=True)
    return joined.sort("ts")


def as_of(frames, lengths, tolerance):
    """Polars' join of each frame to the first, by when rows become known."""
    known = lambda rows, length: rows.with_columns(known=pl.col("ts").dt.epoch("ms") + length).sort("known")
    joined = known(frames[0], lengths[0])
    for other, length in zip(frames[1:], lengths[1:]):
        other = known(other, length).drop("ts")
        joined = joined.join_asof(other, on="known", strategy="backward", tolerance=tolerance)
    return joined.drop("known")


def as_of_pandas(frames, lengths, tolerance):
    """The same join by pandas, of doubles."""
    joined = None
    for rows, length in zip(frames, lengths):
        rows = rows.with_columns(pl.exclude("ts").cast(pl.Float64), known=pl.col("ts").dt.epoch("ms") + length).to_pandas()
        if joined is None:
            joined = rows
        else:
            joined = pd.merge_asof(joined, rows.drop(columns="ts"), on="known", tolerance=tolerance)
    return joined.drop(columns="known")


@real.needs_data
def test_panels_of_real_files_are_the_joins_of_polars_and_pandas(server, fastk):
    names = ["binance-spot-BTCUSDT-15m.csv.gz", "binance-spot-BTCUSDT-1h.csv.gz", "binance-spot-BTCUSDT-1d.csv.gz"]
    keys = [imported(server, fastk, name)[0] for name in names]
    lengths = [15 * MINUTE, 60 * MINUTE, 1_440 * MINUTE]
    prefixes = [key.split("/")[1] for key in keys]
    frames = [read(server, key, prefix, columns=FIELDS) for key, prefix in zip(keys, prefixes)]
    assert all(len(rows) > 500 for rows in frames)
    panel = {"series": keys, "columns": FIELDS, "layout": "wide"}
    cases = 0
    for _ in range(2):
        found = frame(server, panel)
        assert found.equals(outer(frames)), "exact"
        for text, tolerance in [("15m", 15 * MINUTE), ("2h", 120 * MINUTE), ("1w", 10_080 * MINUTE)]:
            found = frame(server, {**panel, "join": {"asof": text}})
            assert found.equals(as_of(frames, lengths, tolerance)), text
            doubles = found.with_columns(pl.exclude("ts").cast(pl.Float64)).to_pandas()
            pd.testing.assert_frame_equal(doubles, as_of_pandas(frames, lengths, tolerance))
            found = frame(server, {**panel, "join": {"asof": text, "known": "ts"}})
            assert found.equals(as_of(frames, [0, 0, 0], tolerance)), text
            cases += 3
        server.seal()
    buckets = [read(server, key, prefix, columns=FIELDS, every="1d") for key, prefix in zip(keys, prefixes)]
    assert frame(server, {**panel, "every": "1d"}).equals(outer(buckets))
    assert cases == 18


@real.needs_data
def test_a_panel_of_bars_with_gaps_has_nulls_where_a_series_has_no_row(server, fastk):
    names = ["bitfinex-BTCUSD-1m-2013.csv.gz", "binance-spot-BTCUSDT-1h.csv.gz"]
    keys = [imported(server, fastk, name)[0] for name in names]
    symbols = [key.split("/")[1] for key in keys]
    frames = [read(server, key, symbol, columns=FIELDS) for key, symbol in zip(keys, symbols)]
    found = frame(server, {"series": keys, "columns": FIELDS, "layout": "wide"})
    assert found.equals(outer(frames))
    assert found[f"{symbols[0]}.close"].null_count() == len(found) - len(frames[0])
    backwards = frame(server, {"series": keys, "columns": FIELDS, "layout": "wide", "order": "desc"})
    assert backwards.equals(found.reverse())


SERIES = ["kline/AAA/1m", "kline/BBB/1m", "scalar/feature/AAA/1h/rsi_14"]


@pytest.fixture
def filled(server):
    """Two symbols with gaps and an hourly scalar, half of the rows in chunk files."""
    for symbol in ("AAA", "BBB"):
        server.json("POST", "/v1/series", {"kind": "kline", "symbol": symbol, "timeframe": "1m", "price_digits": 2,
                                           "volume_digits": 1})
    server.json("POST", "/v1/series", {"kind": "scalar", "category": "feature", "symbol": "AAA", "timeframe": "1h",
                                       "name": "rsi_14"})
    first = support.T0 - support.T0 % (60 * MINUTE)
    for half in range(2):
        for salt, symbol in enumerate(("AAA", "BBB")):
            rows = []
            for minute in range(half * 1_500, half * 1_500 + 1_500):
                if minute % (7 + 4 * salt) != 3:
                    price = 100 + (minute * (13 + salt)) % 700 / 4
                    rows.append([first + minute * MINUTE, price, price + 1, price - 1, price, minute / 10])
            server.json("POST", f"/v1/klines/{symbol}/1m", rows)
        rows = [{"ts": first + hour * 60 * MINUTE, "value": hour / 4} for hour in range(half * 25, half * 25 + 25)]
        server.json("POST", "/v1/scalars/feature/AAA/1h/rsi_14", rows)
        if half == 0:
            server.seal()
    return server


JOINS = ["exact", {"asof": "1h"}, {"asof": "2m", "known": "ts"}]


@pytest.mark.parametrize("join", JOINS, ids=str)
def test_every_interface_and_format_returns_the_same_panel(filled, fastk, join):
    server = filled
    query = {"series": SERIES, "layout": "wide", "join": join}
    frames = [read(server, key, prefix) for key, prefix in zip(SERIES, ["AAA", "BBB", "AAA.rsi_14"])]
    if join == "exact":
        expected = outer(frames)
    else:
        known = join.get("known") == "ts"
        lengths = [0, 0, 0] if known else [MINUTE, MINUTE, 60 * MINUTE]
        expected = as_of(frames, lengths, 2 * MINUTE if known else 60 * MINUTE)
    assert len(expected) > 2_000 and expected["AAA.rsi_14"].null_count() > 0
    with pa.flight.connect(server.flight) as client:
        flown = client.do_get(pa.flight.Ticket(json.dumps(query))).read_all()
        flown.validate(full=True)
        assert pl.from_arrow(flown).equals(expected)
        field = flown.schema.field("BBB.close")
        assert field.metadata == {b"fastk.series": b"kline/BBB/1m", b"fastk.column": b"close"}
        command = pa.flight.FlightDescriptor.for_command(json.dumps({**query, "endpoints": 3}))
        info = client.get_flight_info(command)
        assert info.schema.equals(flown.schema) and info.total_records == -1 and len(info.endpoints) == 3
        parts = [client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        assert pl.from_arrow(pa.concat_tables(parts)).equals(expected)
    text = join if join == "exact" else ":".join(["asof", *join.values()])
    parameters = {"series": ",".join(SERIES), "layout": "wide", "join": text}

    def get(**more):
        with server.request("GET", "/v1/query?" + urllib.parse.urlencode({**parameters, **more})) as response:
            return response.read(), response.headers

    assert pl.from_arrow(pa.ipc.open_stream(get(format="arrow")[0]).read_all()).equals(expected)
    assert pl.from_arrow(pa.parquet.read_table(io.BytesIO(get(format="parquet")[0]))).equals(expected)
    # Texts, as numbers of the same digits.
    texts = expected.with_columns(pl.col("ts").dt.epoch("ms"), pl.exclude("ts").cast(pl.Float64))
    as_numbers = lambda rows: pl.DataFrame(rows, schema=texts.schema, strict=False)
    assert pl.read_csv(get(format="csv")[0], schema=texts.schema).equals(texts)
    assert as_numbers([json.loads(line) for line in get(format="ndjson", numbers="float64")[0].splitlines()]).equals(texts)
    body, headers = get(limit=1_000_000, numbers="float64")
    body = json.loads(body)
    assert body["series"] == SERIES and "version" not in body and as_numbers(body["rows"]).equals(texts)
    columns = json.loads(get(limit=1_000_000, numbers="float64", shape="columns")[0])["columns"]
    assert as_numbers(columns).equals(texts)
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        server.request("GET", "/v1/query?" + urllib.parse.urlencode({**parameters, "limit": 1_000_000, "numbers": "float64"}),
                       headers={"If-None-Match": headers["ETag"]})
    assert unchanged.value.code == 304
    printed = fastk("query", *SERIES, "--layout", "wide", "--join", text, "--format", "csv", "--server", server.http)
    assert pl.read_csv(printed.stdout.encode(), schema=texts.schema).equals(texts)
    # Pages, in both directions, and of an explained query.
    for order in ("asc", "desc"):
        rows, cursor = [], {}
        while True:
            page = server.json("POST", "/v1/query", {**query, "order": order, "limit": 611, "numbers": "float64",
                                                     "explain": True, **cursor})
            assert page["stats"]["blocks_scanned"] > 0
            rows += page["rows"]
            if not page["next_cursor"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert as_numbers(rows).equals(texts if order == "asc" else texts.reverse())
    page = server.json("POST", "/v1/query", {**query, "limit": 10})
    others = [other for other in JOINS if other != join]
    for other in ({"join": others[0]}, {"layout": "by_time", "join": None, "series": SERIES[:2]}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.json("POST", "/v1/query", {**query, "limit": 10, "cursor": page["next_cursor"], **other})
        assert refused.value.code == 400 and b"belongs to another query" in refused.value.read()


def test_conditions_select_rows_of_the_panel(filled):
    query = {"series": SERIES, "layout": "wide", "join": {"asof": "1h"}, "columns": ["close", "value"]}
    whole = frame(filled, query)
    where = [{"column": "BBB.close", "op": "gt", "value": 150}, {"column": "AAA.rsi_14", "op": "is_not_null"}]
    expected = whole.filter(pl.col("BBB.close") > 150, pl.col("AAA.rsi_14").is_not_null())
    assert 0 < len(expected) < len(whole)
    assert frame(filled, {**query, "where": where}).equals(expected)
    assert frame(filled, {**query, "where": where, "latest": 7}).equals(expected.tail(7))
    assert frame(filled, {**query, "where": where, "limit": 7, "order": "desc"}).equals(expected.reverse().head(7))
    for where, status, words in [
        ([{"column": "close", "op": "gt", "value": 1}], 400, b"such as AAA.close"),
        ([{"column": "AAA.open", "op": "gt", "value": 1}], 400, b"does not have"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            frame(filled, {**query, "where": where})
        problem = refused.value.read()
        assert refused.value.code in (status, 409, 422) and words in problem, problem

