"""Runs the blocks of the documentation in order, each page with a separate directory and server.

`sh`, `python` and, where there is node, `js` are run. `console run` is run too, and what its commands print is compared;
a block of any kind that says `printed` is what the `sh` or `python` block before it prints at last, and `text ready` the
line of the server started last. What differs from one run to the next is masked on both sides. A `csv` or `toml` with a name is a
file of that name. A block whose info string says `no-run: REASON` is left out, and such blocks are few. A page that starts
no server itself has the demo, whose directory is its `market`. `FASTK_BLESS=1` writes what is printed into the pages.
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
BLOCK = re.compile(r"^```([^\s`]*)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_RUN_MAX = 16
RUN = ("sh", "python", "js", "console")
FILES = ("csv", "toml")
SHOWN = ("json", "text", "rust", "ini", "yaml", *FILES)
# Parts that differ between runs: (pattern, replacement).
MASKS = [
    (re.compile(r"(\"?duration_ms\"?: ?)\d+"), r"\1N"),
    (re.compile(r"(\"?epoch\w*\"?: ?\"?)[0-9a-f]{16}\b"), r"\1ID"),
    (re.compile(r"(\"etag\":\"|etag: )\"?[0-9a-f]{16}-"), r"\1ID-"),
    (re.compile(r"(\"(?:request_)?id\":\"|/jobs/)[0-9a-f]{16}\b"), r"\1ID"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"(\"(?:done|total|bytes_checked|files_checked)\":)\d+"), r"\1N"),
    (re.compile(r"(\"?\b\w+_at\"?: ?\"?)20[0-9T:.-]+Z"), r"\1NOW"),
]
USUAL = ("127.0.0.1:8080", "127.0.0.1:8815")


def blocks(page):
    return [found.groups(default="") for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def runnable(page):
    """Language and text of the blocks to run or write."""
    def is_runnable_block(language, info):
        return language in RUN or info in ("printed", "ready") or language in FILES and info

    return [block for block in blocks(page) if not block[1].startswith("no-run:") and is_runnable_block(*block[:2])]


def masked(text):
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return text


EVERY_PAGE = [
    *sorted(DOCS.glob("*.md")),
    DOCS.parent / "README.md",
    *sorted(DOCS.parent.glob("benches/**/README.md")),
    *sorted(DOCS.parent.glob("tests/*/README.md")),
]
PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(kind in RUN for kind, _, _ in runnable(page))]


class Page:
    """Where the blocks of one page run."""

    def __init__(self, at):
        self.at = at
        self.started = []
        self.ready = self.printed = ""
        self.blessed = []
        self.addresses = USUAL
        programs = at / "programs"
        programs.mkdir()
        (programs / "fastk").symlink_to(support.binary())
        # A status of 400 or above is a failure.
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
        self.ready = process.stdout.readline()
        found = re.fullmatch(r"ready http=(\S+) flight=(\S+)(?: health=\S+)?\n", self.ready)
        assert found, self.ready
        self.addresses = found.groups()
        return process

    def demo(self):
        """Starts the demo; returns its directory."""
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
        """Commands after `$ `, each with what it prints on standard output; on standard error too where that is an error.

        One that found something ends with 1, which its output says. Any other status has to be shown.
        """
        parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
        shown = [re.fullmatch(r"((?:.*\\\n)*.*\n)((?s:.*))", part).groups() for part in parts]
        assert shown, f"no command in\n{text}"
        status = 0
        for command, printed in shown:
            if command == "echo $?\n":
                assert printed == f"{status}\n", f"{command}{printed}"
                continue
            done = self.end_of(["bash", "-uc", self.here(command)])
            status = done.returncode
            fails = re.search(r"^error\[\w+\]", printed, re.MULTILINE)
            # 22 is the exit status of curl for a response with an error status.
            may_end = status == 0 or fails or status in (1, 22) and printed
            assert may_end, f"{command}{status}\n{done.stdout}\n{done.stderr}"
            self.compare(done.stdout + (done.stderr if fails else ""), printed, command)

    def compare(self, printed, shown, where):
        if printed and not printed.endswith("\n"):
            printed += "\n"
        if masked(printed) == masked(self.here(shown)):
            return
        assert os.environ.get("FASTK_BLESS"), (
            f"{where}: it prints\n{masked(printed)}\nand not, as the page says,\n{masked(shown)}\n"
            "(FASTK_BLESS=1 rewrites it)"
        )
        for usual, real in zip(USUAL, self.addresses):
            printed = printed.replace(real, usual)
        self.blessed.append((shown, printed))

    def bless(self, page):
        """Writes the output into the page."""
        text, at = page.read_text(encoding="utf-8"), 0
        for shown, printed in self.blessed:
            at = text.index(shown, at)
            text = text[:at] + printed + text[at + len(shown) :]
        if self.blessed:
            page.write_text(text, encoding="utf-8")

    def script(self, text):
        if shutil.which("node"):
            self.run(["node", "--input-type=module", "--eval", self.here(text)])
        else:
            warnings.warn("node is not installed: blocks in JavaScript are not run", stacklevel=2)

    def end_of(self, command):
        return subprocess.run(
            command, cwd=self.at, env=self.environment, capture_output=True, text=True, encoding="utf-8", timeout=120
        )

    def run(self, command):
        done = self.end_of(command)
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
            if info == "printed":
                last = page.printed.splitlines(keepends=True)[-text.count("\n") :]
                page.compare("".join(last), text, f"what the block before prints is not\n{text}")
            elif info == "ready":
                # The ports of the page are the default ports.
                ports = re.compile(r":\d+")
                assert ports.sub(":PORT", page.ready) == ports.sub(":PORT", text)
            elif kind in FILES:
                (tmp_path / info).write_text(text)
            elif kind == "sh":
                page.printed = page.shell(text)
            elif kind == "console":
                page.console(text)
            elif kind == "js":
                page.script(text)
            else:
                page.printed = page.run([sys.executable, "-c", page.here(text)])
        page.bless(DOCS / name)
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
    if "[tls]" in text:
        # Every file named there has to exist.
        support.certificates(tmp_path)
    support.run("serve", "--config", "fastk.toml", "--print-config", cwd=tmp_path)


def test_the_lines_in_rust_are_in_the_example():
    """Cargo compiles that, and not the page."""
    example = [line.strip() for line in (DOCS / "examples" / "embed.rs").read_text(encoding="utf-8").splitlines()]
    shown = [line.strip() for language, _, text in blocks(DOCS / "embed.md") if language == "rust" for line in text.splitlines()]
    assert shown
    assert [line for line in shown if line and line not in example] == []


def test_every_block_is_run_or_says_why_not():
    """No fence gets by: each has a known language, and what looks like commands is run."""
    wrong, left_out = [], []
    for page in EVERY_PAGE:
        name = str(page.relative_to(DOCS.parent))
        fences = re.findall(r"^ *```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
        found = blocks(page)
        if len(fences) != 2 * len(found):
            wrong.append((name, f"{len(fences)} lines with ``` make {len(found)} blocks"))
        for language, info, text in found:
            begins = (name, f"```{language} {info}", text.partition("\n")[0])
            if info.startswith("no-run"):
                left_out.append(begins)
                if not re.fullmatch(r"no-run: \S.*", info):
                    wrong.append(begins)
            elif language == "console":
                # Only pages in docs/ are run here.
                if info != "run" or page.parent != DOCS:
                    wrong.append(begins)
            elif language in RUN:
                # tests/python/test_readme.py runs those of the README.
                if info or page.parent not in (DOCS, DOCS.parent):
                    wrong.append(begins)
            elif language not in SHOWN or re.search(r"^\$ ", text, re.MULTILINE):
                wrong.append(begins)
            elif info in ("printed", "ready") and page.parent != DOCS:
                wrong.append(begins)
    assert wrong == []
    assert len(left_out) <= NO_RUN_MAX, left_out


def test_every_page_is_listed_and_every_link_resolves():
    map_text = (DOCS / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in map_text]
    assert missing == []
    dead = []
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                dead.append((page.name, link))
    assert dead == []
