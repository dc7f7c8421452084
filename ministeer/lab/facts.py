"""Facts, and whatever else a vector should leave as it is: what steering for fairness or for a value costs.

Letters: C coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ministeer.lab import data, pronouns
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item
from ministeer.metrics import Array
from ministeer.vectors import SteeringVector


def prompts() -> list[Item]:
    """The facts as prompts, the true word first among four, and the relation that each is of."""
    words = ("right", "wrong1", "wrong2", "wrong3")
    return [
        {"prompt": row["prompt"], "words": [f" {row[k]}" for k in words], "relation": row["relation"]}
        for row in data.read("facts.tsv")
    ]


def probabilities(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    gate: dict[str, Any] | None = None,
) -> Array:
    """The probability of each fact's four words among themselves, the true one first, (facts, C, 4)."""
    p = np.exp(pronouns.probed(lab, items, vector, layer, coefficients, gate=gate))
    shares: Array = p / p.sum(-1, keepdims=True)
    return shares


def costs(
    lab: Experiment,
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    *,
    jobs: Sequence[str],
    nouns: dict[str, str],
    facts: Sequence[Item],
    gate: dict[str, Any] | None = None,
) -> dict[str, Array]:
    """What a vector does in held-out templates to pronouns of occupations ("gap", from one half) and of {noun: gender} ("pronoun", the
    probability of the right one), and to facts ("truth", the probability of the true word; "first", whether it is the likeliest): each (items, C)."""
    items = [pronouns.prompts(list(some), "heldout") for some in (jobs, nouns)]
    he, noun_he = (pronouns.probabilities(lab, some, vector, layer, coefficients, gate=gate)[0] for some in items)
    p = probabilities(lab, facts, vector, layer, coefficients, gate)  # (facts, C, 4)
    first = (p[..., 0] >= p.max(-1)).astype(float)
    return {
        "gap": pronouns.gap(he, jobs),
        "pronoun": pronouns.right(noun_he, nouns),
        "truth": p[..., 0],
        "first": first,
    }
