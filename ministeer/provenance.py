"""Where a result comes from: hashes of weights, texts and functions, and a vector's `Provenance`, which travels into its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
