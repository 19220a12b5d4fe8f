"""The rows stored in every engine, and a checksum to verify results.

All columns are words of 8 bytes: `ts` an integer of epoch milliseconds, the others doubles. FastK's series are
registered without digits, so that each engine stores the same doubles and no engine converts any.
"""

import numpy as np
import pyarrow as pa

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 1_440 * MINUTE
BEGIN = 1_104_537_600_000  # 2005-01-01T00:00:00Z
NAMES = ("ts", "open", "high", "low", "close", "volume")
BATCH_ROWS = 65_536
# Prices move between 50,000.00 and 52,000.00; the peak lies above all of them.
PRICE_CENTS, PRICE_SPAN, WICK_SPAN, PEAK_CENTS = 5_000_000, 200_000, 1_000, 1_000_000


def scatter(n: np.ndarray, salt: int, span: int) -> np.ndarray:
    """A pseudo-random number below `span` for each of `n`."""
    word = (n.astype(np.uint64) + np.uint64(salt * 0x1000003)) * np.uint64(0x9E3779B97F4A7C15)
    word ^= word >> np.uint64(29)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(32)
    return (word % np.uint64(span)).astype(np.int64)


def klines(count: int, first: int = 0) -> pa.Table:
    """Minute bars. `close` is scattered over the entire series, so that no zone can be pruned; `high` has a peak of
    consecutive rows, a thousandth of all, like the top of a market."""
    n = np.arange(first, first + count, dtype=np.int64)
    peak = first + count * 62 // 100
    return bars_of(n, peak=(peak, peak + count // 1_000))


def bars_of(n: np.ndarray, salt: int = 0, peak: tuple[int, int] = (0, 0)) -> pa.Table:
    """The bars of these minutes, in their order."""
    opened = PRICE_CENTS + scatter(n, salt + 1, PRICE_SPAN)
    closed = PRICE_CENTS + scatter(n, salt + 2, PRICE_SPAN)
    high = np.maximum(opened, closed) + scatter(n, salt + 3, WICK_SPAN)
    high[(n >= peak[0]) & (n < peak[1])] += PEAK_CENTS
    low = np.minimum(opened, closed) - scatter(n, salt + 4, WICK_SPAN)
    volume = scatter(n, salt + 5, 1_000_000_000)
    return table_of([BEGIN + n * MINUTE, opened / 100, high / 100, low / 100, closed / 100, volume / 1_000])


def table_of(columns: list[np.ndarray]) -> pa.Table:
    return pa.table(dict(zip(NAMES, columns)))


def scalars(count: int) -> pa.Table:
    """One scattered value per minute, from 0 to 1000."""
    n = np.arange(count, dtype=np.int64)
    return pa.table({"ts": BEGIN + n * MINUTE, "value": scatter(n, 9, 1_000_000) / 1_000})


# A thousandth of the rows lies above each.
CLOSE_ABOVE = (PRICE_CENTS + PRICE_SPAN * 999 // 1_000) / 100
HIGH_ABOVE = (PRICE_CENTS + PRICE_SPAN + WICK_SPAN) / 100
VALUE_ABOVE = 999.0


def write_file(table: pa.Table, path, batch_rows: int = BATCH_ROWS) -> str:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return str(path)


def span_of(first: int, rows: int) -> tuple[int, int]:
    """The closed range of `rows` minutes starting at row `first`."""
    return BEGIN + first * MINUTE, BEGIN + (first + rows - 1) * MINUTE


def cut(table: pa.Table, span: tuple[int, int]) -> pa.Table:
    """The rows of a closed range, selected by their timestamps."""
    ts = table["ts"].to_numpy()
    return table.filter(pa.array((ts >= span[0]) & (ts <= span[1])))


def hours(table: pa.Table) -> pa.Table:
    """One-hour bars of minute bars without gaps; volumes are added in the order of time."""
    columns = {name: table[name].to_numpy() for name in NAMES}
    starts = np.arange(0, table.num_rows, 60)
    ends = np.minimum(starts + 60, table.num_rows)
    volume = np.zeros(len(starts))
    for minute in range(60):
        inside = starts + minute < ends
        volume[inside] += columns["volume"][starts[inside] + minute]
    return table_of([
        columns["ts"][starts],
        columns["open"][starts],
        np.maximum.reduceat(columns["high"], starts),
        np.minimum.reduceat(columns["low"], starts),
        columns["close"][ends - 1],
        volume,
    ])


def words(column) -> np.ndarray:
    """The cells of a column as words."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or column.type == pa.string_view():
        return np.array([text_word(text) for text in column.to_pylist()], dtype=np.uint64)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64())
    assert column.null_count == 0
    return np.ascontiguousarray(column.to_numpy()).view(np.uint64)


def text_word(text: str) -> int:
    """FNV-1a."""
    word = 0xCBF29CE484222325
    for byte in text.encode():
        word = (word ^ byte) * 0x100000001B3 % 2**64
    return word


def checksum(table: pa.Table) -> tuple[int, int]:
    """Row count, and a number that depends on every cell and its row."""
    weight = np.arange(1, 2 * table.num_rows, 2, dtype=np.uint64)
    total = 0
    for column in table.columns:
        total = (total * 31 + int((words(column) * weight).sum(dtype=np.uint64))) % 2**64
    return table.num_rows, total


def cells(table: pa.Table) -> int:
    """Reads every cell, as fast as a sum does."""
    total = 0
    for column in table.columns:
        for chunk in column.chunks:
            part = np.frombuffer(chunk.buffers()[1], np.uint64)[chunk.offset : chunk.offset + len(chunk)]
            total += int(part.sum(dtype=np.uint64))
    return total % 2**64
