"""The same query made harder by degrees: a context of one kind and level around it, everything else held fixed.

Within a kind, a level says one more of the same thing than the level below it, of the same sentences in the same order, drawn
by the seed. `LEVELS` lists what the experiments use.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ministeer.lab.antonyms import SHOWN, VECTOR, nothing_to_fall, unknown
from ministeer.lab.claims import Evidence, evidence
from ministeer.lab.data import Pair, few_shot_text, read

LEVELS = {
    "distractors": (0, 1, 2, 4, 8),  # sentences about something else before everything
    "clauses": (0, 1, 2, 3, 4),  # relative clauses, one in another, between the demonstrations and the query
    "negation": (0, 1, 2, 3, 4),  # of four sentences before everything, those with "not"
    "contradiction": (0, 1, 2, 3, 4),  # of four sentences before everything, those that ask for the same word
    "interleaved": (0, 1, 2, 3, 4),  # pairs of another task between demonstrations, or before the query
}
NOUNS = ["dog", "cat", "horse", "farmer", "sister", "teacher", "neighbor", "bird"]
VERBS = ["saw", "met", "heard", "followed", "helped"]
STATES = ["tired", "hungry", "late", "ready"]


def complicated(
    query: Pair,
    demonstrations: Sequence[Pair],
    *,
    structure: str,
    kind: str,
    level: int,
    seed: int,
    others: Sequence[Pair] = (),
) -> dict[str, Any]:
    """A prompt in a context of a kind and level, `{"prompt", "words", "pair"}`, the one word its answer with its space.

    others: pairs of another task, at least as many as the level, for the kind "interleaved".
    """
    if kind not in LEVELS or not 0 <= level <= LEVELS[kind][-1]:
        known = "; ".join(f"{name} 0 to {levels[-1]}" for name, levels in LEVELS.items())
        raise ValueError(f"expected a kind and a level of it ({known}), got {kind!r} and {level}")
    if kind == "interleaved" and len(others) < level:
        raise ValueError(f"expected {level} pairs of another task for the kind 'interleaved', got {len(others)}")
    rng = random.Random(f"{seed} {kind}")
    before, between, shown = "", "", list(demonstrations)
    if kind == "distractors":
        sentences = [row["text"] for row in read("contexts.tsv", kind="distractor", split="heldout")]
        before = " ".join(rng.sample(sentences, LEVELS[kind][-1])[:level])
    elif kind == "clauses":
        between = _clauses(level, rng)
    elif kind == "interleaved":
        for i, pair in enumerate(others[:level]):
            shown.insert(2 * i + 1, pair)  # behind the last where the demonstrations are fewer
    else:
        rows = rng.sample(read("complexity.tsv", kind=kind), LEVELS[kind][-1])
        before = " ".join(row["harder" if i < level else "plain"] for i, row in enumerate(rows))
    text, space = few_shot_text(structure, shown, query[0])
    asked, _ = few_shot_text(structure, [], query[0])
    parts = [before + "\n" if before else "", text.removesuffix(asked), between + "\n" if between else "", asked]
    return {"prompt": "".join(parts), "words": [space + query[1]], "pair": " ".join(sorted(query))}


def falls(rows: Sequence[Mapping[str, Any]], way: str, seed: int = 0) -> dict[str, dict[str, float]]:
    """By kind, what each pair's gain loses from the lowest to the highest level that was measured: {kind: {pair: nats}}.

    rows: "kind", "level", "pair", "way" of asking, "seed", and "gain" in log p(opposite) over the word alone in the same context.
    """
    gains: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        if (row["way"], row["seed"]) == (way, seed):
            gains.setdefault(row["kind"], {}).setdefault(row["level"], {})[row["pair"]] = row["gain"]
    return {kind: {pair: of[min(of)][pair] - of[max(of)][pair] for pair in of[min(of)]} for kind, of in gains.items()}


def complexity_claims(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, dict[str, Evidence]]:
    """The evidence for a claim of each kind: of each pair, by how much more the vector's gain falls than that of demonstrations.

    rows: as for `falls`, of the vector by every seed, and of demonstrations with "right", whether their likeliest token begins an answer.
    What the model can do and what the vector is worth is asked at the kind's lowest level.
    """
    model, mine = falls(rows, SHOWN), {seed: falls(rows, VECTOR, seed) for seed in seeds}
    found = {}
    for kind, of_model in model.items():
        here = [row for row in rows if row["kind"] == kind]
        lowest = min(row["level"] for row in here)
        able, worth = ([r for r in here if (r["way"], r["level"]) == (way, lowest)] for way in (SHOWN, VECTOR))
        void = unknown(able) or nothing_to_fall(float(np.mean([row["gain"] for row in worth])))
        values = {seed: [mine[seed][kind][pair] - fall for pair, fall in of_model.items()] for seed in seeds}
        found[f"complexity_{kind}"] = evidence(values, list(of_model), void=void)
    return found


def _clauses(level: int, rng: random.Random) -> str:
    """What five animals and people did to one another: the first `level` acts in clauses of one sentence, the rest in their own."""
    nouns, state = rng.sample(NOUNS, LEVELS["clauses"][-1] + 1), rng.choice(STATES)
    acts = [f"{rng.choice(VERBS)} the {noun}" for noun in nouns[1:]]
    nested = "".join(f" that {act}" for act in acts[:level])
    rest = [f"The {noun} {act}." for noun, act in list(zip(nouns, acts))[level:]]
    return " ".join([f"The {nouns[0]}{nested} was {state}.", *rest])
