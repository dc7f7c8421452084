"""What is gained against what is lost along a range of doses, compared where as much is gained; and what a gate changes in it.

A dose says little: of two vectors, or of one with and without a gate, each has its own scale. So what is kept is read where the gain is the
same. A gate that never opens, or half a dose, then has no advantage.

Letters: I items, N subjects, C doses, beginning with 0.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ministeer.lab import facts
from ministeer.lab.experiment import Experiment
from ministeer.lab.pronouns import Chosen, by_subject, falls, halves, odds, plainly, prompts
from ministeer.lab.protocol import Item
from ministeer.metrics import Array

LEAST = 0.1  # share of the spread that steering must remove, else nothing can be told of its price or of a gate


def at(gains: Sequence[float] | Array, along: Sequence[float] | Array, gain: float) -> Array:
    """What `along` (..., C) is where the gains (C,) first reach a gain, or first are at their highest if they never do; (...,).
    Between doses it is a straight line."""
    of, values = np.asarray(gains, dtype=np.float64), np.asarray(along, dtype=np.float64)
    wanted = min(gain, float(of.max()))
    k = int(np.flatnonzero(of >= wanted)[0])
    share = (wanted - of[k - 1]) / (of[k] - of[k - 1]) if k else 0.0
    found: Array = values[..., max(k - 1, 0)] + share * (values[..., k] - values[..., max(k - 1, 0)])
    return found


def removed(lab: Experiment, way: Chosen, doses: Sequence[float], *, seed: int = 0) -> Array:
    """The share of the spread that a draw of a vector removes at these doses, (C,), in held-out templates of the half of the occupations
    that nothing was chosen on."""
    jobs = prompts(list(halves(lab)[1]), "heldout")
    before = odds(plainly(lab, jobs), jobs)
    found: Array = falls(before[:, None], odds(way.asked(lab, jobs, doses, seed=seed), jobs)).mean(0)
    return found


def costs(
    lab: Experiment,
    way: Chosen,
    shares: Sequence[float],
    asked: Mapping[str, Sequence[Item]],
    before: Mapping[str, Array],
) -> list[dict[str, Any]]:
    """What a way of steering costs at its own dose, then where it removes these shares of the spread, or the most that it ever does: a row
    of `facts.costs` and `facts.unrelated` each."""
    grid = [0.0, *way.way.doses]
    curve = removed(lab, way, grid)
    doses = [way.dose, *(float(at(curve, grid, share)) for share in shares)]
    gone = [float(curve[grid.index(way.dose)]), *(min(share, float(curve.max())) for share in shares)]
    logp = {name: way.asked(lab, items, doses) for name, items in asked.items()}  # (I, C, W)
    text = facts.unrelated(lab, way.settings(way.way.make(lab, 0), [0.0, *doses]))[1:]
    return [
        {
            "steered": way.way.name,
            "removed": gone[k],
            "dose": dose,
            **facts.costs(before, {name: x[:, k] for name, x in logp.items()}),
            **text[k],
        }
        for k, dose in enumerate(doses)
    ]


@dataclass(frozen=True)
class TradeOff:
    """Steering along a range of doses: of occupations the share of the spread that is removed, of nouns whose meaning fixes the pronoun how
    much of the right one's probability is kept.

    items: of "jobs" and "nouns", as `pronouns.prompts` and `pronouns.definitional` make them. logp: of both, (I, C, 2), unsteered first.
    """

    items: Mapping[str, Sequence[Item]]
    logp: Mapping[str, Array]

    def _run(self, logp: Mapping[str, Array]) -> tuple[float, Array]:
        before = odds(self.logp["jobs"][:, 0], self.items["jobs"])
        removed = falls(before, odds(logp["jobs"], self.items["jobs"])).mean()
        return float(removed), by_subject(facts.truth(logp["nouns"]), self.items["nouns"])

    def everywhere(self, k: int) -> tuple[float, Array]:
        """(removed, kept (N,)) at the k-th dose."""
        return self._run({name: logp[:, k] for name, logp in self.logp.items()})

    def through(self, opens: Mapping[str, Array], k: int) -> tuple[float, Array]:
        """The same where only those items are steered for which a gate opens, (I,) of "jobs" and "nouns"."""
        return self._run(
            {name: np.where(opens[name][:, None], logp[:, k], logp[:, 0]) for name, logp in self.logp.items()}
        )

    def curve(self) -> tuple[Array, Array]:
        """Removed (C,) and kept (N, C) at all doses."""
        removed, kept = zip(*(self.everywhere(k) for k in range(self.logp["jobs"].shape[1])), strict=True)
        return np.array(removed), np.stack(kept, -1)

    def row(self, name: str, run: tuple[float, Array], opens: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Of what `everywhere` or `through` found, the means, for which share of the items it opened, and `beyond`."""
        removed, kept = run
        share = {} if opens is None else {f"opens for {what}": float(of.mean()) for what, of in opens.items()}
        beyond = float(self.beyond(removed, kept).mean())
        return {"": name, **share, "removed": removed, "kept": float(kept.mean()), "beyond steering everywhere": beyond}

    def beyond(self, removed: float, kept: Array) -> Array:
        """By how much more of each noun is kept than by steering everywhere at the dose that removes as much, (N,)."""
        gains, along = self.curve()
        return kept - at(gains, along, removed)


def measured(
    lab: Experiment, way: Chosen, items: Mapping[str, Sequence[Item]], doses: Sequence[float], seed: int
) -> TradeOff:
    """A draw of a vector at doses that begin with 0."""
    return TradeOff(items, {name: way.asked(lab, some, doses, seed=seed) for name, some in items.items()})


def by_chance(opens: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """Gates that open for as many items, drawn at random."""
    found, rng = [], random.Random(0)
    flags = [bool(flag) for of in opens.values() for flag in of]
    ends = np.cumsum([len(of) for of in opens.values()])[:-1]
    for _ in range(count):
        rng.shuffle(flags)
        found.append(dict(zip(opens, np.split(np.array(flags), ends), strict=True)))
    return found


def void(removed: Sequence[float]) -> str | None:
    """Why nothing can be told of the price of steering, or of a gate, where so little of the spread goes, by draw of the vector; None
    where something can."""
    told = f"the steering removes {min(removed):.2f} of the spread, less than {LEAST:g}: it hardly steers"
    return told if min(removed) < LEAST else None
