"""Tokens as real clients send them: Bearer and Basic over REST and Flight, made and taken away beside the server."""

import base64
import http.client
import json
import re
import time
import urllib.error

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import support


def bars(rows: int) -> pa.Table:
    ts = pa.array([support.T0 + row * support.MINUTE for row in range(rows)], pa.timestamp("ms", "UTC"))
    return pa.table({"ts": ts, **{name: pa.array([1.5] * rows) for name in ("open", "high", "low", "close", "volume")}})


@pytest.fixture
def guarded(tmp_path, fastk):
    """A server that asks for tokens, and a token of each scope."""
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
    try:
        with server.request("GET", "/inventory", headers=headers) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_rest_takes_bearer_and_basic(guarded):
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


def test_pyarrow_logs_in_as_database_clients_do(guarded):
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


def test_tokens_come_and_go_beside_the_server(guarded, fastk):
    server, tokens = guarded
    made = json.loads(
        fastk("admin", "token", "create", "--root", server.root, "--name", "eth", "--scope", "read", "--prefix", "kline/ETH", "--json").stdout
    )
    fresh = {"Authorization": f"Bearer {made['token']}"}
    assert status(server, fresh) == 200, "a new token is good at once"
    listed = json.loads(fastk("admin", "token", "list", "--root", server.root, "--json").stdout)["tokens"]
    assert [row["name"] for row in listed] == ["read", "write", "admin", "eth"]
    assert listed[3]["prefixes"] == ["kline/ETH"] and made["token"] not in json.dumps(listed)
    fastk("admin", "token", "revoke", made["id"], "--root", server.root)
    deadline = time.monotonic() + 5
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
    # The data directory is locked by the server, so that it is asked too.
    fastk("register", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["write"]["token"])
    few = fastk("drop", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["write"]["token"], check=False)
    assert few.returncode == 5 and "error[permission_denied]" in few.stderr
    fastk("drop", "kline/BTCUSDT/1m", "--root", server.root, "--token", tokens["admin"]["token"])
    audit = [line for line in server.log.read_text().splitlines() if "fastk::audit" in line]
    told = [(found[1], found[2]) for line in audit if (found := re.search(r"caller=\"?(\w+)\"?.*status=(\d+)", line))]
    assert told == [(tokens["write"]["id"], "403"), (tokens["admin"]["id"], "200")]


def test_other_machines_are_let_in_only_with_tokens(tmp_path, fastk):
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


def certificates(folder):
    """A root, and a server and a client that it signed."""
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


@pytest.mark.parametrize("is_mutual", [False, True])
def test_both_listeners_speak_tls(tmp_path, fastk, is_mutual):
    import socket
    import ssl

    certificates(tmp_path)
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
                    bare.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert bare.recv(100) == b"", "a client without a certificate is answered"
                    raise OSError("closed")
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        authorization = {"Authorization": f"Bearer {made['token']}"}
        for headers, expected in ((authorization, 200), ({}, 401)):
            client = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
            client.request("GET", "/inventory", headers=headers)
            assert client.getresponse().status == expected
            client.close()
        # Plain bytes are no TLS, and a client that says nothing holds nobody up.
        silent = [socket.create_connection(("127.0.0.1", int(at.rsplit(":", 1)[1]))) for at in (server.http, server.flight)]
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
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
def test_the_command_line_speaks_tls(tmp_path, fastk, is_mutual):
    import os

    certificates(tmp_path)
    (tmp_path / "others").mkdir()
    certificates(tmp_path / "others")
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
        # A server that is named: by its names, and by who signed for them.
        for host in ("localhost", "127.0.0.1"):
            there = ["--server", f"https://{host}:{port}"]
            assert json.loads(fastk("admin", "health", *there, *ca, *mine, "--json").stdout)["status"] == "ok"
            assert fastk("admin", "inventory", *there, env=environment).stdout
        there = ["--server", f"https://localhost:{port}"]
        rows = tmp_path / "rows.csv"
        lines = [f"{support.T0 + row * support.MINUTE},1.5,2.5,0.5,1.5,10" for row in range(20_000)]
        rows.write_text("ts,open,high,low,close,volume\n" + "\n".join(lines) + "\n")
        fastk("import", rows, "--series", support.KEY, *there, *ca, *mine)
        fastk("export", support.KEY, "--output", tmp_path / "back.csv", *there, *ca, *mine)
        assert len((tmp_path / "back.csv").read_text().splitlines()) == 20_001
        read = ["bridge", "read-kline-range", "--symbol", "BTCUSDT", "--timeframe", "1m", "--start-ts", support.T0, "--end-ts", support.T0]
        assert len(json.loads(fastk(*read, *there, *ca, *mine).stdout)["records"]) == 1

        def refused(*flags, word, status=7):
            done = fastk("admin", "health", *flags, check=False, env=plain_environment)
            assert done.returncode == status and word in done.stderr, done.stderr

        refused(*there, "--ca", tmp_path / "others" / "root.pem", *mine, word="--ca FILE")
        refused("--server", server.http.replace("http://", "https://"), *ca, *mine, *token, word="names")
        refused("--server", f"http://localhost:{port}", word="https://")
        refused(*there, "--ca", tmp_path / "none.pem", word="none.pem", status=2)
        refused(*there, *ca, "--cert", tmp_path / "client.pem", word="--key", status=2)
        refused(*there, *ca, "--cert", tmp_path / "client.pem", "--key", tmp_path / "server.key", word="server.key", status=2)
        nobody = fastk("admin", "health", *there, *mine, check=False, env=plain_environment)
        assert nobody.returncode in (2, 7) and "--ca FILE" in nobody.stderr, nobody.stderr
        if is_mutual:
            refused(*there, *ca, word="--cert FILE")
            stranger = ["--cert", tmp_path / "others" / "client.pem", "--key", tmp_path / "others" / "client.key"]
            refused(*there, *ca, *stranger, word="--cert FILE")

        # A server that owns the directory: by its very certificate, whatever names stand in it.
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


def test_certificates_that_cannot_be_are_named(tmp_path, fastk):
    certificates(tmp_path)
    (tmp_path / "empty.pem").write_text("")
    for cert, key, word in (("none.pem", "server.key", "none.pem"), ("server.pem", "client.key", "client.key"),
                            ("empty.pem", "server.key", "empty.pem"), ("server.pem", "", "tls.key")):
        named = [f'{name} = "{tmp_path / file if file else ""}"' for name, file in (("cert", cert), ("key", key))]
        (tmp_path / "fastk.toml").write_text("[tls]\n" + "\n".join(named) + "\n")
        done = fastk("serve", "--root", tmp_path / "store", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0",
                     "--config", tmp_path / "fastk.toml", check=False)
        assert done.returncode == 2 and word in done.stderr, (cert, key, done.stderr)


def test_health_answers_on_a_listener_of_its_own(tmp_path):
    (tmp_path / "fastk.toml").write_text('[http]\nhealth_listen = "127.0.0.1:0"\n')
    server = support.Server(tmp_path / "store", "--config", str(tmp_path / "fastk.toml")).start()
    try:
        address = server.fields["health"]
        for path, expected in (("/health/live", 200), ("/health/ready", 200), ("/metrics", 200), ("/health", 200),
                               ("/inventory", 404), ("/v1/series", 404)):
            client = http.client.HTTPConnection(address, timeout=30)
            client.request("GET", path)
            assert client.getresponse().status == expected, path
            client.close()
    finally:
        server.stop()


def test_tickets_and_descriptors_give_a_limited_token_nothing_of_others(guarded, fastk):
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
    deadline = time.monotonic() + 5
    while True:
        try:
            mine = client.do_get(flight.Ticket(b'{"series":["kline/ETHUSDT/1m"]}'), options=call).read_all()
            break
        except flight.FlightUnauthenticatedError:
            assert time.monotonic() < deadline
    assert mine.num_rows == 3
    # By globs, now or as of a snapshot, only what is its own.
    for query in ({"series": ["kline/*/1m"]}, {"series": ["kline/*/*"], "as_of": "then"}):
        got = client.do_get(flight.Ticket(json.dumps(query)), options=call).read_all()
        assert set(got.column("series").to_pylist()) == {"kline/ETHUSDT/1m"} if "series" in got.column_names else got.num_rows == 3
    other = "kline/BTCUSDT/1m"
    queries = [{"series": [other]}, {"series": [other], "as_of": "then"}, {"series": ["kline/ETHUSDT/1m", other]}]
    # A ticket that somebody else was given names a commit, and gives no more rights.
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
    # Names that climb are no names, whoever asks.
    for path in (["kline", "..", "1m"], ["..", "..", "etc"], ["kline", "a/b", "1m"], ["kline", "%2e%2e", "1m"], ["kline", "x\x00", "1m"], ["kline", "..\\..", "1m"]):
        for options in (call, full):
            for ask in (client.get_flight_info, client.get_schema):
                with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError, flight.FlightUnauthorizedError)):
                    ask(flight.FlightDescriptor.for_path(*path), options=options)
        with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError)):
            client.do_get(flight.Ticket(json.dumps({"series": ["/".join(path)]})), options=full).read_all()
    for name in ("../x", "..", "a/b", "x\u0000", "%2e%2e"):
        with pytest.raises(pa.ArrowInvalid):
            list(client.do_action(flight.Action("create_snapshot", json.dumps({"name": name}).encode()), options=full))
    assert sorted(path.name for path in server.root.parent.iterdir() if "etc" in path.name or "x" == path.name) == []
