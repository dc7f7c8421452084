"""What users put on a model, adapters and hooks: computed as the plain forward pass has it, or refused."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference import TOLERANCE, both, random_ids, random_tensor, relative
from torch import Tensor, nn

from ministeer import extract, heads, sweep
from ministeer.model import Embedding, Linear, Transformer
from ministeer.pack import int8, pack, supported
from ministeer.provenance import fingerprint
from ministeer.tokenizer import Tokenizer

BOTH = both(17, 257, 32, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)  # a token a byte
MATRICES = {name: [n for n, m in BOTH[name][0].blocks[1].named_modules() if isinstance(m, Linear)] for name in BOTH}


class LowRank(nn.Module):
    """A matrix with a low-rank change beside it, as adapters are hung into a model: other arguments go to the matrix."""

    def __init__(self, base: nn.Module, seed: int) -> None:
        super().__init__()
        self.base = base
        (out, n), scaled = base.weight.shape, {"scale": 0.3}  # type: ignore[misc, union-attr]
        self.down, self.up = (nn.Parameter(random_tensor(*s, seed=seed, **scaled)) for s in ((2, n), (out, 2)))

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        return self.base(x, *more) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]


def adapted(name: str) -> Transformer:
    """The model with an adapter on one matrix of block 1."""
    model = copy.deepcopy(MODEL)
    model.blocks[1].set_submodule(name, LowRank(model.blocks[1].get_submodule(name), seed=3))
    return model


def merged(name: str) -> Transformer:
    """The model with the same change in the weight."""
    model, adapter = copy.deepcopy(MODEL), adapted(name).blocks[1].get_submodule(name)
    with torch.no_grad():
        model.blocks[1].get_submodule(name).weight += adapter.up @ adapter.down  # type: ignore[operator]
    return model


def test_an_adapter_on_any_matrix_is_the_change_in_the_weight(architecture: str) -> None:
    ids = random_ids(MODEL, 2, 7)
    plain = MODEL(ids)
    for name in MATRICES[architecture]:
        expected = merged(name)(ids)
        assert relative(adapted(name)(ids), expected) < TOLERANCE, name
        assert relative(plain, expected) > 100 * TOLERANCE, name


def test_an_adapter_changes_the_fingerprint(architecture: str) -> None:
    found = [fingerprint(MODEL), *(fingerprint(adapted(name)) for name in MATRICES[architecture])]
    assert len({*found}) == len(found)
    bare = copy.deepcopy(MODEL)
    name = MATRICES[architecture][0]
    bare.blocks[1].set_submodule(name, nn.Linear(48, len(MODEL.blocks[1].get_submodule(name).weight)))  # type: ignore[arg-type]
    hidden = nn.Sequential(bare.blocks[1].get_submodule(name))
    bare.blocks[1].set_submodule(name, hidden)  # shows no weight
    assert fingerprint(bare) not in found


def test_the_writes_of_heads_are_refused_after_an_adapter_or_a_hook(architecture: str) -> None:
    writer, ids = {"gpt2": "attn.c_proj", "llama": "attn.o"}[architecture], random_ids(MODEL, 1, 5)
    hooked = copy.deepcopy(MODEL)
    hooked.blocks[1].get_submodule(writer).register_forward_hook(lambda _m, _a, out: 2 * out)
    patched = copy.deepcopy(MODEL)
    patched.blocks[1].get_submodule(writer).forward = lambda x: 2 * x  # type: ignore[method-assign, assignment]
    for model in (adapted(writer), hooked, patched):
        with pytest.raises(ValueError, match="expected a plain matrix after the heads of layer 1, got an adapter or a"):
            model(ids, tape=[("head", 1)])
        model(ids, tape=[("head", 0)])  # another layer's are as they were
    for name in set(MATRICES[architecture]) - {writer}:
        tape, expected = [("head", 1)], [("head", 1)]
        adapted(name)(ids, tape=tape)
        merged(name)(ids, tape=expected)
        assert relative(tape[0], expected[0]) < TOLERANCE, name


class AdaptedHead(Embedding):
    """An unembedding with a low-rank change beside it."""

    def scores(self, x: Tensor) -> Tensor:
        down, up = (random_tensor(n, 2, seed=n, scale=1.0).to(x) for n in (x.shape[-1], self.num_embeddings))
        return super().scores(x) + x @ down @ up.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapted_unembedding_counts_in_a_sweep(dtype: torch.dtype) -> None:
    model = copy.deepcopy(MODEL).to(dtype)
    name = "wte" if model.lm_head is None else "lm_head"
    head = AdaptedHead(257, 48).to(dtype)
    head.weight = getattr(model, name).weight
    setattr(model, name, head)
    rows = sweep(model, [[1, 2, 3]], [[[5], [6]]], {"v": random_tensor(48)}, [1], [0.0])
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, 3]]))[0, -1].float().log_softmax(-1)[[5, 6]]
    assert relative(torch.tensor(rows[0]["score"]), expected) < (1e-5 if dtype == torch.float32 else 2e-2)
    plain = MODEL(torch.tensor([[1, 2, 3]]))[0, -1].log_softmax(-1)[[5, 6]]
    assert relative(plain.float(), expected) > 5e-2


def test_the_fingerprint_of_an_adapted_model_holds_the_matrices_under_its_adapters() -> None:
    if not supported(torch.float32):
        pytest.skip("no oneDNN here")
    name = MATRICES["gpt2" if hasattr(MODEL.blocks[0].attn, "c_attn") else "llama"][0]
    one = adapted(name).float()
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.blocks[1].get_submodule(name).base.weight.neg_()  # type: ignore[operator, union-attr]
    found = [fingerprint(one), fingerprint(other)]
    assert found[0] != found[1]
    assert [fingerprint(pack(one)), fingerprint(pack(other))] == found


def first_token(_m: Any, _a: Any, out: Tensor) -> Tensor:
    """A hook that means the first token of a text."""
    return torch.cat([out[:, :1] + 1, out[:, 1:]], 1)


@pytest.mark.parametrize("part", ["", "mlp", "attn"])
def test_pairs_are_read_whole_under_a_hook(part: str) -> None:
    """Without one, what two texts begin with alike is read once, and a hook would see their ends as beginnings."""
    model, pair = copy.deepcopy(MODEL), ("so it is good", "so it is bad")
    model.blocks[1].get_submodule(part).register_forward_hook(first_token)
    read = extract.read(model, BYTES, [pair], ("pre", 3), token="last")
    for side, text in enumerate(pair):
        tape: list[Any] = [("pre", 3)]
        model(torch.tensor([BYTES.prompt(text)]), tape=tape)
        assert relative(read.streams["pre", 3][0, side], tape[0][0, -1]) < TOLERANCE


@pytest.mark.parametrize("part", ["mlp", "attn"])
def test_what_runs_variants_side_by_side_refuses_a_hook_on_any_part(part: str) -> None:
    model = copy.deepcopy(MODEL)
    model.blocks[1].get_submodule(part).register_forward_hook(first_token)
    with pytest.raises(ValueError, match=f"without hooks .* got one on blocks.1.{part}; remove it"):
        sweep(model, [[1, 2]], lambda logits, i: logits[:, 0], {"v": random_tensor(48)}, [1], [1.0])
    with pytest.raises(ValueError, match=f"without hooks .* got one on blocks.1.{part}; remove it"):
        heads.mean_writes(model, BYTES, ["ab"])


@pytest.mark.parametrize("form", [pack, int8])
def test_a_hook_on_a_packed_matrix_sees_its_product_alone(form: Any) -> None:
    """The activation is part of a packed product, but not where somebody looks at the product."""
    if not supported(torch.float32):
        pytest.skip("no oneDNN here")
    mlp, x = form(copy.deepcopy(MODEL).float()).blocks[1].mlp, random_tensor(1, 3, 48).float()
    matrix, seen = mlp.get_submodule("c_fc" if hasattr(mlp, "c_fc") else "gate"), []
    expected = mlp(x)
    handle = matrix.register_forward_hook(lambda _m, _a, out: seen.append(out))
    assert relative(mlp(x), expected) < 1e-5
    product = F.linear(x, matrix.weight, matrix.bias)
    assert relative(seen[0], product) < (1e-5 if form is pack else 0.02)  # int8 rounds x too
    handle.remove()
    matrix.register_forward_pre_hook(lambda _m, given: 1.0 * given[0])  # what it returns are all the arguments
    assert relative(mlp(x), expected) < 1e-5
