"""What the experiments read: the same as the plain forward pass says, steered the plain way."""

import numpy as np
import pytest
import torch

from ministeer import Steer, SteeringVector, interventions, metrics, prefill
from ministeer.activations import streams
from ministeer.checkpoint import load
from ministeer.lab.answers import answers, disturbance, hits, log_probabilities, passes, prompt_ids, random_vectors
from ministeer.provenance import Provenance, fingerprint

MODEL, TOKENIZER = load("nano")
DEPTH, WIDTH = MODEL.config.n_layer, MODEL.config.n_embd
ITEMS = [
    {"prompt": "<|endoftext|>Q: big\nA:", "words": [" small", " big and heavy"]},
    {"prompt": "<|endoftext|>The nurse who lived near the old bridge said that", "words": [" he", " she"]},
    {"prompt": "<|endoftext|>The queen said that", "words": [" he", " she", " it"]},
]
COEFFICIENTS = [-2.0, 0.0, 0.5, 3.0]


def vector(seed: int = 0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    tensors = {("pre", i): 20 * torch.randn(WIDTH, generator=generator) for i in (0, 3, DEPTH)}
    return SteeringVector(tensors, Provenance(fingerprint(MODEL), "random", "0" * 16, "last", "float32", seed))


def plainly(item, layer, coefficient, how, v):
    """The log-probability of each answer after one prompt and the likeliest next token, steered by a Steer, one token at a time."""
    site = ("pre", layer)
    steer = Steer(v if how == "add" else interventions.project_out(v[site]), site, coefficient, where="last")
    ids, found = TOKENIZER.prompt(item["prompt"]), []
    for word in item["words"]:
        plan, total = [], 0.0
        for token in TOKENIZER.encode(word):
            logits = stepwise(ids, plan, steer)
            plan.append(token)
            total += float(logits.log_softmax(-1)[token])
        found.append(total)
    return found, TOKENIZER.decode([int(stepwise(ids, [], steer).argmax())])


def stepwise(ids, more, steer):
    """The logits after a prompt and the tokens generated since, all of which are steered from the prompt's last on."""
    whole = [*ids, *more]
    at = Steer(steer.vector, steer.site, steer.coeff, where=list(range(len(ids) - 1, len(whole))))
    return prefill(MODEL, [whole], steer=at)[0]


@pytest.mark.parametrize("layer", [0, 3, DEPTH])
@pytest.mark.parametrize("how", ["add", "project_out"])
def test_variants_side_by_side_are_one_steered_run_each(layer, how):
    vectors = {"a": vector(), "b": vector(1)}
    settings = {"items": ITEMS, "vectors": vectors, "layers": [layer, 3], "coefficients": COEFFICIENTS, "how": how}
    if layer == 3:
        settings["layers"] = [3]
    scored, said = (answers(MODEL, TOKENIZER, **settings, likeliest=likeliest) for likeliest in (False, True))
    for i, item in enumerate(ITEMS):
        for v, name in enumerate(vectors):
            for c, coefficient in enumerate(COEFFICIENTS):
                logp, token = plainly(item, layer, coefficient, how, vectors[name])
                np.testing.assert_allclose(scored[i]["logp"][v][0][c], logp, atol=2e-4)
                assert said[i]["said"][v][0][c] == token


def test_without_a_vector_it_is_the_model_itself():
    zero = {"vectors": {"v": vector()}, "layers": [3], "coefficients": [0.0]}
    for likeliest, key in ((False, "logp"), (True, "said")):
        bare = answers(MODEL, TOKENIZER, items=ITEMS, likeliest=likeliest)
        for a, b in zip(bare, answers(MODEL, TOKENIZER, items=ITEMS, likeliest=likeliest, **zero), strict=True):
            assert np.shape(a[key]) == np.shape(b[key])
            if likeliest:
                assert a == b
            else:
                np.testing.assert_allclose(a[key], b[key], atol=1e-4)


def test_random_vectors_stand_in_the_place_of_one():
    randoms = {"texts": [item["prompt"] for item in ITEMS], "count": 5}
    v = vector()
    made = random_vectors(MODEL, TOKENIZER, v, [3], **randoms)
    settings = {"items": ITEMS[:2], "layers": [3], "coefficients": [2.0]}
    inside = answers(MODEL, TOKENIZER, vectors={"v": v}, randoms=randoms, **settings)
    by_hand = answers(MODEL, TOKENIZER, vectors=made, **settings)
    np.testing.assert_allclose(log_probabilities(inside), log_probabilities(by_hand), atol=1e-4)
    for one in made.values():
        torch.testing.assert_close(one["pre", 3].norm(), v["pre", 3].norm())


def test_random_vectors_have_the_covariance_of_the_stream():
    texts = [f"The {noun} said that" for noun in ("king", "queen", "nurse", "doctor", "man", "woman")]
    rows = [TOKENIZER.prompt(text) for text in texts]
    x = streams(MODEL, rows, [len(row) - 1 for row in rows], [("pre", 3)])["pre", 3]
    away = x - x.mean(0)
    base = torch.linalg.svd(away, full_matrices=False).Vh[: len(texts) - 1]  # the span of the deviations
    for kind, inside in (("covariance", True), ("isotropic", False)):
        made = random_vectors(MODEL, TOKENIZER, vector(), [3], texts=texts, count=3, kind=kind)
        for v in made.values():
            direction = v["pre", 3] / v["pre", 3].norm()
            assert (float((base @ direction).norm()) > 0.999) == inside


def test_a_prompt_in_the_chat_form_begins_the_assistants_message():
    class Chats:
        def chat(self, messages):
            return [messages]

        def continuation(self, text):
            return [text]

    ids = prompt_ids(Chats(), "The sky is", "chat", system="Be brief.")
    assert [m["role"] for m in ids[0]] == ["system", "user"]
    assert ids[1] == "The sky is"
    assert prompt_ids(TOKENIZER, "it is", system="Yes,") == TOKENIZER.prompt("Yes, it is")
    with pytest.raises(ValueError, match="'plain' or 'chat', got 'song'"):
        prompt_ids(TOKENIZER, "it is", "song")


def test_a_gate_passes_what_its_cosines_say():
    direction = vector(1)
    ids = [TOKENIZER.prompt(item["prompt"]) for item in ITEMS]
    cosines = interventions.Gate(direction["pre", 3], ("pre", 3), 0.0).cosines(MODEL, ids)
    threshold = float(cosines.sort().values[:2].mean())  # the lowest of three stays closed
    rows = passes(MODEL, TOKENIZER, items=ITEMS, vector=direction, layer=3, threshold=threshold)
    assert [row["open"] for row in rows] == [bool(c > threshold) for c in cosines]


def test_a_hit_is_the_beginning_of_an_answer():
    rows = [{"said": [[[" small", " big"]]]}, {"said": [[[" he", " it"]]]}]
    assert hits(ITEMS[:2], rows, TOKENIZER).tolist() == [[[[1.0, 1.0]]], [[[1.0, 0.0]]]]


def test_a_way_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'add' or 'project_out', got 'multiply'"):
        answers(MODEL, TOKENIZER, items=ITEMS, vectors={"v": vector()}, layers=[3], how="multiply")


def test_unrelated_text_is_disturbed_as_each_text_alone_is():
    v, layer = vector(), 3
    texts = [
        "<|endoftext|>The river runs past the old bridge.",
        "<|endoftext|>A cat sleeps on the chair near the window.",
    ]
    rows = disturbance(MODEL, TOKENIZER, texts=texts, vectors={"v": v}, layer=layer, coefficients=[0.0, 1.5])
    for row, text in zip(rows, texts, strict=True):
        ids = torch.tensor([TOKENIZER.encode(text, special=True)])
        with torch.no_grad():
            plain, steered = MODEL(ids), MODEL(ids, adds={("pre", layer): 1.5 * v["pre", layer]})
        assert row["kl"][0][0] == pytest.approx(0, abs=1e-6)
        assert row["kl"][0][1] == pytest.approx(float(metrics.kl(steered, plain).mean()), rel=1e-4)
        assert row["kl"][0][1] > 0.01
        for found, logits in zip(row["perplexity"][0], (plain, steered), strict=True):
            assert found == pytest.approx(float(metrics.perplexity(logits, ids)), rel=1e-4)


@pytest.mark.parametrize("how", [{"system": "Be kind."}, {"before": "Be kind."}])
def test_what_is_said_before_a_text_disturbs_it_as_much_as_its_own_tokens_show(how):
    text = "The tower stands on a hill near the town."
    (row,) = disturbance(MODEL, TOKENIZER, texts=[text], **how)
    alone, said = TOKENIZER.prompt(text), TOKENIZER.prompt(f"Be kind. {text}")
    alike = next(n for n, (x, y) in enumerate(zip(alone[::-1], said[::-1])) if x != y)
    alike = min(alike, len(TOKENIZER.encode(text)))
    assert 0 < len(said) - len(alone) and alike >= len(TOKENIZER.encode(text)) - 1
    with torch.no_grad():
        plain, told = (MODEL(torch.tensor([ids]))[0, -alike:] for ids in (alone, said))
    assert row["kl"] == [[pytest.approx(float(metrics.kl(told, plain).mean()), rel=1e-4)]]
    assert row["kl"][0][0] > 0.001
    (nothing,) = disturbance(MODEL, TOKENIZER, texts=[text])
    assert nothing["kl"] == [[pytest.approx(0, abs=1e-6)]]


def test_texts_of_any_length_are_disturbed_as_each_alone():
    texts = ["The lamp is blue.", "The farmer has a cow and six sheep. The street is wide and has many shops."]
    settings = {"vectors": {"v": vector()}, "layer": 3, "coefficients": [1.0], "system": "Never lie."}
    together = disturbance(MODEL, TOKENIZER, texts=texts, **settings)
    for row, text in zip(together, texts, strict=True):
        (alone,) = disturbance(MODEL, TOKENIZER, texts=[text], **settings)
        assert {k: v[0] for k, v in row.items()} == {k: pytest.approx(v[0], rel=1e-4) for k, v in alone.items()}
