"""The built-in kinds of market events: registration, order, ids, bars, SQL, and imports of real files.

Real files are read again by this module alone, and every number is compared as the decimal of its shortest text.
"""

import gzip
import json
import urllib.error
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.feather
import pyarrow.flight as flight
import pyarrow.parquet
import pytest
from support import T0

KEY = "trade/BTCUSDT/binance"
ROWS = f"/v1/series/{KEY}/rows"
REGISTRATION = {"kind": "trade", "key": ["BTCUSDT", "binance"], "price_digits": 2, "volume_digits": 5}
US = T0 * 1000


def refused(server, *request):
    """The error of a request."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.json(*request)
    return json.loads(caught.value.read())


def trade(ts, price, qty, side, trade_id):
    return {"ts": ts, "price": price, "qty": qty, "side": side, "trade_id": trade_id}


def test_rows_of_one_time_stay_in_the_order_of_arrival(server):
    server.json("POST", "/v1/series", REGISTRATION)
    rows = [trade(US, "42500.10", "0.01500", side, number) for number, side in enumerate(["buy", "sell", None, "buy"])]
    server.json("POST", ROWS, rows[:3])
    server.json("POST", ROWS, [trade(US + 1, "42500.20", "1.00000", "buy", 9)])
    server.json("POST", ROWS, rows[3:])
    server.json("POST", ROWS, rows[3:])
    found = server.json("GET", f"{ROWS}?numbers=string&columns=price,qty,side,trade_id")["rows"]
    ids = [row["trade_id"] and int(row["trade_id"]) for row in found]
    assert ids == [0, 1, 2, 3, 3, 9]
    assert [row["side"] for row in found] == ["buy", "sell", None, "buy", "buy", "buy"]
    assert (found[0]["price"], found[0]["qty"]) == ("42500.10", "0.01500")
    again = server.json("POST", "/v1/series", REGISTRATION)
    assert again["created"] is False
    error = refused(server, "POST", ROWS, [trade(US, "1.001", "1", "buy", 1)])
    assert "price" in json.dumps(error)
    assert refused(server, "POST", ROWS, [trade(US, "1", "-1", "buy", 1)])["code"] == "invalid_rows"
    assert refused(server, "POST", ROWS, [trade(US, "1", "1", "bid", 1)])["code"] == "invalid_rows"


def test_an_id_keeps_the_newest_row(server):
    server.json("POST", "/v1/series", REGISTRATION | {"dedup": "trade_id"})
    server.json("POST", ROWS, [trade(US, "1", "1", "buy", number) for number in (3, 1, 2)])
    server.json("POST", ROWS, [trade(US, "2", "1", "sell", 2)])
    found = server.json("GET", f"{ROWS}?numbers=string&columns=price,trade_id")["rows"]
    assert [(row["trade_id"], row["price"]) for row in found] == [("1", "1.00"), ("2", "2.00"), ("3", "1.00")]
    error = refused(server, "POST", ROWS, [trade(US, "1", "1", "buy", None)])
    assert error["code"] == "invalid_rows"
    other = refused(server, "POST", "/v1/series", REGISTRATION)
    assert other["code"] == "series_exists"
    for wrong in ({"dedup": "price"}, {"dedup": "seq", "kind": "funding"}, {"key": ["BTCUSDT"]}, {"symbol": "X"}):
        error = refused(server, "POST", "/v1/series", REGISTRATION | {"key": ["A", "b"]} | wrong)
        assert error["code"] == "invalid_argument", wrong


def test_bars_and_tables_of_trades(server, client):
    for symbol, digits in (("BTCUSDT", 2), ("XRPUSDT", 4)):
        spec = {"kind": "trade", "key": [symbol, "x"], "price_digits": digits, "volume_digits": 3, "unit": "ms"}
        server.json("POST", "/v1/series", spec)
        rows = [
            trade(T0 + n * 1_000, str(Decimal(1 + n % 7) + Decimal(n) / 100), "0.5", "buy" if n % 3 else "sell", n)
            for n in range(180)
        ]
        server.json("POST", f"/v1/series/trade/{symbol}/x/rows", rows)
    agg = "price:first as open,price:max as high,price:min as low,price:last as close,qty:sum as qty,qty:sum if side:eq:buy as bought"
    path = "/v1/series/trade/BTCUSDT/x/rows"
    bars = server.json("GET", f"{path}?every=1m&agg={agg.replace(' ', '%20')}&numbers=string")["rows"]
    assert [bar["source_rows"] for bar in bars] == ["60", "60", "60"]
    prices = [Decimal(1 + n % 7) + Decimal(n) / 100 for n in range(60)]
    assert Decimal(bars[0]["open"]) == prices[0] and Decimal(bars[0]["high"]) == max(prices)
    assert Decimal(bars[0]["close"]) == prices[-1] and Decimal(bars[0]["low"]) == min(prices)
    assert (Decimal(bars[0]["qty"]), Decimal(bars[0]["bought"])) == (30, 20)
    sql = "SELECT symbol, channel, count(*) AS n, vwap(price, qty) AS price FROM trades GROUP BY symbol, channel ORDER BY symbol"
    found = client.do_get(flight.Ticket(json.dumps({"sql": sql}))).read_all()
    assert found.select(["symbol", "channel", "n"]).to_pylist() == [
        {"symbol": symbol, "channel": "x", "n": 180} for symbol in ("BTCUSDT", "XRPUSDT")
    ]
    assert server.json("GET", "/v1/kinds/quote")["sql_name"] == "quotes"
    names = [kind["kind"] for kind in server.json("GET", "/v1/kinds")["kinds"]]
    assert {"trade", "quote", "book", "depth", "funding", "open_interest", "liquidation", "status"} <= set(names)
    clash = refused(server, "POST", "/v1/kinds", {"kind": "trade", "key": ["x"], "fields": [{"name": "a", "type": "int64"}]})
    assert clash["code"] == "kind_exists"


def test_each_kind_takes_rows_by_flight_and_returns_them(server, client):
    kinds = {kind["kind"]: kind for kind in server.json("GET", "/v1/kinds")["kinds"]}
    for name in ("trade", "quote", "book", "depth", "funding", "open_interest", "liquidation", "status"):
        create = {"kind": name, "key": ["ACME", "x"]}
        cells = {"ts": pa.array([US, US + 5], pa.timestamp("us", "UTC"))}
        for field in kinds[name]["fields"]:
            value = {"enum": (field.get("values") or [None])[0], "text": "on", "decimal": Decimal("0.5")}
            cells[field["name"]] = pa.array(
                {
                    "timestamp": lambda: pa.array([US, None], pa.timestamp("us", "UTC")),
                    "float64": lambda: pa.array([1.5, 2.5]),
                    "decimal": lambda: pa.array([Decimal("0.0001"), Decimal("-0.00025")], pa.decimal128(18, 12)),
                    "enum": lambda: pa.array([value["enum"]] * 2),
                    "text": lambda: pa.array(["on", "off"]),
                }.get(field["type"], lambda: pa.array([1, 2], {"uint8": pa.uint8(), "uint16": pa.uint16(),
                    "uint32": pa.uint32(), "uint64": pa.uint64()}[field["type"]]))()
            )
        table = pa.table(cells)
        command = flight.FlightDescriptor.for_command(json.dumps({"series": f"{name}/ACME/x", "create": create}))
        writer, _ = client.do_put(command, table.schema)
        writer.write_table(table)
        writer.close()
        found = client.do_get(flight.Ticket(json.dumps({"series": [f"{name}/ACME/x"]}))).read_all()
        assert found.column_names == table.column_names
        for column in table.column_names:
            assert [str(cell) for cell in found[column].to_pylist()] == [
                str(cell) for cell in found[column].type and table[column].cast(
                    found[column].type.value_type if pa.types.is_dictionary(found[column].type) else found[column].type
                ).to_pylist()
            ], (name, column)


def freqtrade(path):
    """(ts, price, qty, side, id) of a file of trades of Freqtrade."""
    if path.name.endswith(".json.gz"):
        rows = json.loads(gzip.open(path).read(), parse_float=Decimal)
        return [(row[0], Decimal(row[4]), Decimal(row[5]), row[3], int(row[1])) for row in rows]
    table = pa.feather.read_table(path) if path.suffix == ".feather" else pa.parquet.read_table(path)
    exact = [[Decimal(repr(cell)) for cell in table[name].to_pylist()] for name in ("price", "amount")]
    ids = [int(cell) for cell in table["id"].to_pylist()]
    return list(zip(table["timestamp"].to_pylist(), *exact, table["side"].to_pylist(), ids))


@pytest.mark.parametrize("ending", ["feather", "parquet", "json.gz"])
def test_real_trades_come_back_in_their_order(server, client, fastk, test_data, ending):
    path = test_data / f"freqtrade-test-XRP_ETH-trades.{ending}"
    flags = ["--map", "ts=0,trade_id=1,side=3,price=4,qty=5", "--no-header"] if ending == "json.gz" else []
    fastk("import", path, "--series", "trade/XRPETH/binance", "--server", server.http, *flags)
    found = client.do_get(flight.Ticket(json.dumps({"series": ["trade/XRPETH/binance"]}))).read_all()
    expected = freqtrade(path)
    repeated = sum(one[0] == other[0] for one, other in zip(expected, expected[1:]))
    assert len(expected) == 12_477 and repeated > 2_000
    ts = [int(cell.timestamp() * 1000 + 0.5) for cell in found["ts"].to_pylist()]
    rows = list(zip(ts, *(found[name].to_pylist() for name in ("price", "qty", "side", "trade_id"))))
    # Late rows come after those of earlier times: a stable sort is the order of arrival.
    assert rows == sorted(expected, key=lambda row: row[0])
    assert found["seq"].null_count == len(expected)


def test_real_quotes_are_found_by_the_names_of_vendors(server, client, fastk, test_data):
    path = test_data / "nautilus-binance-btcusdt-quotes.parquet"
    fastk("import", path, "--series", "quote/BTCUSDT/binance", "--server", server.http)
    found = client.do_get(flight.Ticket(json.dumps({"series": ["quote/BTCUSDT/binance"]}))).read_all()
    source = pa.parquet.read_table(path).to_pylist()
    source.sort(key=lambda row: row["timestamp"])
    assert [cell for cell in found["ts"].to_pylist()] == [row["timestamp"] for row in source]
    for ours, theirs in (("bid_price", "bid"), ("bid_qty", "bid_size"), ("ask_price", "ask"), ("ask_qty", "ask_size")):
        # A column of doubles stays one where decimals with headroom would not hold its numbers.
        exact = float if pa.types.is_floating(found[ours].type) else lambda number: Decimal(repr(number))
        assert found[ours].to_pylist() == [exact(row[theirs]) for row in source], ours
    assert isinstance(source[0]["timestamp"], datetime)
