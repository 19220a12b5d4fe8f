"""Memory of the server while many clients stream the same large series, half of them slowly.

    python benches/memory.py target/dist/fastk [CLIENTS] [ROWS]

Needs pyarrow. Half of the clients read over Flight, half over REST; of each, every other one takes a little and pauses.
Prints the peak of the server's anonymous memory (RssAnon), of the page cache it has mapped (RssFile), and what the
clients received.
"""
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

MINUTE, BEGIN, KEY = 60_000, 1_500_000_000_000 // 86_400_000 * 86_400_000, "kline/BTCUSDT/1m"
SLOW_BYTES, SLOW_PAUSE = 4 << 20, 0.1


def memory(pid):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def fill(client, rows):
    registration = {"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m"}
    command = flight.FlightDescriptor.for_command(json.dumps({"series": KEY, "create": registration}))
    writer = None
    for first in range(0, rows, 250_000):
        n = np.arange(first, min(first + 250_000, rows))
        price = 100 + (n % 5_000) / 100
        columns = {"open": price, "high": price + 1, "low": price - 1, "close": price, "volume": (n % 97) / 10}
        batch = pa.table({"ts": pa.array(BEGIN + n * MINUTE, pa.timestamp("ms", "UTC")), **columns})
        if writer is None:
            writer, _ = client.do_put(command, batch.schema)
        writer.write_table(batch, max_chunksize=65_536)
    writer.close()


def by_flight(address, slow, received, at):
    with flight.connect(f"grpc://{address}") as client:
        waiting = 0
        for chunk in client.do_get(flight.Ticket(json.dumps({"series": [KEY]}))):
            received[at] += chunk.data.num_rows
            waiting += chunk.data.nbytes
            if slow and waiting > SLOW_BYTES:
                time.sleep(SLOW_PAUSE)
                waiting = 0


def by_rest(address, slow, received, at):
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /v1/klines/BTCUSDT/1m?format=arrow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

        class Body:
            """The chunked body as a file, for pyarrow."""

            def __init__(self):
                self.file = connection.makefile("rb", buffering=1 << 20)
                while self.file.readline() != b"\r\n":
                    pass
                self.left = 0

            closed = False

            def read(self, size):
                parts = []
                while size > 0:
                    if self.left == 0:
                        self.left = int(self.file.readline(), 16)
                        if self.left == 0:
                            break
                    part = self.file.read(min(size, self.left))
                    self.left -= len(part)
                    size -= len(part)
                    parts.append(part)
                    if self.left == 0:
                        self.file.readline()
                return b"".join(parts)

        waiting = 0
        for batch in pa.ipc.open_stream(pa.PythonFile(Body(), "r")):
            received[at] += batch.num_rows
            waiting += batch.nbytes
            if slow and waiting > SLOW_BYTES:
                time.sleep(SLOW_PAUSE)
                waiting = 0


def main():
    binary = sys.argv[1]
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
    root = tempfile.mkdtemp()
    command = [binary, "serve", "--root", root, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]

    def start():
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        _, rest, grpc = server.stdout.readline().decode().split()
        return server, rest.split("=")[1], grpc.split("=")[1]

    server, _, grpc = start()
    try:
        with flight.connect(f"grpc://{grpc}") as client:
            fill(client, rows)
            list(client.do_action(flight.Action("compact", b"{}")))
        # A server that has only ever read.
        server.terminate()
        server.wait()
        server, rest, grpc = start()
        before = memory(server.pid)
        received = [0] * clients
        threads = []
        for at in range(clients):
            read, address = (by_flight, grpc) if at % 2 == 0 else (by_rest, rest)
            threads.append(threading.Thread(target=read, args=(address, at % 4 >= 2, received, at)))
        began = time.time()
        for thread in threads:
            thread.start()
        peak = before
        while any(thread.is_alive() for thread in threads):
            now = memory(server.pid)
            peak = {name: max(peak[name], now[name]) for name in peak}
            time.sleep(0.02)
        assert received == [rows] * clients, received
        print(
            f"{clients} clients, {rows} rows each, {time.time() - began:.0f} s: RssAnon {before['RssAnon']:.0f} MiB "
            f"before, {peak['RssAnon']:.0f} MiB at most; RssFile {peak['RssFile']:.0f} MiB at most"
        )
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
