"""Logits -> tokens: sampling as a pure function, and cached, batched, steered generation; and `say`, text to text.

Letters: B rows, T tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import Tensor

from ministeer.cuda_graph import Graph
from ministeer.model import Cache, Transformer, check_stream, expect, hooked, refusal
from ministeer.prompts import as_rows, check_room, pad, warn_of_padding, warn_of_prompts
from ministeer.receipt import Receipt
from ministeer.steer import Plan, Steer, resolve
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import is_finite

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnToken = Callable[[int, int], None]


class Settings(TypedDict, total=False):
    """What `generate` takes besides the token count, for type checkers."""

    steer: Steer | Sequence[Steer] | None
    temperature: float
    top_p: float
    top_k: int | None
    frequency_penalty: float
    repetition_penalty: float
    generator: torch.Generator | Sequence[torch.Generator] | None
    stop: Sequence[int]
    on_token: OnToken | None
    receipt: Receipt | None
    graph: bool


def say(
    model: Transformer,
    tokenizer: Tokenizer,
    text: str,
    *,
    max_new_tokens: int = 20,
    chat: bool = False,
    **settings: Unpack[Settings],
) -> str:
    """What a model says after a text, up to the end of its answer: the likeliest tokens, unless told how to draw them.

    chat: the text is a user's words in the model's chat template. settings: of `generate`; top_p, top_k or a
    generator without a temperature draw at temperature 1, as there.
    """
    ids = tokenizer.chat([{"role": "user", "content": text}]) if chat else tokenizer.prompt(text)
    given = settings.get("steer")
    wheres = [getattr(one, "where", None) for one in (given if isinstance(given, Sequence) else [given])]
    warn_of_prompts(tokenizer, [text], chat, *wheres)
    draws = settings.get("top_p", 1.0) != 1.0 or any(settings.get(k) is not None for k in ("top_k", "generator"))
    told: Settings = {"temperature": 1.0 if draws else 0.0, "stop": tokenizer.stop, **settings}
    whole = generate(model, ids, max_new_tokens=max_new_tokens, **told)
    return text_after(tokenizer, ids, whole[:-1] if whole[-1] in told["stop"] else whole)


def text_after(tokenizer: Tokenizer, ids: Sequence[int], whole: Sequence[int]) -> str:
    """The text of what `whole` says after `ids`, with its leading space, which some tokenizers strip from a text."""
    before, after = tokenizer.decode(ids), tokenizer.decode(whole)
    return after[len(before) :] if after.startswith(before) else tokenizer.decode(whole[len(ids) :])


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """One token id a row, `(B,)`, from logits `(B, V)`. Temperature 0 is argmax.

    top_k keeps the k likeliest tokens; top_p then keeps the likeliest whose probabilities first sum to top_p (nucleus
    sampling, Holtzman et al. 2020). One uniform number a row picks among them: with one generator a row, a row's draw
    does not depend on its neighbours.
    """
    _check_sampling(temperature, top_p, top_k, generator, len(logits))
    if temperature == 0:
        return logits.argmax(-1)
    ranked, order = logits.float().sort(dim=-1, descending=True, stable=True)  # (B, V)
    ranked = (ranked - ranked[:, :1]) / temperature  # from 0 down: a small temperature makes no infinity but -inf
    if top_k is not None:
        ranked[:, top_k:] = -torch.inf
    p = ranked.softmax(-1)
    before = p.cumsum(-1) - p  # probability of all likelier tokens
    kept = before < top_p
    kept[:, 0] = True  # also where top_p is below what float32 can hold
    reach = (p * kept).cumsum(-1)
    u = _uniform(len(logits), generator).to(reach) * reach[:, -1]  # (B,)
    pick = (reach <= u[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    chosen: Tensor = order.gather(-1, pick[:, None])[:, 0]  # (B,)
    return chosen


def _check_sampling(temperature: Any, top_p: Any, top_k: Any, generator: Any, rows: int) -> None:
    for name, value, good, wanted in (
        ("temperature", temperature, isinstance(temperature, Real) and float(temperature) >= 0, "0 (argmax) or more"),
        ("top_p", top_p, isinstance(top_p, Real) and 0 < float(top_p) <= 1, "above 0 and at most 1"),
        ("top_k", top_k, top_k is None or isinstance(top_k, Integral) and int(top_k) >= 1, "a whole number of at least 1, or None"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"expected {name} {wanted}, got {value!r}")
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, Sequence) or not all(isinstance(g, torch.Generator) for g in generator):
        raise ValueError(
            f"expected a torch.Generator or a list of them, got {generator!r}; write torch.Generator().manual_seed(0)"
        )
    if len(generator) != rows:
        raise ValueError(f"expected one generator, or one for each of {rows} rows, got {len(generator)}")


def _uniform(rows: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    if generator is None:
        return torch.rand(rows, dtype=torch.float32)
    if isinstance(generator, torch.Generator):
        return torch.rand(rows, generator=generator, device=generator.device, dtype=torch.float32)
    return torch.cat([torch.rand(1, generator=g, device=g.device, dtype=torch.float32) for g in generator])


def penalize(logits: Tensor, counts: Tensor, *, frequency_penalty: float, repetition_penalty: float) -> Tensor:
    """Logits `(B, V)` lowered for tokens that the text so far, prompt included, holds `counts` `(B, V)` times.

    The frequency penalty is subtracted once for each occurrence; the repetition penalty divides a positive logit and
    multiplies a negative one, once (CTRL, Keskar et al. 2019, section 4.1).
    """
    logits = logits.float()
    logits = torch.where((counts > 0) & (logits > 0), logits / repetition_penalty, logits)
    logits = torch.where((counts > 0) & (logits < 0), logits * repetition_penalty, logits)
    return logits - frequency_penalty * counts


@contextmanager
def _threads(model: Transformer, tokens: int) -> Iterator[None]:
    """One thread for a few tokens of a small model on a CPU. A second gains a fifth there on an idle machine; on a busy one,
    waiting for it at each product makes a text take five times as long."""
    given = torch.get_num_threads()
    few = tokens <= 16 and model.config.width <= 256 and model.device.type == "cpu" and given > 1
    if few:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if few:
            torch.set_num_threads(given)


def prefill(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    cache: Cache | None = None,
    steer: Steer | Sequence[Steer] | Plan | None = None,
    receipt: Receipt | None = None,
) -> Tensor:
    """Read prompts of any lengths, into an empty cache if one is given; the logits after each one's last, `(B, V)`.

    steer: one `Steer` or several; before a loop of `decode`, the plan that `resolve` makes of them for these prompts.
    receipt: filled with what was done; without a cache this is the whole run, and one that touched nothing raises.

    Raises `ValueError` for a cache that holds tokens, and for an intervention that touches no position: without a cache
    nothing is generated, so "generated" raises.
    """
    if not isinstance(cache, Cache | None) or not isinstance(receipt, Receipt | None):
        got = [type(given).__name__ for given in (cache, receipt)]
        raise refusal(
            "a Cache or None, a Steer or several, a Receipt or None", f"{got[0]} as the first and {got[1]} as the last",
            "without a cache write prefill(model, prompts, steer=steer)",
        )  # fmt: skip
    if cache is not None and bool(cache.lengths.any()):
        raise refusal("an empty cache to read prompts into", f"one that holds {cache.lengths.tolist()} tokens")
    expect(
        not hooked(model),
        "no hook on the model itself, of which only the parts are called here",
        "one",
        "hook a block or model.ln_f",
    )
    ids, positions = pad(prompts)
    if not isinstance(steer, Plan):  # else `generate` has told of it
        warn_of_padding(prompts)
    plan = resolve(model, steer, prompts, 1 if cache is None else 2, receipt)
    with _threads(model, ids.numel()):
        x = model.stream(ids.to(model.device), plan.adds(positions), cache=cache)  # (B, T, D)
    if cache is not None:
        cache.keep(plan.lengths)  # the padding's slots are free again
    else:
        plan.finish()
    return model.unembed(check_stream(x[torch.arange(len(prompts), device=x.device), (plan.lengths - 1).to(x.device)]))


def decode(
    model: Transformer,
    ids: Tensor,
    cache: Cache,
    plan: Plan,
    running: Tensor | None = None,
    graph: Graph | None = None,
) -> Tensor:
    """One token per row, ids `(B,)`, after what the cache holds; the logits after it, `(B, V)`.

    plan: what `resolve` made of the run's Steers, or of None. running: `(B,)`, false for rows that have ended, whose logits
    nobody reads: they are not steered. graph: this cache's.
    """
    positions = cache.lengths[:, None]  # (B, 1)
    if running is not None:
        positions = torch.where(running[:, None], positions, -1)
    adds = plan.adds(positions)
    if graph is not None:
        return graph(ids, adds)
    with _threads(model, len(ids)):
        return model.unembed(check_stream(model.stream(ids[:, None], adds or None, cache=cache)[:, 0]))


@overload
def generate(
    model: Transformer, ids: Sequence[int], *, max_new_tokens: int, **settings: Unpack[Settings]
) -> list[int]: ...
@overload
def generate(
    model: Transformer, ids: Sequence[Sequence[int]], *, max_new_tokens: int, **settings: Unpack[Settings]
) -> list[list[int]]: ...
@overload
def generate(model: Transformer, ids: Tensor, *, max_new_tokens: int, **settings: Unpack[Settings]) -> list[Any]: ...
@torch.no_grad()
def generate(
    model: Transformer,
    ids: Sequence[int] | Sequence[Sequence[int]] | Tensor,
    *,
    max_new_tokens: int,
    steer: Steer | Sequence[Steer] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    frequency_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    stop: Sequence[int] = (),
    on_token: OnToken | None = None,
    receipt: Receipt | None = None,
    graph: bool = False,
) -> list[Any]:
    """Continue one text (a list of ids) or several (a list of lists of any lengths, or a tensor `(B, T)`).

    Returns ids of the same kind, prompt included: a list for a list, else a list of lists. Each row is what it would be
    alone: by argmax, or with a list of generators, one per row (in bfloat16 or after `int8` up to rounding, which can turn a near tie).
    A row ends after `max_new_tokens` or with the first id that is in `stop`, which it keeps.

    steer: one `Steer` or several. on_token: called with (row, id) as each token is chosen.
    receipt: filled with what was done; a run with one that touched nothing raises.
    temperature, top_p, top_k: see `sample`. frequency_penalty, repetition_penalty: see `penalize`.
    generator: where randomness comes from; torch's global one if none is given.
    graph: on a GPU, the tokens after the first as one CUDA graph, see `Graph`; with vectors, without functions or a receipt.

    Raises `ValueError` before anything is computed: an empty prompt, ids outside the vocabulary, a text longer than the
    context, an intervention that would touch no position, a setting out of its range; and where the stream becomes NaN or infinite.
    """
    prompts, one = as_rows(ids)
    _check_settings(
        max_new_tokens, temperature, top_p, top_k, frequency_penalty, repetition_penalty, generator, stop, len(prompts)
    )
    check_room(model, prompts, max_new_tokens)
    plan = resolve(model, steer, prompts, max_new_tokens, receipt)
    if graph:
        _check_graph(plan)

    cache = Cache(model, len(prompts), int(plan.lengths.max()) + max_new_tokens - 1)  # the last token is never read
    recorded = Graph(model, cache, plan.sites) if graph else None
    logits = prefill(model, prompts, cache, plan)  # (B, V)
    counts = None
    if frequency_penalty != 0.0 or repetition_penalty != 1.0:
        counts = torch.stack([torch.bincount(torch.tensor(p), minlength=logits.shape[1]) for p in prompts])
        counts = counts.to(logits.device, torch.float32)  # (B, V); bfloat16 could not count past 256
    rows = [list(p) for p in prompts]
    running = torch.ones(len(rows), dtype=torch.bool)  # (B,)
    for step in range(max_new_tokens):
        if bool(logits.isnan().any()):
            raise ValueError(
                f"expected finite logits, got NaN after {step} new tokens; is a coefficient too large for {logits.dtype}?"
            )
        if counts is not None:
            logits = penalize(
                logits, counts, frequency_penalty=frequency_penalty, repetition_penalty=repetition_penalty
            )
        chosen = sample(logits, temperature=temperature, top_p=top_p, top_k=top_k, generator=generator)  # (B,)
        tokens = chosen.tolist()  # at once: each number by itself would wait for a GPU
        for row in torch.nonzero(running)[:, 0].tolist():
            token = tokens[row]
            rows[row].append(token)
            if on_token is not None:
                on_token(row, token)
            if token in stop:
                running[row] = False
        if not bool(running.any()) or step == max_new_tokens - 1:
            break
        if counts is not None:
            counts.scatter_add_(1, chosen[:, None], torch.ones_like(counts[:, :1]))
        logits = decode(model, chosen, cache, plan, running, recorded)
    plan.finish()
    return rows[0] if one else rows


def _check_settings(
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
    frequency_penalty: float,
    repetition_penalty: float,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    stop: Sequence[int],
    rows: int,
) -> None:
    if not isinstance(max_new_tokens, Integral):
        raise ValueError(f"expected max_new_tokens to be a whole number, got {max_new_tokens!r}")
    if not isinstance(stop, Collection) or not all(isinstance(i, Integral) for i in stop):
        remedy = f"[{stop!r}]" if isinstance(stop, Integral) else "tok.stop, or () to end at none"
        raise ValueError(f"expected stop to be a list of ids, got {stop!r}; write {remedy}")
    _check_sampling(temperature, top_p, top_k, generator, rows)
    for name, value, good, wanted in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("frequency_penalty", frequency_penalty, is_finite(frequency_penalty), "a finite number (0 is none)"),
        (
            "repetition_penalty",
            repetition_penalty,
            is_finite(repetition_penalty) and repetition_penalty > 0,
            "above 0 and finite (1 is none)",
        ),
    ):
        if not good:
            raise ValueError(f"expected {name} {wanted}, got {value!r}")


def _check_graph(plan: Plan) -> None:
    on, remedy = plan.model.device, "leave graph out"
    expect(on.type == "cuda", "a model on a GPU for graph=True", f"one on {on}", remedy)
    got = "a function" if plan.receipt is None else "a receipt"
    expect(plan.only_vectors, "vectors alone for graph=True", f"{got}, which runs Python at every token", remedy)
