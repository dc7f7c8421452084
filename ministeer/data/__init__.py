"""Word pairs, facts, occupations, contrast pairs: small tables that the experiments and nano's corpus share."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

Pair = tuple[str, str]  # a word and its answer


def read(name: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of one of the `.tsv` files here, by column name; with `column="value"`, those that have it there."""
    with open(Path(__file__).parent / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row for row in rows if wanted.items() <= row.items()]


def few_shot(structure: str, demonstrations: Sequence[Pair], query: str) -> tuple[str, str]:
    """A prompt of demonstrations (x, y) and a query, in a structure of `structures.tsv`, and the space before its answer.

    The prompt ends right before the answer. GPT-2's tokens begin with their space, so the space belongs to the answer:
    it is returned by itself, " " or "".
    """
    forms = {row["structure"]: row["demonstration"].replace("\\n", "\n") for row in read("structures.tsv")}
    if structure not in forms:
        raise ValueError(f"expected a structure, one of {', '.join(forms)}, got {structure!r}")
    form = forms[structure]
    text = "".join(form.replace("{x}", x).replace("{y}", y) for x, y in demonstrations)
    head = form.split("{y}")[0].replace("{x}", query)
    return text + head.rstrip(" "), " " if head.endswith(" ") else ""


def word_tasks() -> dict[str, dict[str, list[Pair]]]:
    """The pairs of every word task, `{task: {split: [(word, answer)]}}`; antonyms in both directions, the others "train" alone."""
    tasks: dict[str, dict[str, list[Pair]]] = {"antonym": {"train": [], "heldout": []}}
    for row in read("antonyms.tsv"):
        tasks["antonym"][row["split"]] += [(row["word"], row["antonym"]), (row["antonym"], row["word"])]
    for row in read("word_tasks.tsv"):
        tasks.setdefault(row["task"], {"train": []})["train"].append((row["word"], row["answer"]))
    return tasks


def lists(
    queries: Sequence[Pair],
    demonstrations: Sequence[Pair],
    count: int,
    *,
    structure: str,
    shots: int,
    seed: int,
    shuffled: bool = False,
) -> list[dict[str, str]]:
    """Few-shot prompts behind end-of-text with different queries, `[{"prompt", "answer"}]`, the answer with its space.

    No demonstration holds a word of its query. shuffled: the answers of the demonstrations change places. The same seed
    asks the same queries whatever the number of shots.
    """
    chosen = random.Random(seed).sample(list(queries), min(count, len(queries)))
    made = []
    for number, (x, y) in enumerate(chosen):
        rng = random.Random(f"{seed} {number}")
        shown = rng.sample([pair for pair in demonstrations if not {x, y} & {*pair}], shots)
        labels = [b for _, b in shown]
        if shuffled:
            rng.shuffle(labels)
        text, space = few_shot(structure, [(a, b) for (a, _), b in zip(shown, labels)], x)
        made.append({"prompt": f"<|endoftext|>{text}", "answer": space + y})
    return made
