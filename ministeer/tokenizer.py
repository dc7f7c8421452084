"""Text <-> token ids, and conversations -> token ids: from files that lie on this disk; nothing is ever fetched.

    tok = Tokenizer.gpt2()
    tok.prompt("Hello world")                    # [50256, 15496, 995]: as a model reads it
    tok.encode("Hello world")                    # [15496, 995]: the text alone
    tok.continuation(" world")                   # [995]: a text that continues another
    tok.decode([15496, 995])                     # "Hello world"
    tok.encode("<|endoftext|>", special=True)    # [50256]; without `special` it is text like any other

A rank table has one line a token, `base64(bytes) rank`; the rank is the id, and lower ranks merge first. It holds all
256 single bytes, so every Python string has ids, and decoding them gives the same string back.
"""

from __future__ import annotations

import base64
import binascii
import json
import operator
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ministeer import bpe, chat
from ministeer.bpe import PATTERN, byte_letters
from ministeer.files import read_json, read_text, write_text

__all__ = ["END", "PATTERN", "Tokenizer", "byte_letters"]
END = "<|endoftext|>"
GPT2_VOCAB = 50257
GPT2_RANKS = Path(__file__).parent / "gpt2.tiktoken"
TABLES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "vocab.txt")
# read beside a table, by this package or by transformers; what is saved says all of it in tokenizer_config.json
BESIDE = ("added_tokens.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
# `tokenizer.ggml.pre` of a GGUF file -> a scheme of bpe.py
PRE = {"gpt-2": "gpt2", "smollm": "smollm", "starcoder": "smollm", "qwen2": "qwen2", "deepseek-r1-qwen": "qwen2"}
PRE |= dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), "llama3")
# what the files call a token -> what a GGUF file calls its id (the third e of "seperator" is the format's own)
NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
NAMES |= {"sep_token": "seperator", "cls_token": "cls", "mask_token": "mask"}
# what `added_tokens_decoder` of tokenizer_config.json says of a token, before tokenizer.json does; by default this
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


class Tokenizer:
    """A model's tokens. Ids go from 0 to `n_vocab - 1`; the model's table may be longer, and not all ids need a token.

    special: the tokens that are no text, by name, such as `{"<|im_start|>": 1}`.
    bos: begins a document: what its own file puts first, else `eot`. `prompt` puts it before a text.
    eot: ends a document: `<|endoftext|>`, or `<|end_of_text|>`, or what the files call `eos_token`.
    stop: the ids that end an answer: `eot`, `eos_token` (in a chat model the end of a turn), and those that
        `generation_config.json` names, or, where it names none, a list in `config.json`.
    chat_template: the jinja2 source, or None.
    """

    def __init__(self, ranks: dict[bytes, int], eot: int, source: str = "the rank table") -> None:
        """`ranks`: token bytes -> id, for all but the special token, whose id is `eot`. `source` is for messages."""
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise ValueError(
                f"{source}: expected all 256 single bytes as tokens, got {256 - len(missing)} of them "
                f"(byte {missing[0]} is missing); without them some texts have no ids, so add them"
            )
        self._set(bpe.Ranks(ranks, {END: eot}, "gpt2", source), {"bos_token": END, "eos_token": END}, source)

    def _set(self, core: bpe.Ranks | bpe.Hub, names: dict[str, str], source: str, bos: str | None = None) -> None:
        self._core, self._names, self._limit = core, names, 0
        self.special, self.n_vocab = core.special, core.n_vocab
        ends = [
            self.special[n]
            for n in (END, "<|end_of_text|>", names.get("eos_token"))
            if n is not None and n in self.special
        ]
        if not ends:
            raise ValueError(
                f"{source}: expected a token that ends a text, {END} or one called eos_token in tokenizer_config.json, "
                f"got special tokens {[*self.special][:9]}; name it there"
            )
        self.eot = ends[0]
        self.bos = self.eot if bos is None else self.special[bos]
        no_text = self.special.keys() - core.shown | {*names.values()}
        self._begins = {self.bos, *(i for name, i in self.special.items() if name in no_text)}
        self.stop: tuple[int, ...] = tuple(dict.fromkeys([ends[0], ends[-1]]))
        self.chat_template: str | None = None

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """GPT-2's own, from the table that ships in the package."""
        return cls.from_file(GPT2_RANKS)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """From a rank file, one line a token, `base64(bytes) id`; `<|endoftext|>` gets the id after the last."""
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(read_text(Path(path)).encode().splitlines(), start=1):
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
        """A model folder's own: `vocab.tiktoken`, `tokenizer.json`, or `vocab.json` with `merges.txt`.

        A folder without tokenizer files gets GPT-2's if the size is GPT-2's. `tokenizer_config.json`,
        `added_tokens.json`, `special_tokens_map.json`, `generation_config.json` and `chat_template.jinja` are read too.
        vocab_size: the model's; it may be larger than the tokenizer's (a padded table), never smaller.
        """
        folder = Path(folder)
        config = _config(folder)
        there = [name for name in TABLES if (folder / name).is_file()]
        if (folder / "vocab.tiktoken").is_file():
            tokenizer = cls.from_file(folder / "vocab.tiktoken")
        elif "tokenizer.json" in there:
            tokenizer = cls._from_json(read_json(folder / "tokenizer.json"), config, str(folder / "tokenizer.json"))
        elif {"vocab.json", "merges.txt"} <= {*there}:
            tokenizer = cls._from_json(_from_two_files(folder, config), config, str(folder / "vocab.json"))
        elif vocab_size == GPT2_VOCAB and not there:
            tokenizer = cls.gpt2()
        else:
            raise ValueError(
                f"{folder}: expected vocab.tiktoken, tokenizer.json, or vocab.json with merges.txt, for a vocabulary of "
                f"{vocab_size} that is not GPT-2's {GPT2_VOCAB} or has files of its own, got "
                f"{', '.join(there) or 'none of them'}; add the tokenizer's files, or use load_model, which needs none"
            )
        if tokenizer.n_vocab > vocab_size:
            raise ValueError(
                f"{folder}: expected a tokenizer of at most {vocab_size} tokens, the model's vocab_size, "
                f"got {tokenizer.n_vocab}; put the model's own tokenizer files there"
            )
        tokenizer._limit = vocab_size
        ends = config.get("generation_eos")
        # a single one is often just what the model's class has by default, and then stands for some word
        sure = config["generation"] or isinstance(ends, list)
        known = range(tokenizer.n_vocab) if sure else tokenizer.special.values()
        ends = [i for i in (ends if isinstance(ends, list) else [ends]) if type(i) is int and i in known]
        tokenizer.stop = tuple(dict.fromkeys([*tokenizer.stop, *ends]))
        tokenizer.chat_template = config.get("chat_template")
        return tokenizer

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], source: str = "the GGUF file") -> Tokenizer:
        """From a GGUF file's metadata as plain values: `tokenizer.ggml.*` and `tokenizer.chat_template`."""
        spec, config, size = _from_gguf(metadata, source)
        tokenizer = cls._from_json(spec, config, source)
        tokenizer._limit, tokenizer.chat_template = size, config["chat_template"]
        ends: list[Any] = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        tokenizer.stop = tuple(dict.fromkeys([*tokenizer.stop, *[i for i in ends if i in tokenizer.special.values()]]))
        return tokenizer

    @classmethod
    def _from_json(cls, spec: dict[str, Any], config: dict[str, Any], source: str) -> Tokenizer:
        """From the content of a `tokenizer.json`, and what stands beside it."""
        try:
            core, bos = _from_spec(spec, config, source)
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{source}: expected a tokenizer of the hub's form, got one with {error!r}; download it again"
            ) from error
        tokenizer = cls.__new__(cls)
        tokenizer._set(core, {key: name for key, name in config["names"].items() if name in core.special}, source, bos)
        return tokenizer

    def __call__(self, *texts: object, **settings: object) -> NoReturn:
        raise ValueError(
            "expected a method of this tokenizer, got a call of itself; write tok.prompt(text), or tok.encode(text) for ids "
            "with none added"
        )

    def prompt(self, text: str) -> list[int]:
        """Ids of a text as a model reads it: `bos`, then the text; `bos` is left out where the text begins with a special token (one that its
        files do not call text).

        Names of special tokens count as those tokens. Everything in this package reads texts this way.
        """
        ids = self.encode(text, special=True)
        return ids if ids and ids[0] in self._begins else [self.bos, *ids]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text, with none added at its ends. With `special=True` a special token's name in it is that token.

        A table that lacks single bytes (SmolLM2's lacks 21) drops the characters it cannot spell, as elsewhere.
        """
        self._text(text)
        return self._core.encode(text, special)

    def continuation(self, text: str) -> list[int]:
        """Ids of a text that continues another: `[*tok.prompt("Is it so?"), *tok.continuation(" yes")]`.

        What `encode` gives, except for tokenizers that put a space before every text: Llama 2's `encode` gives
        " yes" two. Such a tokenizer raises `ValueError` for a text that becomes other tokens after any other.
        """
        self._text(text)
        return self._core.continuation(text)

    def chat(self, messages: list[dict[str, str]], *, generation: bool = True) -> list[int]:
        """Ids of a conversation in the model's own form, special tokens included.

        messages: `[{"role": "user", "content": "Hi"}]`.
        generation: end with what opens the assistant's answer. A special token's name within a message counts as that
        token, as in transformers. See `ministeer.chat` for what is refused.
        """
        if self.chat_template is None:
            raise ValueError(
                "expected a tokenizer with a chat template, got one without; the model is not a chat model, so encode a text, "
                "or set `chat_template`"
            )
        return self.encode(
            chat.render(self.chat_template, messages, generation=generation, **self._names), special=True
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not text, such as half a character, and ids without a token become U+FFFD."""
        if not isinstance(ids, Iterable):
            raise ValueError(f"expected a list of token ids, got {ids!r}; write [{ids!r}]")
        return self._core.decode([self._checked(i) for i in ids])

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, which alone need not be text."""
        return self._core.token_bytes(self._checked(id))

    def _text(self, text: object) -> None:
        if not isinstance(text, str):
            raise ValueError(
                f"expected a text, got {str(text)[:60]!r}, a {type(text).__name__}; give one text at a time"
            )

    def _checked(self, id: int) -> int:
        size = max(self.n_vocab, self._limit)
        try:
            number = operator.index(id)
        except TypeError:
            got = f"{str(id)[:60]!r}, a {type(id).__name__}"
            raise ValueError(
                f"expected a token id, a whole number from 0 to {size - 1}, got {got}; decode one row at a time"
            ) from None
        if not 0 <= number < size:
            raise ValueError(
                f"expected a token id from 0 to {size - 1}, got {number}; was it made by another tokenizer?"
            )
        return number

    def single(self, text: str) -> int:
        """The id of a text, such as " doctor", that must be one token when it continues another.

        Raises `ValueError` with its pieces if it is not.
        """
        ids = self.continuation(text)
        if len(ids) != 1:
            pieces = [self.decode([i]) for i in ids]
            raise ValueError(f"expected one token, got {len(ids)} for {text!r}: {pieces}; mind the leading space")
        return ids[0]

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a folder, for every client of the hub's layout.

        What `stop` has from `generation_config.json` is the model's: `save_model` writes it.
        """
        for name, content in self.files(folder).items():
            write_text(Path(folder) / name, content)

    def files(self, folder: str | Path | None = None) -> dict[str, str]:
        """What `save` writes: file name -> text. The same tokenizer gives the same texts.

        folder: where they are to be written. Raises `ValueError` for another vocabulary's `vocab.tiktoken` there, which `load`
        would prefer, and for files that this or another client would read as well and that say something else.
        """
        first = next((name for name, i in self.special.items() if i == self.bos), END) if self.bos != self.eot else None
        spec = self._core.spec()
        if first is not None:
            token = {"SpecialToken": {"id": first, "type_id": 0}}
            sequences = [{"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB")]
            spec["post_processor"] = {
                "type": "TemplateProcessing", "single": [token, sequences[0]],
                "pair": [token, sequences[0], token, sequences[1]],
                "special_tokens": {first: {"id": first, "ids": [self.bos], "tokens": [first]}},
            }  # fmt: skip
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._names}
        config |= {"chat_template": self.chat_template} if self.chat_template is not None else {}
        texts = {
            "tokenizer.json": json.dumps(spec, ensure_ascii=False, indent=0) + "\n",
            "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        }
        if folder is None:
            return texts
        if left := [name for name in BESIDE if (Path(folder) / name).is_file()]:
            raise ValueError(
                f"{folder}: expected no files of another tokenizer beside the one to save, found {', '.join(left)}, which would "
                "be read with it; delete them or save to another folder"
            )
        table = Path(folder) / "vocab.tiktoken"
        if table.is_file() and Tokenizer.from_file(table).files()["tokenizer.json"] != texts["tokenizer.json"]:
            raise ValueError(
                f"{table}: expected the vocabulary of the tokenizer to save, found another, which load would prefer; "
                "delete it or save to another folder"
            )
        return texts


def _config(folder: Path) -> dict[str, Any]:
    """What stands beside a tokenizer: `names` (bos_token ..., and a model's own such as image_token), `listed` (more that are special),
    `flags` of those, `added`, `options`, `chat_template`, `generation_eos`."""
    found = {name: read_json(folder / name) if (folder / name).is_file() else {} for name in (
        "special_tokens_map.json", "tokenizer_config.json", "added_tokens.json", "generation_config.json", "config.json"
    )}  # fmt: skip
    # as transformers has it: the two older files count, and the map more than the config, until the config says its tokens itself
    options = found["tokenizer_config.json"]
    older = options.get("added_tokens_decoder") is None
    options = options | found["special_tokens_map.json"] if older else options
    jinja = folder / "chat_template.jinja"
    beside = read_text(jinja) if jinja.is_file() else None
    try:
        extra, several = options.get("extra_special_tokens") or {}, options.get("additional_special_tokens") or []
        if not isinstance(several, list):
            raise TypeError(f"{several!r:.50} for a list")
        named = options | (extra if isinstance(extra, dict) else {})
        listed = [*(extra.values() if isinstance(extra, dict) else extra), *several]
        own = [key for key, value in named.items() if key.endswith("_token") and isinstance(value, (str, dict))]
        told = [token for token in (*listed, *map(named.get, [*NAMES, *own])) if isinstance(token, dict)]
        flags = {token["content"]: _flags(token) | {"special": True} for token in told}
        listed = [token["content"] if isinstance(token, dict) else token for token in listed]
        names = {
            key: value["content"] if isinstance(value := named.get(key), dict) else value for key in [*NAMES, *own]
        }
        special = {*names.values(), *listed}
        if older:
            ids = found["added_tokens.json"].items()
            added = {n: {"id": i, "special": n in special, "normalized": n not in special} for n, i in ids}
        else:
            decoder = options["added_tokens_decoder"].items()
            added = {token["content"]: _flags(token) | {"id": int(i)} for i, token in decoder}
        template = options.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        template = template if beside is None else beside
        wrong = [value for value in (*names.values(), template) if not isinstance(value, (str, type(None)))]
        wrong += [value for value in listed if not isinstance(value, str)]
        if wrong:
            raise TypeError(f"{wrong[0]!r:.50} for a text")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: expected names of tokens and a chat template, got {error!r}; "
            "download it again"
        ) from error
    ends = found["generation_config.json"].get("eos_token_id", found["config.json"].get("eos_token_id"))
    return {
        "names": {key: name for key, name in names.items() if name},
        "listed": listed,
        "flags": flags,
        "added": added,
        "options": options,
        "chat_template": template,
        "generation_eos": ends,
        "generation": found["generation_config.json"].get("eos_token_id") is not None,
        "model_type": found["config.json"].get("model_type"),
    }


def _flags(token: dict[str, Any]) -> dict[str, bool]:
    """What a file says of a special token, beside its name and its id."""
    return {flag: token[flag] for flag in ADDED if isinstance(token.get(flag), bool)}


def _from_spec(spec: dict[str, Any], config: dict[str, Any], source: str) -> tuple[bpe.Ranks | bpe.Hub, str | None]:
    """The table of a `tokenizer.json` and what stands beside it, and the token that it puts first."""
    options, added, there = config["options"], config["added"], spec.get("added_tokens") or []
    decoder = added if options.get("added_tokens_decoder") is not None else {}
    known = [token | decoder.get(token["content"], {}) | {"id": token["id"]} for token in there]
    more = {name: ADDED | token | {"content": name} for name, token in added.items()}
    # whatever is named is special wherever it is in the vocabulary
    vocab, named, flags = (
        bpe.ids_of(spec["model"]),
        [END, *config["names"].values(), *config["listed"]],
        config["flags"],
    )
    more = {
        name: ADDED | flags.get(name, {}) | {"content": name, "id": vocab[name]} for name in named if name in vocab
    } | more
    names = {token["content"] for token in there}
    new = sorted((token for name, token in more.items() if name not in names), key=lambda token: token["id"])
    spec = spec | {"added_tokens": [*known, *new]}
    if isinstance(options.get("add_prefix_space"), bool):
        spec["pre_tokenizer"] = _with_space(spec.get("pre_tokenizer"), options["add_prefix_space"], source)
    if options.get("add_prefix_space") is False and "llama" in str(options.get("tokenizer_class")).lower():
        spec = _without_space(spec)
    first = bpe.first_token(spec.get("post_processor"), source)
    if options.get(
        "add_bos_token"
    ):  # false takes nothing away: transformers 5 begins with what the file puts all the same
        first = config["names"].get("bos_token")
    if options.get("add_eos_token"):
        raise ValueError(
            f"{source}: expected add_eos_token to be false, got true; end texts with `tok.eot` yourself, and remove it"
        )
    core = bpe.read(spec, source)
    # nothing here pads; and a model's own names may be of marks that its tokenizer cuts out, as CodeLlama's fill_token
    wanted = [name for key, name in config["names"].items() if key in NAMES and key != "pad_token"]
    if left := [name for name in (*wanted, *config["listed"]) if name not in core.special]:
        warnings.warn(
            f"{source}: expected the special token {left[0]!r}, which the files beside it name, in the vocabulary, found none; it is read as text "
            "(transformers gives it an id after the last): if the model has an id for it, say so in added_tokens.json",
            stacklevel=2,
        )
    return core, first if first in core.special else None


def _with_space(pre: Any, space: bool, source: str) -> Any:
    """A pre-tokenizer whose byte level puts a space before a text, or does not, as `add_prefix_space` says beside the file: of every
    `tokenizer_class`; transformers 5 leaves the option of a PreTrainedTokenizerFast unread."""
    kind = pre.get("type") if isinstance(pre, dict) else None
    if kind == "ByteLevel":
        return pre | {"add_prefix_space": space}
    parts = pre["pretokenizers"] if kind == "Sequence" else []
    if not space or len(parts) == 1:
        return pre | {"pretokenizers": [_with_space(part, space, source) for part in parts]} if parts else pre
    if any(part.get("type") == "ByteLevel" and not part.get("add_prefix_space") for part in parts):
        # behind others the byte level meets pieces of a text: it would put a space before each
        warnings.warn(
            f"{source}: expected a byte level alone, as add_prefix_space is true beside it, found others before it; the text is read as "
            "that file says, with no space before it: begin your texts with one, or say false",
            stacklevel=2,
        )
    return pre


def _without_space(spec: dict[str, Any]) -> dict[str, Any]:
    """The file without the space that SentencePiece puts before a text; of these classes transformers leaves it out so too."""

    def left(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if part.get("type") == "Metaspace":
            return part | {"prepend_scheme": "never"}
        name = {"Sequence": "normalizers"}.get(str(part.get("type")), "")
        if name not in part:
            return part
        return part | {name: [left(inner) for inner in part[name] if inner.get("type") != "Prepend"]}

    normalizer = spec.get("normalizer")
    alone = isinstance(normalizer, dict) and normalizer.get("type") == "Prepend"
    return spec | {"normalizer": None if alone else left(normalizer), "pre_tokenizer": left(spec.get("pre_tokenizer"))}


def _from_two_files(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What `tokenizer.json` would say for the hub's older `vocab.json` and `merges.txt`."""
    usual = "Qwen2Tokenizer" if config["model_type"] == "qwen2" else "GPT2Tokenizer"
    kind = str(config["options"].get("tokenizer_class") or usual).removesuffix("Fast")
    scheme = {"GPT2Tokenizer": "gpt2", "Qwen2Tokenizer": "qwen2"}.get(kind)
    if scheme is None:
        raise ValueError(
            f"{folder}: expected GPT2Tokenizer or Qwen2Tokenizer for these files, got {kind}; add its tokenizer.json"
        )
    lines = read_text(folder / "merges.txt").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    return bpe.content(read_json(folder / "vocab.json"), merges, scheme, {}, nfc=scheme == "qwen2")


def _from_gguf(metadata: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What `tokenizer.json` and its neighbours would say for a GGUF file's metadata, and how many ids there are."""
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    kind, pre, tokens, merges = (about.get(key) for key in ("model", "pre", "tokens", "merges"))
    if kind != "gpt2":
        raise ValueError(
            f"{source}: expected tokenizer.ggml.model gpt2 (byte-level BPE), got {kind!r}; "
            "load the model's folder from the hub instead, with its tokenizer.json"
        )
    if pre not in PRE:
        raise ValueError(
            f"{source}: expected tokenizer.ggml.pre to be one of {', '.join(PRE)}, got {pre!r}; "
            "load the hub's folder instead"
        )
    if not isinstance(tokens, list) or not isinstance(merges, list) or {*map(type, tokens), *map(type, merges)} - {str}:
        raise ValueError(
            f"{source}: expected lists of texts as tokenizer.ggml.tokens and .merges, got others; download it again"
        )
    types = about.get("token_type") or [1] * len(tokens)
    ids = {name: about.get(f"{key}_token_id") for name, key in NAMES.items()}
    if len(types) != len(tokens) or any(
        i is not None and not (type(i) is int and 0 <= i < len(tokens)) for i in ids.values()
    ):
        raise ValueError(
            f"{source}: expected a type for each of {len(tokens)} tokens and ids among them, got {len(types)}, {ids}"
        )
    if len({*tokens}) != len(tokens):
        raise ValueError(f"{source}: expected {len(tokens)} different tokens, got {len({*tokens})}; download it again")
    special = {token: i for i, token in enumerate(tokens) if types[i] in (3, 4)}  # control, user defined; 5 is unused
    vocab = {token: i for i, token in enumerate(tokens) if types[i] not in (3, 4, 5)}
    names = {name: tokens[i] for name, i in ids.items() if i is not None}
    plain = [token for token, i in special.items() if types[i] == 4]
    scheme = PRE[pre]
    spec = bpe.content(
        vocab | special, merges, scheme, special, plain=plain, nfc=scheme == "qwen2", ignore_merges=scheme == "llama3"
    )
    options = {"add_bos_token": bool(about.get("add_bos_token", scheme == "llama3"))}
    options["add_eos_token"] = bool(about.get("add_eos_token", False))
    template = metadata.get("tokenizer.chat_template")
    template = template if isinstance(template, str) else None
    return (
        spec,
        {"names": names, "listed": [], "flags": {}, "added": {}, "options": options, "chat_template": template},
        len(tokens),
    )
