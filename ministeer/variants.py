"""Many variants of the token that comes next, over one reading of what comes before.

Steering a prompt's last token in a hundred ways changes nothing before it. So the prompt is read once, into a cache; the
variants of its last token stand side by side in a row, as tokens do, each at the site where it is changed, and each looks back
at the prompt and at itself but at no other variant. `above` is the rest of the forward pass:

    x, tape, cache = last_token(model, prompts, [("pre", i)])
    x = changed                                 # (B, R, D), R variants of each row's stream at ("pre", i)
    x = above(model, x, ("pre", i), Branch(cache, cache.lengths))
    logits = model.unembed(x)                   # (B, R, V)

`Rows` is for changes that reach further back: for each variant, what several texts begin with is run once, as is what a text's
branches share.

Letters: B rows of the cache, R variants of each, N texts, S tokens before, T tokens of a text, G heads of keys and values, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from ministeer.model import Block, Cache, Embedding, Past, Site, Transformer, check_blocks, check_stream, expect, hooked
from ministeer.prompts import pad


class Rows:
    """N texts of T tokens, or R variants of them, variant by variant, `(R * N, T)`.

    before: `Rows` of what all texts begin with, one row a variant, which have been run and kept.
    tree: where texts branch: each token's position in its text `(N, T)`, below 0 for padding, and which of its row it looks
        back at, itself included, `(N, T, T)`. Without one every token follows the one to its left.
    keep: hold the keys and values in `k` and `v`, layer by layer, `(R * N, S + T, G, K)`.
    """

    def __init__(
        self,
        tokens: int,
        before: Rows | None = None,
        *,
        tree: tuple[Tensor, Tensor] | None = None,
        variants: int = 1,
        keep: bool = False,
    ) -> None:
        self.before, self.tree, self.variants, self.keep = before, tree, variants, keep
        self.start: int = 0 if before is None else before.end
        self.end: int = self.start + tokens
        self.at = None if tree is None else tree[0].clamp(min=0).repeat(variants, 1)  # (R * N, T)
        self.mask: Tensor | None = None  # (1 or R * N, 1, T, S + T)
        self.k: dict[int, Tensor] = {}
        self.v: dict[int, Tensor] = {}

    def positions(self, layer: int, tokens: int) -> slice | Tensor:
        return slice(self.start, self.end) if self.at is None else self.at

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """This call's `(R * N, T, G, K)` after what they begin with, `(R * N, S + T, G, K)`, and the mask."""
        if self.before is not None:
            held = self.before.k[layer], self.before.v[layer]  # (R, S, G, K) each
            k, v = (torch.cat([x.repeat_interleave(len(y) // len(x), 0), y], 1) for x, y in zip(held, (k, v)))
        if self.keep:
            self.k[layer], self.v[layer] = k.contiguous(), v.contiguous()  # a view would hold the queries too
        if self.mask is None and (self.before is not None or self.tree is not None):
            tokens = self.end - self.start
            if self.tree is None:
                own = torch.ones(1, tokens, tokens, dtype=torch.bool, device=k.device).tril()
            else:
                own = self.tree[1].to(k.device).repeat(self.variants, 1, 1)
            self.mask = torch.cat([own.new_ones(len(own), tokens, self.start), own], -1)[:, None]
        return k, v, self.mask


class Branch:
    """What was kept of B texts, read by variants of what comes next, which write nothing into it.

    kept: a `Cache`, or `Rows`. lengths: how many of each text's tokens the variants look back at, `(B,)`.
    positions: of the tokens of a variant `(B, span)`, side by side, variant by variant; by default one, which comes next.
    seen: which of its variant each looks back at, itself included, `(B or 1, span, span)`.
    """

    def __init__(self, kept: Any, lengths: Tensor, positions: Tensor | None = None, seen: Tensor | None = None) -> None:
        device = kept.k[0].device
        self.kept, self.before = kept, int(lengths.max())  # S
        lengths = lengths.to(device)
        self.at = lengths[:, None] if positions is None else positions.clamp(min=0).to(device)  # (B, span)
        self.own = torch.ones(1, 1, 1, dtype=torch.bool, device=device) if seen is None else seen.to(device)
        self.held = torch.arange(self.before, device=device) < lengths[:, None]  # (B, S)
        self.mask: Tensor | None = None  # of the last call

    def positions(self, layer: int, tokens: int) -> Tensor:
        """`(B, R * span)`."""
        return self.at.repeat(1, tokens // self.at.shape[1])

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the variants, `(B, R * span, G, K)`, after what was kept, `(B, S + R * span, G, K)`, and the mask."""
        tokens, variants = k.shape[1], k.shape[1] // self.at.shape[1]
        if self.mask is None or self.mask.shape[2] != tokens:
            same = torch.eye(variants, dtype=torch.bool, device=k.device)[:, None, :, None]  # (R, 1, R, 1)
            itself = (same & self.own[:, None, :, None]).reshape(-1, tokens, tokens)  # (B or 1, R * span, R * span)
            held = self.held[:, None].expand(-1, tokens, -1)
            self.mask = torch.cat([held, itself.expand(len(held), -1, -1)], -1)[:, None]
        before = [x[layer][:, : self.before] for x in (self.kept.k, self.kept.v)]  # (B, S, G, K)
        return torch.cat([before[0], k], 1), torch.cat([before[1], v], 1), self.mask


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
    check_blocks(model)
    found = changed(model)
    wanted = "a model without hooks or a new forward on it or on a part of it, as its blocks run in halves here"
    expect(not found, wanted, found, 'remove it, or add at a site instead: block i\'s output is ("pre", i + 1)')
    own = "unembed" in vars(model) or type(model).unembed is not Transformer.unembed
    expect(not own, "the unembedding that the models here have", "another one", "score with a loop over prefill")


def below(model: Transformer, x: Tensor, past: Past | None, sites: Sequence[Site], depth: int) -> dict[Site, Tensor]:
    """The stream that enters the first block, `(B, T, D)` -> the one at these sites of the first `depth` blocks, which are run."""
    found: dict[Site, Any] = dict.fromkeys(sites)

    def kept(kind: Any, i: int, x: Tensor) -> Tensor:
        if (kind, i) in found:
            found[kind, i] = x
        return x

    for i in range(depth):
        block: Any = model.blocks[i]
        x = block.attend(kept("pre", i, x), past)
        x = block.feed_forward(kept("mid", i, x))
    kept("pre", depth, x)
    return found


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
    half. The output of an adapter in the unembedding's place is kept unchanged."""
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
