"""Registers a series, writes, merges, reads and lists with the Python client that openapi-generator made.

Run by the test in the folder of the generated package, with the address of a server; prints what it got.
"""

import json
import sys

import fastk_client
from fastk_client import Cell, ColumnsObject, NumberFormat, RowsApi, RowsBody, RowsObject, SeriesApi, SeriesSpec

START = 1_706_745_600_000
ROW = {"ts": START, "open": "42000.10", "high": 42010, "low": 41990.5, "close": "42005.00", "volume": "3.5"}
COLUMNS = {"ts": [START], "open": [42001], "high": [42020], "low": [42001], "close": ["42002.25"], "volume": [1]}


def main(address):
    with fastk_client.ApiClient(fastk_client.Configuration(host=address)) as client:
        rows, series = RowsApi(client), SeriesApi(client)
        spec = SeriesSpec(kind="kline", symbol="BTCUSDT", timeframe="1m", price_digits=2, volume_digits=8)
        registered = series.register_series(spec)
        next_row = {name: Cell(cell) for name, cell in (ROW | {"ts": START + 60_000}).items()}
        written = rows.write_klines("BTCUSDT", "1m", RowsBody(RowsObject.from_dict({"rows": [ROW]})))
        listed = rows.write_klines("BTCUSDT", "1m", RowsBody([next_row]))
        body = RowsBody(ColumnsObject.from_dict({"columns": COLUMNS}))
        merged = rows.merge_klines("BTCUSDT", "1m", "merge-1", body)
        read = rows.read_klines("BTCUSDT", "1m", start="2024-02-01", end="2024-02-01", numbers=NumberFormat.STRING)
        page = series.list_series(kind="kline")
        return {
            "created": registered.created,
            "written": [written.rows_written, listed.rows_written, merged.rows_replaced],
            "rows": [{name: cell.actual_instance for name, cell in row.items()} for row in read.rows],
            "series": [one.series for one in page.series],
            "columns": [f"{one.name}:{one.type.value}:{one.digits}" for one in page.series[0].columns],
        }


print(json.dumps(main(sys.argv[1])))
