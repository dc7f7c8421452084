"""What the experiments read off a model: how likely given words are next, and what steering does to unrelated text.

Each is a function of the model and of settings that can be written down, for `Experiment.cell`.
Letters: B prompts, C coefficients, N texts, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ministeer import metrics
from ministeer.interventions import Function, Gate, project_out
from ministeer.metrics import Array
from ministeer.model import Transformer
from ministeer.prompts import pad
from ministeer.steer import Steer, adds_at
from ministeer.tokenizer import Tokenizer
from ministeer.variants import Branch, above, last_token, logits32
from ministeer.vectors import SteeringVector

Item = dict[str, Any]  # {"prompt": text, "words": [words that may come next, each one token], ...}
ROWS = 128  # prompts of a batch


@torch.no_grad()
def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
    how: str = "add",
    gate: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Of each item, at each coefficient: the log-probabilities of its words after its prompt, and the likeliest next token.

    `[{"logp": [[nats of each word] of each coefficient], "said": [a token of each coefficient]}]`. The prompt is read once; its last
    token is steered at `("pre", layer)` with all coefficients side by side.

    how: "add" adds the vector; "project_out" removes its direction, the coefficient says how much of it.
    gate: {"vector", "layer", "threshold"} of a `Gate`: prompts that do not pass it stay as they are.
    """
    rows: list[dict[str, Any]] = [{}] * len(items)
    ids = [tokenizer.encode(item["prompt"], special=True) for item in items]
    words = [[tokenizer.single(word) for word in item["words"]] for item in items]
    order = sorted(range(len(items)), key=lambda i: len(ids[i]))  # prompts of like lengths together: less padding
    change = None if vector is None else _function(vector["pre", layer], how)
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        prompts = [ids[i] for i in some]
        x, tape, cache = last_token(model, prompts, [("pre", layer)])  # (B, 1, D)
        if change is not None:
            strength = torch.tensor(coefficients, device=x.device).expand(len(some), -1)[..., None]  # (B, C, 1)
            if gate is not None:
                strength = strength * _passes(model, prompts, gate).to(x.device)[:, None, None]
            x = tape[0] + change(tape[0], strength).to(x.dtype)  # (B, C, D)
            x = above(model, x, ("pre", layer), Branch(cache))
        for i, logits in zip(some, logits32(model, x), strict=True):  # (C, V)
            logp = logits[:, words[i]] - logits.logsumexp(-1, keepdim=True)
            said = [tokenizer.decode([token]) for token in logits.argmax(-1).tolist()]
            rows[i] = {"logp": logp.tolist(), "said": said}
    return rows


def hits(items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> Array:
    """Whether the likeliest next token is the item's first word, 1 or 0, (items, C), of the rows of `answers`."""
    return np.array(
        [[said == item["words"][0] for said in row["said"]] for item, row in zip(items, rows, strict=True)], float
    )


@torch.no_grad()
def disturbance(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    texts: Sequence[str],
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    how: str = "add",
) -> list[dict[str, Any]]:
    """Of each text, steered at every token: mean KL from the unsteered next-token distributions (nats), and perplexity, at each coefficient.

    `[{"kl": [of each coefficient], "perplexity": [of each coefficient]}]`.
    """
    ids, positions = pad([tokenizer.encode(text, special=True) for text in texts])
    real = positions >= 0  # (N, T)
    ids = ids.to(model.device)
    plain = model(ids)
    found: list[dict[str, Any]] = [{"kl": [], "perplexity": []} for _ in texts]
    for coefficient in coefficients:
        steer = Steer(_function(vector["pre", layer], how), ("pre", layer), coefficient)
        logits = model(ids, adds_at([steer], positions, real.sum(1)))
        kl = metrics.kl(logits, plain).cpu()  # (N, T)
        perplexity = metrics.perplexity(logits, ids, real)
        for row, k, mask, p in zip(found, kl, real, perplexity.tolist(), strict=True):
            row["kl"].append(k[mask].mean().item())
            row["perplexity"].append(p)
    return found


def _function(vector: Tensor, how: str) -> Function:
    """Stream and coefficients -> what to add."""
    if how not in ("add", "project_out"):
        raise ValueError(f"expected how to be 'add' or 'project_out', got {how!r}")
    return project_out(vector) if how == "project_out" else lambda x, coeff=1.0, /: coeff * vector.to(x)


def _passes(model: Transformer, prompts: Sequence[Sequence[int]], gate: dict[str, Any]) -> Tensor:
    """Whether each prompt's stream passes the gate, `(B,)`."""
    site = ("pre", gate["layer"])
    return Gate(gate["vector"][site], site, gate["threshold"]).passes(model, prompts)
