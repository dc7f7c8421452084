"""Many variants of the token that comes next, over one reading of what comes before.

Steering a prompt's last token in a hundred ways changes nothing before it. So the prompt is read once, into a cache; the
variants of its last token stand side by side in a row, as tokens do, each at the site where it is changed, and each looks back
at the prompt and at itself but at no other variant. `above` is the rest of the forward pass:

    x, tape, cache = last_token(model, prompts, [("pre", i)])
    x = changed                                 # (B, R, D), R variants of each row's stream at ("pre", i)
    x = above(model, x, ("pre", i), Branch(cache))
    logits = model.unembed(x)                   # (B, R, V)

`Shared` is for changes that reach further back: the beginning that several texts share is then run once a variant.

Letters: B rows of the cache, R variants of each, S tokens before, T tokens of a text, G heads of keys and values, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from ministeer.model import Block, Cache, Embedding, Past, Site, Transformer, check_stream, expect, hooked
from ministeer.prompts import pad


class Branch:
    """A cache read by variants that write nothing into it.

    span: tokens of a variant, which stand side by side, variant by variant.
    """

    def __init__(self, cache: Cache, span: int = 1) -> None:
        self.cache, self.span = cache, span
        self.before = int(cache.lengths.max())  # S
        self.starts = cache.lengths.to(cache.k.device)  # (B,), where the variants stand
        steps = torch.arange(self.before)
        self.seen = (steps < cache.lengths[:, None]).to(cache.k.device)  # (B, S), false where padding is

    def positions(self, layer: int, tokens: int) -> Tensor:
        """Each variant begins where what it shares ends, `(B, R)`."""
        return self.starts[:, None] + torch.arange(tokens, device=self.starts.device) % self.span

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the variants, `(B, R, G, K)`, after those they share: `(B, S + R, G, K)`, and the mask."""
        rows, tokens = k.shape[:2]
        before = [x[layer, :, : self.before] for x in (self.cache.k, self.cache.v)]  # (B, S, G, K)
        steps = torch.arange(tokens, device=k.device)
        itself = (steps >= steps[:, None] // self.span * self.span) & (steps <= steps[:, None])  # (R, R)
        seen = self.seen[:, None].expand(rows, tokens, self.before)
        mask = torch.cat([seen, itself.expand(rows, tokens, tokens)], -1)  # (B, R, S + R)
        return torch.cat([before[0], k], 1), torch.cat([before[1], v], 1), mask[:, None]


class Shared:
    """What the tokens that several rows begin with leave in each block: first run them, once a variant, then the rest of the rows.

    The rows of a variant lie together: those of the first, those of the second.
    """

    def __init__(self) -> None:
        self.held: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys and values (R, S, G, K)

    def positions(self, layer: int, tokens: int) -> slice:
        """From 0 in the first call of a layer, after what it kept in later ones."""
        start = self.held[layer][0].shape[1] if layer in self.held else 0
        return slice(start, start + tokens)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The first call of a layer is kept; later ones, `(R * B, T, G, K)`, come after it: `(R * B, S + T, G, K)`, and the mask."""
        if layer not in self.held:
            self.held[layer] = k, v
            return k, v, None
        before = [x.repeat_interleave(len(k) // len(x), 0) for x in self.held[layer]]  # (R * B, S, G, K)
        tokens, start = k.shape[1], before[0].shape[1]
        mask = torch.ones(tokens, start + tokens, dtype=torch.bool, device=k.device).tril(start)
        return torch.cat([before[0], k], 1), torch.cat([before[1], v], 1), mask


def begun(
    model: Transformer, ids: Tensor, copies: int, capacity: int, depth: int, tape: dict[Site, Any] | None = None
) -> Cache:
    """A cache of `copies` of the rows `ids` `(B, S)`, one set after the other, which are run once; it has as many blocks as
    `depth` and room for `capacity` tokens a row."""
    one, cache = Cache(model, len(ids), ids.shape[1], depth), Cache(model, copies * len(ids), capacity, depth)
    model.stream(ids, tape=tape, cache=one, depth=depth)
    for all_rows, rows in ((cache.k, one.k), (cache.v, one.v)):
        all_rows[:, :, : ids.shape[1]] = rows.repeat(1, copies, 1, 1, 1)  # (L, B, S, G, K) -> (L, copies B, S, G, K)
    cache.lengths = one.lengths.repeat(copies)
    return cache


def last_token(
    model: Transformer, rows: Sequence[Sequence[int]], sites: Sequence[Site]
) -> tuple[Tensor, list[Any], Cache]:
    """Of each prompt's last token: the last stream `(B, 1, D)` and the sites' tensors; and a cache of what comes before.

    rows: prompts of two tokens or more. Raises `ValueError` as `check_halves` does.
    """
    check_halves(model)
    device = model.device
    ids, _ = pad([row[:-1] for row in rows])
    lengths = torch.tensor([len(row) - 1 for row in rows])
    cache = Cache(model, len(rows), ids.shape[1] + 1)
    model.stream(ids.to(device), cache=cache)
    cache.keep(lengths)
    tape: list[Any] = list(sites)
    x = model.stream(torch.tensor([row[-1:] for row in rows], device=device), tape=tape, cache=cache)
    cache.keep(lengths)
    return check_stream(x), tape, cache


def changed(model: Transformer) -> str:
    """The first of the model's modules with a hook, or block with a new forward, as text, "" if there is none. A hook sees the tokens of one
    call, and cannot know where in a text they stand, or that they are variants of one."""
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return "one on every module of torch"
    for name, part in model.named_modules():
        own = "forward" in vars(part) and part in (model, *model.blocks)
        if hooked(part) or own or isinstance(part, Block) and type(part).forward is not Block.forward:
            return f"one on {name or type(part).__name__}"
    return ""


def check_halves(model: Transformer) -> None:
    """Raise `ValueError` for what would change the model on its way: `above` runs blocks in halves, and variants side by side."""
    found = changed(model)
    wanted = "a model without hooks or a new forward on it or on a part of it, as its blocks run in halves here"
    expect(not found, wanted, found, 'remove it, or add at a site instead: block i\'s output is ("pre", i + 1)')
    own = "unembed" in vars(model) or type(model).unembed is not Transformer.unembed
    expect(not own, "the unembedding that the models here have", "another one", "score with a loop over prefill")


def above(model: Transformer, x: Tensor, site: Site, past: Past | None, read: Tensor | None = None) -> Tensor:
    """A stream `(B, T, D)` at a site, after its add -> the last one, `(B, T, D)`, or `(reads, D)` of it where `read` `(B, T)` is true.

    Tokens that are not read do not go through the last block's MLP. Raises `ValueError` as `check_halves` does.
    """
    check_halves(model)
    kind, layer = site
    last = model.config.n_layer - 1
    for i in range(layer, last + 1):
        block: Any = model.blocks[i]
        if kind == "pre" or i > layer:
            x = block.attend(x, past)
        if i == last and read is not None:
            return block.feed_forward(x[read.to(x.device)])  # type: ignore[no-any-return]
        x = block.feed_forward(x)
    return x if read is None else x[read.to(x.device)]


def logits32(model: Transformer, x: Tensor) -> Tensor:
    """As `model.unembed`, in float32 and not rounded to the model's dtype: in bfloat16 a logit of 100 is a multiple of one
    half. What an adapter in the place of the unembedding makes is taken as it is."""
    x, head = model.ln_f(check_stream(x)), model.head
    w = head.weight
    if w.dtype == torch.float32 or type(head) is not Embedding and not hasattr(head, "packed"):
        return head.scores(x).float()  # type: ignore[no-any-return]
    if w.dtype == torch.bfloat16 and w.device.type == "cpu":
        # the product minus its rounded self, taken before it is rounded, is what rounding took: 16 bits in two products, both in
        # bfloat16, where a float32 one takes five times as long
        rounded = head.scores(x)
        rest = torch.addmm(rounded.flatten(0, -2), x.flatten(0, -2), w.T, beta=-1)
        return rounded.float() + rest.float().view_as(rounded)  # type: ignore[no-any-return]
    # part by part: a float32 copy of the whole would be made anew in each call, which takes longer than the product
    return torch.cat([x.float() @ part.float().T for part in torch.split(w, 2048)], -1)
