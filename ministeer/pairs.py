"""Pairs of texts -> the streams of both at one token: the slow step on the way to a vector, done once (`extract.read`).

Letters: N pairs, D width.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from torch import Tensor

from ministeer.activations import OnBatch, alike, as_sites, pair_streams
from ministeer.model import Site, Transformer, expect, refusal
from ministeer.prompts import UNSPACED, joined_close, warn_of_padding, warn_of_space
from ministeer.provenance import Provenance
from ministeer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

Text = str | Sequence[int]  # as ids it is read as they are: what `tok.chat` gives
Pairs = Sequence[tuple[Text, Text] | list[Text]]
NAMED = (("positive", "negative"), ("plus", "minus"), ("chosen", "rejected"))  # how rows of pairs call their texts
NOTES = ("id", "source")  # what rows hold besides, in words that are not part of their texts
Token = Literal["answer", "last"]


class Reading(TypedDict, total=False):
    """How `read`, and each method that makes a vector from pairs, reads.

    token: where: "answer" (the default), the first token in which the two texts of a pair differ, or "last", the last token of each,
        for texts that differ in their context, or in more than one token.
    batch_size, on_batch: see `pair_streams`.
    """

    token: Token
    batch_size: int
    on_batch: OnBatch | None


@dataclass(frozen=True, eq=False, repr=False)
class Read:
    """The stream of both texts of N pairs at one token of each, `{site: (N, 2, D)}`, the positive text first, in float32 on the
    CPU; and where it is from, as in a vector's provenance. It reveals as much as the texts themselves."""

    streams: dict[Site, Tensor]
    source: Provenance

    def __repr__(self) -> str:
        return f"Read({len(self)} pairs at the {self.source.token} token, sites {self.sites})"

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    @property
    def sites(self) -> list[Site]:
        return list(self.streams)

    def only(self, sites: Site | Sequence[Site]) -> Read:
        """The same at fewer sites."""
        for site in (wanted := as_sites(sites)):
            expect(
                site in self.streams, f"one of the sites that were read {self.sites}", repr(site), "read it there too"
            )
        return Read({site: self.streams[site] for site in wanted}, self.source)


def parsed(given: str | Sequence[Any]) -> list[list[str]]:
    """Pairs of texts from lines of JSON, or what those hold, as `prompted` reads them; a prompt goes before both texts, joined unchanged."""
    rows = prompted(given)
    found = [[before + text for text in pair] for before, pair in rows]
    close = [all(joined_close(before, text) for text in pair) for before, pair in rows]
    twice = [before.endswith(" ") and all(text.startswith(" ") for text in pair) for before, pair in rows]
    for which, how in (
        (close, "are joined to their texts as they stand, without a space"),
        (twice, "end in a space, and their texts begin with one"),
    ):
        if any(which):
            first = found[which.index(True)][0]
            warnings.warn(
                f"{sum(which)} of {len(rows)} prompts {how}, as in {first[:40]!r}; write it where it belongs",
                stacklevel=3,
            )
    return found


def prompted(given: str | Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Prompts, empty where there is none, and their pairs of texts: `["with it", "without"]`, or by the names of `NAMED`, and `"prompt"`.

    Any other text beside two names, such as a question, may belong to them too, and is refused, except `NOTES`; numbers, true,
    false and null are ignored.
    """
    form = '["text with it", "text without"] on each line'
    rows = [] if isinstance(given, str) else list(given)
    for i, line in enumerate(given.removeprefix("\ufeff").split("\n") if isinstance(given, str) else (), 1):
        try:
            rows += [json.loads(line, object_pairs_hook=_each_once)] if line.strip() else []
        except (ValueError, RecursionError):
            raise refusal(f"lines of JSON, {form}", f"{line.strip()[:40]!r} on line {i}") from None
    expect(bool(rows), f"a pair or more, {form}", "none")
    found = []
    for i, row in enumerate(rows, 1):
        pair: Any = _named(row, i) if isinstance(row, dict) else row
        fine = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        expect(fine, f"two texts in pair {i}, {form}", json.dumps(row)[:40])
        found.append((row.get("prompt") or "" if isinstance(row, dict) else "", pair))
    return found


def _each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that comes twice json would take the last."""
    if len(row := dict(entries)) < len(entries):
        raise ValueError
    return row


def _named(row: dict[str, Any], number: int) -> list[Any] | None:
    """The two texts that a row names, once it is sure that nothing but a prompt goes with them."""
    names = next((both for both in NAMED if {*both} <= row.keys()), None)
    if names is None:
        return None
    words = [key for key, value in row.items() if isinstance(value, (str, list, dict)) and value]
    others = [key for key in words if key not in (*names, *NOTES, "prompt")]
    wanted = f"nothing but a prompt beside {' and '.join(names)} in pair {number}"
    expect(
        not others, wanted, repr(others[:1])[1:-1], "write it into both texts where it belongs to them, or remove it"
    )
    before = row.get("prompt")
    expect(before is None or isinstance(before, str), f"a text as the prompt of pair {number}", json.dumps(before)[:40])
    return [row[name] for name in names]


def read(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Pairs,
    sites: Site | Sequence[Site] | None = None,
    **how: Unpack[Reading],
) -> Read:
    """The streams of pairs of texts, positive and negative, in which directions are found: the slow step, done once.

    pairs: of texts, each read as `tokenizer.prompt` has it, or of lists of ids, as `tokenizer.chat` gives them.
    sites: by default the stream that enters each block and the one that leaves the last. What the literature calls
        the output of block i is `("pre", i + 1)`.
    how: token, batch_size and on_batch, see `Reading`.
    Warns where most pairs seem to differ in their context, or from their first word on, and are not read at the last token;
    where most are read after the same beginnings as others; and where many share a text.
    """
    return read_pairs(model, tokenizer, pairs, sites, **how)


def read_pairs(
    source: Transformer | Read,
    tokenizer: Tokenizer | None,
    pairs: Pairs | None,
    sites: Site | Sequence[Site] | None,
    *,
    token: Token | None = None,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Read:
    """What was read, unchanged, or what a model reads now."""
    if isinstance(source, Read):
        alone = tokenizer is None and pairs is None and sites is None and token in (None, source.source.token)
        got = f"texts, sites or another token than {source.source.token!r} beside it"
        expect(alone, "what was read, alone", got, "take read.only(sites), or read again")
        return source
    if tokenizer is None or pairs is None:
        got = f"{type(source).__name__} alone" if tokenizer is None else "no pairs"
        raise refusal("what extract.read returned, or a model, its tokenizer and pairs of texts", got)
    wanted, token = all_sites(source) if sites is None else as_sites(sites), token or "answer"
    rows = _pair_rows(tokenizer, pairs)
    positions = [_read_at(plus, minus, token, number) for number, (plus, minus) in enumerate(rows)]
    if token == "last":
        warn_of_space(*(text for pair in pairs for text in pair if isinstance(text, str)))
    if doubt := _doubt(tokenizer, rows, positions, token):
        warnings.warn(doubt, stacklevel=3)
    found = pair_streams(source, rows, positions, wanted, batch_size=batch_size, on_batch=on_batch)
    told = [text if isinstance(text, str) else " ".join(map(str, text)) for pair in pairs for text in pair]
    return Read(found, Provenance.of(source, "read", told, token))


def _pair_rows(tokenizer: Tokenizer, pairs: Pairs) -> list[tuple[list[int], list[int]]]:
    """The ids of both texts of each pair."""
    remedy = "write [(row['positive'], row['negative']) for row in rows], by the names that your rows have"
    expect(isinstance(pairs, Sequence), "a list of pairs of texts", type(pairs).__name__, remedy)
    if not len(pairs):
        raise refusal("at least one pair of texts", "none")
    for number, pair in enumerate(pairs):
        fine = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        fine = fine and all(isinstance(text, str) or _are_ids(text) for text in pair)
        got = " ".join(repr(pair).split())[:60]
        expect(fine, "pairs of two texts, the positive one first", f"{got} as number {number}", remedy)
        header = tuple(pair) in NAMED
        expect(not header, "pairs of texts", f"{got}, the names of columns, as number {number}", "leave it out")
    if ids := [text for pair in pairs for text in pair if not isinstance(text, str)]:
        warn_of_padding(ids)
    return [(_ids(tokenizer, plus), _ids(tokenizer, minus)) for plus, minus in pairs]


def _are_ids(text: object) -> bool:
    return isinstance(text, Sequence) and len(text) > 0 and all(isinstance(i, Integral) for i in text)


def _ids(tokenizer: Tokenizer, text: Text) -> list[int]:
    return tokenizer.prompt(text) if isinstance(text, str) else [int(i) for i in text]


def _doubt(tokenizer: Tokenizer, rows: Any, positions: Sequence[tuple[int, int]], token: str) -> str:
    """Why most of the pairs may be read where they were not meant to be; empty for what looks sound."""
    read = {
        (*plus[: at + 1], -1, *minus[: also + 1]) for (plus, minus), (at, also) in zip(rows, positions, strict=True)
    }
    alike_behind, first, special = 0, 0, {*tokenizer.special.values()}
    for (plus, minus), (at, _) in zip(rows, positions, strict=True) if token == "answer" else ():
        alike_behind += _end_alike(tokenizer, plus, minus, at) or _alike_within(tokenizer, plus[at:], minus[at:])
        first += special.issuperset(plus[:at]) and all(_words(tokenizer.decode(x[at + 1 :])) for x in (plus, minus))
    if 2 * alike_behind > len(rows):
        return (
            f"the texts of {alike_behind} of {len(rows)} pairs go on alike after the words in which they differ, and are read before "
            'that; if they differ in their context, and the answer is still to come, read them with token="last"'
        )
    if 2 * first > len(rows):
        return (
            f"the texts of {first} of {len(rows)} pairs begin with different words and are read there, before the rest; read whole "
            'sentences with token="last"'
        )
    if len(rows) > 1 and (len(read) == 1 or 4 * len(read) <= len(rows)):
        remedy = 'read them with token="last", or let' if token == "answer" else "let"
        return (
            f"{len(rows)} pairs are read after {len(read)} different beginning{'s' * (len(read) > 1)}, so many of them are one item again; "
            f"{remedy} what comes before differ from pair to pair"
        )
    different = {(*plus, -1, *minus) for plus, minus in rows}
    if 10 * (again := len(rows) - len(different)) > len(rows):
        return (
            f"{again} of {len(rows)} pairs repeat earlier ones, so their health counts one item as several and looks better than it is; "
            "keep each pair once"
        )
    fewest = min(len({tuple(row[side]) for row in rows}) for side in (0, 1))
    if len(different) > 3 and 2 * fewest <= len(different):
        return (
            f"{len(different)} pairs hold {fewest} different texts of one kind, so items depend on each other, and their health looks better than "
            "it is; pair each text once"
        )
    if token == "last" and len(rows) > 2 and (ending := _same_ending(tokenizer, rows)):
        return f"{ending}, and are read there: the vector may be of that alone; let the texts end in different ones, or all alike"
    if token == "answer" and len(rows) > 2 and (label := _same_label(tokenizer, rows, positions)):
        return f"{label}, so the vector may be of these letters alone; give the right answer each letter equally often"
    return ""


def _same_label(tokenizer: Tokenizer, rows: Any, positions: Sequence[tuple[int, int]]) -> str:
    """In a sentence, the letter or digit that stands for the answer in all texts of a kind; empty where there are none."""
    labels: list[set[str]] = [set(), set()]
    for row, at in zip(rows, positions, strict=True):
        for side in (0, 1):
            said = re.match(r"[ (]*([A-Za-z\d])(?!\w)", tokenizer.decode(row[side][at[side] : at[side] + 3]))
            labels[side].add(said[1] if said else "")
    plus, minus = ("".join(some) if len(some) == 1 else "" for some in labels)
    return f"all positive texts answer {plus!r} and all negative ones {minus!r}" if plus and minus else ""


def _same_ending(tokenizer: Tokenizer, rows: Sequence[tuple[list[int], list[int]]]) -> str:
    """In a sentence, the words in which all texts of one kind end and most of the other do not; empty where there are none."""
    positive, negative = zip(*rows, strict=True)
    both = _shared([*positive, *negative])
    for kind, texts, others in (("positive", positive, negative), ("negative", negative, positive)):
        ending = texts[0][len(texts[0]) - _shared(texts) :]
        also = sum(text[-len(ending) :] == ending for text in others)
        told = [i for i in ending[: len(ending) - both] if i not in tokenizer.special.values()]
        if 2 * also < len(rows) and (words := tokenizer.decode(told).strip()):
            return f"all {kind} texts, and {also} of the others, end in {words[-40:]!r}"
    return ""


def _shared(texts: Sequence[list[int]]) -> int:
    """How many tokens at the end all texts have in common."""
    return min(alike(texts[0][::-1], text[::-1]) for text in texts)


def _words(text: str) -> bool:
    """Whether a word begins in a text: behind a space, or in a script that writes none between words."""
    return re.search(rf"\s\W*\w|{UNSPACED}{{2}}", text) is not None


def _end_alike(tokenizer: Tokenizer, plus: Sequence[int], minus: Sequence[int], first: int) -> bool:
    """Whether two texts that differ from token `first` on come to the same words again. An answer ends a text, up to a bracket, a
    full stop or a special token; what has words after it was the context of one."""
    longest = min(len(plus), len(minus)) - first
    same = min(alike(plus[::-1], minus[::-1]), longest)
    parts = groupby(plus[len(plus) - same :], {*tokenizer.special.values()}.__contains__)
    tail = " ".join("" if special else tokenizer.decode([*part]) for special, part in parts)
    return _words(tail)  # not the rest of one


def _alike_within(tokenizer: Tokenizer, plus: list[int], minus: list[int]) -> bool:
    """Whether the same words stand in both somewhere, a quarter of the shorter and more: one question between two personas and what
    each of them answers."""
    same = SequenceMatcher(None, plus, minus, autojunk=False).find_longest_match()
    words = re.findall(rf"{UNSPACED}|\w+", tokenizer.decode(plus[same.a : same.a + same.size]))
    return len(words) > 3 and 4 * same.size >= min(len(plus), len(minus))


def all_sites(model: Transformer) -> list[Site]:
    return [("pre", i) for i in range(model.config.n_layer + 1)]


def _read_at(plus: Sequence[int], minus: Sequence[int], token: str, number: int) -> tuple[int, int]:
    if plus == minus:
        raise ValueError(f"expected two texts that differ, got the same text twice in pair {number}")
    if token == "last":
        if min(len(plus), len(minus)) < 2:
            raise ValueError(f"expected two texts, got an empty one in pair {number}")
        return len(plus) - 1, len(minus) - 1
    if token != "answer":
        raise ValueError(f"expected token to be 'answer' or 'last', got {token!r}")
    first = alike(plus, minus)
    if first == min(len(plus), len(minus)):
        raise ValueError(
            f"expected two texts with a token in which they differ, got one that continues the other in pair {number}; "
            "use token='last'"
        )
    return first, first
