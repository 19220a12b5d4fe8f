"""Taking turns, medians with their spread, and what a row of the comparison says."""

import gc
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

PRODUCT = "FastK"
# Seconds; a peer that needs more for one turn has no other.
SLOW = 10


def seconds(work, *arguments) -> float:
    """How long something takes once. What it gives is let go outside the clock."""
    begun = time.perf_counter()
    given = work(*arguments)
    taken = time.perf_counter() - begun
    del given
    return taken


def p50(work, calls: int) -> float:
    """The median of so many calls in a row, or of those begun within a second."""
    taken = []
    while len(taken) < calls and sum(taken) < 1:
        taken.append(seconds(work))
    return statistics.median(taken)


def take_turns(contenders: dict, rounds: int, check=None) -> dict[str, list[float]]:
    """A B C A B C …: each contender gives its own time once a round, so that whatever else the machine does hits all of
    them. The first round does not count; what it wrote can be checked before the others. Who is slow in it has its one
    turn counted: a cold start is little of so much, and nobody waits for the others."""
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
    """Lets nobody pay for what another contender left to be written."""

    def turn() -> float:
        os.sync()
        return work()

    return turn


def cpu_seconds(pid: int) -> float:
    """Time a process spent on processors, its own and the system's on its behalf."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def same(name: str, found, expected) -> None:
    """A fast wrong answer does not count."""
    if found != expected:
        raise SystemExit(f"{name} gave {found}, not {expected}")


@dataclass
class Goal:
    """How good FastK is to be: at least `factor` times as good as the best of `against` (all peers when empty), or at
    most `at_most` where there is no peer. Less is better in every measure."""

    text: str
    factor: float | None = None
    against: tuple[str, ...] = ()
    at_most: float | None = None


@dataclass
class Line:
    """One line of the table. `samples` are seconds, seconds a gigabyte, or bytes; less is better. Where `amount` is
    given, they are shown as so many rows or bytes a second. Those named in `aside` are shown and not compared."""

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
        """Best first."""
        return sorted((name for name in self.samples if name != PRODUCT), key=self.median)

    @property
    def best(self) -> str | None:
        against = self.goal.against if self.goal else ()
        compared = [name for name in self.peers if name not in self.aside and (not against or name in against)]
        return compared[0] if compared else None

    @property
    def ratio(self) -> float | None:
        """How many times as good as the best peer FastK is, or as the limit asks."""
        if PRODUCT not in self.samples:
            return None
        if self.goal and self.goal.at_most is not None:
            return self.goal.at_most / max(self.median(PRODUCT), 1e-12)
        return self.median(self.best) / max(self.median(PRODUCT), 1e-12) if self.best else None

    @property
    def wanted(self) -> float | None:
        """The ratio that reaches the goal."""
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
    """How long one read takes in stores of growing size: for each contender, size and samples in seconds."""

    name: str
    work: str
    axis: str
    points: dict[str, list[tuple[int, list[float]]]]
