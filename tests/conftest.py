"""Settings and fixtures; plain helpers are in reference.py, which tests import by name."""

import os
from typing import Any

import pytest
import torch
from hypothesis import settings
from reference import SHAPES, Pair, pair

if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start
    torch.set_num_threads(1)

# the same examples every time, and no time limit on one: a shared runner is slow now and then
settings.register_profile("ministeer", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("ministeer")


class Pairs(dict[str, Pair]):
    """A pair of models (ours, transformers') by the name of its shape, made when first asked for."""

    def __missing__(self, name: str) -> Pair:
        self[name] = pair(SHAPES[name], seed=1 + list(SHAPES).index(name))
        return self[name]


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Pairs of models that all tests share: no test may change them."""
    return Pairs()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "once: a test of no architecture, or of GPT-2 alone")


def pytest_generate_tests(metafunc: Any) -> None:
    """A test module with pairs of models `BOTH`, by the name of their architecture, runs once on each of them; but for tests that are
    marked, and those that take their models from `pairs`."""
    models = getattr(metafunc.module, "BOTH", None)
    alone = "pairs" in metafunc.fixturenames or any(mark.name == "once" for mark in metafunc.definition.iter_markers())
    if models and not alone:
        metafunc.parametrize("architecture", models, indirect=True, scope="module")


@pytest.fixture(autouse=True, scope="module")
def architecture(request: pytest.FixtureRequest) -> str:
    """The module's MODEL and THEIRS are those of the architecture that its tests run on now: GPT-2 where they run once."""
    name: str = getattr(request, "param", "gpt2")
    if models := getattr(request.module, "BOTH", None):
        request.module.MODEL, request.module.THEIRS = models[name]
    return name
