"""The OpenAPI document against a live server: schemathesis sends valid and invalid requests."""

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import support

HERE = Path(__file__).parent
SCALAR = "/v1/scalars/feature/BTCUSDT/1m/rsi_14"
ROWS = 2_000
FULL = int(os.environ.get("FASTK_PROOF", "10")) >= 100
# Generated cases of an operation, and the minimum number of requests for them.
CASES, REQUESTS_MIN = (400, 10_000) if FULL else (8, 1_000)
SEED = 20240201


# Operations that start a job: 503 means that too many wait.
JOBS = {f"/v1/admin/{operation}" for operation in ("verify", "scrub", "compact", "backup")}


def requests_by_status(server, token) -> dict:
    """The request counts of the server, by route and status."""
    text = server.read("/metrics", authorization=f"Bearer {token}").decode()
    counted = collections.Counter()
    for labels, count in re.findall(r"^fastk_http_requests_total\{([^}]*)\} (\d+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        counted[labels["route"], int(labels["status"])] += int(count)
    return counted


def test_a_server_conforms_to_its_document_for_any_request(tmp_path, capsys):
    root, backups = tmp_path / "store", tmp_path / "backups"
    backups.mkdir()
    made = support.run("admin", "token", "create", "--root", root, "--name", "t", "--scope", "admin", "--json")
    token = json.loads(made.stdout)["token"]
    config = tmp_path / "fastk.toml"
    config.write_text(f'[store]\nbackup_dir = "{backups}"\n')
    server = support.Server(root, "--config", str(config)).start()
    report = tmp_path / "report.ndjson"
    try:
        environment = os.environ | {
            "FASTK_TOKEN": token,
            "FASTK_URL": server.http,
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            "PYTHONPATH": str(HERE),
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "run"]
        command += [server.http + "/openapi.json", "--seed", SEED, "--max-examples", CASES, "--continue-on-failure"]
        command += ["--warnings", "off", "--report", "ndjson", "--report-ndjson-path", report]
        if not FULL:
            command += ["--no-shrink"]
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
        counted = requests_by_status(server, token)
        requests = sum(counted.values())
        refused = sum(count for (route, status), count in counted.items() if status == 503 and route in JOBS)
        with capsys.disabled():
            print(f"\nproof schemathesis: {requests} requests, {refused} jobs refused since too many waited")
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
        assert requests >= REQUESTS_MIN
        # Independent of the checks of schemathesis: the server counts every response.
        blamed = {of: count for of, count in counted.items() if of[1] >= 500 and count > 0}
        wrong = {of: count for of, count in blamed.items() if of[1] != 503 or of[0] not in JOBS}
        assert not wrong, f"responses with a server error: {wrong}"
        server.stop()
    finally:
        server.kill()
