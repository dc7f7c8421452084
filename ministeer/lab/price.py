"""What steering moves and what it costs, dose by dose: the laws that both follow, and how far.

Wolf et al. 2024 (arXiv 2401.16332) predict that behaviour grows in proportion to a vector's norm and that helpfulness falls with its square. Of a
dose small enough any smooth effect does so, Taylor says; what is to be measured is whether usual doses are small enough, and where that ends.

Letters: N pairs of statements, T texts, C doses above 0, in growing order, as shares of the stream's norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministeer.lab import behaviours
from ministeer.lab.tradeoff import at
from ministeer.metrics import Array
from ministeer.model import Transformer
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
DOSES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
PAIRS = 20  # held-out pairs of a behaviour
SMALL = 4  # of the doses, whose exponents are asked for: up to a fifth of the norm
OFF = 0.25  # share of what a law foretells, from which on it does not hold


def moved(
    model: Transformer, tokenizer: Tokenizer, *, vector: SteeringVector, layer: int, pairs: Sequence[behaviours.Pair]
) -> list[Row]:
    """`{"dose", "effects"}` for `Experiment.cell`: half of what log p(matching) - log p(other) of each pair is more with the vector than with it taken
    away, (N,), nats. vector: a tenth of the stream's norm long, as `behaviours.tenth` makes it."""
    ids = [[behaviours.statement(tokenizer, text) for text in pair] for pair in pairs]
    doses = {str(dose): vector * (10 * dose) for dose in DOSES}
    by_statement = behaviours.slopes(model, behaviours.opening(tokenizer), ids, doses, [layer])[:, 0]  # (C, N, 2)
    effects = behaviours.pairs_of(by_statement)
    return [{"dose": d, "effects": some.round(5).tolist()} for d, some in zip(DOSES, effects, strict=True)]


def coefficients() -> list[float]:
    """Those that `answers.disturbance` is to be asked for: none, then each dose with the vector and against it, in tenths of the norm."""
    return [0.0, *(sign * 10 * dose for dose in DOSES for sign in (1, -1))]


def rises(perplexities: Sequence[Sequence[float]]) -> Array:
    """By how much the loss of T texts rises at each dose, mean with the vector and against it, (C,), nats a token; of perplexities (T, 1 + 2 C)
    at `coefficients`. What a vector does one way and undoes the other, as texts are likelier for one persona, falls out of that mean."""
    loss = np.log(np.asarray(perplexities, dtype=np.float64)).mean(0)
    found: Array = loss[1:].reshape(-1, 2).mean(1) - loss[0]
    return found


def exponent(values: Sequence[float] | Array, doses: Sequence[float] = DOSES) -> float:
    """k of value = a dose^k: the slope of their logarithms by least squares. 0 where a value is not above 0, as no power tells that."""
    x, y = np.log(np.asarray(doses, dtype=np.float64)), np.asarray(values, dtype=np.float64)
    return float(np.polyfit(x, np.log(y), 1)[0]) if bool((y > 0).all()) else 0.0


def holds_to(values: Sequence[float] | Array, power: float, doses: Sequence[float] = DOSES) -> float:
    """The largest dose up to which no value is further than `OFF` from what the smallest foretells by that power."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.asarray(values, dtype=np.float64) / values[0] / (np.asarray(doses) / doses[0]) ** power
    wrong = np.flatnonzero(~(np.abs(ratios - 1) <= OFF))
    return float(doses[-1] if not len(wrong) else doses[max(int(wrong[0]) - 1, 0)])


def affordable(
    effects: Sequence[float] | Array, costs: Sequence[float] | Array, budget: float, doses: Sequence[float] = DOSES
) -> tuple[float, float]:
    """The dose that costs the budget, and what it moves there, straight lines between doses; nan where none costs so much."""
    if max(costs) < budget:
        return math.nan, math.nan
    grid = [0.0, *costs]
    return float(at(grid, [0.0, *doses], budget)), float(at(grid, [0.0, *effects], budget))
