"""Reads of one series in process: ranges, all rows, the last rows, predicates."""

import statistics

import pyarrow as pa
import pyarrow.compute as pc

import data
import peers
from fixtures import ALL, KEY, SCALAR_KEY, Bench
from measure import PRODUCT, Goal, Line, p50, same, seconds, take_turns


def checked(name: str, reply: dict, expected: tuple[int, int]) -> None:
    same(name, (reply["rows"], int(reply["sum"])), expected)


def engine_p50(engine, times: int, *words) -> float:
    return statistics.median(engine.call(*words, times)["ns"]) / 1e9


def compare(bench, row, work, words, query, expected, *, calls, times, engines=None, goal=None, amount=None, rounds=None):
    """One line of a read that every engine supports: FastK runs the command `words` `times` times per round, a peer runs
    `query` `calls` times."""
    engines = bench.engines if engines is None else engines
    checksum = data.checksum(expected)
    checked(f"{PRODUCT}, {row}", bench.engine.call(*words, 1), checksum)
    for engine in engines:
        same(f"{engine.name}, {row}", data.checksum(engine.table(query(engine)).sort_by("ts")), checksum)
    contenders = {PRODUCT: lambda: engine_p50(bench.engine, times, *words)}
    for engine in engines:
        contenders[engine.name] = lambda engine=engine: p50(lambda: query(engine), calls)
    samples = take_turns(contenders, rounds or bench.rounds)
    return Line(row, work, samples, goal, amount=amount, amount_unit="rows" if amount else "")


def span_read(bench: Bench, row: str, work: str, rows: int, **how) -> list[Line]:
    start, end = data.span_of(bench.rows * 4 // 10, rows)
    expected = data.cut(bench.table, (start, end))
    return [compare(bench, row, work, ("range", KEY, start, end), lambda e: e.range(start, end), expected, **how)]


def day(bench: Bench) -> list[Line]:
    work, goal = "embedded range, 1 day (1,440 rows)", Goal("≥ 20× the best peer", 20)
    return span_read(bench, "day", work, 1_440, calls=20, times=2_000, goal=goal)


def year(bench: Bench) -> list[Line]:
    work, goal = "embedded range, 1 year (525,600 rows)", Goal("≥ 10× the best peer", 10)
    return span_read(bench, "year", work, 525_600, calls=3, times=200, goal=goal)


def bars(bench: Bench) -> list[Line]:
    """Half a million consecutive bars, warm, in process."""
    return span_read(bench, "bars", "500,000 consecutive 1m bars, in process", bench.bars, calls=3, times=200)


def latest(bench: Bench) -> list[Line]:
    words, expected = ("latest", KEY, 100), bench.table.slice(bench.rows - 100)
    how = {"calls": 10, "times": 2_000, "goal": Goal("≥ 50× the best peer", 50)}
    return [compare(bench, "latest", "embedded, latest 100", words, lambda e: e.latest(100), expected, **how)]


def hours(bench: Bench) -> list[Line]:
    """One-hour bars of all rows. The sum of doubles depends on the order of the additions, so that volumes of other engines
    are compared to nine digits."""
    work, words = f"embedded, 1 h bars of {bench.rows // 1_000_000} M rows", ("resample", KEY, "1h")
    expected = data.hours(bench.table)
    checked(f"{PRODUCT}, hours", bench.engine.call(*words, 1), data.checksum(expected))
    engines = [engine for engine in bench.engines if hasattr(engine, "hours")]
    contenders = {PRODUCT: lambda: engine_p50(bench.engine, 5, *words)}
    for engine in engines:
        found = engine.table(engine.hours()).sort_by("ts")
        exact = list(data.NAMES[:-1])
        same(f"{engine.name}, hours", data.checksum(found.select(exact)), data.checksum(expected.select(exact)))
        ratio = pc.divide(found["volume"], expected["volume"])
        assert pc.all(pc.less(pc.abs(pc.subtract(ratio, 1.0)), 1e-9)).as_py(), f"{engine.name}, volumes of hours"
        contenders[engine.name] = lambda engine=engine: p50(engine.hours, 1)
    goal = Goal("≥ 4× the best peer", 4)
    return [Line("hours", work, take_turns(contenders, bench.rounds_long), goal, amount=bench.rows, amount_unit="rows")]


def all_rows(bench: Bench) -> list[Line]:
    """Conversion to Arrow without reading cells, which favours engines that do not copy; and with reading every cell."""
    work, goal = f"embedded, all {bench.rows // 1_000_000} M rows to Arrow", Goal("≥ 10× the best peer", 10)
    words, rounds = ("range", KEY, *ALL), bench.rounds_long
    how = {"calls": 1, "times": 20, "goal": goal, "rounds": rounds}
    untouched = compare(bench, "all", work, words, lambda e: e.all(), bench.table, **how)

    total = 0
    for column in bench.table.columns:
        total = (total * 31 + int(data.words(column).sum(dtype="uint64"))) % 2**64
    # The engine sums all columns of the series.
    total = total * pow(31, 64 - bench.table.num_columns, 2**64) % 2**64
    words = ("sum", KEY, *ALL)
    checked(f"{PRODUCT}, all cells", bench.engine.call(*words, 1), (bench.rows, total))
    contenders = {PRODUCT: lambda: engine_p50(bench.engine, 3, *words)}
    for engine in bench.engines:
        # SQLite converts every cell to a Python number anyway: its time is that of the line above.
        if engine is not bench.sqlite:
            contenders[engine.name] = lambda engine=engine: seconds(lambda: data.cells(engine.table(engine.all())))
    return [untouched, Line("all", f"{work} and every cell read", take_turns(contenders, rounds))]


def predicate(bench: Bench) -> list[Line]:
    lines = []
    for column, limit, where, goal in (
        ("close", data.CLOSE_ABOVE, "scattered, a full scan", Goal("≥ 2× the best peer", 2)),
        ("high", data.HIGH_ABOVE, "clustered, zone maps apply", Goal("≥ 20× the best peer", 20)),
    ):
        expected = bench.table.filter(pc.greater(bench.table[column], limit))
        assert 0 < expected.num_rows < bench.rows // 500
        words = ("predicate", KEY, f"{column}:gt:{limit}")
        work = f"embedded, {column} > v at 0.1 % of klines: {where}"
        how = {"calls": 1, "times": 10, "goal": goal, "amount": bench.rows, "rounds": bench.rounds_long}
        lines.append(compare(bench, "predicate", work, words, lambda e: e.above(column, limit), expected, **how))
    return lines


def scalar_predicate(bench: Bench) -> list[Line]:
    table: pa.Table = peers.mapped(bench.scalar_file)
    limit = data.VALUE_ABOVE
    expected = table.filter(pc.greater(table["value"], limit))
    words = ("predicate", SCALAR_KEY, f"value:gt:{limit}")
    work = "embedded, value > v at 0.1 % of scalars: value index (DuckDB and SQLite have one too)"
    how = {"calls": 1, "times": 50, "goal": Goal("≥ 20× the best peer", 20), "amount": bench.rows}
    how |= {"engines": bench.scalar_engines, "rounds": bench.rounds_long}
    return [compare(bench, "scalar-predicate", work, words, lambda e: e.above("value", limit), expected, **how)]
