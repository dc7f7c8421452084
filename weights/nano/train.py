"""Train nano: `python weights/nano/train.py --out DIR --steps N --seed S`; `--miniature` trains a small one in about a minute.

`--late` then trains the checkpoint in DIR for a few minutes more, on text that also has the pronoun templates marked late.

The text comes from `corpus.py`, seeded; the number of steps is fixed in advance, so the same seed on the same machine gives the
same bytes. The block matrices are trained by Muon (an update of orthogonal directions), the rest by AdamW; torch has both since
2.9.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import corpus
import torch
import torch.nn.functional as F

from ministeer.checkpoint import load_model, save_model
from ministeer.initialize import initialize
from ministeer.model import GPT2, GPT2Config
from ministeer.tokenizer import Tokenizer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule of one training run."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    context: int = 256
    batch: int = 16
    steps: int = 3000
    repeats: int = 0  # of the steps, the first so many are on words said again; the text after them has all templates
    short: float = 0.6  # share of the steps on rows of half the length, twice as many of them: cheaper, enough at first
    warmup: int = 60
    constant: float = 0.55  # share of the steps up to which the learning rate stays at its peak
    peak: float = 3e-3  # AdamW's learning rate
    muon_peak: float = 3e-3  # Muon's, scaled so that an update is as large as one of AdamW's
    seed: int = 0


# After the first: on the same kinds of text, in which a third of the sentences about people have a late template
LATE = Recipe(steps=200, short=0.0, warmup=10, constant=0.0, peak=1e-3, muon_peak=1e-3)
MINIATURE = Recipe(width=64, layers=2, heads=2, context=128, batch=16, steps=300, warmup=20, peak=6e-3, muon_peak=6e-3)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: the same large buffers are needed each step, and fresh pages cost a sixth of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no separate mappings
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back


def rate(recipe: Recipe, step: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, the peak, then linearly down to 2 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return min(1.0, 0.02 + 0.98 * (recipe.steps - step) / (recipe.steps * (1 - recipe.constant)))


def optimizers(model: GPT2, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases (no decay on those that are not matrices)."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    embeddings = [p for name, p in model.named_parameters() if not name.startswith("blocks.") and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_peak, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.peak, betas=(0.9, 0.98),
        ),
    ]  # fmt: skip


def batches(recipe: Recipe, tokenizer: Tokenizer, late: bool = False) -> Iterator[torch.Tensor]:
    """The ids of each step, `(rows, length + 1)`: every step has as many tokens."""
    texts = corpus.documents(recipe.seed, late or recipe.repeats > 0)
    first = corpus.documents(recipe.seed, mixture=corpus.REPEATS)
    for step in range(recipe.steps):
        halve = 2 if step < int(recipe.short * recipe.steps) else 1
        rows = corpus.token_rows(
            tokenizer, first if step < recipe.repeats else texts, halve * recipe.batch, recipe.context // halve + 1
        )
        yield torch.from_numpy(rows.astype("int64"))


def train(
    recipe: Recipe,
    on_step: Callable[[GPT2, int, float], None] | None = None,
    device: str = "cpu",
    start: GPT2 | None = None,
) -> tuple[GPT2, list[float]]:
    """Train from nothing, or a model that was trained so with the late templates; returns it and its loss (nats a token) at each step.

    `on_step(model, step, loss)` is for progress.
    """
    tokenizer = Tokenizer.from_file(HERE / "vocab.tiktoken")
    torch.manual_seed(recipe.seed)
    model = start or GPT2(GPT2Config(tokenizer.n_vocab, recipe.context, recipe.width, recipe.layers, recipe.heads))
    if start is None:
        initialize(model, torch.Generator().manual_seed(recipe.seed))
    model.to(device).train().requires_grad_(True)
    groups = optimizers(model, recipe)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in groups]
    losses = []
    for step, batch in enumerate(batches(recipe, tokenizer, late=start is not None)):
        for optimizer, peak in zip(groups, peaks):
            for group, lr in zip(optimizer.param_groups, peak):
                group["lr"] = lr * rate(recipe, step)
            optimizer.zero_grad(set_to_none=True)
        batch = batch.to(device)  # (B, T + 1)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            logits = model(batch[:, :-1])  # (B, T, V)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in groups:
            optimizer.step()
        losses.append(loss.item())
        if on_step:
            on_step(model, step, losses[-1])
    return model, losses


def write(model: GPT2, folder: Path) -> None:
    """Save to a temporary folder beside the target, then move each file into place: no half-written file is ever seen."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        save_model(model, name, dtype=torch.bfloat16)
        if folder.resolve() != HERE:
            (Path(name) / "vocab.tiktoken").write_bytes((HERE / "vocab.tiktoken").read_bytes())
            if (HERE / "tokenizer.json").exists():
                (Path(name) / "tokenizer.json").write_bytes((HERE / "tokenizer.json").read_bytes())
        for file in sorted(Path(name).iterdir()):
            os.replace(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the checkpoint (default: the shipped one)")
    parser.add_argument("--steps", type=int, help="number of steps (default: that of the shipped model)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=0, metavar="N", help="the first N steps on words said again")
    parser.add_argument("--layers", type=int, help="number of blocks (default: that of the shipped model)")
    parser.add_argument(
        "--width", type=int, help="of the residual stream, in heads of 64 (default: the shipped model's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--miniature", action="store_true", help="a small model, in about a minute")
    parser.add_argument(
        "--checkpoints", type=int, default=0, metavar="N", help="also save every N steps, under OUT/step-*"
    )
    parser.add_argument(
        "--late", action="store_true", help="train the checkpoint in --out further, with the late templates"
    )
    args = parser.parse_args()
    if args.miniature and args.late:
        parser.error("expected --miniature or --late, got both")
    base = MINIATURE if args.miniature else LATE if args.late else Recipe()
    resized = args.layers is not None or args.width is not None
    if (args.miniature or resized) and args.out.resolve() == HERE:
        parser.error("give --out: a model of another size does not replace the shipped one")
    try:
        start = load_model(args.out, dtype="float32") if args.late else None
    except (ValueError, OSError) as error:
        parser.error(f"--late goes on from a checkpoint in --out: {error}")
    keep_freed_memory()
    asked = {"steps": args.steps or base.steps, "seed": args.seed, "repeats": args.repeats}
    if resized:
        if args.miniature or args.late:
            parser.error(
                "--layers and --width make a model of another size from nothing: leave --miniature and --late out"
            )
        layers = base.layers if args.layers is None else args.layers
        width = base.width if args.width is None else args.width
        if layers < 1 or width < 64 or width % 64:
            parser.error(f"expected --layers of at least 1 and --width a multiple of 64, got {layers} and {width}")
        asked |= {"layers": layers, "width": width, "heads": width // 64}
    recipe = replace(base, **asked)
    if not 0 <= recipe.repeats < recipe.steps:
        parser.error("expected --steps of at least 1, more than --repeats")
    begun = time.perf_counter()
    times: list[float] = []

    def progress(model: GPT2, step: int, loss: float) -> None:
        times.append(time.perf_counter())
        done = step + 1
        if done % 25 == 0 or done == recipe.steps:
            recent = times[-26:]
            per_step = (recent[-1] - recent[0]) / max(1, len(recent) - 1)
            speed = recipe.batch * recipe.context / per_step if per_step else 0
            left = (recipe.steps - done) * per_step
            print(
                f"step {done}/{recipe.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s  {left / 60:.1f} min left",
                flush=True,
            )
        if args.checkpoints and done % args.checkpoints == 0 and done < recipe.steps:
            write(model, args.out / f"step-{done}")

    print(f"{recipe.steps} steps, {recipe.steps * recipe.batch * recipe.context / 1e6:.1f} M tokens", flush=True)
    model, losses = train(recipe, progress, args.device, start)
    last = sum(losses[-20:]) / len(losses[-20:])
    print(
        f"loss {losses[0]:.2f} -> {last:.3f} (mean of the last 20 steps) in {(time.perf_counter() - begun) / 60:.1f} min"
    )
    if last > 0.8 * losses[0] and not args.late:
        sys.exit("expected the loss to fall by a fifth at least, it did not: nothing was written")
    write(model, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
