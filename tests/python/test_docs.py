"""The `sh` and `python` blocks of the documentation, run in their order, each page with a directory and server of its own.

A block whose info string says `no-run: REASON` is left out, and such blocks are few. A page that starts no server itself
has the demo, whose directory is its `market`.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_RUN_MAX = 10
USUAL = ("127.0.0.1:8080", "127.0.0.1:8815")


def blocks(page):
    return [found.groups(default="") for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def runnable(page):
    """Language and text of what is to be run or written."""
    return [
        (language, info, text)
        for language, info, text in blocks(page)
        if language in ("sh", "python", "csv") and not info.startswith("no-run:")
    ]


PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(kind != "csv" for kind, _, _ in runnable(page))]


class Page:
    """Where the blocks of one page run."""

    def __init__(self, at):
        self.at = at
        self.started = []
        self.addresses = USUAL
        programs = at / "programs"
        programs.mkdir()
        (programs / "fastk").symlink_to(support.binary())
        # What comes back with a status from 400 on is a failure.
        (programs / "curl").write_text('#!/bin/sh\nexec /usr/bin/curl --silent --show-error --fail-with-body "$@"\n')
        (programs / "curl").chmod(0o755)
        self.environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def start(self, *command):
        process = subprocess.Popen(
            [support.binary(), *command, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"],
            cwd=self.at,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self.started.append(process)
        assert select.select([process.stdout], [], [], 60)[0], f"{command} is not ready"
        ready = process.stdout.readline()
        found = re.fullmatch(r"ready http=(\S+) flight=(\S+)\n", ready)
        assert found, ready
        self.addresses = found.groups()
        return process

    def demo(self):
        """The demo, with its directory under the name that the pages use."""
        process = self.start("demo")
        while "the files:" not in (line := process.stdout.readline()):
            assert line, "the demo ended early"
        (self.at / "market").symlink_to(re.search(r"the files: (\S+)", line)[1])

    def here(self, text):
        for usual, real in zip(USUAL, self.addresses):
            text = text.replace(usual, real)
        return text

    def shell(self, text):
        waiting = []
        for line in text.splitlines(keepends=True):
            if line.startswith("fastk serve "):
                self.run(["bash", "-euc", self.here("".join(waiting))])
                waiting = []
                self.start(*line.split()[1:])
            else:
                waiting.append(line)
        return self.run(["bash", "-euc", self.here("".join(waiting))])

    def run(self, command):
        done = subprocess.run(
            command, cwd=self.at, env=self.environment, capture_output=True, text=True, encoding="utf-8", timeout=120
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def end(self):
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        for process in self.started:
            try:
                process.wait(max(1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_the_commands_of_a_page_work(name, tmp_path):
    found = runnable(DOCS / name)
    page = Page(tmp_path)
    try:
        if not any("fastk serve " in text for kind, _, text in found if kind == "sh"):
            page.demo()
        for kind, info, text in found:
            if kind == "csv":
                if info:
                    (tmp_path / info).write_text(text)
            elif kind == "sh":
                page.shell(text)
            else:
                page.run([sys.executable, "-c", page.here(text)])
    finally:
        page.end()


def test_few_blocks_are_left_out_and_each_says_why():
    left_out = [
        (page.name, info) for page in DOCS.glob("*.md") for _, info, _ in blocks(page) if info.startswith("no-run")
    ]
    assert all(re.fullmatch(r"no-run: \S.*", info) for _, info in left_out), left_out
    assert len(left_out) <= NO_RUN_MAX, left_out


def test_every_page_stands_on_the_map_and_every_link_leads_somewhere():
    map_text = (DOCS / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in map_text]
    assert missing == []
    dead = []
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                dead.append((page.name, link))
    assert dead == []
