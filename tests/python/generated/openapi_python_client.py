"""Registers a series, writes, merges, reads and lists with the client that openapi-python-client made.

Run by the test in the folder of the generated package, with the address of a server; prints what it got.
"""

import json
import sys

from fastk_client import Client
from fastk_client.api.rows import merge_klines, read_klines, write_klines
from fastk_client.api.series import list_series, register_series
from fastk_client.models import ColumnLists, ColumnsObject, NumberFormat, Row, RowsObject, SeriesSpec

START = 1_706_745_600_000
ROW = {"ts": START, "open": "42000.10", "high": 42010, "low": 41990.5, "close": "42005.00", "volume": "3.5"}
COLUMNS = {"ts": [START], "open": [42001], "high": [42020], "low": [42001], "close": ["42002.25"], "volume": [1]}


def main(address):
    client = Client(base_url=address, raise_on_unexpected_status=True)
    spec = SeriesSpec(kind="kline", symbol="BTCUSDT", timeframe="1m", price_digits=2, volume_digits=8)
    registered = register_series.sync(client=client, body=spec)
    series = {"symbol": "BTCUSDT", "timeframe": "1m", "client": client}
    written = write_klines.sync(**series, body=RowsObject(rows=[Row.from_dict(ROW)]))
    listed = write_klines.sync(**series, body=[Row.from_dict(ROW | {"ts": START + 60_000})])
    body = ColumnsObject(columns=ColumnLists.from_dict(COLUMNS))
    merged = merge_klines.sync(**series, body=body, idempotency_key="merge-1")
    read = read_klines.sync(**series, start="2024-02-01", end="2024-02-01", numbers=NumberFormat.STRING)
    page = list_series.sync(client=client, kind="kline")
    return {
        "created": registered.created,
        "written": [written.rows_written, listed.rows_written, merged.rows_replaced],
        "rows": [row.to_dict() for row in read.rows],
        "series": [one.series for one in page.series],
        "columns": [f"{one.name}:{one.type_}:{one.digits}" for one in page.series[0].columns],
    }


print(json.dumps(main(sys.argv[1])))
