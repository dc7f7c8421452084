"""Texts -> steering vectors.

Reading the stream of pairs of texts, at one token, is slow and done once; finding a direction in what was read is quick:

    read = extract.read(model, tok, pairs)                  # the stream of both texts of each pair at each site
    vector, other = extract.mean_difference(read), extract.pca(read)
    vector = extract.pca(model, tok, pairs)                 # both steps in one

`mean_difference` (`contrastive`), `pca`, `probe` and `private_mean` find one in pairs; `activation_addition` takes one pair,
`function_vector` prompts of one task. Each vector has its `health`. Texts are read as `tokenizer.prompt` has them: they begin with
`tokenizer.bos`, unless with another special token.

Letters: N texts or pairs, D width, P positions of a per-position vector.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ministeer import directions
from ministeer.activations import OnBatch, as_sites, check_texts, depth, pair_streams, streams
from ministeer.health import Health, health
from ministeer.model import Site, Transformer, check_stream, expect, refusal
from ministeer.pairs import Pairs, Read, Reading, all_sites, read, read_pairs
from ministeer.prompts import warn_of_space
from ministeer.provenance import Provenance
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Pairs", "Read", "Reading", "activation_addition", "contrastive", "function_vector", "mean_difference", "pair_streams", "pca",
    "pca_centred", "private_mean", "private_noise", "probe", "random_like", "read", "streams",
]  # fmt: skip


@torch.no_grad()
def activation_addition(
    model: Transformer,
    tokenizer: Tokenizer,
    positive: str,
    negative: str,
    sites: Site | Sequence[Site],
    *,
    filler: str = " ",
) -> SteeringVector:
    """ActAdd (Turner et al. 2023, section 3): the stream over `positive` minus the stream over `negative`, `(P, D)`.

    The shorter text is lengthened on the right with `filler`, one token. For `Steer(..., where="front")` on prompts that begin
    as the texts do, with `tokenizer.bos`.
    """
    wanted = as_sites(sites)
    rows = [tokenizer.prompt(text) for text in (positive, negative)]
    longest = max(map(len, rows))
    rows = [row + [tokenizer.single(filler)] * (longest - len(row)) for row in rows]
    if rows[0] == rows[1]:
        raise ValueError(
            f"expected two texts that differ, also once the shorter is filled with {filler!r}, "
            f"got {positive!r} and {negative!r}: their difference is zero"
        )
    tape: list[Any] = list(wanted)
    model.stream(torch.tensor(rows, device=model.device), tape=tape, depth=depth(model, wanted))
    tensors = {
        site: (x[0].float() - x[1].float()).cpu() for site, x in zip(wanted, map(check_stream, tape), strict=True)
    }  # (2, P, D) -> (P, D)
    return SteeringVector(
        tensors,
        Provenance.of(
            model, "activation_addition", [positive, negative], f"every token, after tokenizer.bos, filler {filler!r}"
        ),
        {site: Health(_share(tensors[site], x.float().cpu())) for site, x in zip(wanted, tape, strict=True)},
    )


def _share(vectors: Tensor, streams: Tensor) -> float:
    """Mean length of vectors `(P, D)` over that of the streams `(2, P, D)` that they are the difference of, where these differ: not at
    the first token, which is far longer than others in many models."""
    lengths = vectors.norm(dim=-1)
    moved = lengths > 1e-4 * streams.norm(dim=-1).mean(0)
    return float(lengths[moved].mean() / streams[:, moved].norm(dim=-1).mean()) if bool(moved.any()) else 0.0


def contrastive(
    source: Transformer | Read,
    tokenizer: Tokenizer | None = None,
    pairs: Pairs | None = None,
    sites: Site | Sequence[Site] | None = None,
    **how: Unpack[Reading],
) -> SteeringVector:
    """CAA (Panickssery et al. 2024, equation 1): mean over pairs of h(positive text) - h(negative text), `(D,)` a site.

    source: what `read` returned, alone; or a model, with all that `read` takes.
    """
    found = read_pairs(source, tokenizer, pairs, sites, **how)
    return _vector(found, directions.mean_difference, "contrastive")


mean_difference = contrastive  # by what it computes


def pca(
    source: Transformer | Read,
    tokenizer: Tokenizer | None = None,
    pairs: Pairs | None = None,
    sites: Site | Sequence[Site] | None = None,
    **how: Unpack[Reading],
) -> SteeringVector:
    """The first principal direction of the pairs' differences, *not* centred, `(D,)` of length 1; arguments as `contrastive`.

    Representation reading (Zou et al. 2023, section 3.1). The sign is that of the majority of differences. An exact
    decomposition: nothing is drawn, so there is no seed.
    """
    found = read_pairs(source, tokenizer, pairs, sites, **how)
    return _vector(found, directions.principal, "pca")


def pca_centred(
    source: Transformer | Read,
    tokenizer: Tokenizer | None = None,
    pairs: Pairs | None = None,
    sites: Site | Sequence[Site] | None = None,
    **how: Unpack[Reading],
) -> SteeringVector:
    """`pca` after the differences' mean is subtracted, for comparison with tools that do so. It warns: that mean is what
    the pairs share, so what remains is how they differ from one another."""
    warnings.warn(
        "centred PCA subtracts the mean difference, which is what steering needs; use pca or contrastive to steer",
        stacklevel=2,
    )
    found = read_pairs(source, tokenizer, pairs, sites, **how)
    return _vector(found, directions.principal_centred, "pca_centred")


def probe(
    source: Transformer | Read,
    tokenizer: Tokenizer | None = None,
    pairs: Pairs | None = None,
    sites: Site | Sequence[Site] | None = None,
    *,
    l2: float = 1.0,
    **how: Unpack[Reading],
) -> SteeringVector:
    """The weights of a logistic regression that tells the two classes apart, `(D,)` of length 1; arguments as `contrastive`.

    l2: the weight penalty, `l2 / 2 * |w|^2` against the sum of log losses, for streams that are centred and divided by one
        number, the standard deviation of all their entries. The smaller, the more it looks at the pairs that are hardest to
        tell apart.
    """
    expect(
        isinstance(l2, Real) and 0 < l2 < math.inf,
        "l2 above 0 and finite",
        l2,
        "without it separable classes have no best weights",
    )
    found = read_pairs(source, tokenizer, pairs, sites, **how)
    return _vector(found, lambda items: directions.logistic(items, l2), f"probe, l2 {l2:g}")


def private_mean(
    source: Transformer | Read,
    tokenizer: Tokenizer | None = None,
    pairs: Pairs | None = None,
    sites: Site | Sequence[Site] | None = None,
    *,
    clip: float,
    epsilon: float,
    delta: float,
    seed: int,
    **how: Unpack[Reading],
) -> SteeringVector:
    """The mean difference with (epsilon, delta) differential privacy for the pairs (Goel et al., PSA).

    Each difference is cut to length `clip`, and Gaussian noise of `private_noise(...)` is added to every entry of the mean.
    The privacy holds for the whole vector, all its sites together, against the exchange of one pair; their number is public.
    More sites mean more noise: with a model name them, else pass `read.only(site)`. Two vectors of the same
    pairs spend epsilon twice.

    source: as `contrastive`. clip: choose it without looking at the private pairs, e.g. from the norms of public ones. seed:
    keep it secret and long, `secrets.randbits(128)`: whoever guesses it can subtract the noise. One seed draws other noise
    for other texts, sites, clip, epsilon or delta, so that the difference of two vectors gives no mean away; parts that you cut from
    one `Read` need a seed each. It is not written into the provenance; nor is a hash of the texts, by which a guess could be
    checked, nor any health, which would have to be read off the texts.
    """
    if not isinstance(source, Read):
        wanted, remedy = "the sites of a private mean", "name them: each one more needs more noise"
        if sites is None:
            raise refusal(wanted, "none", remedy)
        private_noise(len(pairs or ()), clip=clip, epsilon=epsilon, delta=delta)  # refused before it is read
    found = read_pairs(source, tokenizer, pairs, sites, **how)
    sigma = private_noise(len(found), clip=clip, epsilon=epsilon, delta=delta, sites=len(found.sites))
    told = (_seed(seed), float(clip), float(epsilon), float(delta), found.source, found.sites, len(found))
    draw = np.random.default_rng(int(hashlib.sha256(repr(told).encode()).hexdigest(), 16))
    tensors = {}
    for site, x in found.streams.items():
        mean = directions.clipped(x[:, 0] - x[:, 1], clip).mean(0)
        tensors[site] = mean + sigma * torch.from_numpy(draw.standard_normal(len(mean))).float()
    method = f"private_mean, epsilon {epsilon:g}, delta {delta:g}, clip {clip:g}, sigma {sigma:.6g}, {len(found)} pairs"
    return SteeringVector(tensors, replace(found.source, method=method, data="private"))


def private_noise(pairs: int, *, clip: float, epsilon: float, delta: float, sites: int = 1) -> float:
    """Standard deviation of the noise for (epsilon, delta), in units of the stream (Goel et al.; Dwork and Roth 2014, theorem A.1).

    2 clip sqrt(sites) sqrt(2 ln(1.25 / delta)) / (pairs epsilon): exchanging one pair moves the mean by at most 2 clip / pairs
    at each of the sites, which are released as one vector. The theorem holds for epsilon below 1.
    """
    if pairs < 1 or sites < 1:
        raise ValueError(f"expected at least one pair and one site, got {pairs} and {sites}")
    if not 0 < epsilon < 1 or not 0 < delta < 1:
        raise ValueError(
            f"expected epsilon and delta between 0 and 1, where the Gaussian mechanism's theorem holds, got {epsilon} and {delta}"
        )
    if not 0 < clip < math.inf:
        raise ValueError(f"expected a finite clip above 0, in units of the stream, got {clip}")
    return 2 * clip * math.sqrt(sites) * math.sqrt(2 * math.log(1.25 / delta)) / (pairs * epsilon)


@torch.no_grad()
def function_vector(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sites: Site | Sequence[Site] | None = None,
    *,
    others: Sequence[Sequence[str]] = (),
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> SteeringVector:
    """The mean stream at the last token of few-shot prompts, `(D,)` a site (Todd et al. 2024, section 2, the layer average).

    others: prompts of other tasks, a list for each. The mean of the tasks' means is then subtracted, so that what all
        tasks have in common (that a word is due, in this format) goes, and what is particular to this one stays. Its health
        is that of as many differences as the shortest list has prompts, each of one prompt of every task. Without others
        there is nothing to compare with: any two halves share the mean stream, and no health but the norm is given.
    For `Steer(..., where="last")`. sites: see `read`; batch_size, on_batch: see `streams`.
    """
    texts = [prompts, *others]
    check_texts([text for some in texts for text in some])
    if any(isinstance(some, str | Mapping) or not len(some) for some in texts):
        raise ValueError(
            f"expected lists of one prompt or more, got {[some if isinstance(some, str | Mapping) else len(some) for some in texts]}"
        )
    wanted = all_sites(model) if sites is None else as_sites(sites)
    warn_of_space(*(text for some in texts for text in some))
    rows = [tokenizer.prompt(text) for some in texts for text in some]
    empty = [number for number, row in enumerate(rows) if len(row) < 2]
    expect(not empty, "prompts of two tokens or more, the first tokenizer.bos", f"an empty text in row {empty[:1]}")
    found = streams(model, rows, [len(row) - 1 for row in rows], wanted, batch_size=batch_size, on_batch=on_batch)
    tensors, report = {}, {}
    sizes = [len(some) for some in texts]
    for site, x in found.items():
        mine, *theirs = torch.split(x, sizes)  # of each task (N, D)
        norm = float(mine.norm(dim=-1).mean())
        tensors[site] = mine.mean(0)
        if theirs:
            tensors[site] = tensors[site] - torch.stack([y.mean(0) for y in theirs]).mean(0)
            items = mine[: min(sizes)] - torch.stack([y[: min(sizes)] for y in theirs]).mean(0)
            report[site] = health(tensors[site], items, _mean, norm)
        else:
            report[site] = Health(float(tensors[site].norm()) / norm)
    _check_not_zero(tensors)
    method = f"function_vector minus the mean of {len(others)} other tasks" if others else "function_vector"
    return SteeringVector(
        tensors, Provenance.of(model, method, [text for some in texts for text in some], "last"), report
    )


def _mean(items: Tensor) -> Tensor:
    return items.mean(0)


def random_like(vector: SteeringVector, *, seed: int, streams: Mapping[Site, Tensor] | None = None) -> SteeringVector:
    """The control: directions drawn at random, of the vector's norm at every site and position.

    A seed draws the same at every site, whichever others there are: one direction through the model, as a vector that was read
    is nearly one.
    streams: of N texts at each of the vector's sites, `(N, D)`. Directions are then random mixes of how these deviate from their mean,
        so that they have the stream's covariance: a harder control, as the model's own states lie that way.
    """
    if not isinstance(vector, SteeringVector):
        raise ValueError(f"expected a SteeringVector to make a control for, got {type(vector).__name__}")
    tensors = {}
    for site, tensor in vector.tensors.items():
        generator = torch.Generator().manual_seed(_seed(seed, 32))
        if streams is None:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)  # (D,) or (P, D)
        else:
            noise = _within(streams, site, tensor, generator)
        length = tensor.float().cpu().norm(dim=-1, keepdim=True)
        tensors[site] = noise * torch.where(length > 0, length / noise.norm(dim=-1, keepdim=True), 0.0)
    kind = "random" if streams is None else "random within the stream's covariance"
    method = f"{kind}, of the norm of ({vector.provenance.method})"
    return SteeringVector(tensors, replace(vector.provenance, method=method, seed=seed))


def _within(streams: Mapping[Site, Tensor], site: Site, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random mixes of the deviations of streams `(N, D)` from their mean, of the shape of `like`."""
    x = streams.get(site)
    fits = x is not None and x.ndim == 2 and len(x) > 1 and x.shape[1] == like.shape[-1]
    got = "none" if x is None else str(tuple(x.shape))
    expect(fits, f"streams (N, {like.shape[-1]}) of two texts or more at {site}", got, "read them there too")
    away = x.float().cpu() - x.float().cpu().mean(0)  # type: ignore[union-attr]
    return torch.randn(*like.shape[:-1], len(away), generator=generator, dtype=torch.float32) @ away


@torch.no_grad()
def _vector(found: Read, find: Callable[[Tensor], Tensor], method: str) -> SteeringVector:
    """The vector that `find` makes of the pairs' streams `(N, 2, D)` at each site."""
    tensors = {site: find(x) for site, x in found.streams.items()}
    _check_not_zero(tensors)
    report = {site: health(tensors[site], x, find) for site, x in found.streams.items()}
    return SteeringVector(tensors, replace(found.source, method=method), report)


def _check_not_zero(tensors: dict[Site, Tensor]) -> None:
    if not any(bool(tensor.any()) for tensor in tensors.values()):
        raise ValueError(
            f"expected texts that differ at one of {list(tensors)}, got a vector of zeros at all of them; read further up, or "
            "at another token"
        )


def _seed(seed: int, bits: int | None = None) -> int:
    """The seed, checked; a longer one hashed into so many bits, as torch's generator drops the others."""
    expect(isinstance(seed, Integral) and not isinstance(seed, bool), "a seed, a whole number", repr(seed)[:60])
    number = int(seed)
    if bits is None or 0 <= number < 1 << bits:
        return number
    return int(hashlib.sha256(str(number).encode()).hexdigest(), 16) % (1 << bits)
