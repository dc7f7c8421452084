"""GPT-2's matrices in the order in which oneDNN reads them fastest: quicker inference in bfloat16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ministeer.model import GPT2, Linear


class Packed(nn.Module):
    """A `Linear` whose matrix is held packed. `weight` and the state dict give copies in the usual order.

    The operators are those that torch.compile calls, but private to torch: they are named in this file and nowhere else.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        tokens = 384  # in a usual batch: a hint, any number is computed rightly
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), tokens)

    @property
    def weight(self) -> Tensor:
        """The matrix `(out, in)`, a copy."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:  # the operator has no gradient
            return F.linear(x, self.weight, self.bias)  # (..., in) -> (..., out)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out  # (..., in) -> (..., out)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _apply(self, fn: Any, recurse: bool = True) -> Packed:
        raise RuntimeError("a packed model stays as it is: load it again to convert or move it")

    def _load_from_state_dict(self, *_: Any) -> None:
        raise RuntimeError("a packed model stays as it is: load it again to change its weights")


def pack(model: GPT2) -> GPT2:
    """Pack the blocks' matrices, in place, and return the model; for inference in bfloat16 on a CPU.

    What it computes is the same to rounding; its fingerprint and what `save_model` writes are the same to the bit;
    `make bench` shows what decoding gains. It takes one matrix's memory while it runs, none after.

    Raises `ValueError` for another dtype or device, or where torch has no bfloat16 in oneDNN.
    """
    w = model.wte.weight
    if w.device.type != "cpu" or w.dtype != torch.bfloat16:
        raise ValueError(f"expected a model in bfloat16 on the CPU, got {w.dtype} on {w.device}; leave out `pack`")
    if not supported():
        raise ValueError("expected a processor and a torch with oneDNN's bfloat16, got one without; leave out `pack`")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, Packed(child))
    return model


def supported() -> bool:
    """Whether this processor and this torch can run a packed model."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]
