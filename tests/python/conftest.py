"""Fixtures: a running server over an empty store, and the command line."""

import json
import os
from pathlib import Path

import browser as chromium
import pytest
import support


@pytest.fixture
def server(tmp_path):
    """A separate server: `.http`, `.flight`, `.root`, `.stop()`, `.kill()`, `.restart()`."""
    running = support.Server(tmp_path / "store").start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture
def fastk():
    """`fastk(*args, check=True)` runs the command line and returns the finished process."""
    return support.run


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real klines in FASTK_TEST_DATA."""
    named = os.environ.get("FASTK_TEST_DATA")
    if not named:
        pytest.skip("FASTK_TEST_DATA names no folder of real klines")
    return Path(named)


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium."""
    driver = chromium.start(tmp_path / "profile")
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def client(server):
    """A Flight client."""
    import pyarrow.flight as flight

    with flight.connect(server.flight) as connected:
        yield connected


@pytest.fixture
def filled(server, client):
    """The server with 100,000 klines: most in chunks, some overwritten, the last ones only in the log."""
    import pyarrow.flight as flight

    every = support.klines(100_000)
    command = flight.FlightDescriptor.for_command(
        json.dumps({"series": support.KEY, "create": support.REGISTRATION})
    )
    for rows in (every.slice(0, 99_000), every.slice(99_000)):
        writer, _ = client.do_put(command, rows.schema)
        writer.write_table(rows, max_chunksize=65_536)
        writer.close()
        if rows.num_rows > 1_000:
            server.seal()
    server.rows = every
    return server
