"""Side by side with other libraries, on the same random weights: import, loading, decoding, extraction, sweeps, head mediation.

    python benchmarks/bench.py            writes RESULTS.md beside this file
    python benchmarks/bench.py --smollm2    writes RESULTS-SMOLLM2.md: SmolLM2-135M's sizes, a Llama, against transformers
    (where the processor does not multiply in bfloat16, pages of their own, RESULTS-AVX2.md, without GPT-2 XL)
    python benchmarks/bench.py --quick    GPT-2 small's sizes only, little work, prints only
    python benchmarks/bench.py --device cuda    writes RESULTS-GPU.md: GPT-2 XL's sizes on a GPU, and how long nano trains there

Each side runs in a process of its own (worker.py) and they take turns, so that whatever else the machine does falls on
all; medians are reported, the slowest and the fastest in brackets. A limit is what the hardware was measured to do in the same
run: reading memory, or multiplying matrices. Nothing here passes or fails: a missed target is a word in the table.

GPT-2 XL is for the headline, against transformers; GPT-2 small for every library that `make bench-peers` has installed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

import growth
import torch
from jobs import (
    COEFFS,
    LLAMA,
    PEERS,
    SMALL,
    SMOLLM2,
    VERSIONS,
    XL,
    Answer,
    Bench,
    Worker,
    checkpoint,
    one_token,
    read_bandwidth,
    seconds,
    working,
)
from table import OURS, THEIRS, Row, Side, machine, side_by_side, table
from torch.profiler import ProfilerActivity, profile

import ministeer
from ministeer import metrics
from ministeer.checkpoint import known_device, load_model
from ministeer.files import write_text
from ministeer.lab import published
from ministeer.model import GPT2Config
from ministeer.pack import int8, pack, supported
from ministeer.sweep import sweep

HERE = Path(__file__).parent
PRODUCTS = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm")  # of matrices


def loading(folder: Path, dtype: str, threads: int, repetitions: int, sides: Sequence[str]) -> list[Row]:
    """Import and loading, in fresh processes that have imported torch; one token is run, for what a library puts off till then."""
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    width = about.get("n_embd") or about["hidden_size"]
    found: dict[str, list[Answer]] = {side: [] for side in sides}
    for repetition in range(repetitions):
        for side in sides if repetition % 2 == 0 else reversed(sides):
            with working(folder, dtype, threads, [side]) as workers:
                hello = workers[side].hello
                first = workers[side].ask("decode", ids=[[1, 2]], new=1, layer=1, coeff=0.0, v=[0.0] * width)
                found[side].append(hello | first | {"loaded": hello.get("loaded", 0.0) + first.get("seconds", 0.0)})
    rows = []
    for key, job, about in (
        ("imported", "import, over `import torch`", "in a fresh process that has imported torch."),
        (
            "loaded",
            "load, and run one token",
            "from the same float32 file, in the disk's cache; the peak is over that of the imports.",
        ),
    ):
        timed = {
            side: Side([a.get(key, 0.0) for a in answers], answers[-1].get("memory", 0) if key == "loaded" else 0, answers[-1].get("error", ""), answers[-1].get("version"))
            for side, answers in found.items()
        }  # fmt: skip
        rows.append(
            Row(
                job,
                dtype,
                timed,
                about,
                target=1.0 if key == "loaded" else None,
                at_most=0.15 if key == "imported" else None,
            )
        )
    return rows


def rounding() -> str:
    """What 16 and 8 bits do to a real language model, SmolLM2-135M-Instruct, against float32, on two passages."""
    name = "smollm2-135m-instruct"
    exact, tokenizer = ministeer.load(name)
    texts = [torch.tensor([tokenizer.prompt(passage)]) for passage in published.texts()]
    plain, found = [exact(ids)[0] for ids in texts], []
    forms = [("int8 of float32", "float32", True)]
    if supported():
        forms = [("bfloat16", "bfloat16", False), *forms, ("int8 of bfloat16", "bfloat16", True)]
    for form, dtype, rounded in forms:
        model = ministeer.load_model(name, dtype=dtype)
        model = int8(model) if rounded else model
        pairs = [(model(ids)[0].float(), there) for ids, there in zip(texts, plain, strict=True)]
        kl = torch.cat([metrics.kl(*pair) for pair in pairs]).mean()
        same = torch.cat([here.argmax(-1) == there.argmax(-1) for here, there in pairs]).float().mean()
        found.append(f"{form}: KL {kl:.1e} nats, the likeliest token the same at {same:.1%} of positions")
    return "; ".join(found) + f" ({sum(ids.numel() for ids in texts)} positions)."


# --- the run and the tables ------------------------------------------------------------------------------------------


def headline(folder: Path, threads: int, add: Callable[[Row], None], llama: bool) -> None:
    """GPT-2 XL's sizes, against transformers, and in decoding against llama.cpp."""
    sides = [OURS, THEIRS]
    add(one_token(5))
    for dtype, layers in (("bfloat16", range(3, XL.n_layer, 6)), ("float32", range(8, XL.n_layer, 16))):
        bf16 = dtype == "bfloat16"
        for row in loading(folder, dtype, threads, 2, sides)[0 if bf16 else 1 :]:
            add(row)
        with working(folder, dtype, threads, sides) as workers:
            bench = Bench(XL, dtype, workers)
            bench.decode(1, 1, 2)  # warm
            add(bench.decode(2, 1, 32, target=None if bf16 and supported() else 1.1))
            if bf16:
                add(bench.extract(1, 16, target=2.0))
            if not bf16 or supported():
                workers[OURS].must("pack")
                bench.form = "pack"
            with llama_file(folder, XL, "float16", threads, bf16 and llama) as another:
                workers |= another
                add(bench.decode(2, 1, 32, target=2.2 if bf16 else None))
                for side in another:
                    del workers[side]
            add(bench.decode(1, 16, 16))
            add(bench.sweep(1, layers, 8 if bf16 else 4, target=4.0 if bf16 else 2.0))
            if bf16:
                add(bench.extract(1, 16, target=2.0))
                add(bench.ablate(1, 6, target=20.0, prompts=2))
        if bf16:
            with (
                working(folder, dtype, threads, sides) as workers,
                llama_file(folder, XL, "q8_0", threads, llama) as another,
            ):
                workers[OURS].must("int8")
                bench = Bench(XL, dtype, workers | another, "int8")
                bench.decode(1, 1, 2)
                add(bench.decode(2, 1, 32, target=3.0))
                for side in another:  # one text at a time
                    del bench.workers[side]
                add(bench.decode(1, 16, 16, target=3.0))
                add(bench.sweep(1, layers, 8, target=6.0))


def modern(folder: Path, threads: int, repetitions: int, add: Callable[[Row], None]) -> None:
    """SmolLM2-135M's sizes, against transformers: the overhead of an operation counts, as the matrices are small."""
    for dtype in ("float32", "bfloat16") if supported() else ("float32",):
        for row in loading(folder, dtype, threads, repetitions + 1, [OURS, THEIRS])[1:]:
            add(row)
        with working(folder, dtype, threads, [OURS, THEIRS]) as workers:
            bench = Bench(SMOLLM2, dtype, workers)
            for form in ("", "pack"):
                if form:
                    workers[OURS].must(form)
                    bench.form = form
                bench.decode(1, 1, 4)  # warm
                add(bench.decode(2 * repetitions, 1, 64, target=1.3))
            add(bench.extract(repetitions, 64, target=2.0))
            add(bench.sweep(repetitions, range(3, SMOLLM2.n_layer, 6), 8, target=3.0))
            add(bench.ablate(repetitions, 8, prompts=2))
    with working(folder, dtype, threads, [OURS, THEIRS]) as workers:
        workers[OURS].must("int8")
        bench = Bench(SMOLLM2, dtype, workers, "int8")
        bench.decode(1, 1, 4)  # warm
        add(bench.decode(2 * repetitions, 1, 64))
        add(bench.sweep(repetitions, range(3, SMOLLM2.n_layer, 6), 8))


def over_products(folder: Path, dtype: str) -> float:
    """How many times as long a sweep, that of the table, takes as the products of its own matrices, by torch's profiler."""
    model, draw = pack(load_model(folder, dtype=dtype)), random.Random(0)
    prompts = [[draw.randrange(SMOLLM2.vocab_size) for _ in range(16)] for _ in range(8)]
    v, layers = torch.randn(SMOLLM2.width), range(3, SMOLLM2.n_layer, 6)

    def run() -> object:
        return sweep(model, prompts, lambda logits, i: logits[:, :2], {"v": v}, layers, COEFFS)

    run()
    whole = median(seconds(run) for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    products = sum(op.self_cpu_time_total for op in seen.key_averages() if op.key in PRODUCTS) / 1e6
    return whole / products


def forms(folder: Path, threads: int, repetitions: int, add: Callable[[Row], None], llama: bool) -> None:
    """GPT-2 small's sizes, in the dtype that suits the processor: what can be done to our matrices on a CPU."""
    dtype = "bfloat16" if supported() else "float32"
    for form in ("", "pack", "int8", "compile"):
        with (
            working(folder, dtype, threads, [OURS, THEIRS]) as workers,
            llama_file(folder, SMALL, "q8_0", threads, llama and form == "int8") as another,
        ):
            if form:
                workers[OURS].must(form)
            bench = Bench(SMALL, dtype, workers | another, form)
            bench.decode(1, 1, 4)  # warm, and compiled
            add(bench.decode(repetitions, 1, 32))
            for side in another:  # one text at a time
                del bench.workers[side]
            if form in ("pack", "int8"):
                add(bench.decode(repetitions, 16, 16))
                add(bench.sweep(repetitions, range(SMALL.n_layer), 4))


@contextmanager
def llama_file(folder: Path, config: GPT2Config, kind: str, threads: int, wanted: bool) -> Iterator[dict[str, Worker]]:
    """llama.cpp with the checkpoint in a file of its own form, which is gone afterwards; nothing where it is not wanted."""
    if not wanted:
        yield {}
        return
    import gguf_file

    path = gguf_file.write(folder, config, kind)
    with working(folder, kind, threads, [LLAMA]) as workers:
        yield workers
    path.unlink()


def everyone(folder: Path, threads: int, repetitions: int, add: Callable[[Row], None], peers: Sequence[str]) -> None:
    """GPT-2 small's sizes, float32, every library."""
    sides = [OURS, THEIRS, *(peer for peer in peers if peer != LLAMA)]
    for row in loading(folder, "float32", threads, 1, sides):
        add(row)
    with (
        working(folder, "float32", threads, sides) as workers,
        llama_file(folder, SMALL, "float16", threads, LLAMA in peers) as another,
    ):
        bench = Bench(SMALL, "float32", workers | another)
        bench.decode(1, 1, 2)  # warm
        add(bench.decode(repetitions, 1, 32))
        add(bench.decode(repetitions, 16, 16))
        add(bench.extract(repetitions, 32))
        add(bench.sweep(repetitions, range(SMALL.n_layer), 4))
        add(bench.ablate(repetitions, 8))


def on_a_gpu(config: GPT2Config, folder: Path, threads: int, device: str, add: Callable[[Row], None]) -> None:
    """bfloat16, against transformers; what is asked of it there is in absolute figures."""
    with working(folder, "bfloat16", threads, [OURS, THEIRS], device) as workers:
        bench = Bench(config, "bfloat16", workers, device=device)

        def decoding() -> None:
            bench.decode(1, 1, 8)  # warm
            for rows in (1, 16):
                add(bench.decode(3, rows, 64))

        decoding()
        add(bench.extract(3, 64))
        bench.sweep(1, [1], 2)  # warm
        add(bench.sweep(3, range(config.n_layer), 16, at_most=1.0))
        add(bench.ablate(1, min(50, config.n_layer * config.n_head)))
        if not device.startswith("cpu"):
            workers[OURS].must("graph")
            bench.form = "graph"
            decoding()


def adding(rows: list[Row], beside: Sequence[str] = ()) -> Callable[[Row], None]:
    """What puts a row behind the others and prints it: one line for each other side, or one with all of `beside`."""

    def add(row: Row) -> None:
        rows.append(row)
        for cells in [row.beside(beside)] if beside else row.against():
            print(" | ".join(cells), flush=True)

    return add


def gpu_results(threads: int, device: str) -> str:
    """The page of a run on a GPU."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        on_a_gpu(XL, checkpoint(XL, Path(name) / "xl"), threads, device, adding(rows))
        trainer = [sys.executable, str(HERE.parent / "weights" / "nano" / "train.py"), "--device", device]
        trained = seconds(lambda: subprocess.run([*trainer, "--out", str(Path(name) / "nano")], check=True))
    return f"""# Measured on a GPU

{torch.cuda.get_device_name(device)}, {machine()}; torch {torch.__version__}; {date.today()}. Written by `python benchmarks/bench.py --device {device}` (`make bench-gpu`).
Random weights, the same on both sides, from one file; each side in a process of its own, in turns.

{side_by_side(rows)}

Medians, the slowest and the fastest in brackets. Limits were measured in the same run; memory was read at {read_bandwidth(device) / 1e9:.0f} GB/s. Decoding one
text is asked to reach 60 % of its limit. nano was trained in {trained:.0f} s (120 are asked).
"""


BF16_MISSED = """**Where a target is missed.** All of it in bfloat16. Decoding: a token passes 30 blocks of about a hundred operations each. Their seven
products take most of its time, and matrices of .2 to 1.8 MB are too small to be read at the memory's rate: what a call costs
counts, which is why the share of the limit is a third. Unpacked, torch has no quicker product for one token (a vector's product,
small ones in a batch and turned matrices were tried: all slower). Extraction and sweep: the products themselves run at the limit on
both sides and are three quarters of the time, so what remains to be gained is norms, turns and attention; fused activations, joined
matrices and other sizes of batch were tried and gain nothing. Loading: the float32 file is rounded and looked through for NaN; what
is left is first touching the new memory.

**On another machine**, an EPYC of family 25 whose memory was read at 32.4 GB/s, the same command gave these ratios on 2026-11-26, row by row: in
float32 1.28, 1.58, 1.56, 2.14, 3.74 and 33.0; in bfloat16 0.76, 1.14, 1.28, 1.79, 2.61 and 16.6.
"""


def smollm2_results(threads: int) -> str:
    """The page of a run at SmolLM2-135M's sizes."""
    rows: list[Row] = []
    begun, load = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(SMOLLM2, Path(name) / "smollm2")
        modern(folder, threads, 2, adding(rows))
        over = {
            dtype: over_products(folder, dtype) for dtype in ("float32", "bfloat16") if supported(getattr(torch, dtype))
        }
    return f"""# Measured on a Llama's sizes, SmolLM2-135M's{lacking()}

{machine()}; torch {torch.__version__}; {threads} threads; load average {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {date.today()},
{(time.perf_counter() - begun) / 60:.0f} minutes. Written by `python benchmarks/bench.py --smollm2 --threads {threads}` (`make bench` writes it too). Random weights, the same on both
sides, from one file; each side in a process of its own, in turns.

{side_by_side(rows)}

Medians, the slowest and the fastest in brackets; what each job is: [RESULTS.md](RESULTS.md). Limits were measured in the same run; memory was read at
{read_bandwidth() / 1e9:.1f} GB/s.

What rounding does to SmolLM2-135M-Instruct itself, against its float32: {rounding()}

A sweep takes {" and ".join(f"{times:.2f} times as long in {dtype}" for dtype, times in over.items())} as the products of its own matrices, activations at their end
included (1.3 asked). Its limit in the table is stricter: these products at the rate of the widest.

{BF16_MISSED if supported() else ""}"""


def of_this_kind(grown: str) -> str:
    """What was found on processors that multiply in bfloat16."""
    return f"""## How a sweep grows

{grown}

![Seconds of a sweep against its operations, as prompts, coefficients, layers, the model and processes grow](growth.png)

GPT-2 small but in "model" (2 prompts, 4 coefficients, every fourth layer), bfloat16, packed, {growth.PROMPTS} prompts of {growth.TOKENS} tokens, {growth.COEFFS} coefficients, all layers where none of them is what grows.
The line is through the largest point, time in proportion to operations. Small grids and models lie above it: a batch of few tokens reads as many weights
as a large one, the fingerprint of the weights is taken once a sweep, and narrow matrices are multiplied at a lower rate. Processes have one thread each.

## Where a target is missed

- **load**: in float32 both map the file and copy nothing. In bfloat16 both write a rounded copy. Ours is also transposed, which makes
  a token cheaper (the rows without `pack`), and the file is mapped anew for each matrix, so that its pages leave memory: our peak is the
  model, theirs the model and the file. In trials that no command here repeats, where
  ours took 1.65 s: 1.5 untransposed, 1.35 with one mapping, 1.1 with neither and
  no NaN check; transformers 0.9 to 1.4.
- **decode**: nine tenths of a token's time are the blocks' matrices and the unembedding; the rest is 48 blocks' small operations. `pack` reads the
  matrices as fast as oneDNN does: on an AMD EPYC of family 26 about as fast as llama.cpp's kernel for one token, on an older one half as fast.
  The ratio moves from run to run (2.0 and 2.8 within two hours on the one, 1.7 to 2.2 on the other), as one process runs up to a third faster
  than the next throughout, depending on the memory bandwidth its neighbours leave and on where its memory lies. Tried: other numbers of rows for a lone token (four are quickest), the same strips and parts as in
  float32 (slower in bfloat16, and they round each part), torch.compile of the product (no faster than oneDNN), and huge pages
  (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`: a fifth faster in some runs, nothing in others, and loading takes twice as long).
- **sweep**: over all layers a sweep runs half of a loop's operations, so it is at most twice as fast as a loop that multiplies at its rate. Any
  more is the loop's loss: on a machine where transformers' matrices are multiplied slowly, four times and over; elsewhere less. The share
  of the limit says how much there is left to gain; nine tenths of the time are matrix products.

- **int8**: of a token's time two thirds are products of whole numbers, which read the matrices at the rate that oneDNN has for one token; the rest is
  48 blocks' small operations. Of a sweep's time three fifths are the products, at twice bfloat16's rate;
  turning and rounding the tokens is a tenth, GELU another, and norms and attention cost what they cost `pack`. Tried, with no
  command here to repeat it, on SmolLM2: one scale for all tokens (KL .97 nats), one for each token, unturned (.033), the same with the first token exact (.024),
  smoothed by the norms' weights (.048), turned in blocks of 32 (.007), of 64, as it is (.005), and of 512 (.004). A second product for what
  rounding took from the tokens costs batches what it gains; signed tokens have no quick product without VNNI for signed numbers.
  Of a step of 16 texts the products are half of the time (torch's profiler, 8 of XL's blocks): for so few tokens oneDNN does .7e12 operations a
  second, which takes longer than reading the matrices, and the other half is a hundred small operations a block: attention, copies of
  keys and values, GELU, the rounding of tokens."""


WITHOUT_BF16 = """## What to take on such a processor

It has neither products in bfloat16 nor VNNI, as many laptops. Many tokens in bfloat16 go through plain loops of torch's, ours and transformers'
alike, so take float32: as it is for one text, whose tokens oneDNN's order makes slower, and `pack` for sweeps and batches. `int8` takes half of
the memory and sweeps GPT-2's wide matrices faster, a narrow Llama's more slowly; its tokens are rounded to 7 bits, as oneDNN adds pairs of products
in 16 bits here. One text gains nothing from it: the unembedding stays exact, and around each product stand small operations that turn and
round the token."""


def lacking() -> str:
    """What the title of a page adds."""
    return "" if supported() else ", without bfloat16"


def page(name: str) -> Path:
    """Where a table goes: a processor that does not multiply in bfloat16 has pages of its own."""
    return HERE / f"{name}{'' if supported() else f'-{torch.backends.cpu.get_cpu_capability()}'}.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="GPT-2 small's sizes only, once, prints only")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M's sizes only; writes RESULTS-SMOLLM2.md")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    args = parser.parse_args()
    try:
        known_device(args.device)
    except ValueError as error:
        sys.exit(f"bench.py: {error}")
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.device != "cpu":
        write_text(HERE / "RESULTS-GPU.md", gpu_results(args.threads, args.device))
        return
    if args.smollm2:
        write_text(page("RESULTS-SMOLLM2"), smollm2_results(args.threads))
        return
    begun, load = time.perf_counter(), [os.getloadavg()[0]]
    peers = sorted(path.name for path in PEERS.iterdir()) if PEERS.exists() else []
    formed: list[Row] = []
    large: list[Row] = []
    small: list[Row] = []
    everybody = [OURS, THEIRS, *peers]
    with tempfile.TemporaryDirectory() as name:
        repetitions = 1 if args.quick else 2
        everyone(checkpoint(SMALL, Path(name) / "small"), args.threads, repetitions, adding(small, everybody), peers)
        forms(Path(name) / "small", args.threads, repetitions, adding(formed), LLAMA in peers)
        if not args.quick and supported():
            headline(checkpoint(XL, Path(name) / "xl"), args.threads, adding(large), LLAMA in peers)
    if args.quick:
        return
    more = of_this_kind(growth.section(HERE / "growth.png")) if supported() else WITHOUT_BF16
    load.append(os.getloadavg()[0])
    versions = ", ".join(f"{side} {version}" for side, version in VERSIONS.items())
    notes = dict.fromkeys(f"- **{row.job.partition(',')[0]}**: {row.about}" for row in [*large, *small])
    others = ", ".join(f"[{p.name}]({p.name})" for p in sorted(HERE.glob("RESULTS*.md")) if p != page("RESULTS"))
    text = f"""# Measured side by side{lacking()}

{machine()}; torch {torch.__version__}; {args.threads} threads; load average {load[0]:.1f} at the start, {load[1]:.1f} at the end;
{date.today()}, {(time.perf_counter() - begun) / 60:.0f} minutes. Written by `python benchmarks/bench.py --threads {args.threads}` (`make bench`). Random weights, the same on all
sides, from one file; each side in a process of its own, in turns.
Other pages: {others}.

## GPT-2 XL's sizes

{side_by_side(large) if large else "Not run on this kind of processor, for which bfloat16 is no choice."}

Medians, the slowest and the fastest in brackets. Limits were measured in the same run; memory was read at {read_bandwidth() / 1e9:.1f} GB/s.
`pack`: after `ministeer.pack.pack`, whose result is the same to rounding; `int8`: after `ministeer.pack.int8`, in which the matrices and what they multiply are rounded.
What rounding does to SmolLM2-135M-Instruct, against its float32: {rounding()}
Peak: the most memory of each side's process so far, over that of its imports. In float32 the weights are the mapped file, on both sides; it is the disk's
cache, which the system takes back when memory is short, and after `pack` it is counted beside the packed model.

## GPT-2 small's sizes, float32, every library (llama.cpp: a float16 file)

{table(["job", *everybody], [row.beside(everybody) for row in small])}

Medians of two (import and loading: one); "times": theirs over ours. Versions: {versions}.
Not run: steerkit 0.3.0, which loads the models of TransformerLens 3's list by their names on the hub, and saklas 5.3.0, which steers a chat model
to a point of a subspace that it fits to the model's own answers, with a gain of its own, and adds no given vector at a given layer.

## GPT-2 small's sizes, our forms

{side_by_side(formed)}

{more}

## On a GPU

Not run here, as none was at hand: `make bench-gpu`.

## What each job is

{chr(10).join(notes)}
"""
    write_text(page("RESULTS"), text)
    print(f"\nwritten: {page('RESULTS')}")


if __name__ == "__main__":
    main()
