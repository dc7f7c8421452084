"""How the time of a sweep grows with each of its sizes: `python benchmarks/growth.py` draws growth.png beside this file, prints the table.

Random weights in bfloat16, packed where the processor allows. In every panel one size grows and the others stay; the line is through
the largest point, time in proportion to the work: what a sweep that did nothing else would take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import matplotlib
import torch
from jobs import SMALL, XL, seconds, sweep_operations
from table import table

from ministeer.initialize import initialize
from ministeer.model import GPT2, GPT2Config
from ministeer.pack import pack, supported
from ministeer.sweep import sweep

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SIZES = {
    "small": SMALL,
    "medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "XL": XL,
}
PROMPTS, TOKENS, COEFFS = 8, 16, 8
Point = tuple[str, float, float]  # what it is called, 1e12 operations, seconds


def build(config: GPT2Config) -> GPT2:
    with torch.device("meta"):
        model = GPT2(config).bfloat16()
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    initialize(model, torch.Generator().manual_seed(0))
    return pack(model) if supported() else model


def measure(model: GPT2, prompts: int, coeffs: int, layers: list[int], repetitions: int = 3) -> float:
    """Seconds of one sweep, the median of several."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (prompts, TOKENS), generator=generator).tolist()
    v = torch.randn(model.config.n_embd, generator=generator)
    strengths = [0.01 * (i + 1) for i in range(coeffs)]

    def run() -> None:
        sweep(model, ids, lambda logits, i: logits[:, 0], {"v": v}, layers, strengths)

    return median(seconds(run) for _ in range(repetitions))


def work(config: GPT2Config, prompts: int, coeffs: int, layers: list[int]) -> float:
    """Operations of the matrix products, in units of 1e12."""
    return sweep_operations(config, layers, coeffs, prompts * TOKENS) / 1e12


def one_process(layers: list[int]) -> None:
    """The share of a process that torchrun started, timed between two barriers; the first prints the seconds."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = build(SIZES["small"])
    measure(model, 1, 1, [11], 1)
    dist.barrier()
    start = time.perf_counter()
    measure(model, PROMPTS, COEFFS, layers, 1)
    dist.barrier()  # the slower one's time
    if dist.get_rank() == 0:
        print(f"seconds {time.perf_counter() - start}")
    dist.destroy_process_group()


def processes(count: int, layers: list[int]) -> float:
    """Seconds of the sweep by so many processes of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run([*command, "--one"], check=True, capture_output=True, text=True, env=environment).stdout
    return float(out.split("seconds ")[1].split()[0])


def section(path: Path) -> str:
    """Measure all panels and draw them into `path`; their table, in Markdown."""
    whole = list(range(SIZES["small"].n_layer))
    small = build(SIZES["small"])
    measure(small, 2, 2, whole, 1)  # warm

    def point(label: object, model: GPT2, prompts: int, coeffs: int, layers: list[int]) -> Point:
        todo = work(model.config, prompts, coeffs, layers)
        return str(label), todo, measure(model, prompts, coeffs, layers, 3 if todo < 1 else 1)

    panels: dict[str, list[Point]] = {
        "prompts": [point(n, small, n, COEFFS, whole) for n in (1, 4, 16)],
        "coefficients": [point(n, small, PROMPTS, n, whole) for n in (1, 4, 16)],
        "layers, from the lowest": [point(n, small, PROMPTS, COEFFS, whole[:n]) for n in (1, 4, 12)],
        "model": [],
        "processes, a share each": [
            (str(n), work(small.config, PROMPTS, COEFFS, whole) / n, processes(n, whole)) for n in (1, 2)
        ],
    }
    for name, config in SIZES.items():
        model = build(config)
        measure(model, 1, 1, [config.n_layer - 1], 1)  # warm
        panels["model"].append(point(name, model, 2, 4, list(range(2, config.n_layer, 4))))
        del model
    draw(panels, path)
    head = ["what grows", "to", "1e12 operations", "seconds", "1e12 operations a second"]
    return table(
        head,
        [
            [panel, label, f"{w:.3f}", f"{s:.2f}", f"{w / s:.3f}"]
            for panel, points in panels.items()
            for label, w, s in points
        ],
    )


def draw(panels: dict[str, list[Point]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), layout="constrained")
    for axis, (name, points) in zip(axes, panels.items(), strict=True):
        _, xs, ys = zip(*points, strict=True)
        most, longest = max(zip(xs, ys, strict=True))
        axis.plot([0, most], [0, longest], color="0.6", linewidth=1, label="in proportion")
        axis.plot(xs, ys, "o", color="#0072B2", label="measured")
        axis.set(title=name, xlabel="operations, 1e12", xlim=(0, 1.15 * most), ylim=(0, 1.1 * max(ys)))
        for label, x, y in points:
            axis.annotate(label, (x, y), textcoords="offset points", xytext=(5, -10), fontsize=8)
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help="one process of those that this script starts itself")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.one:
        one_process(list(range(SIZES["small"].n_layer)))
        return
    torch.set_num_threads(args.threads)
    print(section(HERE / "growth.png"))


if __name__ == "__main__":
    main()
