"""The model against transformers, and what steering it means: statements about sites, adds, tapes, errors."""

import copy
import importlib
import math
import shutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    SHAPES,
    TOLERANCE,
    Pair,
    both,
    converted,
    fused,
    parts,
    random_ids,
    random_tensor,
    reference_model,
    reference_run,
    relative,
    residual_sites,
    writer,
)
from torch import Tensor

import ministeer.model as model_file
from ministeer import prompts
from ministeer.model import GPT2, Cache, Embedding, GPT2Config, Linear, Transformer, short
from ministeer.prompts import pad

BOTH = both(seed=1)
MODEL, THEIRS = BOTH["gpt2"]
LAYERS, WIDTH, CONTEXT = MODEL.config.n_layer, MODEL.config.width, MODEL.config.context
SITES = residual_sites(LAYERS)
IDS = random_ids(MODEL, 2, 7)


def by_hand(model: Transformer, ids: Tensor, site: tuple[str, int], v: Tensor) -> Tensor:
    """DESIGN's loop: the forward pass written out, steering is the `+`."""
    x = model.embed(ids)
    for i, block in enumerate(model.blocks):
        if site == ("pre", i):
            x = x + v
        if site == ("mid", i):
            x = x + block.attn(block.ln_1(x))
            x = x + v
            x = x + block.mlp(block.ln_2(x))
        else:
            x = block(x)
    if site == ("pre", len(model.blocks)):
        x = x + v
    return model.unembed(x)


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", ["one token", "one token a row", "some", "full context"])
def test_logits_and_every_site_are_those_of_transformers(pairs: dict[str, Pair], name: str, size: str) -> None:
    ours, theirs = pairs[name]
    full = ours.config.context
    rows, tokens = {"one token": (1, 1), "one token a row": (3, 1), "some": (3, 9), "full context": (2, full)}[size]
    ids = random_ids(ours, rows, tokens)
    tape: dict = {}
    logits = ours(ids, tape=tape)
    expected, seen = reference_run(theirs, ids)
    assert logits.shape == (*ids.shape, ours.config.vocab_size)
    assert relative(logits, expected) < TOLERANCE
    assert list(tape) == list(seen) == residual_sites(ours.config.n_layer)
    for site, x in tape.items():
        assert relative(x, seen[site]) < TOLERANCE, site


@pytest.mark.parametrize("name", ["odd", "odd llama"])
def test_sites_are_the_hidden_states_that_transformers_returns(pairs: dict[str, Pair], name: str) -> None:
    """Its last hidden state is after the final norm, so ours goes through that norm first."""
    ours, theirs = pairs[name]
    ids = random_ids(ours, 2, 11)
    states = theirs(input_ids=ids, output_hidden_states=True).hidden_states
    tape: dict = {}
    ours(ids, tape=tape)
    n = ours.config.n_layer
    assert len(states) == n + 1
    for i in range(n):
        assert relative(tape["pre", i], states[i]) < TOLERANCE, i
    assert relative(ours.ln_f(tape["pre", n]), states[n]) < TOLERANCE
    assert relative(tape["pre", n], states[n]) > 0.1  # the two are different things, whatever the name suggests


@pytest.mark.once
def test_it_is_the_tanh_form_of_gelu_and_an_epsilon_of_1e_5() -> None:
    """Stated on their own: a parity test with a wide tolerance or a large stream would let both through."""
    mlp = MODEL.blocks[0].mlp
    x = random_tensor(5, WIDTH, scale=1.0)
    hidden = mlp.c_fc(x)
    tanh = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    assert relative(mlp(x), mlp.c_proj(tanh)) < 1e-6
    assert relative(mlp(x), mlp.c_proj(F.gelu(hidden))) > 1e-5
    norms = [m for m in MODEL.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * LAYERS + 1
    assert all(norm.eps == 1e-5 for norm in norms)


def ratios_in_bf16(name: str, seed: int) -> dict[Any, float]:
    """How far our logits and sites in bf16 are from the truth, over how far transformers' are.

    The truth is float64 with the same weights, those that bf16 can hold, so that all of the distance is arithmetic.
    """
    theirs = reference_model(SHAPES[name], seed, attention="sdpa").bfloat16()
    ours = converted(theirs)
    exact = converted(theirs).double()
    ids = random_ids(ours, 4, 12, seed)
    truth: dict = {}
    true_logits = exact(ids, tape=truth)
    tape: dict = {}
    logits = ours(ids, tape=tape)
    their_logits, seen = reference_run(theirs, ids)
    assert logits.dtype == tape["pre", 0].dtype == torch.bfloat16

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b).norm() / b.norm())

    assert distance(their_logits, true_logits) < 0.05  # else "no worse than that" would say nothing
    found: dict[Any, float] = {"logits": distance(logits, true_logits) / distance(their_logits, true_logits)}
    for site, x in truth.items():
        ours_off, theirs_off = distance(tape[site], x), distance(seen[site], x)
        # a Llama's embedding, in which nothing is rounded, is off by nothing on both sides
        found[site] = ours_off / theirs_off if theirs_off else math.inf if ours_off else 1.0
    return found


ALL_BUT_WIDE = [name for name in SHAPES if name != "xl wide"]


@pytest.mark.once
@pytest.mark.parametrize("name", ALL_BUT_WIDE)
def test_bf16_is_no_further_from_the_truth_than_transformers_in_bf16(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided beforehand: at most 1.25 times as far, over all logits and over each site, for each of three models."""
    monkeypatch.setattr("ministeer.model.short", fused)
    for seed in range(3):
        found = ratios_in_bf16(name, seed)
        assert max(found.values()) <= 1.25, found


@pytest.mark.once
@pytest.mark.parametrize("name", ALL_BUT_WIDE)
def test_nor_is_it_where_many_short_texts_are_attended_to_in_another_way(name: str) -> None:
    """Which rounds in other places, so that the ratio of one model is a draw around 1: below 1.15 in the mean of six, and 1.5 in each."""
    found = [ratios_in_bf16(name, seed) for seed in range(6)]
    for site in found[0]:
        ratios = [one[site] for one in found]
        assert statistics.mean(ratios) < 1.15 and max(ratios) < 1.5, (site, ratios)


@pytest.mark.once
@pytest.mark.parametrize("groups", [6, 2, 1])
@pytest.mark.parametrize("tokens, seen", [(1, 9), (9, 9), (4, 9)])
def test_attention_of_many_short_texts_is_torchs(tokens: int, seen: int, groups: int) -> None:
    """As near to float64, masks and shared keys included; and what sees nothing at all, padding, is finite."""
    q = random_tensor(5, 6, tokens, 16, scale=2.0).bfloat16()
    k, v = (random_tensor(5, groups, seen, 16, seed=seed, scale=1.0).bfloat16() for seed in (1, 2))
    mask = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens).expand(5, 1, -1, -1).clone()
    mask[3, :, -1:, :2] = False
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    theirs = fused(q, k, v, mask, 0.3)
    found = short(q, k, v, mask, 0.3)
    assert found.dtype == torch.bfloat16
    assert relative(found.flatten(), exact.flatten()) < 1.5 * relative(theirs.flatten(), exact.flatten())
    mask[3] = False
    assert short(q, k, v, mask, 0.3).isfinite().all()


def test_many_short_texts_in_bf16_take_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("ministeer.model.short", lambda *given: taken.append(1) or short(*given))
    model = copy.deepcopy(MODEL).bfloat16()
    for rows, times in ((4, LAYERS), (1, LAYERS)):  # one text does not
        together = model(random_ids(model, rows, 9))
        assert len(taken) == times
    MODEL(random_ids(MODEL, 4, 9))
    assert len(taken) == LAYERS and together.isfinite().all()


@pytest.mark.once
def test_attention_that_is_upcast_is_computed_in_float32(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model's dtype, as Stanford's replicas of GPT-2 ask; others stay in their own."""
    seen: list[torch.dtype] = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *a, **k: seen.append(q.dtype) or real(q, *a, **k))
    for name in ("upcast", "gpt2", "llama"):
        model = copy.deepcopy(pairs[name].ours).bfloat16()
        cache = Cache(model, 2, 9)
        assert model(random_ids(model, 2, 7), cache=cache).dtype == cache.k.dtype == torch.bfloat16
        model(random_ids(model, 2, 2), cache=cache)
    assert seen == [torch.float32] * 6 + [torch.bfloat16] * 12


def test_int32_ids_are_as_good_as_int64() -> None:
    assert torch.equal(MODEL(IDS.int()), MODEL(IDS))


def test_no_token_sees_a_later_one() -> None:
    """Changing the last token changes nothing before it, so what stands to the right of a text, padding, does not matter."""
    other = IDS.clone()
    other[:, -1] = (other[:, -1] + 1) % MODEL.config.vocab_size
    assert relative(MODEL(other)[:, :-1], MODEL(IDS)[:, :-1]) < 1e-6
    assert relative(MODEL(other)[:, -1:], MODEL(IDS)[:, -1:]) > 0.01


@pytest.mark.once
def test_positions_can_be_given_to_embed() -> None:
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    x = MODEL.embed(IDS[:, :3], positions)
    assert torch.equal(x[1], MODEL.wte(IDS[1, :3]) + MODEL.wpe(torch.tensor([5, 6, 7])))
    assert torch.equal(x[:1], MODEL.embed(IDS[:1, :3]))


@pytest.mark.once
@given(
    inside=st.integers(1, 40),
    outside=st.integers(1, 70),
    shape=st.sampled_from([(1, 1), (1, 3), (3, 1), (1,), ()]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_one_token_goes_through_a_matrix_as_many_do(
    inside: int, outside: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Whatever road the product takes, it is W x + b: values, shape, dtype and gradients."""
    layer = model_file.Linear(inside, outside).to(dtype)
    x = random_tensor(*shape, inside, scale=1.0).to(dtype).requires_grad_()
    y, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 0.0, torch.float64: 1e-12}[dtype]  # bf16 takes one road only
    assert y.dtype == dtype
    assert y.shape == expected.shape
    largest = float((x.abs() @ layer.weight.abs().T + layer.bias.abs()).detach().max())  # before anything cancels
    assert float((y - expected).detach().abs().max()) <= rounding * largest
    push = random_tensor(*y.shape, seed=1, scale=1.0).to(dtype)
    ours = torch.autograd.grad(y, (x, layer.weight, layer.bias), push)
    for a, b in zip(ours, torch.autograd.grad(expected, (x, layer.weight, layer.bias), push), strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= rounding * largest


@pytest.mark.once
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=1, max_size=5))
def test_padding_is_on_the_right_and_marked(rows: list[list[int]]) -> None:
    ids, positions = prompts.pad(rows)
    assert ids.shape == positions.shape == (len(rows), max(map(len, rows)))
    assert ids.dtype == torch.int64
    for row, padded, places in zip(rows, ids.tolist(), positions.tolist(), strict=True):
        assert padded == row + [0] * (len(padded) - len(row))
        assert places == [*range(len(row)), *[-1] * (len(padded) - len(row))]


# --- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_head_writes_and_one_bias_are_what_attention_adds(pairs: dict[str, Pair], name: str) -> None:
    ours = pairs[name].ours
    ids = random_ids(ours, 2, 6)
    n, heads, width = ours.config.n_layer, ours.config.n_head, ours.config.width
    tape = dict.fromkeys([*residual_sites(n), *(("head", i) for i in range(n))])
    ours(ids, tape=tape)
    for i in range(n):
        writes = tape["head", i]
        assert writes.shape == (2, 6, heads, width)
        bias = writer(ours, i).bias
        written = writes.sum(2) + (0.0 if bias is None else bias)
        assert relative(written, tape["mid", i] - tape["pre", i]) < TOLERANCE, i


@pytest.mark.once
def test_each_head_writes_what_its_formula_says() -> None:
    """Softmax of scaled dot products over earlier positions, one number at a time, from the hub's `[in, out]` weights."""
    ours, theirs = MODEL, THEIRS
    tape = dict.fromkeys([("pre", 1), ("head", 1)])
    ours(IDS, tape=tape)
    attention = theirs.transformer.h[1].attn
    size = WIDTH // ours.config.n_head
    rows, tokens = IDS.shape
    normed = theirs.transformer.h[1].ln_1(tape["pre", 1]).double()
    qkv = normed @ attention.c_attn.weight.double() + attention.c_attn.bias.double()
    for b in range(rows):
        for head in range(ours.config.n_head):
            q, k, v = (
                qkv[b, :, part * WIDTH + head * size : part * WIDTH + (head + 1) * size] for part in range(3)
            )  # (T, K) each
            out = attention.c_proj.weight[head * size : (head + 1) * size].double()  # (K, D)
            for t in range(tokens):
                scores = [float(q[t] @ k[s]) / size**0.5 for s in range(t + 1)]
                weights = torch.tensor(scores, dtype=torch.float64).softmax(0)
                z = sum(weights[s] * v[s] for s in range(t + 1))
                assert relative(tape["head", 1][b, t, head], z @ out) < TOLERANCE, (b, head, t)


def test_heads_are_recorded_only_when_asked_for() -> None:
    tape: dict = {}
    MODEL(IDS, tape=tape)
    assert not [site for site in tape if site[0] == "head"]


# --- steering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("shape", ["vector", "per row", "per token"])
def test_the_loop_written_by_hand_is_adds_to_the_bit(site: tuple[str, int], shape: str) -> None:
    v = random_tensor(*{"vector": (WIDTH,), "per row": (2, 1, WIDTH), "per token": (2, 7, WIDTH)}[shape])
    assert torch.equal(MODEL(IDS, adds={site: v}), by_hand(MODEL, IDS, site, v))


@given(
    site=st.sampled_from(SITES),
    rows=st.integers(1, 3),
    tokens=st.integers(1, CONTEXT),
    kind=st.sampled_from(["vector", "row", "token", "function"]),
    seed=st.integers(0, 1000),
)
def test_before_the_add_nothing_changes_at_it_exactly_the_add_after_it_everything(
    site: tuple[str, int], rows: int, tokens: int, kind: str, seed: int
) -> None:
    ids = random_ids(MODEL, rows, tokens, seed)
    shape = {"vector": (WIDTH,), "row": (rows, 1, WIDTH)}.get(kind, (rows, tokens, WIDTH))
    v = random_tensor(*shape, seed=seed)
    plain: dict = {}
    steered: dict = {}
    logits = MODEL(ids, tape=plain)
    new_logits = MODEL(ids, adds={site: (lambda x: v * x) if kind == "function" else v}, tape=steered)
    here = SITES.index(site)
    for other in SITES[:here]:
        assert torch.equal(steered[other], plain[other]), other
    assert torch.equal(steered[site], plain[site] + (v * plain[site] if kind == "function" else v))
    for other in SITES[here + 1 :]:
        assert ((steered[other] - plain[other]).abs().amax(-1) > 1e-4).all(), other
    assert ((new_logits - logits).abs().amax(-1) > 1e-4).all()


@given(site=st.sampled_from(SITES), row=st.integers(0, 2), position=st.integers(0, 8), seed=st.integers(0, 1000))
def test_an_add_at_one_position_reaches_that_position_and_later_ones_of_its_row_only(
    site: tuple[str, int], row: int, position: int, seed: int
) -> None:
    ids = random_ids(MODEL, 3, 9, seed)
    add = torch.zeros(3, 9, WIDTH)
    add[row, position] = random_tensor(WIDTH, seed=seed)
    change = (MODEL(ids, adds={site: add}) - MODEL(ids)).abs().amax(-1)  # (B, T)
    reached = torch.zeros(3, 9, dtype=torch.bool)
    # what enters the last MLP or leaves it is not read by attention any more
    reached[row, position : position + 1 if site in SITES[-2:] else 9] = True
    assert (change[reached] > 1e-5).all()
    assert (change[~reached] < 1e-5).all()


@given(site=st.sampled_from(SITES), kind=st.sampled_from(["vector", "function"]))
def test_a_zero_add_is_no_add_to_the_bit(site: tuple[str, int], kind: str) -> None:
    zero = torch.zeros(WIDTH)
    adds = {site: zero if kind == "vector" else lambda x: 0 * x}
    assert torch.equal(MODEL(IDS, adds=adds), MODEL(IDS))


def test_no_adds_and_an_empty_mapping_are_the_same() -> None:
    assert torch.equal(MODEL(IDS, adds={}), MODEL(IDS))


@given(site=st.sampled_from(SITES), seed=st.integers(0, 1000), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_v_then_minus_v_cancels(site: tuple[str, int], seed: int, scale: float) -> None:
    """Exact: `v + (-v)` is 0, and adding 0 changes no bit. Exact also: x + v - v where no bit of x is pushed out, as with
    whole numbers. In general two additions round twice, each by at most 2^-24 of its result in float32."""
    v = random_tensor(WIDTH, seed=seed, scale=scale)
    assert torch.equal(MODEL(IDS, adds={site: v + (-v)}), MODEL(IDS))
    plain: dict = {}
    MODEL(IDS, tape=plain)
    x = plain[site]
    tape = {site: None}
    logits = MODEL(IDS, adds={site: lambda x: ((x + v) + (-v)) - x}, tape=tape)
    bound = 2.0**-24 * ((x + v).abs() + 4 * x.abs()) + 2.0**-24 * (x + v).abs()
    assert ((tape[site] - x).abs() <= bound).all()
    if scale <= 1:
        assert relative(logits, MODEL(IDS)) < 1e-4


def test_v_then_minus_v_is_exact_on_whole_numbers() -> None:
    model = copy.deepcopy(MODEL)
    for table in (m for m in model.modules() if isinstance(m, Embedding)):
        table.weight.mul_(1000).round_()
    v = (1000 * random_tensor(WIDTH)).round()

    def there_and_back(x: Tensor) -> Tensor:
        return ((x + v) - v) - x

    assert torch.equal(model(IDS, adds={("pre", 0): there_and_back}), model(IDS))


@given(sites=st.lists(st.sampled_from(SITES), min_size=2, max_size=4, unique=True), seed=st.integers(0, 1000))
def test_adds_at_several_sites_are_each_made_once(sites: list[tuple[str, int]], seed: int) -> None:
    adds = {site: random_tensor(WIDTH, seed=seed + i) for i, site in enumerate(sites)}
    calls: list[tuple[str, int]] = []

    def counted(site: tuple[str, int]) -> object:
        def add(_x: Tensor) -> Tensor:
            calls.append(site)
            return adds[site]

        return add

    logits = MODEL(IDS, adds=adds)
    assert torch.equal(MODEL(IDS, adds={site: counted(site) for site in sites}), logits)
    assert calls == sorted(sites, key=SITES.index)
    first, *rest = sorted(sites, key=SITES.index)
    assert not torch.equal(MODEL(IDS, adds={site: adds[site] for site in rest}), logits)
    assert not torch.equal(MODEL(IDS, adds={first: 2 * adds[first]} | {s: adds[s] for s in rest}), logits)


def test_a_function_takes_the_stream_at_its_site_after_earlier_adds() -> None:
    """Ablating a direction at a site leaves none of it there."""
    direction = F.normalize(random_tensor(WIDTH), dim=0)
    tape = {("mid", 1): None}
    seen = []

    def ablate(x: Tensor) -> Tensor:
        seen.append(x)
        return -(x @ direction)[..., None] * direction

    MODEL(IDS, adds={("pre", 0): direction, ("mid", 1): ablate}, tape=tape)
    before = {("mid", 1): None}
    MODEL(IDS, adds={("pre", 0): direction}, tape=before)
    assert len(seen) == 1
    assert torch.equal(seen[0], before["mid", 1])
    assert float((before["mid", 1] @ direction).abs().min()) > 1e-4
    assert float((tape["mid", 1] @ direction).abs().max()) < 1e-6


@pytest.mark.once
def test_a_hook_on_an_unembedding_of_its_own_is_refused() -> None:
    """It is read as a matrix, so that a hook would never run."""
    model = GPT2(GPT2Config(11, 8, 12, 2, 3, tied=False))
    handle = model.lm_head.register_forward_hook(lambda _module, _given, out: 2 * out)
    with pytest.raises(
        ValueError, match="expected a plain unembedding, got a hook that it never calls; hook model.ln_f"
    ):
        model(torch.tensor([[1, 2]]))
    handle.remove()
    model(torch.tensor([[1, 2]]))


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("odd", "xl wide")])
def test_steering_is_what_forward_hooks_on_transformers_do(pairs: dict[str, Pair], name: str) -> None:
    ours, theirs = pairs[name]
    ids = random_ids(ours, 2, 7)
    plain, v = reference_run(theirs, ids)[0], random_tensor(2, 7, ours.config.width, seed=3)
    for site in residual_sites(ours.config.n_layer):
        logits, seen = reference_run(theirs, ids, {site: v})
        tape: dict = {}
        assert relative(ours(ids, adds={site: v}, tape=tape), logits) < TOLERANCE
        for other, x in seen.items():
            assert relative(tape[other], x) < TOLERANCE, other
        assert relative(logits, plain) > 0.01


def test_function_steering_is_what_forward_hooks_on_transformers_do() -> None:
    adds = {("pre", i): (lambda x, i=i: x.roll(i + 1, -1) * 0.5) for i in range(LAYERS + 1)}
    assert relative(MODEL(IDS, adds=adds), reference_run(THEIRS, IDS, adds)[0]) < TOLERANCE


def test_an_add_learned_at_a_blocks_output_belongs_at_the_next_pre() -> None:
    """The convention and its converter: output of block i = ("pre", i + 1); a block earlier is another model."""
    v, i = random_tensor(WIDTH), 1
    handle = parts(THEIRS).blocks[i].register_forward_hook(lambda _m, _a, out: out + v)
    expected = THEIRS(input_ids=IDS).logits
    handle.remove()
    assert relative(MODEL(IDS, adds={("pre", i + 1): v}), expected) < TOLERANCE
    assert relative(MODEL(IDS, adds={("pre", i): v}), expected) > 0.01


def test_an_add_comes_in_the_models_dtype() -> None:
    v = random_tensor(WIDTH).double()
    assert MODEL(IDS, adds={("pre", 1): v}).dtype == torch.float32
    assert torch.equal(MODEL(IDS, adds={("pre", 1): v}), MODEL(IDS, adds={("pre", 1): v.float()}))
    half = copy.deepcopy(MODEL).bfloat16()
    tape = {("pre", 1): None, ("mid", 0): None}
    assert half(IDS, adds={("pre", 1): v}, tape=tape).dtype == tape["pre", 1].dtype == torch.bfloat16


# --- tape -----------------------------------------------------------------------------------------------------------


def test_recording_changes_no_bit_of_the_logits() -> None:
    everything = dict.fromkeys([*SITES, *(("head", i) for i in range(LAYERS))])
    assert torch.equal(MODEL(IDS, tape=everything), MODEL(IDS))


def test_an_empty_dict_records_every_residual_site_in_order() -> None:
    tape: dict = {}
    logits = MODEL(IDS, tape=tape)
    assert list(tape) == SITES
    assert all(x.shape == (2, 7, WIDTH) for x in tape.values())
    assert torch.equal(tape["pre", 0], MODEL.embed(IDS))
    assert torch.equal(MODEL.unembed(tape["pre", LAYERS]), logits)
    for i, block in enumerate(MODEL.blocks):
        assert torch.equal(block(tape["pre", i]), tape["pre", i + 1])


@given(st.lists(st.sampled_from([*SITES, *(("head", i) for i in range(LAYERS))]), min_size=1, max_size=6))
def test_a_tape_holds_what_it_was_asked_for_and_nothing_else(sites: list[tuple[str, int]]) -> None:
    everything = dict.fromkeys([*SITES, *(("head", i) for i in range(LAYERS))])
    MODEL(IDS, tape=everything)
    asked = dict.fromkeys(sites)
    MODEL(IDS, tape=asked)
    assert list(asked) == list(dict.fromkeys(sites))
    assert all(torch.equal(asked[site], everything[site]) for site in sites)
    listed: list = list(sites)  # one site may stand in it more than once
    same = listed
    MODEL(IDS, tape=listed)
    assert listed is same
    assert len(listed) == len(sites)
    assert all(torch.equal(x, everything[site]) for x, site in zip(listed, sites, strict=True))


def test_what_a_dict_held_before_is_replaced() -> None:
    tape = {("pre", 1): torch.full((1,), -1.0)}
    MODEL(IDS, tape=tape)
    assert tape["pre", 1].shape == (2, 7, WIDTH)
    first = tape["pre", 1].clone()
    MODEL((IDS + 1) % MODEL.config.vocab_size, tape=tape)
    assert not torch.equal(tape["pre", 1], first)


def test_an_empty_list_asks_for_nothing() -> None:
    tape: list = []
    assert torch.equal(MODEL(IDS, tape=tape), MODEL(IDS))
    assert tape == []


def test_a_tape_reads_after_the_add() -> None:
    """Read before it, a steered run would look unsteered at the very site that was steered."""
    v = random_tensor(WIDTH)
    for site in SITES:
        plain, steered = {site: None}, {site: None}
        MODEL(IDS, tape=plain)
        MODEL(IDS, adds={site: v}, tape=steered)
        assert torch.equal(steered[site], plain[site] + v), site


def test_a_recorded_stream_does_not_change_afterwards() -> None:
    tape: dict = {}
    MODEL(IDS, adds={("mid", 1): random_tensor(WIDTH)}, tape=tape)
    copies = {site: x.clone() for site, x in tape.items()}
    MODEL(IDS.flip(1))
    assert all(torch.equal(tape[site], copies[site]) for site in SITES)


# --- nothing stays behind -------------------------------------------------------------------------------------------


def snapshot(model: Transformer) -> tuple[dict, dict]:
    """Everything a model holds: each module's attributes (tensors and submodules by identity), each tensor's values."""
    attributes = {
        name: {
            key: {k: id(v) for k, v in value.items()} if isinstance(value, dict) else repr(value)
            for key, value in vars(module).items()
        }
        for name, module in model.named_modules()
    }
    return attributes, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_nothing_stays_in_the_model_after_a_call() -> None:
    attributes, weights = snapshot(MODEL)
    globally = dict(vars(torch.nn.modules.module))
    plain = MODEL(IDS)
    cache = Cache(MODEL, 2, 10)
    tape = dict.fromkeys([*SITES, ("head", 0)])
    MODEL(IDS, adds={("pre", 1): random_tensor(WIDTH), ("mid", 2): lambda x: x}, tape=tape, cache=cache)

    def fails(x: Tensor) -> Tensor:
        raise KeyError("from inside a function add")

    with pytest.raises(KeyError, match="inside a function add"):
        MODEL(IDS, adds={("mid", 1): fails}, tape={}, cache=Cache(MODEL, 2, 10))
    after, weights_after = snapshot(MODEL)
    assert after == attributes
    assert all(torch.equal(weights_after[name], weights[name]) for name in weights)
    assert {k: id(v) for k, v in vars(torch.nn.modules.module).items()} == {k: id(v) for k, v in globally.items()}
    assert not [hooks for key, hooks in globally.items() if key.startswith("_global") and hooks]
    for module in MODEL.modules():
        assert not [key for key, value in vars(module).items() if key.endswith("_hooks") and value]
    assert torch.equal(MODEL(IDS), plain)


def test_the_callers_adds_and_ids_are_left_as_they_were() -> None:
    v = random_tensor(WIDTH)
    adds, ids, copy = {("pre", 1): v}, IDS.clone(), v.clone()
    MODEL(ids, adds=adds, tape={}, cache=Cache(MODEL, 2, 8))
    assert adds == {("pre", 1): v}
    assert torch.equal(v, copy)
    assert torch.equal(ids, IDS)


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_gradients_flow_through_an_add_as_through_the_loop_by_hand(site: tuple[str, int]) -> None:
    v = random_tensor(WIDTH).requires_grad_()
    (by_adds,) = torch.autograd.grad(MODEL(IDS, adds={site: v})[..., 5].sum(), v)
    (by_loop,) = torch.autograd.grad(by_hand(MODEL, IDS, site, v)[..., 5].sum(), v)
    assert torch.equal(by_adds, by_loop)
    assert float(by_adds.norm()) > 1e-3


@pytest.mark.once
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("sizes", [(16, 48), (18, 29), (7, 7), (1, 1)])
def test_few_tokens_and_many_go_through_one_linear_map_and_so_do_their_gradients(sizes, by_columns) -> None:
    linear, plain = Linear(*sizes), torch.nn.Linear(*sizes)
    weight, bias = random_tensor(*reversed(sizes), seed=1), random_tensor(sizes[1], seed=2)
    if by_columns:
        linear.weight = torch.nn.Parameter(weight.t().contiguous().t())
    linear.load_state_dict({"weight": weight, "bias": bias})
    plain.load_state_dict({"weight": weight, "bias": bias})
    for rows, tokens in ((1, 1), (1, 2), (4, 2), (2, 3), (3, 3), (1, 20), (2, 0)):
        x = random_tensor(rows, tokens, sizes[0], seed=3).requires_grad_()
        push, found = random_tensor(rows, tokens, sizes[1], seed=4), []
        for layer in (linear, plain):
            y = layer(x)
            found.append([y.detach(), *torch.autograd.grad((y * push).sum(), (x, *layer.parameters()))])
        for ours, theirs in zip(*found, strict=True):
            assert ours.shape == theirs.shape
            if tokens:
                assert relative(ours, theirs) < TOLERANCE


def test_the_gradient_of_a_function_add_is_the_slope() -> None:
    model = converted(THEIRS).double()
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def target(c: Tensor) -> Tensor:
        return model(IDS, adds={("mid", 0): lambda x: c * x.roll(1, -1)})[:, -1, 3].sum()

    (slope,) = torch.autograd.grad(target(c), c)
    step = 1e-6
    measured = (target(c.detach() + step) - target(c.detach() - step)) / (2 * step)
    assert abs(float(slope - measured)) < 1e-6 * max(1.0, abs(float(measured)))
    assert abs(float(slope)) > 1e-4


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(LAYERS + 1))
def test_the_stream_at_a_depth_is_the_tapes(depth: int) -> None:
    tape: dict = {}
    MODEL(IDS, tape=tape)
    shallow: dict = {}
    assert torch.equal(MODEL.stream(IDS, depth=depth, tape=shallow), tape["pre", depth])
    assert list(shallow) == SITES[: SITES.index(("pre", depth)) + 1]
    assert all(torch.equal(shallow[site], tape[site]) for site in shallow)


@pytest.mark.parametrize("depth", range(LAYERS + 1))
def test_an_add_at_the_depth_itself_counts(depth: int) -> None:
    v = random_tensor(WIDTH)
    assert torch.equal(MODEL.stream(IDS, adds={("pre", depth): v}, depth=depth), MODEL.stream(IDS, depth=depth) + v)


def test_the_stream_by_default_is_the_last_one_and_unembeds_to_the_logits() -> None:
    assert torch.equal(MODEL.unembed(MODEL.stream(IDS)), MODEL(IDS))
    assert torch.equal(MODEL.stream(IDS), MODEL.stream(IDS, depth=LAYERS))


def test_blocks_beyond_the_depth_are_not_run() -> None:
    model = converted(THEIRS)
    for block in model.blocks[1:]:
        block.forward = None  # not callable: running it raises
    assert torch.equal(model.stream(IDS, depth=1), MODEL.stream(IDS, depth=1))


# --- errors: one kind, saying what was expected and what came ---------------------------------------------------------

V = random_tensor(WIDTH)
NAN, INFINITE = V.clone(), V.clone()
NAN[3], INFINITE[0] = float("nan"), -float("inf")


@pytest.mark.parametrize(
    ("adds", "words"),
    [
        ({("post", 1): V}, ["'post', 1", '("pre", i)', '("mid", i)']),
        ({"pre1": V}, ["'pre1'", '("pre", i)']),
        ({("pre", LAYERS + 1): V}, [f"'pre', {LAYERS + 1}", f"0 to {LAYERS}"]),
        ({("mid", LAYERS): V}, [f"'mid', {LAYERS}", f"0 to {LAYERS - 1}"]),
        ({("pre", -1): V}, ["'pre', -1", "0 to"]),
        ({("pre", 1.0): V}, ["'pre', 1.0"]),
        ({("pre", 1, 0): V}, ["'pre', 1, 0"]),
        ({("head", 1): V}, ["'head', 1", '("mid", i)']),
        ({("pre", 1): random_tensor(WIDTH + 1)}, [f"({WIDTH},)", f"({WIDTH + 1},)", "'pre', 1"]),
        ({("pre", 1): random_tensor(2, WIDTH)}, [f"(2, 1, {WIDTH})", f"(2, {WIDTH})"]),
        ({("pre", 1): random_tensor(7, WIDTH)}, [f"(2, 7, {WIDTH})", f"(7, {WIDTH})"]),
        ({("pre", 1): random_tensor(2, 6, WIDTH)}, [f"(2, 7, {WIDTH})", f"(2, 6, {WIDTH})"]),
        ({("pre", 1): random_tensor(3, 1, WIDTH)}, [f"(2, 1, {WIDTH})", f"(3, 1, {WIDTH})"]),
        ({("pre", 1): random_tensor(2, 7, 1)}, [f"(2, 7, {WIDTH})", "(2, 7, 1)"]),
        ({("pre", 1): torch.tensor(0.5)}, [f"({WIDTH},)", "()"]),
        ({("pre", 1): NAN}, ["finite", "NaN", "'pre', 1"]),
        ({("mid", 1): INFINITE}, ["finite", "infinity", "'mid', 1"]),
        ({("pre", 1): 5.0}, ["tensor", "float"]),
        ({("pre", 1): V * 1j}, ["real numbers", "complex64"]),
        ({("pre", 1): V.tolist()}, ["tensor", "list"]),
        ({("pre", 1): None}, ["tensor", "NoneType"]),
        ({("mid", 1): lambda x: x[:, :3]}, [f"(2, 7, {WIDTH})", f"(2, 3, {WIDTH})", "'mid', 1"]),
        ({("mid", 1): lambda x: x[..., 0]}, [f"(2, 7, {WIDTH})", "(2, 7)"]),
        ({("mid", 1): lambda x: 1.0}, ["tensor", "float", "'mid', 1"]),
        ({("mid", 1): lambda x: None}, ["tensor", "NoneType"]),
        ({("mid", 1): lambda x: x / 0}, ["finite", "'mid', 1"]),
    ],
)
def test_a_wrong_add_is_refused(adds: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        MODEL(IDS, adds=adds)
    for word in ["expected", "got", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", [list, dict.fromkeys])
@pytest.mark.parametrize(
    ("site", "words"),
    [
        (("post", 1), ["'post', 1", '("head", i)']),
        (("pre", LAYERS + 1), [f"'pre', {LAYERS + 1}", f"0 to {LAYERS}"]),
        (("head", LAYERS), [f"'head', {LAYERS}", f"0 to {LAYERS - 1}"]),
        (("mid", "1"), ["'mid', '1'"]),
        (6, ["6"]),
    ],
)
def test_a_wrong_site_on_a_tape_is_refused(kind: type, site: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        MODEL(IDS, tape=kind([("pre", 0), site]))
    for word in ["expected", "got", *words]:
        assert word in str(caught.value)


def test_a_site_as_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a site .* got \['pre', 1\]"):
        MODEL(IDS, tape=[["pre", 1]])


@pytest.mark.parametrize("add", [True, False])
def test_a_site_past_the_depth_is_refused(add: bool) -> None:
    """It would never be passed: a silent no-op."""
    for site in [("mid", 1), ("pre", 2), ("mid", 2)]:
        with pytest.raises(ValueError) as caught:
            MODEL.stream(IDS, depth=1, **({"adds": {site: V}} if add else {"tape": [site]}))
        for word in ["expected", repr(site), "this call runs 1 blocks"]:
            assert word in str(caught.value)


@pytest.mark.parametrize("depth", [-1, LAYERS + 1, 1.0])
def test_a_depth_that_the_model_has_not_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"expected a depth, a whole number from 0 to {LAYERS}, got {depth}"):
        MODEL.stream(IDS, depth=depth)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.tensor([[0, 61]]), ["0 to 60", "61", "tokenizer"]),
        (torch.tensor([[0, -1]]), ["0 to 60", "-1"]),
        ([[1, 2, 3]], ["tensor", "list", "torch.tensor([ids])"]),
        (torch.tensor([1, 2, 3]), ["(B, T)", "(3,)", "torch.tensor([ids])"]),
        (torch.tensor(1), ["(B, T)", "()"]),
        (torch.tensor([[[1]]]), ["(B, T)", "(1, 1, 1)"]),
        (torch.tensor([[1.0, 2.0]]), ["whole-number", "float32"]),
        (torch.tensor([[True]]), ["whole-number", "bool"]),
        (torch.zeros(1, 0, dtype=torch.int64), ["at least one token", "(1, 0)"]),
        (torch.zeros(0, 3, dtype=torch.int64), ["at least one token", "(0, 3)"]),
        (torch.zeros(1, 25, dtype=torch.int64), ["at most 24", "25"]),
    ],
)
def test_wrong_ids_are_refused(ids: Tensor, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        MODEL(ids)
    for word in ["expected", "got", *words]:
        assert word in str(caught.value)


def test_an_add_that_overflows_in_the_models_dtype_is_refused() -> None:
    """1e6 is finite in float32, and infinity where it is added."""
    model = copy.deepcopy(MODEL).half()
    for add in (torch.full((WIDTH,), 1e6), lambda x: torch.full((WIDTH,), 1e6)):
        with pytest.raises(ValueError, match=r"expected finite values .* infinity in torch\.float16"):
            model(IDS, adds={("pre", 1): add})


def test_ids_on_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match=r'model\'s device cpu, got meta; write ids.to\("cpu"\)'):
        MODEL(torch.zeros(1, 2, dtype=torch.int64, device="meta"))


def test_adds_and_tapes_of_another_kind_are_refused() -> None:
    ids = random_ids(MODEL, 1, 2)
    with pytest.raises(ValueError, match="adds as a dictionary.*got list"):
        MODEL(ids, adds=[("pre", 1)])
    with pytest.raises(ValueError, match="a tape that can be filled.*got tuple"):
        MODEL(ids, tape=(("pre", 1),))


def test_a_list_tape_given_twice_is_refused() -> None:
    tape: list = [("pre", 1)]
    MODEL(IDS, tape=tape)
    with pytest.raises(ValueError, match="got a tensor: a list of sites serves one call"):
        MODEL(IDS, tape=tape)


def test_a_layer_can_be_a_numpy_integer() -> None:
    site = ("pre", np.int64(1))
    tape = [site]
    steered = MODEL(IDS, adds={site: V}, tape=tape)
    assert torch.equal(steered, MODEL(IDS, adds={("pre", 1): V}))
    assert tape[0].shape == (*IDS.shape, WIDTH)


@pytest.mark.once
@pytest.mark.parametrize("rows", [[], [[]], [[1], []]])
def test_padding_nothing_is_refused(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="expected one row or more, each with one id or more, got"):
        pad(rows)


def test_a_refused_call_computes_nothing_and_fills_no_tape() -> None:
    calls = []
    tape: dict = {}
    with pytest.raises(ValueError, match="expected a tensor"):
        MODEL(IDS, adds={("pre", 0): lambda x: calls.append(1) or x, ("pre", 2): random_tensor(3)}, tape=tape)
    assert not calls
    assert not tape


# --- config, start, and the file alone ------------------------------------------------------------------------------


@pytest.mark.once
def test_the_defaults_are_gpt2_xl() -> None:
    config = GPT2Config()
    assert (config.n_layer, config.n_head, config.n_embd) == (48, 25, 1600)
    assert (config.n_positions, config.vocab_size, config.layer_norm_epsilon) == (1024, 50257, 1e-5)
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT2(config).parameters()) == 1_557_611_200


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 7}, ["n_embd", "1600", "n_head=7"]),
        ({"n_layer": 0}, ["n_layer", "0"]),
        ({"n_embd": 1600.0}, ["n_embd", "1600.0"]),
        ({"vocab_size": -1}, ["vocab_size", "-1"]),
    ],
)
def test_a_config_that_is_no_model_is_refused(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        GPT2Config(**change)
    for word in ["expected", "got", *words]:
        assert word in str(caught.value)


@pytest.mark.once
def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        GPT2Config().n_layer = 3  # type: ignore[misc]


@pytest.mark.once
def test_the_file_works_copied_alone_into_another_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(model_file.__file__, tmp_path / "a_copied_gpt2.py")
    monkeypatch.syspath_prepend(tmp_path)
    copied = importlib.import_module("a_copied_gpt2")
    try:
        model = copied.GPT2(copied.GPT2Config(**asdict(MODEL.config)))
        model.load_state_dict(MODEL.state_dict())
        cache = copied.Cache(model, 2, 7)
        with torch.no_grad():
            assert torch.equal(model(IDS, adds={("pre", 1): V}, cache=cache), MODEL(IDS, adds={("pre", 1): V}))
    finally:
        del sys.modules["a_copied_gpt2"]


@pytest.mark.parametrize("change", ["one less", "one twice", "two exchanged"])
def test_blocks_out_of_their_order_are_refused(change: str) -> None:
    """A site is found by the block's own number: `("pre", 1)` of a block that is not the second would be missed, or another's."""
    model = copy.deepcopy(MODEL)
    if change == "one less":
        del model.blocks[1]
    elif change == "one twice":
        model.blocks[1] = model.blocks[0]
    else:
        model.blocks[0], model.blocks[1] = model.blocks[1], model.blocks[0]
    with pytest.raises(ValueError, match="expected blocks that say layer=0 to 2 in their order"):
        model(IDS, adds={("pre", 1): V})


def test_heads_that_no_attention_records_are_refused() -> None:
    model = copy.deepcopy(MODEL)
    attention = model.blocks[1].attn
    model.blocks[1].attn = type(
        "Plain", (torch.nn.Module,), {"forward": lambda self, x, past, sites: attention(x, past)}
    )()
    tape: dict = {("head", 1): None}
    with pytest.raises(ValueError, match=r"expected blocks that record \[\('head', 1\)\]"):
        model(IDS, tape=tape)
    assert tape == {("head", 1): None}


@pytest.mark.parametrize("inference", [False, True])
def test_a_function_that_changes_the_stream_itself_is_refused(inference: bool) -> None:
    """What it changes would reach positions that nobody asked for, and no receipt."""
    for f in (lambda x: x.mul_(0.5), lambda x: torch.zeros_like(x.sub_(V)), lambda x: x[:, :1].zero_()):
        with (
            torch.inference_mode(inference),
            pytest.raises(
                ValueError, match="expected a function that leaves the stream as it is, got one that changes"
            ),
        ):
            MODEL(IDS, adds={("mid", 1): f})
