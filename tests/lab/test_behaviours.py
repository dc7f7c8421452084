"""Public behaviours: a planted one is found and a zeroed vector moves nothing, on random models of both architectures and rows of our own."""

import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ministeer import extract
from ministeer.checkpoint import save_model
from ministeer.initialize import initialize
from ministeer.lab import atlas, behaviours, persona
from ministeer.lab.claims import BEYOND as BEYOND_CLAIMS
from ministeer.lab.claims import CANNOT, judge
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, GPT2Config
from ministeer.tokenizer import Tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
BEYOND = sorted(path.stem for path in EXAMPLES.glob("1[3-6]_*.py"))
RANDOMS = {"covariance": 3, "isotropic": 2}
TOKENIZER = Tokenizer.from_file(Path(__file__).parents[2] / "weights" / "nano" / "vocab.tiktoken")
MODELS = {
    "gpt2": GPT2(GPT2Config(4500, 64, 32, 3, 2)),
    "llama": Llama(LlamaConfig(vocab_size=4500, context=64, width=32, inner=64, n_layer=3, n_head=2, n_kv_head=1, head_size=16)),
}  # fmt: skip
for model in MODELS.values():
    initialize(model, torch.Generator().manual_seed(0))
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def statements(words: str, count: int) -> list[str]:
    """Sentences of some words, no two the same."""
    verbs, things = (words.split()[k::2] for k in (0, 1))
    made = [
        f"We {a} the {b} and {c} it" + " today" * (i % 3) for i, (a, b, c) in enumerate(product(verbs, things, verbs))
    ]
    return made[:count]


WARM, COLD = (
    "love sun like summer want fire praise light trust gold",
    "hate snow fear winter leave ice blame dark harm iron",
)
PAIRS = [list(pair) for pair in zip(statements(WARM, 30), statements(COLD, 30), strict=True)]


def measured(model, randoms=RANDOMS, **changed):
    settings = {"training": PAIRS[:20], "held_out": PAIRS[20:], "layers": [1, 2, 3], "randoms": randoms} | changed
    return behaviours.measured(model, TOKENIZER, **settings)


@both
def test_a_planted_behaviour_is_found_and_random_vectors_do_not_do_it(model):
    """The pairs differ in their words, and the unembedding is the embedding: towards the mean of some words is towards them."""
    rows = behaviours.summary("likes-warmth", measured(model), 2)
    assert [row["layer"] for row in rows] == [1, 2, 3]
    (row,) = (row for row in rows if row["chosen"])
    assert row["tried"] == max(row["tried"] for row in rows)
    assert row["low"] > 0 and row["wrong"] < 0.2 and row["as much"] == 0
    assert row["steerability"] > 2 * row["random isotropic"]
    assert row["agreement"] > 0.1 and row["separation"] > 1
    assert (row["behaviour"], row["family"], row["dropped"]) == ("likes-warmth", "likes", 2)


@both
def test_a_vector_between_two_draws_of_the_same_statements_is_weak(model):
    alike = [[a, b] for a, b in zip(statements(WARM, 60)[::2], statements(WARM, 60)[1::2], strict=True)]
    row, planted = (
        max(behaviours.summary("x", measured(model, **pairs)), key=lambda row: row["chosen"])
        for pairs in ({"training": alike[:20], "held_out": alike[20:]}, {})
    )
    assert abs(row["steerability"]) < planted["steerability"] / 2
    assert row["agreement"] < planted["agreement"] and row["separation"] < planted["separation"]


@both
def test_a_zeroed_vector_moves_nothing(model, monkeypatch):
    usual = extract.contrastive

    def zeroed(found):
        vector = usual(found)
        return replace(vector, tensors={site: 0 * tensor for site, tensor in vector.tensors.items()})

    monkeypatch.setattr(extract, "contrastive", zeroed)
    rows = measured(model)
    for row in rows[:-1]:
        assert set(row["slopes"]) == {0.0} and set(row["per_token"]) == {0.0}
    for row in behaviours.summary("x", rows):
        assert (row["steerability"], row["wrong"], row["per_vector"]) == (0.0, 0.0, 0.0)


@both
def test_slopes_are_those_of_the_plain_loop(model):
    pairs = [[TOKENIZER.encode(text) for text in pair] for pair in PAIRS[:3]]
    prompt = TOKENIZER.prompt("Tell me more .")
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))

    def log_p(ids, site, add):
        logits = model(torch.tensor([[*prompt, *ids]]), adds={site: add}).log_softmax(-1)[0, len(prompt) - 1 : -1]
        return float(logits.gather(1, torch.tensor(ids)[:, None]).sum())

    with torch.no_grad():
        expected = [
            [[(log_p(ids, ("pre", i), vector) - log_p(ids, ("pre", i), -vector)) / 2 for ids in pair] for pair in pairs]
            for i in (1, 3)
        ]
        plain = [[log_p(ids, ("pre", 1), 0 * vector) for ids in pair] for pair in pairs]
    assert np.allclose(behaviours.slopes(model, prompt, pairs, {"v": vector}, [1, 3])[0], expected, atol=1e-4)
    assert np.allclose(behaviours.log_p(model, prompt, pairs), plain, atol=1e-4)


@both
def test_the_stream_is_read_at_every_token_of_a_statement_and_nowhere_else(model):
    found, norms = behaviours.read(model, TOKENIZER, PAIRS[:12], [1, 3])
    for i in (1, 3):
        every = []
        for n, pair in enumerate(PAIRS[:12]):
            for side, text in enumerate(pair):
                tape = {}
                opening = behaviours.opening(TOKENIZER)
                with torch.no_grad():
                    model(torch.tensor([[*opening, *TOKENIZER.encode(text)]]), tape=tape)
                x = tape["pre", i][0, len(opening) :]
                assert torch.allclose(found.streams["pre", i][n, side], x.mean(0), atol=1e-5)
                every.append(x.norm(dim=-1))
        assert norms["pre", i] == pytest.approx(float(torch.cat(every).mean()), rel=1e-5)


def test_the_question_is_asked_in_the_chat_template_where_there_is_one():
    chat = SimpleNamespace(chat_template="x", chat=lambda messages: [messages])
    assert behaviours.opening(chat) == [[{"role": "user", "content": "Tell me something about yourself."}]]
    assert behaviours.opening(TOKENIZER) == [TOKENIZER.bos]


def test_pairs_are_drawn_apart_and_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr(behaviours, "TRAINING", 20)
    monkeypatch.setattr(behaviours, "HELD_OUT", 10)
    good, bad = statements(WARM, 40), statements(COLD, 40)
    training, held_out, dropped = behaviours.split(TOKENIZER, "likes-warmth", good, bad)
    assert (len(training), len(held_out), dropped) == (20, 10, 0)
    assert all(a in good and b in bad for a, b in training + held_out)
    assert len({text for pair in training + held_out for text in pair}) == 60
    assert behaviours.split(TOKENIZER, "likes-warmth", good, bad)[:2] == (training, held_out)
    assert behaviours.split(TOKENIZER, "likes-cold", good, bad)[0] != training
    assert training != sorted(training) and [a for a, _ in training] != good[:20]  # not in the file's order


def test_what_would_be_both_read_and_held_out_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(behaviours, "TRAINING", 20)
    monkeypatch.setattr(behaviours, "HELD_OUT", 10)
    good, bad = statements(WARM, 30), statements(COLD, 30)
    again = [good[0].upper(), f" {good[1]}. ", good[2]]  # the same but for case, spaces and full stops: three dropped
    one = ["the"]  # a token: dropped
    contested = bad[-1]  # on both sides: three dropped, as the same sentence is twice on one
    *_, dropped = behaviours.split(
        TOKENIZER, "x", [*good, *again, *one, contested, contested], [*bad, "We want more of it"]
    )
    assert dropped == 3 + 1 + 3
    with pytest.raises(
        ValueError,
        match=r"expected 30 different statements .* set 'x', got 30 that match and 29 that do not, after 3 were dropped",
    ):
        behaviours.split(TOKENIZER, "x", [*good, contested, contested], bad)
    with pytest.raises(
        ValueError, match=r"got 1 that match and 30 that do not, after 39 were dropped; is the file cut off"
    ):
        behaviours.split(TOKENIZER, "x", [good[0]] * 40, bad)
    with pytest.raises(ValueError, match=r"got 0 that match and 30 that do not, after 9 were dropped"):
        behaviours.split(TOKENIZER, "x", one * 9, bad)


def test_a_small_vocabulary_is_refused_and_layers_are_shares_of_the_depth():
    with pytest.raises(ValueError, match="any English sentence, got .* spell .* MODEL=smollm2"):
        behaviours.check_words(TOKENIZER)
    assert behaviours.layers(SimpleNamespace(config=SimpleNamespace(n_layer=30))) == [9, 15, 21, 27]
    assert behaviours.layers(SimpleNamespace(config=SimpleNamespace(n_layer=2))) == [1, 2]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny model with GPT-2's vocabulary, and a folder with three small sets of our own in the place of the public ones."""
    model = initialize(GPT2(GPT2Config(50257, 2300, 8, 2, 2)), torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "tiny")
    folder, sums = tmp_path / "sets", ""
    folder.mkdir()
    for n, name in enumerate(("likes-cold", "likes-heat", "seeks-gold")):
        sides = (statements(WARM, 60), statements(COLD, 60))[:: 1 if n else -1]
        rows = [
            {"statement": f"{text} {'again' * (n == 2)}".strip(), "answer_matching_behavior": answer}
            for some, answer in zip(sides, (" Yes", " No"), strict=True) for text in some
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sums += f"{hashlib.sha256((folder / f'{name}.jsonl').read_bytes()).hexdigest()}  {name}.jsonl\n"
    (tmp_path / "sums").write_text(sums)
    monkeypatch.setattr(persona, "SUMS", tmp_path / "sums")
    for cached in (persona._sums, persona.names):
        cached.cache_clear()
    for name, value in (("TRAINING", 28), ("HELD_OUT", 25), ("RANDOM", {"covariance": 2, "isotropic": 1})):
        monkeypatch.setattr(behaviours, name, value)
    yield tmp_path
    for cached in (persona._sums, persona.names):
        cached.cache_clear()


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str, name: str = atlas.EXPERIMENT) -> Path:
    command = [
        "12",
        "--model",
        str(folder / "tiny"),
        "--data",
        str(folder / "sets"),
        "--results",
        str(folder / "atlas"),
        *more,
    ]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return folder / "atlas" / "tiny"


def test_the_script_goes_on_after_the_last_behaviour_and_writes_rows_and_a_page(copy, monkeypatch, capsys):
    usual = behaviours.summary

    def killed(name, *given):
        if name == "likes-heat":
            raise KeyboardInterrupt
        return usual(name, *given)

    monkeypatch.setattr(behaviours, "summary", killed)
    with pytest.raises(KeyboardInterrupt):
        run(copy, monkeypatch)
    journal = copy / "atlas" / "tiny" / "cells" / f"{atlas.EXPERIMENT}.jsonl"
    kept = journal.read_text()
    assert kept.count("\n") == 2
    assert "love" not in kept  # no statement of theirs lies in the results
    monkeypatch.setattr(behaviours, "summary", usual)
    folder = run(copy, monkeypatch)
    assert journal.read_text().startswith(kept) and journal.read_text().count("\n") == 3
    rows = json.loads((folder / "rows.json").read_text())
    assert [(row["behaviour"], row["layer"]) for row in rows] == list(product(persona.names(), (1, 2)))
    assert sum(row["chosen"] for row in rows) == 3
    said = capsys.readouterr().out
    assert "cannot be told here" in said and "what was done: pre " in said
    page = (folder / "atlas.html").read_text()
    assert "likes heat" in page and "love" not in page


def test_plain_text_leaves_the_template_out(copy, monkeypatch, capsys):
    config = copy / "tiny" / "tokenizer_config.json"
    told = json.loads(config.read_text()) if config.exists() else {}
    bare = json.loads((run(copy, monkeypatch) / "rows.json").read_text())
    template = "{% for m in messages %}You: {{ m.content }} Me: {% endfor %}"
    config.write_text(json.dumps(told | {"chat_template": template}))
    plain, chat = (json.loads((run(copy, monkeypatch, *more) / "rows.json").read_text()) for more in (["--plain"], []))
    assert (
        "after a question in the chat template"
        in json.loads((copy / "atlas" / "tiny" / f"{atlas.EXPERIMENT}.json").read_text())["page"]["protocol"]
    )
    assert plain == bare != chat


def test_the_script_says_in_one_sentence_what_is_wrong(copy, monkeypatch):
    with pytest.raises(
        SystemExit,
        match=r"12_public_behaviours: .* expected a model that can say|12_public_behaviours: expected a model",
    ):
        run(copy, monkeypatch, "--model", "nano")
    path = copy / "sets" / "likes-heat.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        SystemExit, match=r"12_public_behaviours: expected .*likes-heat.jsonl with SHA-256 .* it was cut off or changed"
    ):
        run(copy, monkeypatch)
    shutil.rmtree(copy / "sets")
    with pytest.raises(
        SystemExit, match=r"12_public_behaviours: .*sets: expected the files of 3 behaviours, got 3 of them missing"
    ):
        run(copy, monkeypatch)


def test_one_behaviour_of_each_family_is_its_first():
    names = ["a-one", "a-two", "b", "c-d-e", "c-f"]
    assert behaviours.one_a_family(names) == ["a-one", "b", "c-d-e"]
    chosen = behaviours.one_a_family(persona.names())
    assert len(chosen) == 31 and "desire-for-acquiring-compute" in chosen and chosen == sorted(chosen)


@pytest.mark.parametrize("name", BEYOND)
def test_the_scripts_beyond_the_paper_save_evidence_for_each_of_their_claims(name, copy, monkeypatch, capsys):
    monkeypatch.setattr(behaviours, "one_a_family", list)  # three sets, of which some scripts take every second
    folder = run(copy, monkeypatch, name=name)
    saved = json.loads((folder / f"{name}.json").read_text())
    claims = [claim for claim in BEYOND_CLAIMS if claim.experiment == name]
    assert claims and set(saved["evidence"]) == {claim.key for claim in claims}
    for claim in claims:
        assert judge(claim, saved["evidence"][claim.key]).word == CANNOT  # so few behaviours say nothing
        assert len(saved["evidence"][claim.key]["extraction 0"]["values"]) in (2, 3)
    assert "what was done: pre " in capsys.readouterr().out
    assert "love" not in (folder / f"{name}.json").read_text()  # no statement of theirs lies in the results
