"""Audit log: deletes and administration are logged at any level, with the request id and the token."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import support


@pytest.fixture
def guarded(tmp_path, fastk, monkeypatch):
    """A server with a token of each scope and minimal logging."""
    monkeypatch.setenv("FASTK_LOG", "off")
    root = tmp_path / "store"
    tokens = {}
    for scope in ("read", "admin"):
        made = fastk("admin", "token", "create", "--json", "--name", scope, "--scope", scope, "--root", root)
        tokens[scope] = json.loads(made.stdout)
    server = support.Server(root).start()
    try:
        yield server, tokens
    finally:
        server.kill()


def audit_lines(server):
    """The audit lines as dictionaries."""
    lines = server.log.read_text().splitlines()
    assert all("fastk::audit" in line for line in lines), lines
    fields = r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)'
    return [{name: value.strip('"') for name, value in re.findall(fields, line.split("audit: ", 1)[1])} for line in lines]


def send(server, method, path, token, name, body=None):
    headers = {"authorization": f"Bearer {token['token']}", "x-request-id": name, "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.http + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_deletes_and_administration_are_logged_on_every_protocol(guarded, fastk):
    server, tokens = guarded
    admin, read = tokens["admin"], tokens["read"]
    key, path = support.KEY, "/v1/series/" + support.KEY
    register = {"symbol": "BTCUSDT", "kind": "kline", "timeframe": "1m"}
    expected = []

    def rest(method, path, body, name, token=admin, status=200):
        assert send(server, method, path, token, name, body) == status
        expected.append((name, token["id"], str(status)))

    send(server, "POST", "/v1/series", admin, "r0", register)
    rest("PATCH", path, {"retention": {"max_age": "30d"}}, "r1")
    rest("DELETE", path, None, "r2", read, 403)
    rest("POST", "/v1/admin/compact?wait=true", {}, "r3")
    rest("DELETE", path, None, "r4")
    # Refused requests are logged too.
    assert send(server, "DELETE", path, {"token": "fastk_wrong"}, "r5") == 401
    expected.append(("r5", "", "401"))

    send(server, "POST", "/v1/series", admin, "r6", register)
    with flight.connect(server.flight) as client:

        def act(action, body, name, token, outcome):
            metadata = [(b"authorization", f"Bearer {token['token']}".encode()), (b"x-request-id", name.encode())]
            options = flight.FlightCallOptions(headers=metadata)
            try:
                list(client.do_action(flight.Action(action, json.dumps(body).encode()), options))
            except (flight.FlightUnauthorizedError, flight.FlightUnauthenticatedError):
                assert outcome != "ok"
            expected.append((name, token.get("id", ""), outcome))

        act("drop_series", {"series": key}, "f1", read, "permission_denied")
        act("compact", {}, "f2", admin, "ok")
        act("drop_series", {"series": key}, "f3", admin, "ok")
        act("drop_series", {"series": key}, "f4", {"token": "fastk_wrong"}, "unauthenticated")
    send(server, "POST", "/v1/series", admin, "r7", register)
    fastk("drop", key, "--root", server.root, "--token", admin["token"])
    lines = audit_lines(server)
    found = [(line["request_id"], line["caller"], line.get("status") or line["outcome"]) for line in lines]
    assert found[:-1] == expected
    assert len(found[-1][0]) == 16 and found[-1][1:] == (admin["id"], "200")


def test_created_and_revoked_tokens_are_logged(guarded, fastk):
    server, tokens = guarded
    made = json.loads(
        fastk("admin", "token", "create", "--json", "--name", "new", "--scope", "write", "--prefix", "kline/BTC", "--root", server.root).stdout
    )
    fastk("admin", "token", "revoke", tokens["read"]["id"], "--root", server.root)
    deadline = time.monotonic() + 60
    while len(lines := audit_lines(server)) < 2:
        assert time.monotonic() < deadline, lines
        send(server, "GET", "/inventory", tokens["admin"], "x")
        time.sleep(0.1)
    assert {(line["verb"], line["token"], line["name"], line["scope"], line["prefixes"]) for line in lines} == {
        ("token created", made["id"], "new", "write", "kline/BTC"),
        ("token revoked", tokens["read"]["id"], "read", "read", ""),
    }
    assert made["token"] not in server.log.read_text()


def test_every_flight_response_has_the_id_of_its_call(server):
    names, own = [], ["mine.1"]

    class Seen(flight.ClientMiddleware):
        def received_headers(self, headers):
            names.extend(headers.get("x-request-id", []))

        def sending_headers(self):
            return {"x-request-id": own[0]} if own else {}

    class Factory(flight.ClientMiddlewareFactory):
        def start_call(self, info):
            return Seen()

    with flight.connect(server.flight, middleware=[Factory()]) as client:
        list(client.list_flights())
        list(client.do_action(flight.Action("inventory", b"{}")))
        with pytest.raises(pa.ArrowInvalid):
            client.do_get(flight.Ticket(b"{}")).read_all()
        assert names == ["mine.1"] * 3
        own.clear()
        list(client.list_flights())
    assert re.fullmatch("[0-9a-f]{16}", names[3]), names


def test_ping_needs_a_running_server(server, fastk, tmp_path):
    assert fastk("admin", "ping", "--root", server.root).returncode == 0
    server.stop()
    quiet = fastk("admin", "ping", "--root", server.root, check=False)
    assert quiet.returncode != 0 and "error[not_ready]" in quiet.stderr and "no server has" in quiet.stderr
    missing = tmp_path / "missing"
    assert fastk("admin", "ping", "--root", missing, check=False).returncode != 0 and not missing.exists()


def test_a_stopped_server_leaves_no_log_to_replay(server, fastk):
    body = "ts,open,high,low,close,volume\n1706745600000,1,1,1,1,1\n"
    fastk("register", support.KEY, "--price-digits", "2", "--volume-digits", "2", "--server", server.http)
    subprocess.run(
        [support.binary(), "write", support.KEY, "--format", "csv", "--server", server.http], input=body.encode(), check=True
    )
    server.stop()
    assert list((server.root / "runs").glob("*.run")), "the rows are in a run file"
    server.start()
    with urllib.request.urlopen(server.http + "/metrics") as reply:
        metrics = reply.read().decode()
    assert "fastk_recovered_commits 0\n" in metrics
    assert json.loads(fastk("query", support.KEY, "--format", "json", "--server", server.http).stdout)["rows"]
