"""Byte-pair encoding: a table of tokens, and what cuts a text into them. `Tokenizer` runs on it.

Encoding joins neighbours again and again. tiktoken runs over *ranks*: any two neighbours whose union is a token may
join, the lowest id first. The hub's files list *merges*: these two may join, in this order. The two agree where each
token's merge is the one that ranks would make, as in every table that came from training, and in a table of ranks that
was turned into merges (`ranks_say_the_same` checks it). Such a file becomes `Ranks`, on tiktoken. Any other becomes
`Hub`: the package `tokenizers`, the extra of that name, does what the file says.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ministeer.merges import ranks_say_the_same

UNKNOWN = "\ufffd".encode()  # what an id without a token decodes to: a padded table has such ids, and models emit them
SURROGATES = re.compile("([\ud800-\udfff]+)")
LONGEST = 1000  # characters of a token; none is near
BEFORE = ("\n", "a", ".", "1")  # at least one of these texts does not merge with what goes on after it

# How a family cuts text into pieces: the pattern for tiktoken, and the ways in which a tokenizer.json says the same
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTES | {"use_regex": False}]}


SCHEMES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "gpt2": (PATTERN, [_BYTES, _split(_GPT2)]),
    # each digit alone, then GPT-2's: spaces before a digit end their piece, as they do at the end of the text
    "smollm": (
        r"""\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s+(?![^\s\p{N}])|\s""",
        [{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES]}],
    ),
    "llama3": (_WORDS % "{1,3}", [_split(_WORDS % "{1,3}")]),
    "qwen2": (_WORDS % "", [_split(_WORDS % "")]),
}


class Ranks:
    """A table for tiktoken: `ranks` join by their ids, `alone` are tokens that no text becomes."""

    def __init__(
        self, ranks: dict[bytes, int], special: dict[str, int], scheme: str, source: str,
        *, alone: dict[bytes, int] | None = None, nfc: bool = False, plain: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """`plain`: those of `special` that are shown as text; the hub's files call them not special."""
        import tiktoken  # here, so that importing ministeer does not pay for it

        self.ranks, self.special, self.scheme, self.alone, self.nfc, self.shown = (
            ranks,
            special,
            scheme,
            alone or {},
            nfc,
            {*plain},
        )
        self.bytes = {i: token for table in (ranks, self.alone) for token, i in table.items()}
        self.bytes |= {i: name.encode("utf-8", "surrogatepass") for name, i in special.items()}
        self.n_vocab = max(self.bytes, default=-1) + 1
        if len(self.bytes) != len(ranks) + len(self.alone) + len(special):
            raise ValueError(f"{source}: expected one token an id, got an id twice; renumber the tokens")
        if min(self.bytes, default=0) < 0 or self.n_vocab > 1 << 31:
            raise ValueError(
                f"{source}: expected ids from 0 on, got {min(self.bytes)} to {self.n_vocab - 1}; renumber the tokens"
            )
        self.missing = bytes(byte for byte in range(256) if bytes([byte]) not in ranks)
        longest_first = sorted(special, key=len, reverse=True)
        self.names = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special else None
        self.bpe = tiktoken.Encoding(source, pat_str=SCHEMES[scheme][0], mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(self.names.split(text) if special and self.names else [text]):
            ids += [self.special[part]] if i % 2 else self.ordinary(part)
        return ids

    def continuation(self, text: str) -> list[int]:
        return self.ordinary(text)

    def ordinary(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        ids: list[int] = []
        # tiktoken speaks UTF-8, which has no lone surrogates: where a string has some, their bytes are tokens, one each
        for i, part in enumerate(SURROGATES.split(text)):
            if i % 2:
                data = part.encode("utf-8", "surrogatepass").translate(None, self.missing)
                ids += [self.ranks[bytes([byte])] for byte in data]
            elif self.missing and len(part.encode()) != len(part.encode().translate(None, self.missing)):
                import regex  # tiktoken's own dependency, for a text that has to be cut before bytes are left out

                for piece in regex.findall(self.bpe._pat_str, part):
                    rest = piece.encode().translate(None, self.missing)
                    ids += self.bpe._encode_single_piece(rest) if rest else []
            else:
                ids += self.bpe.encode_ordinary(part)
        return ids

    def token_bytes(self, id: int) -> bytes:
        return self.bytes.get(id, UNKNOWN)

    def decode(self, ids: list[int]) -> str:
        data = b"".join(map(self.token_bytes, ids))
        for errors in ("strict", "surrogatepass"):
            try:
                return data.decode("utf-8", errors)
            except UnicodeDecodeError:
                continue
        return data.decode("utf-8", "replace")

    def spec(self) -> dict[str, Any]:
        """What `tokenizer.json` holds for this table.

        tiktoken joins two neighbours whose union has the lowest rank. The hub's BPE knows only a list of merges: every
        way to split an entry into two entries, in the order of the ranks, says the same, and `ignore_merges` takes
        any piece in the table whole.
        """
        letters = byte_letters()
        spelled = {token: "".join(letters[byte] for byte in token) for token in (*self.ranks, *self.alone)}
        merges = [
            [spelled[entry[:cut]], spelled[entry[cut:]]]
            for entry in sorted(self.ranks, key=self.ranks.__getitem__)
            for cut in range(1, len(entry))
            if entry[:cut] in self.ranks and entry[cut:] in self.ranks
        ]
        vocab = {spelled[token]: i for token, i in (*self.ranks.items(), *self.alone.items())} | self.special
        return content(
            vocab,
            merges,
            self.scheme,
            self.special,
            plain=self.shown,
            nfc=self.nfc,
            ignore_merges=not self.alone,
            way=-1,
        )


class Hub:
    """A table tiktoken cannot run: `tokenizers` runs it as its file says."""

    def __init__(self, spec: dict[str, Any], special: dict[str, int], source: str, reason: str) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                f"{source}: {reason}, which tiktoken cannot run; "
                "install the package that can with pip install 'ministeer[tokenizers]'"
            ) from error
        self.content, self.special, self.source = spec, special, source
        try:
            ends = {"post_processor": None, "truncation": None, "padding": None}
            self.full = tokenizers.Tokenizer.from_str(json.dumps(spec | ends))
            self.shown = {token["content"] for token in spec.get("added_tokens") or [] if token.get("special") is False}
            unnamed = {"model": _unnamed(spec["model"], special.keys() - self.shown), "added_tokens": []}
            self.plain = tokenizers.Tokenizer.from_str(json.dumps(spec | ends | unnamed))
            after = spec | {key: _unspaced(spec[key]) for key in ("normalizer", "pre_tokenizer") if key in spec}
            same = after == spec
            self.after = self.plain if same else tokenizers.Tokenizer.from_str(json.dumps(after | ends | unnamed))
            # something is put before a text, or its ends may be stripped or merged
            self.depends = not same or bool(spec.get("normalizer"))
            self.full.encode("a")
            wrong = [name for name, i in special.items() if self.full.token_to_id(name) != i]
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise ValueError(
                f"{source}: expected a tokenizer that the package tokenizers reads, got {str(error)[:200]!r}; "
                "download it again"
            ) from error
        if wrong:
            raise ValueError(
                f"{source}: expected added tokens that follow the others, got {wrong[0]!r} elsewhere; renumber it"
            )
        self.n_vocab = max(self.full.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.letters = (
            {letter: byte for byte, letter in enumerate(byte_letters())}
            if '"ByteLevel"' in json.dumps(spec.get("decoder"))
            else {}
        )

    def encode(self, text: str, special: bool) -> list[int]:
        return self._ids(self.full if special else self.plain, text)

    def continuation(self, text: str) -> list[int]:
        ids = self._ids(self.after, text)
        if self.depends:
            before = ((self.encode(other, False), self.encode(other + text, False)) for other in BEFORE)
            if not any(alone and [*alone, *ids] == both for alone, both in before):
                raise ValueError(
                    f"expected a text that keeps its tokens after another, got {text[:60]!r}, of which {self.source} "
                    "makes others there; encode both as one text, and take the ids after the first's"
                )
        return ids

    def _ids(self, tokenizer: Any, text: str) -> list[int]:
        if SURROGATES.search(text):
            raise ValueError(
                "expected a text, got half a character (a lone surrogate); this tokenizer has no ids for it"
            )
        try:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # the package says no more than that
            raise ValueError(
                f"expected a text that the tokenizer of {self.source} has ids for, got {str(error)[:200]!r}; download it again"
            ) from error

    def token_bytes(self, id: int) -> bytes:
        token = self.full.id_to_token(id)
        if token is None:
            return UNKNOWN
        if self.letters and token not in self.special and {*token} <= {*self.letters}:
            return bytes(self.letters[letter] for letter in token)
        if re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return str(token).replace("\u2581", " ").encode()

    def decode(self, ids: list[int]) -> str:
        parts: list[list[int]] = [[]]
        for i in ids:
            if self.full.id_to_token(i) is None:
                parts.append([])
            else:
                parts[-1].append(i)
        return UNKNOWN.decode().join(self.full.decode(part, skip_special_tokens=False) for part in parts)

    def spec(self) -> dict[str, Any]:
        return dict(self.content)


def _unspaced(part: Any) -> Any:
    """A normalizer or a pre-tokenizer that puts no space before a text; None for one that does no more."""
    if not isinstance(part, dict) or part.get("type") == "Prepend":
        return None
    for inner in ("normalizers", "pretokenizers"):
        if inner in part:
            return part | {inner: [left for one in part[inner] if (left := _unspaced(one)) is not None]}
    kind, bare = part.get("type"), {"add_prefix_space": False} if "add_prefix_space" in part else {}
    return part | bare | {"prepend_scheme": "never"} if kind == "Metaspace" else part | bare


def _unnamed(model: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A model that makes none of these tokens out of text: a Unigram model finds all it has a piece for, and merges may lead to one."""
    if model.get("type") == "Unigram":  # an id is a place in the list, so a piece stays, as one that is in no text
        vocab: Any = [[f"\0{i}\0" if token in names else token, p] for i, (token, p) in enumerate(model["vocab"])]
        return model | {"vocab": vocab}
    apart = [(merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    merges = [merge for merge, parts in apart if names.isdisjoint((*parts, "".join(parts)))]
    vocab = {token: i for token, i in model["vocab"].items() if token not in names or token == model.get("unk_token")}
    return model | {"vocab": vocab, "merges": merges}


def byte_letters() -> list[str]:
    """The character by which GPT-2's JSON files spell each byte: printable Latin-1 by itself, the other 68 from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def content(
    vocab: dict[str, int], merges: list[Any], scheme: str, special: dict[str, int],
    *, plain: Iterable[str] = (), nfc: bool = False, ignore_merges: bool = False, way: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What `tokenizer.json` holds for a byte-level table. `plain`: those of `special` that are shown as text."""
    plain = {*plain}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": name not in plain}
            for name, i in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": SCHEMES[scheme][1][way],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])), "merges": merges,
        },
    }  # fmt: skip


def ids_of(model: dict[str, Any]) -> dict[str, int]:
    """The vocabulary of a `tokenizer.json`'s model, without its added tokens."""
    vocab = model["vocab"]
    return {token: i for i, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab


def read(spec: dict[str, Any], source: str) -> Ranks | Hub:
    """The table of a `tokenizer.json`."""
    model, added = spec["model"], spec.get("added_tokens") or []
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in ("BPE", "Unigram"):
        raise ValueError(
            f"{source}: expected a BPE or Unigram tokenizer, got {kind!r}; models of this family have one of the two"
        )
    vocab = ids_of(model)
    special = {token["content"]: token["id"] for token in added}
    together = vocab | special
    for name, i in together.items():
        if (
            not isinstance(name, str)
            or not name
            or type(i) is not int
            or not 0 <= i < 1 << 31
            or vocab.get(name, i) != i
        ):
            raise ValueError(f"{source}: expected a token and its id, got {name!r}: {i!r}; download it again")
    twice = [i for i, count in Counter(together.values()).items() if count > 1]
    if twice or len({token["content"] for token in added}) != len(added):
        raise ValueError(f"{source}: expected one token an id, got an id twice ({twice[:3]}); renumber the tokens")
    if kind == "BPE":
        merges: list[Any] = [
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]
        ]
        for merge in merges:
            if len(merge) != 2 or not all(part in vocab for part in (*merge, "".join(merge))):
                raise ValueError(
                    f"{source}: expected merges of two tokens into a third, got {str(merge)[:80]}, "
                    "which names none; download it again"
                )
        found = _as_ranks(spec, {t: i for t, i in vocab.items() if t not in special}, merges, special)
    else:
        found = "it is a Unigram model"
    if isinstance(found, str):
        return Hub(spec, special, source, found)
    scheme, ranks, alone = found
    plain = [token["content"] for token in added if token.get("special") is False]
    return Ranks(ranks, special, scheme, source, alone=alone, nfc=bool(spec.get("normalizer")), plain=plain)


def _as_ranks(
    spec: dict[str, Any], vocab: dict[str, int], merges: list[tuple[str, str]], special: dict[str, int]
) -> str | tuple[str, dict[bytes, int], dict[bytes, int]]:
    """Scheme, ranks, and tokens that no text becomes; or why tiktoken cannot run it."""
    model, decoder = spec["model"], spec.get("decoder") or {"type": "ByteLevel"}
    scheme = next((s for s, (_, ways) in SCHEMES.items() if _same(spec.get("pre_tokenizer")) in map(_same, ways)), None)
    if scheme is None or decoder["type"] != "ByteLevel":
        return "it cuts text in a way of its own"
    nfc = spec.get("normalizer")
    if nfc and nfc != {"type": "NFC"}:
        return "it changes the text first"
    flags = ("lstrip", "rstrip", "single_word", *(["normalized"] if nfc else []))
    if any(token.get(flag) for token in spec.get("added_tokens") or [] for flag in flags):
        return "its added tokens take their surroundings along"
    options = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if any(model.get(option) for option in options):
        return "its BPE has options"
    to_byte = {letter: byte for byte, letter in enumerate(byte_letters())}
    if any(len(token) > LONGEST or not to_byte.keys() >= {*token} for token in vocab):
        return "not all its tokens are spelled byte by byte"
    if model.get("unk_token") is not None and not to_byte.keys() <= vocab.keys():
        return "it has a token for what is unknown"
    if any(part in special for merge in merges for part in (*merge, "".join(merge))):
        return "its special tokens are merged from others"
    reached = ranks_say_the_same(vocab, merges, bool(model.get("ignore_merges")))
    if reached is None:
        return "its merges are not in the order of the ids"
    spelled = {token: bytes(map(to_byte.__getitem__, token)) for token in vocab}
    ranks = {spelled[token]: i for token, i in vocab.items() if token in reached}
    return scheme, ranks, {spelled[token]: i for token, i in vocab.items() if token not in reached}


def _same(pre: Any) -> Any:
    """A pre-tokenizer without what does not matter: offsets, a sequence of one, defaults spelled out."""
    if not isinstance(pre, dict):
        return pre
    if pre.get("type") == "Sequence":
        parts = [_same(part) for part in pre["pretokenizers"]]
        return parts[0] if len(parts) == 1 else parts
    defaults = {"ByteLevel": {"use_regex": True}, "Split": {"invert": False}}.get(str(pre.get("type")), {})
    return defaults | {key: value for key, value in pre.items() if key != "trim_offsets"}


def first_token(post: Any, source: str) -> str | None:
    """The token that a `post_processor` puts before a text, or None; one that does more is refused."""
    if post is None or post.get("type") == "ByteLevel":
        return None
    if post.get("type") == "Sequence":
        found = [first_token(part, source) for part in post["processors"]]
        named = [name for name in found if name is not None]
        if len(named) <= 1:
            return named[0] if named else None
    if post.get("type") == "TemplateProcessing":
        single = [part.get("SpecialToken", {}).get("id") for part in post["single"]]
        if single == [None] or (len(single) == 2 and single[0] is not None and single[1] is None):
            return None if single[0] is None else str(single[0])
    raise ValueError(
        f"{source}: expected a post_processor that puts at most one token before a text, got {json.dumps(post)[:100]}; "
        "remove it there"
    )
