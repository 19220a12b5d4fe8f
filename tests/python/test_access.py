"""Tokens from real clients: Bearer and Basic over REST and Flight, created and revoked while the server runs."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import support


def bars(rows: int) -> pa.Table:
    ts = pa.array([support.T0 + row * support.MINUTE for row in range(rows)], pa.timestamp("ms", "UTC"))
    return pa.table({"ts": ts, **{name: pa.array([1.5] * rows) for name in ("open", "high", "low", "close", "volume")}})


@pytest.fixture
def guarded(tmp_path, fastk):
    """A server that requires tokens, and a token of each scope."""
    root = tmp_path / "store"
    tokens = {}
    for scope in ("read", "write", "admin"):
        made = json.loads(fastk("admin", "token", "create", "--root", root, "--name", scope, "--scope", scope, "--json").stdout)
        assert set(made) == {"id", "name", "scope", "token"}
        tokens[scope] = made
    running = support.Server(root).start()
    try:
        yield running, tokens
    finally:
        running.kill()


def status(server, headers) -> int:
    return status_of(server, "/inventory", headers)


def status_of(server, path, headers) -> int:
    try:
        with server.request("GET", path, headers=headers) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_rest_accepts_bearer_and_basic(guarded):
    server, tokens = guarded
    token = tokens["read"]["token"]
    pair = base64.b64encode(f"anyone:{token}".encode()).decode()
    assert status(server, {}) == 401
    for good in (f"Bearer {token}", f"bearer {token}", f"Basic {pair}", f"Basic {pair.rstrip('=')}"):
        assert status(server, {"Authorization": good}) == 200, good
    for bad in ("Bearer fastk_no", f"Bearer {token}x", "Basic x", f"Digest {token}"):
        assert status(server, {"Authorization": bad}) == 401, bad
    assert server.read("/health/live") and server.read("/openapi.json")
    assert token not in server.log.read_text()


def test_pyarrow_logs_in_like_database_clients(guarded):
    server, tokens = guarded
    client = flight.connect(server.flight)
    with pytest.raises(flight.FlightUnauthenticatedError):
        list(client.list_flights())
    with pytest.raises(flight.FlightUnauthenticatedError):
        client.authenticate_basic_token("lab", "wrong")
    header, value = client.authenticate_basic_token("lab", tokens["write"]["token"])
    assert (header, value) == (b"authorization", f"Bearer {tokens['write']['token']}".encode())
    writer = flight.FlightCallOptions(headers=[(header, value)])
    registration = {"series": support.KEY, "create": {"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m"}}
    descriptor = flight.FlightDescriptor.for_command(json.dumps(registration))
    stream, _ = client.do_put(descriptor, bars(10).schema, options=writer)
    stream.write_table(bars(10))
    stream.close()
    reader = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {tokens['read']['token']}".encode())])
    ticket = flight.Ticket(json.dumps({"series": [support.KEY]}))
    assert client.do_get(ticket, options=reader).read_all().num_rows == 10
    with pytest.raises(flight.FlightUnauthenticatedError):
        client.do_get(ticket).read_all()
    with pytest.raises(flight.FlightUnauthorizedError):
        list(client.do_action(flight.Action("compact", b""), options=writer))


def test_tokens_are_created_and_revoked_while_the_server_runs(guarded, fastk):
    server, tokens = guarded
    made = json.loads(
        fastk("admin", "token", "create", "--root", server.root, "--name", "eth", "--scope", "read", "--prefix", "kline/ETH", "--json").stdout
    )
    fresh = {"Authorization": f"Bearer {made['token']}"}
    assert status(server, fresh) == 200, "a new token is valid at once"
    listed = json.loads(fastk("admin", "token", "list", "--root", server.root, "--json").stdout)["tokens"]
    assert [row["name"] for row in listed] == ["read", "write", "admin", "eth"]
    assert listed[3]["prefixes"] == ["kline/ETH"] and made["token"] not in json.dumps(listed)
    fastk("admin", "token", "revoke", made["id"], "--root", server.root)
    deadline = time.monotonic() + 60
    while status(server, fresh) == 200:
        assert time.monotonic() < deadline, "a revoked token stays good"
        time.sleep(0.1)
    assert status(server, fresh) == 401
    assert fastk("admin", "token", "revoke", "none", "--root", server.root, check=False).returncode != 0


def test_the_command_line_sends_its_token(guarded, fastk):
    server, tokens = guarded
    refused = fastk("admin", "inventory", "--server", server.http, check=False)
    assert refused.returncode == 5 and "error[unauthenticated]" in refused.stderr
    fastk("admin", "inventory", "--server", server.http, "--token", tokens["read"]["token"])
    # The server has the lock of the directory, so the command goes through the server.
    fastk("register", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["write"]["token"])
    few = fastk("drop", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["write"]["token"], check=False)
    assert few.returncode == 5 and "error[permission_denied]" in few.stderr
    fastk("drop", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["admin"]["token"])
    audit = [line for line in server.log.read_text().splitlines() if "fastk::audit" in line]
    logged = [(found[1], found[2]) for line in audit if (found := re.search(r"caller=\"?(\w+)\"?.*status=(\d+)", line))]
    assert logged == [(tokens["write"]["id"], "403"), (tokens["admin"]["id"], "200")]


def test_other_machines_have_access_only_with_tokens(tmp_path, fastk):
    root = tmp_path / "store"
    flags = ["serve", "--root", root, "--http", "0.0.0.0:0", "--flight", "127.0.0.1:0"]
    refused = fastk(*flags, check=False)
    assert refused.returncode == 2 and "admin token create" in refused.stderr
    fastk("admin", "token", "create", "--root", root, "--name", "lab", "--scope", "read")
    running = support.Server(root, http="0.0.0.0:0").start()
    try:
        assert status(running, {}) == 401
    finally:
        running.stop()


@pytest.mark.parametrize("is_mutual", [False, True])
def test_both_listeners_support_tls(tmp_path, fastk, is_mutual):
    import socket
    import ssl

    support.certificates(tmp_path)
    text = f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
    if is_mutual:
        text += f'client_ca = "{tmp_path}/root.pem"\n'
    (tmp_path / "fastk.toml").write_text(text)
    root = tmp_path / "store"
    made = json.loads(fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "admin", "--json").stdout)
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    try:
        port = int(server.http.rsplit(":", 1)[1])
        context = ssl.create_default_context(cafile=tmp_path / "root.pem")
        if is_mutual:
            with pytest.raises(OSError):
                with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as bare:
                    bare.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    assert bare.recv(100) == b"", "a client without a certificate gets a response"
                    raise OSError("closed")
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        authorization = {"Authorization": f"Bearer {made['token']}"}
        for headers, expected in ((authorization, 200), ({}, 401)):
            client = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
            client.request("GET", "/inventory", headers=headers)
            assert client.getresponse().status == expected
            client.close()
        # Plain HTTP is refused, and a silent client blocks no other.
        silent = [socket.create_connection(("127.0.0.1", int(at.rsplit(":", 1)[1]))) for at in (server.http, server.flight)]
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert not plain.recv(1000).startswith(b"HTTP/")
        options = {"tls_root_certs": (tmp_path / "root.pem").read_bytes()}
        if is_mutual:
            options["cert_chain"] = (tmp_path / "client.pem").read_bytes()
            options["private_key"] = (tmp_path / "client.key").read_bytes()
        client = flight.connect(server.flight.replace("grpc://127.0.0.1", "grpc+tls://localhost"), **options)
        call = flight.FlightCallOptions(headers=[client.authenticate_basic_token("any", made["token"])])
        create = {"series": support.KEY, "create": {"kind": "kline", "symbol": "BTCUSDT", "timeframe": "1m"}}
        stream, _ = client.do_put(flight.FlightDescriptor.for_command(json.dumps(create)), bars(1).schema, options=call)
        stream.write_table(bars(50_000), max_chunksize=10_000)
        stream.close()
        got = client.do_get(flight.Ticket(json.dumps({"series": [support.KEY]})), options=call).read_all()
        assert got.num_rows == 50_000 and got.column("ts").equals(bars(50_000).column("ts"))
        for one in silent:
            one.close()
    finally:
        server.stop()


@pytest.mark.parametrize("is_mutual", [False, True])
def test_the_command_line_supports_tls(tmp_path, fastk, is_mutual):
    import os

    support.certificates(tmp_path)
    (tmp_path / "others").mkdir()
    support.certificates(tmp_path / "others")
    text = f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
    if is_mutual:
        text += f'client_ca = "{tmp_path}/root.pem"\n'
    (tmp_path / "fastk.toml").write_text(text)
    root = tmp_path / "store"
    made = json.loads(fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "admin", "--json").stdout)
    # The certificate does not name this address.
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml"), http="127.0.0.2:0").start()
    elsewhere = support.Server(tmp_path / "named", "--config", str(tmp_path / "fastk.toml")).start()
    token = ["--token", made["token"]]
    mine = ["--cert", tmp_path / "client.pem", "--key", tmp_path / "client.key"] if is_mutual else []
    ca = ["--ca", tmp_path / "root.pem"]
    port = elsewhere.http.rsplit(":", 1)[1]
    plain_environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTK")}
    environment = {**plain_environment, "FASTK_CA": str(tmp_path / "root.pem"), "FASTK_TOKEN": made["token"]}
    if is_mutual:
        environment |= {"FASTK_CERT": str(tmp_path / "client.pem"), "FASTK_KEY": str(tmp_path / "client.key")}
    try:
        # A server given by --server: checked by its names and its issuer.
        for host in ("localhost", "127.0.0.1"):
            target = ["--server", f"https://{host}:{port}"]
            assert json.loads(fastk("admin", "health", *target, *ca, *mine, "--json").stdout)["status"] == "ok"
            assert fastk("admin", "inventory", *target, env=environment).stdout
        target = ["--server", f"https://localhost:{port}"]
        rows = tmp_path / "rows.csv"
        lines = [f"{support.T0 + row * support.MINUTE},1.5,2.5,0.5,1.5,10" for row in range(20_000)]
        rows.write_text("ts,open,high,low,close,volume\n" + "\n".join(lines) + "\n")
        fastk("import", rows, "--series", support.KEY, *target, *ca, *mine)
        fastk("export", support.KEY, "--output", tmp_path / "back.csv", *target, *ca, *mine)
        assert len((tmp_path / "back.csv").read_text().splitlines()) == 20_001
        read = ["bridge", "read-kline-range", "--symbol", "BTCUSDT", "--timeframe", "1m", "--start-ts", support.T0, "--end-ts", support.T0]
        assert len(json.loads(fastk(*read, *target, *ca, *mine).stdout)["records"]) == 1

        def refused(*flags, word, status=7):
            done = fastk("admin", "health", *flags, check=False, env=plain_environment)
            assert done.returncode == status and word in done.stderr, done.stderr

        refused(*target, "--ca", tmp_path / "others" / "root.pem", *mine, word="--ca FILE")
        refused("--server", server.http.replace("http://", "https://"), *ca, *mine, *token, word="names")
        refused("--server", f"http://localhost:{port}", word="https://")
        refused(*target, "--ca", tmp_path / "none.pem", word="none.pem", status=2)
        refused(*target, *ca, "--cert", tmp_path / "client.pem", word="--key", status=2)
        refused(*target, *ca, "--cert", tmp_path / "client.pem", "--key", tmp_path / "server.key", word="server.key", status=2)
        refusal = fastk("admin", "health", *target, *mine, check=False, env=plain_environment)
        assert refusal.returncode in (2, 7) and "--ca FILE" in refusal.stderr, refusal.stderr
        if is_mutual:
            refused(*target, *ca, word="--cert FILE")
            stranger = ["--cert", tmp_path / "others" / "client.pem", "--key", tmp_path / "others" / "client.key"]
            refused(*target, *ca, *stranger, word="--cert FILE")

        # The server that owns the directory: checked by its pinned certificate, for any names in it.
        lock = json.loads((root / "LOCK").read_text())
        assert len(lock["tls"]["certificate_sha256"]) == 64
        done = fastk("register", support.KEY, "--root", root, *token, *mine, env=plain_environment)
        assert f"going through https://{server.http.rsplit('/', 1)[1]}" in done.stderr
        assert support.KEY in fastk("admin", "list-series", "--root", root, *token, *mine, env=plain_environment).stdout
        assert fastk("admin", "list-series", "--root", root, *mine, check=False, env=plain_environment).returncode == 5
        other = {**lock, "tls": {"certificate_sha256": "0" * 64}}
        with open(root / "LOCK", "r+") as file:
            file.truncate()
            file.write(json.dumps(other))
        refused("--root", root, *token, *mine, word="cannot reach https://")
    finally:
        server.stop()
        elsewhere.stop()


def self_signed(folder, name, subject="localhost", is_authority=True, days=1, alternative="DNS:localhost,IP:127.0.0.1"):
    """A self-signed certificate, as created by `openssl req -x509`."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    made = {"DNS": x509.DNSName, "IP": lambda text: x509.IPAddress(ipaddress.ip_address(text))}
    names = [made[kind](text) for kind, text in (one.split(":") for one in alternative.split(","))]
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - datetime.timedelta(days=30))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))


def serving(folder, name, *more):
    """A server under TLS with this certificate."""
    text = f'[tls]\ncert = "{folder}/{name}.pem"\nkey = "{folder}/{name}.key"\n' + "".join(more)
    (folder / "fastk.toml").write_text(text)
    return support.Server(folder / "store", "--config", str(folder / "fastk.toml")).start()


@pytest.mark.parametrize("is_authority", [True, False])
def test_a_self_signed_certificate_is_trusted_if_given(tmp_path, fastk, is_authority):
    self_signed(tmp_path, "server", is_authority=is_authority, alternative="DNS:localhost")
    self_signed(tmp_path, "other", is_authority=is_authority, alternative="DNS:localhost")
    server = serving(tmp_path, "server")
    try:
        port = server.fields["http"].rsplit(":", 1)[1]
        ping = lambda host, ca: fastk(
            "admin", "ping", "--server", f"https://{host}:{port}", "--ca", tmp_path / ca, check=False
        )
        done = ping("localhost", "server.pem")
        assert done.returncode == 0, done.stderr
        # Another certificate with the same name, and an address that is not in the certificate.
        assert ping("localhost", "other.pem").returncode != 0
        done = ping("127.0.0.1", "server.pem")
        assert done.returncode != 0 and "subjectAltName" in done.stderr, done.stderr
        if shutil.which("curl"):
            assert curl("--cacert", tmp_path / "server.pem", f"https://localhost:{port}/health/live")[0] == 200
    finally:
        server.stop()


def test_an_expired_self_signed_certificate_is_refused(tmp_path, fastk):
    self_signed(tmp_path, "server", days=-1)
    server = serving(tmp_path, "server")
    try:
        port = server.fields["http"].rsplit(":", 1)[1]
        done = fastk("admin", "ping", "--server", f"https://localhost:{port}", "--ca", tmp_path / "server.pem", check=False)
        assert done.returncode != 0 and "expired" in done.stderr.lower(), done.stderr
    finally:
        server.stop()


@pytest.mark.skipif(not shutil.which("openssl"), reason="not installed: openssl")
def test_the_certificate_of_the_documentation_works(tmp_path, fastk):
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text(encoding="utf-8")
    command = re.search(r"^openssl req -x509 (?:.*\\\n)*.*$", page, re.MULTILINE)[0]
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, capture_output=True)
    server = serving(tmp_path, "server")
    try:
        port = server.fields["http"].rsplit(":", 1)[1]
        fastk("admin", "ping", "--server", f"https://localhost:{port}", "--ca", tmp_path / "server.pem")
    finally:
        server.stop()


def test_every_listener_uses_renewed_certificates_without_a_restart(tmp_path, fastk):
    import ssl

    for name in ("first", "second"):
        self_signed(tmp_path, name)
    put = lambda name, end: shutil.copy(tmp_path / f"{name}.{end}", tmp_path / f"server.{end}")
    both = lambda name: [put(name, end) for end in ("pem", "key")]
    both("first")
    server = serving(tmp_path, "server", '[http]\nhealth_listen = "127.0.0.1:0"\n')
    listeners = ("http", "flight", "health")

    def shown(listener):
        host, port = server.fields[listener].rsplit(":", 1)
        return ssl.get_server_certificate((host, int(port)), timeout=60)

    def wait(what, deadline=60):
        end = time.monotonic() + deadline
        while not what():
            assert time.monotonic() < end, server.log.read_text()[-4000:]
            time.sleep(0.1)

    def held(name):
        pem = (tmp_path / f"{name}.pem").read_text()
        return all(shown(listener).split() == pem.split() for listener in listeners)

    refused = lambda: server.log.read_text().count("the previous certificate stays in use")
    try:
        assert held("first")
        # Only one of the files exists: the old certificate stays in use, with a log line.
        put("second", "pem")
        wait(lambda: refused() > 0)
        assert held("first")
        put("second", "key")
        wait(lambda: held("second"))
        # A command on the directory accepts the new certificate.
        wait(lambda: fastk("admin", "ping", "--root", server.root, check=False).returncode == 0)
        # Invalid or missing files do not change it either.
        before = refused()
        (tmp_path / "server.pem").write_text("nonsense")
        wait(lambda: refused() > before)
        before = refused()
        (tmp_path / "server.pem").unlink()
        wait(lambda: refused() > before)
        assert held("second")
        both("first")
        wait(lambda: held("first"))
    finally:
        server.stop()


def test_a_token_that_expires_is_listed_and_refused_afterwards(tmp_path, fastk):
    root = tmp_path / "store"
    create = lambda expires, **more: fastk(
        "admin", "token", "create", "--root", root, "--name", "t", "--scope", "read", "--expires", expires, "--json", **more
    )
    made = json.loads(create("30d").stdout)
    listed = fastk("admin", "token", "list", "--root", root).stdout
    assert "expires_at" in listed and made["expires_at"] in listed
    # Dry runs change nothing.
    fastk("admin", "token", "create", "--root", root, "--name", "x", "--scope", "read", "--dry-run")
    done = fastk("admin", "token", "create", "--root", root, "--name", "", "--scope", "read", "--dry-run", check=False)
    assert done.returncode == 2
    assert "would be revoked" in fastk("admin", "token", "revoke", made["id"], "--root", root, "--dry-run").stdout
    assert fastk("admin", "token", "revoke", "none", "--root", root, "--dry-run", check=False).returncode == 3
    assert len(json.loads(fastk("admin", "token", "list", "--root", root, "--json").stdout)["tokens"]) == 1
    done = create("yesterday", check=False)
    assert done.returncode == 2 and "30d" in done.stderr
    assert create("2001-01-01T00:00:00Z", check=False).returncode == 2
    # After the expiry.
    file = root / "tokens.json"
    file.write_text(file.read_text().replace(made["expires_at"], "2024-02-01T00:00:00Z"))
    assert "2024-02-01T00:00:00Z (expired)" in fastk("admin", "token", "list", "--root", root).stdout
    server = support.Server(root).start()
    try:
        bearer = {"Authorization": f"Bearer {made['token']}"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.request("GET", "/inventory", headers=bearer)
        problem = json.loads(refused.value.read())
        assert problem["code"] == "unauthenticated" and "expired at 2024-02-01T00:00:00Z" in problem["detail"]
        with flight.connect(server.flight) as client, pytest.raises(flight.FlightUnauthenticatedError, match="expired"):
            options = flight.FlightCallOptions(headers=[(b"authorization", bearer["Authorization"].encode())])
            list(client.list_flights(options=options))
    finally:
        server.stop()


def test_invalid_certificate_settings_are_reported(tmp_path, fastk):
    support.certificates(tmp_path)
    (tmp_path / "empty.pem").write_text("")
    for cert, key, word in (("none.pem", "server.key", "none.pem"), ("server.pem", "client.key", "client.key"),
                            ("empty.pem", "server.key", "empty.pem"), ("server.pem", "", "tls.key")):
        named = [f'{name} = "{tmp_path / file if file else ""}"' for name, file in (("cert", cert), ("key", key))]
        (tmp_path / "fastk.toml").write_text("[tls]\n" + "\n".join(named) + "\n")
        done = fastk("serve", "--root", tmp_path / "store", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0",
                     "--config", tmp_path / "fastk.toml", check=False)
        assert done.returncode == 2 and word in done.stderr, (cert, key, done.stderr)


def status_of_get(address, path, context=None, **headers):
    """Status of a GET on a separate connection."""
    if context is None:
        client = http.client.HTTPConnection(address, timeout=30)
    else:
        client = http.client.HTTPSConnection(address, timeout=30, context=context)
    try:
        client.request("GET", path, headers=headers)
        return client.getresponse().status
    finally:
        client.close()


@pytest.mark.parametrize("has_tokens", [False, True])
def test_health_is_served_on_a_separate_listener(tmp_path, fastk, has_tokens):
    root = tmp_path / "store"
    (tmp_path / "fastk.toml").write_text('[http]\nhealth_listen = "127.0.0.1:0"\n')
    bearer = {}
    if has_tokens:
        made = fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "read", "--json")
        bearer = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    try:
        address = server.fields["health"]
        anonymous_status = 401 if has_tokens else 200
        for path, without, expected in (
            ("/health/live", 200, 200), ("/health/ready", 200, 200),
            ("/metrics", anonymous_status, 200), ("/health", anonymous_status, 200),
            ("/inventory", 401 if has_tokens else 404, 404), ("/v1/series", 401 if has_tokens else 404, 404),
        ):
            assert status_of_get(address, path) == without, path
            assert status_of_get(address, path, **bearer) == expected, path
        if has_tokens:
            for path in ("/metrics", "/health"):
                assert status_of_get(address, path, Authorization="Bearer fastk_no") == 401
        assert fastk("admin", "ping", "--server", address).returncode == 0
    finally:
        server.stop()


def listening(process):
    """Ports of 127.0.0.1 that a process listens on."""
    own, ports = set(), set()
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        # The file descriptor may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            own.add(os.readlink(path))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
            ports.add(int(fields[1].split(":")[1], 16))
    return ports


def test_the_health_listener_responds_while_the_store_is_being_opened(tmp_path, fastk):
    root = tmp_path / "store"
    fastk("register", support.KEY, "--root", root)
    # A FIFO in place of a log segment blocks the open, since it has no writer.
    [segment] = (root / "wal").iterdir()
    segment.unlink()
    os.mkfifo(segment)
    settings = {**os.environ, "FASTK__HTTP__HEALTH_LISTEN": "127.0.0.1:0"}
    command = [support.binary(), "serve", "--root", root, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"]
    process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + support.START_SECONDS_MAX
        while len(ports := listening(process)) < 2:
            assert time.monotonic() < deadline and process.poll() is None, "the health listener does not respond"
            time.sleep(0.05)
        assert len(ports) == 2
        for port in ports:
            for path, expected in (("/health/live", 200), ("/health/ready", 503), ("/metrics", 503)):
                assert status_of_get(f"127.0.0.1:{port}", path) == expected, path
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("is_mutual", [False, True])
@pytest.mark.parametrize("health_tls", [True, False])
def test_the_health_listener_uses_tls_unless_disabled(tmp_path, fastk, is_mutual, health_tls):
    import ssl

    support.certificates(tmp_path)
    text = '[http]\nhealth_listen = "127.0.0.1:0"\n' + ("" if health_tls else "health_tls = false\n")
    text += f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
    text += f'client_ca = "{tmp_path}/root.pem"\n' if is_mutual else ""
    (tmp_path / "fastk.toml").write_text(text)
    root = tmp_path / "store"
    fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "read")
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    try:
        address = server.fields["health"]
        context = ssl.create_default_context(cafile=tmp_path / "root.pem")
        if is_mutual:
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        good, bad = (context, None) if health_tls else (None, context)
        for path, expected in (("/health/live", 200), ("/health/ready", 200), ("/metrics", 401), ("/health", 401)):
            assert status_of_get(address, path, good) == expected
        with pytest.raises((OSError, http.client.HTTPException)):
            status_of_get(address, "/health/live", bad)
        # The REST listener does not change.
        with pytest.raises((OSError, http.client.HTTPException)):
            status_of_get(server.fields["http"], "/health/live")
        assert status_of_get(server.fields["http"], "/health/live", context) == 200
        scheme = "https" if health_tls else "http"
        flags = ["--ca", tmp_path / "root.pem", "--cert", tmp_path / "client.pem", "--key", tmp_path / "client.key"]
        fastk("admin", "ping", "--server", f"{scheme}://{address}", *(flags if health_tls else []))
    finally:
        server.stop()


def curl(*words):
    """Status and body of the response to curl; status 0 without a response."""
    written_out = "\n%{http_code} %{http_version}"
    command = ["curl", "--silent", "--max-time", "30", "--write-out", written_out, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    body, end = done.stdout.rsplit("\n", 1)
    status, version = end.split()
    assert (done.returncode == 0) == (status != "000"), done
    return int(status), version, body


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("way", ["plain", "tls", "mutual"])
def test_curl_sends_a_token(tmp_path, fastk, way):
    support.certificates(tmp_path)
    (tmp_path / "others").mkdir()
    support.certificates(tmp_path / "others")
    text = "" if way == "plain" else f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n'
    text += f'client_ca = "{tmp_path}/root.pem"\n' if way == "mutual" else ""
    (tmp_path / "fastk.toml").write_text(text)
    root = tmp_path / "store"
    made = fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "write", "--json")
    token = json.loads(made.stdout)["token"]
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    mine = ["--cert", tmp_path / "client.pem", "--key", tmp_path / "client.key"] if way == "mutual" else []
    trust = [] if way == "plain" else ["--cacert", tmp_path / "root.pem"]
    at = f"{'http' if way == 'plain' else 'https'}://localhost:{server.http.rsplit(':', 1)[1]}"
    try:
        bearer = ["-H", f"Authorization: Bearer {token}"]
        body = ["-H", "Content-Type: application/json", "-d", json.dumps(support.REGISTRATION)]
        status, version, _ = curl(*trust, *mine, *bearer, *body, f"{at}/v1/series")
        assert (status, version) == (201, "1.1" if way == "plain" else "2")
        for good in (bearer, ["-u", f"any:{token}"], ["--http1.1", *bearer], ["--http1.1", "-u", f":{token}"]):
            status, _, response = curl(*trust, *mine, *good, f"{at}/inventory")
            assert status == 200 and json.loads(response)["series"][0]["series"] == support.KEY
        for bad in ([], ["-u", "any:wrong"], ["-H", f"Authorization: Bearer {token[:-1]}"], ["-u", f"{token}:any"]):
            status, _, response = curl(*trust, *mine, *bad, f"{at}/inventory")
            assert status == 401 and json.loads(response)["code"] == "unauthenticated"
        if way != "plain":
            others = ["--cacert", tmp_path / "others/root.pem"]
            assert curl(*others, *mine, *bearer, f"{at}/inventory")[0] == 0, "a stranger is no server"
        if way == "mutual":
            stranger = ["--cert", tmp_path / "others/client.pem", "--key", tmp_path / "others/client.key"]
            for shown in ([], stranger):
                assert curl(*trust, *shown, *bearer, f"{at}/inventory")[0] == 0, "a token alone is not enough"
    finally:
        server.stop()


def put(server, token, rows):
    """Writes rows over Flight."""
    with flight.connect(server.flight) as client:
        call = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
        create = {"series": support.KEY, "create": support.REGISTRATION}
        command = flight.FlightDescriptor.for_command(json.dumps(create))
        stream, _ = client.do_put(command, rows.schema, options=call)
        stream.write_table(rows)
        stream.close()


def test_polars_reads_with_a_token(guarded):
    import polars as pl

    server, tokens = guarded
    rows = support.klines(5_000)
    put(server, tokens["write"]["token"], rows)
    expected = pl.from_arrow(rows)
    bearer = f"Bearer {tokens['read']['token']}"
    # Over Flight, with the header on the call.
    with flight.connect(server.flight) as client:
        ticket = flight.Ticket(json.dumps({"series": [support.KEY]}))
        call = flight.FlightCallOptions(headers=[(b"authorization", bearer.encode())])
        assert pl.from_arrow(client.do_get(ticket, options=call).read_all()).equals(expected)
        with pytest.raises(flight.FlightUnauthenticatedError):
            client.do_get(ticket).read_all()
    # Over REST, as a stream of Arrow and as Parquet.
    url = f"{server.http}/v1/klines/BTCUSDT/1m?format="
    for name, read in (("arrow", pl.read_ipc_stream), ("parquet", pl.read_parquet)):
        request = urllib.request.Request(url + name, headers={"Authorization": bearer})
        with urllib.request.urlopen(request, timeout=60) as response:
            assert read(io.BytesIO(response.read())).equals(expected), name
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url + name, timeout=60)


@pytest.mark.parametrize("is_secured", [False, True])
def test_an_adbc_driver_logs_in_and_reads_what_flight_promised(tmp_path, fastk, is_secured):
    """By password and by header: partitions that plain Flight promised, and statements."""
    import adbc_driver_flightsql.dbapi as adbc
    from adbc_driver_flightsql import DatabaseOptions
    from adbc_driver_manager import Error

    support.certificates(tmp_path)
    text = f'[tls]\ncert = "{tmp_path}/server.pem"\nkey = "{tmp_path}/server.key"\n' if is_secured else ""
    (tmp_path / "fastk.toml").write_text(text)
    root = tmp_path / "store"
    made = fastk("admin", "token", "create", "--root", root, "--name", "a", "--scope", "write", "--json")
    token = json.loads(made.stdout)["token"]
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    trust, options = {}, {}
    if is_secured:
        trust = {DatabaseOptions.TLS_ROOT_CERTS.value: (tmp_path / "root.pem").read_text()}
        options = {"tls_root_certs": (tmp_path / "root.pem").read_bytes()}
        server.flight = server.flight.replace("grpc://127.0.0.1", "grpc+tls://localhost")
    try:
        rows = support.klines(5_000)
        client = flight.connect(server.flight, **options)
        call = flight.FlightCallOptions(headers=[client.authenticate_basic_token("any", token)])
        create = {"series": support.KEY, "create": support.REGISTRATION}
        command = flight.FlightDescriptor.for_command(json.dumps(create))
        stream, _ = client.do_put(command, rows.schema, options=call)
        stream.write_table(rows)
        stream.close()
        promised = client.get_flight_info(flight.FlightDescriptor.for_path(*support.PATH), options=call).serialize()
        password = {"username": "anyone", "password": token}
        header = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"}
        for login in (password, header):
            with adbc.connect(server.flight, db_kwargs={**trust, **login}, autocommit=True) as connection:
                with connection.cursor() as cursor:
                    cursor.adbc_read_partition(promised)
                    support.assert_same(cursor.fetch_arrow_table(), rows)
                    cursor.execute("SELECT count(*) FROM klines_1m")
                    assert cursor.fetchone() == (len(rows),)
        with pytest.raises(Error, match="unauthenticated"):
            adbc.connect(server.flight, db_kwargs={**trust, **password, "password": "wrong"}, autocommit=True).close()
        with adbc.connect(server.flight, db_kwargs=trust, autocommit=True) as connection, connection.cursor() as cursor:
            with pytest.raises(Error, match="unauthenticated"):
                cursor.adbc_read_partition(promised)
    finally:
        server.stop()


def forms(token):
    """Forms of a token in a log: as text, in base64 at any offset, and as a list of bytes."""
    yield token
    yield ", ".join(str(byte) for byte in token.encode())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # Without the characters that depend on the adjacent bytes.
            whole = encode(b" " * offset + token.encode()).decode().rstrip("=")
            yield whole[4 if offset else 0 : -2]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_token_is_in_a_log(tmp_path, fastk, monkeypatch, log_format):
    monkeypatch.setenv("FASTK_LOG", "trace")
    monkeypatch.setenv("FASTK__LOG__FORMAT", log_format)
    root, create = tmp_path / "store", ["admin", "token", "create"]
    made = {
        name: json.loads(fastk(*create, "--root", root, "--name", name, "--scope", "admin", "--json").stdout)
        for name in ("good", "revoked")
    }
    good, revoked = made["good"]["token"], made["revoked"]["token"]
    fastk("admin", "token", "revoke", made["revoked"]["id"], "--root", root)
    wrong = "fastk_" + base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
    secrets = [good, revoked, wrong]
    server = support.Server(root).start()
    try:
        # REST: both ways to send one, over both versions of HTTP.
        for token, expected in ((good, 200), (revoked, 401), (wrong, 401)):
            pair = base64.b64encode(f"any:{token}".encode()).decode()
            assert any(form in pair for form in forms(token)), "the forms to search for are those that are sent"
            for value in (f"Bearer {token}", f"Basic {pair}"):
                assert status(server, {"Authorization": value}) == expected
                if shutil.which("curl"):
                    word = ["--http2-prior-knowledge", "-H", f"Authorization: {value}", f"{server.http}/inventory"]
                    assert curl(*word)[:2] == (expected, "2")
            for value in (f"Bearer{token}", f"Digest {token}", f"Basic {token}", token):
                assert status(server, {"Authorization": value}) == 401
        # Flight: the header, and the handshake.
        for token in secrets:
            with flight.connect(server.flight) as client:
                pair = base64.b64encode(f"any:{token}".encode())
                for value in (b"Bearer " + token.encode(), b"Basic " + pair):
                    call = flight.FlightCallOptions(headers=[(b"authorization", value)])
                    if token is good:
                        assert list(client.list_flights(options=call)) == []
                    else:
                        with pytest.raises(flight.FlightUnauthenticatedError):
                            list(client.list_flights(options=call))
                if token is good:
                    assert client.authenticate_basic_token("any", token)[1].endswith(token.encode())
                else:
                    with pytest.raises(flight.FlightUnauthenticatedError):
                        client.authenticate_basic_token("any", token)
        # The command line, an audited request, and a log line about a failure.
        fastk("register", support.KEY, "--server", server.http, "--token", good)
        fastk("drop", support.KEY, "--root", root, "--token", good)
        assert fastk("admin", "inventory", "--server", server.http, "--token", wrong, check=False).returncode == 5
    finally:
        server.stop()
    text = server.log.read_text()
    assert "TRACE" in text and "fastk::audit" in text and "fastk::server::http::middleware" in text and "h2::" in text
    sought = [form for token in secrets for form in forms(token)]
    assert [line for line in text.splitlines() if any(form in line for form in sought)] == []
    if log_format == "json":
        for line in text.splitlines():
            record = json.loads(line)
            assert {"timestamp", "level", "target", "fields"} <= set(record), line
            assert record["level"] in ("ERROR", "WARN", "INFO", "DEBUG", "TRACE"), line
            # Libraries log what is only fields.
            assert record["fields"].get("message") or not record["target"].startswith("fastk"), line


def test_json_logs_have_one_object_per_line(tmp_path, fastk):
    """At the default level, with client input in the log lines."""
    import datetime

    root = tmp_path / "store"
    (tmp_path / "fastk.toml").write_text('[log]\nformat = "json"\nlevel = "info,fastk=debug"\n')
    server = support.Server(root, "--config", str(tmp_path / "fastk.toml")).start()
    try:
        fastk("register", support.KEY, "--server", server.http)
        for path in ("/v1/klines/BTCUSDT/1m", "/nothing%22%7B%0A%7D", "/v1/klines/%F0%9F%98%80/1m"):
            status_of(server, path, {"X-Request-Id": "my-own.id"})
        fastk("drop", support.KEY, "--server", server.http)
    finally:
        server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    for line in lines:
        assert datetime.datetime.fromisoformat(line["timestamp"]).utcoffset() == datetime.timedelta(0)
        assert line["level"] in ("ERROR", "WARN", "INFO", "DEBUG") and line["target"] and line["fields"]["message"]
    assert {"ready", "draining", "stopped", "request done"} <= {line["fields"]["message"] for line in lines}
    assert sum(line["fields"].get("request_id") == "my-own.id" for line in lines) >= 3
    [audit] = [line["fields"] for line in lines if line["target"] == "fastk::audit"]
    assert (audit["method"], audit["status"]) == ("DELETE", 200) and support.KEY in audit["asked"]


def test_tickets_and_descriptors_give_a_limited_token_no_access_to_other_series(guarded, fastk):
    server, tokens = guarded
    admin = {"Authorization": f"Bearer {tokens['admin']['token']}", "Content-Type": "application/json"}
    rows = [{"ts": support.T0 + n * support.MINUTE} | dict.fromkeys(("open", "high", "low", "close", "volume"), 1) for n in range(3)]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        spec = {"kind": "kline", "symbol": symbol, "timeframe": "1m"}
        for path, body in (("/v1/series", spec), (f"/v1/klines/{symbol}/1m", rows)):
            server.request("POST", path, json.dumps(body).encode(), admin).close()
    server.request("POST", "/v1/snapshots", b'{"name":"then"}', admin).close()
    made = fastk("admin", "token", "create", "--root", server.root, "--name", "e", "--scope", "write", "--prefix", "kline/ETH", "--json")
    call = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {json.loads(made.stdout)['token']}".encode())])
    full = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {tokens['admin']['token']}".encode())])
    client = flight.connect(server.flight)
    deadline = time.monotonic() + 60
    while True:
        try:
            mine = client.do_get(flight.Ticket(b'{"series":["kline/ETHUSDT/1m"]}'), options=call).read_all()
            break
        except flight.FlightUnauthenticatedError:
            assert time.monotonic() < deadline
    assert mine.num_rows == 3
    # Globs match only accessible series, now or under a snapshot.
    for query in ({"series": ["kline/*/1m"]}, {"series": ["kline/*/*"], "as_of": "then"}):
        got = client.do_get(flight.Ticket(json.dumps(query)), options=call).read_all()
        assert set(got.column("series").to_pylist()) == {"kline/ETHUSDT/1m"} if "series" in got.column_names else got.num_rows == 3
    other = "kline/BTCUSDT/1m"
    queries = [{"series": [other]}, {"series": [other], "as_of": "then"}, {"series": ["kline/ETHUSDT/1m", other]}]
    # A ticket of another token names a commit, and gives no further rights.
    info = client.get_flight_info(flight.FlightDescriptor.for_path(*other.split("/")), options=full)
    given = [endpoint.ticket.ticket for endpoint in info.endpoints]
    for ticket in [json.dumps(query).encode() for query in queries] + given:
        with pytest.raises(flight.FlightUnauthorizedError):
            client.do_get(flight.Ticket(ticket), options=call).read_all()
    body = json.dumps({"series": [other], "limit": 1}).encode()
    with server.request("POST", "/v1/query", body, admin) as response:
        cursor = json.loads(response.read())["next_cursor"]
    with pytest.raises((flight.FlightUnauthorizedError, pa.ArrowInvalid)):
        ticket = json.dumps({"series": ["kline/ETHUSDT/1m"], "cursor": cursor})
        client.do_get(flight.Ticket(ticket), options=call).read_all()
    # Path traversal is refused for any token.
    for path in (["kline", "..", "1m"], ["..", "..", "etc"], ["kline", "a/b", "1m"], ["kline", "%2e%2e", "1m"], ["kline", "x\x00", "1m"], ["kline", "..\\..", "1m"]):
        for options in (call, full):
            for describe in (client.get_flight_info, client.get_schema):
                with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError, flight.FlightUnauthorizedError)):
                    describe(flight.FlightDescriptor.for_path(*path), options=options)
        with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError)):
            client.do_get(flight.Ticket(json.dumps({"series": ["/".join(path)]})), options=full).read_all()
    for name in ("../x", "..", "a/b", "x\u0000", "%2e%2e"):
        with pytest.raises(pa.ArrowInvalid):
            list(client.do_action(flight.Action("create_snapshot", json.dumps({"name": name}).encode()), options=full))
    assert sorted(path.name for path in server.root.parent.iterdir() if "etc" in path.name or "x" == path.name) == []
