"""Compares FastK with other engines and with the limits of the machine, workload by workload, in one run.

    benches/compare/run [--quick] [--only NAME,…] [--out DIR] [--work DIR]

`run` builds the programs and calls this script. A run of all rows writes `results.md`, `results.json` and plots into
docs/performance; a quick run, or one of selected rows, prints its table and writes files only with `--out`.
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
import statements
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
    "hours": reads.hours,
    "bars-served": served.bars_served,
    "json": served.json_rows,
    "sql": statements.statements,
    "sql-symbols": statements.symbols,
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
    parser.add_argument("--work", type=Path, metavar="DIR", help="directory of the measured stores")
    for program in ("fastk", "embedded", "bare"):
        parser.add_argument(f"--{program}", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else None
    if unknown := set(options.only or ()) - set(ROWS):
        parser.error(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return options


def measured(bench: Bench, names: list[str]) -> tuple[list[Line], list[Curve], list[str]]:
    """Runs all selected rows; a failure is reported and does not stop the others."""
    lines, curves, failed = [], [], []
    for number, name in enumerate(names):
        started = time.monotonic()
        try:
            for result in ROWS[name](bench):
                (curves if isinstance(result, Curve) else lines).append(result)
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
        print(f"[{number + 1}/{len(names)}] {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return lines, curves, failed


def main() -> int:
    options = arguments()
    work = Path(tempfile.mkdtemp(prefix="fastk-compare-", dir=options.work))
    bench = Bench(work, {"fastk": options.fastk, "embedded": options.embedded, "bare": options.bare}, options.quick)
    about = {"quick": options.quick, "machine": report.machine(work), "versions": report.versions(options.fastk)}
    try:
        lines, curves, failed = measured(bench, options.only or list(ROWS))
    finally:
        bench.close()
        shutil.rmtree(work, ignore_errors=True)
    pictures = [("ratios.svg", "Ratios to the best peer", plots.ratios(lines))] if lines else []
    if curves:
        pictures.append(("latency.svg", "Latency of a read of 1 day", plots.latency(curves)))
    text = report.document(lines, curves, about, [(name, title) for name, title, _ in pictures])
    print(text)
    out = options.out or (None if options.quick or options.only else HOME / "docs" / "performance")
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
