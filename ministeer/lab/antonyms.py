"""Antonyms: their function vector, where it is added, and which prompts are answered with the right word.

Letters: C coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence

from ministeer import extract
from ministeer.lab import data
from ministeer.lab.answers import answers, hits
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import COEFFICIENTS, Item, Setting, best
from ministeer.metrics import Array
from ministeer.model import Site
from ministeer.vectors import SteeringVector

TASKS = ("antonym", "synonym", "plural", "past")  # of the last three, vectors are subtracted from that of the first


def vector(lab: Experiment, structure: str, at: Sequence[Site], *, seed: int, shots: int = 5) -> SteeringVector:
    """The function vector of antonyms minus those of `TASKS`' others, from 25 lists of each drawn by the seed."""
    tasks = data.answerable(lab.tokenizer)
    texts = data.task_prompts({task: tasks[task] for task in TASKS}, 25, structure=structure, shots=shots, seed=seed)
    mine = texts.pop("antonym")
    return lab.vector(extract.function_vector, prompts=mine, sites=at, others=list(texts.values()))


def setting(lab: Experiment, structure: str, vector: SteeringVector) -> Setting:
    """Where most of 40 training pairs are answered with the opposite, without demonstrations."""
    train = data.answerable(lab.tokenizer)["antonym"]["train"]
    items = data.few_shot(train, train, 40, structure=structure, shots=0, seed=3)
    return best(lambda i: answered(lab, items, vector, i, COEFFICIENTS).mean(0), lab, vector)


def answered(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
) -> Array:
    """Whether the likeliest next token is the answer, 1 or 0, (items, C)."""
    steered = {} if vector is None else {"vectors": {"vector": vector}, "layers": [layer]}
    rows = lab.cell(answers, items=items, coefficients=list(coefficients), likeliest=True, **steered)
    found: Array = hits(items, rows, lab.tokenizer)[:, 0, 0]
    return found
