"""Stands in for `docker` where there is no container engine: runs the program with what a container would have.

usage: docker_stand_in.py STATE ARGUMENTS…    STATE holds image.json, the volumes, and the output of a started server

Volumes are directories below STATE, as the compose file names them. A path below the mount of one is put in its place
in arguments and settings. Anything that the documentation does not use ends with status 125.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

TIMEOUT_SECONDS = 60


def fail(text):
    print(f"stand-in for docker: {text}", file=sys.stderr)
    sys.exit(125)


class Engine:
    def __init__(self, state):
        self.state = state
        self.image = json.loads((state / "image.json").read_text())

    def compose_file(self):
        text = Path("compose.yaml").read_text()
        for name, operator in re.findall(r"\$\{(\w+)(:?[?-])?", text):
            if operator in (":?", "?") and name not in os.environ:
                fail(f"required variable {name} is missing a value")
        return yaml.safe_load(text)

    def mounts(self, compose, *binds):
        """Directory here by path in the container of the service; `binds` are directories here as `-v` takes them."""
        pairs = (volume.split(":") for volume in compose["services"]["fastk"]["volumes"])
        mounts = {path: self.volume(f"{compose['name']}_{name}") for name, path in pairs}
        for bind in binds:
            source, path, *_ = bind.split(":")
            if not Path(source).is_absolute() or not Path(source).is_dir():
                fail(f"bind source is not a directory: {source}")
            mounts[path] = source
        return mounts

    def variables(self, compose):
        """Variables of the service, without the one that names a container: there are none here."""
        own = compose["services"]["fastk"].get("environment", {})
        return {name: str(value) for name, value in own.items() if name != "FASTK__HTTP__ADVERTISE"}

    def volume(self, name):
        (self.state / name).mkdir(exist_ok=True)
        return self.state / name

    def container(self, words, mounts, more=()):
        """Command and environment of a container."""
        if not set(self.image["volumes"]) <= set(mounts):
            fail(f"mounts {sorted(mounts)}, the image has volumes {self.image['volumes']}")

        def inside(text):
            for path, here in mounts.items():
                if text == path or text.startswith(path + "/"):
                    return f"{here}{text.removeprefix(path)}"
            return text

        own = {name: inside(value) for name, value in self.image["environment"].items()}
        return self.image["entrypoint"] + [inside(word) for word in words], {**own, **dict(more)}

    def run(self, words, mounts, more=()):
        command, environment = self.container(words, mounts, more)
        sys.exit(subprocess.run(command, env=environment).returncode)

    def pid(self):
        path = self.state / "pid"
        return int(path.read_text()) if path.exists() else None

    def up(self, compose):
        for service in compose["services"].values():
            binds = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith(".")]
            binds += [compose["secrets"][name]["file"] for name in service.get("secrets", [])]
            for source in binds:
                if not Path(source).exists():
                    fail(f"bind source path does not exist: {source}")
        if self.pid():
            return
        more = self.variables(compose)
        command, environment = self.container(self.image["command"], self.mounts(compose), more)
        with open(self.state / "log", "ab") as log:
            server = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        (self.state / "pid").write_text(str(server.pid))
        readable, _, _ = select.select([server.stdout], [], [], TIMEOUT_SECONDS)
        line = server.stdout.readline().decode() if readable else ""
        if not line.startswith("ready "):
            fail("the server is not ready: " + (self.state / "log").read_text())
        (self.state / "ready").write_text(line)

    def stop(self):
        pid = self.pid()
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        # It is not a child of this process: it has ended when its entry in /proc disappears.
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            if time.monotonic() > deadline:
                fail(f"process {pid} still runs")
            time.sleep(0.05)
        (self.state / "pid").unlink()


def main(state, *words):
    engine = Engine(Path(state))
    match list(words):
        case ["compose", "build"]:
            engine.compose_file()
        case ["compose", "up", "-d"]:
            engine.up(engine.compose_file())
        case ["compose", "stop", "fastk"]:
            engine.compose_file()
            engine.stop()
        case ["compose", "run", "--rm", "-T", "fastk", *rest]:
            engine.run(rest, engine.mounts(engine.compose_file()))
        case ["compose", "exec", "-e", pair, "fastk", program, *rest]:
            mounts = engine.mounts(engine.compose_file())
            if engine.pid() is None or [program] != engine.image["entrypoint"]:
                fail("exec is for a running server, and names the program itself")
            engine.run(rest, mounts, [pair.split("=", 1)])
        case ["compose", "run", "--rm", "-T", "-e", name, "-v", bind, "fastk", *rest]:
            if name not in os.environ:
                fail(f"{name} is not set")
            engine.run(rest, engine.mounts(engine.compose_file(), bind), [(name, os.environ[name])])
        case ["run", "--rm", "-v", one, "-v", other, "fastk", *rest]:
            pairs = (volume.split(":") for volume in (one, other))
            engine.run(rest, {path: engine.volume(name) for name, path in pairs})
        case _:
            fail(f"not used by the documentation: {' '.join(words)}")


main(*sys.argv[1:])
