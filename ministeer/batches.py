"""Prompts, and candidate answers after them, as texts to be run, and texts as batches that waste little.

Letters: N texts of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ministeer.activations import alike

SLACK = 1.2  # how much more work, in tokens, a larger batch may be than two smaller ones
PASS = 64  # tokens that a batch costs by itself, whatever is in it: the weights are read once more


@dataclass(frozen=True)
class Text:
    """A row of ids to be run: a prompt, or a prompt and all of an answer but its last token."""

    ids: tuple[int, ...]
    prompt: int  # which one, from 0
    length: int  # of the prompt: logits are read from its last token on
    answers: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (which one, its ids) of those that are read here


class Extent(NamedTuple):
    """What decides how much work N texts are together."""

    first: tuple[int, ...]  # by order of their ids: what these two begin with, all do
    last: tuple[int, ...]
    rows: int
    tokens: int  # of all
    longest: int
    unread: int  # tokens before the first whose logits are read, of the shortest prompt

    def __or__(self, other: Extent) -> Extent:
        """That of the texts of both."""
        return Extent(
            min(self.first, other.first), max(self.last, other.last), self.rows + other.rows, self.tokens + other.tokens,
            max(self.longest, other.longest), min(self.unread, other.unread),
        )  # fmt: skip

    @property
    def shared(self) -> int:
        """How many tokens all of them begin with, of those whose logits nobody reads; 0 where running them once is no gain."""
        s = min(alike(self.first, self.last), self.unread)
        return s if s * (self.rows - 1) > 0.1 * self.tokens else 0

    @property
    def work(self) -> int:
        """Tokens to run: of what the texts share once, of the rest those of the longest for each."""
        s = self.shared
        return s + self.rows * (self.longest - s)


def extent(texts: Sequence[Text]) -> Extent:
    rows = [text.ids for text in texts]
    lengths = [len(row) for row in rows]
    unread = min(text.length for text in texts) - 1
    return Extent(min(rows), max(rows), len(rows), sum(lengths), max(lengths), unread)


def texts_of(prompts: Sequence[Sequence[int]], answers: Sequence[Any] | None) -> list[list[Text]]:
    """The texts of each prompt: itself, or, with the answers of each, one for each beginning of them."""
    if answers is None:
        return [[Text(tuple(ids), i, len(ids))] for i, ids in enumerate(prompts)]
    texts = []
    for i, (ids, candidates) in enumerate(zip(prompts, answers, strict=True)):
        read: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for number, answer in enumerate(candidates):
            read.setdefault((*ids, *answer[:-1]), []).append((number, tuple(answer)))
        texts.append([Text(row, i, len(ids), tuple(these)) for row, these in read.items()])
    return texts


def batches_of(texts: list[list[Text]], most: int) -> Iterator[list[Text]]:
    """Prompts that begin alike come together, and others while that is hardly more work than apart; at most so many tokens."""
    batch: list[Text] = []
    held: Extent | None = None  # of the batch
    for some in sorted(texts, key=lambda some: some[0].ids):
        own = extent(some)
        joined = own if held is None else held | own
        too_many = joined.rows * joined.longest > most
        if held is not None and (too_many or joined.work > SLACK * (held.work + own.work) + PASS):
            yield batch
            batch, joined = [], own
        batch.extend(some)
        held = joined
    yield batch
