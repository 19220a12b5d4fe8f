"""Cells, registrations and kinds that are refused: each has its documented code on every interface, and nothing is
written.
"""

import json
import re
import urllib.error
import urllib.request
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
import records
import support

KEY = "strict/X"
ROWS = f"/v1/series/{KEY}/rows"
DIGEST = "00ff"
FIELDS = [
    {"name": "price", "type": "decimal", "digits": 2},
    {"name": "total", "type": "decimal", "digits": 10, "wide": True},
    {"name": "ratio", "type": "float64"},
    {"name": "weight", "type": "float32"},
    *({"name": f"i{bits}", "type": f"int{bits}"} for bits in (8, 16, 32, 64)),
    *({"name": f"u{bits}", "type": f"uint{bits}"} for bits in (8, 16, 32, 64)),
    {"name": "maker", "type": "bool"},
    {"name": "sent", "type": "timestamp", "unit": "ns"},
    {"name": "side", "type": "enum", "values": ["buy", "sell"]},
    {"name": "venue", "type": "text"},
    {"name": "digest", "type": "bytes", "length": 2},
    {"name": "note", "type": "text", "nullable": True},
]
KIND = {"kind": "strict", "key": ["x"], "fields": FIELDS, "rules": [{"rule": "non_negative", "field": "ratio"}]}
GOOD = {
    "ts": 1_706_745_600_000, "price": "1.25", "total": "12345678901234567890.5", "ratio": 0.5, "weight": 0.25,
    "i8": 1, "i16": 1, "i32": 1, "i64": 1, "u8": 1, "u16": 1, "u32": 1, "u64": 1, "maker": True,
    "sent": 1_706_745_600_000_000_000, "side": "buy", "venue": "XNAS", "digest": DIGEST,
}  # fmt: skip
# column, cell of JSON, the reason; the code is invalid_rows.
CELLS = [
    ("price", "x", "not_a_number"),
    ("price", True, "wrong_type"),
    ("price", [1], "wrong_type"),
    ("price", "1.255", "precision_loss"),
    ("price", 10**16, "overflow"),
    ("price", "-10000000000000000.00", "overflow"),
    ("total", "x", "not_a_number"),
    ("total", "0.12345678901", "precision_loss"),
    ("total", "1" + 28 * "0", "overflow"),
    ("ratio", "nan", "not_finite"),
    ("ratio", "1e309", "overflow"),
    ("ratio", "y", "not_a_number"),
    ("ratio", -1, "non_negative"),
    ("weight", "1e39", "overflow"),
    ("weight", "inf", "not_finite"),
    *((f"i{bits}", 2 ** (bits - 1), "overflow") for bits in (8, 16, 32, 64)),
    *((f"i{bits}", -(2 ** (bits - 1)) - 1, "overflow") for bits in (8, 16, 32, 64)),
    *((f"u{bits}", 2**bits, "overflow") for bits in (8, 16, 32, 64)),
    *((f"u{bits}", -1, "overflow") for bits in (8, 16, 32, 64)),
    ("i32", 1.5, "precision_loss"),
    ("u8", "one", "not_a_number"),
    ("maker", "yes", "wrong_type"),
    ("maker", 2, "wrong_type"),
    ("sent", "soon", "bad_time"),
    ("sent", "1500-01-01", "time_out_of_range"),
    ("side", "hold", "unknown_value"),
    ("side", "Buy", "unknown_value"),
    ("venue", "a\0b", "bad_text"),
    ("venue", "x" * 1_025, "too_long"),
    ("digest", "00f", "bad_bytes"),
    ("digest", "00fg", "bad_bytes"),
    ("digest", "00ff00", "bad_bytes"),
    ("ts", "later", "bad_time"),
    *((name, None, "missing") for name in GOOD if name != "ts"),
]
# A cell of CSV has no type, so these are other cells there.
JSON_ONLY = {("price", "[1]"), ("price", "True"), ("venue", "'a\\x00b'")}
# A column, an Arrow array of one cell, code and reason.
ARROW = [
    ("price", pa.array([True]), "schema_mismatch", None),
    ("price", pa.array([1.0], pa.float64()), None, None),
    ("price", pa.array([10**16], pa.int64()), "invalid_rows", "overflow"),
    ("price", pa.array([Decimal("1.255")], pa.decimal128(10, 3)), "invalid_rows", "precision_loss"),
    ("price", pa.array([None], pa.decimal64(18, 2)), "invalid_rows", "missing"),
    ("total", pa.array([10**18], pa.decimal256(60, 0)), None, None),
    ("total", pa.array([10**30], pa.decimal256(60, 0)), "invalid_rows", "overflow"),
    ("ratio", pa.array([float("nan")]), "invalid_rows", "not_finite"),
    ("ratio", pa.array(["x"]), "schema_mismatch", None),
    ("weight", pa.array([0.1], pa.float64()), "invalid_rows", "precision_loss"),
    ("weight", pa.array([1e39], pa.float64()), "invalid_rows", "overflow"),
    *((f"i{bits}", pa.array([2 ** (bits - 1)], pa.uint64()), "invalid_rows", "overflow") for bits in (8, 16, 32, 64)),
    *((f"u{bits}", pa.array([-1], pa.int64()), "invalid_rows", "overflow") for bits in (8, 16, 32, 64)),
    ("i32", pa.array([1.5]), "invalid_rows", "precision_loss"),
    ("i32", pa.array([None], pa.int32()), "invalid_rows", "missing"),
    ("maker", pa.array([1], pa.int64()), "schema_mismatch", None),
    ("maker", pa.array([None], pa.bool_()), "invalid_rows", "missing"),
    ("sent", pa.array([2**62], pa.timestamp("s")), "invalid_rows", "time_out_of_range"),
    ("sent", pa.array([1.5]), "schema_mismatch", None),
    ("side", pa.array(["hold"]), "invalid_rows", "unknown_value"),
    ("side", pa.array(["hold"]).dictionary_encode(), "invalid_rows", "unknown_value"),
    ("side", pa.array([0], pa.uint8()), "schema_mismatch", None),
    ("venue", pa.array([None], pa.string()), "invalid_rows", "missing"),
    ("venue", pa.array(["x" * 1_025]), "invalid_rows", "too_long"),
    ("venue", pa.array([1], pa.int64()), "schema_mismatch", None),
    ("digest", pa.array([b"abc"]), "invalid_rows", "bad_bytes"),
    ("digest", pa.array([b"abc"], pa.binary(3)), "invalid_rows", "bad_bytes"),
    ("venue", None, "schema_mismatch", None),
    ("venue", pa.nulls(1), "invalid_rows", "missing"),
    ("i32", pa.nulls(1), "invalid_rows", "missing"),
    ("ts", pa.nulls(1), "schema_mismatch", None),
    ("other", pa.array([1]), "schema_mismatch", None),
    ("price", pa.array([[1]]), "invalid_argument", None),
]
FIELD = {"name": "a", "type": "int32"}
# What is wrong with a kind, and its code.
KINDS = [
    ({"fields": []}, "invalid_argument"),
    ({"fields": [{"name": f"f{n}", "type": "int8"} for n in range(65)]}, "invalid_argument"),
    ({"fields": [FIELD, FIELD]}, "invalid_argument"),
    ({"fields": [{"name": "ts", "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "series", "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "x", "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "A", "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "", "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "a" * 33, "type": "int32"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "int128"}]}, "invalid_argument"),
    ({"fields": [{"name": "a"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "decimal"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "decimal", "digits": 19}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "decimal", "digits": -1}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "decimal", "digits": 39, "wide": True}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "int32", "digits": 2}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "timestamp"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "bytes"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "bytes", "length": 0}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "bytes", "length": 1_025}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "enum"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "enum", "values": ["x", "x"]}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "enum", "values": [str(n) for n in range(257)]}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "enum", "values": ["x" * 65]}]}, "invalid_argument"),
    *(
        ({"fields": [{"name": "a", "merge": merge, **kind}]}, "invalid_argument")
        for merge in ("sum", "min", "max")
        for kind in ({"type": "bool"}, {"type": "text"}, {"type": "enum", "values": ["x"]})
    ),
    ({"fields": [{"name": "a", "type": "bytes", "length": 4, "merge": "sum"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "timestamp", "unit": "ms", "merge": "sum"}]}, "invalid_argument"),
    ({"fields": [{"name": "a", "type": "int32", "merge": "median"}]}, "invalid_argument"),
    ({"key": []}, "invalid_argument"),
    ({"key": ["p", "q", "r", "s", "t"]}, "invalid_argument"),
    ({"key": ["p", "p"]}, "invalid_argument"),
    ({"key": ["P"]}, "invalid_argument"),
    ({"order": {"unique": []}}, "invalid_argument"),
    ({"order": {"unique": ["a"]}}, "invalid_argument"),
    ({"order": {"unique": ["ts", "b"]}}, "invalid_argument"),
    ({"order": {"unique": ["ts", "a", "a"]}}, "invalid_argument"),
    ({"order": {"unique": ["ts", "a"]}, "fields": [{"name": "a", "type": "float64"}]}, "invalid_argument"),
    ({"order": {"unique": ["ts", "a"]}, "fields": [{**FIELD, "nullable": True}]}, "invalid_argument"),
    ({"order": "newest"}, "invalid_argument"),
    ({"unit": "m"}, "invalid_argument"),
    ({"partition": "week"}, "invalid_argument"),
    ({"rules": [{"rule": "non_negative", "field": "b"}]}, "invalid_argument"),
    ({"rules": [{"rule": "at_least", "field": "a", "of": []}]}, "invalid_argument"),
    ({"rules": [{"rule": "prime", "field": "a"}]}, "invalid_argument"),
    ({"sql_name": "drop table"}, "invalid_argument"),
    ({"colour": "red"}, "invalid_argument"),
    ({"kind": "Bad"}, "invalid_argument"),
    ({"kind": "a/b"}, "invalid_argument"),
    ({"kind": "a" * 33}, "invalid_argument"),
    *(({"kind": name}, "kind_exists") for name in ("kline", "scalar", "trade", "quote", "status", "strict")),
]


def refused(server, method, path, body=None, media="application/json", status=None):
    """The problem document of a refused request."""
    if not isinstance(body, bytes | type(None)):
        body = json.dumps(body).encode()
    try:
        with server.request(method, path, body, {"Content-Type": media}) as response:
            raise AssertionError(f"{method} {path} was not refused: {response.read()[:400]}: {body[:400]}")
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def stored(server):
    """All that a write could change."""
    return server.json("GET", "/v1/series"), server.json("GET", "/v1/kinds"), server.read(f"{ROWS}?format=csv")


@pytest.fixture
def strict(server):
    """A server with a series of a kind with a field of every type, and one row."""
    server.json("POST", "/v1/kinds", KIND)
    server.json("POST", "/v1/series", {"kind": "strict", "key": ["X"]})
    server.json("POST", ROWS, [GOOD])
    return server


def test_every_cell_that_a_type_cannot_hold_is_refused_as_json_and_csv(strict, fastk, tmp_path):
    before = stored(strict)
    for column, cell, reason in CELLS:
        good = {**GOOD, "ts": GOOD["ts"] + 1}
        problem = refused(strict, "POST", ROWS, [good, {**good, "ts": good["ts"] + 1, column: cell}])
        found = (problem["code"], problem["errors"][0]["row"], problem["errors"][0]["reason"])
        assert found == ("invalid_rows", 1, reason), (column, cell, problem)
        if (column, repr(cell)) in JSON_ONLY:
            continue
        names, line = ",".join(good), ",".join("" if c is None else str(c) for c in {**good, column: cell}.values())
        fine = ",".join(map(str, good.values()))
        problem = refused(strict, "POST", ROWS, f"{names}\n{fine}\n{line}\n".encode(), "text/csv")
        found = (problem["code"], problem["errors"][0]["row"], problem["errors"][0]["reason"])
        assert found == ("invalid_rows", 1, reason), (column, cell, problem)
    assert stored(strict) == before


def test_every_cell_that_a_type_cannot_hold_is_refused_by_an_import(strict, fastk, tmp_path):
    """All of them in one file: the report has the reason of each row."""
    before = stored(strict)
    names, lines, reasons = list(GOOD), [], []
    for column, cell, reason in CELLS:
        if (column, repr(cell)) in JSON_ONLY or column == "ts":
            continue
        row = {**GOOD, "ts": GOOD["ts"] + 1 + len(lines), column: cell}
        lines.append(",".join("" if c is None else str(c) for c in row.values()))
        reasons.append((column, reason))
    path = tmp_path / "bad.csv"
    path.write_text("\n".join([",".join(names), *lines, ""]))
    command = ["import", path, "--series", KEY, "--server", strict.http, "--json"]
    done = fastk(*command, check=False)
    assert done.returncode == 2 and "error[invalid_rows]" in done.stderr, done.stderr
    found = [(row["field"], row["reason"]) for row in json.loads(done.stdout)["invalid"]]
    assert found == reasons
    assert stored(strict) == before


def good_batch(**columns) -> pa.Table:
    """One row as Arrow, with other columns in place of some; None removes one."""
    kinds = {
        "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(), "uint8": pa.uint8(),
        "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(), "float32": pa.float32(),
    }  # fmt: skip
    table = {"ts": pa.array([GOOD["ts"] + 1], pa.timestamp("ms"))}
    for field in FIELDS:
        cell = GOOD.get(field["name"])
        if field["type"] == "decimal":
            table[field["name"]] = pa.array([Decimal(cell)], pa.decimal128(38, field["digits"]))
        elif field["type"] == "timestamp":
            table[field["name"]] = pa.array([cell], pa.timestamp("ns"))
        else:
            table[field["name"]] = pa.array([cell], kinds.get(field["type"]))
    table.update(columns)
    return pa.table({name: column for name, column in table.items() if column is not None})


def put(client, table, key=KEY, batch=None):
    """Writes a table, and reads every acknowledgement."""
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(*key.split("/")), table.schema)
    acks = []
    try:
        writer.write_table(table, max_chunksize=batch)
        writer.done_writing()
        while (buffer := reader.read()) is not None:
            acks.append(json.loads(buffer.to_pybytes()))
    finally:
        writer.close()
    return acks


def act(client, name, body):
    return list(client.do_action(flight.Action(name, json.dumps(body).encode())))


def code_of(call, *args):
    """The code of the error that a call of Flight raises, and the reason of its first row."""
    try:
        call(*args)
    except (pa.ArrowException, flight.FlightError) as error:
        text = str(error)
        code = re.search(r"message: ([a-z_]+): ", text)
        assert code, text
        row = re.search(r"^row \d+, .* \((\w+)\)", text, re.MULTILINE)
        return code[1], row and row[1]
    raise AssertionError(f"{args[1:]} was not refused")


def test_every_cell_that_a_type_cannot_hold_is_refused_by_a_put(strict, client):
    before = stored(strict)
    for column, array, code, reason in ARROW:
        table = good_batch(**{column: array})
        if code is None:
            continue
        assert code_of(put, client, table) == (code, reason), (column, array)
        assert stored(strict) == before, (column, array)
    for column, array, code, _ in ARROW:
        if code is None:
            put(client, good_batch(**{column: array}))
    put(client, good_batch())


def test_bad_kinds_are_refused_on_every_interface(strict, client, fastk, tmp_path):
    before = stored(strict)
    good = {"kind": "fine", "key": ["x"], "fields": [FIELD]}
    path = tmp_path / "kind.json"
    for wrong, code in KINDS:
        kind = {**good, **wrong}
        problem = refused(strict, "POST", "/v1/kinds", kind)
        assert problem["code"] == code, (wrong, problem)
        assert code_of(act, client, "register_kind", kind)[0] == code, wrong
    for wrong, code in KINDS[::9]:
        path.write_text(json.dumps({**good, **wrong}))
        done = fastk("kind", "register", path, "--server", strict.http, check=False)
        assert f"error[{code}]" in done.stderr, (wrong, done.stderr)
    assert stored(strict) == before
    strict.json("POST", "/v1/kinds", good)


def test_names_that_clash_and_kinds_in_use_change_nothing(strict, client):
    before = stored(strict)
    # The same definition is no error.
    assert strict.json("POST", "/v1/kinds", KIND)["created"] is False
    other = {**KIND, "fields": KIND["fields"][:-1]}
    assert refused(strict, "POST", "/v1/kinds", other)["code"] == "kind_exists"
    assert refused(strict, "DELETE", "/v1/kinds/strict")["code"] == "kind_in_use"
    assert refused(strict, "DELETE", "/v1/kinds/kline")["code"] == "kind_in_use"
    assert refused(strict, "DELETE", "/v1/kinds/nothing")["code"] == "not_found"
    cases = [
        ({"kind": "strict", "key": ["X"], "unit": "ns"}, "series_exists"),
        ({"kind": "strict", "key": ["X", "Y"]}, "invalid_argument"),
        ({"kind": "strict", "key": []}, "invalid_argument"),
        ({"kind": "strict", "key": ["rows"]}, "invalid_argument"),
        ({"kind": "strict", "key": ["a/b"]}, "invalid_argument"),
        ({"kind": "strict", "key": ["Y"], "value_index": ["nothing"]}, "invalid_argument"),
        ({"kind": "strict", "key": ["Y"], "partition": "week"}, "invalid_argument"),
        ({"kind": "strikt", "key": ["X"]}, "not_found"),
    ]
    for body, code in cases:
        assert refused(strict, "POST", "/v1/series", body)["code"] == code, body
        assert code_of(act, client, "register_series", body)[0] == code, body
    assert refused(strict, "POST", "/v1/series/strict/Y/rows", [GOOD])["code"] == "series_not_found"
    changes = [
        [{"name": "price", "digits": 1}],
        [{"name": "i32", "type": "int8"}],
        [{"name": "side", "values": ["sell", "buy"]}],
        [{"name": "ts", "type": "int32", "nullable": True}],
        [{"name": "series", "type": "int32", "nullable": True}],
        [{"name": "x", "type": "int32", "nullable": True}],
        [{"name": "fresh", "type": "int32"}],
    ]
    for columns in changes:
        problem = refused(strict, "PATCH", f"/v1/series/{KEY}", {"columns": columns})
        assert problem["code"] == "invalid_argument", (columns, problem)
    assert stored(strict) == before
    # Series without rows count too; dropped ones do not.
    strict.json("DELETE", f"/v1/series/{KEY}")
    strict.json("POST", "/v1/series", {"kind": "strict", "key": ["EMPTY"]})
    assert refused(strict, "DELETE", "/v1/kinds/strict")["code"] == "kind_in_use"
    strict.json("DELETE", "/v1/series/strict/EMPTY")
    strict.json("DELETE", "/v1/kinds/strict")
    assert refused(strict, "POST", "/v1/series", {"kind": "strict", "key": ["X"]})["code"] == "not_found"


def test_more_different_texts_than_a_column_holds_are_refused_within_bounded_memory(server, client):
    """Ten million different texts in the proof; just more than the limit in the ordinary round."""
    many = 10_000_000 if records.PERCENT >= 100 else 1_100_000
    kind = {"kind": "texts", "key": ["x"], "order": "arrival", "fields": [{"name": "t", "type": "text"}]}
    server.json("POST", "/v1/kinds", kind)
    for name in ("BODY", "LONG", "PUT", "WORDS"):
        server.json("POST", "/v1/series", {"kind": "texts", "key": [name]})
    before = server.json("GET", "/v1/series")
    body = b"ts,t\n" + b"".join(b"1706745600000,%x\n" % number for number in range(many))
    problem = refused(server, "POST", "/v1/series/texts/BODY/rows", body, "text/csv")
    assert (problem["code"], problem["errors"][0]["row"], problem["errors"][0]["reason"]) == (
        "invalid_rows", 2**20, "dictionary_full",
    )  # fmt: skip
    # 64 MiB of texts, far fewer.
    body = b"ts,t\n" + b"".join(b"1706745600000,%01024d\n" % number for number in range(2**16 + 1))
    problem = refused(server, "POST", "/v1/series/texts/LONG/rows", body, "text/csv")
    assert (problem["errors"][0]["row"], problem["errors"][0]["reason"]) == (2**16, "dictionary_full")
    assert server.json("GET", "/v1/series") == before
    # By a put: batches up to the limit are acknowledged, the one beyond is refused.
    size = 2**17
    words = np.arange(9 * size, dtype=np.int64)
    ts = pa.array(np.full(len(words), support.T0), pa.timestamp("ms"))
    table = pa.table({"ts": ts, "t": pa.array(words).cast(pa.string())})
    assert code_of(put, client, table, "texts/PUT", size)[0] == "invalid_rows"
    info = server.json("GET", "/v1/series/texts/PUT")
    assert info["rows"] == 2**20
    got = client.do_get(flight.Ticket(json.dumps({"series": ["texts/PUT"]}))).read_all()
    assert got["t"].cast(pa.string()).equals(table["t"].slice(0, 2**20))
    # Texts that are known are still written.
    put(client, table.slice(7, 1), "texts/PUT")
    dictionary = pa.table({"ts": ts, "t": table["t"].combine_chunks().dictionary_encode()})
    assert code_of(put, client, dictionary.slice(0, 10), "texts/WORDS", size)[0] == "too_large"
    assert server.json("GET", "/v1/series/texts/WORDS")["rows"] == 0
    print(f"\nproof dictionary_bomb: {many} different texts, most memory {records.peak_bytes(server) >> 20} MiB")
    assert records.peak_bytes(server) < 2**31
