"""Where a vector comes from: hashes of weights, tensors and texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ministeer.model import Transformer


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
    Parameters and buffers that the architecture lacks, such as an adapter's, come last.

    Rounded, so that a checkpoint has one fingerprint whether it was loaded in float32 or in bfloat16; float16 rounds
    otherwise, and has another. Settings of the config that are not the architecture's default, such as another
    epsilon of its norms, are hashed too; whole numbers, such as the number of heads, are not, nor are an adapter's
    non-tensors, such as its scale.
    """
    with torch.device("meta"):
        names = sorted(type(model)(model.config).state_dict())
    names = [name for name in names if _held(model, name)]
    more = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    # a matrix that is held in another form, as by `pack`, is no parameter and shows its weight all the same
    more |= {f"{where}.weight" for where, part in model.named_modules() if hasattr(type(part), "weight")}
    names += sorted(more - {*names})

    def one(name: str) -> str:
        # not from the state dict: a packed model copies a matrix to show it
        return tensor_hash([(name, attrgetter(name)(model).to(torch.bfloat16))])

    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:  # each holds a copy or two
        hashes = list(pool.map(one, names))
    settings = _unusual(model.config)
    return data_hash([*hashes, json.dumps(settings, sort_keys=True)] if settings else hashes)


def _held(model: Transformer, name: str) -> bool:
    """Whether a tensor is in its place: what stands in the place of a matrix need not show one."""
    where, _, leaf = name.rpartition(".")
    try:
        part = model.get_submodule(where)
    except AttributeError:
        return False
    return leaf in part._parameters or leaf in part._buffers or hasattr(type(part), leaf)


def _unusual(config: Any) -> dict[str, Any]:
    """What a config says besides sizes, where it is not the default: a model with the defaults is its weights alone."""
    usual, said = {field.name: field.default for field in fields(config)}, asdict(config)
    of_numbers = {name: float(value) for name, value in said.items() if type(usual[name]) is float}
    others = {name: value for name, value in said.items() if name not in of_numbers and type(value) is not int}
    return {name: value for name, value in (of_numbers | others).items() if value != usual[name]}


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
