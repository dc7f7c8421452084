"""Many variants of the tokens that come next, over one reading of what comes before.

Steering a prompt's last token in a hundred ways changes nothing before it. So the prompt is read once, into a cache, and
each variant is a row that starts from the stream of that one token, at the site where it is changed, and looks back into
the cache it shares with the others. The rest of the forward pass is written by hand:

    past = Branch(cache, rows)                  # variant r continues the cache's row rows[r]
    x = changed                                 # (R, 1, D), the stream at ("pre", i)
    for block in model.blocks[i:]:
        x = block(x, past)
    logits = model.unembed(x)                   # (R, 1, V)

Letters: R variants, T tokens in this call, S tokens before, H heads, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ministeer.model import Cache


class Branch:
    """A cache read by variants that write nothing into it. rows: `(R,)`, the cache's row that each variant continues."""

    def __init__(self, cache: Cache, rows: Tensor) -> None:
        self.cache = cache
        self.rows = rows.to(cache.k.device)  # (R,)
        self.before = int(cache.lengths.max())  # S
        steps = torch.arange(self.before)
        self.seen = (steps < cache.lengths[rows.cpu()][:, None]).to(cache.k.device)  # (R, S), false where padding is

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values `(R, T, H, K)` of this call, behind the shared ones: `(R, S + T, H, K)`, and the mask."""
        shared_k, shared_v = (x[layer, :, : self.before][self.rows] for x in (self.cache.k, self.cache.v))
        count, tokens = k.shape[:2]
        own = torch.ones(tokens, tokens, dtype=torch.bool, device=k.device).tril().expand(count, tokens, tokens)
        mask = torch.cat([self.seen[:, None].expand(count, tokens, self.before), own], -1)  # (R, T, S + T)
        return torch.cat([shared_k, k], 1), torch.cat([shared_v, v], 1), mask[:, None]
