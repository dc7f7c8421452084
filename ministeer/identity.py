"""What a value is, as a score, an intervention or a model: a hash of its code and of all that it holds, for the key of a result."""

from __future__ import annotations

import ast
import copyreg
import importlib
import inspect
import json
import os
import sys
import sysconfig
import types
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, ValuesView
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache, partial, partialmethod
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.modules import module as modules

from ministeer.model import Transformer, refusal
from ministeer.provenance import data_hash, tensor_hash
from ministeer.source import definition, node_of, text_of

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented))
DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
METHODS = (types.FunctionType, staticmethod, classmethod, property, partialmethod)
# what dataclasses and named tuples write for themselves, and what the interpreter does
MADE = {
    "__init__", "__new__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__setattr__", "__delattr__",
    "__replace__", "__getstate__", "__setstate__",
}  # fmt: skip
OF_TORCH = {name for name in vars(torch.nn.Module()) if name[0] == "_"}
UNREAD = {"_abc_impl", "__annotate__", "__annotate_func__"}
PACKAGE = Path(__file__).resolve().parent


def identity(value: Any) -> str:
    """What a value is, for the key of a result: 16 hex digits that change when what it computes or holds changes.

    An object counts by its class and all it holds: its items, attributes and slots, else what `copy` would carry over. A
    function counts by its source (or its compiled code if it has no text), its defaults and attributes, and what it closes over or
    names from outside, at any depth; a class, by what it defines. Installed code counts by its name and its package's
    version. Raises `ValueError` for what hides its state, such as an open file.
    """
    try:
        return _Telling().tell(value)
    except RecursionError:
        _unread(value)


def model_identity(model: Transformer) -> str:
    """`identity` of a model: its class, config, hooks, and its tensors to the bit, which are read in parallel; under
    `torch.autocast` the type of its products too."""
    telling, tensors = _Telling(), [*model.parameters(), *model.buffers()]
    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
        for tensor, told in zip(tensors, pool.map(_of_tensor, tensors)):
            telling.told[id(tensor)] = tensor, data_hash(told)
    return " ".join([telling.tell(model), *products(model)])


def products(model: Transformer) -> list[str]:
    """The type of a model's products where `torch.autocast` chooses it, else nothing."""
    kind = next(model.parameters()).device.type
    return [str(torch.get_autocast_dtype(kind))] if torch.is_autocast_enabled(kind) else []


def state(model: Transformer) -> list[Any]:
    """What a model computes with, to be compared within a process: its modules' attributes and hooks, and each tensor's
    address, number of writes, and first row and column, as torch does not count edits of `tensor.data`."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            held = value.detach()
            edges = [held[:1], held[:, :1]] if held.ndim > 1 else [held]
            times = None if value.is_inference() else value._version
            return value.data_ptr(), times, [edge.double().cpu().numpy().tobytes() for edge in edges]
        if isinstance(value, dict):
            return [(name, of(part)) for name, part in value.items()]
        return value if type(value) in PLAIN else id(value)

    everywhere = modules._global_forward_hooks, modules._global_forward_pre_hooks
    held = [  # none here drops out; of empty dicts, of hooks, there are many
        {n: v for n, v in vars(part).items() if n != "training" and not (isinstance(v, dict) and not v)}
        for part in model.modules()
    ]
    return [*map(of, everywhere), *map(of, held)]


class _Telling:
    """One call of `identity`: what it has told, and what it is in the midst of, where a thing that holds itself is met again."""

    def __init__(self) -> None:
        self.told: dict[int, tuple[Any, str]] = {}  # the values too, so that no id is given to another
        self.open: list[int] = []

    def tell(self, value: Any) -> str:
        if id(value) in self.open:
            return f"again {len(self.open) - self.open.index(id(value))}"
        if id(value) not in self.told:
            self.open.append(id(value))
            self.told[id(value)] = value, data_hash(self._parts(value))
            self.open.pop()
        return self.told[id(value)][1]

    def _parts(self, value: Any) -> list[str]:
        kind, name = type(value), type(value).__qualname__
        if kind in PLAIN:
            return [repr(value)]
        if isinstance(value, Tensor):
            return _of_tensor(value)
        if kind.__module__ == "numpy" and hasattr(value, "tolist"):
            held = value.tolist() if value.dtype.hasobject else value.tobytes()
            return [str(value.dtype), str(value.shape), self.tell(held)]
        if kind in (list, tuple) or isinstance(value, (KeysView, ValuesView, ItemsView)):
            return [name, *map(self.tell, value)]
        if kind in (set, frozenset):
            return [name, *sorted(map(self.tell, value))]
        if kind in (dict, types.MappingProxyType):
            return [
                "dict",
                *(self.tell(part) for entry in value.items() for part in entry),
            ]  # in its order, which can be read
        if isinstance(value, types.ModuleType):
            return [value.__name__] if _installed(value.__name__) else _unread(value, f"the module {value.__name__}")
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        inner: Sequence[Any] | None = None  # of what wraps functions
        if isinstance(value, types.MethodType):
            inner = value.__func__, value.__self__
        elif isinstance(value, (staticmethod, classmethod)):
            inner = (value.__func__,)
        elif isinstance(value, property):
            inner = value.fget, value.fset, value.fdel
        elif isinstance(value, cached_property):
            inner = (value.func,)
        elif isinstance(value, partial):
            inner = value.func, value.args, value.keywords, vars(value)
        elif hasattr(value, "cache_parameters"):  # of lru_cache
            inner = (value.__wrapped__,)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            home = value.__self__
            name = f"{getattr(value, '__module__', None)}.{value.__qualname__}"
            inner = () if isinstance(home, types.ModuleType) else (home,)
        elif isinstance(value, DESCRIPTORS):
            name, inner = f"{value.__objclass__.__qualname__}.{value.__name__}", ()
        elif kind.__module__ == "torch._ops":  # one of torch's operators, which is its name
            name, inner = f"torch.ops.{value}", ()
        elif isinstance(value, ContextVar):
            name, inner = value.name, (value.get(None),)
        elif isinstance(value, os.PathLike):
            path = Path(os.fspath(value))  # a file of this package is the same wherever it is installed
            inner = (str(path.relative_to(PACKAGE) if PACKAGE in (path, *path.parents) else path),)
        return self._object(value) if inner is None else [name, *map(self.tell, inner)]

    def _named(self, held: Mapping[str, Any]) -> list[str]:
        return [part for name in sorted(held) for part in (name, self.tell(held[name]))]

    def _object(self, value: Any) -> list[str]:
        """What a class makes: a module of torch by its attributes, others by what they give to be copied."""
        kind = type(value)
        if isinstance(value, torch.nn.Module):
            held = {n: [*v.values()] if "_hooks" in n and n in OF_TORCH else v for n, v in vars(value).items()}
            # what torch keeps for itself is not the same in every version of it
            empty = {n for n, v in held.items() if n in OF_TORCH and (v is None or v is False or v in ([], {}, set()))}
            return [self.tell(kind), *self._named({n: v for n, v in held.items() if n not in empty})]
        try:
            reduce = copyreg.dispatch_table.get(kind)
            copied = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - whatever a class raises that is not to be copied
            _unread(value)
        if isinstance(copied, str):
            return [self.tell(kind), copied]
        make, given, state, items, entries = (*copied, None, None, None)[:5]
        if type(state) is dict and all(isinstance(name, str) for name in state):
            state = self._named(state)
        return [self.tell(part) for part in (kind, make, given, state, [*(items or ())], [*(entries or ())])]

    def _class(self, kind: type) -> list[str]:
        if not isinstance(kind.__module__, str):  # a class of Cython's own, which numpy's generators hold
            return [kind.__qualname__]
        name = f"{kind.__module__}.{kind.__qualname__}"
        if _installed(kind.__module__):
            return [name, _version(kind.__module__)]
        held, makes = {}, is_dataclass(kind) or hasattr(kind, "_fields")
        for member, entry in vars(kind).items():
            dunder = member.startswith("__") and member.endswith("__")
            made = makes and member in MADE and not _written(entry)
            if member not in UNREAD and not made and (isinstance(entry, METHODS) or not dunder):
                held[member] = entry
        if is_dataclass(kind):
            held["__fields"] = [(f.name, f.default, f.default_factory) for f in fields(kind)]
        return [kind.__qualname__, self.tell([*kind.__bases__, type(kind)]), *self._named(held)]

    def _function(self, function: types.FunctionType) -> list[str]:
        code, home = function.__code__, str(function.__globals__.get("__name__"))
        around: dict[str, Any] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            try:
                around[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        held = [self.tell(part) for part in (function.__defaults__, function.__kwdefaults__)] + self._named(
            vars(function)
        )
        if _installed_file(code.co_filename):
            said = [home, code.co_name, _version(home)]
            if not code.co_flags & inspect.CO_NESTED:
                return said
            node = node_of(code)
            return [*said, json.dumps(node and definition(node)), *self._named(around), *held]
        if (node := node_of(code)) is None:
            return [*self._compiled(code, {**function.__globals__, **around}), *held]
        names = {**function.__globals__, **around, **_imported(node, function.__globals__.get("__package__"))}

        def refer(name: ast.Name | ast.Attribute) -> Callable[[], str] | None:
            try:
                found = _reach(name, names)
            except LookupError:
                return None
            return lambda: self.tell(found)  # once it is known to be said: annotations are not

        return [json.dumps(definition(node, refer), default=lambda told: told()), *held]

    def _compiled(self, code: types.CodeType, names: Mapping[str, Any]) -> list[str]:
        """A function without a text: its code, and what its names lead to, attributes of modules among them."""
        said = [code.co_code.hex(), str(code.co_flags), *code.co_names, *code.co_varnames, *code.co_freevars]
        for part in code.co_consts:
            said += self._compiled(part, names) if isinstance(part, types.CodeType) else [self.tell(part)]
        for name in (*code.co_names, *code.co_freevars):
            found = names.get(name)
            if isinstance(found, types.ModuleType):
                said += [self.tell(_member(found, part)) for part in code.co_names if hasattr(found, part)]
            elif name in names:
                said.append(self.tell(found))
        return said


def _unread(value: Any, what: str | None = None) -> NoReturn:
    what = what or f"a {type(value).__module__}.{type(value).__qualname__}"
    remedy = "give a function that holds none, or, to sweep, no path"
    raise refusal(
        "a function whose whole state can be read, since the key of its results says what it is", what, remedy
    )


def _of_tensor(tensor: Tensor) -> list[str]:
    try:
        dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
        return [str(tensor.dtype), tensor_hash([("", dense.resolve_conj().resolve_neg())])]
    except (RuntimeError, NotImplementedError):  # on the meta device there are no numbers
        _unread(tensor, f"a tensor on {tensor.device} that cannot be read")


def _reach(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """What a name, or a dotted name that leads through modules, stands for. Raises `LookupError` for all else."""
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.Attribute) and isinstance(home := _reach(node.value, names), types.ModuleType):
        return _member(home, node.attr)
    raise LookupError


def _member(home: types.ModuleType, name: str) -> Any:
    if not hasattr(home, name):
        raise LookupError
    found = getattr(home, name)
    if _installed(home.__name__) and not (callable(found) or isinstance(found, (types.ModuleType, *PLAIN))):
        return f"{home.__name__}.{name}"  # what another package keeps for itself
    return found


def _imported(node: ast.AST, package: str | None) -> dict[str, Any]:
    """What the imports within a function bring; those that fail bring nothing."""
    found: dict[str, Any] = {}
    for part in ast.walk(node):
        for alias in part.names if isinstance(part, (ast.Import, ast.ImportFrom)) else ():
            try:
                if isinstance(part, ast.Import):
                    module = importlib.import_module(alias.name)
                    found[alias.asname or module.__name__.partition(".")[0]] = (
                        module if alias.asname else sys.modules[alias.name.partition(".")[0]]
                    )
                elif isinstance(part, ast.ImportFrom):
                    module = importlib.import_module("." * part.level + (part.module or ""), package)
                    if not hasattr(module, alias.name):  # a module in it that nobody has loaded yet
                        importlib.import_module(f"{module.__name__}.{alias.name}")
                    found[alias.asname or alias.name] = getattr(module, alias.name)
            except (ImportError, AttributeError, TypeError):
                continue
    return found


def _written(entry: Any) -> bool:
    """Whether a method stands in a text of the user's."""
    code = getattr(inspect.unwrap(entry), "__code__", None) if callable(entry) else None
    return code is not None and not _installed_file(code.co_filename) and bool(text_of(code))


@lru_cache
def _installed_file(file: str) -> bool:
    """Whether a file is of Python itself or of an installed package; this one's own are read like the user's."""
    path = Path(file)
    if PACKAGE in path.parents:
        return False
    parts, library = path.parts, Path(sysconfig.get_path("stdlib"))
    return file.startswith("<frozen") or library in path.parents or "site-packages" in parts or "dist-packages" in parts


def _installed(module: str) -> bool:
    top = module.partition(".")[0]
    found = sys.modules.get(top)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    return top in sys.stdlib_module_names and top != "__main__" if file is None else _installed_file(str(file))


@lru_cache
def _version(module: str) -> str:
    """Of the package that a module belongs to; empty for Python's own."""
    try:
        return metadata.version(module.partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return ""
