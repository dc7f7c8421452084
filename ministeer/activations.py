"""Texts -> the residual stream at one token of each.

Letters: N texts or pairs, B of them at a time, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ministeer.model import Site, Transformer, check_site, check_stream, expect
from ministeer.prompts import pad
from ministeer.variants import begun, changed

OnBatch = Callable[[int, int], None]


@torch.no_grad()
def streams(
    model: Transformer,
    rows: Sequence[Sequence[int]],
    positions: Sequence[int],
    sites: Sequence[Site],
    *,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> dict[Site, Tensor]:
    """The residual stream of each text at one of its positions, `{site: (N, D)}` in float32 on the CPU.

    rows: N lists of ids, of any lengths. positions: N positions, counted from each row's first token.
    Only the sites asked for are kept, no block above the highest is run, no logits are computed.
    on_batch: called with (texts done, N) after each batch, for a progress bar.
    """
    check_batch_size(batch_size)
    _check_positions(model, rows, positions)
    sites = list(dict.fromkeys(sites))  # each once
    top = depth(model, sites)
    device = model.device
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids, _ = pad(batch)
        at = torch.tensor(positions[start : start + batch_size], device=device)
        tape: list[Any] = list(sites)
        model.stream(ids.to(device), tape=tape, depth=top)
        for site, x in zip(sites, tape, strict=True):
            found[site].append(_at(x, at))
        if on_batch is not None:
            on_batch(start + len(batch), len(rows))
    return {site: torch.cat(parts) for site, parts in found.items()}


@torch.no_grad()
def pair_streams(
    model: Transformer,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    positions: Sequence[tuple[int, int]],
    sites: Sequence[Site],
    *,
    batch_size: int = 16,
    on_batch: OnBatch | None = None,
) -> dict[Site, Tensor]:
    """As `streams`, for the two texts of each of N pairs, `{site: (N, 2, D)}`; their common start is computed once, except
    for a model with hooks, which must see whole texts.

    Contrast pairs often differ in their last token alone, and then cost half as much as two texts.
    batch_size: pairs at a time. on_batch: called with (pairs done, N).
    """
    check_batch_size(batch_size)
    for side in (0, 1):
        _check_positions(model, [pair[side] for pair in pairs], [at[side] for at in positions])
    sites = list(dict.fromkeys(sites))  # each once
    top = depth(model, sites)
    device = model.device
    whole = bool(changed(model))
    shared = [0 if whole else min(alike(*pair), *at) for pair, at in zip(pairs, positions, strict=True)]
    order = sorted(range(len(pairs)), key=shared.__getitem__)  # pairs that share about as much come together
    found = {site: torch.empty(len(pairs), 2, model.config.width, dtype=torch.float32) for site in sites}
    for start in range(0, len(pairs), batch_size):
        batch = order[start : start + batch_size]
        n = min(shared[i] for i in batch)
        ids, _ = pad([pairs[i][side][n:] for side in (0, 1) for i in batch])  # (2B, T)
        heads = torch.tensor([list(pairs[i][0][:n]) for i in batch], device=device)  # (B, n)
        cache = begun(model, heads, 2, n + ids.shape[1], top) if n else None
        at = torch.tensor([positions[i][side] - n for side in (0, 1) for i in batch], device=device)
        tape: list[Any] = list(sites)
        model.stream(ids.to(device), tape=tape, cache=cache, depth=top)
        for site, x in zip(sites, tape, strict=True):
            found[site][batch] = _at(x, at).view(2, len(batch), -1).transpose(0, 1)  # (2B, D) -> (B, 2, D)
        if on_batch is not None:
            on_batch(start + len(batch), len(pairs))
    return found


def check_batch_size(size: int) -> None:
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"expected a batch size, a whole number from 1 up, got {size!r}")


def check_texts(prompts: Sequence[str]) -> None:
    if bad := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise ValueError(f"expected prompts as texts, got {bad[0]!r}; of data.few_shot take row['prompt']")


def as_sites(sites: Site | Sequence[Site]) -> list[Site]:
    """One site or several as a list, each a site of the stream."""
    given: Any = sites
    wanted = [given] if isinstance(given, tuple) and given and isinstance(given[0], str) else given
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not len(wanted):
        raise ValueError(f'expected a site ("pre", i) or ("mid", i), or a list of them, got {given!r}')
    for site in wanted:
        check_site(site)
    return list(wanted)


def alike(plus: Sequence[int], minus: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    differ = (i for i, (a, b) in enumerate(zip(plus, minus, strict=False)) if a != b)
    return next(differ, min(len(plus), len(minus)))


def depth(model: Transformer, sites: Sequence[Site]) -> int:
    """How many blocks to run for the highest of the sites; all if the model will refuse one, with a better message."""
    highest = int(max(layer + (name != "pre") for name, layer in sites))
    return highest if 0 <= highest <= model.config.n_layer else model.config.n_layer


def _check_positions(model: Transformer, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    expect(len(rows) > 0, "one text or more", "none")
    expect(len(rows) == len(positions), f"a position for each of {len(rows)} texts", len(positions))
    context = model.config.context
    for number, (row, position) in enumerate(zip(rows, positions, strict=True)):
        expect(len(row) <= context, f"texts of at most {context} tokens, the model's context", len(row), "cut the text")
        # beyond lies padding, and -1 would be some of it
        if not isinstance(position, Integral) or not 0 <= position < len(row):
            raise ValueError(f"expected a position from 0 to {len(row) - 1} in row {number}, got {position!r}")


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """The stream `(B, T, D)` at one position of each row, `(B, D)` in float32 on the CPU."""
    return check_stream(x[torch.arange(len(x), device=x.device), positions].float().cpu())
