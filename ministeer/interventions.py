"""Functions of the stream that say what to add to it: steering stays `x = x + f(x)`.

    Steer(project_out(v), site)                           # ablate a direction
    Steer(rotate(v, w), site, coeff=0.5, where="last")    # by half a radian
    model(ids, adds={site: project_out(v)})               # without a Steer, at every position
    model(ids, adds={site: lambda x: clamp(v)(x, 3.0)})   # and with another coefficient than 1

Each maker returns `f(x, coeff=1.0)`: the stream `(B, T, D)` and coefficients that broadcast over `(B, T, 1)` -> `(B, T, D)` to
add, computed in float32. Each says what its coefficient means. A `Gate` decides row by row whether to steer at all.

Letters: B rows, T tokens in this call, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ministeer.activations import depth
from ministeer.model import Site, Transformer, check_site, check_stream
from ministeer.prompts import pad, prompts_hash, warn_of_padding
from ministeer.receipt import GateWarning
from ministeer.steer import Steer


class Function(Protocol):
    """What the makers here return; called with the stream alone, it acts with the coefficient 1."""

    def __call__(self, x: Tensor, coeff: Tensor | float = ..., /) -> Tensor: ...


def project_out(vector: Tensor) -> Function:
    """Remove the stream's component along `vector` `(D,)`; coeff: the share removed, 1 all of it, 2 reflects."""
    unit = _units(vector)
    return lambda x, coeff=1.0, /: -coeff * _along(x, unit()) * _for(x, unit())


def reflect(vector: Tensor) -> Function:
    """Mirror the stream at the plane across `vector` `(D,)`: the component along it changes its sign. coeff: 1; 0 does nothing."""
    remove = project_out(vector)
    return lambda x, coeff=1.0, /: remove(x, 2 * coeff)


def clamp(vector: Tensor) -> Function:
    """Set the stream's component along `vector` `(D,)`, of any length, to coeff, in units of the stream."""
    unit = _units(vector)
    return lambda x, coeff=1.0, /: (coeff - _along(x, unit())) * _for(x, unit())


def substitute(state: Tensor) -> Function:
    """Move the stream towards a state `(D,)`, such as a mean of streams; coeff: the share of the way, 1 puts it in its place."""
    held = _held(state)
    return lambda x, coeff=1.0, /: coeff * (_for(x, held) - x.float())


def relative(vector: Tensor) -> Function:
    """Add along `vector` `(D,)`, of any length; coeff: how much, as a share of the stream's own norm at each position.

    At the first token many models' stream is a hundred times as long as elsewhere, and so is then what is added there: compare
    with a `where` that leaves it out.
    """
    unit = _units(vector)
    return lambda x, coeff=1.0, /: coeff * x.float().norm(dim=-1, keepdim=True) * _for(x, unit())


def keep_norm(vector: Tensor) -> Function:
    """Add `coeff * vector` `(D,)`, then scale the stream back to the norm it had."""
    held = _held(vector)

    def f(x: Tensor, coeff: Tensor | float = 1.0, /) -> Tensor:
        x = x.float()
        moved = x + coeff * _for(x, held)
        length = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        delta: Tensor = moved * (x.norm(dim=-1, keepdim=True) / length) - x
        return delta

    return f


def rotate(start: Tensor, end: Tensor) -> Function:
    """Turn the stream within the plane of two directions `(D,)`, from `start` towards `end`; coeff: the angle, in radians.

    What the stream holds outside the plane stays, and so does its norm.
    """
    first, towards = _units(start), _units(end)
    _plane(first(), towards())

    def f(x: Tensor, coeff: Tensor | float = 1.0, /) -> Tensor:
        e1, e2 = _plane(first(), towards())
        a, b = _along(x, e1), _along(x, e2)  # (B, T, 1)
        turn = torch.as_tensor(coeff, dtype=torch.float32, device=x.device)
        cos, sin = turn.cos() - 1, turn.sin()
        delta: Tensor = (a * cos - b * sin) * _for(x, e1) + (a * sin + b * cos) * _for(x, e2)
        return delta

    return f


def _plane(e1: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Two orthogonal directions of the plane of two."""
    if len(e1) != len(towards):
        raise ValueError(f"expected two directions of one width, got {len(e1)} and {len(towards)}")
    rest = towards - (towards @ e1.to(towards.device)) * e1.to(towards.device)
    if not rest.norm() > 1e-4:
        raise ValueError("expected two directions that span a plane, got parallel ones; for one direction use reflect")
    return e1, _unit(rest)


def decay(half_life: float) -> Callable[[Tensor], Tensor]:
    """A schedule for `Steer`: the coefficient halves with every `half_life` generated tokens; whole in the prompt."""
    if not isinstance(half_life, Real) or not half_life > 0:
        raise ValueError(f"expected a half-life above 0, in generated tokens, got {half_life!r}")
    return lambda generated: torch.exp2(-generated.float() / half_life)


def _unit(vector: Tensor) -> Tensor:
    if not isinstance(vector, Tensor) or vector.ndim != 1:
        got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        raise ValueError(f"expected a direction (D,), got {got}; of a SteeringVector take its tensor, vector[site]")
    if vector.is_complex():
        raise ValueError(f"expected a direction of real numbers, got {vector.dtype}; take its .real if that is meant")
    length = vector.float().norm()
    if not bool(torch.isfinite(length)) or length == 0:
        raise ValueError(f"expected a direction of finite length above 0, got one of {float(length)}")
    unit: Tensor = vector.float() / length
    return unit


def _units(vector: Tensor) -> Callable[[], Tensor]:
    """A direction of length 1, each time it is asked for; of one that learns, as it is by then."""
    unit = _unit(vector)
    return (lambda: _unit(vector)) if vector.requires_grad else (lambda: unit)


def _held(vector: Tensor) -> Tensor:
    """A copy of a direction, in float32, which later changes of the vector do not reach; one that learns is itself."""
    _unit(vector)
    return vector if vector.requires_grad else vector.float().clone()


def _for(x: Tensor, direction: Tensor) -> Tensor:
    """A direction, in float32 on the stream's device; refused if it is of another width."""
    if x.shape[-1] != len(direction):
        raise ValueError(f"expected a direction of the stream's width {x.shape[-1]}, got {len(direction)}")
    return direction.to(x.device, torch.float32)


def _along(x: Tensor, unit: Tensor) -> Tensor:
    """The component of the stream along a unit vector, `(B, T, 1)` in float32."""
    along: Tensor = x.float() @ _for(x, unit)  # (B, T)
    return along[..., None]


@dataclass(frozen=True, eq=False)
class Gate:
    """Steer only the rows whose prompt passes a condition: the cosine of the stream with a direction is above a threshold.

    After Lee et al. 2024 (CAST, section 3), with the cosine itself, which has a sign, where they compare the state with its
    projection. Decided once, on the unsteered prompt, and kept while generating:

        gate = Gate.fit(model, about_work, about_other_things, direction, ("pre", 4))
        generate(model, prompts, max_new_tokens=20, steer=gate.over(model, prompts, steer))

    vector: `(D,)`. token: where the stream is read, "last" or the "mean" over the prompt without its first token, whose stream is often
    many times as long as the others' and would make the mean tell how long the prompt is. accuracy: share of the texts
    it was fitted on that it decides rightly, mean of the two kinds; measure it on others too.
    """

    vector: Tensor = field(repr=False)
    site: Site
    threshold: float
    token: Literal["last", "mean"] = "last"
    accuracy: float | None = None

    def __post_init__(self) -> None:
        _unit(self.vector)
        object.__setattr__(self, "vector", self.vector.clone())  # later changes of the caller's do not reach it
        check_site(self.site)
        if self.token not in ("last", "mean"):
            raise ValueError(f"expected token to be 'last' or 'mean', got {self.token!r}")
        if not isinstance(self.threshold, Real) or not -1 <= self.threshold <= 1:
            raise ValueError(
                f"expected a threshold on a cosine, from -1 to 1, got {self.threshold!r}: it would open always, or never"
            )

    @classmethod
    def fit(
        cls,
        model: Transformer,
        wanted: Sequence[Sequence[int]],
        unwanted: Sequence[Sequence[int]],
        vector: Tensor,
        site: Site,
        token: Literal["last", "mean"] = "last",
    ) -> Gate:
        """The gate whose threshold tells two sets of prompts (lists of ids) apart best, by the mean of both accuracies.

        Raises `ValueError` where no threshold opens for more of `wanted` than of `unwanted`.
        """
        if not len(wanted) or not len(unwanted):
            raise ValueError(
                f"expected prompts of both kinds, got {len(wanted)} wanted and {len(unwanted)} unwanted ones"
            )
        draft = cls(vector, site, 0.0, token)
        inside, outside = (draft.cosines(model, prompts) for prompts in (wanted, unwanted))  # (N,), (M,)
        seen = sorted(set(torch.cat([inside, outside]).tolist()))
        between = [(low + high) / 2 for low, high in pairwise(seen)]
        accuracies = [(float((inside > t).float().mean() + (outside <= t).float().mean()) / 2, t) for t in between]
        best = max((accuracy for accuracy, _ in accuracies), default=0.5)
        if best <= 0.5:
            raise ValueError(
                "expected prompts that differ along the direction, got a condition that no threshold makes open more "
                "for the wanted ones; try another site, or the direction's negative"
            )
        best_ones = [t for accuracy, t in accuracies if accuracy == best]
        if best < 0.75:
            warnings.warn(
                f"the gate decides rightly for {best:.0%} of the prompts it was fitted on (half is chance)",
                GateWarning,
                stacklevel=2,
            )
        return cls(vector, site, best_ones[len(best_ones) // 2], token, best)

    @torch.no_grad()
    def cosines(self, model: Transformer, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Of each prompt (a list of ids), the cosine of its stream with the direction, `(B,)`."""
        ids, positions = pad(prompts)
        warn_of_padding(prompts)
        device = model.device
        if len(self.vector) != model.config.width:
            raise ValueError(f"expected a direction of the model's width {model.config.width}, got {len(self.vector)}")
        tape: list[Any] = [self.site]
        model.stream(ids.to(device), tape=tape, depth=depth(model, tape))
        x: Tensor = tape[0].float().cpu()  # (B, T, D)
        if self.token == "last":
            state = x[torch.arange(len(x)), [len(p) - 1 for p in prompts]]  # (B, D)
        else:
            first = positions.amax(1, keepdim=True).clamp(max=1)  # of a prompt of one token, this one
            real = (positions >= first)[:, :, None]  # (B, T, 1)
            state = (x * real).sum(1) / real.sum(1)
        return torch.cosine_similarity(check_stream(state), self.vector.float().cpu(), dim=-1)

    def passes(self, model: Transformer, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Whether the gate opens for each prompt, `(B,)`."""
        return self.cosines(model, prompts) > self.threshold

    def over(self, model: Transformer, prompts: Sequence[Sequence[int]], steer: Steer) -> Steer:
        """`steer` for these prompts, in this order, in the rows that pass this gate and those it has passed before.

        A run on other prompts, or in another order, is refused. Warns where it opens for none, or all, of several prompts.
        """
        if not isinstance(steer, Steer):
            raise ValueError(f"expected a Steer to put after the gate, got {type(steer).__name__}")
        rows = self.passes(model, prompts).tolist()
        if len(rows) > 1 and len(set(rows)) == 1:
            warnings.warn(
                f"the gate opens for {'every one' if rows[0] else 'none'} of {len(rows)} prompts",
                GateWarning,
                stacklevel=2,
            )
        before, these = [True] * len(rows) if steer.rows is None else steer.rows, prompts_hash(prompts)
        if len(before) != len(rows):
            raise ValueError(f"expected a Steer for these {len(rows)} prompts, got one for {len(before)}")
        if steer.decided_for not in (None, these):
            raise ValueError(
                "expected a Steer that is not gated, or for these prompts, got one whose rows were decided for others; gate "
                "the Steer that it was made from"
            )
        both = [now and then for now, then in zip(rows, before, strict=True)]
        return replace(steer, rows=both, decided_for=these)
