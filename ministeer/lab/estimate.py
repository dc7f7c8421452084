"""What the experiments will take on a model, in time and memory, before it is loaded; of the four GPT-2s, before the download.

    python -m ministeer.lab.estimate gpt2-xl --dtype bfloat16 --device cpu --subset quick     (`make reproduce` begins with it)
    python -m ministeer.lab.estimate smollm2-135m-instruct --record          (after a run of it: keep what it took)

A run was timed once, on nano and on a model with an open vocabulary, which is asked more (data/recorded.json). Another
model takes as much longer as its blocks are larger, another machine as it is slower: how fast this one is, is measured here, on one
block of the model's own sizes with random weights.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ministeer.checkpoint import DTYPES, known_device, read_config
from ministeer.files import read_json, write_text
from ministeer.layouts import LAYOUTS, Config
from ministeer.model import GPT2Config, Transformer
from ministeer.options import Parser
from ministeer.pack import int8, widest

# sizes of the checkpoints on the hub, so that nothing is downloaded for an estimate: vocabulary, context, width, layers, heads
SIZES = {
    "gpt2": GPT2Config(50257, 1024, 768, 12, 12),
    "gpt2-medium": GPT2Config(50257, 1024, 1024, 24, 16),
    "gpt2-large": GPT2Config(50257, 1024, 1280, 36, 20),
    "gpt2-xl": GPT2Config(50257, 1024, 1600, 48, 25),
}
OPEN = 20_000  # words of a vocabulary from which on a model is asked the larger tables
LESS = 3.5  # times that a quick run is shorter than a whole one, where only one of them was timed
START = 6.0  # seconds that a script takes beside the model: imports, statistics, figures
GPU = 1e14  # FLOP/s to name where no GPU can be measured
GIB = 2**30
RECORDED = Path(__file__).parent / "data" / "recorded.json"


def recorded(config: Config, quick: bool) -> dict[str, Any]:
    """A run of a model that is asked the same: {"model", "rate" (FLOP/s of a block there), "token" (FLOP of one through that model), "beside"
    (GiB at the peak beside the weights), "seconds": {experiment: in the model}}."""
    runs: dict[str, Any] = read_json(RECORDED)["open" if config.vocab_size >= OPEN else "small"]
    wanted, other, longer = ("quick", "all", 1 / LESS) if quick else ("all", "quick", LESS)
    if wanted in runs:
        return runs[wanted]  # type: ignore[no-any-return]
    run = runs[other]
    return {**run, "seconds": {experiment: longer * taken for experiment, taken in run["seconds"].items()}}


def blank(config: Config) -> Transformer:
    """A model of these sizes that takes no memory."""
    with torch.device("meta"):
        return LAYOUTS[type(config)].model(config)


def token(config: Config) -> float:
    """Multiplications and additions of one token, through all blocks and the unembedding."""
    block = 2 * sum(p.numel() for p in blank(replace(config, n_layer=1)).blocks.parameters() if p.ndim == 2)
    return float(config.n_layer * block + 2 * config.vocab_size * config.width)


def weights(config: Config, dtype: str) -> float:
    """Bytes of the weights; of int8, of the blocks in 8 bits (without VNNI in two orders), of the embedding in 16, and of the unembedding."""
    model = blank(config)
    blocks, whole = (sum(p.numel() for p in part.parameters()) for part in (model.blocks, model))
    if dtype == "int8":
        return blocks * (2.0 if widest() == 63 else 1.0) + 2.0 * (whole - blocks) + config.vocab_size * config.width
    return torch.finfo(DTYPES[dtype]).bits / 8 * whole


@torch.no_grad()
def speed(config: Config, dtype: str, device: torch.device) -> float:
    """FLOP/s of one block of these sizes on 64 rows of 16 tokens: the median of five or more, over two seconds."""
    generator = torch.Generator().manual_seed(0)
    one = blank(replace(config, n_layer=1, vocab_size=2)).to_empty(device="cpu")
    for weight in one.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float32) / weight.shape[-1] ** 0.5)
    one = one.to(device, DTYPES["bfloat16" if dtype == "int8" else dtype])
    x = torch.randn(64, 16, config.width, generator=generator, dtype=torch.float32).to(device, one.dtype)
    work = 2 * sum(p.numel() for p in one.blocks.parameters() if p.ndim == 2) * x[..., 0].numel()
    block = (int8(one) if dtype == "int8" else one).blocks[0]
    taken: list[float] = []
    while len(taken) < 6 or sum(taken) < 2:
        start = time.perf_counter()
        block(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        taken.append(time.perf_counter() - start)
    return work / median(taken[1:])


def seconds(config: Config, quick: bool, rate: float) -> dict[str, float]:
    """Of each experiment, the seconds in a model of these sizes, where a block of it does `rate` FLOP/s."""
    run = recorded(config, quick)
    longer = token(config) / run["token"] * run["rate"] / rate
    return {experiment: longer * taken for experiment, taken in run["seconds"].items()}


def describe(name: str, config: Config, dtype: str, device: str, quick: bool, rate: float) -> str:
    """The estimate as text."""
    each = seconds(config, quick, rate)
    total, start = sum(each.values()), START * len(each)
    run, held = recorded(config, quick), weights(config, dtype)
    lines = [
        f"estimate for {name} in {dtype} on {device}, {'one item in four' if quick else 'all items'}:",
        f"  memory  {held / GIB:.1f} GiB of weights, about {held / GIB + run['beside']:.1f} GiB at the peak",
        f"  time    about {_clock(start + total)}, by a run of {run['model']} and the {rate / 1e12:.2g} TFLOP/s measured here on one block: "
        + ", ".join(f"{n[:2]} {_clock(START + s)}" for n, s in each.items()),
    ]
    if not device.startswith("cuda"):
        lines.append(
            f"          about {_clock(start + total * rate / GPU)} with a GPU that does {GPU / 1e12:.0f} TFLOP/s"
        )
    return "\n".join(lines)


def record(results: Path, config: Config, dtype: str, rate: float) -> dict[str, Any]:
    """What a whole run in a results folder took, as `recorded` gives it. Raises `ValueError` if parts of it were not measured anew."""
    done = [read_json(path) for path in sorted(results.glob("[0-9][0-9]_*.json"))]
    again = [one["name"] for one in done if one["reused"]]
    if not done or again:
        got = f"kept cells in {', '.join(again)}" if again else "none"
        raise ValueError(
            f"expected experiments measured in one go in {results}, got {got}; remove them and run it anew"
        )
    beside = max(one["peak"] or 0.0 for one in done) - weights(config, dtype) / GIB
    taken = {one["name"]: round(one["seconds"], 1) for one in done}
    return {
        "model": done[0]["model"],
        "rate": rate,
        "token": token(config),
        "beside": round(beside, 2),
        "seconds": taken,
    }


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main() -> None:
    parser = Parser(prog="ministeer estimate", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="nano, gpt2, gpt2-medium, gpt2-large, gpt2-xl or a folder")
    parser.add_argument("--dtype", default="float32", choices=[*DTYPES, "int8"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--subset", default="all", choices=("all", "quick"))
    parser.add_argument("--record", action="store_true", help="keep what the run in results/MODEL took")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    quick = args.subset == "quick"
    try:
        config = SIZES.get(args.model) or read_config(args.model)
        rate = speed(config, args.dtype, known_device(args.device))
        if args.record:
            folder = Path("results") / (Path(args.model).name + ("-quick" if quick else ""))
            runs = read_json(RECORDED)
            found = record(folder, config, args.dtype, rate)
            runs["open" if config.vocab_size >= OPEN else "small"]["quick" if quick else "all"] = found
            write_text(RECORDED, json.dumps(runs, indent=1) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"ministeer: {error}")
    if args.json:
        held, each = weights(config, args.dtype) / GIB, seconds(config, quick, rate)
        peak = held + recorded(config, quick)["beside"]
        asked = {name: getattr(args, name) for name in ("model", "dtype", "device", "subset")}
        taken = {name: round(START + s, 1) for name, s in each.items()}
        print(json.dumps(asked | {"GiB of weights": held, "GiB at the peak": peak, "FLOP/s": rate, "seconds": taken}))
    else:
        print(describe(args.model, config, args.dtype, args.device, quick, rate))


if __name__ == "__main__":
    main()
