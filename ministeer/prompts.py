"""Rows of token ids, of any lengths, as one batch.

Letters: B rows, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ministeer.model import refusal
from ministeer.provenance import data_hash


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids, padded on the right: ids `(B, T)`, with 0 for padding, and positions `(B, T)`, with -1 for it."""
    if isinstance(rows, str) or not all(hasattr(row, "__len__") and not isinstance(row, str) for row in rows):
        raise refusal("rows of ids, a list of lists", "one row, or texts", "write [[tok.eot, *tok.encode(text)], ...]")
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
