"""What the tests hold the model to: transformers' GPT-2 with the same random weights, read and steered through its hooks.

Nothing here uses `ministeer.checkpoint`: the conversion is written out once more, so that the two can disagree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ministeer.model import GPT2, GPT2Config

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import transformers

# Relative, in float32. The project promises 1e-4 against transformers; a tenth of it is asked here, because on the small
# models below two right answers differ by 1e-6, and GELU without its tanh form by as little as 1.1e-4.
TOLERANCE = 1e-5

SHAPES = {
    "tiny": {"vocab_size": 61, "n_positions": 24, "n_embd": 16, "n_layer": 3, "n_head": 2},
    "one head": {"vocab_size": 50, "n_positions": 12, "n_embd": 24, "n_layer": 1, "n_head": 1},
    "odd": {"vocab_size": 97, "n_positions": 40, "n_embd": 60, "n_layer": 5, "n_head": 12},
    "xl wide": {"vocab_size": 101, "n_positions": 32, "n_embd": 1600, "n_layer": 2, "n_head": 25},
}


class Pair(NamedTuple):
    """Our model and transformers' with the same weights, both frozen and in evaluation mode."""

    ours: GPT2
    theirs: Any


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random weight for the hub's tensor `name` (matrices `[in, out]`), of a size at which every detail shows.

    The stream is small (as GPT-2's is at first), so that LayerNorm's epsilon matters; the writes into it are as large as
    itself, so that a wrong one cannot hide; attention scores and MLP inputs are of order one, so that neither the softmax
    nor the GELU is nearly linear; biases and norms are not the 0 and 1 at which their mistakes vanish.
    """
    x = torch.randn(shape, generator=generator)
    if "ln_" in name:
        return 1.0 + 0.3 * x if name.endswith("weight") else 0.3 * x
    if name.endswith(("wte.weight", "wpe.weight")):
        return 0.03 * x if "wte" in name else 0.06 * x
    spread = 0.1 if "c_proj" in name else 1.5
    return 0.3 * spread * x if name.endswith("bias") else spread * x / shape[0] ** 0.5


def reference_model(shape: dict[str, int], seed: int = 0, attention: str = "eager") -> Any:
    """Transformers' GPT-2 with weights from `draw`; "eager" attention is written out in matrix products."""
    config = transformers.GPT2Config(
        **shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )
    config._attn_implementation = attention
    theirs = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in theirs.named_parameters():
        parameter.copy_(draw(name, tuple(parameter.shape), generator))
    return theirs


def converted(theirs: Any) -> GPT2:
    """Transformers' GPT-2 as ours, in its dtype: the hub's matrices are `[in, out]`, ours `[out, in]`."""
    c = theirs.config
    with torch.device("meta"):
        ours = GPT2(
            GPT2Config(
                vocab_size=c.vocab_size,
                n_positions=c.n_positions,
                n_embd=c.n_embd,
                n_layer=c.n_layer,
                n_head=c.n_head,
                layer_norm_epsilon=c.layer_norm_epsilon,
            )
        )
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight":
            continue
        matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        short = name.removeprefix("transformer.")
        state["blocks." + short[2:] if short.startswith("h.") else short] = (
            tensor.T.contiguous() if matrix else tensor.clone()
        )
    ours.load_state_dict(state, strict=True, assign=True)
    return ours.eval().requires_grad_(False)


def pair(shape: dict[str, int], seed: int = 0, attention: str = "eager") -> Pair:
    """Our model and transformers' with the same random weights."""
    theirs = reference_model(shape, seed, attention)
    return Pair(converted(theirs), theirs)


def random_ids(model: GPT2, rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Token ids `(rows, tokens)`."""
    return torch.randint(model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def random_tensor(*shape: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    """Normal numbers of about the size of the stream of a random model."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(a: Tensor, b: Tensor) -> float:
    """How far `a` is from `b`: the largest difference of two vectors (the last axis), over the length of b's."""
    if a.shape != b.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


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
    returns, and reading there reads what `ln_2` gets. Function adds cannot be had there: attention does not know the stream.
    """
    blocks = theirs.transformer.h
    handles = []

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

    for i, block in enumerate(blocks):
        entering(block, ("pre", i), change=True)
        leaving_attention(block.attn, ("mid", i))
        entering(block.ln_2, ("mid", i), change=False)
    entering(theirs.transformer.ln_f, ("pre", len(blocks)), change=True)
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


def alone(model: GPT2, prompts: list[list[int]], **kwargs: Any) -> list[Tensor]:
    """Logits `(T, V)` of each prompt run by itself, without a cache."""
    return [model(torch.tensor([prompt]), **kwargs)[0] for prompt in prompts]


def right_padded(prompts: list[list[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts of unequal lengths as ids `(B, T)`, padded on the right, and their true lengths `(B,)`."""
    longest = max(map(len, prompts))
    ids = torch.tensor([prompt + [pad] * (longest - len(prompt)) for prompt in prompts])
    return ids, torch.tensor([len(prompt) for prompt in prompts])
