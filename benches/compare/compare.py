"""FastK beside other engines and beside the limits of the machine, work by work, in one run.

    benches/compare/run [--quick] [--only NAME,…] [--out DIR] [--work DIR]

`run` builds what is measured and calls this. A run of all rows writes `results.md`, `results.json` and plots into
docs/performance; a quick one, or one of single rows, prints its table and writes only where `--out` says.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import bulk
import cross
import older
import plots
import reads
import report
import scale
import served
import writes
from fixtures import Bench
from measure import Curve, Line

ROWS = {
    "flight-all": served.flight_all,
    "http-all": served.http_all,
    "flight-day": served.flight_small,
    "rest-day": served.rest_day,
    "day": reads.day,
    "year": reads.year,
    "all": reads.all_rows,
    "latest": reads.latest,
    "predicate": reads.predicate,
    "scalar-predicate": reads.scalar_predicate,
    "bars": reads.bars,
    "bars-served": served.bars_served,
    "json": served.json_rows,
    "cross": cross.cross,
    "append": writes.append,
    "fan-in": writes.fan_in,
    "ingest": bulk.ingest,
    "upsert": bulk.upsert,
    "after-appends": scale.after_appends,
    "inventory": scale.inventory,
    "opening": scale.opening,
    "older": older.older,
    "sizes": scale.sizes,
}
HOME = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/compare/run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and fewer rounds: about two minutes")
    parser.add_argument("--only", metavar="NAME,…", help=f"only these of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results are written (docs/performance)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where stores stand while they are measured")
    for program in ("fastk", "embedded", "bare"):
        parser.add_argument(f"--{program}", required=True, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.only = asked.only.split(",") if asked.only else None
    if unknown := set(asked.only or ()) - set(ROWS):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return asked


def measured(bench: Bench, names: list[str]) -> tuple[list[Line], list[Curve], list[str]]:
    """Every row asked for; one that fails is told, and does not stop the others."""
    lines, curves, failed = [], [], []
    for number, name in enumerate(names):
        begun = time.monotonic()
        try:
            for given in ROWS[name](bench):
                (curves if isinstance(given, Curve) else lines).append(given)
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
        print(f"[{number + 1}/{len(names)}] {name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return lines, curves, failed


def main() -> int:
    asked = arguments()
    work = Path(tempfile.mkdtemp(prefix="fastk-compare-", dir=asked.work))
    bench = Bench(work, {"fastk": asked.fastk, "embedded": asked.embedded, "bare": asked.bare}, asked.quick)
    about = {"quick": asked.quick, "machine": report.machine(work), "versions": report.versions(asked.fastk)}
    try:
        lines, curves, failed = measured(bench, asked.only or list(ROWS))
    finally:
        bench.close()
        shutil.rmtree(work, ignore_errors=True)
    pictures = [("ratios.svg", "Ratios to the best peer", plots.ratios(lines))] if lines else []
    if curves:
        pictures.append(("latency.svg", "Latency of a read of 1 day", plots.latency(curves)))
    text = report.document(lines, curves, about, [(name, title) for name, title, _ in pictures])
    print(text)
    out = asked.out or (None if asked.quick or asked.only else HOME / "docs" / "performance")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.md").write_text(text)
        (out / "results.json").write_text(report.raw(lines, curves, about))
        for name, _, drawn in pictures:
            (out / name).write_text(drawn)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
