"""Directions in the residual stream, with where they come from: a `SteeringVector`, and its file.

Letters: D width, P positions of a per-position vector.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from ministeer.files import replacing, stand_in
from ministeer.health import Health
from ministeer.model import Site, Transformer, check_site, expect
from ministeer.provenance import Provenance, fingerprint, tensor_hash

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions in the residual stream, one tensor per site: `(D,)`, or `(P, D)` for one vector per position (ActAdd).

    Unscaled: the coefficient belongs to the run (`Steer`). Vectors of the same sites can be added and subtracted, and
    scaled by a number; the result says so in its provenance. `health` says how each came out of its data, in numbers
    and, where it is weak, in words; what is computed from vectors has none.
    """

    tensors: dict[Site, Tensor]
    provenance: Provenance
    health: Mapping[Site, Health] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.tensors, dict) or not self.tensors:
            raise ValueError(f"expected a dictionary {{site: tensor}} of at least one site, got {self.tensors!r}")
        for site, tensor in self.tensors.items():
            check_site(site)
            check_tensor(tensor, f"a tensor of floating-point numbers at {site}")
        widths = {t.shape[-1] if t.ndim in (1, 2) and t.numel() else None for t in self.tensors.values()}
        if len(widths) > 1 or None in widths:
            shapes = {site: tuple(t.shape) for site, t in self.tensors.items()}
            raise ValueError(f"expected tensors (D,) or (P, D) of one width D, got {shapes}")
        for site, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"expected finite values at {site}, got NaN or infinity; check the texts it was read from, or the number it was scaled by"
                )
        object.__setattr__(self, "tensors", {site: kept(tensor) for site, tensor in self.tensors.items()})

    def __repr__(self) -> str:
        weak = [site for site, health in self.health.items() if health.weak]
        said = f"; weak at {len(weak)} of them, see .health" if weak else ""
        return f"SteeringVector({self.provenance.method}, width {self.width}, sites {self.sites}{said})"

    @property
    def sites(self) -> list[Site]:
        return list(self.tensors)

    @property
    def width(self) -> int:
        return next(iter(self.tensors.values())).shape[-1]

    def __getitem__(self, site: Site) -> Tensor:
        check_site(site)
        if site not in self.tensors:
            raise ValueError(
                f"expected one of the vector's sites {self.sites}, got {site!r}; take one of these, or extract it there too"
            )
        return self.tensors[site].clone()  # which may be changed, and the vector stays

    def only(self, sites: Site | Sequence[Site]) -> SteeringVector:
        """The same vector at fewer sites, or at one, with its provenance and their health."""
        given: Any = sites
        one = isinstance(given, tuple) and bool(given) and isinstance(given[0], str)
        tensors = {site: self[site] for site in ([given] if one else given)}
        return SteeringVector(tensors, self.provenance, {s: h for s, h in self.health.items() if s in tensors})

    def norm(self) -> dict[Site, float]:
        """Euclidean norm at each site, in units of the residual stream; of a `(P, D)` tensor, over all its entries."""
        return {site: float(t.float().norm()) for site, t in self.tensors.items()}

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return self._combine(other, "+", torch.add)

    def __radd__(self, other: Any) -> SteeringVector:
        return self if type(other) is int and other == 0 else self + other  # sum(vectors) begins with 0

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self._combine(other, "-", torch.sub)

    def __mul__(self, number: float) -> SteeringVector:
        return self._scale(f"{_real(number)} * ({self.provenance.method})", lambda t: t * float(number))

    __rmul__ = __mul__

    def __truediv__(self, number: float) -> SteeringVector:
        return self._scale(f"({self.provenance.method}) / {_real(number)}", lambda t: t / float(number))

    def __neg__(self) -> SteeringVector:
        return self._scale(f"-({self.provenance.method})", torch.neg)

    def _scale(self, method: str, of: Callable[[Tensor], Tensor]) -> SteeringVector:
        tensors = {site: of(t) for site, t in self.tensors.items()}
        return SteeringVector(tensors, replace(self.provenance, method=method))

    def _combine(self, other: SteeringVector, sign: str, of: Callable[[Tensor, Tensor], Tensor]) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            raise ValueError(f"expected two SteeringVectors to {sign}, got one and {type(other).__name__}")
        shapes = [{site: tuple(t.shape) for site, t in v.tensors.items()} for v in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected two vectors of the same sites and shapes, got {shapes[0]} and {shapes[1]}")
        mine, theirs = self.provenance, other.provenance
        seed, methods = mine.seed, [mine.method, theirs.method]
        if mine.seed != theirs.seed:  # the field holds one seed: where there are two, the method names them
            seed, methods = None, [f"{p.method}, seed {p.seed}" for p in (mine, theirs)]
        method = f"({methods[0]}) {sign} ({methods[1]})"
        joined = {
            name: getattr(mine, name) if getattr(mine, name) == getattr(theirs, name) else
            f"{getattr(mine, name)} {sign} {getattr(theirs, name)}"
            for name in ("model", "data", "token", "dtype")
        }  # fmt: skip
        tensors = {site: of(t, other.tensors[site]) for site, t in self.tensors.items()}
        return SteeringVector(tensors, Provenance(method=method, seed=seed, **joined))

    def hook(self, site: Site, coeff: float = 1.0) -> Callable[[Any, Any, Any], Any]:
        """A forward hook that adds `coeff` times the tensor at `site` to what a module of another model returns.

        It belongs on the module whose output is the stream there, or is added to it: `formats.module_name(site)` names it
        in transformers. At every position, also of each token generated with a cache.
        """
        tensor = one_vector(self, site, coeff)

        def add(_module: Any, _arguments: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            if not isinstance(x, Tensor) or x.shape[-1] != len(tensor):
                got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"expected a module that returns the stream (B, T, {len(tensor)}), got {got}")
            added = (float(coeff) * tensor.float()).to(x)
            got, remedy = f"{float(coeff):g} times the vector", "take a smaller coefficient"
            expect(bool(added.isfinite().all()), f"an addition that {x.dtype} can hold", got, remedy)
            steered = x + added
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        return add

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: a tensor `name.layer` for each site, the provenance in its metadata."""
        from safetensors.torch import save_file

        target = Path(path)
        if target.suffix != ".safetensors":
            raise ValueError(f"expected a path that ends in .safetensors, got {target.name!r}")
        metadata = {
            "format": "ministeer.vector",
            "provenance": json.dumps(asdict(self.provenance)),
            "health": json.dumps({f"{name}.{layer}": asdict(h) for (name, layer), h in self.health.items()}),
        }
        tensors = {  # copies, as safetensors refuses two that share memory
            f"{name}.{layer}": t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for (name, layer), t in self.tensors.items()
        }
        with replacing(target) as unfinished:
            save_file(tensors, unfinished, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Transformer | None = None) -> SteeringVector:
        """Read what `save` wrote. With the model it is meant for, another width is an error, other weights a warning."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            found = "a folder" if Path(path).is_dir() else "none"
            raise FileNotFoundError(
                f"{path}: expected a file that SteeringVector.save wrote, found {found}; name that file"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            found, remedy = stand_in(Path(path)) or (
                f"one that cannot be read ({error})",
                "make it or download it again",
            )
            raise ValueError(f"{path}: expected a safetensors file, got {found}; {remedy}") from None
        if metadata.get("format") != "ministeer.vector":
            raise ValueError(f"{path}: expected a vector written by SteeringVector.save, got another safetensors file")
        try:
            by_site = {_site(key): tensor for key, tensor in tensors.items()}
            provenance = Provenance(**_entries(metadata["provenance"], str, seed=(int, NoneType)))
            said = _entries(metadata.get("health", "{}"), dict)
            health = {
                _site(key): Health(**_entries(json.dumps(value), float, int, NoneType)) for key, value in said.items()
            }
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected the sites and the provenance that SteeringVector.save writes, got others ({error!r}); "
                "was it changed by hand, or written by a newer ministeer?"
            ) from None
        in_stream_order = sorted(by_site, key=lambda site: (site[1], site[0] == "mid"))
        vector = cls({site: by_site[site] for site in in_stream_order}, provenance, health)
        if model is not None:
            if vector.width != model.config.width:
                raise ValueError(
                    f"{path}: expected a vector of the model's width {model.config.width}, got {vector.width}; "
                    "it was read from another model"
                )
            if vector.provenance.model != (here := fingerprint(model)):
                warnings.warn(
                    f"{path}: this vector was read from weights {vector.provenance.model}, and these are {here}; "
                    "a direction need not mean the same in both",
                    stacklevel=2,
                )
        return vector


def _real(number: Any) -> Any:
    if not is_finite(number):
        raise ValueError(f"expected a finite number to scale a vector by, got {str(number)[:60]}")
    return number


def is_finite(number: Any) -> bool:
    """Whether something is a real number that a float can hold."""
    try:
        return isinstance(number, Real) and math.isfinite(number)
    except OverflowError:
        return False


def kept(tensor: Tensor) -> Tensor:
    """A copy that the caller's later changes do not reach; a tensor that learns is kept itself, as an optimiser changes it in place."""
    return tensor if tensor.requires_grad else tensor.clone()


def check_tensor(tensor: Any, wanted: str) -> None:
    """Raise `ValueError` for what is not a dense tensor of numbers to compute with: torch only stores float8."""
    fine = isinstance(tensor, Tensor) and tensor.dtype in DTYPES and tensor.layout == torch.strided
    got = type(tensor).__name__
    if isinstance(tensor, Tensor):
        got = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
    expect(fine and not tensor.is_meta, wanted, got, "write vector.float().to_dense()")


def one_vector(vector: SteeringVector, site: Site, coeff: float) -> Tensor:
    """The tensor `(D,)` at a site, for a tool that adds it times a coefficient at every position."""
    tensor = vector[site]
    if tensor.ndim != 1:
        raise ValueError(f"expected a vector (D,) at {site}, got one per position, {tuple(tensor.shape)}")
    if not is_finite(coeff):
        raise ValueError(f"expected a finite coefficient, got {coeff!r}")
    fits = bool((float(coeff) * tensor.float()).isfinite().all())
    expect(
        fits,
        "a product that float32 can hold",
        f"{float(coeff):g} times the vector at {site}",
        "take a smaller coefficient",
    )
    return tensor


def vector_hash(vector: SteeringVector) -> str:
    """16 hex digits of the SHA-256 of a vector's tensors, site by site, to the bit."""
    return tensor_hash(vector.tensors.items())


def _site(key: str) -> Site:
    name, _, layer = key.partition(".")
    site: Any = (name, int(layer))
    check_site(site)
    if key != f"{name}.{int(layer)}":
        raise ValueError(f"{key!r} for a site")  # another spelling of it could be there as well
    return site  # type: ignore[no-any-return]


def _entries(text: str, *kinds: type, **others: tuple[type, ...]) -> dict[str, Any]:
    """The entries of a JSON object, each of one of the kinds, or of those given for its name; raises `TypeError`."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(f"a {type(found).__name__} for an object")
    for name, value in found.items():
        if type(value) not in others.get(name, kinds):
            raise TypeError(f"{value!r:.50} for {name!r}")
    return found
