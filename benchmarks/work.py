"""Count what the experiments ask of a model, for the estimate before a run: `python benchmarks/work.py` writes ministeer/lab/data/work.json.

All of them run, whole and as the quick subset, on a random model with GPT-2's vocabulary and GPT-2 small's depth and heads, but a width
of 24, so that it takes half an hour and not days. torch counts the FLOPs of its operations: those of the blocks' matrices are
the ones with a bias (addmm), those of the vocabulary have none (mm). Run it again when an experiment asks for other items.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ministeer import heads
from ministeer import model as model_file
from ministeer.checkpoint import save_model
from ministeer.files import write_text
from ministeer.initialize import initialize
from ministeer.lab import answers, data
from ministeer.model import GPT2, GPT2Config

HERE = Path(__file__).resolve().parent
CONFIG = GPT2Config(n_layer=12, n_head=12, n_embd=24)


def count(script: Path, model: Path, results: Path, subset: str) -> dict[str, Any]:
    """What one experiment asked for, as `estimate.Work`."""
    seen = {"mediated": 0, "batch": 0}
    real_effects, real_last, real_multiply = heads.indirect_effects, answers.last_token, model_file.multiply

    def effects(*args: Any, **settings: Any) -> Any:
        seen["mediated"] += len(args[2])
        return real_effects(*args, **settings)

    def last_token(model: GPT2, prompts: Any, *rest: Any) -> Any:
        seen["batch"] = max(seen["batch"], len(prompts) * max(map(len, prompts)))
        return real_last(model, prompts, *rest)

    heads.indirect_effects, answers.last_token = effects, last_token
    model_file.multiply = (
        F.linear
    )  # one way through a matrix, whatever the number of tokens: the counter tells matrices by it
    sys.argv = [script.name, "--model", str(model), "--results", str(results), "--subset", subset]
    try:
        with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of vectors that mean nothing: the model is random
            runpy.run_path(str(script), run_name="__main__")
    finally:
        heads.indirect_effects, answers.last_token, model_file.multiply = real_effects, real_last, real_multiply
    flops = {str(operation): n for operation, n in counter.get_flop_counts()["Global"].items()}
    width, layers, variants = CONFIG.n_embd, CONFIG.n_layer, seen["mediated"] * CONFIG.n_layer * CONFIG.n_head
    passes = flops["aten.addmm"] / (24 * width**2 * layers) - variants / 2
    words = flops.get("aten.mm", 0) / (2 * CONFIG.vocab_size * width) - variants
    return {"experiment": script.stem, "passes": round(passes), "words": round(words), **seen}


def main() -> None:
    torch.manual_seed(0)
    found: dict[str, list[dict[str, Any]]] = {"quick": [], "all": []}
    with tempfile.TemporaryDirectory() as folder:
        save_model(initialize(GPT2(CONFIG), torch.Generator().manual_seed(0)), Path(folder) / "stand-in")
        for subset, rows in found.items():
            for script in sorted((HERE.parent / "examples").glob("[0-9]*.py")):
                rows.append(count(script, Path(folder) / "stand-in", Path(folder) / "results", subset))
                print(rows[-1], flush=True)
    write_text(Path(data.__file__).parent / "work.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
