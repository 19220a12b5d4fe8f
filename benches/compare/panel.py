"""A panel of ten series of a million bars by Polars, for the rows of `panel/…` of benches/engine.rs: the same values, from
an Arrow file per series as `scan_ipc` reads it. Prints the median, lowest and highest of seven runs in milliseconds.

    python benches/compare/panel.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

MINUTE = 60_000
SERIES, ROWS = 10, 1_000_000
FIELDS = ["open", "high", "low", "close", "volume"]


def write(folder: Path, gaps: bool) -> list[Path]:
    """The files of all series."""
    paths = []
    for series in range(SERIES):
        minutes = np.arange(ROWS)
        if gaps:
            minutes = minutes[(minutes * 7 + series) % 10 != 0]
        columns = {f"S{series}.{name}": (minutes % 9_973 + at).astype(np.float64) for at, name in enumerate(FIELDS)}
        frame = pl.DataFrame({"ts": minutes * MINUTE, **columns}).set_sorted("ts")
        paths.append(folder / f"{gaps}-{series}.arrow")
        frame.write_ipc(paths[-1])
    return paths


def outer(frames: list[pl.LazyFrame]) -> pl.LazyFrame:
    """Full join of all frames, one after the other."""
    joined = frames[0]
    for other in frames[1:]:
        joined = joined.join(other, on="ts", how="full", coalesce=True)
    return joined.sort("ts")


def aligned(frames: list[pl.LazyFrame]) -> pl.LazyFrame:
    """The same by `align_frames`' way: a left join of each frame to all timestamps."""
    spine = pl.concat([frame.select("ts") for frame in frames]).unique().sort("ts")
    for frame in frames:
        spine = spine.join(frame, on="ts", how="left")
    return spine


def measure(name: str, run) -> None:
    """Times a run after a warm-up."""
    rows = run().height
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        assert run().height == rows
        times.append((time.perf_counter() - begin) * 1e3)
    print(f"{name}: {statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f}) ms, {rows} rows")


def main() -> None:
    """Runs every row."""
    with tempfile.TemporaryDirectory() as folder:
        for gaps in (False, True):
            paths = write(Path(folder), gaps)
            kind = "gaps" if gaps else "aligned"
            for what, fields in (("close", ["close"]), ("all_columns", FIELDS)):
                for how in (outer, aligned):

                    def run(fields=fields, how=how):
                        frames = [
                            pl.scan_ipc(path).select("ts", *(f"S{at}.{name}" for name in fields))
                            for at, path in enumerate(paths)
                        ]
                        return how(frames).collect()

                    measure(f"{kind}/{what} {how.__name__}", run)


if __name__ == "__main__":
    main()
