"""Hashes of what a result depends on: what a function is."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ministeer.provenance import identity

SCALE = 1.0


class Scorer:
    """A function with a state."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[self.token]

    def double(self, logits: Tensor) -> Tensor:
        return 2 * logits[self.token]


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
