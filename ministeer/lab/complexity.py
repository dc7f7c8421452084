"""The same query made harder by degrees: a context of one kind and level around it, everything else held fixed.

Within a kind, a level says one more of the same thing than the level below it, of the same sentences in the same order, drawn
by the seed. `LEVELS` lists what the experiments use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ministeer.lab.data import Pair, few_shot_text, read

LEVELS = {
    "distractors": (0, 1, 2, 4, 8),  # sentences about something else before everything
    "clauses": (0, 1, 2, 3, 4),  # relative clauses, one in another, between the demonstrations and the query
    "negation": (0, 1, 2, 3, 4),  # of four sentences before everything, those with "not"
    "contradiction": (0, 1, 2, 3, 4),  # of four sentences before everything, those that ask for the same word
    "interleaved": (
        0,
        1,
        2,
        3,
        4,
    ),  # pairs of another task between the demonstrations, or before the query where there are none
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


def _clauses(level: int, rng: random.Random) -> str:
    """What five animals and people did to one another: the first `level` acts in clauses of one sentence, the rest in their own."""
    nouns, state = rng.sample(NOUNS, LEVELS["clauses"][-1] + 1), rng.choice(STATES)
    acts = [f"{rng.choice(VERBS)} the {noun}" for noun in nouns[1:]]
    nested = "".join(f" that {act}" for act in acts[:level])
    rest = [f"The {noun} {act}." for noun, act in list(zip(nouns, acts))[level:]]
    return " ".join([f"The {nouns[0]}{nested} was {state}.", *rest])
