"""Resampled rows of real files equal a computation row by row in plain Python.

Each file is imported as docs/import.md says and its values are read by test_import_real_data alone; local times come from
zoneinfo. FASTK_TEST_DATA names the folder of the files. The last tests need no files.
"""

import io
import json
import urllib.error
import urllib.parse
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.flight
import pyarrow.ipc
import pyarrow.parquet
import pytest
import support
import test_import_real_data as real

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
COLUMNS = ["open", "high", "low", "close", "volume"]
RESULT = ",".join([*COLUMNS, "source_rows", "complete", "closed"])


def millis(moment):
    return (moment - EPOCH) // timedelta(milliseconds=1)


class Rule:
    """Borders of buckets, one timestamp at a time."""

    def __init__(self, every, tz=None, session=None):
        self.every, self.tz, self.session = every, tz, session
        self.count, self.unit = int(every[:-1]), every[-1]
        self.zone = ZoneInfo(tz or "UTC")
        self.midnights, self.blocks = {}, {}

    def parameters(self):
        given = {"every": self.every, "tz": self.tz, "session": self.session}
        return {name: value for name, value in given.items() if value}

    def __repr__(self):
        return "-".join(self.parameters().values())

    def moment(self, day, minutes=0):
        key = (day, minutes)
        if key not in self.midnights:
            wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)
            self.midnights[key] = millis(wall.replace(tzinfo=self.zone).astimezone(UTC))
        return self.midnights[key]

    def day(self, ts):
        return (EPOCH + timedelta(milliseconds=ts)).astimezone(self.zone).date()

    def block(self, day):
        """The first date of the bucket of a date, and that of the next bucket."""
        if self.unit == "d":
            first = day - timedelta(days=(day - date(1970, 1, 1)).days % self.count)
            return first, first + timedelta(days=self.count)
        if self.unit == "w":
            first = day - timedelta(days=(day - date(1970, 1, 5)).days % (7 * self.count))
            return first, first + timedelta(days=7 * self.count)
        months = self.count * {"M": 1, "q": 3, "y": 12}[self.unit]
        month = day.year * 12 + day.month - 1
        first = month - (month - 1970 * 12) % months
        of = lambda month: date(month // 12, month % 12 + 1, 1)
        return of(first), of(first + months)

    def bucket(self, ts):
        """Start, end and parts; None between sessions."""
        step = self.count * SECONDS[self.unit] if self.unit in SECONDS else None
        if self.session:
            return self.session_bucket(ts, step)
        if step and not self.tz:
            start = ts - ts % step
            return start, start + step, [(start, start + step)]
        day = self.day(ts)
        if step:
            midnight, following = self.moment(day), self.moment(day + timedelta(days=1))
            start = midnight + (ts - midnight) // step * step
            end = min(start + step, following)
            return start, end, [(start, end)]
        first, following = self.block(day)
        span = self.moment(first), self.moment(following)
        return *span, [span]

    def sessions(self, first, last):
        """Sessions that open on these dates: open, close, date of the last moment."""
        found = []
        day = first
        while day <= last:
            for text in self.session.split(","):
                days, _, times = text.rpartition(" ")
                if days == "mon-fri" and day.weekday() > 4:
                    continue
                minutes = [int(word[:2]) * 60 + int(word[3:]) for word in times.split("-")]
                over = minutes[1] <= minutes[0]
                close = minutes[1] + 1_440 * over
                of = day + timedelta(days=(close - 1) // 1_440)
                found.append((self.moment(day, minutes[0]), self.moment(day, close), of))
            day += timedelta(days=1)
        return sorted(found)

    def session_bucket(self, ts, step):
        near = self.day(ts)
        for start, end, day in self.sessions(near - timedelta(days=1), near):
            if start <= ts < end:
                break
        else:
            return None
        if step:
            begin = start + (ts - start) // step * step
            return begin, min(begin + step, end), [(begin, min(begin + step, end))]
        if day not in self.blocks:
            first, following = self.block(day)
            around = self.sessions(first - timedelta(days=2), following + timedelta(days=1))
            parts = [(start, end) for start, end, day in around if first <= day < following]
            self.blocks[day] = parts[0][0], parts[-1][1], parts
        return self.blocks[day]


def expected(rule, ts, columns, interval):
    """Rows of the result: ts, the columns, source_rows, complete, closed."""
    buckets = {}
    for row, at in enumerate(ts):
        bucket = rule.bucket(at)
        if bucket:
            buckets.setdefault(bucket[0], (bucket, []))[1].append(row)
    stored, rows = set(ts), []
    for start, ((_, end, parts), inside) in sorted(buckets.items()):
        values = [[column[row] for row in inside] for column in columns]
        total = values[4][0]
        for value in values[4][1:]:
            total += value
        wanted = (at for low, high in parts for at in range(low + -low % interval, high, interval))
        complete = all(at in stored for at in wanted)
        closed = end <= ts[-1] + interval
        rows.append((start, values[0][0], max(values[1]), min(values[2]), values[3][-1], total, len(inside), complete, closed))
    return rows


def table_rows(table):
    """Rows of an Arrow table, decimals as scaled integers."""
    columns = [table["ts"].cast(pa.int64()).to_pylist()]
    for name in table.column_names[1:]:
        column = table[name].combine_chunks()
        if pa.types.is_decimal(column.type):
            scale = column.type.scale
            columns.append([int(value.scaleb(scale)) for value in column.to_pylist()])
        else:
            columns.append(column.to_pylist())
    return list(zip(*columns))


def get(server, path, **parameters):
    with server.request("GET", f"{urllib.parse.quote(path)}?{urllib.parse.urlencode(parameters)}") as response:
        return response.read()


def arrow(server, key, rule, **more):
    path = "/v1/klines/" + key.removeprefix("kline/")
    body = get(server, path, format="arrow", **rule.parameters(), **more)
    return pa.ipc.open_stream(body).read_all()


NEW_YORK = [
    Rule("1h", "America/New_York"),
    Rule("1d", "America/New_York"),
    Rule("1w", "America/New_York"),
    Rule("1M", "America/New_York"),
    Rule("65m", "America/New_York", "mon-fri 09:30-16:00"),
    Rule("1d", "America/New_York", "17:00-17:00"),
    Rule("1w", "America/New_York", "mon-fri 09:30-16:00"),
]
SYDNEY = [
    Rule("4h", "Australia/Sydney"),
    Rule("1d", "Australia/Sydney"),
    Rule("1M", "Australia/Sydney"),
    Rule("1h", "Australia/Sydney", "09:50-16:30,17:10-07:00"),
    Rule("1d", "Australia/Sydney", "09:50-16:30,17:10-07:00"),
]
MINUTES = [Rule("5m"), Rule("65m"), Rule("1h"), Rule("1d"), Rule("1w"), Rule("1M"), Rule("1q")]
HOURS = [Rule(every) for every in ("4h", "1d", "1w", "1M", "1q", "1y")] + [
    Rule("1d", "America/New_York"),
    Rule("1w", "Australia/Sydney"),
    Rule("3h", "America/New_York"),
]
DAYS = [Rule(every) for every in ("1w", "1M", "1q", "1y", "5y")]
FILES = [
    ("binance-spot-BTCUSDT-1h.csv.gz", HOURS),
    ("binance-spot-BTCUSDT-15m.csv.gz", [Rule("1h"), Rule("1d", "Australia/Lord_Howe"), *SYDNEY[:3], *NEW_YORK[:4]]),
    ("binance-spot-BTCUSDT-1d.csv.gz", DAYS),
    ("histdata-EURUSD-1m-2015-Q1.csv.gz", MINUTES + NEW_YORK),
    ("histdata-EURUSD-1m-2015-Q4.csv.gz", NEW_YORK + SYDNEY),
    ("histdata-EURUSD-1m-2015-Q2.csv.gz", SYDNEY),
    ("bybit-linear-OPUSDT-1m-2024_2025-gappy.parquet", MINUTES[2:] + NEW_YORK[:5]),
    ("freqtrade-binance-usdm-BTCUSDT-1m-2023-07.feather", MINUTES),
    ("bitfinex-BTCUSD-1m-2013.csv.gz", MINUTES + SYDNEY),
]


def imported(server, fastk, name):
    """Key, times, columns and interval of a file, ascending."""
    path = Path(real.FOLDER) / name
    flags = next(flags for pattern, flags in real.documented() if real.fnmatch.fnmatchcase(name, pattern))
    key = real.key_of(path)
    result, _ = real.run_import(fastk, path, key, ["--server", server.http], flags)
    assert result.returncode == 0, result.stderr
    source = real.read_source(path)
    columns = real.expected(source)
    order = sorted(range(len(source.ts)), key=lambda row: int(source.ts[row]))
    ts = [int(source.ts[row]) for row in order]
    of = lambda cells: [cell.item() if hasattr(cell, "item") else cell for cell in (cells[row] for row in order)]
    timeframe = key.rsplit("/", 1)[1]
    interval = int(timeframe[:-1]) * {**SECONDS, "d": 86_400_000}[timeframe[-1]]
    return key, ts, [of(columns[name][2]) for name in COLUMNS], interval


@real.needs_data
@pytest.mark.parametrize(("name", "rules"), FILES, ids=[name for name, _ in FILES])
def test_a_real_file_equals_the_computation(server, fastk, name, rules):
    key, ts, columns, interval = imported(server, fastk, name)
    for rule in rules:
        rows = expected(rule, ts, columns, interval)
        # Some files have columns of their own.
        table = arrow(server, key, rule, columns=RESULT)
        assert table.column_names == ["ts", *RESULT.split(",")]
        found = table_rows(table)
        assert len(found) == len(rows) > 0, rule
        assert found == rows, rule
        # A range selects buckets by their start and cuts none.
        middle = rows[len(rows) // 3 : 2 * len(rows) // 3]
        if middle:
            cut = arrow(server, key, rule, columns=RESULT, start=middle[0][0] - 1_000, end=middle[-1][0] + 1_000)
            assert table_rows(cut) == middle, rule
        assert table_rows(arrow(server, key, rule, columns=RESULT, latest=3)) == rows[-3:]
    server.seal()
    assert table_rows(arrow(server, key, rules[0], columns=RESULT)) == expected(rules[0], ts, columns, interval)


EXCHANGES = {
    "XNYS": ("America/New_York", "mon-fri 09:30-16:00"),
    "XLON": ("Europe/London", "mon-fri 08:00-16:30"),
    "XASX": ("Australia/Sydney", "mon-fri 10:00-16:00"),
    "XTKS": ("Asia/Tokyo", "mon-fri 09:00-11:30,mon-fri 12:30-15:30"),
    "FX": ("America/New_York", "sun-thu 17:00-17:00"),
}


@real.needs_data
def test_the_name_of_an_exchange_means_its_hours(server, fastk):
    """Over a quarter in which the clocks of New York change; the computation also decides what is complete."""
    key, ts, columns, interval = imported(server, fastk, "histdata-EURUSD-1m-2015-Q1.csv.gz")
    path = "/v1/klines/" + key.removeprefix("kline/")
    for every in ("1d", "1w"):
        for name, (tz, session) in EXCHANGES.items():
            named = get(server, path, format="arrow", every=every, session=name)
            found = table_rows(pa.ipc.open_stream(named).read_all())
            written = table_rows(arrow(server, key, Rule(every, tz, session)))
            assert found == written and len(found) >= 12, (name, every)
            # The plain computation knows sessions of mon-fri and of every day.
            if session.startswith("mon"):
                assert found == expected(Rule(every, tz, session), ts, columns, interval), (name, every)


@real.needs_data
def test_every_interface_and_format_returns_the_same_buckets(server, fastk):
    key, ts, columns, interval = imported(server, fastk, "histdata-EURUSD-1m-2015-Q1.csv.gz")
    rule = Rule("65m", "America/New_York", "mon-fri 09:30-16:00")
    check_interfaces(server, fastk, key, rule, expected(rule, ts, columns, interval))


def check_interfaces(server, fastk, key, rule, rows):
    given = rule.parameters()
    path = "/v1/klines/" + key.removeprefix("kline/")
    table = arrow(server, key, rule)
    assert table_rows(table) == rows
    scale = {name: table.schema.field(name).type.scale for name in COLUMNS}

    def of_texts(records):
        flag = lambda text: {"true": True, "false": False}[str(text).lower()]
        return [
            (
                int(row["ts"]),
                *(int(Decimal(str(row[name])).scaleb(scale[name])) for name in COLUMNS),
                int(row["source_rows"]),
                flag(row["complete"]),
                flag(row["closed"]),
            )
            for row in records
        ]

    body = json.loads(get(server, path, limit=1_000_000, numbers="string", **given))
    assert of_texts(body["rows"]) == rows
    lines = get(server, path, format="ndjson", numbers="string", **given).splitlines()
    assert of_texts(map(json.loads, lines)) == rows
    text = get(server, path, format="csv", **given)
    assert of_texts(pl.read_csv(text, infer_schema=False).to_dicts()) == rows
    parquet = pa.parquet.read_table(io.BytesIO(get(server, path, format="parquet", **given)))
    assert table_rows(parquet) == rows
    assert table_rows(pa.ipc.open_stream(get(server, f"/v1/series/{key}/rows", format="arrow", **given)).read_all()) == rows
    many = get(server, "/v1/query", series=key, format="arrow", **given)
    assert table_rows(pa.ipc.open_stream(many).read_all()) == rows
    query = {"series": [key], **given}
    with server.request("POST", "/v1/query?format=arrow", query) as response:
        assert table_rows(pa.ipc.open_stream(response.read()).read_all()) == rows
    with pa.flight.connect(server.flight) as client:
        flown = client.do_get(pa.flight.Ticket(json.dumps(query))).read_all()
        assert flown.schema.equals(table.schema) and table_rows(flown) == rows
        info = client.get_flight_info(pa.flight.FlightDescriptor.for_command(json.dumps({**query, "endpoints": 3})))
        assert info.schema.equals(table.schema) and len(info.endpoints) == 3
        parts = [client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        assert table_rows(pa.concat_tables(parts)) == rows
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    printed = fastk("query", key, *flags, "--format", "csv", "--server", server.http).stdout
    assert of_texts(pl.read_csv(io.StringIO(printed), infer_schema=False).to_dicts()) == rows
    # Pages, in both directions.
    for order in ("asc", "desc"):
        found, cursor = [], {}
        while True:
            page = json.loads(get(server, path, limit=7, order=order, numbers="string", **given, **cursor))
            found += of_texts(page["rows"])
            if not page.get("next_cursor"):
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == (rows if order == "asc" else rows[::-1])
    first = json.loads(get(server, path, limit=7, **given))
    for other in ({**given, "every": "2h"}, {**given, "fill": "prev"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(server, path, limit=7, cursor=first["next_cursor"], **other)
        assert refused.value.code == 400 and b"belongs to another query" in refused.value.read()


def stored(server, client):
    """Five days of minutes with a gap, and their values."""
    rows = support.klines(7_200)
    rows = pa.concat_tables([rows.slice(0, 3_000), rows.slice(3_241)])
    command = pa.flight.FlightDescriptor.for_command(json.dumps({"series": support.KEY, "create": support.REGISTRATION}))
    writer, _ = client.do_put(command, rows.schema)
    writer.write_table(rows)
    writer.close()
    ts = rows["ts"].cast(pa.int64()).to_pylist()
    return ts, [support.words(rows[name]).tolist() for name in COLUMNS]


def test_generated_bars_are_the_same_through_every_interface(server, client, fastk):
    ts, columns = stored(server, client)
    rule = Rule("1h", "Asia/Kolkata")
    check_interfaces(server, fastk, support.KEY, rule, expected(rule, ts, columns, 60_000))


def test_gaps_are_filled_as_asked(server, client):
    ts, columns = stored(server, client)
    rule = Rule("1h")
    rows = {row[0]: row for row in expected(rule, ts, columns, 60_000)}
    hours = range(min(rows), max(rows) + 1, 3_600_000)
    missing = [hour for hour in hours if hour not in rows]
    assert missing == list(range(missing[0], missing[0] + 4 * 3_600_000, 3_600_000))
    before, after = rows[missing[0] - 3_600_000], rows[missing[-1] + 3_600_000]
    for fill in ("null", "prev", "zero", "linear"):
        found = {row[0]: row for row in table_filled(arrow(server, support.KEY, rule, fill=fill))}
        assert list(found) == list(hours)
        assert all(found[hour][1:] == rows[hour][1:] for hour in rows)
        for at, hour in enumerate(missing, 1):
            line = lambda column: round(before[column] + Decimal(after[column] - before[column]) * at / 5)
            values = {
                "null": (None,) * 5,
                "prev": (before[4],) * 4 + (0,),
                "zero": (0,) * 5,
                "linear": tuple(line(column) for column in range(1, 5)) + (0,),
            }[fill]
            assert found[hour][1:] == (*values, 0, False, True), fill
        # A range within the gap returns the same rows.
        part = table_filled(arrow(server, support.KEY, rule, fill=fill, start=missing[1], end=missing[2]))
        assert part == [found[missing[1]], found[missing[2]]]


def table_filled(table):
    columns = [table["ts"].cast(pa.int64()).to_pylist()]
    for name in table.column_names[1:]:
        values = table[name].to_pylist()
        if name in COLUMNS:
            scale = table.schema.field(name).type.scale
            values = [None if value is None else int(value.scaleb(scale)) for value in values]
        columns.append(values)
    return list(zip(*columns))


def test_a_refused_rule_is_a_problem_that_names_it(server, client):
    stored(server, client)
    path = f"/v1/klines/{support.KEY.removeprefix('kline/')}"
    for given, part in [
        ({"every": "30s"}, "within the intervals"),
        ({"every": "1x"}, "1x"),
        ({"every": "1h", "tz": "Nowhere/City"}, "Nowhere/City"),
        ({"every": "1h", "align": "local"}, "needs tz"),
        ({"tz": "UTC"}, "needs every"),
        ({"every": "1h", "fill": "guess"}, "guess"),
        ({"every": "1h", "agg": "close:median"}, "median"),
        ({"every": "1h", "session": "9-16", "tz": "UTC"}, "9-16"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(server, path, **given)
        problem = json.loads(refused.value.read())
        assert (refused.value.code, problem["code"]) == (400, "invalid_argument"), problem
        assert part in problem["detail"], problem
        if "every" in given:
            with pytest.raises(pa.ArrowInvalid, match=part), pa.flight.connect(server.flight) as flight:
                query = {name: [value] if name == "agg" else value for name, value in given.items()}
                flight.do_get(pa.flight.Ticket(json.dumps({"series": [support.KEY], **query}))).read_all()
