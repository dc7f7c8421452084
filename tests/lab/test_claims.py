"""Verdicts: a planted effect is found, none is not, what is unclear is called so, and what cannot be told says why."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ministeer.lab import claims
from ministeer.lab.claims import BEYOND, CANNOT, CLAIMS, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Claim, evidence, judge
from ministeer.metrics import bootstrap

pytest.importorskip("scipy")
CLAIM = Claim("x", "01_x", "X works", "effect of x", "nats", 0.5)
SHARE = Claim("x", "01_x", "X is inconsistent", "the wrong way", "share of items", 0.1, "share")
FURTHER = [
    NOT_SUPPORTED,
    INCONCLUSIVE,
    SUPPORTED,
]  # as the effect grows; what cannot be told stands where the unclear does


def values(mean: float, n: int = 60, seed: int = 0) -> dict[str, Any]:
    drawn = np.random.default_rng(seed).normal(0, 0.3, n)
    return {"values": (drawn - drawn.mean() + mean).tolist()}


@pytest.mark.parametrize(
    ("mean", "word"),
    [(1.0, SUPPORTED), (0.0, NOT_SUPPORTED), (-3.0, NOT_SUPPORTED), (0.55, INCONCLUSIVE), (0.45, INCONCLUSIVE)],
)
def test_the_whole_interval_decides(mean: float, word: str) -> None:
    found = judge(CLAIM, {"0": values(mean)})
    assert found.word == word
    _, low, high = found.effect
    assert f"[{low:.3g}, {high:.3g}]" in found.reason and "0.5" in found.reason
    assert f"below {low:.3g} and above {high:.3g} nats" == found.excluded


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
@pytest.mark.parametrize("n", [3, 9, 10, 40, 400])
def test_an_effect_of_exactly_nothing_supports_no_claim(claim: Claim, n: int) -> None:
    """What deleting a vector makes of evidence: zeros in every place."""
    for several in ({0: [0.0] * n}, {seed: [0.0] * n for seed in range(3)}):
        for minus in (None, several):
            for controls in (None, [0.0] * 199):
                found = judge(claim, evidence(several, minus=minus, controls=controls))
                assert found.word in (NOT_SUPPORTED, CANNOT), found


# --- seeds of extraction --------------------------------------------------------------------------------------------


def test_seeds_that_agree_are_one_interval_and_those_that_disagree_are_inconclusive() -> None:
    agree = judge(CLAIM, {"0": values(1.0), "1": values(1.02, seed=1), "2": values(0.98, seed=2)})
    assert agree.word == SUPPORTED
    assert agree.effect[0] == pytest.approx(1.0)
    assert list(agree.effects) == ["all seeds", "0", "1", "2"] and list(agree.seeds) == ["0", "1", "2"]
    assert judge(CLAIM, {"0": values(1.0), "1": values(0.0)}).word == INCONCLUSIVE
    assert judge(CLAIM, {"0": values(1.2), "1": values(0.6)}).word == INCONCLUSIVE  # each alone is above
    assert judge(CLAIM, {"0": values(1.2), "1": values(1.1), "2": values(0.6)}).word == INCONCLUSIVE


def test_a_seed_alone_is_its_own_interval() -> None:
    one = judge(CLAIM, {"0": values(1.0)})
    assert one.effects == one.seeds == {"0": one.effect}
    assert judge(CLAIM, {"0": values(1.0), "1": values(1.0)}).effect == one.effect  # the same items again say no more


def test_seeds_measure_the_same_items() -> None:
    with pytest.raises(ValueError, match="expected the same items by every seed"):
        judge(CLAIM, {"0": values(1.0), "1": values(1.0, n=50)})


# --- random vectors in the tested one's place -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "of", "word", "said"),
    [
        (0, 199, SUPPORTED, "of 199 random vectors none does as much"),
        (1, 199, SUPPORTED, "of 199 random vectors 1 does as much"),
        (2, 199, INCONCLUSIVE, "but of 199 random vectors 2 do as much"),
        (9, 199, INCONCLUSIVE, "9 do as much"),
        (5, 100, INCONCLUSIVE, "5 do as much"),
        (10, 199, NOT_SUPPORTED, "of 199 random vectors 10 do as much, more than a twentieth"),
        (0, 50, INCONCLUSIVE, "of 50 random vectors none does as much, and more are needed"),
        (50, 50, NOT_SUPPORTED, "of 50 random vectors 50 do as much"),
    ],
)
def test_what_random_vectors_do_as_well_is_no_effect_of_the_vector(better: int, of: int, word: str, said: str) -> None:
    controls = [1.0] * better + [0.99] * (of - better)
    clear = [0.9, 1.1] * 30
    found = judge(CLAIM, evidence({0: clear}, controls=controls))
    assert found.word == word and said in found.reason
    assert judge(CLAIM, evidence({0: clear})).word == SUPPORTED
    low = judge(CLAIM, evidence({0: np.array(clear) - 1}, controls=[-1.0] * 199))
    assert low.word == NOT_SUPPORTED  # above every random vector, and below the number


def test_a_claim_that_asks_for_a_rank_is_not_supported_without_one() -> None:
    ranked, clear = replace(CLAIM, ranked=True), {0: [0.9, 1.1] * 30}
    found = judge(ranked, evidence(clear))
    assert found.word == INCONCLUSIVE and "was not ranked among random ones" in found.reason
    assert judge(ranked, evidence(clear, controls=[0.0] * 199)).word == SUPPORTED
    assert judge(ranked, evidence({0: [-0.1, 0.1] * 30})).word == NOT_SUPPORTED
    assert {claim.key for claim in CLAIMS if claim.ranked} == {
        "values",
        "structure_own",
        "bias_added",
        "bias_erased",
        "truth",
        "overcorrection",
    }


def test_the_seed_that_stands_worst_among_its_random_vectors_decides() -> None:
    clear = {0: [0.9, 1.1] * 30, 1: [0.8, 1.2] * 30}
    beaten = [2.0] * 100 + [0.0] * 99
    assert judge(CLAIM, evidence(clear, controls={0: [0.0] * 199, 1: [0.0] * 199})).word == SUPPORTED
    assert judge(CLAIM, evidence(clear, controls={0: [0.0] * 199})).word == SUPPORTED  # only one was ranked
    assert judge(CLAIM, evidence(clear, controls={0: [0.0] * 199, 1: beaten})).word == INCONCLUSIVE
    assert judge(CLAIM, evidence(clear, controls=beaten)).word == NOT_SUPPORTED


# --- what cannot be told --------------------------------------------------------------------------------------------


def test_the_experiment_says_why_nothing_can_be_told() -> None:
    why = "the model does not know the task"
    for values in ({}, {0: [5.0] * 60}):
        found = judge(CLAIM, evidence(values, void=why))
        assert (found.word, found.reason, found.excluded) == (CANNOT, why, "")
        assert all(math.isnan(x) for x in found.effect)


def test_of_few_items_nothing_is_told() -> None:
    assert judge(CLAIM, {"0": values(5.0, n=claims.FEWEST)}).word == SUPPORTED
    found = judge(CLAIM, {"0": values(5.0, n=claims.FEWEST - 1)})
    assert found.word == CANNOT and found.reason.startswith(f"too few items: {claims.FEWEST - 1}")
    wordings = {"values": [5.0, 5.1] * 9, "groups": [i // 2 for i in range(18)]}
    assert judge(CLAIM, {"0": wordings}).word == CANNOT  # nine scenarios, each in two wordings
    assert 2.0**-claims.FEWEST <= (1 - claims.LEVEL) / 2 < 2.0 ** -(claims.FEWEST - 1)


def test_none_wrong_of_few_items_could_not_have_decided() -> None:
    few = judge(SHARE, {"0": {"values": [0.0] * 42}})
    assert (
        few.word == CANNOT and "42 that do not depend on each other, of which not even none would decide" in few.reason
    )
    share = 1 - ((1 - claims.LEVEL) / 2) ** (1 / 42)
    assert (
        few.effect == (0.0, 0.0, pytest.approx(share))
        and few.excluded == f"below 0 and above {share:.3g} share of items"
    )
    assert few.excluded in few.reason
    assert judge(SHARE, {"0": {"values": [0.0] * 120}}).word == NOT_SUPPORTED
    assert judge(SHARE, {"0": {"values": [1.0] * 42}}).word == SUPPORTED


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_two_shares_at_the_same_end_cannot_differ(value: float) -> None:
    same = {0: [value] * 60}
    found = judge(SHARE, evidence(same, minus=same))
    assert found.word == CANNOT and "only one outcome is possible" in found.reason and "excluded" in found.reason
    assert judge(SHARE, evidence({0: [value] * 59 + [0.5]}, minus=same)).word != CANNOT


# --- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("n", "size"), [(60, 1), (120, 1), (126, 3), (360, 2)])
def test_a_verdict_never_goes_back_as_more_items_go_wrong(n: int, size: int, seeds: int) -> None:
    """Of 126 none wrong was inconclusive and one to five not supported, when an estimate replaced the interval at 0 alone."""
    order, groups, effects, steps = np.random.default_rng(n).permutation(n), [i // size for i in range(n)], [], []
    for wrong in range(n + 1):
        items = np.zeros(n)
        items[order[:wrong]] = 1.0
        found = judge(SHARE, evidence(dict.fromkeys(range(seeds), items), groups))
        steps.append(FURTHER.index(INCONCLUSIVE if found.word == CANNOT else found.word))
        effects.append(found.effect)
    assert steps == sorted(steps) and steps[-1] == FURTHER.index(SUPPORTED)
    assert steps[0] == FURTHER.index(NOT_SUPPORTED if n // size > 60 else INCONCLUSIVE)
    assert np.all(np.diff(np.array(effects), axis=0) >= 0)


def test_a_difference_of_shares_grows_with_one_and_falls_with_the_other() -> None:
    def found(wrong: int, other: int) -> tuple[float, ...]:
        first, second = [1.0] * wrong + [0.0] * (60 - wrong), [1.0] * other + [0.0] * (50 - other)
        return judge(SHARE, evidence({0: first}, minus={0: second})).effect

    table = np.array([[found(i, j) for j in range(0, 51, 5)] for i in range(0, 61, 5)])
    assert np.all(np.diff(table, axis=0) >= 0) and np.all(np.diff(table, axis=1) <= 0)
    assert table.min() >= -1 and table.max() <= 1
    assert table[-1, 0, 0] == 1 and 0.8 < table[-1, 0, 1] < 1 and table[-1, 0, 2] == 1  # all against none


def test_shares_are_shares() -> None:
    with pytest.raises(
        ValueError, match="expected values from 0 to 1 for 'x', a share, got others; give what is subtracted"
    ):
        judge(SHARE, {"0": {"values": [-1.0, 0.0, 1.0] * 20}})


# --- the rest -------------------------------------------------------------------------------------------------------


def test_the_interval_is_wider_for_there_are_many_claims() -> None:
    _, low, high = judge(CLAIM, {"0": values(1.0)}).effect
    _, one_low, one_high = bootstrap(values(1.0)["values"], seed=0)
    assert low < one_low < one_high < high


def test_items_of_a_group_count_once() -> None:
    clear = {"values": [1.0] * 30 + [-1.0] * 30, "groups": [0] * 30 + list(range(1, 31))}
    assert judge(CLAIM, {"0": clear}).effect[0] == pytest.approx((1 - 30) / 31)


def test_two_sets_of_items_are_compared() -> None:
    both = evidence({0: values(1.0, seed=1)["values"]}, minus={0: values(0.2, 25, seed=2)["values"]})
    found = judge(Claim("x", "01_x", "", "", "", 0.3), both)
    assert found.effect[0] == pytest.approx(0.8)
    assert found.word == SUPPORTED


@pytest.mark.parametrize("other", [{"minus": {1: [0.0] * 30}}, {"controls": {0: [0.0], 3: [0.0]}}])
def test_evidence_of_other_seeds_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of the seeds \[0\]"):
        evidence({0: [1.0] * 30}, **other)


def test_no_evidence_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="expected evidence for 'x', got none"):
        judge(CLAIM, {})


def test_without_scipy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(ImportError, match=r"verdicts need scipy; install it with pip install 'ministeer\[reproduce\]'"):
        judge(CLAIM, {"0": values(1.0)})


def test_what_decides_verdicts_is_frozen() -> None:
    """A change of a claim, of a threshold or of a rule is a deliberate act: it changes this line, and is said in the changelog."""
    assert claims.frozen() == "48253e39dfe6144bdd6cae458bd79e60f0b2294c63ad9248f1528d621d3b126f"
    assert claims.frozen(BEYOND) == "f2d776e15704b90111f9bf839e2ee4eb5bc6f4909f17a4c3623b21d925401e8e"


def test_the_hash_is_of_claims_and_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {claims.frozen()}
    for name, value in (
        ("TOP", 0.02),
        ("MANY", 0.1),
        ("FEWEST", 5),
        ("LEVEL", 0.95),
        ("METHOD", ""),
        ("RIGHT", 0.4),
        ("LEARNT", 0.5),
        ("FELT", 0.1),
        ("MOVES", 0.0),
        ("CLAIMS", CLAIMS[1:]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(claims, name, value)
            hashes.add(claims.frozen())
    assert len(hashes) == 11


@pytest.mark.parametrize("claim", (*CLAIMS, *BEYOND), ids=lambda claim: claim.key)
def test_every_claim_names_an_experiment_that_saves_evidence_for_it(claim: Claim) -> None:
    root = Path(__file__).parents[2]
    script = (root / "examples" / f"{claim.experiment}.py").read_text("utf-8")
    rooms = [path for path in (root / "ministeer" / "lab").glob("*.py") if path.stem in script]  # those that it uses
    names = [f'"{claim.key}"', f'f"{claim.key.split("_")[0]}_{{kind}}"']
    sources = (script, *(path.read_text("utf-8") for path in rooms))
    assert any(name in source for source in sources for name in names)
    assert len({one.key for one in (*CLAIMS, *BEYOND)}) == len(CLAIMS) + len(BEYOND)
