"""The paper's claims, and some that go beyond it, as tests, and what the measurements say of each.

An experiment saves evidence for a claim: values of single items, whose mean or share is the effect. The claim says of what, and which number
it must exceed. Claims and rules are fixed before a model is measured; `frozen` is their hash, which the report prints and a test keeps.
Intervals hold for all claims together (Bonferroni): each is at 1 - 0.05 / number of claims.

`ministeer.lab.intervals` says how items, groups of items, seeds of extraction and random vectors enter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ministeer.lab.intervals import Interval, Items, as_much, effect, fewest
from ministeer.model import expect

# one extraction's evidence: {"values": [...], "groups": [... of items that depend on each other]}, and where there are such "minus" and
# "minus_groups" of a second set of items whose effect is subtracted, "controls": the effect's mean with each random vector in the tested
# one's place, "void": why nothing can be told
Evidence = Mapping[str, Any]
SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, CANNOT = "supported", "not supported", "inconclusive", "cannot be told here"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the effect that stands for it, and the number that the effect must exceed."""

    key: str
    experiment: str
    sentence: str
    effect: str  # what one item's value is, and of which items
    unit: str
    above: float
    kind: Literal["mean", "share"] = "mean"  # of numbers, or of items that do something: values from 0 to 1
    ranked: bool = False  # whether it is supported only by a vector that was ranked among random ones


NATS, SHARE, PROBABILITY = "nats per tenth of the stream's norm", "share of items", "probability"
CLAIMS = (
    Claim(
        "values", "06_value_steering", "Value steering works on plain prompts",
        "steerability by the value's vector, less the mean of that by random vectors with the stream's covariance; held-out plain items",
        NATS, 0.25, ranked=True,
    ),
    Claim(
        "values_specific", "06_value_steering", "A value's vector steers its own value, not only towards the pleasant",
        "steerability by the value's vector, less the larger of that by the other values' vectors, on average, and by the valence vector, all at an equal share of the stream; held-out items",
        NATS, 0.1,
    ),
    Claim(
        "structure_own", "04_prompt_structure", "Antonym vectors work in the structure they were taken from",
        "log p(opposite) with the structure's own vector, less the larger of that without one and the mean of that with random ones; held-out pairs",
        "nats", 0.5, ranked=True,
    ),
    Claim(
        "structure_other", "04_prompt_structure", "The effect falls with another structure",
        "log p(opposite) with the structure's own vector, less that with those of other structures; held-out pairs",
        "nats", 0.25,
    ),
    *(
        Claim(
            f"complexity_{kind}", "05_context_complexity", sentence,
            "what the vector adds to log p(opposite) at the lowest level less at the highest, less the same of five demonstrations; held-out pairs",
            "nats", 0.25,
        )
        for kind, sentence in {
            "distractors": "Distracting sentences take more of the vector's effect than of the model's own ability",
            "clauses": "... clauses in clauses do",
            "negation": "... negations do",
            "contradiction": "... sentences that ask for the same word do",
            "interleaved": "... pairs of another task in between do",
        }.items()
    ),
    Claim(
        "bias_added", "07_demographic_bias", "A fairness vector reduces demographic bias",
        "fall of an occupation's distance of he against she from the mean occupation, by the fairness vector at the layer and dose that bring training prompts of one half nearest together, less by random vectors at that layer, each at its own best dose; the other half of the occupations",
        "share of the unsteered spread", 0.1, ranked=True,
    ),
    Claim(
        "bias_erased", "07_demographic_bias", "Erasing the direction of gender reduces demographic bias",
        "the same by projecting the direction of gender out, less by projecting random vectors out",
        "share of the unsteered spread", 0.1, ranked=True,
    ),
    Claim(
        "truth", "08_facts_and_overcorrection", "Truth is damaged where bias is reduced",
        "probability of the true word among its alternatives, lost by whichever of the two removes more, at the dose of its claim, less what random ones lose at that dose; facts",
        PROBABILITY, 0.02, ranked=True,
    ),
    Claim(
        "overcorrection", "08_facts_and_overcorrection", "Overcorrection: nouns whose meaning fixes the pronoun lose it too",
        "probability of the right pronoun, lost likewise, less what random ones lose; definitional nouns that the direction was not made from",
        PROBABILITY, 0.02, ranked=True,
    ),
    Claim(
        "inconsistent", "06_value_steering", "Effects are inconsistent across items",
        "items that the value's vector moves the wrong way; held-out items of all levels",
        SHARE, 0.1, "share",
    ),
    Claim(
        "inconsistent_complex", "06_value_steering", "... and more so in complex scenarios",
        "that share among complex items less that among plain ones",
        SHARE, 0.05, "share",
    ),
    Claim(
        "gating", "09_gated_steering", "Gating helps",
        "right pronoun's probability kept by the gated vector, less that kept by the ungated one where it removes as much bias; definitional nouns",
        PROBABILITY, 0.02,
    ),
    Claim(
        "chat", "06_value_steering", "The effect survives the chat template",
        "steerability inside the chat template, less half of that in plain text; held-out items",
        NATS, 0.0,
    ),
    Claim(
        "prompting", "06_value_steering", "Steering does more than saying it in the prompt, for the same disturbance",
        "shift by the value's vector at the dose that changes unrelated text as much as saying it does (KL), less the shift by saying it, in whichever of several sentences moves training scenarios most; held-out items",
        "nats", 0.0,
    ),
    Claim(
        "open_text", "01_activation_addition", "Steering shows in open text",
        "sampled texts that a word list calls pleasant, with the vector added less with it subtracted",
        "share of texts", 0.1, "share",
    ),
)  # fmt: skip

# What the paper leaves to others, of public behaviours: an item is a behaviour, the first set of its family. Judged by the same rules, at the
# level of the paper's claims, which is stricter than their number asks for.
BEYOND = (
    Claim(
        "price_linear", "13_price_of_steering", "What steering moves grows in proportion to the dose",
        "a quarter less the exponent's distance from 1: log of what half the difference of the odds with the vector and against it is, against log dose, from a fortieth to a fifth of the stream's norm; behaviours",
        "of an exponent", 0.0,
    ),
    Claim(
        "price_quadratic", "13_price_of_steering", "What it costs grows with the dose's square",
        "half less the exponent's distance from 2: log of what unrelated text's loss rises by, the mean with the vector and against it, against log dose, over the same doses; behaviours",
        "of an exponent", 0.0,
    ),
    Claim(
        "words_undo", "14_undone_by_words", "Words of the opposite persona undo a vector",
        "odds of the steered model behind 16 neutral sentences less behind 16 of the opposite persona, less a tenth's own slope there; behaviours",
        "nats", 0.0,
    ),
    Claim(
        "words_added", "14_undone_by_words", "Behind them the vector still does half as much",
        "the vector's slope behind 16 sentences of the opposite persona, less half of that behind 16 neutral ones; behaviours",
        NATS, 0.0,
    ),
    Claim(
        "private_useful", "15_private_steering", "A private vector keeps half of the effect",
        "slope by the private mean at epsilon 0.9 and delta 1e-5, less half of that by the plain mean; behaviours",
        NATS, 0.0,
    ),
    Claim(
        "members_told", "15_private_steering", "A plain mean tells who was in it",
        "best attack's true less false positive rate, of members and others half and half; behaviours",
        "advantage", 0.1,
    ),
    Claim(
        "long_kept", "16_long_context", "Behind 2,000 tokens of other text a vector does at least half as much",
        "slope behind 2,000 tokens less half of that behind none, the vector a tenth of the stream's norm in short prompts; behaviours",
        NATS, 0.0,
    ),
)  # fmt: skip

LEVEL = 1 - 0.05 / len(CLAIMS)
TOP = 0.01  # a supported effect's rank among random vectors is in this part, (1 + those that do as much) / (their number + 1)
MANY = 0.05  # where more than this part of the random vectors do as much, it is not supported
# when there is nothing to tell: these decide the voids that the experiments give
RIGHT, LEARNT = 0.5, 1.0  # a model knows a task where demonstrations are right so often, or worth so many nats
FELT = 0.5  # nats that a vector must be worth, for it to mean anything that this falls
MOVES = (
    0.1  # nats a tenth that vectors must move items by on average, for it to mean anything that some go the wrong way
)
METHOD = "means: Student's t over groups, skewed by Hall; shares: Clopper and Pearson over groups; seeds: Satterthwaite"
FEWEST = fewest(LEVEL)  # groups of items, below which nothing is told of a mean


def frozen(claims: Sequence[Claim] | None = None) -> str:
    """SHA-256 of what decides verdicts: the claims, by default the paper's, the method of the intervals by name, and the constants of the rules."""
    rules: dict[str, Any] = {"method": METHOD, "level": LEVEL, "top": TOP, "many": MANY, "fewest": FEWEST}
    rules |= {"right": RIGHT, "learnt": LEARNT, "felt": FELT, "moves": MOVES}
    rules["claims"] = [asdict(claim) for claim in (CLAIMS if claims is None else claims)]
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of a claim: a word, why, and the effect with its interval.

    effects: (effect, low, high) over items and seeds of extraction together first, then, of several seeds, each alone, over items.
    """

    claim: Claim
    word: str
    effects: dict[str, Interval]
    reason: str = ""  # one sentence

    @property
    def effect(self) -> Interval:
        """(effect, low, high) over items and seeds; three times nan where nothing was measured."""
        return next(iter(self.effects.values()), (math.nan, math.nan, math.nan))

    @property
    def seeds(self) -> dict[str, Interval]:
        """(effect, low, high) of each seed alone, over items."""
        return dict(list(self.effects.items())[len(self.effects) > 1 :])

    @property
    def excluded(self) -> str:
        """Which effects the interval excludes, whatever the verdict; empty where nothing was measured."""
        _, low, high = self.effect
        return f"below {low:.3g} and above {high:.3g} {self.claim.unit}" if self.effects else ""


def evidence(
    values: Mapping[int, Any],
    groups: Sequence[Any] | None = None,
    minus: Mapping[int, Any] | None = None,
    minus_groups: Sequence[Any] | None = None,
    controls: Mapping[int, Any] | Sequence[float] | None = None,
    void: str | None = None,
) -> dict[str, Evidence]:
    """For `Experiment.save`: by seed of extraction the items' values, and where given those of a second set, whose effect is subtracted.

    groups: of items that depend on each other, one for each value; every group counts as one. controls: by seed, or of all seeds, the effect
    (the mean over groups, of the same items, in the same unit) that each random vector has in the tested one's place; seeds without any are
    not ranked. void: one sentence, why nothing can be told here; values can then be empty.

    Raises `ValueError` for what is no evidence: seeds with different items, groups of another number, values that are not finite; and
    for a second set, or controls, of other seeds.
    """
    parts = {"values": values, "minus": minus or {}}
    ranked: Mapping[int, Any] = controls if isinstance(controls, Mapping) else dict.fromkeys(values, controls)
    fits = set(minus or values) == set(values) and set(ranked) <= set(values)
    expect(fits, f"what is subtracted and controls of the seeds {[*values]}", f"of {[*(minus or ())]} and {[*ranked]}")
    shared: dict[str, Any] = {
        **{name: list(of) for name, of in (("groups", groups), ("minus_groups", minus_groups)) if of is not None},
        **({"void": void} if void else {}),
    }
    found: dict[str, Evidence] = {
        f"extraction {seed}": {
            **{name: [float(x) for x in by_seed[seed]] for name, by_seed in parts.items() if by_seed},
            **({} if ranked.get(seed) is None else {"controls": [float(x) for x in ranked[seed]]}),
            **shared,
        }
        for seed in values or ([0] if void else [])
    }
    if values:
        _sets(found)  # what is no evidence is said where it is made
    return found


def judge(claim: Claim, found: Mapping[str, Evidence]) -> Verdict:
    """The verdict of evidence by seed of extraction; the interval is over items and seeds together.

    Supported: the whole interval lies above the claim's number and, where there are random vectors or the claim asks for them, the tested
    one's rank among them is in the top hundredth. Not supported: none of the interval does, or more than a twentieth of the random vectors do as much. Cannot
    be told here: the experiment says so, there are too few items for either word, or only one outcome is possible. Inconclusive: all else.

    Raises `ValueError` without evidence, for what is none, and for shares outside 0 to 1.
    """
    expect(bool(found), f"evidence for {claim.key!r}", "none")
    if void := [one["void"] for one in found.values() if one.get("void")]:
        return Verdict(claim, CANNOT, {}, void[0])
    sets = _sets(found)
    for items in sets if claim.kind == "share" else ():
        inside = bool(((items.by_seed >= 0) & (items.by_seed <= 1)).all())
        expect(inside, f"values from 0 to 1 for {claim.key!r}, a share", "others", "give what is subtracted as minus")
    if (least := min(items.groups for items in sets)) < FEWEST:
        told = f"too few items: {least} that do not depend on each other, where of fewer than {FEWEST} chance gives all one sign too often"
        return Verdict(claim, CANNOT, {}, told)
    alone = {seed: effect([items.seed(i) for items in sets], LEVEL, claim.kind) for i, seed in enumerate(found)}
    effects = alone if len(found) == 1 else {"all seeds": effect(sets, LEVEL, claim.kind), **alone}
    whole = next(iter(effects.values()))
    if told := _cannot(claim, sets, whole):
        unreached = Verdict(claim, CANNOT, effects, told)
        return replace(unreached, reason=f"{told}; excluded are effects {unreached.excluded}")
    ranks = [
        (as_much(alone[seed][0], one["controls"]), len(one["controls"])) for seed, one in found.items() if one.get("controls")
    ]  # fmt: skip
    word, told = decide(claim, whole, ranks)
    return Verdict(claim, word, effects, told)


def _sets(found: Mapping[str, Evidence]) -> list[Items]:
    """The items, and where there are some those whose effect is subtracted."""
    names = [("values", "groups"), ("minus", "minus_groups")]
    return [
        Items.of([one[name] for one in found.values()], [one.get(of) for one in found.values()])
        for name, of in names if any(name in one for one in found.values())
    ]  # fmt: skip


def _cannot(claim: Claim, sets: Sequence[Items], whole: Interval) -> str:
    """Why shares of so few items, or of items that are all the same, leave one word only; empty where they do not."""
    if claim.kind == "mean":
        return ""
    for value, name in ((0, "none does"), (1, "all do")):
        if len(sets) == 2 and all(bool((items.by_seed == value).all()) for items in sets):
            return f"only one outcome is possible: of the items of both sets {name}"
    # the furthest outcome on the effect's side: all of the first set and none of the second, or the reverse
    most = whole[0] > claim.above
    furthest = [items.all(float(most == (i == 0))) for i, items in enumerate(sets)]
    _, low, high = effect(furthest, LEVEL, claim.kind)
    if low > claim.above or high <= claim.above:
        return ""
    count = " and ".join(str(items.groups) for items in sets)
    return f"too few items: {count} that do not depend on each other, of which not even {'all' if most else 'none'} would decide"


def decide(claim: Claim, whole: Interval, ranks: Sequence[tuple[int, int]] = ()) -> tuple[str, str]:
    """A word and its reason, from the interval and, of each seed with random vectors, how many of how many do as much."""
    _, low, high = whole
    interval, above = f"the interval [{low:.3g}, {high:.3g}]", f"{claim.above:g}"
    # in the seed where the vector stands worst
    beaten, of = max(ranks, key=lambda rank: (1 + rank[0]) / (1 + rank[1]), default=(0, 0))
    controls = f"of {of} random vectors {beaten or 'none'} do{'' if beaten > 1 else 'es'} as much"
    if high <= claim.above:
        return NOT_SUPPORTED, f"{interval} lies at or below {above}"
    if ranks and all(beaten > MANY * of for beaten, of in ranks):
        return NOT_SUPPORTED, f"{controls}, more than a twentieth"
    if low <= claim.above:
        return INCONCLUSIVE, f"{interval} holds {above}"
    if claim.ranked and not ranks:
        return INCONCLUSIVE, f"{interval} lies above {above}, but the vector was not ranked among random ones"
    if ranks and (1 + beaten) / (1 + of) > TOP:
        few = ", and more are needed to rank it in the top hundredth" if 1 / (1 + of) > TOP else ""
        return INCONCLUSIVE, f"{interval} lies above {above}, but {controls}{few}"
    return SUPPORTED, f"{interval} lies above {above}" + (f" and {controls}" if ranks else "")
