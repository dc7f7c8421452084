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

import glob
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ministeer.activations import depth
from ministeer.batches import PASS, Text, batches_of, extent, rows_of, texts_of
from ministeer.files import append_lines, read_lines, write_text
from ministeer.identity import identity, model_identity
from ministeer.model import Site, Transformer, check_site
from ministeer.prompts import check_ids
from ministeer.provenance import data_hash
from ministeer.steer import Intervention, Steer, Where, resolve
from ministeer.variants import Branch, Rows, above, below, check_halves, logits32
from ministeer.vectors import SteeringVector, is_finite, vector_hash

Row = dict[str, Any]
Vector = SteeringVector | Tensor | Intervention
Score = Callable[[Tensor, int], Tensor]  # logits (R, V) after prompt i in R variants -> (R,) or (R, K)
Answers = Sequence[Sequence[Sequence[int]]]  # of each prompt, its candidate answers as ids


@dataclass(frozen=True)
class Task:
    """What one process does in one go: a batch of texts, a site, the variants of it that are still open."""

    batch: int
    site: Site
    variants: tuple[tuple[str, float], ...]  # (name of the vector, coefficient)
    cost: int  # tokens through a block


@torch.no_grad()
def sweep(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    score: Score | Answers,
    vectors: Mapping[str, Vector],
    layers: Sequence[int | Site],
    coeffs: Sequence[float],
    *,
    where: Where | Sequence[int] = "all",
    path: str | Path | None = None,
    memory: float = 2**30,
    progress: bool = False,
) -> list[Row]:
    """A row for each vector, layer, coefficient and prompt: `{"key", "vector", "site", "coeff", "prompt", "score"}`, in this order.

    prompts: N rows of ids, of any lengths.
    score: a function of the next token's logits, float32 `(R, V)` for R variants of one prompt, and that prompt's number, that gives
        `(R,)` or `(R, K)`, each row by itself; or the candidate answers of each prompt, as lists of ids: the score is then the
        log-probability of each, in nats.
    vectors: by name: tensors `(D,)`, `SteeringVector`s (their tensor at the site is taken), or functions of `interventions`, that is
        of each position by itself: tokens that prompts share are run once.
    layers: layer i for `("pre", i)`, or sites.
    where: as in `Steer`; of a prompt with an answer after it, "generated" is the answer.
    path: a file of one JSON row a line, filled as cells are done: a sweep that was cut off continues there, and rows of other
        sweeps stay; one sweep at a time writes there. A row is found again by its key: the model to the bit with its config and
        hooks, prompt, vector, site, coefficient, where and score, and this function with all that it calls here, as `identity.identity`
        tells them; a score or an intervention that holds what cannot be read is refused. What a score reads while it runs
        (a file, the time, an environment variable) is in no key: pass it as an argument (`functools.partial`). Without a path a
        key says only which cell of this call it is.
    memory: bytes to spend beside the model, roughly. Where they run out all the same, half as many variants are run at a time.

    Under torch.distributed every process calls this with the same arguments and gets all rows.
    Raises `ValueError` for what `Steer` and the model refuse, before anything is run, and for a file of something else.
    """
    for what, given in (("layers", layers), ("coeffs", coeffs)):
        if not hasattr(given, "__len__"):
            raise ValueError(f"expected {what} as a list, got {given!r}; write [{given!r}]")
    if not is_finite(memory):
        raise ValueError(f"expected memory as a finite number of bytes, got {memory!r}; write 2**30 for a GiB")
    sites = _checked_sites(layers)
    coeffs = [float(c) for c in coeffs]
    _check(model, prompts, score, vectors, sites, coeffs, where)
    grid = [(name, site, c, i) for name in vectors for site in sites for c in coeffs for i in range(len(prompts))]
    same, named = ([str(where)], dict.fromkeys(vectors, "")) if path is None else _told(model, score, vectors, where)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    if world > 1:
        told: list[Any] = [same, named]
        dist.broadcast_object_list(told)  # a function may name what is another thing in each process
        same, named = told
    asked = [str((i, list(ids), [] if callable(score) else score[i])) for i, ids in enumerate(prompts)]
    keys = {(n, site, c, i): data_hash([*same, n, named[n], str(site), str(c), asked[i]]) for n, site, c, i in grid}
    if len(keys) < len(grid):
        raise ValueError("expected every layer and coefficient once, got some of them twice")
    known = {} if path is None else _read(Path(path))
    if world > 1:
        dist.barrier()  # nobody writes before everybody has read
    # what a batch costs by itself, in its tokens: the weights are read once and once a site; the tokens run once, and once more
    # in each variant that is steered from the first of them on
    late = where in ("last", "generated") or not isinstance(where, str) and 0 not in where
    alone = PASS * (1 + len(sites)) / (1 if late else 1 + len(sites) * len(vectors) * len(coeffs))
    texts = texts_of(prompts, None if callable(score) else score)
    batches = batches_of(texts, _most_tokens(model, len(sites), memory), alone)
    mine = _share(_tasks(model, batches, list(vectors), sites, coeffs, keys, known), rank, world)
    part = None if path is None else Path(f"{path}.part-{rank}")
    if part is not None:
        append_lines(part, ())  # where nothing can be written, it is said before an hour's work
    bar = _bar(sum(len(task.variants) for task in mine) if progress else None)
    done: dict[str, Row] = {}
    for batch in dict.fromkeys(task.batch for task in mine):
        tasks = [task for task in mine if task.batch == batch]
        asked_sites = list(dict.fromkeys(task.site for task in tasks))
        for run in _runs(model, batches[batch], asked_sites, vectors, where):
            for task in tasks:
                for variants, scores in run.variants(task, score, memory):
                    fresh = {}
                    for (name, c), by_prompt in zip(variants, scores, strict=True):
                        for i, value in by_prompt.items():
                            key = keys[name, task.site, c, i]
                            fresh[key] = {"key": key, "vector": name, "site": list(task.site), "coeff": c, "prompt": i, "score": value}  # fmt: skip
                    done |= fresh
                    if part is not None:
                        append_lines(part, map(json.dumps, fresh.values()))
                    bar(len(variants) * len(run.texts) / len(batches[batch]))
            del run  # before the next is read
    if world > 1:
        everyone: list[Any] = [None] * world
        dist.all_gather_object(everyone, done)
        done = {key: row for rows in everyone for key, row in rows.items()}
    found = known | done
    rows = [found.pop(keys[cell]) for cell in grid]
    if path is not None and rank == 0:
        write_text(Path(path), "".join(json.dumps(row) + "\n" for row in [*rows, *found.values()]))
        for other in _parts(Path(path)):
            other.unlink()
    if world > 1:
        dist.barrier()  # the file is there for everybody
    return rows


# ---- what is asked, what is there already, and who does what
def _checked_sites(layers: Sequence[int | Site]) -> list[Site]:
    sites = []
    for layer in layers:
        site: Any = ("pre", layer) if isinstance(layer, Integral) else layer
        check_site(site)
        sites.append((site[0], int(site[1])))
    return sites


def _check(model: Transformer, prompts: Any, score: Any, vectors: Any, sites: Any, coeffs: Any, where: Any) -> None:
    if not isinstance(vectors, Mapping) or not all(isinstance(name, str) for name in vectors):
        raise ValueError(f'expected vectors by name, {{"love": vector}}, got {type(vectors).__name__}')
    for what, given in (("prompts", prompts), ("vectors", vectors), ("layers", sites), ("coefficients", coeffs)):
        if not len(given):
            raise ValueError(f"expected one or more {what}, got none")
    check_halves(model)
    check_ids(model, prompts, "prompts")
    if not callable(score):
        if not isinstance(score, Sequence) or isinstance(score, str):
            raise ValueError(
                f"expected a function of logits or lists of candidate answers as score, got {type(score).__name__}"
            )
        if len(score) != len(prompts):
            raise ValueError(f"expected candidate answers for each of {len(prompts)} prompts, got {len(score)} lists")
        for answers in score:
            check_ids(model, answers, "candidate answers of a prompt")
    after = [0 if callable(score) else max(map(len, score[i])) - 1 for i in range(len(prompts))]
    longest = max(len(ids) + more for ids, more in zip(prompts, after, strict=True))
    if longest > model.config.context:
        raise ValueError(
            f"expected prompts, and answers after them, within the model's context of {model.config.context} tokens, got {longest}; cut the text"
        )
    tokens = 1 if callable(score) else min(len(ids) for answers in score for ids in answers)
    for vector in vectors.values():
        for c in coeffs:
            Steer(vector, sites[0], c, where=where)  # refuses what is no coefficient
        resolve(model, [Steer(vector, site, coeffs[0], where=where) for site in sites], prompts, tokens)
    if callable(score):
        return
    begun = {int(ids[0]) for ids in (*prompts, *(ids for answers in score for ids in answers))}
    if len(begun) == 1 and all(len(ids) > 1 for answers in score for ids in answers):
        warnings.warn(
            f"every candidate answer begins with token {begun.pop()}, as every prompt does, so it is scored as a text begun anew; for what "
            "follows a prompt take tok.continuation",
            stacklevel=4,  # beyond `no_grad`
        )


def _told(
    model: Transformer, score: Any, vectors: Mapping[str, Vector], where: Any
) -> tuple[list[str], dict[str, str]]:
    """What the rows of a file depend on: what all of them share, and each vector."""
    scored = identity(score) if callable(score) else "log p"
    same = [model_identity(model), identity(sweep), str(where), scored]
    named = {name: identity(vector_hash(v) if isinstance(v, SteeringVector) else v) for name, v in vectors.items()}
    return same, named


def _parts(path: Path) -> list[Path]:
    """The files that the processes of cut-off runs left."""
    return [Path(name) for name in sorted(glob.glob(f"{glob.escape(str(path))}.part-*"))]


def _read(path: Path) -> dict[str, Row]:
    """The rows of earlier runs, by key."""
    if path.is_dir():
        raise ValueError(f"{path}: expected a file of rows, got a folder; name a file in it")
    if path.exists():
        with open(path, "rb") as file:
            if file.read(8) not in (b'{"key": ', b""):  # nothing is a file that was just made
                raise ValueError(f"{path}: expected a file that a sweep wrote, found something else; give another path")
    return {row["key"]: row for file in (path, *_parts(path)) for row in read_lines(file)}


def _tasks(
    model: Transformer, batches: Any, names: list[str], sites: list[Site], coeffs: list[float], keys: Any, known: Any
) -> list[Task]:
    """What is left to do, in the order in which it is done; the same in every process."""
    tasks = []
    for b, batch in enumerate(batches):
        mine = {text.prompt for text in batch}
        for site in sites:
            cells = [(name, c) for name in names for c in coeffs]
            left = tuple(cell for cell in cells if any(keys[cell[0], site, cell[1], i] not in known for i in mine))
            if left:
                blocks = model.config.n_layer - site[1] + 1
                tasks.append(Task(b, site, left, blocks * len(left) * extent(batch).work))
    return tasks


def _share(tasks: list[Task], rank: int, world: int) -> list[Task]:
    """The tasks of one process: neighbours, so that few processes read a batch, of about the cost that all others have."""
    total, before, mine = sum(task.cost for task in tasks), 0, []
    for task in tasks:
        if (2 * before + task.cost) * world // (2 * total) == rank:
            mine.append(task)
        before += task.cost
    return mine


def _most_tokens(model: Transformer, sites: int, memory: float) -> int:
    """How many tokens of a batch a half of the memory holds: their keys and values, and the stream at each site."""
    c = model.config
    each = 2 * c.n_layer * c.n_kv_head * c.head_size + sites * c.width
    return max(1, int(memory / 2 / (model.dtype.itemsize * each)))


def _bar(total: int | None) -> Callable[[float], Any]:
    """Something to call with how many variants of a batch are done."""
    if total is None:
        return lambda n: None
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda n: None
    return tqdm(total=total, unit="cell", disable=None).update  # type: ignore[no-any-return]


# ---- one batch, at all its sites


class _Run:
    """A batch of texts, read once without steering, from which its variants start."""

    def __init__(
        self,
        model: Transformer,
        texts: list[Text],
        sites: list[Site],
        vectors: Mapping[str, Vector],
        where: Where | Sequence[int],
    ) -> None:
        self.model, self.texts, self.vectors, self.where = model, texts, vectors, where
        self.by_row: bool | None = None  # whether the score tells rows one by one, once that was tried
        device = model.device
        ids, whole, seen = rows_of(texts)  # (N, T), (N, T), (N, T, T)
        self.shared = s = extent(texts).shared
        self.positions = whole[:, s:]
        self.tree = None if seen is None else (self.positions.to(device), seen[:, s:, s:].to(device))
        self.lengths = torch.tensor([t.length for t in texts])
        self.untouched = self._first_steered(sites[0], whole)
        # blocks above the highest site leave nothing that a variant needs, unless it looks back at unsteered tokens
        top = depth(model, sites) if self.untouched is None else model.config.n_layer
        head = Rows(s, keep=True) if s else None
        if head is not None:
            self.beginning = below(model, model.embed(ids[:1, :s].to(device)), head, sites, top)  # (1, s, D) each
        self.kept = Rows(whole.shape[1] - s, head, tree=self.tree, keep=self.untouched is not None)
        x = model.embed(ids[:, s:].to(device), self.positions.clamp(min=0).to(device))
        self.streams = below(model, x, self.kept, sites, top)  # (N, T - s, D) at each site
        if self.untouched is not None:
            after = torch.arange(whole.shape[1]) >= self.untouched[:, None]  # (N, T)
            self.span = int((after & (whole >= 0)).sum(1).max())
            after = after.to(device)
            for kept in (*self.kept.k.values(), *self.kept.v.values()):
                kept[after] = 0  # a mask is not enough: 0 times infinity is NaN
            self.rest = self._rest(self.untouched)

    def variants(
        self, task: Task, score: Score | Answers, memory: float
    ) -> Iterator[tuple[Sequence[tuple[str, float]], list[dict[int, Any]]]]:
        """Some variants at a time, and of each its scores by prompt."""
        at_a_time, left = self._at_a_time(memory), list(task.variants)
        while left:
            some = left[:at_a_time]
            try:
                x = self._steered(task.site, some)  # (R * reads, D)
                scores = self._scores(x, len(some), score)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or len(some) == 1:
                    raise
                at_a_time = len(some) // 2
                continue
            except ValueError as error:  # of a stream that overflows, or of the score: alone, a variant can be named
                if self.by_row is False:
                    raise
                if len(some) == 1:
                    [(name, c)] = some
                    raise ValueError(f"{name!r} at {task.site} with coefficient {c:g}: {error}") from error
                at_a_time = 1
                continue
            left = left[len(some) :]
            yield some, scores

    def _at_a_time(self, memory: float) -> int:
        """How many variants a half of the memory holds: what a block makes of their tokens, what they share, and their logits."""
        c, size = self.model.config, self.model.dtype.itemsize
        tokens = self.positions.numel() if self.untouched is None else len(self.texts) * self.span
        reads = sum(len(t.ids) - t.length + 1 for t in self.texts)
        shared = self.shared * (2 * c.n_layer + 4 * len(self.texts)) if self.untouched is None else 0
        each = ((tokens + self.shared) * 16 + shared) * c.width * size + reads * c.vocab_size * 8
        most = int(memory / 2 / each)
        # side by side a variant's tokens are compared with those of all others, to no end
        return max(1, most if self.untouched is None or self.span == 1 else min(most, 512 // self.span))

    def _first_steered(self, site: Site, positions: Tensor) -> Tensor | None:
        """How many tokens of each text stand before the first that is steered or read, if none of the shared beginning is."""
        steer = Steer(next(iter(self.vectors.values())), site, where=self.where)
        touched = steer.touches(positions, self.lengths)  # (N, T)
        first = torch.minimum(touched.int().argmax(1), self.lengths - 1)
        return first if int(first.min()) >= max(1, self.shared) else None

    def _steered(self, site: Site, variants: Sequence[tuple[str, float]]) -> Tensor:
        """The last stream of every variant at the tokens that are read, text by text within it, `(R * reads, D)`."""
        x, positions, rows = self.streams[site], self.positions, len(variants)
        if self.untouched is not None:  # the rest of each text, variants side by side after what nothing changes
            at, positions, seen = self.rest
            x = x.gather(1, at[:, :, None].expand(-1, -1, x.shape[-1]))  # (N, span, D)
            x = self._added(x, site, positions, self.texts, variants)  # (R * N, span, D)
            x = x.view(rows, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)  # (N, R * span, D)
            read = self._read(positions)[:, None].expand(-1, rows, -1)  # (N, R, span)
            x = above(self.model, x, site, Branch(self.kept, self.untouched, positions, seen), read.flatten(1))
            return x[read.nonzero()[:, 1].argsort(stable=True).to(x.device)]  # text by text -> variant by variant
        s = self.shared
        head = Rows(s, variants=rows, keep=True) if s else None
        if head is not None:
            begun = self._added(self.beginning[site], site, torch.arange(s)[None], self.texts[:1], variants)
            above(self.model, begun, site, head, torch.zeros(rows, s, dtype=torch.bool))  # no logits are read
        x = self._added(x, site, positions, self.texts, variants)  # (R * N, T - s, D)
        past = Rows(positions.shape[1], head, tree=self.tree, variants=rows)
        return above(self.model, x, site, past, self._read(positions).repeat(rows, 1))

    def _rest(self, untouched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each text what comes after its untouched tokens: where it is in the row and in the text, `(N, span)` each, and which of it
        sees which, `(N or 1, span, span)`."""
        at = untouched[:, None] - self.shared + torch.arange(self.span)
        tokens = self.positions.shape[1]
        inside, at = at < tokens, at.clamp(max=tokens - 1)
        positions = torch.where(inside, self.positions.gather(1, at), -1)
        seen = torch.ones(1, self.span, self.span, dtype=torch.bool).tril()
        at = at.to(self.model.device)
        if self.tree is not None:  # of padding the last token is repeated, which nothing to its left may see
            rows = torch.arange(len(at), device=at.device)[:, None, None]
            seen = seen.to(at.device) & self.tree[1][rows, at[:, :, None], at[:, None, :]]
        return at, positions, seen

    def _read(self, positions: Tensor) -> Tensor:
        """Which tokens' logits the score reads, of those at these positions `(N, T)`."""
        return positions >= self.lengths[:, None] - 1

    def _added(
        self, x: Tensor, site: Site, positions: Tensor, texts: Sequence[Text], variants: Sequence[tuple[str, float]]
    ) -> Tensor:
        """The stream `(N, T, D)` after what each variant adds to it, variant by variant `(R * N, T, D)`."""
        parts = []
        longest = max((len(answer) for t in texts for answer, _ in t.answers), default=1)
        for name in dict.fromkeys(name for name, _ in variants):
            mine = [c for other, c in variants if other == name]
            steer = Steer(self.vectors[name], site, [c for c in mine for _ in range(len(x))], where=self.where)
            prompts = [t.ids[: t.length] for t in texts] * len(mine)
            plan = resolve(self.model, steer, prompts, longest)
            parts.append(plan.at(site, x.repeat(len(mine), 1, 1), positions.repeat(len(mine), 1)))  # (R * N, T, D)
        return torch.cat(parts)

    def _scores(self, x: Tensor, rows: int, score: Score | Answers) -> list[dict[int, Any]]:
        """Of each variant, its scores by prompt."""
        logits = logits32(self.model, x).view(rows, -1, self.model.config.vocab_size)
        found: list[dict[int, Any]] = [{} for _ in range(rows)]
        start = 0
        for text in self.texts:
            some = logits[:, start : start + len(text.ids) - text.length + 1]  # (R, reads, V)
            start += some.shape[1]
            if callable(score):
                values = score(some[:, 0], text.prompt)
                if (
                    not isinstance(values, Tensor)
                    or values.ndim not in (1, 2)
                    or len(values) != rows
                    or values.is_complex()
                ):
                    got = type(values).__name__
                    if isinstance(values, Tensor):
                        got = f"{tuple(values.shape)} in {values.dtype}"
                    raise ValueError(f"expected a score that makes logits {tuple(some[:, 0].shape)} a tensor of real numbers ({rows},) or ({rows}, K), got {got}")  # fmt: skip
                if rows > 1 and self.by_row is None:
                    self._check_by_row(torch.as_tensor(score(some[-1:, 0], text.prompt)), values[-1:])
                for row, value in zip(found, values.tolist(), strict=True):
                    row[text.prompt] = value
                continue
            logp = some.log_softmax(-1)
            of_each = [logp[:, at, ids].sum(1) for ids, at in text.answers]  # (R,) each
            for row, values in zip(found, torch.stack(of_each, 1).tolist(), strict=True):
                row[text.prompt] = values
        return found

    def _check_by_row(self, alone: Tensor, last: Tensor) -> None:
        """Refuse a score that gives the last row alone another number than as one of several."""
        alone, last = alone.double(), last.double()
        self.by_row = alone.shape == last.shape and torch.allclose(alone, last, 1e-3, 1e-4, equal_nan=True)
        if not self.by_row:
            raise ValueError(
                "expected a score that tells each row of logits by itself, got another for the last one alone; its second "
                "argument is the prompt's number, so write answers[i] for all rows"
            )


def _runs(
    model: Transformer,
    texts: list[Text],
    sites: list[Site],
    vectors: Mapping[str, Vector],
    where: Where | Sequence[int],
) -> Iterator[_Run]:
    """A batch as it is, or, where memory runs out while it is read, half of its prompts at a time."""
    try:
        run = _Run(model, texts, sites, vectors, where)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or len(texts) == 1:
            raise
    else:
        yield run
        return
    for half in (texts[: len(texts) // 2], texts[len(texts) // 2 :]):
        yield from _runs(model, half, sites, vectors, where)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
