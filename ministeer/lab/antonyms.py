"""Antonyms: what is asked, their function vector, where it is added, how much likelier it makes the opposite, and what that says of the claims.

One measure on every model: log p(opposite), in nats, of all answers that pass for it together, each whole. Beside it "right", whether the
likeliest next token begins one of them. Doses are tenths of the stream's norm at the site.
Letters: N items, V vectors, L layers, C doses.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from ministeer import extract
from ministeer.lab import data, protocol
from ministeer.lab.answers import answers, hits
from ministeer.lab.claims import FELT, LEARNT, RIGHT, Evidence, evidence
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item, Setting, felt, tenth
from ministeer.metrics import Array, group_means, interval
from ministeer.model import Site
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

TASKS = ("antonym", "synonym", "plural", "past")  # the means of the last three are subtracted from that of the first
DOSES = (1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 18.0)
SHOWN, VECTOR = "demonstrations", "vector"  # what a gain over the word alone is by
Row = Mapping[str, Any]
Prompt = tuple[str, str]  # the structure and the pair
accepted, wide = cache(data.accepted), cache(data.wide)  # asked of every item


def queries(lab: Experiment, split: str, count: int) -> list[data.Pair]:
    """As many pairs drawn from all of a split, each asked one way round, so that none depends on another; a quick run has every fourth."""
    pairs = data.answerable(lab.tokenizer)["antonym"][split]
    once = {frozenset(pair): pair for pair in random.Random(3).sample(pairs, len(pairs))}
    return list(lab.part(list(once.values())[:count]))


def asked(
    lab: Experiment, structure: str, split: str, count: int, *, shots: int = 0, shuffled: bool = False
) -> list[Item]:
    """Prompts for `queries`, with every answer that passes, whatever the structure and the number of demonstrations."""
    train = data.answerable(lab.tokenizer)["antonym"]["train"]
    some = queries(lab, split, count)
    items = data.few_shot(some, train, count, structure=structure, shots=shots, seed=3, shuffled=shuffled)
    return [passing(lab.tokenizer, item) for item in items]


def passing(tokenizer: Tokenizer, item: Item) -> Item:
    """The item with all words that pass for the opposite; in a closed vocabulary, those of one token.

    None whose tokens begin with another's: its probability is part of that one's.
    """
    right = item["words"][0].strip()
    (word,) = {*item["pair"].split()} - {right}
    words = [item["words"][0], *(item["words"][0].replace(right, w) for w in sorted(accepted(word) - {right}))]
    tokens = {w: tuple(tokenizer.continuation(w)) for w in words}
    if not wide(tokenizer):
        words = [w for w in words if len(tokens[w]) == 1]
    begun = {w for w in words for other in words if w != other and tokens[w][: len(tokens[other])] == tokens[other]}
    return {**item, "words": [w for w in words if w not in begun]}


def task_vectors(lab: Experiment, lists: Mapping[str, list[str]], sites: Sequence[Site]) -> dict[str, SteeringVector]:
    """Of each task the mean stream at the end of its lists, minus the mean of the other tasks' means (Todd et al. 2024, less what tasks share)."""
    means = {task: lab.vector(extract.function_vector, prompts=some, sites=sites) for task, some in lists.items()}
    found = {}
    for task, mean in means.items():
        first, *rest = (other for name, other in means.items() if name != task)
        found[task] = mean - sum(rest, first) / (1 + len(rest))
    return found


def vector(lab: Experiment, structure: str, at: Sequence[Site], *, seed: int, shots: int = 5) -> SteeringVector:
    """The function vector of antonyms, from 16 lists of each of `TASKS` drawn by the seed, a tenth of the stream long."""
    tasks = data.answerable(lab.tokenizer)
    lists = data.task_prompts({task: tasks[task] for task in TASKS}, 16, structure=structure, shots=shots, seed=seed)
    return dosed(lab, task_vectors(lab, lists, at)["antonym"], structure)


def texts(lab: Experiment, structure: str) -> list[str]:
    """The prompts of training pairs without demonstrations, at whose end the stream is measured."""
    return [item["prompt"] for item in asked(lab, structure, "train", 60)]


def dosed(lab: Experiment, vector: SteeringVector, structure: str) -> SteeringVector:
    """The vector at each site a tenth as long as the stream of this structure, whichever it was taken from."""
    return tenth(lab, vector, texts(lab, structure))


def randoms(lab: Experiment, structure: str) -> dict[str, Any]:
    """Random vectors to put in a vector's place, as `log_p` takes them, of the covariance of the stream of this structure."""
    return protocol.randoms(lab, texts(lab, structure))


def setting(lab: Experiment, structure: str, vector: SteeringVector, count: int = 30) -> Setting:
    """The layer and dose that make the opposite likeliest, mean of log p over training pairs without demonstrations."""
    at = felt(lab, vector)
    found = log_p(lab, asked(lab, structure, "train", count), {"vector": vector}, at, DOSES)[:, 0].mean(0)  # (L, C)
    i, c = np.unravel_index(found.argmax(), found.shape)
    return at[i], DOSES[c]


def log_p(
    lab: Experiment,
    items: Sequence[Item],
    vectors: Mapping[str, SteeringVector] | None = None,
    layers: Sequence[int] = (),
    doses: Sequence[float] = (0.0,),
    randoms: Mapping[str, Any] | None = None,
) -> Array:
    """log p(any of an item's answers), in nats, (N, V, L, C). randoms: as in `answers`; V is then their number."""
    settings = {"vectors": vectors, "layers": [*layers], "coefficients": [*doses], "randoms": randoms}
    # answers of several tokens apart: beside them, every prompt of a batch is run over as many
    several = [any(len(lab.tokenizer.continuation(word)) > 1 for word in item["words"]) for item in items]
    found: dict[int, Array] = {}
    for _, group in groupby(sorted(range(len(items)), key=several.__getitem__), key=several.__getitem__):
        some = list(group)
        rows = lab.cell(answers, items=[items[i] for i in some], **settings)
        found |= {i: np.logaddexp.reduce(row["logp"], axis=-1) for i, row in zip(some, rows, strict=True)}
    return np.array([found[i] for i in range(len(items))])


def gain(
    lab: Experiment,
    items: Sequence[Item],
    vectors: Mapping[str, SteeringVector],
    layers: Sequence[int],
    doses: Sequence[float],
    randoms: Mapping[str, Any] | None = None,
) -> Array:
    """What each vector adds to `log_p` of the items as they are, in nats, (N, V, L, C)."""
    found: Array = log_p(lab, items, vectors, layers, doses, randoms) - log_p(lab, items)
    return found


def right(
    lab: Experiment,
    items: Sequence[Item],
    vectors: Mapping[str, SteeringVector] | None = None,
    layers: Sequence[int] = (),
    doses: Sequence[float] = (0.0,),
) -> Array:
    """Whether the likeliest next token begins one of an item's answers, 1 or 0, (N, V, L, C)."""
    settings = {"vectors": vectors, "layers": [*layers], "coefficients": [*doses]}
    rows = lab.cell(answers, items=items, likeliest=True, **settings)
    return hits(items, rows, lab.tokenizer)


def measured(
    lab: Experiment, items: Sequence[Item], vectors: Mapping[str, SteeringVector], layers: Sequence[int], dose: float
) -> list[dict[str, Any]]:
    """A row for each query, vector and layer: "pair", "vector", "layer", "gain", "right"."""
    gains, found = (of(lab, items, vectors, layers, [dose])[..., 0].tolist() for of in (gain, right))
    return [
        {"pair": item["pair"], "vector": name, "layer": layer, "gain": gains[n][v][i], "right": found[n][v][i]}
        for n, item in enumerate(items)
        for v, name in enumerate(vectors)
        for i, layer in enumerate(layers)
    ]


def ability(lab: Experiment, bare: Sequence[Item], shown: Sequence[Item]) -> list[dict[str, Any]]:
    """What demonstrations do, a row for each query: "pair", "gain" in log p(opposite) over the prompt without them, "right"."""
    gains = (log_p(lab, shown) - log_p(lab, bare))[:, 0, 0, 0].tolist()
    found = right(lab, shown)[:, 0, 0, 0].tolist()
    return [{"pair": item["pair"], "gain": g, "right": r} for item, g, r in zip(bare, gains, found, strict=True)]


def told(rows: Sequence[Row]) -> str:
    """The mean gain with its interval over pairs, and the share answered right of those rows that say so, as text."""
    share = [row["right"] for row in rows if "right" in row]
    mean = interval([row["gain"] for row in rows], groups=[row["pair"] for row in rows])
    return f"{mean}, {np.mean(share):.0%} right" if share else mean


def unknown(rows: Sequence[Row]) -> str:
    """Why a model with these rows of `ability` cannot be told anything of this task, in a sentence; empty where it knows it."""
    gain, share = (float(np.mean([row[name] for row in rows])) for name in ("gain", "right"))
    known = share >= RIGHT or gain >= LEARNT
    told = f"demonstrations are worth {gain:.2g} nats, and {share:.0%} are answered right"
    return "" if known else f"the model does not know the task: {told}"


def nothing_to_fall(nats: float) -> str:
    """Why it cannot be told whether the effect of a vector worth so many nats falls, in a sentence; empty where it can."""
    return "" if nats >= FELT else f"nothing that could fall: where it should work, the vector is worth {nats:.2g} nats"


def structure_claims(rows: Sequence[Row], known: Sequence[str], void: str) -> dict[str, dict[str, Evidence]]:
    """The evidence for the claims on structures, of those that the model knows.

    rows: "structure" of the prompt, "pair", "gain" in log p(opposite), and by which vector: "own", the structure's, "another's" or "random";
    "from" which structure, or which random one; and "seed" of extraction. void: why nothing can be told where none is known.
    """
    if not known:
        return {claim: evidence({}, void=void) for claim in ("structure_own", "structure_other")}
    gains: dict[str, dict[Any, dict[Prompt, list[float]]]] = {"own": {}, "another's": {}, "random": {}}
    for row in rows:
        if row["structure"] in known and (row["from"] in known or row["vector"] == "random"):
            which = row["from" if row["vector"] == "random" else "seed"]
            at = gains[row["vector"]].setdefault(which, {}).setdefault((row["structure"], row["pair"]), [])
            at.append(row["gain"])
    prompts = list(next(iter(gains["own"].values())))
    groups = [pair for _, pair in prompts]
    chance = np.array([[one[at][0] for at in prompts] for one in gains["random"].values()])  # (random vectors, prompts)
    # where random vectors make the opposite less likely, no vector at all is the better rival
    rival = max(chance.mean(0), np.zeros(len(prompts)), key=lambda gain: group_means(gain, groups).mean())
    own = {seed: np.array([of[at][0] for at in prompts]) for seed, of in gains["own"].items()}
    beyond = {seed: of - rival for seed, of in own.items()}
    found = {
        "structure_own": evidence(
            beyond, groups, controls=[float(group_means(one - rival, groups).mean()) for one in chance]
        )
    }
    if len(known) == 1:
        void = f"the model knows the task in one structure only, {known[0]}"
        return found | {"structure_other": evidence({}, void=void)}
    others = {seed: [np.mean(gains["another's"][seed][at]) for at in prompts] for seed in own}
    void = nothing_to_fall(float(np.mean(list(beyond.values()))))
    return found | {"structure_other": evidence({s: own[s] - others[s] for s in own}, groups, void=void)}
