"""Private vectors: what noise leaves of a vector's effect, and who can be told to have been in it.

Goel et al. 2025 (arXiv 2501.18532) release the mean of clipped differences with Gaussian noise (`extract.private_mean`).
Letters: N pairs, of which M are members, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ministeer import directions, extract
from ministeer.lab import behaviours
from ministeer.lab.protocol import tenth_of
from ministeer.model import Site, Transformer
from ministeer.pairs import Read
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
MOST = 400  # training pairs of a behaviour
PAIRS = 20  # held out
DELTA = 1e-5
EPSILONS = (0.9, 0.5, 0.2, 0.1)
DRAWS = 3  # of the noise at the first of them, which the claim is about
MEMBERS, HALVINGS = 60, 40
PLAIN, CLIPPED = "plain mean", "clipped mean"


def usual(model: Transformer, tokenizer: Tokenizer, *, pairs: Sequence[behaviours.Pair], layer: int) -> list[Row]:
    """`[{"length"}]`: the median length of the differences of some pairs, which are public: where those of private ones may be cut."""
    x = behaviours.read(model, tokenizer, pairs, [layer])[0].streams["pre", layer]  # (N, 2, D)
    return [{"length": float((x[:, 0] - x[:, 1]).norm(dim=-1).median())}]


@torch.no_grad()
def measured(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    training: Sequence[behaviours.Pair],
    held_out: Sequence[behaviours.Pair],
    layer: int,
    clip: float,
) -> list[Row]:
    """Rows for `Experiment.cell`. Of each vector `{"vector", "epsilon", "seed", "few", "slopes"}`: what it moves, a tenth of the stream's norm long as all
    are, half of what log p(matching) - log p(other) is more with it than with it taken away, (N,), nats. Of each release `{"release", "advantage"}`: how
    much better than chance `told_apart` tells its members."""
    site: Site = ("pre", layer)
    found, norms = behaviours.read(model, tokenizer, training, [layer])
    few = _of(found, range(min(MEMBERS, len(found))))
    made: list[tuple[Row, SteeringVector]] = [
        ({"vector": PLAIN}, extract.contrastive(found)),
        ({"vector": CLIPPED}, _clipped(found, clip)),
        *(
            ({"vector": "private mean", "epsilon": epsilon, "seed": seed, "few": some is few}, _private(some, clip, epsilon, seed))
            for some, epsilon, seeds in ((found, EPSILONS[0], DRAWS), *((found, e, 1) for e in EPSILONS[1:]), (few, EPSILONS[0], 1))
            for seed in range(seeds)
        ),
    ]  # fmt: skip
    ids = [[behaviours.statement(tokenizer, text) for text in pair] for pair in held_out]
    vectors = {str(i): tenth_of(norms, vector) for i, (_, vector) in enumerate(made)}
    by_statement = behaviours.slopes(model, behaviours.opening(tokenizer), ids, vectors, [layer])[:, 0]  # (V, N, 2)
    slopes = behaviours.pairs_of(by_statement)
    rows = [{**what, "slopes": some.round(4).tolist()} for (what, _), some in zip(made, slopes, strict=True)]
    return rows + [{"release": name, "advantage": told} for name, told in advantages(found, site, clip).items()]


def advantages(found: Read, site: Site, clip: float) -> dict[str, float]:
    """Of each release, the mean advantage of `told_apart` over `HALVINGS` draws of `MEMBERS` of twice as many pairs: its true less its false positives."""
    both = _of(found, range(min(2 * MEMBERS, len(found) // 2 * 2)))
    x = both.streams[site]
    told: dict[str, list[float]] = {}
    for seed in range(HALVINGS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        members = order[: len(x) // 2]
        inside = torch.zeros(len(x), dtype=torch.bool)
        inside[members] = True
        some = _of(both, members.tolist())
        released = {PLAIN: extract.contrastive(some), CLIPPED: _clipped(some, clip)}
        released |= {f"epsilon {e:g}": _private(some, clip, e, seed) for e in (EPSILONS[0], EPSILONS[-1])}
        for name, vector in released.items():
            y = x if name == PLAIN else _cut(x, clip)
            guess = told_apart(y[:, 0] - y[:, 1], vector[site])
            told.setdefault(name, []).append(float(guess[inside].float().mean() - guess[~inside].float().mean()))
    return {name: float(np.mean(some)) for name, some in told.items()}


def told_apart(differences: Tensor, vector: Tensor) -> Tensor:
    """Which of N differences (N, D) an attacker who knows them all takes for members of the half whose mean was released, (N,), true or false.

    The likelihood ratio of normal differences of one variance a coordinate: (d - mean) . (v - mean) / variance above 0. Of a mean without noise nothing
    tells more but trying all halves.
    """
    mean, variance = differences.mean(0), differences.var(0)
    return (differences - mean) @ ((vector - mean) / variance.clamp(min=1e-12)) > 0


def bound(epsilon: float, delta: float = DELTA) -> float:
    """The most that any attack's advantage can be on an (epsilon, delta) private release (Kairouz et al. 2015, theorem 2.1)."""
    return (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)


def effects(rows: Sequence[Row]) -> dict[str, float]:
    """The mean slope of each vector over pairs and draws of the noise, by what it is called on the page."""
    named: dict[str, list[float]] = {}
    for row in (row for row in rows if "slopes" in row):
        few = f", {MEMBERS} pairs" if row.get("few") else ""
        name = f"epsilon {row['epsilon']:g}{few}" if "epsilon" in row else row["vector"]
        named.setdefault(name, []).append(float(np.mean(row["slopes"])))
    return {name: float(np.mean(some)) for name, some in named.items()}


def told(rows: Sequence[Row]) -> Mapping[str, float]:
    """The advantage on each release."""
    return {row["release"]: row["advantage"] for row in rows if "release" in row}


def _of(found: Read, which: Sequence[int]) -> Read:
    return Read({site: x[list(which)] for site, x in found.streams.items()}, found.source)


def _private(found: Read, clip: float, epsilon: float, seed: int) -> SteeringVector:
    return extract.private_mean(found, clip=clip, epsilon=epsilon, delta=DELTA, seed=seed)


def _cut(x: Tensor, clip: float) -> Tensor:
    """Streams (N, 2, D) whose differences are at most so long."""
    cut = directions.clipped(x[:, 0] - x[:, 1], clip)
    return torch.stack([cut, torch.zeros_like(cut)], 1)


def _clipped(found: Read, clip: float) -> SteeringVector:
    return extract.contrastive(Read({site: _cut(x, clip) for site, x in found.streams.items()}, found.source))
