"""Texts of every script for the tokenizers, from a seed, and small tokenizers with each family's way of cutting."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from ministeer import bpe

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BITS = r""" 's 't 're 'Ve 'M 'LL 'd 'ſ 've' it's WE'LL don’t 0 7 42 1984 3.14 ½ ² ٣٤ 一二 Ⅷ 10,000 . , ... !? -- (( ]]] {} __ ==
/* <| |> \ " ` $ € ∑ → ■ 👩‍👩‍👧 👍🏽 🇩🇪 ❤️ é ㄱ각 각 ﬁ ß ẞ İ ı ſ the and he she in at on er ing tion wedding doctor def return
naïve café Ünïcödé Привет мир Ελλάδα שלום مرحبا नमस्ते สวัสดี 你好 世界 日本語 カタカナ ひらがな 한국어 ተወዳጅ Հայ საქ ᏣᎳᎩ ᠮᠣᠩ བོད""".split()
BITS += [
    "",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    " \r",
    "\t",
    " ",
    "\x0b",
    "\x0c",
    "\x85",
    "\xa0\n",
    "\u2028",
    "\u3000",
    "\u200b",
    "\u180e",
]
BITS += [
    "e\u0301",
    "n\u0303",
    "A\u030a",
    "\u0344",
    "\u212a",
    "\x00",
    "\x04",
    "\x13",
    "\x1d",
    "\x7f",
    "\xad",
    "\ufeff",
    "\ufffd",
]
BITS += ["\ue000", "\U000f0000", "\U0010ffff"]


@cache
def scripts() -> list[list[str]]:
    """The assigned characters by script (the first word of the name)."""
    found: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        if name and unicodedata.category(chr(code)) != "Cs":
            found.setdefault(name.split()[0].split("-")[0], []).append(chr(code))
    return list(found.values())


def texts(count: int, seed: int = 0) -> list[str]:
    """Mixed scripts, emoji, combining marks, digits, runs of spaces, contractions, controls, special tokens as text."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.5:
                parts.append(rng.choice(BITS))
            elif kind < 0.65:
                parts.append(rng.choice(" \n\t\r\u3000\xa0") * rng.randint(1, 5))
            elif kind < 0.9:
                script = rng.choice(scripts())
                parts.append("".join(rng.choice(script) for _ in range(rng.randint(1, 6))))
            elif kind < 0.95:
                parts.append(rng.choice([*CONTROL, "<|im_", "endoftext|>"]))
            else:
                parts.append(str(rng.randint(0, 10**6)))
        made.append(rng.choice(["", " "]).join(parts))
    return made


def trained(scheme: str, size: int = 700, **content: Any) -> dict[str, Any]:
    """A small table, trained here with a family's way of cutting, in the form of `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, models, trainers

    backend = Tokenizer.from_str(json.dumps(bpe.content({}, [], scheme, {}, nfc=scheme == "qwen2")))
    backend.model = models.BPE()
    letters = bpe.byte_letters()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=letters,
        special_tokens=[AddedToken(name, normalized=False) for name in CONTROL],
        show_progress=False,
    )
    backend.train_from_iterator(texts(2000, seed=7), trainer)
    return json.loads(backend.to_str()) | content


def sentencepiece(**model: Any) -> dict[str, Any]:
    """Of Llama 2's form: spaces as ▁, one put before the text, bytes for what is unknown."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for token in ("▁", "▁▁", "t", "h", "e", "c", "a", "th", "the", "▁the", "ca"):
        vocab[token] = len(vocab)
    added = [{"id": i, "content": n, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, n in enumerate(("<unk>", "<s>", "</s>"))]  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                  "merges": [["▁", "▁"], ["t", "h"], ["th", "e"], ["▁", "the"], ["c", "a"]]} | model,
    }  # fmt: skip


def folder_of(tmp_path: Path, spec: dict, **config: Any) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return tmp_path
