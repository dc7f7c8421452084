"""A vector behind a long prompt: what it moves, and what it costs, behind so many tokens of other text.

Letters: N pairs of statements, V ways of steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ministeer.lab import behaviours, data
from ministeer.metrics import Array
from ministeer.model import Transformer
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
LENGTHS = (0, 100, 500, 2000)  # tokens of other text
PAIRS = 10  # held-out pairs of a behaviour
WAYS = FIXED, SHARE, ALONE = "at every token", "the same share of the norm", "at the statement alone"


def prompt(tokenizer: Tokenizer, name: str, length: int) -> list[int]:
    """What stands before a statement: so many tokens of other text and the question in the chat template, where there is one, else what begins a text
    and the other text. Of that there are 36 sentences, which come again in other orders; the behaviour's name decides them."""
    said = tokenizer.continuation(f" {' '.join(data.neutral(tokenizer, name, length))}")
    text = tokenizer.decode(said[:length]).strip()
    if tokenizer.chat_template is None:
        return tokenizer.prompt(text)
    return tokenizer.chat([{"role": "user", "content": f"{text} {behaviours.ASKED}".strip()}])


def measured(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    vector: SteeringVector,
    layer: int,
    pairs: Sequence[behaviours.Pair],
    name: str,
    length: int,
) -> list[Row]:
    """A row for each of `WAYS`, for `Experiment.cell`, behind so many tokens. The vector is a tenth of the stream's norm in short prompts.

    "slopes" (N,): half of what log p(matching) - log p(other) is more with the vector than with it taken away, nats; "cost": what the statements' loss
    rises by, mean of both kinds and both signs, nats a token; "norm": the stream's mean norm over the statements' tokens; "odds" (N,): without it.
    """
    before = prompt(tokenizer, name, length)
    space = " " if length and tokenizer.chat_template is None else ""
    texts = [[space + text for text in pair] for pair in pairs]
    ids = [[behaviours.statement(tokenizer, text) for text in pair] for pair in texts]
    norm, short = (
        behaviours.read(model, tokenizer, *given)[1]["pre", layer]
        for given in ((texts, [layer], before), (pairs, [layer]))
    )
    both = behaviours.log_p_behind(
        model, before, ids, {FIXED: vector, SHARE: vector * (norm / short)}, layer, behaviours.ENDS
    )
    alone = behaviours.log_p_behind(model, before, ids, {ALONE: vector}, layer, (*behaviours.ENDS, 0.0), "generated")
    plain, tokens = alone[0, 2], np.array([[len(text) for text in pair] for pair in ids])  # (N, 2)
    rows = []
    for way, (against_it, with_it) in zip(WAYS, (*both, alone[0, :2]), strict=True):
        cost = (plain - (with_it + against_it) / 2) / tokens
        slopes = behaviours.pairs_of(with_it - against_it) / 2
        rows.append({
            "way": way, "length": length, "slopes": slopes.round(4).tolist(), "cost": float(cost.mean()), "norm": norm,
            "odds": behaviours.pairs_of(plain).round(4).tolist(),
        })  # fmt: skip
    return rows


def means(cells: Sequence[Sequence[Row]], what: str) -> Array:
    """Of the rows of each length, a number of each way: (lengths, V)."""
    found: Array = np.array([[np.mean(row[what]) for row in rows] for rows in cells])
    return found
