"""The blocks of the documentation, run in their order, each page with a directory and server of its own.

`sh`, `python` and, where there is node, `js` are run; `console run` too, and what it prints is compared. A `csv` or `toml`
with a name is a file of that name. A block whose info string says `no-run: REASON` is left out, and such blocks are few.
A page that starts no server itself has the demo, whose directory is its `market`.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import support

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_RUN_MAX = 10
RUN = ("sh", "python", "js", "console")
FILES = ("csv", "toml")
USUAL = ("127.0.0.1:8080", "127.0.0.1:8815")


def blocks(page):
    return [found.groups(default="") for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def runnable(page):
    """Language and text of what is to be run or written."""
    return [
        (language, info, text)
        for language, info, text in blocks(page)
        if language in RUN + FILES
        and not info.startswith("no-run:")
        and (language != "console" or info == "run")
        and (language not in FILES or info)
    ]


PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(kind in RUN for kind, _, _ in runnable(page))]


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
        """The demo; gives its directory."""
        process = self.start("demo")
        while "the files:" not in (line := process.stdout.readline()):
            assert line, "the demo ended early"
        return re.search(r"the files: (\S+)", line)[1]

    def here(self, text):
        for usual, real in zip(USUAL, self.addresses):
            text = text.replace(usual, real)
        return text

    def shell(self, text):
        waiting = []
        for line in text.splitlines(keepends=True):
            if starts_server(line):
                self.run(["bash", "-euc", self.here("".join(waiting))])
                waiting = []
                if line.split()[1] == "demo":
                    self.demo()
                else:
                    self.start(*line.split()[1:])
            else:
                waiting.append(line)
        return self.run(["bash", "-euc", self.here("".join(waiting))])

    def console(self, text):
        """Commands after `$ `, each with what it prints on standard output."""
        for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, printed = re.fullmatch(r"((?:.*\\\n)*.*\n)((?s:.*))", shown).groups()
            assert self.run(["bash", "-euc", self.here(command)]) == self.here(printed), command

    def script(self, text):
        if shutil.which("node"):
            self.run(["node", "--input-type=module", "--eval", self.here(text)])
        else:
            warnings.warn("node is not installed: blocks in JavaScript are not run", stacklevel=2)

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


def starts_server(line):
    return line.startswith(("fastk serve ", "fastk demo\n")) and "--print-config" not in line


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_the_commands_of_a_page_work(name, tmp_path):
    found = runnable(DOCS / name)
    page = Page(tmp_path)
    try:
        if not any(starts_server(line) for kind, _, text in found if kind == "sh" for line in text.splitlines(True)):
            (tmp_path / "market").symlink_to(page.demo())
        for kind, info, text in found:
            if kind in FILES:
                (tmp_path / info).write_text(text)
            elif kind == "sh":
                page.shell(text)
            elif kind == "console":
                page.console(text)
            elif kind == "js":
                page.script(text)
            else:
                page.run([sys.executable, "-c", page.here(text)])
    finally:
        page.end()


SETTINGS = [
    (page.name, text)
    for page in sorted(DOCS.glob("*.md"))
    for language, info, text in blocks(page)
    if language == "toml" and info in ("", "fastk.toml")
]


@pytest.mark.parametrize("name, text", SETTINGS, ids=[name for name, _ in SETTINGS])
def test_the_settings_of_a_page_are_known(name, text, tmp_path):
    (tmp_path / "fastk.toml").write_text(text)
    support.run("serve", "--config", "fastk.toml", "--print-config", cwd=tmp_path)


def test_the_lines_in_rust_stand_in_the_example():
    """Cargo compiles that, and not the page."""
    example = [line.strip() for line in (DOCS / "examples" / "embed.rs").read_text(encoding="utf-8").splitlines()]
    shown = [line.strip() for language, _, text in blocks(DOCS / "embed.md") if language == "rust" for line in text.splitlines()]
    assert shown
    assert [line for line in shown if line and line not in example] == []


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
