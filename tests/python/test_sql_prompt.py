"""The prompt of `fastk sql` on a terminal: lines, history, completion, commands, errors, and Ctrl-C."""

import os
import pty
import re
import select
import subprocess
import time

import pytest
import support

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")


class Terminal:
    """A prompt on a pseudo-terminal."""

    def __init__(self, *args, state):
        self.main, other = pty.openpty()
        env = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [support.binary(), "sql", *args], stdin=other, stdout=other, stderr=other, env=env, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(other)
        self.seen = ""
        self.until("fastk> ")

    def until(self, text, seconds=30):
        """What is printed up to `text`, which is consumed."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not printed: {self.seen!r}"
            if select.select([self.main], [], [], left)[0]:
                self.seen += ESCAPES.sub("", os.read(self.main, 65_536).decode(errors="replace")).replace("\r", "")
        before, self.seen = self.seen.split(text, 1)
        return before

    def send(self, keys):
        os.write(self.main, keys.encode())

    def ask(self, line, *expected):
        """Types a line; what is printed has `expected` in this order before the next prompt."""
        self.send(line + "\r")
        printed = "".join(self.until(text) + text for text in expected)
        return printed + self.until("fastk> ")

    def quit(self, keys="\\q\r"):
        self.send(keys)
        assert self.process.wait(20) == 0
        os.close(self.main)


@pytest.fixture
def prompt(tmp_path):
    opened = []

    def start(*args):
        opened.append(Terminal(*args, state=tmp_path / "state"))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.process.kill()


def test_statements_commands_and_errors(filled, prompt, tmp_path):
    terminal = prompt("--server", filled.http)
    # A statement of several lines, which ends with its semicolon.
    terminal.send("SELECT count(*) AS bars\r")
    terminal.send("FROM klines_1m;\r")
    terminal.until("100000")
    terminal.until("fastk> ")
    # An error is printed, and the next statement runs.
    terminal.ask("SELECT nothing FROM klines_1m;", "error[", "nothing")
    terminal.ask("\\d", "klines_1m")
    terminal.ask("\\d klines_1m", "close")
    terminal.ask("\\nothing", "error[invalid_argument]", "\\?")
    terminal.ask("\\format parquet", "error[invalid_argument]")
    terminal.ask("\\format csv")
    terminal.ask("SELECT min(close) < max(close) AS less FROM klines_1m;", "less\ntrue")
    terminal.ask("\\timing", "times are printed")
    terminal.ask("SELECT 1 + 1 AS two;", "2", " ms")
    # A snapshot, and the present again.
    filled.request("POST", "/v1/snapshots", {"name": "before"}).close()
    rows = {"rows": [{"ts": 1_900_000_020_000, "open": "1.0", "high": "1.0", "low": "1.0", "close": "1.0", "volume": "1.0"}]}
    filled.request("POST", "/v1/klines/BTCUSDT/1m", rows).close()
    count = "SELECT count(*) AS bars FROM klines_1m;"
    terminal.ask(count, "100001")
    terminal.ask("SET fastk.as_of = 'before';", "under before")
    terminal.ask(count, "100000")
    terminal.ask("\\as_of", "the present")
    terminal.ask(count, "100001")
    terminal.quit()
    # The next prompt has the history, readable by its owner only.
    history = tmp_path / "state/fastk/sql_history"
    assert history.stat().st_mode & 0o077 == 0
    terminal = prompt("--server", filled.http)
    terminal.send("\x1b[A\x1b[A")
    terminal.send("\r")
    terminal.until("100001")
    terminal.until("fastk> ")
    terminal.quit("\x04")


def test_names_are_completed(filled, prompt):
    terminal = prompt("--server", filled.http)
    terminal.ask("SELECT max(hi\t) AS top FROM klin\t;", "SELECT max(high) AS top FROM klines_1m;", "top")
    terminal.quit()


def test_an_interrupt_cancels_the_statement_and_not_the_prompt(filled, prompt):
    terminal = prompt("--server", filled.http)
    terminal.send("SELECT sum(a.close) FROM klines_1m a JOIN klines_1m b ON a.symbol = b.symbol;\r")
    end = time.monotonic() + 20
    while not filled.json("GET", "/v1/sql/queries")["queries"]:
        assert time.monotonic() < end, "the statement does not run"
        time.sleep(0.05)
    terminal.send("\x03")
    terminal.until("error[")
    terminal.until("fastk> ")
    assert not filled.json("GET", "/v1/sql/queries")["queries"]
    # At the prompt it drops the line.
    terminal.send("SELECT 5\x03")
    terminal.until("fastk> ")
    terminal.ask("SELECT 7 AS seven;", "seven", "7")
    terminal.quit()


def test_a_store_without_a_server_and_a_missing_terminal(filled, prompt, fastk):
    filled.stop()
    terminal = prompt("--root", str(filled.root))
    terminal.ask("SELECT count(*) AS bars FROM klines_1m;", "100000")
    terminal.quit()
    # Without a terminal, the standard input is the statement.
    piped = subprocess.run(
        [support.binary(), "sql", "--format", "csv", "--root", str(filled.root)], input="SELECT 1 AS one", capture_output=True, text=True
    )
    assert (piped.returncode, piped.stdout) == (0, "one\n1\n"), piped.stderr
