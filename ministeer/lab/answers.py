"""What the experiments read off a model: how likely given answers are after a prompt, and what steering does to unrelated text.

Each is a function of the model and of settings that can be written down, for `Experiment.cell`.
Letters: N items, V vectors, L layers, C coefficients, W answers of an item, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ministeer import extract, metrics
from ministeer.activations import streams
from ministeer.interventions import Function, Gate, project_out
from ministeer.metrics import Array
from ministeer.model import Site, Transformer, check_stream
from ministeer.prompts import pad
from ministeer.steer import Steer, Where, resolve
from ministeer.sweep import sweep
from ministeer.tokenizer import Tokenizer
from ministeer.variants import above
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
Item = dict[str, Any]  # {"prompt": text, "words": [answers that may come next, with their space], ...}
ASKED = "Tell me what happened."  # what the user says where the assistant's message begins with the prompt
TEXTS = 8  # unrelated texts read at a time: their logits over the whole vocabulary are held


def prompt_ids(tokenizer: Tokenizer, text: str, form: str = "plain", system: str = "") -> list[int]:
    """A prompt as ids: "plain" as `tokenizer.prompt` has it, "chat" as the beginning of the assistant's message.

    system: what is said before it, as the chat's system message or as a sentence before the plain prompt.
    """
    if form == "plain":
        return tokenizer.prompt(f"{system} {text}" if system else text)
    if form != "chat":
        raise ValueError(f"expected the form 'plain' or 'chat', got {form!r}")
    said = [{"role": "system", "content": system}] if system else []
    return tokenizer.chat([*said, {"role": "user", "content": ASKED}]) + tokenizer.continuation(text)


@torch.no_grad()
def answers(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    items: Sequence[Item],
    vectors: Mapping[str, SteeringVector] | None = None,
    layers: Sequence[int] = (),
    coefficients: Sequence[float] = (0.0,),
    how: str = "add",
    where: Where = "last",
    randoms: Mapping[str, Any] | None = None,
    form: str = "plain",
    system: str = "",
    likeliest: bool = False,
) -> list[Row]:
    """Of each item, `{"logp": (V, L, C, W)}`: the log-probability of each of its answers, whole, in nats; `log_probabilities` stacks them.

    vectors: by name, each added, or with how="project_out" its direction removed, at `("pre", layer)` of each layer; none: the
        model as it is, V and L are 1. Prompts are read once for all of them.
    where: as in `Steer`; "last" is the prompt's last token and the answer's.
    randoms: random vectors in the place of the only one of `vectors`, as `random_vectors` takes them.
    form, system: as in `prompt_ids`.
    likeliest: `{"said": (V, L, C)}` instead: the likeliest next token as text.
    """
    prompts = [prompt_ids(tokenizer, item["prompt"], form, system) for item in items]
    score: Any = _best if likeliest else [[tokenizer.continuation(word) for word in item["words"]] for item in items]
    if randoms is not None:
        vectors = _in_its_place(model, tokenizer, vectors, layers, form, randoms)
    found: list[Row] = []
    for scores in _swept(model, prompts, score, vectors, layers, coefficients, how, where):
        said = [tokenizer.decode([int(token)]) for token in scores.flat] if likeliest else []
        found.append(
            {"said": np.reshape(said, scores.shape).tolist()} if likeliest else {"logp": np.round(scores, 6).tolist()}
        )
    return found


@torch.no_grad()
def divergences(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    texts: Sequence[str],
    vectors: Mapping[str, SteeringVector],
    layers: Sequence[int],
    coefficients: Sequence[float],
    how: str = "add",
    randoms: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Of each text, steered at its last token, `{"kl": (V, L, C)}`: KL from the unsteered distribution of the next token, in nats.

    Arguments as in `answers`. `disturbance` steers every token, and reads each text anew for every vector.
    """
    rows = [prompt_ids(tokenizer, text) for text in texts]
    ids, _ = pad(rows)
    last = [len(row) - 1 for row in rows]
    stream = model.stream(ids.to(model.device))[torch.arange(len(rows)), last]  # (texts, D)
    plain = model.unembed(stream[:, None])[:, 0]  # (texts, V)
    if randoms is not None:
        vectors = _in_its_place(model, tokenizer, vectors, layers, "plain", randoms)

    def score(logits: Tensor, i: int) -> Tensor:
        return metrics.kl(logits, plain[i].expand_as(logits))

    found = _swept(model, rows, score, vectors, layers, coefficients, how, "last")
    return [{"kl": np.round(scores, 6).tolist()} for scores in found]


def _in_its_place(
    model: Transformer,
    tokenizer: Tokenizer,
    vectors: Mapping[str, SteeringVector] | None,
    layers: Sequence[int],
    form: str,
    randoms: Mapping[str, Any],
) -> dict[str, SteeringVector]:
    (vector,) = (vectors or {}).values()
    return random_vectors(model, tokenizer, vector, layers, **{"form": form, **randoms})


def _swept(
    model: Transformer,
    prompts: Sequence[list[int]],
    score: Any,
    vectors: Mapping[str, SteeringVector] | None,
    layers: Sequence[int],
    coefficients: Sequence[float],
    how: str,
    where: Where,
) -> list[Array]:
    """Of each prompt the scores that `sweep` gives, (V, L, C, ...)."""
    passes: list[tuple[Mapping[str, Any], list[Site]]]  # of the sweep: all layers at once, or one for each
    if vectors is None:
        passes = [({"none": torch.zeros(model.config.width, dtype=torch.float32)}, [("pre", model.config.n_layer)])]
    elif how == "add":
        passes = [(vectors, [("pre", i) for i in layers])]
    else:
        sites: list[Site] = [("pre", i) for i in layers]
        passes = [({name: content(v, site, how) for name, v in vectors.items()}, [site]) for site in sites]
    swept = [sweep(model, prompts, score, added, sites, coefficients, where=where) for added, sites in passes]
    found = []
    for i in range(len(prompts)):
        parts = []
        for rows, (added, sites) in zip(
            swept, passes, strict=True
        ):  # vector by vector, layer by layer, ..., item by item
            scores = np.array([row["score"] for row in rows[i :: len(prompts)]])
            parts.append(scores.reshape(len(added), len(sites), len(coefficients), *scores.shape[1:]))
        found.append(np.concatenate(parts, 1))
    return found


def log_probabilities(rows: Sequence[Row]) -> Array:
    """The rows of `answers` as one array, (N, V, L, C, W); every item must have as many answers."""
    found: Array = np.array([row["logp"] for row in rows], dtype=np.float64)
    return found


def hits(items: Sequence[Item], rows: Sequence[Row], tokenizer: Tokenizer) -> Array:
    """Whether the likeliest next token begins one of the item's answers, 1 or 0, (N, V, L, C), of the rows of `answers(likeliest=True)`."""
    found = []
    for item, row in zip(items, rows, strict=True):
        first = {tokenizer.decode(tokenizer.continuation(word)[:1]) for word in item["words"]}
        found.append(np.vectorize(lambda said, first=first: said in first, otypes=[float])(np.array(row["said"])))
    return np.array(found)


@torch.no_grad()
def random_vectors(
    model: Transformer,
    tokenizer: Tokenizer,
    vector: SteeringVector,
    layers: Sequence[int],
    *,
    texts: Sequence[str],
    count: int,
    kind: str = "covariance",
    form: str = "plain",
    only: Sequence[int] | None = None,
) -> dict[str, SteeringVector]:
    """Controls for a vector, of its norm at each layer, by name; only: these of them, by their numbers.

    kind: "covariance", random mixes of how the streams at the last tokens of the texts deviate from their mean, so that they have
        its covariance; "isotropic", directions of no preference, the weaker control.
    """
    if kind not in ("covariance", "isotropic"):
        raise ValueError(f"expected the kind 'covariance' or 'isotropic', got {kind!r}")
    mine = vector.only([("pre", i) for i in layers])
    spans = None
    if kind == "covariance":
        rows = [prompt_ids(tokenizer, text, form) for text in texts]
        spans = streams(model, rows, [len(row) - 1 for row in rows], mine.sites)
    return {
        f"random {seed}": extract.random_like(mine, seed=seed, streams=spans)
        for seed in (range(count) if only is None else only)
    }


@torch.no_grad()
def norms(
    model: Transformer, tokenizer: Tokenizer, *, texts: Sequence[str], layers: Sequence[int], form: str = "plain"
) -> list[Row]:
    """`{"layer", "norm"}`: the mean norm of the stream that enters each layer, at the last token of the texts."""
    rows = [prompt_ids(tokenizer, text, form) for text in texts]
    found = streams(model, rows, [len(row) - 1 for row in rows], [("pre", i) for i in layers])
    return [{"layer": i, "norm": float(found["pre", i].norm(dim=-1).mean())} for i in layers]


@torch.no_grad()
def passes(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    threshold: float,
) -> list[Row]:
    """`{"open": whether a `Gate` at the layer lets this prompt be steered}`."""
    site: Site = ("pre", layer)
    rows = [prompt_ids(tokenizer, item["prompt"]) for item in items]
    return [{"open": bool(o)} for o in Gate(vector[site], site, threshold).passes(model, rows)]


@torch.no_grad()
def disturbance(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    texts: Sequence[str],
    vectors: Mapping[str, SteeringVector] | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
    how: str = "add",
    form: str = "plain",
    system: str = "",
    before: str = "",
) -> list[Row]:
    """Of each text, steered at every token, or behind what is said: `{"kl", "perplexity", "entropy"}`, each (V, C).

    Means over the text's tokens: KL from the next-token distributions of the model as it is, with nothing said before (nats); perplexity;
    and the entropy of these distributions (nats): how sure the model is, right or wrong.
    before: a sentence before the text, in the same message. Other arguments as in `answers`.
    """
    site: Site = ("pre", layer)
    found: list[Row] = []
    said = tokenizer.encode if form == "plain" else tokenizer.continuation  # as `prompt_ids` has the text
    nothing = torch.zeros(model.config.width, dtype=torch.float32)
    added = [nothing] if vectors is None else [content(vector, site, how) for vector in vectors.values()]
    for start in range(0, len(texts), TEXTS):
        some = texts[start : start + TEXTS]
        bare = [prompt_ids(tokenizer, text, form) for text in some]
        rows = [prompt_ids(tokenizer, f"{before} {text}" if before else text, form, system) for text in some]
        own = [len(said(text)) for text in some]
        counts = [min(_alike(*pair), n) for n, *pair in zip(own, bare, rows, strict=True)]
        plain_ids, plain_positions = pad(bare)
        counted = _last(plain_positions, counts)
        plain = model.unembed(model.stream(plain_ids.to(model.device))[counted])  # (all texts' tokens, vocabulary)
        ids, positions = pad(rows)
        counted = _last(positions, counts)
        told = torch.zeros_like(counted)
        told[:, :-1] = counted[:, 1:]  # the tokens after which one of the text comes
        read, following = counted | told, ids.roll(-1, 1)[told]
        below = model.stream(ids.to(model.device), depth=layer)  # the same at every coefficient
        these: list[Row] = [{"kl": [], "perplexity": [], "entropy": []} for _ in rows]
        for what in added:
            kls: list[Any] = []
            entropies: list[Any] = []
            perplexities: list[Any] = []
            for coefficient in coefficients:
                plan = resolve(model, Steer(what, site, coefficient), rows)
                x = above(model, plan.at(site, below, positions), site, None, read)  # (tokens that are read, D)
                log_p = model.unembed(check_stream(x)).float().log_softmax(-1).cpu()
                nats = log_p[counted[read]]
                losses = -log_p[told[read]].gather(-1, following[:, None])[:, 0]
                for of, each, n in (
                    (kls, metrics.kl(nats, plain.cpu()), counts),
                    (entropies, -(nats.exp() * nats).sum(-1), counts),
                    (perplexities, losses, told.sum(1).tolist()),
                ):
                    of.append([part.mean().item() for part in torch.split(each, n)])
                perplexities[-1] = np.exp(perplexities[-1]).tolist()
            for i, row in enumerate(these):
                for name, values in (("kl", kls), ("perplexity", perplexities), ("entropy", entropies)):
                    row[name].append([by_text[i] for by_text in values])
        found += these
    return found


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two prompts end in alike: what is said before a text can change how its first word is cut into tokens."""
    return next((n for n, (x, y) in enumerate(zip(a[::-1], b[::-1])) if x != y), min(len(a), len(b)))


def _last(positions: Tensor, counts: Sequence[int]) -> Tensor:
    """Where the last so many tokens of each row are, (texts, T)."""
    ends = positions.amax(1, keepdim=True)  # padding has positions below 0
    return positions > ends - torch.tensor(counts)[:, None]


def _best(logits: Tensor, prompt: int) -> Tensor:
    return logits.argmax(-1)


def content(vector: SteeringVector, site: Site, how: str) -> Tensor | Function:
    """What a `Steer` takes for it."""
    if how not in ("add", "project_out"):
        raise ValueError(f"expected how to be 'add' or 'project_out', got {how!r}")
    return project_out(vector[site]) if how == "project_out" else vector[site]
