"""A GPU for tests, on any machine: its tensors are the CPU's, but say that they are on "cuda" and refuse what a GPU's refuse.

    with Elsewhere():
        model = load_model("nano", device="cuda")
        model(torch.tensor([[1, 2]], device="cuda"))    # as on the CPU
        model(torch.tensor([[1, 2]]))                   # an error, as on a GPU

It shows what code does with devices: what it forgets to move. It computes nothing as a GPU does.

`pretend_graphs` does the same for CUDA graphs: what is recorded are torch's operators with the memory they read and write, and
a replay runs those again, with no Python of the recorded code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE, THERE = torch.device("cpu"), torch.device("cuda", 0)
MOVE = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
LOOK = {torch.Tensor.numpy, torch.Tensor.__array__}
MIX = {torch.Tensor.copy_, torch.Tensor.__getitem__, torch.tensor, torch.as_tensor, torch.Tensor.type_as}


class There(Tensor):
    """A tensor that says it is on the GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Elsewhere(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(isinstance(x, There) for x in tensors)
        if func == torch.Tensor.device.__get__:
            return THERE if there else func(*args)
        if func in LOOK and there:
            raise TypeError("can't convert a tensor on cuda to numpy; use .cpu() first")
        if func in MOVE:
            return self._moved(func, *args, **kwargs)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if device is not None and device.type == "cuda":
            kwargs["device"], there = HERE, True
        elif device is not None:
            there = False
        elif not self._may_mix(func, args):
            here = [x for x in tensors if not isinstance(x, There) and x.ndim]
            if there and here:
                raise RuntimeError(f"expected all tensors on the same device, found cuda and cpu in {func}")
        elif func is torch.Tensor.__getitem__:
            there = isinstance(args[0], There)
            if not there and any(isinstance(x, There) for x in tree_leaves(args[1])):
                raise RuntimeError("expected indices on the cpu, as the tensor is, found some on cuda")
        out = func(*args, **kwargs)
        if not there:
            return out
        return tree_map(
            lambda x: x.as_subclass(There) if isinstance(x, Tensor) and not isinstance(x, There) else x, out
        )

    def _may_mix(self, func: Any, args: Any) -> bool:
        """A GPU's tensor is indexed by the CPU's; a slice of it is filled from anywhere."""
        fills = func is torch.Tensor.__setitem__ and not any(isinstance(x, Tensor) for x in tree_leaves(args[1]))
        return func in MIX or fills

    def _moved(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What `.to`, `.cpu` and `.cuda` give; a copy where the device changes."""
        was = isinstance(x, There)
        if func is not torch.Tensor.to:
            there, out = func is torch.Tensor.cuda, x
        else:
            if kwargs.get("device") is not None:
                args = (kwargs.pop("device"), *args)
            kwargs.pop("device", None)
            if args and isinstance(args[0], Tensor):
                there, args = isinstance(args[0], There), (args[0].dtype, *args[1:])
            elif args and isinstance(args[0], str | torch.device):
                there, args = torch.device(args[0]).type == "cuda", args[1:]
            else:
                there = was
            args = tuple(a for a in args if a is not None)
            out = torch.Tensor.to(x, *args, **kwargs) if args or kwargs else x
        if there != was and Recording.on:
            raise RuntimeError("operation not permitted when stream is capturing")
        if there != was and out.data_ptr() == x.data_ptr():
            out = out.clone()
        return out.as_subclass(There if there else Tensor) if isinstance(out, There) != there else out


class Graph:
    """In the place of `torch.cuda.CUDAGraph`: the operators that were recorded."""

    made: list[Graph] = []  # noqa: RUF012 - emptied by `pretend_graphs`

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        Graph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, before in self.calls:
            with torch._C.DisableTorchFunction():
                after = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)  # results lie where they lay; views and what is written in place do so by themselves


class Recording(TorchDispatchMode):
    """In the place of `torch.cuda.graph`: writes down each operator, and refuses to wait for a number or to fetch what is on the CPU."""

    on = False

    def __init__(self, graph: Graph, stream: Stream) -> None:
        super().__init__()
        self.graph = graph

    def __enter__(self) -> Any:
        Recording.on = True
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        Recording.on = False
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.graph.calls.append((func, args, kwargs or {}, out))
        return out


class Stream:
    def wait_stream(self, other: Stream) -> None: ...


@contextlib.contextmanager
def within(_: Any) -> Iterator[None]:
    yield


def pretend_graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that will be made."""
    monkeypatch.setattr(Graph, "made", [])
    for name, value in {
        "CUDAGraph": Graph,
        "graph": Recording,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": within,
        "device": within,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return Graph.made
