"""Numbers from logits: log-odds between sets of tokens, slopes, divergences, perplexity, intervals.

Letters: B rows, T tokens, V vocabulary, N items (the unit that intervals are over), M multipliers. Natural logarithms.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


def log_odds(logits: Tensor, positive: Sequence[int] | Tensor, negative: Sequence[int] | Tensor) -> Tensor:
    """log p(next token is in `positive`) - log p(it is in `negative`), `(B,)`, in nats, from logits `(B, V)`.

    The ids are alternatives, each a whole word, as `tok.single` gives them. The tokens of one longer answer are none: for such answers
    give `sweep` candidate answers.
    """
    plus, minus = _ids(logits, positive), _ids(logits, negative)
    for name, ids in (("positive", plus), ("negative", minus)):
        if not ids:
            raise ValueError(f"expected at least one {name} token, got none")
    if shared := sorted({*plus} & {*minus}):
        raise ValueError(
            f"expected two sets of tokens that share none, got {shared[:3]} in both; of answers of several tokens take sweep's candidate "
            "answers, of each row's own tokens logit_difference"
        )
    logits = logits.float()
    plus, minus = (list(dict.fromkeys(ids)) for ids in (plus, minus))  # sets: a token named twice counts once
    return logits[:, plus].logsumexp(-1) - logits[:, minus].logsumexp(-1)


def logit_difference(logits: Tensor, positive: Sequence[int] | Tensor, negative: Sequence[int] | Tensor) -> Tensor:
    """Logit of each row's own positive token minus that of its negative one, `(B,)`, from logits `(B, V)`."""
    plus, minus = _ids(logits, positive), _ids(logits, negative)
    if len(plus) != len(logits) or len(minus) != len(logits):
        raise ValueError(
            f"expected a positive and a negative token for each of {len(logits)} rows, got {len(plus)} and {len(minus)}"
        )
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, plus].float() - logits[rows, minus].float()


def _tensors(**given: Any) -> None:
    """Raise `ValueError` for what is no tensor of torch."""
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"expected {name} as a tensor, got {type(x).__name__}; write torch.as_tensor({name})")


def _logits(**given: Any) -> None:
    """Raise `ValueError` for what is no tensor `(..., V)`, or holds probabilities; their logarithms are logits too."""
    _tensors(**given)
    for name, x in given.items():
        x = x.detach()
        if x.ndim and x.numel() and float(x.min()) >= 0 and bool(((x.sum(-1).float() - 1).abs() < 1e-2).all()):
            raise ValueError(f"expected {name}, got numbers that sum to 1, as probabilities do; write {name}.log()")


def _ids(logits: Tensor, tokens: Any) -> list[int]:
    """Token ids as plain numbers, which are equal where their tensors are not; checked against logits `(B, V)`."""
    _logits(logits=logits)
    if logits.ndim != 2:
        raise ValueError(
            f"expected the logits of one position a row, (B, V), got {tuple(logits.shape)}; of (B, T, V) take logits[:, -1]"
        )
    try:
        given = list(tokens.tolist() if hasattr(tokens, "tolist") else tokens)  # of torch, of numpy
        if any(isinstance(i, str) for i in given):
            raise ValueError(f"expected token ids, got words {given[:3]}; write tok.single(' word') for each")
        if any(isinstance(i, bool) for i in given):
            raise TypeError("a mask")
        ids = [operator.index(i) for i in given]
    except TypeError:
        got = str(tokens)[:60]
        raise ValueError(f"expected token ids, a list of whole numbers, got {got}; write [id, ...]") from None
    if ids and not 0 <= min(ids) <= max(ids) < logits.shape[1]:
        raise ValueError(f"expected token ids from 0 to {logits.shape[1] - 1}, got {min(ids)} to {max(ids)}")
    return ids


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || logits) of the next-token distributions, in nats: `(..., V)`, `(..., V)` -> `(...)`.

    A token of reference probability 0 adds nothing; one that `logits` alone rule out, by -inf, makes it infinite. In float32
    a divergence below 1e-5 is rounding for the most part: give both in float64.
    Raises `ValueError` for two shapes: of one reference for all rows give `reference.expand_as(logits)`.
    """
    _logits(logits=logits, reference=reference)
    if logits.shape != reference.shape:
        raise ValueError(
            f"expected logits and a reference of one shape, got {tuple(logits.shape)} and {tuple(reference.shape)}; "
            "write reference.expand_as(logits) where it is one for all"
        )
    p, q = (x if x.dtype == torch.float64 else x.float() for x in (reference, logits))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return torch.where(p.exp() == 0, 0.0, p.exp() * (p - q)).sum(-1)


def perplexity(logits: Tensor, ids: Tensor, counted: Tensor | None = None) -> Tensor:
    """exp of the mean negative log-probability of each token after the first, `(B,)`, from logits `(B, T, V)`.

    ids: `(B, T)`. counted: `(B, T)`, true for the tokens that count, by default all; leave out padding, and the
    positions at which a vector was injected.
    """
    _logits(logits=logits)
    _tensors(ids=ids, **({} if counted is None else {"counted": counted}))
    if logits.ndim != 3 or ids.shape != logits.shape[:2]:
        raise ValueError(
            f"expected logits (B, T, V) and ids (B, T) of the same texts, got {tuple(logits.shape)} and {tuple(ids.shape)}; "
            "give the logits of every token"
        )
    if len(unknown := ids[(ids < 0) | (ids >= logits.shape[-1])]):
        raise ValueError(
            f"expected ids from 0 to {logits.shape[-1] - 1}, got {int(unknown[0])}; give what does not count some id of the vocabulary, "
            "and leave it out by `counted`"
        )
    mask = torch.ones_like(ids, dtype=torch.bool) if counted is None else counted
    if mask.shape != ids.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"expected counted to be true or false for each of {tuple(ids.shape)} tokens, got {tuple(mask.shape)} of {mask.dtype}; "
            "of positions write positions >= 0"
        )
    nll = -logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (B, T - 1)
    mask = mask[:, 1:].to(nll.device, torch.bool)
    if not bool(mask.any(-1).all()):
        raise ValueError("expected a counted token after the first in every row, got a row without one; leave it out")
    return (nll.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)).exp()


def steerability(multipliers: Sequence[float], differences: npt.ArrayLike) -> Array:
    """Slope of each item's logit difference against the multiplier, `(..., N)`, by least squares (Tan et al. 2024, section 3).

    differences: `(..., N, M)`. Units: nats (or logits) per unit of the multiplier; negative is anti-steerable.
    """
    x, y = _numbers(multipliers), _numbers(differences)
    if y.ndim < 2 or y.shape[-1] != len(x) or len(set(x.tolist())) < 2:
        raise ValueError(f"expected (N, {len(x)}) differences for two or more multipliers, got {y.shape} for {list(x)}")
    centred = x - x.mean()
    # less the first column: the same slopes, and exactly 0 where nothing changes
    slopes: Array = (y - y[..., :1]) @ centred / (centred @ centred)  # (..., N, M) @ (M,) -> (..., N)
    return slopes


def group_means(values: npt.ArrayLike, groups: Sequence[Any]) -> Array:
    """The mean of each group's items, from N values and N groups; groups are sorted, or if they have no order, by their types and texts.

    A group is a label that can be in a set: a text, a number, a tuple or None. Equal labels are one group.
    """
    items, labels = _numbers(values), _plain(groups)
    if items.shape != (len(labels),):
        raise ValueError(f"expected a group for each item, got {len(labels)} for {items.shape}")
    by_label: dict[Any, list[float]] = {}
    for item, label in zip(items.tolist(), labels, strict=True):
        try:
            fine = not (isinstance(label, (float, np.floating)) and math.isnan(label))  # each would be a group of none
            by_label.setdefault(label, []).append(item)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(
                f"expected groups as texts, numbers, tuples of them or None, got {label!r}; name each group"
            )
    try:
        order = sorted(by_label)
    except TypeError:  # not as they come, which can differ from seed to seed
        order = sorted(by_label, key=lambda label: (type(label).__name__, repr(label)))
    return np.array([np.mean(by_label[label]) for label in order])


def _plain(given: Any) -> list[Any]:
    """A list, a tensor or an array as a list of Python's own."""
    return list(given.tolist() if hasattr(given, "tolist") else given)


def _numbers(given: Any) -> Array:
    """Numbers as an array in float64, also from a tensor in bfloat16 or with a gradient."""
    if np.ma.is_masked(given):
        raise ValueError("expected numbers, got an array with some of them masked; write values.compressed()")
    return np.asarray(given.detach().cpu().double() if isinstance(given, Tensor) else given, dtype=np.float64)


def bootstrap(
    values: npt.ArrayLike, *, seed: int, groups: Sequence[Any] | None = None, level: float = 0.95, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean over N items and its bootstrap interval: (mean, low, high), in the items' units.

    groups: of N, where items depend on each other (wordings of one scenario): the means of the groups are then the items.

    Percentiles of the means of resamples (Efron 1979), further out for few items by what Student's t exceeds the normal
    (the expanded percentile interval of Hesterberg 2015): the plain ones of 7 items hold the truth 87 times in 100, not 95.
    For fewer than 5 items it is still too narrow, as is its long side for a few skewed ones: `benchmarks/interval_coverage.py`.
    """
    items = _numbers(values) if groups is None else group_means(values, groups)
    if items.ndim != 1 or len(items) < 2:
        raise ValueError(f"expected one value an item, (N,), of two items or more, got {items.shape}")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"expected a level between 0 and 1 and one draw or more, got {level} and {draws}")
    n = len(items)
    picks = np.random.default_rng(seed).integers(0, n, (draws, n))
    low, high = np.quantile(items[picks].mean(1), tails(n, level))
    return float(items.mean()), float(low), float(high)


def tails(count: int, level: float) -> tuple[float, float]:
    """The quantiles of resamples of so many items, two or more, that give an interval of this level: further out for few, see `bootstrap`."""
    free = count - 1
    t = _student((1 + level) / 2, free)
    tail = NormalDist().cdf(-t * math.sqrt(count / free))  # resamples vary by (n - 1) / n of the variance
    return tail, 1 - tail


def _student(p: float, free: int) -> float:
    """Student's quantile at a whole number of degrees of freedom, for p from one half to below 1, by halving the angle.

    With t = sqrt(free) tan(angle) the distribution is a finite sum (Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        sine, cosine = math.sin(angle), math.cos(angle)
        term = total = cosine if free % 2 else 1.0
        for k in range(3 if free % 2 else 2, free, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = 2 / math.pi * (angle + sine * total * (free > 1)) if free % 2 else sine * total
        low, high = (angle, high) if inside < 2 * p - 1 else (low, angle)
    return math.sqrt(free) * math.tan(high)


def interval(values: npt.ArrayLike, digits: int = 2, *, groups: Sequence[Any] | None = None) -> str:
    """`bootstrap` at 95 % as text: mean [low, high]."""
    mean, low, high = bootstrap(values, seed=0, groups=groups)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def difference(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float, float]:
    """(mean, low, high) of first - second, from those of two independent means (Zou and Donner 2008, equation 3).

    Each bound's distance from the difference is the root of the summed squares of its two distances.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return a - b, a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)
