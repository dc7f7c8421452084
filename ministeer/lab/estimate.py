"""What the experiments will take on a model, in time and memory, before it is loaded; of the four GPT-2s, before the download.

    python -m ministeer.lab.estimate gpt2-xl --dtype bfloat16 --device cpu --subset quick     (`make reproduce` begins with it)

The work was counted once, on a small stand-in with GPT-2's vocabulary (`benchmarks/work.py` writes data/work.json). How fast this
machine does it is measured here, on one block of the model's own sizes with random weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ministeer.checkpoint import DTYPES, known_device, read_config
from ministeer.files import read_json
from ministeer.layouts import LAYOUTS, Config
from ministeer.model import GPT2Config, Transformer

# sizes of the checkpoints on the hub, so that nothing is downloaded for an estimate: vocabulary, context, width, layers, heads
SIZES = {
    "gpt2": GPT2Config(50257, 1024, 768, 12, 12),
    "gpt2-medium": GPT2Config(50257, 1024, 1024, 24, 16),
    "gpt2-large": GPT2Config(50257, 1024, 1280, 36, 20),
    "gpt2-xl": GPT2Config(50257, 1024, 1600, 48, 25),
}
AROUND = 120.0  # seconds that all experiments take beside the model: statistics, figures, the starts of eleven programs
GPU = 1e14  # FLOP/s to name where no GPU can be measured
GIB = 2**30
WORK = Path(__file__).parent / "data" / "work.json"


@dataclass(frozen=True)
class Work:
    """What an experiment asks of a model, whatever its size."""

    experiment: str
    passes: int  # tokens through all blocks; those that start half-way count half
    words: int  # tokens turned into logits over the vocabulary
    mediated: int  # prompts whose every head is patched: a token a head, through half of the blocks on average
    batch: int  # tokens of the largest batch


def work(quick: bool = False) -> list[Work]:
    """The counted work of each experiment, of all items or of the quick subset."""
    return [Work(**row) for row in read_json(WORK)["quick" if quick else "all"]]


def blank(config: Config) -> Transformer:
    """A model of these sizes that takes no memory."""
    with torch.device("meta"):
        return LAYOUTS[type(config)].model(config)


def flops(config: Config, done: Work) -> float:
    """Multiplications and additions of an experiment: two per entry of a block's matrices and token, 2 V D per token turned into logits.

    Attention between tokens is left out: of prompts this short it is a hundredth.
    """
    block = 2 * sum(p.numel() for p in blank(replace(config, n_layer=1)).blocks.parameters() if p.ndim == 2)
    heads = done.mediated * config.n_layer * config.n_head
    passes, words = done.passes + heads / 2, done.words + heads
    return passes * config.n_layer * block + words * 2 * config.vocab_size * config.width


def memory(config: Config, dtype: str, batch: int) -> tuple[float, float]:
    """Bytes of the weights, and at the peak: with the keys and values of the largest batch, what a block makes of it, and its logits."""
    size = torch.finfo(DTYPES[dtype]).bits // 8
    weights = size * sum(p.numel() for p in blank(config).parameters())
    cache = size * batch * 2 * config.n_layer * config.n_kv_head * config.head_size
    block = size * batch * config.width * 16
    logits = 4 * 128 * 8 * config.vocab_size  # of 128 prompts, a token each, and eight coefficients, in float32
    return weights, weights + cache + block + 2 * logits


@torch.no_grad()
def speed(config: Config, dtype: str, device: torch.device) -> float:
    """FLOP/s of one block of these sizes on 64 rows of 16 tokens: the median of five."""
    generator = torch.Generator().manual_seed(0)
    one = blank(replace(config, n_layer=1, vocab_size=2)).to_empty(device="cpu")
    for weight in one.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float32) / weight.shape[-1] ** 0.5)
    block = one.blocks[0].to(device, DTYPES[dtype])
    x = torch.randn(64, 16, config.width, generator=generator, dtype=torch.float32).to(device, DTYPES[dtype])
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        block(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        taken.append(time.perf_counter() - start)
    work = 2 * sum(p.numel() for p in block.parameters() if p.ndim == 2) * x[..., 0].numel()
    return work / median(taken[1:])


def describe(name: str, config: Config, dtype: str, device: str, quick: bool, rate: float) -> str:
    """The estimate as text."""
    asked = work(quick)
    each = {done.experiment: flops(config, done) for done in asked}
    total = sum(each.values())
    share = total / sum(flops(config, done) for done in work())
    weights, peak = memory(config, dtype, max(done.batch for done in asked))
    rest = AROUND * (0.5 if quick else 1.0)
    lines = [
        f"estimate for {name} in {dtype} on {device}, {f'one item in four: {share:.0%} of the work' if quick else 'all items'}:",
        f"  memory  {weights / GIB:.1f} GiB of weights, about {peak / GIB + 0.5:.1f} GiB at the peak",
        f"  work    {total / 1e15:.3g} PFLOP: " + ", ".join(f"{n[:2]} {f / total:.0%}" for n, f in each.items()),
        f"  time    about {_clock(rest + total / rate)}: {_clock(total / rate)} in the model, at the {rate / 1e12:.2g} TFLOP/s measured here on one block",
    ]
    if not device.startswith("cuda"):
        lines.append(f"          about {_clock(rest + total / GPU)} with a GPU that does {GPU / 1e12:.0f} TFLOP/s")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="nano, gpt2, gpt2-medium, gpt2-large, gpt2-xl or a folder")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--subset", default="all", choices=("all", "quick"))
    args = parser.parse_args()
    try:
        config = SIZES.get(args.model) or read_config(args.model)
        rate = speed(config, args.dtype, known_device(args.device))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"estimate: {error}")
    print(describe(args.model, config, args.dtype, args.device, args.subset == "quick", rate))


if __name__ == "__main__":
    main()
