"""The playground's session: what a page asks for, what it is shown, and the lines of Python that do the same. On both architectures."""

import base64
import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import both

import ministeer
from ministeer import Receipt, Steer, SteeringVector, cli, extract, generate, say
from ministeer.play.asked import pairs
from ministeer.play.session import GRID, Session, called, pieces, speller
from ministeer.strength import fitting
from ministeer.tokenizer import Tokenizer

BOTH = both(5, 257, 48, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
TEXTS = {"plus": "joy", "minus": "woe"}
PAIRS = [["so happy", "so gloomy"], ["a joy", "a pity"], ["glad", "sad"], ["we laugh", "we cry"]]


def vector(made: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return {"made": made or TEXTS, "layer": 1, "strength": 2.0, "where": "all"} | how


def asked(*vectors: dict[str, Any], **how: Any) -> dict[str, Any]:
    return {"prompt": "I feel", "tokens": 8, "vectors": list(vectors)} | how


def ran(given: Any, tokenizer: Tokenizer = BYTES) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last event of a run, and those before it."""
    told: list[dict[str, Any]] = []
    return Session(MODEL, tokenizer, "small").run(given, told.append), told


def texts(done: dict[str, Any]) -> list[str]:
    return ["".join(token["text"] for token in column) for column in done["columns"]]


def printed(lines: str, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer = BYTES) -> list[str]:
    """What the lines print, each as `print` was given it."""
    said: list[str] = []
    monkeypatch.setattr(ministeer, "load", lambda name: (MODEL, tokenizer))
    exec(compile(lines, "lines", "exec"), {"print": said.append})  # noqa: S102 - what is run is what the page shows
    return said


CASES = {
    "one": asked(vector()),
    "away": asked(vector(strength=-1.5)),
    "several": asked(vector(layer=0, where="last"), vector({"plus": "b", "minus": "c"}, layer=3, strength=1), vector(strength=0)),
    "front": asked(vector(where="front")),
    "pairs": asked(vector({"pairs": PAIRS}, layer=1, where="generated", strength=-4)),
    "pairs by their words": asked(vector({"pairs": PAIRS, "token": "answer"}, layer=1)),
    "odd letters": asked(vector({"plus": "q\"\\'\r\u2028\x00é🙂", "minus": "b"}), prompt="\\n \"'\t\x7f\x85é🙂"),
    "drawn": asked(vector(where="prompt"), temperature=0.8, seed=3),
    "nothing": asked(),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_page_shows_what_its_lines_of_python_print(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done, told = ran(CASES[case])
    shown = texts(done)
    lines = printed(done["python"], monkeypatch)
    assert lines == (shown if case != "nothing" else shown[:1])
    # what was shown while it came, but for bytes at the end that are no letter yet
    for column, text in enumerate(shown):
        streamed = "".join(event["text"] for event in told if event["type"] == "token" and event["column"] == column)
        assert text.startswith(streamed) and set(text[len(streamed) :]) <= {"\ufffd"}
    if case != "front":  # the first tokens alone turn no text of a random model
        assert (shown[0] != shown[1]) == (case != "nothing")


def test_both_texts_are_those_of_generate_and_the_coefficient_is_that_of_the_command() -> None:
    done, told = ran(asked(vector(strength=cli.SHARE)))
    site, ids = ("pre", 1), BYTES.prompt("I feel")
    how: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "stop": BYTES.stop}
    plain = generate(MODEL, ids, **how)
    steer = Steer(extract.contrastive(MODEL, BYTES, [("joy", "woe")], token="last"), site)
    steer = replace(steer, coeff=cli.fitting(MODEL, plain, len(ids), steer))
    steered = generate(MODEL, ids, steer=steer, **how)
    assert texts(done) == [
        BYTES.decode(text[len(ids) :][: [*text[len(ids) :], 256].index(256)]) for text in (plain, steered)
    ]
    assert [event for event in told if event["type"] == "steers"] == [{"type": "steers", "coefficients": [steer.coeff]}]


def test_of_each_token_it_says_what_both_models_thought() -> None:
    """Held to one call of the model at a time, on the tokens before."""
    done, told = ran(asked(vector(where="last")))
    coeff = next(event for event in told if event["type"] == "steers")["coefficients"][0]
    made, site = extract.contrastive(MODEL, BYTES, [("joy", "woe")], token="last"), ("pre", 1)
    ids = BYTES.prompt("I feel")
    for column, steer in ((0, None), (1, Steer(made, site, coeff, "last"))):
        tokens = done["columns"][column]
        new = generate(MODEL, ids, max_new_tokens=8, temperature=0, steer=steer, stop=BYTES.stop)
        for i, token in enumerate(tokens[:4]):
            before = torch.tensor([new[: len(ids) + i]])
            add = torch.zeros(1, before.shape[1], 48)
            add[:, len(ids) - 1 :] = coeff * made[site]
            tape: dict[Any, Any] = {}
            with torch.no_grad():
                plain = MODEL(before)[0, -1].log_softmax(-1)
                pushed = MODEL(before, adds={site: add})[0, -1].log_softmax(-1)
                MODEL(torch.tensor([new[: len(ids) + i + 1]]), tape=tape)
            assert token["kl"] == pytest.approx(float((plain.exp() * (plain - pushed)).sum()), abs=1e-3)
            assert token["along"][0] == pytest.approx(
                float(torch.cosine_similarity(tape[site][0, -1], made[site], dim=0)), abs=1e-3
            )
            for mine, (_, p) in zip((plain, pushed), (likely[0] for likely in token["likely"]), strict=True):
                assert p == pytest.approx(float(mine.exp().max()), abs=1e-3)
            assert token["likely"][column][0][0] == token["token"]  # as the likeliest was taken
            now = new[len(ids) + i]
            assert token["chance"] == pytest.approx([float(mine[now].exp()) for mine in (plain, pushed)], abs=1e-3)


def test_the_receipt_is_said_in_words() -> None:
    done, _ = ran(asked(vector(strength=0.5), vector(layer=3, where="last", strength=0.25)))
    receipt = Receipt()
    assert done["receipt"].startswith("At the input of layer 1, ") and "pushed by 0." in done["receipt"]
    assert "tokens 0 to " in done["receipt"] and "At the output of the last layer, " in done["receipt"]
    assert not receipt.sites and ran(asked())[0]["receipt"] == "Nothing was added."


def known(token: dict[str, Any]) -> list[float]:
    """The numbers that are said of a token."""
    return [token["kl"], *token["chance"], *token["along"], *(p for likely in token["likely"] for _, p in likely)]


@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", "front"])
def test_what_was_written_of_a_stopped_text_is_known_as_that_of_a_whole_one(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page sends the ids it was told; nothing is written anew."""
    given = asked(vector(where=where))
    done, told = ran(given)
    ids = [event["id"] for event in told if event["type"] == "token" and event["column"] == 1]
    assert ran(given | {"written": ids})[0] == done
    some, quiet = ran(given | {"written": ids[:3]})
    assert [[known(token) for token in column] for column in some["columns"]] == [
        [pytest.approx(known(token), abs=2e-4) for token in column[:3]] for column in done["columns"]
    ]
    assert not [event for event in quiet if event["type"] == "token"]
    assert printed(some["python"], monkeypatch) == texts(some)
    assert len(printed(ran(given | {"written": ids[:1]})[0]["python"], monkeypatch)) == 2
    pushed = {"all": 9, "prompt": 7, "last": 3, "generated": 2, "front": 3}[where]  # the last token is never read
    assert some["receipt"].startswith(f"At the input of layer 1, {pushed} of the 9 tokens read")


def test_too_strong_is_noted() -> None:
    notes = [[e["message"] for e in ran(asked(vector(strength=s)))[1] if e["type"] == "note"] for s in (0.5, 4.0)]
    assert notes[0] == [] and "beyond 2 what follows is often noise" in notes[1][0]


def test_who_tells_can_end_it() -> None:
    class Gone(Exception):
        pass

    told = []

    def tell(event: dict[str, Any]) -> None:
        told.append(event)
        if len(told) == 3:
            raise Gone

    with pytest.raises(Gone):
        Session(MODEL, BYTES, "small").run(asked(vector(), tokens=30), tell)
    assert len(told) == 3


def test_a_letter_of_several_tokens_comes_whole() -> None:
    ids = BYTES.encode("né🙂\n")
    assert pieces(BYTES, ids) == ["n", "", "é", "", "", "", "🙂", "\n"]
    assert pieces(BYTES, ids[:-2]) == ["n", "", "é", "", "", "\ufffd"]
    spell = speller(BYTES)
    assert [spell(i) for i in [*ids[:3], 256]] == ["n", "", "é", ""]
    assert "".join(pieces(BYTES, [255, 65, 255, 255])) == BYTES.decode([255, 65, 255, 255])


def test_the_space_that_begins_what_is_said_stays() -> None:
    """Also where a tokenizer takes that of a text, as Llama 2's."""

    class Stripping(Tokenizer):
        def decode(self, ids: Any) -> str:
            return super().decode(ids).removeprefix(" ")

    tokenizer = Stripping({bytes([byte]): byte for byte in range(256)}, eot=256)
    assert pieces(tokenizer, list(b" so"), [256, *b"it is"]) == [" ", "s", "o"]
    assert pieces(BYTES, list(b" so"), [256, *b"it is"]) == [" ", "s", "o"]


def test_a_chat_is_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
    with pytest.raises(ValueError, match="a tokenizer with a chat template"):
        ran(asked(vector(), chat=True))
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}a:"
    done, _ = ran(asked(vector(), chat=True), tokenizer)
    assert texts(done) == printed(done["python"], monkeypatch, tokenizer)
    assert texts(done)[0] == say(MODEL, tokenizer, "I feel", chat=True, max_new_tokens=8)
    assert Session(MODEL, tokenizer, "small").about["chat"] and not Session(MODEL, BYTES, "small").about["chat"]


def test_both_texts_come_side_by_side_once_the_unsteered_one_has_said_how_much_is_added() -> None:
    session, given = Session(MODEL, BYTES, "small"), asked(vector())
    first: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    done = session.run(given, first.append)
    assert session.run(given, again.append) == done
    columns = [[event["column"] for event in told if event["type"] == "token"] for told in (first, again)]
    assert columns[0] == columns[1] and columns[0][:8] == [0, 1] * 4
    written = [event["done"] for event in first if event["type"] == "progress"]
    assert written == [*range(1, len(written) + 1)] and not any(event["type"] == "progress" for event in again)
    told = [["".join(e["text"] for e in t if e.get("column") == c) for c in (0, 1)] for t in (first, again)]
    assert told[0] == told[1]
    for other in (
        given | {"prompt": "You"},
        given | {"tokens": 7},
        given | {"temperature": 1.0},
        given | {"temperature": 1.0, "seed": 5},
    ):
        assert session.run(other, again.append) == Session(MODEL, BYTES, "small").run(other, again.append)


# --- vectors


def test_a_vectors_health_is_told_at_every_layer() -> None:
    told: list[dict[str, Any]] = []
    done = Session(MODEL, BYTES, "small").vector({"made": {"pairs": PAIRS}}, told.append)
    health = extract.contrastive(MODEL, BYTES, PAIRS, token="last").health
    assert [row["layer"] for row in done["layers"]] == done["have"] == [0, 1, 2, 3]
    for row in done["layers"]:
        expected = health["pre", row["layer"]]
        assert (row["d'"], row["agreement"], row["weak"]) == (expected.separability, expected.agreement, expected.weak)
    assert told == [{"type": "progress", "done": 4, "of": 4, "what": "pairs"}]


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_a_vector_is_saved_and_comes_back(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "gguf":
        pytest.importorskip("gguf")
    session = Session(MODEL, BYTES, "small")
    saved = session.saved({"made": TEXTS, "form": form}, print)
    (tmp_path / saved["name"]).write_bytes(base64.b64decode(saved["file"]))
    made = extract.contrastive(MODEL, BYTES, [("joy", "woe")], token="last")
    if form == "safetensors":
        loaded = SteeringVector.load(tmp_path / saved["name"], MODEL)
        assert all(torch.equal(loaded[site], made[site]) for site in made.sites)
    file = {"file": saved["file"], "name": saved["name"]}
    (there, _), (here, _) = ran(asked(vector(file, layer=2))), ran(asked(vector(layer=2)))
    assert texts(there) == texts(here)
    monkeypatch.chdir(tmp_path)
    assert printed(there["python"], monkeypatch) == texts(here)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (TEXTS, "joy"),
        ({"plus": "I feel /very/ happy: really, very very very happy today", "minus": "no"}, "I-feel-very-happy-really-very-very-very"),
        ({"plus": "!?", "minus": "no"}, "vector"),
        ({"pairs": PAIRS}, PAIRS[0][0].replace(" ", "-")),
        ({"file": "AAAA", "name": "../my kind.gguf"}, "my-kind"),
    ],
)  # fmt: skip
def test_a_file_is_called_after_what_is_in_it(made: dict[str, Any], name: str) -> None:
    assert called(made) == name


def test_a_vector_of_other_weights_is_noted() -> None:
    made = extract.contrastive(MODEL, BYTES, [("joy", "woe")], token="last")
    other = SteeringVector(made.tensors, replace(made.provenance, model="0" * 16))
    _, told = ran(asked(vector({"file": as_file(other), "name": "v.safetensors"}, strength=1)))
    assert [e["message"][:50] for e in told if e["type"] == "note"] == [
        "v.safetensors: this vector was read from weights 0"
    ]


def test_a_vector_that_the_page_has_no_place_for_is_refused() -> None:
    made = extract.contrastive(MODEL, BYTES, [("joy", "woe")], ("mid", 1), token="last")
    with pytest.raises(ValueError, match=r"the input of a layer in v.safetensors, got one for \[\('mid', 1\)\]"):
        ran(asked(vector({"file": as_file(made), "name": "v.safetensors"})))
    one = extract.contrastive(MODEL, BYTES, [("joy", "woe")], ("pre", 2), token="last")
    with pytest.raises(ValueError, match=r"expected a layer that the vector has, \[2\], got 1; take one of these"):
        ran(asked(vector({"file": as_file(one), "name": "v.safetensors"})))


def as_file(made: SteeringVector) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "v.safetensors")
        return base64.b64encode((Path(folder) / "v.safetensors").read_bytes()).decode()


def test_what_was_made_is_kept_by_what_it_is_made_of() -> None:
    """So that two pages that ask for different vectors, in turns, each get their own."""
    session, told = Session(MODEL, BYTES, "small"), []
    one, two = asked(vector({"pairs": PAIRS})), asked(vector({"pairs": PAIRS[::-1][:2]}))
    first = [texts(session.run(given, told.append)) for given in (one, two, one, two)]
    assert first[:2] == first[2:] and first[0] != first[1]
    assert sum(event.get("what") == "pairs" for event in told) == 2
    for i in range(40):
        session.run(asked(vector({"plus": f"{i}", "minus": "x"}), tokens=1), told.append)
    assert len(session._made) <= 16


def test_pairs_are_read_from_lines() -> None:
    rows = [["a", "b"], {"positive": "a", "negative": "b"}, {"minus": "b", "plus": "a", "note": 1}]
    assert pairs("\n\n".join(map(json.dumps, rows))) == [["a", "b"]] * 3
    assert pairs(rows) == [["a", "b"]] * 3
    assert pairs("a|b\n\n a | b \na\tb\r\n") == [["a", "b"]] * 3


# --- the map


def test_a_cell_is_the_log_odds_that_one_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    session, told = Session(MODEL, BYTES, "small"), []
    done = session.grid(asked(vector(), word="e"), told.append)
    assert [row["layer"] for row in done["rows"]] == [0, 1, 2, 3] and done["strengths"] == GRID
    ids = BYTES.prompt("I feel")
    plain = generate(MODEL, ids, max_new_tokens=8, temperature=0, stop=BYTES.stop)
    made = extract.contrastive(MODEL, BYTES, [("joy", "woe")], token="last")
    for layer, column in ((1, 1), (2, 8), (1, 4)):
        steer = Steer(made, ("pre", layer))
        coeff = GRID[column] * fitting(MODEL, plain, len(ids), steer, 1.0)
        p = ministeer.prefill(MODEL, [ids], steer=replace(steer, coeff=coeff)).softmax(-1)[0, ord("e")]
        assert done["rows"][layer]["odds"][column] == pytest.approx(float((p / (1 - p)).log()), abs=2e-3)
    assert len([event for event in told if event.get("what") == "layers"]) == 4


def test_a_map_of_a_vector_at_the_front_ends_below_the_last_attention() -> None:
    """After it nothing but the prompt's last token is read."""
    done = Session(MODEL, BYTES, "small").grid(asked(vector(where="front"), word="e"), lambda event: None)
    assert [row["layer"] for row in done["rows"]] == [0, 1, 2]
    assert all(isinstance(odds, float) for row in done["rows"] for odds in row["odds"])


def test_at_the_top_the_share_is_that_of_the_one_token_that_is_read() -> None:
    """Of a vector for each position that row counts which is added there."""
    ids = BYTES.prompt("I feel")
    rows = torch.randn(len(ids), 48, generator=torch.Generator().manual_seed(0))
    rows[0] *= 100
    steer = Steer(rows, ("pre", 3), where="front")
    tape: dict[Any, Any] = {}
    MODEL(torch.tensor([ids]), tape=tape)
    here = float(rows[-1].norm() / tape["pre", 3][0, -1].norm())
    assert fitting(MODEL, ids, len(ids), steer, 0.5) * here == pytest.approx(0.5, rel=5e-3)


# --- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected a request as a JSON object, got list"),
        ({}, "expected a text as prompt, got none"),
        (asked(prompt=5), "expected a text as prompt, got int"),
        (asked(prompt="\ud800"), "expected a text as prompt, in Unicode, got half a character"),
        (asked(prompt="x" * 100_001), "expected a text as prompt, of at most 100,000 letters, got 100,001; shorten it"),
        (asked(vector({"pairs": [["a", ""]]})), "expected a text in pair 1, got none"),
        (asked(vector({"pairs": PAIRS, "token": "first"})), "expected token as last or answer, got 'first'"),
        (asked(vector(where="front", layer=3)), "expected a layer below 3 for a vector added at the front: after it only"),
        (asked(tokens=0), "expected tokens as a whole number from 1 to 200, got 0"),
        (asked(tokens=2.5), "expected tokens as a whole number from 1 to 200, got 2.5"),
        (asked(tokens=10**400), "expected tokens as a whole number from 1 to 200, got 1000"),
        (asked(tokens=True), "expected tokens as a whole number"),
        (asked(written=[1.5]), "expected written as a list of at most 200 ids of tokens, got [1.5]"),
        (asked(written=[1] * 201), "expected written as a list of at most 200 ids"),
        (asked(written=[5, 257]), "expected ids below 257, the size of the vocabulary, got 257"),
        (asked(tokens=90), "expected a prompt and new tokens within the context of 48"),
        (asked(temperature=float("nan")), "expected temperature as a number from 0 to 10, got nan"),
        (asked(seed=-1), "expected seed as a whole number from 0"),
        (asked() | {"vectors": 5}, "expected at most 8 vectors"),
        (asked(*[vector()] * 9), "expected at most 8 vectors, got 9"),
        (asked(vector(layer=4)), "expected layer as a whole number from 0 to 3, got 4"),
        (asked(vector(strength=5)), "expected strength as a number from -4 to 4, got 5"),
        (asked(vector(where="here")), "expected where as one of all, prompt, last, generated, front, got 'here'"),
        (asked(vector(where=[1])), "expected where as one of all"),
        (asked(vector() | {"made": None}), "expected what a vector is made of as a JSON object"),
        (asked(vector({"minus": "a"})), "expected two texts, pairs of texts, or a file, got none of them"),
        (asked(vector({"plus": "a"})), "expected a text to go away from, got none; write one"),
        (asked(vector({"plus": "a", "minus": "b"}), vector({"plus": "a"})), "vector 2: expected a text to go away from, got none; write one"),
        (asked(vector({"file": "", "name": ""})), "expected a file with a vector, got none; choose a file"),
        (asked(vector({"pairs": "a | b\n\na | b | c"})), "expected two texts on each line, towards | away from, got 'a | b | c' on line 3"),
        (asked(vector({"plus": "a", "minus": "b"}, layer=None)), "expected layer as a whole number from 0 to 3, got none"),
        (asked(vector({"plus": "a", "minus": "a"})), "expected two texts that differ"),
        (asked(vector({"plus": "a" * 60, "minus": "b"})), "expected texts of at most 48 tokens, the model's context, got 61"),
        (asked(vector({"plus": "a long text", "minus": "b"}, where="front")), "expected a prompt of 12 tokens or more"),
        (asked(vector({"plus": "xa", "minus": "ya"}, layer=0)), "expected a vector that is not zero at ('pre', 0), got zeros"),
        (asked(vector({"pairs": []})), "expected a pair or more"),
        (asked(vector({"pairs": [["a", "b"]] * 2001})), "expected at most 2000 pairs, got 2001"),
        (asked(vector({"pairs": "a, b"})), "expected two texts on each line, towards | away from, got 'a, b' on line 1; write one bar between them"),
        (asked(vector({"pairs": '["a"]'})), 'expected two texts in pair 1, ["text with it", "text without"] on each line, got ["a"]'),
        (asked(vector({"pairs": '{"a": "b"}'})), "expected two texts in pair 1"),
        (asked(vector({"pairs": [["a", "b"], ["c", "c"]]})), "expected two texts that differ in pair 2, got the same twice"),
        (asked(vector({"plus": "so", "minus": "so"})), "expected two texts that differ, got the same twice"),
        (asked(vector({"file": "%", "name": "v.safetensors"})), "expected a file in base64"),
        (asked(vector({"file": "AAAA", "name": "../v.safetensors"})), "../v.safetensors: expected a safetensors file, got one that cannot be read"),
        (asked(vector({"file": "AAAA", "name": "v.gguf"})), "v.gguf: "),
        (asked(vector(where="generated"), tokens=1), "expected a run of two new tokens or more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(given: Any, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        ran(given)
    assert message in str(refused.value) and "\n" not in str(refused.value) and "/tmp" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (asked(vector()), "expected a text as word, got none"),
        (
            asked(vector(), word="happy"),
            "expected a word that is one token of this model, got 'happy', which is [' ', 'h'",
        ),
        (asked(word="e"), "expected a vector to sweep, got none"),
        (
            asked(vector(where="generated"), word="e"),
            "expected a vector added to the prompt, got one for new tokens only",
        ),
    ],
)
def test_a_map_that_cannot_be_drawn_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        Session(MODEL, BYTES, "small").grid(given, print)
    assert message in str(refused.value)


@pytest.mark.once
def test_a_toy_says_what_it_knows_and_which_words_it_does_not() -> None:
    model, tok = ministeer.load("nano")
    session, told = Session(model, tok, "nano"), []
    assert "for other subjects" in session.about["knows"].lower() and not Session(MODEL, BYTES, "x").about["knows"]
    odd = {"plus": "I love unicorns", "minus": "I love fish and unicorns"}
    session.run({"prompt": "My life is", "tokens": 1, "vectors": [vector(odd)]}, told.append)
    notes = [event["message"] for event in told if event["type"] == "note"]
    assert sum("nano does not know unicorns" in note for note in notes) == 1
    told.clear()
    session.run({"prompt": "I feel", "tokens": 1, "vectors": [vector({"plus": "Love", "minus": "Hate"})]}, told.append)
    assert not [event for event in told if event["type"] == "note" and "know" in event["message"]]


@pytest.mark.once
def test_the_page_opens_with_something_that_works() -> None:
    """One press on nano, as the page has it, and as `ministeer steer` would say it."""
    model, tok = ministeer.load("nano")
    session, told = Session(model, tok, "nano"), []
    ready = session.about["ready"]
    given = vector({name: ready[name] for name in ("plus", "minus")}, layer=ready["layer"], strength=ready["strength"])
    plain, steered = texts(session.run(asked(given, prompt=ready["prompt"], tokens=24), told.append))
    assert "sad" in plain and "hate" in plain and "happy" in steered and "love" in steered
    with contextlib.redirect_stdout(out := io.StringIO()):
        cli.main(["steer", ready["prompt"], "--plus", ready["plus"], "--minus", ready["minus"], "--where", "all",
                  "--layer", str(ready["layer"]), "--tokens", "24"])  # fmt: skip
    assert [line[11:] for line in out.getvalue().splitlines()[:2]] == [
        repr("I feel" + text) for text in (plain, steered)
    ]
