"""Prompts, and candidate answers after them, as texts to be run, and texts as batches that waste little.

Letters: N texts of a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ministeer.activations import alike
from ministeer.prompts import pad

PASS = 64.0  # tokens that a batch costs by itself, whatever is in it: the weights are read once more
LONG = 512  # tokens of a prompt, from which on it is quicker without its answers, as they need a mask and it needs none


# its ids, and which logits tell them: 0 those after the prompt, n those after the n-th token behind it
Answer = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Text:
    """A row of ids to be run: a prompt, then its answers without their last tokens, as a tree: shared beginnings once."""

    ids: tuple[int, ...]
    prompt: int  # which one, from 0
    length: int  # of the prompt: logits are read from its last token on
    follows: tuple[int, ...] = ()  # of each token behind the prompt, the place in the row of the one that it follows
    answers: tuple[Answer, ...] = ()


class Extent(NamedTuple):
    """What decides how much work N texts are together."""

    first: tuple[int, ...]  # by order of their ids: what these two begin with, all do
    last: tuple[int, ...]
    rows: int
    tokens: int  # of all
    longest: int
    unread: int  # tokens before the first whose logits are read, of the shortest prompt

    def __or__(self, other: Extent) -> Extent:
        """The extent of both."""
        return Extent(
            min(self.first, other.first), max(self.last, other.last), self.rows + other.rows, self.tokens + other.tokens,
            max(self.longest, other.longest), min(self.unread, other.unread),
        )  # fmt: skip

    @property
    def shared(self) -> int:
        """How many first tokens all share, of those whose logits nobody reads; 0 where running them apart is no gain."""
        s = min(alike(self.first, self.last), self.unread)
        return s if s * (self.rows - 1) > 0.1 * self.tokens or s > LONG else 0

    @property
    def work(self) -> int:
        """Tokens to run: the shared ones once, and for each text the rest of the longest one."""
        s = self.shared
        return s + self.rows * (self.longest - s)


def extent(texts: Sequence[Text]) -> Extent:
    rows = [text.ids for text in texts]
    lengths = [len(row) for row in rows]
    unread = min(text.length for text in texts) - 1
    return Extent(min(rows), max(rows), len(rows), sum(lengths), max(lengths), unread)


def texts_of(prompts: Sequence[Sequence[int]], answers: Sequence[Any] | None) -> list[Text]:
    """Each prompt as a text, alone or with its answers behind it."""
    if answers is None:
        return [Text(tuple(ids), i, len(ids)) for i, ids in enumerate(prompts)]
    return [_with_answers(i, *both) for i, both in enumerate(zip(prompts, answers, strict=True))]


def _with_answers(number: int, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> Text:
    last = len(prompt) - 1
    places: dict[tuple[int, ...], int] = {(): last}  # beginning of an answer -> where its last token stands in the row
    follows, read = [], []
    for answer in answers:
        beginnings = [tuple(answer[:n]) for n in range(len(answer))]
        for beginning in beginnings:
            if beginning not in places:
                follows.append(places[beginning[:-1]])
                places[beginning] = last + len(follows)
        read.append((tuple(answer), tuple(places[beginning] - last for beginning in beginnings)))
    ids = (*prompt, *(beginning[-1] for beginning in places if beginning))
    return Text(ids, number, len(prompt), tuple(follows), tuple(read))


def rows_of(texts: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Texts as rows: ids `(N, T)`, positions `(N, T)`, -1 for padding, and which tokens of its row each looks back at, including
    itself, `(N, T, T)`; None if no text branches, so all are to its left."""
    ids, positions = pad([text.ids for text in texts])
    if all(text.follows == tuple(range(text.length - 1, len(text.ids) - 1)) for text in texts):
        return ids, positions, None
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril().repeat(len(texts), 1, 1)
    for row, text in enumerate(texts):
        for i, before in enumerate(text.follows, start=text.length):
            positions[row, i] = positions[row, before] + 1
            seen[row, i] = seen[row, before]
            seen[row, i, i] = True
    return ids, positions, seen


def batches_of(texts: list[Text], most: int, alone: float) -> list[list[Text]]:
    """Batches of at most so many tokens, of texts that begin alike or are about as long, whichever is less to run.

    alone: what a batch costs by itself, in tokens.
    """
    ways = (_cut(sorted(texts, key=key), most, alone) for key in (lambda text: text.ids, lambda text: len(text.ids)))
    cut, _ = min(ways, key=lambda way: way[1])
    return cut


def _cut(texts: list[Text], most: int, alone: float) -> tuple[list[list[Text]], float]:
    """Neighbours together while that is less work than apart, and what all of it costs."""
    batches: list[list[Text]] = []
    held: list[Extent] = []  # of each batch
    for text in texts:
        own = extent([text])
        joined = held[-1] | own if held else own
        apart = held[-1].work + own.work + alone if held else 0
        if not held or joined.rows * joined.longest > most or joined.work > apart:
            batches.append([])
            held.append(own)
        else:
            held[-1] = joined
        batches[-1].append(text)
    return batches, sum(each.work + alone for each in held)
