"""Many variants of the token that comes next, over one reading of what comes before.

Steering a prompt's last token in a hundred ways changes nothing before it. So the prompt is read once, into a cache; the
variants of its last token stand side by side in a row, as tokens do, each at the site where it is changed, and each looks back
at the prompt and at itself but at no other variant. The rest of the forward pass is written by hand:

    x, tape, cache = last_token(model, prompts, [("pre", i)])
    past = Branch(cache)
    x = changed                                 # (B, R, D), R variants of each row's stream at ("pre", i)
    for block in model.blocks[i:]:
        x = block(x, past)
    logits = model.unembed(x)                   # (B, R, V)

Letters: B rows of the cache, R variants of each, S tokens before, H heads, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ministeer.model import GPT2, Cache, Site, pad


class Branch:
    """A cache read by variants that write nothing into it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.before = int(cache.lengths.max())  # S
        steps = torch.arange(self.before)
        self.seen = (steps < cache.lengths[:, None]).to(cache.k.device)  # (B, S), false where padding is

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the variants, `(B, R, H, K)`, behind those they share: `(B, S + R, H, K)`, and the mask."""
        rows, variants = k.shape[:2]
        before = [x[layer, :, : self.before] for x in (self.cache.k, self.cache.v)]  # (B, S, H, K)
        itself = torch.eye(variants, dtype=torch.bool, device=k.device).expand(rows, variants, variants)
        mask = torch.cat([self.seen[:, None].expand(rows, variants, self.before), itself], -1)  # (B, R, S + R)
        return torch.cat([before[0], k], 1), torch.cat([before[1], v], 1), mask[:, None]


def last_token(model: GPT2, rows: Sequence[Sequence[int]], sites: Sequence[Site]) -> tuple[Tensor, list[Any], Cache]:
    """Of each prompt's last token: the last stream `(B, 1, D)` and the sites' tensors; and a cache of what comes before.

    rows: prompts of two tokens or more.
    """
    device = model.wte.weight.device
    ids, _ = pad([row[:-1] for row in rows])
    lengths = torch.tensor([len(row) - 1 for row in rows])
    cache = Cache(model, len(rows), ids.shape[1] + 1)
    model.stream(ids.to(device), cache=cache)
    cache.keep(lengths)
    tape: list[Any] = list(sites)
    x = model.stream(torch.tensor([row[-1:] for row in rows], device=device), tape=tape, cache=cache)
    cache.keep(lengths)
    return x, tape, cache
