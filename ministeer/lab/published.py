"""What others measured with activation addition on GPT-2 checkpoints (Turner et al. 2023), and the same measured here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import torch

from ministeer import metrics
from ministeer.lab import data
from ministeer.model import Transformer
from ministeer.prompts import pad
from ministeer.steer import Steer, resolve
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

TOPICS = ("weddings", "shipping")
WORDS = ("wedding", "weddings", "wed", "bride", "groom", "marry", "married", "marriage", "bridesmaid", "honeymoon")
SPOKEN = {1.0: 0.90, 0.0: 0.02}  # share of completions about weddings at a coefficient, layer 6 of 48


def texts() -> list[str]:
    """A text on each topic, this project's own."""
    return [(data.HERE / f"passage_{topic}.txt").read_text("utf-8") for topic in TOPICS]


def ratios(topic: str, layer: int | None = None) -> dict[float, float]:
    """Published perplexity of a text with the vector over that without: of a layer of GPT-2 XL's 48 by coefficient, or by layer at coefficient 1."""
    told = json.loads((data.HERE / "published_actadd_perplexity.json").read_text("utf-8"))
    by_layer = told["by_layer_at_coeff_1"][topic]
    if layer is None:
        return dict(enumerate(by_layer))
    curve = told["by_coeff"].get(f"layer_{layer}", {}).get(topic, {"coeff": [], "ratio": []})
    return {**dict(zip(curve["coeff"], curve["ratio"], strict=True)), 1.0: by_layer[layer]}


@torch.no_grad()
def perplexities(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    vector: SteeringVector,
    layer: int,
    texts: Sequence[str],
    coefficients: Sequence[float],
) -> list[dict[str, Any]]:
    """Perplexity of each text at each coefficient; the first tokens, where the vector lies, do not count."""
    prompts = [tokenizer.prompt(text) for text in texts]
    ids, positions = pad(prompts)
    ids, counted, found = ids.to(model.device), positions >= len(vector["pre", layer]), []
    for c in coefficients:
        adds = resolve(model, Steer(vector, ("pre", layer), c, "front"), prompts).adds(positions)
        found.append(metrics.perplexity(model(ids, adds=adds), ids, counted.to(ids.device)).tolist())
    return [{"perplexity": list(of_text)} for of_text in zip(*found, strict=True)]


def about_weddings(text: str) -> bool:
    """Whether a text has one of `WORDS`."""
    return re.search(rf"\b({'|'.join(WORDS)})\b", text.lower()) is not None
