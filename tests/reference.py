"""What the tests hold the models to: transformers' with the same random weights, read and steered through its hooks.

Both architectures, by one table of shapes and variants. Nothing here uses `ministeer.checkpoint`: the conversion is written
out once more, so that the two can disagree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ministeer.llama import Llama, Llama3Scaling, LlamaConfig
from ministeer.model import GPT2, GPT2Config, Linear, Transformer

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import transformers

# Relative, in float32. The project promises 1e-4 against transformers; a tenth of it is asked here, because on the small
# models below two right answers differ by 1e-6, and GELU without its tanh form by as little as 1.1e-4.
TOLERANCE = 1e-5


def sizes(
    family: str, vocab_size: int, context: int, width: int, n_layer: int, n_head: int, **settings: Any
) -> dict[str, Any]:
    """A shape of a family, "gpt2", "llama" or "qwen2", in the words of transformers' config.

    A Llama's heads share keys and values in pairs. Its positions turn quickly, so that in a short text a wrong angle shows.
    """
    if family == "gpt2":
        words = {
            "vocab_size": vocab_size,
            "n_positions": context,
            "n_embd": width,
            "n_layer": n_layer,
            "n_head": n_head,
        }
        return {"model_type": family} | words | settings
    words = {
        "vocab_size": vocab_size, "max_position_embeddings": context, "hidden_size": width, "intermediate_size": 2 * width + 8,
        "num_hidden_layers": n_layer, "num_attention_heads": n_head, "num_key_value_heads": n_head // 2,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "tie_word_embeddings": False,
    }  # fmt: skip
    return {"model_type": family} | words | settings


def small(family: str, **settings: Any) -> dict[str, Any]:
    """Three layers of width 16: enough to see a site before, between and after."""
    return sizes(family, 61, 24, 16, 3, 2 if family == "gpt2" else 4, **settings)


# of the four pairs of a head of 8 the first, a turn of 6 tokens, stays; the second, of 20, is between; the others are stretched
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPES = {
    "gpt2": small("gpt2"),
    "one head": sizes("gpt2", 50, 12, 24, 1, 1),
    "odd": sizes("gpt2", 97, 40, 60, 5, 12),
    "xl wide": sizes("gpt2", 101, 32, 1600, 2, 25),
    "inner width": small("gpt2", n_inner=40),
    "gelu": small("gpt2", activation_function="gelu"),
    "relu": small("gpt2", activation_function="relu"),
    "gelu by pytorch": small("gpt2", activation_function="gelu_pytorch_tanh"),
    "gelu fast": small("gpt2", activation_function="gelu_fast"),
    "unscaled": small("gpt2", scale_attn_weights=False),
    "scaled by layer": small("gpt2", scale_attn_by_inverse_layer_idx=True),
    "upcast": small("gpt2", scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    "untied gpt2": small("gpt2", tie_word_embeddings=False),
    "llama": small("llama"),
    "odd llama": sizes("llama", 97, 40, 60, 5, 6, num_key_value_heads=3),
    "tied llama": small("llama", tie_word_embeddings=True),
    "wide heads": small("llama", head_dim=10),
    "llama 3": small("llama", head_dim=8, rope_parameters=LLAMA3),
    "no groups": small("llama", num_key_value_heads=4),
    "one group": small("llama", num_key_value_heads=1),
    "llama biases": small("llama", attention_bias=True, mlp_bias=True),
    "qwen2": small("qwen2"),
}


class Pair(NamedTuple):
    """Our model and transformers' with the same weights, both frozen and in evaluation mode."""

    ours: Transformer
    theirs: Any


class Parts(NamedTuple):
    """Where a model of transformers keeps what our sites lie between, block by block."""

    blocks: list[Any]
    attentions: list[Any]
    writers: list[Any]  # the projections by which heads write into the stream
    norms: list[Any]  # after the attention, before the MLP
    last_norm: Any


def parts(theirs: Any) -> Parts:
    if theirs.config.model_type == "gpt2":
        blocks, last = list(theirs.transformer.h), theirs.transformer.ln_f
        attentions, norms = [b.attn for b in blocks], [b.ln_2 for b in blocks]
        return Parts(blocks, attentions, [a.c_proj for a in attentions], norms, last)
    blocks, last = list(theirs.model.layers), theirs.model.norm
    attentions, norms = [b.self_attn for b in blocks], [b.post_attention_layernorm for b in blocks]
    return Parts(blocks, attentions, [a.o_proj for a in attentions], norms, last)


def writer(ours: Transformer, layer: int) -> Linear:
    """The projection by which the heads of a block of ours write into the stream."""
    attention: Any = ours.blocks[layer].attn
    found: Linear = attention.c_proj if isinstance(ours, GPT2) else attention.o
    return found


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random weight for the hub's tensor `name`, of a size at which every detail shows.

    The stream is small (as GPT-2's is at first), so that the norms' epsilon matters; the writes into it are as large as
    itself, so that a wrong one cannot hide; attention scores and MLP inputs are of order one, so that neither the softmax
    nor the activation is nearly linear; biases and norms are not the 0 and 1 at which their mistakes vanish.
    """
    x = torch.randn(shape, generator=generator)
    if any(norm in name for norm in ("ln_", "layernorm", "model.norm")):
        return 1.0 + 0.3 * x if name.endswith("weight") else 0.3 * x
    if name.endswith(("wte.weight", "wpe.weight", "embed_tokens.weight", "lm_head.weight")):
        return 0.03 * x if "wte" in name else 0.06 * x
    spread = 0.1 if any(write in name for write in ("c_proj", "o_proj", "down_proj")) else 1.5
    inputs = shape[0] if "c_" in name else shape[-1]  # GPT-2's matrices are `[in, out]`
    return 0.3 * spread * x if name.endswith("bias") else spread * x / inputs**0.5


def reference_model(shape: dict[str, Any], seed: int = 0, attention: str = "eager") -> Any:
    """Transformers' model with weights from `draw`; "eager" attention is written out in matrix products."""
    settings: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    settings |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0} | shape
    family = settings.pop("model_type", "gpt2")
    config = transformers.AutoConfig.for_model(family, **settings)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    theirs.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        parameter.copy_(draw(name, tuple(parameter.shape), generator))
    return theirs


def converted(theirs: Any) -> Transformer:
    """Transformers' model as ours, in its dtype."""
    with torch.device("meta"):
        ours: Transformer = _gpt2(theirs.config) if theirs.config.model_type == "gpt2" else _llama(theirs.config)
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight" and theirs.config.tie_word_embeddings:
            continue
        matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))  # `[in, out]` there, `[out, in]` here
        for there, here in OUR_NAMES:
            name = name.replace(there, here)
        state[name] = tensor.T.contiguous() if matrix else tensor.clone()
    ours.load_state_dict(state, strict=True, assign=True)
    return ours.eval().requires_grad_(False)


OUR_NAMES = [
    ("transformer.h.", "blocks."), ("transformer.", ""), ("model.layers.", "blocks."), ("model.embed_tokens", "wte"),
    ("model.norm", "ln_f"), ("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2"), ("self_attn", "attn"),
    *((f".{name}_proj", f".{name}") for name in ("q", "k", "v", "o", "gate", "up", "down")),
]  # fmt: skip


def _gpt2(c: Any) -> GPT2:
    same = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "n_inner")
    same += ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
    settings = {name: getattr(c, name) for name in same}
    return GPT2(GPT2Config(**settings, activation=c.activation_function, tied=c.tie_word_embeddings))


def _llama(c: Any) -> Llama:
    rope, qwen = c.rope_parameters, c.model_type == "qwen2"
    scaling = None
    if rope["rope_type"] == "llama3":
        words = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        scaling = Llama3Scaling(*(rope[word] for word in words))
    return Llama(
        LlamaConfig(
            vocab_size=c.vocab_size,
            context=c.max_position_embeddings,
            width=c.hidden_size,
            inner=c.intermediate_size,
            n_layer=c.num_hidden_layers,
            n_head=c.num_attention_heads,
            n_kv_head=c.num_key_value_heads,
            head_size=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            rms_norm_epsilon=c.rms_norm_eps,
            rope_base=rope["rope_theta"],
            rope_scaling=scaling,
            qkv_bias=True if qwen else c.attention_bias,
            o_bias=False if qwen else c.attention_bias,
            mlp_bias=False if qwen else c.mlp_bias,
            tied=c.tie_word_embeddings,
        )
    )


def pair(shape: dict[str, Any], seed: int = 0, attention: str = "eager") -> Pair:
    """Our model and transformers' with the same random weights."""
    theirs = reference_model(shape, seed, attention)
    return Pair(converted(theirs), theirs)


def both(seed: int, *shape: int, families: tuple[str, ...] = ("gpt2", "llama")) -> dict[str, Pair]:
    """A pair of each architecture, of one shape (as `sizes` takes it; by default `small`'s). A test module that calls this `BOTH`
    runs once on each: see `architecture` in conftest.py."""
    return {name: pair(sizes(name, *shape) if shape else small(name), seed) for name in families}


def random_ids(model: Transformer, rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Token ids `(rows, tokens)`."""
    return torch.randint(model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def random_tensor(*shape: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    """Normal numbers of about the size of the stream of a random model."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's attention in the place of `model.short`, for what is to be compared with it to the last bit."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped).transpose(1, 2)


def relative(a: Tensor, b: Tensor) -> float:
    """How far `a` is from `b`: the largest difference of two vectors (the last axis), over the length of b's."""
    if a.shape != b.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max().detach())


def residual_sites(n_layer: int) -> list[tuple[str, int]]:
    """Every residual site in the order in which the stream passes them."""
    return [(name, i) for i in range(n_layer) for name in ("pre", "mid")] + [("pre", n_layer)]


@contextlib.contextmanager
def hooked(
    theirs: Any,
    adds: dict[tuple[str, int], Tensor | Callable[[Tensor], Tensor]],
    seen: dict[tuple[str, int], Tensor],
) -> Iterator[None]:
    """Transformers' model steered and read as our sites say, through forward hooks, for as long as the block lasts.

    Between attention and MLP transformers has no module that the stream enters, so steering there adds to what attention
    returns, and reading there reads what the norm before the MLP gets. Function adds cannot be had there: attention does
    not know the stream.
    """
    there, handles = parts(theirs), []

    def entering(module: Any, site: tuple[str, int], change: bool) -> None:
        def hook(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            if change and site in adds:
                add = adds[site]
                x = x + (add(x) if callable(add) else add)
            seen[site] = x
            return (x, *args[1:])

        handles.append(module.register_forward_pre_hook(hook))

    def leaving_attention(module: Any, site: tuple[str, int]) -> None:
        def hook(_module: Any, _args: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
            return (output[0] + adds[site], *output[1:]) if site in adds else output

        handles.append(module.register_forward_hook(hook))

    for i, (block, attention, norm) in enumerate(zip(there.blocks, there.attentions, there.norms, strict=True)):
        entering(block, ("pre", i), change=True)
        leaving_attention(attention, ("mid", i))
        entering(norm, ("mid", i), change=False)
    entering(there.last_norm, ("pre", len(there.blocks)), change=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reference_run(theirs: Any, ids: Tensor, adds: dict[tuple[str, int], Any] | None = None) -> tuple[Tensor, dict]:
    """Transformers' logits `(B, T, V)` and the stream at every residual site, without a cache, steered by `adds`."""
    seen: dict[tuple[str, int], Tensor] = {}
    with hooked(theirs, adds or {}, seen):
        logits = theirs(input_ids=ids, use_cache=False).logits
    return logits, seen


def alone(model: Transformer, prompts: list[list[int]], **kwargs: Any) -> list[Tensor]:
    """Logits `(T, V)` of each prompt run by itself, without a cache."""
    return [model(torch.tensor([prompt]), **kwargs)[0] for prompt in prompts]


def right_padded(prompts: list[list[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts of unequal lengths as ids `(B, T)`, padded on the right, and their true lengths `(B,)`."""
    longest = max(map(len, prompts))
    ids = torch.tensor([prompt + [pad] * (longest - len(prompt)) for prompt in prompts])
    return ids, torch.tensor([len(prompt) for prompt in prompts])
