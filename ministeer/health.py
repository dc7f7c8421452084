"""How well data define a direction: numbers, and words where they are bad.

Letters: N items, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SPLITS = 5  # random halvings that the two split-half numbers are means of


@dataclass(frozen=True, repr=False)
class Health:
    """How well the data define a direction at one site. Numbers a method does not have are None.

    relative_norm: its length over the mean length of the stream where it was read; says nothing of a direction of length 1.
    split_half: cosine of the directions that two halves of the data give.
    separability: d', how far apart the two classes lie along it, in standard deviations: the direction from one half
        of the data, the distance measured on the other.
    agreement: mean cosine between the differences of two items: how much of it each item shares.

    Steering by directions with low agreement and separability is unreliable (Tan et al. 2024; Braun et al. 2025). Above the limits in
    `weak`, which are this project's choice, these numbers promise little: over 135 public behaviours they correlated with steerability,
    but too loosely to predict it (docs/methods.md). Steer a few of the training items to know more.
    """

    relative_norm: float | None = None
    split_half: float | None = None
    separability: float | None = None
    agreement: float | None = None

    def __str__(self) -> str:
        named = {"norm": self.relative_norm, "split-half": self.split_half, "d'": self.separability}
        named["agreement"] = self.agreement
        shown = ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)
        return "; ".join([shown or "not measured", *self.weak])

    __repr__ = __str__

    @property
    def weak(self) -> list[str]:
        """Why steering with it may not work, in words; empty for a sound direction."""
        if self.relative_norm == 0:
            return ["weak: the vector is zero here, as the texts do not differ"]
        found = []
        if self.split_half is not None and self.split_half < 0.5:
            found.append("weak: two halves of the data give different directions")
        if self.separability is not None and not self.separability >= 1:
            found.append("weak: the two classes overlap along it")
        if self.agreement is not None and self.agreement < 0.1:
            found.append("weak: the items share little of it")
        return found


def health(vector: Tensor, items: Tensor, find: Callable[[Tensor], Tensor], norm: float | None = None) -> Health:
    """The health of `vector` `(D,)`, which `find` made of `items`, `(N, 2, D)` of two classes or `(N, D)` of one.

    norm: mean length of the stream where the items were read; by default that of the items, which then are streams. The
    items have to be independent: what they share by the way they were made would count as agreement. Fewer than 4 say
    nothing of halves. The halves are drawn with a seed of their own, so that the same data give the same numbers.
    """
    two = items.ndim == 3
    differences = items[:, 0] - items[:, 1] if two else items  # (N, D)
    length = float(items.norm(dim=-1).mean()) if norm is None else norm
    relative = float(vector.norm()) / length if length else 0.0
    n, unit = len(items), torch.nn.functional.normalize(differences.double(), dim=-1)  # (N, D)
    if relative == 0 or n < 2:
        return Health(relative)
    agreement = float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))
    if n < 4:
        return Health(relative, agreement=agreement)
    cosines, distances = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(SPLITS):
        order = torch.randperm(n, generator=generator)
        halves = items[order[: n // 2]], items[order[n // 2 :]]
        found = [find(half) for half in halves]
        cosines.append(float(torch.cosine_similarity(found[0], found[1], dim=0)))
        if two:
            distances += [_distance(halves[1], found[0]), _distance(halves[0], found[1])]
    return Health(relative, sum(cosines) / SPLITS, sum(distances) / len(distances) if two else None, agreement)


def _distance(items: Tensor, direction: Tensor) -> float:
    """d' of two classes `(N, 2, D)` along a direction: difference of their means over their pooled standard deviation."""
    along = items.double() @ direction.double()  # (N, 2)
    gap, variance = float((along[:, 0] - along[:, 1]).mean()), float(along.var(0).mean())
    return gap / math.sqrt(max(variance, 1e-12 * gap**2)) if gap else 0.0  # classes without spread: a million of them
