"""Write `tokenizer.json` for Hugging Face from the rank file: `python weights/nano/tokenizer_json.py`.

tiktoken joins the two neighbours whose union has the lowest rank; Hugging Face's BPE knows only a list of merges. Listing, in
the order of the ranks, every way to split an entry into two entries says the same, and `ignore_merges` takes a whole piece that
is in the table as it is. `tests/test_nano.py` compares the two on random text.
"""

from __future__ import annotations

import json
from pathlib import Path

from ministeer.tokenizer import END, Tokenizer, byte_letters

HERE = Path(__file__).resolve().parent
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # PATTERN in Hugging Face's dialect


def tokenizer_json(rank_file: Path) -> str:
    """The text of `tokenizer.json` for a rank file."""
    letters, tokenizer = byte_letters(), Tokenizer.from_file(rank_file)
    ranks = {tokenizer.token_bytes(rank): rank for rank in range(tokenizer.eot)}
    spelled = {entry: "".join(letters[byte] for byte in entry) for entry in ranks}
    merges = [
        [spelled[entry[:cut]], spelled[entry[cut:]]]
        for entry in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(entry))
        if entry[:cut] in ranks and entry[cut:] in ranks
    ]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(ranks), "content": END, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {**{spelled[entry]: rank for entry, rank in ranks.items()}, END: len(ranks)},
            "merges": merges,
        },
    }  # fmt: skip
    return json.dumps(content, ensure_ascii=False, indent=0) + "\n"


if __name__ == "__main__":
    (HERE / "tokenizer.json").write_text(tokenizer_json(HERE / "vocab.tiktoken"), encoding="utf-8")
    print(f"wrote {HERE / 'tokenizer.json'}")
