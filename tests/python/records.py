"""Rows of a kind with a field of each sort, and readers of text formats that lose no digit.

Expected rows are computed here; text is parsed by pyarrow, not by FastK.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from support import T0

PERCENT = float(os.environ.get("FASTK_PROOF", "1"))
SIDES = ["buy", "sell", "cross", "none"]
KIND = {
    "kind": "record",
    "key": ["venue", "instrument"],
    "unit": "us",
    "fields": [
        {"name": "price", "type": "decimal", "digits": 4},
        {"name": "turnover", "type": "decimal", "digits": 18, "wide": True},
        {"name": "ratio", "type": "float64", "nullable": True},
        {"name": "weight", "type": "float32"},
        {"name": "change", "type": "int32", "nullable": True},
        {"name": "level", "type": "uint8"},
        {"name": "maker", "type": "bool", "nullable": True},
        {"name": "sent", "type": "timestamp", "unit": "ns", "nullable": True},
        {"name": "side", "type": "enum", "values": SIDES},
        {"name": "source", "type": "text"},
        {"name": "note", "type": "text", "nullable": True},
        {"name": "digest", "type": "bytes", "length": 8},
    ],
    "rules": [{"rule": "non_negative", "field": "price"}],
}
NOTES = ["", "plain", 'a "quoted" word', "comma, semicolon;", "two\nlines", " spaces ", "größer, 漢字 🚀", "null", "NaN"]
ROWS_A_DAY = 400_000


def amount() -> int:
    """A million rows in the proof, fewer in the ordinary round."""
    return 1_000_000 if PERCENT >= 100 else 60_000


def peak_bytes(server) -> int:
    """The most memory that the server ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _wide(high, low, digits: int) -> pa.Array:
    """Decimals of 16 bytes from their signed high and unsigned low words."""
    cells = np.empty((len(low), 2), np.uint64)
    cells[:, 0], cells[:, 1] = low, high.astype(np.int64).view(np.uint64)
    return pa.Array.from_buffers(pa.decimal128(38, digits), len(low), [None, pa.py_buffer(np.ascontiguousarray(cells))])


def _nulls(array, mask) -> pa.Array:
    return pc.if_else(pa.array(mask), pa.scalar(None, array.type), array)


def records(rows: int, seed: int = 1) -> pa.Table:
    """Rows in order of time, over several days, with extreme values, nulls and texts that need quotes."""
    chance = np.random.default_rng(seed)
    at = np.arange(rows, dtype=np.int64)
    step = 86_400_000_000 // min(ROWS_A_DAY, max(rows // 3, 1))
    ts = T0 * 1000 + at * step + chance.integers(0, step, rows)
    price = chance.integers(0, 10**18, rows)
    price[:2] = 0, 10**18 - 1
    high = chance.integers(-(10**18), 10**18, rows)
    high[::3] = 0
    low = chance.integers(0, 2**64, rows, dtype=np.uint64)
    ratio = chance.standard_normal(rows) * 10.0 ** chance.integers(-300, 300, rows)
    ratio[:4] = 0.0, 5e-324, np.finfo(np.float64).max, -np.finfo(np.float64).max
    weight = (chance.standard_normal(rows) * 10.0 ** chance.integers(-30, 30, rows)).astype(np.float32)
    weight[:3] = np.finfo(np.float32).max, np.float32(1e-45), -1.0
    change = chance.integers(-(2**31), 2**31, rows).astype(np.int32)
    change[-2:] = -(2**31), 2**31 - 1
    level = (at % 256).astype(np.uint8)
    sent = ts * 1000 - chance.integers(0, 10**9, rows)
    side = pa.array(chance.integers(0, len(SIDES), rows).astype(np.uint8))
    notes = NOTES + [f"note {number}" for number in range(5_000)]
    note = pa.array(chance.integers(0, len(notes), rows).astype(np.int32), mask=chance.random(rows) < 0.2)
    digest = chance.integers(0, 256, 8 * rows, dtype=np.uint8)
    sources = ["nyse", "arca", "bats", "iex"]
    source = pa.array(chance.integers(0, len(sources), rows).astype(np.int32))
    utc = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "ts": pa.array(ts).cast(utc),
            "price": pa.Array.from_buffers(pa.decimal64(18, 4), rows, [None, pa.py_buffer(price)]),
            "turnover": _wide(high, low, 18),
            "ratio": _nulls(pa.array(ratio), chance.random(rows) < 0.3),
            "weight": pa.array(weight),
            # The nulls of this column are in a few places only: other blocks have none.
            "change": _nulls(pa.array(change), (at % 50_000) == 17),
            "level": pa.array(level),
            "maker": _nulls(pa.array(chance.random(rows) < 0.5), chance.random(rows) < 0.01),
            "sent": _nulls(pa.array(sent).cast(pa.timestamp("ns", "UTC")), chance.random(rows) < 0.5),
            "side": pa.DictionaryArray.from_arrays(side, pa.array(SIDES)),
            "source": pa.DictionaryArray.from_arrays(source, pa.array(sources)),
            "note": pa.DictionaryArray.from_arrays(note, pa.array(notes)),
            "digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), rows, [None, pa.py_buffer(digest)]),
        }
    )


def _plain(column) -> pa.Array:
    """The cells without their encoding: dictionaries decoded, floats as their bits."""
    if isinstance(column, pa.ChunkedArray):
        decode = pa.types.is_dictionary(column.type)
        column = (pc.cast(column, column.type.value_type) if decode else column).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        column = column.view(pa.int64() if column.type == pa.float64() else pa.int32())
    return column


def assert_same_cells(found: pa.Table, expected: pa.Table, what: str) -> None:
    """Asserts that every cell is the same; dictionaries may have another order."""
    assert found.schema.names == expected.schema.names, what
    assert found.num_rows == expected.num_rows, f"{what}: {found.num_rows} rows for {expected.num_rows}"
    for name in expected.schema.names:
        one, two = _plain(found[name]), _plain(expected[name])
        assert one.type == two.type, f"{what}: {name} is {one.type}, not {two.type}"
        if not one.equals(two):
            differ = pc.fill_null(pc.not_equal(one, two), False)
            differ = pc.or_(differ, pc.xor(pc.is_null(one), pc.is_null(two)))
            row = pc.index(differ, True).as_py()
            raise AssertionError(f"{what}: row {row} of {name} is {found[name][row]}, not {expected[name][row]}")


def assert_types(schema: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Asserts the documented Arrow types, dictionary columns included."""
    for name in expected.names:
        assert schema.field(name).type == arrow_type(expected.field(name).type, name), f"{what}: {name}"


def arrow_type(given: pa.DataType, name: str) -> pa.DataType:
    if pa.types.is_dictionary(given):
        return pa.dictionary(pa.uint8() if name == "side" else pa.int32(), pa.string())
    return given


def _hex(column) -> pa.Array:
    column = _plain(column)
    return pa.array([None if cell is None else cell.hex() for cell in column.to_pylist()], pa.string())


def as_texts(table: pa.Table) -> pa.Table:
    """Every cell as the text that a CSV file has."""
    columns = {}
    for name in table.schema.names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        if pa.types.is_fixed_size_binary(column.type):
            columns[name] = _hex(column)
        elif pa.types.is_dictionary(column.type):
            columns[name] = _plain(column)
        else:
            columns[name] = column.cast(pa.string())
    return pa.table(columns)


def to_csv(table: pa.Table) -> bytes:
    """The table as CSV: nulls are empty, the empty text is quoted."""
    out = pa.BufferOutputStream()
    pa.csv.write_csv(as_texts(table), out, pa.csv.WriteOptions(quoting_style="needed"))
    return out.getvalue().to_pybytes()


def of_texts(texts: pa.Table, expected: pa.Schema) -> pa.Table:
    """The cells that these texts are, in the types of the schema."""
    columns = {}
    for name in expected.names:
        kind, column = expected.field(name).type, texts[name]
        if pa.types.is_dictionary(kind):
            columns[name] = column
        elif pa.types.is_timestamp(kind):
            columns[name] = column.cast(pa.int64()).cast(kind)
        elif pa.types.is_fixed_size_binary(kind):
            columns[name] = pa.array(
                [None if cell is None else bytes.fromhex(cell) for cell in column.to_pylist()], kind
            )
        elif pa.types.is_decimal64(kind):
            columns[name] = column.cast(pa.decimal128(18, kind.scale)).cast(kind)
        else:
            columns[name] = column.cast(kind)
    return pa.table(columns)


def of_csv(body: bytes, expected: pa.Schema) -> pa.Table:
    """A CSV body, read by pyarrow as texts and converted exactly."""
    convert = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in expected.names},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    table = pa.csv.read_csv(pa.BufferReader(body), parse_options=parse, convert_options=convert)
    assert table.schema.names == expected.names
    return of_texts(table, expected)


def of_objects(rows: list, expected: pa.Schema) -> pa.Table:
    """Objects of JSON whose numbers were kept as text."""
    assert not rows or list(rows[0]) == expected.names
    columns = {}
    for name in expected.names:
        kind = expected.field(name).type
        cells = [row[name] for row in rows]
        if pa.types.is_boolean(kind):
            columns[name] = pa.array(cells, kind)
            continue
        is_text = pa.types.is_dictionary(kind) or pa.types.is_fixed_size_binary(kind)
        sort = str if is_text else Number
        assert all(cell is None or type(cell) is sort for cell in cells), name
        columns[name] = pa.array(cells, pa.string())
    return of_texts(pa.table(columns), expected)


class Number(str):
    """A number of JSON as it is written."""


def of_json(body: bytes, expected: pa.Schema) -> pa.Table:
    """A JSON body `{"rows": […]}`."""
    parsed = json.loads(body, parse_float=Number, parse_int=Number)
    return of_objects(parsed["rows"], expected)


def of_ndjson(body: bytes, expected: pa.Schema) -> pa.Table:
    """Lines of JSON, parsed by parts to bound the memory."""
    lines = body.split(b"\n")
    assert lines.pop() == b""
    parts = []
    for first in range(0, len(lines), 50_000):
        text = b"[" + b",".join(lines[first : first + 50_000]) + b"]"
        parts.append(of_objects(json.loads(text, parse_float=Number, parse_int=Number), expected))
    return pa.concat_tables(parts)
