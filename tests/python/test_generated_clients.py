"""Clients that generators make of the OpenAPI document: each registers, writes, merges, reads and lists."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "openapi" / "fastk.v1.json"
PROGRAMS = Path(__file__).parent / "generated"
EXAMPLE = ROOT / "docs" / "examples" / "browser"
EXPECTED = {
    "created": True,
    "written": [1, 1, 1],
    "rows": [
        {
            "ts": "1706745600000",
            "open": "42000.10",
            "high": "42020.00",
            "low": "41990.50",
            "close": "42002.25",
            "volume": "4.50000000",
        },
        {
            "ts": "1706745660000",
            "open": "42000.10",
            "high": "42010.00",
            "low": "41990.50",
            "close": "42005.00",
            "volume": "3.50000000",
        },
    ],
    "series": ["kline/BTCUSDT/1m"],
    "columns": ["open:decimal:2", "high:decimal:2", "low:decimal:2", "close:decimal:2", "volume:decimal:8"],
}


def call(*words, at, **environment):
    """What a program wrote to its two outputs; it must have succeeded."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": paths, "npm_config_ignore_scripts": "true"} | environment
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=at, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    return done.stdout, done.stderr


def got(*words, at, **environment):
    """The JSON of the last line that a program printed."""
    return json.loads(call(*words, at=at, **environment)[0].strip().splitlines()[-1])


def test_the_client_of_openapi_python_client_registers_writes_merges_reads_and_lists(server, tmp_path):
    package = tmp_path / "fastk_client"
    generator = [sys.executable, "-m", "openapi_python_client", "generate", "--path", DOCUMENT, "--meta", "none"]
    output = "".join(call(*generator, "--output-path", package, at=tmp_path))
    # It knows no Arrow, Parquet, NDJSON and CSV, and says so; it must have made something of everything else.
    blocks = output.split("WARNING parsing ")[1:]
    assert all("Unsupported content type" in block.split("{\n")[0] for block in blocks), output
    assert "Unable to" not in output and "Failure" not in output and "ERROR" not in output, output
    program = PROGRAMS / "openapi_python_client.py"
    assert got(sys.executable, program, server.http, at=tmp_path, PYTHONPATH=str(tmp_path)) == EXPECTED


@pytest.mark.skipif(not shutil.which("java"), reason="not installed: java, which openapi-generator runs on")
def test_the_client_of_openapi_generator_registers_writes_merges_reads_and_lists(server, tmp_path):
    import openapi_generator_cli

    made = tmp_path / "made"
    jar = Path(openapi_generator_cli.__file__).parent / "openapi-generator.jar"
    generator = ["java", "-jar", jar, "generate", "-i", DOCUMENT, "-g", "python", "-o", made]
    call(*generator, "--package-name", "fastk_client", "--additional-properties", "library=urllib3", at=tmp_path)
    assert got(sys.executable, PROGRAMS / "openapi_generator.py", server.http, at=made, PYTHONPATH=str(made)) == EXPECTED


MISSING = [program for program in ("node", "npm") if not shutil.which(program)]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_client_of_openapi_typescript_registers_writes_merges_reads_and_lists(server, tmp_path):
    # With the tools of the browser example, which its lock file pins.
    at = tmp_path / "docs" / "examples" / "browser"
    shutil.copytree(EXAMPLE, at, ignore=shutil.ignore_patterns("node_modules", "dist", "fastk.ts"))
    shutil.copytree(ROOT / "openapi", tmp_path / "openapi")
    shutil.copy(PROGRAMS / "client.ts", at / "src")
    call("npm", "ci", at=at)
    call("npm", "run", "types", at=at)
    call("npm", "run", "check", at=at)
    call("npx", "esbuild", "src/client.ts", "--bundle", "--format=esm", "--platform=node", "--outfile=client.mjs", at=at)
    assert got("node", "client.mjs", server.http, at=at) == EXPECTED
