"""A disk that cannot be written, for a test's own process and those that it starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path, rights: int = 0o555) -> Iterator[None]:
    """A folder that this process may not write into; root may write everywhere, so it is somebody else meanwhile.

    rights: of it, or of a file; 0 for one that may not be read either."""
    if not hasattr(os, "geteuid"):
        pytest.skip("a system without such rights")
    root = os.geteuid() == 0
    modes = {folder: rights, **{above: 0o755 for above in folder.parents if root and "pytest-of-" in str(above)}}
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in modes}
    for path, mode in modes.items():
        path.chmod(mode)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in before.items():
            path.chmod(mode)


@contextmanager
def full(size: int = 64) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="a system without limits for its processes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
