"""Rows of token ids, of any lengths, as one batch.

Letters: B rows, T tokens of the longest.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ministeer.model import Transformer, expect, refusal
from ministeer.provenance import data_hash

UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"  # Thai to Khmer, kana, Chinese


def as_rows(ids: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> tuple[list[list[int]], bool]:
    """One text (a list of ids) or several (a list of lists, or a tensor `(B, T)`) as lists of ids, and whether it was one."""
    listed = _plain(ids)
    given: list[Any] = [_plain(row) for row in listed] if isinstance(listed, Sequence) else [None]
    if given and isinstance(given[0], str):
        raise refusal(
            "token ids",
            "a text",
            "write tok.prompt(text), or tok.encode(text) for ids with none added; ministeer.say takes a text",
        )
    one = not given or not isinstance(given[0], Sequence)
    rows = [given] if one else given
    fine = all(isinstance(row, Sequence) and all(isinstance(i, Integral) for i in row) for row in rows)
    expect(fine, "ids, a list of whole numbers or a list of such lists", " ".join(str(ids).split())[:60])
    if not one:
        warn_of_padding(ids)
    return [list(row) for row in rows], one


def warn_of_padding(given: Any) -> None:
    """Say so where rows of one length end, or begin, in one token thrice and more, or twice in a tensor, if not all of them equally
    often; or, in a tensor, where some, not all, end in the token that begins all, as GPT-2's end of text does."""
    in_tensor, rows = hasattr(given, "tolist"), [_plain(row) for row in _plain(given)]
    times = 2 if in_tensor else 3
    if not rows or not len(rows[0]) or len({*map(len, rows)}) > 1:
        return
    begin, found = rows[0][0], []
    ends = [row[-1] == begin for row in rows]
    if in_tensor and {row[0] for row in rows} == {begin} and len({*ends}) > 1:
        found.append((1, begin))
    for side in ([row[::-1] for row in rows], rows):
        runs = [(next((n for n, i in enumerate(row) if i != row[0]), len(row)), row[0]) for row in side]
        if (most := max(runs))[0] >= times and (len({*runs}) > 1 or most[0] > 3):
            found.append(most)
    if found:
        times, token = max(found)
        warnings.warn(
            f"expected each row as long as its text, got rows of one length and one with {times} times the token {token} at an "
            "end: padding is read as text; give a list of lists of ids without it",
            stacklevel=4,
        )


def warn_of_prompts(tokenizer: Any, texts: Sequence[str], chat: bool, *wheres: Any) -> None:
    """Say so where the model may go on otherwise than was meant: after texts, or after a chat in which they are the user's words."""
    if not chat:
        return warn_of_space(*texts, level=4)
    if marks := [name for name in tokenizer.special if any(name in text for text in texts)]:
        warnings.warn(
            f"the text holds {marks[0]}, which a chat's template writes itself: give the user's words alone, or the whole text as "
            "a plain prompt",
            stacklevel=3,
        )
    if "front" in wheres:
        warnings.warn(
            'the first tokens of a chat, to which where="front" adds, are the template\'s own and not those of the text; add it to a '
            'plain prompt, or read a vector for where="all"',
            stacklevel=3,
        )


def warn_of_space(*texts: str, level: int = 3) -> None:
    """Say so where texts that are to be continued end in a space."""
    if spaced := sum(text.endswith(" ") for text in texts):
        warnings.warn(
            f"{'the text' if len(texts) == 1 else f'{spaced} of {len(texts)} texts'} end{'s' * (spaced == 1)} in a space, which most tokenizers have at the beginning of the next word: the model goes on "
            "otherwise than after the same text without it",
            stacklevel=level,
        )


def joined_close(before: str, text: str) -> bool:
    """Whether a text is likely to lack the space before it: it begins with a word, behind a word or a mark."""
    return bool(re.search(r"[\w.,:;?!]$", before)) and text[:1].isalnum() and not re.match(UNSPACED, text)


def _plain(row: Any) -> Any:
    """A tensor of torch or an array of numpy as a list; anything else as it is."""
    return row.tolist() if hasattr(row, "tolist") else row


def check_ids(model: Transformer, rows: Any, what: str) -> None:
    """Raise `ValueError` unless this is a list of one or more non-empty rows of ids of this model's vocabulary."""
    fine = isinstance(rows, Sequence) and len(rows) and all(isinstance(row, Sequence) and len(row) for row in rows)
    size = model.config.vocab_size
    fine = fine and all(isinstance(i, Integral) and 0 <= int(i) < size for row in rows for i in row)
    wanted = f"{what} as one or more rows of ids from 0 to {size - 1}, a list of lists"
    expect(bool(fine), wanted, " ".join(str(rows).split())[:60], "write [tok.prompt(text), ...]")
    warn_of_padding(rows)


def check_room(model: Transformer, rows: Sequence[Sequence[int]], new: int) -> None:
    """Raise `ValueError` for an empty row, or for one that has no room in the context for so many new tokens."""
    remedy = "begin it with tok.bos"
    expect(bool(rows) and all(rows), "at least one token in every prompt", "an empty one", remedy)
    longest, context = max(map(len, rows)), model.config.context
    wanted, remedy = f"a prompt and new tokens within the context of {context}", "shorten the prompt or ask for fewer"
    expect(longest + new <= context + 1, wanted, f"{longest} + {new}", remedy)  # the last one is never read


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids, padded on the right: ids `(B, T)`, with 0 for padding, and positions `(B, T)`, with -1 for it."""
    if isinstance(rows, str) or not all(hasattr(row, "__len__") and not isinstance(row, str) for row in rows):
        raise refusal("rows of ids, a list of lists", "one row, or texts", "write [tok.prompt(text), ...]")
    lengths = torch.tensor([len(row) for row in rows])
    if not len(rows) or not bool(lengths.all()):
        raise refusal("one row or more, each with one id or more", f"rows of {lengths.tolist()} ids")
    longest = int(lengths.max())
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    steps = torch.arange(longest)
    return ids, torch.where(steps < lengths[:, None], steps, -1)


def prompts_hash(prompts: Sequence[Sequence[int]]) -> str:
    """Which prompts these are, and in which order: 16 hex digits."""
    return data_hash([" ".join(str(int(i)) for i in prompt) for prompt in prompts])
