"""Where a vector comes from, and how it came out of its data: what travels with it into its file.

Letters: N items, D width.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from numbers import Number
from operator import attrgetter
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from ministeer.model import Transformer
from ministeer.source import definition, node_of

SPLITS = 5  # random halvings that the two split-half numbers are means of


@dataclass(frozen=True)
class Provenance:
    """How a vector was made."""

    model: str  # fingerprint of the weights it was read from
    method: str  # how it was computed, e.g. "contrastive"
    data: str  # data_hash of the texts
    token: str  # at which token of each text the stream was read
    dtype: str  # of the model while it was read
    seed: int | None = None  # of whatever was drawn; None if nothing was

    @classmethod
    def of(cls, model: Transformer, method: str, texts: Sequence[str], token: str) -> Provenance:
        """Of a vector just read from this model and these texts."""
        return cls(fingerprint(model), method, data_hash(texts), token, dtype_name(model))


@dataclass(frozen=True, repr=False)
class Health:
    """How a direction came out of its data at one site. What a method has no number for is None.

    relative_norm: its length over the mean length of the stream where it was read; says nothing of a direction of length 1.
    split_half: cosine of the directions that two halves of the data give.
    separability: d', how far apart the two classes lie along it, in standard deviations: the direction from one half
        of the data, the distance measured on the other.
    agreement: mean cosine between the differences of two items: how much of it each item shares.

    Steering by directions with low agreement and separability is unreliable (Tan et al. 2024; Braun et al. 2025). The
    limits in `weak` are this project's choice.
    """

    relative_norm: float | None = None
    split_half: float | None = None
    separability: float | None = None
    agreement: float | None = None

    def __str__(self) -> str:
        named = {"norm": self.relative_norm, "split-half": self.split_half, "d'": self.separability}
        named["agreement"] = self.agreement
        shown = ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)
        return "; ".join([shown or "not measured", *self.weak])

    __repr__ = __str__

    @property
    def weak(self) -> list[str]:
        """Why steering with it may not work, in words; empty for a sound direction."""
        if self.relative_norm == 0:
            return ["weak: the vector is zero here, as the texts do not differ"]
        found = []
        if self.split_half is not None and self.split_half < 0.5:
            found.append("weak: two halves of the data give different directions")
        if self.separability is not None and not self.separability >= 1:
            found.append("weak: the two classes overlap along it")
        if self.agreement is not None and self.agreement < 0.1:
            found.append("weak: the items share little of it")
        return found


def health(vector: Tensor, items: Tensor, find: Callable[[Tensor], Tensor], norm: float | None = None) -> Health:
    """The health of `vector` `(D,)`, which `find` made of `items`, `(N, 2, D)` of two classes or `(N, D)` of one.

    norm: mean length of the stream where the items were read; by default that of the items, which then are streams. The
    items have to be independent: what they share by the way they were made would count as agreement. Fewer than 4 say
    nothing of halves. The halves are drawn with a seed of their own, so that the same data give the same numbers.
    """
    two = items.ndim == 3
    differences = items[:, 0] - items[:, 1] if two else items  # (N, D)
    length = float(items.norm(dim=-1).mean()) if norm is None else norm
    relative = float(vector.norm()) / length if length else 0.0
    n, unit = len(items), torch.nn.functional.normalize(differences.double(), dim=-1)  # (N, D)
    if relative == 0 or n < 2:
        return Health(relative)
    agreement = float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))
    if n < 4:
        return Health(relative, agreement=agreement)
    cosines, distances = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(SPLITS):
        order = torch.randperm(n, generator=generator)
        halves = items[order[: n // 2]], items[order[n // 2 :]]
        found = [find(half) for half in halves]
        cosines.append(float(torch.cosine_similarity(found[0], found[1], dim=0)))
        if two:
            distances += [_distance(halves[1], found[0]), _distance(halves[0], found[1])]
    return Health(relative, sum(cosines) / SPLITS, sum(distances) / len(distances) if two else None, agreement)


def _distance(items: Tensor, direction: Tensor) -> float:
    """d' of two classes `(N, 2, D)` along a direction: difference of their means over their pooled standard deviation."""
    along = items.double() @ direction.double()  # (N, 2)
    gap, variance = float((along[:, 0] - along[:, 1]).mean()), float(along.var(0).mean())
    return gap / math.sqrt(max(variance, 1e-12 * gap**2)) if gap else 0.0  # classes without spread: a million of them


def fingerprint(model: Transformer) -> str:
    """Which weights these are: 16 hex digits of the SHA-256 of the tensors' hashes, in the order of their names, each rounded to bfloat16.

    Rounded, so that a checkpoint has one fingerprint whether it was loaded in float32 or in bfloat16; float16 rounds
    otherwise, and has another.
    """
    with torch.device("meta"):
        names = sorted(type(model)(model.config).state_dict())

    def one(name: str) -> str:
        # not from the state dict: a packed model copies a matrix to show it
        return tensor_hash([(name, attrgetter(name)(model).to(torch.bfloat16))])

    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:  # each holds a copy or two
        return data_hash(list(pool.map(one, names)))


def tensor_hash(named: Iterable[tuple[object, Tensor]]) -> str:
    """16 hex digits of the SHA-256 of tensors, to the bit, with their names and shapes; one is copied at a time."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def dtype_name(model: Transformer) -> str:
    return str(model.dtype).removeprefix("torch.")


def data_hash(texts: Sequence[str]) -> str:
    """16 hex digits of the SHA-256 of the texts, in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def identity(value: Any, seen: tuple[int, ...] = ()) -> str:
    """What a value is, for the key of a result: 16 hex digits that change when what it computes or holds changes.

    Of a function: its source (or its compiled code, where there is no text of it), its defaults, what it closes over and the globals of its
    module that it names, functions among them as deep as they go; of an object that is called, its attributes. Tensors, arrays and plain
    values count by what they hold, other objects by their name or their type alone.
    """
    if isinstance(value, partial):
        value = (value.func, value.args, sorted(value.keywords.items()))
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, Tensor):
        return tensor_hash([("", value)])
    if type(value) is dict:
        value = sorted((str(key), entry) for key, entry in value.items())
    if type(value) in (list, tuple, set, frozenset):
        parts = [identity(part, seen) for part in value]
        return data_hash(sorted(parts) if type(value) in (set, frozenset) else parts)
    if isinstance(value, CodeType) and (node := node_of(value)) is not None:
        return data_hash([json.dumps(definition(node))])
    if isinstance(value, CodeType):
        return data_hash([value.co_code.hex(), identity(value.co_consts, seen), *value.co_names])
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        named = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        near = [v for v in named if not isinstance(v, FunctionType) or v.__module__ == value.__module__]
        return identity([value.__code__, value.__defaults__, value.__kwdefaults__, cells, near], seen)
    if isinstance(value, MethodType):
        return identity([value.__func__, value.__self__], seen)
    kind = type(value)
    if isinstance(kind.__call__, FunctionType) and not isinstance(value, torch.nn.Module):
        return identity([kind.__qualname__, kind.__call__, getattr(value, "__dict__", {})], seen)
    if not isinstance(value, type) and hasattr(value, "tolist"):  # an array of numpy
        return identity([str(value.dtype), value.tolist()], seen)
    plain = value is None or isinstance(value, (str, bytes, range, Number))
    return data_hash([repr(value) if plain else getattr(value, "__qualname__", kind.__qualname__)])


def _names(code: CodeType) -> list[str]:
    """The names that a function's code asks for, and those of the functions within it."""
    within = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *within]
