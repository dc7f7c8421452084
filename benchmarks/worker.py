"""The process of one side: `python worker.py SIDE FOLDER DTYPE THREADS [DEVICE]` loads it, then runs the jobs that come as JSON lines."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
import torch
from sides import SIDES


def peak() -> int:
    """The most bytes that this process has held, on a GPU if it uses one, else file pages mapped into it included; 0 where Linux does
    not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    name, folder, dtype, threads, *device = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is not an answer

    def answer(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    torch.set_num_threads(int(threads))
    kind, start = SIDES[name], time.perf_counter()
    for module in kind.imports:
        importlib.import_module(module)
    imported, before = time.perf_counter() - start, peak()
    try:
        start = time.perf_counter()
        side = kind(folder, dtype, *device)
        answer(
            version=importlib.metadata.version(name),
            imported=imported,
            loaded=time.perf_counter() - start,
            memory=peak() - before,
        )
    except Exception as error:  # noqa: BLE001  whatever it is, it is that library's cell of the table
        answer(error=f"{type(error).__name__}: {error}")
        return
    for line in sys.stdin:
        request = json.loads(line)
        job = getattr(side, request["job"], None)
        if job is None:
            answer(error="not offered")
            continue
        try:
            start = time.perf_counter()
            value = job(**request["given"])
            answer(seconds=time.perf_counter() - start, value=value, memory=peak() - before)
        except Exception as error:  # noqa: BLE001
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
