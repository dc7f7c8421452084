"""Intervals hold the truth about as often as they say, over items, groups of items and seeds; shares have one rule for all counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ministeer.lab import intervals
from ministeer.lab.claims import LEVEL
from ministeer.lab.intervals import Items

special = pytest.importorskip("scipy.special")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import interval_coverage as coverage


def held(kind: object, size: int, level: float, samples: int = 2000) -> float:
    x, mean = coverage.groups(kind, size, samples)
    low, high = coverage.chosen(x, level)
    return float(((low <= mean) & (mean <= high)).mean())


@pytest.mark.parametrize("size", coverage.SIZES)
@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (coverage.normal, 0.93, 0.97),
        (coverage.mild, 0.93, 0.97),
        (coverage.heavy, 0.93, 0.97),
        (coverage.switches, 0.93, 0.99),  # a few items that move by much: rather too wide
        (coverage.lognormal, 0.91, 0.97),  # a skewness of 6: no method holds of twelve
    ],
    ids=lambda of: getattr(of, "__name__", ""),
)
def test_95_in_100_intervals_hold_the_mean(kind: object, size: int, least: float, most: float) -> None:
    assert least <= held(kind, size, 0.95) <= most


@pytest.mark.parametrize(
    ("kind", "least"), [(coverage.normal, 0.994), (coverage.mild, 0.99), (coverage.lognormal, 0.978)]
)
def test_the_tails_hold_at_the_level_of_the_verdicts(kind: object, least: float) -> None:
    """0.9964. Percentiles of a bootstrap hold 0.991, 0.987 and 0.957 of twelve groups."""
    assert held(kind, 12, LEVEL) >= least


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_seeds_are_a_second_level(ratio: float) -> None:
    """Three, whose mean varies by `ratio` times what items make of it: intervals over items alone hold 0.92 and 0.85 of 0.3 and 1."""
    above, below = map(float, coverage.seeds(0.95, 20, ratio, samples=1000).split(" / "))
    assert 0.93 <= 1 - above - below <= 0.98 and max(above, below) < 0.045


def test_seeds_that_give_the_same_leave_the_interval_over_items() -> None:
    x = np.random.default_rng(0).normal(size=20)
    assert intervals.effect([Items(np.stack([x] * 3))], 0.95, "mean") == pytest.approx(
        intervals.mean(Items(x[None]), 0.95)
    )
    apart = intervals.effect([Items(np.stack([np.full(20, 1.0), np.full(20, 2.0), np.full(20, 3.0)]))], 0.95, "mean")
    assert apart == pytest.approx((2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)  # Student's t of three


def test_seeds_that_differ_by_their_items_noise_alone_widen_nothing_more_often_than_not() -> None:
    rng, wider = np.random.default_rng(0), []
    for _ in range(200):
        items = Items(rng.normal(size=(3, 40)))
        wider.append(intervals.effect([items], 0.95, "mean")[2] - intervals.mean(items, 0.95)[2])
    assert 0.3 < np.mean(np.array(wider) > 0) < 0.5


def test_a_symmetric_sample_has_students_interval_and_a_skewed_one_reaches_further() -> None:
    even = Items(np.linspace(-1, 1, 21)[None])
    _, low, high = intervals.mean(even, 0.95)
    t = special.stdtrit(20, 0.975) * np.linspace(-1, 1, 21).std(ddof=1) / 21**0.5
    assert (low, high) == pytest.approx((-t, t))
    skewed = Items(np.array([[0.0] * 18 + [1.0, 2.0, 6.0]]))
    center, low, high = intervals.mean(skewed, 0.95)
    mirrored = intervals.mean(Items(-skewed.by_seed), 0.95)
    t = special.stdtrit(20, 0.975) * skewed.by_seed.std(ddof=1) / 21**0.5
    assert high - center > 1.2 * t and center - low == pytest.approx(t)
    assert mirrored == pytest.approx((-center, -high, -low))


def test_an_interval_moves_and_scales_with_its_items() -> None:
    x = np.random.default_rng(1).lognormal(size=(1, 30))
    a, b = intervals.mean(Items(x), 0.99), intervals.mean(Items(2 * x + 5), 0.99)
    assert b == pytest.approx([2 * v + 5 for v in a])


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (7, 20), (20, 20)])
def test_a_share_has_the_interval_of_clopper_and_pearson(count: int, n: int) -> None:
    """By its definition: at each bound, so few or so many have the tail's probability."""
    x = np.zeros((1, n))
    x[:, :count] = 1
    share, low, high = intervals.share(Items(x), 0.95)
    assert share == count / n
    assert low == 0 if count == 0 else special.bdtrc(count - 1, n, low) == pytest.approx(0.025)
    assert high == 1 if count == n else special.bdtr(count, n, high) == pytest.approx(0.025)


def test_items_of_a_group_are_one_item_of_a_share() -> None:
    wordings = Items.of([[1, 1, 0, 0, 1, 0]], [["a", "a", "b", "b", "c", "c"]])
    assert wordings.by_seed.tolist() == [[1.0, 0.0, 0.5]]
    assert intervals.share(wordings, 0.95)[0] == 0.5
    low, high = intervals.share(Items.of([[1, 0] * 10], [None]), 0.95)[1:]
    inner = intervals.share(Items.of([[1, 0] * 30], [None]), 0.95)[1:]
    assert low < inner[0] < inner[1] < high
    assert intervals.share(Items.of([[1, 0] * 30], [[i // 3 for i in range(60)]]), 0.95)[1:] == pytest.approx(
        (low, high)
    )


def test_a_share_is_none_below_nothing_nor_above_all_however_seeds_differ() -> None:
    apart = Items(np.repeat([[0.0], [0.5], [1.0]], 20, axis=1))
    assert intervals.effect([apart], 0.95, "share") == (0.5, 0.0, 1.0)
    assert intervals.effect([apart, Items(np.ones((3, 20)))], 0.95, "share")[:2] == (-0.5, -1.0)


@pytest.mark.parametrize(
    ("values", "groups", "said"),
    [
        ([[1.0, float("nan")]], [None], "expected finite values, got nan or infinity"),
        ([[1.0, 2.0], [1.0, 2.0]], [["a", "b"], ["a", "c"]], "expected the same items by every seed"),
        ([[1.0, 2.0], [1.0]], [None, None], "expected the same items by every seed"),
        ([[1.0, 2.0]], [["a"]], "expected a group for each item"),
    ],
)
def test_what_is_no_evidence_is_said(values: list, groups: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Items.of(values, groups)


def test_a_rank_counts_random_vectors_that_do_as_much() -> None:
    assert [intervals.as_much(x, [0.0, 1.0, 1.0, 2.0]) for x in (-1.0, 1.0, 1.5, 3.0)] == [4, 3, 1, 0]
    with pytest.raises(ValueError, match="expected finite effects of random vectors"):
        intervals.as_much(1.0, [0.0, float("nan")])


def test_fewer_than_the_fewest_groups_have_one_sign_by_chance() -> None:
    for level in (0.5, 0.95, LEVEL, 0.9999):
        n = intervals.fewest(level)
        assert 0.5**n <= (1 - level) / 2 + 1e-12 and 0.5 ** (n - 1) > (1 - level) / 2
