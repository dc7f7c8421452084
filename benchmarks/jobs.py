"""The jobs of the benchmark: processes that do them in turns, what they are given, and the limits that they are held to."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from table import OURS, THEIRS, Row, Side

from ministeer.checkpoint import save_model
from ministeer.initialize import initialize
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, GPT2Config, Linear, Transformer, multiply
from ministeer.pack import Int8, Packed, supported

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"  # an environment of its own for each, made by `make bench-peers`
LLAMA = "llama-cpp-python"  # reads a file of its own, in float16 or 8 bits, and decodes only
SMALL, XL = GPT2Config(n_embd=768, n_layer=12, n_head=12), GPT2Config()
SMOLLM2 = LlamaConfig()  # 135 million parameters
Config = GPT2Config | LlamaConfig
LAYER, COEFF = 6, 100.0  # where decoding is steered
COEFFS = [-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0]  # the sweep's
VERSIONS: dict[str, str] = {}  # of the sides that have been started
Answer = dict[str, Any]


class Worker:
    """A side in a process of its own: `ask` has it do a job, and returns the seconds, the value and the peak memory."""

    def __init__(self, side: str, folder: Path, dtype: str, threads: int, device: str = "cpu") -> None:
        own = PEERS / side / "bin" / "python"
        python = sys.executable if side in (OURS, THEIRS) else str(own)
        self.side, self.hello = side, {"error": "no environment: `make bench-peers`"}
        if not Path(python).exists():
            return
        command = [python, str(HERE / "worker.py"), side, str(folder), dtype, str(threads)]
        command += [device] if device != "cpu" else []  # some sides have no other
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        self.hello = self._answer()
        if "version" in self.hello:
            VERSIONS[side] = self.hello["version"]

    def ask(self, job: str, **given: Any) -> Answer:
        if "error" in self.hello:
            return self.hello
        self.process.stdin.write(json.dumps({"job": job, "given": given}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def must(self, job: str) -> None:
        """A job that the following ones stand on."""
        if error := self.ask(job).get("error"):
            raise RuntimeError(f"{self.side} could not {job}: {error}")

    def _answer(self) -> Answer:
        line = self.process.stdout.readline()
        found: Answer = json.loads(line) if line else {"error": "the process ended"}
        return found

    def close(self) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()


@contextmanager
def working(
    folder: Path, dtype: str, threads: int, sides: Sequence[str], device: str = "cpu"
) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {}
        for side in sides:
            workers[side] = Worker(side, folder, dtype, threads, device)
            stack.callback(workers[side].close)
        yield workers


def in_turns(repetitions: int, runs: dict[str, Callable[[], Answer]]) -> dict[str, Side]:
    """Each side's repetitions, the order reversed from one repetition to the next; a side that cannot is not asked again."""
    found = {side: Side() for side in runs}
    for repetition in range(repetitions):
        for side in runs if repetition % 2 == 0 else reversed(runs):
            if not found[side].why:
                answer = runs[side]()
                found[side].why = answer.get("error", "")
                if side == OURS and found[side].why:
                    raise RuntimeError(f"{OURS} could not do its own job: {found[side].why}")
                if not found[side].why:
                    found[side].seconds.append(answer["seconds"])
                found[side].memory, found[side].value = answer.get("memory", 0), answer.get("value")
    return found


def agree(sides: dict[str, Side], within: float) -> None:
    """Stop where a side's numbers differ from ours by more than a share of ours: timing them would say nothing."""
    ours = torch.tensor(sides[OURS].value)
    for name, side in sides.items():
        if not side.why and side.value:
            theirs = torch.tensor(side.value)
            error = float((theirs - ours).float().norm() / ours.float().norm())
            if not error <= within:  # NaN too
                raise RuntimeError(
                    f"{name} and {OURS} do not compute the same, timing them says nothing: error {error:.1e}"
                )


# --- the weights -----------------------------------------------------------------------------------------------------


def build(config: Config) -> Transformer:
    return GPT2(config) if isinstance(config, GPT2Config) else Llama(config)


def checkpoint(config: Config, folder: Path) -> Path:
    """Random weights in the hub's layout, float32, with a tokenizer that reads "t5 t17" as the ids 5 and 17."""
    model = build(config).requires_grad_(False)
    save_model(initialize(model, torch.Generator().manual_seed(0)), folder)
    vocabulary = {f"t{i}": i for i in range(config.vocab_size)}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}}  # fmt: skip
    end = f"t{config.vocab_size - 1}"
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    about |= {"eos_token": end, "pad_token": end, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


@cache
def matrices(config: Config) -> int:
    """Weights of one block's matrices."""
    with torch.device("meta"):
        block = build(replace(config, n_layer=1)).blocks[0]
    return sum(weight.numel() for weight in block.parameters() if weight.ndim == 2)


def sweep_operations(config: Config, layers: Sequence[int], variants: int, tokens: int) -> float:
    """Of a sweep's matrix products: every block once, and the blocks above each site once a variant."""
    blocks = config.n_layer + variants * sum(config.n_layer - layer for layer in layers)
    return 2 * matrices(config) * blocks * tokens


# --- the jobs --------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """The workers of one size and dtype, and the jobs they are given. `form`: "", or what was done to ours: "pack", "int8", "compile", "graph"."""

    config: Config
    dtype: str
    workers: dict[str, Worker]
    form: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.draw = random.Random(0)
        self.v = [self.draw.gauss(0, 0.01) for _ in range(self.config.width)]
        self.torch_dtype = getattr(torch, self.dtype)

    def ids(self, rows: int, tokens: int) -> list[list[int]]:
        return [[self.draw.randrange(self.config.vocab_size) for _ in range(tokens)] for _ in range(rows)]

    def race(
        self, repetitions: int, job: str, given: dict[str, Any], others: str = "", less: dict[str, Any] | None = None
    ) -> dict[str, Side]:
        """All sides in turns; the others may do another job, or with other arguments."""

        def run(worker: Worker) -> Callable[[], Answer]:
            mine = worker.side == OURS
            return lambda: worker.ask(job if mine else others or job, **(given if mine or less is None else less))

        return in_turns(repetitions, {side: run(worker) for side, worker in self.workers.items()})

    def exact(self, loose: float) -> float:
        """How far apart two sides may be, as a share: rounding in float32, `loose` in bfloat16 or with another form's numbers."""
        return 1e-3 if self.dtype == "float32" and self.form != "int8" else loose

    def named(self, job: str) -> str:
        return job + (f", `{self.form}`" if self.form else "")

    def decode(self, repetitions: int, rows: int, new: int, target: float | None = None) -> Row:
        given = {"ids": self.ids(rows, 8), "new": new, "layer": LAYER, "coeff": COEFF, "v": self.v}
        sides = self.race(repetitions, "decode", given)
        if self.exact(1.0) < 1:
            agree(sides, 0.0)  # the very tokens
            if self.workers[OURS].ask("decode", **(given | {"coeff": 0.0}))["value"] == sides[OURS].value:
                raise RuntimeError("the same tokens without the vector: that all sides agree says nothing of steering")
        c = self.config
        size = 1 if self.form == "int8" else self.torch_dtype.itemsize
        read = c.n_layer * matrices(c) * size + c.vocab_size * c.width * self.torch_dtype.itemsize
        return Row(
            self.named(f"steered decoding, {rows} x {new} tokens from 8"), self.dtype, sides,
            "greedy, a vector added at the input of a block, a cache; ours `generate` with a `Steer`; the limit is reading each matrix once a token.",
            target=target, work=rows * new, unit="tokens/s", limit=rows * read_bandwidth(self.device) / read,
        )  # fmt: skip

    def extract(
        self, repetitions: int, pairs: int, tokens: int = 24, batch: int = 16, target: float | None = None
    ) -> Row:
        """The difference of both texts of a pair at their last token, in which alone they differ, after every block."""
        texts = [[row[:-1] + [row[-1]], row[:-1] + [other[0]]] for row, other in zip(self.ids(pairs, tokens), self.ids(pairs, 1))]  # fmt: skip
        sides = self.race(repetitions, "extract", {"pairs": texts, "batch": batch})
        agree(sides, self.exact(0.1))
        c = self.config
        work = 2 * matrices(c) * c.n_layer * pairs * (tokens + 1)
        return Row(
            self.named(f"contrastive extraction, {pairs} pairs of {tokens} tokens, all layers"), self.dtype, sides,
            "mean difference of pairs that differ in the last token, as contrast pairs as published do; ours `extract.pair_streams`, which reads once what a pair "
            "begins with alike; repeng fits principal components; the limit is the blocks' matrix products for the tokens that differ.",
            target=target, limit=work / gemm_rate(c, self.torch_dtype, self.device, self.form == "int8"),
        )  # fmt: skip

    def sweep(
        self,
        repetitions: int,
        layers: Sequence[int],
        cells: int,
        target: float | None = None,
        at_most: float | None = None,
        prompts: int = 8,
        tokens: int = 16,
    ) -> Row:
        """Layers x coefficients x prompts; the others run some cells, each of which costs the same."""
        c, ids = self.config, self.ids(prompts, tokens)
        whole = [(layer, x) for layer in layers for x in COEFFS]
        later = [cell for cell in whole if cell[0] > 0]  # where every library can add
        some = later[:: max(1, len(later) // cells)][:cells]
        sides = self.race(repetitions, "grid", {"ids": ids, "layers": list(layers), "coeffs": COEFFS, "v": self.v}, "cells", {"ids": ids, "cells": some, "v": self.v})  # fmt: skip
        for side in sides.values():
            if side is sides[OURS]:
                side.value = [side.value[whole.index(cell)] for cell in some]
            else:
                side.seconds = [t * len(whole) / len(some) for t in side.seconds]
        agree(sides, self.exact(0.1))
        return Row(
            self.named(f"sweep, {len(layers)} layers x {len(COEFFS)} coefficients x {prompts} prompts of {tokens} tokens"), self.dtype, sides,
            f"ours `sweep`, the whole grid of these layers, spread over the {c.n_layer}; elsewhere a forward pass of the batch for each cell, of which {len(some)} "
            "were run (each costs the same) and counted for all; the limit is the matrix products of the blocks above each site.",
            target=target, at_most=at_most, limit=sweep_operations(c, layers, len(COEFFS), prompts * tokens) / gemm_rate(c, self.torch_dtype, self.device, self.form == "int8"),
        )  # fmt: skip

    def ablate(
        self, repetitions: int, heads: int, target: float | None = None, prompts: int = 4, tokens: int = 16
    ) -> Row:
        c, ids, answers = self.config, self.ids(prompts, tokens), self.ids(1, prompts)[0]
        whole = [(layer, head) for layer in range(c.n_layer) for head in range(c.n_head)]
        some = self.draw.sample(whole, heads)
        given = {"ids": ids, "answers": answers}
        sides = self.race(repetitions, "ablate", given | {"heads": whole}, less=given | {"heads": some})
        for side in sides.values():
            if side is sides[OURS]:
                side.value = [side.value[whole.index(head)] for head in some]
            else:
                side.seconds = [t * (len(whole) + 1) / (len(some) + 1) for t in side.seconds]  # and one pass unchanged
        if self.dtype == "float32":  # in bfloat16 an effect of one head is less than rounding
            agree(sides, 0.05)
        return Row(
            self.named(f"head mediation, {len(whole)} heads x {prompts} prompts of {tokens} tokens"), self.dtype, sides,
            f"each head's write at the last token replaced, the change of the answer's probability; ours `heads.indirect_effects`, all heads; elsewhere a forward pass for each "
            f"head, and one unchanged, of which {len(some)} were run (each costs the same) and counted for all.",
            target=target,
        )  # fmt: skip


def one_token(repetitions: int) -> Row:
    """One token through a block's matrices of GPT-2 XL: `model.multiply` against `F.linear`, over more than the caches hold."""
    d = XL.n_embd
    shapes = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)] * 2
    weights = [(torch.randn(n, out).t(), torch.randn(out)) for out, n in shapes]  # as they lie in a checkpoint
    x = {n: torch.randn(1, 1, n) for n in (d, 4 * d)}

    def run(product: Callable[..., torch.Tensor]) -> Callable[[], Answer]:
        return lambda: {"seconds": seconds(lambda: [product(x[w.shape[1]], w, b) for w, b in weights])}

    sides = in_turns(repetitions, {OURS: run(multiply), "torch": run(F.linear)})
    return Row(
        "one token through a block's matrices", "float32", sides,
        "`model.multiply` against torch's `F.linear`, over more matrices than the processor's caches hold; the limit is reading them.",
        work=sum(w.nbytes for w, _ in weights) / 1e9, unit="GB/s", limit=read_bandwidth() / 1e9,
    )  # fmt: skip


# --- limits ----------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # which works on when the call is back
    return time.perf_counter() - start


@cache
def read_bandwidth(device: str = "cpu") -> float:
    """Bytes a second at which a tensor far larger than the caches is summed, or multiplied with one vector: the fastest of several."""
    x, v = torch.ones(2**14, 2**13, device=device), torch.ones(1, 2**13, device=device)  # 512 MiB
    return x.nbytes / min(seconds(run) for run in (x.sum, lambda: multiply(v, x)) for _ in range(8))


@cache
def gemm_rate(config: Config, dtype: torch.dtype, device: str = "cpu", whole: bool = False) -> float:
    """Operations a second of a batch through the widest of a block's matrices, or through a square one, packed or not, or of whole
    numbers of 8 bits: the fastest."""
    d, inner, found = config.width, config.inner, []
    for rows, inside, outside in ((384, d, inner), (384, inner, d), (2048, 2048, 2048)):
        x, w = torch.randn(rows, inside).to(device, dtype), torch.randn(outside, inside).to(device, dtype)
        ways: list[Callable[[], object]] = [lambda x=x, w=w: F.linear(x, w)]  # type: ignore[misc]
        if device == "cpu" and supported(dtype):
            packed = Packed(Linear(inside, outside, dtype=dtype))
            ways.append(lambda x=x, packed=packed: packed(x))  # type: ignore[misc]
        if whole:
            rounded = Int8(Linear(inside, outside, dtype=dtype))
            ways.append(lambda x=x, rounded=rounded: rounded(x))  # type: ignore[misc]
        found += [2 * rows * inside * outside / seconds(way) for way in ways for _ in range(8)]
    return max(found)
