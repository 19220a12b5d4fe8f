"""Runs the commands of the README in order against the demo."""

import gzip
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import support

README = Path(__file__).parents[2] / "README.md"
USUAL = ("127.0.0.1:8080", "127.0.0.1:8815")


@pytest.fixture(scope="module")
def demo():
    """A demo on free ports: its REST address, its Flight address, and its output."""
    process = subprocess.Popen(
        [support.binary(), "demo", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        ready = process.stdout.readline()
        http, flight = re.fullmatch(r"ready http=(\S+) flight=(\S+)\n", ready).groups()
        printed = []
        while "the files:" not in (line := process.stdout.readline()):
            assert line, "the demo ended early"
            printed.append(line)
        yield http, flight, "".join(printed)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def own_data():
    """The commands about own data."""
    found = [block for block in blocks("sh") if "fastk import" in block]
    assert len(found) == 1
    return found[0].splitlines()


def blocks(language):
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def here(text, demo):
    for usual, real in zip(USUAL, demo):
        text = text.replace(usual, real)
    return text


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return done.stdout


def test_the_curl_commands_work(demo):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) == 3
    outputs = []
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", here(line, demo) + " --silent --show-error --fail"], capture_output=True, text=True, timeout=60
        )
        if done.returncode == 127:
            pytest.skip("curl is not installed")
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        outputs.append(done.stdout)
    rows = outputs[0].splitlines()
    assert rows[0] == "ts,open,high,low,close,volume" and len(rows) == 4
    assert rows[-1] == "2024-03-31T23:59:00Z,41603.49,41610.78,41590.97,41591.54,14.76765492"
    assert '"value":37.61' in outputs[1].replace(" ", "")
    assert "kline/ETHUSDT/1h" in outputs[2]


def test_the_python_examples_work(demo):
    flight, polars, duckdb = blocks("python")
    assert "import json, pyarrow.flight" in flight and "import polars" in polars and "import duckdb" in duckdb
    out = python(here(flight, demo))
    assert out.startswith("41753 "), out
    assert "'ts', 'open', 'high', 'low', 'close', 'volume'" in out
    out = python(here(polars, demo))
    assert "shape: (91, 6)" in out, out
    out = python(here(flight + duckdb, demo))
    assert "minutes" in out and re.search(r"\b2\b", out), out


def test_the_demo_prints_the_examples_of_the_readme(demo):
    printed = demo[2]
    shown = [block for block in blocks("sh") if block.startswith("curl ")] + blocks("python")
    for block in shown:
        assert here(block, demo) in printed


def test_there_are_two_commands_to_set_up():
    first = blocks("sh")[0].splitlines()
    assert first == ["cargo run --release -- demo"]
    assert os.access(README.parent / "tests" / "run", os.X_OK)


def test_the_commands_about_own_data_work(demo, tmp_path):
    imported, queried, served = own_data()
    # Files like those of a vendor: the rows of the demo, one file per month.
    for month in ("2024-01", "2024-02"):
        range_ = f"start={month}-01&end={month}-02"
        with urllib.request.urlopen(f"http://{demo[0]}/v1/klines/BTCUSDT/1m?format=csv&{range_}") as rows:
            (tmp_path / f"BTCUSDT-1m-{month}.csv.gz").write_bytes(gzip.compress(rows.read()))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "fastk").symlink_to(support.binary())
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        return done.stdout

    assert "imported 5760 rows into kline/BTCUSDT/1m" in run(imported)
    rows = run(queried).splitlines()
    assert len(rows) == 6 and rows[-1].startswith("2024-02-02T23:59:00Z"), rows
    assert served == "fastk serve --root market"
    server = support.Server(tmp_path / "market").start()
    try:
        assert "kline/BTCUSDT/1m" in server.read("/inventory").decode()
    finally:
        server.stop()


def test_every_block_is_run():
    """Every block except `tests/run`, which runs these tests."""
    text = README.read_text(encoding="utf-8")
    shell, lines = blocks("sh"), own_data()
    assert shell[0] == "cargo run --release -- demo\n" and shell[1].startswith("curl ") and shell[2].splitlines() == lines
    assert len(shell) == 3 and len(blocks("python")) == 3
    assert len(re.findall(r"^```\w", text, re.MULTILINE)) == 3 + 3 + 2, "a block of another kind"
