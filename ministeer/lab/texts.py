"""Open text: sampled with a vector at the beginning of each prompt, and judged by two judges, a list of words and the model itself.

Letters: N prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from ministeer.generate import generate, prefill, text_after
from ministeer.lab import data
from ministeer.lab.answers import answers, log_probabilities
from ministeer.lab.experiment import Experiment
from ministeer.metrics import Array, log_odds
from ministeer.model import Transformer
from ministeer.steer import Steer
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

Counts = list[tuple[int, int]]  # of each text its pleasant and its unpleasant words
SAMPLED: dict[str, Any] = {"max_new_tokens": 40, "top_p": 0.3, "frequency_penalty": 1.0}  # as the ActAdd paper samples


def words(sign: str) -> list[str]:
    """The pleasant ("1") or the unpleasant ("-1") words of `valence.tsv`."""
    return [row["word"] for row in data.read("valence.tsv", sign=sign)]


def openings(lab: Experiment, known: Sequence[str]) -> Sequence[str]:
    """What sampled texts begin with: the hundred of `openings.tsv` where the vocabulary is open, else these prompts."""
    return lab.part([row["prompt"] for row in data.read("openings.tsv")]) if data.wide(lab.tokenizer) else known


def valence(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    prompts: Sequence[str],
) -> list[dict[str, Any]]:
    """log p(the next word is pleasant) - log p(it is unpleasant), in nats: `{"coefficient", "prompt", "valence"}` for each."""
    ids, found = [tokenizer.prompt(prompt) for prompt in prompts], []
    one = [[i[0] for w in words(sign) if len(i := tokenizer.continuation(f" {w}")) == 1] for sign in ("1", "-1")]
    for c in coefficients:
        nats = log_odds(prefill(model, ids, None, [Steer(vector, ("pre", layer), c, "front")]), *one).tolist()
        found += [{"coefficient": c, "prompt": p, "valence": v} for p, v in zip(prompts, nats, strict=True)]
    return found


def completions(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    vector: SteeringVector,
    layer: int,
    coefficient: float,
    asked: Sequence[Sequence[Any]],
) -> list[dict[str, Any]]:
    """`{"text"}` for each of N prompts and its seed."""
    ids = [tokenizer.prompt(prompt) for prompt, _ in asked]
    steer = Steer(vector, ("pre", layer), coefficient, "front")
    draws = [torch.Generator().manual_seed(seed) for _, seed in asked]
    made = generate(model, ids, steer=steer, generator=draws, stop=tokenizer.stop, **SAMPLED)
    return [{"text": text_after(tokenizer, i, text)} for text, i in zip(made, ids, strict=True)]


def count(texts: Sequence[str]) -> Counts:
    """The first judge: how many of each text's words are of the pleasant list, and how many of the unpleasant one."""
    good, bad = words("1"), words("-1")
    said = [re.findall(r"\w+", text.lower()) for text in texts]
    return [(sum(w in good for w in some), sum(w in bad for w in some)) for some in said]


def pleasant(counts: Counts) -> float:
    """Of the pleasant and unpleasant words in some texts, the share that is pleasant."""
    good, bad = (sum(of) for of in zip(*counts, strict=True))
    share: float = good / max(1, good + bad)
    return share


def happiness(lab: Experiment, prompts: Sequence[str], texts: Sequence[str]) -> Array:
    """The second judge: the unsteered model's log p(" happy") - log p(" sad") after each prompt, its text and "It makes me feel", (N,), nats."""
    whole = [f"{prompt}{text} It makes me feel" for prompt, text in zip(prompts, texts, strict=True)]
    rows = lab.cell(answers, items=[{"prompt": text, "words": [" happy", " sad"]} for text in whole])
    found: Array = log_probabilities(rows)[:, 0, 0, 0] @ [1.0, -1.0]
    return found
