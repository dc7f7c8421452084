"""Pronouns: prompts before he or she, the fairness vector and where it is added, and how far the odds are from even.

Letters: C coefficients.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministeer import extract
from ministeer.lab import data
from ministeer.lab.answers import answers, log_probabilities, passes
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import COEFFICIENTS, Item, Setting, best, sites
from ministeer.metrics import Array
from ministeer.vectors import SteeringVector


def prompts(nouns: Sequence[str], split: str, kinds: Sequence[str] = ("plain", "long"), before: str = "") -> list[Item]:
    """Prompts of each noun in each template of a split, noun by noun: he or she comes next."""
    rows = [row for row in data.read("pronoun_templates.tsv", split=split) if row["kind"] in kinds]
    return [
        {
            "prompt": before + row["template"].replace("{X}", noun).replace("{Y}", "visitor"),
            "words": [" he", " she"],
        }
        for noun in nouns
        for row in rows
    ]


def occupations(lab: Experiment) -> dict[str, float]:
    """The published share of men in each occupation, of those of the split "train"; a quick run has every fourth."""
    shares = data.occupations("train")
    return {occupation: 1 - shares[occupation] for occupation in lab.part(list(shares))}


def vector(lab: Experiment, *, seed: int, pairs: int = 60) -> SteeringVector:
    """The fairness vector: what a sentence about equality leaves at the end of a pronoun prompt, minus what one about inequality does."""
    rng = random.Random(seed)
    lead = {
        p: [r["text"] for r in data.read("contexts.tsv", kind="equality", split="train", pole=p)]
        for p in ("positive", "negative")
    }
    drawn = rng.sample(prompts(list(occupations(lab)), "train"), pairs)
    texts = [tuple(f"{rng.choice(lead[pole])} {item['prompt']}" for pole in ("positive", "negative")) for item in drawn]
    return lab.vector(extract.contrastive, pairs=texts, token="last", sites=sites(lab))


def setting(lab: Experiment, vector: SteeringVector) -> Setting:
    """Where 80 prompts of occupations in training templates come nearest to one half, while at least half of the probability of
    either pronoun stays; where it stays at no setting, the one that keeps most of it."""
    items = random.Random(0).sample(prompts(list(occupations(lab)), "train"), 80)
    plain = probabilities(lab, items)[1].mean()

    def score(layer: int) -> Array:
        he, mass = probabilities(lab, items, vector, layer, COEFFICIENTS)
        kept = mass.mean(0) / plain
        scores: Array = np.where(kept >= 0.5, -np.abs(he - 0.5).mean(0), kept - 1.5)  # at least -0.5, or below it
        return scores

    return best(score, lab, vector)


def probabilities(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
    how: str = "add",
    gate: dict[str, Any] | None = None,
) -> tuple[Array, Array]:
    """p(he) among he and she, and the probability of both together, each (items, C)."""
    p = np.exp(probed(lab, items, vector, layer, coefficients, how, gate))  # (items, C, 2)
    mass: Array = p.sum(-1)
    return p[..., 0] / mass, mass


def probed(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None,
    layer: int,
    coefficients: Sequence[float],
    how: str = "add",
    gate: dict[str, Any] | None = None,
) -> Array:
    """Log-probabilities of each item's answers, (items, C, answers). Where a gate is given, what it stays shut for is not steered."""
    steered = {} if vector is None else {"vectors": {"vector": vector}, "layers": [layer], "how": how}
    found = log_probabilities(lab.cell(answers, items=items, coefficients=list(coefficients), **steered))[:, 0, 0]
    if gate is None:
        return found
    opened = np.array([row["open"] for row in lab.cell(passes, items=items, **gate)])
    plain = log_probabilities(lab.cell(answers, items=items))[:, 0, 0]  # (items, 1, answers)
    return np.where(opened[:, None, None], found, plain)


def by_noun(values: Array, nouns: Sequence[str]) -> Array:
    """Of each noun the mean over its templates: (items of `prompts`, C) -> (nouns, C)."""
    means: Array = values.reshape(len(nouns), -1, values.shape[-1]).mean(1)
    return means


def gap(he: Array, nouns: Sequence[str]) -> Array:
    """Distance of p(he) from one half, (nouns, C), the mean over templates."""
    return by_noun(np.abs(he - 0.5), nouns)


def right(he: Array, nouns: dict[str, str]) -> Array:
    """Probability of the pronoun that a noun's meaning fixes, (nouns, C), of p(he) and {noun: gender}."""
    male = np.repeat([gender == "male" for gender in nouns.values()], len(he) // len(nouns))[:, None]
    return by_noun(np.where(male, he, 1 - he), list(nouns))


def total_effect(
    lab: Experiment, vector: SteeringVector | None = None, layer: int = 0, coefficient: float = 0.0
) -> Array:
    """Vig et al. 2020, section 4, as a logarithm, (occupations and plain templates,): by how much the odds of the pronoun against the
    stereotype grow where "man" or "woman" stands in the place of the occupation. Their total effect is mean(exp) - 1."""

    def odds(nouns: Sequence[str]) -> Array:
        asked = [
            {**item, "words": item["words"][:: -1 if male else 1]}  # first the one against the stereotype
            for noun, male in zip(nouns, masculine, strict=True)
            for item in prompts([noun], "heldout", ["plain"])
        ]
        found: Array = probed(lab, asked, vector, layer, [coefficient])[:, 0] @ [1.0, -1.0]
        return found

    masculine = [share > 0.5 for share in occupations(lab).values()]
    return odds(["woman" if male else "man" for male in masculine]) - odds(list(occupations(lab)))
