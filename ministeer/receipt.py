"""What a steered run did: which sites, rows and positions were touched, and how much was added there.

    receipt = Receipt()
    generate(model, ids, max_new_tokens=20, steer=steer, receipt=receipt)
    print(receipt)

It is read off the tensors added, not off the request; what cannot reach a logit that was read is not counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ministeer.model import Add, Site, refusal


class GateWarning(UserWarning):
    """A condition that opens for no row, for every row, or often for the wrong ones."""


@dataclass
class Touched:
    """What happened at one site. A position is one token of one row, read by the model."""

    positions: int = 0
    rows: set[int] = field(default_factory=set)
    first: int = 0  # lowest and highest position touched
    last: int = 0
    total: float = 0.0  # sum over positions of |what was added| / |the stream before|
    largest: float = 0.0  # the largest of these


class Receipt:
    """Filled by the one run that is given it: `generate` or `prefill`, or by `watch` in a loop of one's own. Print it."""

    def __init__(self) -> None:
        self.sites: dict[Site, Touched] = {}
        self.positions = 0  # read by the model in all
        self.rows = 0
        self.gates: list[Sequence[bool]] = []

    def __str__(self) -> str:
        said = []
        for (name, layer), t in self.sites.items():
            if not t.positions:
                said.append(f"{name} {layer}: nothing")
                continue
            said.append(
                f"{name} {layer}: {t.positions} of {self.positions} positions ({t.first} to {t.last}) "
                f"in {len(t.rows)} of {self.rows} rows, added {t.total / t.positions:.3g} of the stream's norm"
                + (f" (at most {t.largest:.3g})" if t.positions > 1 else "")
            )
        said += [f"gate open in {sum(rows)} of {len(rows)} rows" for rows in self.gates]
        return "; ".join(said) or "nothing was touched"

    def watch(
        self, adds: Mapping[Site, Add], positions: Tensor, heard: Mapping[Site, Tensor] | None = None
    ) -> dict[Site, Add]:
        """The same `adds` for one call of the model, written down as they act. positions: `(B, T)`, -1 for padding.

        heard: for a site where not all of them reach a logit that is read, those that do; -1 for the others.
        """
        if not isinstance(positions, Tensor) or positions.ndim != 2:
            got = tuple(positions.shape) if isinstance(positions, Tensor) else type(positions).__name__
            raise refusal("positions as a tensor (B, T), -1 for padding", got)
        self.positions += int((positions >= 0).sum())
        self.rows = max(self.rows, len(positions))
        return {site: self._watched(site, add, (heard or {}).get(site, positions)) for site, add in adds.items()}

    def _watched(self, site: Site, add: Add, positions: Tensor) -> Callable[[Tensor], Tensor]:
        def write_down(x: Tensor) -> Tensor:
            delta = add(x) if callable(add) else add.to(x)
            moved = (x + delta.to(x)).float() - x.float()  # less than delta, where the dtype rounds it away
            added = moved.detach().norm(dim=-1).cpu()  # (B, T)
            touched = (added > 0) & (positions >= 0)
            if bool(touched.any()):
                share = (added / x.detach().float().norm(dim=-1).cpu())[touched]
                here = positions[touched]
                t = self.sites.setdefault(site, Touched(first=int(here.min())))
                t.positions += len(here)
                t.rows |= set(torch.nonzero(touched)[:, 0].tolist())
                t.first = min(t.first, int(here.min()))
                t.last = max(t.last, int(here.max()))
                t.total += float(share.sum())
                t.largest = max(t.largest, float(share.max()))
            return delta

        return write_down

    def begin(self) -> None:
        """Raise `ValueError` if an earlier run was written down here: it would hide that this one touched nothing."""
        if self.positions:
            raise refusal("a receipt of its own for each run", "one that is filled", "make a new Receipt()")

    def finish(self, sites: Sequence[Site], gates: Sequence[Sequence[bool] | None]) -> None:
        """At the end of a run with interventions at these sites: note what the gate of each decided, None where it has none.

        A run in which nothing was touched raises `ValueError`.
        """
        self.gates += [rows for rows in gates if rows is not None]
        if self.sites:
            for site in sites:
                self.sites.setdefault(site, Touched())
            return
        if gates and all(rows is not None and not any(rows) for rows in gates):
            warnings.warn("the gate opened in no row, so nothing was steered", GateWarning, stacklevel=4)
            return
        if not gates:
            raise refusal("a steered run for a receipt", "one without a Steer", "leave the receipt out")
        remedy = "is the coefficient 0, or the vector, or what the function makes of this stream?"
        raise refusal("a run that touches the stream", "one in which nothing was added", remedy)
