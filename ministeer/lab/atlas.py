"""What an atlas of behaviours says: whether a vector's health, known before anything is steered, tells how well it steers.

The claims are the atlas's own, apart from those of the paper: fixed and hashed before a model is measured, judged by rules of their own,
which `EXPLAINED` says. Letters: B behaviours, F families of them, P predictors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

import numpy as np

from ministeer.lab.claims import CANNOT, Claim, Verdict, decide
from ministeer.lab.intervals import Interval
from ministeer.metrics import Array, tails
from ministeer.model import expect

Row = Mapping[str, Any]
EXPERIMENT = "12_public_behaviours"
PREDICTORS = ("agreement", "separation")  # of the training statements, at the chosen layer
OUTCOMES = {"steerability": 1.0, "wrong": -1.0}  # of the held-out pairs, and which way a good vector moves it
RANK, ERROR = "rank correlation", "share of the squared error"
ABOVE = {RANK: 0.3, ERROR: 0.1}  # fixed before any run
NAMED = {"steerability": "how far a behaviour can be steered", "wrong": "how few pairs move the wrong way"}
CLAIMS = (
    *(
        Claim(
            f"{predictor}_{outcome}", EXPERIMENT, f"{predictor.capitalize()} tells {said}",
            f"rank correlation over behaviours of {predictor} with {'the share moved the right way' if outcome == 'wrong' else outcome}",
            RANK, ABOVE[RANK],
        )
        for outcome, said in NAMED.items() for predictor in PREDICTORS
    ),
    *(
        Claim(
            f"both_{outcome}", EXPERIMENT, f"Both together foretell {said}, of families not seen",
            f"squared error of the mean of the other families in foretelling {'the share moved the wrong way' if outcome == 'wrong' else outcome}, "
            "less that of a straight line in agreement and separation",
            ERROR, ABOVE[ERROR],
        )
        for outcome, said in NAMED.items()
    ),
)  # fmt: skip
LEVEL = 1 - 0.05 / len(CLAIMS)
FEWEST = 16  # behaviours, of four families, below which nothing is told
DRAWS = 4000
METHOD = "rank correlation: Fisher with Bonett and Wright's error over behaviours, or the bootstrap over families where it is wider; error: the bootstrap over families"
EXPLAINED = (
    f"Behaviours of one family (desire-..., willingness-...) resemble each other, so intervals are over families: the bootstrap's, and for rank correlations never narrower than "
    f"Fisher's over single behaviours. Supported: the whole interval lies above the number, {ABOVE[RANK]:g} for a {RANK} and {ABOVE[ERROR]:g} for a {ERROR}. Not supported: none of it "
    f"does. Cannot be told here: fewer than {FEWEST} behaviours, or all come out the same. Inconclusive: all else. Intervals are at 1 - 0.05 / {len(CLAIMS)}, so that they hold for "
    "all these claims together."
)


def frozen() -> str:
    """SHA-256 of what decides the atlas's verdicts."""
    rules = {"level": LEVEL, "fewest": FEWEST, "draws": DRAWS, "method": METHOD, "claims": [asdict(c) for c in CLAIMS]}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """What the rows of `behaviours.summary`, at the chosen layers, say of each claim."""
    chosen = [row for row in rows if row["chosen"]]
    expect(len({row["behaviour"] for row in chosen}) == len(chosen), "one chosen layer for each behaviour", "several")
    return [_judge(claim, chosen) for claim in CLAIMS]


def correlations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How the predictors and the outcomes go together at each layer and at the chosen one, beside what holds for the claims: rank correlations over behaviours.

    Also of the outcomes per token and for the vector as it is, and with two other predictors: whether the model prefers matching statements
    unsteered, and the slope on training pairs, which is steering itself, and says what could be told at the best.
    """
    found = []
    for at in ["chosen", *sorted({row["layer"] for row in rows})]:
        some = [row for row in rows if (row["chosen"] if at == "chosen" else row["layer"] == at)]
        for predictor in (*PREDICTORS, "preferred", "tried"):
            one: dict[str, Any] = {"layer": at, "predictor": predictor}
            for outcome in (*OUTCOMES, "per_token", "per_vector"):
                one[outcome] = OUTCOMES.get(outcome, 1.0) * spearman(_of(some, predictor), _of(some, outcome))
            found.append(one)
    return found


def alike(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """How far two runs agree on the behaviours that both measured, each at its chosen layer, as a sentence."""
    known = {row["behaviour"]: row for row in others if row["chosen"]}
    pairs = [(row, known[row["behaviour"]]) for row in rows if row["chosen"] and row["behaviour"] in known]
    families = [row["family"] for row, _ in pairs]
    expect(
        len(pairs) > 3 and len(set(families)) > 1, "another run with behaviours of this one, of two families or more",
        f"{len(pairs)} of them", "give its rows.json",
    )  # fmt: skip
    here, there = (np.array([pair[k]["steerability"] for pair in pairs]) for k in (0, 1))
    effect, low, high = rank_correlation(here, there, families, 0.95)
    return (
        f"Of the {len(pairs)} behaviours that the other run has too, a tenth moves {here.mean():.2f} nats on average here and {there.mean():.2f} there; "
        f"rank correlation {effect:.2f} [{low:.2f}, {high:.2f}]."
    )


def spearman(x: Array, y: Array) -> float:
    """Rank correlation, ties at their mean rank; 0 where one of them does not vary."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    size = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def rank_correlation(x: Array, y: Array, groups: Sequence[Any], level: float, *, seed: int = 0) -> Interval:
    """Rank correlation over B behaviours, and its interval: the wider of two at each end.

    Fisher's z with the standard error of Bonett and Wright (2000), sqrt((1 + r^2 / 2) / (B - 3)), as if behaviours were independent; and the percentiles
    of resampled families, further out for few as in `metrics.bootstrap`. Of 400 samples with about the families of the 135 sets, where these make 0 / 30 / 60 %
    of the variance, it misses at 95 % (0.025 nominal a side) on the worse side 0.015 / 0.025 / 0.033, and Fisher's alone 0.023 / 0.073 / 0.18; a test draws
    a hundred.
    """
    effect, families = spearman(x, y), _members(groups)
    r = min(max(effect, -1 + 1e-12), 1 - 1e-12)
    off = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + r * r / 2) / max(len(x) - 3, 1))
    picks = np.random.default_rng(seed).integers(0, len(families), (DRAWS, len(families)))
    draws = [spearman(x[i], y[i]) for i in (np.concatenate([families[k] for k in pick]) for pick in picks)]
    low, high = np.quantile(draws, tails(len(families), level))
    return effect, min(float(low), math.tanh(math.atanh(r) - off)), max(float(high), math.tanh(math.atanh(r) + off))


def foretold(x: Array, y: Array, groups: Sequence[Any], level: float, *, seed: int = 0) -> Interval:
    """The share of the squared error of foretelling y `(B,)` by a mean that a straight line in x `(B, P)` takes away, and its interval.

    Each family is foretold by the others: the mean is theirs, and the line by least squares too. At most 1; below 0 the line does worse than the mean.
    The interval is the bootstrap's over families, of the errors made.
    """
    families = _members(groups)
    errors = []  # of each family: by the line, by the mean
    for mine in families:
        others = np.setdiff1d(np.arange(len(y)), mine)
        line, *_ = np.linalg.lstsq(_with_one(x[others]), y[others], rcond=None)
        errors.append([((y[mine] - _with_one(x[mine]) @ line) ** 2).sum(), ((y[mine] - y[others].mean()) ** 2).sum()])
    picks = np.random.default_rng(seed).integers(0, len(families), (DRAWS, len(families)))
    by_line, by_mean = np.moveaxis(np.array(errors)[picks].sum(1), -1, 0)  # (draws,)
    low, high = np.quantile(1 - by_line / np.where(by_mean > 0, by_mean, np.inf), tails(len(families), level))
    by_line, by_mean = np.array(errors).sum(0)
    return float(1 - by_line / by_mean), float(low), float(high)


def _judge(claim: Claim, rows: Sequence[Row]) -> Verdict:
    predictor, outcome = claim.key.split("_")
    families = [row["family"] for row in rows]
    if len(rows) < FEWEST or len(set(families)) < 4:
        told = f"too few: {len(rows)} behaviours of {len(set(families))} families, where {FEWEST} of 4 are needed"
        return Verdict(claim, CANNOT, {}, told)
    y = OUTCOMES[outcome] * _of(rows, outcome)
    x = np.stack([_of(rows, name) for name in (PREDICTORS if predictor == "both" else [predictor])], 1)  # (B, P)
    if not y.std() or not x.std(0).all():
        return Verdict(claim, CANNOT, {}, "only one outcome is possible: all behaviours come out the same")
    if predictor == "both":
        effect = foretold(x, y, families, LEVEL)
    else:
        effect = rank_correlation(x[:, 0], y, families, LEVEL)
    word, told = decide(claim, effect)
    return Verdict(claim, word, {"all": effect}, f"{told}, over {len(rows)} behaviours")


def _of(rows: Sequence[Row], name: str) -> Array:
    return np.array([row[name] for row in rows], dtype=np.float64)


def _centred_ranks(x: Array) -> Array:
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[which] - (len(x) + 1) / 2
    return ranks


def _members(groups: Sequence[Any]) -> list[Any]:
    """The numbers of each family's behaviours."""
    labels = np.array([str(group) for group in groups])
    return [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]


def _with_one(x: Array) -> Array:
    return np.column_stack([np.ones(len(x)), x])
