"""Slow clients under TLS and on the Flight listener: they are disconnected, and block no other client."""

import contextlib
import http.client
import json
import resource
import socket
import ssl
import time

import pyarrow.flight as flight
import pytest
import support

# Timeout for the close of a silent connection; the limits under test are far below.
TIMEOUT_SECONDS = 30
# Idle connections of each listener, which accepts 1,024.
IDLE = 1_200
IDLE_GROWTH_MAX = 192 << 20
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0)
HEADERS = bytes([0x83, 0x86, 0x44, 1]) + b"/" + bytes([0x41, 9]) + b"localhost"


@contextlib.contextmanager
def serving(folder, text, is_secured):
    """A server with these settings, a function that connects to its listeners, and one that checks its responses."""
    context = None
    if is_secured:
        support.certificates(folder)
        text += f'[tls]\ncert = "{folder}/server.pem"\nkey = "{folder}/server.key"\n'
        context = ssl.create_default_context(cafile=folder / "root.pem")
    (folder / "fastk.toml").write_text(text)
    server = support.Server(folder / "store", "--config", str(folder / "fastk.toml")).start()

    def port(protocol):
        return int(getattr(server, protocol).rsplit(":", 1)[1])

    def connect(protocol, secure=True):
        bare = socket.create_connection(("127.0.0.1", port(protocol)), timeout=TIMEOUT_SECONDS)
        if not (secure and context):
            return bare
        context.set_alpn_protocols(["h2"] if protocol == "flight" else ["http/1.1"])
        return context.wrap_socket(bare, server_hostname="localhost")

    def is_answered():
        made = http.client.HTTPSConnection if context else http.client.HTTPConnection
        options = {"context": context} if context else {}
        if context:
            context.set_alpn_protocols(["http/1.1"])
        client = made("localhost", port("http"), timeout=TIMEOUT_SECONDS, **options)
        client.request("GET", "/health/live")
        assert client.getresponse().status == 200
        client.close()
        options = {"tls_root_certs": (folder / "root.pem").read_bytes()} if context else {}
        address = server.flight.replace("grpc://127.0.0.1", "grpc+tls://localhost") if context else server.flight
        with flight.connect(address, **options) as caller:
            health = next(iter(caller.do_action(flight.Action("health", b""))))
        assert json.loads(health.body.to_pybytes())["status"] == "ok"

    try:
        yield server, connect, is_answered
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["plain", "tls"])
def impatient(tmp_path_factory, request):
    """A server with short timeouts, and a function that connects to its listeners."""
    text = (
        "[http]\nheader_timeout_ms = 2000\nbody_idle_timeout_ms = 1000\nbody_timeout_ms = 2000\nstall_timeout_ms = 500\n"
        "[flight]\nhandshake_timeout_ms = 2000\nmessage_timeout_ms = 2000\nping_interval_ms = 500\nping_timeout_ms = 500\n"
    )
    with serving(tmp_path_factory.mktemp("impatient"), text, request.param == "tls") as (_, connect, is_answered):
        yield connect, is_answered


def drip(stream, drops, first=b"", pause=0.01):
    """Sends pieces without end; returns all received bytes until the server closes, possibly before the first piece."""
    started, heard = time.monotonic(), b""
    with contextlib.suppress(OSError):
        stream.sendall(first)
    stream.settimeout(pause)
    while time.monotonic() - started < TIMEOUT_SECONDS:
        for drop in drops or [b""]:
            try:
                if drop:
                    stream.sendall(drop)
                some = stream.recv(65_536)
                if not some:
                    return heard
                heard += some
            except TimeoutError:
                continue
            except OSError:
                return heard
    raise AssertionError(f"it lives on; heard {heard[:200]!r}")


def bytes_of(text):
    return [bytes([byte]) for byte in text]


def test_headers_and_bodies_sent_byte_by_byte_are_aborted(impatient):
    connect, is_answered = impatient
    assert drip(connect("http"), []) == b"", "a silent connection"
    assert drip(connect("http", secure=False), []) == b"", "one that does not secure itself"
    assert drip(connect("http", secure=False), bytes_of(b"\x16\x03\x01\x02\x00" + b"\x01" * 50)) is not None
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    assert drip(connect("http"), bytes_of(b"x: y\r\n"), head) == b""
    head = b"POST /v1/series HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n"
    heard = drip(connect("http"), [b" "], head)
    assert heard == b"" or b"request_timeout" in heard
    is_answered()


def test_a_response_that_is_not_read_is_aborted(impatient):
    connect, is_answered = impatient
    stalled = []
    for _ in range(4):
        one = connect("http")
        # Many responses at once: more than all buffers hold.
        try:
            one.settimeout(1)
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2_000)
        except OSError:
            pass
        stalled.append(one)
    is_answered()
    started = time.monotonic()
    for one in stalled:
        # The server closed it although no response was read: reading now ends before the last response.
        one.settimeout(TIMEOUT_SECONDS)
        time.sleep(max(0, 3 - (time.monotonic() - started)))
        heard = 0
        try:
            while some := one.recv(1 << 20):
                heard += some.count(b"HTTP/1.1 200")
        except OSError:
            pass
        assert heard < 2_000
        one.close()
    is_answered()


@pytest.mark.parametrize(
    ("what", "first", "drops"),
    [
        ("nothing", b"", []),
        ("half a greeting", b"", bytes_of(GREETING[:-1])),
        ("no settings", GREETING, []),
        ("headers without an end", GREETING + SETTINGS + frame(1, 0, 1, HEADERS), [frame(9, 0, 1, b"\x0f" * 1_000)]),
        ("resets", GREETING + SETTINGS, [frame(1, 5, 1, HEADERS) + frame(3, 0, 1, bytes(4))]),
        ("pings whose replies are not read", GREETING + SETTINGS, []),
        ("a frame that is too long", GREETING + SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", [b"x" * 100]),
    ],
)
def test_floods_and_silence_close_connections_of_flight(impatient, what, first, drops):
    connect, is_answered = impatient
    stream = connect("flight")
    drip(stream, drops, first)
    stream.close()
    is_answered()


def test_many_slow_clients_do_not_block_others(impatient):
    connect, is_answered = impatient
    slow = [connect(protocol) for _ in range(40) for protocol in ("http", "flight")]
    for _ in range(5):
        for one in slow:
            try:
                one.sendall(b"G")
            except OSError:
                pass
        is_answered()
    for one in slow:
        one.close()


def anonymous(server):
    """Anonymous memory of the process in bytes."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))


def test_idle_connections_under_tls_block_no_other_client(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2 * IDLE + 500:
        pytest.skip(f"this process may have {hard} files open only")
    if 0 <= soft < 2 * IDLE + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * IDLE + 500, hard))
    with serving(tmp_path, "", True) as (server, connect, is_answered):
        is_answered()
        before, most, idle = anonymous(server), 0, []
        for position in range(IDLE):
            for protocol in ("http", "flight"):
                # Idle after the TLS handshake, a partial handshake, or no bytes.
                idle.append(connect(protocol, secure=position % 3 == 0))
                if position % 3 == 1:
                    idle[-1].sendall(b"\x16\x03\x01\x02\x00\x01")
            if position % 200 == 199:
                is_answered()
                most = max(most, anonymous(server))
        assert most <= before + IDLE_GROWTH_MAX, f"{before >> 20} MiB became {most >> 20} MiB"
        for one in idle:
            one.close()
        is_answered()
