"""What is added to the residual stream, at which site and positions and how strongly (`Steer`), and what that makes of a run.

A `Steer` is resolved against a model and its prompts once; the plan then says for each call what the model is to add:

    plan = resolve(model, steer, prompts, max_new_tokens)       # all that can be refused is refused here
    logits = model(ids, adds=plan.adds(positions))              # positions (B, T) of these tokens, -1 for padding

Letters: B rows, T tokens in this call, D width, P positions of a per-position vector.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ministeer.model import Add, Site, Sites, Transformer, call, check_add, check_site, expect, refusal
from ministeer.prompts import prompts_hash
from ministeer.receipt import Receipt
from ministeer.vectors import SteeringVector, check_tensor, kept

Where = Literal["all", "prompt", "last", "generated", "front"]
WHERES: tuple[Where, ...] = get_args(Where)
Intervention = Callable[[Tensor, Tensor], Tensor]  # stream (B, T, D), coefficients (B, T, 1) -> what to add (B, T, D)


@dataclass(frozen=True, eq=False)
class Steer:
    """Add `coeff * vector` to the stream at `site`, at the positions `where` says. It keeps copies of the tensors and lists it is
    given, except a tensor that learns (`requires_grad`), which an optimiser changes in place.

    vector: a tensor `(D,)`, or `(P, D)` with `where="front"`; of a `SteeringVector`, its tensor at `site` is taken. Or a
        function of `interventions` (project out, clamp, rotate, ...), which says itself what its coefficient means. One of your
        own, f(stream `(B, T, D)`, coefficients `(B, T, 1)`), treats each position by itself and leaves the stream as it is: T are
        the positions of one call, so a mean over them takes in the padding of shorter rows, and with a cache, where T is 1 after
        the prompt, not what came before.
    coeff: one number, or one for each row of the batch (a whole coefficient sweep in one batch).
    where: counted from each row's first token, the same with and without a cache:
        "all"; "prompt"; "last" (the last prompt token and every generated one); "generated";
        "front" (the first P tokens of the prompt, once, as ActAdd does); or a list of prompt positions.
        A vector is refused where nothing hears it: after the last attention a token's stream decides the logits after that token
        alone, and of a prompt's only those after its last are read.
    rows: whether each row is steered at all, as a `Gate` decides it; by default every one is.
    schedule: the coefficient's factor, from the number of tokens generated so far (0 in the prompt): a function of a
        tensor of such numbers, e.g. `interventions.decay(half_life=5)` or `lambda n: (n < 3) * 1.0`.
    decided_for: `prompts_hash` of the prompts that `rows` was decided for; others are then refused.
    """

    vector: Tensor | SteeringVector | Intervention
    site: Site
    coeff: float | Sequence[float] | Tensor = 1.0
    where: Where | Sequence[int] = "all"
    rows: Sequence[bool] | None = None
    schedule: Callable[[Tensor], Tensor] | None = None
    decided_for: str | None = None

    def __post_init__(self) -> None:
        learns = isinstance(self.coeff, Tensor) and self.coeff.requires_grad
        remedy = "let the vector learn, or add it by hand: model(ids, adds={site: coeff * vector})"
        expect(
            not learns, "coefficients that are numbers", "a tensor that learns, of which no gradient is kept", remedy
        )
        for name in ("vector", "coeff"):
            if isinstance(given := getattr(self, name), Tensor):
                object.__setattr__(self, name, kept(given))
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
                raise ValueError("expected a vector (P, D), one per position, for where='front', got a function")
        else:
            self._check_tensor(self.content)
        try:
            fine = not isinstance(self.coeff, str) and self.coeffs and all(math.isfinite(c) for c in self.coeffs)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(f"expected finite coefficients, a number or a list of one per row, got {self.coeff!r}")
        rows: Any = self.rows
        if rows is not None and not (isinstance(rows, Sequence) and all(isinstance(row, bool) for row in rows)):
            raise ValueError(f"expected rows as a list of True and False, one per row, got {rows!r}")
        if self.schedule is not None and not callable(self.schedule):
            raise ValueError(f"expected a schedule that is a function, such as decay(5), got {self.schedule!r}")
        for name in ("coeff", "where", "rows"):  # lists, and arrays of numpy
            object.__setattr__(self, name, copy.copy(getattr(self, name)))

    def _check_tensor(self, tensor: Any) -> None:
        check_tensor(tensor, "a vector that is a tensor of floating-point numbers")
        if 0 in tensor.shape or tensor.ndim != (2 if self.where == "front" else 1):
            wanted = "(P, D), one per position, for where='front'" if self.where == "front" else "(D,)"
            remedy = (
                "; one per position, as ActAdd makes them, goes with where='front'" if self.where != "front" else ""
            )
            raise ValueError(f"expected a vector {wanted}, got {tuple(tensor.shape)} with where={self.where!r}{remedy}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError("expected a vector of finite values, got NaN or infinity; check how it was made")

    @property
    def content(self) -> Tensor | Intervention:
        """The tensor added, or the function for it."""
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


class Plan:
    """What a run on these prompts adds, call by call. Made by `resolve`; `sites` are those it can add at."""

    def __init__(
        self, model: Transformer, steers: Sequence[Steer], prompts: list[list[int]], receipt: Receipt | None
    ) -> None:
        self.model, self.steers, self.prompts, self.receipt = model, steers, prompts, receipt
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        self.sites = list(dict.fromkeys(steer.site for steer in steers))
        self._parts = [_Part(model, steer, self.lengths) for steer in steers]

    @property
    def only_vectors(self) -> bool:
        """Whether no call runs Python of its own: no function acts, and no receipt is written."""
        return self.receipt is None and not any(callable(part.content) for part in self._parts)

    def touched(self, positions: Tensor) -> Tensor:
        """Where anything is added, `(B, T)`."""
        touched = torch.zeros(positions.shape, dtype=torch.bool)
        for steer in self.steers:
            touched |= steer.touches(positions, self.lengths)
        return touched

    def adds(self, positions: Tensor) -> dict[Site, Add]:
        """The model's `adds` for one call: a tensor that broadcasts to `(B, T, D)`, or a function where one acts.

        positions: `(B, T)`, on the CPU, of the tokens in this call, counted from each row's first, -1 for padding.
        What lies at one site acts in its order, each on what the one before it left; what touches none of these
        positions is left out. A receipt is written as the model adds.
        """
        if positions.ndim != 2 or len(positions) != len(self.prompts):
            wanted = f"positions ({len(self.prompts)}, T), a row for each prompt of the plan"
            raise refusal(wanted, tuple(positions.shape), "resolve the Steer for these prompts")
        adds: dict[Site, Add] = {}
        for part in self._parts:
            if (add := part.add(positions)) is not None:
                adds[part.site] = _then(adds[part.site], add) if part.site in adds else add
        if self.receipt is None:
            return adds
        read = torch.where(positions >= self.lengths[:, None] - 1, positions, -1)  # whose logits a run reads
        return self.receipt.watch(adds, positions, {site: read for site in adds if heard_alone(self.model, site)})

    def at(self, site: Site, x: Tensor, positions: Tensor) -> Tensor:
        """The stream `(B, T, D)` at a site -> the stream after what is added there, as the model does it."""
        return Sites(self.model, positions, self.adds(positions), None, self.model.config.n_layer).at(site, x)

    def finish(self) -> None:
        """At the end of the run: the receipt, if there is one, says what was not touched."""
        if self.receipt is not None:
            self.receipt.finish(self.sites, [steer.rows for steer in self.steers])


def resolve(
    model: Transformer,
    steer: Steer | Sequence[Steer] | Plan | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 1,
    receipt: Receipt | None = None,
) -> Plan:
    """What one `Steer`, several or none add in a run on these prompts, lists of ids. A plan for them comes back as it is.

    max_new_tokens: of the run; the last of them is never read. receipt: an empty one, which the plan then fills.

    Raises `ValueError` for what does not fit this model or these prompts: another width, a site it lacks, a value
    that its dtype cannot hold, too few rows; for one that would touch no position, or fewer than were asked for, or none whose
    logits are read; and for a gate that was decided on other prompts, or a plan made for others.
    """
    rows = [list(prompt) for prompt in prompts]
    if isinstance(steer, Plan):
        fits = steer.model is model and steer.prompts == rows
        expect(fits, "a plan for this model and these prompts", "one for others", "resolve the Steer for these")
        expect(receipt is None, "a plan or a receipt", "both", "give the receipt to resolve")
        receipt = steer.receipt
    if receipt is not None:
        receipt.begin()
    if isinstance(steer, Plan):
        for one in steer.steers:
            _check_reach(one, rows, max_new_tokens)  # the plan may be of a longer run
        return steer
    steers = [] if steer is None else list(steer) if isinstance(steer, Sequence) else [steer]
    for one in steers:
        remedy = 'write Steer(vector, ("pre", 6), 5.0)'
        expect(isinstance(one, Steer), "a Steer or several", type(one).__name__, remedy)
        _check_reach(one, rows, max_new_tokens)
        _check_heard(model, one, rows)
    return Plan(model, steers, rows, receipt)


class _Part:
    """One `Steer` of a plan, with all that stays the same from call to call."""

    def __init__(self, model: Transformer, steer: Steer, lengths: Tensor) -> None:
        self.steer, self.site, self.lengths, self.device = steer, steer.site, lengths, model.device
        self.coeffs = torch.tensor(steer.coeffs, dtype=torch.float32)[:, None]  # (B, 1) or (1, 1)
        self.content, self.tried = steer.content, False
        check_site(self.site, model.config.n_layer)
        if isinstance(self.content, Tensor):
            self.content = self.content.to(self.device)  # once, and not with every token
            # (B, 1, D) or (1, 1, D), or of a vector one per position (B, P, D) or (1, P, D)
            self.whole = self.coeffs[:, :, None].to(self.device) * self.content
            check_add(self.site, self.whole, (len(lengths), self.steer.span, model.config.width), model.dtype)
        self._strength(
            lengths[:, None], torch.ones(len(lengths), 1, dtype=torch.bool)
        )  # a schedule that is none shows now

    def add(self, positions: Tensor) -> Add | None:
        """What to add at these positions `(B, T)`; None where it is nothing.

        A tensor that broadcasts to `(B, T, D)`, or of a function one that takes the stream `(B, T, D)`.
        """
        touched = self.steer.touches(positions, self.lengths)  # (B, T)
        if not bool(touched.any()):
            return None
        mask = touched[:, :, None].to(self.device)
        if not isinstance(self.content, Tensor):
            return self._function(mask, self._strength(positions, touched))
        if self.steer.schedule is not None:
            return self._strength(positions, touched) * self._per_position(self.content[None], positions)
        whole = self._per_position(self.whole, positions)
        return whole if bool(touched.all()) else torch.where(mask, whole, 0.0)

    def _per_position(self, x: Tensor, positions: Tensor) -> Tensor:
        """Of a vector one per position, `(B, P, D)`, those of these positions, `(B, T, D)`; any other as it is."""
        if self.steer.where != "front":
            return x
        at = positions.clamp(0, self.steer.span - 1).to(x.device)  # (B, T)
        rows = torch.arange(len(at), device=x.device)[:, None] if len(x) > 1 else 0
        return x[rows, at]

    def _strength(self, positions: Tensor, touched: Tensor) -> Tensor:
        """The coefficient of each position, `(B, T, 1)`, 0 where nothing is touched."""
        coeffs = self.coeffs
        if self.steer.schedule is not None:
            coeffs = coeffs * _factor(
                self.steer.schedule, (positions - self.lengths[:, None] + 1).clamp(min=0)
            )  # (B, T)
        # never a product with the mask: 0 times what a schedule or a function makes of other positions can be NaN
        return torch.where(touched, coeffs, 0.0)[:, :, None].to(self.device)

    def _function(self, mask: Tensor, strength: Tensor) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            if not self.tried:  # once: what it adds is asked of the stream it really meets
                self.tried = True
                with torch.no_grad():
                    still = torch.equal(_called(self.content, x, torch.zeros_like(strength)), x) and bool(x.any())
                remedy = "return what to add: c * v in place of x + c * v"
                expect(
                    not still,
                    "a function that adds nothing at coefficient 0",
                    "one that adds the stream itself",
                    remedy,
                )
            return torch.where(mask, _called(self.content, x, strength), 0.0)

        return add


def _factor(schedule: Any, generated: Tensor) -> Tensor:
    try:
        found = schedule(generated)
    except (TypeError, ValueError, RuntimeError) as error:
        found = error
    if isinstance(found, (int, float)):
        return torch.full(generated.shape, float(found), dtype=torch.float32)
    if not isinstance(found, Tensor) or found.shape != generated.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
        raise ValueError(
            f"expected a schedule that makes a tensor of counts {tuple(generated.shape)} into one of factors, such as "
            f"decay(half_life=5) or lambda n: (n < 3) * 1.0, got {got}"
        )
    return found


def _called(function: Any, x: Tensor, strength: Tensor) -> Tensor:
    try:
        delta = call(function, x, strength)
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


def _check_reach(steer: Steer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise `ValueError` if in some row of such a run nothing, or less than was asked for, would be steered."""
    shortest, n, coeffs, rows = min(map(len, prompts), default=0), len(prompts), len(steer.coeffs), steer.rows
    expect(shortest > 0, "one prompt or more, each of one token or more", f"{n} prompts")
    remedy = "to sweep one prompt, give it once for each"
    expect(coeffs in (1, n), f"one coefficient, or one for each of {n} rows", coeffs, remedy)
    if rows is not None:
        expect(len(rows) == n, f"a decision for each of {n} rows", len(rows), "decide on these prompts")
    if steer.decided_for is not None:
        wanted, remedy = (
            "the prompts that the gate decided on, in their order",
            "write gate.over(model, prompts, steer) for these",
        )
        expect(steer.decided_for == prompts_hash(prompts), wanted, "others", remedy)
    wanted = f"prompts of at least {steer.span} tokens, the positions of the vector"
    remedy = "lengthen it, or begin it with tok.bos, as the texts of the vector do"
    expect(steer.span <= shortest, wanted, f"one of {shortest}", remedy)
    if steer.where == "generated":
        remedy = "where='generated' touches no position in a run of one new token, use where='last'"
        expect(max_new_tokens > 1, "a run of two new tokens or more", max_new_tokens, remedy)
    if not isinstance(steer.where, str):
        expect(max(steer.where) < shortest, f"positions below {shortest}, the shortest prompt", list(steer.where))


def heard_alone(model: Transformer, site: Site) -> bool:
    """Whether no later token looks back at what is added there, as it is after the last attention."""
    return site in (("mid", model.config.n_layer - 1), ("pre", model.config.n_layer))


def _check_heard(model: Transformer, steer: Steer, prompts: Sequence[Sequence[int]]) -> None:
    """Raise `ValueError` if in some row what is added changes no logit that is read."""
    if not heard_alone(model, steer.site) or isinstance(steer.where, str) and steer.where != "front":
        return
    at = range(steer.span) if isinstance(steer.where, str) else steer.where
    rows = steer.rows or [True] * len(prompts)
    unheard = [
        len(prompt) for prompt, steered in zip(prompts, rows, strict=True) if steered and len(prompt) - 1 not in at
    ]
    expect(
        not unheard,
        f"a Steer at {steer.site} to reach the last token of every prompt, as no later one looks back there",
        f"positions {list(at)} of a prompt of {unheard[:1]} tokens",
        "steer at a block below, or with where='last'",
    )


def _then(first: Add, second: Add) -> Add:
    """One add that does two, the second to what the first left."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first + second.to(first.device)

    def both(x: Tensor) -> Tensor:
        left = first.to(x) if isinstance(first, Tensor) else first(x)
        y = x.float() + left.float()
        return left.float() + (second.to(y) if isinstance(second, Tensor) else second(y).float())

    return both
