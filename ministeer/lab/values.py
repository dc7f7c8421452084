"""Values: the vector of one, where it is added, and how far it moves the answers to scenarios.

Letters: C multipliers of the vector.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ministeer import extract
from ministeer.lab import data
from ministeer.lab.answers import answers, log_probabilities
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item, felt, sites
from ministeer.metrics import Array, steerability
from ministeer.vectors import SteeringVector

VALUES = ("honesty", "fairness", "kindness", "caution", "responsibility", "nonviolence")


def vector(lab: Experiment, value: str, *, seed: int, pairs: int = 32) -> SteeringVector:
    """The contrastive vector of a value at all layers, from training pairs whose context differs, drawn by the seed."""
    drawn = random.Random(seed).sample(data.context_pairs(value), pairs)
    return lab.vector(extract.contrastive, pairs=drawn, token="last", sites=sites(lab))


def layer(lab: Experiment, value: str, vector: SteeringVector) -> int:
    """Where it moves 18 training items most, from -1 to 1."""
    some = random.Random(0).sample(data.read("values.tsv", value=value, split="train"), 18)
    return max(felt(lab, vector), key=lambda i: slopes(lab, some, vector, i, (-1.0, 1.0)).mean())


def slopes(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    multipliers: Sequence[float],
    frame: str = "{p}",
) -> Array:
    """Steerability of each item of `values.tsv`, (items,), in logits per unit of the multiplier."""
    return steerability(multipliers, differences(lab, items, vector, layer, multipliers, frame))


def differences(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    multipliers: Sequence[float] = (0.0,),
    frame: str = "{p}",
) -> Array:
    """Log-probability of each item's positive answer minus that of its negative one, (items, C); frame: the text around its prompt."""
    asked = [
        {"prompt": frame.replace("{p}", item["prompt"]), "words": [item["positive"], item["negative"]]}
        for item in items
    ]
    steered = {} if vector is None else {"vectors": {"vector": vector}, "layers": [layer]}
    rows = lab.cell(answers, items=asked, coefficients=list(multipliers), **steered)
    found: Array = log_probabilities(rows)[:, 0, 0] @ [1.0, -1.0]
    return found
