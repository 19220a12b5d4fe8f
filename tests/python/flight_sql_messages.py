"""Messages of Flight SQL as clients send them, written field by field: pyarrow has none."""

import struct

import pyarrow as pa
import pyarrow.flight as flight

TYPES = "type.googleapis.com/arrow.flight.protocol.sql."


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A field of a message: bytes and text with their length, integers and flags as varints."""
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value))
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """Number and value of each field of a message."""
    at, found = 0, []

    def read():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        tag = read()
        if tag & 7 == 0:
            found.append((tag >> 3, read()))
            continue
        length = {1: 8, 5: 4}.get(tag & 7)
        length = read() if length is None else length
        found.append((tag >> 3, message[at : at + length]))
        at += length
    return found


def packed(name, body=b""):
    """A message in a `google.protobuf.Any`."""
    return field(1, TYPES + name) + field(2, body)


def unpacked(name, message):
    found = dict(fields(message))
    assert found[1].decode() == TYPES + name
    return dict(fields(found.get(2, b"")))


def options(**headers):
    return flight.FlightCallOptions(headers=[(name.encode(), value.encode()) for name, value in headers.items()])


def info(client, name, body=b"", **headers):
    """The FlightInfo of a command; `fastk_profile` is the header `fastk-profile`."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    descriptor = flight.FlightDescriptor.for_command(packed(name, body))
    found = client.get_flight_info(descriptor, options(**headers))
    assert len(found.endpoints) == 1 and found.endpoints[0].locations == [], "one endpoint, on this server"
    return found


def read(client, found):
    """The rows of a FlightInfo, whose schema they have."""
    table = client.do_get(found.endpoints[0].ticket).read_all()
    assert table.schema.equals(found.schema), f"{found.schema}\nbut\n{table.schema}"
    return table


def rows(client, name, body=b"", **headers):
    return read(client, info(client, name, body, **headers))


def query(client, sql, **headers):
    return rows(client, "CommandStatementQuery", field(1, sql), **headers)


def act(client, name, body, **headers):
    """The only result of an action, or None."""
    results = list(client.do_action(flight.Action(name, body), options(**headers)))
    assert len(results) <= 1
    return results[0].body.to_pybytes() if results else None


def prepare(client, sql, **headers):
    """Handle, schema of the result and schema of the parameters of a prepared statement."""
    reply = act(client, "CreatePreparedStatement", packed("ActionCreatePreparedStatementRequest", field(1, sql)), **headers)
    found = unpacked("ActionCreatePreparedStatementResult", reply)
    schema = lambda number: pa.ipc.read_schema(pa.py_buffer(found[number]))
    return found[1], schema(2), schema(3)


def bind(client, handle, row):
    """The handle of a prepared statement with parameters."""
    descriptor = flight.FlightDescriptor.for_command(packed("CommandPreparedStatementQuery", field(1, handle)))
    writer, reader = client.do_put(descriptor, row.schema)
    writer.write_table(row)
    writer.done_writing()
    reply = reader.read()
    # An error is raised here.
    writer.close()
    return dict(fields(reply.to_pybytes()))[1]


def option_value(text):
    return field(1, text)


def integer_option(number):
    return varint(3 << 3 | 1) + struct.pack("<q", number)
