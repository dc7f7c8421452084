"""What was measured, as the rows of a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

OURS, THEIRS = "ministeer", "transformers"


@dataclass
class Side:
    """What one side took for a job: seconds of each repetition, or why it was not run."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0
    why: str = ""
    value: Any = None


@dataclass
class Row:
    """One job: what each side took, and what they are compared by."""

    job: str
    dtype: str
    sides: dict[str, Side]
    about: str  # one sentence for the reader
    target: float | None = None  # for their time over ours
    at_most: float | None = None  # or for our seconds
    work: float = 1.0  # how many units one repetition does
    unit: str = "s"  # "s" is seconds for one repetition, else units a second
    limit: float | None = None  # in that unit

    def value(self, seconds: float) -> float:
        return seconds if self.unit == "s" else self.work / seconds

    def ratio(self, side: str) -> float:
        return median(self.sides[side].seconds) / median(self.sides[OURS].seconds)

    def spread(self, side: str) -> str:
        found = self.sides[side]
        if found.why:
            return f"not run: {found.why}"
        low, high = sorted((self.value(min(found.seconds)), self.value(max(found.seconds))))
        return f"{number(self.value(median(found.seconds)))} ({number(low)} to {number(high)})"

    def against(self) -> list[list[str]]:
        """The rows of the table that has one other side in each, and all that is known of it."""
        return [self._against(side) for side in self.sides if side != OURS]

    def _against(self, side: str) -> list[str]:
        target = limit = share = ""
        ran = not self.sides[side].why
        mine = self.value(median(self.sides[OURS].seconds))
        if self.target is not None and ran and side == THEIRS:
            target = f"{self.target:g} times: {'met' if self.ratio(side) >= self.target else '**missed**'}"
        elif self.at_most is not None:
            target = f"{self.at_most:g} s: {'met' if mine <= self.at_most else '**missed**'}"
        if self.limit is not None:
            limit = number(self.limit)
            share = f"{self.limit / mine if self.unit == 's' else mine / self.limit:.0%}"
        memory = [f"{self.sides[name].memory / 2**30:.1f}" if self.sides[name].memory else "" for name in (OURS, side)]
        return [self.job, self.dtype, self.unit, self.spread(OURS), side, self.spread(side), f"{self.ratio(side):.2f}" if ran else "",
                target, limit, share, " / ".join(memory).strip(" /")]  # fmt: skip

    def beside(self, sides: Sequence[str]) -> list[str]:
        """The row of the table that has them all: what one run takes, and how many times ours."""
        cells = []
        for side in sides:
            found = self.sides.get(side, Side(why="not offered"))
            times = "" if side == OURS or found.why else f", {self.ratio(side):.1f} times"
            cells.append(found.why or f"{number(median(found.seconds))} s{times}")
        return [self.job, *cells]


def number(x: float) -> str:
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def side_by_side(rows: Sequence[Row]) -> str:
    head = [
        "job",
        "dtype",
        "unit",
        "ours",
        "beside",
        "theirs",
        "times as fast",
        "target",
        "limit",
        "share of limit",
        "peak GiB",
    ]
    return table(head, [cells for row in rows for cells in row.against()])


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        cpu = told.get("model name", cpu) + (f", family {told['cpu family']}" if "cpu family" in told else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB"
