"""The container files without a container engine: what the image holds, how it starts, what its neighbours ask."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import support
import yaml

HERE = Path(__file__).parents[2]
DOCKER = HERE / "docker"
PAGE = HERE / "docs/containers.md"


def instructions():
    """Instructions of the last stage of the Dockerfile, by name."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    told = {}
    for name, what in re.findall(r"^([A-Z]+) (.*)$", re.split(r"^FROM .*\n", text, flags=re.M)[-1], re.M):
        told.setdefault(name, []).append(what)
    return told


class Image:
    """A directory with the files of the image, and what the Dockerfile says of starting it."""

    def __init__(self, root):
        self.root = root
        # The debug program of the tests: the steps are the same.
        options = {**os.environ, "FASTK_PROFILE": "dev"}
        subprocess.run([DOCKER / "build", root], check=True, env=options, capture_output=True, timeout=1800)
        told = instructions()
        self.settings = tomllib.loads((root / "etc/fastk/fastk.toml").read_text())
        self.entrypoint, self.command = (json.loads(told[name][-1]) for name in ("ENTRYPOINT", "CMD"))
        self.health = json.loads(re.fullmatch(r".* CMD (\[.*\])", told["HEALTHCHECK"][-1])[1])
        self.stop = getattr(signal, told["STOPSIGNAL"][-1])
        self.volumes = json.loads(told["VOLUME"][-1])
        self.exposed = [int(port) for port in told["EXPOSE"][-1].split()]
        self.own = {}
        for pair in (pair for line in told["ENV"] for pair in shlex.split(line)):
            name, value = pair.split("=", 1)
            self.own[name] = str(root / value.lstrip("/")) if value.startswith("/etc/") else value

    def port(self, *key):
        """The port that the settings of the image give a listener."""
        section, name = key
        return int(self.settings[section][name].rsplit(":", 1)[1])

    def environment(self, volumes):
        """What a container has: the variables of the image. Its volumes lie below a directory, its ports are free."""
        listen = {("http", "listen"), ("http", "health_listen"), ("flight", "listen")}
        changed = {}
        for section, key in listen:
            address = self.settings[section][key].rsplit(":", 1)[0]
            changed[f"FASTK__{section}__{key}".upper()] = f"{address}:0"
        changed["FASTK__STORE__ROOT"] = f"{volumes}{self.settings['store']['root']}"
        changed["FASTK__STORE__BACKUP_DIR"] = f"{volumes}{self.settings['store']['backup_dir']}"
        return {"PATH": f"{self.root}/usr/local/bin:{os.environ['PATH']}", **self.own, **changed}


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("image"))


class Container(support.Server):
    """The image, started as the Dockerfile says."""

    def __init__(self, image, volumes, **environment):
        super().__init__(volumes / "data")
        self.image, self.environment = image, {**image.environment(volumes), **environment}
        for path in image.volumes:
            (volumes / path.lstrip("/")).mkdir(exist_ok=True, parents=True)

    def start(self):
        with open(self.log, "ab") as log:
            command = self.image.entrypoint + self.image.command
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self.environment)
        self.fields = dict(word.split("=", 1) for word in self._ready_line().split()[1:])
        self.http = "http://127.0.0.1:" + self.fields["http"].rsplit(":", 1)[1]
        return self

    def run(self, *words):
        command = [*self.image.entrypoint, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def health(self):
        """The exit status of the health check."""
        at = f"127.0.0.1:{self.image.port('http', 'health_listen')}"
        there = f"127.0.0.1:{self.fields['health'].rsplit(':', 1)[1]}"
        command = [word.replace(at, there) for word in self.image.health]
        assert command != self.image.health, "it asks another port than that of the health listener"
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=60).returncode


def test_the_build_script_makes_what_the_image_holds(image):
    found = {str(path.relative_to(image.root)) for path in image.root.rglob("*") if path.is_file()}
    assert found == {
        "usr/local/bin/fastk", "etc/fastk/fastk.toml",
        "usr/share/doc/fastk/LICENSE-MIT", "usr/share/doc/fastk/LICENSE-APACHE",
    }
    assert image.own["FASTK_CONFIG"] == str(image.root / "etc/fastk/fastk.toml")
    listeners = [image.port("http", "listen"), image.port("http", "health_listen"), image.port("flight", "listen")]
    assert sorted(listeners) == image.exposed
    assert {image.settings["store"]["root"], image.settings["store"]["backup_dir"]} == set(image.volumes)


@pytest.mark.parametrize("is_secured", [False, True])
def test_the_image_starts_with_its_own_settings_and_tells_its_health(image, tmp_path, is_secured):
    environment = {}
    if is_secured:
        support.certificates(tmp_path)
        named = {"CERT": "server.pem", "KEY": "server.key", "CLIENT_CA": "root.pem"}
        environment = {f"FASTK__TLS__{name}": str(tmp_path / file) for name, file in named.items()}
    container = Container(image, tmp_path, **environment)
    shown = container.run("serve", "--insecure", "--print-config").stdout
    assert re.search(r"health_tls = false +# file", shown) and re.search(r"root = .* # environment", shown)
    # Refused without a token, then ready, and clean at the signal of the image.
    refused = container.run("serve")
    assert refused.returncode == 2 and "admin token create" in refused.stderr
    token = container.run("admin", "token", "create", "--name", "prometheus", "--scope", "read")
    assert re.fullmatch(r"fastk_[\w-]{43}\n", token.stdout), "nothing but the token goes into the file"
    container.start()
    try:
        assert container.health() == 0
        # As Prometheus asks.
        scrape = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
        assert scrape["static_configs"] == [{"targets": [f"fastk:{image.port('http', 'health_listen')}"]}]
        assert scrape["authorization"]["type"] == "Bearer" and scrape.get("scheme", "http") == "http"
        at = f"http://127.0.0.1:{container.fields['health'].rsplit(':', 1)[1]}/metrics"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(at, timeout=30)
        asked = urllib.request.Request(at, headers={"Authorization": f"Bearer {token.stdout.strip()}"})
        assert b"fastk_build_info" in urllib.request.urlopen(asked, timeout=30).read()
        if is_secured:
            with pytest.raises((OSError, http.client.HTTPException)):
                container.read("/health/live")
        else:
            assert container.read("/health/live")
        container.process.send_signal(image.stop)
        assert container.process.wait(support.STOP_SECONDS_MAX) == 0
        assert container.health() != 0
    finally:
        container.kill()
    lines = [json.loads(line) for line in container.log.read_text().splitlines()]
    assert {"ready", "stopped"} <= {line["fields"]["message"] for line in lines}


def blocks():
    """The commands of the page, by block."""
    return [text for info, text in re.findall(r"^```sh ([^\n]*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


def test_the_commands_of_the_page_work(image, tmp_path, fastk):
    shutil.copytree(DOCKER, tmp_path / "tree/docker", ignore=shutil.ignore_patterns("secrets"))
    programs, state = tmp_path / "programs", tmp_path / "state"
    for directory in (programs, state):
        directory.mkdir()
    told = {name: getattr(image, name) for name in ("entrypoint", "command", "volumes")}
    told["environment"] = image.environment("")
    (state / "image.json").write_text(json.dumps(told))
    stand_in = Path(__file__).with_name("docker_stand_in.py")
    (programs / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} {state} "$@"\n')
    (programs / "docker").chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FASTK", "GRAFANA"))}
    environment = {**own, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(text, at):
        command = ["bash", "-euc", text]
        done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    first, backup, upgrade, restore = blocks()
    docker = tmp_path / "tree/docker"
    try:
        token = re.fullmatch(r"(fastk_[\w-]{43})\n", run(first, tmp_path / "tree"))[1]
        ready = dict(word.split("=", 1) for word in (state / "ready").read_text().split()[1:])
        there = ["--server", "127.0.0.1:" + ready["http"].rsplit(":", 1)[1], "--token", token]
        secrets = docker / "secrets"
        assert secrets.stat().st_mode & 0o777 == 0o700, "the directory is for its owner"
        assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}, "other users read the files"
        assert len((secrets / "grafana-password").read_text()) > 20
        scrape = {"Authorization": f"Bearer {(secrets / 'prometheus-token').read_text().strip()}"}
        at = f"http://127.0.0.1:{ready['health'].rsplit(':', 1)[1]}/metrics"
        assert b"fastk_commit" in urllib.request.urlopen(urllib.request.Request(at, headers=scrape), timeout=30).read()
        fastk("register", support.KEY, *there)
        run(backup.replace("=TOKEN", f"={token}"), docker)
        fastk("register", "kline/ETHUSDT/1m", *there)
        run(upgrade, docker)
        run(restore, docker)
    finally:
        run("docker compose stop fastk", docker)
    series = {}
    for name in ("fastk_data", "fastk_backup/daily", "fastk_backup/before-upgrade", "fastk_restored"):
        listed = json.loads(fastk("admin", "list-series", "--root", state / name, "--json").stdout)["series"]
        series[name] = sorted(one["series"] for one in listed)
    both = [support.KEY, "kline/ETHUSDT/1m"]
    assert series == {
        "fastk_data": both, "fastk_backup/daily": both[:1],
        "fastk_backup/before-upgrade": both, "fastk_restored": both[:1],
    }
    assert not (state / "fastk_restored/tokens.json").exists()


def test_compose_asks_for_nothing_but_files_that_are_there_or_made():
    text = (DOCKER / "compose.yaml").read_text()
    assert "$" not in text, "a variable is asked for by every command, also by those that need it not"
    compose = yaml.safe_load(text)
    made = {secret["file"] for secret in compose["secrets"].values()}
    assert made and all(f"> {path.removeprefix('./')}\n" in PAGE.read_text() for path in made)
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists(), volume
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    published = {int(port.rsplit(":", 1)[1]) for port in compose["services"]["fastk"]["ports"]}
    assert published == {8080, 8815}
    password = compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    scrape = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    read = {"grafana": password, "prometheus": scrape["authorization"]["credentials_file"]}
    for service, path in read.items():
        assert path.removeprefix("/run/secrets/") in compose["services"][service]["secrets"]


def test_the_build_of_the_image_leaves_out_what_git_leaves_out():
    left_out = {line for line in (HERE / ".dockerignore").read_text().splitlines() if line and line[0] != "#"}
    missing = []
    for folder, directories, files in os.walk(HERE):
        directories[:] = [name for name in directories if name[0] != "." and name not in ("target", "node_modules")]
        if ".gitignore" not in files:
            continue
        below = Path(folder).relative_to(HERE)
        for line in (Path(folder) / ".gitignore").read_text().splitlines():
            bare = line.strip("/")
            is_anchored = "/" in line.rstrip("/")
            wanted = str(below / bare) if is_anchored else str(below / "**" / bare)
            if line and line[0] != "#" and wanted not in left_out:
                missing.append((str(below), line))
    assert missing == []
    # What is made in the tree by the commands we give.
    venv = re.search(r"venv=\$root/(\S+)", (HERE / "tests/run").read_text())[1]
    secrets = re.search(r"^install -d .* (\S+)$", blocks()[0], re.M)[1]
    assert {".git", "target", venv, f"docker/{secrets}"} <= left_out
    ignored = (HERE / ".gitignore").read_text().splitlines()
    assert {"/target", f"/{venv}", f"/docker/{secrets}"} <= set(ignored)


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
