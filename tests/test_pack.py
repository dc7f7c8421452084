"""`pack` changes the order in which the matrices lie in memory and nothing else that a caller can see."""

import pytest
import torch
from reference import random_ids, random_tensor, relative

from ministeer.generate import generate
from ministeer.model import GPT2, Cache, GPT2Config
from ministeer.pack import pack, supported
from ministeer.provenance import fingerprint
from ministeer.vectors import Steer

CONFIG = GPT2Config(vocab_size=97, n_positions=40, n_embd=60, n_layer=3, n_head=12)

pytestmark = pytest.mark.skipif(not supported(), reason="no bfloat16 in oneDNN here")


def fresh() -> GPT2:
    model = GPT2(CONFIG).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    model.initialize(generator)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.bfloat16()


@pytest.mark.parametrize("tokens", [1, 2, 9, 40])
def test_as_close_to_float32_as_the_unpacked_model(tokens: int) -> None:
    plain, packed, exact = fresh(), pack(fresh()), fresh().float()
    ids = random_ids(plain, 3, tokens)
    assert relative(packed(ids), exact(ids)) < 1.2 * relative(plain(ids), exact(ids))


def test_token_by_token_is_the_whole_text() -> None:
    model, ids = pack(fresh()), random_ids(fresh(), 2, 9)
    cache = Cache(model, 2, 9)
    steps = torch.cat([model(ids[:, i : i + 1], cache=cache) for i in range(9)], 1)
    assert relative(steps, model(ids)) < 0.05


def test_it_is_the_same_model_to_fingerprint_and_state_dict() -> None:
    plain, packed = fresh(), pack(pack(fresh()))  # packing twice is packing once
    assert fingerprint(packed) == fingerprint(plain)
    state = packed.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())


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


def test_gradients_are_those_of_the_unpacked_model() -> None:
    """The operator has none: a stream that needs one goes another way, and the loss is no wrong gradient in silence."""
    found = []
    for model in (fresh(), pack(fresh())):
        v = random_tensor(60).requires_grad_()
        model(random_ids(model, 2, 7), adds={("pre", 1): v})[..., 5].sum().backward()
        found.append(v.grad)
    assert relative(found[1], found[0]) < 0.05


def test_only_bfloat16() -> None:
    with pytest.raises(ValueError, match=r"expected a model in bfloat16 on the CPU, got torch\.float32"):
        pack(fresh().float())


def test_what_a_packed_model_cannot_do_is_an_error() -> None:
    for change in (GPT2.float, lambda m: m.to("meta"), lambda m: m.load_state_dict(fresh().state_dict())):
        with pytest.raises(RuntimeError, match="load it again"):
            change(pack(fresh()))
