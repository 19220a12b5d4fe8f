"""A bad day for a store of real one-minute klines: one flipped bit in each kind of file is named by the check, contained
while reading, and repaired with no more lost than the block or log frame it hit."""

import json
import os
import shutil
import time

import pytest
import support

FILES = ["binance-usdm-FILUSDT-1m-2023-02.csv.gz", "binance-usdm-FILUSDT-1m-2023-04.csv.gz"]
BARS = "kline/FILUSDT/1m"
SLOW = "kline/SLOW/1m"
# Most rows that a flipped bit may cost, by kind of file: a block; the run that was hit, which is shorter than a block
# (longer tails become chunks); one frame of the log.
LOSS_MAX = {".arrow": 16_384, ".run": 16_383, ".wal": 1}
KINDS = (".arrow", ".zmap", ".cov", ".vix", ".run", ".receipts", ".wal", ".edit", ".tombstone", "FORMAT", "CURRENT")


def bar(ts):
    return {"ts": ts, "open": 1, "high": 2, "low": 1, "close": 2, "volume": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a file of every kind, and its rows."""
    data = os.environ.get("FASTK_TEST_DATA")
    if not data:
        pytest.skip("FASTK_TEST_DATA names no folder of real klines")
    root = tmp_path_factory.mktemp("lab") / "store"
    for name in FILES:
        support.run("import", f"{data}/{name}", "--series", BARS, "--root", root)
    os.environ["FASTK__STORE__WAL_BYTES_MAX"] = "1048576"
    os.environ["FASTK__STORE__WAL_SEGMENT_BYTES"] = "262144"
    server = support.Server(root).start()
    try:
        server.json("PATCH", f"/v1/series/{BARS}", {"value_index": ["close"]})
        server.json("POST", "/v1/series", {"kind": "kline", "symbol": "SLOW", "timeframe": "1m"})
        server.json("POST", "/v1/snapshots", {"name": "before"})
        day = 1_676_419_200_000  # 2023-02-15
        server.json("DELETE", f"/v1/klines/{BARS[6:]}?start={day}&end={day + 59 * 60_000}")
        # Rows in run files: earlier commits leave the log when it is full.
        rows = [bar(60_000 * minute) for minute in range(40)]
        server.json("POST", f"/v1/klines/{SLOW[6:]}", rows, {"Idempotency-Key": "once"})
        deadline = time.monotonic() + 60
        expected = ("runs/*.run", "runs/*.receipts", "chunks/*/*.vix")
        while not all(list(root.glob(kind)) for kind in expected):
            assert time.monotonic() < deadline, "no run file, receipt file or value index appeared"
            body = [bar(60_000 * (100 + minute)) for minute in range(5_000)]
            server.json("POST", f"/v1/klines/{SLOW[6:]}", body)
            time.sleep(0.05)
        time.sleep(1)
        for minute in range(5):
            server.json("POST", f"/v1/klines/{SLOW[6:]}", [bar(60_000 * (1_000 + 2 * minute))])
    finally:
        server.stop()
        del os.environ["FASTK__STORE__WAL_BYTES_MAX"], os.environ["FASTK__STORE__WAL_SEGMENT_BYTES"]
    checked = support.run("admin", "verify", "--root", root, "--json")
    assert json.loads(checked.stdout)["clean"], checked.stdout
    return root, rows_by_series(root)


def rows_by_series(root, partly=False):
    """Every row of both series by timestamp; `None` for a series that cannot be read completely."""
    shown = {}
    for key in (BARS, SLOW):
        done = support.run("query", key, "--root", root, "--format", "csv", check=False)
        if done.returncode == 0:
            shown[key] = dict(line.split(",", 1) for line in done.stdout.splitlines()[1:])
        else:
            assert partly and "corrupt_data" in done.stderr, done.stderr
            shown[key] = None
    return shown


def of_kind(root, kind):
    """The largest file of a kind."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name.endswith(kind) and "tmp" not in path.relative_to(root).parts]
    assert found, f"the store has no {kind} file"
    return max(found, key=lambda path: (path.stat().st_size, path.name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0.02, 0.4, 0.97])
def test_one_flipped_bit_is_named_contained_and_repaired(store, tmp_path, kind, place):
    whole, expected = store
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    path = of_kind(root, kind)
    data = bytearray(path.read_bytes())
    used = len(data) if kind != ".wal" else len(bytes(data).rstrip(b"\0"))
    at = min(int(used * place), used - 1)
    data[at] ^= 0x10
    path.write_bytes(data)
    name = str(path.relative_to(root))

    # Exactly this file is reported.
    checked = support.run("admin", "verify", "--root", root, "--json", check=False)
    report = json.loads(checked.stdout)
    assert checked.returncode == 1 and not report["clean"], f"{name}: byte {at}: no finding"
    assert {finding["file"] for finding in report["findings"]} == {name}, report["findings"]
    # Contained: reads are correct or refused. (An open truncates the torn end of a log, so on a copy.)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for key, rows in rows_by_series(copy, partly=True).items():
        if rows is not None:
            missing = len(expected[key].keys() - rows.keys())
            assert missing <= (LOSS_MAX[".wal"] if kind == ".wal" else 0), f"{name}: {missing} rows are not shown"
            assert all(expected[key][ts] == row for ts, row in rows.items()), f"{name}: another row is shown"
    # The plan changes no file.
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file() and file.name != "LOCK"}
    plan = json.loads(support.run("admin", "repair", "--root", root, "--json", check=False).stdout)
    assert before == {file: file.read_bytes() for file in root.rglob("*") if file.is_file() and file.name != "LOCK"}
    # Repaired.
    done = support.run("admin", "repair", "--root", root, "--json", "--apply", check=False)
    applied = json.loads(done.stdout)
    assert applied["lost"] == plan["lost"], "the plan reported another loss"
    checked = support.run("admin", "verify", "--root", root, "--json", check=False)
    assert json.loads(checked.stdout)["clean"], f"{name}: {checked.stdout}"
    after = rows_by_series(root)
    lost = 0
    for key in expected:
        missing = expected[key].keys() - after[key].keys()
        lost += len(missing)
    assert lost <= LOSS_MAX.get(kind, 0), f"{name}: {lost} rows are lost: {applied}"
    assert lost == 0 or applied["lost"] or applied["lost_lsns"], f"{name}: {lost} rows are lost and not reported"
    print(f"{kind} at {at}: {lost} rows lost")


def test_a_rebuilt_manifest_gives_the_same_rows(store, tmp_path):
    whole, expected = store
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    shutil.rmtree(root / "manifest")
    # Reads continue meanwhile; writes are refused.
    assert rows_by_series(root, partly=True) == expected
    shown = support.run("admin", "rebuild-manifest", "--root", root, check=False)
    assert shown.returncode == 1 and "nothing was changed" in shown.stdout
    done = support.run("admin", "rebuild-manifest", "--root", root, "--apply", "--json", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["applied"] and not report["lost"], report
    assert json.loads(support.run("admin", "verify", "--root", root, "--json").stdout)["clean"]
    assert rows_by_series(root) == expected
    listed = json.loads(support.run("admin", "list-series", "--root", root, "--json").stdout)["series"]
    before = json.loads(support.run("admin", "list-series", "--root", whole, "--json").stdout)["series"]
    same = ("series", "columns", "unit", "partition", "value_index", "retention")
    assert [{name: one.get(name) for name in same} for one in listed] == [
        {name: one.get(name) for name in same} for one in before
    ]
