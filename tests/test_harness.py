"""lm-evaluation-harness itself, its model "steered": what it reads of our folders and steer files, and its log-probabilities.

The package is an extra of its own; where it is not installed, nothing here runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import pair, random_tensor, sizes
from test_tokenizer import gguf_metadata

from ministeer import Steer, SteeringVector, Transformer, checkpoint, formats, prefill
from ministeer.model import Site
from ministeer.provenance import Provenance
from ministeer.tokenizer import END, Tokenizer

registry = pytest.importorskip(
    "lm_eval.api.registry", reason="lm_eval is not installed: pip install 'ministeer[harness]'"
)
pytest.importorskip("lm_eval.models", reason="lm_eval is not installed: pip install 'ministeer[harness]'")

NANO = Path(__file__).parents[1] / "weights" / "nano"
DIGITS = 1e-4  # four of them after the point
MADE = Provenance("a test", "drawn", "none", "none", "none")
PAIRS = [
    ("The doctor said that", " he was happy"),
    ("The", " man and his"),
    ("", "the town"),
    ("I am 19 and", " the"),
]
Scores = list[tuple[float, bool]]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def saved(request: Any, tmp_path_factory: Any) -> tuple[str, Path]:
    """The architecture, and a folder: nano's own, and a Llama that `save_model` wrote, whose tokenizer puts a token in front."""
    if request.param == "gpt2":
        return "gpt2", NANO
    folder = tmp_path_factory.mktemp("llama")
    model = pair(sizes("llama", 270, 96, 32, 8, 4), seed=3).ours
    checkpoint.save_model(model, folder, tokenizer=Tokenizer.from_gguf(gguf_metadata(add_bos_token=True)))
    return "llama", folder


def theirs(kind: str, folder: Path, **settings: Any) -> Scores:
    """The harness's log-probability of each continuation, and whether every token of it is the likeliest."""
    from lm_eval.api.instance import Instance

    # its default is the file's dtype, nano's bfloat16; texts of unequal length share a batch
    model = registry.get_model(kind)(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2, **settings)
    # the token that begins a text the harness takes from the tokenizer, and nano's, as GPT-2's, puts none in front
    begin = END if folder == NANO else ""
    asked = [Instance("loglikelihood", {}, (context and begin + context, more), 0) for context, more in PAIRS]
    found: Scores = model.loglikelihood(asked, disable_tqdm=True)
    return found


def ours(model: Transformer, tok: Tokenizer, steer: Steer | None = None) -> Scores:
    found = []
    for context, more in PAIRS:
        ids = [tok.bos, *tok.encode(context + more)]
        start = 1 + len(tok.encode(context))
        logits = prefill(model, [ids[:end] for end in range(start, len(ids))], steer=steer)  # (tokens of `more`, V)
        chosen = torch.tensor(ids[start:])[:, None]
        score = logits.log_softmax(-1).gather(-1, chosen).sum()
        found.append((float(score), torch.equal(logits.argmax(-1), chosen[:, 0])))
    return found


def apart(a: Scores, b: Scores) -> list[float]:
    return [abs(x - y) for (x, _), (y, _) in zip(a, b, strict=True)]


@pytest.fixture(scope="module")
def plain(saved: tuple[str, Path]) -> tuple[Transformer, Tokenizer, Scores]:
    """The model, its tokenizer and our unsteered scores, which are the harness's too."""
    model, tok = checkpoint.load(saved[1])
    scores = ours(model, tok)
    found = theirs("hf", saved[1])
    assert max(apart(found, scores)) < DIGITS
    assert [greedy for _, greedy in found] == [greedy for _, greedy in scores]
    return model, tok, scores


@pytest.mark.parametrize("site", [("pre", 0), ("pre", 2), ("mid", 1), ("pre", 8)])
def test_the_harness_steers_as_we_do(saved: Any, plain: Any, site: Site, tmp_path: Path) -> None:
    (family, folder), (model, tok, unsteered) = saved, plain
    scale = 0.5 if family == "gpt2" else 0.05
    vector = SteeringVector({site: random_tensor(model.config.width, seed=5, scale=scale)}, MADE)
    formats.save_lm_eval(vector, site, tmp_path / "steer.pt", coeff=-1.5, model_type=family)
    expected = ours(model, tok, Steer(vector, site, -1.5, where="all"))
    found = theirs("steered", folder, steer_path=str(tmp_path / "steer.pt"))
    assert max(apart(found, expected)) < DIGITS
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert min(apart(found, unsteered)) > 50 * DIGITS
