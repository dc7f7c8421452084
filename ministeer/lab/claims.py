"""The paper's claims as tests, and what the measurements say of each.

An experiment saves evidence for a claim: values of single items, whose mean is the effect. The claim says what that mean is of,
and what it must exceed. The intervals hold for all claims together (Bonferroni): each is at 1 - 0.05 / number of claims.

The numbers to exceed were fixed before the first run of nano, but for that of "values", from 0 to 0.01, so that rounding is no
effect. Changed after it, before nano was trained from other seeds: "truth", "overcorrection" and "bias" are beyond what random
vectors do; "complexity" is beyond the word alone; items that depend on each other are grouped; a share of 0 or 1 has the
interval of Clopper and Pearson. Only the verdicts of the inconsistent items changed with it. Changed after that: "bias", "truth"
and "overcorrection" have 20 random vectors in place of three, whose spread is part of the interval;
the two other trainings were made again and measured so, and what they say of "overcorrection" changed places: inconclusive and not
supported, where it was not supported and inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ministeer.metrics import bootstrap, difference

# one extraction's evidence: {"values": [...], "groups": [... of items that depend on each other]}, and where the effect is a
# difference of two sets of items "minus" and "minus_groups" for the second
Evidence = Mapping[str, Sequence[Any]]
SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the effect that stands for it, and the number that the effect must exceed."""

    key: str
    experiment: str
    sentence: str
    effect: str  # what one item's value is, and of which items
    unit: str
    above: float


CLAIMS = (
    Claim(
        "values", "06_value_steering", "Value steering works on plain prompts",
        "steerability by the value's vector, less the mean of that by random vectors of its norm; held-out plain statements",
        "logits per unit of the multiplier", 0.01,
    ),
    Claim(
        "structure_own", "04_prompt_structure", "Antonym vectors work in the structure they were taken from",
        "answered with the opposite with the structure's own vector, less the same with a random one; held-out pairs",
        "share of answers", 0.2,
    ),
    Claim(
        "structure_other", "04_prompt_structure", "The effect falls with another structure",
        "answered with the opposite with the structure's own vector, less the same with those of other structures; held-out pairs",
        "share of answers", 0.1,
    ),
    Claim(
        "complexity", "05_context_complexity", "The effect falls with context complexity",
        "answered with the opposite with the vector beyond the word alone, at the lowest level less at the highest, mean of five kinds of context (two of them competing tasks); held-out pairs",
        "share of answers", 0.1,
    ),
    Claim(
        "bias", "07_demographic_bias", "Steering reduces demographic bias",
        "distance of p(he) from one half, by random vectors of equal norm less by the fairness vector, at its best coefficient; occupations",
        "probability", 0.05,
    ),
    Claim(
        "truth", "08_facts_and_overcorrection", "Truth is damaged at the coefficient that reduces bias",
        "probability of the true word among its alternatives, lost by that vector at that coefficient less what random ones of its norm lose; facts",
        "probability", 0.02,
    ),
    Claim(
        "overcorrection", "08_facts_and_overcorrection", "Overcorrection: nouns whose meaning fixes the pronoun lose it too",
        "probability of the right pronoun, lost by that vector at that coefficient less what random ones of its norm lose; definitional nouns",
        "probability", 0.02,
    ),
    Claim(
        "inconsistent", "06_value_steering", "Effects are inconsistent across items",
        "share of held-out items, of all levels, that the value's vector moves the wrong way",
        "share of items", 0.1,
    ),
    Claim(
        "inconsistent_complex", "06_value_steering", "... and more so in complex scenarios",
        "that share among complex scenarios less that among plain statements",
        "share of items", 0.0,
    ),
    Claim(
        "gating", "09_gated_steering", "Gating helps",
        "what the gate saves of the right pronoun's probability, less what it gives up of the bias removed",
        "probability", 0.02,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of a claim: a word, and the effect with its interval by seed (of extraction, of training)."""

    claim: Claim
    word: str
    effects: dict[str, tuple[float, float, float]]

    @property
    def effect(self) -> tuple[float, float, float]:
        """(mean, low, high) of the first seed."""
        return next(iter(self.effects.values()))


def evidence(
    values: Mapping[int, Any],
    groups: Sequence[Any] | None = None,
    minus: Mapping[int, Any] | None = None,
    minus_groups: Sequence[Any] | None = None,
) -> dict[str, Evidence]:
    """For `Experiment.save`: the items' values by seed of extraction, and where given those of a second set, whose mean is subtracted.

    The second set can have mean 0, and its spread only: how far each random vector is from the mean of all, which `values` are beyond.
    """
    parts = {"values": values, "minus": minus or {}}
    shared = {"groups": groups, "minus_groups": minus_groups}
    return {
        f"extraction {seed}": {
            **{name: [float(x) for x in by_seed[seed]] for name, by_seed in parts.items() if by_seed},
            **{name: list(of) for name, of in shared.items() if of is not None},
        }
        for seed in values
    }


def judge(claim: Claim, found: Mapping[str, Evidence]) -> Verdict:
    """The verdict of evidence by seed: supported where the whole interval lies above the claim's number, not supported where
    none of it does, inconclusive where it holds the number, or where seeds disagree.

    Raises `ValueError` without evidence.
    """
    if not found:
        raise ValueError(f"expected evidence for {claim.key!r}, got none")
    effects = {seed: _interval(one, claim.unit == "share of items") for seed, one in found.items()}
    return Verdict(claim, word(claim, effects.values()), effects)


def word(claim: Claim, intervals: Iterable[tuple[float, float, float]]) -> str:
    """The verdict of one seed's interval, (mean, low, high), or of several seeds'."""
    words = {
        SUPPORTED if low > claim.above else NOT_SUPPORTED if high <= claim.above else INCONCLUSIVE
        for _, low, high in intervals
    }
    return words.pop() if len(words) == 1 else INCONCLUSIVE


def _interval(one: Evidence, share: bool) -> tuple[float, float, float]:
    level = 1 - 0.05 / len(CLAIMS)

    def of(values: Sequence[float], groups: Sequence[Any] | None) -> tuple[float, float, float]:
        if share and len(set(values)) == 1 and values[0] in (0, 1):
            n = len(values) if groups is None else len(set(groups))
            reach = 1 - ((1 - level) / 2) ** (
                1 / n
            )  # none, or all, of n: a bootstrap has no width (Clopper and Pearson 1934)
            return (0.0, 0.0, reach) if values[0] == 0 else (1.0, 1 - reach, 1.0)
        return bootstrap(values, seed=0, groups=groups, level=level, draws=20_000)

    first = of(one["values"], one.get("groups"))
    return difference(first, of(one["minus"], one.get("minus_groups"))) if "minus" in one else first
