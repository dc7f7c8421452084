"""A text in, what the model says after it out: the tokens of `generate`, and nothing of their bookkeeping."""

import sys
import warnings
from typing import Any

import pytest
import torch
from reference import both, random_tensor

import ministeer
from ministeer import Receipt, Steer, extract, generate, say
from ministeer.tokenizer import Tokenizer

BOTH = both(3, 257, 48, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
V = random_tensor(48, seed=1, scale=1.0)


def said(ids: list[int], **settings: Any) -> str:
    """What `generate` makes of ids, as a text, up to its end."""
    new = generate(MODEL, ids, **{"max_new_tokens": 20, "temperature": 0} | settings)[len(ids) :]
    return BYTES.decode(new[: [*new, 256].index(256)])


def test_it_is_what_generate_says_after_the_text() -> None:
    assert say(MODEL, BYTES, "I feel") == said([256, *b"I feel"])
    assert say(MODEL, BYTES, "<|endoftext|>I feel") == said([256, *b"I feel"])
    assert say(MODEL, BYTES, "", max_new_tokens=3) == said([256], max_new_tokens=3)


def test_it_takes_what_generate_takes() -> None:
    steer, receipt = Steer(V, ("pre", 1), 3.0), Receipt()
    assert say(MODEL, BYTES, "so", steer=steer, receipt=receipt) == said([256, *b"so"], steer=steer)
    assert say(MODEL, BYTES, "so", steer=steer) != say(MODEL, BYTES, "so")
    assert receipt.sites["pre", 1].positions == 3 + 19
    drawn = {"temperature": 1.0, "top_p": 0.9, "frequency_penalty": 0.5}
    one, two = (torch.Generator().manual_seed(1) for _ in range(2))
    assert say(MODEL, BYTES, "so", generator=one, **drawn) == said([256, *b"so"], generator=two, **drawn)
    with pytest.raises(TypeError, match="tempereture"):
        say(MODEL, BYTES, "so", tempereture=1.0)


def test_the_space_before_what_is_said_stays_where_a_tokenizer_takes_that_of_a_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of Llama 2 decode: what begins with a space loses it."""

    class Stripping(Tokenizer):
        def decode(self, ids: Any) -> str:
            return super().decode(ids).removeprefix(" ")

    module, usual = sys.modules["ministeer.generate"], generate
    for new in (b" x", b"x "):
        monkeypatch.setattr(module, "generate", lambda model, ids, new=new, **_: [*ids, *new])
        assert say(MODEL, Stripping({bytes([byte]): byte for byte in range(256)}, eot=256), "so") == new.decode()
    monkeypatch.setattr(module, "generate", usual)


def test_it_ends_before_the_token_that_ends_a_text() -> None:
    """And keeps what else it was told to stop at out of the text as well."""
    new = generate(MODEL, [256, *b"so"], max_new_tokens=9, temperature=0)[3:]
    end = next(token for token in new if token != new[0])
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
    tokenizer.stop = (end,)
    assert say(MODEL, tokenizer, "so") == BYTES.decode(new[: new.index(end)])
    assert say(MODEL, tokenizer, "so", stop=[new[0]]) == ""
    assert say(MODEL, tokenizer, "so", stop=[], max_new_tokens=9) == BYTES.decode(new)


def test_in_a_chat_the_text_is_the_users() -> None:
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
    with pytest.raises(ValueError, match="a tokenizer with a chat template"):
        say(MODEL, tokenizer, "so", chat=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}a:"
    assert say(MODEL, tokenizer, "so", chat=True) == said([*b"user:so|a:"])
    front = Steer(V[None].repeat(2, 1), ("pre", 1), where="front")
    for steer in (front, [Steer(V, ("pre", 1)), front]):
        with pytest.warns(UserWarning, match="the first tokens of a chat, .* are the template's own") as seen:
            say(MODEL, tokenizer, "so", chat=True, steer=steer)
        assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match=r"the text holds <\|endoftext\|>, which a chat's template writes itself"):
        say(MODEL, tokenizer, "user:so|<|endoftext|>", chat=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say(MODEL, tokenizer, "so", chat=True, steer=Steer(V, ("pre", 1)))
        say(MODEL, tokenizer, "so", steer=front)


@pytest.mark.once
def test_the_first_minute() -> None:
    model, tok = ministeer.load("nano")
    love = extract.activation_addition(model, tok, "Love", "Hate", ("pre", 1))
    plain, steered = (say(model, tok, "I feel", steer=s) for s in (None, Steer(love, ("pre", 1), 2.0, where="front")))
    assert plain != steered and isinstance(steered, str)


def test_a_model_that_is_told_to_generate_says_who_does() -> None:
    with pytest.raises(ValueError, match=r"expected ministeer.generate\(model, ids, .*got model.generate; or say"):
        MODEL.generate([256, *b"so"], max_new_tokens=5)


@pytest.mark.parametrize("text", [["I", "you"], None, [1, 2], b"so"])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a text, got .*; give one text at a time"):
        say(MODEL, BYTES, text)


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 40}, {}])
def test_who_says_how_to_draw_gets_a_draw(settings: dict[str, Any]) -> None:
    """At the temperature of `generate`, as 0 would leave the setting without effect."""
    one, two = (torch.Generator().manual_seed(3) for _ in range(2))
    drawn = said([256, *b"so"], temperature=1.0, generator=one, **settings)
    assert say(MODEL, BYTES, "so", generator=two, **settings) == drawn != say(MODEL, BYTES, "so")
    if settings:
        torch.manual_seed(1)
        assert say(MODEL, BYTES, "so", **settings) != say(MODEL, BYTES, "so")
    assert say(MODEL, BYTES, "so", temperature=0.0, generator=one, **settings) == say(MODEL, BYTES, "so")
    assert say(MODEL, BYTES, "so", top_p=1.0, top_k=None, generator=None) == say(MODEL, BYTES, "so")


def test_no_stop_is_an_empty_list() -> None:
    with pytest.raises(ValueError, match=r"stop to be a list of ids, got None; write tok.stop, or \(\) to end at none"):
        say(MODEL, BYTES, "so", stop=None)


def test_a_text_that_ends_in_a_space_is_told(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(
        UserWarning, match="the text ends in a space, which most tokenizers have at the beginning of the next"
    ):
        say(MODEL, BYTES, "so ")
    recwarn.clear()
    say(MODEL, BYTES, "so\n")
    assert not recwarn.list
