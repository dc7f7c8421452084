"""Words against a vector: sentences of the opposite persona before a statement, and how much of the vector's work they undo.

Wies et al. 2023 (arXiv 2304.11082) show that what a model can say at all, a long enough prompt can bring back. The model says the sentences
itself: its answer begins with them, and goes on with the statement that is scored.

Letters: N pairs of statements, K numbers of sentences, B behaviours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ministeer.lab import behaviours, data
from ministeer.lab.tradeoff import at
from ministeer.metrics import Array
from ministeer.model import Transformer, expect
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
COUNTS = (0, 1, 4, 16, 60, 360)  # of sentences: the most is nearly all that a set has
JUDGED = 16  # of them, in the claims
ROOM = 200  # tokens for the question, a statement, and what the neutral sentences have more
PAIRS = 10  # held-out pairs of a behaviour
KINDS = OPPOSITE, NEUTRAL = "the opposite persona", "neutral"
COEFFICIENTS = (-1.0, 0.0, 1.0)  # tenths of the stream's norm


def fitting(model: Transformer, tokenizer: Tokenizer, others: Sequence[Sequence[str]]) -> list[int]:
    """The `COUNTS` for which the model's context holds so many sentences of every behaviour."""
    room = model.config.context - ROOM
    found = [k for k in COUNTS if all(_tokens(tokenizer, some[:k]) <= room for some in others)]
    expect(JUDGED in found, f"a context of {JUDGED} sentences and {ROOM} tokens", str(model.config.context))
    return found


def before(tokenizer: Tokenizer, name: str, others: Sequence[str], counts: Sequence[int]) -> dict[str, list[list[str]]]:
    """The sentences said before, for each of `counts`, `{kind: [sentences]}`: the first so many of those of the opposite persona, and as many neutral
    ones as have at least as many tokens together."""
    against = [[text if text[-1:] in ".!?" else f"{text}." for text in others[:k]] for k in counts]  # else they run on
    lengths = [_tokens(tokenizer, some) for some in against]
    return {OPPOSITE: against, NEUTRAL: [data.neutral(tokenizer, name, length) for length in lengths]}


def measured(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    vector: SteeringVector,
    layer: int,
    sentences: Sequence[str],
    pairs: Sequence[behaviours.Pair],
) -> list[Row]:
    """One row for `Experiment.cell`: `{"tokens", "odds"}`, how many the sentences have, and log p(matching) - log p(other) of each pair behind them at
    each of `COEFFICIENTS`, (3, N), nats; the vector is added at every token, those of the sentences too."""
    said = behaviours.statement(tokenizer, " ".join(sentences))
    space = " " if sentences else ""
    ids = [[behaviours.statement(tokenizer, space + text) for text in pair] for pair in pairs]
    prompt = [*behaviours.opening(tokenizer), *said]
    (odds,) = behaviours.pairs_of(behaviours.log_p_behind(model, prompt, ids, {"own": vector}, layer, COEFFICIENTS))
    return [{"tokens": len(said), "odds": odds.round(4).tolist()}]


def slopes(odds: Array) -> Array:
    """What a tenth of the stream's norm moves, of odds (..., 3, N): (...), nats, mean over pairs."""
    found: Array = (odds[..., 2, :] - odds[..., 0, :]).mean(-1) / 2
    return found


def undone(odds: Array) -> Array:
    """Of odds (2, K, 3, N), behind sentences of both `KINDS`: by how much those of the opposite persona lower the steered model's odds more than neutral
    ones do, less what a tenth's own slope is behind the neutral ones, (K,), nats. Above 0 they undo more than it."""
    steered, slope = odds[:, :, 2].mean(-1), slopes(odds[1])
    found: Array = steered[1] - steered[0] - slope
    return found


def exchange(odds: Array, counts: Sequence[int]) -> float:
    """How many sentences undo a tenth of the vector, straight lines between the counts; inf where the most do not."""
    left = undone(odds)
    return float(at(left, counts, 0.0)) if left.max() >= 0 else math.inf


def _tokens(tokenizer: Tokenizer, sentences: Sequence[str]) -> int:
    return sum(len(tokenizer.continuation(f" {text}")) for text in sentences)
