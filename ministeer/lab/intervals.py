"""Intervals of a claim's effect, over items and over seeds of extraction, and the rank of a vector among random ones.

Letters: S seeds of extraction, N items, G groups of items that depend on each other. An interval is (effect, low, high).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ministeer.metrics import Array, difference, group_means
from ministeer.model import expect

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Items:
    """What was measured on one set of items: the mean of each group by seed, `(S, G)`. Groups count alike, however many items they have."""

    by_seed: Array

    @classmethod
    def of(cls, values: Sequence[Sequence[float]], groups: Sequence[Sequence[Any] | None]) -> Items:
        """From each seed's N values and their N groups; None: each item is a group. Every seed has the same groups."""
        labels = [list(range(len(v)) if g is None else g) for v, g in zip(values, groups, strict=True)]
        means = [group_means(v, g) for v, g in zip(values, labels, strict=True)]
        expect(all(bool(np.isfinite(m).all()) for m in means), "finite values", "nan or infinity")
        expect(len({tuple(sorted(set(map(str, g)))) for g in labels}) == 1, "the same items by every seed", "others")
        return cls(np.array(means))

    def seed(self, i: int) -> Items:
        """The same by the i-th seed alone."""
        return Items(self.by_seed[i : i + 1])

    def all(self, value: float) -> Items:
        """As many groups, every one with this value."""
        return Items(np.full((1, self.groups), value))

    @property
    def groups(self) -> int:
        return int(self.by_seed.shape[1])

    @property
    def means(self) -> Array:
        """Of each seed, `(S,)`."""
        found: Array = self.by_seed.mean(1)
        return found

    @property
    def error(self) -> float:
        """The squared standard error of the mean over groups."""
        return float(self.by_seed.mean(0).var(ddof=1) / self.groups) if self.groups > 1 else math.inf

    @property
    def noise(self) -> float:
        """The part of the variance of `means` that is single groups' answering each seed in its own way."""
        rest = self.by_seed - self.by_seed.mean(0) - self.means[:, None] + self.by_seed.mean()
        return float((rest**2).sum() / max((len(self.by_seed) - 1) * (self.groups - 1), 1) / self.groups)


def mean(items: Items, level: float) -> Interval:
    """The mean over groups of what the seeds give on average: Student's t, and where the groups are skewed further out on the long side.

    Further out by Hall's transformation (1992, "On the removal of skewness by transformation"), never further in. `python benchmarks/interval_coverage.py`
    measures in half a minute how often it misses, of 4,000 samples of 12 / 20 / 42 / 60 groups. At 95 % (0.025 nominal a side) on the worse side: normal
    0.024 / 0.027 / 0.027 / 0.024, skewness 1.75 0.040 / 0.039 / 0.035 / 0.029, skewness 6.2 0.071 / 0.063 / 0.054 / 0.044 (Student's t 0.123 / 0.116 / 0.093 / 0.073).
    At the verdicts' level (0.0018 nominal): normal 0.0018 / 0.0015 / 0.0022 / 0.0015, skewness 1.75 0.0055 / 0.0063 / 0.0050 / 0.0025, skewness 6.2 0.014 / 0.012 / 0.008 / 0.006
    (Student's t 0.038 / 0.038 / 0.029 / 0.021; percentiles of a bootstrap 0.043 / 0.032 / 0.021 / 0.015). The studentised bootstrap does as well, with draws.
    """
    groups = items.by_seed.mean(0)
    center, n = float(groups.mean()), items.groups
    error, t = math.sqrt(items.error), float(_scipy().stdtrit(n - 1, (1 + level) / 2))
    away = groups - center
    skewed = float((away**3).mean() / (away**2).mean() ** 1.5) / math.sqrt(n) if error else 0.0
    if abs(skewed) < 1e-6:
        return center, center - t * error, center + t * error
    down, up = (3 / skewed * (float(np.cbrt(1 + skewed * (x - skewed / 6))) - 1) for x in (t, -t))
    return center, center - max(down, t) * error, center - min(up, -t) * error


def share(items: Items, level: float) -> Interval:
    """The share of items, of Clopper and Pearson (1934), as if each group were one item.

    That is the largest design effect that a share can have: groups whose items all agree. An estimated one is smaller, but of no wrong item at
    all it cannot be estimated, and where it changes with the count a verdict can go back as the count grows. This one cannot.
    """
    found, n, tail = float(items.by_seed.mean()), items.groups, (1 - level) / 2
    k = found * n
    quantile = _scipy().betaincinv
    low = 0.0 if k <= 0 else float(quantile(k, n - k + 1, tail))
    return found, low, 1.0 if k >= n else float(quantile(k + 1, n - k, 1 - tail))


def effect(parts: Sequence[Items], level: float, kind: str) -> Interval:
    """Of one set of items, or of the first less the second, over items and over seeds of extraction.

    The two sets count as independent: of the same items, which mostly agree, their difference is known a little better than this says.
    """
    found = [{"mean": mean, "share": share}[kind](items, level) for items in parts]
    center, low, high = over_seeds(found[0] if len(found) == 1 else difference(*found), parts, level)
    least, most = ((0.0, 1.0) if len(found) == 1 else (-1.0, 1.0)) if kind == "share" else (-math.inf, math.inf)
    return center, max(low, least), min(high, most)


def over_seeds(alone: Interval, parts: Sequence[Items], level: float) -> Interval:
    """An interval over items, widened by how much the seeds differ beyond what their items' noise makes.

    Seeds share their items, so items are averaged over seeds first; three seeds have two degrees of freedom, at which resampling them is far too narrow,
    and Student's t of them alone (16.7 standard errors at the verdicts' level) throws the items away. So what varies between seeds is a variance
    component, whose few degrees of freedom enter by Satterthwaite's rule (1946): seeds that agree cost nothing, seeds that disagree leave a claim open.
    With as much variance from seeds as from items, three seeds miss 0.025 to 0.028 a side at 95 %; with three times as much, 0.032 to 0.038 (as above).
    """
    seeds = len(parts[0].by_seed)
    if seeds < 2:
        return alone
    means = parts[0].means - (parts[1].means if len(parts) > 1 else 0.0)
    spread = float(means.var(ddof=1)) / seeds
    between = spread - sum(items.noise for items in parts) / seeds
    if between <= 1e-12 * spread:
        return alone
    errors = [items.error for items in parts]
    quantile, upper = _scipy().stdtrit, (1 + level) / 2
    small = sum(e**2 / (items.groups - 1) for e, items in zip(errors, parts, strict=True))
    free = (sum(errors) + between) ** 2 / (small + spread**2 / (seeds - 1))
    items_free = sum(errors) ** 2 / small if small else 1.0
    whole = quantile(free, upper) ** 2 * (sum(errors) + between)
    more = math.sqrt(max(0.0, whole - quantile(items_free, upper) ** 2 * sum(errors)))
    center, low, high = alone
    return center, center - math.hypot(center - low, more), center + math.hypot(high - center, more)


def as_much(effect: float, controls: Sequence[float]) -> int:
    """How many random vectors do as much as the tested one. Its p-value is (1 + that) / (their number + 1)."""
    expect(all(map(math.isfinite, controls)), "finite effects of random vectors", "nan or infinity")
    return sum(one >= effect for one in controls)


def fewest(level: float) -> int:
    """The fewest groups whose interval is worth its level: fewer have all the same sign by chance more often than its tail allows."""
    return math.ceil(-math.log2((1 - level) / 2))


def _scipy() -> Any:
    try:
        from scipy import special
    except ImportError as error:
        raise ImportError("verdicts need scipy; install it with pip install 'ministeer[reproduce]'") from error
    return special
