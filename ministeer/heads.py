"""Function vectors from attention heads, by causal mediation (Todd et al. 2024).

    means = heads.mean_writes(model, tok, prompts)                              # clean few-shot prompts -> (L, H, D)
    effects = heads.indirect_effects(model, tok, shuffled, answers, means)      # prompts with shuffled labels -> (N, L, H)
    top = heads.top_heads(effects, k=10)                                        # [(layer, head), ...]
    vector = heads.function_vector(model, tok, prompts, top, ("pre", 5))        # the sum of their mean writes

Replacing what a head writes by its clean mean is itself a `+`: the stream between attention and MLP is
changed by the difference of the two. Only the last token is changed, so the rest of the prompt is read once.

Letters: N prompts, B of them at a time, L layers, H heads, D width, V vocabulary. Texts are read as `tokenizer.prompt` has them.
Everything is read, and patched, at a prompt's last token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ministeer.activations import OnBatch, as_sites, check_batch_size, check_texts
from ministeer.files import replacing
from ministeer.health import Health
from ministeer.identity import model_identity
from ministeer.model import Site, Transformer
from ministeer.prompts import joined_close, warn_of_space
from ministeer.provenance import Provenance, data_hash
from ministeer.tokenizer import Tokenizer
from ministeer.variants import Branch, above, check_halves, last_token, logits32
from ministeer.vectors import SteeringVector


@torch.no_grad()
def mean_writes(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """What each head writes into the stream at the last token, mean over prompts: `(L, H, D)` in float32.

    Without the output projection's bias, which belongs to no head. on_batch: called with (prompts done, N).
    """
    total = torch.zeros(model.config.n_layer, model.config.n_head, model.config.width, dtype=torch.float32)
    wanted: list[Site] = [("head", i) for i in range(model.config.n_layer)]
    for batch, done in _batches(_rows(tokenizer, prompts), batch_size):
        _, tape, _ = last_token(model, batch, wanted)
        total += torch.stack([x[:, 0].float().sum(0).cpu() for x in tape])  # L x (B, 1, H, D) -> (L, H, D)
        if on_batch is not None:
            on_batch(done, len(prompts))
    return total / len(prompts)


@torch.no_grad()
def indirect_effects(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    answers: Sequence[str],
    means: Tensor,
    *,
    batch_size: int = 256,
    on_batch: OnBatch | None = None,
    path: str | Path | None = None,
) -> Tensor:
    """The causal indirect effect of every head on every prompt, `(N, L, H)`, in units of probability.

    p(answer | prompt, the head's write := its mean) - p(answer | prompt) (Todd et al. 2024, section 2). The prompts have
    shuffled labels, so that the model does not know the task; the means are from prompts that show it.

    answers: one per prompt, one token each. means: from `mean_writes`, `(L, H, D)`. batch_size: heads patched at a time, of
    one layer, over several prompts. on_batch: called with (prompts done, N).
    path: a `.safetensors` file that the effects are kept in as they are found; a run that was cut off continues there, with
        the means it began with. A file of another model, other prompts, answers or means is refused; texts count by
        their tokens.
    """
    check_batch_size(batch_size)
    check_halves(model)
    if isinstance(answers, str | Mapping) or len(prompts) != len(answers):
        given = repr(answers) if isinstance(answers, str | Mapping) else len(answers)
        raise ValueError(f"expected an answer for each of {len(prompts)} prompts, got {given}")
    n_layer, n_head = model.config.n_layer, model.config.n_head
    wanted = (n_layer, n_head, model.config.width)
    if not isinstance(means, Tensor) or tuple(means.shape) != wanted or not bool(torch.isfinite(means).all()):
        got = tuple(means.shape) if isinstance(means, Tensor) else type(means).__name__
        raise ValueError(
            f"expected a tensor of finite means {wanted}, as mean_writes gives it for this model, got {got}"
        )
    means = means.float()
    rows, targets = _rows(tokenizer, prompts), [tokenizer.single(answer) for answer in answers]
    if 2 * sum(map(joined_close, prompts, answers)) > len(rows):
        warnings.warn(
            f"most answers follow their prompts without a space, as in {(prompts[0] + answers[0])[-40:]!r}; write it where it belongs",
            stacklevel=3,
        )
    effects = torch.full((len(rows), n_layer, n_head), torch.nan, dtype=torch.float32)
    if path is not None:
        path = Path(path)
        key = data_hash(["float32 logits", model_identity(model), *map(str, rows), *map(str, targets)])
        effects, means = _begin(path, key, effects, means)
    open_ones = torch.nonzero(effects.isnan().any(-1).any(-1))[:, 0].tolist()
    at_a_time = max(1, batch_size // n_head)
    for start in range(0, len(open_ones), at_a_time):
        chunk = open_ones[start : start + at_a_time]
        found = _effects(model, [rows[i] for i in chunk], [targets[i] for i in chunk], means, batch_size)
        effects[chunk] = found.float().cpu()
        if path is not None:
            _write(path, effects, means, key)
        if on_batch is not None:
            on_batch(len(rows) - len(open_ones) + start + len(chunk), len(rows))
    return effects


def _effects(model: Transformer, rows: list[list[int]], targets: list[int], means: Tensor, batch_size: int) -> Tensor:
    """The effects on some prompts, `(B, L, H)`."""
    layers = range(model.config.n_layer)
    x, tape, cache = last_token(model, rows, [*(("mid", i) for i in layers), *(("head", i) for i in layers)])
    before = _probability(model, x, targets)  # (B, 1)
    past, width = Branch(cache, cache.lengths), max(1, batch_size // len(rows))
    found = []
    for layer in layers:
        stream, writes = tape[layer], tape[len(layers) + layer][:, 0]  # (B, 1, D), (B, H, D)
        patched = stream + (means[layer].to(writes) - writes)  # (B, H, D): each head's write replaced, one at a time
        after = []
        for x in patched.split(width, dim=1):
            after.append(_probability(model, above(model, x, ("mid", layer), past), targets))
        found.append(torch.cat(after, 1) - before)
    return torch.stack(found, 1)  # L x (B, H) -> (B, L, H)


def top_heads(*effects: Tensor, k: int = 10) -> list[tuple[int, int]]:
    """The k heads (layer, head) of the largest mean effect, largest first.

    effects: `(N, L, H)` of one task, or of several, which then count equally: the universal list of Todd et al. 2024.
    """
    shapes = [tuple(e.shape) if isinstance(e, Tensor) else type(e).__name__ for e in effects]
    if len({shape[1:] for shape in shapes}) != 1 or any(len(shape) != 3 or not shape[0] for shape in shapes):
        raise ValueError(f"expected tensors of effects (N, L, H) of one model, and k=10 by its name, got {shapes}")
    mean = torch.stack([e.mean(0) for e in effects]).mean(0)  # (L, H)
    if not isinstance(k, Integral) or not 1 <= k <= mean.numel():
        raise ValueError(f"expected k, a whole number from 1 to {mean.numel()}, the number of heads, got {k!r}")
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("expected effects that are finite, got NaN or infinity; was the run that made them cut off?")
    order = mean.flatten().argsort(descending=True, stable=True)[:k]
    return [(int(i) // mean.shape[1], int(i) % mean.shape[1]) for i in order]


@torch.no_grad()
def function_vector(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    heads: Sequence[tuple[int, int]],
    sites: Site | Sequence[Site],
    *,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> SteeringVector:
    """The sum of some heads' mean writes over clean prompts, `(D,)` (Todd et al. 2024, section 2), for each of `sites`.

    The same vector at every site: measure where it works best, about a third of the way up. For
    `Steer(..., where="last")`.
    """
    wanted = as_sites(sites)
    known = [(i, h) for i in range(model.config.n_layer) for h in range(model.config.n_head)]
    asked: list[Any] = [
        tuple(head) if isinstance(head, Sequence) else (head,) for head in heads
    ]  # a file of JSON has lists
    whole = all(isinstance(number, Integral) for head in asked for number in head)
    if not whole or not asked or len(set(asked)) < len(asked) or not set(asked) <= set(known):
        raise ValueError(
            f"expected different heads (layer, head) of {model.config.n_layer} layers of {model.config.n_head}, got {list(heads)}"
        )
    layers = sorted({layer for layer, _ in asked})
    sums: list[Tensor] = []
    norms: dict[Site, list[Tensor]] = {site: [] for site in wanted}
    for batch, done in _batches(_rows(tokenizer, prompts), batch_size):
        _, tape, _ = last_token(model, batch, [*(("head", i) for i in layers), *wanted])
        writes = dict(zip(layers, tape, strict=False))  # of each layer (B, 1, H, D)
        sums.append(torch.stack([writes[i][:, 0, h].float().cpu() for i, h in asked]).sum(0))  # (B, D)
        for site, x in zip(wanted, tape[len(layers) :], strict=True):
            norms[site].append(x[:, 0].float().norm(dim=-1).cpu())  # (B,)
        if on_batch is not None:
            on_batch(done, len(prompts))
    vector = torch.cat(sums).mean(0)  # (N, D) -> (D,)
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    return SteeringVector(
        {site: vector.clone() for site in wanted},
        Provenance.of(model, f"function vector of heads {named}", prompts, "last"),
        # the heads write much that all prompts share, so halves or single prompts would agree whatever the task
        {site: Health(float(vector.norm() / torch.cat(norms[site]).mean())) for site in wanted},
    )


def _rows(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    if isinstance(prompts, str | Mapping) or not len(prompts):
        raise ValueError(f"expected a list of prompts, got {prompts!r}")
    check_texts(prompts)
    rows = [tokenizer.prompt(prompt) for prompt in prompts]
    if min(map(len, rows)) < 2:
        raise ValueError("expected prompts of two tokens or more, the first tokenizer.bos, got an empty text")
    warn_of_space(*prompts)
    return rows


def _batches(rows: list[list[int]], size: int) -> list[tuple[list[list[int]], int]]:
    """The rows in batches, with how many are done after each."""
    check_batch_size(size)
    return [(rows[i : i + size], min(i + size, len(rows))) for i in range(0, len(rows), size)]


def _probability(model: Transformer, x: Tensor, targets: list[int]) -> Tensor:
    """Of each row's answer, `(B, R)`, from the last stream of R variants, `(B, R, D)`."""
    p = logits32(model, x).softmax(-1)  # (B, R, V)
    return p[torch.arange(len(targets), device=p.device), :, torch.tensor(targets, device=p.device)]


def _begin(path: Path, key: str, effects: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """The effects and means of the run that `path` holds, or these, written there: a place that cannot be written shows now."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        _write(path, effects, means, key)
        return effects, means
    try:
        with safe_open(path, framework="pt") as file:
            same = (file.metadata() or {}).get("key") == key
            found = [file.get_tensor(name) for name in ("effects", "means")]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected the effects of an earlier run, got something else ({error})") from None
    # means computed again differ by rounding, with the number of threads for one
    if not same or not torch.allclose(found[1], means, rtol=1e-3, atol=1e-3 * float(means.abs().max())):
        raise ValueError(
            f"{path}: expected effects of this model, these prompts, answers and means, got those of others; "
            "give another path, or delete it"
        )
    return found[0], found[1]


def _write(path: Path, effects: Tensor, means: Tensor, key: str) -> None:
    from safetensors.torch import save_file

    with replacing(path) as unfinished:
        save_file({"effects": effects, "means": means}, unfinished, {"key": key})
