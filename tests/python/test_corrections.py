"""Runs the commands of docs/corrections.md in order against a server, and compares their output with the page."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import support

PAGE = Path(__file__).parents[2] / "docs" / "corrections.md"
HTTP = "127.0.0.1:8080"
TICKS = "ts,open,high,low,close,volume\n1706745600000,42003,42011,42001,42010,0.5\n"


@pytest.fixture
def outputs(tmp_path):
    """The output of each command of the page."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    (tmp_path / "fastk").symlink_to(support.binary())
    (tmp_path / "ticks.csv").write_text(TICKS)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    server = support.Server(tmp_path / "market")
    printed = {}
    try:
        for line in lines:
            if line.startswith("fastk serve"):
                server.start()
                continue
            words = line.replace(HTTP, server.http.removeprefix("http://"))
            words = words.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
            done = subprocess.run(
                ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout}"
            printed[" ".join(line.split())] = done.stdout
    finally:
        server.kill()
    return printed


def test_the_commands_of_the_page_have_the_documented_effect(outputs):
    page = PAGE.read_text(encoding="utf-8")
    [shown] = re.findall(r"^```csv printed\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    def output_of(part):
        found = [text for line, text in outputs.items() if part in line]
        assert len(found) == 1, (part, list(outputs))
        return found[0]

    assert output_of("1m?format=csv") == shown
    assert '"rows_deleted":0' in output_of("dry_run=true")
    assert "rows_replaced: 1" in output_of("fastk write")
    assert '"rows_deleted":1' in output_of("all=true")
    merged = "1706745600000,42000.10,42011.00,41999.50,42010.00,2.500\n"
    assert output_of("as_of=before-repair") == "ts,open,high,low,close,volume\n" + merged
    assert '"before-repair"' in output_of("curl 'http://127.0.0.1:8080/v1/snapshots'")
