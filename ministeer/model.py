"""GPT-2 in one file, in reading order, with the residual stream in plain sight.

The forward pass is plain enough to write by hand, and steering is a `+` in it:

    x = model.embed(ids)                       # (B, T) -> (B, T, D)
    for i, block in enumerate(model.blocks):
        if i == 6:
            x = x + 5.0 * v                    # this line is steering
        x = block(x)                           # (B, T, D) -> (B, T, D)
    logits = model.unembed(x)                  # (B, T, D) -> (B, T, V)

`model(ids, adds={("pre", 6): 5.0 * v})` is the same computation, to the bit (with v in the model's dtype and on its device;
`adds` brings it there).

Sites, the one convention of the project: `("pre", i)` is the stream that enters block i, `("mid", i)` the stream between
its attention and its MLP, `("pre", n_layer)` the stream that leaves the last block, before the final norm.
`("head", i)` can be recorded, not added to: what each head of block i writes into the stream.

Batches of texts of unequal length are padded on the right. Attention is causal, so no real token ever sees the padding,
position p of a row is always its p-th token, and there is no padding mask to get wrong.

Letters: B rows, T tokens in this call, S slots of a cache, D width, H heads, K = D / H head size, V vocabulary.

This file imports only torch and the standard library: copy it into your project as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral  # numpy's too
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Site = tuple[str, int]
Add = Tensor | Callable[[Tensor], Tensor]
Tape = dict[Site, Tensor] | list[Any]


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2, named as in the hub's `config.json`; the defaults are GPT-2 XL's (1.56 billion parameters)."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 1600
    n_layer: int = 48
    n_head: int = 25
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be a whole number above 0, got {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"expected a width that the heads divide, got n_embd={self.n_embd} for n_head={self.n_head}; change one"
            )


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`(..., in)` -> `(..., out)`: W x + b as `F.linear` has it, by a quicker way for a few tokens in float32 on a CPU.

    There torch's BLAS multiplies a vector on one core, and a few of them little better; the same product as a batch of small
    ones uses all cores (`make bench` shows what that gains). 8 tokens, 32 strips and 4 parts are what was quickest when tried.
    """
    out, n = weight.shape
    few = 0 < x.numel() <= 8 * n and x.device.type == "cpu" and x.dtype == torch.float32
    by_rows = few and weight.is_contiguous()
    if not by_rows and not (few and weight.mT.is_contiguous()):
        return F.linear(x, weight, bias)
    tokens = x.reshape(-1, n)  # (N, in)
    if by_rows:  # strips of them, side by side
        strips = next(s for s in range(32, 0, -1) if out % s == 0)
        by_strip = weight.view(strips, -1, n).mT  # (strips, in, out / strips)
        product = torch.bmm(tokens.expand(strips, *tokens.shape), by_strip).transpose(0, 1)  # (N, strips, out / strips)
    else:  # by columns, as checkpoints hold it: parts of the sum
        parts = next(s for s in range(4, 0, -1) if n % s == 0)
        shares = tokens.view(len(tokens), parts, -1).transpose(0, 1)  # (parts, N, in / parts)
        product = torch.bmm(shares, weight.mT.view(parts, -1, out)).sum(0)
    product = product.reshape(*x.shape[:-1], out)
    return product if bias is None else product + bias.to(product.dtype)  # which autocast may have changed


class Linear(nn.Linear):
    """W x + b, the weight `(out, in)`."""

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.weight, self.bias)  # (..., in) -> (..., out)


class Embedding(nn.Embedding):
    """A vector `(D,)` for each id. It starts uniform: torch's own start, normal, imports its compiler on the meta device, a second's wait."""

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -0.02, 0.02)

    def scores(self, x: Tensor) -> Tensor:
        """`(..., D)` -> `(..., V)`: the product with the vector of every id."""
        return multiply(x, self.weight)


class Past(Protocol):
    """What attention asks of the tokens before: theirs and this call's keys and values, and who may look at whom."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """This call's `(B, T, H, K)` -> all `(B, S, H, K)` and the mask `(B, 1, T, S)`, none if causal, or a lone token that sees all."""


class Attention(nn.Module):
    """Causal self-attention. The stream's norm comes in, what the heads write into the stream goes out."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values side by side
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache: Past | None = None, sites: Sites | None = None) -> Tensor:
        qkv = self.c_attn(x).view(*x.shape[:2], 3, self.n_head, -1)  # (B, T, D) -> (B, T, 3, H, K)
        q, k, v = qkv.unbind(2)  # 3 x (B, T, H, K)
        mask = None
        if cache is not None:
            k, v, mask = cache.extend(self.layer, k, v)  # (B, T, H, K) -> (B, S, H, K)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
            attn_mask=mask, is_causal=mask is None and x.shape[1] > 1,  # a lone token sees all there is
        ).transpose(1, 2)  # (B, T, H, K)  # fmt: skip
        if sites is not None and sites.records(("head", self.layer)):
            by_head = self.c_proj.weight.view(len(self.c_proj.weight), self.n_head, -1)  # (D, D) -> (D, H, K)
            sites.record(("head", self.layer), torch.einsum("bthk,dhk->bthd", z, by_head))
        out: Tensor = self.c_proj(z.flatten(2))  # (B, T, H, K) -> (B, T, D)
        return out


class MLP(nn.Module):
    """Two layers with GPT-2's tanh form of GELU between them, four times the width inside."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # (B, T, D) -> (B, T, 4D) -> (B, T, D)
        return out


class Block(nn.Module):
    """One layer: it reads the residual stream twice and adds to it twice."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: Past | None = None, sites: Sites | None = None) -> Tensor:
        """The stream `(B, T, D)` entering the block -> the stream leaving it; `sites` is where steering enters."""
        if sites is not None:
            x = sites.at(("pre", self.layer), x)
        x = x + self.attn(self.ln_1(x), cache, sites)
        if sites is not None:
            x = sites.at(("mid", self.layer), x)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """GPT-2. Its weights start at random and mean nothing: load a checkpoint over them, or call `initialize` to train."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)  # also the unembedding: GPT-2 ties the two
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token ids `(B, T)` -> the stream that enters block 0, `(B, T, D)`; positions `(B, T)`, by default 0 to T-1."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        x: Tensor = self.wte(ids) + self.wpe(positions)  # (B, T) -> (B, T, D)
        return x

    def unembed(self, x: Tensor) -> Tensor:
        """The stream that leaves the last block, `(..., D)` -> logits of the next token, `(..., V)`."""
        return self.wte.scores(self.ln_f(x))

    def forward(
        self,
        ids: Tensor,
        adds: Mapping[Site, Add] | None = None,
        tape: Tape | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `ids` `(B, T)`.

        adds: `{site: what to add there}`: a tensor `(D,)`, `(B, 1, D)` or `(B, T, D)` (B may be 1), or a function that
            takes the stream at the site, `(B, T, D)`, and returns such a tensor; it is brought to the stream's dtype and device.
        tape: filled with the stream at each site, `(B, T, D)`, after its add. An empty dict records every residual site;
            a dict with sites as keys records those; in a list of sites each is replaced by its stream.
            `("head", i)` asks for the heads' own writes, `(B, T, H, D)`, without the projection's bias.
        cache: a `Cache`; `ids` are then the tokens that follow what it holds, and it holds them too afterwards. Gradients
            reach this call's tokens, not those held.

        Raises `ValueError` for ids outside the vocabulary, more positions than the context, an unknown site, an add of
        the wrong shape or with a value that is not finite. Nothing of a call stays behind in the model.
        """
        return self.unembed(self.stream(ids, adds, tape, cache))

    def stream(
        self,
        ids: Tensor,
        adds: Mapping[Site, Add] | None = None,
        tape: Tape | None = None,
        cache: Cache | None = None,
        depth: int | None = None,
    ) -> Tensor:
        """As `forward`, without the unembedding: the stream at `("pre", depth)`, `(B, T, D)`, by default the last one.

        The blocks from `depth` on are not run; a cache has to be one of that depth.
        """
        depth = self.config.n_layer if depth is None else depth
        if not isinstance(depth, Integral) or not 0 <= depth <= self.config.n_layer:
            raise ValueError(f"expected a depth, a whole number from 0 to {self.config.n_layer}, got {depth!r}")
        self._check_ids(ids)
        plain = adds is None and tape is None
        sites = None if plain else Sites(self, ids, adds, tape, depth)
        if cache is not None:
            positions = cache.reserve(self, ids, depth)  # (B, T)
        elif ids.shape[1] > self.config.n_positions:
            raise ValueError(
                f"expected at most {self.config.n_positions} tokens, the model's context, got {ids.shape[1]}; cut the text"
            )
        else:
            positions = None
        x = self.embed(ids, positions)  # (B, T) -> (B, T, D)
        for block in self.blocks[:depth]:
            x = block(x, cache, sites)
        if sites is not None:
            x = sites.at(("pre", depth), x)
        if cache is not None:
            cache.lengths = cache.lengths + ids.shape[1]
        return x

    def initialize(self, generator: torch.Generator) -> None:
        """Fill the weights as for training from nothing: normal(0, 0.02), the writes into the stream divided by
        sqrt(2 n_layer), biases 0 (Radford et al. 2019, section 2.3; the standard deviation is that of OpenAI's code)."""
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            else:
                shrink = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / shrink, generator=generator)

    def _check_ids(self, ids: Tensor) -> None:
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(
                f"expected ids as a tensor of shape (B, T) and a whole-number dtype, got {got}; "
                "for one text write torch.tensor([ids])"
            )
        if ids.numel() == 0:
            raise ValueError(f"expected at least one token in each row, got ids of shape {tuple(ids.shape)}")
        if ids.device != (home := self.wte.weight.device):
            raise ValueError(f'expected ids on the model\'s device {home}, got {ids.device}; write ids.to("{home}")')
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"expected ids from 0 to {self.config.vocab_size - 1}, got {low if low < 0 else high}; "
                "encode the text with this model's own tokenizer"
            )


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids, padded on the right: ids `(B, T)`, with 0 for padding, and positions `(B, T)`, with -1 for it."""
    if isinstance(rows, str) or not all(hasattr(row, "__len__") and not isinstance(row, str) for row in rows):
        raise ValueError(
            "expected rows of ids, a list of lists, got one row, or texts; write [[tok.eot, *tok.encode(text)], ...]"
        )
    lengths = torch.tensor([len(row) for row in rows])
    if not len(rows) or not bool(lengths.all()):
        raise ValueError(f"expected one row or more, each with one id or more, got rows of {lengths.tolist()} ids")
    longest = int(lengths.max())
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    steps = torch.arange(longest)
    return ids, torch.where(steps < lengths[:, None], steps, -1)


class Cache:
    """Keys and values of the tokens a model has seen, one row a text: slot p of a row is that row's position p.

    `lengths` `(B,)` says how many tokens each row holds, and the next ones follow there. `keep(lengths)` forgets all behind:
    call it after prompts padded on the right, with their true lengths, or to return to a shared prefix, with its length.
    `depth` blocks are held, by default all.
    """

    def __init__(self, model: GPT2, rows: int, capacity: int, depth: int | None = None) -> None:
        c, w = model.config, model.wte.weight
        if not 1 <= capacity <= c.n_positions:
            raise ValueError(
                f"expected a cache for 1 to {c.n_positions} positions, the model's context, got {capacity}; shorten the text"
            )
        if rows < 1:
            raise ValueError(f"expected a cache for one row or more, got {rows}")
        self.config, self.capacity, self.depth = c, capacity, c.n_layer if depth is None else depth
        if not 0 <= self.depth <= c.n_layer:
            raise ValueError(f"expected a cache of 0 to {c.n_layer} blocks, the model's, got {depth}")
        shape = (self.depth, rows, capacity, c.n_head, c.n_embd // c.n_head)
        self.k, self.v = w.new_zeros(shape), w.new_zeros(shape)  # (L, B, S, H, K)
        self.lengths = torch.zeros(rows, dtype=torch.int64)  # on the CPU: it decides shapes
        self._rows = torch.arange(rows, device=w.device)[:, None]  # (B, 1)
        self._slots: tuple[Any, Any] = (slice(None), slice(0))  # where this call's tokens go, an index of (B, S)
        self._end = 0  # S of this call
        self._mask: Tensor | None = None  # (B, 1, T, S), true where a token may look

    def keep(self, lengths: Tensor) -> None:
        """Hold only the first `lengths` `(B,)` tokens of each row, and forget the rest."""
        new = torch.as_tensor(lengths, device="cpu")
        if new.shape != self.lengths.shape or new.is_floating_point() or bool(((new < 0) | (new > self.lengths)).any()):
            raise ValueError(
                f"expected a length for each row, from 0 to what it holds, {self.lengths.tolist()}, got {new.tolist()}"
            )
        for row, (start, end) in enumerate(zip(new.tolist(), self.lengths.tolist())):
            # a masked slot counts 0 times its value, which is NaN for an infinity
            self.k[:, row, start:end] = self.v[:, row, start:end] = 0
        self.lengths = new.to(torch.int64, copy=True)

    def reserve(self, model: GPT2, ids: Tensor, depth: int) -> Tensor:
        """Positions `(B, T)` for the tokens `ids` `(B, T)` that come next; the model calls this before its `depth` blocks."""
        w = model.wte.weight
        if (model.config, w.dtype, w.device) != (self.config, self.k.dtype, self.k.device):
            raise ValueError(
                f"expected a cache made for this model, {model.config} in {w.dtype} on {w.device}, "
                f"got one for {self.config} in {self.k.dtype} on {self.k.device}; make a new Cache"
            )
        if depth != self.depth:
            raise ValueError(
                f"expected a cache of the {depth} blocks that are run, got one of {self.depth}; make a Cache of that depth"
            )
        if ids.shape[0] != len(self.lengths):
            raise ValueError(f"expected {len(self.lengths)} rows, as the cache was made for, got {ids.shape[0]}")
        longest = int(self.lengths.max())
        end = longest + ids.shape[1]
        if end > self.capacity:
            raise ValueError(
                f"expected at most {self.capacity} positions, the cache's capacity, got {end}; make a larger Cache"
            )
        steps = torch.arange(ids.shape[1])
        positions = (self.lengths[:, None] + steps).to(ids.device)  # (B, 1) + (T,) -> (B, T)
        even = bool((self.lengths == longest).all())  # then a copy is enough, and a lone token sees all: no mask
        self._slots = (slice(None), slice(longest, end)) if even else (self._rows, positions)
        self._end, self._mask = end, None
        if longest and not (even and len(steps) == 1):
            self._mask = self._seen(positions, end)
        return positions

    def place(self, positions: Tensor) -> None:
        """As `reserve`, for tokens at positions `(B, T)` that lie on the model's device: of shapes that do not depend on them,
        as all slots are handed out, with a mask. `lengths` stays as it is."""
        self._slots, self._end = (self._rows, positions), self.capacity
        self._mask = self._seen(positions, self.capacity)

    @staticmethod
    def _seen(positions: Tensor, end: int) -> Tensor:
        slots = torch.arange(end, device=positions.device)
        return (slots <= positions[:, :, None])[:, None]  # (B, 1, T, S)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store this call's `(B, T, H, K)` keys and values; return all `(B, S, H, K)` and the mask, if there need be one."""
        self.k[layer][self._slots] = k.detach()
        self.v[layer][self._slots] = v.detach()
        if self._end == k.shape[1]:  # nothing came before
            return k, v, None
        all_k, all_v = self.k[layer, :, : self._end], self.v[layer, :, : self._end]  # (B, S, H, K)
        if k.requires_grad:
            all_k, all_v = all_k.clone(), all_v.clone()
            all_k[self._slots], all_v[self._slots] = k, v
        return all_k, all_v, self._mask


class Sites:
    """What one call adds and records, checked before anything is computed. Made by the model, gone after the call."""

    def __init__(
        self,
        model: GPT2,
        ids: Tensor,
        adds: Mapping[Site, Add] | None = None,
        tape: Tape | None = None,
        depth: int | None = None,
    ) -> None:
        if not isinstance(adds, Mapping | None):
            raise ValueError(
                f"expected adds as a dictionary {{site: what to add}}, got {type(adds).__name__}; "
                "of a SteeringVector it is its .tensors"
            )
        if not isinstance(tape, dict | list | None):
            raise ValueError(
                f"expected a tape that can be filled, a dictionary or a list of sites, got {type(tape).__name__}"
            )
        self.n_layer = model.config.n_layer
        self.depth = self.n_layer if depth is None else depth
        self.adds = dict(adds or {})
        self.tape = tape
        recorded = list(tape) if tape else []
        for site in self.adds:
            self._check_site(site, heads=False)
        for site in recorded:
            self._check_site(site, heads=True)
        for site, add in self.adds.items():
            if not callable(add):
                self._check_add(site, add, (*ids.shape, model.config.n_embd), model.wte.weight.dtype)
        if isinstance(tape, dict) and not tape:
            recorded = [(name, i) for i in range(self.depth) for name in ("pre", "mid")] + [("pre", self.depth)]
        # in a list, the entries a site will fill are settled before the first is overwritten
        self._wanted = {site: [j for j, other in enumerate(recorded) if other == site] for site in recorded}

    def at(self, site: Site, x: Tensor) -> Tensor:
        """The stream `(B, T, D)` at a site -> the stream after what is added there; recorded if asked for."""
        if site in self.adds:
            add = self.adds[site]
            if callable(add):
                add = add(x)
                self._check_add(site, add, tuple(x.shape), x.dtype)
            x = x + add.to(x)
        if self.records(site):
            self.record(site, x)
        return x

    def records(self, site: Site) -> bool:
        return site in self._wanted

    def record(self, site: Site, value: Tensor) -> None:
        if isinstance(self.tape, list):
            for j in self._wanted[site]:
                self.tape[j] = value
        elif self.tape is not None:
            self.tape[site] = value

    def _check_site(self, site: Any, heads: bool) -> None:
        n = self.depth
        names = ("pre", "mid", "head") if heads else ("pre", "mid")
        known = (
            isinstance(site, tuple)
            and len(site) == 2
            and site[0] in names
            and isinstance(site[1], Integral)
            and site[1] in range(n + (site[0] == "pre"))
        )
        if not known:
            got = "a tensor: a list of sites serves one call" if isinstance(site, Tensor) else repr(site)
            extra = f', or ("head", i) with i from 0 to {n - 1}' if heads else ""
            raise ValueError(
                f'expected a site ("pre", i) with i from 0 to {n} or ("mid", i) with i from 0 to {n - 1}{extra}, '
                f"got {got}; this call runs {n} of the model's {self.n_layer} layers"
            )

    def _check_add(self, site: Site, add: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        rows, tokens, width = shape
        if not isinstance(add, Tensor):
            raise ValueError(
                f"expected a tensor or a function that returns one to add at {site}, got {type(add).__name__}"
            )
        fits = tuple(add.shape) == (width,) or (
            add.ndim == 3 and add.shape[0] in (1, rows) and add.shape[1] in (1, tokens) and add.shape[2] == width
        )
        if not fits:
            raise ValueError(
                f"expected a tensor ({width},), ({rows}, 1, {width}) or ({rows}, {tokens}, {width}) to add at {site}, "
                f"got {tuple(add.shape)}; was the vector read from this model?"
            )
        if not bool(torch.isfinite(add.to(dtype)).all()):
            raise ValueError(
                f"expected finite values to add at {site}, got NaN or infinity in {dtype}; check how the vector was made"
            )
