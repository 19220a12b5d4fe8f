"""What the run of schemathesis needs from outside: series with rows, written again after a request removed them."""

import json
import os
import urllib.error
import urllib.request

import schemathesis

URL = os.environ["FASTK_URL"]
TOKEN = os.environ["FASTK_TOKEN"]
T0 = 1_706_745_600_000
MINUTE = 60_000
RATE = 100 << 20
KLINE = {"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m", "price_digits": 2, "volume_digits": 8}
SCALAR = {"kind": "scalar", "category": "feature", "symbol": "BTCUSDT", "timeframe": "1m", "name": "rsi_14"}
SCALAR["value"] = {"type": "decimal", "digits": 2}
TAKES_AWAY = {"dropKlineSeries", "dropScalarSeries", "deleteKlines", "deleteScalars", "dropSnapshot"}


def send(method, path, body):
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers, method=method)
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def fill():
    send("POST", "/v1/series", KLINE)
    send("POST", "/v1/series", SCALAR)
    minutes = range(200)
    klines = [
        {"ts": T0 + n * MINUTE, "open": 42_000 + n, "high": 42_010 + n, "low": 41_990 + n, "close": 42_005 + n, "volume": 1}
        for n in minutes
    ]
    send("POST", "/v1/klines/BTCUSDT/1m", klines)
    send("POST", "/v1/scalars/feature/BTCUSDT/1m/rsi_14", [{"ts": T0 + n * MINUTE, "value": n % 100} for n in minutes])
    send("POST", "/v1/snapshots", {"name": "before-repair"})


@schemathesis.serializer("application/x-ndjson")
def ndjson(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(context, case, kwargs):
    """A job that may read one byte a second would be waited for until tomorrow."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("bytes_per_second"), int) and 0 < body["bytes_per_second"] < RATE:
        case.body = body | {"bytes_per_second": RATE}


@schemathesis.hook
def after_load_schema(context, schema):
    fill()


@schemathesis.hook
def after_call(context, case, response):
    definition = case.operation.definition.raw
    if definition["operationId"] in TAKES_AWAY and response.status_code == 200:
        fill()


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """DELETE asks a job to stop; the job stays, to be looked at, and is no resource used after it was removed."""
    return not (type(failure).__name__ == "UseAfterFree" and case.path == "/v1/admin/jobs/{id}")
