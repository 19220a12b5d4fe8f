"""Report of a run: the machine, the table, the raw samples."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from measure import PRODUCT, Curve, Line

PROGRAMS = ("pyarrow", "duckdb", "polars", "arcticdb")
# Factors and names of units.
SCALES = {
    "s": [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1, "s")],
    "B": [(1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")],
    "rows": [(1, "rows"), (1e3, "k rows"), (1e6, "M rows"), (1e9, "G rows"), (1e12, "T rows")],
}


def machine(work: Path) -> dict[str, str]:
    """CPU, cores, kernel and file system of the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system(work),
    }


def file_system(work: Path) -> str:
    for command in (["findmnt", "-no", "FSTYPE", "-T", str(work)], ["stat", "-f", "-c", "%T", str(work)]):
        try:
            words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError):
            continue
        if words:
            return words[0]
    return "unknown"


def versions(binary: str) -> dict[str, str]:
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    ours = f"{words[-1]} ({commit.stdout.strip()})" if commit.returncode == 0 else words[-1]
    return {PRODUCT: ours, **{name: metadata.version(name) for name in PROGRAMS}}


def digits(value: float) -> str:
    """Three significant digits, without exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def scaled(values: list[float], unit: str) -> tuple[list[str], str]:
    """Values in a common unit that suits the first one."""
    steps = SCALES.get(unit)
    if not steps:
        return [digits(value) for value in values], unit
    size, name = max((step for step in steps if step[0] <= abs(values[0])), default=steps[0])
    return [digits(value / size) for value in values], name


def shown(line: Line, name: str) -> str:
    """Median, and lowest to highest in brackets."""
    taken = line.samples[name]
    values = [line.median(name), min(taken), max(taken)]
    per, unit = "", line.unit
    if line.amount:
        values = [line.amount / value for value in (values[0], values[2], values[1])]
        per, unit = "/s", line.amount_unit
    (middle, low, high), unit = scaled(values, unit)
    spread = f" [{low}..{high}]" if len(taken) > 1 else ""
    return f"{middle} {unit.replace('s/GB', 'CPU s/GB')}{per}{spread}"


def peers_cell(line: Line) -> str:
    cells = []
    for name in line.peers:
        cell = f"{name} {shown(line, name)}"
        if name == line.best:
            cell = f"**{cell}**"
        elif name in line.aside:
            cell = f"*{cell}*"
        cells.append(cell)
    return "<br>".join(cells) or "–"


def row_cells(line: Line) -> list[str]:
    ours = shown(line, PRODUCT) if PRODUCT in line.samples else "–"
    ratio = f"{digits(line.ratio)}×" if line.ratio is not None and line.best else "–"
    reached = {True: "yes", False: "**no**", None: "–"}[line.reached]
    work = line.work + (f" ({', '.join(line.notes)})" if line.notes else "")
    return [work, ours, peers_cell(line), ratio, line.goal.text if line.goal else "–", reached]


def table(lines: list[Line]) -> str:
    head = ["work", PRODUCT, "peers, best first", "ratio to the best", "goal", "reached?"]
    return markdown(head, [row_cells(line) for line in lines])


def curve_table(curve: Curve) -> str:
    sizes = sorted({size for points in curve.points.values() for size, _ in points})
    rows = []
    for size in sizes:
        cells = [f"{size:,}"]
        for name, points in curve.points.items():
            line = Line("", "", {name: dict(points)[size]})
            cells.append(shown(line, name))
        rows.append(cells)
    return markdown([curve.axis, *curve.points], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(lines)


def summary(lines: list[Line]) -> str:
    with_goal = [line for line in lines if line.reached is not None]
    return f"{sum(line.reached for line in with_goal)} of {len(with_goal)} goals reached."


def document(lines: list[Line], curves: list[Curve], about: dict, plots: list[tuple[str, str]]) -> str:
    host = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
    programs = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    parts = [
        "# Results of `benches/compare`",
        f"Written by `benches/compare/run{' --quick' if about['quick'] else ''}`; `benches/README.md` says how figures "
        "are measured. Engines take turns within one run, the first round is discarded, and each figure is the median "
        "of the rounds with the lowest and the highest. Results were checked cell by cell before they were timed. The "
        "ratio is how many times as good as the best peer (in bold) FastK is; entries in italics are shown and not "
        "compared.",
        f"Machine: {host}. Programs: {programs}.",
        summary(lines),
        table(lines),
    ]
    for curve in curves:
        parts += [f"## {curve.work}, by {curve.axis}", curve_table(curve)]
    parts += [f"![{title}]({name})" for name, title in plots]
    return "\n\n".join(parts) + "\n"


def raw(lines: list[Line], curves: list[Curve], about: dict) -> str:
    def of_line(line: Line) -> dict:
        goal = line.goal and {"text": line.goal.text, "reached": line.reached, "wanted_ratio": line.wanted}
        fields = {"row": line.row, "work": line.work, "unit": line.unit, "notes": line.notes, "samples": line.samples}
        return {**fields, "amount": line.amount, "amount_unit": line.amount_unit, "ratio": line.ratio, "goal": goal}

    def of_curve(curve: Curve) -> dict:
        return {"name": curve.name, "work": curve.work, "axis": curve.axis, "points": curve.points}

    document = {**about, "lines": [of_line(line) for line in lines], "curves": [of_curve(curve) for curve in curves]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
