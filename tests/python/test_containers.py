"""The container files without a container engine: what the image holds, how it starts, what its neighbours ask."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import support

HERE = Path(__file__).parents[2]
DOCKER = HERE / "docker"


def test_the_build_script_makes_what_the_image_holds(tmp_path):
    image = tmp_path / "image"
    # The debug program of the tests: the steps are the same.
    options = {**os.environ, "FASTK_PROFILE": "dev"}
    subprocess.run([DOCKER / "build", image], check=True, env=options, capture_output=True, timeout=1800)
    found = {str(path.relative_to(image)) for path in image.rglob("*") if path.is_file()}
    assert found == {
        "usr/local/bin/fastk", "etc/fastk/fastk.toml",
        "usr/share/doc/fastk/LICENSE-MIT", "usr/share/doc/fastk/LICENSE-APACHE",
    }
    fastk = image / "usr/local/bin/fastk"
    settings = {"PATH": os.environ["PATH"], "FASTK_CONFIG": str(image / "etc/fastk/fastk.toml")}
    data = tmp_path / "data"
    settings["FASTK__STORE__ROOT"] = str(data)

    def run(*args):
        return subprocess.run([fastk, *args], env=settings, capture_output=True, text=True, timeout=60)

    shown = run("serve", "--print-config").stdout
    assert re.search(r'listen = "0\.0\.0\.0:8080" +# file', shown) and re.search(r"root = .* # environment", shown)
    # As the image starts: refused without a token, then ready, and clean at SIGTERM.
    refused = run("serve")
    assert refused.returncode == 2 and "admin token create" in refused.stderr
    token = run("admin", "token", "create", "--name", "prometheus", "--scope", "read")
    assert re.fullmatch(r"fastk_[\w-]{43}\n", token.stdout), "nothing but the token goes into the file"
    server = support.Server(data, http="127.0.0.1:0").start()
    try:
        ping = run("admin", "ping", "--server", server.http)
        assert ping.returncode == 0 and "ok" in ping.stdout
    finally:
        server.stop()
    assert run("admin", "ping", "--server", server.http).returncode != 0


def test_the_image_runs_as_nobody_in_particular_and_asks_for_its_health():
    text = (DOCKER / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) (.*)$", text, re.M)
    names = [name for name, _ in instructions]
    assert names.count("FROM") == 2 and names.index("USER") < names.index("ENTRYPOINT")
    assert all(":" in what and ":latest" not in what for name, what in instructions if name == "FROM")
    user = next(what for name, what in instructions if name == "USER")
    assert user != "root" and not user.startswith("0")
    assert {"HEALTHCHECK", "VOLUME", "STOPSIGNAL", "EXPOSE"} <= set(names)
    assert "docker/build /image" in text


def test_the_files_of_the_image_are_lint_free():
    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run([scripts / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    files = sorted(DOCKER.rglob("*.yaml")) + sorted(DOCKER.rglob("*.yml"))
    assert DOCKER / "compose.yaml" in files
    done = subprocess.run(
        [scripts / "yamllint", "--strict", "-d", rules, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_asks_for_metrics_that_there_are(server):
    metrics = server.read("/metrics").decode()
    documented = set(re.findall(r"^\| `(fastk_\w+)`", (HERE / "docs/metrics.md").read_text(), re.M))
    dashboard = json.loads((DOCKER / "grafana/dashboards/fastk.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "prometheus"
        for target in panel["targets"]:
            asked |= set(re.findall(r"fastk_\w+", target["expr"]))
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= documented
    told = set(re.findall(r"^# TYPE (fastk_\w+)", metrics, re.M))
    assert told <= documented and len(told) > 20
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])


def test_a_parser_of_prometheus_reads_every_line(server):
    from prometheus_client.parser import text_string_to_metric_families

    server.json("POST", "/v1/series", support.REGISTRATION)
    row = {"ts": support.T0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}
    server.json("POST", "/v1/klines/BTCUSDT/1m", [row])
    server.read("/v1/klines/BTCUSDT/1m")
    families = {family.name: family for family in text_string_to_metric_families(server.read("/metrics").decode())}
    value = {sample.name: sample.value for family in families.values() for sample in family.samples if not sample.labels}
    assert value["fastk_rows_written_total"] == 1 and value["fastk_rows_read_total"] == 1
    assert value["fastk_wal_syncs_total"] >= 2 and value["fastk_series"] == 1 and value["fastk_sent_bytes_total"] > 0
    assert value["fastk_wal_sync_seconds_count"] == value["fastk_wal_syncs_total"]
    requests = families["fastk_http_requests"].samples
    routes = {(sample.labels["route"], sample.labels["method"], sample.labels["status"]) for sample in requests}
    assert ("/v1/klines/{symbol}/{timeframe}", "POST", "200") in routes
    assert "BTCUSDT" not in server.read("/metrics").decode(), "no symbol is a label"
    for family in families.values():
        assert family.documentation and family.type in {"counter", "gauge", "histogram"}, family.name
