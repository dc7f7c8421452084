"""Verdicts: a planted effect is found, none is not, and what is unclear is called so."""

from pathlib import Path

import numpy as np
import pytest

from ministeer.lab.claims import CLAIMS, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Claim, judge
from ministeer.metrics import bootstrap, difference

CLAIM = Claim("x", "01_x", "X works", "effect of x", "nats", 0.5)


def values(mean: float, n: int = 60, seed: int = 0) -> dict[str, list[float]]:
    drawn = np.random.default_rng(seed).normal(0, 0.3, n)
    return {"values": (drawn - drawn.mean() + mean).tolist()}


@pytest.mark.parametrize(
    ("mean", "word"),
    [(1.0, SUPPORTED), (0.0, NOT_SUPPORTED), (-3.0, NOT_SUPPORTED), (0.55, INCONCLUSIVE), (0.45, INCONCLUSIVE)],
)
def test_the_whole_interval_decides(mean: float, word: str) -> None:
    assert judge(CLAIM, {"0": values(mean)}).word == word


def test_an_effect_of_exactly_nothing_is_not_supported_at_a_threshold_of_nothing() -> None:
    """What deleting a vector makes of a claim."""
    claim = Claim("x", "01_x", "X works", "effect of x", "nats", 0.0)
    assert judge(claim, {"0": {"values": [0.0] * 20}}).word == NOT_SUPPORTED


def test_seeds_that_disagree_are_inconclusive() -> None:
    agree = judge(CLAIM, {"0": values(1.0), "1": values(1.2)})
    assert agree.word == SUPPORTED
    assert agree.effect[0] == pytest.approx(1.0)
    assert judge(CLAIM, {"0": values(1.0), "1": values(0.0)}).word == INCONCLUSIVE
    assert judge(CLAIM, {"0": values(1.0), "1": values(0.55)}).word == INCONCLUSIVE


def test_the_interval_is_wider_for_there_are_many_claims() -> None:
    _, low, high = judge(CLAIM, {"0": values(1.0)}).effect
    _, one_low, one_high = bootstrap(values(1.0)["values"], seed=0)
    assert low < one_low < one_high < high


def test_items_of_a_group_count_once() -> None:
    clear = {"values": [1.0] * 30 + [-1.0] * 30, "groups": [0] * 30 + list(range(1, 31))}
    assert judge(CLAIM, {"0": clear}).effect[0] == pytest.approx((1 - 30) / 31)


def test_two_sets_of_items_are_compared() -> None:
    evidence = values(1.0, seed=1) | {f"minus{k}": v for k, v in (("", values(0.2, 25, seed=2)["values"]),)}
    found = judge(Claim("x", "01_x", "", "", "", 0.3), {"0": evidence})
    assert found.effect[0] == pytest.approx(0.8)
    assert found.word == SUPPORTED


def test_the_interval_of_a_difference_holds_the_truth() -> None:
    """95 in 100 of the time, for unequal numbers of items."""
    rng, inside = np.random.default_rng(3), 0
    for trial in range(400):
        a, b = rng.normal(1.0, 1.0, 30), rng.normal(0.4, 2.0, 50)
        _, low, high = difference(bootstrap(a, seed=trial), bootstrap(b, seed=trial))
        inside += low <= 0.6 <= high
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize(("value", "other"), [(0.0, 0.1), (1.0, 0.9)])
def test_none_of_few_items_is_not_none_of_all(value: float, other: float) -> None:
    share = Claim("x", "01_x", "", "", "share of items", other)
    few, many = ({"0": {"values": [value] * n}} for n in (20, 400))
    assert judge(share, few).word == INCONCLUSIVE
    assert judge(share, many).word == (SUPPORTED if value else NOT_SUPPORTED)
    _, low, high = judge(share, {"0": {"values": [value] * 20, "groups": [i // 2 for i in range(20)]}}).effect
    assert high - low == pytest.approx(1 - 0.0025 ** (1 / 10))  # ten groups


def test_no_evidence_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="expected evidence for 'x', got none"):
        judge(CLAIM, {})


def test_every_claim_names_an_experiment_that_saves_evidence_for_it() -> None:
    examples = Path(__file__).parents[2] / "examples"
    for claim in CLAIMS:
        source = (examples / f"{claim.experiment}.py").read_text("utf-8")
        assert f'"{claim.key}"' in source, claim
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
