"""Compares reads after many one-row appends with reads of the same rows written at once, through a real server.

    python benches/appends.py target/dist/fastk [ROWS]

Needs pyarrow. 300 interleaved reads each way; medians and quartiles in microseconds.
"""
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import pyarrow.flight as flight

MINUTE, BEGIN, HEADER = 60_000, 1704067200000, "ts,open,high,low,close,volume\n"


def row(n):
    return f"{BEGIN + n * MINUTE},{100 + n % 50}.25,{101 + n % 50}.5,{99 + n % 50}.75,{100 + n % 50}.5,1.5"


def main():
    binary, rows = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    root = tempfile.mkdtemp()
    command = [binary, "serve", "--root", root, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"FASTK__STORE__DURABILITY": "none"}
    )
    try:
        _, rest, grpc = server.stdout.readline().decode().split()
        measure(rest.split("=")[1], grpc.split("=")[1], rows)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(root)


def measure(rest, grpc, rows):
    connection = http.client.HTTPConnection(rest)

    def call(method, path, body=None, kind="application/json"):
        connection.request(method, path, body, {"content-type": kind})
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status < 300, (reply.status, body[:300])
        return body

    for symbol in ("ONE", "ALL"):
        registration = {"kind": "kline", "symbol": symbol, "timeframe": "1m", "price_digits": 2, "volume_digits": 3}
        call("POST", "/v1/series", json.dumps(registration))
    call("POST", "/v1/klines/ALL/1m", HEADER + "\n".join(row(n) for n in range(rows)), "text/csv")
    began = time.time()
    for n in range(rows):
        call("POST", "/v1/klines/ONE/1m", HEADER + row(n), "text/csv")
    print(f"{rows} appends over REST in {time.time() - began:.1f} s")

    client = flight.connect("grpc://" + grpc)

    def by_rest(symbol, start, end):
        call("GET", f"/v1/klines/{symbol}/1m?start={start}&end={end}&format=arrow")

    def by_flight(symbol, start, end):
        query = {"series": [f"kline/{symbol}/1m"], "start": start, "end": end}
        client.do_get(flight.Ticket(json.dumps(query))).read_all()

    last = BEGIN + (rows - 1) * MINUTE
    middle = BEGIN + rows // 2 * MINUTE
    ranges = {
        "day in the middle": (middle, middle + 1439 * MINUTE),
        "last day": (last - 1439 * MINUTE, last),
        "all rows": (BEGIN, last),
    }
    for name, (start, end) in ranges.items():
        for interface, read in (("REST Arrow", by_rest), ("Flight", by_flight)):
            taken = {"ONE": [], "ALL": []}
            for turn in range(300):
                for symbol in ("ONE", "ALL") if turn % 2 else ("ALL", "ONE"):
                    began = time.perf_counter()
                    read(symbol, start, end)
                    taken[symbol].append((time.perf_counter() - began) * 1e6)
            one, every = (statistics.quantiles(taken[symbol], n=4) for symbol in ("ONE", "ALL"))
            print(
                f"{name}, {interface}: one by one {one[1]:.0f} us [{one[0]:.0f}..{one[2]:.0f}], "
                f"at once {every[1]:.0f} us [{every[0]:.0f}..{every[2]:.0f}], ratio {one[1] / every[1]:.2f}"
            )


if __name__ == "__main__":
    main()
