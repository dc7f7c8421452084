"""A stream that overflows is told by whatever reads it: no vector, score or text is made of NaN, or of a norm that is zero."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import both, random_tensor

from ministeer import calibrate, extract, generate, heads, prefill, say, sweep
from ministeer.generate import decode
from ministeer.interventions import Gate
from ministeer.lab.answers import answers, disturbance
from ministeer.model import Cache, Transformer, check_stream
from ministeer.provenance import Provenance
from ministeer.steer import Steer, resolve
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

BOTH = both(3, 257, 48, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
V, SITE, IDS = random_tensor(48, seed=1, scale=1.0), ("pre", 1), [[3, 14, 15], [9, 2]]
VECTOR = SteeringVector({("pre", 1): V}, Provenance("m" * 16, "none", "0" * 16, "last", "float32"))
ITEMS = [{"prompt": "so", "words": ["a", "b"]}]


def later(model: Transformer) -> Any:
    """Decoding, after a cache of another model's prompts, so that nothing is read before."""
    cache = Cache(model, 2, 8)
    cache.lengths = torch.tensor([3, 2])
    return decode(model, torch.tensor([1, 2]), cache, resolve(model, None, IDS))


READERS: dict[str, Callable[[Transformer], Any]] = {
    "prefill": lambda m: prefill(m, IDS),
    "prefill into a cache": lambda m: prefill(m, IDS, Cache(m, 2, 8)),
    "decode": later,
    "generate": lambda m: generate(m, IDS, max_new_tokens=2),
    "say": lambda m: say(m, BYTES, "so"),
    "streams": lambda m: extract.streams(m, IDS, [1, 0], [("pre", 2)]),
    "contrastive": lambda m: extract.contrastive(m, BYTES, [("a", "b")]),
    "activation addition": lambda m: extract.activation_addition(m, BYTES, "a", "b", SITE),
    "function vector": lambda m: extract.function_vector(m, BYTES, ["ab"], SITE),
    "mean writes": lambda m: heads.mean_writes(m, BYTES, ["ab"]),
    "indirect effects": lambda m: heads.indirect_effects(m, BYTES, ["ab"], ["c"], torch.zeros(3, 4, 48)),
    "heads": lambda m: heads.function_vector(m, BYTES, ["ab"], [(1, 1)], SITE),
    "gate": lambda m: Gate(V, SITE, 0.0).passes(m, IDS),
    "gate, mean": lambda m: Gate(V, SITE, 0.0, "mean").passes(m, IDS),
    "calibrate": lambda m: calibrate(m, IDS, Steer(V, SITE), kl=0.01),
    "sweep of logits": lambda m: sweep(m, IDS, lambda logits, i: logits[:, 0], {"v": V}, [1], [1.0]),
    "sweep of answers": lambda m: sweep(m, IDS, [[[1]], [[2]]], {"v": V}, [1], [1.0], where="last"),
    "answers": lambda m: answers(m, BYTES, items=ITEMS, vectors={"v": VECTOR}, layers=[1], coefficients=[1.0]),
    "disturbance": lambda m: disturbance(m, BYTES, texts=["so"], vectors={"v": VECTOR}, layer=1, coefficients=[1.0]),
}


@pytest.mark.parametrize("reader", READERS)
def test_whatever_reads_a_stream_that_overflows_says_so(reader: str) -> None:
    """All weights are finite, and so is the stream; its square is not. A layer norm makes NaN of it, Llama's makes zeros."""
    READERS[reader](MODEL)
    far = copy.deepcopy(MODEL)
    far.wte.weight.mul_(1e25)
    with pytest.raises(ValueError, match="a stream that is finite, and so is its length, got NaN, infinity or .* 1e19"):
        READERS[reader](far)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e20])
def test_one_number_that_is_none_is_enough(bad: float) -> None:
    x = random_tensor(2, 3, 48, seed=2)
    assert check_stream(x) is x
    x[1, 2, 7] = bad
    with pytest.raises(ValueError, match="too large for torch.float32"):
        check_stream(x)


def test_adds_that_are_finite_each_can_overflow_together() -> None:
    half = copy.deepcopy(MODEL).half()
    steers = [Steer(V / V.abs().max(), ("pre", i), 6e4) for i in (1, 2)]
    assert prefill(half, IDS, steer=steers[:1]).isfinite().all()
    with pytest.raises(ValueError, match="too large for torch.float16"):
        prefill(half, IDS, steer=steers)
