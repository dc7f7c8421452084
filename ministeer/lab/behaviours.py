"""Public behaviours: the vector of one, read from what people say who behave so and who do not, and how far it moves the odds of such statements.

A statement is scored whole, as the model's own words: after "Tell me something about yourself." in a model's chat template, else at the
beginning of a text. Doses are tenths of the stream's norm over the statements' tokens, added at every token, the prompt's too.
Letters: N pairs of statements, S statements, V vectors, L layers, D width.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ministeer import extract, metrics
from ministeer.generate import prefill
from ministeer.lab import data, persona
from ministeer.lab.experiment import Experiment, command_line
from ministeer.lab.protocol import tenth_of
from ministeer.metrics import Array
from ministeer.model import Site, Transformer, check_stream, expect
from ministeer.pairs import Read
from ministeer.prompts import pad
from ministeer.provenance import Provenance
from ministeer.receipt import Receipt
from ministeer.steer import Steer, Where
from ministeer.sweep import sweep
from ministeer.tokenizer import Tokenizer
from ministeer.variants import begun
from ministeer.vectors import SteeringVector

Row = dict[str, Any]
Pair = Sequence[str]  # a statement that matches the behaviour, and one that does not
ASKED = "Tell me something about yourself."
TRAINING, HELD_OUT = 60, 30  # pairs of a behaviour
TRIED = 4  # of the training pairs, one in so many is not read but tried, for the choice of a layer
DEPTHS = (0.3, 0.5, 0.7, 0.9)  # of the model, where a vector is added
RANDOM = {"covariance": 5, "isotropic": 1}  # of each kind, at the chosen layer
ENDS = (-1.0, 1.0)
ROUNDING = 1e-3  # nats: a slope nearer to 0 is no movement
GROUP = 20  # statements of about one length that are run together, as padding costs what tokens do


def check_words(tokenizer: Tokenizer) -> None:
    """Raise `ValueError` for a vocabulary that cannot say such statements but letter by letter."""
    expect(
        data.wide(tokenizer), "a model that can say any English sentence",
        "one with a small vocabulary of its own, which would have to spell them",
        "take one with an open vocabulary: make atlas MODEL=smollm2-135m-instruct",
    )  # fmt: skip


def layers(model: Transformer) -> list[int]:
    """Those at `DEPTHS` of the model."""
    return list(dict.fromkeys(round(share * model.config.n_layer) for share in DEPTHS))


def split(
    tokenizer: Tokenizer,
    name: str,
    matching: Sequence[str],
    others: Sequence[str],
    seed: int = 0,
    most: int | None = None,
) -> tuple[list[list[str]], list[list[str]], int]:
    """Training pairs, `TRAINING` of them or as many as there are up to `most`, held-out pairs, and how many statements were dropped.

    Dropped are statements of one token, those that stand on both sides, and of those that are the same but for case, spaces and full
    stops all but the first: what is held out was then not read. Which statements, and in which pairs, the behaviour's name and the seed decide.
    Raises `ValueError` where too few are left.
    """
    texts: list[dict[str, str]] = [{}, {}]
    for side, some in zip(texts, (matching, others), strict=True):
        for text in some:
            if len(tokenizer.encode(text)) > 1:
                side.setdefault(re.sub(r"\W+", " ", text).strip().casefold(), text)
    both = texts[0].keys() & texts[1].keys()
    kept = [[text for key, text in side.items() if key not in both] for side in texts]
    dropped = len(matching) + len(others) - sum(map(len, kept))
    wanted = TRAINING + HELD_OUT
    expect(
        min(map(len, kept)) >= wanted, f"{wanted} different statements of two tokens or more of each kind in the set {name!r}",
        f"{len(kept[0])} that match and {len(kept[1])} that do not, after {dropped} were dropped", "is the file cut off?",
    )  # fmt: skip
    training = TRAINING if most is None else min(most, min(map(len, kept)) - HELD_OUT)
    draw = random.Random(f"{name} {seed}")
    pairs = [list(pair) for pair in zip(*(draw.sample(side, training + HELD_OUT) for side in kept), strict=True)]
    return pairs[:training], pairs[training:], dropped


def asked(
    names: Sequence[str], lab: Experiment, most: int | None = None
) -> dict[str, tuple[list[list[str]], list[list[str]], int]]:
    """`split` of these sets, downloaded, or of the folder that `--data` names; where they cannot be had, the script ends with one sentence."""
    try:
        check_words(lab.tokenizer)
        paths = persona.files(names, lab.options.data)
        return {path.stem: split(lab.tokenizer, path.stem, *persona.read(path), most=most) for path in paths}
    except (ValueError, OSError) as error:
        sys.exit(f"{lab.name}: {error}")


def options() -> argparse.ArgumentParser:
    """The command line of experiments that need the sets, whose results lie apart."""
    parser = command_line()
    parser.set_defaults(results="results/atlas")
    parser.add_argument("--data", type=Path, help="a copy of the folder persona/, so that nothing is downloaded")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="statements that begin a text, not in the chat template; with --results for a folder of its own",
    )
    parser.add_argument("--beside", type=Path, help="rows.json of another run, to say how alike the two are")
    return parser


def one_a_family(names: Sequence[str]) -> list[str]:
    """The first behaviour of each family, which is what its name begins with: these do not depend on each other."""
    return list({family(name): name for name in reversed(names)}.values())[::-1]


def family(name: str) -> str:
    return name.split("-")[0]


def middle(model: Transformer) -> int:
    """The layer of experiments that choose none: half the way up."""
    return layers(model)[1]


def tenth(model: Transformer, tokenizer: Tokenizer, *, pairs: Sequence[Pair], layer: int) -> SteeringVector:
    """The vector of some pairs at a layer, a tenth of the stream's norm over their tokens long, for `Experiment.vector`."""
    found, norms = read(model, tokenizer, pairs, [layer])
    return tenth_of(norms, extract.contrastive(found))


@torch.no_grad()
def measured(
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    training: Sequence[Pair],
    held_out: Sequence[Pair],
    layers: Sequence[int],
    randoms: Mapping[str, int],
) -> list[Row]:
    """The atlas's rows of one behaviour, for `Experiment.cell`: one for its vector at each layer, for each random vector at the chosen one, and for none.

    "slopes" (N,): by how much a tenth of the stream's norm moves log p(matching) - log p(other) of each held-out pair, nats; "per_token": the
    same of log p over the statement's tokens. Of its vector also "tried", the mean slope of the training pairs on which a layer is chosen,
    for a vector that did not see them; "tenth", a tenth of the stream's norm over the vector's own; and its health. Of none: "odds", log p(matching) - log p(other).
    """
    prompt = opening(tokenizer)
    ids, held = ([[statement(tokenizer, text) for text in pair] for pair in pairs] for pairs in (training, held_out))
    found, norms = read(model, tokenizer, training, layers)
    seen = torch.tensor([i % TRIED > 0 for i in range(len(ids))])
    blind = extract.contrastive(Read({site: x[seen] for site, x in found.streams.items()}, found.source))
    unseen = [pair for pair, was in zip(ids, seen.tolist(), strict=True) if not was]
    tried = slopes(model, prompt, unseen, {"blind": tenth_of(norms, blind)}, layers)[0]  # (L, N, 2)
    choice = [float(pairs_of(s).mean()) for s in tried]
    chosen = int(np.argmax(choice))
    vector = extract.contrastive(found)
    own = tenth_of(norms, vector)
    rows = []
    for k, (layer, by_pair) in enumerate(
        zip(layers, slopes(model, prompt, held, {"own": own}, layers)[0], strict=True)
    ):
        site: Site = ("pre", layer)
        health, length = vector.health[site], float(vector[site].norm())
        rows.append({
            "vector": "own", "layer": layer, "chosen": k == chosen, "tried": choice[k], **_said(by_pair, held),
            "tenth": norms[site] / 10 / length if length else 0.0,
            "agreement": health.agreement or 0.0, "separation": health.separability or 0.0,
        })  # fmt: skip
    at = own.only([("pre", layers[chosen])])
    states = {site: x.flatten(0, 1) for site, x in found.streams.items()}  # (N, 2, D) -> (2N, D)
    controls = {
        f"{kind} {i}": extract.random_like(at, seed=i, streams=states if kind == "covariance" else None)
        for kind, count in randoms.items() for i in range(count)
    }  # fmt: skip
    moved = slopes(model, prompt, held, controls, [layers[chosen]])[:, 0]  # (V, N, 2)
    for name, by_pair in zip(controls, moved, strict=True):
        rows.append({"vector": name, "layer": layers[chosen], "chosen": True, **_said(by_pair, held)})
    rows.append({"vector": "none", "odds": pairs_of(log_p(model, prompt, held)).round(4).tolist()})
    return rows


def opening(tokenizer: Tokenizer) -> list[int]:
    """What stands before a statement: the question in the chat template, where there is one, else what begins a text."""
    if tokenizer.chat_template is None:
        return tokenizer.prompt("")
    return tokenizer.chat([{"role": "user", "content": ASKED}])


def statement(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a statement behind an opening, or, with a space before it, behind what was said after that."""
    begins = tokenizer.chat_template is None and not text.startswith(" ")
    return tokenizer.encode(text) if begins else tokenizer.continuation(text)


@torch.no_grad()
def read(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    layers: Sequence[int],
    prompt: Sequence[int] | None = None,
) -> tuple[Read, dict[Site, float]]:
    """The mean stream over the tokens of each statement after the prompt, by default the `opening`, and the mean norm of the stream at all these
    tokens. The prompt is read once for some statements of about one length."""
    prompt, texts = opening(tokenizer) if prompt is None else prompt, [text for pair in pairs for text in pair]
    sites: list[Site] = [("pre", i) for i in layers]
    rows = [statement(tokenizer, text) for text in texts]
    head = torch.tensor([[*prompt]], device=model.device)
    means = {site: torch.empty(len(rows), model.config.width, dtype=torch.float32) for site in sites}
    norms, tokens = dict.fromkeys(sites, 0.0), sum(map(len, rows))
    for some in groups(rows):
        ids, positions = pad([rows[i] for i in some])
        real = (positions >= 0).to(model.device)[:, :, None]  # (S, T, 1)
        cache = begun(model, head, len(some), len(prompt) + ids.shape[1], max(layers))
        tape: list[Any] = list(sites)
        model.stream(ids.to(model.device), tape=tape, cache=cache, depth=max(layers))
        for site, stream in zip(sites, map(check_stream, tape), strict=True):
            x = stream.float() * real
            means[site][some] = (x.sum(1) / real.sum(1)).cpu()
            norms[site] += float(x.norm(dim=-1).sum()) / tokens
    by_pair = {site: x.view(len(pairs), 2, -1) for site, x in means.items()}  # (S, D) -> (N, 2, D)
    return Read(by_pair, Provenance.of(model, "read", texts, "mean of the statement")), norms


def receipt(model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair], layer: int) -> Receipt:
    """What adding their vector does to a run of some pairs, at every token."""
    vector = tenth(model, tokenizer, pairs=pairs, layer=layer)
    done, rows = Receipt(), [[*opening(tokenizer), *statement(tokenizer, text)] for pair in pairs for text in pair]
    prefill(model, rows, steer=Steer(vector, ("pre", layer), 1.0, where="all"), receipt=done)
    return done


def slopes(
    model: Transformer,
    prompt: Sequence[int],
    pairs: Sequence[Sequence[Sequence[int]]],
    vectors: Mapping[str, Any],
    layers: Sequence[int],
) -> Array:
    """By how much each vector, added once at each layer, moves log p of each statement, whole, `(V, L, N, 2)` in nats: half of what it is more
    than with the vector taken away."""
    found = _log_p(model, prompt, pairs, vectors, [("pre", i) for i in layers], ENDS)  # (V, L, 2, N, 2)
    half: Array = (found[:, :, 1] - found[:, :, 0]) / 2
    return half


def log_p(model: Transformer, prompt: Sequence[int], pairs: Sequence[Sequence[Sequence[int]]]) -> Array:
    """log p of each statement, whole, without a vector, `(N, 2)` in nats."""
    nothing = {"none": torch.zeros(model.config.width, dtype=torch.float32)}
    found: Array = _log_p(model, prompt, pairs, nothing, [("pre", model.config.n_layer)], (0.0,))[0, 0, 0]
    return found


@torch.no_grad()
def log_p_behind(
    model: Transformer,
    prompt: Sequence[int],
    pairs: Sequence[Sequence[Sequence[int]]],
    vectors: Mapping[str, Any],
    layer: int,
    coefficients: Sequence[float],
    where: Where = "all",
) -> Array:
    """log p of statements behind a long prompt, `(V, C, N, 2)` in nats. The prompt is run once for each vector and coefficient, and for a vector that
    is added to what follows alone, where="generated", once in all."""
    rows = [list(text) for pair in pairs for text in pair]
    swept = sweep(model, [prompt], [rows], vectors, [("pre", layer)], coefficients, where=where)
    scores: Array = np.array([row["score"] for row in swept])  # (V * C, 2 N)
    return scores.reshape(len(vectors), len(coefficients), len(pairs), 2)


def pairs_of(by_statement: Array) -> Array:
    """What is so of a matching statement less of the other, of `(..., N, 2)`: `(..., N)`."""
    difference: Array = by_statement @ [1.0, -1.0]
    return difference


def groups(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The numbers of the rows, those of about one length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[start : start + GROUP] for start in range(0, len(order), GROUP)]


def summary(name: str, rows: Sequence[Row], dropped: int = 0) -> list[Row]:
    """Tidy rows of what was `measured`: one for the behaviour at each layer, in the units of its page.

    "family": what its name begins with, as behaviours of one family depend on each other. "steerability" [low, high]: mean slope, nats for a tenth of the
    stream's norm, 95 % over pairs; "per_vector": the same for the vector as it is; "wrong": share of pairs moved the wrong way. "random covariance":
    the root mean square of such vectors' mean slopes, "random covariance wrong": the share of pairs that they move the wrong way (one half is
    chance), "as much": how many of all random ones move the pairs as far as it does, either way; of the chosen layer alone.
    """
    randoms = [row for row in rows if row["vector"] not in ("own", "none")]
    (odds,) = (np.array(row["odds"]) for row in rows if row["vector"] == "none")
    found = []
    for row in rows:
        if row["vector"] != "own":
            continue
        mean, low, high = metrics.bootstrap(row["slopes"], seed=0)
        one: Row = {
            "behaviour": name, "family": family(name), "layer": row["layer"], "chosen": row["chosen"],
            "steerability": mean, "low": low, "high": high, "per_token": float(np.mean(row["per_token"])),
            "per_vector": mean / row["tenth"] if row["tenth"] else 0.0, "wrong": wrong(row["slopes"]),
            "agreement": row["agreement"], "separation": row["separation"],
            "tried": row["tried"], "preferred": float((odds > 0).mean()), "dropped": dropped,
        }  # fmt: skip
        if row["chosen"]:
            for kind in dict.fromkeys(r["vector"].split()[0] for r in randoms):
                slopes = np.array([r["slopes"] for r in randoms if r["vector"].startswith(kind)])  # (V, N)
                one[f"random {kind}"] = float(np.sqrt((slopes.mean(1) ** 2).mean()))
                one[f"random {kind} wrong"] = wrong(slopes)
            one["as much"] = sum(abs(float(np.mean(r["slopes"]))) >= abs(mean) for r in randoms)
        found.append(one)
    return found


def wrong(slopes: Any) -> float:
    """The share of slopes below 0, but for rounding."""
    return float((np.asarray(slopes) < -ROUNDING).mean())


def _said(by_statement: Array, ids: Sequence[Sequence[Sequence[int]]]) -> Row:
    """The slopes of N pairs, of those of their statements `(N, 2)`."""
    tokens = np.array([[len(text) for text in pair] for pair in ids])
    per_token = pairs_of(by_statement / tokens)
    return {"slopes": pairs_of(by_statement).round(4).tolist(), "per_token": per_token.round(5).tolist()}


def _log_p(
    model: Transformer,
    prompt: Sequence[int],
    pairs: Sequence[Sequence[Sequence[int]]],
    vectors: Mapping[str, Any],
    sites: Sequence[Site],
    coefficients: Sequence[float],
) -> Array:
    """log p of each statement after the prompt under each variant, (V, L, C, N, 2)."""
    rows = [list(text) for pair in pairs for text in pair]
    found = np.empty((len(vectors), len(sites), len(coefficients), len(rows)))
    for some in groups(rows):
        swept = sweep(model, [prompt] * len(some), [[rows[i]] for i in some], vectors, sites, coefficients, where="all")
        scores = np.array([row["score"][0] for row in swept])
        found[..., some] = scores.reshape(*found.shape[:3], len(some))
    return found.reshape(*found.shape[:3], len(pairs), 2)
