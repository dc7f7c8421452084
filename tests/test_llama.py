"""What only a Llama has: positions that turn, shared keys and values, norms without a mean. The rest is tested on both architectures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference import SHAPES, TOLERANCE, Pair, pair, parts, random_ids, random_tensor, relative, small
from torch import Tensor

from ministeer.llama import Llama, Llama3Scaling, LlamaConfig
from ministeer.model import Cache

OURS, THEIRS = pair(SHAPES["llama"], seed=1)


class From:
    """A past of nothing, which says that this call's tokens begin at some position."""

    def __init__(self, start: int) -> None:
        self.start = start

    def positions(self, layer: int, tokens: int) -> slice:
        return slice(self.start, self.start + tokens)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        return k, v, None


def at(model: Any, ids: Tensor, start: int) -> Tensor:
    """Logits of tokens that stand at the positions from `start` on."""
    x = model.embed(ids)
    for block in model.blocks:
        x = block(x, From(start))
    logits: Tensor = model.unembed(x)
    return logits


@pytest.mark.parametrize("name", ["llama", "wide heads", "one group", "no groups", "qwen2"])
def test_each_head_writes_what_its_formula_says(pairs: dict[str, Pair], name: str) -> None:
    """One number at a time, from transformers' weights: pairs of entries as complex numbers, which positions turn."""
    ours, theirs = pairs[name]
    c, layer, ids = ours.config, 1, random_ids(ours, 2, 7)
    tape = dict.fromkeys([("pre", layer), ("head", layer)])
    ours(ids, tape=tape)
    there = parts(theirs)
    block, attention = there.blocks[layer], there.attentions[layer]
    normed = block.input_layernorm(tape["pre", layer])
    speeds = [100.0 ** (-2 * j / c.head_size) for j in range(c.head_size // 2)]

    def turned(x: Tensor, position: int) -> Tensor:  # (K,) -> (K / 2,) complex
        a, b = x.double().chunk(2)
        turns = [complex(math.cos(position * speed), math.sin(position * speed)) for speed in speeds]
        return torch.complex(a, b) * torch.tensor(turns)

    q, k, v = (getattr(attention, f"{part}_proj")(normed).unflatten(-1, (-1, c.head_size)) for part in "qkv")
    out = attention.o_proj.weight.double().chunk(c.n_head, 1)  # H x (D, K)
    for b in range(2):
        for head in range(c.n_head):
            group = head // (c.n_head // c.n_kv_head)
            for t in range(7):
                scores = [
                    (turned(q[b, t, head], t).conj() * turned(k[b, s, group], s)).sum().real / c.head_size**0.5
                    for s in range(t + 1)
                ]
                weights = torch.stack(scores).softmax(0)
                z = sum(weights[s] * v[b, s, group].double() for s in range(t + 1))
                assert relative(tape["head", layer][b, t, head], out[head] @ z) < TOLERANCE, (b, head, t)


def test_attention_knows_distances_and_no_places() -> None:
    """Turning queries and keys alike by one more step changes no score."""
    ids = random_ids(OURS, 2, 9)
    assert relative(at(OURS, ids, 11), OURS(ids)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_far_positions_are_those_of_transformers(family: str, dtype: torch.dtype) -> None:
    """Their angles are thousands, which bfloat16 would round to multiples of 16."""
    settings = {"max_position_embeddings": 5000, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}
    ours, theirs = pair(small(family, **settings), seed=4)
    ids, positions = random_ids(ours, 2, 9), torch.arange(4990, 4999)
    exact = theirs(input_ids=ids, position_ids=positions[None].expand(2, -1)).logits
    bound = 1e-4 if dtype == torch.float32 else 0.05
    assert relative(at(ours.to(dtype), ids, 4990), exact) < bound


def test_turns_kept_from_one_call_serve_another_dtype_and_gradients() -> None:
    """The table of a config is kept: it must not be one dtype's for another, nor one that inference_mode made."""
    ours = pair(small("llama", rope_parameters={"rope_type": "default", "rope_theta": 77.0}), seed=1).ours
    ids, v = random_ids(ours, 1, 6), random_tensor(16).requires_grad_()
    with torch.inference_mode():
        expected = ours(ids)
    ours.bfloat16()(ids)
    found = ours.float()(ids, adds={("pre", 1): v})
    assert torch.isfinite(torch.autograd.grad(found.sum(), v)[0]).all()
    assert relative(found.detach(), expected) > 1e-3
    again = pair(small("llama", rope_parameters={"rope_type": "default", "rope_theta": 77.0}), seed=1).ours
    assert torch.equal(again(ids), expected)


@pytest.mark.parametrize(("change", "least"), [({"rope_base": 10000.0}, 1e-3), ({"rope_scaling": None}, 1e-3)])
def test_base_and_scaling_are_seen(change: dict[str, Any], least: float) -> None:
    """Or the comparison with transformers would show nothing."""
    ours = pair(SHAPES["llama 3"], seed=1).ours
    other = Llama(LlamaConfig(**{**vars(ours.config), **change})).requires_grad_(False)
    other.load_state_dict(ours.state_dict())
    ids = random_ids(ours, 2, 20)
    assert relative(other(ids), ours(ids)) > least


def test_nothing_of_a_position_enters_the_stream() -> None:
    ids = random_ids(OURS, 2, 5)
    assert torch.equal(OURS.embed(ids, torch.tensor([[7, 3, 1, 2, 0]])), OURS.wte(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e3])
def test_the_norm_is_the_streams_over_the_root_of_its_mean_square(dtype: torch.dtype, scale: float) -> None:
    """In bfloat16 too to the rounding of the result: sums of squares are made in float32."""
    norm = type(OURS.ln_f)(64, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(1 + 0.3 * random_tensor(64, scale=1.0))
    x = (scale * random_tensor(3, 64, seed=1, scale=1.0) + scale).to(dtype)
    exact = norm.weight.double() * x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    rounding = {torch.float32: 2**-20, torch.bfloat16: 2**-7}[dtype]
    assert float(((norm(x) - exact) / exact).abs().max()) < rounding
    assert all(m.eps == OURS.config.rms_norm_epsilon for m in OURS.modules() if isinstance(m, torch.nn.RMSNorm))


def test_the_defaults_are_smollm2_135m() -> None:
    """Its 134,515,008 weights, in a cache of 3 heads of keys."""
    config = LlamaConfig()
    with torch.device("meta"):
        assert sum(p.numel() for p in Llama(config).parameters()) == 134_515_008
    assert (config.n_layer, config.n_head, config.n_kv_head, config.head_size, config.width) == (30, 9, 3, 64, 576)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_head": 2}, ["divide", "n_kv_head=2", "n_head=9"]),
        ({"n_kv_head": 0}, ["n_kv_head", "0"]),
        ({"head_size": 63}, ["even head_size", "63"]),
        ({"inner": 1536.0}, ["inner", "1536.0"]),
        ({"context": -1}, ["context", "-1"]),
    ],
)
def test_a_config_that_is_no_model_is_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        LlamaConfig(**change)
    for word in ["expected", "got", *words]:
        assert word in str(caught.value)


def test_a_scaled_config_can_be_a_key() -> None:
    """What `turns` keeps is found again by it."""
    one, twin = (LlamaConfig(rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)) for _ in range(2))
    assert one == twin and hash(one) == hash(twin)
    assert one != LlamaConfig()


def test_a_gradient_reaches_values_that_train_alone() -> None:
    """As when an adapter trains the values' product only: a later call of a cache keeps its gradient."""
    model = Llama(LlamaConfig(vocab_size=31, width=16, inner=24, n_layer=1, n_head=2, n_kv_head=1, head_size=8))
    model.requires_grad_(False)
    weight = model.blocks[0].attn.v.weight.requires_grad_(True)
    ids, gradients = torch.tensor([[3, 1, 4]]), []
    for split in (0, 1):
        cache = Cache(model, 1, 3)
        with torch.no_grad():
            held = model(ids[:, :split], cache=cache) if split else None
        model(ids[:, split:], cache=cache)[:, -1].sum().backward()
        gradients.append(weight.grad.clone())
        weight.grad = None
        assert held is None or held.shape[1] == split
    assert gradients[0].any() and gradients[1].any()
