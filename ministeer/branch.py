"""Many variants of the token that comes next, over one reading of what comes before.

Steering a prompt's last token in a hundred ways changes nothing before it. So the prompt is read once, into a cache; the
variants of its last token stand side by side in a row, as tokens do, each at the site where it is changed, and each looks back
at the prompt and at itself but at no other variant. The rest of the forward pass is written by hand:

    past = Branch(cache)
    x = changed                                 # (B, R, D), R variants of each row's stream at ("pre", i)
    for block in model.blocks[i:]:
        x = block(x, past)
    logits = model.unembed(x)                   # (B, R, V)

Letters: B rows of the cache, R variants of each, S tokens before, H heads, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ministeer.model import Cache


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
