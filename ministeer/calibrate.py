"""The coefficient that moves a model by a given budget: its mean KL divergence from itself on given text, or the rise in its loss there.

Letters: B texts, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from ministeer import metrics
from ministeer.activations import check_batch_size
from ministeer.model import Add, Site, Transformer, check_stream
from ministeer.prompts import pad, warn_of_padding
from ministeer.steer import Steer, resolve


class NotMonotone(UserWarning):
    """The budgeted quantity falls somewhere as the coefficient grows: several coefficients may meet the budget."""


@dataclass(frozen=True)
class Calibration:
    """The coefficient found; its divergence and damage (the rise in the texts' loss), in nats per token; and
    each coefficient that was tried, with the budgeted quantity there.

    The damage is NaN where no token follows a steered position, as with where="last": there is no loss to rise.

    To steer by it: `dataclasses.replace(steer, coeff=found.coeff)`.
    """

    coeff: float
    kl: float
    tried: list[tuple[float, float]]
    damage: float


def calibrate(
    model: Transformer,
    texts: Sequence[Sequence[int]],
    steer: Steer,
    *,
    kl: float | None = None,
    damage: float | None = None,
    tolerance: float = 0.01,
    start: float = 1.0,
    highest: float = 1e4,
    batch_size: int = 16,
) -> Calibration:
    """A coefficient at which the mean KL(unsteered || steered) is `kl` nats, by default half a nat, the smallest where the divergence only
    grows; or one at which the texts' loss is `damage` nats a token higher, their perplexity e^damage times what it was.

    The damage grows with the square of a small coefficient if the texts are unrelated to the vector: use such texts. For what vanishes with its coefficient: a vector, relative, keep_norm, substitute, rotate; not clamp. Give `highest`
    where the coefficient has a natural end: 1 for project_out, pi for rotate.

    texts: lists of ids. The mean is over the predictions at and after each text's first steered position; with
        where="front", after the injected ones. steer: its own coefficient is not used but for its sign, and a schedule as it is in a prompt.
    tolerance: how near, as a share of `kl`. start: the first coefficient tried. highest: the last one.

    The coefficient is doubled, or halved, until the budget lies between two, and that bracket is halved (on a scale of
    ratios) until it is met. Raises `ValueError` for a budget that is not reached. Warns `NotMonotone` if a larger
    coefficient tried moved the model less.
    """
    if kl is not None and damage is not None:
        raise ValueError(f"expected one budget, kl or damage, got {kl!r} and {damage!r}")
    name, which = ("kl", 0) if damage is None else ("damage", 1)
    budget = damage if damage is not None else 0.5 if kl is None else kl
    numbers = all(isinstance(number, Real) for number in (budget, tolerance, start, highest))
    if not numbers or not budget > 0 or not 0 < tolerance < 1 or not 0 < start <= highest:
        raise ValueError(
            f"expected {name} > 0, 0 < tolerance < 1 and 0 < start <= highest, got {budget!r}, {tolerance!r}, {start!r}, {highest!r}"
        )
    check_batch_size(batch_size)
    if not isinstance(steer, Steer) or len(steer.coeffs) != 1:
        got = len(steer.coeffs) if isinstance(steer, Steer) else type(steer).__name__
        raise ValueError(f"expected a Steer with one coefficient to calibrate, got {got}")
    if steer.rows is not None:
        resolve(model, steer, texts)
        steer = replace(steer, decided_for=None)  # of all texts together, which now come in batches
    sign = -1.0 if steer.coeffs[0] < 0 else 1.0
    warn_of_padding(texts)
    batches = [_Batch(model, texts[i : i + batch_size], steer, i) for i in range(0, len(texts), batch_size)]
    counted, told = sum(batch.counted for batch in batches), sum(batch.told for batch in batches)
    if not (counted, told)[which]:
        wanted = "predictions" if damage is None else "tokens"
        remedy = "" if damage is None else '; steer more positions, such as where="all", or give kl'
        raise ValueError(
            f"expected texts with {wanted} after a steered position, got none in {len(texts)} texts{remedy}"
        )
    both: dict[float, tuple[float, float]] = {}  # of each coefficient tried, divergence and damage

    def measure(coeff: float) -> float:
        if coeff not in both:
            parts = [batch.change(model, replace(steer, coeff=sign * coeff)) for batch in batches]
            rise = sum(rise for _, rise in parts) / told if told else math.nan
            both[coeff] = sum(kl for kl, _ in parts) / counted, rise
        return both[coeff][which]

    low, high = 0.0, start
    while measure(high) < budget:
        if high == highest:
            raise ValueError(
                f"expected a budget that a coefficient up to {highest:g} reaches, got {budget} nats where the most was "
                f"{max(found[which] for found in both.values()):.3g}; lower {name}, or steer at more positions"
            )
        low, high = high, min(2 * high, highest)
    while low == 0.0:
        if measure(high / 2) < budget:
            low = high / 2
        else:
            high = high / 2
            if high < start * 1e-9:
                raise ValueError(f"expected a change that vanishes with the coefficient, got {measure(high):.3g} nats")
    found = high
    while not abs(measure(found) - budget) <= tolerance * budget:
        found = middle = math.sqrt(low * high)
        if not low < middle < high:
            raise ValueError(
                f"expected a change that passes {budget} nats, got one that jumps from {measure(low):.3g} to "
                f"{measure(high):.3g} at the coefficient {high:g}; widen the tolerance"
            )
        low, high = (middle, high) if measure(middle) < budget else (low, middle)
    in_order = [(c, both[c][which]) for c in sorted(both)]
    if any(b < a - tolerance * budget for (_, a), (_, b) in pairwise([(0.0, 0.0), *in_order])):
        warnings.warn(
            f"the {'divergence' if damage is None else 'damage'} falls somewhere while the coefficient grows; other coefficients may meet the budget too: "
            + ", ".join(f"{c:.3g}: {d:.3g}" for c, d in in_order),
            NotMonotone,
            stacklevel=2,
        )
    divergence, rise = both[found]
    return Calibration(sign * found, divergence, [(sign * c, d) for c, d in in_order], rise)


class _Batch:
    """Some of the texts, with what the unsteered model says about them."""

    @torch.no_grad()
    def __init__(self, model: Transformer, texts: Sequence[Sequence[int]], steer: Steer, first: int) -> None:
        self.texts, self.rows = texts, None if steer.rows is None else steer.rows[first : first + len(texts)]
        ids, self.positions = pad(texts)
        self.ids = ids.to(model.device)
        touched = resolve(model, replace(steer, rows=self.rows), texts).touched(self.positions)  # (B, T)
        after = touched.cumsum(-1) > 0
        self.mask = (after & ~touched if steer.where == "front" else after) & (self.positions >= 0)
        self.counted = int(self.mask.sum())
        following = torch.full_like(ids, -1)
        following[:, :-1] = torch.where(self.positions[:, 1:] > 0, ids[:, 1:], -1)
        self.next = following[self.mask].to(model.device)  # (counted,), -1 at the end of a text
        self.told = int((self.next >= 0).sum())
        self.reference = self.logits(model, {})
        self.before = self.loss(self.reference)

    def logits(self, model: Transformer, adds: Mapping[Site, Add]) -> Tensor:
        """At the counted positions only, `(counted, V)`: the others' logits are never made."""
        x = model.stream(self.ids, adds)  # (B, T, D)
        return model.unembed(check_stream(x[self.mask.to(x.device)]))

    @torch.no_grad()
    def change(self, model: Transformer, steer: Steer) -> tuple[float, float]:
        """Divergence, and what the loss rises by, summed over the counted positions, in nats."""
        plan = resolve(model, replace(steer, rows=self.rows), self.texts)
        logits = self.logits(model, plan.adds(self.positions))
        # in float64, as a small budget is a difference of nearly equal numbers
        return float(metrics.kl(logits.double(), self.reference.double()).sum()), float(self.loss(logits) - self.before)

    def loss(self, logits: Tensor) -> Tensor:
        """Of the tokens that follow, summed, in nats."""
        return F.cross_entropy(logits.float(), self.next, ignore_index=-1, reduction="sum")
