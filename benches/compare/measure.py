"""Interleaved measurements, medians with their spread, and the lines of the comparison."""

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

PRODUCT = "FastK"
# Seconds; a peer that needs more for one turn is measured only once.
SLOW = 10


def seconds(work, *arguments) -> float:
    """Seconds of one call. The result is released outside the timing."""
    started = time.perf_counter()
    result = work(*arguments)
    taken = time.perf_counter() - started
    del result
    return taken


def p50(work, calls: int) -> float:
    """The median of `calls` consecutive calls, or of those started within a second."""
    taken = []
    while len(taken) < calls and sum(taken) < 1:
        taken.append(seconds(work))
    return statistics.median(taken)


def take_turns(contenders: dict, rounds: int, check=None) -> dict[str, list[float]]:
    """A B C A B C …: each contender is timed once per round, so that other load on the machine affects all of them. The
    first round is a warm-up, after which `check` can verify the written rows. A contender that is slow in the warm-up
    is measured only by it: the cold start is a small part of its time."""
    samples = {name: [] for name in contenders}
    slow = set()
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            if name in slow:
                continue
            gc.collect()
            taken = work()
            if turn == 0 and taken > SLOW:
                slow.add(name)
            if turn > 0 or name in slow:
                samples[name].append(taken)
        if turn == 0 and check:
            check()
    return samples


def flushed(work):
    """Syncs the system before a turn, so that no contender pays for unwritten data of another."""

    def turn() -> float:
        os.sync()
        return work()

    return turn


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def same(name: str, found, expected) -> None:
    """A fast wrong result does not count."""
    if found != expected:
        raise SystemExit(f"{name} returned {found}, expected {expected}")


@dataclass
class Goal:
    """The goal of FastK: at least `factor` times as good as the best of `against` (all peers when empty), or at most
    `at_most` without a peer. Lower is better in every measure."""

    text: str
    factor: float | None = None
    against: tuple[str, ...] = ()
    at_most: float | None = None


@dataclass
class Line:
    """One line of the table. `samples` are seconds, seconds per gigabyte, or bytes; lower is better. With `amount`
    they are shown as rows or bytes per second. Engines in `aside` are shown but not compared."""

    row: str
    work: str
    samples: dict[str, list[float]]
    goal: Goal | None = None
    unit: str = "s"
    amount: float | None = None
    amount_unit: str = ""
    aside: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    @property
    def peers(self) -> list[str]:
        """Peers, the best one first."""
        return sorted((name for name in self.samples if name != PRODUCT), key=self.median)

    @property
    def best(self) -> str | None:
        against = self.goal.against if self.goal else ()
        compared = [name for name in self.peers if name not in self.aside and (not against or name in against)]
        return compared[0] if compared else None

    @property
    def ratio(self) -> float | None:
        """How many times better FastK is than the best peer, or than the limit."""
        if PRODUCT not in self.samples:
            return None
        if self.goal and self.goal.at_most is not None:
            return self.goal.at_most / max(self.median(PRODUCT), 1e-12)
        return self.median(self.best) / max(self.median(PRODUCT), 1e-12) if self.best else None

    @property
    def wanted(self) -> float | None:
        """The ratio needed for the goal."""
        if self.goal is None:
            return None
        return 1.0 if self.goal.at_most is not None else self.goal.factor

    @property
    def reached(self) -> bool | None:
        if self.wanted is None or self.ratio is None:
            return None
        return self.ratio >= self.wanted


@dataclass
class Curve:
    """Times of one read in stores of growing size: for each contender, sizes and samples in seconds."""

    name: str
    work: str
    axis: str
    points: dict[str, list[tuple[int, list[float]]]]
