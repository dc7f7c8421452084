"""What a run adds to the residual stream: which vector or function, at which site and positions, how strongly (`Steer`).

Letters: B rows, T tokens in this call, D width, P positions of a per-position vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ministeer.model import Add, Site
from ministeer.prompts import prompts_hash
from ministeer.vectors import SteeringVector

WHERES = ("all", "prompt", "last", "generated", "front")
Intervention = Callable[[Tensor, Tensor], Tensor]  # stream (B, T, D), coefficients (B, T, 1) -> what to add (B, T, D)


@dataclass(frozen=True, eq=False)
class Steer:
    """Add `coeff * vector` to the stream at `site`, at the positions `where` says.

    vector: a tensor `(D,)`, or `(P, D)` with `where="front"`; of a `SteeringVector`, its tensor at `site` is taken. Or a
        function of `interventions` (project out, clamp, rotate, ...), which says itself what its coefficient means.
    coeff: one number, or one for each row of the batch (a whole coefficient sweep in one batch).
    where: counted from each row's first token, the same with and without a cache:
        "all"; "prompt"; "last" (the last prompt token and every generated one); "generated";
        "front" (the first P tokens of the prompt, once, as ActAdd does); or a list of prompt positions.
    rows: whether each row is steered at all, as a `Gate` decides it; by default every one is.
    schedule: the coefficient's factor, from the number of tokens generated so far (0 in the prompt): a function of a
        tensor of such numbers, e.g. `interventions.decay(half_life=5)` or `lambda n: (n < 3) * 1.0`.
    decided_for: `prompts_hash` of the prompts that `rows` was decided for; others are then refused.
    """

    vector: Tensor | SteeringVector | Intervention
    site: Site
    coeff: float | Sequence[float] | Tensor = 1.0
    where: str | Sequence[int] = "all"
    rows: Sequence[bool] | None = None
    schedule: Callable[[Tensor], Tensor] | None = None
    decided_for: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.where, str):
            if self.where not in WHERES:
                raise ValueError(f"expected where to be one of {WHERES} or a list of positions, got {self.where!r}")
        elif (
            not isinstance(self.where, Sequence)
            or not self.where
            or any(type(p) is not int or p < 0 for p in self.where)
        ):  # bool is no int here: a list of them is a mask, not positions
            raise ValueError(
                f"expected where to be one of {WHERES} or a list of prompt positions counted from 0, got {self.where!r}; "
                "for the last token use where='last'"
            )
        if not isinstance(self.site, tuple):
            raise ValueError(f'expected a site ("pre", i) or ("mid", i), got {self.site!r}')
        if callable(self.content):
            if self.where == "front":
                raise ValueError("expected a vector (P, D), one a position, for where='front', got a function")
        else:
            self._check_tensor(self.content)
        try:
            fine = not isinstance(self.coeff, str) and self.coeffs and all(math.isfinite(c) for c in self.coeffs)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(f"expected finite coefficients, a number or a list of one a row, got {self.coeff!r}")
        rows: Any = self.rows
        if rows is not None and not (isinstance(rows, Sequence) and all(isinstance(row, bool) for row in rows)):
            raise ValueError(f"expected rows as a list of True and False, one a row, got {rows!r}")
        if self.schedule is not None and not callable(self.schedule):
            raise ValueError(f"expected a schedule that is a function, such as decay(5), got {self.schedule!r}")

    def _check_tensor(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"expected a vector that is a tensor of floating-point numbers, got {got}")
        if 0 in tensor.shape or tensor.ndim != (2 if self.where == "front" else 1):
            wanted = "(P, D), one a position, for where='front'" if self.where == "front" else "(D,)"
            remedy = "; one a position, as ActAdd makes them, goes with where='front'" if self.where != "front" else ""
            raise ValueError(f"expected a vector {wanted}, got {tuple(tensor.shape)} with where={self.where!r}{remedy}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError("expected a vector of finite values, got NaN or infinity; check how it was made")

    @property
    def content(self) -> Tensor | Intervention:
        """The tensor or the function that is added by."""
        return self.vector[self.site] if isinstance(self.vector, SteeringVector) else self.vector

    @property
    def coeffs(self) -> list[float]:
        given: Any = self.coeff.tolist() if hasattr(self.coeff, "tolist") else self.coeff  # of torch, of numpy
        return list(map(float, given)) if isinstance(given, Sequence) else [float(given)]

    @property
    def span(self) -> int:
        """P of a vector for where="front", else 1."""
        return len(self.content) if isinstance(self.content, Tensor) and self.where == "front" else 1

    def touches(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """Which positions are steered, `(B, T)`: of absolute `positions` `(B, T)`, -1 for padding, in rows whose
        prompts have `lengths` `(B,)` tokens."""
        prompt = lengths[:, None]  # (B, 1)
        if self.where == "all":
            touched = positions >= 0
        elif self.where == "prompt":
            touched = (positions >= 0) & (positions < prompt)
        elif self.where == "last":
            touched = positions >= prompt - 1
        elif self.where == "generated":
            touched = positions >= prompt
        elif self.where == "front":
            touched = (positions >= 0) & (positions < self.span)
        else:
            touched = torch.isin(positions, torch.tensor(list(self.where)))
        return touched if self.rows is None else touched & torch.tensor(list(self.rows))[:, None]

    def add(self, positions: Tensor, lengths: Tensor) -> Add:
        """What to add at these `positions` of prompts of these `lengths`, as in `touches`; zero where nothing is.

        A tensor `(B, T, D)`, or of a function one that takes the stream `(B, T, D)`.
        """
        touched = self.touches(positions, lengths)  # (B, T)
        coeffs = torch.tensor(self.coeffs, dtype=torch.float32)[:, None]  # (B, 1) or (1, 1)
        if self.schedule is not None:
            coeffs = coeffs * self._factor((positions - lengths[:, None] + 1).clamp(min=0))  # (B, T)
        # never a product with the mask: 0 times what a schedule or a function makes of other positions can be NaN
        strength = torch.where(touched, coeffs, 0.0)[:, :, None]  # (B, T, 1)
        content = self.content
        if isinstance(content, Tensor):
            if self.where == "front":
                content = content[positions.clamp(0, self.span - 1).to(content.device)]  # (P, D) -> (B, T, D)
            return strength.to(content.device) * content  # (B, T, 1) * (D,) -> (B, T, D)

        def add(x: Tensor) -> Tensor:
            return torch.where(touched[:, :, None].to(x.device), self._called(content, x, strength.to(x.device)), 0.0)

        return add

    def _factor(self, generated: Tensor) -> Tensor:
        schedule: Any = self.schedule
        try:
            found = schedule(generated)
        except (TypeError, ValueError, RuntimeError) as error:
            found = error
        if isinstance(found, (int, float)):
            return torch.full(generated.shape, float(found))
        if not isinstance(found, Tensor) or found.shape != generated.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
            raise ValueError(
                f"expected a schedule that makes a tensor of counts {tuple(generated.shape)} into one of factors, such as "
                f"decay(half_life=5) or lambda n: (n < 3) * 1.0, got {got}"
            )
        return found

    @staticmethod
    def _called(function: Any, x: Tensor, strength: Tensor) -> Tensor:
        try:
            delta = function(x, strength)
        except TypeError as error:
            raise ValueError(
                f"expected a function f(stream, coefficient), such as project_out(vector), got one that cannot be called so ({error})"
            ) from error
        if not isinstance(delta, Tensor):
            raise ValueError(f"expected a function that returns what to add, a tensor, got {type(delta).__name__}")
        fits = delta.ndim <= x.ndim and all(d in (1, n) for d, n in zip(delta.shape[::-1], x.shape[::-1]))
        if not fits or delta.shape[-1:] != x.shape[-1:]:
            raise ValueError(
                f"expected a function that makes the stream {tuple(x.shape)} a tensor to add to it, ({x.shape[-1]},) or more, "
                f"got {tuple(delta.shape)}"
            )
        return delta

    def check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Raise `ValueError` if in some row of such a run nothing, or less than was asked for, would be steered."""
        lengths = [len(prompt) for prompt in prompts]
        shortest = min(lengths)
        if len(self.coeffs) not in (1, len(lengths)):
            raise ValueError(
                f"expected one coefficient, or one for each of {len(lengths)} rows, got {len(self.coeffs)}; "
                "to sweep one prompt, give it once for each"
            )
        if self.rows is not None and len(self.rows) != len(lengths):
            raise ValueError(
                f"expected a decision for each of {len(lengths)} rows, got {len(self.rows)}; decide on these prompts"
            )
        if self.decided_for is not None and self.decided_for != prompts_hash(prompts):
            raise ValueError(
                "expected the prompts that the gate decided on, in their order, got others; write gate.over(model, prompts, steer) "
                "for these"
            )
        if self.span > shortest:
            raise ValueError(
                f"expected prompts of at least {self.span} tokens, the positions of the vector, got one of "
                f"{shortest}; lengthen it, or begin it with the end-of-text token the vector was read behind"
            )
        if self.where == "generated" and max_new_tokens < 2:
            raise ValueError(
                "where='generated' touches no position in a run of one new token, which is read off the prompt; "
                "use where='last'"
            )
        if not isinstance(self.where, str) and max(self.where) >= shortest:
            raise ValueError(f"expected positions below {shortest}, the shortest prompt, got {list(self.where)}")


def adds_at(steers: Sequence[Steer], positions: Tensor, lengths: Tensor) -> dict[Site, Add]:
    """The model's `adds` for several interventions: `{site: (B, T, D)}`, or a function where one of them is.

    positions: `(B, T)`, on the CPU, of the tokens in this call, -1 for padding. lengths: `(B,)`, of the prompts.
    Those at one site act in their order, each on what the ones before it left. An intervention that touches none of
    these positions is left out.
    """
    adds: dict[Site, Add] = {}
    for steer in steers:
        if bool(steer.touches(positions, lengths).any()):
            add = steer.add(positions, lengths)
            adds[steer.site] = _then(adds[steer.site], add) if steer.site in adds else add
    return adds


def _then(first: Add, second: Add) -> Add:
    """One add that does two, the second to what the first left."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first + second.to(first.device)

    def both(x: Tensor) -> Tensor:
        left = first.to(x) if isinstance(first, Tensor) else first(x)
        y = x.float() + left.float()
        return left.float() + (second.to(y) if isinstance(second, Tensor) else second(y).float())

    return both
