"""A server under test, and rows with known cells.

Nothing here depends on the responses of FastK: expected values are computed independently.
"""

import http.client
import json
import os
import select
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa

KEY = "kline/BTCUSDT/1m"
PATH = tuple(KEY.split("/"))
T0 = 1_706_745_600_000  # 2024-02-01T00:00:00Z
MINUTE = 60_000
PRICE_DIGITS = 2
VOLUME_DIGITS = 8
REGISTRATION = {
    "kind": "kline",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "price_digits": PRICE_DIGITS,
    "volume_digits": VOLUME_DIGITS,
}
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30


def binary() -> str:
    """The program under test: FASTK_BIN, else the latest build of cargo in this checkout."""
    named = os.environ.get("FASTK_BIN")
    if named:
        return named
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
    built = [path for path in (target / "release" / "fastk", target / "debug" / "fastk") if path.exists()]
    if not built:
        raise RuntimeError(f"no fastk in {target}: build it, or set FASTK_BIN")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def run(*args, check=True, **options) -> subprocess.CompletedProcess:
    """Runs `fastk` with these arguments."""
    options.setdefault("timeout", 600)
    done = subprocess.run(
        [binary(), *map(str, args)], capture_output=True, text=True, encoding="utf-8", **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"fastk {' '.join(map(str, args))} ended with {done.returncode}:\n{done.stderr}\n{done.stdout}")
    return done


class Server:
    """`fastk serve` on free ports, over a store in `root`."""

    def __init__(self, root: Path, *flags: str, http: str = "127.0.0.1:0"):
        self.root = Path(root)
        self.flags = flags
        self.listen = http
        self.http = self.flight = ""
        self.process = None
        self.log = self.root.with_name(self.root.name + ".log")

    def start(self) -> "Server":
        command = [binary(), "serve", "--root", str(self.root)]
        command += ["--http", self.listen, "--flight", "127.0.0.1:0", *self.flags]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        line = self._ready_line()
        fields = dict(word.split("=", 1) for word in line.split()[1:])
        assert line.startswith("ready "), f"not the ready line: {line!r}"
        self.fields = fields
        self.http = f"http://{fields['http']}"
        self.flight = f"grpc://{fields['flight']}"
        return self

    def _ready_line(self) -> str:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.process.stdout], [], [], 0.1)
            if readable:
                line = self.process.stdout.readline().decode()
                if line:
                    return line.strip()
            if self.process.poll() is not None:
                break
        self.kill()
        raise AssertionError(f"the server did not become ready:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Stops the server, and asserts a clean exit."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within {STOP_SECONDS_MAX} s of SIGTERM")
        self.process.stdout.close()
        self.process = None
        assert code == 0, f"the server ended with {code}:\n{self.log.read_text(errors='replace')[-4000:]}"

    def kill(self) -> None:
        """Kills the server."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def restart(self) -> "Server":
        self.stop()
        return self.start()

    def request(self, method: str, path: str, body=None, headers=None) -> http.client.HTTPResponse:
        """Sends a request and returns the open response; raises `urllib.error.HTTPError` for status 400 and above."""
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.http + path, data=body, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=60)

    def read(self, path: str, **headers) -> bytes:
        """The whole body of a GET."""
        with self.request("GET", path, headers=headers) as response:
            return response.read()

    def json(self, method: str, path: str, body=None, headers=None):
        with self.request(method, path, body, headers) as response:
            return json.loads(response.read())

    def seal(self) -> None:
        """Seals all rows into chunk files."""
        import pyarrow.flight as flight

        with flight.connect(self.flight) as client:
            list(client.do_action(flight.Action("compact", b"")))

    def chunks(self) -> list[Path]:
        """The chunk files in the directory, oldest partition first: also those that a compaction replaced, which stay as
        long as an earlier commit can be requested."""
        return sorted(self.root.glob("chunks/*/*.arrow"))

    def files(self, key: str = KEY) -> list[Path]:
        """The chunk files that hold exactly a series now, oldest partition first."""
        done = subprocess.run(
            [binary(), "files", key, "--server", self.http], capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return sorted(map(Path, done.stdout.splitlines()))


def decimals(words, digits: int) -> pa.Array:
    """An Arrow decimal column of these scaled integers."""
    words = np.ascontiguousarray(words, dtype=np.int64)
    return pa.Array.from_buffers(pa.decimal64(18, digits), len(words), [None, pa.py_buffer(words)])


def words(column) -> np.ndarray:
    """The scaled integers of a decimal column, as in memory."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.int64)[chunk.offset : chunk.offset + len(chunk)] for chunk in chunks
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def klines(count: int, first: int = 0, salt: int = 0) -> pa.Table:
    """Minute bars; each cell is derived from its minute and `salt`."""
    minute = np.arange(first, first + count, dtype=np.int64)
    middle = 4_200_000 + (minute * 7919) % 100_003 + salt
    volume = (minute * 1_000_003) % 9_999_999_999_967
    ts = pa.array(T0 + minute * MINUTE, pa.int64()).cast(pa.timestamp("ms", "UTC"))
    return pa.table(
        {
            "ts": ts,
            "open": decimals(middle + 3, PRICE_DIGITS),
            "high": decimals(middle + 9, PRICE_DIGITS),
            "low": decimals(middle - 9, PRICE_DIGITS),
            "close": decimals(middle + minute % 7, PRICE_DIGITS),
            "volume": decimals(volume, VOLUME_DIGITS),
        }
    )


def assert_same(table: pa.Table, expected: pa.Table) -> None:
    """Asserts equal names, types and cells; metadata is ignored."""
    assert table.schema.names == expected.schema.names
    assert table.schema.types == expected.schema.types
    assert table.num_rows == expected.num_rows
    for name in expected.schema.names:
        one, two = table[name].combine_chunks(), expected[name].combine_chunks()
        assert one.null_count == 0
        if pa.types.is_decimal64(one.type):
            assert np.array_equal(words(one), words(two)), name
        else:
            assert one.equals(two), name


def certificates(folder):
    """A root certificate, and a server and a client certificate issued by it."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)

    def write(name, subject, issuer=None, is_root=False):
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        signer, signed_by = issuer or (key, named)
        alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(named)
            .issuer_name(signed_by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(signer, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
        return key, named

    root = write("root", "root", is_root=True)
    write("server", "localhost", root)
    write("client", "client", root)


def put_table(client, descriptor, table, rows_max):
    """Writes a table by DoPut in batches of at most `rows_max` rows; gives all acknowledgements."""
    writer, reader = client.do_put(descriptor, table.schema)
    writer.write_table(table, max_chunksize=rows_max)
    writer.done_writing()
    acks = []
    while (buffer := reader.read()) is not None:
        acks.append(json.loads(buffer.to_pybytes()))
    writer.close()
    return acks
