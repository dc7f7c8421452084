"""Tokenizer: the known table, round trips of any string, the folder's own files, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ministeer import tokenizer as module
from ministeer.tokenizer import GPT2_RANKS, GPT2_VOCAB, Tokenizer

TEXTS = [
    "Hello world",
    " doctor's  wedding\n\n\tin 1984, they'll say…",
    "naïve café 日本語 👩‍👩‍👧 \u0000\u007f\u00ad",
    "def f(x):\n    return x  # <|endoftext|>   ",
    "",
]
any_string = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.gpt2()


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """256 bytes and two merges."""
    return Tokenizer({bytes([b]): b for b in range(256)} | {b" a": 256, b" ab": 257}, eot=258)


@pytest.fixture(scope="module")
def hub_files(tmp_path_factory) -> Path:
    """GPT-2's table in the hub's two files, made from the ranks alone."""
    folder = tmp_path_factory.mktemp("hub")
    lines = GPT2_RANKS.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    shown = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    char = {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in shown)}
    spell = {token: "".join(char[b] for b in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:  # merge as encoding would, with the lower ranks only
            i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append(f"{spell[parts[0]]} {spell[parts[1]]}")
    vocab = {spell[token]: rank for token, rank in ranks.items()} | {"<|endoftext|>": 50256}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return folder


def test_the_shipped_table_is_the_published_one():
    data = GPT2_RANKS.read_bytes()
    assert hashlib.sha256(data).hexdigest() == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    assert len(data.splitlines()) == GPT2_VOCAB - 1
    licence = GPT2_RANKS.with_name("gpt2.tiktoken.LICENSE.md").read_text("utf-8")
    assert hashlib.sha256(data).hexdigest() in licence
    assert "MIT" in licence


def test_known_answers(gpt2):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert (gpt2.encode(" doctor"), gpt2.encode(" wedding")) == ([6253], [10614])
    assert (gpt2.n_vocab, gpt2.eot) == (50257, 50256)
    assert gpt2.token_bytes(995) == b" world"
    assert gpt2.single(" doctor") == 6253


def test_special_tokens_only_where_asked_for(gpt2):
    text = "a<|endoftext|>b"
    assert gpt2.eot not in gpt2.encode(text)
    assert gpt2.encode(text, special=True) == [64, 50256, 65]
    assert gpt2.decode(gpt2.encode(text)) == gpt2.decode([64, 50256, 65]) == text


@given(text=any_string)
@settings(deadline=None, max_examples=300)
def test_any_string_round_trips(gpt2, small, text):
    for tok in (gpt2, small):
        assert tok.decode(tok.encode(text)) == text
        assert tok.decode(tok.encode(text, special=True)) == text
        assert all(0 <= i < tok.eot for i in tok.encode(text))


@given(ids=st.lists(st.integers(0, GPT2_VOCAB - 1)))
@settings(deadline=None, max_examples=200)
def test_any_ids_decode(gpt2, ids):
    assert b"".join(map(gpt2.token_bytes, ids)).decode("utf-8", "replace") == gpt2.decode(ids)


def test_half_a_character_decodes_to_the_replacement_sign(gpt2):
    ids = gpt2.encode("👩")
    assert len(ids) > 1
    assert "�" in gpt2.decode(ids[:1])


@pytest.mark.parametrize("text", [" " * 100_000, "a" * 100_000, "\n" * 50_000 + "x", "\ud800" * 1000])
def test_long_runs(gpt2, text):
    assert gpt2.decode(gpt2.encode(text)) == text


def test_single_shows_the_pieces(gpt2):
    with pytest.raises(ValueError, match=re.escape("expected one token, got 3 for 'wedding': ['w', 'edd', 'ing']")):
        gpt2.single("wedding")
    with pytest.raises(ValueError, match="got 0"):
        gpt2.single("")


@pytest.mark.parametrize("bad", [50257, -1, 2**70])
def test_ids_of_another_tokenizer_are_refused(gpt2, bad):
    with pytest.raises(ValueError, match=f"from 0 to 50256, got {bad}"):
        gpt2.decode([0, bad])


def test_the_hubs_files_give_the_same_ids(gpt2, hub_files):
    tok = Tokenizer.from_folder(hub_files, GPT2_VOCAB)
    assert tok._ranks == gpt2._ranks
    assert (tok.eot, tok.n_vocab) == (gpt2.eot, gpt2.n_vocab)
    for text in TEXTS:
        assert tok.encode(text) == gpt2.encode(text)


def test_the_same_ids_as_transformers(gpt2, hub_files):
    peer = pytest.importorskip("transformers").GPT2Tokenizer.from_pretrained(hub_files)
    sample = Path(module.__file__).read_text("utf-8")
    for text in [*TEXTS, sample]:
        assert gpt2.encode(text, special=True) == peer(text)["input_ids"]


def test_a_folder_uses_its_own_table_first(small, hub_files, tmp_path):
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in small._ranks.items()]
    (tmp_path / "vocab.tiktoken").write_bytes(b"".join(lines))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((hub_files / name).read_bytes())
    tok = Tokenizer.from_folder(tmp_path, 300)
    assert (tok.n_vocab, tok.eot, tok.encode(" abc")) == (259, 258, [257, 99])
    with pytest.raises(ValueError, match="at most 200 tokens"):
        Tokenizer.from_folder(tmp_path, 200)


def test_a_folder_without_a_table_has_gpt2s_if_the_size_is_gpt2s(gpt2, tmp_path):
    assert Tokenizer.from_folder(tmp_path, GPT2_VOCAB).encode(TEXTS[1]) == gpt2.encode(TEXTS[1])
    with pytest.raises(ValueError, match=r"vocab.tiktoken.*vocabulary of 1000.*load_model"):
        Tokenizer.from_folder(tmp_path, 1000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"YQ== 0\nYg==\n", "line 2: expected `base64 rank`"),
        (b"YQ== 0\nYg== 2\n", "line 2: .*out of order"),
        (b"YQ== 0\nYQ== 1\n", "line 2: .*a token twice"),
        (b"Y!== 0\n", "line 1"),
        (b"YQ== 0\n", "all 256 single bytes"),
        (b"", "all 256 single bytes"),
    ],
)
def test_damaged_rank_files_are_refused(content, message, tmp_path):
    path = tmp_path / "vocab.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_file(path)
    assert str(path) in str(caught.value)


def test_hub_files_that_cannot_become_ranks_are_refused(hub_files, tmp_path):
    vocab = json.loads((hub_files / "vocab.json").read_text("utf-8"))
    merges = (hub_files / "merges.txt").read_text("utf-8").splitlines()

    def refused(vocab: dict, merges: list[str]) -> str:
        (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
        (tmp_path / "merges.txt").write_text("\n".join(merges), "utf-8")
        with pytest.raises(ValueError) as caught:
            Tokenizer.from_folder(tmp_path, 60000)
        return str(caught.value)

    assert "order of their ids" in refused(vocab, [merges[0], *reversed(merges[1:])])
    assert "order of their ids" in refused(vocab, merges[:-1])
    assert "order of their ids" in refused(vocab | {"<pad>": 50257}, merges)
    assert "byte-level BPE" in refused(vocab | {"▁word": 50257}, merges)
    assert "<|endoftext|>" in refused({k: v for k, v in vocab.items() if v != 50256}, merges)
    assert "an id twice" in refused(vocab | {"<|endoftext|>": 0}, merges)


def test_it_travels_to_other_processes(small):
    assert pickle.loads(pickle.dumps(small)).encode(" abc") == small.encode(" abc")


def test_importing_it_imports_no_tiktoken_and_using_it_opens_no_socket():
    code = """
import sys, socket
import ministeer.checkpoint
assert not {"tiktoken", "safetensors", "huggingface_hub", "transformers"} & set(sys.modules), "imported too early"
socket.socket = None
assert ministeer.checkpoint.Tokenizer.gpt2().encode("Hello world") == [15496, 995]
"""
    root = Path(module.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
