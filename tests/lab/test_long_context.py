"""A vector behind a long prompt: slopes as plain runs have them in each way of adding, and prompts of the length that was asked for."""

import numpy as np
import pytest
import torch
from test_behaviours import PAIRS, TOKENIZER, both

from ministeer.lab import behaviours, long_context
from ministeer.lab.long_context import ALONE, FIXED, SHARE, WAYS

SITE = ("pre", 1)


def measured(model, vector, length=20):
    (*rows,) = long_context.measured(
        model, TOKENIZER, vector=vector, layer=1, pairs=PAIRS[20:23], name="likes-warmth", length=length
    )
    return {row["way"]: row for row in rows}


@both
def test_slopes_costs_and_norms_are_those_of_plain_runs(model):
    vector = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    rows, start = measured(model, vector), long_context.prompt(TOKENIZER, "likes-warmth", 20)
    assert list(rows) == list(WAYS) and len(start) == 21

    def run(text, c=0.0, first=0):
        ids, tape = TOKENIZER.encode(f" {text}"), {}
        delta = torch.zeros(1, len(start) + len(ids), model.config.width)
        delta[:, first:] = c * vector[SITE]
        with torch.no_grad():
            logits = model(torch.tensor([[*start, *ids]]), adds={SITE: delta} if c else None, tape=tape)
        log_p = logits[0, len(start) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])
        return float(log_p.sum()), len(ids), tape[SITE][0, len(start) :].norm(dim=-1)

    norm = float(torch.cat([run(text)[2] for pair in PAIRS[20:23] for text in pair]).mean())
    short = behaviours.read(model, TOKENIZER, PAIRS[20:23], [1])[1][SITE]
    for way, c, first in ((FIXED, 1.0, 0), (SHARE, norm / short, 0), (ALONE, 1.0, len(start))):
        row = rows[way]
        assert row["norm"] == pytest.approx(norm, rel=1e-4)
        moved = [[run(text, s * c, first)[0] for s in (1, -1)] for pair in PAIRS[20:23] for text in pair]
        half = [(plus - minus) / 2 for plus, minus in moved]
        assert row["slopes"] == pytest.approx([a - b for a, b in zip(half[::2], half[1::2], strict=True)], abs=2e-3)
        texts = [text for pair in PAIRS[20:23] for text in pair]
        costs = [(run(t)[0] - (p + m) / 2) / run(t)[1] for t, (p, m) in zip(texts, moved, strict=True)]
        assert row["cost"] == pytest.approx(np.mean(costs), abs=1e-4)


@both
def test_nothing_moves_nothing_and_without_text_it_is_the_slope_of_the_atlas(model):
    vector = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    none = measured(model, vector * 0.0)
    assert not np.any([row["slopes"] for row in none.values()])
    ids = [[TOKENIZER.encode(text) for text in pair] for pair in PAIRS[20:23]]
    slopes = behaviours.pairs_of(behaviours.slopes(model, behaviours.opening(TOKENIZER), ids, {"v": vector}, [1])[0, 0])
    assert measured(model, vector, 0)[FIXED]["slopes"] == pytest.approx(slopes.tolist(), abs=1e-3)


@pytest.mark.parametrize("length", [0, 7, 600])
def test_a_prompt_has_the_length_that_was_asked_for(length):
    start = long_context.prompt(TOKENIZER, "likes-warmth", length)
    assert len(start) == 1 + length and start == long_context.prompt(TOKENIZER, "likes-warmth", length)
    assert length == 0 or start != long_context.prompt(TOKENIZER, "likes-cold", length)
