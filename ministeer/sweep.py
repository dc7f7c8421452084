"""Grids of vectors, layers and coefficients over many prompts, each part of the forward pass computed once.

    rows = sweep(model, prompts, score, {"love": vector}, layers=range(12), coeffs=[-4.0, 4.0], path="love.jsonl")

A loop over the grid runs the whole model for each cell. Here the prompts are read once, unsteered, and the stream is kept at each site; a
variant (a vector and a coefficient) starts there and runs only the blocks above. All variants of a site are rows of one batch.
Tokens before the first steered one are never run again; a beginning that prompts share is run once a variant; and of the last
block and the unembedding only the tokens whose logits the score reads. The numbers are those of the loop, to rounding.

Run with torchrun, each process takes its share (docs/scaling.md).
Letters: N texts of a batch, T tokens, R variants, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ministeer.branch import Branch, Shared, above
from ministeer.files import read_lines, write_text
from ministeer.model import GPT2, Cache, Past, Site, Sites, pad
from ministeer.provenance import data_hash, dtype_name, fingerprint, tensor_hash
from ministeer.reading import depth
from ministeer.vectors import Intervention, Steer, SteeringVector, check_site

Row = dict[str, Any]
Vector = SteeringVector | Tensor | Intervention
Score = Callable[[Tensor, int], Tensor]  # logits (R, V) after prompt i in R variants -> (R,) or (R, K)
Answers = Sequence[Sequence[Sequence[int]]]  # of each prompt, its candidate answers as ids
SLACK = 1.2  # how much more work, in tokens, a larger batch may be than two smaller ones


@dataclass(frozen=True)
class Text:
    """A row of ids to be run: a prompt, or a prompt and all of an answer but its last token."""

    ids: tuple[int, ...]
    prompt: int  # which one, from 0
    length: int  # of the prompt: logits are read from its last token on
    answer: tuple[int, ...] = ()  # the ids whose log-probability is read; none: the last token's logits are


@dataclass(frozen=True)
class Task:
    """What one process does in one go: a batch of texts, a site, the variants of it that are still open."""

    batch: int
    site: Site
    variants: tuple[tuple[str, float], ...]  # (name of the vector, coefficient)


@torch.no_grad()
def sweep(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    score: Score | Answers,
    vectors: Mapping[str, Vector],
    layers: Sequence[int | Site],
    coeffs: Sequence[float],
    *,
    where: str | Sequence[int] = "all",
    path: str | Path | None = None,
    memory: float = 2**30,
    progress: bool = False,
) -> list[Row]:
    """A row for each vector, layer, coefficient and prompt: `{"key", "vector", "site", "coeff", "prompt", "score"}`, in this order.

    prompts: N rows of ids, of any lengths.
    score: a function of the next token's logits, float32 `(R, V)` for R variants, and the prompt's number, that gives `(R,)` or `(R, K)`;
        or the candidate answers of each prompt, as lists of ids: the score is then the log-probability of each, in nats.
    vectors: by name: tensors `(D,)`, `SteeringVector`s (their tensor at the site is taken), or functions of `interventions`.
    layers: layer i for `("pre", i)`, or sites.
    where: as in `Steer`.
    path: a file of one JSON row a line, filled as cells are done: a sweep that was cut off continues there. A row is found again by its
        key: model, dtype, prompt, vector, site, coefficient, where and score; of functions, their name and source.
    memory: bytes to spend beside the model. Where it runs out all the same, half as many variants are run at a time.

    Under torch.distributed every process calls this with the same arguments and gets all rows.
    """
    sites: list[Site] = [("pre", layer) if isinstance(layer, int) else layer for layer in layers]
    for site in sites:
        check_site(site)
    _check(prompts, score, vectors, sites, coeffs)
    grid = [
        (name, site, float(c), i) for name in vectors for site in sites for c in coeffs for i in range(len(prompts))
    ]
    names = _keys(model, prompts, score, vectors, where)
    keys = {cell: data_hash([names[cell[0]], names[cell[3]], str(cell[1]), repr(cell[2])]) for cell in grid}
    if len(set(keys.values())) < len(grid):
        raise ValueError("expected every vector, layer, coefficient and prompt once, got some of them twice")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    known = _read(path, set(keys.values()))
    if world > 1:
        dist.barrier()  # nobody writes before everybody has read
    batches = list(_batches(_texts(prompts, score), _most_tokens(model, len(sites), memory)))
    tasks = _tasks(batches, vectors, sites, coeffs, keys, known)[rank::world]
    done: dict[str, Row] = {}
    bar = _bar(sum(len(t.variants) for t in tasks) if progress else None)
    part = Path(f"{path}.{rank}") if path is not None else None
    for batch in dict.fromkeys(task.batch for task in tasks):
        mine = [task for task in tasks if task.batch == batch]
        run = _Run(model, batches[batch], list(dict.fromkeys(t.site for t in mine)), vectors, where)
        for task in mine:
            for variants, scores in run.variants(task, score, memory):
                fresh = []
                for (name, c), row in zip(variants, scores, strict=True):
                    for i, value in row.items():
                        key = keys[name, task.site, c, i]
                        fresh.append({"key": key, "vector": name, "site": list(task.site), "coeff": c, "prompt": i, "score": value})  # fmt: skip
                done |= {row["key"]: row for row in fresh}
                if part is not None:
                    part.parent.mkdir(parents=True, exist_ok=True)
                    with open(part, "a", encoding="utf-8") as file:
                        file.writelines(json.dumps(row) + "\n" for row in fresh)
                bar(len(variants))
    if world > 1:
        everyone: list[Any] = [None] * world
        dist.all_gather_object(everyone, done)
        done = {key: row for rows in everyone for key, row in rows.items()}
    found = known | done
    rows = [found[keys[cell]] for cell in grid]
    if path is not None and rank == 0:
        write_text(Path(path), "".join(json.dumps(row) + "\n" for row in rows))
        for other in _parts(path):
            other.unlink()
    return rows


# ---- what is there already, and who does what


def _check(prompts: Any, score: Any, vectors: Any, sites: Any, coeffs: Any) -> None:
    if isinstance(prompts, Tensor):
        raise ValueError("expected prompts as rows of ids, a list of lists, got a tensor; write prompts.tolist()")
    if not isinstance(vectors, Mapping):
        raise ValueError(f'expected vectors by name, {{"love": vector}}, got {type(vectors).__name__}')
    for what, given in (("prompts", prompts), ("vectors", vectors), ("layers", sites), ("coefficients", coeffs)):
        if not len(given):
            raise ValueError(f"expected one or more {what}, got none")
    if not callable(score):
        if len(score) != len(prompts):
            raise ValueError(f"expected candidate answers for each of {len(prompts)} prompts, got {len(score)} lists")
        if any(not answers or not all(len(ids) for ids in answers) for answers in score):
            raise ValueError("expected at least one candidate answer a prompt, each of at least one id, got none")


def _keys(model: GPT2, prompts: Any, score: Any, vectors: Mapping[str, Vector], where: Any) -> dict[str | int, str]:
    """What decides the rows of each vector, by name, and of each prompt, by number."""
    same = [fingerprint(model), dtype_name(model), str(where), _source(score) if callable(score) else "log p"]
    names: dict[str | int, str] = {}
    for name, vector in vectors.items():
        held = {"": vector} if isinstance(vector, Tensor) else getattr(vector, "tensors", None)
        names[name] = data_hash([*same, name, tensor_hash(held.items()) if held else _source(vector)])
    for i, ids in enumerate(prompts):
        asked = [] if callable(score) else [list(map(int, answer)) for answer in score[i]]
        names[i] = data_hash([str(i), str(list(map(int, ids))), str(asked)])
    return names


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return repr(getattr(function, "__qualname__", type(function).__qualname__))


def _parts(path: str | Path) -> list[Path]:
    """The files that the processes of cut-off runs left."""
    path = Path(path)
    return sorted(p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit())


def _read(path: str | Path | None, wanted: set[str]) -> dict[str, Row]:
    if path is None:
        return {}
    rows = [row for file in (Path(path), *_parts(path)) for row in read_lines(file)]
    return {row["key"]: row for row in rows if row["key"] in wanted}


def _tasks(
    batches: Sequence[Sequence[Text]], vectors: Any, sites: Any, coeffs: Any, keys: dict[Any, str], known: Any
) -> list[Task]:
    """What is left to do, in the order in which it is done; the same in every process."""
    tasks = []
    for b, batch in enumerate(batches):
        mine = {text.prompt for text in batch}
        for site in sites:
            cells = [(name, float(c)) for name in vectors for c in coeffs]
            open_ones = [cell for cell in cells if any(keys[cell[0], site, cell[1], i] not in known for i in mine)]
            if open_ones:
                tasks.append(Task(b, site, tuple(open_ones)))
    return tasks


def _bar(total: int | None) -> Callable[[int], Any]:
    """Something to call with how many variants are done."""
    if total is None:
        return lambda n: None
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda n: None
    return tqdm(total=total, unit="cell", disable=None).update  # type: ignore[no-any-return]


# ---- texts and batches


def _texts(prompts: Sequence[Sequence[int]], score: Score | Answers) -> list[list[Text]]:
    """The texts of each prompt."""
    rows = [tuple(map(int, prompt)) for prompt in prompts]
    pad(rows)  # says what is wrong with them
    if callable(score):
        return [[Text(ids, i, len(ids))] for i, ids in enumerate(rows)]
    return [
        [Text((*ids, *answer[:-1]), i, len(ids), tuple(answer)) for answer in answers]
        for i, (ids, answers) in enumerate(zip(rows, score, strict=True))
    ]


def _batches(texts: list[list[Text]], most: int) -> Iterator[list[Text]]:
    """Prompts that begin alike come together, and others while that is hardly more work than apart; at most so many tokens."""
    batch: list[Text] = []
    for some in sorted(texts, key=lambda some: some[0].ids):
        more = [*batch, *some]
        if batch and (_work(more) > SLACK * (_work(batch) + _work(some)) or _work(more) > most):
            yield batch
            more = some
        batch = more
    yield batch


def _work(texts: Sequence[Text]) -> int:
    """Tokens to run: of what the texts share once, of the rest those of the longest for each."""
    s = _shared(texts)
    return s + len(texts) * (max(len(t.ids) for t in texts) - s)


def _shared(texts: Sequence[Text]) -> int:
    """How many tokens all of them begin with, of those whose logits nobody reads; 0 where running them once is no gain."""
    first, last = min(t.ids for t in texts), max(t.ids for t in texts)
    alike = next((k for k, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    s = min(alike, *(t.length - 1 for t in texts))
    return s if s * (len(texts) - 1) > 0.1 * sum(len(t.ids) for t in texts) else 0


def _most_tokens(model: GPT2, sites: int, memory: float) -> int:
    """How many tokens of a batch a half of the memory holds: their keys and values, and the stream at each site."""
    c = model.config
    return max(1, int(memory / 2 / (model.wte.weight.element_size() * c.n_embd * (2 * c.n_layer + sites))))


# ---- one batch, at all its sites


class _Run:
    """A batch of texts, read once without steering, from which its variants start."""

    def __init__(
        self,
        model: GPT2,
        texts: list[Text],
        sites: list[Site],
        vectors: Mapping[str, Vector],
        where: str | Sequence[int],
    ) -> None:
        self.model, self.texts, self.vectors, self.where = model, texts, vectors, where
        device = model.wte.weight.device
        self.shared = s = _shared(texts)
        ids, self.positions = pad([t.ids[s:] for t in texts])  # (N, T - s)
        self.positions = torch.where(self.positions >= 0, self.positions + s, -1)
        self.lengths = torch.tensor([t.length for t in texts])
        self.untouched = self._untouched(sites[0])
        # blocks above the highest site leave nothing that a variant needs, unless it looks back at unsteered tokens
        top = depth(model, sites) if self.untouched is None else model.config.n_layer
        cache = Cache(model, len(texts), s + ids.shape[1], top)
        self.beginning: dict[Site, Tensor] = {}  # (1, s, D) at each site
        if s:
            tape: list[Any] = list(sites)
            one = Cache(model, 1, s, top)
            model.stream(torch.tensor([texts[0].ids[:s]], device=device), tape=tape, cache=one, depth=top)
            self.beginning = dict(zip(sites, tape, strict=True))
            cache.k[:, :, :s], cache.v[:, :, :s] = one.k, one.v
            cache.lengths = torch.full((len(texts),), s)
        tape = list(sites)
        model.stream(ids.to(device), tape=tape, cache=cache, depth=top)
        self.streams = dict(zip(sites, tape, strict=True))  # (N, T - s, D) at each site
        if self.untouched is not None:
            cache.keep(self.untouched)
            self.cache = cache

    def variants(
        self, task: Task, score: Score | Answers, memory: float
    ) -> Iterator[tuple[Sequence[tuple[str, float]], list[dict[int, Any]]]]:
        """Some variants at a time, and of each its scores by prompt."""
        c, (site, size) = self.model.config, (task.site, self.model.wte.weight.element_size())
        tokens = int((self.positions >= 0).sum()) + self.shared
        reads = sum(max(1, len(t.answer)) for t in self.texts)
        each = tokens * c.n_embd * 16 * size + reads * c.vocab_size * 8
        at_a_time, left = max(1, int(memory / 2 / each)), list(task.variants)
        while left:
            some = left[:at_a_time]
            try:
                x = self._steered(site, some)  # (R * reads, D)
                scores = self._scores(x, len(some), score)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or at_a_time == 1:
                    raise
                at_a_time = max(1, min(at_a_time, len(some)) // 2)
                continue
            left = left[len(some) :]
            yield some, scores

    def _untouched(self, site: Site) -> Tensor | None:
        """How many tokens of each text stand before the first steered one, if nothing in the shared beginning is steered."""
        whole = torch.arange(self.shared + self.positions.shape[1]).expand(len(self.texts), -1)
        ends = torch.tensor([len(t.ids) for t in self.texts])[:, None]
        steer = Steer(next(iter(self.vectors.values())), site, where=self.where)
        touched = steer.touches(torch.where(whole < ends, whole, -1), self.lengths)  # (N, T)
        if not bool(touched.any(1).all()):
            raise ValueError(
                f"expected where={self.where!r} to be a token of every prompt, got prompts that it does not reach"
            )
        first = touched.int().argmax(1)
        return first if int(first.min()) >= max(1, self.shared) else None

    def _steered(self, site: Site, variants: Sequence[tuple[str, float]]) -> Tensor:
        """The last stream of every variant at the tokens that are read, text by text within it, `(R * reads, D)`."""
        x, positions, rows = self.streams[site], self.positions, len(variants)
        past: Past | None = None
        if self.untouched is not None:  # the rest of each text, variants side by side behind what nothing changes
            span = int((positions >= self.untouched[:, None]).sum(1).max())
            at = self.untouched[:, None] - self.shared + torch.arange(span)  # (N, span)
            inside = at < positions.shape[1]
            at = at.clamp(max=positions.shape[1] - 1)
            positions = torch.where(inside, positions.gather(1, at), -1)
            x = x.gather(1, at.to(x.device)[:, :, None].expand(-1, -1, x.shape[-1]))
            x = self._added(x, site, positions, self.lengths, variants)  # (R * N, span, D)
            x = x.view(rows, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)  # (N, R * span, D)
            read = self._read(positions)[:, None].expand(-1, rows, -1)  # (N, R, span)
            x = above(self.model, x, site, Branch(self.cache, span), read.flatten(1))
            return x[read.nonzero()[:, 1].argsort(stable=True).to(x.device)]  # text by text -> variant by variant
        if self.shared:
            past = Shared()
            begun = self._added(self.beginning[site], site, torch.arange(self.shared)[None], self.lengths[:1], variants)
            above(
                self.model, begun, site, past, torch.zeros(begun.shape[:2], dtype=torch.bool)
            )  # nothing is read of it
        x = self._added(x, site, positions, self.lengths, variants)  # (R * N, T - s, D)
        return above(self.model, x, site, past, self._read(positions).repeat(rows, 1))

    def _read(self, positions: Tensor) -> Tensor:
        """Which tokens' logits the score reads, of those at these positions `(N, T)`."""
        return positions >= self.lengths[:, None] - 1

    def _added(
        self, x: Tensor, site: Site, positions: Tensor, lengths: Tensor, variants: Sequence[tuple[str, float]]
    ) -> Tensor:
        """The stream `(N, T, D)` after what each variant adds to it, variant by variant `(R * N, T, D)`."""
        parts = []
        for name in dict.fromkeys(name for name, _ in variants):
            mine = [c for other, c in variants if other == name]
            steer = Steer(self.vectors[name], site, [c for c in mine for _ in range(len(x))], where=self.where)
            at = positions.repeat(len(mine), 1)  # (R * N, T)
            add = steer.add(at, lengths.repeat(len(mine)))
            base = x.repeat(len(mine), 1, 1)
            parts.append(Sites(self.model, at, {site: add}).at(site, base))
        return torch.cat(parts)

    def _scores(self, x: Tensor, rows: int, score: Score | Answers) -> list[dict[int, Any]]:
        """Of each variant, its scores by prompt."""
        logits = self.model.unembed(x).float().view(rows, -1, self.model.config.vocab_size)  # (R, reads, V)
        found: list[dict[int, Any]] = [{} for _ in range(rows)]
        start = 0
        for text in self.texts:
            some = logits[:, start : start + max(1, len(text.answer))]
            start += some.shape[1]
            if callable(score):
                values = score(some[:, 0], text.prompt).tolist()
            else:
                ids = torch.tensor(text.answer, device=some.device).expand(rows, -1)[:, :, None]
                values = (some.gather(2, ids)[:, :, 0] - some.logsumexp(-1)).sum(1).tolist()
            for row, value in zip(found, values, strict=True):
                if callable(score):
                    row[text.prompt] = value
                else:
                    row.setdefault(text.prompt, []).append(value)
        return found


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
