"""The reference pages against the program: what is between their markers is generated from it.

`FASTK_BLESS=1` rewrites it.
"""

import json
import os
import re
import socket
import urllib.error
from pathlib import Path

import support

ROOT = Path(__file__).parents[2]
START, END = "<!-- made by tests/python/test_reference.py -->\n", "<!-- end -->\n"


def compare(page, made):
    path = ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(START)
    now, after = rest.split(END)
    if os.environ.get("FASTK_BLESS"):
        path.write_text(before + START + made + END + after, encoding="utf-8")
        return
    assert now == made, f"docs/{page} is stale: run this test with FASTK_BLESS=1"


def flat(text):
    """A text in one table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def kind(schema):
    """A short name of the type of a parameter."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "oneOf" in schema:
        return " or ".join(kind(one) for one in schema["oneOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"{kind(schema['items'])}, repeatable"
    named = schema.get("type", "any")
    named = [one for one in named if one != "null"][0] if isinstance(named, list) else named
    return named + (f" from {schema['minimum']}" if schema.get("minimum") else "")


def words(document, schema):
    """The values of an enumerated parameter, through references."""
    if "$ref" in schema:
        target = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        if "enum" in target or "oneOf" in target and all("enum" in one for one in target["oneOf"]):
            every = target.get("enum") or [word for one in target["oneOf"] for word in one["enum"]]
            return ", ".join(f"`{word}`" for word in every)
    return kind(schema)


def test_the_page_about_rest_has_every_operation_parameter_and_code():
    document = json.loads((ROOT / "openapi" / "fastk.v1.json").read_text(encoding="utf-8"))
    out = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            out.append(f"\n### `{method.upper()} {path}`\n\n")
            about = flat(operation.get("description", ""))
            out.append(f"{operation['summary']} (`{operation['operationId']}`).{' ' + about if about else ''}\n\n")
            parameters = [one for one in operation.get("parameters", []) if one["in"] != "path"]
            if parameters:
                out.append("| parameter | in | type | what |\n|---|---|---|---|\n")
            for one in parameters:
                needed = " (required)" if one["required"] else ""
                about = flat(one.get("description", ""))
                out.append(f"| `{one['name']}`{needed} | {one['in']} | {words(document, one['schema'])} | {about} |\n")
            if parameters:
                out.append("\n")
            body = operation.get("requestBody")
            if body:
                out.append(f"Body: {', '.join(f'`{one}`' for one in body['content'])}.\n")
            codes = []
            for status, response in operation["responses"].items():
                found = re.findall(r"`([a-z_]+)`:", response["description"]) if status[0] in "45" else []
                codes.append(f"{status} {', '.join(f'`{code}`' for code in found)}".strip() if found else status)
            out.append(f"Answers: {'; '.join(codes)}.\n")
    assert len(out) > 100
    compare("rest.md", "".join(out) + "\n")


def helps(words=()):
    """Each command with its help, depth first."""
    environment = os.environ | {"COLUMNS": "100"}
    text = support.run(*words, "--help", env=environment).stdout
    yield words, "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    listed = re.search(r"^Commands:\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    for command in re.findall(r"^  ([a-z][a-z-]*)", listed[1], re.MULTILINE) if listed else []:
        if command != "help":
            yield from helps((*words, command))


def test_the_page_about_the_command_line_has_every_command_and_flag():
    made = "".join(f"\n### `{' '.join(('fastk', *command))}`\n\n```text\n{text}```\n" for command, text in helps())
    assert made.count("###") > 20
    compare("cli.md", made + "\n")


def test_the_page_about_the_configuration_has_every_key():
    out, section, about = [], "", []
    for line in (ROOT / "config" / "fastk.toml").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"\[(.+)\]", line):
            section, about = found[1], []
            out.append(f"\n### `[{section}]`\n\n| key | environment | default | what |\n|---|---|---|---|\n")
        elif line.startswith("#"):
            about.append(line.lstrip("# "))
        elif found := re.fullmatch(r"(\w+) = (.+)", line):
            variable = f"FASTK__{section}__{found[1]}".upper().replace(".", "__")
            out.append(f"| `{found[1]}` | `{variable}` | `{found[2]}` | {flat(' '.join(about))} |\n")
            about = []
        else:
            about = []
    assert len(out) > 20
    compare("configuration.md", "".join(out) + "\n")


def table(page, head):
    """The rows of the table with this header on a page, as lists of cells."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert text.count(head) == 1, head
    lines = text[text.index(head) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line[1:-1].replace("| |", "|  |").split(" | ")])
    return rows


def flags(*words):
    """The flags in the help of a command."""
    text = support.run(*words, "--help", env=os.environ | {"COLUMNS": "200"}).stdout
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE))


def test_the_page_about_the_bridge_has_its_commands_and_flags():
    text = (ROOT / "docs" / "bridge.md").read_text(encoding="utf-8")
    common = {"--root", "--server", "--token", "--ca", "--cert", "--key", "--symbol", "--timeframe", "--help"}
    documented = {}
    for commands, further, schemas in table("bridge.md", "| command | further flags |"):
        for command in re.findall(r"`([a-z-]+)`", commands):
            documented[command] = set(re.findall(r"--[a-z-]+", further))
            # The schemas of its input and output exist.
            kinds = ["output"] + ["input"] * command.startswith("write")
            assert all((ROOT / f"openapi/bridge/{command}.{kind}.schema.json").exists() for kind in kinds), command
            assert f"`{command}.{kinds[-1]}`" in schemas or "of their own names" in schemas, command
    help_text = support.run("bridge", "--help").stdout
    listed = re.findall(r"^  ([a-z-]+) ", help_text[help_text.index("Commands:") : help_text.index("Options:")], re.MULTILINE)
    listed = [command for command in listed if command != "help"]
    assert sorted(documented) == sorted(listed)
    for command, named in documented.items():
        coded = flags("bridge", command) - common
        if "indicator" in command:
            assert named == {"--indicator-name", "--category", "--name"}
            named = documented[command.replace("indicator", "scalar")] - {"--category", "--name"} | {"--indicator-name"}
        if command == "query-scalar-predicate":
            shared_flags = {"--value", "--min", "--max", "--values", "--return-values"}
            assert all(f"`{flag}" in text for flag in shared_flags)
            named = named | shared_flags
        assert named == coded, command


def test_the_page_about_the_registry_has_every_operation_and_parameter():
    document = json.loads((ROOT / "openapi" / "fastk.v1.json").read_text(encoding="utf-8"))
    coded = {kind: {} for kind in ("datasets", "features", "factors")}
    for path, item in document["paths"].items():
        for kind, found in coded.items():
            if path == f"/v1/{kind}" or path.startswith(f"/v1/{kind}/"):
                for method, operation in item.items():
                    parameters = {one["name"] for one in operation.get("parameters", []) if one["in"] == "query"}
                    found[f"{method.upper()} {path}"] = parameters
    documented, more = {}, set()
    commands = set()
    for rest, command, _ in table("registry.md", "| REST (`datasets`, `features`, `factors`) | command line"):
        ways = re.findall(r"`((?:GET|POST|PATCH|DELETE) [^`]+)`", rest)
        assert ways, rest
        _, _, after = rest.partition(": ")
        mine, _, of_datasets = after.partition(", of datasets also ")
        parameters = set(re.findall(r"\w+", mine)) if after else set()
        more = more | set(re.findall(r"\w+", of_datasets))
        for way in ways:
            documented[way] = parameters
        commands |= set(re.findall(r"`fastk dataset ([a-z]+)", command))
    for kind, found in coded.items():
        named = {way.replace("/v1/datasets", f"/v1/{kind}"): parameters for way, parameters in documented.items()}
        if kind == "datasets":
            named["GET /v1/datasets"] = named["GET /v1/datasets"] | more
        assert named == found, kind
    for kind in ("dataset", "feature", "factor"):
        listed = support.run(kind, "--help").stdout
        listed = listed[listed.index("Commands:") : listed.index("Options:")]
        assert set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)) - {"help"} == commands, kind


def test_the_page_about_metrics_has_every_label_and_the_bounds(tmp_path):
    import pyarrow.flight as flight

    made = support.run("admin", "token", "create", "--root", tmp_path / "store", "--name", "a", "--scope", "admin", "--json")
    bearer = f"Bearer {json.loads(made.stdout)['token']}"
    server = support.Server(tmp_path / "store").start()
    try:
        spec = {"kind": "kline", "symbol": "A", "timeframe": "1m", "price_digits": 2, "volume_digits": 2}
        server.request("POST", "/v1/series", spec, {"Authorization": bearer}).close()
        try:
            server.read("/inventory")
        except urllib.error.HTTPError as error:
            assert error.code == 401
        server.request("GET", "/v1/klines/A/1m", headers={"Authorization": bearer}).close()
        with flight.connect(server.flight) as client:
            list(client.list_flights(options=flight.FlightCallOptions(headers=[(b"authorization", bearer.encode())])))
        text = server.read("/metrics", Authorization=bearer).decode()
    finally:
        server.stop()
    coded, bounds, amounts = {}, set(), set()
    for name, labels in re.findall(r"^fastk_(\w+?)(?:_bucket|_sum|_count)?\{(.*)\} \S+$", text, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        bound = found.pop("le", "+Inf")
        (bounds if name.endswith("_seconds") else amounts).add(bound)
        for label in found:
            coded.setdefault(label, set()).add(name)
    documented = {}
    for label, _, names in table("metrics.md", "| label | what it says | of |"):
        documented[label.strip("`")] = set(re.findall(r"`(\w+)`", names))
    assert documented == coded
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = re.search(r"seconds have the bounds (.*?), those of rows", page, re.DOTALL)[1]
    shown, waiting = [], []
    for word in re.findall(r"[0-9.]+|us|ms|s\b", named):
        if word[0].isdigit():
            waiting.append(float(word))
        else:
            shown += [round(one * {"us": 1e-6, "ms": 1e-3, "s": 1}[word], 9) for one in waiting]
            waiting = []
    assert waiting == [] and shown == sorted(round(float(bound), 9) for bound in bounds if bound != "+Inf")
    assert sorted(float(bound) for bound in amounts if bound != "+Inf") == [10.0**power for power in range(10)]


def test_too_many_headers_for_the_library_get_a_problem_document_too(server):
    """As in docs/limits.md: a problem document, and the connection is closed."""
    address = server.http.rsplit("/", 1)[1].split(":")

    def send(lines):
        with socket.create_connection((address[0], int(address[1])), timeout=60) as line:
            line.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n")
            response = line.recv(1_000)
            if b" 431 " in response:
                assert line.recv(1_000) == b"", "the connection stays open"
        return response

    assert send(b"".join(b"x-%d: 1\r\n" % number for number in range(99))).startswith(b"HTTP/1.1 200 ")
    for lines in (b"".join(b"x-%d: 1\r\n" % number for number in range(100)), b"x: " + b"a" * 300_000 + b"\r\n"):
        response = send(lines)
        assert response.startswith(b"HTTP/1.1 431 ") and b"problem+json" in response and b"x-request-id" in response
    response = send(b"connection: close\r\nx: " + b"a" * 40_000 + b"\r\n")
    assert response.startswith(b"HTTP/1.1 431 ") and b"headers_too_large" in response
