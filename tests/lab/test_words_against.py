"""Words against a vector: odds as a plain run has them, what undoes a planted vector, and sentences of equal length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_behaviours import PAIRS, TOKENIZER, both

from ministeer.lab import behaviours, words_against
from ministeer.lab.words_against import COUNTS, NEUTRAL, OPPOSITE

SENTENCES = [b for _, b in PAIRS[:2]]


@both
def test_the_odds_are_those_of_a_plain_run_with_the_vector_at_every_token(model):
    vector = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    given = {"vector": vector, "layer": 1, "pairs": PAIRS[20:23]}
    for sentences in ([], SENTENCES):
        (row,) = words_against.measured(model, TOKENIZER, sentences=sentences, **given)
        said = TOKENIZER.encode(" ".join(sentences))
        assert row["tokens"] == len(said)

        def log_p(text, c, said=said):
            start, ids = [TOKENIZER.bos, *said], TOKENIZER.encode(f" {text}" if said else text)
            with torch.no_grad():
                logits = model(torch.tensor([[*start, *ids]]), adds={("pre", 1): c * vector["pre", 1]})
            return float(logits[0, len(start) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum())

        for c, odds in zip(words_against.COEFFICIENTS, row["odds"], strict=True):
            assert odds == pytest.approx([log_p(a, c) - log_p(b, c) for a, b in given["pairs"]], abs=1e-3)


def test_neutral_sentences_are_as_long_and_not_in_the_same_order_for_all():
    others = [b for _, b in PAIRS] * 2
    said, other = (words_against.before(TOKENIZER, name, others, COUNTS) for name in ("likes-warmth", "likes-cold"))
    assert [len(some) for some in said[OPPOSITE]] == [min(k, len(others)) for k in COUNTS]
    assert all(
        text[-1] in ".!?" for kind in said.values() for some in kind for text in some
    )  # no run-on text against sentences
    assert said == words_against.before(TOKENIZER, "likes-warmth", others, COUNTS) and said[NEUTRAL] != other[NEUTRAL]
    for against, neutral in zip(said[OPPOSITE], said[NEUTRAL], strict=True):
        wanted, got = (sum(len(TOKENIZER.encode(f" {text}")) for text in some) for some in (against, neutral))
        assert wanted <= got < wanted + 30 and (got > 0) == (wanted > 0)


def test_as_many_sentences_are_said_as_the_context_holds():
    def fitting(context):
        model = SimpleNamespace(config=SimpleNamespace(context=context))
        return words_against.fitting(model, TOKENIZER, [["It is warm."] * 400, ["A word."] * 400])

    each = len(TOKENIZER.encode(" It is warm."))
    assert fitting(60 * each + words_against.ROOM) == [0, 1, 4, 16, 60]
    assert fitting(60 * each + words_against.ROOM - 1) == [0, 1, 4, 16]
    assert fitting(360 * each + words_against.ROOM) == [*COUNTS]
    with pytest.raises(ValueError, match="expected a context of 16 sentences and 200 tokens, got 201"):
        fitting(201)


def test_so_many_sentences_undo_a_planted_vector_as_were_planted():
    """A vector worth 2 nats, and sentences of a quarter of a nat each: 8 undo a tenth of it."""
    odds = np.zeros((2, len(COUNTS), 3, 5))
    odds += np.array([-2.0, 0.0, 2.0])[:, None]
    odds[0] -= 0.25 * np.array(COUNTS)[:, None, None]
    assert words_against.slopes(odds) == pytest.approx(np.full((2, len(COUNTS)), 2.0))
    assert words_against.undone(odds) == pytest.approx(0.25 * np.array(COUNTS) - 2)
    assert words_against.exchange(odds, COUNTS) == pytest.approx(8.0)
    odds[0] = odds[1]
    assert words_against.exchange(odds, COUNTS) == float("inf")
    assert words_against.exchange(np.zeros_like(odds), COUNTS) == 0.0  # a vector that does nothing needs no words
