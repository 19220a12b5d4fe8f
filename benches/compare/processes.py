"""The processes of a run, each stopped by its own handle, and their clients."""

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight

# Recommended by docs/flight.md.
PUT_ROWS = 262_144
READY_SECONDS_MAX = 120
IDLE_SECONDS_MAX = 5
END_SECONDS_MAX = 60

HERE = Path(__file__).parent


def wait_for_end(process: subprocess.Popen) -> None:
    """Waits for a process to exit, and kills it after a timeout."""
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Process:
    """A program that prints `ready NAME=ADDRESS …` when it is ready."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.log = log
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
            )
        try:
            self.addresses = dict(word.split("=", 1) for word in self._ready_line().split()[1:])
        except BaseException:
            self.stop()
            raise

    def _ready_line(self) -> str:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                line = self.process.stdout.readline().decode()
                if line.startswith("ready "):
                    return line
        raise SystemExit(f"a server did not become ready: {self.log.read_text(errors='replace')[-2000:]}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            wait_for_end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


def put_table(client: flight.FlightClient, command: str, table: pa.Table) -> int:
    """Writes a table and returns the number of acknowledged rows, all durable."""
    writer, replies = client.do_put(flight.FlightDescriptor.for_command(command), table.schema)
    rows = 0
    with writer:
        writer.write_table(table, max_chunksize=PUT_ROWS)
        writer.done_writing()
        while (reply := replies.read()) is not None:
            reply = json.loads(reply.to_pybytes())
            rows += reply["rows_written"]
            if reply["durable"] is not True:
                raise SystemExit(f"a write is not durable: {reply}")
    assert rows == table.num_rows
    return rows


class Server(Process):
    """`fastk serve` on free ports."""

    def __init__(self, binary: str, root: Path, durability: str = "sync"):
        command = [binary, "serve", "--root", str(root), "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]
        environment = {"FASTK__STORE__DURABILITY": durability, "FASTK_LOG": "warn"}
        super().__init__(command, root.with_name(root.name + ".log"), environment)
        self.http = Http(self.addresses["http"])
        self.flight = flight.connect("grpc://" + self.addresses["flight"])

    def json(self, method: str, path: str, body=None):
        return json.loads(self.http.call(method, path, None if body is None else json.dumps(body), "application/json"))

    def action(self, name: str, body: dict | None = None) -> None:
        list(self.flight.do_action(flight.Action(name, json.dumps(body).encode() if body else b"")))

    def put(self, command: dict, table: pa.Table) -> int:
        """Writes a table over Flight and returns the number of acknowledged rows, after the last acknowledgement."""
        return put_table(self.flight, json.dumps(command), table)

    def stop(self) -> None:
        if hasattr(self, "http"):
            self.http.close()
            self.flight.close()
        super().stop()


class Bare(Process):
    """A server that only sends these files."""

    def __init__(self, binary: str, files: list[Path], log: Path):
        super().__init__([binary, *map(str, files)], log)
        self.http = Http(self.addresses["http"])

    def stop(self) -> None:
        if hasattr(self, "http"):
            self.http.close()
        super().stop()


class FlightPeer(Process):
    """Arrow's own Flight server over an Arrow file."""

    def __init__(self, file: str, log: Path):
        super().__init__([sys.executable, str(HERE / "flight_peer.py"), file], log)
        self.flight = flight.connect("grpc://" + self.addresses["flight"])

    def stop(self) -> None:
        if hasattr(self, "flight"):
            self.flight.close()
        super().stop()


class Embedded:
    """The engine in its own process, which executes one command per line; `benches/embedded.rs` lists the commands."""

    def __init__(self, binary: str):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, *words) -> dict:
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"the process exited with {self.process.wait()}"}
        if "error" in reply:
            raise SystemExit(f"the engine in process: {reply['error']} (command {' '.join(map(str, words))[:200]})")
        return reply

    def stop(self) -> None:
        self.process.stdin.close()
        wait_for_end(self.process)
        self.process.stdout.close()


class Http:
    """One persistent connection for small responses, and a new socket for each large one."""

    def __init__(self, address: str):
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=600)
        self.used = 0.0
        self.buffer = bytearray(1 << 20)

    def reply(self, method: str, path: str, body=None, kind: str = "application/json", headers: dict | None = None):
        """Status, headers and body."""
        # A server may close an idle connection.
        if time.monotonic() - self.used > IDLE_SECONDS_MAX:
            self.connection.close()
        self.connection.request(method, path, body, {"Content-Type": kind, **(headers or {})})
        reply = self.connection.getresponse()
        content = reply.read()
        self.used = time.monotonic()
        return reply.status, reply.headers, content

    def call(self, method: str, path: str, body=None, kind: str = "application/json") -> bytes:
        status, _, content = self.reply(method, path, body, kind)
        if status >= 300:
            raise SystemExit(f"{method} {path[:200]}: {status} {content[:500]!r}")
        return content

    def get(self, path: str) -> bytes:
        return self.call("GET", path)

    def drain(self, path: str) -> int:
        """Receives a response into one buffer and returns its size on the wire. A client library would measure itself."""
        host, port = self.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=600) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n".encode())
            view, received = memoryview(self.buffer), 0
            while count := stream.recv_into(view):
                if received == 0 and not bytes(view[:15]).startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"GET {path}: {bytes(view[: min(count, 500)])!r}")
                received += count
        return received

    def close(self) -> None:
        self.connection.close()
