"""A model's matrices in other forms, for quicker inference on a CPU: in the order in which oneDNN reads them, or in 8 bits.

    pack(model)  # the same numbers, to rounding
    int8(model)  # other numbers: a quarter of float32's memory (without VNNI a half), products of whole numbers, and the rounding of 8 bits

Each changes the blocks' matrices in place and takes one matrix's memory while it runs. Weights in float32, till then the mapped
file, get memory of their own; the file's pages stay, so long as the system has no other use for them. The operators are those
that torch.compile calls, but private to torch: they are named in this file and nowhere else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ministeer.model import ACTIVATIONS, Embedding, Linear, Transformer, hooked

# our activations in oneDNN's words: operator and form
FUSED = {
    None: ("none", ""), "relu": ("relu", ""), "silu": ("swish", ""), "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"), "gelu_pytorch_tanh": ("gelu", "tanh"), "gelu_fast": ("gelu", "tanh"),
}  # fmt: skip


class Copied(Tensor):
    """A copy of what is held, to be read: torch refuses to change it in place, and this its way round, `.data`."""

    # what is made of it is a plain tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    data = property(lambda self: _refuse(), lambda self, _: _refuse())


class Held(nn.Module, ABC):
    """A `Linear` whose matrix is held in another form. `weight` and the state dict give copies in the usual one."""

    fuses = True  # `forward` takes an activation

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.out = len(linear.weight)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The matrix `(out, in)`, a copy. Changes to it would be lost, and are refused outside inference mode."""
        with torch.inference_mode():
            return self.dense().as_subclass(Copied)

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix `(out, in)`, a copy."""

    @abstractmethod
    def product(self, x: Tensor, activation: str | None) -> Tensor:
        """`(N, in)` -> `(N, out)`, with the bias and what the activation makes of it; without a gradient."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if x.requires_grad:
            return _then(F.linear(x, self.dense(), self.bias), activation)  # (..., in) -> (..., out)
        return self.product(x.reshape(-1, x.shape[-1]), activation).view(
            *x.shape[:-1], self.out
        )  # (..., in) -> (..., out)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.inference_mode():
            destination[prefix + "weight"] = self.dense()

    def _apply(self, *_: Any, **__: Any) -> Held:
        return _refuse()

    def _load_from_state_dict(self, *_: Any) -> None:
        _refuse()

    def __deepcopy__(self, memo: Any) -> Held:
        return _refuse()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse()


class Packed(Held):
    """The matrix in oneDNN's order."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        self.packed = _reordered(linear.weight)

    def dense(self) -> Tensor:
        dense: Tensor = self.packed.to_dense()
        return dense

    def product(self, x: Tensor, activation: str | None) -> Tensor:
        if activation in FUSED:  # at the end of the product, where it costs little
            return _product(x, self.packed, self.bias, *FUSED[activation])
        return _then(_product(x, self.packed, self.bias), activation)


class Int8(Held):
    """The matrix as whole numbers from -127 to 127, and what each row's are multiplied by. So is what comes in, for each token, with
    whole numbers up to `widest()`.

    A few entries of a stream are far larger than all others and would set a token's step. Both are therefore turned first,
    W x = (W H) (H x), which spreads an entry over its block of H (QuaRot, Ashkboos et al. 2024).
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        self.dtype = linear.weight.dtype
        steps, rows = [], []
        for strip in torch.split(linear.weight.detach(), 128):  # in a processor's cache
            w = turned(strip.double())  # in float64, which gives the same whole numbers on every machine
            steps.append(_step(w))
            rows.append((w / steps[-1]).round_().to(torch.int8))
        self.scale, rounded = torch.cat(steps)[:, 0].float(), torch.cat(rows)  # (out,), (out, in)
        self.most = widest()
        self.held = _whole_reordered(rounded) if self.most else rounded
        # row by row too without VNNI, where torch's own product is quicker for a few tokens, though it rounds to bfloat16
        self.rows = None if self.most == 127 else rounded
        self.zero = torch.zeros(self.out, dtype=torch.int32)
        self.one = torch.ones(self.out, dtype=torch.bfloat16)

    @property
    def rounded(self) -> Tensor:
        """The whole numbers `(out, in)`, of the turned matrix."""
        return self.held.to_dense().t() if self.rows is None else self.rows

    def dense(self) -> Tensor:
        whole = turned(self.rounded.float())  # exact, on every machine, as 64 are turned by eighths
        return (whole * self.scale[:, None]).to(self.dtype)

    def product(self, x: Tensor, activation: str | None) -> Tensor:
        if not self.most:
            return _then(self._of_tokens_as_they_are(x), activation)
        lone = self.rows is None and len(x) == 1 and activation in FUSED
        whole, step = _whole(x.float() if lone else x, self.most)  # a lone token is turned more quickly so
        if lone:  # its step is a number, so oneDNN does the rest too
            return _whole_product(
                whole, self.held, self.scale, self.zero, x.dtype, self.most, step.item(), self.bias, *FUSED[activation]
            )
        out = self._of_whole_tokens(whole, x.dtype)
        out = out.mul_(step) if self.bias is None else torch.addcmul(self.bias, out, step, out=out)
        return _then(out, activation)

    def _of_whole_tokens(self, whole: Tensor, dtype: torch.dtype) -> Tensor:
        """What `_whole` made of `(N, in)` -> `(N, out)`."""
        if self.rows is not None and len(whole) <= 8 and whole.shape[1] % 64 == 0:
            out = _few(whole.to(torch.bfloat16).sub_(self.most + 1), self.rows, self.one)
            return (out * self.scale).to(dtype)
        return _whole_product(whole, self.held, self.scale, self.zero, dtype, self.most)

    def _of_tokens_as_they_are(self, x: Tensor) -> Tensor:
        if len(x) <= 4 and x.shape[1] % 64 == 0:
            out = _few(turned(x).contiguous(), self.held, self.scale.to(x.dtype))
        else:
            out = F.linear(turned(x), (self.held * self.scale[:, None]).to(x.dtype))
        return out if self.bias is None else out.add_(self.bias)


class HeldEmbedding(Embedding):
    """The embedding, and its matrix a second time, in another form, for the unembedding."""

    def __init__(self, embedding: Embedding, form: type[Held]) -> None:
        nn.Module.__init__(self)
        self.weight = embedding.weight
        ids, width = self.weight.shape
        matrix = Linear(width, ids, bias=False, device="meta")
        matrix.weight = self.weight
        self._multiply = form(matrix).forward  # what it holds is no part of the model, which has these numbers already
        self._held_at = _version(self.weight)

    def _apply(self, *_: Any, **__: Any) -> HeldEmbedding:
        return _refuse()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse()

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)  # (B, T) -> (B, T, D)

    def scores(self, x: Tensor) -> Tensor:
        if _version(self.weight) != self._held_at:
            _refuse()
        return self._multiply(x)  # (..., D) -> (..., V)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "a packed model stays as it is: load it again to convert, move, copy, pickle or change it; save_model writes it"
    )


def _version(weight: Tensor) -> int:
    """How often torch has changed a tensor in place."""
    return 0 if weight.is_inference() else weight._version


def _learning(wanted: bool = True) -> None:
    if wanted:
        _refuse()


def _reordered(weight: Tensor) -> Tensor:
    tokens = 384  # in a usual batch: a hint, any number is computed rightly
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), tokens)
    return packed


def turned(x: Tensor) -> Tensor:
    """Blocks of the last dimension times a Hadamard matrix, orthogonal and its own inverse: turned twice, x is x again."""
    size = min(64, x.shape[-1] & -x.shape[-1])  # the power of two in the width
    return (x.reshape(-1, size) @ hadamard(size, x.dtype)).view(x.shape)


@cache
@torch.inference_mode(False)
def hadamard(size: int, dtype: torch.dtype) -> Tensor:
    """`(size, size)` of 1 and -1 over the root of its size, a power of two (Sylvester 1867)."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (h / math.sqrt(size)).to(dtype)


def _step(x: Tensor, most: int = 127) -> Tensor:
    """What whole numbers to `most` are multiplied by to give each row `(N, in)`, `(N, 1)`."""
    return x.abs().amax(1, keepdim=True).div_(most).clamp_(min=torch.finfo(x.dtype).tiny)


def _whole(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """`(N, in)` turned and rounded to whole numbers from 1 to 2 most + 1, where most + 1 stands for 0, and each row's step, `(N, 1)`."""
    # in parts, for which memory is at hand: a float32 copy of all would be asked of the system each time
    if len(x) > 256:
        parts, steps = zip(*(_whole(part, most) for part in torch.split(x, 256)))
        return torch.cat(parts), torch.cat(steps)
    x = turned(x)
    step = _step(x, most)  # in the dtype in which sums are multiplied by it
    return x.div(step.float()).add_(most + 1.5).to(torch.uint8), step


def _whole_product(
    whole: Tensor, held: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype, most: int,
    step: float = 1.0, bias: Tensor | None = None, then: str = "none", form: str = "",
) -> Tensor:  # fmt: skip
    """`(N, in)` of `_whole` -> `(N, out)`, each row of the matrix times its scale; zero: a 0 for each; then: as in `_product`."""
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        whole, step, most + 1, held, scale, zero, bias, 1.0, 0, dtype, then, [], form
    )
    return out


def _whole_reordered(rounded: Tensor) -> Tensor:
    """Whole numbers `(out, in)` in oneDNN's order."""
    held: Tensor = torch.ops.onednn.qlinear_prepack(rounded, None)
    return held


def _few(x: Tensor, rounded: Tensor, scale: Tensor) -> Tensor:
    """A few rows `(N, in)` times whole numbers `(out, in)`, each row of these times its scale, in x's dtype; `in` a multiple of 64: the
    operator reads a row in steps, past its end if need be."""
    out: Tensor = torch.ops.aten._weight_int8pack_mm(x, rounded, scale)
    return out


@cache
def widest() -> int:
    """Up to which whole numbers tokens are rounded, so that oneDNN multiplies them exactly here: 127; 63 where it adds pairs of products in
    16 bits, as it does without VNNI; 0 where it has no such product."""
    for most in (127, 63):
        whole, zero = torch.full((1, 64), 2 * most + 1, dtype=torch.uint8), torch.zeros(16, dtype=torch.int32)
        try:
            held = _whole_reordered(torch.full((16, 64), 127, dtype=torch.int8))
            found = _whole_product(whole, held, torch.ones(16, dtype=torch.float32), zero, torch.float32, most)
        except (AttributeError, RuntimeError):
            return 0
        if bool((found == 64 * 127 * most).all()):
            return most
    return 0


def _then(x: Tensor, activation: str | None) -> Tensor:
    return x if activation is None else ACTIVATIONS[activation](x)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None = None, then: str = "none", form: str = "") -> Tensor:
    """`(N, in)` -> `(N, out)`; then: what oneDNN makes of the sum that is not rounded yet, in which form."""
    # of a large matrix four tokens are quicker than one, two or three: from there on oneDNN multiplies matrices
    few = 0 < len(x) < 4 and packed.numel() > 2**20
    rows = torch.cat([x, x[:1].expand(4 - len(x), -1)]) if few else x
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, then, [], form)
    return out[: len(x)]


def pack(model: Transformer) -> Transformer:
    """Put the blocks' matrices into oneDNN's order, in place, and return the model; in bfloat16 or float32, on a CPU.

    The embedding stays beside its reordered copy, which the unembedding reads: a twentieth more memory for GPT-2 XL, and a change
    of the one is not seen by the other. What the model computes is the same to rounding; its fingerprint and what `save_model`
    writes are the same to the bit; `make bench` shows what decoding gains.

    Raises `ValueError` for another dtype or device, or where torch has no oneDNN for the dtype.
    """
    _check(model, "pack")
    dtype = model.dtype
    if not supported(dtype):
        raise ValueError(f"expected a processor and a torch with oneDNN's {dtype}, got one without; leave out `pack`")
    return _replace(model, Packed)


def int8(model: Transformer) -> Transformer:
    """Round the blocks' matrices to 8 bits, a scale for each row, in place, and return the model; for a CPU.

    The model is another one, and its fingerprint says so. Norms and biases stay as they are; so does the embedding, with a copy for
    the unembedding as after `pack`. Where oneDNN multiplies whole numbers, each token that comes to a block's matrix is rounded too: to 8 bits
    on a processor with VNNI, which rounds that copy as well, and to 7 bits without, where the matrices are held in two orders. `make bench`
    states beside the speed how far this moves the probabilities of SmolLM2.

    Raises `ValueError` for another dtype than bfloat16 and float32, or another device than the CPU.
    """
    _check(model, "int8")
    return _replace(model, Int8)


def supported(dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether this processor and this torch can run a model packed in this dtype."""
    bf16: Callable[[], bool] = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return torch.backends.mkldnn.is_available() and (dtype == torch.float32 or bool(bf16()))  # type: ignore[no-untyped-call]


def _check(model: Transformer, name: str) -> None:
    w = model.wte.weight
    if w.device.type != "cpu" or w.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(
            f"expected a model in bfloat16 or float32 on the CPU, got {w.dtype} on {w.device}; leave out `{name}`"
        )


def _check_plain(part: nn.Module, kind: type[nn.Module], where: str) -> None:
    """Raise `ValueError` for what does more than its kind, as that would be lost."""
    own = "a hook or a forward of its own" if hooked(part) or part._backward_hooks or "forward" in vars(part) else ""
    got = f"a {type(part).__name__}" if type(part) is not kind else own
    if got:
        raise ValueError(f"expected plain matrices, got {got} at {where}; merge it into the weight, or remove it")


def _replace(model: Transformer, form: type[Held]) -> Transformer:
    for where, child in model.named_modules():
        if not isinstance(child, Linear):
            continue
        _check_plain(child, Linear, where)
    name = "wte" if model.lm_head is None else "lm_head"
    # with 7 bits it would bring what int8 costs SmolLM2 above a hundredth of a nat
    head = form if form is Packed or widest() == 127 else Packed if supported(model.dtype) else None
    if isinstance(model.head, HeldEmbedding):
        head = None
    if head:
        _check_plain(model.head, Embedding, name)
    parents = [m for m in model.modules() if not isinstance(m, Linear)]  # a list of those would keep each till the end
    for module in parents:
        for part in list(module._modules):
            child = getattr(module, part)
            if isinstance(child, Held) and not isinstance(child, form):
                raise ValueError(
                    f"expected a model as it was loaded, got one that is {type(child).__name__} already; load it again"
                )
            if isinstance(child, Linear):
                setattr(module, part, form(child))
    if head:
        setattr(model, name, HeldEmbedding(model.head, head))
    # at the root and in the blocks too, which would else change embeddings and norms before they come to a matrix
    refused = dict.fromkeys(("_apply", "load_state_dict", "__deepcopy__"), _refuse) | {"requires_grad_": _learning}
    for module in parents:
        for change, answer in refused.items():
            setattr(module, change, answer)
    return model
