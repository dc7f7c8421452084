"""GPT-2 in one file, in reading order. The forward pass is plain enough to write by hand, and steering is a `+` in it:

    x = model.embed(ids)                       # (B, T) -> (B, T, D)
    for i, block in enumerate(model.blocks):
        if i == 6:
            x = x + 5.0 * v                    # this line is steering
        x = block(x)                           # (B, T, D) -> (B, T, D)
    logits = model.unembed(x)                  # (B, T, D) -> (B, T, V)

`model(ids, adds={("pre", 6): 5.0 * v})` is the same, to the bit (it brings v to the model's dtype and device).

Sites, the one convention of the project: `("pre", i)` is the residual stream that enters block i, `("mid", i)` the one
between its attention and its MLP, `("pre", n_layer)` the one that leaves the last block, before the final norm.
`("head", i)`, what each head of block i writes into the stream, can be recorded, not added to.

Batches are padded on the right: attention is causal, so no token sees padding, and a row's position p is its p-th token.
Letters: B rows, T tokens in this call, S slots of a cache, D width, H heads, G heads of keys and values (in GPT-2, H),
K head size, V vocabulary. This file imports only torch and the standard library: copy it into your project as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from numbers import Integral  # numpy's too
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Site = tuple[Literal["pre", "mid", "head"], int]
Add = Tensor | Callable[[Tensor], Tensor]
Adds = Mapping[Site, Add]
Tape = dict[Site, Tensor] | list[Any]
Past = Any  # a `Cache`, or what stands for one: it has `positions` and `extend`


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2, named as in the hub's `config.json`; the defaults are GPT-2 XL's."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 1600
    n_layer: int = 48
    n_head: int = 25
    layer_norm_epsilon: float = 1e-5
    n_inner: int | None = None  # width inside the MLP; None: four times n_embd
    activation: str = "gelu_new"
    scale_attn_weights: bool = True  # by 1 / sqrt(K)
    scale_attn_by_inverse_layer_idx: bool = False  # by 1 / (i + 1) too
    reorder_and_upcast_attn: bool = False  # attention in float32, whatever the model's dtype
    tied: bool = True  # the unembedding is the embedding

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "inner")
        expect(self.n_embd % self.n_head == 0, f"n_embd to be a multiple of n_head={self.n_head}", self.n_embd)
        expect(self.activation in ACTIVATIONS, f"activation to be one of {[*ACTIVATIONS]}", repr(self.activation))

    # what every architecture's config answers, beside vocab_size, n_layer, n_head and tied
    width = property(lambda self: self.n_embd)
    context = property(lambda self: self.n_positions)
    n_kv_head = property(lambda self: self.n_head)
    head_size = property(lambda self: self.n_embd // self.n_head)
    inner = property(lambda self: 4 * self.n_embd if self.n_inner is None else self.n_inner)


class Attention(nn.Module):
    """Causal self-attention. The normed stream comes in, what the heads write into the stream goes out."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.upcast = layer, config.n_head, config.reorder_and_upcast_attn
        self.scale = 1 / math.sqrt(config.head_size) if config.scale_attn_weights else 1.0
        self.scale /= layer + 1 if config.scale_attn_by_inverse_layer_idx else 1
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values side by side
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, past: Past | None = None, sites: Sites | None = None) -> Tensor:
        qkv = self.c_attn(x).view(*x.shape[:2], 3, self.n_head, -1)  # (B, T, D) -> (B, T, 3, H, K)
        q, k, v = qkv.unbind(2)  # 3 x (B, T, H, K)
        q = q.float() if self.upcast else q
        z = look_back(q, k, v, self.layer, past, self.scale).to(x.dtype)  # (B, T, H, K)
        if sites is not None:
            sites.record_heads(self.layer, z, self.c_proj)
        return self.c_proj(z.flatten(2))  # (B, T, H, K) -> (B, T, D)


class MLP(nn.Module):
    """Two layers with an activation between them, usually the tanh form of GELU and four times the width."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.activation = config.activation
        self.c_fc = Linear(config.n_embd, config.inner)
        self.c_proj = Linear(config.inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(activated(self.c_fc, x, self.activation))  # (B, T, D) -> (B, T, 4D) -> (B, T, D)


class Block(nn.Module):
    """One layer: it reads the residual stream `(B, T, D)` twice and adds to it twice. Steering enters at `sites`."""

    def __init__(self, layer: int, ln_1: nn.Module, attn: nn.Module, ln_2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.layer, self.ln_1, self.attn, self.ln_2, self.mlp = layer, ln_1, attn, ln_2, mlp

    def forward(self, x: Tensor, past: Past | None = None, sites: Sites | None = None) -> Tensor:
        """The stream at `("pre", layer)` -> at `("pre", layer + 1)`."""
        return self.feed_forward(self.attend(x, past, sites), sites)

    def attend(self, x: Tensor, past: Past | None = None, sites: Sites | None = None) -> Tensor:
        """The stream at `("pre", layer)` -> at `("mid", layer)`."""
        if sites is not None:
            x = sites.at(("pre", self.layer), x)
        x = x + self.attn(self.ln_1(x), past, sites)
        return x

    def feed_forward(self, x: Tensor, sites: Sites | None = None) -> Tensor:
        """The stream at `("mid", layer)` -> at `("pre", layer + 1)`."""
        if sites is not None:
            x = sites.at(("mid", self.layer), x)
        x = x + self.mlp(self.ln_2(x))
        return x


class Transformer(nn.Module):
    """What every architecture is: an embedding, blocks on the stream, a norm, an unembedding. It starts at random."""

    blocks: nn.ModuleList
    ln_f: nn.Module

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.width)
        self.lm_head = None if config.tied else Embedding(config.vocab_size, config.width)

    head = property(lambda self: self.wte if self.lm_head is None else self.lm_head)  # what unembeds
    dtype = property(lambda self: self.wte.weight.dtype)
    device = property(lambda self: self.wte.weight.device)

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Ids `(B, T)` -> the stream that enters block 0, `(B, T, D)`; positions `(B, T)` are by default 0 to T-1."""
        return self.wte(ids)  # (B, T) -> (B, T, D)

    def unembed(self, x: Tensor) -> Tensor:
        """The stream that leaves the last block, `(..., D)` -> logits of the next token, `(..., V)`."""
        return self.head.scores(self.ln_f(x))

    def forward(
        self, ids: Tensor, adds: Adds | None = None, tape: Tape | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `ids` `(B, T)`.

        adds: `{site: what to add there}`: a tensor `(D,)`, `(B, 1, D)` or `(B, T, D)` (B may be 1), or a function from
            the stream at the site, `(B, T, D)`, to such a tensor. It is brought to the stream's dtype and device.
        tape: filled at the end with the stream at sites, `(B, T, D)`, after their adds: all sites for an empty dict, else
            a dict's keys or a list's sites. `("head", i)` asks for the heads' own writes, `(B, T, H, D)`.
        cache: holds the tokens before `ids`, and these too afterwards. Gradients reach only this call's tokens.

        Raises `ValueError` for ids outside the vocabulary, more positions than the context, an unknown site, an add of
        another shape or with a value that is not finite. Nothing of a call stays in the model.
        """
        return self.unembed(self.stream(ids, adds, tape, cache))

    if TYPE_CHECKING:  # nn.Module's own takes and returns Any
        __call__ = forward

    def generate(self, *given: object, **settings: object) -> NoReturn:
        raise refusal("ministeer.generate(model, ids, max_new_tokens=20)", "model.generate", "or say(model, tok, text)")

    def stream(
        self, ids: Tensor, adds: Adds | None = None, tape: Tape | None = None, cache: Cache | None = None,
        depth: int | None = None,
    ) -> Tensor:  # fmt: skip
        """As `forward`, without the unembedding: the stream `(B, T, D)` at `("pre", depth)`, by default the last one.
        The blocks from `depth` on are not run; a cache has to be one of that depth."""
        depth = self.config.n_layer if depth is None else depth
        check_call(self, ids, cache, depth)
        sites = None if adds is None and tape is None else Sites(self, ids, adds, tape, depth)
        positions = None if cache is None else cache.reserve(self, ids, depth)  # (B, T)
        x = self.embed(ids, positions)  # (B, T) -> (B, T, D)
        for block in islice(self.blocks, depth):
            x = block(x, cache, sites)
        if sites is not None:
            x = sites.at(("pre", depth), x)
            sites.fill(tape)
        if cache is not None:
            cache.lengths = cache.lengths + ids.shape[1]
        return x


class GPT2(Transformer):
    """GPT-2: learned positions, layer norms, one GELU layer in each MLP."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        norm = partial(nn.LayerNorm, config.n_embd, config.layer_norm_epsilon)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        layers = ((norm(), Attention(config, i), norm(), MLP(config)) for i in range(config.n_layer))
        self.blocks = nn.ModuleList(Block(i, *parts) for i, parts in enumerate(layers))
        self.ln_f = norm()

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        return self.wte(ids) + self.wpe(positions)  # (B, T) -> (B, T, D)


# ---- what the model is made of
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
ACTIVATIONS |= dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), partial(F.gelu, approximate="tanh"))


def look_back(q: Tensor, k: Tensor, v: Tensor, layer: int, past: Past | None, scale: float) -> Tensor:
    """Causal attention: queries `(B, T, H, K)`, keys and values `(B, T, G, K)` -> what heads find, `(B, T, H, K)`."""
    k, v, mask = (k, v, None) if past is None else past.extend(layer, k, v)  # (B, T, G, K) -> (B, S, G, K)
    q, k, v = (x.transpose(1, 2).to(q.dtype) for x in (q, k, v))  # (B, T, H, K) -> (B, H, T, K)
    causal, groups = mask is None and q.shape[2] > 1, q.shape[1] != k.shape[1]  # a lone token sees all there is
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and len(q) >= 4 and q.shape[2] * k.shape[2] <= 2**13:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() if causal else mask
        return short(q, k, v, mask, scale)
    z = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=groups)
    return z.transpose(1, 2)


def short(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same for many short texts in bfloat16 on a CPU, two to four times as fast as torch's, which reorders each head first."""
    (b, h, t, n), (g, s) = q.shape, k.shape[1:3]
    q = q.reshape(b * g, -1, n)  # heads that share keys are rows of one product
    k, v = (x.reshape(b * g, s, n) for x in (k, v))
    rounded = q @ k.mT
    scores = (rounded.float() + torch.baddbmm(rounded, q, k.mT, beta=-1)) * scale  # with what rounding took
    if mask is not None:  # not by infinity: padding, which sees nothing, is no NaN
        scores = scores.view(b, h, t, s).masked_fill(~mask, torch.finfo(scores.dtype).min).view(scores.shape)
    return (scores.softmax(-1).to(v.dtype) @ v).view(b, h, t, n).transpose(1, 2)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`(..., in)` -> `(..., out)`: W x + b as `F.linear` has it, by a quicker way for a few tokens in float32 on a CPU.
    There torch multiplies a vector on one core; as a batch of P small products it uses all."""
    (out, n), rows = weight.shape, weight.is_contiguous()  # else perhaps columns, as GPT-2's checkpoints hold it
    few = 0 < x.numel() <= 8 * n and x.dtype == torch.float32 and x.device.type == "cpu"
    if not few or not (rows or weight.mT.is_contiguous()):
        return F.linear(x, weight, bias)
    size, most = (out, 32) if rows else (n, 4)  # these, and 8 tokens, were the quickest
    p = next(p for p in range(most, 0, -1) if size % p == 0)
    flat = x.reshape(-1, n)  # (N, in)
    if rows:  # (P, N, in) @ (P, in, out / P) -> (N, P, out / P)
        y = torch.bmm(flat.expand(p, *flat.shape), weight.view(p, -1, n).mT).transpose(0, 1)
    else:  # (P, N, in / P) @ (P, in / P, out) -> (N, out)
        y = torch.bmm(flat.view(len(flat), p, -1).transpose(0, 1), weight.mT.view(p, -1, out)).sum(0)
    y = y.reshape(*x.shape[:-1], out)
    return y if bias is None else y + bias.to(y.dtype)  # which autocast may have changed


def hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks)


def activated(linear: nn.Module, x: Tensor, name: str) -> Tensor:
    """An activation applied to a matrix's product, in one step where the matrix's form allows it (`pack`)."""
    if getattr(type(linear), "fuses", False) and not hooked(linear):
        return linear(x, name)
    return ACTIVATIONS[name](linear(x))


class Linear(nn.Linear):
    """W x + b, the weight `(out, in)`."""

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.weight, self.bias)  # (..., in) -> (..., out)


class Embedding(nn.Embedding):
    """A vector `(D,)` for each id."""

    def reset_parameters(self) -> None:  # on the meta device torch's own, a normal one, imports a compiler for a second
        nn.init.uniform_(self.weight, -0.02, 0.02)

    def scores(self, x: Tensor) -> Tensor:
        """`(..., D)` -> `(..., V)`: the product with the vector of every id."""
        return multiply(x, self.weight)


# ---- the tokens before
class Cache:
    """Keys and values of the tokens a model has seen, one row per text: slot p of a row is that row's position p.

    Row by row, the next tokens follow what it holds, `lengths` `(B,)`. Call `keep(lengths)` after prompts padded on the
    right, with their true lengths, or to return to a shared prefix."""

    def __init__(self, model: Transformer, rows: int, capacity: int, depth: int | None = None) -> None:
        self.model, c = ref(model), model.config  # a cache keeps no model in memory
        self.capacity, self.depth = capacity, c.n_layer if depth is None else depth
        fits = isinstance(capacity, Integral) and 1 <= int(capacity) <= c.context
        expect(fits, f"a cache for 1 to {c.context} positions, the model's context", capacity, "shorten the text")
        expect(isinstance(rows, Integral) and int(rows) >= 1, "a cache for one row or more", rows)
        expect(0 <= self.depth <= c.n_layer, f"a cache of 0 to {c.n_layer} blocks, the model's", depth)
        shape = (self.depth, rows, capacity, c.n_kv_head, c.head_size)
        self.k, self.v = model.wte.weight.new_zeros(shape), model.wte.weight.new_zeros(shape)  # (L, B, S, G, K)
        self.lengths = torch.zeros(rows, dtype=torch.int64)  # on the CPU: it decides shapes

    def keep(self, lengths: Tensor) -> None:
        """Hold only the first `lengths` `(B,)` tokens of each row, and forget the rest."""
        new, held = torch.as_tensor(lengths, device="cpu"), self.lengths
        fine = new.shape == held.shape and not new.is_floating_point() and bool(((new >= 0) & (new <= held)).all())
        expect(fine, f"a length for each row, from 0 to what it holds, {held.tolist()}", new.tolist())
        for row, (start, end) in enumerate(zip(new.tolist(), held.tolist())):
            self.k[:, row, start:end] = self.v[:, row, start:end] = 0  # a mask is not enough: 0 times infinity is NaN
        self.lengths = new.to(torch.int64, copy=True)

    def reserve(self, model: Transformer, ids: Tensor, depth: int) -> Tensor:
        """Positions `(B, T)` for `ids` `(B, T)`, which come next; the model calls this before its `depth` blocks."""
        expect(self.model() is model, "a cache made for this model", "another's", "make a new Cache")
        wanted = f"rows={len(ids)} and depth={depth} in {model.dtype} on {model.device}"
        made = f"rows={len(self.lengths)} and depth={self.depth} in {self.k.dtype} on {self.k.device}"
        expect(made == wanted, f"a cache of {wanted}", f"one of {made}", "make a new Cache")
        longest = int(self.lengths.max())
        end = longest + ids.shape[1]
        expect(end <= self.capacity, f"at most {self.capacity} positions, its capacity", end, "make a larger Cache")
        positions = (self.lengths[:, None] + torch.arange(ids.shape[1])).to(ids.device)  # (B, 1) + (T,) -> (B, T)
        even = bool((self.lengths == longest).all())  # then a copy is enough, and a lone token sees all
        masked = longest > 0 and not (even and ids.shape[1] == 1)
        self.place(positions, slice(longest, end) if even else None, end, masked)
        return positions

    def place(self, positions: Tensor, at: slice | None = None, end: int | None = None, masked: bool = True) -> None:
        """The next call's tokens have positions `(B, T)`. at: their slots, where rows are equally long, else each row has
        its own. end: where the last slot ends that they look at; None: all slots, so that no shape depends on positions."""
        count = partial(torch.arange, device=positions.device)
        self._end = end or self.capacity
        self._slots = (count(len(positions))[:, None], positions) if at is None else (slice(None), at)
        self._mask = (count(self._end) <= positions[:, :, None])[:, None] if masked else None  # (B, 1, T, S)

    def positions(self, layer: int, tokens: int) -> slice | Tensor:
        """Where this call's tokens stand, a slice or `(B, T)`; rotary attention asks before `extend`."""
        return self._slots[1]  # slot p is position p

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """This call's `(B, T, G, K)` -> all `(B, S, G, K)`, and a mask `(B, 1, T, S)` where causal order is not enough."""
        self.k[layer][self._slots], self.v[layer][self._slots] = k.detach(), v.detach()
        if self._end == k.shape[1]:  # the cache was empty
            return k, v, None
        all_k, all_v = self.k[layer, :, : self._end], self.v[layer, :, : self._end]  # (B, S, G, K)
        if k.requires_grad or v.requires_grad:
            all_k, all_v = all_k.clone(), all_v.clone()
            all_k[self._slots], all_v[self._slots] = k, v
        return all_k, all_v, self._mask


# ---- the sites of a call
class Sites:
    """What one call adds and records, checked before anything is computed. Made by the model, gone after the call."""

    def __init__(self, model: Transformer, ids: Tensor, adds: Adds | None, tape: Tape | None, depth: int) -> None:
        remedy, got = "of a SteeringVector give its .tensors", [type(given).__name__ for given in (adds, tape)]
        expect(isinstance(adds, Mapping | None), "adds as a dictionary", got[0], remedy)
        expect(isinstance(tape, dict | list | None), "a tape that can be filled, a dict or a list of sites", got[1])
        wanted: list[Any] = list(tape or ())
        if tape == {}:
            wanted = [(name, i) for i in range(depth) for name in ("pre", "mid")] + [("pre", depth)]
        for site in wanted:
            check_site(site, depth, ("pre", "mid", "head"))
        self.adds, self.recorded = dict(adds or {}), dict[Site, Any].fromkeys(wanted)
        for site, add in self.adds.items():
            check_site(site, depth)
            if not callable(add):
                check_add(site, add, (*ids.shape, model.config.width), model.dtype)

    def at(self, site: Site, x: Tensor) -> Tensor:
        """The stream `(B, T, D)` at a site -> the stream after what is added there; recorded if asked for."""
        if site in self.adds:
            add = self.adds[site]
            if callable(add):
                add = call(add, x)
                check_add(site, add, tuple(x.shape), x.dtype)
            x = x + add.to(x)  # steering
        if site in self.recorded:
            self.recorded[site] = x
        return x

    def record_heads(self, layer: int, z: Tensor, out: Any) -> None:
        """What each head writes, `(B, T, H, D)`, if asked for: what it found, `(B, T, H, K)`, through its part of `out`."""
        if ("head", layer) in self.recorded:
            own = hooked(out) or "forward" in vars(out) or {n for n, _ in out.named_parameters()} - {"weight", "bias"}
            expect(
                not own, f"a plain matrix after the heads of layer {layer}", "an adapter or a hook on it", "merge it"
            )
            by_head = out.weight.view(-1, *z.shape[2:])  # (D, HK) -> (D, H, K)
            self.recorded["head", layer] = torch.einsum("bthk,dhk->bthd", z, by_head)

    def fill(self, tape: Tape | None) -> None:
        lost = [site for site, x in self.recorded.items() if x is None]
        expect(not lost, f"blocks that record {lost[:1]}, by sites.record_heads", "none that does")
        if isinstance(tape, list):
            tape[:] = [self.recorded[site] for site in tape]
        elif tape is not None:
            tape.update(self.recorded)


# ---- what is refused: what was expected, what came, what to do
def refusal(expected: str, got: object, remedy: str = "") -> ValueError:
    return ValueError(f"expected {expected}, got {got}" + (f"; {remedy}" if remedy else ""))


def expect(fine: bool, expected: str, got: object, remedy: str = "") -> None:
    if not fine:
        raise refusal(expected, got, remedy)


def check_sizes(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        expect(isinstance(value, int) and value >= 1, f"{name} to be a whole number above 0", repr(value))


def check_site(site: Any, depth: int | None = None, names: tuple[str, ...] = ("pre", "mid")) -> None:
    """Raise `ValueError` for what is not a site in a run of `depth` blocks; None: of any number of them."""
    blocks = math.inf if depth is None else depth
    last = {name: blocks if name == "pre" else blocks - 1 for name in names}
    known = isinstance(site, tuple) and len(site) == 2 and site[0] in names and isinstance(site[1], Integral)
    if known and type(site[1]) is not bool and 0 <= site[1] <= last[site[0]]:
        return
    forms = [f'("{name}", i) with i from 0' + (f" to {i}" if i < math.inf else "") for name, i in last.items()]
    runs = "" if depth is None else f"; this call runs {depth} blocks"
    remedy = f'what others call the output of block i is ("pre", i + 1){runs}'
    got = "a tensor: a list of sites serves one call" if isinstance(site, Tensor) else repr(site)
    raise refusal(f"a site of the stream, {' or '.join(forms)}", got, remedy)


def check_add(site: Site, add: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    expect(isinstance(add, Tensor), f"a tensor or a function that returns one to add at {site}", type(add).__name__)
    expect(not add.is_complex(), f"real numbers to add at {site}", add.dtype, "take its .real")
    (rows, tokens, width), form = shape, tuple(add.shape)
    fits = form == (width,) or len(form) == 3 and form[0] in (1, rows) and form[1] in (1, tokens) and form[2] == width
    wanted = f"a tensor ({width},), ({rows}, 1, {width}) or ({rows}, {tokens}, {width}) to add at {site}"
    expect(fits, wanted, form, "was the vector read from this model?")
    finite = bool(torch.isfinite(add.to(dtype)).all())
    expect(finite, f"finite values to add at {site}", f"NaN or infinity in {dtype}", "check how the vector was made")


def call(function: Any, x: Tensor, *more: Tensor) -> Any:
    """What a function makes of the stream; refused if it edits the stream in place, where it should return what to add."""
    given, remedy = x.clone(), "return what to add: -0.5 * x instead of x.mul_(0.5)"
    result = function(given, *more)
    same = torch.allclose(given, x, rtol=0, atol=0, equal_nan=True)
    expect(same, "a function that leaves the stream as it is", "one that changes it in place", remedy)
    return result


def check_call(model: Transformer, ids: Any, cache: Cache | None, depth: Any) -> None:
    c, here, whole = model.config, model.device, isinstance(depth, Integral)
    expect(whole and 0 <= int(depth) <= c.n_layer, f"a depth, a whole number from 0 to {c.n_layer}", repr(depth))
    got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
    fine = isinstance(ids, Tensor) and ids.ndim == 2 and ids.dtype in (torch.int64, torch.int32)
    expect(fine, "whole-number ids in a tensor (B, T)", got, "for one text write torch.tensor([ids])")
    expect(ids.numel() > 0, "at least one token in each row", f"ids of shape {tuple(ids.shape)}")
    expect(ids.device == here, f"ids on the model's device {here}", ids.device, f'write ids.to("{here}")')
    low, high = int(ids.min()), int(ids.max())
    got, remedy = str(low if low < 0 else high), "encode the text with this model's own tokenizer"
    expect(0 <= low <= high < c.vocab_size, f"ids from 0 to {c.vocab_size - 1}", got, remedy)
    plain = model.lm_head is None or not hooked(model.lm_head)
    expect(plain, "a plain unembedding", "a hook that it never calls", "hook model.ln_f, whose output it multiplies")
    fits = cache is not None or ids.shape[1] <= c.context
    expect(fits, f"at most {c.context} tokens, the model's context", ids.shape[1], "cut the text")
    check_blocks(model)


def check_blocks(model: Transformer) -> None:
    layers, n = [getattr(block, "layer", None) for block in model.blocks], model.config.n_layer
    wanted = f"blocks that say layer=0 to {n - 1} in their order, which decides their sites"
    expect(layers == [*range(n)], wanted, layers, "put the blocks you keep into a model of so many layers")


def check_stream(x: Tensor) -> Tensor:
    """The stream as it came; refused with NaN, infinity, or numbers whose squares overflow: a norm turns them into 0."""
    fine = bool(torch.isfinite(x.detach().float().square().sum(-1)).all())
    remedy = f"is a coefficient too large for {x.dtype}?"
    expect(fine, "a stream that is finite, and so is its length", "NaN, infinity or numbers beyond 1e19", remedy)
    return x
