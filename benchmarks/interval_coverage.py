"""How often the intervals of the claims miss: on made-up items whose true mean is known, at 95 % and at the level of the verdicts.

    python benchmarks/interval_coverage.py     (half a minute on one core; prints tables, writes nothing)

Each cell is the share of samples whose interval lies wholly above the true mean / wholly below it; nominal is half of what the level leaves.
A group has one to five items that depend on each other. Compared: Student's t over groups; percentiles of a bootstrap, as far out as Student's
t asks for (`metrics.bootstrap`); the studentised bootstrap, never further in than Student's t; and `intervals.mean`, which verdicts take.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from scipy import special

from ministeer.lab import intervals
from ministeer.lab.claims import LEVEL

SIZES, SAMPLES, DRAWS = (12, 20, 42, 60), 4000, 4000


def normal(rng, n):
    return rng.normal(1.0, 0.7, (n, 1)) + rng.normal(0.0, 0.7, (n, 5)), 1.0


def lognormal(rng, n, sigma=1.0):
    """Of single items, a skewness of 6.2."""
    return np.exp(sigma * (rng.normal(0, 0.5**0.5, (n, 1)) + rng.normal(0, 0.5**0.5, (n, 5)))), np.exp(sigma**2 / 2)


def mild(rng, n):
    """Of single items, a skewness of 1.75."""
    return lognormal(rng, n, 0.5)


def switches(rng, n):
    """A fifth of the items moves by one, the others hardly; groups agree more often than not."""
    return (rng.random((n, 5)) < rng.beta(0.4, 1.6, (n, 1))) + rng.normal(0, 0.03, (n, 5)), 0.2


def heavy(rng, n):
    """Student's t with three degrees of freedom."""
    return rng.standard_t(3, (n, 1)) + np.zeros((n, 5)), 0.0


KINDS = (normal, mild, lognormal, switches, heavy)


def groups(kind, size, samples=SAMPLES, seed=0):
    """Means of groups, `(samples, size)`, and the true mean."""
    rng = np.random.default_rng([seed, size])
    items, mean = kind(rng, samples * size)
    counted = np.arange(5) < rng.integers(1, 6, (samples * size, 1))
    return ((items * counted).sum(1) / counted.sum(1)).reshape(samples, size), mean


def chosen(x, level):
    return np.array([intervals.mean(intervals.Items(row[None]), level)[1:] for row in x]).T


def others(x, level):
    """By name, the bounds of the three others, each `(2, samples)`."""
    n, mean, error = x.shape[1], x.mean(1), x.std(1, ddof=1) / x.shape[1] ** 0.5
    t = special.stdtrit(n - 1, (1 + level) / 2)
    picks = (
        np.random.default_rng(1).multinomial(n, [1 / n] * n, DRAWS).astype(np.float32).T / n
    )  # of every sample the same
    tail = NormalDist().cdf(-t * (n / (n - 1)) ** 0.5)
    means, studentised = [], []
    for some in np.array_split((x - mean[:, None]) / error[:, None], len(x) // 200):
        drawn = some.astype(np.float32) @ picks  # (some, draws), in standard errors
        spread = np.sqrt(np.maximum((some**2).astype(np.float32) @ picks - drawn**2, 0) / (n - 1))
        ratio = np.where(spread > 1e-6, drawn / np.maximum(spread, 1e-6), np.sign(drawn) * 1e6)
        means.append(np.quantile(drawn, [tail, 1 - tail], axis=1))
        studentised.append(np.quantile(ratio, [(1 - level) / 2, (1 + level) / 2], axis=1))
    means, studentised = (np.concatenate(found, 1) for found in (means, studentised))
    studentised = np.stack([np.minimum(studentised[0], -t), np.maximum(studentised[1], t)])
    return {
        "Student's t": mean + error * np.array([[-t], [t]]),
        "percentiles": mean + error * means,
        "studentised": mean - error * studentised[::-1],
    }


def misses(bounds, mean):
    low, high = bounds
    return f"{(low > mean).mean():.4f} / {(high < mean).mean():.4f}"


def seeds(level, size, ratio, samples=2000, count=3):
    """Misses of three seeds' interval, where the variance of the seeds' mean is `ratio` times that of the items'."""
    rng, found = np.random.default_rng(size), []
    for _ in range(samples):
        x = (
            rng.normal(0, 1, size)
            + rng.normal(0, 0.5, (count, size))
            + rng.normal(0, (ratio * count / size) ** 0.5, (count, 1))
        )
        found.append(intervals.effect([intervals.Items(x)], level, "mean")[1:])
    return misses(np.array(found).T, 0.0)


if __name__ == "__main__":
    for level in (0.95, LEVEL):
        print(
            f"\nLevel {level:.4f}, {(1 - level) / 2:.4f} nominal on each side\n\nitems | groups | chosen | Student's t | percentiles | studentised"
        )
        for kind in KINDS:
            for size in SIZES:
                x, mean = groups(kind, size)
                cells = [misses(bounds, mean) for bounds in (chosen(x, level), *others(x, level).values())]
                print(f"{kind.__name__} | {size} | {' | '.join(cells)}", flush=True)
        print("\nthree seeds, normal items: variance between seeds, of that of items | groups | chosen")
        for ratio in (0, 0.3, 1, 3):
            for size in (20, 60):
                print(f"{ratio} | {size} | {seeds(level, size, ratio)}", flush=True)
