"""Under another default dtype of torch, as a script sets it to load a large model, every number is what it is under float32."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import both, random_tensor
from torch import Tensor

import ministeer
from ministeer import Receipt, Steer, calibrate, extract, generate, heads, interventions, metrics
from ministeer.generate import sample
from ministeer.model import Transformer
from ministeer.sweep import sweep
from ministeer.tokenizer import Tokenizer

BOTH = both(3, 257, 48, 48, 3, 4)
MODEL: Transformer = BOTH["gpt2"][0]
TOK = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
SITE: Any = ("pre", 2)
V, W = (random_tensor(48, seed=seed, scale=1.0) for seed in (1, 2))
IDS = [256, *b"I feel"]
PAIRS = [("it was A", "it was B"), ("no: yes", "no: not"), ("x", "y"), ("so A!", "so B?")]
PROMPTS = ["so it is", "and that"]
LOGITS = random_tensor(3, 5, 9, seed=3, scale=2.0)
OTHERS = [torch.bfloat16, torch.float64]


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(**steer: Any) -> tuple[list[int], str]:
    """Tokens drawn under a Steer, and the receipt."""
    receipt, steer = Receipt(), {"vector": V, "coeff": 0.3} | steer
    drawn = {"top_p": 0.9, "frequency_penalty": 0.3, "repetition_penalty": 1.2, "generator": seeded()}
    return generate(MODEL, IDS, max_new_tokens=9, steer=Steer(site=SITE, **steer), receipt=receipt, **drawn), str(
        receipt
    )


def of_pairs(find: Callable[..., Any], **how: Any) -> Callable[[], Any]:
    def made() -> Any:
        vector = find(MODEL, TOK, PAIRS, SITE, **how)
        return vector[SITE], str(vector.health)

    return made


def all_drawn() -> Any:
    torch.manual_seed(0)
    many = [seeded(1), seeded(2)]
    return [generate(MODEL, [IDS, IDS], max_new_tokens=9, generator=g) for g in (None, seeded(), many)]


def one_vector() -> Any:
    return extract.activation_addition(MODEL, TOK, "Love", "Hate", SITE)


CALLS: dict[str, Callable[[], Any]] = {
    "logits": lambda: MODEL(torch.tensor([IDS])).detach(),
    "loaded": lambda: ministeer.load_model("nano").wte.weight.detach(),
    "contrastive": of_pairs(extract.contrastive),
    "contrastive of texts alike": of_pairs(lambda *a: extract.contrastive(MODEL, TOK, [("x", "y")], [SITE, ("pre", 0)])),
    "pca": of_pairs(extract.pca),
    "probe": of_pairs(extract.probe),
    "private_mean": lambda: extract.private_mean(MODEL, TOK, PAIRS, SITE, clip=1, epsilon=0.5, delta=1e-3, seed=0)[SITE],
    "activation_addition": lambda: one_vector()[SITE],
    "function_vector": lambda: extract.function_vector(MODEL, TOK, PROMPTS, SITE)[SITE],
    "random_like": lambda: extract.random_like(one_vector(), seed=0)[SITE],
    "mean_writes": lambda: heads.mean_writes(MODEL, TOK, PROMPTS),
    "indirect_effects": lambda: heads.indirect_effects(MODEL, TOK, PROMPTS, ["A", "B"], torch.ones(3, 4, 48) * V),
    "heads.function_vector": lambda: heads.function_vector(MODEL, TOK, PROMPTS, [(0, 0), (1, 2)], SITE)[SITE],
    "rotate": lambda: MODEL(torch.tensor([IDS]), adds={SITE: interventions.rotate(V, W)}).detach(),
    "clamp": lambda: told(vector=interventions.clamp(V)),
    "steered": lambda: told(where="last"),
    "decay": lambda: told(schedule=interventions.decay(3)),
    "half": lambda: told(schedule=lambda n: 0.3),
    "drawn": all_drawn,
    "calibrate": lambda: calibrate(MODEL, [IDS, [*IDS, 65]], Steer(V, SITE), kl=0.01),
    "gate": lambda: interventions.Gate(V, SITE, 0.0).cosines(MODEL, [IDS, IDS[:3]]),
    "sweep": lambda: sweep(MODEL, [IDS, IDS[:3]], [[[65], [66]]] * 2, {"v": V, "f": interventions.relative(V)}, [1], [0.3]),
    "metrics": lambda: [
        metrics.log_odds(LOGITS[:, 0], [1], [0]), metrics.logit_difference(LOGITS[:, 0], [1] * 3, [0] * 3),
        metrics.kl(LOGITS, LOGITS.flip(1)), metrics.perplexity(LOGITS, torch.ones(3, 5, dtype=torch.int64)),
    ],
}  # fmt: skip


def plain(found: Any) -> Any:
    """A result in which tensors are compared with their dtype, to the bit."""
    if isinstance(found, Tensor):
        return found.dtype, found.tolist()
    return [plain(part) for part in found] if isinstance(found, (list, tuple)) else found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_it_gives_under_float32(name: str) -> None:
    expected = plain(CALLS[name]())
    for other in OTHERS:
        torch.set_default_dtype(other)
        found = plain(CALLS[name]())
        torch.set_default_dtype(torch.float32)
        assert found == expected, other


@pytest.mark.once
def test_draws_are_as_fine_as_ever() -> None:
    logits = torch.log(torch.tensor([0.9] + [1e-4] * 1000)).expand(10000, -1)
    torch.set_default_dtype(torch.bfloat16)
    assert len(set(sample(logits, generator=seeded()).tolist())) > 400  # of the 256 numbers of bfloat16 far fewer


@pytest.mark.once
def test_what_is_made_of_nothing_states_its_dtype() -> None:
    makers = {
        f"torch.{name}" for name in ("rand", "randn", "zeros", "empty", "full", "ones", "linspace", "eye", "normal")
    }
    for path in Path(ministeer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in makers:
                assert "dtype" in {word.arg for word in node.keywords}, f"{path.name}:{node.lineno}"
