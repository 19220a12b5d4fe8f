"""Coverage of every real kline file equals a computation bucket by bucket in plain Python.

Each file is imported as docs/import.md says; its times are read by test_import_real_data alone; weekdays, months and
time zones come from the standard library. FASTK_TEST_DATA names the folder of the files.
"""

import bisect
import json
import urllib.parse
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import test_import_real_data as real

SECOND = 1_000
DAY = 86_400 * SECOND
UTC = timezone.utc
NEW_YORK = ZoneInfo("America/New_York")
FX = {"zone": "America/New_York", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]}


def moment(ms, zone=UTC):
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).astimezone(zone)


def millis(when):
    return int((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def starts_of(timeframe, first, last):
    """Starts of the buckets from the one that holds `first` to the one that holds `last`, and of the next one."""
    count, unit = int(timeframe[:-1]), timeframe[-1]
    if unit == "M":
        assert count == 1
        start = moment(first).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        found = [millis(start)]
        while found[-1] <= last:
            start = (start + timedelta(days=32)).replace(day=1)
            found.append(millis(start))
        return found
    length = count * {"s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND, "d": DAY, "w": 7 * DAY}[unit]
    if unit == "w" and count == 1:
        start = first - moment(first).weekday() * DAY
        start -= start % DAY
    elif unit in "dw" and count > 1:
        start = first
    else:
        start = first - first % length
    return list(range(start, last + 2 * length, length))[: (last - start) // length + 2]


def open_24x7(start):
    return True


def open_weekdays(start):
    return moment(start).weekday() < 5


def open_fx(start):
    local = moment(start, NEW_YORK)
    day, hour = local.weekday(), local.hour
    return day < 4 or (day == 4 and hour < 17) or (day == 6 and hour >= 17)


CALENDARS = [("24x7", open_24x7), ("weekdays", open_weekdays), (FX, open_fx)]


def expected_of(ts, timeframe, is_open):
    """The expected coverage of these rising times."""
    starts = starts_of(timeframe, ts[0], ts[-1])
    at_start = set(ts)
    found = {"expected": 0, "present": 0, "rows": len(ts), "off_grid": 0, "outside_calendar": 0, "gaps": []}
    after_missing = False
    for start, following in zip(starts, starts[1:]):
        rows = bisect.bisect_left(ts, following) - bisect.bisect_left(ts, start)
        found["off_grid"] += rows - (start in at_start)
        if not is_open(start):
            found["outside_calendar"] += rows
            continue
        found["expected"] += 1
        if rows:
            found["present"] += 1
        elif after_missing:
            found["gaps"][-1]["end"] = start
            found["gaps"][-1]["missing"] += 1
        else:
            found["gaps"].append({"start": start, "end": start, "missing": 1})
        after_missing = not rows
    found["gaps_total"] = len(found["gaps"])
    found["longest_gap"] = max(found["gaps"], key=lambda gap: gap["missing"], default=None)
    found["ratio"] = found["present"] / found["expected"] if found["expected"] else None
    return found


def coverage(server, key, **parameters):
    calendar = parameters.get("calendar", "24x7")
    parameters["calendar"] = calendar if isinstance(calendar, str) else json.dumps(calendar)
    query = urllib.parse.urlencode(parameters)
    path = urllib.parse.quote(f"/v1/coverage/{key}")
    return server.json("GET", f"{path}?{query}")


def imported(server, fastk, path, flags):
    key = real.key_of(path)
    result, _ = real.run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 0, result.stderr
    return key, sorted(int(ts) for ts in real.read_source(path).ts)


def file(name):
    path = Path(real.FOLDER) / name
    return path, next(flags for pattern, flags in real.documented() if real.fnmatch.fnmatchcase(name, pattern))


@real.needs_data
@pytest.mark.parametrize(("path", "flags"), real.cases())
def test_coverage_of_a_real_file_equals_the_computed_one(server, fastk, path, flags):
    key, ts = imported(server, fastk, path, flags)
    timeframe = key.rsplit("/", 1)[1]
    for calendar, is_open in CALENDARS:
        expected_coverage = expected_of(ts, timeframe, is_open)
        found = coverage(server, key, calendar=calendar, limit=1_000_000)
        assert {name: found[name] for name in expected_coverage} == expected_coverage, calendar
        assert (found["first_ts"], found["last_ts"], found["truncated"]) == (ts[0], ts[-1], False)
    ratio = server.json("GET", "/inventory")["series"][0]["coverage_ratio"]
    assert ratio == expected_of(ts, timeframe, open_24x7)["ratio"]


@real.needs_data
def test_all_gaps_of_the_bybit_file_are_reported(server, fastk):
    key, _ = imported(server, fastk, *file("bybit-linear-OPUSDT-1m-2024_2025-gappy.parquet"))
    found = coverage(server, key)
    assert (found["gaps_total"], found["expected"] - found["present"]) == (524, 524 * 801)
    assert {gap["missing"] for gap in found["gaps"]} == {801}


@real.needs_data
def test_the_weekends_of_eurusd_are_no_gaps_under_its_calendar(server, fastk):
    key, ts = imported(server, fastk, *file("histdata-EURUSD-1m-2015-Q1.csv.gz"))
    always = coverage(server, key, min_missing=2_000)
    assert always["gaps_total"] >= 12, "a weekend has 2,880 minutes"
    fx = coverage(server, key, calendar=FX, min_missing=2_000)
    assert fx["gaps_total"] == 0
    assert fx["ratio"] > 0.98 > 0.75 > always["ratio"]
    # Reads and the inventory use the calendar of the series.
    server.json("PATCH", f"/v1/series/{key}", {"calendar": FX})
    assert coverage(server, key, calendar=FX)["ratio"] == server.json("GET", "/inventory")["series"][0]["coverage_ratio"]
    rows = server.json("GET", f"/v1/klines/{key.removeprefix('kline/')}?latest_complete=300&columns=close")["rows"]
    starts = [start for start in starts_of("1m", ts[0], ts[-1])[:-1] if open_fx(start)]
    stored = set(ts)
    runs = [starts[at : at + 300] for at in range(len(starts) - 299) if starts[at + 299] in stored]
    last = next(run for run in reversed(runs) if all(start in stored for start in run))
    assert [row["ts"] for row in rows] == last


@real.needs_data
def test_the_bars_that_binance_never_published_are_reported(server, fastk):
    key, ts = imported(server, fastk, *file("binance-spot-BTCUSDT-1h.csv.gz"))
    found = coverage(server, key)
    missing = sorted(set(range(ts[0], ts[-1], 3_600 * SECOND)) - set(ts))
    assert missing and found["expected"] - found["present"] == len(missing)
    named = [
        start for gap in found["gaps"] for start in range(gap["start"], gap["end"] + 1, 3_600 * SECOND)
    ]
    assert named == missing
