"""The container files, without a container engine: contents and start of the image, compose, dashboards and alerts."""

import fcntl
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tomllib
import urllib.error
import urllib.request
import warnings
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
    instructions_by_name = {}
    for name, what in re.findall(r"^([A-Z]+) (.*)$", re.split(r"^FROM .*\n", text, flags=re.M)[-1], re.M):
        instructions_by_name.setdefault(name, []).append(what)
    return instructions_by_name


class Image:
    """A directory with the files of the image, and the start command of the Dockerfile."""

    def __init__(self, root):
        self.root = root
        # The debug program of the tests: the steps are the same.
        options = {**os.environ, "FASTK_PROFILE": "dev"}
        subprocess.run([DOCKER / "build", root], check=True, env=options, capture_output=True, timeout=1800)
        instructions_by_name = instructions()
        self.settings = tomllib.loads((root / "etc/fastk/fastk.toml").read_text())
        self.entrypoint, self.command = (json.loads(instructions_by_name[name][-1]) for name in ("ENTRYPOINT", "CMD"))
        self.health = json.loads(re.fullmatch(r".* CMD (\[.*\])", instructions_by_name["HEALTHCHECK"][-1])[1])
        self.stop = getattr(signal, instructions_by_name["STOPSIGNAL"][-1])
        self.volumes = json.loads(instructions_by_name["VOLUME"][-1])
        self.exposed = [int(port) for port in instructions_by_name["EXPOSE"][-1].split()]
        self.own = {}
        for pair in (pair for line in instructions_by_name["ENV"] for pair in shlex.split(line)):
            name, value = pair.split("=", 1)
            self.own[name] = str(root / value.lstrip("/")) if value.startswith("/etc/") else value

    def port(self, *key):
        """The port of a listener in the settings of the image."""
        section, name = key
        return int(self.settings[section][name].rsplit(":", 1)[1])

    def environment(self, volumes):
        """The environment of a container: variables of the image, volumes below a directory, free ports."""
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
    """The image, started with the command of the Dockerfile."""

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
        health_address = f"127.0.0.1:{self.fields['health'].rsplit(':', 1)[1]}"
        command = [word.replace(at, health_address) for word in self.image.health]
        assert command != self.image.health, "it uses another port than that of the health listener"
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=60).returncode


def test_the_build_script_builds_the_program_of_the_image(image):
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
def test_the_image_starts_with_its_settings_and_reports_its_health(image, tmp_path, is_secured):
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
    assert re.fullmatch(r"fastk_[\w-]{43}\n", token.stdout), "only the token is in the file"
    container.start()
    try:
        assert container.health() == 0
        # The scrape of Prometheus.
        scrape = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
        assert scrape["static_configs"] == [{"targets": [f"fastk:{image.port('http', 'health_listen')}"]}]
        assert scrape["authorization"]["type"] == "Bearer" and scrape.get("scheme", "http") == "http"
        at = f"http://127.0.0.1:{container.fields['health'].rsplit(':', 1)[1]}/metrics"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(at, timeout=30)
        metrics_request = urllib.request.Request(at, headers={"Authorization": f"Bearer {token.stdout.strip()}"})
        assert b"fastk_build_info" in urllib.request.urlopen(metrics_request, timeout=30).read()
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
    description = {name: getattr(image, name) for name in ("entrypoint", "command", "volumes")}
    description["environment"] = image.environment("")
    (state / "image.json").write_text(json.dumps(description))
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

    first, request, backup, upgrade, restore = blocks()
    docker = tmp_path / "tree/docker"
    try:
        token = re.fullmatch(r"(fastk_[\w-]{43})\n", run(first, tmp_path / "tree"))[1]
        ready = dict(word.split("=", 1) for word in (state / "ready").read_text().split()[1:])
        target = ["--server", "127.0.0.1:" + ready["http"].rsplit(":", 1)[1], "--token", token]
        secrets = docker / "secrets"
        assert secrets.stat().st_mode & 0o777 == 0o700, "the directory is for its owner"
        assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}, "other users read the files"
        assert len((secrets / "grafana-password").read_text()) > 20
        scrape = {"Authorization": f"Bearer {(secrets / 'prometheus-token').read_text().strip()}"}
        at = f"http://127.0.0.1:{ready['health'].rsplit(':', 1)[1]}/metrics"
        assert b"fastk_commit" in urllib.request.urlopen(urllib.request.Request(at, headers=scrape), timeout=30).read()
        # The page uses the port published by compose.
        filled_request = request.replace("=TOKEN", f"={token}").replace("127.0.0.1:8080", target[1])
        inventory, imported, last = re.fullmatch(r"(\{.*?\}\n)(.*?)(\{\"series\".*\n)", run(filled_request, docker), re.S).groups()
        assert json.loads(inventory)["totals"]["rows"] == 0 and "rows" in imported
        assert [row["close"] for row in json.loads(last)["rows"]] == [42010]
        run(backup.replace("=TOKEN", f"={token}"), docker)
        fastk("register", "kline/ETHUSDT/1m", *target)
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


def test_compose_needs_only_files_that_exist_or_are_created():
    text = (DOCKER / "compose.yaml").read_text()
    assert "$" not in text, "compose requires a variable for every command, even if unused"
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
    fastk = compose["services"]["fastk"]
    limits = fastk["ulimits"]["nofile"]
    assert limits["soft"] == limits["hard"] >= 65_536
    published = {int(port.rsplit(":", 1)[1]) for port in fastk["ports"]}
    assert published == {8080, 8815}
    password = compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    scrape = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    read = {"grafana": password, "prometheus": scrape["authorization"]["credentials_file"]}
    for service, path in read.items():
        assert path.removeprefix("/run/secrets/") in compose["services"][service]["secrets"]


def test_compose_has_the_health_check_of_the_image():
    """Images in the OCI format have no health check."""
    own = instructions()["HEALTHCHECK"][-1]
    times = dict(re.findall(r"--([\w-]+)=(\S+)", own.split(" CMD ")[0]))
    check = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["fastk"]["healthcheck"]
    assert check["test"] == ["CMD", *json.loads(own.split(" CMD ")[1])]
    assert {name.replace("-", "_"): value for name, value in times.items()} == {
        name: str(value) for name, value in check.items() if name != "test"
    }


def test_a_second_container_reaches_the_server_at_its_advertised_address(tmp_path, fastk):
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    advertised = compose["services"]["fastk"]["environment"]["FASTK__HTTP__ADVERTISE"]
    port = tomllib.loads((DOCKER / "fastk.toml").read_text())["http"]["listen"].rsplit(":", 1)[1]
    assert advertised == f"fastk:{port}" and "fastk" in compose["services"]
    # Other processes stand for other containers, and reach the server under another name of this machine.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path / "data"
    environment = {**os.environ, "FASTK__HTTP__ADVERTISE": f"localhost:{port}"}
    command = [support.binary(), "serve", "--root", root, "--http", f"127.0.0.1:{port}", "--flight", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
    try:
        assert server.stdout.readline().startswith("ready ")
        done = fastk("register", support.KEY, "--root", root)
        assert f"going through http://localhost:{port}" in done.stderr
    finally:
        server.terminate()
        server.wait(support.STOP_SECONDS_MAX)
    # An unreachable address is reported with a hint.
    lock = json.loads((root / "LOCK").read_text())
    assert lock["http"] == f"localhost:{port}"
    with open(root / "LOCK", "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = fastk("register", support.KEY, "--root", root, check=False)
    assert done.returncode == 7 and "--server http://HOST:PORT" in done.stderr and "http.advertise" in done.stderr
    refused = fastk("serve", "--print-config", check=False, env={**os.environ, "FASTK__HTTP__ADVERTISE": "fastk"})
    assert refused.returncode == 2 and "http.advertise" in refused.stderr


def test_ping_fails_when_writing_has_stopped(image, tmp_path, fastk):
    """The health check fails when the store refuses writes, while reads continue."""
    server = support.Server(tmp_path / "store").start()
    ping = [*image.health[1:3], "--server", server.http]
    try:
        assert json.loads(server.read("/health/ready")) == {"status": "ok"}
        assert fastk(*ping).returncode == 0
        fastk("register", support.KEY, "--server", server.http)
        row = {"ts": support.T0, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}
        server.json("POST", "/v1/klines/BTCUSDT/1m", [row])
        # An edit of the manifest fails, and its state on disk is unknown.
        (server.root / "manifest").rename(tmp_path / "away")
        assert server.json("POST", "/v1/admin/compact?wait=true")["jobs"][0]["status"] == "failed"
        (tmp_path / "away").rename(server.root / "manifest")
        ready_reply = json.loads(server.read("/health/ready"))
        assert ready_reply == {"status": "degraded", "writer_stopped": True}
        for target in (["--server", server.http], ["--root", server.root]):
            done = fastk(*ping[:2], *target, check=False)
            assert done.returncode == 1 and "writes are refused" in done.stderr
        assert len(json.loads(server.read("/v1/klines/BTCUSDT/1m"))["rows"]) == 1
    finally:
        server.kill()
    server.start()
    try:
        assert fastk(*ping[:2], "--server", server.http).returncode == 0
    finally:
        server.kill()


def test_the_demo_is_reachable_from_outside_its_container_and_works_on_a_read_only_root(tmp_path, fastk):
    """On a read-only root the temporary directory is not writable: the demo uses another one."""
    environment = {**os.environ, "TMPDIR": "/proc/nowhere"}
    command = [support.binary(), "demo", "--http", "0.0.0.0:0", "--flight", "0.0.0.0:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        ready = dict(word.split("=", 1) for word in process.stdout.readline().split()[1:])
        assert ready["http"].startswith("0.0.0.0:") and ready["flight"].startswith("0.0.0.0:")
        port = ready["http"].rsplit(":", 1)[1]
        lines = ""
        while "the files:" not in lines:
            line = process.stdout.readline()
            assert line, "the demo ended early"
            lines += line
        assert f"curl 'http://127.0.0.1:{port}/" in lines and "0.0.0.0" not in lines
        directory = Path(re.search(r"the files: (\S+)", lines)[1])
        assert directory.is_dir() and directory.parts[1] != "proc"
        used = sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
        assert used < 60 << 20, "container engines give /dev/shm 64 MiB"
        response = urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/klines/BTCUSDT/1m?latest=1", timeout=30)
        assert len(json.loads(response.read())["rows"]) == 1
    finally:
        process.terminate()
        process.wait(support.STOP_SECONDS_MAX)
    assert "can be reached from other machines" in process.stderr.read()
    assert not directory.exists()


def test_data_and_secrets_in_the_tree_stay_out_of_the_image():
    left_out = set((HERE / ".dockerignore").read_text().splitlines())
    root = tomllib.loads((HERE / "config/fastk.toml").read_text())["store"]["root"]
    shown = set(re.findall(r"--root (\w+)", (HERE / "README.md").read_text()))
    assert {root, *shown, "**/.env", "**/*.key", "docker/secrets"} <= left_out


def test_the_build_of_the_image_ignores_what_git_ignores():
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
            pattern = str(below / bare) if is_anchored else str(below / "**" / bare)
            if line and line[0] != "#" and pattern not in left_out:
                missing.append((str(below), line))
    assert missing == []
    # Files created in the tree by documented commands.
    venv = re.search(r"venv=\$root/(\S+)", (HERE / "tests/run").read_text())[1]
    secrets = re.search(r"^install -d .* (\S+)$", blocks()[0], re.M)[1]
    assert {".git", "target", venv, f"docker/{secrets}"} <= left_out
    ignored = (HERE / ".gitignore").read_text().splitlines()
    assert {"/target", f"/{venv}", f"/docker/{secrets}"} <= set(ignored)


@pytest.fixture
def engine_image(image, tmp_path):
    """The last stage of the Dockerfile, built by buildah without a daemon; gives what runs a command in a container of it.

    The files of the first stage are those of `docker/build`. FASTK_CONTAINERS_STORAGE names a storage.conf whose storage has
    the base image already, where none can be pulled.
    """
    skipped = "SKIPPED: {}; the image was not built by a container engine"
    buildah = shutil.which("buildah")
    if not buildah or os.geteuid() != 0:
        warnings.warn(skipped.format("buildah is not installed, or this is not root"))
        pytest.skip("buildah is not installed, or this is not root")
    context = tmp_path / "context"
    shutil.copytree(image.root, context / "image")
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    (context / "etc/ssl/certs").mkdir(parents=True)
    if authorities.exists():
        shutil.copy(authorities, context / "etc/ssl/certs")
    else:
        (context / "etc/ssl/certs/ca-certificates.crt").write_text("")
    last = (DOCKER / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    (context / "Dockerfile").write_text(f"FROM scratch AS build\nCOPY . /\n\nFROM docker.io/library/{last}")
    storage = os.environ.get("FASTK_CONTAINERS_STORAGE")
    if not storage:
        storage = tmp_path / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n')
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}
    policy = ["--signature-policy", tmp_path / "policy.json"]

    def run(*words, check=True):
        done = subprocess.run([buildah, *words], capture_output=True, text=True, env=environment, timeout=600)
        assert not check or done.returncode == 0, f"buildah {words}\n{done.stdout}\n{done.stderr}"
        return done

    base = last.split("\n", 1)[0]
    pulled = run("from", *policy, "--pull=missing", f"docker.io/library/{base}", check=False)
    if pulled.returncode != 0:
        warnings.warn(skipped.format(f"{base} cannot be pulled"))
        pytest.skip(f"{base} cannot be pulled: {pulled.stderr[-300:]}")
    made = [pulled.stdout.strip()]
    try:
        run("build", *policy, "--pull=never", "--format", "oci", "--layers=false", "-t", "fastk-test", context)
        made.append(run("from", *policy, "--pull-never", "localhost/fastk-test").stdout.strip())
        yield lambda *words, check=True: run("run", made[-1], "--", *words, check=check)
    finally:
        for container in made:
            run("rm", container, check=False)
        run("rmi", "localhost/fastk-test", check=False)


def test_an_engine_builds_the_image_and_its_program_starts(engine_image):
    assert re.match(r"uid=10001\(fastk\) gid=10001\(fastk\)", engine_image("id").stdout)
    assert engine_image("stat", "-c", "%u:%g %a", "/data", "/backup").stdout == "10001:10001 750\n" * 2
    assert engine_image("test", "-r", "/etc/ssl/certs/ca-certificates.crt").returncode == 0
    demo = engine_image("fastk", "demo", "--exit", "--http", "0.0.0.0:0", "--flight", "0.0.0.0:0")
    assert "ready http=0.0.0.0:" in demo.stdout and "last 3 rows of kline/BTCUSDT/1m" in demo.stdout
    # Without a token the server does not start, and prints how to create one.
    refused = engine_image("fastk", "serve", check=False)
    assert refused.returncode != 0 and "admin token create" in refused.stderr


def test_the_image_runs_as_an_unprivileged_user_with_a_health_check():
    text = (DOCKER / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) (.*)$", text, re.M)
    names = [name for name, _ in instructions]
    assert names.count("FROM") == 2 and names.index("USER") < names.index("ENTRYPOINT")
    assert all(":" in what and ":latest" not in what for name, what in instructions if name == "FROM")
    user = next(what for name, what in instructions if name == "USER")
    assert user != "root" and not user.startswith("0")
    assert {"HEALTHCHECK", "VOLUME", "STOPSIGNAL", "EXPOSE"} <= set(names)
    assert "docker/build /image" in text
    made = next(what for name, what in instructions if name == "RUN" and "useradd" in what + text)
    assert user == "10001:10001" and "groupadd --system --gid 10001" in text and "--uid 10001 --gid 10001" in text, made
    assert "COPY --from=build /etc/ssl/certs/ca-certificates.crt " in text, "object stores are accessed over https"


def test_the_labels_of_the_image_are_those_of_the_package():
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', text))
    package = tomllib.loads((HERE / "Cargo.toml").read_text())["package"]
    assert labels["version"] == package["version"] and labels["licenses"] == package["license"]
    assert labels["description"] == package["description"]
    assert labels["base.name"].endswith("/" + re.findall(r"^FROM (\S+)$", text, re.M)[-1])


def test_sources_with_older_times_are_compiled_again(tmp_path):
    """The build step of the Dockerfile, with its caches, on a package that takes no time to compile."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    [step] = [line for line in text.splitlines() if "docker/build /image" in line]
    assert step.startswith("RUN ") and "target=/src/target" in step
    step = re.sub(r"--mount=\S+ ", "", step.removeprefix("RUN ")).replace("/image", str(tmp_path / "image"))
    tree = tmp_path / "src"
    (tree / "src").mkdir(parents=True)
    shutil.copytree(DOCKER, tree / "docker", ignore=shutil.ignore_patterns("secrets"))
    for licence in HERE.glob("LICENSE-*"):
        shutil.copy(licence, tree)
    (tree / "Cargo.toml").write_text(
        '[package]\nname = "fastk"\nversion = "0.0.1"\nedition = "2021"\n[profile.dist]\ninherits = "release"\n'
    )
    (tree / "Cargo.lock").write_text('version = 3\n\n[[package]]\nname = "fastk"\nversion = "0.0.1"\n')
    # The cache mount of the image is the default directory of cargo.
    own = {name: value for name, value in os.environ.items() if name not in ("CARGO_TARGET_DIR", "FASTK_PROFILE")}
    for word, age in (("new", 0), ("old", 7 * 86_400)):
        (tree / "src/main.rs").write_text(f'fn main() {{ println!("{word}"); }}\n')
        for path in tree.rglob("*"):
            if "target" not in path.parts:
                os.utime(path, (path.stat().st_mtime - age,) * 2)
        subprocess.run(["sh", "-euc", step], cwd=tree, env=own, check=True, capture_output=True, timeout=600)
        program = tmp_path / "image/usr/local/bin/fastk"
        assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == f"{word}\n"


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


def test_the_dashboard_uses_existing_metrics(server):
    metrics = server.read("/metrics").decode()
    documented = set(re.findall(r"^\| `(fastk_\w+)`", (HERE / "docs/metrics.md").read_text(), re.M))
    dashboard = json.loads((DOCKER / "grafana/dashboards/fastk.json").read_text())
    shown_metrics = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "prometheus"
        for target in panel["targets"]:
            shown_metrics |= set(re.findall(r"fastk_\w+", target["expr"]))
    assert {re.sub(r"_bucket$", "", name) for name in shown_metrics} <= documented
    exported = set(re.findall(r"^# TYPE (fastk_\w+)", metrics, re.M))
    assert exported <= documented and len(exported) > 20
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])


@pytest.fixture
def promtool():
    """promtool, or the program in FASTK_PROMTOOL."""
    found = os.environ.get("FASTK_PROMTOOL") or shutil.which("promtool")
    if not found:
        warnings.warn("SKIPPED: promtool is not installed (Debian: prometheus); the alert rules were not checked")
        pytest.skip("promtool is not installed")
    return found


RULES = DOCKER / "prometheus/fastk.rules.yml"


def test_the_alert_rules_use_existing_metrics():
    documented = set(re.findall(r"^\| `(fastk_\w+)`", (HERE / "docs/metrics.md").read_text(), re.M))
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    used_metrics = {re.sub(r"_(bucket|sum|count)$", "", name) for rule in rules for name in re.findall(r"fastk_\w+", rule["expr"])}
    assert used_metrics <= documented and len(rules) == len({rule["alert"] for rule in rules})
    watched = {"disk_free_bytes", "memory_limit_bytes", "open_files_limit", "writer_stopped", "degraded"}
    assert {f"fastk_{name}" for name in watched} <= used_metrics
    prometheus = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    [loaded] = prometheus["rule_files"]
    mounted = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["prometheus"]["volumes"]
    assert f"./prometheus/{RULES.name}:{loaded}:ro" in mounted
    assert 'up{job="fastk"}' in RULES.read_text() and prometheus["scrape_configs"][0]["job_name"] == "fastk"


def test_the_alert_rules_fire_when_they_should(promtool, tmp_path):
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = ["check", "config", "--syntax-only", DOCKER / "prometheus/prometheus.yml"]
    done = subprocess.run([promtool, *config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Samples one minute apart, and the expected alerts.
    cases = {
        "FastkDown": {'up{job="fastk"}': "0x20"},
        "FastkWriterStopped": {"fastk_writer_stopped": "1x20"},
        "FastkDegraded": {"fastk_degraded": "1x20"},
        "FastkDamagedReads": {"fastk_damaged_reads_total": "0x10 1x10"},
        "FastkDiskFull": {"fastk_disk_free_bytes": "4x20", "fastk_disk_bytes": "100x20"},
        "FastkDiskFilling": {"fastk_disk_free_bytes": "29-0.05x200", "fastk_disk_bytes": "100x200"},
        "FastkMemoryHigh": {"fastk_memory_bytes": "95x20", "fastk_memory_limit_bytes": "100x20"},
        "FastkOpenFilesHigh": {"fastk_open_files": "900x20", "fastk_open_files_limit": "1024x20"},
        "FastkRequestsFail": {
            'fastk_http_requests_total{instance="a",status="200"}': "0+60x20",
            'fastk_http_requests_total{instance="a",status="500"}': "0+6x20",
        },
        "FastkSyncSlow": {
            'fastk_wal_sync_seconds_bucket{le="1"}': "0+1x20",
            'fastk_wal_sync_seconds_bucket{le="10"}': "0+60x20",
            'fastk_wal_sync_seconds_bucket{le="+Inf"}': "0+60x20",
        },
    }
    calm = {
        'up{job="fastk"}': "1x20", "fastk_writer_stopped": "0x20", "fastk_degraded": "0x20",
        "fastk_damaged_reads_total": "0x20", "fastk_disk_free_bytes": "80x20", "fastk_disk_bytes": "100x20",
        "fastk_memory_bytes": "50x20", "fastk_memory_limit_bytes": "100x20", "fastk_open_files": "100x20",
        "fastk_open_files_limit": "1024x20", 'fastk_http_requests_total{instance="a",status="200"}': "0+60x20",
        'fastk_http_requests_total{instance="a",status="500"}': "0x20",
        'fastk_wal_sync_seconds_bucket{le="1"}': "0+60x20", 'fastk_wal_sync_seconds_bucket{le="+Inf"}': "0+60x20",
    }
    names = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert set(names) == set(cases), "every alert is tried"
    tests = []
    for alert, series in [*cases.items(), (None, calm)]:
        minutes = 180 if alert == "FastkDiskFilling" else 19
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        # Alerts are read from the metric that promtool creates for each.
        fires = [{"expr": "count(ALERTS{alertstate='firing'}) or vector(0)", "eval_time": f"{minutes}m",
                  "exp_samples": [{"value": 0 if alert is None else 1}]}]
        if alert:
            fires.append({"expr": f"count(ALERTS{{alertstate='firing',alertname='{alert}'}})", "eval_time": f"{minutes}m",
                          "exp_samples": [{"value": 1}]})
        tests.append({"interval": "1m", "input_series": inputs, "promql_expr_test": fires, "name": alert or "calm"})
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_counter_and_histogram_exists_from_the_start(server):
    from prometheus_client.parser import text_string_to_metric_families

    text = server.read("/metrics").decode()
    kinds = dict(re.findall(r"^\| `(fastk_\w+)` \| (\w+) \|", (HERE / "docs/metrics.md").read_text(), re.M))
    exported_kinds = dict(re.findall(r"^# TYPE (fastk_\w+) (\w+)", text, re.M))
    assert exported_kinds == kinds, "a metric of the documentation is missing, or of another kind"
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    calls = samples["fastk_flight_calls_total"]
    methods = {dict(labels)["method"] for labels in calls}
    assert {"DoGet", "DoPut", "DoAction", "ListFlights", "other"} <= methods
    assert set(calls) == {(("method", method), ("outcome", one)) for method in methods for one in ("admitted", "refused")}
    assert set(calls.values()) == {0}
    assert samples["fastk_rejected_total"] == {(("interface", "rest"),): 0, (("interface", "flight"),): 0}
    document = json.loads(server.read("/openapi.json"))
    operations = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    requests = samples["fastk_http_requests_total"]
    seen = {(dict(labels)["route"], dict(labels)["method"]) for labels in requests}
    assert operations <= seen
    timed = {(dict(labels)["route"], dict(labels)["method"]) for labels in samples["fastk_http_request_seconds_count"]}
    assert operations <= timed
    for path, method in operations:
        assert (("method", method), ("route", path), ("status", "500")) in requests
    # The first event increments the same series from 0.
    key = (("method", "GET"), ("route", "/v1/series"), ("status", "200"))
    assert requests[key] == 0
    server.read("/v1/series")
    again = server.read("/metrics").decode()
    [line] = [line for line in again.splitlines() if 'route="/v1/series",' in line and 'method="GET",status="200"' in line]
    assert line.endswith(" 1"), line
    limits = {name: next(iter(samples[name].values())) for name in samples if name.startswith(("fastk_disk", "fastk_memory", "fastk_open_files"))}
    assert 0 < limits["fastk_disk_free_bytes"] <= limits["fastk_disk_bytes"]
    assert 0 < limits["fastk_memory_bytes"] < limits["fastk_memory_limit_bytes"]
    assert 3 < limits["fastk_open_files"] < limits["fastk_open_files_limit"]


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
