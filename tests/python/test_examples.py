"""The examples of the OpenAPI document: each is sent to a live server in its order, and each response looks as shown.

`FASTK_BLESS=1` rewrites the responses in `openapi/examples.json`; the document itself is then blessed as usual.
"""

import contextlib
import gzip
import json
import os
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
import support

FILE = Path(__file__).parents[2] / "openapi" / "examples.json"
BLESS = bool(os.environ.get("FASTK_BLESS"))
BINARY = {
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
    "application/vnd.apache.parquet",
}
# What only a server makes: the test puts one in that its own server made.
MADE = {"cursor", "id"}
SETUP = [
    {"kind": "scalar", "category": "feature", "symbol": symbol, "timeframe": timeframe, "name": "rsi_14"}
    | {"value": {"type": "decimal", "digits": 2}}
    for symbol, timeframe in (("BTCUSDT", "1m"), ("BTCUSDT", "1h"), ("ETHUSDT", "1h"))
]

# Versions that come before those of the examples, so that lists have more than a page.
REGISTRY = [
    ("datasets", {"name": "btc-minutes", "members": ["scalar/feature/BTCUSDT/1m/rsi_14"]}),
    ("features", {"name": "rsi-14", "definition": {"kind": "rsi", "period": 7}}),
    ("factors", {"name": "momentum-20", "definition": {"kind": "momentum", "days": 10}}),
]


@pytest.fixture
def running(tmp_path):
    backups = tmp_path / "backups"
    backups.mkdir()
    config = tmp_path / "fastk.toml"
    config.write_text(f'[store]\nbackup_dir = "{backups}"\n')
    server = support.Server(tmp_path / "store", "--config", str(config)).start()
    for spec in SETUP:
        server.json("POST", "/v1/series", spec)
    for kind, record in REGISTRY:
        made = {} if kind == "datasets" else {"code_version": "0a1b2c3", "inputs": ["btc-minutes@1"]}
        server.json("POST", f"/v1/{kind}", record | made)
    try:
        yield server
    finally:
        server.kill()


class Sender:
    """Sends one operation with the examples of the document."""

    def __init__(self, server, path, method, operation, examples):
        self.server, self.path, self.method, self.operation = server, path, method, operation
        self.parameters, self.examples = operation.get("parameters", []), examples

    def example(self, parameter):
        """The document shows examples of optional parameters where no form takes them from, and words by their list."""
        name, schema = parameter["name"], parameter["schema"]
        if parameter["required"]:
            return parameter["example"]
        shown = schema.get("examples")
        assert shown in (None, [self.examples[name]]), f"{self.operation['operationId']}: {name}"
        return self.examples[name]

    def running_statement(self):
        """The number of a SQL statement that runs until it is cancelled."""
        sql = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 8"

        def run():
            with contextlib.suppress(support.urllib.error.HTTPError):
                self.server.json("POST", "/v1/sql", {"sql": sql})

        threading.Thread(target=run, daemon=True).start()
        while not (queries := self.server.json("GET", "/v1/sql/queries")["queries"]):
            time.sleep(0.01)
        return queries[0]["id"]

    def made(self, name):
        if name == "id" and "/sql/" in self.path:
            return self.running_statement()
        if name == "id":
            self.server.json("POST", "/v1/admin/verify?wait=true")
            return self.server.json("GET", "/v1/admin/jobs")["jobs"][0]["id"]
        body = self.send([("limit", 1)])[2]
        return json.loads(body)["next_cursor"]

    def send(self, optional=(), kind=None, accept=None):
        """Status, media type and body of a response; `optional` are names and values besides what is required."""
        path, query, headers = self.path, [], {}
        given = {one["name"]: self.example(one) for one in self.parameters if one["required"]}
        given |= dict(optional)
        for parameter in self.parameters:
            name, place = parameter["name"], parameter["in"]
            if name not in given:
                continue
            value = given[name]
            if place == "path":
                value = self.made(name) if name in MADE else value
                path = path.replace(f"{{{name}}}", urllib.parse.quote(str(value), safe=""))
            elif place == "query":
                values = value if isinstance(value, list) else [value]
                query += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in values]
            else:
                headers[name] = str(value)
        # Every request has a key of its own: under the same key the second one is only a repeat.
        if "Idempotency-Key" in headers:
            headers["Idempotency-Key"] += f"-{Sender.keys}"
            Sender.keys += 1
        body = None
        contents = self.operation.get("requestBody", {}).get("content", {})
        if contents:
            kind = kind or "application/json"
            example = contents[kind]["example"]
            body = (example if isinstance(example, str) else json.dumps(example)).encode()
            headers["Content-Type"] = kind
            if given.get("Content-Encoding") == "gzip":
                body = gzip.compress(body)
        if accept:
            headers["Accept"] = accept
        if query:
            path += "?" + urllib.parse.urlencode(query)
        try:
            with self.server.request(self.method.upper(), path, body, headers) as response:
                received = response.read()
                if response.headers.get("Content-Encoding") == "gzip":
                    received = gzip.decompress(received)
                kind = response.headers.get("Content-Type", "").split(";")[0]
                return response.status, kind, received
        except support.urllib.error.HTTPError as error:
            shown = f"{self.method} {path} {headers} {body}"
            raise AssertionError(f"{self.operation['operationId']}: {shown}\n{error.code} {error.read().decode()}")

    keys = 0


def shape(value):
    """Names and kinds, without what differs from run to run."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def shown(kind, body):
    """A response as the document shows it, shortened."""
    if kind == "application/json":
        value = json.loads(body)
        if "openapi" in value:
            return {"openapi": value["openapi"], "info": value["info"], "paths": {}}
        return value
    text = body.decode()
    return text if len(text) < 1_000 else "".join(text.splitlines(keepends=True)[:6])


def test_every_request_shown_is_accepted_and_every_response_looks_as_shown(running, capsys):
    document = running.json("GET", "/openapi.json")
    file = json.loads(FILE.read_text(encoding="utf-8"))
    own = {entry["operation"]: entry.get("parameters", {}) for entry in file["operations"]}
    operations = {
        operation["operationId"]: Sender(
            running, path, method, operation, file["parameters"] | own.get(operation["operationId"], {})
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert set(operations) == {entry["operation"] for entry in file["operations"]}
    requests = 0
    for entry in file["operations"]:
        name = entry["operation"]
        sender = operations[name]
        responses = []
        needs_key = name not in ("deleteKlines", "deleteScalars", "deleteRows")
        if needs_key:
            responses.append(sender.send())
        # Each optional parameter by itself, or with those it needs.
        for parameter in sender.parameters:
            if parameter["required"]:
                continue
            own = parameter["name"]
            together = [own, *entry.get("with", {}).get(own, [])]
            values = {one["name"]: sender.example(one) for one in sender.parameters if one["name"] in together}
            # Deletes and drops come last.
            if parameter["in"] == "header" and name.startswith(("drop", "delete")):
                continue
            if own in MADE:
                values[own] = sender.made(own)
                values["limit"] = 1
            responses.append(sender.send(values.items()))
        for kind in sender.operation.get("requestBody", {}).get("content", {}):
            if kind not in BINARY | {"application/json"}:
                responses.append(sender.send(kind=kind))
        good = {status: response for status, response in sender.operation["responses"].items() if status[0] == "2"}
        for response in good.values():
            for kind in response.get("content", {}):
                if any(other == "text/csv" for other in response["content"]):
                    responses.append(sender.send([("limit", 3)] if name != "queryRows" else [], accept=kind))
        if "200" in good and "201" in good:
            responses.append(sender.send())
        requests += len(responses)
        seen = {}
        for status, kind, body in responses:
            assert status == 304 or str(status) in good, f"{name}: {status}"
            if kind and kind not in BINARY and status != 304:
                seen.setdefault(str(status), {}).setdefault(kind, shown(kind, body))
        if BLESS:
            entry["responses"] = seen
            continue
        assert {status: sorted(kinds) for status, kinds in seen.items()} == {
            status: sorted(kinds) for status, kinds in entry["responses"].items()
        }, name
        for status, kinds in seen.items():
            for kind, now in kinds.items():
                assert shape(now) == shape(entry["responses"][status][kind]), f"{name}: {status} {kind}"
    if BLESS:
        text = json.dumps(file, indent=2, ensure_ascii=False).replace(str(running.root), "/var/lib/fastk")
        FILE.write_text(text + "\n", encoding="utf-8")
    with capsys.disabled():
        print(f"\nproof openapi_examples: {requests} requests")
    assert requests > 150
    running.stop()
