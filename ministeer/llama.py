"""The Llama family (SmolLM2, Llama 2 and 3, Qwen2) as the hub's checkpoints have it, on the same residual stream as GPT-2.

Only what differs from `model.py` is here: norms without mean and bias, positions that turn queries and keys
instead of being added to the stream, keys and values shared by groups of heads, and a gated MLP. The two lines that add to the
stream, and the sites before them, are `Block`'s, the same as GPT-2's. By hand:

    x = model.embed(ids)                       # (B, T) -> (B, T, D)
    for i, block in enumerate(model.blocks):
        if i == 12:
            x = x + 5.0 * v                    # this line is steering
        x = block(x)                           # (B, T, D) -> (B, T, D)
    logits = model.unembed(x)                  # (B, T, D) -> (B, T, V)

Letters: B rows, T tokens in this call, D width, H heads, G heads of keys and values, each shared by H / G heads, K head size,
I width inside the MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from ministeer.model import Block, Linear, Past, Sites, Transformer, activated, check_sizes, expect, look_back


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch the slow turns for a longer context (the hub's rope_type "llama3").

    Wavelengths, in tokens, above original_context / low are stretched by `factor`, those below original_context / high are
    left as they are, and those between in proportion.
    """

    factor: float
    low: float
    high: float
    original_context: int


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama; the defaults are SmolLM2-135M's."""

    vocab_size: int = 49152
    context: int = 8192
    width: int = 576
    inner: int = 1536
    n_layer: int = 30
    n_head: int = 9
    n_kv_head: int = 3
    head_size: int = 64
    rms_norm_epsilon: float = 1e-5
    rope_base: float = 100000.0
    rope_scaling: Llama3Scaling | None = None
    qkv_bias: bool = False  # Qwen2's queries, keys and values have one
    o_bias: bool = False
    mlp_bias: bool = False
    tied: bool = True  # the unembedding is the embedding

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context", "width", "inner", "n_layer", "n_head", "n_kv_head", "head_size")
        check_sizes(self, *sizes)
        got = f"n_kv_head={self.n_kv_head} for n_head={self.n_head}"
        expect(self.n_head % self.n_kv_head == 0, "heads of keys that divide the heads", got, "change one")
        expect(self.head_size % 2 == 0, "an even head_size, whose halves turn together", self.head_size)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept serves calls that need gradients too
def turns(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of the angle by which each position turns each entry of a head, two `(context, 1, K)`.

    Entries j and j + K / 2 are a point of a plane, which turns by base^(-2j / K) radians per token (Su et al. 2021, equation 15).
    Computed in float32, and kept for later calls.
    """
    speed = 1 / config.rope_base ** (torch.arange(0, config.head_size, 2).float() / config.head_size)  # (K / 2,)
    if config.rope_scaling is not None:
        s = config.rope_scaling
        rounds = s.original_context * speed / (2 * math.pi)  # in the context it was trained on
        kept = ((rounds - s.low) / (s.high - s.low)).clamp(0, 1)  # 1: as it is, 0: stretched
        speed = (1 - kept) * speed / s.factor + kept * speed
    angles = torch.arange(config.context, dtype=torch.float32)[:, None, None] * speed  # (context, 1, K / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).to(device, dtype), torch.cat([-sin, sin], -1).to(device, dtype)


class LlamaAttention(nn.Module):
    """Causal self-attention with rotary positions. The normed stream comes in; what the heads write into the stream goes out."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        c = self.config = config
        self.layer, self.scale = layer, 1 / math.sqrt(c.head_size)
        self.q = Linear(c.width, c.n_head * c.head_size, c.qkv_bias)
        self.k = Linear(c.width, c.n_kv_head * c.head_size, c.qkv_bias)
        self.v = Linear(c.width, c.n_kv_head * c.head_size, c.qkv_bias)
        self.o = Linear(c.n_head * c.head_size, c.width, c.o_bias)

    def forward(self, x: Tensor, past: Past | None = None, sites: Sites | None = None) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.config.head_size) for f in (self.q, self.k, self.v))
        at = slice(x.shape[1]) if past is None else past.positions(self.layer, x.shape[1])
        cos, sin = (table[at] for table in turns(self.config, q.dtype, x.device))  # (T, 1, K) or (B, T, 1, K)
        qk = torch.cat([q, k], 2)  # (B, T, H, K), (B, T, G, K) -> (B, T, H + G, K)
        qk = qk * cos + qk.roll(self.config.head_size // 2, -1) * sin  # turned by their positions
        q, k = qk[:, :, : q.shape[2]], qk[:, :, q.shape[2] :]
        z = look_back(q, k, v, self.layer, past, self.scale)  # (B, T, H, K)
        if sites is not None:
            sites.record_heads(self.layer, z, self.o)
        return self.o(z.flatten(2))  # (B, T, H, K) -> (B, T, D)


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020): one product opens or shuts the other, entry by entry."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.inner, config.mlp_bias)
        self.up = Linear(config.width, config.inner, config.mlp_bias)
        self.down = Linear(config.inner, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(activated(self.gate, x, "silu") * self.up(x))  # (B, T, D) -> (B, T, I) -> (B, T, D)


class Llama(Transformer):
    """A Llama: the embedding alone enters the stream; positions are attention's business."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        norm = partial(nn.RMSNorm, config.width, config.rms_norm_epsilon)
        layers = ((norm(), LlamaAttention(config, i), norm(), GatedMLP(config)) for i in range(config.n_layer))
        self.blocks = nn.ModuleList(Block(i, *parts) for i, parts in enumerate(layers))
        self.ln_f = norm()
