"""Arrow's own Flight server: record batches of an Arrow file that is mapped into memory.

    python flight_peer.py FILE

A ticket is `{}` for all rows, `{"start": t, "end": t}` for a closed range, or `{"latest": n}`. A put goes to the file that
its descriptor names: each batch is written as it came and synced before it is acknowledged, and nothing else is done.
"""

import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight


class Peer(flight.FlightServerBase):
    def __init__(self, file: str):
        super().__init__("grpc://127.0.0.1:0")
        self.table = pa.ipc.open_file(pa.memory_map(file)).read_all()
        # Found by bisection over a copy of the timestamps: the peer's best case.
        self.ts = self.table["ts"].to_numpy()

    def do_get(self, context, ticket):
        asked = json.loads(ticket.ticket)
        table = self.table
        if "latest" in asked:
            table = table.slice(max(0, table.num_rows - asked["latest"]))
        elif "start" in asked:
            low = int(np.searchsorted(self.ts, asked["start"], "left"))
            high = int(np.searchsorted(self.ts, asked["end"], "right"))
            table = table.slice(low, high - low)
        return flight.RecordBatchStream(table)

    def do_put(self, context, descriptor, reader, writer):
        with open(descriptor.command.decode(), "wb", buffering=0) as file:
            for chunk in reader:
                for column in chunk.data.columns:
                    file.write(column.buffers()[1])
                os.fdatasync(file.fileno())
                writer.write(json.dumps({"rows_written": chunk.data.num_rows, "durable": True}).encode())


if __name__ == "__main__":
    peer = Peer(sys.argv[1])
    print(f"ready flight=127.0.0.1:{peer.port}", flush=True)
    peer.serve()
