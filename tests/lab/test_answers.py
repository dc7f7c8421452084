"""What the experiments read: the same as the plain forward pass says, steered the plain way."""

import numpy as np
import pytest
import torch

from ministeer import Steer, SteeringVector, interventions, metrics, prefill
from ministeer.checkpoint import load
from ministeer.lab.answers import answers, disturbance, hits
from ministeer.provenance import Provenance, fingerprint

MODEL, TOKENIZER = load("nano")
DEPTH, WIDTH = MODEL.config.n_layer, MODEL.config.n_embd
ITEMS = [
    {"prompt": "<|endoftext|>Q: big\nA:", "words": [" small", " big"]},
    {"prompt": "<|endoftext|>The nurse who lived near the old bridge said that", "words": [" he", " she"]},
    {"prompt": "<|endoftext|>The queen said that", "words": [" he", " she", " it"]},
]
COEFFICIENTS = [-2.0, 0.0, 0.5, 3.0]


def vector(seed: int = 0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    tensors = {("pre", i): 20 * torch.randn(WIDTH, generator=generator) for i in (0, 3, DEPTH)}
    return SteeringVector(tensors, Provenance(fingerprint(MODEL), "random", "0" * 16, "last", "float32", seed))


def plainly(item, layer, coefficient, how, v):
    """The logits after one prompt, steered by a Steer."""
    site = ("pre", layer)
    content = v if how == "add" else interventions.project_out(v[site])
    ids = TOKENIZER.encode(item["prompt"], special=True)
    return prefill(MODEL, [ids], steer=Steer(content, site, coefficient, where="last"))[0]


@pytest.mark.parametrize("layer", [0, 3, DEPTH])
@pytest.mark.parametrize("how", ["add", "project_out"])
def test_coefficients_side_by_side_are_one_steered_run_each(layer, how):
    v = vector()
    rows = answers(MODEL, TOKENIZER, items=ITEMS, vector=v, layer=layer, coefficients=COEFFICIENTS, how=how)
    for row, item in zip(rows, ITEMS, strict=True):
        words = [TOKENIZER.single(word) for word in item["words"]]
        for found, said, coefficient in zip(row["logp"], row["said"], COEFFICIENTS, strict=True):
            logits = plainly(item, layer, coefficient, how, v)
            torch.testing.assert_close(torch.tensor(found), logits.log_softmax(-1)[words], rtol=1e-4, atol=1e-4)
            assert said == TOKENIZER.decode([int(logits.argmax())])


def test_without_a_vector_it_is_the_model_itself():
    bare = answers(MODEL, TOKENIZER, items=ITEMS)
    zero = answers(MODEL, TOKENIZER, items=ITEMS, vector=vector(), layer=3, coefficients=[0.0])
    for a, b in zip(bare, zero, strict=True):
        assert a["said"] == b["said"]
        np.testing.assert_allclose(a["logp"], b["logp"], atol=1e-4)


def test_items_keep_their_order_whatever_the_batch(monkeypatch):
    together = answers(MODEL, TOKENIZER, items=ITEMS, vector=vector(), layer=3, coefficients=[1.0])
    monkeypatch.setattr("ministeer.lab.answers.ROWS", 1)
    alone = answers(MODEL, TOKENIZER, items=ITEMS, vector=vector(), layer=3, coefficients=[1.0])
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a["logp"], b["logp"], atol=1e-4)


def test_a_gate_leaves_the_prompts_that_do_not_pass():
    v, direction = vector(), vector(1)
    ids = [TOKENIZER.encode(item["prompt"], special=True) for item in ITEMS]
    cosines = interventions.Gate(direction["pre", 3], ("pre", 3), 0.0).cosines(MODEL, ids)
    threshold = float(cosines.sort().values[:2].mean())  # the lowest of three stays closed
    gate = {"vector": direction, "layer": 3, "threshold": threshold}
    settings = {"items": ITEMS, "layer": 3, "coefficients": [2.0]}
    gated, free = (answers(MODEL, TOKENIZER, vector=v, gate=g, **settings) for g in (gate, None))
    bare = answers(MODEL, TOKENIZER, items=ITEMS)
    for row, steered, plain, cosine in zip(gated, free, bare, cosines, strict=True):
        np.testing.assert_allclose(row["logp"], (steered if cosine > threshold else plain)["logp"], atol=1e-4)


def test_a_hit_is_the_first_word():
    rows = [{"said": [" small", " big"]}, {"said": [" he", " she"]}]
    assert hits(ITEMS[:2], rows).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_a_way_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'add' or 'project_out', got 'multiply'"):
        answers(MODEL, TOKENIZER, items=ITEMS, vector=vector(), layer=3, how="multiply")


def test_unrelated_text_is_disturbed_as_each_text_alone_is():
    v, layer = vector(), 3
    texts = [
        "<|endoftext|>The river runs past the old bridge.",
        "<|endoftext|>A cat sleeps on the chair near the window.",
    ]
    rows = disturbance(MODEL, TOKENIZER, texts=texts, vector=v, layer=layer, coefficients=[0.0, 1.5])
    for row, text in zip(rows, texts, strict=True):
        ids = torch.tensor([TOKENIZER.encode(text, special=True)])
        with torch.no_grad():
            plain, steered = MODEL(ids), MODEL(ids, adds={("pre", layer): 1.5 * v["pre", layer]})
        assert row["kl"][0] == pytest.approx(0, abs=1e-6)
        assert row["kl"][1] == pytest.approx(float(metrics.kl(steered, plain).mean()), rel=1e-4)
        assert row["kl"][1] > 0.01
        for found, logits in zip(row["perplexity"], (plain, steered), strict=True):
            assert found == pytest.approx(float(metrics.perplexity(logits, ids)), rel=1e-4)
