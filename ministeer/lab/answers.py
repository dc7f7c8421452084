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
from ministeer.model import Site, Transformer, check_stream
from ministeer.prompts import pad
from ministeer.steer import Steer, resolve
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
    site: Site = ("pre", layer)
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        prompts = [ids[i] for i in some]
        x, tape, cache = last_token(model, prompts, [site])  # (B, 1, D)
        if vector is not None:
            beside = [ids for ids in prompts for _ in coefficients]  # B * C
            rows_open = (
                None if gate is None else [o for o in _passes(model, prompts, gate).tolist() for _ in coefficients]
            )
            coeffs = [*coefficients] * len(prompts)
            plan = resolve(
                model, Steer(_content(vector, site, how), site, coeffs, where="last", rows=rows_open), beside
            )
            x = tape[0].repeat_interleave(len(coefficients), 0)  # (B * C, 1, D)
            x = plan.at(site, x, plan.lengths[:, None] - 1).view(len(prompts), len(coefficients), -1)  # (B, C, D)
            x = above(model, x, site, Branch(cache))
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
    rows = [tokenizer.encode(text, special=True) for text in texts]
    ids, positions = pad(rows)
    real = positions >= 0  # (N, T)
    ids = ids.to(model.device)
    plain = model(ids)
    site: Site = ("pre", layer)
    found: list[dict[str, Any]] = [{"kl": [], "perplexity": []} for _ in texts]
    for coefficient in coefficients:
        steer = Steer(_content(vector, site, how), site, coefficient)
        logits = model.unembed(check_stream(model.stream(ids, resolve(model, steer, rows).adds(positions))))
        kl = metrics.kl(logits, plain).cpu()  # (N, T)
        perplexity = metrics.perplexity(logits, ids, real)
        for row, k, mask, p in zip(found, kl, real, perplexity.tolist(), strict=True):
            row["kl"].append(k[mask].mean().item())
            row["perplexity"].append(p)
    return found


def _content(vector: SteeringVector, site: Site, how: str) -> Tensor | Function:
    """What a `Steer` takes for it."""
    if how not in ("add", "project_out"):
        raise ValueError(f"expected how to be 'add' or 'project_out', got {how!r}")
    return project_out(vector[site]) if how == "project_out" else vector[site]


def _passes(model: Transformer, prompts: Sequence[Sequence[int]], gate: dict[str, Any]) -> Tensor:
    """Whether each prompt's stream passes the gate, `(B,)`."""
    site: Site = ("pre", gate["layer"])
    return Gate(gate["vector"][site], site, gate["threshold"]).passes(model, prompts)
