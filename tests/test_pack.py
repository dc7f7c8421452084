"""`pack` changes the order in which the matrices lie in memory and nothing else that a caller can see; `int8` rounds them."""

import copy
import io
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import both, random_ids, random_tensor, relative

from ministeer.generate import generate, prefill
from ministeer.model import ACTIVATIONS, Cache, Linear, Transformer
from ministeer.pack import FUSED, HeldEmbedding, Int8, Packed, int8, pack, supported, widest
from ministeer.provenance import fingerprint
from ministeer.steer import Steer
from ministeer.sweep import sweep

BOTH = both(8, 97, 40, 60, 3, 6)
MODEL, THEIRS = BOTH["gpt2"]
WIDE = both(8, 97, 40, 64, 3, 4)  # a width at which int8 turns whole blocks

needs_bf16 = pytest.mark.skipif(not supported(), reason="no bfloat16 in oneDNN here")


def fresh(dtype: torch.dtype = torch.bfloat16, model: Transformer | None = None) -> Transformer:
    return copy.deepcopy(model or MODEL).to(dtype)


def inner(model: Transformer) -> Any:
    """The first matrix of the first MLP."""
    return next(iter(model.blocks[0].mlp.children()))


@needs_bf16
@pytest.mark.parametrize("tokens", [1, 2, 9, 40])
def test_as_close_to_float32_as_the_unpacked_model(tokens: int) -> None:
    plain, packed, exact = fresh(), pack(fresh()), fresh().float()
    ids = random_ids(plain, 60, tokens)
    assert relative(packed(ids), exact(ids)) < 1.2 * relative(plain(ids), exact(ids))


@needs_bf16
def test_token_by_token_is_the_whole_text() -> None:
    model, ids = pack(fresh()), random_ids(fresh(), 2, 9)
    cache = Cache(model, 2, 9)
    steps = torch.cat([model(ids[:, i : i + 1], cache=cache) for i in range(9)], 1)
    assert relative(steps, model(ids)) < 0.05


@needs_bf16
def test_it_is_the_same_model_to_fingerprint_and_state_dict() -> None:
    plain, packed = fresh(), pack(pack(fresh()))  # packing twice is packing once
    assert fingerprint(packed) == fingerprint(plain)
    assert "): Packed" in repr(packed)
    state = packed.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())


@needs_bf16
def test_heads_steering_and_generation_work_packed() -> None:
    plain, packed = fresh(), pack(fresh())
    ids = random_ids(plain, 2, 7)
    tapes = [[("head", 1), ("mid", 1)] for _ in range(2)]
    for model, tape in zip((plain, packed), tapes, strict=True):
        model(ids, adds={("pre", 1): random_tensor(60)}, tape=tape)
    for a, b in zip(*tapes, strict=True):
        assert relative(b.flatten(2), a.flatten(2)) < 0.05
    steer = Steer(random_tensor(60), ("pre", 1), 2.0)
    assert len(generate(packed, ids, max_new_tokens=5, steer=steer, temperature=0)[0]) == 12


@needs_bf16
def test_gradients_are_those_of_the_unpacked_model() -> None:
    """The operator has none: a stream that needs one goes another way, and the loss is no wrong gradient in silence."""
    found = []
    for model in (fresh(), pack(fresh())):
        v = random_tensor(60).requires_grad_()
        model(random_ids(model, 2, 7), adds={("pre", 1): v})[..., 5].sum().backward()
        found.append(v.grad)
    assert relative(found[1], found[0]) < 0.05


@pytest.mark.parametrize("change", [pack, int8])
def test_only_on_a_cpu_in_bfloat16_or_float32(change: Callable[[Transformer], Transformer]) -> None:
    with pytest.raises(ValueError, match=r"expected a model in bfloat16 or float32 on the CPU, got torch\.float16"):
        change(fresh().half())


def test_float32_packs_too() -> None:
    plain, packed = fresh(torch.float32), pack(fresh(torch.float32))
    for tokens in (1, 2, 3, 4, 9):
        ids = random_ids(plain, 1, tokens)
        assert relative(packed(ids), plain(ids)) < 1e-5
    assert fingerprint(packed) == fingerprint(plain)


def hadamard(width: int) -> torch.Tensor:
    """Entry (i, j) is negative where i and j have an odd number of bits in common; a block for each 64 columns."""
    size = next(n for n in (64, 32, 16, 8, 4, 2, 1) if width % n == 0)
    block = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
    return torch.block_diag(*[block / size**0.5] * (width // size)).double()


def linear_of(weight: torch.Tensor) -> Linear:
    linear = Linear(*weight.shape[::-1], bias=False)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


@pytest.fixture(params=[127, 63, 0])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The ways of `Int8` that the processor has: what tokens are rounded to, 0 for not at all."""
    if request.param > widest():
        pytest.skip("no exact product of such whole numbers here")
    monkeypatch.setattr("ministeer.pack.widest", lambda: request.param)
    return int(request.param)


@pytest.mark.once
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_the_turned_matrix_to_half_a_step_of_each_row(dtype: torch.dtype, most: int) -> None:
    linear = Linear(512, 5).to(dtype).requires_grad_(False)
    linear.weight[1] *= 100  # a row's step is its own
    linear.weight[2] = 0.0
    held, exact = Int8(linear), linear.weight.double()
    step = (exact @ hadamard(512)).abs().amax(1, keepdim=True) / 127
    found = held.rounded.double() * held.scale.double()[:, None]
    assert bool(((found - exact @ hadamard(512)).abs() <= 0.501 * step).all())
    assert held.rounded.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    assert relative(held.weight.flatten(), (found @ hadamard(512)).flatten()) < (
        0.003 if dtype == torch.bfloat16 else 1e-6
    )


@pytest.mark.once
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 4, 5, 257])
@pytest.mark.parametrize("width", [15, 60, 64, 192])
@pytest.mark.parametrize("activation", [None, "gelu_new", "silu"])
def test_int8_is_the_product_of_what_was_rounded(
    most: int, activation: str | None, width: int, tokens: int, dtype: torch.dtype
) -> None:
    """Matrix and tokens, each row by its largest entry; the matrix alone where the processor has no product of whole numbers."""
    linear = Linear(width, 24).to(dtype).requires_grad_(False)
    held, x, h = Int8(linear), random_tensor(tokens, width).to(dtype), hadamard(width)
    y = x.double() @ h
    step = y.abs().amax(1, keepdim=True) / (most or 1)
    whole = (y / step).round() * step if most else y
    expected = whole @ (held.rounded.double() * held.scale.double()[:, None]).T + linear.bias.double()
    if activation:
        expected = ACTIVATIONS[activation](expected)
    found = held(x[None], activation)[0]
    assert found.dtype == dtype and found.shape == (tokens, 24)
    bound = 0.02 if dtype == torch.bfloat16 else 2e-3
    bound *= 2.5 if most == 63 else 1  # its steps are twice as large, and a few tokens' sums come in bfloat16
    assert not tokens or relative(found.double(), expected) < bound


@pytest.mark.once
def test_an_entry_larger_than_all_others_does_not_set_the_step(most: int) -> None:
    """Of a stream's entries some are hundreds of times the rest: rounded as they are, the rest would be lost."""
    linear, x = Linear(256, 64).requires_grad_(False), random_tensor(8, 256)
    linear.weight[:, 7] = 0.0  # nothing reads it: what it costs is the rounding of the others
    x[:, 7] = 30 * x.abs().max()
    exact = x @ linear.weight.T + linear.bias
    step = x.abs().amax(1, keepdim=True) / (most or 127)
    as_they_are = (x / step).round() * step @ linear.weight.T + linear.bias
    assert relative(Int8(linear)(x), exact) < 0.3 * relative(as_they_are, exact)


@pytest.mark.once
def test_what_is_not_a_number_stays_so_and_in_its_row(most: int) -> None:
    x = random_tensor(3, 64)
    held, before = Int8(Linear(64, 8).requires_grad_(False)), x.clone()
    x[0, 5], x[1, 5] = float("nan"), float("inf")
    found = held(x)
    assert not found[:2].isfinite().any() and torch.equal(found[2], held(before)[2])
    assert not held(x[:1]).isfinite().any() and not held(x[1:2]).isfinite().any()
    assert torch.equal(held(torch.zeros(2, 64)), held.bias.expand(2, 8))


@pytest.mark.once
def test_activations_that_are_fused_are_the_models() -> None:
    assert {*FUSED} == {None, *ACTIVATIONS}
    linear = Linear(64, 2**9).requires_grad_(False)
    for name, x in itertools.product(ACTIVATIONS, (random_tensor(1, 64), random_tensor(3, 64))):
        for held in (Packed(linear), Int8(linear)):
            assert relative(held(x, name), ACTIVATIONS[name](held(x))) < 1e-5


def test_int8_rounds_the_unembedding_where_it_rounds_tokens_to_8_bits(architecture: str, most: int) -> None:
    model = fresh(torch.float32)
    x, exact = random_tensor(3, 60), model.head.weight.clone()
    rounded = Int8(linear_of(exact)) if most == 127 else linear_of(exact)
    head = int8(model).head
    assert relative(head.scores(x), rounded(x)) < 1e-5 and torch.equal(head.weight, exact)
    assert torch.equal(head(torch.arange(5)), exact[:5])  # what embeds is as it was


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 4, 5, 40])
@pytest.mark.parametrize("width", [60, 64])
def test_int8_computes_with_the_rounded_matrices(
    architecture: str, width: int, dtype: torch.dtype, tokens: int, most: int
) -> None:
    """It is a plain model with the rounded weights, to what rounding the tokens adds."""
    model = MODEL if width == 60 else WIDE[architecture].ours
    rounded = int8(fresh(dtype, model))
    plain = fresh(dtype, model)
    plain.load_state_dict(rounded.state_dict())
    ids = random_ids(plain, 1, tokens)
    bound = {127: 0.12, 63: 0.24, 0: 0.12 if dtype == torch.bfloat16 else 1e-5}[most]
    assert relative(rounded(ids), plain(ids)) < bound
    by_columns = fresh(dtype, model)  # as a file mapped into memory, or a model of transformers, has them
    for linear in (m for m in by_columns.modules() if isinstance(m, Linear)):
        linear.weight = torch.nn.Parameter(linear.weight.t().contiguous().t(), requires_grad=False)
    assert torch.equal(int8(by_columns)(ids), rounded(ids))
    if dtype == torch.float32:
        assert (
            1e-3
            < relative(rounded(ids), fresh(dtype, model)(ids))
            < (0.1 if width == 64 else 0.2) * (2 if most == 63 else 1)
        )  # and it is not the model it was
        again = inner(int8(plain))  # what was saved loses nothing more
        assert torch.equal(again.rounded, inner(rounded).rounded) and relative(again.scale, inner(rounded).scale) < 1e-6


@pytest.mark.parametrize("form", [pack, int8])
def test_a_sweep_over_prompts_that_begin_alike_runs_in_every_form(form: Callable[[Transformer], Transformer]) -> None:
    """Their beginning goes through the last MLP with no token that is read: an empty stream is a stream too."""
    model = form(fresh(torch.float32))
    close = 2e-2 if form is int8 and widest() == 63 else 1e-4  # few tokens are rounded to bfloat16 there
    prompts = [[*range(12), i] for i in range(6)]
    rows = sweep(model, prompts, lambda logits, i: logits[:, 0], {"v": random_tensor(60)}, [0, 1], [2.0])
    for row in rows:
        steer = Steer(random_tensor(60), ("pre", row["site"][1]), 2.0)
        expected = prefill(model, [prompts[row["prompt"]]], steer=steer)[0, 0]
        assert abs(row["score"] - float(expected)) < close


def test_one_form_after_the_other_is_an_error() -> None:
    for first, second in ((pack, int8), (int8, pack)):
        with pytest.raises(ValueError, match="expected a model as it was loaded, got one that is"):
            second(first(fresh(torch.float32)))


@pytest.mark.parametrize("form", [pack, int8])
def test_one_matrix_at_a_time_is_held_twice(
    form: Callable[[Transformer], Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old matrix goes when the new one is there."""
    model = fresh(torch.float32)
    old = [weakref.ref(m) for m in model.modules() if isinstance(m, Linear)]
    alive: list[int] = []
    kind = Packed if form is pack else Int8
    begin = kind.__init__

    def watched(self: Packed | Int8, linear: Linear) -> None:
        alive.append(sum(ref() is not None for ref in old))
        begin(self, linear)

    monkeypatch.setattr(kind, "__init__", watched)
    form(model)
    assert alive[-1] <= 2
    assert len(alive) == len(old) + (form is pack or widest() == 127)  # and the unembedding


def test_int8_is_another_model_to_the_fingerprint() -> None:
    assert fingerprint(int8(fresh())) != fingerprint(fresh())


def test_int8_takes_a_byte_for_each_number_or_two_without_vnni() -> None:
    held, plain = inner(int8(fresh())), inner(fresh())
    assert held.rounded.nbytes * 2 == plain.weight.nbytes
    kept = {id(x): x for x in (held.held, held.rows) if x is not None}.values()
    assert all(x.dtype == torch.int8 and x.numel() == plain.weight.numel() for x in kept)
    assert len(kept) == (2 if widest() == 63 else 1)
    assert len(held.state_dict()) == len(plain.state_dict())
    assert sum(p.numel() for p in held.parameters()) == (
        0 if held.bias is None else len(held.bias)
    )  # not kept beside it


@needs_bf16
def test_what_a_packed_model_cannot_do_is_an_error() -> None:
    other = {name: tensor + 1 for name, tensor in fresh().state_dict().items()}
    for change in (Transformer.float, lambda m: m.to("meta"), lambda m: m.load_state_dict(other), copy.deepcopy,
                   lambda m: torch.save(m, io.BytesIO()),
                   lambda m: m.blocks[0].float(), lambda m: copy.deepcopy(m.blocks)):  # fmt: skip
        for held in (pack(fresh()), int8(fresh())):
            before = held(random_ids(held, 1, 5))
            with pytest.raises(RuntimeError, match="load it again"):
                change(held)
            assert torch.equal(held(random_ids(held, 1, 5)), before), "and nothing of it changed"
            assert {p.dtype for p in held.parameters()} == {torch.bfloat16}


# --- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [pack, int8])
def test_a_change_that_would_be_lost_is_an_error(form: Callable[[Transformer], Transformer]) -> None:
    model = form(fresh(torch.float32))
    before, ids = model(random_ids(model, 1, 3)), random_ids(model, 1, 3)
    with torch.no_grad(), pytest.raises(RuntimeError, match="inference tensor"):
        inner(model).weight.zero_()
    for change in (
        lambda: model.requires_grad_(True), lambda: inner(model).half(), lambda: model.blocks[0].float(),
        lambda: inner(model).weight.data.zero_(), lambda: setattr(inner(model).weight, "data", torch.zeros(2)),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="a packed model stays as it is"):
            change()
    assert torch.equal(model(ids), before)


def test_a_packed_embedding_is_not_converted_alone() -> None:
    model = pack(fresh(torch.float32))
    with pytest.raises(RuntimeError, match="a packed model stays as it is"):
        model.head.half()


def test_an_embedding_changed_after_packing_is_an_error_where_its_packed_copy_is_read() -> None:
    model = pack(fresh(torch.float32))
    ids = random_ids(model, 1, 3)
    model(ids)
    with torch.no_grad():
        model.head.weight[3] *= 2
    with pytest.raises(RuntimeError, match="a packed model stays as it is"):
        model(ids)


def test_compiled_blocks_share_one_graph_which_steering_never_enters() -> None:
    """Another coefficient, vector or layer compiles nothing: what is added stands outside what is compiled."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain, model = fresh(torch.float32), fresh(torch.float32)
    for block in model.blocks:
        block.mlp.compile(backend="eager")  # the graphs without the machine code
    ids, found = random_ids(model, 1, 5), []
    for layer, coeff, seed in ((0, 1.0, 0), (2, 1.0, 0), (2, -3.0, 0), (1, 2.0, 1)):
        steer = Steer(random_tensor(60, seed=seed), ("pre", layer), coeff)
        asked = {"max_new_tokens": 4, "steer": steer, "temperature": 0}
        assert generate(model, ids, **asked) == generate(plain, ids, **asked)
        found.append(counters["stats"]["unique_graphs"])
    assert found == [found[0]] * 4
    assert 1 <= found[0] <= 2  # one for a prompt and one for a token, whatever the number of blocks


class Adapted(Linear):
    """A matrix that computes more than its product, as adapters by subclass do."""


@pytest.mark.parametrize("form", [pack, int8])
@pytest.mark.parametrize("way", ["hook", "pre-hook", "forward", "subclass"])
def test_what_a_matrix_does_beside_its_product_is_not_lost(
    form: Callable[[Transformer], Transformer], way: str
) -> None:
    model = fresh(torch.float32)
    matrix, part = inner(model), model.blocks[0].mlp
    if way == "subclass":
        name = next(name for name, child in part.named_children() if child is matrix)
        setattr(part, name, Adapted(matrix.in_features, matrix.out_features))
    elif way == "forward":
        matrix.forward = lambda x: 2 * x  # type: ignore[method-assign]
    else:
        (matrix.register_forward_pre_hook if way == "pre-hook" else matrix.register_forward_hook)(lambda *_: None)
    with pytest.raises(ValueError, match="expected plain matrices, got .* at blocks.0.mlp"):
        form(model)
    assert not any(isinstance(child, (Packed, Int8)) for child in model.modules())


def test_what_an_unembedding_does_beside_its_product_is_not_lost() -> None:
    model = fresh(torch.float32)
    handle = model.head.register_forward_hook(lambda _m, _a, out: 2 * out)
    with pytest.raises(ValueError, match="expected plain matrices, got a hook or a forward of its own at "):
        pack(model)
    handle.remove()
    assert not any(isinstance(child, Packed) for child in model.modules())
    assert type(pack(model).head) is HeldEmbedding


@pytest.mark.parametrize("form", [pack, int8])
def test_a_sweep_of_a_packed_model_goes_on_where_it_was_cut_off(
    form: Callable[[Transformer], Transformer], tmp_path: Path
) -> None:
    def done(model: Transformer) -> list[Any]:
        vectors = {"v": random_tensor(model.config.width, scale=1.0)}
        return sweep(model, [[1, 2, 3]], [[[5], [6]]], vectors, [1, 2], [0.0, 1.0], path=tmp_path / "rows.jsonl")

    rows = done(form(fresh(torch.float32)))
    assert done(form(fresh(torch.float32))) == rows and len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    other = fresh(torch.float32)
    inner(other).weight.data[0, 0] += 1
    assert not {row["key"] for row in done(form(other))} & {row["key"] for row in rows}
