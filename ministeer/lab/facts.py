"""Facts, and nouns whose meaning fixes the pronoun: what steering for something else should leave as it is, and what it costs them.

Of both the right answer is the first of an item's words. Letters: I items, C doses, V vectors, W answers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ministeer.lab import data
from ministeer.lab.answers import disturbance
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item
from ministeer.metrics import Array, group_means


def prompts(lab: Experiment, most: int | None = None) -> list[Item]:
    """The facts that this model can be asked as prompts, the true answer first among four; of each relation all, or those with
    the shortest answers, which are soon scored: as many as have `most` tokens of answers together, and two at least."""
    rows, words = data.facts(lab.tokenizer), ("right", "wrong1", "wrong2", "wrong3")

    def tokens(row: Mapping[str, str]) -> int:
        return sum(len(lab.tokenizer.continuation(f" {row[k]}")) for k in words)

    if most is not None:
        rng = random.Random(0)
        of: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            of.setdefault(row["relation"], []).append(row)
        rows = []
        for some in of.values():
            shortest = sorted(rng.sample(some, len(some)), key=tokens)
            rows += shortest[: max(2, sum(total <= most for total in accumulate(map(tokens, shortest))))]
    return [
        {"prompt": row["prompt"], "words": [f" {row[k]}" for k in words], "relation": row["relation"]}
        for row in lab.part(rows)
    ]


def truth(logp: Array) -> Array:
    """The probability of the right answer among an item's answers, (I, ..., W) -> (I, ...)."""
    p = np.exp(logp - logp.max(-1, keepdims=True))
    found: Array = p[..., 0] / p.sum(-1)
    return found


def right(logp: Array) -> Array:
    """Whether the right answer is the likeliest of an item's, 1 or 0, (I, ..., W) -> (I, ...)."""
    found: Array = (logp[..., 0] >= logp.max(-1)).astype(float)
    return found


def accuracy(items: Sequence[Item], logp: Array) -> list[dict[str, object]]:
    """Of each relation how many facts there are, how often the true answer is the likeliest of four, and its mean probability, unsteered."""
    relations = [item["relation"] for item in items]
    rows = []
    for name in sorted(set(relations)):
        mine = np.array([relation == name for relation in relations])
        rows.append(
            {
                "relation": name,
                "facts": int(mine.sum()),
                "right": float(right(logp[mine]).mean()),
                "truth": float(truth(logp[mine]).mean()),
            }
        )
    return [
        *rows,
        {
            "relation": "all",
            "facts": len(items),
            "right": float(right(logp).mean()),
            "truth": float(truth(logp).mean()),
        },
    ]


def costs(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
    """What one vector costs, by name of what is asked (I, W): the mean fall of the right answer's probability, "NAME lost", and the share of
    items where another answer becomes the likeliest, "NAME flipped"."""
    row = {}
    for name, logp in before.items():
        row[f"{name} lost"] = float((truth(logp) - truth(after[name])).mean())
        row[f"{name} flipped"] = float((right(logp) > right(after[name])).mean())
    return row


def averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of the numbers of several rows of `costs`: what random vectors cost is measured of each, then averaged. (The mean of their probabilities is
    not the probability under any of them, and a fact that any of many flips would count as flipped.)"""
    numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
    return {name: float(np.mean([row[name] for row in rows])) for name in numbers}


def unrelated(lab: Experiment, settings: Mapping[str, Any]) -> list[dict[str, float]]:
    """What one vector, as `Chosen.settings` has it, does to unrelated text, steered at every token: a row for each dose, beginning with 0,
    with "KL" in nats, "perplexity" and "entropy" compared with the first: a factor, and a difference in nats. The first row has
    instead the unsteered "loss" and "entropy" themselves, nats for each token."""
    texts = data.passages(split="heldout")
    (layer,) = settings["layers"]
    given = {name: settings[name] for name in ("vectors", "coefficients", "how")}
    found = lab.cell(disturbance, texts=texts, layer=layer, **given)
    kl, loss, entropy = (np.array([row[k][0] for row in found]) for k in ("kl", "perplexity", "entropy"))  # (texts, C)
    loss = np.log(loss)
    rows = [{"loss": float(loss[:, 0].mean()), "entropy": float(entropy[:, 0].mean())}]
    for k in range(1, kl.shape[1]):
        factor, more = np.exp((loss[:, k] - loss[:, 0]).mean()), (entropy[:, k] - entropy[:, 0]).mean()
        rows.append({"KL": float(kl[:, k].mean()), "perplexity": float(factor), "entropy": float(more)})
    return rows


def why_lower(text: Mapping[str, float]) -> str:
    """A sentence on how perplexity can fall, of the first row of `unrelated`."""
    sure = text["loss"] > text["entropy"]
    reason = (
        "it is too sure of itself here, so what spreads its bets lowers its perplexity"
        if sure
        else "it is not too sure of itself here"
    )
    return f"Unsteered, the model loses {text['loss']:.2f} nats a token where by its own entropy it expects {text['entropy']:.2f}: {reason}."


def evidence(lost: Mapping[int, Array], chance: Array, void: str | None) -> dict[str, Any]:
    """For `claims.evidence`: what each draw loses, {seed: (groups,)}, less what random vectors lose of the same group, of chance
    (groups, V); and each random vector in its place."""
    usual, each = chance.mean(1), chance.mean(0)
    return {"values": {seed: of - usual for seed, of in lost.items()}, "controls": each - each.mean(), "void": void}


def lost(before: Array, after: Array, groups: Sequence[object]) -> Array:
    """The fall of the right answer's probability, (I, W) and (I, ..., W) -> (groups, ...), the mean over the items of each group."""
    fall = truth(before).reshape(len(before), *[1] * (after.ndim - 2)) - truth(after)
    flat = fall.reshape(len(fall), -1)
    found: Array = np.stack([group_means(column, groups) for column in flat.T], -1)
    return found.reshape(len(found), *fall.shape[1:])
