"""Hashes of what a result depends on: what a function is."""

import collections
import dataclasses
import functools
import importlib
import linecache
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ministeer.identity import identity

SCALE = 1.0


class Scorer:
    """A function with a state."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[self.token]

    def double(self, logits: Tensor) -> Tensor:
        return 2 * logits[self.token]


class Slotted:
    __slots__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token


@dataclasses.dataclass
class Data:
    token: int


Pair = collections.namedtuple("Pair", "token other")


def filled(layer: torch.nn.Linear, number: float) -> torch.nn.Linear:
    torch.nn.init.constant_(layer.weight, number)
    return layer


def hooked(layer: torch.nn.Module) -> torch.nn.Module:
    layer.register_forward_hook(lambda _, args, out: 2 * out)
    return layer


HOLDERS: dict[str, Callable[[int], Any]] = {
    "named tuple": lambda n: Pair(n, 0),
    "dataclass": Data,
    "slots": Slotted,
    "namespace": lambda n: SimpleNamespace(token=n),
    "ordered dict": lambda n: collections.OrderedDict(a=n),
    "default dict": lambda n: collections.defaultdict(int, a=n),
    "deque": lambda n: collections.deque([n]),
    "slice": lambda n: slice(n, 9),
    "keys": lambda n: {n: 1}.keys(),
    "values": lambda n: {1: n}.values(),
    "proxy": lambda n: MappingProxyType({1: n}),
    "order": lambda n: {n: 0, 7 - n: 0},
    "kind of key": lambda n: {n if n == 3 else "3": 0},
    "module": lambda n: filled(torch.nn.Linear(2, 1, bias=False), n),
    "hook": lambda n: filled(torch.nn.Linear(2, 1, bias=False), 1) if n == 3 else hooked(filled(torch.nn.Linear(2, 1, bias=False), 1)),
    "training": lambda n: torch.nn.Dropout().train(n == 3),
    "bound method": lambda n: Scorer(n).double,
    "method of a list": lambda n: [n].__getitem__,
    "method of a text": lambda n: str(n).join,
    "partial": lambda n: functools.partial(Scorer.double, n),
    "dtype": lambda n: torch.float32 if n == 3 else torch.float16,
    "dtype of a tensor": lambda n: torch.zeros(1, dtype=torch.float32 if n == 3 else torch.int32),
    "path": lambda n: Path(str(n)),
    "generator": lambda n: torch.Generator().manual_seed(n),
    "generator of numpy": np.random.default_rng,
    "deep": lambda n: [{"a": (Data(n),)}],
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDERS)
def test_the_whole_state_of_an_object_counts(name: str) -> None:
    hold = HOLDERS[name]
    assert identity(lambda: hold) == identity(lambda: hold)
    found = [identity(Scorer(hold(n))) for n in (3, 3, 4)]  # type: ignore[arg-type]
    assert found[0] == found[1] != found[2]


def test_what_holds_itself_is_told_to_its_end() -> None:
    found = []
    for n in (3, 3, 4):
        ring: list[Any] = [n]
        ring.append({"again": ring})
        found.append(identity(ring))
    assert found[0] == found[1] != found[2]


def test_what_a_function_names_counts_as_deep_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of other files, by name and by module, methods that methods call, class attributes, constants of modules, decorated and
    cached helpers, attributes of functions, imports within functions."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    helper = "import functools\ndef f(x): return x[{0}]\nclass K:\n    t = {1}\n    def __call__(self, x): return self.h(x)\n"
    helper += "    def h(self, x): return x[{2}]\nt = {3}\n@functools.lru_cache\ndef g(n): return n + {4}\ndef k(x): return x\nk.t = {5}\n"
    user = (
        "import their_helper as m\nfrom their_helper import K, f, g, k\n"
        "def one(x): return f(x)\ndef two(x): return m.f(x)\ndef three(x): return x[K.t]\ncall = K()\n"
        "def four(x): return x[m.t]\ndef five(x): return x[g(1)]\ndef six(x): return x[k.t]\n"
        "def seven(x):\n    from their_helper import f as here\n    return here(x)\n"
    )
    (tmp_path / "their_user.py").write_text(user)

    def keys(*numbers: int) -> dict[str, str]:
        (tmp_path / "their_helper.py").write_text(helper.format(*numbers))
        importlib.invalidate_caches()
        linecache.checkcache()
        for name in ("their_user", "their_helper"):
            sys.modules.pop(name, None)
        module = importlib.import_module("their_user")
        return {
            name: identity(getattr(module, name))
            for name in ("one", "two", "three", "call", "four", "five", "six", "seven")
        }

    before = keys(*range(6))
    assert keys(*range(6)) == before
    expected = [{"one", "two", "seven"}, {"three", "call"}, {"three", "call"}, {"four"}, {"five"}, {"six"}]
    for place, changed in enumerate(expected):
        after = keys(*(n + 10 * (n == place) for n in range(6)))
        assert {name for name in before if after[name] != before[name]} == changed, place
    for name in ("their_user", "their_helper"):
        sys.modules.pop(name, None)


def test_an_edited_text_is_not_that_of_the_function_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of one that was loaded before the edit nor, after a reload, the text that was read before it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, text = tmp_path / "their_score.py", "def score(logits, i):\n    return logits[:, {}]\n"
    file.write_text(text.format(5))
    module = importlib.import_module("their_score")
    old = module.score
    five = identity(old)
    file.write_text(text.format(3000))
    thousands = identity(importlib.reload(module).score)
    assert identity(old) != thousands
    file.write_text(text.format(9))
    assert identity(module.score) not in (five, identity(importlib.reload(module).score))
    file.write_text("# said\n" + text.format(9))
    nine = identity(module.score)
    assert identity(importlib.reload(module).score) == nine != five != thousands
    sys.modules.pop("their_score")


def test_a_module_that_a_function_imports_counts_whether_or_not_it_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    (tmp_path / "their_package" / "part.py").write_text("K = 5\n")
    (tmp_path / "their_late.py").write_text("def f(x):\n    from their_package import part\n    return x[part.K]\n")
    monkeypatch.syspath_prepend(tmp_path)
    late = importlib.import_module("their_late")
    before = identity(late.f)
    importlib.import_module("their_package.part").K = 5  # type: ignore[attr-defined]
    assert identity(late.f) == before
    importlib.import_module("their_package.part").K = 6  # type: ignore[attr-defined]
    assert identity(late.f) != before
    for name in ("their_late", "their_package", "their_package.part"):
        sys.modules.pop(name)


def test_a_method_that_gives_another_one_arguments_counts() -> None:
    def calls(token: int) -> Any:
        class Calls:
            __call__ = functools.partialmethod(Scorer.__call__, token)

        return Calls()

    assert identity(calls(3)) == identity(calls(3)) != identity(calls(4))


class Normed(torch.nn.Module):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)


def test_what_a_module_of_torch_keeps_for_itself_is_not_what_its_user_keeps_there() -> None:
    found = [identity(Normed(**held)) for held in ({}, {"_norm": None}, {"_norm": False}, {"_norm": []}, {"_norm": {}})]
    found += [identity(Normed(my_hooks={name: 1})) for name in "ab"] + [identity(Normed(_ids=np.array([1, 2, 3])))]
    assert len(set(found)) == len(found)
    with_own = Normed()
    with_own._is_full_backward_hook = False
    assert identity(with_own) == found[0]


def test_a_module_as_a_whole_and_what_is_open_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        for held in (ModuleType("mine"), file, (n for n in range(3))):
            with pytest.raises(ValueError, match="whole state can be read.* got .*; give a function"):
                identity(Scorer(held))  # type: ignore[arg-type]


def test_another_process_tells_the_same() -> None:
    code = """
import collections, dataclasses, torch
from ministeer import interventions as by, metrics
from ministeer.model import GPT2, GPT2Config
from ministeer.identity import identity, model_identity
class Scorer:
    def __call__(self, logits, i): return metrics.kl(logits, logits)
torch.manual_seed(0)
model = GPT2(GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1))
model.blocks[0].attn.register_forward_hook(by.project_out)
print(identity([Scorer(), {"b", "a", "c"}, by.rotate(torch.ones(3), torch.eye(3)[0]), collections.Counter("aab")]), model_identity(model))
"""
    told = set()
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        told.add(
            subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True).stdout
        )
    assert len(told) == 1


def scaled() -> Callable[[Tensor], Tensor]:
    def score(logits: Tensor) -> Tensor:
        def pick(x: Tensor) -> Tensor:
            return max(part * SCALE for part in x)

        return pick(logits)

    return score


def test_a_global_that_a_function_within_a_function_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(scaled())
    assert identity(scaled()) == before
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert identity(scaled()) != before


def test_what_a_function_closes_over_counts_by_what_it_holds() -> None:
    def score(held: Any) -> Callable[[Tensor], Any]:
        return lambda logits: logits[held]

    for first, second in (
        (3, 4), (np.int64(3), np.int64(4)), (np.array([3]), np.array([4])), (range(3), range(4)), (Scorer(3), Scorer(4)),
        (Scorer(3).double, Scorer(4).double), (Scorer(3).double, Scorer(3)), (torch.tensor(3), torch.tensor(4)),
    ):  # fmt: skip
        assert identity(score(first)) == identity(score(first))
        assert identity(score(first)) != identity(score(second)), first
    assert identity(Scorer(3)) == identity(Scorer(3)) != identity(Scorer(4))


def test_a_function_is_its_source_and_not_how_it_was_written_or_compiled(tmp_path: Path) -> None:
    texts = {
        "plain": "def score(logits):\n    return logits[3]\n",
        "dressed": 'def named(logits: list) -> float:\n    """Said."""\n    return logits[3]  # said\n',
        "other": "def score(logits):\n    return logits[4]\n",
    }
    found = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        (function,) = (v for v in runpy.run_path(str(tmp_path / f"{name}.py")).values() if isinstance(v, FunctionType))
        found[name] = identity(function)
    assert found["plain"] == found["dressed"] != found["other"]


def test_an_operator_of_torch_is_its_name() -> None:
    def twice(x: Any, _: Any) -> Any:
        return torch.ops.aten.mul(x, 2)

    def added(x: Any, _: Any) -> Any:
        return torch.ops.aten.add(x, 2)

    assert identity(torch.ops.aten.mul) == identity(torch.ops.aten.mul) != identity(torch.ops.aten.add)
    assert identity(torch.ops.aten.mul) != identity(torch.ops.aten.mul.Tensor)
    assert identity(twice) != identity(added)
