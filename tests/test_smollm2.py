"""A real language model, where it is in the cache: `make weights MODEL=smollm2-135m-instruct`. Its figures are those that the same
file gave elsewhere, so that a wrong conversion, tokenizer or rounding shows as a number that nobody else has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from texts import texts

import ministeer
from ministeer import Receipt, Steer, extract, generate, hub, metrics, pack
from ministeer.lab import answers, data, published

NAME = "smollm2-135m-instruct"
pytestmark = pytest.mark.skipif(
    not (hub.cache_folder() / NAME / "model.safetensors").exists(), reason=f"not here: `make weights MODEL={NAME}`"
)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    return ministeer.load(NAME)


def passages(tok: Any) -> list[list[int]]:
    return [[tok.bos, *tok.encode(text)] for text in published.texts()]


def test_it_knows_what_the_model_knows(smollm2: Any) -> None:
    model, tok = smollm2
    out = generate(model, tok.encode("The capital of France is"), max_new_tokens=1, temperature=0)
    assert tok.decode(out) == "The capital of France is Paris"


def test_its_tokenizer_is_the_files(smollm2: Any) -> None:
    """Its table, its control tokens and its template, and the package tokenizers' ids on texts of every script."""
    _, tok = smollm2
    assert (tok.n_vocab, tok.eot, tok.bos, tok.stop, len(tok.special)) == (49152, 0, 0, (0, 2), 17)
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(hub.cache_folder() / NAME / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for text in texts(10_000):
        assert tok.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text
    ids = tok.chat([{"role": "user", "content": "Hi"}])
    assert tok.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert ids[:3] == [1, 9690, 198]  # <|im_start|>, system, newline


def test_a_chat_is_steered_english(smollm2: Any) -> None:
    """Towards happy and towards sad: other words, no repetition of one token, and the receipt says how strongly."""
    model, tok = smollm2
    ids = tok.chat([{"role": "user", "content": "How was your day?"}])
    pair = [tok.decode([tok.bos]) + f"I feel very {mood}" for mood in ("happy", "sad")]
    vector, said = extract.contrastive(model, tok, [(pair[0], pair[1])], ("pre", 15), token="last"), []
    for coeff in (0.5, -0.5):
        receipt = Receipt()
        steer = Steer(vector, ("pre", 15), coeff)
        out = generate(model, ids, max_new_tokens=24, temperature=0, steer=steer, stop=tok.stop, receipt=receipt)
        said.append(tok.decode(out[len(ids) :]))
        assert 0.1 < receipt.sites["pre", 15].total / receipt.sites["pre", 15].positions < 0.6
    assert said[0] != said[1]
    assert all(len(set(text.split())) >= 8 for text in said), said


def test_what_rounding_costs(smollm2: Any) -> None:
    """bfloat16: KL 1.1e-3 nats and 94.8 % of the likeliest tokens; 8 bits: 4.5e-3 and 96.1 %, or 7.9e-3 where tokens have 7; on
    two texts."""
    model, tok = smollm2
    texts = [torch.tensor([ids]) for ids in passages(tok)]
    exact = [model(ids)[0] for ids in texts]
    for other, kl in (
        (ministeer.load_model(NAME, dtype="bfloat16"), 1.1e-3),
        (pack.int8(ministeer.load_model(NAME)), {127: 4.5e-3, 63: 7.9e-3, 0: 2e-3}[pack.widest()]),
    ):
        found = [other(ids)[0].float() for ids in texts]
        mean = torch.cat([metrics.kl(*pair) for pair in zip(found, exact)]).mean()
        assert kl / 1.5 < mean < min(1.5 * kl, 0.01)
        same = torch.cat([f.argmax(-1) == e.argmax(-1) for f, e in zip(found, exact)]).float().mean()
        assert 0.93 < same < 0.98


def test_its_pronouns_follow_the_published_shares(smollm2: Any) -> None:
    """r = .69 over 60 occupations, and .15 from one half in the mean."""
    model, tok = smollm2
    templates = [row["template"] for row in data.read("pronoun_templates.tsv") if row["kind"] == "plain"]
    occupations = data.read("occupations.tsv")
    items = [
        {
            "prompt": tok.decode([tok.bos]) + t.replace("{X}", row["occupation"]).replace("{Y}", "visitor"),
            "words": [" he", " she"],
        }
        for row in occupations
        for t in templates
    ]
    logp = answers.log_probabilities(answers.answers(model, tok, items=items))[:, 0, 0, 0]
    p = np.exp(logp[:, 0]) / np.exp(logp).sum(1)
    p = p.reshape(len(occupations), -1).mean(1)
    share = [1 - float(row["female_share"]) for row in occupations]
    assert 0.6 < np.corrcoef(p, share)[0, 1] < 0.8
    assert 0.1 < np.abs(p - 0.5).mean() < 0.2
