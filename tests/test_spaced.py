"""A tokenizer that puts a space before every text, as Llama 2's: scored and read are the ids that a whole text has."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import folder_of, sentencepiece

from ministeer import SteeringVector, cli, verbs
from ministeer.initialize import initialize
from ministeer.lab import answers as lab
from ministeer.llama import Llama, LlamaConfig
from ministeer.provenance import Provenance
from ministeer.tokenizer import Tokenizer

pytest.importorskip("tokenizers")
SIZES = {"width": 48, "inner": 64, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "head_size": 12}
MODEL = Llama(LlamaConfig(vocab_size=300, context=128, **SIZES))
initialize(MODEL, torch.Generator().manual_seed(0))
with torch.no_grad():
    MODEL.head.weight.mul_(20)  # so that no answer is as likely as another
PROMPT, WORDS = "a cat", [" the", " tea"]


@pytest.fixture
def tok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    template = "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]"
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": template}
    found = Tokenizer.from_folder(folder_of(tmp_path, sentencepiece(), **config), 300)
    monkeypatch.setattr(verbs, "load", lambda *_, **__: (MODEL, found))
    monkeypatch.chdir(tmp_path)
    return found


def log_p(ids: list[int], before: int) -> float:
    """Of the ids from `before` on."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([ids]))[0].log_softmax(-1)
    return sum(float(logits[i - 1, ids[i]]) for i in range(before, len(ids)))


def wanted(tok: Tokenizer) -> list[float]:
    before = tok.prompt(PROMPT)
    whole = [tok.prompt(PROMPT + word) for word in WORDS]
    assert all(ids[: len(before)] == before for ids in whole)
    return [log_p(ids, len(before)) for ids in whole]


def test_answers_of_a_sweep_are_scored_as_the_whole_text_has_them(tok: Tokenizer, capsys: Any) -> None:
    SteeringVector({("pre", 2): torch.ones(48)}, Provenance("", "", "", "", "")).save("v.safetensors")
    Path("prompts.txt").write_text(PROMPT)
    words = ["--prompts", "prompts.txt", "--answers", ",".join(WORDS), "--coeffs", "0", "--json"]
    cli.main(["sweep", "v.safetensors", *words])
    row = json.loads(capsys.readouterr().out)
    assert [row["log p"][word] for word in WORDS] == pytest.approx(wanted(tok), abs=1e-4)


def test_answers_of_an_experiment_are_scored_as_the_whole_text_has_them(tok: Tokenizer) -> None:
    (row,) = lab.answers(MODEL, tok, items=[{"prompt": PROMPT, "words": WORDS}])
    assert row["logp"][0][0][0] == pytest.approx(wanted(tok), abs=1e-4)
    said = tok.decode([tok.prompt(PROMPT + WORDS[0])[len(tok.prompt(PROMPT))]])
    assert lab.hits([{"words": WORDS[:1]}], [{"said": [[[said, "cat"]]]}], tok).tolist() == [[[[1.0, 0.0]]]]


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_the_tokens_of_a_text_are_counted_as_it_is_read(tok: Tokenizer, form: str) -> None:
    pytest.importorskip("jinja2")
    (row,) = lab.disturbance(MODEL, tok, texts=[" the tea"], form=form)
    ids, short = (lab.prompt_ids(tok, text, form) for text in (" the tea", ""))
    loss = -log_p(ids, len(short)) / (len(ids) - len(short))
    assert row["perplexity"][0][0] == pytest.approx(torch.tensor(loss).exp().item(), rel=1e-3)


def test_pairs_in_a_chat_template_are_the_ids_that_are_steered(tok: Tokenizer, capsys: Any) -> None:
    pytest.importorskip("jinja2")
    Path("pairs.jsonl").write_text('["the cat", "the tea"]\n["a cat", "a tea"]')
    cli.main(["extract", "pairs.jsonl", "--out", "v.safetensors", "--chat", "--layers", "2"])
    found = SteeringVector.load("v.safetensors", MODEL)["pre", 2]

    def last(text: str) -> torch.Tensor:
        tape: list[Any] = [("pre", 2)]
        MODEL(torch.tensor([tok.chat([{"role": "user", "content": text}])]), tape=tape)
        return tape[0][0, -1]

    with torch.no_grad():
        pairs = [("the cat", "the tea"), ("a cat", "a tea")]
        torch.testing.assert_close(found, torch.stack([last(plus) - last(minus) for plus, minus in pairs]).mean(0))
