"""Texts -> steering vectors.

Letters: N texts, D width, P positions of a per-position vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ministeer.model import GPT2, Cache, Site, pad
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import Provenance, SteeringVector, data_hash, fingerprint


@torch.no_grad()
def streams(
    model: GPT2,
    rows: Sequence[Sequence[int]],
    positions: Sequence[int],
    sites: Sequence[Site],
    *,
    batch_size: int = 16,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[Site, Tensor]:
    """The residual stream of each text at one of its positions, `{site: (N, D)}` in float32 on the CPU.

    rows: N lists of ids, of any lengths. positions: N positions, counted from each row's first token.
    Only the sites asked for are kept, no block above the highest is run, no logits are computed.
    on_batch: called with (texts done, N) after each batch, for a progress bar.
    """
    _check_positions(rows, positions)
    sites = list(dict.fromkeys(sites))  # each once
    depth = _depth(model, sites)
    device = model.wte.weight.device
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids, _ = pad(batch)
        at = torch.tensor(positions[start : start + batch_size], device=device)
        tape: list[Any] = list(sites)
        model.stream(ids.to(device), tape=tape, depth=depth)
        for site, x in zip(sites, tape, strict=True):
            found[site].append(_at(x, at))
        if on_batch is not None:
            on_batch(start + len(batch), len(rows))
    return {site: torch.cat(parts) for site, parts in found.items()}


@torch.no_grad()
def pair_streams(
    model: GPT2,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    positions: Sequence[tuple[int, int]],
    sites: Sequence[Site],
    *,
    batch_size: int = 16,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[Site, Tensor]:
    """As `streams`, for the two texts of each of N pairs, `{site: (N, 2, D)}`; how the two begin alike is computed once.

    Contrast pairs often differ in their last token alone, and then cost half as much as two texts.
    batch_size: pairs at a time. on_batch: called with (pairs done, N).
    """
    for side in (0, 1):
        _check_positions([pair[side] for pair in pairs], [at[side] for at in positions])
    sites = list(dict.fromkeys(sites))  # each once
    depth = _depth(model, sites)
    device = model.wte.weight.device
    shared = [min(_alike(*pair), *at) for pair, at in zip(pairs, positions, strict=True)]
    order = sorted(range(len(pairs)), key=shared.__getitem__)  # pairs that share about as much come together
    found = {site: torch.empty(len(pairs), 2, model.config.n_embd) for site in sites}
    for start in range(0, len(pairs), batch_size):
        batch = order[start : start + batch_size]
        n = min(shared[i] for i in batch)
        cache = Cache(model, len(batch), max(len(text) for i in batch for text in pairs[i]), depth)
        if n:
            head = torch.tensor([list(pairs[i][0][:n]) for i in batch], device=device)
            model.stream(head, cache=cache, depth=depth)
        for side in (0, 1):
            cache.keep(torch.full((len(batch),), n))
            ids, _ = pad([pairs[i][side][n:] for i in batch])
            at = torch.tensor([positions[i][side] - n for i in batch], device=device)
            tape: list[Any] = list(sites)
            model.stream(ids.to(device), tape=tape, cache=cache, depth=depth)
            for site, x in zip(sites, tape, strict=True):
                found[site][batch, side] = _at(x, at)
        if on_batch is not None:
            on_batch(start + len(batch), len(pairs))
    return found


@torch.no_grad()
def activation_addition(
    model: GPT2, tokenizer: Tokenizer, positive: str, negative: str, sites: Site | Sequence[Site], *, filler: str = " "
) -> SteeringVector:
    """ActAdd (Turner et al. 2023, section 3): the stream over `positive` minus the stream over `negative`, `(P, D)`.

    Both texts begin with the end-of-text token; the shorter is lengthened on the right with `filler`, one token.
    For `Steer(..., where="front")` on prompts that begin with the end-of-text token too.
    """
    wanted = _sites(sites)
    rows = [[tokenizer.eot, *tokenizer.encode(text)] for text in (positive, negative)]
    longest = max(map(len, rows))
    rows = [row + [tokenizer.single(filler)] * (longest - len(row)) for row in rows]
    if rows[0] == rows[1]:
        raise ValueError(
            f"expected two texts that differ, also once the shorter is filled with {filler!r}, "
            f"got {positive!r} and {negative!r}: their difference is zero"
        )
    tape: list[Any] = list(wanted)
    model.stream(torch.tensor(rows, device=model.wte.weight.device), tape=tape, depth=_depth(model, wanted))
    tensors = {site: (x[0] - x[1]).float().cpu() for site, x in zip(wanted, tape, strict=True)}  # (2, P, D) -> (P, D)
    return SteeringVector(
        tensors,
        Provenance(
            model=fingerprint(model),
            method="activation_addition",
            data=data_hash([positive, negative]),
            token=f"every token, behind end-of-text, filler {filler!r}",
            dtype=_dtype(model),
        ),
    )


def contrastive(
    model: GPT2,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    sites: Site | Sequence[Site] | None = None,
    *,
    token: str = "answer",
    batch_size: int = 16,
    on_batch: Callable[[int, int], None] | None = None,
) -> SteeringVector:
    """CAA (Panickssery et al. 2024, equation 1): mean over pairs of h(positive text) - h(negative text), `(D,)` a site.

    token: where h is read: "answer", the first token in which the two texts of a pair differ, or "last", the last token
        of each, for texts that differ in more than one.
    sites: by default the stream that enters each block and the one that leaves the last. What the literature calls
        the output of block i is `("pre", i + 1)`.
    batch_size, on_batch: see `pair_streams`.
    The texts are encoded as they are: begin them with "<|endoftext|>" yourself if the prompts to be steered do.
    """
    if not pairs:
        raise ValueError("expected at least one pair of texts, got none")
    rows = [(tokenizer.encode(a, special=True), tokenizer.encode(b, special=True)) for a, b in pairs]
    positions = [_read_at(plus, minus, token, number) for number, (plus, minus) in enumerate(rows)]
    wanted = [("pre", i) for i in range(model.config.n_layer + 1)] if sites is None else _sites(sites)
    found = pair_streams(model, rows, positions, wanted, batch_size=batch_size, on_batch=on_batch)
    return SteeringVector(
        {site: (x[:, 0] - x[:, 1]).mean(0) for site, x in found.items()},  # (N, 2, D) -> (D,)
        Provenance(
            model=fingerprint(model),
            method="contrastive",
            data=data_hash([text for pair in pairs for text in pair]),
            token=token,
            dtype=_dtype(model),
        ),
    )


def random_like(vector: SteeringVector, *, seed: int) -> SteeringVector:
    """The control: directions drawn at random, of the vector's norm at every site and position."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, tensor in vector.tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)  # (D,) or (P, D)
        tensors[site] = noise * (tensor.float().cpu().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    method = f"random, of the norm of ({vector.provenance.method})"
    return SteeringVector(tensors, replace(vector.provenance, method=method, seed=seed))


def _check_positions(rows: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    for number, (row, position) in enumerate(zip(rows, positions, strict=True)):
        if not 0 <= position < len(row):  # beyond lies padding, and -1 would be some of it
            raise ValueError(f"expected a position from 0 to {len(row) - 1} in row {number}, got {position}")


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """The stream `(B, T, D)` at one position of each row, `(B, D)` in float32 on the CPU."""
    return x[torch.arange(len(x), device=x.device), positions].float().cpu()


def _read_at(plus: Sequence[int], minus: Sequence[int], token: str, number: int) -> tuple[int, int]:
    if plus == minus:
        raise ValueError(f"expected two texts that differ, got the same text twice in pair {number}")
    if token == "last":
        if not plus or not minus:
            raise ValueError(f"expected two texts, got an empty one in pair {number}")
        return len(plus) - 1, len(minus) - 1
    if token != "answer":
        raise ValueError(f"expected token to be 'answer' or 'last', got {token!r}")
    first = _alike(plus, minus)
    if first == min(len(plus), len(minus)):
        raise ValueError(
            f"expected two texts with a token in which they differ, got one that continues the other in pair {number}; "
            "use token='last'"
        )
    return first, first


def _alike(plus: Sequence[int], minus: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    differ = (i for i, (a, b) in enumerate(zip(plus, minus, strict=False)) if a != b)
    return next(differ, min(len(plus), len(minus)))


def _sites(sites: Site | Sequence[Site]) -> list[Site]:
    given: Any = sites
    wanted = [given] if isinstance(given, tuple) and given and isinstance(given[0], str) else given
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not len(wanted):
        raise ValueError(f'expected a site ("pre", i) or ("mid", i), or a list of them, got {given!r}')
    for site in wanted:
        if not isinstance(site, tuple) or len(site) != 2 or site[0] not in ("pre", "mid"):
            raise ValueError(f'expected a site of the stream, ("pre", i) or ("mid", i), got {site!r}')
    return list(wanted)


def _depth(model: GPT2, sites: Sequence[Site]) -> int:
    """How many blocks to run for the highest of the sites; all of them for one that the model refuses in better words."""
    highest = int(max(layer + (name != "pre") for name, layer in sites))
    return highest if 0 <= highest <= model.config.n_layer else model.config.n_layer


def _dtype(model: GPT2) -> str:
    return str(model.wte.weight.dtype).removeprefix("torch.")
