"""What is added to the residual stream (`SteeringVector`), and where and how strongly (`Steer`).

Letters: B rows, T tokens in this call, D width, P positions of a per-position vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ministeer.files import replacing
from ministeer.model import GPT2, Site

WHERES = ("all", "prompt", "last", "generated", "front")


def fingerprint(model: GPT2) -> str:
    """Which weights these are: 16 hex digits of the SHA-256 of all tensors, by name, rounded to bfloat16.

    Rounded, so that a checkpoint has one fingerprint whether it was loaded in float32 or in bfloat16; float16 rounds
    otherwise, and has another.
    """
    return _hash((name, tensor.to(torch.bfloat16)) for name, tensor in sorted(model.state_dict().items()))


def _hash(named: Iterable[tuple[object, Tensor]]) -> str:
    """16 hex digits of the SHA-256 of tensors, to the bit, with their names and shapes; one is copied at a time."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def data_hash(texts: Sequence[str]) -> str:
    """16 hex digits of the SHA-256 of the texts, in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Provenance:
    """Where a vector comes from; it travels with the vector into its file."""

    model: str  # fingerprint of the weights it was read from
    method: str  # how it was computed, e.g. "contrastive"
    data: str  # data_hash of the texts
    token: str  # at which token of each text the stream was read
    dtype: str  # of the model while it was read
    seed: int | None = None  # of whatever was drawn; None if nothing was


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions in the residual stream, one tensor a site: `(D,)`, or `(P, D)` for one vector a position (ActAdd).

    Unscaled: the coefficient belongs to the run (`Steer`). Vectors of the same sites can be added and subtracted, and
    scaled by a number; the result says so in its provenance.
    """

    tensors: dict[Site, Tensor]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError("expected a tensor for at least one site, got none")
        widths = {t.shape[-1] if t.ndim in (1, 2) else None for t in self.tensors.values()}
        if len(widths) > 1 or None in widths:
            shapes = {site: tuple(t.shape) for site, t in self.tensors.items()}
            raise ValueError(f"expected tensors (D,) or (P, D) of one width D, got {shapes}")
        for site, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"expected finite values at {site}, got NaN or infinity; check the texts it was read from, or the number it was scaled by"
                )

    def __repr__(self) -> str:
        return f"SteeringVector({self.provenance.method}, width {self.width}, sites {self.sites})"

    @property
    def sites(self) -> list[Site]:
        return list(self.tensors)

    @property
    def width(self) -> int:
        return next(iter(self.tensors.values())).shape[-1]

    def __getitem__(self, site: Site) -> Tensor:
        if site not in self.tensors:
            raise ValueError(
                f"expected one of the vector's sites {self.sites}, got {site!r}; take one of these, or extract it there too"
            )
        return self.tensors[site]

    def norm(self) -> dict[Site, float]:
        """Euclidean norm at each site, in units of the residual stream; of a `(P, D)` tensor, over all its entries."""
        return {site: float(t.float().norm()) for site, t in self.tensors.items()}

    def __add__(self, other: SteeringVector) -> SteeringVector:
        return self._combine(other, "+", torch.add)

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self._combine(other, "-", torch.sub)

    def __mul__(self, number: float) -> SteeringVector:
        return self._scale(f"{number} * ({self.provenance.method})", lambda t: t * number)

    __rmul__ = __mul__

    def __truediv__(self, number: float) -> SteeringVector:
        return self._scale(f"({self.provenance.method}) / {number}", lambda t: t / number)

    def __neg__(self) -> SteeringVector:
        return self._scale(f"-({self.provenance.method})", torch.neg)

    def _scale(self, method: str, of: Callable[[Tensor], Tensor]) -> SteeringVector:
        tensors = {site: of(t) for site, t in self.tensors.items()}
        return SteeringVector(tensors, replace(self.provenance, method=method))

    def _combine(self, other: SteeringVector, sign: str, of: Callable[[Tensor, Tensor], Tensor]) -> SteeringVector:
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: a tensor `name.layer` for each site, the provenance in its metadata."""
        from safetensors.torch import save_file

        target = Path(path)
        if target.suffix != ".safetensors":
            raise ValueError(f"expected a path that ends in .safetensors, got {target.name!r}")
        if not target.parent.is_dir():
            raise ValueError(
                f"{target}: expected a folder that exists to write into, got {target.parent}; make it first"
            )
        metadata = {"format": "ministeer.vector", "provenance": json.dumps(asdict(self.provenance))}
        tensors = {  # copies, as safetensors refuses two that share memory
            f"{name}.{layer}": t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for (name, layer), t in self.tensors.items()
        }
        with replacing(target) as unfinished:
            save_file(tensors, unfinished, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: GPT2 | None = None) -> SteeringVector:
        """Read what `save` wrote. With the model it is meant for, another width is an error, other weights a warning."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got one that cannot be read ({error})") from None
        if metadata.get("format") != "ministeer.vector":
            raise ValueError(f"{path}: expected a vector written by SteeringVector.save, got another safetensors file")
        by_site: dict[Site, Tensor] = {}
        try:
            for key, tensor in tensors.items():
                name, layer = key.split(".")
                by_site[name, int(layer)] = tensor
            provenance = Provenance(**json.loads(metadata["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected the sites and the provenance that SteeringVector.save writes, got others ({error!r}); "
                "was it changed by hand, or written by a newer ministeer?"
            ) from None
        in_stream_order = sorted(by_site, key=lambda site: (site[1], site[0] == "mid"))
        vector = cls({site: by_site[site] for site in in_stream_order}, provenance)
        if model is not None:
            if vector.width != model.config.n_embd:
                raise ValueError(
                    f"{path}: expected a vector of the model's width {model.config.n_embd}, got {vector.width}; "
                    "it was read from another model"
                )
            if vector.provenance.model != (here := fingerprint(model)):
                warnings.warn(
                    f"{path}: this vector was read from weights {vector.provenance.model}, and these are {here}; "
                    "a direction need not mean the same in both",
                    stacklevel=2,
                )
        return vector


def vector_hash(vector: SteeringVector) -> str:
    """16 hex digits of the SHA-256 of a vector's tensors, site by site, to the bit."""
    return _hash(vector.tensors.items())


@dataclass(frozen=True, eq=False)
class Steer:
    """Add `coeff * vector` to the stream at `site`, at the positions `where` says.

    vector: a tensor `(D,)`, or `(P, D)` with `where="front"`; of a `SteeringVector`, its tensor at `site` is taken.
    coeff: one number, or one for each row of the batch (a whole coefficient sweep in one batch).
    where: counted from each row's first token, the same with and without a cache:
        "all"; "prompt"; "last" (the last prompt token and every generated one); "generated";
        "front" (the first P tokens of the prompt, once, as ActAdd does); or a list of prompt positions.
    """

    vector: Tensor | SteeringVector
    site: Site
    coeff: float | Sequence[float] | Tensor = 1.0
    where: str | Sequence[int] = "all"

    def __post_init__(self) -> None:
        if isinstance(self.where, str):
            if self.where not in WHERES:
                raise ValueError(f"expected where to be one of {WHERES} or a list of positions, got {self.where!r}")
        elif (
            not isinstance(self.where, Sequence)
            or not self.where
            or any(type(p) is not int or p < 0 for p in self.where)
        ):  # bool is no int here: a list of them is a mask, not positions
            raise ValueError(
                f"expected where to be one of {WHERES} or a list of prompt positions counted from 0, got {self.where!r}; "
                "for the last token use where='last'"
            )
        if not isinstance(self.site, tuple):
            raise ValueError(f'expected a site ("pre", i) or ("mid", i), got {self.site!r}')
        if not isinstance(self.tensor, Tensor) or not self.tensor.is_floating_point():
            got = self.tensor.dtype if isinstance(self.tensor, Tensor) else type(self.tensor).__name__
            raise ValueError(f"expected a vector that is a tensor of floating-point numbers, got {got}")
        if 0 in self.tensor.shape or self.tensor.ndim != (2 if self.where == "front" else 1):
            wanted = "(P, D), one a position, for where='front'" if self.where == "front" else "(D,)"
            remedy = "; one a position, as ActAdd makes them, goes with where='front'" if self.where != "front" else ""
            raise ValueError(
                f"expected a vector {wanted}, got {tuple(self.tensor.shape)} with where={self.where!r}{remedy}"
            )
        if not bool(torch.isfinite(self.tensor).all()):
            raise ValueError("expected a vector of finite values, got NaN or infinity; check how it was made")
        try:
            fine = not isinstance(self.coeff, str) and self.coeffs and all(math.isfinite(c) for c in self.coeffs)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(f"expected finite coefficients, a number or a list of one a row, got {self.coeff!r}")

    @property
    def tensor(self) -> Tensor:
        return self.vector[self.site] if isinstance(self.vector, SteeringVector) else self.vector

    @property
    def coeffs(self) -> list[float]:
        given: Any = self.coeff.tolist() if hasattr(self.coeff, "tolist") else self.coeff  # of torch, of numpy
        return list(map(float, given)) if isinstance(given, Sequence) else [float(given)]

    def touches(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """Which positions are steered, `(B, T)`: of absolute `positions` `(B, T)`, -1 for padding, in rows whose
        prompts have `lengths` `(B,)` tokens."""
        prompt = lengths[:, None]  # (B, 1)
        if self.where == "all":
            return positions >= 0
        if self.where == "prompt":
            return (positions >= 0) & (positions < prompt)
        if self.where == "last":
            return positions >= prompt - 1
        if self.where == "generated":
            return positions >= prompt
        if self.where == "front":
            return (positions >= 0) & (positions < len(self.tensor))
        return torch.isin(positions, torch.tensor(list(self.where)))

    def delta(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """What to add, `(B, T, D)`, for `positions` and `lengths` as in `touches`; zero where nothing is."""
        mask = self.touches(positions, lengths)  # (B, T)
        coeffs = torch.tensor(self.coeffs, dtype=torch.float32)[:, None]  # (B, 1) or (1, 1)
        scale = (mask * coeffs)[:, :, None].to(self.tensor)  # (B, T, 1)
        if self.where == "front":
            per_position = self.tensor[positions.clamp(0, len(self.tensor) - 1).to(self.tensor.device)]  # (B, T, D)
            return scale * per_position
        return scale * self.tensor  # (B, T, 1) * (D,) -> (B, T, D)

    def check(self, lengths: Sequence[int], max_new_tokens: int) -> None:
        """Raise `ValueError` if in some row of such a run nothing, or less than was asked for, would be steered."""
        shortest = min(lengths)
        if len(self.coeffs) not in (1, len(lengths)):
            raise ValueError(
                f"expected one coefficient, or one for each of {len(lengths)} rows, got {len(self.coeffs)}; "
                "to sweep one prompt, give it once for each"
            )
        if self.where == "front" and len(self.tensor) > shortest:
            raise ValueError(
                f"expected prompts of at least {len(self.tensor)} tokens, the positions of the vector, got one of "
                f"{shortest}; lengthen it, or begin it with the end-of-text token the vector was read behind"
            )
        if self.where == "generated" and max_new_tokens < 2:
            raise ValueError(
                "where='generated' touches no position in a run of one new token, which is read off the prompt; "
                "use where='last'"
            )
        if not isinstance(self.where, str) and max(self.where) >= shortest:
            raise ValueError(f"expected positions below {shortest}, the shortest prompt, got {list(self.where)}")


def adds_at(steers: Sequence[Steer], positions: Tensor, lengths: Tensor) -> dict[Site, Tensor]:
    """The model's `adds` for several interventions, `{site: (B, T, D)}`; those at one site are summed.

    positions: `(B, T)`, on the CPU, of the tokens in this call, -1 for padding. lengths: `(B,)`, of the prompts.
    An intervention that touches none of these positions is left out.
    """
    adds: dict[Site, Tensor] = {}
    for steer in steers:
        if bool(steer.touches(positions, lengths).any()):
            delta = steer.delta(positions, lengths)
            adds[steer.site] = adds[steer.site] + delta.to(adds[steer.site].device) if steer.site in adds else delta
    return adds
