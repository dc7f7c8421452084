"""Write the files by which other programs read nano's tokens, from its rank file: `python weights/nano/tokenizer_json.py`.

`Tokenizer.save` decides what stands in them; `tests/test_nano.py` compares the two ways on random text.
"""

from __future__ import annotations

from pathlib import Path

from ministeer.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent


if __name__ == "__main__":
    Tokenizer.from_file(HERE / "vocab.tiktoken").save(HERE)
    print(f"wrote tokenizer.json and tokenizer_config.json into {HERE}")
