"""Side by side with transformers, on the same random weights: import, one token's matrices, decoding, extraction.

    python benchmarks/bench.py            GPT-2 XL's sizes, writes RESULTS.md beside this file
    python benchmarks/bench.py --quick    GPT-2 small's sizes, a minute, prints only

The two sides take turns, so that whatever else the machine does falls on both; medians are reported, the slowest and
the fastest in brackets. A limit is what the hardware was measured to do in the same run: reading memory, or
multiplying matrices. Nothing here passes or fails: a missed target is a word in the table.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from ministeer.extract import pair_streams
from ministeer.generate import generate
from ministeer.model import GPT2, GPT2Config, Linear
from ministeer.pack import Packed, pack, supported
from ministeer.sweep import sweep
from ministeer.vectors import Steer

RESULTS = Path(__file__).with_name("RESULTS.md")
PROMPT, NEW, LAYER, COEFF = 8, 32, 6, 5.0  # decoding: tokens given, tokens made, block steered
PAIRS, TOKENS, BATCH = 64, 24, 16  # extraction
SWEPT, SWEPT_TOKENS, COEFFS = 8, 16, [-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0]  # the sweep


@dataclass
class Row:
    """One line of the table: the seconds of each repetition of both sides, and what they are compared by."""

    job: str
    dtype: str
    ours: list[float]
    theirs: list[float]
    about: str  # one sentence for the reader
    target: float | None = None  # for their time over ours
    at_most: float | None = None  # or for our seconds
    work: float = 1.0  # how many units one repetition does
    unit: str = "s"  # "s" is seconds for one repetition, else units a second
    limit: float | None = None  # in that unit

    def cells(self) -> list[str]:
        ours, theirs = self._value(median(self.ours)), self._value(median(self.theirs))
        ratio = median(self.theirs) / median(self.ours)
        target = ""
        if self.target is not None:
            target = f"{self.target:g} times: {'met' if ratio >= self.target else '**missed**'}"
        elif self.at_most is not None:
            target = f"{self.at_most:g} s: {'met' if ours <= self.at_most else '**missed**'}"
        limit = share = ""
        if self.limit is not None:
            limit = _number(self.limit)
            share = f"{self.limit / ours if self.unit == 's' else ours / self.limit:.0%}"
        spread = [self._spread(side) for side in (self.ours, self.theirs)]
        return [self.job, self.dtype, self.unit, f"{_number(ours)} {spread[0]}", f"{_number(theirs)} {spread[1]}",
                f"{ratio:.2f}", target, limit, share]  # fmt: skip

    def _value(self, seconds: float) -> float:
        return seconds if self.unit == "s" else self.work / seconds

    def _spread(self, seconds: list[float]) -> str:
        low, high = sorted((self._value(min(seconds)), self._value(max(seconds))))
        return f"({_number(low)} to {_number(high)})"


def _number(x: float) -> str:
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(repetitions: int, *runs: Callable[[], object]) -> list[list[float]]:
    """Seconds of each run in each repetition, the order reversed from one repetition to the next; warm up before."""
    found: list[list[float]] = [[] for _ in runs]
    for repetition in range(repetitions):
        turns = list(zip(runs, found, strict=True))
        for run, into in turns if repetition % 2 == 0 else reversed(turns):
            into.append(seconds(run))
    return found


# --- the two sides ---------------------------------------------------------------------------------------------------


def build(config: GPT2Config, dtype: torch.dtype) -> tuple[GPT2, Any]:
    """Our model and transformers' GPT2LMHeadModel with the same random weights: memory for two models, no more."""
    with torch.device("meta"):
        ours = GPT2(config).to(dtype)
        sizes = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
        no_ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **no_ids)).to(dtype)
    ours = ours.to_empty(device="cpu").eval().requires_grad_(False)
    ours.initialize(torch.Generator().manual_seed(0))
    theirs = theirs.to_empty(device="cpu").eval().requires_grad_(False)
    theirs.tie_weights()
    weights = ours.state_dict()
    for name, parameter in theirs.named_parameters():
        weight = weights[name.removeprefix("transformer.").replace("h.", "blocks.", 1)]
        turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        parameter.copy_(weight.T if turned else weight)
    return ours, theirs


def decode_row(ours: GPT2, theirs: Any, repetitions: int, target: float | None) -> Row:
    """Greedy decoding with a vector added at the input of a block: each side as its own documentation says."""
    config, dtype = ours.config, ours.wte.weight.dtype
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(config.vocab_size, (1, PROMPT), generator=generator)
    v = torch.randn(config.n_embd, generator=generator).to(dtype) / 100

    def run_ours() -> list[int]:
        return generate(ours, ids, max_new_tokens=NEW, steer=Steer(v, ("pre", LAYER), COEFF), temperature=0)[0]

    def steered(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + COEFF * v, *args[1:])

    def run_theirs() -> list[int]:
        handle = theirs.transformer.h[LAYER].register_forward_pre_hook(steered)
        try:
            mask = torch.ones_like(ids)
            out = theirs.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, use_cache=True)
        finally:
            handle.remove()
        return out[0].tolist()

    found = [run_ours(), run_theirs()]
    if dtype == torch.float32 and found[0] != found[1]:
        raise RuntimeError(f"the two sides do not compute the same, timing them says nothing: {found}")
    times = in_turns(repetitions, run_ours, run_theirs)
    read = sum(p.numel() for name, p in ours.state_dict().items() if p.ndim == 2 and "wpe" not in name) * dtype.itemsize
    return Row(
        f"steered decoding, {NEW} tokens from {PROMPT}{_packed(ours)}",
        _name(dtype),
        *times,
        about=f"`generate` with a `Steer` against transformers' `generate` (use_cache) with a forward pre-hook, both "
        f"adding a vector at the input of block {LAYER}, batch 1, greedy; the limit is reading each matrix once a token.",
        target=target,
        work=NEW,
        unit="tokens/s",
        limit=read_bandwidth() / read,
    )


def extract_row(ours: GPT2, theirs: Any, repetitions: int, pairs: int, shared: int, target: float | None) -> Row:
    """The stream at the last token of both texts of each pair, at the input of every block and the output of the last.

    shared: tokens that the two begin with alike; contrast pairs as published differ in the last token alone.
    """
    config, dtype = ours.config, ours.wte.weight.dtype
    ids = torch.randint(config.vocab_size, (2 * pairs, TOKENS), generator=torch.Generator().manual_seed(2))
    ids[1::2, :shared] = ids[0::2, :shared]
    rows = ids.tolist()
    sites = [("pre", i) for i in range(config.n_layer + 1)]
    last = [(TOKENS - 1, TOKENS - 1)] * pairs

    def run_ours() -> list[Tensor]:
        found = pair_streams(ours, list(zip(rows[0::2], rows[1::2], strict=True)), last, sites, batch_size=BATCH)
        return [(x[:, 0] - x[:, 1]).mean(0) for x in found.values()]

    @torch.no_grad()
    def run_theirs() -> list[Tensor]:
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = ids[start : start + BATCH]
            out = theirs(input_ids=batch, attention_mask=torch.ones_like(batch), output_hidden_states=True)
            parts.append(torch.stack([x[:, -1] for x in out.hidden_states]).float())  # (L + 1, B, D)
        found = torch.cat(parts, 1)
        return list((found[:, 0::2] - found[:, 1::2]).mean(1))

    found = [run_ours()[:-1], run_theirs()[:-1]]  # transformers' last hidden state is after the final norm
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))
    if error > (1e-3 if dtype == torch.float32 else 0.1):
        raise RuntimeError(f"the two sides do not compute the same, timing them says nothing: error {error:.1e}")
    times = in_turns(repetitions, run_ours, run_theirs)
    matrices = sum(p.numel() for p in ours.blocks.state_dict().values() if p.ndim == 2)
    kind = f"that differ in the last {TOKENS - shared}" if shared else "with nothing in common"
    return Row(
        f"contrastive extraction, {pairs} pairs of {TOKENS} tokens {kind}, all layers{_packed(ours)}",
        _name(dtype),
        *times,
        about=f"`extract.pair_streams`, which computes once what a pair begins with alike, against GPT2LMHeadModel with "
        f"output_hidden_states, both in batches of {BATCH}, then the mean difference; the limit is the blocks' matrix products "
        "for the tokens that differ, at the fastest rate of a product of their shapes.",
        target=target,
        limit=2 * matrices * pairs * (2 * TOKENS - shared) / gemm_rate(config, dtype),
    )


def sweep_row(ours: GPT2, theirs: Any, repetitions: int, sample: int, target: float | None) -> Row:
    """Every layer and coefficient over some prompts: `sweep` against a forward pass of the batch with a hook for each cell."""
    config, dtype = ours.config, ours.wte.weight.dtype
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(config.vocab_size, (SWEPT, SWEPT_TOKENS), generator=generator)
    v = torch.randn(config.n_embd, generator=generator) / 100
    cells = [(layer, c) for layer in range(config.n_layer) for c in COEFFS]

    def run_ours(
        layers: Sequence[int] = range(config.n_layer), coeffs: Sequence[float] = COEFFS
    ) -> list[dict[str, Any]]:
        return sweep(ours, ids.tolist(), lambda logits, i: logits[:, :2], {"v": v}, layers, coeffs)

    def cell(layer: int, c: float) -> Tensor:
        def steered(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0] + (c * v).to(dtype), *args[1:])

        handle = theirs.transformer.h[layer].register_forward_pre_hook(steered)
        try:
            return theirs(input_ids=ids, logits_to_keep=1).logits[:, -1, :2].float()
        finally:
            handle.remove()

    some = cells[:: len(cells) // sample][:sample]

    def run_theirs() -> list[Tensor]:
        return [cell(*at) for at in some]

    plain = theirs(input_ids=ids, logits_to_keep=1).logits[:, -1, :2].float()
    strongest = [at for at in some if abs(at[1]) == max(map(abs, COEFFS))]  # there steering shows beside rounding
    pairs = []
    for layer, c in strongest:
        pairs.append((torch.tensor([row["score"] for row in run_ours([layer], [c])]), cell(layer, c)))
    error = max(float((a - b).norm() / (b - plain).norm()) for a, b in pairs)
    if error > (1e-3 if dtype == torch.float32 else 0.5):
        raise RuntimeError(f"the two sides do not compute the same, timing them says nothing: error {error:.1e}")
    mine, others = in_turns(repetitions, run_ours, run_theirs)
    matrices = sum(p.numel() for p in ours.blocks[0].state_dict().values() if p.ndim == 2)
    blocks = config.n_layer + sum(config.n_layer - layer for layer, _ in cells)  # without steering, and of the cells
    return Row(
        f"sweep, {config.n_layer} layers x {len(COEFFS)} coefficients x {SWEPT} prompts of {SWEPT_TOKENS} tokens{_packed(ours)}",
        _name(dtype),
        mine,
        [t * len(cells) / len(some) for t in others],
        about=f"`sweep` of the whole grid against transformers' forward pass of the batch with a forward pre-hook for each cell, of which {sample} "
        "cells spread over the grid were run in each repetition (each costs the same) and counted for all; the limit is the matrix products of the blocks above each site.",
        target=target,
        limit=2 * matrices * blocks * SWEPT * SWEPT_TOKENS / gemm_rate(config, dtype),
    )


def linear_row(name: str, outside: int, inside: int, repetitions: int) -> Row:
    """One token through one of a block's matrices, in float32: the strips of `model.Linear` against `F.linear`."""
    size = outside * inside * 4
    layers = [Linear(inside, outside).requires_grad_(False) for _ in range(1 + 2**27 // size)]  # 128 MiB at least
    x = torch.randn(1, 1, inside)

    def strips() -> None:
        for layer in layers:
            layer(x)

    def whole() -> None:
        for layer in layers:
            F.linear(x, layer.weight, layer.bias)

    strips()
    whole()
    return Row(
        f"one token, {name} ({outside} x {inside})",
        "float32",
        *in_turns(repetitions, strips, whole),
        about="`model.Linear`, which multiplies a lone token by strips of the matrix, against `F.linear` (under "
        "transformers), over more matrices than the processor's caches hold; the limit is reading them.",
        work=len(layers) * size / 1e9,
        unit="GB/s",
        limit=read_bandwidth() / 1e9,
    )


def import_row(repetitions: int) -> Row:
    """Seconds that each import takes in a fresh interpreter that has already imported torch."""
    code = "import torch, time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    sides = ("import ministeer", "from transformers import GPT2LMHeadModel")
    found: list[list[float]] = [[], []]
    for repetition in range(repetitions + 1):
        for side, into in zip(sides, found, strict=True):
            out = subprocess.run([sys.executable, "-c", code.format(side)], check=True, capture_output=True, text=True)
            if repetition:  # the first fills the disk's cache
                into.append(float(out.stdout))
    return Row(
        "import, over `import torch`",
        "",
        *found,
        about="`import ministeer` against `from transformers import GPT2LMHeadModel`, each in a fresh interpreter that "
        "has imported torch.",
        at_most=0.15,
    )


# --- limits ----------------------------------------------------------------------------------------------------------


@cache
def read_bandwidth() -> float:
    """Bytes a second at which a tensor far larger than the caches is summed: the fastest of several, measured once a run."""
    x = torch.ones(2**27)  # 512 MiB
    return x.numel() * 4 / min(seconds(x.sum) for _ in range(8))


def gemm_rate(config: GPT2Config, dtype: torch.dtype) -> float:
    """Operations a second of a batch through the widest of a block's matrices, or through a square one: the fastest."""
    d, found = config.n_embd, []
    for rows, inside, outside in ((BATCH * TOKENS, d, 4 * d), (BATCH * TOKENS, 4 * d, d), (2048, 2048, 2048)):
        x, w = torch.randn(rows, inside).to(dtype), torch.randn(outside, inside).to(dtype)
        found += [2 * rows * inside * outside / seconds(lambda x=x, w=w: F.linear(x, w)) for _ in range(8)]
    return max(found)


# --- the table -------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    head = ["job", "dtype", "unit", "ours", "transformers", "times as fast", "target", "limit", "share of limit"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _packed(ours: GPT2) -> str:
    return ", `pack`ed" if isinstance(ours.blocks[0].mlp.c_fc, Packed) else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Side by side with transformers.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="GPT-2 small's sizes, few repetitions, prints only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    load = [os.getloadavg()[0]]
    config = GPT2Config(n_embd=768, n_layer=12, n_head=12) if args.quick else GPT2Config()
    many = 2 if args.quick else 5
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        print(" | ".join(row.cells()), flush=True)

    add(import_row(many))
    d = config.n_embd
    matrices = {"attn.c_attn": (3 * d, d), "attn.c_proj": (d, d), "mlp.c_fc": (4 * d, d), "mlp.c_proj": (d, 4 * d)}
    for name, (outside, inside) in matrices.items():
        add(linear_row(name, outside, inside, 2 * many))
    for dtype, decode_target, extract_target, sweep_target, pairs in (
        (torch.bfloat16, 1.6, 1.6, 4.0, PAIRS // 8 if args.quick else PAIRS),
        (torch.float32, 1.1, None, 2.0, PAIRS // 8),
    ):
        pair = build(config, dtype)
        add(decode_row(*pair, many, decode_target))
        add(extract_row(*pair, (many + 1) // 2, pairs, TOKENS - 1, extract_target))
        if dtype == torch.float32:
            add(extract_row(*pair, (many + 1) // 2, pairs, 0, None))
        if dtype == torch.bfloat16 and supported():
            pack(pair[0])
            add(decode_row(*pair, many, decode_target))
            add(extract_row(*pair, (many + 1) // 2, pairs, TOKENS - 1, extract_target))
        if dtype == torch.bfloat16 or args.quick:  # in float32 not: as it is, all takes 19 minutes on 2 cores
            add(sweep_row(*pair, 1, 8, sweep_target))
        del pair
        gc.collect()
    load.append(os.getloadavg()[0])
    notes = dict.fromkeys(f"- **{row.job.partition(',')[0]}**: {row.about}" for row in rows)
    size, command = ("GPT-2 small", " --quick") if args.quick else ("GPT-2 XL", "")
    text = f"""# Measured side by side

{size}'s sizes, random weights, the same on both sides. {machine()}; torch {torch.__version__}, transformers
{transformers.__version__}; {args.threads} threads; load average {load[0]:.1f} at the start, {load[1]:.1f} at the end;
{date.today()}. Written by `python benchmarks/bench.py{command} --threads {args.threads}` (`make bench`).

{table(rows)}

Medians of repetitions in which the two sides take turns, the slowest and the fastest in brackets. Limits were measured
in the same run; memory was read at {read_bandwidth() / 1e9:.1f} GB/s. `pack`ed: after `ministeer.pack.pack`, whose result is
the same to rounding; transformers is run again beside it.

{chr(10).join(notes)}
"""
    if args.quick:
        print("\n" + text)
    else:
        RESULTS.write_text(text, encoding="utf-8")
        print(f"\nwritten: {RESULTS}")


if __name__ == "__main__":
    main()
