"""Text <-> token ids: tiktoken over a rank table that lies on this disk; nothing is ever fetched.

    tok = Tokenizer.gpt2()
    tok.encode("Hello world")                    # [15496, 995]
    tok.decode([15496, 995])                     # "Hello world"
    tok.encode("<|endoftext|>", special=True)    # [50256]; without `special` it is text like any other

A rank table has one line a token, `base64(bytes) rank`; the rank is the id, and lower ranks merge first. It holds all
256 single bytes, so every Python string has ids, and decoding them gives the same string back.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from pathlib import Path

END = "<|endoftext|>"
GPT2_VOCAB = 50257
GPT2_RANKS = Path(__file__).parent / "gpt2.tiktoken"
# GPT-2's way of cutting text into pieces, in the form that tiktoken runs fastest
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
SURROGATES = re.compile("([\ud800-\udfff]+)")


class Tokenizer:
    """GPT-2's byte-pair encoding over any rank table. Ids go from 0 to `n_vocab - 1`; `eot` is `<|endoftext|>`."""

    def __init__(self, ranks: dict[bytes, int], eot: int, source: str = "the rank table") -> None:
        """`ranks`: token bytes -> id, for all tokens but the special one, whose id is `eot`. `source` is for messages."""
        import tiktoken  # here, so that importing ministeer does not pay for it

        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise ValueError(
                f"{source}: expected all 256 single bytes as tokens, got {256 - len(missing)} of them "
                f"(byte {missing[0]} is missing); without them some texts have no ids, so add them"
            )
        if len({*ranks.values(), eot}) != len(ranks) + 1:
            raise ValueError(f"{source}: expected one token an id, got an id twice; renumber the tokens")
        self.eot = eot
        self.n_vocab = max(*ranks.values(), eot) + 1
        self._ranks = ranks
        self._bpe = tiktoken.Encoding(source, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: eot})

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """GPT-2's own, from the table that ships in the package."""
        return cls.from_file(GPT2_RANKS)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """From a rank file; `<|endoftext|>` gets the id after the last rank."""
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
            try:
                token, rank = line.split()
                piece = base64.b64decode(token, validate=True)
                if piece in ranks or int(rank) != len(ranks):
                    raise ValueError("a token twice or a rank out of order")
                ranks[piece] = int(rank)
            except (ValueError, binascii.Error) as error:
                raise ValueError(
                    f"{path}, line {number}: expected `base64 rank` with rank {len(ranks)} and a new token, "
                    f"got {line[:40]!r} ({error}); write the file again"
                ) from error
        return cls(ranks, eot=len(ranks), source=str(path))

    @classmethod
    def from_folder(cls, folder: str | Path, vocab_size: int) -> Tokenizer:
        """A model folder's own (`vocab.tiktoken`, or `vocab.json` and `merges.txt`), else GPT-2's if the size is GPT-2's.

        `vocab_size` is the model's; it may be larger than the tokenizer's (a padded table), never smaller.
        """
        folder = Path(folder)
        if (folder / "vocab.tiktoken").is_file():
            tokenizer = cls.from_file(folder / "vocab.tiktoken")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = _from_json(folder / "vocab.json", folder / "merges.txt")
        elif vocab_size == GPT2_VOCAB:
            tokenizer = cls.gpt2()
        else:
            raise ValueError(
                f"{folder}: expected vocab.tiktoken, or vocab.json with merges.txt, for a vocabulary of {vocab_size} that is "
                f"not GPT-2's {GPT2_VOCAB}, got neither; add the tokenizer's files, or use load_model, which needs none"
            )
        if tokenizer.n_vocab > vocab_size:
            raise ValueError(
                f"{folder}: expected a tokenizer of at most {vocab_size} tokens, the model's vocab_size, "
                f"got {tokenizer.n_vocab}; put the model's own tokenizer files there"
            )
        return tokenizer

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text. With `special=True` a literal `<|endoftext|>` in it is that one token, else plain text."""
        ids: list[int] = []
        # tiktoken speaks UTF-8, which has no lone surrogates: where a string has some, their bytes are tokens, one each
        for i, part in enumerate(SURROGATES.split(text)):
            if i % 2:
                ids += [self._ranks[bytes([byte])] for byte in part.encode("utf-8", "surrogatepass")]
            elif special:
                ids += self._bpe.encode(part, allowed_special={END}, disallowed_special=())
            else:
                ids += self._bpe.encode_ordinary(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not text, such as half a character, become U+FFFD."""
        data = b"".join(self.token_bytes(i) for i in ids)
        for errors in ("strict", "surrogatepass"):
            try:
                return data.decode("utf-8", errors)
            except UnicodeDecodeError:
                continue
        return data.decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, which need not be text alone."""
        try:
            return self._bpe.decode_single_token_bytes(int(id))
        except (KeyError, OverflowError) as error:
            raise ValueError(
                f"expected a token id from 0 to {self.n_vocab - 1}, got {int(id)}; was it made by another tokenizer?"
            ) from error

    def single(self, text: str) -> int:
        """The id of a text that must be one token, such as " doctor"; `ValueError` with its pieces if it is not."""
        ids = self.encode(text)
        if len(ids) != 1:
            pieces = [self.decode([i]) for i in ids]
            raise ValueError(f"expected one token, got {len(ids)} for {text!r}: {pieces}; mind the leading space")
        return ids[0]


def byte_letters() -> list[str]:
    """The character by which GPT-2's JSON files spell each byte: printable Latin-1 by itself, the other 68 by those from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _from_json(vocab: Path, merges: Path) -> Tokenizer:
    """From the hub's `vocab.json` and `merges.txt`, whose tokens spell each byte as a printable character."""
    to_byte = {letter: byte for byte, letter in enumerate(byte_letters())}
    try:
        ids: dict[str, int] = json.loads(vocab.read_text("utf-8"))
        eot = ids.pop(END)
        ranks = {bytes(to_byte[char] for char in token): rank for token, rank in ids.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{vocab}: expected GPT-2's vocabulary form, tokens spelled byte by byte and {END}, got {error!r}; "
            "only byte-level BPE is supported"
        ) from error
    lines = [line for line in merges.read_text("utf-8").splitlines() if line and not line.startswith("#version")]
    merged = [ids.get(line.replace(" ", ""), -1) for line in lines]
    if merged != sorted(merged) or -1 in merged or len(ids) != 256 + len(set(merged)):
        raise ValueError(
            f"{merges}: expected one merge for each token of {vocab.name} longer than a byte, in the order of their ids, "
            f"got {len(lines)} merges for {len(ids) - 256} tokens or another order; such a table cannot become ranks"
        )
    return Tokenizer(ranks, eot, source=str(vocab))
